//! What may be invalidated, in batches: through the queue where it is on, through CCMD and IOTLB where it is not
//! (VT-d 6.5.1, 6.5.2). A unit may always invalidate more than it was asked to.

use super::pasid::RID_PASID;
use super::queue::Submission;
use super::rules::{self, Facts};
use super::{Host, Unit, phase};
use crate::host::error::{Error, ErrorKind, Step};
use crate::host::platform::{Platform, Registers};
use crate::host::sync::Ordering;
use crate::host::wait::Wait;
use crate::hw::descriptors::{Descriptor, DeviceTlbRange, Throttle, WaitFlags};
use crate::hw::invalidation::{Ccmd, Drain, FunctionMask, Iotlb, Iva};
use crate::hw::registers::at;

/// One invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// All context entries.
    ContextGlobal,
    /// The context entries of one requester id; in legacy mode, those tagged with a domain id.
    ContextDevice { did: u16, source: u16 },
    /// All PASID entries. This and the others of PASIDs are for scalable mode alone.
    PasidGlobal,
    /// The PASID entries tagged with a domain id.
    PasidDomain { did: u16 },
    /// Those of one PASID.
    Pasid { did: u16, pasid: u32 },
    /// All translations.
    IotlbGlobal,
    /// All translations of a domain id.
    IotlbDomain { did: u16 },
    /// `2^order` pages from `first` on, aligned to that; `leaf_only` where nothing but leaf entries changed.
    IotlbPages { did: u16, first: u64, order: u8, leaf_only: bool },
    /// All translations of a PASID of a domain id, but for what was cached of second-stage tables on the way.
    IotlbPasid { did: u16, pasid: u32 },
    /// Pages of a first-stage PASID, as `IotlbPages`.
    IotlbPasidPages { did: u16, pasid: u32, first: u64, order: u8, leaf_only: bool },
    /// What follows begins when all before it has completed. `Batch::push` adds it where it is needed.
    Fence,
    /// The translation cache of a requester: what it asked for without PASID.
    DeviceTlb { source: u16, throttle: Throttle, range: DeviceTlbRange },
    /// The same for one PASID.
    PasidDeviceTlb { source: u16, pasid: u32, throttle: Throttle, range: DeviceTlbRange },
    /// The same for every PASID, of a requester that heeds the global flag.
    DeviceTlbOfPasids { source: u16, throttle: Throttle },
}

impl Request {
    /// Contexts before PASIDs before translations: the hardware carries out each kind after those queued before it that it
    /// is made from (6.5.2.12), and what is still cached of one would fill the next again (6.2.2.1, 6.2.3.1).
    fn rank(self) -> u8 {
        match self {
            Request::ContextGlobal | Request::ContextDevice { .. } => 0,
            Request::PasidGlobal | Request::PasidDomain { .. } | Request::Pasid { .. } => 1,
            Request::Fence => 3,
            // Behind the translations, or a device fills its cache again from what is still in the unit's (6.5.2.5).
            Request::DeviceTlb { .. } | Request::PasidDeviceTlb { .. } | Request::DeviceTlbOfPasids { .. } => 4,
            _ => 2,
        }
    }

    fn is_pasid_iotlb(self) -> bool {
        matches!(self, Request::IotlbPasid { .. } | Request::IotlbPasidPages { .. })
    }
}

/// Requests that go in one submission, in the order of their rank.
///
/// Nearly all batches are short: only longer ones pay for the room.
pub(crate) struct Batch {
    few: [Request; Batch::FEW],
    more: Option<[Request; Batch::ROOM - Batch::FEW]>,
    len: usize,
}

impl Batch {
    /// Requests in a batch: 64 ranges, and some for devices.
    pub(crate) const ROOM: usize = 96;
    const FEW: usize = 4;

    pub(crate) const fn new() -> Self {
        Batch { few: [Request::IotlbGlobal; Batch::FEW], more: None, len: 0 }
    }

    /// Adds a request unless it is there already; `false` when the batch is full.
    pub(crate) fn push(&mut self, r: Request) -> bool {
        if self.contains(r) {
            return true;
        }
        // Hardware puts `dev_tlb` behind `iotlb`, and promises nothing of `dev_tlb` behind `p_iotlb` (6.5.2.12).
        let fence = match r {
            Request::DeviceTlb { .. } => self.requests().any(Request::is_pasid_iotlb),
            r if r.is_pasid_iotlb() => self.requests().any(|k| matches!(k, Request::DeviceTlb { .. })),
            _ => false,
        } && !self.contains(Request::Fence);
        if self.len + 1 + usize::from(fence) >= Batch::ROOM {
            return false;
        }
        self.put(r);
        if fence {
            self.put(Request::Fence);
        }
        true
    }

    /// Adds the widest request for translations, for which there is always room: it covers what found none.
    pub(crate) fn widen(&mut self) {
        self.squeeze(Request::IotlbGlobal);
    }

    /// Adds the last request of all, for which `push` left room.
    pub(crate) fn squeeze(&mut self, r: Request) {
        if !self.contains(r) && self.len < Batch::ROOM {
            self.put(r);
        }
    }

    fn put(&mut self, r: Request) {
        let mut at = self.len;
        self.len += 1;
        while let Some(before) = at.checked_sub(1).map(|i| (i, self.get(i)))
            && before.1.rank() > r.rank()
        {
            self.set(at, before.1);
            at = before.0;
        }
        self.set(at, r);
    }

    fn set(&mut self, i: usize, r: Request) {
        let place = match i.checked_sub(Batch::FEW) {
            None => self.few.get_mut(i),
            Some(i) => self.more.get_or_insert([Request::IotlbGlobal; Batch::ROOM - Batch::FEW]).get_mut(i),
        };
        if let Some(place) = place {
            *place = r;
        }
    }

    pub(crate) fn requests(&self) -> impl Iterator<Item = Request> + '_ {
        self.few.iter().chain(self.more.iter().flatten()).take(self.len).copied()
    }

    pub(crate) fn contains(&self, r: Request) -> bool {
        self.requests().any(|known| known == r)
    }

    /// Request `i`; the widest for translations beyond the last.
    fn get(&self, i: usize) -> Request {
        let place = match i.checked_sub(Batch::FEW) {
            None => self.few.get(i),
            Some(i) => self.more.as_ref().and_then(|more| more.get(i)),
        };
        place.copied().unwrap_or(Request::IotlbGlobal)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A batch that was handed to a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InFlight {
    /// Complete already: the register interface is synchronous.
    Done,
    /// In the queue.
    Queued(Submission),
}

impl<P: Platform> Unit<P> {
    /// Whether translation is not this driver's, no longer, or not now: nothing is blocked, and nothing cached.
    pub(crate) fn stopped(&self) -> bool {
        matches!(self.phase.load(Ordering::Acquire), phase::OFF | phase::SUSPENDED | phase::REMOVED)
    }

    fn drain(&self) -> Drain {
        Drain { reads: self.caps.cap.drd(), writes: self.caps.cap.dwd() }
    }

    /// The request as the unit can carry it out: page-selective only with CAP.PSI, and up to CAP.MAMV.
    fn possible(&self, r: Request) -> Request {
        match r {
            Request::IotlbPages { did, order, .. } if !self.caps.cap.psi() || order > self.caps.cap.mamv() => {
                Request::IotlbDomain { did }
            }
            r => r,
        }
    }

    fn descriptor(&self, r: Request) -> Descriptor {
        let drain = self.drain();
        match self.possible(r) {
            Request::ContextGlobal => Descriptor::cc_global(),
            Request::ContextDevice { did, source } => Descriptor::cc_device(did, source, FunctionMask::Exact),
            Request::PasidGlobal => Descriptor::pc_global(),
            Request::PasidDomain { did } => Descriptor::pc_domain(did),
            Request::Pasid { did, pasid } => Descriptor::pc_pasid(did, pasid),
            Request::IotlbGlobal => Descriptor::iotlb_global(drain),
            Request::IotlbDomain { did } => Descriptor::iotlb_domain(did, drain),
            Request::IotlbPages { did, first, order, leaf_only } => {
                Descriptor::iotlb_pages(did, drain, Iva::new(first, order, leaf_only))
            }
            Request::IotlbPasid { did, pasid } => Descriptor::p_iotlb_pasid(did, pasid),
            Request::IotlbPasidPages { did, pasid, first, order, leaf_only } => {
                Descriptor::p_iotlb_pages(did, pasid, Iva::new(first, order, leaf_only))
            }
            Request::Fence => Descriptor::wait(WaitFlags::FN, None),
            Request::DeviceTlb { source, throttle, range } => Descriptor::dev_tlb(source, throttle, range),
            Request::PasidDeviceTlb { source, pasid, throttle, range } => {
                Descriptor::p_dev_tlb(source, pasid, throttle, range)
            }
            Request::DeviceTlbOfPasids { source, throttle } => Descriptor::p_dev_tlb_global(source, throttle),
        }
    }

    /// Adds what drops everything that the unit may have cached of its tables.
    pub(crate) fn add_everything(&self, batch: &mut Batch) {
        let nobody = Facts { source: 0, did: 0, pasid: RID_PASID, device: None };
        nobody.add(rules::steps(rules::Change::RootPointer, self.mode), self.errata, batch);
    }

    /// Hands a batch to the unit: one submission, one write of the tail. Waits for room in the queue, and for
    /// completion where only the register interface is there. A unit that was stopped takes nothing and caches nothing.
    pub(crate) fn start(&self, h: &Host<P>, batch: &Batch) -> Result<InFlight, Error> {
        if self.stopped() {
            return Ok(InFlight::Done);
        }
        match &self.queue {
            Some(q) => q.submit(h, self, batch.len, |i| self.descriptor(batch.get(i))).map(InFlight::Queued),
            None => {
                for r in batch.requests() {
                    self.by_register(h, self.possible(r))?;
                }
                Ok(InFlight::Done)
            }
        }
    }

    /// Whether it has completed, and how; not to be asked again after `Some`.
    pub(crate) fn poll(&self, flight: InFlight) -> Option<Result<(), Error>> {
        match (flight, &self.queue) {
            (InFlight::Queued(s), Some(q)) => q.poll(s),
            _ => Some(Ok(())),
        }
    }

    /// Awaits it, with a deadline. What does not complete in time stays owned by the queue.
    pub(crate) fn finish(&self, h: &Host<P>, flight: InFlight) -> Result<(), Error> {
        match (flight, &self.queue) {
            (InFlight::Queued(s), Some(q)) => q.wait(h, self, s),
            _ => Ok(()),
        }
    }

    /// Nobody will ask for its outcome.
    pub(crate) fn abandon(&self, flight: InFlight) {
        if let (InFlight::Queued(s), Some(q)) = (flight, &self.queue) {
            q.abandon(s);
        }
    }

    /// Invalidates, and awaits it.
    pub(crate) fn invalidate(&self, h: &Host<P>, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.finish(h, self.start(h, batch)?)
    }

    /// Flushes the write buffer where the unit has one that software must flush (CAP.RWBF).
    pub(crate) fn flush_write_buffer(&self, h: &Host<P>) -> Result<(), Error> {
        if self.write_buffer && !self.stopped() {
            self.command(h, super::command::Command::WriteBuffer)
        } else {
            Ok(())
        }
    }

    /// One request through CCMD or IVA and IOTLB: VT-d 11.4.5, 11.4.6.1, 11.4.6.2. One at a time per unit.
    fn by_register(&self, h: &Host<P>, r: Request) -> Result<(), Error> {
        let timeout = ErrorKind::Timeout(Step::Invalidation).on(self.id);
        let limit = h.config.invalidation_deadline;
        let _turn = self.commands.take(Wait::new(&h.platform, self.id, limit)).ok_or(timeout)?;
        // A unit that is gone reads as busy for ever.
        let there = |v: u64| if v == u64::MAX { Err(ErrorKind::UnitGone.on(self.id)) } else { Ok(v) };
        let refused = ErrorKind::QueueError(0).on(self.id);
        // What an earlier request that ran out of time may still be doing comes to its end first: meanwhile the register
        // takes no other, and what it says then would be taken for this one's answer.
        let context = |v: Ccmd| {
            self.until(h, limit, timeout, |u| Ok(!Ccmd(there(u.regs.read64(at::CCMD))?).busy()))?;
            self.regs.write64(at::CCMD, v.0);
            self.until(h, limit, timeout, |u| Ok(!Ccmd(there(u.regs.read64(at::CCMD))?).busy()))?;
            if Ccmd(self.regs.read64(at::CCMD)).performed().is_some() { Ok(()) } else { Err(refused) }
        };
        let place = self.caps.iotlb();
        let iotlb = |v: Iotlb| {
            self.until(h, limit, timeout, |u| Ok(!Iotlb(there(u.regs.read64(place))?).busy()))?;
            self.regs.write64(place, v.0);
            self.until(h, limit, timeout, |u| Ok(!Iotlb(there(u.regs.read64(place))?).busy()))?;
            if Iotlb(self.regs.read64(place)).performed().is_some() { Ok(()) } else { Err(refused) }
        };
        match r {
            Request::ContextGlobal => context(Ccmd::global()),
            Request::ContextDevice { did, source } => context(Ccmd::device(did, source, FunctionMask::Exact)),
            Request::IotlbGlobal => iotlb(Iotlb::global(self.drain())),
            Request::IotlbDomain { did } => iotlb(Iotlb::domain(did, self.drain())),
            Request::IotlbPages { did, first, order, leaf_only } => {
                self.until(h, limit, timeout, |u| Ok(!Iotlb(there(u.regs.read64(place))?).busy()))?;
                self.regs.write64(self.caps.iva(), Iva::new(first, order, leaf_only).0);
                iotlb(Iotlb::page(did, self.drain()))
            }
            // One request at a time needs no fence.
            Request::Fence => Ok(()),
            // Scalable mode and device TLBs know no registers for this, and have their queue.
            Request::PasidGlobal
            | Request::PasidDomain { .. }
            | Request::Pasid { .. }
            | Request::IotlbPasid { .. }
            | Request::IotlbPasidPages { .. }
            | Request::DeviceTlb { .. }
            | Request::PasidDeviceTlb { .. }
            | Request::DeviceTlbOfPasids { .. } => Err(refused),
        }
    }
}

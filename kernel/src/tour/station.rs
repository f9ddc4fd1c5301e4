//! A device in a domain of its own, with the pages that it was given; and the faults that are to come, and only those.

use super::engine::Engine;
use super::report::{Report, Stop, detail};
use crate::iommu::{Recorder, Session};
use crate::memory::buffer::Buffer;
use crate::platform::KernelPlatform;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use vtd::explain::Verdict;
use vtd::hw::faults::{Access as Attempt, Reason};
use vtd::{Access, DeviceId, Domain, Fault, Group, Iova, Nanos, PAGE, Range, Strict, Target};

/// How long a fault's interrupt may take.
const SOON: Nanos = Nanos::millis(1000);

/// Fields drop in order: the device is kept away before its tables go, and these before the pages.
pub struct Station {
    pub engine: Engine,
    group: Group<KernelPlatform>,
    pub events: Arc<Recorder>,
    domain: Domain<KernelPlatform, Strict>,
    pages: Vec<(Iova, Buffer)>,
}

impl Station {
    /// Claims the device's group and attaches it to an empty domain.
    pub fn new(session: &Session, engine: Engine) -> Result<Self, Stop> {
        let (group, events) = session.claim(engine.id())?;
        let domain = session.vtd().domain::<Strict>(&group.best_spec())?;
        group.attach(Target::Domain(&domain))?;
        Ok(Station { engine, group, events, domain, pages: Vec::new() })
    }

    /// Maps a page.
    pub fn map(&mut self, report: &mut Report, at: u64, page: Buffer, how: Access) -> Result<(), Stop> {
        let at = Iova::at(at);
        self.domain.map(at, page.hpa(), PAGE, how)?;
        report.tally.mapped += 1;
        let found = self.domain.translate(at);
        if found != Some((page.hpa(), PAGE, how)) {
            return Err(Stop::Wrong(format!("{at} was mapped to {} and leads to {found:?}", page.hpa())));
        }
        self.pages.push((at, page));
        Ok(())
    }

    /// The page mapped at `at`.
    pub fn page(&self, at: u64) -> Result<&Buffer, Stop> {
        let found = self.pages.iter().find(|(iova, _)| iova.get() == at);
        found.map(|(_, page)| page).ok_or_else(|| Stop::Wrong(format!("nothing is mapped at {at:#x}")))
    }

    /// Unmaps a page, flushes, and gives the page back.
    pub fn unmap(&mut self, report: &mut Report, at: u64) -> Result<Buffer, Stop> {
        let range = Range::sized(Iova::at(at), PAGE).ok_or("no such page")?;
        self.domain.unmap(range)?.flush().map_err(|n| n.error)?;
        report.tally.unmaps += 1;
        if let Some((to, ..)) = self.domain.translate(Iova::at(at)) {
            return Err(Stop::Wrong(format!("{at:#x} was unmapped and leads to {to}")));
        }
        let place = self.pages.iter().position(|(iova, _)| iova.get() == at).ok_or("it was never mapped")?;
        Ok(self.pages.swap_remove(place).1)
    }

    /// Whether nothing that the device did was blocked since the last look.
    pub fn undisturbed(&self, session: &Session) -> Result<(), Stop> {
        crate::iommu::tend(session.vtd());
        match self.events.take().first() {
            None => Ok(()),
            Some(f) => Err(Stop::Wrong(format!("blocked, and was not to be: {f}"))),
        }
    }

    /// Unmaps what is left and gives the group back.
    pub fn close(mut self, report: &mut Report, session: &Session) -> Result<(), Stop> {
        while let Some((at, _)) = self.pages.last() {
            let at = at.get();
            self.unmap(report, at)?;
        }
        self.undisturbed(session)?;
        self.group.release().map_err(|(_, e)| e)?;
        Ok(())
    }
}

/// A fault that is to come.
pub struct Wanted {
    pub device: DeviceId,
    pub at: u64,
    pub attempt: Attempt,
    /// Any of these.
    pub reasons: &'static [u8],
}

impl Wanted {
    /// A blocked write: not mapped, or not to be written (VT-d 7.1.3, LGN.2, in the first stage SFS.2 and SGN.6; QEMU has the
    /// reasons of legacy mode for second-stage tables in scalable mode).
    pub fn write(device: DeviceId, at: u64) -> Self {
        Wanted { device, at, attempt: Attempt::Write, reasons: &[0x05, 0x71, 0x85] }
    }

    /// A blocked read (LGN.3, SFS.2).
    pub fn read(device: DeviceId, at: u64) -> Self {
        Wanted { device, at, attempt: Attempt::Read, reasons: &[0x06, 0x71] }
    }

    /// A write of a device that is attached to nothing: its context entry is not there or, on a bus where nothing ever was
    /// attached, the table for it (LCT.2, LRT.2); in scalable mode its PASID entry (SPT.2, in QEMU SPT.4).
    pub fn unattached(device: DeviceId, at: u64) -> Self {
        Wanted { device, at, attempt: Attempt::Write, reasons: &[0x01, 0x02, 0x59, 0x5b] }
    }

    /// Awaits the fault and prints it; an error unless exactly this one came.
    pub fn come(&self, report: &mut Report, session: &Session, events: &Recorder) -> Result<(), Stop> {
        self.fault(report, session, events).map(drop)
    }

    /// The same, and why the tables are against it, an entry a line.
    pub fn explained(&self, report: &mut Report, session: &Session, events: &Recorder) -> Result<(), Stop> {
        let fault = self.fault(report, session, events)?;
        let why = session.vtd().explain_fault(&fault)?;
        why.to_string().lines().for_each(|line| detail(format_args!("{line}")));
        // QEMU keeps the reasons of legacy mode for second-stage tables in scalable mode, which has SSS.2 and SGN.7 for this.
        let known =
            |reason: Reason| reason == fault.reason || matches!((reason.0, fault.reason.0), (0x79 | 0x86, 0x06));
        let same = matches!(why.walk.verdict, Verdict::Blocked { reason, .. } if known(reason));
        report.check(same, format_args!("the driver, asked why, walks its tables and comes to the same reason"));
        Ok(())
    }

    fn fault(&self, report: &mut Report, session: &Session, events: &Recorder) -> Result<Fault, Stop> {
        let vtd = session.vtd();
        let faults = events.await_faults(vtd, SOON);
        let [fault] = faults.as_slice() else {
            return Err(Stop::Wrong(format!(
                "one fault of {} was to come, {} came: {faults:x?}",
                self.device,
                faults.len()
            )));
        };
        report.tally.faults += 1;
        detail(format_args!("{fault}"));
        // A bridge may speak for the device.
        let group = fault.device.map(|d| vtd.group_of(d)).transpose()?;
        let right = group == Some(vtd.group_of(self.device)?)
            && fault.unit == vtd.unit_of(self.device)?
            && fault.address.get() == self.at & !(PAGE - 1)
            && fault.attempt == self.attempt
            && self.reasons.contains(&fault.reason.0);
        if !right {
            let cut = self.at & 0x0fff_ffff & !(PAGE - 1);
            let hint = if fault.address.get() == cut { "; an edu needs dma_mask=0xffffffffffffffff" } else { "" };
            let Wanted { device, at, attempt, .. } = self;
            return Err(Stop::Wrong(format!("that was to be a {attempt:?} of {device} at {at:#x}{hint}")));
        }
        Ok(*fault)
    }
}

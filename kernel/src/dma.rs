//! Virtio devices behind the remapping unit: a domain for the device's group, an allocator for its input addresses, and
//! nothing mapped longer than the device needs it.

use crate::devices::virtio::{self, Dma};
use crate::iommu::{Recorder, Session};
use crate::memory::frames;
use crate::platform::KernelPlatform;
use crate::sync::IrqLock;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use vtd::{
    Access, DeviceId, Domain, Error, Flushed, Group, Hpa, Iova, IovaError, IovaSpace, PAGE, Range, Strict, Target,
};

/// A domain and the input addresses in it.
struct DomainDma {
    domain: Domain<KernelPlatform, Strict>,
    space: IrqLock<IovaSpace>,
    /// The first mapping that was made, to look at.
    first: IrqLock<Option<(Iova, Hpa)>>,
    mapped: AtomicU64,
    unmaps: AtomicU64,
    /// Unmaps that did not succeed; what they were about stays taken.
    failed: AtomicU64,
}

impl DomainDma {
    fn range(iova: u64, order: u8) -> Option<Range> {
        Range::sized(Iova::at(iova), PAGE << order)
    }

    fn flushed(&self, r: Range) -> Option<Flushed> {
        // What is not flushed stays owed by the domain, which will not map it anew.
        self.domain.unmap(r).ok()?.flush().ok()
    }
}

impl Dma for DomainDma {
    fn map(&self, at: NonNull<u8>, order: u8, write: bool) -> Option<u64> {
        let len = PAGE << order;
        let everywhere = Range::new(0, u64::MAX)?;
        let range = self.space.lock().alloc(len, len, everywhere).ok()?;
        let rights = if write { Access::READ | Access::WRITE } else { Access::READ };
        let to = frames::hpa(at);
        if self.domain.map(range.first, to, len, rights).is_err() {
            // Nothing was mapped; the proof that nothing is cached comes from settling what may be owed.
            if let Ok(proof) = self.domain.settle() {
                let _ = self.space.lock().free(range, &proof);
            }
            return None;
        }
        self.first.lock().get_or_insert((range.first, to));
        self.mapped.fetch_add(1 << order, Ordering::Relaxed);
        Some(range.first.get())
    }

    fn unmap(&self, iova: u64, order: u8) -> bool {
        let done = Self::range(iova, order).is_some_and(|r| {
            let proof = self.flushed(r);
            proof.is_some_and(|proof| self.space.lock().free(r, &proof).is_ok())
        });
        let count = if done { &self.unmaps } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        done
    }
}

/// What went through a domain.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Pages mapped, one after the other.
    pub mapped: u64,
    /// Runs of pages unmapped and flushed.
    pub unmaps: u64,
    /// Runs mapped now.
    pub held: usize,
    /// The first mapping: the device's address, the memory's.
    pub first: Option<(Iova, Hpa)>,
}

/// A slot that goes through a domain for as long as this lives.
struct Slot(usize);

impl Drop for Slot {
    fn drop(&mut self) {
        virtio::set_dma(self.0, None);
    }
}

/// A virtio device's group in a domain of its own, and the slot through which its driver reaches memory. To outlive the
/// device's driver.
pub struct Guarded {
    slot: Slot,
    group: Group<KernelPlatform>,
    dma: Arc<DomainDma>,
    /// What the group's devices are stopped at.
    pub events: Arc<Recorder>,
}

impl Guarded {
    /// Claims the device's group for the host and has `slot` go through a new domain.
    pub fn new(session: &Session, slot: usize, d: DeviceId) -> Result<Self, Error> {
        let (group, events) = session.claim(d)?;
        let domain = session.vtd().domain::<Strict>(&group.best_spec())?;
        group.attach(Target::Domain(&domain))?;
        let space = input_space(&domain).map_err(|_| vtd::ErrorKind::OutOfMemory)?;
        let dma = Arc::new(DomainDma {
            domain,
            space: IrqLock::new(space),
            first: IrqLock::new(None),
            mapped: AtomicU64::new(0),
            unmaps: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        virtio::set_dma(slot, Some(dma.clone()));
        Ok(Guarded { slot: Slot(slot), group, dma, events })
    }

    /// What went through so far.
    pub fn counts(&self) -> Counts {
        Counts {
            mapped: self.dma.mapped.load(Ordering::Relaxed),
            unmaps: self.dma.unmaps.load(Ordering::Relaxed),
            held: self.dma.space.lock().allocated(),
            first: *self.dma.first.lock(),
        }
    }

    /// Gives the group back. Says what is wrong where the device could still reach anything.
    pub fn close(self) -> Result<(), String> {
        let Counts { held, first, .. } = self.counts();
        let shared = virtio::shared_count(self.slot.0);
        let failed = self.dma.failed.load(Ordering::Relaxed);
        let translated = first.and_then(|(at, _)| self.dma.domain.translate(at));
        self.group.release().map_err(|(_, e)| e.to_string())?;
        match (held, shared, failed, translated) {
            (0, 0, 0, None) => Ok(()),
            _ => Err(format!("{held} ranges still mapped, {shared} still shared, {failed} unmaps failed")),
        }
    }
}

/// All of a domain's input addresses but page 0, which drivers take for none, the interrupts' and the firmware's.
fn input_space(domain: &Domain<KernelPlatform, Strict>) -> Result<IovaSpace, IovaError> {
    let whole = Range::new(PAGE, (1 << domain.spec().width) - 1).ok_or(IovaError::Alignment)?;
    let mut space = IovaSpace::new(whole)?;
    let mut outcome = Ok(());
    domain.firmware_ranges(&mut |r| {
        let mut at = r.first.get();
        // Page by page, as regions may overlap each other.
        while outcome.is_ok() && at < r.last.get() {
            if let Some(page) = Range::sized(Iova::at(at), PAGE).filter(|p| space.is_free(p.first)) {
                outcome = space.reserve(page);
            }
            at += PAGE;
        }
    });
    outcome.map(|()| space)
}

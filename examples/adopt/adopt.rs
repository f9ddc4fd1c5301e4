//! How a kernel takes the driver into itself: the host's services, and the way from firmware's table to a device's DMA.
//!
//! This kernel runs on one CPU. It maps all memory at `direct_map`, where its global allocator's heap lies too, and PCI
//! configuration space at `ecam`; its TSC does not stop.
#![no_std]
extern crate alloc;

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::{boxed::Box, sync::Arc};
use core::arch::x86_64::{_mm_clflush, _mm_mfence, _rdtsc};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use vtd::{
    Config, DeviceId, Domain, Event, Events, Hpa, Identity, Iova, Message, Mmio, Nanos, Owner, Platform, PlatformError,
    Range, Service, TakeOver, Target, UnitId, Vtd, dmar::Topology,
};

/// What the kernel knows of itself and its machine.
pub struct Host {
    pub direct_map: usize,
    pub ecam: usize,
    pub buses: u8,
    pub tsc_mhz: u64,
    /// The first of three interrupt vectors. Their handlers call `Vtd::interrupt`.
    pub vectors: u32,
    /// Masks interrupts, and says whether they were on; turns them on again.
    pub irq_off: fn() -> bool,
    pub irq_on: fn(),
    /// The idle loop looks here whether to call `Vtd::service`.
    pub service: AtomicBool,
    /// CPU, firmware and chipset, by which the driver knows errata.
    pub identity: Identity,
}

fn frames(order: u8) -> Layout {
    Layout::array::<u8>(4096 << order).and_then(|l| l.align_to(4096 << order)).expect("the driver asks for little")
}

impl Host {
    fn config(&self, d: DeviceId, at: u16) -> Result<*mut u32, PlatformError> {
        let place = self.ecam + (usize::from(d.source.0) << 12) + usize::from(at);
        if d.segment == 0 && d.source.bus() < self.buses { Ok(place as *mut u32) } else { Err(PlatformError) }
    }
}

// SAFETY: frames come zeroed and aligned from the heap and stay there; `hpa` and `ptr` are inverse by the direct map,
// where the registers of units are mapped, too (uncached); configuration space is where `ecam` says.
#[rustfmt::skip]
unsafe impl Platform for Host {
    type Registers = Mmio;
    type Irq = bool;
    fn registers(&self, base: Hpa, len: u64) -> Result<Mmio, PlatformError> {
        Ok(unsafe { Mmio::new(self.ptr(base), len as u32) })
    }
    fn alloc(&self, order: u8, _: Option<u32>) -> Option<NonNull<u8>> { NonNull::new(unsafe { alloc_zeroed(frames(order)) }) }
    unsafe fn free(&self, at: NonNull<u8>, order: u8) { unsafe { dealloc(at.as_ptr(), frames(order)) } }
    fn hpa(&self, at: NonNull<u8>) -> Hpa { Hpa::new((at.as_ptr() as usize - self.direct_map) as u64).expect("52 bits") }
    fn ptr(&self, at: Hpa) -> NonNull<u8> { NonNull::new((at.get() as usize + self.direct_map) as *mut u8).expect("mapped") }
    fn flush(&self, at: NonNull<u8>, len: usize) {
        (0..len).step_by(64).for_each(|i| unsafe { _mm_clflush(at.as_ptr().add(i)) })
    }
    fn fence(&self) { unsafe { _mm_mfence() } }
    fn irq_save(&self) -> bool { (self.irq_off)() }
    fn irq_restore(&self, was_on: bool) { if was_on { (self.irq_on)() } }
    fn now(&self) -> Nanos { Nanos((u128::from(unsafe { _rdtsc() }) * 1000 / u128::from(self.tsc_mhz)) as u64) }
    fn relax(&self, _: UnitId, _: Nanos) { core::hint::spin_loop() }
    fn wake(&self) { self.service.store(true, Ordering::Relaxed) }
    fn cpu(&self) -> u32 { 0 }
    fn config_read(&self, d: DeviceId, at: u16) -> Result<u32, PlatformError> { Ok(unsafe { self.config(d, at)?.read_volatile() }) }
    fn config_write(&self, d: DeviceId, at: u16, v: u32) -> Result<(), PlatformError> {
        unsafe { self.config(d, at)?.write_volatile(v) };
        Ok(())
    }
    fn event(&self, _: UnitId, e: Event) -> Result<Message, PlatformError> {
        Ok(Message { address: 0xfee0_0000, data: self.vectors + e as u32 })
    }
    fn identity(&self) -> Identity { self.identity }
}

/// Has `device` reach `memory`, and nothing else, at input address 1 MiB, for as long as `work` takes.
#[rustfmt::skip]
pub fn drive(
    host: Host, dmar: &[u8], device: DeviceId, memory: (Hpa, u64), faults: Arc<dyn Events>, work: impl FnOnce(Iova),
) -> Result<Vtd<Host>, Box<dyn core::error::Error>> {
    let vtd = Vtd::new(host, Topology::from_table(dmar)?, Config::default())?;
    vtd.bring_up(TakeOver::Disable)?; // From here on every device is blocked.
    vtd.on_other_events(faults.clone());
    let group = vtd.claim(vtd.group_of(device)?, Owner::HOST)?;
    group.on_events(device, faults)?;
    let domain: Domain<Host> = vtd.domain(&group.best_spec())?;
    group.attach(Target::Domain(&domain))?;
    let at = Iova::at(0x10_0000);
    domain.map(at, memory.0, memory.1, vtd::Access::all())?;
    work(at); // The device's driver tells it to read and write at `at`.
    let range = Range::sized(at, memory.1).expect("it was mapped");
    domain.unmap(range)?.flush().map_err(|e| e.error)?; // Now the memory is the kernel's again.
    while vtd.service(16) == Service::Again {} // The idle loop does this after `wake`.
    group.release().map_err(|(_, e)| e)?;
    Ok(vtd)
}

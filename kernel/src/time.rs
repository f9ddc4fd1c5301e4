//! The clock: ACPI's timer (3.579545 MHz) from the start, the CPU's counter once it has been measured against it.

use crate::sync::IrqLock;
use core::arch::x86_64::{__cpuid, _rdtsc};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use vtd::Nanos;
use x86_64::instructions::port::Port;

/// Ticks of ACPI's timer in a second.
const PM_HZ: u64 = 3_579_545;

/// Taken for the counter's rate where nothing says it: no CPU is faster, so that waits are rather too long.
const FAST_HZ: u64 = 6_000_000_000;

/// How long the counter is measured.
const MEASURE: Nanos = Nanos::millis(5);

/// Where ACPI's timer is read.
#[derive(Clone, Copy, Debug)]
pub enum PmTimer {
    /// At an I/O port.
    Port(u16),
    /// In memory, mapped.
    Memory(u64),
}

/// ACPI's timer, which has 24 or 32 bits, as a count that does not wrap.
struct Pm {
    at: PmTimer,
    mask: u32,
    last: u32,
    ticks: u64,
}

impl Pm {
    fn ticks(&mut self) -> u64 {
        let now = match self.at {
            // SAFETY: reading the timer changes nothing.
            PmTimer::Port(port) => unsafe { Port::<u32>::new(port).read() },
            // SAFETY: as above, and mapped.
            PmTimer::Memory(at) => unsafe { (at as *const u32).read_volatile() },
        } & self.mask;
        self.ticks += u64::from(now.wrapping_sub(self.last) & self.mask);
        self.last = now;
        self.ticks
    }
}

static PM: IrqLock<Option<Pm>> = IrqLock::new(None);

/// Nanoseconds for a tick of the CPU's counter, times 2^32; 0 while it has not been measured.
static SCALE: AtomicU64 = AtomicU64::new(0);
/// The counter at the instant `START_NANOS`.
static START_TSC: AtomicU64 = AtomicU64::new(0);
static START_NANOS: AtomicU64 = AtomicU64::new(0);

fn nanos(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(PM_HZ)) as u64
}

/// The CPU's counter.
pub fn tsc() -> u64 {
    // SAFETY: every CPU with long mode has it.
    unsafe { _rdtsc() }
}

/// Starts the clock on ACPI's timer and goes over to the CPU's counter; on that alone where there is no timer.
pub fn init(at: Option<PmTimer>, is_32_bit: bool) {
    let Some(at) = at else {
        START_TSC.store(tsc(), Ordering::Relaxed);
        SCALE.store((1_000_000_000 << 32) / named_hz().unwrap_or(FAST_HZ), Ordering::Release);
        return;
    };
    let mut pm = Pm { at, mask: if is_32_bit { u32::MAX } else { 0xff_ffff }, last: 0, ticks: 0 };
    pm.ticks();
    pm.ticks = 0;
    *PM.lock() = Some(pm);
    calibrate();
}

/// Ticks of the counter in a second, where the CPU says it (CPUID leaf 0x15).
fn named_hz() -> Option<u64> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let leaf = __cpuid(0x15);
    let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax.max(1));
    Some(hz).filter(|&hz| hz != 0)
}

/// The clock on ACPI's timer, which wraps after 4 s at the earliest: to be read more often than that to be right.
pub fn pm_now() -> Option<Nanos> {
    PM.lock().as_mut().map(|pm| Nanos(nanos(pm.ticks())))
}

/// The counter and ACPI's timer at one instant: of several readings the one that took the shortest.
fn sample() -> Option<(u64, u64)> {
    let mut pm = PM.lock();
    let pm = pm.as_mut()?;
    (0..8)
        .map(|_| {
            let before = tsc();
            let ticks = pm.ticks();
            let after = tsc();
            (after - before, before + (after - before) / 2, ticks)
        })
        .min_by_key(|&(took, ..)| took)
        .map(|(_, counter, ticks)| (counter, ticks))
}

/// Measures the counter against ACPI's timer; the clock goes on from where it is.
fn calibrate() {
    let Some((counter, ticks)) = sample() else { return };
    let end = Nanos(nanos(ticks)).after(MEASURE);
    while pm_now().is_some_and(|now| now < end) {
        spin_loop();
    }
    let Some((later_counter, later_ticks)) = sample() else { return };
    let (elapsed, counted) = (nanos(later_ticks) - nanos(ticks), later_counter - counter);
    START_TSC.store(later_counter, Ordering::Relaxed);
    START_NANOS.store(nanos(later_ticks), Ordering::Relaxed);
    SCALE.store(((u128::from(elapsed) << 32) / u128::from(counted.max(1))) as u64, Ordering::Release);
}

/// Ticks of the CPU's counter in a second, as measured; 0 before.
pub fn tsc_hz() -> u64 {
    match SCALE.load(Ordering::Acquire) {
        0 => 0,
        scale => ((1_000_000_000u128 << 32) / u128::from(scale)) as u64,
    }
}

/// Time since the clock was started.
pub fn now() -> Nanos {
    match SCALE.load(Ordering::Acquire) {
        0 => pm_now().unwrap_or(Nanos(0)),
        scale => {
            // Another CPU's counter may lag behind the start by a little.
            let ticks = tsc().saturating_sub(START_TSC.load(Ordering::Relaxed));
            let since = (u128::from(ticks) * u128::from(scale)) >> 32;
            Nanos(START_NANOS.load(Ordering::Relaxed) + since as u64)
        }
    }
}

/// Spins for as long as `condition` is false, at most `patience`; whether it came true.
pub fn wait_until(patience: Nanos, mut condition: impl FnMut() -> bool) -> bool {
    let end = now().after(patience);
    loop {
        if condition() {
            return true;
        }
        if now() >= end {
            return condition();
        }
        spin_loop();
    }
}

/// Spins for `by`.
pub fn delay(by: Nanos) {
    wait_until(by, || false);
}

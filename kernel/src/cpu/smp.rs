//! The other CPUs: started one by one, then asleep until they are given work.

use super::local::{self, Local, MAX_CPUS};
use super::{apic, idt, interrupts, trampoline};
use crate::memory::stacks;
use crate::time;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use vtd::Nanos;
use x86_64::instructions::interrupts as mask;

/// Pages of each CPU's stack.
const STACK: u64 = 16;

/// How long a CPU may take to come up, at the first and at the second start-up.
const FIRST_TRY: Nanos = Nanos::millis(50);
const PATIENCE: Nanos = Nanos::millis(1000);

/// States of a CPU; 0 is that of one that has not started.
const IDLE: u32 = 1;
const BUSY: u32 = 2;

/// How long CPUs may be at the same work.
const EVERYWHERE: Nanos = Nanos::millis(60_000);

/// CPUs that run; the boot processor is one.
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// Why a CPU did not do what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SmpError {
    /// There is no such CPU, or it is the one that asks.
    NoSuchCpu,
    /// It is still at its last work.
    Busy,
    /// It was not done in time.
    TimedOut,
}

/// How many CPUs run. Their numbers are 0 (the one that booted) to this minus one.
pub fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// Starts the CPUs with these APIC ids, but for the running one. Those that do not answer are left out.
pub fn start(ids: impl Iterator<Item = u32>) {
    let own = apic::id();
    // Where x2APIC is not in use, larger ids cannot be reached.
    let reachable = |id: &u32| *id != own && (apic::is_x2apic() || *id < 0xff);
    let ids: Vec<u32> = ids.filter(reachable).take(MAX_CPUS - 1).collect();
    if ids.is_empty() || !trampoline::is_usable() {
        return;
    }
    trampoline::install(enter);
    // INIT, 10 ms, two start-ups (Intel SDM 3, 10.4.4), the second only where the first was not enough.
    for &id in &ids {
        apic::send(id, apic::INIT);
    }
    time::delay(Nanos::millis(10));
    for id in ids {
        let number = count();
        let Some(stack) = stacks::alloc(STACK) else { return };
        trampoline::set_stack(stack);
        let came = [FIRST_TRY, PATIENCE].into_iter().any(|patience| {
            apic::send(id, apic::STARTUP | trampoline::PAGE_NUMBER);
            time::wait_until(patience, || local::get(number).state.load(Ordering::Acquire) == IDLE)
        });
        if !came {
            // Should it come later, it takes this number and stack, which nobody else may then have.
            crate::println!("CPU with APIC id {id} does not start; going on without it and those after it");
            return;
        }
        COUNT.store(number + 1, Ordering::Release);
    }
}

/// The first Rust code of a CPU that was started.
extern "C" fn enter() -> ! {
    let number = count();
    local::enter(number);
    local::load_tables();
    idt::load();
    apic::enable();
    let own = local::get(number);
    own.state.store(IDLE, Ordering::Release);
    loop {
        mask::disable();
        if own.state.load(Ordering::Acquire) == BUSY {
            mask::enable();
            work(own);
        } else {
            // The interrupt that brings work cannot come between the look and the halt.
            mask::enable_and_hlt();
        }
    }
}

fn work(own: &Local) {
    // SAFETY: `run_on` stored a function of this type before the state.
    let f: fn(usize) = unsafe { core::mem::transmute(own.work.load(Ordering::Acquire)) };
    f(own.argument.load(Ordering::Acquire));
    own.state.store(IDLE, Ordering::Release);
}

/// Has CPU `cpu` call `f(argument)`, with interrupts on.
pub fn run_on(cpu: usize, f: fn(usize), argument: usize) -> Result<(), SmpError> {
    if cpu == 0 || cpu >= count() || cpu == local::index() {
        return Err(SmpError::NoSuchCpu);
    }
    let other = local::get(cpu);
    if other.state.load(Ordering::Acquire) != IDLE {
        return Err(SmpError::Busy);
    }
    other.work.store(f as usize, Ordering::Release);
    other.argument.store(argument, Ordering::Release);
    other.state.store(BUSY, Ordering::Release);
    apic::send(other.apic_id.load(Ordering::Acquire), u32::from(interrupts::WAKE));
    Ok(())
}

/// Has every CPU call `f` with its number at the same time, this one included, and waits for all.
///
/// # Panics
///
/// Where a CPU is busy or does not come back: what it works on must not go away.
pub fn everywhere<F: Fn(usize) + Sync>(f: &F) {
    fn call<F: Fn(usize)>(f: usize) {
        // SAFETY: `everywhere` passes a reference to its `F`, and does not return before the call has.
        unsafe { (*(f as *const F))(local::index()) }
    }
    let own = local::index();
    let others = || (1..count()).filter(|&cpu| cpu != own);
    for cpu in others() {
        run_on(cpu, call::<F>, f as *const F as usize).expect("a CPU without work");
    }
    f(own);
    for cpu in others() {
        wait(cpu, EVERYWHERE).expect("a CPU that comes back");
    }
}

/// Waits for CPU `cpu` to have done what it was given.
pub fn wait(cpu: usize, patience: Nanos) -> Result<(), SmpError> {
    if cpu == 0 || cpu >= count() {
        return Err(SmpError::NoSuchCpu);
    }
    let done = || local::get(cpu).state.load(Ordering::Acquire) == IDLE;
    if time::wait_until(patience, done) { Ok(()) } else { Err(SmpError::TimedOut) }
}

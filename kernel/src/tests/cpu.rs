//! Processors: exceptions, interrupts, the other CPUs.

use crate::cpu::smp::{self, SmpError};
use crate::cpu::{exceptions, interrupts, local};
use crate::devices::edu::Edu;
use crate::time::wait_until;
use crate::{check, check_eq, skip, test};
use core::sync::atomic::{AtomicUsize, Ordering};
use vtd::Nanos;

static CALLS: AtomicUsize = AtomicUsize::new(0);

/// A bit for each CPU that ran `mark`.
static RAN: AtomicUsize = AtomicUsize::new(0);

fn count(by: usize) {
    CALLS.fetch_add(by, Ordering::AcqRel);
}

fn mark(expected: usize) {
    if local::index() == expected {
        RAN.fetch_or(1 << expected, Ordering::AcqRel);
    }
}

test! {
    fn breakpoint_returns() {
        let before = exceptions::breakpoints();
        x86_64::instructions::interrupts::int3();
        check_eq!(exceptions::breakpoints(), before + 1);
    }

    fn other_cpus_work() {
        let known = crate::acpi::tables().cpus.len().min(local::MAX_CPUS);
        check_eq!(smp::count(), known, "CPUs that run and CPUs that ACPI names");
        if known == 1 {
            skip!("the machine has one CPU");
        }
        RAN.store(0, Ordering::Release);
        for cpu in 1..known {
            check_eq!(smp::run_on(cpu, mark, cpu), Ok(()));
        }
        for cpu in 1..known {
            check_eq!(smp::wait(cpu, Nanos::millis(2000)), Ok(()));
        }
        check_eq!(RAN.load(Ordering::Acquire), usize::MAX >> (local::MAX_CPUS - known) & !1);
        check_eq!(smp::run_on(0, mark, 0), Err(SmpError::NoSuchCpu));
        check_eq!(smp::run_on(known, mark, 0), Err(SmpError::NoSuchCpu));
    }

    fn device_interrupt_arrives() {
        let Some(edu) = Edu::all().next() else { skip!("no edu device") };
        check!(edu.is_alive());
        for cpu in 0..smp::count() {
            CALLS.store(0, Ordering::Release);
            let Some(vector) = interrupts::allocate(count, 3) else { skip!("no free vector") };
            check!(edu.set_message(interrupts::message(vector, cpu)));
            edu.raise(5);
            let came = wait_until(Nanos::millis(2000), || CALLS.load(Ordering::Acquire) != 0);
            let reasons = edu.acknowledge();
            edu.clear_message();
            interrupts::release(vector);
            check!(came, "no interrupt on CPU {cpu}");
            check_eq!(reasons, 5);
            check_eq!(CALLS.load(Ordering::Acquire), 3, "one call with its argument");
            check_eq!(interrupts::count(vector), 1);
        }
        check_eq!(interrupts::stray(), 0);
    }

    fn vectors_run_out_and_come_back() {
        let mut taken = alloc::vec::Vec::new();
        while let Some(vector) = interrupts::allocate(count, 0) {
            check!(!taken.contains(&vector), "vector {vector} twice");
            taken.push(vector);
        }
        check!(taken.len() > 100, "{} vectors", taken.len());
        taken.iter().for_each(|&v| interrupts::release(v));
        let Some(again) = interrupts::allocate(count, 0) else { skip!("no vector after giving all back") };
        interrupts::release(again);
    }
}

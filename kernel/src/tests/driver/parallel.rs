//! Two CPUs map and unmap at once.

use super::{attached, session, testdev};
use crate::cpu::smp;
use crate::devices::testdev::{TestDevice, Verdict};
use crate::memory::buffer::Buffer;
use crate::platform::KernelPlatform;
use crate::testing::scaled;
use crate::{check, check_eq, skip, test};
use core::sync::atomic::{AtomicU64, Ordering};
use vtd::{Access, Domain, Iova, Nanos, PAGE, Range, Strict, UnitId};

const RW: Access = Access::READ.union(Access::WRITE);

/// What the other CPU works on.
struct Work {
    domain: *const Domain<KernelPlatform, Strict>,
    page: vtd::Hpa,
    rounds: u64,
    done: AtomicU64,
    errors: AtomicU64,
}

/// Maps and unmaps pages of its own, which share tables with those of the other CPU.
fn churn(domain: &Domain<KernelPlatform, Strict>, page: vtd::Hpa, first: u64, rounds: u64) -> Result<(), &'static str> {
    for i in 0..rounds {
        let at = Iova::at(first + i % 64 * 2 * PAGE);
        domain.map(at, page, PAGE, RW).map_err(|_| "map")?;
        if domain.translate(at).map(|t| t.0) != Some(page) {
            return Err("translate");
        }
        let range = Range::sized(at, PAGE).ok_or("range")?;
        domain.unmap(range).map_err(|_| "unmap")?.flush().map_err(|_| "flush")?;
    }
    Ok(())
}

fn other_cpu(work: usize) {
    // SAFETY: the test keeps `Work`, and the domain in it, until this CPU is done.
    let (work, domain) = unsafe {
        let work = &*(work as *const Work);
        (work, &*work.domain)
    };
    match churn(domain, work.page, 0x10_1000, work.rounds) {
        Ok(()) => work.done.store(work.rounds, Ordering::Release),
        Err(_) => work.errors.store(1, Ordering::Release),
    }
}

test! {
    fn two_cpus_map_and_unmap_at_once() {
        let s = session()?;
        if smp::count() < 2 {
            skip!("one CPU only");
        }
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let rounds = scaled(2_000);
        let (done, errors) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = Work { domain: &raw const a.domain, page: page.hpa(), rounds, done, errors };
        smp::run_on(1, other_cpu, &raw const work as usize).map_err(|_| "the other CPU takes no work")?;
        let mine = churn(&a.domain, page.hpa(), 0x10_0000, rounds);
        smp::wait(1, Nanos::millis(60_000)).map_err(|_| "the other CPU does not finish")?;
        mine?;
        check_eq!(work.errors.load(Ordering::Acquire), 0, "on the other CPU");
        check_eq!(work.done.load(Ordering::Acquire), rounds);
        for at in [0x10_0000, 0x10_1000] {
            check_eq!(dev.write(at, page.hpa().get(), 8), Verdict::Stopped, "{at:#x} is still reached");
        }
        a.release()?;
        s.end()?;
    }

    fn two_cpus_submit_for_domains_of_their_own() {
        let s = session()?;
        if smp::count() < 2 {
            skip!("one CPU only");
        }
        let mut devices = TestDevice::all().filter(|d| d.id().source.bus() == 0);
        let (Some(one), Some(two)) = (devices.next(), devices.next()) else { skip!("fewer than two test devices") };
        let (a, b) = (attached(&s, one.id())?, attached(&s, two.id())?);
        let page = Buffer::new(0).ok_or("no memory")?;
        let rounds = scaled(2_000);
        let (done, errors) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = Work { domain: &raw const b.domain, page: page.hpa(), rounds, done, errors };
        let before = s.vtd().invalidation_stats(UnitId(0))?.submissions;
        smp::run_on(1, other_cpu, &raw const work as usize).map_err(|_| "the other CPU takes no work")?;
        let mine = churn(&a.domain, page.hpa(), 0x10_1000, rounds);
        smp::wait(1, Nanos::millis(60_000)).map_err(|_| "the other CPU does not finish")?;
        mine?;
        check_eq!(work.errors.load(Ordering::Acquire), 0, "on the other CPU");
        let after = s.vtd().invalidation_stats(UnitId(0))?;
        check!(after.submissions >= before + 2 * rounds, "{after:?} for {rounds} flushes of each CPU");
        check_eq!((after.timeouts, after.queue_errors), (0, 0));
        for dev in [one, two] {
            check_eq!(dev.write(0x10_1000, page.hpa().get(), 8), Verdict::Stopped, "{} still gets through", dev.id());
        }
        a.release()?;
        b.release()?;
        s.end()?;
    }
}

//! The queue and the register path: what is flushed is gone, however often.

use super::{attached, config, session, session_with, testdev};
use crate::devices::testdev::Verdict;
use crate::memory::buffer::Buffer;
use crate::testing::Outcome;
use crate::testing::scaled;
use crate::{check, check_eq, iommu, test};
use vtd::{Access, Config, Deferred, Iova, PAGE, Range, Target};

const RW: Access = Access::READ.union(Access::WRITE);

/// Maps, uses, unmaps and flushes `rounds` times; a device that meets the old page in any round fails the test.
fn churn(config: Config, rounds: u64) -> Outcome {
    let s = session_with(config)?;
    let dev = testdev()?;
    let a = attached(&s, dev.id())?;
    let pages = [Buffer::new(0).ok_or("no memory")?, Buffer::new(0).ok_or("no memory")?];
    for i in 0..rounds {
        let at = Iova::at(0x100_0000 + i % 3 * PAGE);
        let page = &pages[i as usize % 2];
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        check_eq!(dev.write(at.get(), page.hpa().get(), 8), Verdict::Arrived, "round {i}");
        let range = Range::sized(at, PAGE).ok_or("range")?;
        a.domain.unmap(range)?.flush().map_err(|n| n.error)?;
    }
    check_eq!(dev.write(0x100_0000, pages[0].hpa().get(), 8), Verdict::Stopped);
    a.release()?;
    s.end()?;
    Ok(())
}

test! {
    fn the_queue_wraps_around() {
        // Two descriptors a round and 256 slots: several times round the ring.
        churn(config(), scaled(600))?;
    }

    fn a_queue_of_several_pages_works() {
        churn(Config { queue_order: 3, ..config() }, 40)?;
    }

    fn the_register_path_does_the_same() {
        churn(Config { queue: false, ..config() }, scaled(200))?;
    }

    fn completions_raise_interrupts_where_they_are_asked_for() {
        let before = iommu::completions();
        churn(Config { completion_interrupt: true, ..config() }, 20)?;
        check!(iommu::completions() >= before + 20, "{} interrupts", iommu::completions() - before);
    }

    fn ranges_of_every_shape_are_flushed() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let memory = Buffer::new(5).ok_or("no memory")?;
        for (first, pages) in [(0x1f_f000, 2), (0x3fff_f000, 2), (0x1000, 15), (0x7f_f000, 17), (0x10_0000, 32)] {
            let range = Range::sized(Iova::at(first), pages * PAGE).ok_or("range")?;
            a.domain.map(range.first, memory.hpa(), pages * PAGE, RW)?;
            for i in 0..pages {
                let hpa = memory.hpa().get() + i * PAGE;
                check_eq!(dev.write(first + i * PAGE, hpa, 8), Verdict::Arrived, "{first:#x} page {i}");
            }
            a.domain.unmap(range)?.flush().map_err(|n| n.error)?;
            for i in 0..pages {
                let hpa = memory.hpa().get() + i * PAGE;
                check_eq!(dev.write(first + i * PAGE, hpa, 8), Verdict::Stopped, "{first:#x} page {i} is still cached");
            }
        }
        a.release()?;
        s.end()?;
    }

    fn a_deferred_domain_flushes_when_told() {
        let s = session()?;
        let dev = testdev()?;
        let (group, _) = s.claim(dev.id())?;
        let domain = s.vtd().domain::<Deferred>(&group.best_spec())?;
        group.attach(Target::Deferred(&domain))?;
        let page = Buffer::new(0).ok_or("no memory")?;
        domain.map(Iova::at(0x4000), page.hpa(), PAGE, RW)?;
        check_eq!(dev.write(0x4000, page.hpa().get(), 8), Verdict::Arrived);
        domain.unmap_later(Range::sized(Iova::at(0x4000), PAGE).ok_or("range")?)?;
        check_eq!(domain.map(Iova::at(0x4000), page.hpa(), PAGE, RW).map_err(|e| e.why), Err(vtd::MapWhy::Unflushed));
        domain.sync()?;
        check_eq!(dev.write(0x4000, page.hpa().get(), 8), Verdict::Stopped);
        domain.map(Iova::at(0x4000), page.hpa(), PAGE, RW)?;
        group.release().map_err(|(_, e)| e)?;
        drop(domain);
        s.end()?;
    }

    fn a_flush_can_be_polled() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        a.domain.map(Iova::at(0x4000), page.hpa(), PAGE, RW)?;
        let unmapped = a.domain.unmap(Range::sized(Iova::at(0x4000), PAGE).ok_or("range")?)?;
        let mut pending = unmapped.submit().map_err(|n| n.error)?;
        let mut turns = 0;
        loop {
            match pending.poll() {
                core::ops::ControlFlow::Break(done) => {
                    done.map_err(|n| n.error)?;
                    break;
                }
                core::ops::ControlFlow::Continue(p) => pending = p,
            }
            turns += 1;
            check!(turns < 1_000_000, "the flush never completes");
        }
        check_eq!(dev.write(0x4000, page.hpa().get(), 8), Verdict::Stopped);
        a.release()?;
        s.end()?;
    }

    fn domain_ids_come_back() {
        let s = session()?;
        let a = attached(&s, testdev()?.id())?;
        // More attachments than there are ids, were they not given back. Each takes an id of the unit's 65,536.
        let rounds = scaled(2_000);
        for _ in 0..rounds {
            let d = s.vtd().domain::<vtd::Strict>(&a.group.best_spec())?;
            a.group.attach(Target::Domain(&d))?;
        }
        a.group.attach(Target::Domain(&a.domain))?;
        a.release()?;
        s.end()?;
    }
}

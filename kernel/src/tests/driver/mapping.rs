//! Sizes, levels, splitting: what the tables hold is what devices meet.

use super::{SOON, attached, edu, first_stage, session, testdev};
use crate::devices::testdev::{PATTERN, Verdict};
use crate::memory::buffer::Buffer;
use crate::{check, check_eq, skip, test};
use vtd::{Access, ErrorKind, Field, Iova, MapWhy, PAGE, Range, Strict, Target};

const RW: Access = Access::READ.union(Access::WRITE);
const LARGE: u64 = 2 << 20;
const HUGE: u64 = 1 << 30;

test! {
    fn large_pages_are_used_and_reached() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let Some(memory) = Buffer::new(9) else { skip!("no 2 MiB of memory in one piece") };
        let at = Iova::at(HUGE);
        a.domain.map(at, memory.hpa(), LARGE, RW)?;
        check_eq!(a.domain.translate(at).map(|t| t.1), Some(LARGE), "one page");
        for offset in [0, PAGE, LARGE - 64] {
            let (iova, hpa) = (at.get() + offset, memory.hpa().get() + offset);
            check_eq!(dev.write(iova, hpa, 64), Verdict::Arrived, "offset {offset:#x}");
        }
        check_eq!(dev.write(at.get() + LARGE, memory.hpa().get(), 16), Verdict::Stopped);
        a.release()?;
        s.end()?;
    }

    fn a_huge_page_reaches_the_first_gibibyte() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        if page.hpa().get() >= HUGE {
            skip!("the frame lies above 1 GiB");
        }
        let at = Iova::at(3 * HUGE + HUGE);
        let zero = vtd::Hpa::new(0).ok_or("0 is an address")?;
        a.domain.map(at, zero, HUGE, RW)?;
        check_eq!(a.domain.translate(at).map(|t| t.1), Some(HUGE), "one page");
        let iova = at.get() + page.hpa().get();
        check_eq!(dev.write(iova, page.hpa().get(), 16), Verdict::Arrived);
        a.release()?;
        s.end()?;
    }

    fn three_levels_do() {
        let s = session()?;
        let dev = testdev()?;
        let (group, events) = s.claim(dev.id())?;
        let mut spec = group.best_spec();
        (spec.levels, spec.width) = (3, 39);
        if first_stage(spec) {
            let refused = s.vtd().domain::<Strict>(&spec).map(drop).map_err(|e| e.kind);
            check_eq!(refused, Err(ErrorKind::Invalid(Field::Size)), "the first stage has 4 levels or 5");
            group.release().map_err(|(_, e)| e)?;
            s.end()?;
            return Ok(());
        }
        let domain = s.vtd().domain::<Strict>(&spec)?;
        group.attach(Target::Domain(&domain))?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let last = Iova::at((1 << 39) - PAGE);
        domain.map(last, page.hpa(), PAGE, RW)?;
        check_eq!(dev.write(last.get(), page.hpa().get(), 16), Verdict::Arrived);
        let beyond = domain.map(Iova::at(1 << 39), page.hpa(), PAGE, RW);
        check_eq!(beyond.map_err(|e| e.why), Err(MapWhy::Width));
        check_eq!(dev.write(1 << 39, page.hpa().get(), 16), Verdict::Stopped);
        let faults = events.await_faults(s.vtd(), SOON);
        check!(faults.len() == 1 && faults[0].reason.0 == 4, "{faults:x?}");
        group.release().map_err(|(_, e)| e)?;
        drop(domain);
        s.end()?;
    }

    fn the_last_page_of_the_space_is_reached() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let last = Iova::at((1 << a.domain.spec().width) - PAGE);
        a.domain.map(last, page.hpa(), PAGE, RW)?;
        check_eq!(dev.write(last.get(), page.hpa().get(), 16), Verdict::Arrived);
        a.release()?;
        s.end()?;
    }

    fn mappings_are_never_replaced_silently() {
        let s = session()?;
        let a = attached(&s, testdev()?.id())?;
        let (x, y) = (Buffer::new(0).ok_or("no memory")?, Buffer::new(0).ok_or("no memory")?);
        let at = Iova::at(0x8000);
        a.domain.map(at, x.hpa(), PAGE, RW)?;
        let again = a.domain.map(Iova::at(0x7000), y.hpa(), 4 * PAGE, RW);
        check_eq!(again.map_err(|e| (e.why, e.at)), Err((MapWhy::Mapped, at)));
        check_eq!(a.domain.translate(at).map(|t| t.0), Some(x.hpa()));
        check_eq!(a.domain.translate(Iova::at(0x7000)), None, "an error leaves nothing behind");
        let interrupts = a.domain.map(Iova::at(0xfee0_0000), x.hpa(), PAGE, RW);
        check_eq!(interrupts.map_err(|e| e.why), Err(MapWhy::InterruptRange));
        a.release()?;
        s.end()?;
    }

    fn a_range_whose_flush_is_owed_is_not_mapped_anew() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let (x, y) = (Buffer::new(0).ok_or("no memory")?, Buffer::new(0).ok_or("no memory")?);
        let at = Iova::at(0x6000_0000);
        let range = Range::sized(at, PAGE).ok_or("range")?;
        a.domain.map(at, x.hpa(), PAGE, RW)?;
        check_eq!(dev.write(at.get(), x.hpa().get(), 16), Verdict::Arrived);
        let unmapped = a.domain.unmap(range)?;
        let early = a.domain.map(at, y.hpa(), PAGE, RW);
        check_eq!(early.map_err(|e| e.why), Err(MapWhy::Unflushed));
        unmapped.flush().map_err(|n| n.error)?;
        a.domain.map(at, y.hpa(), PAGE, RW)?;
        check_eq!(dev.write(at.get(), y.hpa().get(), 16), Verdict::Arrived);
        // Dropped, the flush is owed by the domain, and `settle` pays.
        drop(a.domain.unmap(range)?);
        let early = a.domain.map(at, x.hpa(), PAGE, RW);
        check_eq!(early.map_err(|e| e.why), Err(MapWhy::Unflushed));
        a.domain.settle()?;
        a.domain.map(at, x.hpa(), PAGE, RW)?;
        check_eq!(dev.write(at.get(), x.hpa().get(), 16), Verdict::Arrived);
        a.release()?;
        s.end()?;
    }

    fn a_large_page_is_split_under_a_running_transfer() {
        let s = session()?;
        let dev = edu()?;
        let a = attached(&s, dev.id())?;
        let Some(memory) = Buffer::new(9) else { skip!("no 2 MiB of memory in one piece") };
        let at = Iova::at(4 * HUGE);
        a.domain.map(at, memory.hpa(), LARGE, RW)?;
        memory.set(0, 0x0bad_cafe);
        for round in 0..4u64 {
            // The device reads page 0 while pages further on go away.
            dev.start(at.get(), 0, 4, false)?;
            let hole = Iova::at(at.get() + (round + 1) * 16 * PAGE);
            let range = Range::sized(hole, PAGE).ok_or("range")?;
            a.domain.unmap(range)?.flush().map_err(|n| n.error)?;
            check_eq!(a.domain.translate(hole), None);
            check_eq!(a.domain.translate(at).map(|t| t.0), Some(memory.hpa()));
            dev.finish()?;
            dev.write_memory(at.get() + LARGE - 16 * (round + 1), 0, 4)?;
            check_eq!(memory.get((LARGE - 16 * (round + 1)) as usize / 4), 0x0bad_cafe, "round {round}");
        }
        check_eq!(a.events.take().len(), 0, "the rest of the page faulted");
        a.release()?;
        s.end()?;
    }

    fn rights_are_taken_away_and_given_back() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let at = Iova::at(0xabc_d000);
        let range = Range::sized(at, PAGE).ok_or("range")?;
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        check_eq!(dev.write(at.get(), page.hpa().get(), 16), Verdict::Arrived);
        a.domain.protect(range, Access::READ)?.flush().map_err(|n| n.error)?;
        page.set(0, 0);
        check_eq!(dev.write(at.get(), page.hpa().get(), 16), Verdict::Stopped);
        check_eq!(page.get(0), 0);
        check_eq!(a.events.await_faults(s.vtd(), SOON).len(), 1);
        a.domain.protect(range, RW)?.flush().map_err(|n| n.error)?;
        check_eq!(dev.write(at.get(), page.hpa().get(), 16), Verdict::Arrived);
        check_eq!(page.get(0), PATTERN);
        a.release()?;
        s.end()?;
    }

    fn an_edit_does_many_things_and_flushes_once() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let memory = Buffer::new(4).ok_or("no memory")?;
        let page = |i: u64| vtd::Hpa::new(memory.hpa().get() + i * PAGE);
        let mut edit = a.domain.edit();
        for i in 0..16 {
            edit.map(Iova::at((i * 37 % 16) * 0x40_3000), page(i).ok_or("address")?, PAGE, RW)?;
        }
        drop(edit.finish());
        a.domain.settle()?;
        for i in 0..16 {
            let hpa = memory.hpa().get() + i * PAGE;
            check_eq!(dev.write((i * 37 % 16) * 0x40_3000, hpa, 16), Verdict::Arrived, "page {i}");
        }
        let mut edit = a.domain.edit();
        for i in 0..16 {
            edit.unmap(Range::sized(Iova::at(i * 0x40_3000), PAGE).ok_or("range")?)?;
        }
        edit.finish().flush().map_err(|n| n.error)?;
        for i in 0..16 {
            check_eq!(dev.write(i * 0x40_3000, memory.hpa().get(), 16), Verdict::Stopped, "page {i}");
        }
        a.release()?;
        s.end()?;
    }

    fn tables_come_back_to_the_allocator() {
        let s = session()?;
        let a = attached(&s, testdev()?.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let before = crate::memory::frames::free_count();
        for i in 0..64u64 {
            a.domain.map(Iova::at(i * HUGE + i * LARGE), page.hpa(), PAGE, RW)?;
        }
        check!(crate::memory::frames::free_count() + 64 < before, "mapping took no tables");
        for i in 0..64u64 {
            let range = Range::sized(Iova::at(i * HUGE + i * LARGE), PAGE).ok_or("range")?;
            a.domain.unmap(range)?.flush().map_err(|n| n.error)?;
        }
        check_eq!(crate::memory::frames::free_count(), before);
        a.release()?;
        s.end()?;
    }
}

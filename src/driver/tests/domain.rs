//! Mapping, unmapping and flushing on units that keep everything until told otherwise.

use super::machine::{Machine, WIDE, config, dev, hpa, map, range};
use crate::host::testing::Host;
use crate::hw::descriptors::Descriptor;
use crate::hw::invalidation::{Drain, Iva};
use crate::hw::registers::at;
use crate::unit::standin::{CAP, CAP_CM, CAP_RWBF, ECAP_QI};
use crate::{
    Access, Config, Deferred, Domain, ErrorKind, Group, Iova, MapWhy, Nanos, NotFlushed, Platform, Range, Service,
    Step, Target, UnitId,
};
use core::ops::ControlFlow;
use std::vec::Vec;

const ONE: u16 = 1 << 3;
const NINE: u16 = 9 << 3;
const PAGE: Range = Range { first: Iova::at(0x1000), last: Iova::at(0x1fff) };

/// A domain with a page, and devices 1 and 9 in it; on two units where there are two.
fn attached(m: &Machine) -> (Domain<Host>, [Group<Host>; 2]) {
    let d = m.vtd.domain(&WIDE).unwrap();
    map(&d, 0x1000, 0x8000, 0x1000);
    let groups = [m.claim(dev(1)), m.claim(dev(9))];
    for g in &groups {
        g.attach(Target::Domain(&d)).unwrap();
    }
    m.forget();
    (d, groups)
}

fn a_successful_flush_is_one_tail_write_a_unit_and_no_register_read(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap); 2]);
    let (d, groups) = attached(&m);
    let reads = || m.units.iter().map(|u| u.regs.reads()).sum::<u64>();
    let before = reads();
    map(&d, 0x10_0000, 0x10_0000, 0x4000);
    assert!(m.units.iter().all(|u| u.take().0.is_empty()), "a map needs no flush");
    d.unmap(range(0x10_0000, 0x10_3fff)).unwrap().flush().unwrap();
    for u in &m.units {
        let (writes, done) = u.take();
        assert_eq!(writes.iter().map(|w| w.0).collect::<Vec<_>>(), [at::IQT]);
        assert_eq!(done, [Descriptor::iotlb_pages(2, Drain::BOTH, Iva::new(0x10_0000, 2, true)).narrow()]);
    }
    assert_eq!(reads(), before);
    drop((d, groups));
    m.end();
}

fn what_was_unmapped_is_reached_until_the_flush_and_never_after(ecap: u64) {
    for (cap, ecap) in [(CAP, ecap), (CAP | CAP_CM, ecap), (CAP | CAP_RWBF, ecap & !ECAP_QI)] {
        let m = Machine::new(&[(cap, ecap); 2]);
        let (d, groups) = attached(&m);
        let reach = |at| [m.units[0].access(ONE, at), m.units[1].access(NINE, at)];
        assert_eq!(reach(0x1000), [Some(0x8000); 2]);
        let unmapped = d.unmap(PAGE).unwrap();
        assert_eq!(reach(0x1000), [Some(0x8000); 2], "the stand-in keeps what it has");
        assert_eq!(d.map(PAGE.first, hpa(0x9000), 0x1000, Access::all()).unwrap_err().why, MapWhy::Unflushed);
        unmapped.flush().unwrap();
        assert_eq!(reach(0x1000), [None; 2]);
        map(&d, 0x1000, 0x9000, 0x1000);
        assert_eq!(reach(0x1000), [Some(0x9000); 2], "absence was not kept where it is cached");
        // Large pages, cut seamlessly.
        map(&d, 0x4000_0000, 0x4000_0000, 0x8000_0000);
        assert_eq!(reach(0x7fff_f000), [Some(0x7fff_f000); 2]);
        let cut = d.unmap(range(0x7fff_f000, 0x8000_0fff)).unwrap();
        cut.flush().unwrap();
        assert_eq!(reach(0x7fff_f000), [None; 2]);
        assert_eq!(reach(0x8000_0000), [None; 2]);
        assert_eq!((reach(0x7fff_e000), reach(0x8000_1000)), ([Some(0x7fff_e000); 2], [Some(0x8000_1000); 2]));
        // An edit: both at once.
        let mut edit = d.edit();
        edit.unmap(PAGE).unwrap();
        edit.map(Iova::at(0x3000), hpa(0xa000), 0x1000, Access::READ).unwrap();
        assert_eq!(edit.map(PAGE.first, hpa(0xb000), 0x1000, Access::READ).unwrap_err().why, MapWhy::Unflushed);
        edit.finish().flush().unwrap();
        assert_eq!((reach(0x1000), reach(0x3000)), ([None; 2], [Some(0xa000); 2]));
        drop((d, groups));
        m.end();
    }
}

fn an_unmap_that_is_dropped_is_owed_until_it_is_settled(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap); 2]);
    let (d, groups) = attached(&m);
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0x8000));
    let frames = m.host.counts().frames;
    drop(d.unmap(PAGE).unwrap());
    assert_eq!(m.host.counts().frames, frames, "the tables are not given back");
    let again = || d.map(PAGE.first, hpa(0x9000), 0x1000, Access::all());
    assert_eq!(again().unwrap_err().why, MapWhy::Unflushed);
    d.settle().unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), None);
    assert_eq!(m.host.counts().frames, frames - 3);
    again().unwrap();
    // The next flush takes over what was dropped.
    drop(d.unmap(PAGE).unwrap());
    map(&d, 0x4000_0000, 0x4000_0000, 0x1000);
    d.unmap(range(0x4000_0000, 0x4000_0fff)).unwrap().flush().unwrap();
    again().unwrap();
    // Dropping the domain with something owed, after everybody left, gives all back.
    drop(d.unmap(PAGE).unwrap());
    drop((groups, d));
    m.end();
}

fn what_another_flush_has_taken_over_is_settled_only_when_it_is_flushed(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap); 2]);
    let (d, groups) = attached(&m);
    map(&d, 0x4000_0000, 0x9000, 0x1000);
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0x8000));
    // Dropped, and taken over by a flush that does not come to its end.
    drop(d.unmap(PAGE).unwrap());
    m.units[0].state().asleep = true;
    let pending = d.unmap(range(0x4000_0000, 0x4000_0fff)).unwrap().submit().unwrap();
    assert_eq!(d.settle().unwrap_err().kind, ErrorKind::Timeout(Step::Invalidation));
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0x8000));
    m.units[0].awake();
    d.settle().unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), None);
    assert!(pending.wait().is_ok());
    map(&d, 0x1000, 0x9000, 0x1000);
    drop((groups, d));
    m.end();
}

fn a_flush_that_times_out_gives_nothing_back_and_can_be_repeated(ecap: u64) {
    for late in 0..2 {
        let m = Machine::new(&[(CAP, ecap); 2]);
        let (d, groups) = attached(&m);
        assert_eq!(m.units[late].access([ONE, NINE][late], 0x1000), Some(0x8000));
        let frames = m.host.counts().frames;
        m.units[late].state().hold = true;
        let failed = d.unmap(PAGE).unwrap().flush().unwrap_err();
        let timeout = ErrorKind::Timeout(Step::Invalidation);
        assert_eq!((failed.error.kind, failed.error.unit.map(|u| usize::from(u.0))), (timeout, Some(late)));
        drop(failed);
        assert_eq!(d.settle().unwrap_err().kind, timeout);
        assert_eq!(m.host.counts().frames, frames);
        assert_eq!(d.map(PAGE.first, hpa(0x9000), 0x1000, Access::all()).unwrap_err().why, MapWhy::Unflushed);
        m.units[late].state().hold = false;
        m.units[late].release(|_| true);
        d.settle().unwrap();
        assert_eq!(m.host.counts().frames, frames - 3);
        map(&d, 0x1000, 0x9000, 0x1000);
        assert_eq!(m.units[late].access([ONE, NINE][late], 0x1000), Some(0x9000));
        drop((groups, d));
        m.end();
    }
}

fn a_flush_in_flight_is_polled_and_may_be_given_up(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap); 2]);
    let (d, groups) = attached(&m);
    m.units[1].state().hold = true;
    let pending = d.unmap(PAGE).unwrap().submit().unwrap();
    let ControlFlow::Continue(pending) = pending.poll() else { panic!("unit 1 has not completed it") };
    m.units[1].state().hold = false;
    m.units[1].release(|_| true);
    let ControlFlow::Break(Ok(_)) = pending.poll() else { panic!("both have") };
    map(&d, 0x1000, 0x9000, 0x1000);
    m.units[0].state().hold = true;
    drop(d.unmap(PAGE).unwrap().submit().unwrap());
    m.units[0].state().hold = false;
    m.units[0].release(|_| true);
    assert_eq!(d.map(PAGE.first, hpa(0x9000), 0x1000, Access::all()).unwrap_err().why, MapWhy::Unflushed);
    d.settle().unwrap();
    map(&d, 0x1000, 0x9000, 0x1000);
    // The queue's error is the flush's error, and the next one works.
    m.units[1].state().bad = Some((0, 3));
    let NotFlushed { error, still } = d.unmap(PAGE).unwrap().flush().unwrap_err();
    assert_eq!(error.kind, ErrorKind::QueueError(3));
    still.flush().unwrap();
    drop((groups, d));
    m.end();
}

fn deferred_domains_flush_at_sync(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let d: Domain<Host, Deferred> = m.vtd.domain(&WIDE).unwrap();
    for n in 0..100 {
        d.map(Iova::at(n << 21), hpa(n << 21), 0x1000, Access::all()).unwrap();
    }
    let group = m.claim(dev(1));
    group.attach(Target::Deferred(&d)).unwrap();
    assert_eq!(m.units[0].access(ONE, 5 << 21), Some(5 << 21));
    m.forget();
    for n in 0..100 {
        d.unmap_later(range(n << 21, (n << 21) + 0xfff)).unwrap();
    }
    assert!(m.units[0].take().0.is_empty());
    assert_eq!(m.units[0].access(ONE, 5 << 21), Some(5 << 21));
    d.sync().unwrap();
    assert_eq!(m.units[0].take().0.len(), 1);
    assert_eq!(m.units[0].access(ONE, 5 << 21), None);
    d.map(Iova::at(0), hpa(0), 0x1000, Access::all()).unwrap();
    drop((group, d));
    m.end();
}

fn deferred_domains_gather_so_many_and_for_so_long(ecap: u64) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let limits = Config { deferred_ranges: 10, deferred_deadline: Nanos::millis(7), ..config() };
    let m = Machine::with(host, units, &dmar, limits);
    let d: Domain<Host, Deferred> = m.vtd.domain(&WIDE).unwrap();
    let group = m.claim(dev(1));
    group.attach(Target::Deferred(&d)).unwrap();
    let page = |n: u64| range(n << 21, (n << 21) + 0xfff);
    let map = |n: u64| d.map(Iova::at(n << 21), hpa(n << 21), 0x1000, Access::all());
    (0..20).for_each(|n| map(n).unwrap());
    (0..20).for_each(|n| assert_eq!(m.units[0].access(ONE, n << 21), Some(n << 21)));
    m.forget();
    for n in 0..10 {
        assert!(m.units[0].take().0.is_empty());
        d.unmap_later(page(n)).unwrap();
    }
    assert_eq!(m.units[0].take().0.len(), 1, "the tenth flushes them all");
    assert_eq!(m.units[0].access(ONE, 9 << 21), None);
    assert_eq!(m.vtd.service(9), Service::Idle);
    // The oldest one's age counts, and a range does not come back before. Who has been told that nothing is left hears of it.
    let wakes = m.host.counts().wakes;
    d.unmap_later(page(10)).unwrap();
    assert_eq!(m.host.counts().wakes, wakes + 1);
    let Service::At(due) = m.vtd.service(9) else { panic!("it is to be flushed some time") };
    d.unmap_later(page(11)).unwrap();
    assert_eq!(m.vtd.service(9), Service::At(due));
    assert_eq!(m.host.counts().wakes, wakes + 1, "one call is under way");
    assert_eq!(map(10).unwrap_err().why, MapWhy::Unflushed);
    assert!(m.units[0].take().0.is_empty());
    while m.host.now() < due {
        m.host.relax(UnitId(0), Nanos(0));
    }
    assert_eq!(m.vtd.service(9), Service::Idle);
    assert_eq!(m.units[0].take().0.len(), 1);
    assert_eq!(m.units[0].access(ONE, 11 << 21), None);
    map(10).unwrap();
    map(20).unwrap();
    // A unit that does not confirm leaves them owed; whoever had to flush hears of it.
    m.units[0].state().hold = true;
    (11..19).for_each(|n| {
        let _ = map(n);
    });
    let outcomes: std::vec::Vec<_> = (10..20).map(|n| d.unmap_later(page(n)).map_err(|e| e.why)).collect();
    assert_eq!(outcomes[..9], [Ok(()); 9]);
    assert_eq!(outcomes[9], Err(MapWhy::NotFlushed));
    // No more is gathered then than was said.
    assert_eq!(d.unmap_later(page(20)).unwrap_err().why, MapWhy::NotFlushed);
    assert!(d.translate(Iova::at(20 << 21)).is_some(), "nothing was unmapped");
    m.units[0].state().hold = false;
    m.units[0].release(|_| true);
    assert!(matches!(m.vtd.service(9), Service::At(_)));
    d.sync().unwrap();
    // Nobody has the domain any more: `service` lets its tables go.
    group.attach(Target::Blocked).unwrap();
    let frames = m.host.counts().frames;
    drop(d);
    m.vtd.service(9);
    assert!(m.host.counts().frames < frames);
    drop(group);
    m.end();
}

fn maps_and_domains_under_every_failing_allocation_change_nothing(ecap: u64) {
    for cap in [CAP, CAP | CAP_CM] {
        let m = Machine::new(&[(cap, ecap)]);
        let (d, groups) = attached(&m);
        let before = m.host.counts().frames;
        for n in 0.. {
            m.host.fail_after(Some(n));
            // Two pages at either side of a large one, far apart in the tables.
            let outcome = d.map(Iova::at(0x7f_ffff_f000), hpa(0x3f_ffff_f000), 0x20_2000, Access::all());
            m.host.fail_after(None);
            if outcome.is_ok() {
                assert!(n >= 3);
                break;
            }
            assert_eq!(outcome.unwrap_err().why, MapWhy::OutOfFrames);
            assert_eq!(m.host.counts().frames, before, "after {n}");
            assert_eq!(m.units[0].access(ONE, 0x7f_ffff_f000), None);
            assert_eq!(m.units[0].access(ONE, 0x1000), Some(0x8000));
        }
        let full = m.host.counts().frames;
        m.host.fail_after(Some(0));
        assert_eq!(m.vtd.domain::<crate::Strict>(&WIDE).err().unwrap().kind, ErrorKind::OutOfFrames);
        // A cut of the large page wants a table.
        let cut = d.unmap(range(0x80_0000_1000, 0x80_0000_1fff)).err().unwrap();
        assert_eq!(cut.why, MapWhy::OutOfFrames);
        m.host.fail_after(None);
        assert_eq!(m.host.counts().frames, full);
        assert_eq!(m.units[0].access(ONE, 0x80_0000_1000), Some(0x40_0000_1000));
        drop((groups, d));
        m.end();
    }
}

fn a_caching_unit_that_does_not_confirm_a_map_is_reported(ecap: u64) {
    let m = Machine::new(&[(CAP | CAP_CM, ecap)]);
    let (d, groups) = attached(&m);
    assert_eq!(m.units[0].access(ONE, 0x5000), None);
    m.units[0].state().hold = true;
    let e = d.map(Iova::at(0x5000), hpa(0x6000), 0x1000, Access::all()).unwrap_err();
    assert_eq!(e.why, MapWhy::NotFlushed);
    m.units[0].state().hold = false;
    m.units[0].release(|_| true);
    d.unmap(range(0x5000, 0x5fff)).unwrap().flush().unwrap();
    map(&d, 0x5000, 0x7000, 0x1000);
    assert_eq!(m.units[0].access(ONE, 0x5000), Some(0x7000));
    drop((groups, d));
    m.end();
}

fn a_region_mapped_next_to_an_unflushed_unmap_is_flushed_at_attach(ecap: u64) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let m = Machine::with(host, units, &dmar.reserved(0x7a00_0000, 0x7a00_0fff, dev(1)), config());
    let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    map(&d, 0x7a00_5000, 0x5000, 0x1000);
    let other = m.claim(dev(2));
    other.attach(Target::Domain(&d)).unwrap();
    let unmapped = d.unmap(range(0x7a00_5000, 0x7a00_5fff)).unwrap();
    let group = m.vtd.claim(m.vtd.group_of(dev(1)).unwrap(), crate::Owner::HOST).unwrap();
    m.forget();
    group.attach(Target::Domain(&d)).unwrap();
    // Hardware may hold a way through the table that went: IH = 0.
    let done = m.units[0].take().1;
    assert_eq!(done, [Descriptor::iotlb_pages(3, Drain::BOTH, Iva::new(0x7a00_0000, 0, false)).narrow()]);
    unmapped.flush().unwrap();
    drop((group, other, d));
    m.end();
}

fn an_edit_whose_mappings_were_not_confirmed_says_so_when_it_is_flushed(ecap: u64) {
    let m = Machine::new(&[(CAP | CAP_CM, ecap)]);
    let (d, groups) = attached(&m);
    assert_eq!(m.units[0].access(ONE, 0x5000), None);
    m.units[0].state().asleep = true;
    let mut edit = d.edit();
    edit.map(Iova::at(0x5000), hpa(0x6000), 0x1000, Access::all()).unwrap();
    let NotFlushed { still, .. } = edit.finish().flush().unwrap_err();
    m.units[0].awake();
    m.forget();
    still.flush().unwrap();
    assert_eq!(m.units[0].take().1, [Descriptor::iotlb_pages(2, Drain::BOTH, Iva::new(0x5000, 0, false)).narrow()]);
    assert_eq!(m.units[0].access(ONE, 0x5000), Some(0x6000));
    drop((groups, d));
    m.end();
}

crate::unit::standin::in_both_modes! {
    a_successful_flush_is_one_tail_write_a_unit_and_no_register_read
    what_was_unmapped_is_reached_until_the_flush_and_never_after
    an_unmap_that_is_dropped_is_owed_until_it_is_settled
    what_another_flush_has_taken_over_is_settled_only_when_it_is_flushed
    a_flush_that_times_out_gives_nothing_back_and_can_be_repeated
    a_flush_in_flight_is_polled_and_may_be_given_up
    deferred_domains_flush_at_sync
    deferred_domains_gather_so_many_and_for_so_long
    maps_and_domains_under_every_failing_allocation_change_nothing
    a_caching_unit_that_does_not_confirm_a_map_is_reported
    a_region_mapped_next_to_an_unflushed_unmap_is_flushed_at_attach
    an_edit_whose_mappings_were_not_confirmed_says_so_when_it_is_flushed
}

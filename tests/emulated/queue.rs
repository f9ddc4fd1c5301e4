//! The invalidation queue: wrapped, stopped by errors, stuck, and with interrupts.

use vtd::{Config, ErrorKind, MapWhy, Step};
use vtd_emu::Profile;

use crate::rig::{AT, Ask, Mode, Plan, dev, hpa, map, range, unmap};

crate::stories!(
    it_wraps,
    the_register_interface_does_the_same,
    completion_interrupts_arrive_and_are_acknowledged,
    a_queue_that_stopped_at_an_error_goes_on,
    a_queue_that_is_stuck_gives_nothing_back,
);

fn it_wraps(profile: &Profile, mode: Mode) {
    for order in [0, 1] {
        let mut plan = Plan::new(profile, mode);
        plan.config = Config { queue_order: order, ..plan.config };
        let rig = plan.up();
        let page = rig.page();
        let (group, domain, _) = rig.attached(dev(3));
        let turns = if order == 0 { 300 } else { 30 };
        for i in 0..turns {
            let at = AT + (i % 5) * 0x1000;
            map(&domain, at, page, 0x1000);
            rig.reaches(dev(3), at, page);
            unmap(&domain, at, at + 0xfff);
            assert_eq!(rig.refused(dev(3), at, Ask::Read), 0x06);
        }
        drop((group, domain));
        rig.end();
    }
}

fn completion_interrupts_arrive_and_are_acknowledged(profile: &Profile, mode: Mode) {
    let mut plan = Plan::new(profile, mode);
    plan.config = Config { completion_interrupt: true, ..plan.config };
    let rig = plan.up();
    let page = rig.page();
    let (group, domain, ear) = rig.attached(dev(3));
    for i in 0..10 {
        map(&domain, AT + i * 0x1000, page, 0x1000);
        unmap(&domain, AT + i * 0x1000, AT + i * 0x1000 + 0xfff);
        rig.blocked(dev(3), AT + i * 0x1000, Ask::Read, 0x06, &ear);
    }
    drop((group, domain));
    rig.end();
}

fn a_queue_that_stopped_at_an_error_goes_on(profile: &Profile, mode: Mode) {
    if !profile.qi() {
        return;
    }
    for n in 0..5 {
        let rig = Plan::new(profile, mode).up();
        let memory = rig.memory(3);
        let (group, domain, ear) = rig.attached(dev(3));
        let (other, theirs, _) = rig.attached(dev(4));
        let place = |i: u64| AT + (i << 21);
        for i in 0..4 {
            map(&domain, place(i), memory + i * 0x1000, 0x1000);
            rig.reaches(dev(3), place(i), memory + i * 0x1000);
        }
        map(&theirs, AT, memory, 0x1000);
        rig.reaches(dev(4), AT, memory);
        rig.host.machine().unit_mut(0).unwrap().adversary().queue_error = Some(n);
        // Three are under way at once; one of them meets the error, here or at the neighbour's.
        let flights: Vec<_> =
            (0..3).map(|i| domain.unmap(range(place(i), place(i) + 0xfff)).unwrap().submit().unwrap()).collect();
        let mut failed = 0;
        for (i, flight) in flights.into_iter().enumerate() {
            let i = i as u64;
            let still = match flight.wait() {
                Ok(_) => {
                    rig.blocked(dev(3), place(i), Ask::Read, 0x06, &ear);
                    continue;
                }
                Err(e) => {
                    assert!(matches!(e.error.kind, ErrorKind::QueueError(_)), "{}", e.error);
                    e.still
                }
            };
            failed += 1;
            let again = domain.map(vtd::Iova::at(place(i)), hpa(memory), 0x1000, vtd::Access::all());
            assert_eq!(again.unwrap_err().why, MapWhy::Unflushed);
            still.flush().unwrap();
            rig.blocked(dev(3), place(i), Ask::Write, 0x05, &ear);
        }
        assert!(failed <= 1);
        let hit = rig.host.machine().unit_mut(0).unwrap().adversary().queue_error.is_none();
        assert_eq!(failed == 1, hit, "an error ends exactly one of them");
        rig.host.machine().unit_mut(0).unwrap().adversary().queue_error = None;
        unmap(&domain, place(3), place(3) + 0xfff);
        rig.blocked(dev(3), place(3), Ask::Read, 0x06, &ear);
        rig.reaches(dev(4), AT, memory);
        unmap(&theirs, AT, AT + 0xfff);
        assert_eq!(rig.refused(dev(4), AT, Ask::Read), 0x06);
        drop((group, domain, other, theirs));
        rig.end();
    }
}

fn a_queue_that_is_stuck_gives_nothing_back(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (mine, other) = (rig.page(), rig.page());
    let (group, domain, ear) = rig.attached(dev(3));
    map(&domain, AT, mine, 0x1000);
    rig.reaches(dev(3), AT, mine);
    let stuck = |on: bool| {
        let mut m = rig.host.machine();
        let adversary = m.unit_mut(0).unwrap().adversary();
        (adversary.stuck_queue, adversary.stuck_registers) = (on, on);
    };
    stuck(true);
    let before = rig.host.arena().used();
    let unmapped = domain.unmap(range(AT, AT + 0xfff)).unwrap();
    let e = unmapped.flush().unwrap_err();
    assert_eq!(e.error.kind, ErrorKind::Timeout(Step::Invalidation));
    assert_eq!(rig.host.arena().used(), before);
    let again = domain.map(vtd::Iova::at(AT), hpa(other), 0x1000, vtd::Access::all());
    assert_eq!(again.unwrap_err().why, MapWhy::Unflushed);
    drop(e);
    assert!(domain.settle().is_err());
    stuck(false);
    domain.settle().unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
    map(&domain, AT, other, 0x1000);
    rig.reaches(dev(3), AT, other);
    drop((group, domain));
    rig.end();
}

fn the_register_interface_does_the_same(profile: &Profile, mode: Mode) {
    let mut plan = Plan::new(profile, mode);
    plan.config = Config { queue: false, ..plan.config };
    let rig = plan.build();
    let report = rig.bring_up().unwrap();
    // Units of version 6 have no other way, nor has scalable mode.
    let scalable = report.units[0].tables == Some(vtd::hw::registers::TableMode::Scalable);
    assert_eq!(report.units[0].queue, scalable || profile.major() >= 6);
    let memory = rig.memory(3);
    let (group, domain, ear) = rig.attached(dev(3));
    for (at, pages) in [(AT, 1u64), (AT + 0x3000, 5), ((1 << 30) - 0x2000, 8)] {
        map(&domain, at, memory, pages * 0x1000);
        (0..pages).for_each(|i| rig.reaches(dev(3), at + i * 0x1000, memory + i * 0x1000));
        unmap(&domain, at, at + pages * 0x1000 - 1);
        (0..pages).for_each(|i| rig.blocked(dev(3), at + i * 0x1000, Ask::Read, 0x06, &ear));
    }
    map(&domain, AT, memory, 0x1000);
    rig.reaches(dev(3), AT, memory);
    group.attach(vtd::Target::Blocked).unwrap();
    rig.blocked(dev(3), AT, Ask::Write, 0x02, &ear);
    drop((group, domain));
    rig.end();
}

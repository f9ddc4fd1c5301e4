//! Bringing the driver up, and giving the machine back.

use vtd::{ErrorKind, State, TakeOver, UnitId};
use vtd_emu::Profile;

use crate::rig::{AT, Ask, Mode, Plan, dev};

crate::stories!(everything_is_blocked_from_the_start_and_free_at_the_end, firmware_keeps_its_regions);

/// Where firmware's region is.
const REGION: u64 = 20 << 20;

fn everything_is_blocked_from_the_start_and_free_at_the_end(profile: &Profile, mode: Mode) {
    let rig = Plan::two(profile, profile, mode).build();
    let page = rig.page();
    rig.reaches(dev(1), page, page);
    let report = rig.bring_up().unwrap();
    assert_eq!(report.units.len(), 2);
    for u in &report.units {
        assert_eq!((u.skipped, u.found.is_empty(), u.fault_interrupt), (None, true, true));
        assert_eq!(u.queue, profile.qi());
    }
    assert!(report.firmware.is_empty());
    assert_eq!(rig.vtd.bring_up(TakeOver::Disable).unwrap_err().kind, ErrorKind::State(State::AlreadyUp));
    for unit in 0..2 {
        let state = *rig.host.machine().unit(unit).unwrap().state();
        assert!(state.translation);
        assert_eq!(rig.vtd.register_base(UnitId(unit as u16)).unwrap().get(), crate::host::base(unit));
    }
    // No bus has a context table yet.
    for (d, ask) in [(dev(1), Ask::Read), (dev(3), Ask::Write), (dev(6), Ask::Read)] {
        rig.blocked(d, page, ask, 0x01, &rig.ear);
        rig.blocked(d, AT, ask, 0x01, &rig.ear);
    }
    let host = rig.host.clone();
    rig.end();
    let mut m = host.machine();
    for unit in 0..2 {
        assert!(!m.unit_mut(unit).unwrap().state().translation);
    }
}

fn firmware_keeps_its_regions(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).reserve(REGION, REGION + 0x2fff, dev(3)).build();
    // The region is memory that the driver is not given.
    let (first, last) = (REGION, REGION + 0x2ff8);
    rig.probes.add(0, dev(3), first);
    let report = rig.bring_up().unwrap();
    assert_eq!((report.firmware.len(), report.firmware[0].error), (1, None));
    let whole = [rig.read(dev(3), first), rig.read(dev(3), last)];
    assert!(whole.iter().all(Result::is_ok), "{whole:x?}");
    // Translation goes on with the region mapped: it is reached before and after, and at no time not.
    for (address, seen) in rig.probes.take() {
        let off = seen.iter().filter(|s| **s != crate::probes::Seen::Memory(address)).count();
        assert_eq!(off, 0, "{seen:x?}");
    }
    assert_eq!(rig.refused(dev(3), REGION + 0x3000, Ask::Read), 0x06);
    assert_eq!(rig.refused(dev(3), REGION - 8, Ask::Write), 0x05);
    assert_eq!(rig.refused(dev(2), REGION, Ask::Read), 0x02);
    // A claim blocks it; a domain of its owner has it again.
    let (group, ear) = rig.claim(dev(3));
    rig.blocked(dev(3), first, Ask::Read, 0x02, &ear);
    let domain = rig.domain(&group);
    group.attach(vtd::Target::Domain(&domain)).unwrap();
    assert!(rig.read(dev(3), first).is_ok() && rig.read(dev(3), last).is_ok());
    drop(group);
    drop(domain);
    rig.end();
}

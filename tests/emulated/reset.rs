//! Devices that are reset, and devices that are taken out.

use vtd::{Ats, DeviceId, ErrorKind, Group, Owner, Reset, State, Step, Target};
use vtd_emu::{Blocked, Profile, Size};

use crate::ats::{CACHING, given_back, kept, plan, translates, write};
use crate::host::Host;
use crate::pasids::pasid;
use crate::rig::{AT, Ask, Mode, Rig, map, unmap};

crate::stories!(
    a_reset_device_comes_back_as_it_was,
    a_device_comes_back_to_what_its_group_is_attached_to_by_then,
    a_reset_whose_flushes_fail_is_begun_again,
    a_device_that_was_taken_out_is_asked_nothing_more,
);

/// The host's part: a function-level reset, and bus mastering on again.
pub fn by_function(rig: &Rig, group: &Group<Host>, d: DeviceId) {
    group.reset(d, Reset::Before).unwrap();
    reset(rig, d);
    group.reset(d, Reset::After).unwrap();
}

fn reset(rig: &Rig, d: DeviceId) {
    let mut m = rig.host.machine();
    m.config_write(d.source.0, 0x78, Size::Word, 0x8000);
    m.config_write(d.source.0, 0x04, Size::Word, 4);
}

fn a_reset_device_comes_back_as_it_was(profile: &Profile, mode: Mode) {
    let rig = plan(profile, mode).up();
    let (d, other) = (CACHING[0], CACHING[1]);
    let (group, domain, ear) = rig.attached(d);
    let (beside, _) = rig.claim(other);
    beside.attach(Target::Domain(&domain)).unwrap();
    let page = rig.page();
    map(&domain, AT, page, 0x1000);
    let (tags, caches) = (mode.tags(profile), profile.dt());
    if tags {
        group.attach_pasid(d, pasid(3), Target::Domain(&domain)).unwrap();
    }
    if caches {
        group.set_ats(d, Ats::Trusted).unwrap();
    }
    let all = || {
        rig.reaches(d, AT, page);
        if tags {
            rig.reaches((d, 3), AT, page);
        }
        if caches {
            translates(&rig, d, AT, page);
        }
    };
    assert_eq!(group.reset(d, Reset::After).unwrap_err().kind, ErrorKind::State(State::NotInReset));
    all();
    for _ in 0..2 {
        group.reset(d, Reset::Before).unwrap();
        // Until it is over: once is enough.
        group.reset(d, Reset::Before).unwrap();
        assert_eq!((kept(&rig, d), write(&rig, d, AT, 1)), (0, Err(Blocked::Disabled)));
        rig.blocked(d, AT, Ask::Write, 0x02, &ear);
        if tags {
            rig.blocked((d, 3), AT, Ask::Write, 0x02, &ear);
            let e = group.attach_pasid(d, pasid(4), Target::Domain(&domain)).unwrap_err();
            assert_eq!(e.kind, ErrorKind::State(State::InReset));
        }
        assert_eq!(group.info(d).unwrap().apart, Some(State::InReset));
        rig.reaches(other, AT, page);
        // Its domain's flushes go on without it.
        unmap(&domain, AT, AT + 0xfff);
        map(&domain, AT, page, 0x1000);
        rig.sound();
        reset(&rig, d);
        group.reset(d, Reset::After).unwrap();
        assert_eq!(group.info(d).unwrap().apart, None);
        all();
        unmap(&domain, AT, AT + 0xfff);
        assert_eq!(kept(&rig, d), 0);
        map(&domain, AT, page, 0x1000);
        all();
    }
    rig.sound();
    drop((group, beside, domain));
    rig.end();
}

fn a_device_comes_back_to_what_its_group_is_attached_to_by_then(profile: &Profile, mode: Mode) {
    let rig = plan(profile, mode).up();
    let d = CACHING[0];
    let (group, domain, ear) = rig.attached(d);
    let (other, page) = rig.domain_of(&group, mode.stages(profile)[0], AT);
    group.reset(d, Reset::Before).unwrap();
    group.attach(Target::Domain(&other)).unwrap();
    rig.blocked(d, AT, Ask::Read, 0x02, &ear);
    drop(domain);
    reset(&rig, d);
    group.reset(d, Reset::After).unwrap();
    rig.reaches(d, AT, page);
    // A group that is given back meanwhile is somebody else's, and not blocked for them.
    group.reset(d, Reset::Before).unwrap();
    given_back(group);
    let (group, _) = rig.claim(d);
    group.attach(Target::Domain(&other)).unwrap();
    rig.reaches(d, AT, page);
    drop((group, other));
    rig.end();
}

fn a_reset_whose_flushes_fail_is_begun_again(profile: &Profile, mode: Mode) {
    if !profile.dt() || !["prompt", "slow", "probes"].contains(&mode.name) {
        return;
    }
    let rig = plan(profile, mode).up();
    let d = CACHING[0];
    let (group, domain, ear) = rig.attached(d);
    let page = rig.page();
    map(&domain, AT, page, 0x1000);
    group.set_ats(d, Ats::Trusted).unwrap();
    translates(&rig, d, AT, page);
    let late = |what: &dyn Fn() -> Result<(), vtd::Error>| {
        let stuck = |on| rig.host.machine().unit_mut(0).unwrap().adversary().stuck_queue = on;
        stuck(true);
        assert_eq!(what().unwrap_err().kind, ErrorKind::Timeout(Step::Invalidation));
        stuck(false);
        rig.host.machine().step(2000);
    };
    late(&|| group.set_ats(d, Ats::Off));
    group.set_ats(d, Ats::Off).unwrap();
    assert_eq!((kept(&rig, d), write(&rig, d, AT, 1)), (0, Err(Blocked::Disabled)));
    group.set_ats(d, Ats::Trusted).unwrap();
    translates(&rig, d, AT, page);
    late(&|| group.reset(d, Reset::Before));
    group.reset(d, Reset::Before).unwrap();
    rig.blocked(d, AT, Ask::Write, 0x02, &ear);
    reset(&rig, d);
    late(&|| group.reset(d, Reset::After));
    rig.blocked(d, AT, Ask::Write, 0x02, &ear);
    assert_eq!(group.reset(d, Reset::After).unwrap_err().kind, ErrorKind::State(State::NotInReset));
    group.reset(d, Reset::Before).unwrap();
    rig.blocked(d, AT, Ask::Write, 0x02, &ear);
    reset(&rig, d);
    group.reset(d, Reset::After).unwrap();
    rig.reaches(d, AT, page);
    translates(&rig, d, AT, page);
    unmap(&domain, AT, AT + 0xfff);
    assert_eq!(kept(&rig, d), 0);
    rig.sound();
    drop((group, domain));
    rig.end();
}

fn a_device_that_was_taken_out_is_asked_nothing_more(profile: &Profile, mode: Mode) {
    let rig = plan(profile, mode).up();
    let (d, other) = (CACHING[0], CACHING[1]);
    let (group, domain, ear) = rig.attached(d);
    let (beside, _) = rig.claim(other);
    beside.attach(Target::Domain(&domain)).unwrap();
    let page = rig.page();
    map(&domain, AT, page, 0x1000);
    if profile.dt() {
        group.set_ats(d, Ats::Trusted).unwrap();
        translates(&rig, d, AT, page);
    }
    let f = rig.function(d);
    rig.host.machine().remove(f);
    rig.vtd.removed(d).unwrap();
    rig.settle();
    assert_eq!(ear.isolated(), [d]);
    assert_eq!(group.info(d).unwrap().apart, Some(State::Removed));
    let began = rig.host.machine().now();
    unmap(&domain, AT, AT + 0xfff);
    assert!(rig.host.machine().now() - began < 10_000_000, "nobody waits for it");
    map(&domain, AT, page, 0x1000);
    rig.reaches(other, AT, page);
    assert_eq!(group.reset(d, Reset::Before).unwrap_err().kind, ErrorKind::State(State::Removed));
    let id = group.id();
    given_back(group);
    assert_eq!(rig.vtd.claim(id, Owner::HOST).unwrap_err().kind, ErrorKind::State(State::Removed));
    rig.sound();
    drop((beside, domain));
    rig.end();
}

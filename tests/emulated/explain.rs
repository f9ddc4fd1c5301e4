//! Why a request gets where it gets: what the driver says of its live tables is what the unit does by them.

use vtd::explain::{Attachment, Attempt, Explanation, Verdict, What};
use vtd::hw::faults::Reason;
use vtd::{Access, DeviceId, Iova, Owner, Pasid, Range, Stage, Target, UnitId};
use vtd_emu::{Answer, Profile, Request};

use crate::rig::{AT, Ask, BEHIND, Mode, Plan, Rig, SUBSTITUTE, dev, hpa, map};

crate::stories!(
    the_driver_says_what_the_unit_does,
    a_fault_is_explained_and_what_has_changed_since_is_told,
    an_address_that_lost_its_upper_bits_in_the_record,
    each_pasid_has_tables_of_its_own,
    two_units_are_told_apart,
);

const ATTEMPTS: [(Attempt, vtd_emu::Access); 4] = [
    (Attempt::Read, vtd_emu::Access::Read),
    (Attempt::Write, vtd_emu::Access::Write),
    (Attempt::Atomic, vtd_emu::Access::Atomic),
    (Attempt::Flush, vtd_emu::Access::Flush),
];

/// What the driver says of every attempt of a device at an address is what its unit answers, without caches.
#[track_caller]
fn agree(rig: &Rig, unit: usize, d: DeviceId, pasid: Option<Pasid>, at: u64) -> Explanation {
    let ask = |attempt| rig.vtd.explain(d, pasid, Iova::at(at), attempt).expect("an explanation");
    for (attempt, access) in ATTEMPTS {
        let mine = ask(attempt);
        let request = Request { pasid: pasid.map(Pasid::get), ..Request::new(d.source.0, access, at) };
        let theirs = rig.host.machine().with_unit(unit, |u, bus| u.look(bus, &request)).expect("a unit");
        let same = match (mine.walk.verdict, theirs) {
            (Verdict::Reaches { to, size, .. }, Answer::Passed(p)) => (to.get(), size) == (p.address, p.page),
            (Verdict::Blocked { reason, recorded }, Answer::Blocked(f)) => {
                (reason.0, recorded) == (f.reason.0, f.recordable)
            }
            (Verdict::Interrupt, Answer::Interrupt) | (Verdict::Completes, Answer::Nothing) => true,
            _ => false,
        };
        assert!(same && !mine.held && mine.translates, "{attempt} of {d} at {at:#x}: {theirs:?}, but\n{mine}");
    }
    ask(Attempt::Read)
}

fn the_driver_says_what_the_unit_does(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let everywhere = [0, AT, AT + 0x1ff8, AT + 0x2000, AT + 0x3000, page, 0xfee0_1000, 1 << 38, 1 << 47, 1 << 60];
    let all = |d: DeviceId, what: Option<Attachment>| {
        for at in everywhere {
            for pasid in [None, Pasid::new(5), Pasid::new(0xf_fff0)] {
                let e = agree(&rig, 0, d, pasid, at);
                let what = if pasid.is_some() { Some(Attachment::Blocked) } else { what };
                assert_eq!((e.unit, e.attached), (UnitId(0), what), "{e}");
                assert_eq!(e.group, rig.vtd.group_of(d).ok());
            }
        }
    };
    // Nobody's, then claimed and attached to one thing after the other.
    all(dev(3), Some(Attachment::Blocked));
    let (group, domain, ear) = rig.attached(dev(3));
    let (other, theirs, _) = rig.attached(BEHIND[0]);
    map(&domain, AT, page, 0x1000);
    for (n, how) in [(1, Access::READ), (2, Access::WRITE), (3, Access::READ | Access::WRITE)] {
        // First-stage tables cannot keep readers away.
        let writer = how == Access::WRITE && domain.spec().stage == Stage::First;
        let how = if writer { Access::READ | Access::WRITE } else { how };
        domain.map(Iova::at(AT + n * 0x1000), hpa(page), 0x1000, how).expect("free");
    }
    map(&theirs, AT + 0x2000, page, 0x1000);
    all(dev(3), Some(Attachment::Domain));
    let bridge = DeviceId { segment: 0, source: vtd::SourceId(SUBSTITUTE) };
    for d in [BEHIND[0], BEHIND[1], bridge] {
        all(d, Some(Attachment::Domain));
    }
    let e = agree(&rig, 0, dev(3), None, AT + 0x1008);
    let to = hpa(page + 8);
    assert!(matches!(e.walk.verdict, Verdict::Reaches { to: t, rights: Access::READ, .. } if t == to), "{e}");
    assert!(e.owner.is_some_and(|o| o != Owner(77)));
    assert!(e.to_string().contains(&format!("reaches {to:#x} in a page of 4 KiB and may read")), "{e}");
    // Unmapped: as memory says it, flushed or not; a unit may not see the store before.
    let first = Range::sized(Iova::at(AT), 0x1000).expect("a page");
    let owed = domain.unmap(first).expect("mapped");
    let e = rig.vtd.explain(dev(3), None, Iova::at(AT), Attempt::Read).expect("an explanation");
    assert!(matches!(e.walk.verdict, Verdict::Blocked { .. }), "{e}");
    owed.flush().expect("in time");
    all(dev(3), Some(Attachment::Domain));
    rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
    group.attach(Target::Identity).expect("attached");
    all(dev(3), Some(Attachment::Identity));
    group.attach(Target::Blocked).expect("attached");
    all(dev(3), Some(Attachment::Blocked));
    drop((group, domain, other, theirs));
    rig.end();
}

fn a_fault_is_explained_and_what_has_changed_since_is_told(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, domain, ear) = rig.attached(dev(3));
    rig.settle();
    ear.heard();
    assert!(rig.write(dev(3), AT, 1).is_err());
    rig.settle();
    let heard = ear.heard();
    let [fault, ..] = heard.as_slice() else { panic!("no fault") };
    let e = rig.vtd.explain_fault(fault).expect("an explanation");
    assert!(matches!(e.walk.verdict, Verdict::Blocked { reason, recorded: true } if reason == fault.reason), "{e}");
    assert_eq!((e.fault, e.walk.request.attempt), (Some(fault.reason), Attempt::Write));
    let by = e.walk.blocked_by().expect("an entry");
    assert!(by.words().iter().all(|w| *w == 0), "{e}");
    assert!(!e.to_string().contains("have changed"), "{e}");
    map(&domain, AT, page, 0x1000);
    let e = rig.vtd.explain_fault(fault).expect("an explanation");
    assert!(matches!(e.walk.verdict, Verdict::Reaches { .. }) && e.to_string().contains("have changed"), "{e}");
    // A requester that is nobody's has no group, and tables all the same.
    let nobody = vtd::Fault { source: vtd::SourceId(0x4242), device: None, ..*fault };
    let e = rig.vtd.explain_fault(&nobody).expect("an explanation");
    assert_eq!((e.group, e.attached, e.walk.steps().len()), (None, None, 1), "{e}");
    assert!(rig.vtd.explain_fault(&vtd::Fault { reason: Reason(0x22), ..*fault }).is_err());
    assert!(rig.vtd.explain(DeviceId::new(0, 0x42, 8, 2), None, Iova::at(AT), Attempt::Read).is_err());
    drop((group, domain));
    rig.end();
}

/// Records drop what of an address is above the unit's width: the sign of first-stage addresses comes back.
fn an_address_that_lost_its_upper_bits_in_the_record(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (group, ear) = rig.claim(dev(3));
    let mut spec = group.best_spec();
    let scalable = agree(&rig, 0, dev(3), None, AT).walk.steps().first().map(|s| s.what) == Some(What::ScalableRoot);
    let first = scalable && profile.fsts();
    if first {
        (spec.stage, spec.levels, spec.width) = (Stage::First, 4, 39);
    }
    let domain = rig.vtd.domain::<vtd::Strict>(&spec).expect("memory");
    group.attach(Target::Domain(&domain)).expect("attached");
    for at in [u64::MAX << 47 | AT, 1 << 60 | AT] {
        rig.settle();
        ear.heard();
        agree(&rig, 0, dev(3), None, at);
        assert!(rig.write(dev(3), at, 1).is_err());
        rig.settle();
        let heard = ear.heard();
        let [fault, ..] = heard.as_slice() else { panic!("no fault at {at:#x}") };
        let e = rig.vtd.explain_fault(fault).expect("an explanation");
        if first && at >> 63 != 0 {
            assert_eq!((fault.reason, e.walk.request.address), (Reason(0x71), at));
        }
        let same = matches!(e.walk.verdict, Verdict::Blocked { reason, .. } if reason == fault.reason);
        let lost = matches!(fault.reason.0, 0x04 | 0x80 | 0x84) && e.to_string().contains("no room");
        assert!(same != lost && !e.to_string().contains("have changed"), "{e}");
    }
    drop((group, domain));
    rig.end();
}

fn each_pasid_has_tables_of_its_own(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (group, domain, _) = rig.attached(dev(5));
    let pages = [rig.page(), rig.page(), rig.page()];
    map(&domain, AT, pages[0], 0x1000);
    let spec = domain.spec();
    let [low, high] = [5, 0x1234].map(|n| Pasid::new(n).expect("20 bits"));
    let others = [(low, pages[1]), (high, pages[2])].map(|(pasid, page)| {
        let own = rig.vtd.domain::<vtd::Strict>(&spec).expect("memory");
        map(&own, AT, page, 0x1000);
        (pasid, page, group.attach_pasid(dev(5), pasid, Target::Domain(&own)), own)
    });
    for (pasid, page, attached, _) in &others {
        let e = agree(&rig, 0, dev(5), Some(*pasid), AT + 8);
        let reaches = matches!(e.walk.verdict, Verdict::Reaches { to, .. } if to == hpa(page + 8));
        let what = if attached.is_ok() { Attachment::Domain } else { Attachment::Blocked };
        assert_eq!((reaches, e.attached), (attached.is_ok(), Some(what)), "{e}");
        agree(&rig, 0, dev(5), Some(*pasid), AT + 0x1000);
    }
    // The other half of a first stage's addresses, where nothing is, and PASIDs of which nothing is.
    for at in [AT, u64::MAX << 47 | AT, u64::MAX << 56 | AT] {
        for pasid in [None, Pasid::new(6), Pasid::new(0x40)] {
            agree(&rig, 0, dev(5), pasid, at);
        }
    }
    let scalable = agree(&rig, 0, dev(5), None, AT).walk.steps()[0].what == What::ScalableRoot;
    let all = others.iter().all(|(_, _, attached, _)| attached.is_ok());
    assert_eq!(all, scalable && profile.pasid(), "{others:?}");
    for (pasid, ..) in &others {
        let _ = group.attach_pasid(dev(5), *pasid, Target::Blocked);
    }
    drop((group, domain, others));
    rig.end();
}

fn two_units_are_told_apart(profile: &Profile, mode: Mode) {
    let rig = Plan::two(profile, profile, mode).up();
    let page = rig.page();
    let (first, domain, _) = rig.attached(dev(1));
    map(&domain, AT, page, 0x1000);
    let (second, theirs, _) = rig.attached(dev(3));
    map(&theirs, AT + 0x1000, page, 0x1000);
    for at in [AT, AT + 0x1000] {
        assert_eq!(agree(&rig, 0, dev(1), None, at).unit, UnitId(0));
        assert_eq!(agree(&rig, 1, dev(3), None, at).unit, UnitId(1));
    }
    drop((first, domain, second, theirs));
    rig.end();
}

//! What goes wrong: commands that are never carried out, units that vanish, frames that end. Every call comes back, nothing
//! is given away, and nothing is blocked that was not or open that should be blocked.

use vtd::{Domain, Error, ErrorKind, Owner, Step, Target};
use vtd_emu::{Profile, Rule, Size};

use crate::host::{Ends, Host};
use crate::rig::{AT, Ask, Mode, Plan, Rig, dev, hpa, map, range, unmap};

crate::stories!(
    a_command_that_is_never_carried_out_ends_in_time,
    a_unit_may_vanish_at_every_access,
    frames_may_end_at_every_allocation,
    an_attachment_whose_flush_fails_leaves_the_group_blocked,
    a_device_that_was_taken_out_is_given_back_all_the_same,
    completions_that_nobody_asked_for_change_nothing,
);

fn a_command_that_is_never_carried_out_ends_in_time(profile: &Profile, mode: Mode) {
    let cases = [
        (1u32 << 30, Step::RootPointer, true),
        (1 << 31, Step::Translation, true),
        (1 << 26, Step::Queue, profile.qi()),
        (1 << 27, Step::WriteBuffer, profile.rwbf()),
    ];
    for (bit, step, _) in cases.into_iter().filter(|(.., there)| *there) {
        let plan = Plan::new(profile, mode);
        let rig = plan.build();
        let page = rig.page();
        rig.host.machine().unit_mut(0).unwrap().adversary().stuck_commands = bit;
        let began = rig.host.machine().now();
        let e = rig.bring_up().unwrap_err();
        assert_eq!(e.kind, ErrorKind::Timeout(step));
        assert!(rig.host.machine().now() - began < 100_000_000);
        assert!(rig.vtd.groups().is_err() || rig.vtd.claim(rig.vtd.group_of(dev(3)).unwrap(), Owner::HOST).is_err());
        // Before translation is on every device reaches everything, and so it does after.
        rig.host.machine().unit_mut(0).unwrap().adversary().stuck_commands = 0;
        rig.host.machine().step(100);
        if bit != 1 << 31 {
            rig.reaches(dev(3), page, page);
        }
        // A command after one that was given up is against the rules, and all that there is left to do.
        let late = began + plan.config.command_deadline.0;
        rig.probes.stop(&rig.host);
        rig.host.handler(None);
        let host = rig.vtd.hand_back().map_err(|(_, e)| e).unwrap();
        let m = host.machine();
        for (_, b) in m.breaches() {
            assert!(b.rule == Rule::CommandOrder && b.at >= late, "{b:?}");
        }
    }
}

/// A whole life, which may end anywhere.
fn life(rig: &Rig, page: u64) -> Result<(), Error> {
    rig.vtd.bring_up(vtd::TakeOver::Disable)?;
    let group = rig.vtd.claim(rig.vtd.group_of(dev(3))?, Owner::HOST)?;
    let domain: Domain<Host> = rig.vtd.domain(&rig.spec(&group))?;
    let other: Domain<Host> = rig.vtd.domain(&rig.spec(&group))?;
    let failed = |_| Error::from(ErrorKind::Busy);
    domain.map(vtd::Iova::at(AT), hpa(page), 0x2000, vtd::Access::all()).map_err(failed)?;
    group.attach(Target::Domain(&domain))?;
    domain.map(vtd::Iova::at(AT << 12), hpa(page), 0x1000, vtd::Access::all()).map_err(failed)?;
    let _ = rig.read(dev(3), AT);
    domain.unmap(range(AT, AT + 0xfff)).map_err(failed)?.flush().map_err(|e| e.error)?;
    domain.protect(range(AT + 0x1000, AT + 0x1fff), vtd::Access::READ).map_err(failed)?.flush().map_err(|e| e.error)?;
    group.attach(Target::Domain(&other))?;
    rig.vtd.service(10);
    let _ = rig.read(dev(3), AT);
    group.attach(Target::Identity)?;
    group.release().map_err(|(_, e)| e)
}

fn few(mode: Mode) -> bool {
    ["prompt", "slow", "probes"].contains(&mode.name)
}

fn a_unit_may_vanish_at_every_access(profile: &Profile, mode: Mode) {
    if !few(mode) {
        return;
    }
    // As many accesses as there are when nothing goes wrong, and some.
    let rig = Plan::new(profile, mode).build();
    let page = rig.page();
    let begun = rig.host.accesses();
    life(&rig, page).unwrap();
    let all = rig.host.accesses() - begun;
    rig.end();
    let step = (all / 120).max(1);
    for n in (0..all).step_by(step as usize) {
        let rig = Plan::new(profile, mode).build();
        let page = rig.page();
        // Cut off, so that it goes on with what it was told; or gone itself.
        if (n / step).is_multiple_of(2) {
            rig.host.trouble().accesses = Some(n);
        } else {
            rig.host.machine().unit_mut(0).unwrap().adversary().gone_after = Some(n);
        }
        let outcome = life(&rig, page);
        if let Err(e) = outcome {
            let expected = matches!(e.kind, ErrorKind::UnitGone | ErrorKind::Timeout(_) | ErrorKind::Unsupported(_));
            assert!(expected || e.kind == ErrorKind::Busy, "after {n} accesses: {e}");
        }
        // What the unit may still use stays owned; the call comes back.
        rig.host.handler(None);
        let host = rig.host.clone();
        let frames = host.arena().used();
        match rig.vtd.hand_back() {
            Ok(_) => assert!(host.arena().used() <= frames),
            Err((_, e)) => {
                assert!(matches!(e.kind, ErrorKind::Busy | ErrorKind::UnitGone | ErrorKind::Timeout(_)), "{e}")
            }
        }
        let m = host.machine();
        assert!(m.breaches().is_empty(), "after {n} accesses: {:?}", m.breaches()[0].1);
    }
}

fn frames_may_end_at_every_allocation(profile: &Profile, mode: Mode) {
    if !few(mode) {
        return;
    }
    for n in 0.. {
        let rig = Plan::new(profile, mode).build();
        let page = rig.page();
        rig.host.trouble().frames = Some(Ends::after(n));
        let outcome = life(&rig, page);
        rig.host.trouble().frames = None;
        let left = rig.end_keeping();
        assert_eq!(left, 0, "after {n} allocations");
        if outcome.is_ok() || n > 200 {
            outcome.unwrap();
            assert!(n > 5);
            break;
        }
    }
}

fn an_attachment_whose_flush_fails_leaves_the_group_blocked(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (one, two) = (rig.page(), rig.page());
    let (group, ear) = rig.claim(dev(3));
    let (first, second) = (rig.domain(&group), rig.domain(&group));
    map(&first, AT, one, 0x1000);
    map(&second, AT, two, 0x1000);
    group.attach(Target::Domain(&first)).unwrap();
    rig.reaches(dev(3), AT, one);
    let stuck = |on: bool| {
        let mut m = rig.host.machine();
        let adversary = m.unit_mut(0).unwrap().adversary();
        (adversary.stuck_queue, adversary.stuck_registers) = (on, on);
    };
    stuck(true);
    let e = group.attach(Target::Domain(&second)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout(Step::Invalidation));
    // The entry is absent; what caches hold is not known, and only what the first domain maps can be in them.
    if let Ok(v) = rig.read(dev(3), AT) {
        assert!([rig.look(one), rig.look(two)].contains(&v));
    }
    stuck(false);
    rig.host.machine().step(2000);
    group.attach(Target::Blocked).unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x02, &ear);
    group.attach(Target::Domain(&second)).unwrap();
    rig.reaches(dev(3), AT, two);
    // The first domain's id and tables were in doubt until then, and are so no more.
    drop((group, first, second));
    rig.end();
}

fn a_device_that_was_taken_out_is_given_back_all_the_same(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, domain, _ear) = rig.attached(dev(3));
    map(&domain, AT, page, 0x1000);
    rig.reaches(dev(3), AT, page);
    let gone = rig.function(dev(3));
    rig.host.machine().remove(gone);
    assert!(rig.read(dev(3), AT).is_err());
    unmap(&domain, AT, AT + 0xfff);
    group.release().unwrap();
    drop(domain);
    rig.end();
}

/// FSTS.ICE.
const ICE: u64 = 1 << 5;

fn completions_that_nobody_asked_for_change_nothing(profile: &Profile, mode: Mode) {
    if !profile.dt() {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, domain, ear) = rig.attached(dev(3));
    for turn in 0..4 {
        map(&domain, AT, page, 0x1000);
        rig.reaches(dev(3), AT, page);
        let source = dev(3).source.0;
        rig.host.machine().with_unit(0, |unit, bus| unit.device_completion(bus, source, 1 << turn)).unwrap();
        assert_ne!(rig.host.machine().read(0, 0x34, Size::Double) & ICE, 0);
        rig.settle();
        unmap(&domain, AT, AT + 0xfff);
        rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
        assert_eq!(rig.host.machine().read(0, 0x34, Size::Double) & ICE, 0);
    }
    group.release().unwrap();
    drop(domain);
    rig.end();
}

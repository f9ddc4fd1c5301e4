//! Suspended and resumed, whether registers are kept or lost.

use vtd::{Error, ErrorKind, Owner, State, Target};
use vtd_emu::{Profile, Size};

use crate::rig::{AT, Ask, Mode, Plan, Rig, dev, map, unmap};

crate::stories!(
    a_machine_sleeps_and_goes_on,
    what_firmware_did_meanwhile_is_undone,
    a_unit_may_vanish_at_every_access_of_a_suspend_and_a_resume,
);

/// The unit loses its power and has it again.
fn lose_power(rig: &Rig, n: usize) {
    rig.host.machine().with_unit(n, |unit, bus| unit.reset(bus)).unwrap();
}

fn a_machine_sleeps_and_goes_on(profile: &Profile, mode: Mode) {
    for lost in [false, true] {
        let rig = Plan::two(profile, profile, mode).up();
        let (one, two) = (rig.page(), rig.page());
        let held = [dev(1), dev(3)].map(|d| rig.attached(d));
        for (d, (_, domain, _)) in [dev(1), dev(3)].into_iter().zip(&held) {
            map(domain, AT, one, 0x1000);
            rig.reaches(d, AT, one);
        }
        for night in 0..2u64 {
            rig.vtd.suspend().unwrap();
            // Tables come and go, and nobody flushes.
            for (_, domain, _) in &held {
                unmap(domain, AT, AT + 0xfff);
                map(domain, AT, [two, one][night as usize], 0x1000);
                map(domain, AT << (9 + night), two, 0x1000);
            }
            let e = held[0].0.attach(Target::Domain(&held[0].1)).map(drop).unwrap_err();
            assert_eq!(e.kind, ErrorKind::State(State::Suspended));
            if lost {
                (0..2).for_each(|n| lose_power(&rig, n));
            }
            rig.vtd.resume().unwrap();
            // An attachment that was refused has changed nothing.
            for (group, domain, ear) in &held {
                let d = group.devices().next().unwrap();
                rig.reaches(d, AT, [two, one][night as usize]);
                rig.reaches(d, AT << (9 + night), two);
                unmap(domain, AT << (9 + night), (AT << (9 + night)) + 0xfff);
                rig.blocked(d, AT << (9 + night), Ask::Write, 0x05, ear);
            }
        }
        drop(held);
        rig.end();
    }
}

fn what_firmware_did_meanwhile_is_undone(profile: &Profile, mode: Mode) {
    if !profile.plmr() {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let page = rig.memory(10);
    let (group, domain, _ear) = rig.attached(dev(3));
    map(&domain, AT, page, 0x1000);
    rig.vtd.suspend().unwrap();
    lose_power(&rig, 0);
    {
        let mut m = rig.host.machine();
        for (at, v) in [(0x68, 0), (0x6c, (64 << 20) - 1), (0x64, 1 << 31)] {
            m.write(0, at, Size::Double, v);
        }
        while m.read(0, 0x64, Size::Double) & 1 == 0 {
            m.relax(1000);
        }
    }
    rig.vtd.resume().unwrap();
    rig.reaches(dev(3), AT, page);
    drop((group, domain));
    rig.end();
}

/// A suspend and a resume, and an attachment after each.
fn night(rig: &Rig) -> Result<(), Error> {
    let group = rig.vtd.claim(rig.vtd.group_of(dev(3))?, Owner::HOST)?;
    let domain = rig.domain(&group);
    group.attach(Target::Domain(&domain))?;
    rig.vtd.suspend()?;
    rig.vtd.resume()?;
    group.attach(Target::Blocked)?;
    group.release().map_err(|(_, e)| e)
}

fn a_unit_may_vanish_at_every_access_of_a_suspend_and_a_resume(profile: &Profile, mode: Mode) {
    if !["prompt", "slow"].contains(&mode.name) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let begun = rig.host.accesses();
    night(&rig).unwrap();
    let all = rig.host.accesses() - begun;
    rig.end();
    let step = (all / 60).max(1);
    for n in (0..all).step_by(step as usize) {
        let rig = Plan::new(profile, mode).up();
        if (n / step).is_multiple_of(2) {
            rig.host.trouble().accesses = Some(n);
        } else {
            rig.host.machine().unit_mut(0).unwrap().adversary().gone_after = Some(n);
        }
        if let Err(e) = night(&rig) {
            let gone = matches!(e.kind, ErrorKind::UnitGone | ErrorKind::UnitChanged | ErrorKind::Timeout(_));
            assert!(gone || matches!(e.kind, ErrorKind::Busy | ErrorKind::Unverified(_)), "after {n} accesses: {e}");
        }
        rig.host.handler(None);
        let host = rig.host.clone();
        if let Err((_, e)) = rig.vtd.hand_back() {
            assert!(matches!(e.kind, ErrorKind::Busy | ErrorKind::UnitGone | ErrorKind::Timeout(_)), "{e}");
        }
        let m = host.machine();
        assert!(m.breaches().is_empty(), "after {n} accesses: {:?}", m.breaches()[0].1);
    }
}

//! Faults: to whom they go, how many of them, and that none is the last that is heard of.

use std::sync::Arc;

use vtd::Service;
use vtd_emu::{Blocked, Dma, Profile};

use crate::rig::{AT, Ask, BEHIND, Ear, Mode, Plan, dev, in_legacy_mode};

crate::stories!(
    each_owner_hears_of_its_own,
    a_flood_is_counted_and_nobody_is_silenced,
    without_messages_service_finds_them,
);

fn each_owner_hears_of_its_own(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (group, domain, ear) = rig.attached(dev(3));
    let (other, theirs, second) = rig.attached(BEHIND[0]);
    for turn in 0..4 {
        let at = AT + turn * 0x3000;
        rig.blocked(dev(3), at, Ask::Read, 0x06, &ear);
        rig.blocked(BEHIND[0], at, Ask::Write, 0x05, &second);
        rig.blocked(BEHIND[1], at, Ask::Read, 0x06, &second);
        rig.blocked(dev(5), at, Ask::Write, 0x02, &rig.ear);
        assert!(ear.heard().iter().chain(&second.heard()).chain(&rig.ear.heard()).all(|f| f.unit.0 == 0));
    }
    // An id that is nobody's.
    rig.settle();
    rig.ear.heard();
    let forged = Dma { forged: Some(0x4242), ..Dma::at(AT) };
    let f = rig.function(dev(5));
    let answer = rig.host.machine().dma_read(f, &forged, &mut [0; 8]);
    assert!(matches!(answer, Err(Blocked::Fault(f)) if in_legacy_mode(f.reason.0, Ask::Read) == 0x01), "{answer:?}");
    rig.settle();
    let heard = rig.ear.heard();
    assert!(heard.iter().any(|f| f.source.0 == 0x4242 && f.device.is_none()), "{heard:?}");
    drop((group, domain, other, theirs));
    rig.end();
}

fn a_flood_is_counted_and_nobody_is_silenced(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (group, domain, ear) = rig.attached(dev(3));
    let (other, theirs, quiet) = rig.attached(dev(4));
    let asked = 200u64;
    rig.settle();
    ear.heard();
    rig.ear.heard();
    for i in 0..asked {
        // Several before anybody looks, from two devices, for some units take equal ones together: the registers overflow.
        let f = rig.function(dev(if i % 2 == 0 { 3 } else { 5 }));
        let answer = rig.host.machine().dma_read(f, &Dma::at(AT + i * 0x1000), &mut [0; 8]);
        assert!(answer.is_err());
        if i % 40 == 39 {
            rig.host.interrupts();
        }
        if i % 80 == 79 {
            rig.vtd.service(16);
        }
    }
    rig.settle();
    let heard = (ear.heard().len() + rig.ear.heard().len()) as u64;
    let missed = ear.missed() + rig.ear.missed();
    assert!(heard >= 1 && missed >= 1 && heard + missed <= asked + 8, "{heard} heard, {missed} missed");
    rig.blocked(dev(4), AT, Ask::Read, 0x06, &quiet);
    rig.blocked(dev(3), AT, Ask::Write, 0x05, &ear);
    drop((group, domain, other, theirs));
    rig.end();
}

fn without_messages_service_finds_them(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).build();
    rig.host.trouble().no_messages = true;
    let report = rig.bring_up().unwrap();
    assert!(!report.units[0].fault_interrupt);
    let ear = Arc::new(Ear::default());
    rig.vtd.on_other_events(ear.clone());
    for i in 0..3 {
        rig.blocked(dev(3), AT + i * 0x1000, Ask::Read, 0x01, &ear);
    }
    assert_eq!(rig.vtd.service(10), Service::Idle);
    rig.end();
}

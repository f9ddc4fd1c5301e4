//! Units that block everything before there are tables.

use super::machine::{Dmar, Driver, Machine, WIDE, config, dev, map};
use crate::host::testing::Host;
use crate::hw::registers::at;
use crate::unit::standin::{
    CAP, CAP_ESRTPS, CAP_PHMR, CAP_PLMR, ECAP_ADMS, ECAP_QI, QIE, SRTP, Standin, TE, in_both_modes,
};
use crate::{Config, Domain, ErrorKind, LeftShield, Shielding, State, Step, TakeOver, Target, UnitId, Vtd};
use std::vec::Vec;

fn driver(units: &[(u64, u64)], dmar: impl Fn(Dmar) -> Dmar) -> (Host, Vec<Standin>, Driver) {
    let (host, standins, table) = Machine::prepare(Host::new(), units);
    let vtd = Vtd::new(host.clone(), dmar(table).topology(), config()).unwrap();
    (host, standins, vtd)
}

fn outcomes(vtd: &Driver, over_firmware: bool) -> Vec<Shielding> {
    vtd.shield(over_firmware).unwrap().into_iter().map(|r| r.outcome).collect()
}

fn no_request_passes_from_the_shield_on_until_tables_say_so(ecap: u64) {
    for (cap, left) in [
        (CAP | CAP_ESRTPS, LeftShield::Seamless),
        (CAP | CAP_PLMR | CAP_PHMR, LeftShield::BehindProtectedMemory),
        (CAP | CAP_PLMR, LeftShield::WithGap),
    ] {
        let (host, units, vtd) = driver(&[(cap, ecap | ECAP_ADMS), (CAP, ecap)], |d| d);
        assert_eq!(outcomes(&vtd, false), [Shielding::On, Shielding::Unsupported]);
        assert_eq!((units[0].access(8, 0x5000), units[1].access(0x48, 0x5000)), (None, Some(0x5000)));
        assert_eq!(units[0].regs.get32(at::RTADDR) >> 10 & 3, 3);
        assert_eq!(vtd.shield(false).unwrap_err().kind, ErrorKind::State(State::AlreadyUp));
        units[0].state().open = Some(0);
        let report = vtd.bring_up(TakeOver::Refuse).unwrap();
        assert_eq!((report.units[0].left_shield, report.units[1].left_shield), (Some(left), None));
        assert!(!report.units[0].protected_memory, "nobody else had it on");
        assert_eq!(units[0].state().open == Some(0), left != LeftShield::WithGap);
        assert_eq!(units[0].regs.get32(at::PMEN) & 1, 0);
        assert_eq!((units[0].access(8, 0x5000), units[1].access(0x48, 0x5000)), (None, None));
        let m = Machine { host, units, vtd, report: Ok(report) };
        let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
        map(&d, 0x5000, 0x9000, 0x1000);
        let group = m.claim(dev(1));
        group.attach(Target::Domain(&d)).unwrap();
        assert_eq!(m.units[0].access(8, 0x5000), Some(0x9000));
        drop((group, d));
        m.end();
    }
}

fn protected_memory_that_was_on_before_is_told_and_does_not_stay(ecap: u64) {
    let (host, units, vtd) = driver(&[(CAP | CAP_PLMR | CAP_PHMR, ecap | ECAP_ADMS)], |d| d);
    units[0].regs.set32(at::PMEN, 1 << 31 | 1);
    vtd.shield(false).unwrap();
    let report = vtd.bring_up(TakeOver::Refuse).unwrap();
    assert!(report.units[0].protected_memory && units[0].regs.get32(at::PMEN) & 1 == 0);
    Machine { host, units, vtd, report: Ok(report) }.end();
}

fn devices_with_regions_of_firmware_are_cut_off_only_when_that_is_wanted(ecap: u64) {
    let cap = CAP | CAP_ESRTPS;
    let region = |d: Dmar| d.reserved(0x7a00_0000, 0x7a00_ffff, dev(3));
    for over in [false, true] {
        let (host, units, vtd) = driver(&[(cap, ecap | ECAP_ADMS); 2], region);
        let first = if over { Shielding::On } else { Shielding::Firmware(dev(3)) };
        assert_eq!(outcomes(&vtd, over), [first, Shielding::On]);
        assert_eq!(units[0].access(3 << 3, 0x7a00_0000).is_none(), over);
        let report = vtd.bring_up(TakeOver::Refuse).unwrap();
        assert_eq!(report.units[0].left_shield, over.then_some(LeftShield::Seamless));
        assert_eq!(units[0].access(3 << 3, 0x7a00_0000), Some(0x7a00_0000));
        Machine { host, units, vtd, report: Ok(report) }.end();
    }
}

fn what_is_on_or_lacks_its_queue_is_left_alone(ecap: u64) {
    let (host, units, vtd) = driver(&[(CAP, ecap | ECAP_ADMS), (CAP, ecap & !ECAP_QI | ECAP_ADMS)], |d| d);
    units[0].regs.set32(at::GSTS, TE | SRTP | QIE);
    assert_eq!(outcomes(&vtd, false), [Shielding::FoundOn, Shielding::Unsupported]);
    assert!(units.iter().all(|u| u.state().writes.is_empty()));
    let e = vtd.bring_up(TakeOver::Refuse).unwrap_err();
    assert_eq!(e, ErrorKind::State(State::FoundOn).on(UnitId(0)));
    assert_eq!(vtd.hand_back().map_err(|(_, e)| e).unwrap().counts().frames, 0);
    assert_eq!(host.counts().frames, 0);
}

fn a_shield_that_was_never_used_is_taken_down(ecap: u64) {
    let (_, units, vtd) = driver(&[(CAP, ecap | ECAP_ADMS); 2], |d| d);
    assert_eq!(outcomes(&vtd, false), [Shielding::On; 2]);
    units[1].state().stuck = TE;
    let Err((vtd, e)) = vtd.hand_back() else { panic!("the second unit stays on") };
    assert_eq!(e, ErrorKind::Timeout(Step::Translation).on(UnitId(1)));
    units[1].state().stuck = 0;
    assert_eq!(vtd.hand_back().map_err(|(_, e)| e).unwrap().counts().frames, 0);
    assert!(units.iter().all(|u| u.regs.get32(at::GSTS) & (TE | QIE) == 0));
}

fn a_shield_that_fails_leaves_nothing_on(ecap: u64) {
    for (bit, step) in [(QIE, Step::Queue), (SRTP, Step::RootPointer), (TE, Step::Translation)] {
        let (host, units, vtd) = driver(&[(CAP, ecap | ECAP_ADMS); 2], |d| d);
        units[1].state().stuck = bit;
        assert_eq!(vtd.shield(false).unwrap_err(), ErrorKind::Timeout(step).on(UnitId(1)));
        assert!(units.iter().all(|u| u.regs.get32(at::GSTS) & TE == 0));
        assert_eq!(host.counts().frames, 3, "of the unit that may still obey");
        units[1].state().stuck = 0;
        vtd.bring_up(TakeOver::Disable).unwrap();
        assert_eq!(vtd.hand_back().map_err(|(_, e)| e).unwrap().counts().frames, 3);
    }
    for n in 0.. {
        let (host, units, vtd) = driver(&[(CAP, ecap | ECAP_ADMS); 2], |d| d);
        host.fail_after(Some(n));
        let outcome = vtd.shield(false);
        host.fail_after(None);
        if outcome.is_ok() {
            assert!(n > 5);
            break;
        }
        assert_eq!(host.counts().frames, 0);
        assert!(units.iter().all(|u| u.regs.get32(at::GSTS) & TE == 0));
    }
}

fn a_bring_up_that_fails_behind_the_shield_leaves_nothing_on(ecap: u64) {
    // A unit that does not come back on after the moment without translation, and too few frames.
    let cap = CAP | CAP_PLMR | CAP_PHMR;
    let (_, units, vtd) = driver(&[(cap, ecap | ECAP_ADMS)], |d| d);
    vtd.shield(false).unwrap();
    units[0].state().deaf.push(at::RTADDR);
    assert_eq!(vtd.bring_up(TakeOver::Refuse).unwrap_err().kind, ErrorKind::Unverified(Step::RootPointer));
    assert_eq!((units[0].regs.get32(at::GSTS) & (TE | QIE), units[0].regs.get32(at::PMEN) & 1), (0, 0));
    assert_eq!(vtd.hand_back().map_err(|(_, e)| e).unwrap().counts().frames, 0);
    let (host, units, vtd) = driver(&[(cap, ecap | ECAP_ADMS), (CAP, ecap)], |d| d);
    vtd.shield(false).unwrap();
    host.fail_after(Some(0));
    assert_eq!(vtd.bring_up(TakeOver::Refuse).unwrap_err().kind, ErrorKind::OutOfFrames);
    assert_eq!((units[0].regs.get32(at::GSTS) & (TE | QIE), host.counts().frames), (0, 0));
}

#[test]
fn a_unit_with_abort_mode_runs_legacy_tables_with_the_queue_that_both_want() {
    let ecap = crate::unit::standin::ECAP | ECAP_ADMS;
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let m = Machine::with(host, units, &dmar, Config::default());
    m.report.as_ref().unwrap();
    assert_eq!(m.units[0].regs.get32(at::IQA) >> 11 & 1, 1);
    assert_eq!(m.units[0].regs.get32(at::RTADDR) >> 10 & 3, 0);
    m.end();
}

in_both_modes! {
    no_request_passes_from_the_shield_on_until_tables_say_so
    protected_memory_that_was_on_before_is_told_and_does_not_stay
    devices_with_regions_of_firmware_are_cut_off_only_when_that_is_wanted
    what_is_on_or_lacks_its_queue_is_left_alone
    a_shield_that_was_never_used_is_taken_down
    a_shield_that_fails_leaves_nothing_on
    a_bring_up_that_fails_behind_the_shield_leaves_nothing_on
}

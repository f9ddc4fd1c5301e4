//! Bringing a machine up, and giving it back.

use super::machine::{BASES, BEHIND, Dmar, Machine, WIDE, config, configure, dev, map};
use crate::host::testing::{Host, watch};
use crate::hw::registers::{TableMode, at};
use crate::unit::standin::{
    CAP, CAP_CM, CAP_RWBF, ECAP, ECAP_C, ECAP_PT, ECAP_QI, ECAP_SM, ECAP_SNOOP, ECAP_SSTS, QIE, SRTP, Standin, TE,
};
use crate::{
    Class, Config, Domain, ErrorKind, Field, Need, Owner, Skipped, State, Step, Tables, TakeOver, UnitId, Vtd,
};

/// Device 3's region.
const REGION: (u64, u64) = (0x7a00_0000, 0x7a2f_ffff);

fn with_region(units: &[(u64, u64)]) -> (Host, std::vec::Vec<Standin>, Dmar) {
    let (host, units, dmar) = Machine::prepare(Host::new(), units);
    (host, units, dmar.reserved(REGION.0, REGION.1, dev(3)))
}

fn every_queue_is_on_before_any_root_pointer_is_latched(ecap: u64) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap); 2]);
    units[1].state().stuck = QIE;
    let m = Machine::with(host, units, &dmar, config());
    let e = *m.report.as_ref().unwrap_err();
    assert_eq!((e.kind, e.unit), (ErrorKind::Timeout(Step::Queue), Some(UnitId(1))));
    let (writes, _) = m.units[0].take();
    assert!(writes.contains(&(at::GCMD, QIE.into())) && writes.iter().all(|(place, _)| *place != at::RTADDR));
    assert_eq!(m.units[0].regs.get32(at::GSTS), 0, "off again");
    assert_eq!(m.end_keeping(), 3, "of the unit that may still obey");
}

fn devices_with_reserved_regions_are_mapped_before_translation_is_on_and_no_others(ecap: u64) {
    for n in 1..=2 {
        let (host, units, dmar) = with_region(&[(CAP, ecap); 2][..n]);
        let regs: std::vec::Vec<_> = units.iter().map(|u| u.regs.clone()).collect();
        let stored = move || assert!(regs.iter().all(|r| r.get32(at::GSTS) & TE == 0), "a store after translation");
        let m = watch(stored, || Machine::with(host, units, &dmar, config()));
        let report = m.report.as_ref().unwrap();
        assert_eq!(report.firmware.len(), 1);
        assert_eq!((report.firmware[0].device, report.firmware[0].error), (dev(3), None));
        assert_eq!(m.units[0].access(3 << 3, REGION.0 + 0x12_3456), Some(REGION.0 + 0x12_3456));
        assert_eq!(m.units[0].access(3 << 3, REGION.1), Some(REGION.1));
        for (device, address) in [(3, REGION.1 + 1), (3, REGION.0 - 1), (3, 0), (2, REGION.0), (1, REGION.0)] {
            assert_eq!(m.units[0].access(device << 3, address), None, "device {device} at {address:#x}");
        }
        m.end();
    }
}

fn a_failed_bring_up_leaves_nothing_behind_whatever_ran_out(ecap: u64) {
    for units in [&[(CAP, ecap)][..], &[(CAP, ecap); 2]] {
        let mut n = 0;
        loop {
            let (host, standins, dmar) = with_region(units);
            host.fail_after(Some(n));
            let m = Machine::with(host, standins, &dmar, config());
            m.host.fail_after(None);
            let done = m.report.as_ref().is_ok_and(|r| r.firmware[0].error.is_none());
            for e in
                m.report.as_ref().err().into_iter().chain(m.report.iter().filter_map(|r| r.firmware[0].error.as_ref()))
            {
                assert_eq!(e.kind, ErrorKind::OutOfFrames);
            }
            if m.report.is_ok() {
                assert_eq!(m.units[0].access(3 << 3, REGION.0).is_some(), done, "blocked, not open");
            } else {
                assert!(m.units.iter().all(|u| u.regs.get32(at::GSTS) & (TE | QIE) == 0));
            }
            m.end();
            if done {
                break;
            }
            n += 1;
        }
        assert!(n > 5 * units.len() as u64, "{n} allocations failed in turn");
    }
}

fn a_step_that_never_completes_is_a_timeout_and_all_comes_back(ecap: u64) {
    for (bit, step) in [(QIE, Step::Queue), (SRTP, Step::RootPointer), (TE, Step::Translation)] {
        for stuck in 0..2 {
            for ecap in [ecap, ecap & !ECAP_QI] {
                if bit == QIE && ecap & ECAP_QI == 0 {
                    continue;
                }
                let (host, units, dmar) = with_region(&[(CAP, ecap); 2]);
                units[stuck].state().stuck = bit;
                let m = Machine::with(host, units, &dmar, config());
                let e = m.report.as_ref().unwrap_err();
                assert_eq!((e.kind, e.unit), (ErrorKind::Timeout(step), Some(UnitId(stuck as u16))));
                assert_eq!(e.class(), Class::Timeout);
                assert!(m.host.time() < 4_000_000_000);
                // Translation is off: nobody may take a group for a blocked one.
                let group = m.vtd.group_of(dev(1)).and_then(|g| m.vtd.claim(g, Owner::HOST));
                assert_eq!(group.err().unwrap().kind, ErrorKind::State(State::NotUp));
                assert!(m.units.iter().all(|u| u.regs.get32(at::GSTS) & (TE | QIE) == 0));
                assert_eq!(m.vtd.bring_up(TakeOver::Disable).unwrap_err().kind, ErrorKind::State(State::AlreadyUp));
                // The root table, a device's tables where there were any, and the queue of the unit that may still obey.
                let queue = if ecap & ECAP_QI != 0 { 2 } else { 0 };
                let tables = if ecap == ECAP_SM { 3 } else { 1 };
                let kept = m.end_keeping();
                assert!((queue + 1..=queue + 1 + tables).contains(&kept), "{kept} frames");
            }
        }
    }
}

fn a_unit_found_on_is_left_alone_when_the_host_refuses_it(ecap: u64) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap); 2]);
    units[1].regs.set32(at::GSTS, TE | SRTP | QIE);
    let vtd = Vtd::new(host.clone(), dmar.topology(), config()).unwrap();
    assert_eq!(vtd.groups().err().unwrap().kind, ErrorKind::State(State::NotUp));
    let e = vtd.bring_up(TakeOver::Refuse).unwrap_err();
    assert_eq!((e.kind, e.unit), (ErrorKind::State(State::FoundOn), Some(UnitId(1))));
    let host = vtd.hand_back().map_err(|(_, e)| e).unwrap();
    assert!(units[1].state().writes.is_empty());
    assert_eq!(units[1].regs.get32(at::GSTS), TE | SRTP | QIE);
    // A successor that takes it over.
    let m = Machine::with(host, units, &dmar, config());
    assert_eq!(m.report.as_ref().unwrap().units[1].found.bits(), TE | QIE);
    m.end();
}

fn a_unit_that_does_not_answer_is_skipped_and_its_devices_cannot_be_had(ecap: u64) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap); 2]);
    units[0].regs.set64(at::CAP, u64::MAX);
    let m = Machine::with(host, units, &dmar, config());
    let report = m.report.as_ref().unwrap();
    assert_eq!((report.units[0].skipped, report.units[1].skipped), (Some(Skipped::NoAnswer), None));
    let refused = m.vtd.claim(m.vtd.group_of(dev(2)).unwrap(), Owner::HOST).err().unwrap();
    assert_eq!((refused.kind, refused.device), (ErrorKind::Unsupported(Need::Unit), Some(dev(2))));
    drop(m.claim(dev(9)));
    assert!(m.units[0].state().writes.is_empty());
    m.end();
    let host = Host::new();
    configure(&host);
    let m = Machine::with(host, std::vec![], &Dmar::default().unit(BASES[0], &[]), config());
    assert_eq!(m.report.as_ref().unwrap_err().kind, ErrorKind::Unsupported(Need::AnyUnit));
    m.end();
}

fn a_guest_may_have_a_device_with_a_region_only_if_the_region_is_relaxable(ecap: u64) {
    let (host, units, dmar) = with_region(&[(CAP, ecap)]);
    let m = Machine::with(host, units, &dmar.reserved(0x7b00_0000, 0x7b00_0fff, dev(4)), config());
    let group = |d| m.vtd.group_of(d).unwrap();
    let refused = m.vtd.claim(group(dev(3)), Owner(1)).err().unwrap();
    assert_eq!((refused.kind, refused.device), (ErrorKind::Invalid(Field::ReservedRegion), Some(dev(3))));
    assert_eq!(m.units[0].access(3 << 3, REGION.0), Some(REGION.0), "and nothing changed");
    let host = m.vtd.claim(group(dev(3)), Owner::HOST).unwrap();
    assert_eq!(m.units[0].access(3 << 3, REGION.0), None, "claimed is blocked");
    assert_eq!(host.reserved().count(), 2);
    let usb = m.vtd.claim(group(dev(4)), Owner(1)).unwrap();
    assert_eq!(usb.reserved().count(), 1, "the interrupt addresses alone");
    assert_eq!(m.vtd.claim(group(dev(4)), Owner(2)).err().unwrap().kind, ErrorKind::Busy);
    let domain: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    usb.attach(crate::Target::Domain(&domain)).unwrap();
    assert_eq!(m.units[0].access(4 << 3, 0x7b00_0000), None);
    usb.release().map_err(|(_, e)| e).unwrap();
    drop((host, domain));
    m.end();
}

fn handles_that_live_keep_the_platform_and_everything_goes_on(ecap: u64) {
    for (cap, ecap) in [(CAP, ecap), (CAP | CAP_CM, ecap), (CAP | CAP_RWBF, ecap & !ECAP_SNOOP), (CAP, ecap & !ECAP_QI)]
    {
        let m = Machine::new(&[(cap, ecap)]);
        let busy = |vtd: Vtd<Host>| {
            let (vtd, e) = vtd.hand_back().err().unwrap();
            assert_eq!(e.kind, ErrorKind::Busy);
            vtd
        };
        let clone = m.vtd.clone();
        let vtd = busy(m.vtd);
        drop(clone);
        let domain: Domain<Host> = vtd.domain(&crate::DomainSpec { coherent: ecap & ECAP_C != 0, ..WIDE }).unwrap();
        let vtd = busy(vtd);
        let group = vtd.claim(vtd.group_of(BEHIND[0]).unwrap(), Owner::HOST).unwrap();
        group.attach(crate::Target::Domain(&domain)).unwrap();
        drop(domain);
        let vtd = busy(vtd);
        let domain: Domain<Host> = vtd.domain(&crate::DomainSpec { coherent: false, ..WIDE }).unwrap();
        group.attach(crate::Target::Domain(&domain)).unwrap();
        map(&domain, 0x1000, 0x5000, 0x1000);
        assert_eq!(m.units[0].access(0x208, 0x1234), Some(0x5234));
        drop((group, domain));
        Machine { vtd, ..m }.end();
    }
}

fn nothing_is_claimed_while_any_unit_does_not_translate(ecap: u64) {
    let not_up = ErrorKind::State(State::NotUp);
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap); 2]);
    units[1].state().stuck = TE;
    let m = Machine::with(host, units, &dmar, config());
    assert!(m.report.is_err());
    let claim = |vtd: &super::machine::Driver| vtd.claim(vtd.group_of(dev(1))?, Owner(7)).map(drop);
    assert_eq!(claim(&m.vtd).unwrap_err().kind, not_up, "it would be said to be blocked, and reach everything");
    assert_eq!(m.end_keeping(), 3, "of the unit that may still obey");
    // The same where handing back failed half-way.
    let m = Machine::new(&[(CAP, ecap); 2]);
    m.units[1].state().stuck = TE;
    let Err((vtd, e)) = m.vtd.hand_back() else { panic!("the second unit stays on") };
    assert_eq!(e.kind, ErrorKind::Timeout(Step::Translation));
    assert_eq!((m.units[0].access(8, 0x5000), claim(&vtd).unwrap_err().kind), (Some(0x5000), not_up));
    m.units[1].state().stuck = 0;
    assert_eq!(vtd.hand_back().map_err(|(_, e)| e).unwrap().counts().frames, 0);
}

fn a_queue_that_stopped_at_an_error_is_turned_off_all_the_same(ecap: u64) {
    // A predecessor's.
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    units[0].regs.set32(at::GSTS, TE | SRTP | QIE);
    units[0].regs.set64(at::IQH, 0x20);
    units[0].regs.set64(at::IQT, 0x80);
    units[0].raise(1 << 4);
    let m = Machine::with(host, units, &dmar, config());
    m.report.as_ref().unwrap();
    // Our own, which nobody waited for.
    let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    map(&d, 0x1000, 0x1000, 0x1000);
    let group = m.claim(dev(1));
    group.attach(crate::Target::Domain(&d)).unwrap();
    let unmapped = d.unmap(super::machine::range(0x1000, 0x1fff)).unwrap();
    group.attach(crate::Target::Identity).unwrap();
    group.attach(crate::Target::Domain(&d)).unwrap();
    m.units[0].state().bad = Some((0, 3));
    drop(unmapped.submit().unwrap());
    m.units[0].state().hold = false;
    group.attach(crate::Target::Blocked).unwrap();
    drop((group, d));
    m.end();
}

#[test]
fn the_host_chooses_the_tables_and_each_unit_takes_what_it_has() {
    const FIRST_STAGE: u64 = ECAP_SM & !ECAP_SSTS;
    let lacking = ErrorKind::Unsupported(Need::ScalableMode);
    // The choice, what the second unit has, and what it comes to; the first has everything.
    for (choice, ecap, outcome) in [
        (Tables::Legacy, ECAP_SM, Ok([TableMode::Legacy; 2])),
        (Tables::Best, ECAP_SM, Ok([TableMode::Scalable; 2])),
        (Tables::Scalable, ECAP_SM, Ok([TableMode::Scalable; 2])),
        (Tables::Best, ECAP, Ok([TableMode::Scalable, TableMode::Legacy])),
        (Tables::Best, ECAP_SM & !ECAP_QI, Ok([TableMode::Scalable, TableMode::Legacy])),
        (Tables::Best, FIRST_STAGE, Ok([TableMode::Scalable, TableMode::Legacy])),
        (Tables::Scalable, FIRST_STAGE, Ok([TableMode::Scalable; 2])),
        (Tables::Scalable, ECAP, Err(lacking)),
        (Tables::Scalable, ECAP_SM & !ECAP_QI, Err(lacking)),
        (Tables::Scalable, FIRST_STAGE & !ECAP_PT, Err(lacking)),
    ] {
        let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ECAP_SM), (CAP, ecap)]);
        let m = Machine::with(host, units, &dmar, Config { tables: choice, queue: false, ..Config::default() });
        match (&m.report, outcome) {
            (Ok(report), Ok(modes)) => {
                for ((line, unit), mode) in report.units.iter().zip(&m.units).zip(modes) {
                    assert_eq!(line.tables, Some(mode));
                    assert_eq!(unit.regs.get32(at::RTADDR) >> 10 & 3, mode as u32);
                    assert_eq!(line.queue, mode == TableMode::Scalable, "wanted or not");
                }
            }
            (Err(e), Err(kind)) => {
                assert_eq!((e.kind, e.unit), (kind, Some(UnitId(1))));
                assert!(m.units.iter().all(|u| u.state().writes.is_empty()));
            }
            (report, _) => panic!("{choice:?} on {ecap:#x}: {report:?}"),
        }
        m.end();
    }
}

#[test]
fn a_unit_left_in_the_other_mode_is_taken_over() {
    for (ecap, tables) in [(ECAP_SM, Tables::Legacy), (ECAP_SM, Tables::Scalable)] {
        let m = Machine::new(&[(CAP, ecap)]);
        let group = m.claim(dev(1));
        group.attach(crate::Target::Identity).unwrap();
        assert_eq!(m.units[0].access(8, 0x5000), Some(0x5000));
        core::mem::forget(group);
        core::mem::forget(m.vtd.clone());
        let (_, _, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
        let next = Machine::with(m.host.clone(), m.units.clone(), &dmar, Config { tables, ..Config::default() });
        assert_eq!(next.report.as_ref().unwrap().units[0].found.bits(), TE | QIE);
        assert_eq!(next.units[0].access(8, 0x5000), None, "blocked");
        let d: Domain<Host> = next.vtd.domain(&WIDE).unwrap();
        map(&d, 0x5000, 0x9000, 0x1000);
        let group = next.claim(dev(1));
        group.attach(crate::Target::Domain(&d)).unwrap();
        assert_eq!(next.units[0].access(8, 0x5000), Some(0x9000));
    }
}

#[test]
fn a_unit_with_pass_through_alone_refuses_domains_by_name() {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ECAP_SM & !ECAP_SSTS)]);
    let m = Machine::with(host, units, &dmar, Config { tables: Tables::Scalable, ..Config::default() });
    let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    let group = m.claim(dev(1));
    let e = group.attach(crate::Target::Domain(&d)).unwrap_err();
    assert_eq!((e.kind, e.unit), (ErrorKind::Unsupported(Need::SecondStage), Some(UnitId(0))));
    assert_eq!(m.units[0].access(8, 0x5000), None);
    group.attach(crate::Target::Identity).unwrap();
    assert_eq!(m.units[0].access(8, 0x5000), Some(0x5000));
    drop((group, d));
    m.end();
}

crate::unit::standin::in_both_modes! {
    every_queue_is_on_before_any_root_pointer_is_latched
    devices_with_reserved_regions_are_mapped_before_translation_is_on_and_no_others
    a_failed_bring_up_leaves_nothing_behind_whatever_ran_out
    a_step_that_never_completes_is_a_timeout_and_all_comes_back
    a_unit_found_on_is_left_alone_when_the_host_refuses_it
    a_unit_that_does_not_answer_is_skipped_and_its_devices_cannot_be_had
    a_guest_may_have_a_device_with_a_region_only_if_the_region_is_relaxable
    handles_that_live_keep_the_platform_and_everything_goes_on
    nothing_is_claimed_while_any_unit_does_not_translate
    a_queue_that_stopped_at_an_error_is_turned_off_all_the_same
}

//! What firmware demands for integrated devices, and what devices say of themselves.

use super::machine::{Machine, WIDE, config, dev, map};
use crate::dmar::IntegratedFlags;
use crate::host::testing::Host;
use crate::hw::registers::TableMode;
use crate::unit::standin::{CAP, ECAP, ECAP_DT, ECAP_SM};
use crate::{Ats, Domain, DomainSpec, ErrorKind, Field, Need, NoAts, Reset, Target};

const ONE: u16 = 1 << 3;

/// A machine whose first device has these SIDP flags.
fn machine(ecap: u64, flags: IntegratedFlags) -> Machine {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let m = Machine::with(host, units, &dmar.properties(dev(1), flags.bits()), config());
    m.report.as_ref().unwrap();
    m.forget();
    m
}

#[test]
fn walks_for_a_device_that_firmware_wants_unsnooped_are_not_snooped_and_see_what_is_mapped() {
    let m = machine(ECAP_SM, IntegratedFlags::NO_WALK_SNOOP);
    m.units[0].state().unsnooped.insert(ONE);
    let (group, other) = (m.claim(dev(1)), m.claim(dev(2)));
    assert!(!group.best_spec().coherent && other.best_spec().coherent);
    let snooped: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    let e = group.attach(Target::Domain(&snooped)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unsupported(Need::Coherence));
    // The others' entries are as ever.
    map(&snooped, 0x1000, 0xb000, 0x1000);
    other.attach(Target::Domain(&snooped)).unwrap();
    assert_eq!(m.units[0].access(2 << 3, 0x1000), Some(0xb000));
    let flushed: Domain<Host> = m.vtd.domain(&DomainSpec { coherent: false, ..WIDE }).unwrap();
    map(&flushed, 0x1000, 0xa000, 0x1000);
    group.attach(Target::Domain(&flushed)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xa000));
    drop((group, other, snooped, flushed));
    m.end();
}

#[test]
fn how_walks_snoop_is_no_matter_of_entries_in_legacy_mode() {
    let m = machine(ECAP, IntegratedFlags::NO_WALK_SNOOP);
    let group = m.claim(dev(1));
    let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    assert!(group.best_spec().coherent);
    group.attach(Target::Domain(&d)).unwrap();
    drop((group, d));
    m.end();
}

#[test]
fn snooping_is_not_forced_on_a_device_that_firmware_wants_it_not_to_be() {
    for ecap in [ECAP, ECAP_SM] {
        let m = machine(ecap, IntegratedFlags::NO_PAGE_SNOOP);
        let (group, other) = (m.claim(dev(1)), m.claim(dev(2)));
        let forced: Domain<Host> = m.vtd.domain(&DomainSpec { force_snoop: true, ..WIDE }).unwrap();
        let e = group.attach(Target::Domain(&forced)).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Unsupported(Need::SnoopControl));
        other.attach(Target::Domain(&forced)).unwrap();
        drop((group, other, forced));
        m.end();
    }
}

#[test]
fn devices_say_what_they_can_do_and_what_firmware_says_of_them() {
    let flags = IntegratedFlags::NO_NESTING | IntegratedFlags::CACHE_HARDENED;
    let m = machine(ECAP_SM | ECAP_DT, flags);
    let group = m.claim(dev(1));
    let info = group.info(dev(1)).unwrap();
    assert_eq!((info.unit, info.tables), (m.vtd.unit_of(dev(1)).unwrap(), TableMode::Scalable));
    assert_eq!((info.first_stage, info.second_stage, info.pass_through), (false, true, true));
    assert_eq!((info.address_bits, info.pasid_bits, info.integrated), (48, 0, Some(flags)));
    assert_eq!((info.ats, info.ats_on, info.apart), (Err(NoAts::Capability), false, None));
    assert_eq!(info.page_requests, Err(Need::PageRequests));
    let e = group.set_ats(dev(1), Ats::Trusted).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unsupported(Need::Ats(NoAts::Capability)));
    assert_eq!(group.set_ats(dev(1), Ats::Off), Ok(()));
    for e in [group.info(dev(2)).map(drop), group.set_ats(dev(2), Ats::Off), group.reset(dev(2), Reset::Before)] {
        let e = e.unwrap_err();
        assert_eq!((e.kind, e.device), (ErrorKind::Invalid(Field::Device), Some(dev(2))));
    }
    drop(group);
    m.end();
}

//! Reserved bits, the history of a breach, and the switch.

use super::*;

#[test]
fn a_request_meets_reserved_bits() {
    let mut software = Software::legacy(profile());
    software.store(leaf(TABLES), SecondStageEntry::new(DATA).0[0] | 1 << 62);
    assert!(matches!(software.read(), Answer::Blocked(_)));
    software.broke(&[Rule::ReservedEntryBit]);
}

#[test]
fn reserved_bits_of_absent_entries_are_nobody_s_business() {
    let mut software = Software::legacy(profile());
    software.store(leaf(TABLES), 1 << 62);
    assert!(matches!(software.read(), Answer::Blocked(_)));
    software.clean();
}

/// The guest's tables are the guest's affair.
#[test]
fn reserved_bits_of_a_guest_are_not_the_host_s() {
    let mut software = Software::scalable(profile());
    software.second_stage(TABLES);
    // The guest's top table is at the address that the host maps to DATA.
    software.entry(pasid(PASID), &PasidEntry::nested(IOVA, false, TABLES, 2, 1).0);
    software.store(DATA, 1 << 7 | 7);
    assert!(matches!(software.read_pasid(DEVICE, PASID), Answer::Blocked(_)));
    software.clean();
}

#[test]
fn what_a_unit_sees_of_lines_that_are_held_back_is_not_what_software_wrote() {
    let mut software = Software::legacy(incoherent());
    software.store(leaf(TABLES), SecondStageEntry::new(DATA).0[0] | 1 << 62);
    software.hold_lines();
    software.store(leaf(TABLES), SecondStageEntry::new(DATA).0[0]);
    assert!(matches!(software.read(), Answer::Blocked(_)));
    software.clean();
}

#[test]
fn a_breach_tells_what_led_to_it() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(leaf(TABLES), 0);
    software.free_page(DATA);
    let breach = software.rig.unit.oracle_mut().take().remove(0);
    let lines: Vec<&str> = breach.history.lines().collect();
    assert!(lines.last().is_some_and(|line| line.contains("Freed(80000, 80fff)")), "{}", breach.history);
    assert!(breach.history.contains("Stored(33028, 80003, 0)"), "{}", breach.history);
    assert!(breach.history.contains("Asked(10, None, 5000, None)"), "{}", breach.history);
    assert!(breach.what.contains("5000"), "{}", breach.what);
}

#[test]
fn an_oracle_that_is_off_says_nothing_and_one_that_is_on_again_knows_the_tables() {
    let mut software = Software::legacy(profile());
    software.rig.unit.set_oracle(&mut software.rig.bus, false);
    software.free_page(TABLES);
    software.store(TABLES + 0x2000, 0);
    software.clean();
    software.rig.unit.set_oracle(&mut software.rig.bus, true);
    software.free_page(TABLES + 0x3000);
    software.clean();
    software.free_page(TABLES + 0x2000);
    software.broke(&[Rule::LiveTableFreed]);
}

#[test]
fn tables_that_lead_to_themselves_end() {
    let mut software = Software::legacy(profile());
    for n in 0..512 {
        software.store(TABLES + n * 8, SecondStageEntry::new(TABLES).0[0]);
    }
    software.free_page(TABLES);
    software.broke(&[Rule::LiveTableFreed]);
    software.store(context(DEVICE), 0);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1)]);
    software.free_page(TABLES);
    software.clean();
}

/// bhyve writes the command that it wants into GCMD, and nothing that is on already.
#[test]
fn bhyve_switches_everything_else_off() {
    let mut software = Software::legacy(profile());
    software.rig.w32(crate::testing::GCMD, SRTP);
    let broken = software.rig.unit.oracle_mut().take();
    assert!(broken.iter().any(|breach| breach.rule == Rule::CommandOrder), "{broken:?}");
}

#[test]
fn after_many_breaches_no_more_are_kept() {
    let mut software = Software::legacy(profile());
    for _ in 0..300 {
        software.free_page(TABLES);
    }
    assert_eq!(software.rig.unit.oracle().breaches().len(), 256);
}

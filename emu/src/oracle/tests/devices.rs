//! Device TLBs.

use super::*;

/// Legacy mode with ATS for DEVICE, which holds the translation of IOVA.
fn ats() -> Software {
    let mut software = Software::new(profile());
    software.second_stage(TABLES);
    software.entry(ROOT, &RootEntry::new(CONTEXTS).0);
    software.entry(context(DEVICE), &ContextEntry::new(TABLES, 2, 1).with(ContextEntry::TT, 1).0);
    software.enable(0);
    assert!(matches!(software.ask(), Answer::Translated(t) if t.read && t.write));
    software
}

#[test]
fn a_device_is_invalidated_before_the_iotlb() {
    let mut software = ats();
    software.store(leaf(TABLES), 0);
    software.queue(&[dev_tlb_page(DEVICE, IOVA), iotlb_page(1, IOVA)]);
    software.broke(&[Rule::DeviceOrder]);
}

#[test]
fn a_device_is_fully_invalidated_before_the_iotlb() {
    let mut software = ats();
    software.store(context(DEVICE), TABLES);
    software.queue(&[dev_tlb(DEVICE), cc_device(1, DEVICE), iotlb_domain(1)]);
    software.broke(&[Rule::DeviceOrder]);
}

#[test]
fn a_device_may_be_invalidated_after_the_iotlb() {
    let mut software = ats();
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(1, IOVA), dev_tlb_page(DEVICE, IOVA)]);
    software.free_page(DATA);
    software.clean();
}

/// The IOTLB's invalidation is in flight when the device's is fetched.
#[test]
fn what_is_ahead_in_the_queue_counts() {
    let mut software = ats();
    software.store(leaf(TABLES), 0);
    software.rig.unit.set_pace(Pace { descriptor: (20, 20), ..Pace::prompt() });
    software.queue(&[iotlb_page(1, IOVA), dev_tlb_page(DEVICE, IOVA)]);
    software.rig.step(200, 0);
    software.clean();
}

#[test]
fn a_device_may_be_invalidated_both_before_and_after() {
    let mut software = ats();
    software.store(leaf(TABLES), 0);
    software.queue(&[dev_tlb(DEVICE), iotlb_page(1, IOVA), dev_tlb_page(DEVICE, IOVA)]);
    software.clean();
}

#[test]
fn a_device_may_be_invalidated_for_other_pages_before() {
    let mut software = ats();
    software.store(leaf(TABLES), 0);
    software.queue(&[dev_tlb_page(DEVICE, 0x9000), iotlb_page(1, IOVA)]);
    software.queue(&[dev_tlb_page(DEVICE, IOVA)]);
    software.clean();
}

#[test]
fn what_has_not_changed_may_be_invalidated_in_any_order() {
    let mut software = ats();
    software.queue(&[dev_tlb_page(DEVICE, IOVA), iotlb_page(1, IOVA)]);
    software.clean();
}

/// Intel's pKVM never flushed device TLBs.
#[test]
fn pkvm_frees_what_a_device_holds() {
    let mut software = ats();
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(1, IOVA)]);
    software.free_page(DATA);
    software.broke(&[Rule::DataFreed]);
}

#[test]
fn data_is_freed_before_the_device_has_answered() {
    let mut software = ats();
    software.store(leaf(TABLES), 0);
    software.rig.bus.silent.insert(DEVICE);
    software.queue(&[iotlb_page(1, IOVA), dev_tlb_page(DEVICE, IOVA)]);
    software.free_page(DATA);
    software.broke(&[Rule::DataFreed]);
    software.rig.bus.silent.clear();
    software.rig.step(10, 0);
    software.free_page(DATA);
    software.clean();
}

#[test]
fn a_device_that_was_reset_holds_nothing() {
    let mut software = ats();
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(1, IOVA)]);
    software.rig.unit.device_lost(DEVICE);
    software.free_page(DATA);
    software.clean();
}

#[test]
fn ats_is_blocked_while_the_device_holds_translations() {
    let mut software = ats();
    software.store(context(DEVICE), TABLES | 1);
    software.broke(&[Rule::DeviceBlocked]);
}

/// Off, then flushed, then blocked; or flushed, then off, then blocked: for the unit it is the same.
#[test]
fn ats_may_be_blocked_once_the_device_holds_nothing() {
    let mut software = ats();
    software.queue(&[dev_tlb(DEVICE)]);
    software.store(context(DEVICE), TABLES | 1);
    software.clean();
}

#[test]
fn ats_is_blocked_after_the_device_has_asked_again() {
    let mut software = ats();
    software.queue(&[dev_tlb(DEVICE)]);
    software.ask();
    software.store(context(DEVICE), TABLES | 1);
    software.broke(&[Rule::DeviceBlocked]);
}

#[test]
fn ats_is_blocked_before_the_device_has_answered() {
    let mut software = ats();
    software.rig.bus.silent.insert(DEVICE);
    software.queue(&[dev_tlb(DEVICE)]);
    software.store(context(DEVICE), TABLES | 1);
    software.broke(&[Rule::DeviceBlocked]);
}

/// No completion is to be had of it: all that is left is to block it.
#[test]
fn a_device_that_timed_out_may_be_blocked_and_holds_nothing_of_use_with_that() {
    let late = || {
        let mut software = ats();
        software.store(leaf(TABLES), 0);
        software.rig.bus.silent.insert(DEVICE);
        software.queue(&[iotlb_page(1, IOVA), dev_tlb_page(DEVICE, IOVA)]);
        software.rig.step(10, 60_000_000);
        software
    };
    let mut software = late();
    software.free_page(DATA);
    software.broke(&[Rule::DataFreed]);
    let mut software = late();
    software.store(context(DEVICE), TABLES | 1);
    software.free_page(DATA);
    software.clean();
}

#[test]
fn a_device_that_timed_out_after_it_was_blocked_is_owed_nothing() {
    let mut software = ats();
    software.store(context(DEVICE), TABLES);
    software.rig.bus.silent.insert(DEVICE);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1), dev_tlb(DEVICE)]);
    software.rig.step(10, 60_000_000);
    software.at_rest();
    software.clean();
}

#[test]
fn dte_is_cleared_while_the_device_holds_translations() {
    let mut software = Software::scalable(profile());
    software.second_stage(TABLES);
    software.entry(pasid(0), &PasidEntry::second_stage(TABLES, 2, 1).0);
    software.ask();
    let entry = software.word(scalable_context(DEVICE));
    software.store(scalable_context(DEVICE), entry & !4);
    software.broke(&[Rule::DeviceBlocked]);
    software.store(scalable_context(DEVICE), entry);
    software.queue(&[dev_tlb(DEVICE)]);
    software.store(scalable_context(DEVICE), entry & !4);
    software.clean();
}

#[test]
fn a_context_entry_goes_and_its_device_is_never_invalidated() {
    let mut software = ats();
    software.store(context(DEVICE), TABLES);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1)]);
    software.clean();
    software.at_rest();
    software.broke(&[Rule::DeviceBlocked]);
}

#[test]
fn a_context_entry_comes_back_before_its_device_was_invalidated() {
    let mut software = ats();
    software.store(context(DEVICE), TABLES);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1)]);
    software.second_stage(OTHERS);
    software.entry(context(DEVICE), &ContextEntry::new(OTHERS, 2, 2).0);
    software.broke(&[Rule::DeviceBlocked]);
}

/// With ATS still on the device is invalidated after the IOTLB (Table 28).
#[test]
fn a_context_entry_goes_and_its_device_is_invalidated_last() {
    let mut software = ats();
    software.store(context(DEVICE), TABLES);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1), dev_tlb(DEVICE)]);
    software.at_rest();
    software.entry(context(DEVICE), &ContextEntry::new(TABLES, 2, 1).0);
    software.clean();
}

/// Table 28 asks for no more than a full invalidation without PASID.
#[test]
fn dte_may_be_cleared_after_one_full_invalidation_whatever_pasids_there_are() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    let ask = Request::new(DEVICE, Access::Read, IOVA).with_pasid(PASID).of(Kind::Translation { no_write: false });
    assert!(matches!(software.request(ask), Answer::Translated(t) if t.read));
    let entry = software.word(scalable_context(DEVICE));
    software.queue(&[dev_tlb_page(DEVICE, IOVA)]);
    software.store(scalable_context(DEVICE), entry & !4);
    software.broke(&[Rule::DeviceBlocked]);
    software.store(scalable_context(DEVICE), entry);
    software.queue(&[dev_tlb(DEVICE)]);
    software.store(scalable_context(DEVICE), entry & !4);
    software.clean();
}

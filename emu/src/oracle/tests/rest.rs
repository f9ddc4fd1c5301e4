//! What software owes when it is at rest.

use super::*;

/// Asterinas maps on caching-mode units without invalidation; FreeBSD has no queue there.
#[test]
fn asterinas_maps_on_a_caching_mode_unit_without_invalidation() {
    let mut software = Software::legacy(caching());
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(1, IOVA)]);
    assert!(matches!(software.read(), Answer::Blocked(_)));
    software.store(leaf(TABLES), SecondStageEntry::new(DATA).0[0]);
    software.clean();
    software.at_rest();
    software.broke(&[Rule::MapNotInvalidated]);
}

#[test]
fn a_mapping_of_a_caching_mode_unit_is_invalidated() {
    let mut software = Software::legacy(caching());
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(1, IOVA)]);
    software.read();
    software.store(leaf(TABLES), SecondStageEntry::new(DATA).0[0]);
    software.queue(&[iotlb_page(1, IOVA)]);
    software.at_rest();
    software.clean();
}

#[test]
fn a_context_entry_of_a_caching_mode_unit_is_invalidated_under_domain_0() {
    for (domain, rules) in [(3, [Rule::MapNotInvalidated].as_slice()), (0, &[])] {
        let mut software = Software::legacy(caching());
        software.request(Request::new(0x18, Access::Read, IOVA));
        software.entry(context(0x18), &ContextEntry::new(TABLES, 2, 3).0);
        software.queue(&[cc_device(domain, 0x18), iotlb_domain(3)]);
        software.at_rest();
        software.broke(rules);
    }
}

#[test]
fn a_pasid_entry_of_a_caching_mode_unit_is_invalidated_under_domain_0() {
    for (domain, rules) in [(1, [Rule::MapNotInvalidated].as_slice()), (0, &[])] {
        let mut software = Software::scalable(caching());
        software.first_stage(TABLES);
        software.read_pasid(DEVICE, PASID);
        software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
        software.queue(&[pc_pasid(domain, PASID), pasid_iotlb(domain, PASID)]);
        software.at_rest();
        software.broke(rules);
    }
}

#[test]
fn other_units_want_no_invalidation_of_what_was_absent() {
    let mut software = Software::legacy(profile());
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(1, IOVA)]);
    software.read();
    software.store(leaf(TABLES), SecondStageEntry::new(DATA).0[0]);
    software.at_rest();
    software.clean();
}

#[test]
fn a_context_entry_has_changed_and_the_cache_was_not_told() {
    let mut software = Software::legacy(profile());
    software.read();
    software.second_stage(OTHERS);
    software.store_pair(context(DEVICE), ContextEntry::new(OTHERS, 2, 2).0);
    software.queue(&[iotlb_domain(1)]);
    software.at_rest();
    software.broke(&[Rule::EntryNotInvalidated]);
}

/// EDK2's platforms crashed wherever a changed context entry was not followed by an IOTLB flush.
#[test]
fn edk2_leaves_translations_of_a_changed_context_entry() {
    let mut software = Software::legacy(profile());
    software.read();
    software.second_stage(OTHERS);
    software.store_pair(context(DEVICE), ContextEntry::new(OTHERS, 2, 2).0);
    software.queue(&[cc_device(1, DEVICE)]);
    software.at_rest();
    software.broke(&[Rule::EntryNotInvalidated]);
}

#[test]
fn a_changed_context_entry_is_invalidated() {
    let mut software = Software::legacy(profile());
    software.read();
    software.second_stage(OTHERS);
    software.store_pair(context(DEVICE), ContextEntry::new(OTHERS, 2, 2).0);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1)]);
    software.at_rest();
    software.clean();
}

#[test]
fn a_pasid_entry_has_changed_and_the_cache_was_not_told() {
    for (told, rules) in [(false, [Rule::EntryNotInvalidated].as_slice()), (true, &[])] {
        let mut software = Software::scalable(profile());
        software.first_stage(TABLES);
        software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
        software.read_pasid(DEVICE, PASID);
        software.store(pasid(PASID), 0);
        if told {
            software.queue(&[pc_pasid(1, PASID)]);
        }
        software.queue(&[pasid_iotlb(1, PASID)]);
        software.at_rest();
        software.broke(rules);
    }
}

#[test]
fn an_unmapping_may_wait_for_its_invalidation() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(leaf(TABLES), 0);
    software.at_rest();
    software.clean();
}

/// NOVA's `configure` clears a context entry and sets it again without a flush in between, or after.
#[test]
fn nova_sets_a_context_entry_that_the_unit_does_not_see() {
    let mut software = Software::legacy(incoherent());
    software.hold_lines();
    software.second_stage(OTHERS);
    for table in 0..4 {
        for n in 0..512 {
            software.flush(OTHERS + table * 0x1000 + n * 8);
        }
    }
    let entry = ContextEntry::new(OTHERS, 2, 2).0;
    software.entry(context(0x18), &entry);
    software.clean();
    software.at_rest();
    software.broke(&[Rule::NotVisible]);
    software.flush(context(0x18));
    software.flush(context(0x18) + 8);
    software.at_rest();
    software.clean();
}

#[test]
fn a_table_is_linked_before_it_is_visible() {
    let mut software = Software::legacy(incoherent());
    software.hold_lines();
    software.store(OTHERS + 0x10, SecondStageEntry::new(DATA).0[0]);
    software.store(TABLES + 0x2008, SecondStageEntry::new(OTHERS).0[0]);
    software.broke(&[Rule::NotVisible]);
}

#[test]
fn with_other_units_around_a_linked_table_is_judged_at_rest() {
    for flushed in [false, true] {
        let mut software = Software::legacy(incoherent());
        software.rig.unit.has_company();
        software.hold_lines();
        software.store(OTHERS + 0x10, SecondStageEntry::new(DATA).0[0]);
        software.store(TABLES + 0x2008, SecondStageEntry::new(OTHERS).0[0]);
        software.flush(TABLES + 0x2008);
        software.clean();
        if flushed {
            software.flush(OTHERS + 0x10);
        }
        software.at_rest();
        if flushed { software.clean() } else { software.broke(&[Rule::NotVisible]) }
    }
}

#[test]
fn bits_that_hardware_ignores_need_not_be_visible() {
    let mut software = Software::legacy(incoherent());
    software.hold_lines();
    software.store(OTHERS + 0x10, 0x1ff0_0000_0000_0400);
    software.store(TABLES + 0x2008, SecondStageEntry::new(OTHERS).0[0]);
    software.flush(TABLES + 0x2008);
    software.store(TABLES + 0x2008, SecondStageEntry::new(OTHERS).0[0] | 1 << 52);
    software.queue(&[iotlb_page(1, 9)]);
    software.at_rest();
    software.clean();
}

#[test]
fn a_table_is_linked_once_it_is_visible() {
    let mut software = Software::legacy(incoherent());
    software.hold_lines();
    software.store(OTHERS + 0x10, SecondStageEntry::new(DATA).0[0]);
    software.flush(OTHERS + 0x10);
    software.store(TABLES + 0x2008, SecondStageEntry::new(OTHERS).0[0]);
    software.flush(TABLES + 0x2008);
    software.at_rest();
    software.clean();
}

#[test]
fn an_unmapping_is_invalidated_before_it_is_visible() {
    for (flushed, rules) in [(false, [Rule::NotVisible].as_slice()), (true, &[])] {
        let mut software = Software::legacy(incoherent());
        software.hold_lines();
        software.read();
        software.store(leaf(TABLES), 0);
        if flushed {
            software.flush(leaf(TABLES));
        }
        software.queue(&[iotlb_page(1, IOVA)]);
        software.broke(rules);
    }
}

#[test]
fn a_context_entry_is_invalidated_before_its_absence_is_visible() {
    for (flushed, rules) in [(false, [Rule::NotVisible].as_slice()), (true, &[])] {
        let mut software = Software::legacy(incoherent());
        software.hold_lines();
        software.store(context(DEVICE), 0);
        if flushed {
            software.flush(context(DEVICE));
        }
        software.queue(&[cc_device(1, DEVICE), iotlb_domain(1)]);
        software.broke(rules);
    }
}

#[test]
fn coherent_units_want_no_flush() {
    let mut software = Software::legacy(profile());
    software.hold_lines();
    software.store(OTHERS + 0x10, SecondStageEntry::new(DATA).0[0]);
    software.store(TABLES + 0x2008, SecondStageEntry::new(OTHERS).0[0]);
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(1, IOVA)]);
    software.at_rest();
    software.clean();
}

#[test]
fn write_buffers_may_be_flushed_after_all_stores() {
    let mut profile = incoherent();
    profile.cap |= 1 << 4;
    let mut software = Software::legacy(profile);
    software.hold_lines();
    software.store(OTHERS + 0x10, SecondStageEntry::new(DATA).0[0]);
    software.store(TABLES + 0x2008, SecondStageEntry::new(OTHERS).0[0]);
    software.clean();
    software.at_rest();
    software.broke(&[Rule::NotVisible]);
    software.flush(OTHERS + 0x10);
    software.flush(TABLES + 0x2008);
    software.at_rest();
    software.clean();
}

#[test]
fn a_device_that_leaves_pass_through_leaves_its_translations_too() {
    for (told, rules) in [(false, [Rule::EntryNotInvalidated].as_slice()), (true, &[])] {
        let mut software = Software::legacy(profile());
        software.entry(context(0x18), &ContextEntry::pass_through(2, 3).0);
        assert!(matches!(software.request(Request::new(0x18, Access::Read, IOVA)), Answer::Passed(_)));
        software.store_pair(context(0x18), ContextEntry::new(TABLES, 2, 1).0);
        software.queue(&[cc_device(3, 0x18)]);
        if told {
            software.queue(&[iotlb_domain(3)]);
        }
        software.at_rest();
        software.broke(rules);
    }
}

#[test]
fn a_root_that_is_set_while_translation_is_on_is_followed_by_global_invalidations() {
    let mut profile = profile();
    profile.cap &= !(1 << 63);
    for (told, rules) in [(false, [Rule::GlobalInvalidation].as_slice()), (true, &[])] {
        let mut software = Software::legacy(profile.clone());
        software.rig.command(SRTP, true);
        if told {
            software.queue(&[[0x11, 0], [0x12, 0]]);
        }
        software.at_rest();
        software.broke(rules);
    }
}

#[test]
fn an_interrupt_table_that_is_set_while_remapping_is_on_is_followed_by_a_global_invalidation() {
    let mut profile = profile();
    profile.cap &= !(1 << 62);
    for (told, rules) in [(false, [Rule::GlobalInvalidation].as_slice()), (true, &[])] {
        let mut software = Software::legacy(profile.clone());
        software.rig.w64(IRTA, INTERRUPTS | 7);
        software.rig.command(SIRTP, true);
        software.queue(&[[4, 0]]);
        software.rig.command(IRE, true);
        software.rig.command(SIRTP, true);
        if told {
            software.queue(&[[4, 0]]);
        }
        software.at_rest();
        software.broke(rules);
    }
}

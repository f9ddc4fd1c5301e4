//! Changes to present entries, and tags.

use super::*;

#[test]
fn a_context_entry_changed_by_two_stores_is_torn() {
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    software.store(context(DEVICE) + 8, 2 | 2 << 8);
    software.clean();
    software.store(context(DEVICE), OTHERS | 1);
    software.broke(&[Rule::TornEntry]);
}

/// FreeBSD's `ctx_id_entry_init_one` sets the halves of a context entry that moves to another domain one by one.
#[test]
fn freebsd_moves_a_present_context_entry_in_two_halves() {
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    let [low, high] = ContextEntry::new(OTHERS, 2, 2).0;
    software.store(context(DEVICE), low);
    software.store(context(DEVICE) + 8, high);
    software.broke(&[Rule::TornEntry]);
}

#[test]
fn a_context_entry_changed_by_one_store_of_16_bytes_is_not_torn() {
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    software.store_pair(context(DEVICE), ContextEntry::new(OTHERS, 2, 2).0);
    software.store_pair(context(DEVICE), ContextEntry::new(TABLES, 2, 1).0);
    software.clean();
}

#[test]
fn a_context_entry_rewritten_while_absent_is_not_torn() {
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    software.store(context(DEVICE), 0);
    software.entry(context(DEVICE), &ContextEntry::new(OTHERS, 2, 2).0);
    software.clean();
}

#[test]
fn halves_changed_with_an_invalidation_in_between_are_two_changes() {
    let mut software = Software::legacy(profile());
    software.store(context(DEVICE) + 8, 2 | 2 << 8);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1)]);
    software.second_stage(OTHERS);
    software.store(context(DEVICE), OTHERS | 1);
    software.clean();
}

#[test]
fn fpd_may_change_at_any_time() {
    let mut software = Software::legacy(profile());
    software.store(context(DEVICE), TABLES | 3);
    software.store(context(DEVICE) + 8, 2 | 2 << 8);
    software.clean();
}

#[test]
fn a_present_bit_before_the_rest_of_the_entry_is_torn() {
    let mut software = Software::legacy(profile());
    let [low, high] = ContextEntry::new(TABLES, 2, 1).0;
    software.store(context(0x18), low);
    software.store(context(0x18) + 8, high);
    software.broke(&[Rule::TornEntry]);
}

#[test]
fn a_pasid_entry_of_more_than_one_changed_half_is_torn() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.first_stage(OTHERS);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    software.queue(&[pc_pasid(1, PASID), pasid_iotlb(1, PASID)]);
    let new = first_stage(OTHERS, 2).0;
    software.store_pair(pasid(PASID), [new[0], new[1]]);
    software.clean();
    software.store(pasid(PASID) + 16, new[2]);
    software.broke(&[Rule::TornEntry]);
}

#[test]
fn a_pasid_entry_may_change_type_and_domain_in_one_store() {
    let mut software = Software::scalable(profile());
    software.second_stage(TABLES);
    software.entry(pasid(PASID), &PasidEntry::second_stage(TABLES, 2, 1).0);
    let new = PasidEntry::pass_through(2).0;
    software.store_pair(pasid(PASID), [new[0], new[1]]);
    software.clean();
}

/// Linux cleared PASID entries from the end on while P was still set, until it learnt to clear P before all else (pKVM's port
/// has the fix among its 23).
#[test]
fn pkvm_zeroes_a_pasid_entry_that_is_still_present() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    software.queue(&[pc_pasid(1, PASID), pasid_iotlb(1, PASID)]);
    for n in (0..8).rev() {
        software.store(pasid(PASID) + 8 * n, 0);
    }
    software.broke(&[Rule::TornEntry]);
}

#[test]
fn a_pasid_entry_is_cleared_p_first() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    for n in 0..8 {
        software.store(pasid(PASID) + 8 * n, 0);
    }
    software.clean();
}

fn interrupts() -> Software {
    let mut software = Software::legacy(profile());
    software.rig.w64(IRTA, INTERRUPTS | 7);
    software.rig.command(SIRTP, true);
    software.queue(&[[4, 0]]);
    software.rig.command(IRE, true);
    software.entry(INTERRUPTS, &[0x41_0001, 0x4_0000 | u64::from(DEVICE)]);
    software.queue(&[[0x14, 0]]);
    software.clean();
    software
}

#[test]
fn an_interrupt_entry_of_two_changed_halves_is_torn() {
    let mut software = interrupts();
    software.store(INTERRUPTS, 0x42_0001);
    software.store(INTERRUPTS + 8, 0x4_0018);
    software.broke(&[Rule::TornEntry]);
}

#[test]
fn an_interrupt_entry_of_one_changed_half_is_not_torn() {
    let mut software = interrupts();
    software.store(INTERRUPTS, 0x42_0001);
    software.store(INTERRUPTS, 0x43_0001);
    software.store_pair(INTERRUPTS + 16, [0x44_0001, 0x4_0018]);
    software.store_pair(INTERRUPTS + 16, [0x45_0001, 0x4_0020]);
    software.clean();
}

/// A leaf of 2 MiB that covers IOVA, and a table of 4 KiB pages that says the same but for `differs`.
fn split(differs: impl Fn(u64, u64) -> u64) -> Software {
    let mut software = Software::legacy(profile());
    let large = SecondStageEntry::large(0x20_0000).0[0];
    software.store(TABLES + 0x2000, 0);
    software.queue(&[iotlb_page(1, 9)]);
    software.store(TABLES + 0x2000, large);
    software.clean();
    for n in 0..512 {
        let small = SecondStageEntry::new(0x20_0000 + n * 0x1000).0[0];
        software.store(OTHERS + n * 8, differs(n, small));
    }
    software.store(TABLES + 0x2000, SecondStageEntry::new(OTHERS).0[0]);
    software
}

#[test]
fn a_large_page_split_into_other_frames_needs_clearing_first() {
    split(|n, small| if n == 7 { small + 0x1000 } else { small }).broke(&[Rule::PageSize]);
}

#[test]
fn a_large_page_split_into_other_rights_needs_clearing_first() {
    split(|n, small| if n == 7 { small & !2 } else { small }).broke(&[Rule::PageSize]);
}

#[test]
fn a_large_page_split_into_the_same_may_be_replaced_in_place() {
    split(|_, small| small).clean();
}

#[test]
fn a_large_page_split_with_a_hole_may_be_replaced_in_place() {
    split(|n, small| if n == 7 { 0 } else { small }).clean();
}

#[test]
fn a_table_replaced_by_a_large_page_of_other_frames_needs_clearing_first() {
    let mut software = split(|_, small| small);
    software.queue(&[iotlb_page(1, 9)]);
    software.store(TABLES + 0x2000, SecondStageEntry::large(0x40_0000).0[0]);
    software.broke(&[Rule::PageSize]);
}

#[test]
fn a_cleared_entry_may_become_a_page_of_another_size() {
    let mut software = split(|_, small| small);
    software.store(TABLES + 0x2000, 0);
    software.queue(&[iotlb_page(1, 9)]);
    software.store(TABLES + 0x2000, SecondStageEntry::large(0x40_0000).0[0]);
    software.clean();
}

#[test]
fn two_contexts_of_one_domain_with_other_tables_conflict() {
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    software.entry(context(0x18), &ContextEntry::new(OTHERS, 2, 1).0);
    software.broke(&[Rule::DomainConflict]);
}

#[test]
fn two_contexts_of_one_domain_with_other_widths_conflict() {
    let mut software = Software::legacy(profile());
    software.entry(context(0x18), &ContextEntry::new(TABLES, 3, 1).0);
    software.broke(&[Rule::DomainConflict]);
}

#[test]
fn two_contexts_of_one_domain_and_one_table_agree() {
    let mut software = Software::legacy(profile());
    software.entry(context(0x18), &ContextEntry::new(TABLES, 2, 1).0);
    software.entry(context(0x20), &ContextEntry::new(TABLES, 2, 2).0);
    software.clean();
}

#[test]
fn a_first_and_a_second_stage_may_not_share_a_domain() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.second_stage(OTHERS);
    software.entry(pasid(1), &first_stage(TABLES, 1).0);
    software.entry(pasid(2), &PasidEntry::second_stage(OTHERS, 2, 1).0);
    software.broke(&[Rule::DomainConflict]);
}

#[test]
fn pass_through_and_a_second_stage_may_not_share_a_domain() {
    let mut software = Software::scalable(profile());
    software.second_stage(OTHERS);
    software.entry(pasid(1), &PasidEntry::pass_through(1).0);
    software.entry(pasid(2), &PasidEntry::second_stage(OTHERS, 2, 1).0);
    software.broke(&[Rule::DomainConflict]);
}

#[test]
fn first_stages_of_many_pasids_and_pass_through_may_share_a_domain() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.first_stage(OTHERS);
    software.entry(pasid(1), &first_stage(TABLES, 1).0);
    software.entry(pasid(2), &first_stage(OTHERS, 1).0);
    software.entry(pasid(3), &PasidEntry::pass_through(1).0);
    software.clean();
}

/// A second device with a PASID table of its own, in which a PASID has the same domain and other tables.
fn second_device(software: &mut Software, entry: PasidEntry) {
    const DIRECTORY_2: u64 = 0x1_8000;
    const PASIDS_2: u64 = 0x1_9000;
    software.entry(PASIDS_2 + 64 * u64::from(PASID), &entry.0);
    software.entry(DIRECTORY_2, &PasidDirectoryEntry::new(PASIDS_2).0);
    let context = ScalableContextEntry::new(DIRECTORY_2, 0).with(ScalableContextEntry::PASIDE, 1);
    software.entry(scalable_context(0x18), &context.0);
}

#[test]
fn one_domain_and_pasid_may_not_lead_to_two_first_stages() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.first_stage(OTHERS);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    second_device(&mut software, first_stage(OTHERS, 1));
    software.broke(&[Rule::PasidConflict]);
}

/// A guest gave Intel's pKVM pages for PASID tables, and had filled them before.
#[test]
fn pkvm_links_a_pasid_table_that_a_guest_has_filled() {
    let mut software = Software::scalable(profile());
    software.second_stage(TABLES);
    software.second_stage(OTHERS);
    software.entry(pasid(PASID), &PasidEntry::second_stage(TABLES, 2, 1).0);
    software.entry(0x1_9000 + 64 * 7, &PasidEntry::second_stage(OTHERS, 2, 1).0);
    software.clean();
    software.store(DIRECTORY + 8, PasidDirectoryEntry::new(0x1_9000).0[0]);
    software.broke(&[Rule::DomainConflict]);
}

#[test]
fn one_domain_and_pasid_of_two_devices_may_lead_to_one_first_stage() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    second_device(&mut software, first_stage(TABLES, 1));
    software.clean();
}

#[test]
fn one_second_stage_has_one_ssade() {
    let mut software = Software::scalable(profile());
    software.second_stage(TABLES);
    software.entry(pasid(1), &PasidEntry::second_stage(TABLES, 2, 1).0);
    software.entry(pasid(2), &PasidEntry::second_stage(TABLES, 2, 2).with(PasidEntry::SSADE, 1).0);
    software.broke(&[Rule::TableConflict]);
}

#[test]
fn one_first_stage_has_one_eafe() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.entry(pasid(1), &first_stage(TABLES, 1).0);
    software.entry(pasid(2), &first_stage(TABLES, 1).with(PasidEntry::EAFE, 1).0);
    software.broke(&[Rule::TableConflict]);
}

#[test]
fn one_second_stage_may_have_several_domains() {
    let mut software = Software::scalable(profile());
    software.second_stage(TABLES);
    software.entry(pasid(1), &PasidEntry::second_stage(TABLES, 2, 1).0);
    software.entry(pasid(2), &PasidEntry::second_stage(TABLES, 2, 2).0);
    software.entry(pasid(3), &PasidEntry::nested(0x9000, false, TABLES, 2, 3).0);
    software.clean();
}

#[test]
fn domain_0_is_reserved_on_caching_mode_units() {
    let mut software = Software::legacy(caching());
    software.second_stage(OTHERS);
    software.entry(context(0x18), &ContextEntry::new(OTHERS, 2, 0).0);
    software.broke(&[Rule::ReservedDomain]);
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    software.entry(context(0x18), &ContextEntry::new(OTHERS, 2, 0).0);
    software.clean();
}

#[test]
fn tables_that_were_wrong_before_they_were_live_are_found_when_they_are() {
    let mut software = Software::new(profile());
    software.entry(ROOT, &RootEntry::new(CONTEXTS).0);
    software.entry(context(DEVICE), &ContextEntry::new(TABLES, 2, 1).0);
    software.entry(context(0x18), &ContextEntry::new(OTHERS, 2, 1).0);
    software.clean();
    software.rig.w64(IQA, QUEUE | 1 << 11);
    software.rig.command(QIE, true);
    software.rig.w64(RTADDR, ROOT);
    software.rig.command(SRTP, true);
    software.queue(&[[0x11, 0], [0x12, 0]]);
    software.clean();
    software.rig.command(TE, true);
    software.broke(&[Rule::DomainConflict]);
}

#[test]
fn a_domain_is_reused_while_its_translations_are_cached() {
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    software.read();
    software.store(context(DEVICE), 0);
    software.queue(&[cc_device(1, DEVICE)]);
    software.entry(context(0x18), &ContextEntry::new(OTHERS, 2, 1).0);
    software.broke(&[Rule::TagReused]);
}

#[test]
fn a_domain_is_reused_while_its_context_entry_is_cached() {
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    software.read();
    software.store(context(DEVICE), 0);
    software.queue(&[iotlb_domain(1)]);
    software.entry(context(0x18), &ContextEntry::new(OTHERS, 2, 1).0);
    software.broke(&[Rule::TagReused]);
}

#[test]
fn a_domain_may_be_reused_once_it_has_been_invalidated() {
    let mut software = Software::legacy(profile());
    software.second_stage(OTHERS);
    software.read();
    software.store(context(DEVICE), 0);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1)]);
    software.entry(context(0x18), &ContextEntry::new(OTHERS, 2, 1).0);
    software.clean();
}

#[test]
fn another_device_may_join_a_domain_whose_translations_are_cached() {
    let mut software = Software::legacy(profile());
    software.read();
    software.entry(context(0x18), &ContextEntry::new(TABLES, 2, 1).0);
    software.clean();
}

#[test]
fn a_pasid_is_reused_while_its_translations_are_cached() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.first_stage(OTHERS);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    assert!(matches!(software.read_pasid(DEVICE, PASID), Answer::Passed(_)));
    software.store(pasid(PASID), 0);
    software.queue(&[pc_pasid(1, PASID)]);
    software.entry(pasid(PASID), &first_stage(OTHERS, 1).0);
    software.broke(&[Rule::TagReused]);
}

#[test]
fn a_pasid_may_be_reused_once_it_has_been_invalidated() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.first_stage(OTHERS);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    software.read_pasid(DEVICE, PASID);
    software.store(pasid(PASID), 0);
    software.queue(&[pc_pasid(1, PASID), pasid_iotlb(1, PASID)]);
    software.entry(pasid(PASID), &first_stage(OTHERS, 1).0);
    software.clean();
}

#[test]
fn another_pasid_may_join_the_domain() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.first_stage(OTHERS);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    software.read_pasid(DEVICE, PASID);
    software.entry(pasid(6), &first_stage(OTHERS, 1).0);
    software.read_pasid(DEVICE, 6);
    software.clean();
}

/// A second stage takes the domain of a first stage whose translations have been invalidated page by page only, which leaves
/// the walk caches.
#[test]
fn a_domain_is_reused_while_its_walks_are_cached() {
    let mut software = Software::scalable(profile());
    software.first_stage(TABLES);
    software.second_stage(OTHERS);
    software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
    software.read_pasid(DEVICE, PASID);
    software.store(pasid(PASID), 0);
    let page = [0x36 | 1 << 16 | u64::from(PASID) << 32, IOVA | 1 << 6];
    software.queue(&[pc_pasid(1, PASID), page]);
    software.entry(pasid(6), &PasidEntry::second_stage(OTHERS, 2, 1).0);
    software.broke(&[Rule::TagReused]);
}

/// Second-stage tables that map the first 2 MiB to themselves, and first-stage tables of a guest within.
fn guest() -> Software {
    let mut software = Software::scalable(profile());
    for n in 0..2 {
        software.store(TABLES + n * 0x1000, SecondStageEntry::new(TABLES + (n + 1) * 0x1000).0[0]);
    }
    software.store(TABLES + 0x2000, SecondStageEntry::large(0).0[0]);
    software.first_stage(OTHERS);
    let nested = PasidEntry::nested(OTHERS, false, TABLES, 2, 1).with(PasidEntry::PWSNP, 1);
    software.entry(pasid(PASID), &nested.0);
    assert!(matches!(software.read_pasid(DEVICE, PASID), Answer::Passed(_)));
    software
}

/// One domain for all that a second stage serves is what Intel recommends.
#[test]
fn a_second_stage_may_join_the_domain_of_a_guest_above_it() {
    let mut software = guest();
    software.entry(pasid(6), &PasidEntry::second_stage(TABLES, 2, 1).with(PasidEntry::PWSNP, 1).0);
    software.clean();
}

#[test]
fn a_second_stage_may_not_take_the_pasid_of_a_guest_whose_walks_are_cached() {
    let mut software = guest();
    software.store(pasid(PASID), 0);
    let page = [0x36 | 1 << 16 | u64::from(PASID) << 32, IOVA | 1 << 6];
    software.queue(&[pc_pasid(1, PASID), page]);
    software.entry(pasid(PASID), &PasidEntry::second_stage(TABLES, 2, 1).with(PasidEntry::PWSNP, 1).0);
    software.broke(&[Rule::TagReused]);
}

#[test]
fn an_entry_that_was_made_present_whole_may_change_in_one_word_later() {
    let mut software = Software::legacy(profile());
    software.entry(context(0x18), &ContextEntry::new(TABLES, 2, 1).0);
    software.at_rest();
    software.store(context(0x18) + 8, 2 | 2 << 8);
    software.clean();
}

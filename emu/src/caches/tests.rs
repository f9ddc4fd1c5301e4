use super::*;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use proptest::prelude::*;

const READ: Rights = Rights { read: true, write: false, user: true };

fn leaf(first: u64, size: u64, domain: u16, pasid: Pasid, stage: Stage) -> Leaf {
    Leaf {
        first,
        size,
        physical: first + 0x1_0000_0000,
        read: true,
        write: true,
        first_rights: READ,
        dirty: false,
        snoop: false,
        memory: 0,
        domain,
        pasid,
        stage,
        path: vec![0x8000, 0x9000],
    }
}

fn table(first: u64, bits: u8, at: u64) -> Table {
    Table { first, bits, table: at, rights: READ, path: vec![at - 0x1000] }
}

fn context(domain: u16) -> Cached<Context> {
    Cached::Valid(Context { words: [1, 0, 0, 0], domain, path: vec![0x1000, 0x2000] })
}

fn pasid_entry(domain: u16) -> Cached<PasidEntry> {
    Cached::Valid(PasidEntry { words: [1; 8], silent: false, domain, path: vec![0x3000] })
}

fn pages(address: u64, order: u8) -> Pages {
    Pages { address, order, leaf_only: false }
}

fn leaves_of(address: u64, order: u8) -> Pages {
    Pages { leaf_only: true, ..pages(address, order) }
}

/// Domain 1: first stage, PASIDs 5 and 6. Domain 2: second stage. Domain 3: nested, PASID 5. Domain 4: pass-through.
fn full() -> Caches {
    let mut caches = Caches::new(Keep::Everything, 0);
    for (source, domain) in [(0x100, 1), (0x101, 1), (0x102, 1), (0x104, 1), (0x108, 1), (0x200, 2)] {
        caches.keep_context(source, context(domain));
    }
    caches.keep_context(0x300, Cached::Faulting(Reason(2)));
    for (source, pasid, domain) in [(0x100, 5, 1), (0x100, 6, 1), (0x101, 5, 1), (0x200, 5, 2), (0x200, 0, 2)] {
        caches.keep_pasid(source, pasid, pasid_entry(domain));
    }
    caches.keep_pasid(0x300, 5, Cached::Faulting(Reason(0x59)));
    for at in [0x1000, 0x2000, 0x20_0000] {
        caches.keep_leaf(0x100, Some(5), leaf(at, 0x1000, 1, 5, Stage::First));
        caches.keep_leaf(0x100, Some(6), leaf(at, 0x1000, 1, 6, Stage::First));
        caches.keep_leaf(0x200, None, leaf(at, 0x1000, 2, 0, Stage::Second));
        caches.keep_leaf(0x300, Some(5), leaf(at, 0x1000, 3, 5, Stage::Nested));
        caches.keep_leaf(0x400, None, leaf(at, 0x1000, 4, 0, Stage::PassThrough));
    }
    for (domain, pasid) in [(1, 5), (1, 6), (3, 5)] {
        caches.keep_first_stage(domain, pasid, table(0, 21, 0x1_1000));
        caches.keep_first_stage(domain, pasid, table(0x20_0000, 21, 0x1_2000));
        caches.keep_first_stage(domain, pasid, table(0, 30, 0x1_3000));
    }
    for domain in [2, 3] {
        caches.keep_second_stage(domain, table(0, 21, 0x2_1000));
        caches.keep_second_stage(domain, table(0x20_0000, 21, 0x2_2000));
        caches.keep_second_stage(domain, table(0, 30, 0x2_3000));
    }
    for index in 0..8 {
        caches.keep_interrupt(index, Cached::Valid([1, 0]));
    }
    caches
}

fn contents(caches: &Caches) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    all.extend(caches.contexts().map(|(source, _)| format!("context {source:x}")));
    all.extend(caches.pasids().map(|(source, pasid, _)| format!("pasid {source:x}/{pasid}")));
    all.extend(caches.translations().map(|t| format!("page {}/{} {:x}", t.domain, t.pasid, t.first)));
    all.extend(caches.first_stages().map(|(d, p, t)| format!("first {d}/{p} {:x}+{}", t.first, t.bits)));
    all.extend(caches.second_stages().map(|(d, t)| format!("second {d} {:x}+{}", t.first, t.bits)));
    all.extend(caches.interrupts().map(|(index, _)| format!("interrupt {index}")));
    all
}

/// What an invalidation takes from `full`; everything else has stayed.
fn taken(what: Invalidation, mode: Mode) -> Vec<String> {
    let mut caches = full();
    let before = contents(&caches);
    caches.invalidate(&what, mode);
    let after = contents(&caches);
    assert!(after.is_subset(&before));
    before.difference(&after).cloned().collect()
}

/// Those entries of `full` whose names begin so.
fn named(prefixes: &[&str]) -> Vec<String> {
    contents(&full()).into_iter().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect()
}

#[test]
fn global_context_invalidation_takes_every_context_and_nothing_else() {
    assert_eq!(taken(Invalidation::Contexts, Mode::Legacy), named(&["context"]));
    assert_eq!(taken(Invalidation::Contexts, Mode::Scalable), named(&["context"]));
}

#[test]
fn domain_context_invalidation_in_legacy_mode_takes_the_contexts_of_the_domain() {
    assert_eq!(taken(Invalidation::ContextsOfDomain(2), Mode::Legacy), ["context 200"]);
    assert_eq!(taken(Invalidation::ContextsOfDomain(9), Mode::Legacy), named(&[]));
}

#[test]
fn domain_context_invalidation_in_scalable_mode_is_global() {
    assert_eq!(taken(Invalidation::ContextsOfDomain(9), Mode::Scalable), named(&["context"]));
}

#[test]
fn faulting_legacy_contexts_have_domain_0() {
    assert_eq!(taken(Invalidation::ContextsOfDomain(0), Mode::Legacy), ["context 300"]);
    let device = |domain| Invalidation::ContextOfDevice { domain, source: 0x300, mask: 0 };
    assert_eq!(taken(device(7), Mode::Legacy), named(&[]));
    assert_eq!(taken(device(0), Mode::Legacy), ["context 300"]);
    assert_eq!(taken(device(7), Mode::Scalable), ["context 300"]);
}

#[test]
fn device_context_invalidation_compares_the_domain_in_legacy_mode_only() {
    let device = |domain| Invalidation::ContextOfDevice { domain, source: 0x100, mask: 0 };
    assert_eq!(taken(device(1), Mode::Legacy), ["context 100"]);
    assert_eq!(taken(device(2), Mode::Legacy), named(&[]));
    assert_eq!(taken(device(2), Mode::Scalable), ["context 100"]);
}

#[test]
fn function_masks_leave_out_function_bits_from_the_highest_on() {
    let device = |mask| taken(Invalidation::ContextOfDevice { domain: 1, source: 0x104, mask }, Mode::Legacy);
    assert_eq!(device(0), ["context 104"]);
    assert_eq!(device(1), ["context 100", "context 104"]);
    assert_eq!(device(2), ["context 100", "context 102", "context 104"]);
    assert_eq!(device(3), ["context 100", "context 101", "context 102", "context 104"]);
}

#[test]
fn global_pasid_invalidation_takes_every_pasid_entry_and_nothing_else() {
    assert_eq!(taken(Invalidation::Pasids, Mode::Scalable), named(&["pasid"]));
}

#[test]
fn domain_pasid_invalidation_takes_the_pasid_entries_of_the_domain() {
    assert_eq!(taken(Invalidation::PasidsOfDomain(1), Mode::Scalable), named(&["pasid 100", "pasid 101"]));
}

#[test]
fn pasid_invalidation_takes_the_pasid_of_every_source_in_the_domain() {
    assert_eq!(taken(Invalidation::PasidOfDomain(1, 5), Mode::Scalable), ["pasid 100/5", "pasid 101/5"]);
}

#[test]
fn faulting_pasid_entries_have_domain_0() {
    assert_eq!(taken(Invalidation::PasidsOfDomain(0), Mode::Scalable), ["pasid 300/5"]);
    assert_eq!(taken(Invalidation::PasidOfDomain(0, 5), Mode::Scalable), ["pasid 300/5"]);
}

#[test]
fn global_iotlb_invalidation_takes_every_translation_and_every_table() {
    assert_eq!(taken(Invalidation::Iotlb, Mode::Scalable), named(&["page", "first", "second"]));
}

#[test]
fn domain_iotlb_invalidation_takes_translations_and_tables_of_the_domain() {
    for domain in 1..=4 {
        let expected = named(&[&format!("page {domain}/"), &format!("first {domain}/"), &format!("second {domain} ")]);
        assert_eq!(taken(Invalidation::IotlbOfDomain(domain), Mode::Scalable), expected);
    }
}

#[test]
fn page_iotlb_invalidation_of_a_second_stage_takes_the_range_and_the_tables_above_it() {
    assert_eq!(
        taken(Invalidation::IotlbPages(2, pages(0x1000, 0)), Mode::Scalable),
        ["page 2/0 1000", "second 2 0+21", "second 2 0+30"]
    );
    assert_eq!(
        taken(Invalidation::IotlbPages(2, pages(0, 9)), Mode::Legacy),
        ["page 2/0 1000", "page 2/0 2000", "second 2 0+21", "second 2 0+30"]
    );
    assert_eq!(taken(Invalidation::IotlbPages(2, pages(0, 18)), Mode::Scalable), named(&["page 2/", "second 2 "]));
}

#[test]
fn page_iotlb_invalidation_with_the_hint_leaves_second_stage_tables() {
    assert_eq!(taken(Invalidation::IotlbPages(2, leaves_of(0x1000, 0)), Mode::Scalable), ["page 2/0 1000"]);
}

#[test]
fn page_iotlb_invalidation_of_pass_through_takes_the_range() {
    assert_eq!(taken(Invalidation::IotlbPages(4, pages(0x2000, 0)), Mode::Scalable), ["page 4/0 2000"]);
}

#[test]
fn page_iotlb_invalidation_takes_all_that_a_first_stage_had_a_part_in() {
    assert_eq!(
        taken(Invalidation::IotlbPages(1, leaves_of(0x7000_0000, 0)), Mode::Scalable),
        named(&["first 1/", "page 1/"])
    );
    assert_eq!(
        taken(Invalidation::IotlbPages(3, leaves_of(0x7000_0000, 0)), Mode::Scalable),
        named(&["first 3/", "page 3/"])
    );
    let mut expected = named(&["first 3/", "page 3/"]);
    expected.extend(named(&["second 3 0+"]));
    assert_eq!(taken(Invalidation::IotlbPages(3, pages(0x5000, 0)), Mode::Scalable), expected);
}

#[test]
fn pasid_invalidation_of_the_iotlb_takes_the_pasid_and_no_second_stage_table() {
    assert_eq!(taken(Invalidation::PasidIotlb(1, 5), Mode::Scalable), named(&["first 1/5", "page 1/5"]));
    assert_eq!(taken(Invalidation::PasidIotlb(2, 0), Mode::Scalable), named(&["page 2/0"]));
    assert_eq!(taken(Invalidation::PasidIotlb(3, 5), Mode::Scalable), named(&["first 3/5", "page 3/5"]));
    assert_eq!(taken(Invalidation::PasidIotlb(4, 0), Mode::Scalable), named(&["page 4/0"]));
    assert_eq!(taken(Invalidation::PasidIotlb(2, 5), Mode::Scalable), named(&[]));
}

#[test]
fn page_invalidation_of_a_pasid_takes_the_range_of_first_stages() {
    assert_eq!(
        taken(Invalidation::PasidIotlbPages(1, 6, pages(0x2000, 0)), Mode::Scalable),
        ["first 1/6 0+21", "first 1/6 0+30", "page 1/6 2000"]
    );
    assert_eq!(
        taken(Invalidation::PasidIotlbPages(3, 5, pages(0x20_0000, 0)), Mode::Scalable),
        ["first 3/5 0+30", "first 3/5 200000+21", "page 3/5 200000"]
    );
    assert_eq!(
        taken(Invalidation::PasidIotlbPages(1, 6, leaves_of(0, 10)), Mode::Scalable),
        ["page 1/6 1000", "page 1/6 2000", "page 1/6 200000"]
    );
}

#[test]
fn page_invalidation_of_a_pasid_leaves_second_stages_and_pass_through() {
    assert_eq!(taken(Invalidation::PasidIotlbPages(2, 0, pages(0, 52)), Mode::Scalable), named(&[]));
    assert_eq!(taken(Invalidation::PasidIotlbPages(4, 0, pages(0, 52)), Mode::Scalable), named(&[]));
}

#[test]
fn global_interrupt_invalidation_takes_every_interrupt_entry_and_nothing_else() {
    assert_eq!(taken(Invalidation::Interrupts, Mode::Legacy), named(&["interrupt"]));
}

#[test]
fn index_masks_leave_out_low_index_bits() {
    assert_eq!(taken(Invalidation::InterruptsAt(3, 0), Mode::Legacy), ["interrupt 3"]);
    assert_eq!(taken(Invalidation::InterruptsAt(3, 1), Mode::Legacy), ["interrupt 2", "interrupt 3"]);
    assert_eq!(taken(Invalidation::InterruptsAt(9, 2), Mode::Legacy), named(&[]));
    assert_eq!(taken(Invalidation::InterruptsAt(0xffff, 200), Mode::Legacy), named(&["interrupt"]));
}

#[test]
fn a_new_root_takes_everything_but_interrupt_entries() {
    let expected = named(&["context", "pasid", "page", "first", "second"]);
    assert_eq!(taken(Invalidation::Everything, Mode::Scalable), expected);
}

#[test]
fn host_permissions_are_another_cache() {
    assert_eq!(taken(Invalidation::HostPermissions, Mode::Scalable), named(&[]));
}

#[test]
fn page_requests_invalidate_by_stage() {
    let of = |stage, domain, pasid| taken(Invalidation::of_page_request(stage, domain, pasid, 0x1000), Mode::Scalable);
    assert_eq!(of(Stage::First, 1, 5), ["first 1/5 0+21", "first 1/5 0+30", "page 1/5 1000"]);
    assert_eq!(of(Stage::Second, 2, 0), ["page 2/0 1000", "second 2 0+21", "second 2 0+30"]);
    assert_eq!(of(Stage::Nested, 3, 5), named(&["first 3", "page 3", "second 3"]));
    assert_eq!(of(Stage::PassThrough, 4, 0), ["page 4/0 1000"]);
}

fn physical(caches: &mut Caches, source: SourceId, pasid: Option<Pasid>, at: u64) -> Option<u64> {
    match caches.leaf(source, pasid, at)? {
        Cached::Valid(leaf) => Some(leaf.physical + (at - leaf.first)),
        Cached::Faulting(_) => None,
    }
}

#[test]
fn translations_are_looked_up_by_source_and_pasid() {
    let mut caches = full();
    assert_eq!(physical(&mut caches, 0x100, Some(5), 0x1fff), Some(0x1_0000_1fff));
    assert_eq!(physical(&mut caches, 0x100, None, 0x1000), None);
    assert_eq!(physical(&mut caches, 0x101, Some(5), 0x1000), None);
    assert_eq!(physical(&mut caches, 0x200, Some(0), 0x1000), None);
    assert_eq!(physical(&mut caches, 0x200, None, 0x1000), Some(0x1_0000_1000));
}

#[test]
fn pages_of_every_size_are_found() {
    for shift in [12, 21, 30] {
        let mut caches = Caches::new(Keep::Everything, 0);
        let first = 5 << shift;
        caches.keep_leaf(1, None, leaf(first, 1 << shift, 1, 0, Stage::Second));
        assert_eq!(physical(&mut caches, 1, None, first - 1), None);
        assert_eq!(physical(&mut caches, 1, None, first), Some(first + 0x1_0000_0000));
        let last = first + (1 << shift) - 1;
        assert_eq!(physical(&mut caches, 1, None, last), Some(last + 0x1_0000_0000));
        assert_eq!(physical(&mut caches, 1, None, last + 1), None);
    }
}

#[test]
fn of_pages_that_overlap_the_oldest_is_used() {
    let mut caches = Caches::new(Keep::Everything, 0);
    let small = Leaf { physical: 0xa000, ..leaf(0x1000, 0x1000, 1, 0, Stage::Second) };
    caches.keep_leaf(1, None, small.clone());
    caches.keep_leaf(1, None, leaf(0, 0x20_0000, 1, 0, Stage::Second));
    assert_eq!(physical(&mut caches, 1, None, 0x1000), Some(0xa000));
    assert_eq!(physical(&mut caches, 1, None, 0x2000), Some(0x1_0000_2000));
    let mut caches = Caches::new(Keep::Everything, 0);
    caches.keep_leaf(1, None, leaf(0, 0x20_0000, 1, 0, Stage::Second));
    caches.keep_leaf(1, None, small);
    assert_eq!(physical(&mut caches, 1, None, 0x1000), Some(0x1_0000_1000));
}

#[test]
fn an_address_mask_that_is_too_small_takes_only_its_range_of_a_large_page() {
    let mut caches = Caches::new(Keep::Everything, 0);
    caches.keep_leaf(1, None, leaf(0x4000_0000, 0x4000_0000, 1, 0, Stage::Second));
    caches.invalidate(&Invalidation::IotlbPages(1, leaves_of(0x4012_3000, 0)), Mode::Legacy);
    assert_eq!(physical(&mut caches, 1, None, 0x4012_3000), None);
    for at in [0x4000_0000, 0x4012_2000, 0x4012_4000, 0x7fff_f000] {
        assert_eq!(physical(&mut caches, 1, None, at), Some(at + 0x1_0000_0000));
    }
    caches.invalidate(&Invalidation::IotlbPages(1, leaves_of(0x4000_0000, 9)), Mode::Legacy);
    assert_eq!(physical(&mut caches, 1, None, 0x4012_2000), None);
    assert_eq!(physical(&mut caches, 1, None, 0x4020_0000), Some(0x1_4020_0000));
    caches.invalidate(&Invalidation::IotlbPages(1, leaves_of(0x4000_0000, 18)), Mode::Legacy);
    assert_eq!(caches.translations().count(), 0);
}

#[test]
fn address_bits_that_the_mask_covers_are_not_looked_at() {
    let mut caches = full();
    caches.invalidate(&Invalidation::IotlbPages(2, pages(0x1f_f000, 9)), Mode::Legacy);
    assert_eq!(physical(&mut caches, 0x200, None, 0x1000), None);
    assert_eq!(physical(&mut caches, 0x200, None, 0x20_0000), Some(0x1_0020_0000));
}

#[test]
fn negative_first_stage_addresses_are_found_and_invalidated() {
    let at = 0xffff_8000_0000_1000;
    let mut caches = Caches::new(Keep::Everything, 0);
    caches.keep_leaf(1, Some(5), Leaf { physical: 0x7000, ..leaf(0, 0x1000, 1, 5, Stage::First) });
    let high = Leaf { first: at, physical: 0x6000, ..leaf(0, 0x1000, 1, 5, Stage::First) };
    caches.keep_leaf(1, Some(5), high);
    caches.keep_first_stage(1, 5, table(at & !0x1f_ffff, 21, 0x5000));
    assert_eq!(physical(&mut caches, 1, Some(5), at), Some(0x6000));
    assert_eq!(physical(&mut caches, 1, Some(5), at & 0x1ff_ffff_ffff_ffff), None);
    assert_eq!(caches.first_stage(1, 5, at).map(|table| table.table), Some(0x5000));
    assert_eq!(caches.first_stage(1, 5, at & 0x1ff_ffff_ffff_ffff), None);
    caches.invalidate(&Invalidation::PasidIotlbPages(1, 5, pages(at, 0)), Mode::Scalable);
    assert_eq!(physical(&mut caches, 1, Some(5), at), None);
    assert_eq!(caches.first_stage(1, 5, at), None);
    assert_eq!(physical(&mut caches, 1, Some(5), 0), Some(0x7000));
}

#[test]
fn the_lowest_table_on_the_way_is_used() {
    let mut caches = full();
    assert_eq!(caches.second_stage(2, 0x3000).map(|table| table.table), Some(0x2_1000));
    assert_eq!(caches.second_stage(2, 0x40_0000).map(|table| table.table), Some(0x2_3000));
    assert_eq!(caches.second_stage(2, 0x4000_0000), None);
    assert_eq!(caches.second_stage(4, 0x3000), None);
    assert_eq!(caches.first_stage(1, 6, 0x20_0000).map(|table| table.table), Some(0x1_2000));
    assert_eq!(caches.first_stage(1, 7, 0x20_0000), None);
    caches.keep_second_stage(2, table(0, 39, 0x2_4000));
    assert_eq!(caches.second_stage(2, 0x4000_0000).map(|table| table.table), Some(0x2_4000));
}

#[test]
fn faulting_translations_have_the_tags_of_the_translation() {
    let mut caches = Caches::new(Keep::Everything, 0);
    caches.keep_fault((1, None, 0x1234), (7, 0, Stage::Second), Reason(6));
    assert_eq!(caches.leaf(1, None, 0x1000), Some(&Cached::Faulting(Reason(6))));
    assert_eq!(caches.leaf(1, None, 0x2000), None);
    caches.invalidate(&Invalidation::IotlbPages(0, pages(0x1000, 0)), Mode::Legacy);
    assert!(caches.leaf(1, None, 0x1000).is_some());
    caches.invalidate(&Invalidation::IotlbPages(7, pages(0x1000, 0)), Mode::Legacy);
    assert_eq!(caches.leaf(1, None, 0x1000), None);
}

#[test]
fn faults_of_first_stages_are_not_kept() {
    let mut caches = Caches::new(Keep::Everything, 0);
    caches.keep_fault((1, Some(5), 0x1000), (7, 5, Stage::First), Reason(0x71));
    assert_eq!(caches.leaf(1, Some(5), 0x1000), None);
}

#[test]
fn caches_that_keep_nothing_keep_nothing() {
    let mut caches = full();
    caches.set_keep(Keep::Nothing);
    assert_eq!(contents(&caches), BTreeSet::new());
    caches.keep_context(1, context(1));
    caches.keep_pasid(1, 1, pasid_entry(1));
    caches.keep_leaf(1, None, leaf(0, 0x1000, 1, 0, Stage::Second));
    caches.keep_fault((1, None, 0x1000), (1, 0, Stage::Second), Reason(6));
    caches.keep_first_stage(1, 1, table(0, 21, 0x1000));
    caches.keep_second_stage(1, table(0, 21, 0x1000));
    caches.keep_interrupt(1, Cached::Valid([1, 0]));
    assert_eq!(contents(&caches), BTreeSet::new());
}

#[test]
fn caches_that_keep_most_lose_the_same_entries_for_the_same_seed() {
    let lost = |seed| {
        let mut lost = Vec::new();
        let mut caches = Caches::new(Keep::Most(20), seed);
        for source in 0..1000 {
            caches.keep_context(source, context(1));
            lost.push(caches.context(source).is_none());
        }
        lost
    };
    let first = lost(1);
    let n = first.iter().filter(|lost| **lost).count();
    assert!((150..250).contains(&n), "{n}");
    assert_eq!(first, lost(1));
    assert_ne!(first, lost(2));
}

#[test]
fn every_cache_may_lose_entries() {
    let mut caches = full();
    caches.set_keep(Keep::Most(100));
    assert_eq!(caches.context(0x100), None);
    assert_eq!(caches.pasid(0x100, 5), None);
    assert_eq!(caches.leaf(0x100, Some(5), 0x1000), None);
    assert_eq!(caches.first_stage(1, 5, 0x1000).map(|table| table.bits), Some(30));
    assert_eq!(caches.second_stage(2, 0x1000).map(|table| table.bits), Some(30));
    assert_eq!(caches.interrupt(3), None);
}

#[test]
fn a_full_cache_gives_up_its_oldest_entry() {
    let mut caches = Caches::new(Keep::Everything, 0);
    caches.set_capacity(Some(2));
    for at in [3, 1, 2] {
        caches.keep_leaf(1, None, leaf(at << 12, 0x1000, 1, 0, Stage::Second));
        caches.keep_context(at as SourceId, context(1));
        caches.keep_second_stage(1, table(at << 21, 21, at << 12));
    }
    assert_eq!(caches.leaf(1, None, 0x3000), None);
    assert!(caches.leaf(1, None, 0x1000).is_some() && caches.leaf(1, None, 0x2000).is_some());
    assert_eq!(caches.contexts().map(|(source, _)| source).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(caches.second_stage(1, 3 << 21), None);
}

#[test]
fn pages_that_entries_were_reached_through_are_named_until_the_entries_are_gone() {
    let mut caches = full();
    let page = Held::Translation { source: 0x100, domain: 1, pasid: 5, first: 0x1000 };
    assert_eq!(caches.holds_page(0x9abc), Some(page));
    assert_eq!(caches.holds_page(0x1000), Some(Held::Context(0x100)));
    assert_eq!(caches.holds_page(0x3000), Some(Held::Pasid { source: 0x100, pasid: 5, domain: 1 }));
    assert_eq!(caches.holds_page(0x1_0000), Some(Held::FirstStage { domain: 1, pasid: 5, first: 0 }));
    assert_eq!(caches.holds_page(0x2_0000), Some(Held::SecondStage { domain: 2, first: 0 }));
    assert_eq!(caches.holds_page(0x4000), None);
    assert_eq!(caches.holds_pages(0x4000, 0x8fff), Some(page));
    caches.invalidate(&Invalidation::IotlbOfDomain(2), Mode::Legacy);
    assert_eq!(caches.holds_page(0x2_0000), Some(Held::SecondStage { domain: 3, first: 0 }));
    caches.invalidate(&Invalidation::Iotlb, Mode::Legacy);
    assert_eq!(caches.holds_pages(0x4000, u64::MAX), None);
    caches.invalidate(&Invalidation::Contexts, Mode::Legacy);
    assert_eq!(caches.holds_pages(0, 0x2fff), None);
}

#[test]
fn an_entry_that_replaces_another_holds_only_its_own_pages() {
    let mut caches = Caches::new(Keep::Everything, 0);
    caches.keep_leaf(1, None, leaf(0x1000, 0x1000, 1, 0, Stage::Second));
    caches.keep_leaf(1, None, Leaf { path: vec![0x5000], ..leaf(0x1000, 0x1000, 1, 0, Stage::Second) });
    assert_eq!(caches.holds_page(0x9000), None);
    assert!(caches.holds_page(0x5000).is_some());
}

/// What is to happen to the caches and to the model.
#[derive(Clone, Debug)]
enum Op {
    Ask { source: SourceId, pasid: Option<Pasid>, page: u64, shift: u8 },
    Forget(Invalidation),
}

/// One translation of the model: what it was made of, and which of its pages are left.
struct Known {
    source: SourceId,
    asked: Option<Pasid>,
    domain: u16,
    pasid: Pasid,
    stage: Stage,
    id: u64,
    left: BTreeSet<u64>,
}

/// Sources 0 and 1 use domain 1 by a first stage (source 1 with PASIDs nested in domain 2), 2 and 3 a second stage in 3.
fn tags(source: SourceId, asked: Option<Pasid>) -> (u16, Pasid, Stage) {
    match (source, asked) {
        (0, pasid) => (1, pasid.unwrap_or(0), Stage::First),
        (1, Some(pasid)) => (2, pasid, Stage::Nested),
        (1, None) => (1, 0, Stage::First),
        (2, pasid) => (3, pasid.unwrap_or(0), Stage::Second),
        (_, pasid) => (4, pasid.unwrap_or(0), Stage::PassThrough),
    }
}

fn covered(known: &Known, page: u64, what: &Invalidation) -> bool {
    let of = |pages: &Pages| page >> pages.order == (pages.address >> 12) >> pages.order;
    let staged = matches!(known.stage, Stage::First | Stage::Nested);
    match what {
        Invalidation::Iotlb | Invalidation::Everything => true,
        Invalidation::IotlbOfDomain(domain) => known.domain == *domain,
        Invalidation::IotlbPages(domain, pages) => known.domain == *domain && (staged || of(pages)),
        Invalidation::PasidIotlb(domain, pasid) => known.domain == *domain && known.pasid == *pasid,
        Invalidation::PasidIotlbPages(domain, pasid, pages) => {
            staged && known.domain == *domain && known.pasid == *pasid && of(pages)
        }
        _ => false,
    }
}

fn op() -> impl Strategy<Value = Op> {
    let range = (0u64..2048, 0u8..12, any::<bool>()).prop_map(|(page, order, leaf_only)| Pages {
        address: page >> order << order << 12,
        order,
        leaf_only,
    });
    let ask = (0u16..4, proptest::option::of(0u32..3), 0u64..2048, prop_oneof![4 => Just(12u8), 1 => Just(21)])
        .prop_map(|(source, pasid, page, shift)| Op::Ask { source, pasid, page, shift });
    let forget = prop_oneof![
        1 => Just(Invalidation::Iotlb),
        1 => Just(Invalidation::Contexts),
        2 => (1u16..5).prop_map(Invalidation::IotlbOfDomain),
        6 => (1u16..5, range.clone()).prop_map(|(domain, pages)| Invalidation::IotlbPages(domain, pages)),
        3 => (1u16..5, 0u32..3).prop_map(|(domain, pasid)| Invalidation::PasidIotlb(domain, pasid)),
        6 => (1u16..5, 0u32..3, range).prop_map(|(domain, pasid, pages)| Invalidation::PasidIotlbPages(domain, pasid, pages)),
    ];
    prop_oneof![5 => ask, 1 => forget.prop_map(Op::Forget)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn translations_stay_exactly_until_they_are_covered(ops in proptest::collection::vec(op(), 1..120)) {
        let mut caches = Caches::new(Keep::Everything, 0);
        let mut model: Vec<Known> = Vec::new();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Ask { source, pasid: asked, page, shift } => {
                    let known = model.iter().find(|known| {
                        known.source == source && known.asked == asked && known.left.contains(&page)
                    });
                    let found = physical(&mut caches, source, asked, page << 12);
                    prop_assert_eq!(found, known.map(|known| (known.id << 40) + (page << 12)));
                    if known.is_none() {
                        let (domain, pasid, stage) = tags(source, asked);
                        let first = page << 12 >> shift << shift;
                        let id = n as u64 + 1;
                        let physical = (id << 40) + first;
                        caches.keep_leaf(source, asked, Leaf { physical, ..leaf(first, 1 << shift, domain, pasid, stage) });
                        let left = (first >> 12..(first + (1 << shift)) >> 12).collect();
                        model.push(Known { source, asked, domain, pasid, stage, id, left });
                    }
                }
                Op::Forget(what) => {
                    caches.invalidate(&what, Mode::Scalable);
                    for known in &mut model {
                        let mut left = core::mem::take(&mut known.left);
                        left.retain(|page| !covered(known, *page, &what));
                        known.left = left;
                    }
                }
            }
        }
        for known in &model {
            for page in &known.left {
                let oldest = model.iter().find(|other| {
                    other.source == known.source && other.asked == known.asked && other.left.contains(page)
                });
                let expected = oldest.map(|oldest| (oldest.id << 40) + (page << 12));
                prop_assert_eq!(physical(&mut caches, known.source, known.asked, page << 12), expected);
            }
        }
        let held: usize = model.iter().map(|known| known.left.len()).sum();
        prop_assert_eq!(caches.holds_page(0x9000).is_some(), held > 0);
    }
}

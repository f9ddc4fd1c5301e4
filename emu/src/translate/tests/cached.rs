//! What walks keep, and how later requests go by it.

use super::*;
use crate::caches::{Cached, Caches, Keep, Leaf, Stage};
use crate::invalidation::Invalidation;

/// A device in legacy mode with a page at 0x7000; where the tables are, top first.
fn legacy(change: impl Fn(Profile) -> Profile) -> (Scene, [u64; 4]) {
    let mut scene = Scene::new(change(Profile::maximal()), Mode::Legacy);
    let top = scene.page();
    scene.context(SOURCE, ContextEntry::new(top, 2, 5));
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000));
    let tables = [39, 30, 21, 12].map(|bits| scene.second_at(top, 4, 0x7000, bits) & !0xfff);
    (scene, tables)
}
/// The same with caching mode.
fn caching() -> (Scene, [u64; 4]) {
    legacy(|profile| Profile { cap: profile.cap | 1 << 7, ..profile })
}
fn leaf(scene: &mut Scene, pasid: Option<Pasid>, address: u64) -> Option<Leaf> {
    match scene.unit.caches.leaf(SOURCE, pasid, address)? {
        Cached::Valid(leaf) => Some(leaf.clone()),
        Cached::Faulting(_) => None,
    }
}
fn fault(scene: &mut Scene, address: u64) -> Option<Reason> {
    match scene.unit.caches.leaf(SOURCE, None, address)? {
        Cached::Valid(_) => None,
        Cached::Faulting(reason) => Some(*reason),
    }
}
/// A device in scalable mode with a page of first-stage tables at 0x7000; where the leaf is.
fn staged(rights: FirstStageEntry) -> (Scene, u64) {
    let mut scene = Scene::scalable();
    let top = scene.page();
    scene.pasid(SOURCE, 0x2a, PasidEntry::first_stage(top, false, 5).with(PasidEntry::PWSNP, 1));
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PASID, 0x2a));
    let at = scene.map_first(top, 4, 0x7000, 12, rights);
    (scene, at)
}

#[test]
fn a_translation_is_kept_with_its_tags_and_the_tables_that_led_to_it() {
    let (mut scene, tables) = legacy(|profile| profile);
    scene.passed(read(0x7000));
    let leaf = leaf(&mut scene, None, 0x7fff).expect("a translation");
    assert_eq!((leaf.first, leaf.size, leaf.physical), (0x7000, 0x1000, 0x9000));
    assert_eq!((leaf.domain, leaf.pasid, leaf.stage, leaf.dirty), (5, 0, Stage::Second, true));
    let contexts = scene.context_at(SOURCE) & !0xfff;
    assert_eq!(leaf.path, [&[ROOT, contexts], &tables[..]].concat());
}
#[test]
fn a_kept_translation_answers_whatever_memory_says_by_now() {
    let (mut scene, tables) = legacy(|profile| profile);
    scene.passed(read(0x7000));
    scene.put(tables[3] + 7 * 8, &[0]);
    scene.put(ROOT + 16, &[0, 0]);
    assert_eq!(scene.passed(write(0x7008)).address, 0x9008);
    assert_eq!(
        scene.unit.look(&mut scene.bus, &write(0x7008)),
        Answer::Blocked(crate::Fault {
            reason: Reason::LRT_2,
            completion: Reason::LRT_2.completion(Kind::Untranslated),
            recordable: true,
        })
    );
    scene.unit.caches.invalidate(&Invalidation::Iotlb, Mode::Legacy);
    assert_eq!(scene.blocked(write(0x7008)), Reason::LGN_2);
    scene.unit.caches.invalidate(&Invalidation::Contexts, Mode::Legacy);
    assert_eq!(scene.blocked(write(0x7008)), Reason::LRT_2);
}
#[test]
fn a_kept_translation_is_one_of_its_device_and_pasid() {
    let (mut scene, at) = staged(FirstStageEntry::new(0x9000));
    scene.passed(read(0x7000));
    assert_eq!(leaf(&mut scene, None, 0x7000).expect("a translation").pasid, 0x2a);
    assert_eq!(leaf(&mut scene, Some(0x2a), 0x7000), None);
    scene.put(at, &[0]);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(1)), Reason::SPT_2);
    assert_eq!(scene.blocked(Request { source: SOURCE + 1, ..read(0x7000) }), Reason::SCT_2);
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
}
#[test]
fn a_kept_translation_without_the_right_faults_though_memory_grants_it() {
    let (mut scene, tables) = legacy(|profile| profile);
    scene.put(tables[3] + 7 * 8, &[0x9001]);
    scene.passed(read(0x7000));
    scene.put(tables[3] + 7 * 8, &[0x9003]);
    assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_2);
    scene.unit.caches.invalidate(&Invalidation::Iotlb, Mode::Legacy);
    assert_eq!(scene.passed(write(0x7000)).address, 0x9000);
}
#[test]
fn a_fault_from_a_kept_translation_goes_by_fpd() {
    let (mut scene, tables) = legacy(|profile| profile);
    scene.put(tables[3] + 7 * 8, &[0x9001]);
    let context = scene.context_at(SOURCE);
    let low = scene.get(context) | 2;
    scene.put(context, &[low]);
    scene.passed(read(0x7000));
    scene.ask(write(0x7000));
    assert_eq!(scene.recorded(), None);
}
#[test]
fn a_later_walk_begins_at_the_lowest_table_that_is_kept() {
    let (mut scene, tables) = legacy(|profile| profile);
    scene.put(tables[3] + 8 * 8, &[0xa003]);
    scene.passed(read(0x7000));
    // The way down is gone, and the neighbour is found all the same, with the whole way in its path.
    for table in &tables[..3] {
        scene.put(*table, &[0]);
    }
    assert_eq!(scene.passed(read(0x8000)).address, 0xa000);
    let leaf = leaf(&mut scene, None, 0x8000).expect("a translation");
    assert_eq!(leaf.path[2..], tables);
    scene.unit.caches.invalidate(&Invalidation::IotlbOfDomain(5), Mode::Legacy);
    assert_eq!(scene.blocked(read(0x8000)), Reason::LGN_3);
}
#[test]
fn tables_are_kept_although_the_walk_ends_in_a_fault() {
    let (mut scene, tables) = legacy(|profile| profile);
    assert_eq!(scene.blocked(read(0x8000)), Reason::LGN_3);
    let table = scene.unit.caches.second_stage(5, 0x8000).expect("a table");
    assert_eq!((table.table, table.bits, &table.path[..]), (tables[3], 21, &tables[..3]));
}
#[test]
fn rights_of_kept_tables_count() {
    let (mut scene, tables) = legacy(|profile| profile);
    let entry = scene.get(tables[1]) & !2;
    scene.put(tables[1], &[entry]);
    assert_eq!(scene.blocked(read(0x8000)), Reason::LGN_3);
    scene.put(tables[1], &[entry | 2]);
    assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_2);
}
#[test]
fn tables_of_a_domain_serve_all_of_its_devices() {
    let (mut scene, tables) = legacy(|profile| profile);
    scene.passed(read(0x7000));
    // Another device with other tables under the same domain: it walks in those of the first.
    let other = scene.page();
    scene.context(SOURCE + 1, ContextEntry::new(other, 2, 5));
    assert_eq!(scene.passed(Request { source: SOURCE + 1, ..read(0x7000) }).address, 0x9000);
    scene.context(SOURCE + 2, ContextEntry::new(other, 2, 6));
    assert_eq!(scene.blocked(Request { source: SOURCE + 2, ..read(0x7000) }), Reason::LGN_3);
    let _ = tables;
}
#[test]
fn first_stage_tables_are_kept_by_domain_and_pasid() {
    let (mut scene, at) = staged(FirstStageEntry::new(0x9000));
    scene.passed(read(0x7000));
    let table = scene.unit.caches.first_stage(5, 0x2a, 0x8000).expect("a table").clone();
    assert_eq!((table.table, table.bits), (at & !0xfff, 21));
    assert!(scene.unit.caches.first_stage(5, 0, 0x8000).is_none());
    // Another PASID with other tables.
    let other = scene.page();
    scene.pasid(SOURCE, 3, PasidEntry::first_stage(other, false, 5).with(PasidEntry::PWSNP, 1));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SFS_2);
}
#[test]
fn context_and_pasid_entries_are_kept() {
    let (mut scene, _) = staged(FirstStageEntry::new(0x9000));
    scene.passed(read(0x7000));
    let at = scene.pasid_at(SOURCE, 0x2a);
    scene.put(at, &[0; 8]);
    assert_eq!(scene.blocked(read(0x8000)), Reason::SFS_2);
    scene.unit.caches.invalidate(&Invalidation::PasidOfDomain(5, 0x2a), Mode::Scalable);
    assert_eq!(scene.blocked(read(0x8000)), Reason::SPT_2);
    scene.change_context(|_| ScalableContextEntry::default());
    assert_eq!(scene.blocked(read(0x8000)), Reason::SPT_2);
    scene.unit.caches.invalidate(&Invalidation::Contexts, Mode::Scalable);
    assert_eq!(scene.blocked(read(0x8000)), Reason::SCT_2);
}
#[test]
fn the_path_of_a_pasid_entry_begins_with_that_of_its_context_entry() {
    let (mut scene, at) = staged(FirstStageEntry::new(0x9000));
    let entry = scene.pasid_at(SOURCE, 0x2a);
    let context = scene.scalable_context_at(SOURCE);
    let directory = scene.get(context) & !0xfff;
    let expected = [ROOT, context & !0xfff, directory, entry & !0xfff];
    // Twice: the second time from the cache.
    for address in [0x8000, 0x7000] {
        scene.ask(read(address));
        let Some(Cached::Valid(held)) = scene.unit.caches.pasid(SOURCE, 0x2a) else { panic!("no entry") };
        assert_eq!(held.path, expected);
    }
    let leaf = leaf(&mut scene, None, 0x7000).expect("a translation");
    assert_eq!((&leaf.path[..4], leaf.path.len(), leaf.path[7]), (&expected[..], 8, at & !0xfff));
}
#[test]
fn translation_requests_need_dte_whatever_is_kept() {
    let (mut scene, _) = staged(FirstStageEntry::new(0x9000));
    scene.change_context(|entry| entry.with(ScalableContextEntry::DTE, 0).with(ScalableContextEntry::PRE, 0));
    scene.passed(read(0x7000));
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SCT_5);
}
#[test]
fn pass_through_is_kept() {
    let mut scene = Scene::legacy();
    scene.context(SOURCE, ContextEntry::pass_through(3, 5));
    scene.passed(read(0x7000));
    let leaf = leaf(&mut scene, None, 0x7000).expect("a translation");
    assert_eq!((leaf.physical, leaf.size, leaf.stage, leaf.domain), (0, 1 << 30, Stage::PassThrough, 5));
    // A device that is given tables is let through until the IOTLB is invalidated.
    let top = scene.page();
    scene.context(SOURCE, ContextEntry::new(top, 2, 5));
    scene.unit.caches.invalidate(&Invalidation::Contexts, Mode::Legacy);
    assert_eq!(scene.passed(write(0x9000)).address, 0x9000);
    scene.unit.caches.invalidate(&Invalidation::IotlbOfDomain(5), Mode::Legacy);
    assert_eq!(scene.blocked(write(0x9000)), Reason::LGN_2);
}
#[test]
fn faults_are_not_kept_without_caching_mode() {
    let (mut scene, tables) = legacy(|profile| profile);
    assert_eq!(scene.blocked(read(0x8000)), Reason::LGN_3);
    scene.put(tables[3] + 8 * 8, &[0xa003]);
    assert_eq!(scene.passed(read(0x8000)).address, 0xa000);
    let other = Request { source: SOURCE + 1, ..read(0x7000) };
    assert_eq!(scene.blocked(other), Reason::LCT_2);
    scene.context(SOURCE + 1, ContextEntry::new(tables[0], 2, 5));
    assert_eq!(scene.passed(other).address, 0x9000);
}
#[test]
fn a_denied_request_does_not_fill_the_iotlb_without_caching_mode() {
    let (mut scene, tables) = legacy(|profile| profile);
    scene.put(tables[3] + 7 * 8, &[0x9001]);
    assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_2);
    assert_eq!(leaf(&mut scene, None, 0x7000), None);
}
#[test]
fn absent_pages_are_kept_with_caching_mode() {
    let (mut scene, tables) = caching();
    assert_eq!(scene.blocked(read(0x8000)), Reason::LGN_3);
    assert_eq!(fault(&mut scene, 0x8000), Some(Reason::LGN_3));
    scene.put(tables[3] + 8 * 8, &[0xa003]);
    // In words that fit who asks.
    assert_eq!(scene.blocked(read(0x8ffc)), Reason::LGN_3);
    assert_eq!(scene.blocked(write(0x8000)), Reason::LGN_2);
    let page = crate::Pages { address: 0x8000, order: 0, leaf_only: true };
    scene.unit.caches.invalidate(&Invalidation::IotlbPages(5, page), Mode::Legacy);
    assert_eq!(scene.passed(read(0x8000)).address, 0xa000);
}
#[test]
fn malformed_pages_are_kept_with_caching_mode() {
    let (mut scene, tables) = caching();
    scene.put(tables[3] + 8 * 8, &[0xa003 | 1 << 62]);
    assert_eq!(scene.blocked(read(0x8000)), Reason::LSS_2);
    scene.put(tables[3] + 8 * 8, &[0xa003]);
    assert_eq!(scene.blocked(read(0x8000)), Reason::LSS_2);
}
#[test]
fn read_only_pages_are_kept_with_caching_mode_though_a_write_asked() {
    let (mut scene, tables) = caching();
    scene.put(tables[3] + 7 * 8, &[0x9001]);
    assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_2);
    scene.put(tables[3] + 7 * 8, &[0x9003]);
    assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_2);
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
}
#[test]
fn tables_that_cannot_be_read_are_not_kept() {
    let (mut scene, tables) = caching();
    scene.put(tables[2] + 8, &[NOWHERE | 3]);
    assert_eq!(scene.blocked(read(0x20_0000)), Reason::LSS_1);
    assert_eq!(fault(&mut scene, 0x20_0000), None);
    scene.unit.state.root = NOWHERE;
    assert_eq!(scene.blocked(Request { source: SOURCE + 1, ..read(0x7000) }), Reason::LRT_1);
    assert!(scene.unit.caches.context(SOURCE + 1).is_none());
}
#[test]
fn faulting_context_entries_are_kept_with_caching_mode() {
    let (mut scene, tables) = caching();
    let other = Request { source: SOURCE + 1, ..read(0x7000) };
    assert_eq!(scene.blocked(other), Reason::LCT_2);
    scene.context(SOURCE + 1, ContextEntry::new(tables[0], 2, 5));
    assert_eq!(scene.blocked(other), Reason::LCT_2);
    // Tagged by domain 0.
    let of = |domain| Invalidation::ContextOfDevice { domain, source: SOURCE + 1, mask: 0 };
    scene.unit.caches.invalidate(&of(5), Mode::Legacy);
    assert_eq!(scene.blocked(other), Reason::LCT_2);
    scene.unit.caches.invalidate(&of(0), Mode::Legacy);
    assert_eq!(scene.passed(other).address, 0x9000);
}
#[test]
fn faulting_pasid_entries_are_kept_with_caching_mode() {
    let mut scene = Scene::scalable();
    scene.unit.profile.cap |= 1 << 7;
    scene.pasid(SOURCE, 3, PasidEntry::default());
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SPT_2);
    scene.pasid(SOURCE, 3, PasidEntry::pass_through(5));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SPT_2);
    scene.unit.caches.invalidate(&Invalidation::PasidsOfDomain(0), Mode::Scalable);
    assert_eq!(scene.passed(read(0x7000).with_pasid(3)).address, 0x7000);
}
#[test]
fn faults_that_fpd_hides_are_not_kept() {
    let (mut scene, tables) = caching();
    scene.context(SOURCE + 1, ContextEntry([2, 0]));
    let other = Request { source: SOURCE + 1, ..read(0x7000) };
    scene.ask(other);
    scene.context(SOURCE + 1, ContextEntry::new(tables[0], 2, 5));
    assert_eq!(scene.passed(other).address, 0x9000);
}
#[test]
fn faults_of_the_first_stage_are_never_kept() {
    let (mut scene, at) = staged(FirstStageEntry::default());
    scene.unit.profile.cap |= 1 << 7;
    assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_2);
    scene.put(at, &FirstStageEntry::new(0x9000).0);
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
}
#[test]
fn nothing_is_kept_where_nothing_is_to_be() {
    let (mut scene, tables) = caching();
    scene.unit.caches = Caches::new(Keep::Nothing, 1);
    scene.passed(read(0x7000));
    scene.put(tables[3] + 7 * 8, &[0xb003]);
    assert_eq!(scene.passed(read(0x7000)).address, 0xb000);
    scene.put(ROOT + 16, &[0, 0]);
    assert_eq!(scene.blocked(read(0x7000)), Reason::LRT_2);
}
#[test]
fn context_entries_of_another_mode_are_not_used_where_they_make_no_sense() {
    let (mut scene, _) = staged(FirstStageEntry::new(0x9000));
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PASID, 7));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_2);
    scene.unit.state.mode = Mode::Legacy;
    scene.unit.state.root = 0x3000;
    assert_eq!(scene.blocked(read(0x7000)), Reason::LRT_2);
}
#[test]
fn looking_goes_by_memory_and_leaves_no_trace() {
    let (mut scene, at) = staged(FirstStageEntry::new(0x9000));
    let looked = scene.unit.look(&mut scene.bus, &write(0x7000));
    assert!(matches!(looked, Answer::Passed(passed) if passed.address == 0x9000), "{looked}");
    assert_eq!(scene.get(at), 0x9007);
    assert_eq!(leaf(&mut scene, None, 0x7000), None);
    assert!(scene.unit.caches.context(SOURCE).is_none());
    scene.passed(write(0x7000));
    scene.put(at, &[0]);
    let looked = scene.unit.look(&mut scene.bus, &write(0x7000));
    assert!(matches!(looked, Answer::Blocked(fault) if fault.reason == Reason::SFS_2), "{looked}");
    assert_eq!(scene.recorded(), None);
}

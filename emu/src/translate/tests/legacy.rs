//! Legacy mode, and what holds in all modes.

use super::*;
use crate::request::Fault;

/// A device with second-stage tables of four levels; where the top one is.
fn scene() -> (Scene, u64) {
    let mut scene = Scene::legacy();
    let top = scene.page();
    scene.context(SOURCE, ContextEntry::new(top, 2, 5));
    (scene, top)
}
fn page(rights: (bool, bool)) -> Scene {
    let (mut scene, top) = scene();
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000).rights(rights.0, rights.1));
    scene
}

#[test]
fn the_root_entry_cannot_be_read() {
    let mut scene = Scene::legacy();
    scene.unit.state.root = NOWHERE;
    assert_eq!(scene.blocked(read(0x7000)), Reason::LRT_1);
    // Nor where the host has no such addresses.
    scene.unit.profile.width = 36;
    scene.unit.state.root = 1 << 36;
    assert_eq!(scene.blocked(read(0x7000)), Reason::LRT_1);
}
#[test]
fn the_root_entry_is_not_present() {
    let mut scene = Scene::legacy();
    // Nothing else of it counts then.
    scene.put(ROOT + 16, &[!1, !0]);
    assert_eq!(scene.blocked(read(0x7000)), Reason::LRT_2);
}
#[test]
fn the_root_entry_has_reserved_bits_set() {
    for (low, high) in [(1 << 1, 0), (1 << 11, 0), (1 << 52, 0), (1 << 63, 0), (0, 1), (0, 1 << 63)] {
        let (mut scene, _) = scene();
        let root = scene.get(ROOT + 16);
        scene.put(ROOT + 16, &[root | low, high]);
        assert_eq!(scene.blocked(read(0x7000)), Reason::LRT_3, "{low:x} {high:x}");
    }
}
#[test]
fn the_context_entry_cannot_be_read() {
    let mut scene = Scene::legacy();
    scene.put(ROOT + 16, &RootEntry::new(NOWHERE).0);
    assert_eq!(scene.blocked(read(0x7000)), Reason::LCT_1);
}
#[test]
fn the_context_entry_is_not_present() {
    let mut scene = Scene::legacy();
    scene.context(SOURCE, ContextEntry([!3, !0]));
    assert_eq!(scene.blocked(read(0x7000)), Reason::LCT_2);
}
#[test]
fn fpd_counts_even_if_the_context_entry_is_not_present() {
    let mut scene = Scene::legacy();
    scene.context(SOURCE, ContextEntry([2, 0]));
    assert_eq!(scene.blocked(read(0x7000)), Reason::LCT_2);
    let expected =
        Fault { reason: Reason::LCT_2, completion: Reason::LCT_2.completion(Kind::Untranslated), recordable: false };
    assert_eq!(scene.ask(read(0x7000)), Answer::Blocked(expected));
}
#[test]
fn the_context_entry_has_reserved_bits_set() {
    for (low, high) in [(1 << 4, 0), (1 << 11, 0), (1 << 52, 0), (0, 1 << 7), (0, 1 << 24), (0, 1 << 63)] {
        let (mut scene, top) = scene();
        let ContextEntry([l, h]) = ContextEntry::new(top, 2, 5);
        scene.context(SOURCE, ContextEntry([l | low, h | high]));
        assert_eq!(scene.blocked(read(0x7000)), Reason::LCT_3, "{low:x} {high:x}");
    }
}
#[test]
fn ignored_bits_of_the_context_entry_are_ignored() {
    let mut scene = page((true, true));
    let at = scene.context_at(SOURCE);
    let high = scene.get(at + 8) | 15 << 3;
    scene.put(at + 8, &[high]);
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
}
#[test]
fn a_domain_id_wider_than_nd_is_reserved() {
    let (mut scene, top) = scene();
    scene.unit.profile.cap = scene.unit.profile.cap & !7 | 2;
    scene.context(SOURCE, ContextEntry::new(top, 2, 0x100));
    assert_eq!(scene.blocked(read(0x7000)), Reason::LCT_3);
    scene.context(SOURCE, ContextEntry::new(top, 2, 0xff));
    assert_eq!(scene.blocked(read(0x7000)), Reason::LGN_3);
}
#[test]
fn aw_is_not_one_that_the_unit_has() {
    for (aw, sagaw) in [(0, 14), (4, 14), (5, 14), (7, 14), (1, 12), (2, 10), (3, 6)] {
        let (mut scene, top) = scene();
        scene.unit.profile.cap = scene.unit.profile.cap & !(0x1f << 8) | sagaw << 8;
        scene.context(SOURCE, ContextEntry::new(top, aw, 5));
        assert_eq!(scene.blocked(read(0x7000)), Reason::LCT_4, "{aw} {sagaw:b}");
    }
}
#[test]
fn tt_is_not_one_that_the_unit_has() {
    for (tt, ecap) in [(3, 0), (1, 1 << 2), (2, 1 << 6)] {
        let (mut scene, top) = scene();
        scene.unit.profile.ecap &= !ecap;
        scene.context(SOURCE, ContextEntry::new(top, 2, 5).with(ContextEntry::TT, tt));
        assert_eq!(scene.blocked(read(0x7000)), Reason::LCT_4, "{tt}");
    }
}
#[test]
fn the_top_second_stage_entry_cannot_be_read() {
    let mut scene = Scene::legacy();
    scene.context(SOURCE, ContextEntry::new(NOWHERE, 2, 5));
    assert_eq!(scene.blocked(read(0x7000)), Reason::LCT_4);
}
#[test]
fn another_second_stage_entry_cannot_be_read() {
    let (mut scene, top) = scene();
    scene.map_second(top, 4, 0x7000, 21, SecondStageEntry::new(NOWHERE));
    assert_eq!(scene.blocked(read(0x7000)), Reason::LSS_1);
}
#[test]
fn a_second_stage_entry_has_reserved_bits_set() {
    let (mut scene, top) = scene();
    let at = scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000).with(SecondStageEntry::IW, 1));
    assert_eq!(scene.blocked(read(0x7000)), Reason::LSS_2);
    // Reserved bits of an entry without rights do not count.
    scene.put(at, &[SecondStageEntry::IW.mask()]);
    assert_eq!(scene.blocked(read(0x7000)), Reason::LGN_3);
}
#[test]
fn the_address_is_wider_than_aw_or_mgaw() {
    for (aw, mgaw, limit) in [(1, 57, 39), (2, 57, 48), (3, 57, 57), (3, 46, 46), (2, 40, 40), (1, 38, 38)] {
        let mut scene = Scene::legacy();
        scene.unit.profile.cap = scene.unit.profile.cap & !(0x3f << 16) | (mgaw - 1) << 16;
        let top = scene.page();
        scene.context(SOURCE, ContextEntry::new(top, aw, 5));
        assert_eq!(scene.blocked(read(1 << limit)), Reason::LGN_1, "{aw} {mgaw}");
        assert_eq!(scene.blocked(read(1 << 63)), Reason::LGN_1, "{aw} {mgaw}");
        assert_eq!(scene.blocked(read((1 << limit) - 8)), Reason::LGN_3, "{aw} {mgaw}");
    }
}
#[test]
fn a_page_is_translated_by_three_four_and_five_levels() {
    for (aw, levels, address) in [(1, 3, 0x7f_dead_b000), (2, 4, 0xabcd_dead_b000), (3, 5, 0x1aa_abcd_dead_b000)] {
        let mut scene = Scene::legacy();
        let top = scene.page();
        scene.context(SOURCE, ContextEntry::new(top, aw, 5));
        scene.map_second(top, levels, address, 12, SecondStageEntry::new(0x1_2345_6000));
        let expected = Passed { address: 0x1_2345_6789, page: 0x1000, snoop: true, memory_type: 6 };
        assert_eq!(scene.passed(read(address + 0x789)), expected);
    }
}
#[test]
fn large_pages_are_translated() {
    let (mut scene, top) = scene();
    scene.map_second(top, 4, 0x4000_0000, 21, SecondStageEntry::large(0x60_0000));
    scene.map_second(top, 4, 0x8000_0000, 30, SecondStageEntry::large(0x1_0000_0000));
    let two = scene.passed(write(0x4012_3456));
    assert_eq!((two.address, two.page), (0x72_3456, 1 << 21));
    let one = scene.passed(write(0x8ab1_2340));
    assert_eq!((one.address, one.page), (0x1_0ab1_2340, 1 << 30));
}
#[test]
fn there_is_no_right_to_write() {
    let mut scene = page((true, false));
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
    assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_2);
    assert_eq!(scene.blocked(atomic(0x7000)), Reason::LGN_2);
}
#[test]
fn there_is_no_right_to_read() {
    let mut scene = page((false, true));
    assert_eq!(scene.passed(write(0x7000)).address, 0x9000);
    assert_eq!(scene.blocked(read(0x7000)), Reason::LGN_3);
    assert_eq!(scene.blocked(atomic(0x7000)), Reason::LGN_3);
}
#[test]
fn there_is_no_right_at_all() {
    let mut scene = page((false, false));
    assert_eq!(scene.blocked(read(0x7000)), Reason::LGN_3);
    assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_2);
    assert_eq!(scene.blocked(atomic(0x7000)), Reason::LGN_2);
}
#[test]
fn rights_of_upper_entries_restrict_those_below() {
    for bits in [39, 30, 21] {
        let mut scene = page((true, true));
        let context = scene.context_at(SOURCE);
        let top = scene.get(context) & !0xfff;
        let at = scene.second_at(top, 4, 0x7000, bits);
        let entry = SecondStageEntry([scene.get(at)]).rights(true, false);
        scene.put(at, &entry.0);
        assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_2, "{bits}");
        assert_eq!(scene.passed(read(0x7000)).address, 0x9000, "{bits}");
    }
}
#[test]
fn zero_length_reads_need_no_right_to_read_with_zlr() {
    let mut scene = page((false, true));
    assert_eq!(scene.passed(flush(0x7000)).address, 0x9000);
    scene.unit.profile.cap &= !(1 << 22);
    assert_eq!(scene.blocked(flush(0x7000)), Reason::LGN_3);
    // Where nothing is mapped there is nothing to flush.
    assert_eq!(page((false, false)).blocked(flush(0x7000)), Reason::LGN_3);
}
#[test]
fn the_output_is_in_the_interrupt_range() {
    let (mut scene, top) = scene();
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0xfee0_0000));
    scene.map_second(top, 4, 0x4000_0000, 21, SecondStageEntry::large(0xfee0_0000));
    assert_eq!(scene.blocked(write(0x7000)), Reason::LGN_4);
    assert_eq!(scene.blocked(read(0x400f_fffc)), Reason::LGN_4);
    assert_eq!(scene.passed(read(0x4010_0000)).address, 0xfef0_0000);
}
#[test]
fn translation_and_translated_requests_are_blocked_by_tt() {
    let mut scene = page((true, true));
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::LCT_5);
    assert_eq!(scene.blocked(read(0x7000).of(Kind::Translated)), Reason::LCT_5);
    scene.context(SOURCE, ContextEntry::pass_through(3, 5));
    scene.unit.caches.invalidate(&crate::Invalidation::Contexts, Mode::Legacy);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::LCT_5);
    assert_eq!(scene.blocked(write(0x7000).of(Kind::Translated)), Reason::LCT_5);
}
#[test]
fn pass_through_leaves_addresses_as_they_are() {
    let mut scene = Scene::legacy();
    scene.context(SOURCE, ContextEntry::pass_through(3, 5));
    let expected = Passed { address: 0x1_2345_6789, page: u64::MAX, snoop: true, memory_type: 6 };
    assert_eq!(scene.passed(write(0x1_2345_6789)), expected);
    assert!(!scene.passed(Request { no_snoop: true, ..write(0x7000) }).snoop);
}
#[test]
fn pass_through_does_not_look_at_ssptptr() {
    let mut scene = Scene::legacy();
    scene.context(SOURCE, ContextEntry::pass_through(3, 5).with(ContextEntry::SSPTPTR, !0));
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
}
#[test]
fn a_pass_through_address_is_wider_than_the_host() {
    let mut scene = Scene::legacy();
    scene.unit.profile.width = 39;
    scene.context(SOURCE, ContextEntry::pass_through(3, 5));
    assert_eq!(scene.passed(read((1 << 39) - 8)).address, (1 << 39) - 8);
    assert_eq!(scene.blocked(read(1 << 39)), Reason::LGN_1);
}
#[test]
fn snp_makes_every_access_snoop() {
    let (mut scene, top) = scene();
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000).with(SecondStageEntry::SNP, 1));
    scene.map_second(top, 4, 0x8000, 12, SecondStageEntry::new(0xa000));
    assert!(scene.passed(Request { no_snoop: true, ..read(0x7000) }).snoop);
    assert!(!scene.passed(Request { no_snoop: true, ..read(0x8000) }).snoop);
    assert!(scene.passed(read(0x8000)).snoop);
}
#[test]
fn tables_are_read_as_coherently_as_ecap_c_says() {
    for coherent in [false, true] {
        let mut scene = page((true, true));
        scene.unit.profile.ecap = scene.unit.profile.ecap & !1 | u64::from(coherent);
        scene.bus.unsnooped = Some(Ram::new(NOWHERE));
        match coherent {
            true => assert_eq!(scene.passed(read(0x7000)).address, 0x9000),
            false => assert_eq!(scene.blocked(read(0x7000)), Reason::LRT_2),
        }
    }
}
#[test]
fn fpd_of_a_present_context_entry_keeps_qualified_faults_from_being_recorded() {
    let (mut scene, top) = scene();
    scene.context(SOURCE, ContextEntry::new(top, 2, 5).with(ContextEntry::FPD, 1));
    // From memory, and from the cache.
    for _ in 0..2 {
        assert_eq!(scene.blocked(read(0x7000)), Reason::LGN_3);
        assert_eq!(scene.recorded(), None);
    }
}
#[test]
fn faults_are_recorded_with_all_that_was_asked() {
    let mut scene = page((true, false));
    scene.ask(write(0x7123));
    let words = [0, 1, 2, 3].map(|word| scene.unit.faults.read(0, word));
    assert_eq!(words[0], 0x7000);
    assert_eq!(words[2] & 0xffff, u32::from(SOURCE));
    assert_eq!(words[3] & 0x800f_ffff & 0xff, 0x05);
}
#[test]
fn requests_with_pasid_are_not_for_legacy_mode() {
    let mut scene = page((true, true));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(1)), Reason::RTA_2);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(1).of(ATS)), Reason::RTA_2);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(1).of(Kind::Translated)), Reason::RTA_2);
}
#[test]
fn ssirwe_is_not_for_legacy_mode() {
    let mut scene = page((true, true));
    scene.unit.state.separate_rights = true;
    assert_eq!(scene.blocked(read(0x7000)), Reason::RTA_1);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(1)), Reason::RTA_2);
    // A unit without it has no such bit.
    scene.unit.profile.ecap &= !(1 << 57);
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
}
#[test]
fn ttm_is_not_one_that_the_unit_has() {
    let mut scene = Scene::new(Profile::maximal(), Mode::Reserved);
    assert_eq!(scene.blocked(read(0x7000)), Reason::RTA_1);
    let mut scene = Scene::new(Profile::server(), Mode::Scalable);
    assert_eq!(scene.blocked(read(0x7000)), Reason::RTA_1);
    let mut scene = Scene::new(Profile::server(), Mode::Abort);
    assert_eq!(scene.blocked(read(0x7000)), Reason::RTA_1);
}
#[test]
fn abort_mode_blocks_everything() {
    let mut scene = Scene::new(Profile::maximal(), Mode::Abort);
    assert_eq!(scene.blocked(read(0x7000)), Reason::RTA_4);
    assert_eq!(scene.blocked(write(0x7000).with_pasid(1)), Reason::RTA_4);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::RTA_4);
    assert_eq!(scene.blocked(read(0x7000).of(Kind::Translated)), Reason::RTA_4);
    // Interrupts are no matter of the tables.
    assert_eq!(scene.ask(write(0xfee0_0000)), Answer::Interrupt);
}
#[test]
fn without_translation_everything_untranslated_passes() {
    let mut scene = Scene::legacy();
    scene.unit.state.translation = false;
    assert_eq!(scene.passed(write(0x7000)).address, 0x7000);
    assert_eq!(scene.passed(read(0x7000).with_pasid(1)).address, 0x7000);
    assert_eq!(scene.ask(write(0xfee0_0000).with_pasid(1)), Answer::Interrupt);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::NONE);
    assert_eq!(scene.blocked(read(0x7000).of(Kind::Translated)), Reason::NONE);
}
#[test]
fn double_words_written_to_the_interrupt_range_are_interrupts() {
    let mut scene = page((true, true));
    assert_eq!(scene.ask(write(0xfee0_0000)), Answer::Interrupt);
    assert_eq!(scene.ask(write(0xfeef_fffc)), Answer::Interrupt);
    assert_eq!(scene.blocked(write(0xfef0_0000)), Reason::LGN_2);
    assert_eq!(scene.blocked(write(0xfedf_fffc)), Reason::LGN_2);
}
#[test]
fn zero_length_reads_of_the_interrupt_range_complete() {
    assert_eq!(page((true, true)).ask(flush(0xfee0_0000)), Answer::Nothing);
}
#[test]
fn other_requests_to_the_interrupt_range_are_blocked() {
    let mut scene = page((true, true));
    for request in [
        read(0xfee0_0000),
        atomic(0xfee0_0000),
        Request { length: 8, ..write(0xfee0_0000) },
        Request { length: 2, ..write(0xfee0_0000) },
        write(0xfee0_0002),
    ] {
        assert_eq!(scene.blocked(request), Reason::IR_29);
    }
    // With everything off there is nobody to record it.
    scene.unit.state.translation = false;
    let expected =
        Fault { reason: Reason::IR_29, completion: crate::reason::Completion::UnsupportedRequest, recordable: false };
    assert_eq!(scene.ask(read(0xfee0_0000)), Answer::Blocked(expected));
    scene.unit.state.remapping = true;
    assert_eq!(scene.ask(read(0xfee0_0000)), Answer::Blocked(Fault { recordable: true, ..expected }));
}
#[test]
fn requests_across_pages_are_malformed() {
    let mut scene = page((true, true));
    assert_eq!(scene.blocked(Request { length: 5, ..read(0x7ffc) }), Reason::NONE);
    assert_eq!(scene.passed(read(0x7ffc)).address, 0x9ffc);
    assert_eq!(scene.blocked(Request { length: u32::MAX, ..read(0x7ffc) }), Reason::NONE);
}
#[test]
fn translation_requests_are_reads() {
    let mut scene = page((true, true));
    assert_eq!(scene.blocked(write(0x7000).of(ATS)), Reason::NONE);
}
#[test]
fn protected_memory_is_out_of_reach_whether_remapping_is_on_or_off() {
    let mut scene = page((true, true));
    scene.unit.state.protected = [Some((0x8000, 0x9fff)), None];
    assert_eq!(scene.blocked(read(0x7000)), Reason::NONE);
    scene.unit.state.protected = [None, Some((0x9ffc, 0xffff))];
    assert_eq!(scene.passed(read(0x7ff8)).address, 0x9ff8);
    assert_eq!(scene.blocked(Request { length: 8, ..read(0x7ff8) }), Reason::NONE);
    scene.unit.state.translation = false;
    assert_eq!(scene.blocked(write(0xa000)), Reason::NONE);
    assert_eq!(scene.passed(write(0x10000)).address, 0x10000);
}
#[test]
fn old_units_let_remapped_requests_into_protected_memory() {
    let mut scene = page((true, true));
    scene.unit.profile.version = 0x10;
    scene.unit.profile.protects_remapped = false;
    scene.unit.profile.version = 0x10;
    scene.unit.state.protected = [Some((0x8000, 0x9fff)), None];
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
    scene.context(SOURCE + 1, ContextEntry::pass_through(3, 6));
    assert_eq!(scene.blocked(Request { source: SOURCE + 1, ..read(0x9000) }), Reason::NONE);
    assert_eq!(scene.passed(Request { source: SOURCE + 1, ..read(0x7000) }).address, 0x7000);
}
#[test]
fn the_units_own_walks_may_read_protected_memory() {
    let mut scene = page((true, true));
    scene.unit.state.protected = [None, Some((ROOT, 0x1f_ffff))];
    let context = scene.context_at(SOURCE);
    let top = scene.get(context) & !0xfff;
    scene.map_second(top, 4, 0x5000, 12, SecondStageEntry::new(0x4000_0000));
    assert_eq!(scene.passed(read(0x5000)).address, 0x4000_0000);
}

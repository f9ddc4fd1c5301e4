//! Second-stage tables in scalable mode.

use super::*;
use crate::formats::SecondStageEntry as Entry;

/// A device with second-stage tables of four levels; where the top one is.
fn scene_with(change: impl Fn(PasidEntry) -> PasidEntry) -> (Scene, u64) {
    let mut scene = Scene::scalable();
    let top = scene.page();
    scene.pasid(SOURCE, 0, change(PasidEntry::second_stage(top, 2, 5).with(PasidEntry::PWSNP, 1)));
    (scene, top)
}
fn scene() -> (Scene, u64) {
    scene_with(|entry| entry)
}
fn page(entry: Entry) -> Scene {
    let (mut scene, top) = scene();
    scene.map_second(top, 4, 0x7000, 12, entry);
    scene
}

#[test]
fn pages_of_all_sizes_and_levels_are_translated() {
    for (aw, levels, address) in [(1, 3, 0x7f_c000_0000_u64), (2, 4, 0xabcd_c000_0000), (3, 5, 0x1aa_abcd_c000_0000)] {
        for bits in [12, 21, 30] {
            let mut scene = Scene::scalable();
            let top = scene.page();
            scene.pasid(SOURCE, 0, PasidEntry::second_stage(top, aw, 5));
            scene.map_second(top, levels, address, bits, Entry::new(0x8000_0000).with(Entry::PS, u64::from(bits > 12)));
            let passed = scene.passed(write(address + 0x678));
            let expected = Passed { address: 0x8000_0678, page: 1 << bits, snoop: true, memory_type: 6 };
            assert_eq!(passed, expected, "{levels} {bits}");
        }
    }
}
#[test]
fn the_top_entry_cannot_be_read() {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PasidEntry::second_stage(NOWHERE, 2, 5));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_4);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SSS_4);
}
#[test]
fn another_entry_cannot_be_read() {
    for bits in [39, 30, 21] {
        let (mut scene, top) = scene();
        scene.map_second(top, 4, 0x7000, bits, Entry::new(NOWHERE));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_1, "{bits}");
        assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SSS_1, "{bits}");
    }
}
#[test]
fn an_entry_grants_nothing() {
    for bits in [39, 30, 21, 12] {
        let (mut scene, top) = scene();
        scene.map_second(top, 4, 0x7000, bits, Entry([!3 & !Entry::IW.mask()]));
        for request in [read(0x7000), write(0x7000), atomic(0x7000), flush(0x7000)] {
            assert_eq!(scene.blocked(request), Reason::SSS_2, "{bits}");
        }
        assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::SSS_2, "{bits}");
    }
}
#[test]
fn the_entries_together_grant_nothing() {
    let (mut scene, top) = scene();
    scene.map_second(top, 4, 0x7000, 12, Entry::new(0x9000).rights(true, false));
    let at = scene.second_at(top, 4, 0x7000, 21);
    let entry = Entry([scene.get(at)]).rights(false, true);
    scene.put(at, &entry.0);
    assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_2);
    assert_eq!(scene.blocked(write(0x7000)), Reason::SSS_2);
    assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::SSS_2);
}
#[test]
fn an_entry_has_reserved_bits_set() {
    // Which level, which bits, and what is missing in CAP (SSLPS) and ECAP (SC).
    let cases: &[(u32, u64, u64, u64)] = &[
        (39, 1 << 7, 0, 0),
        (39, 1 << 11, 0, 0),
        (30, 1 << 11, 0, 0),
        (21, 1 << 11, 0, 0),
        (12, 1 << 11, 0, 1 << 7),
        (21, 1 << 7 | 1 << 11, 0, 1 << 7),
        (30, 1 << 7, 2 << 34, 0),
        (21, 1 << 7, 3 << 34, 0),
        (30, 1 << 7 | 1 << 12, 0, 0),
        (30, 1 << 7 | 1 << 29, 0, 0),
        (21, 1 << 7 | 1 << 12, 0, 0),
        (21, 1 << 7 | 1 << 20, 0, 0),
        (12, 1 << 46, 0, 0),
        (12, 1 << 51, 0, 0),
        (39, 1 << 46, 0, 0),
        (12, 1 << 62, 0, 0),
        (21, 1 << 62, 0, 0),
        (39, 1 << 62, 0, 0),
    ];
    for (bits, reserved, cap, ecap) in cases {
        let (mut scene, top) = scene();
        scene.unit.profile.width = 46;
        scene.unit.profile.cap &= !cap;
        scene.unit.profile.ecap &= !ecap;
        scene.map_second(top, 4, 0x7000, *bits, Entry([3 | reserved]));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_3, "{bits} {reserved:x}");
        assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SSS_3, "{bits} {reserved:x}");
    }
}
#[test]
fn the_fifth_level_has_no_pages() {
    let mut scene = Scene::scalable();
    let top = scene.page();
    scene.pasid(SOURCE, 0, PasidEntry::second_stage(top, 3, 5));
    scene.map_second(top, 5, 0x7000, 48, Entry([3 | 1 << 7]));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_3);
}
#[test]
fn ignored_bits_of_an_entry_are_ignored() {
    // Bits 2, 10, 60:52, 61, 63, A and D without SSADE, EMT and IPAT without EMTE; PS of a leaf of 4 KiB.
    let ignored = 1 << 2 | 1 << 10 | 0x1ff << 52 | 1 << 61 | 1 << 63 | 3 << 8 | 15 << 3 | 1 << 7;
    assert_eq!(page(Entry([0x9003 | ignored])).passed(read(0x7000)).address, 0x9000);
}
#[test]
fn the_address_is_too_wide() {
    for (aw, mgaw, limit) in [(1, 57, 39), (2, 57, 48), (3, 57, 57), (3, 52, 52)] {
        let mut scene = Scene::scalable();
        scene.unit.profile.cap = scene.unit.profile.cap & !(0x3f << 16) | (mgaw - 1) << 16;
        let top = scene.page();
        scene.pasid(SOURCE, 0, PasidEntry::second_stage(top, aw, 5));
        assert_eq!(scene.blocked(read(1 << limit)), Reason::SGN_5, "{aw}");
        assert_eq!(scene.nothing(read(1 << limit).of(ATS)), Reason::SGN_5, "{aw}");
        assert_eq!(scene.blocked(read((1 << limit) - 8)), Reason::SSS_2, "{aw}");
    }
}
#[test]
fn there_is_no_right_to_write() {
    let mut scene = page(Entry::new(0x9000).rights(true, false));
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
    assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_6);
    assert_eq!(scene.blocked(atomic(0x7000)), Reason::SGN_6);
}
#[test]
fn there_is_no_right_to_read() {
    let mut scene = page(Entry::new(0x9000).rights(false, true));
    assert_eq!(scene.passed(write(0x7000)).address, 0x9000);
    assert_eq!(scene.blocked(read(0x7000)), Reason::SGN_7);
    assert_eq!(scene.blocked(atomic(0x7000)), Reason::SGN_7);
    assert_eq!(scene.passed(flush(0x7000)).address, 0x9000);
    scene.unit.profile.cap &= !(1 << 22);
    assert_eq!(scene.blocked(flush(0x7000)), Reason::SGN_7);
}
#[test]
fn the_output_is_in_the_interrupt_range() {
    let mut scene = page(Entry::new(0xfee0_0000));
    assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_8);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SGN_8);
    let (mut scene, top) = self::scene();
    scene.map_second(top, 4, 0x4000_0000, 21, Entry::large(0xfee0_0000));
    assert_eq!(scene.passed(write(0x4010_0000)).address, 0xfef0_0000);
    // A device would get all of the page.
    assert_eq!(scene.blocked(read(0x4010_0000).of(ATS)), Reason::SGN_8);
}
#[test]
fn with_pasid_the_interrupt_range_is_an_address_like_others() {
    let (mut scene, top) = scene();
    scene.pasid(SOURCE, 3, PasidEntry::second_stage(top, 2, 5));
    scene.map_second(top, 4, 0xfee0_0000, 12, Entry::new(0x9000));
    assert_eq!(scene.passed(write(0xfee0_0000).with_pasid(3)).address, 0x9000);
    assert_eq!(scene.translated(read(0xfee0_0000).with_pasid(3).of(ATS)).address, 0x9000);
    assert_eq!(scene.ask(write(0xfee0_0000)), Answer::Interrupt);
}
#[test]
fn with_ssirwe_the_rights_are_in_bits_62_and_61() {
    let mut scene = page(Entry([0x9000]));
    scene.unit.state.separate_rights = true;
    let context = scene.pasid_at(SOURCE, 0);
    let top = scene.get(context) & !0xfff;
    for bits in [39, 30, 21] {
        let at = scene.second_at(top, 4, 0x7000, bits);
        let entry = Entry([scene.get(at)]).rights(false, false).with(Entry::IR, 1).with(Entry::IW, 1);
        scene.put(at, &entry.0);
        // The builder goes by R and W: put them back for the way down.
        scene.put(at, &[entry.0[0] | 3]);
    }
    let at = scene.second_at(top, 4, 0x7000, 12);
    assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_2);
    scene.put(at, &[0x9000 | 1 << 61]);
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
    scene.unit.caches.invalidate(&crate::Invalidation::Iotlb, Mode::Scalable);
    assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_6);
    scene.put(at, &[0x9000 | 1 << 62]);
    scene.unit.caches.invalidate(&crate::Invalidation::Iotlb, Mode::Scalable);
    assert_eq!(scene.passed(write(0x7000)).address, 0x9000);
    assert_eq!(scene.blocked(read(0x7000)), Reason::SGN_7);
    // A unit without it goes by R and W.
    scene.unit.profile.ecap &= !(1 << 57);
    scene.unit.caches.invalidate(&crate::Invalidation::Iotlb, Mode::Scalable);
    for bits in [39, 30, 21] {
        let at = scene.second_at(top, 4, 0x7000, bits);
        let entry = Entry([scene.get(at)]).with(Entry::IR, 0).with(Entry::IW, 0);
        scene.put(at, &entry.0);
    }
    scene.put(at, &[0x9003]);
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
}
/// SSADE set; where the leaf and the entry above it are.
fn marking(leaf: Entry) -> (Scene, u64, u64) {
    let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::SSADE, 1));
    let at = scene.map_second(top, 4, 0x7000, 12, leaf);
    let above = scene.second_at(top, 4, 0x7000, 21);
    (scene, at, above)
}
const A: u64 = 1 << 8;
const D: u64 = 1 << 9;
#[test]
fn reads_mark_entries_as_accessed() {
    let (mut scene, leaf, above) = marking(Entry::new(0x9000));
    scene.passed(read(0x7000));
    assert_eq!((scene.get(leaf) & (A | D), scene.get(above) & (A | D)), (A, A));
}
#[test]
fn writes_mark_the_leaf_as_dirty() {
    for request in [write(0x7000), atomic(0x7000)] {
        let (mut scene, leaf, above) = marking(Entry::new(0x9000));
        scene.passed(request);
        assert_eq!((scene.get(leaf) & (A | D), scene.get(above) & (A | D)), (A | D, A));
    }
}
#[test]
fn a_write_after_a_read_walks_again_to_mark_the_leaf() {
    let (mut scene, leaf, _) = marking(Entry::new(0x9000));
    scene.passed(read(0x7000));
    scene.passed(write(0x7000));
    assert_eq!(scene.get(leaf) & (A | D), A | D);
    // Then no more.
    scene.put(leaf, &[0x9003]);
    scene.passed(write(0x7000));
    assert_eq!(scene.get(leaf), 0x9003);
}
#[test]
fn writes_that_are_denied_do_not_mark_the_leaf() {
    let (mut scene, leaf, _) = marking(Entry::new(0x9000).rights(true, false));
    assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_6);
    assert_eq!(scene.get(leaf) & D, 0);
}
#[test]
fn without_ssade_nothing_is_marked() {
    let (mut scene, top) = scene();
    let leaf = scene.map_second(top, 4, 0x7000, 12, Entry::new(0x9000));
    scene.passed(write(0x7000));
    assert_eq!(scene.get(leaf), 0x9003);
}
#[test]
fn marks_are_needed_where_walks_do_not_snoop() {
    let (mut scene, leaf, _) = marking(Entry::new(0x9000));
    let at = scene.pasid_at(SOURCE, 0);
    let high = scene.get(at + 8) & !(1 << 23);
    scene.put(at + 8, &[high]);
    assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_5);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SSS_5);
    // Marks that are there already do no harm.
    let top = scene.get(at) & !0xfff;
    for bits in [39, 30, 21, 12] {
        let at = scene.second_at(top, 4, 0x7000, bits);
        let entry = scene.get(at) | A;
        scene.put(at, &[entry]);
    }
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
    assert_eq!(scene.blocked(write(0x7000)), Reason::SSS_5);
    let entry = scene.get(leaf) | D;
    scene.put(leaf, &[entry]);
    assert_eq!(scene.passed(write(0x7000)).address, 0x9000);
}
#[test]
fn marks_cannot_be_set_in_memory_that_goes_away() {
    let (mut scene, ..) = marking(Entry::new(0x9000));
    scene.bus.refuses = true;
    assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_6);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SSS_6);
}
#[test]
fn page_walks_snoop_with_pwsnp_only() {
    for (snoop, ecap) in [(0, 0), (1, 0), (0, 1 << 48)] {
        let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::PWSNP, snoop));
        scene.unit.profile.ecap &= !ecap;
        scene.map_second(top, 4, 0x7000, 12, Entry::new(0x9000));
        scene.bus.unsnooped = Some(Ram::new(NOWHERE));
        match snoop {
            1 => assert_eq!(scene.passed(read(0x7000)).address, 0x9000),
            _ => assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_2),
        }
    }
}
#[test]
fn snp_or_pgsnp_makes_every_access_snoop() {
    for (snp, pgsnp) in [(0, 0), (1, 0), (0, 1)] {
        let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::PGSNP, pgsnp));
        scene.map_second(top, 4, 0x7000, 12, Entry::new(0x9000).with(Entry::SNP, snp));
        // Cold and warm.
        for _ in 0..2 {
            let passed = scene.passed(Request { no_snoop: true, ..read(0x7000) });
            assert_eq!(passed.snoop, snp + pgsnp > 0);
        }
        assert_eq!(scene.translated(read(0x7000).of(ATS)).snoop, snp + pgsnp > 0);
    }
}
#[test]
fn emt_is_the_memory_type_with_emte() {
    for (emt, emte, expected) in [(0, 0, 6), (0, 1, 0), (1, 1, 1), (4, 1, 4), (5, 1, 5), (6, 1, 6), (3, 1, 0)] {
        let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::EMTE, emte));
        scene.map_second(top, 4, 0x7000, 12, Entry::new(0x9000).with(Entry::EMT, emt));
        assert_eq!(scene.passed(read(0x7000)).memory_type, expected);
    }
}

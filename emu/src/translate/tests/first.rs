//! First-stage tables.

use super::*;
use crate::formats::FirstStageEntry as Entry;

/// A device with first-stage tables of four levels; where the top one is.
fn scene_with(change: impl Fn(PasidEntry) -> PasidEntry) -> (Scene, u64) {
    let mut scene = Scene::scalable();
    let top = scene.page();
    let entry = change(PasidEntry::first_stage(top, false, 5).with(PasidEntry::PWSNP, 1));
    scene.pasid(SOURCE, 0, entry);
    scene.pasid(SOURCE, 3, entry);
    (scene, top)
}
fn scene() -> (Scene, u64) {
    scene_with(|entry| entry)
}
fn page(entry: Entry) -> (Scene, u64) {
    let (mut scene, top) = scene();
    let at = scene.map_first(top, 4, 0x7000, 12, entry);
    (scene, at)
}
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const EA: u64 = 1 << 10;

#[test]
fn pages_of_all_sizes_and_levels_are_translated() {
    for (five, address) in
        [(false, 0x7bcd_c000_0000_u64), (false, 0xffff_8bcd_c000_0000), (true, 0xffaa_abcd_c000_0000)]
    {
        for bits in [12, 21, 30] {
            let mut scene = Scene::scalable();
            let top = scene.page();
            scene.pasid(SOURCE, 0, PasidEntry::first_stage(top, five, 5).with(PasidEntry::PWSNP, 1));
            let entry = Entry::new(0x8000_0000).with(Entry::PS, u64::from(bits > 12));
            scene.map_first(top, if five { 5 } else { 4 }, address, bits, entry);
            let passed = scene.passed(write(address + 0x678));
            let expected = Passed { address: 0x8000_0678, page: 1 << bits, snoop: true, memory_type: 6 };
            // The MTRRs are off.
            assert_eq!(passed, Passed { memory_type: 0, ..expected }, "{five} {bits}");
        }
    }
}
#[test]
fn the_address_is_not_canonical() {
    for (five, bad) in [(false, [1 << 47, 1 << 48, 1 << 63]), (true, [1 << 56, 1 << 57, 1 << 63])] {
        let mut scene = Scene::scalable();
        let top = scene.page();
        scene.pasid(SOURCE, 0, PasidEntry::first_stage(top, five, 5).with(PasidEntry::PWSNP, 1));
        for address in bad {
            assert_eq!(scene.blocked(read(address)), Reason::SGN_1, "{address:x}");
            assert_eq!(scene.blocked(read(!address & !0xfff)), Reason::SGN_1, "{address:x}");
            assert_eq!(scene.nothing(read(address).of(ATS)), Reason::SGN_1, "{address:x}");
        }
        assert_eq!(scene.blocked(read(bad[0] - 0x1000)), Reason::SFS_2);
        assert_eq!(scene.blocked(read(!0xfff)), Reason::SFS_2);
    }
}
#[test]
fn the_top_entry_cannot_be_read() {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PasidEntry::first_stage(NOWHERE, false, 5));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_4);
    assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::SFS_4);
}
#[test]
fn another_entry_cannot_be_read() {
    for bits in [39, 30, 21] {
        let (mut scene, top) = scene();
        scene.map_first(top, 4, 0x7000, bits, Entry::new(NOWHERE));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_1, "{bits}");
        assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::SFS_1, "{bits}");
    }
}
#[test]
fn an_entry_is_not_present() {
    for bits in [39, 30, 21, 12] {
        let (mut scene, top) = scene();
        scene.map_first(top, 4, 0x7000, bits, Entry([!1]));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_2, "{bits}");
        assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::SFS_2, "{bits}");
    }
}
#[test]
fn an_entry_has_reserved_bits_set() {
    let cases: &[(u32, u64, u64)] = &[
        (39, 1 << 7, 0),
        (30, 1 << 7, 1 << 56),
        (30, 1 << 7 | 1 << 13, 0),
        (30, 1 << 7 | 1 << 29, 0),
        (21, 1 << 7 | 1 << 13, 0),
        (21, 1 << 7 | 1 << 20, 0),
        (12, 1 << 46, 0),
        (12, 1 << 51, 0),
        (39, 1 << 46, 0),
    ];
    for (bits, reserved, cap) in cases {
        let (mut scene, top) = scene();
        scene.unit.profile.width = 46;
        scene.unit.profile.cap &= !cap;
        scene.map_first(top, 4, 0x7000, *bits, Entry([7 | reserved]));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_3, "{bits} {reserved:x}");
        assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::SFS_3, "{bits} {reserved:x}");
    }
}
#[test]
fn the_fifth_level_has_no_pages() {
    let mut scene = Scene::scalable();
    let top = scene.page();
    scene.pasid(SOURCE, 0, PasidEntry::first_stage(top, true, 5));
    scene.put(top, &[7 | 1 << 7]);
    assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_3);
}
#[test]
fn ignored_bits_of_an_entry_are_ignored() {
    // G, 9, EA without EAFE, 11, 62:52, 63.
    let ignored = 1 << 8 | 1 << 9 | EA | 1 << 11 | 0xfff << 52;
    assert_eq!(page(Entry([0x9007 | ignored])).0.passed(read(0x7000)).address, 0x9000);
}
#[test]
fn a_large_page_may_have_pat() {
    let (mut scene, top) = scene();
    scene.map_first(top, 4, 0x4000_0000, 21, Entry::large(0x60_0000).with(Entry::LARGE_PAT, 1));
    assert_eq!(scene.passed(read(0x4000_1234)).address, 0x60_1234);
}
#[test]
fn users_may_not_use_a_supervisors_page() {
    for bits in [39, 30, 21, 12] {
        let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::SRE, 1));
        scene.map_first(top, 4, 0x7000, 12, Entry::new(0x9000));
        let at = scene.first_at(top, 4, 0x7000, bits);
        let entry = Entry([scene.get(at)]).with(Entry::US, 0);
        scene.put(at, &entry.0);
        assert_eq!(scene.blocked(read(0x7000)), Reason::SGN_2, "{bits}");
        assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_2, "{bits}");
        assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::SGN_2, "{bits}");
        let privileged = Request { privileged: true, ..write(0x7000) }.with_pasid(3);
        assert_eq!(scene.passed(privileged).address, 0x9000, "{bits}");
        // From the cache, too, a user may not.
        assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SGN_2, "{bits}");
    }
}
#[test]
fn users_may_not_write_where_an_entry_is_read_only() {
    for bits in [39, 30, 21, 12] {
        let (mut scene, top) = scene();
        scene.map_first(top, 4, 0x7000, 12, Entry::new(0x9000));
        let at = scene.first_at(top, 4, 0x7000, bits);
        let entry = Entry([scene.get(at)]).with(Entry::RW, 0);
        scene.put(at, &entry.0);
        assert_eq!(scene.passed(read(0x7000)).address, 0x9000, "{bits}");
        assert_eq!(scene.passed(flush(0x7000)).address, 0x9000, "{bits}");
        assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_6, "{bits}");
        assert_eq!(scene.blocked(atomic(0x7000)), Reason::SGN_6, "{bits}");
    }
}
#[test]
fn supervisors_may_write_read_only_pages_unless_wpe_is_set() {
    for protect in [0, 1] {
        let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::SRE, 1).with(PasidEntry::WPE, protect));
        let at = scene.map_first(top, 4, 0x7000, 12, Entry::new(0x9000).with(Entry::RW, 0).with(Entry::US, 0));
        let privileged = |request: Request| Request { privileged: true, ..request }.with_pasid(3);
        // Cold and warm.
        for _ in 0..2 {
            match protect {
                0 => assert_eq!(scene.passed(privileged(write(0x7000))).address, 0x9000),
                _ => assert_eq!(scene.blocked(privileged(write(0x7000))), Reason::SGN_6),
            }
            assert_eq!(scene.get(at) & D != 0, protect == 0);
            assert_eq!(scene.passed(privileged(read(0x7000))).address, 0x9000);
        }
        let translated = scene.translated(privileged(read(0x7000).of(ATS)));
        assert_eq!((translated.read, translated.write, translated.privileged), (true, protect == 0, true));
    }
}
#[test]
fn rid_priv_lets_requests_without_pasid_be_a_supervisors() {
    let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::SRE, 1));
    scene.map_first(top, 4, 0x7000, 12, Entry::new(0x9000).with(Entry::US, 0));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SGN_2);
    scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Scalable);
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PRIV, 1));
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
    let translated = scene.translated(read(0x7000).of(ATS));
    assert_eq!((translated.read, translated.write, translated.privileged), (true, true, false));
}
#[test]
fn reads_mark_every_entry_as_accessed() {
    let (mut scene, leaf) = page(Entry::new(0x9000));
    let at = scene.pasid_at(SOURCE, 0);
    let top = scene.get(at + 16) & !0xfff;
    scene.passed(read(0x7000));
    for bits in [39, 30, 21, 12] {
        let at = scene.first_at(top, 4, 0x7000, bits);
        assert_eq!(scene.get(at) & (A | D | EA), A, "{bits}");
    }
    assert_eq!(scene.get(leaf) & (A | D), A);
}
#[test]
fn writes_mark_the_leaf_as_dirty() {
    for request in [write(0x7000), atomic(0x7000)] {
        let (mut scene, leaf) = page(Entry::new(0x9000));
        scene.passed(request);
        assert_eq!(scene.get(leaf) & (A | D), A | D);
    }
}
#[test]
fn a_write_after_a_read_walks_again_to_mark_the_leaf() {
    let (mut scene, leaf) = page(Entry::new(0x9000));
    scene.passed(read(0x7000));
    scene.passed(write(0x7000));
    assert_eq!(scene.get(leaf) & (A | D), A | D);
    scene.put(leaf, &[0x9007]);
    scene.passed(write(0x7000));
    assert_eq!(scene.get(leaf), 0x9007);
}
#[test]
fn eafe_marks_every_entry_as_accessed_by_devices() {
    let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::EAFE, 1));
    let leaf = scene.map_first(top, 4, 0x7000, 12, Entry::new(0x9000).with(Entry::A, 1));
    scene.passed(read(0x7000));
    assert_eq!(scene.get(leaf) & (A | EA), A | EA);
    assert_eq!(scene.get(top) & (A | EA), A | EA);
}
#[test]
fn writes_that_are_denied_do_not_mark_the_leaf() {
    let (mut scene, leaf) = page(Entry::new(0x9000).with(Entry::RW, 0));
    assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_6);
    assert_eq!(scene.get(leaf) & (A | D), 0);
}
#[test]
fn marks_are_needed_where_walks_do_not_snoop() {
    let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::PWSNP, 0).with(PasidEntry::EAFE, 1));
    let leaf = scene.map_first(top, 4, 0x7000, 12, Entry::new(0x9000));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_9);
    assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::SFS_9);
    for bits in [39, 30, 21, 12] {
        let at = scene.first_at(top, 4, 0x7000, bits);
        let entry = scene.get(at) | A;
        scene.put(at, &[entry]);
        assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_9);
        scene.put(at, &[entry | EA]);
    }
    assert_eq!(scene.passed(read(0x7000)).address, 0x9000);
    assert_eq!(scene.blocked(write(0x7000)), Reason::SFS_9);
    let entry = scene.get(leaf) | D;
    scene.put(leaf, &[entry]);
    assert_eq!(scene.passed(write(0x7000)).address, 0x9000);
}
#[test]
fn marks_cannot_be_set_in_memory_that_goes_away() {
    let (mut scene, _) = page(Entry::new(0x9000));
    scene.bus.refuses = true;
    assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_10);
    // A translation request gets nothing, and the fault is recorded all the same.
    let translated = scene.translated(read(0x7000).of(ATS));
    assert_eq!((translated.read, translated.write, translated.because), (false, false, Some(Reason::SFS_10)));
    assert_eq!(scene.recorded(), Some(Reason::SFS_10));
}
#[test]
fn the_output_is_in_the_interrupt_range() {
    let (mut scene, _) = page(Entry::new(0xfeef_f000));
    assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_8);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SGN_8);
}
#[test]
fn page_walks_snoop_with_pwsnp_only() {
    for snoop in [0, 1] {
        let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::PWSNP, snoop));
        scene.map_first(top, 4, 0x7000, 12, Entry::new(0x9000));
        scene.bus.unsnooped = Some(Ram::new(NOWHERE));
        match snoop {
            1 => assert_eq!(scene.passed(read(0x7000)).address, 0x9000),
            _ => assert_eq!(scene.blocked(read(0x7000)), Reason::SFS_2),
        }
    }
}
#[test]
fn the_mtrrs_of_the_physical_address_count() {
    let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::PAT, 0x6666_6666));
    scene.map_first(top, 4, 0x4000_0000, 21, Entry::large(0x60_0000));
    assert_eq!(scene.passed(read(0x4000_0000)).memory_type, 0);
    // One page of the large one is WT, and the caches do not stand before it.
    scene.write_back();
    scene.unit.write(&mut scene.bus, 0x180, Size::Quad, 0x60_1000 | 4);
    scene.unit.write(&mut scene.bus, 0x188, Size::Quad, ((1 << 52) - 0x1000) | 1 << 11);
    assert_eq!(scene.passed(read(0x4000_0000)).memory_type, 6);
    assert_eq!(scene.passed(read(0x4000_1000)).memory_type, 4);
    assert_eq!(scene.passed(read(0x4000_2000)).memory_type, 6);
}
#[test]
fn the_memory_type_is_that_of_the_pat() {
    // PA0 to PA7: WB, WT, UC-, UC, WP, WC, a reserved one, WB.
    let pat = 0x6215_0746 & 0xffff_ffff;
    for (index, expected) in [(0, 6), (1, 4), (2, 0), (3, 0), (4, 5), (5, 1), (6, 0), (7, 6)] {
        let (mut scene, top) = scene_with(|entry| entry.with(PasidEntry::PAT, pat));
        scene.write_back();
        let bits = |entry: Entry, pat| {
            entry.with(Entry::PWT, index & 1).with(Entry::PCD, index >> 1 & 1).with(pat, index >> 2)
        };
        scene.map_first(top, 4, 0x7000, 12, bits(Entry::new(0x9000), Entry::PS));
        scene.map_first(top, 4, 0x4000_0000, 21, bits(Entry::large(0x60_0000), Entry::LARGE_PAT));
        for _ in 0..2 {
            assert_eq!(scene.passed(read(0x7000)).memory_type, expected, "{index}");
            assert_eq!(scene.passed(read(0x4000_0000)).memory_type, expected, "{index}");
        }
        // Without ECAP.MTS it means nothing.
        let mut scene = self::page(Entry::new(0x9000)).0;
        scene.unit.profile.ecap &= !(1 << 25);
        assert_eq!(scene.passed(read(0x7000)).memory_type, 6);
    }
}

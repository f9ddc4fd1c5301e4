//! Translation requests (4.2.3).

use super::*;

fn legacy() -> (Scene, u64) {
    let mut scene = Scene::legacy();
    let top = scene.page();
    scene.context(SOURCE, ContextEntry::new(top, 2, 5).with(ContextEntry::TT, 1));
    (scene, top)
}
/// What an answer grants: R, W, U, N.
fn flags(translated: Translated) -> (bool, bool, bool, bool) {
    (translated.read, translated.write, translated.untranslated_only, translated.snoop)
}

#[test]
fn a_translation_gives_the_page_and_its_rights() {
    let (mut scene, top) = legacy();
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000));
    let expected = Translated {
        address: 0x9000,
        page: 0x1000,
        read: true,
        write: true,
        untranslated_only: false,
        snoop: false,
        execute: false,
        privileged: false,
        global: false,
        because: None,
    };
    // Cold and warm.
    assert_eq!(scene.translated(read(0x7123).of(ATS)), expected);
    assert_eq!(scene.translated(read(0x7123).of(ATS)), expected);
    scene.map_second(top, 4, 0x4000_0000, 21, SecondStageEntry::large(0x60_0000));
    let large = scene.translated(read(0x4012_3456).of(ATS));
    assert_eq!((large.address, large.page), (0x60_0000, 1 << 21));
}
#[test]
fn a_read_only_page_gives_reads_and_says_why_no_writes() {
    let (mut scene, top) = legacy();
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000).rights(true, false));
    let translated = scene.translated(read(0x7000).of(ATS));
    assert_eq!(flags(translated), (true, false, false, false));
    assert_eq!((translated.because, scene.recorded()), (Some(Reason::LGN_2), None));
    // Who did not ask for writes is denied nothing.
    assert_eq!(scene.translated(read(0x7000).of(ATS_READ)).because, None);
}
#[test]
fn a_write_only_page_gives_writes() {
    let (mut scene, top) = legacy();
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000).rights(false, true));
    let translated = scene.translated(read(0x7000).of(ATS));
    assert_eq!(flags(translated), (false, true, false, false));
    assert_eq!(translated.because, Some(Reason::LGN_3));
    assert_eq!(scene.nothing(read(0x7000).of(ATS_READ)), Reason::LGN_3);
}
#[test]
fn no_rights_are_success_with_nothing() {
    let (mut scene, _) = legacy();
    assert_eq!(scene.nothing(read(0x7000).of(ATS)), Reason::LGN_2);
    assert_eq!(scene.nothing(read(0x7000).of(ATS_READ)), Reason::LGN_3);
    assert_eq!(scene.nothing(read(1 << 48).of(ATS)), Reason::LGN_1);
}
#[test]
fn faults_of_tables_are_aborts_that_are_recorded() {
    let (mut scene, top) = legacy();
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000).with(SecondStageEntry::IW, 1));
    scene.map_second(top, 4, 0x8000, 12, SecondStageEntry::new(0xfee0_0000));
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::LSS_2);
    assert_eq!(scene.blocked(read(0x8000).of(ATS)), Reason::LGN_4);
    scene.context(SOURCE + 1, ContextEntry::new(NOWHERE, 2, 6).with(ContextEntry::TT, 1));
    assert_eq!(scene.blocked(Request { source: SOURCE + 1, ..read(0x7000).of(ATS) }), Reason::LCT_4);
    scene.unit.profile.cap |= 1 << 7;
    assert_eq!(scene.blocked(Request { source: SOURCE + 2, ..read(0x7000).of(ATS) }), Reason::LCT_2);
}
#[test]
fn nw_means_no_writes_only_where_the_unit_knows_it() {
    for known in [false, true] {
        let mut scene = Scene::scalable();
        if !known {
            scene.unit.profile.ecap &= !(1 << 33);
        }
        let top = scene.page();
        scene.pasid(SOURCE, 0, PasidEntry::first_stage(top, false, 5).with(PasidEntry::PWSNP, 1));
        let leaf = scene.map_first(top, 4, 0x7000, 12, FirstStageEntry::new(0x9000));
        let translated = scene.translated(read(0x7000).of(ATS_READ));
        assert_eq!(flags(translated), (true, !known, false, false));
        // The dirty bit is set for whoever may write.
        assert_eq!(scene.get(leaf) >> 6 & 1 == 1, !known);
        assert!(scene.translated(read(0x7000).of(ATS)).write);
        assert_eq!(scene.get(leaf) >> 6 & 1, 1);
    }
}
#[test]
fn a_page_that_cannot_be_written_is_not_marked_as_dirty() {
    let mut scene = Scene::scalable();
    let top = scene.page();
    scene.pasid(SOURCE, 0, PasidEntry::first_stage(top, false, 5).with(PasidEntry::PWSNP, 1));
    let leaf = scene.map_first(top, 4, 0x7000, 12, FirstStageEntry::new(0x9000).with(FirstStageEntry::RW, 0));
    let translated = scene.translated(read(0x7000).of(ATS));
    assert_eq!((translated.read, translated.write, translated.because), (true, false, Some(Reason::SGN_6)));
    assert_eq!(scene.get(leaf) >> 5 & 3, 1);
}
#[test]
fn the_interrupt_range_may_be_written_untranslated() {
    let (mut scene, top) = legacy();
    // Whatever the tables say.
    scene.map_second(top, 4, 0xfee0_0000, 12, SecondStageEntry::new(0x9000));
    assert_eq!(flags(scene.translated(read(0xfee0_0000).of(ATS))), (false, true, true, false));
    assert_eq!(flags(scene.translated(read(0xfeef_f000).of(ATS_READ))), (false, false, false, false));
    scene.unit.profile.ecap &= !(1 << 33);
    assert_eq!(flags(scene.translated(read(0xfee0_0000).of(ATS_READ))), (false, true, true, false));
}
#[test]
fn the_interrupt_range_is_no_way_around_blocked_translation() {
    let mut scene = Scene::legacy();
    scene.context(SOURCE, ContextEntry::pass_through(3, 5));
    assert_eq!(scene.blocked(read(0xfee0_0000).of(ATS)), Reason::LCT_5);
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PasidEntry::default());
    assert_eq!(scene.nothing(read(0xfee0_0000).of(ATS)), Reason::SPT_2);
}
#[test]
fn the_interrupt_range_of_scalable_mode() {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PasidEntry::pass_through(5));
    assert_eq!(flags(scene.translated(read(0xfee0_0000).of(ATS))), (false, true, true, false));
    assert_eq!(flags(scene.translated(read(0xfee0_0000).of(ATS_READ))), (false, false, false, false));
}
#[test]
fn n_is_snp_in_legacy_mode() {
    let (mut scene, top) = legacy();
    scene.map_second(top, 4, 0x7000, 12, SecondStageEntry::new(0x9000).with(SecondStageEntry::SNP, 1));
    assert!(scene.translated(read(0x7000).of(ATS)).snoop);
}
#[test]
fn n_is_pgsnp_under_first_stage_and_pass_through() {
    for (pgtt, pgsnp) in [(1, 0), (1, 1), (4, 0), (4, 1)] {
        let mut scene = Scene::scalable();
        let top = scene.page();
        let entry = PasidEntry::first_stage(top, false, 5).with(PasidEntry::PWSNP, 1);
        scene.pasid(SOURCE, 0, entry.with(PasidEntry::PGTT, pgtt).with(PasidEntry::PGSNP, pgsnp));
        scene.map_first(top, 4, 0x7000, 12, FirstStageEntry::new(0x9000));
        assert_eq!(scene.translated(read(0x7000).of(ATS)).snoop, pgsnp == 1);
    }
}
#[test]
fn pass_through_gives_as_large_a_page_as_there_is() {
    for (cap, ecap, page) in [(0, 0, 1 << 30), (1 << 56 | 2 << 34, 0, 1 << 21), (1 << 56 | 3 << 34, 1 << 47, 0x1000)] {
        let mut scene = Scene::scalable();
        scene.unit.profile.cap &= !cap;
        scene.unit.profile.ecap &= !ecap;
        scene.pasid(SOURCE, 0, PasidEntry::pass_through(5));
        let translated = scene.translated(read(0x1_2345_6000).of(ATS));
        assert_eq!((translated.address, translated.page), (0x1_2345_6000 & !(page - 1), page));
        assert_eq!(flags(translated), (true, true, false, false));
    }
}
#[test]
fn pass_through_pages_leave_the_interrupt_range_out() {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PasidEntry::pass_through(5));
    let page = |scene: &mut Scene, address| {
        let translated = scene.translated(read(address).of(ATS));
        (translated.address, translated.page)
    };
    assert_eq!(page(&mut scene, 0xc000_0000), (0xc000_0000, 1 << 21));
    assert_eq!(page(&mut scene, 0xfef0_0000), (0xfef0_0000, 0x1000));
    assert_eq!(page(&mut scene, 0xff00_0000), (0xff00_0000, 1 << 21));
}
#[test]
fn priv_is_set_for_every_privileged_request_with_pasid() {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 3, PasidEntry::pass_through(5).with(PasidEntry::SRE, 1));
    let privileged = Request { privileged: true, ..read(0x7000).with_pasid(3).of(ATS) };
    assert!(scene.translated(privileged).privileged);
    assert!(!scene.translated(read(0x7000).with_pasid(3).of(ATS)).privileged);
    // Also where nothing is granted.
    assert!(scene.translated(Request { pasid: Some(4), ..privileged }).privileged);
}
#[test]
fn translated_requests_of_legacy_mode_pass_as_they_are() {
    let (mut scene, _) = legacy();
    let expected = Passed { address: 0x7123, page: u64::MAX, snoop: true, memory_type: 6 };
    assert_eq!(scene.passed(write(0x7123).of(Kind::Translated)), expected);
    assert_eq!(scene.blocked(write(1 << 52).of(Kind::Translated)), Reason::LGN_1);
    assert_eq!(scene.blocked(write(0xfee0_0000).of(Kind::Translated)), Reason::LGN_4);
}

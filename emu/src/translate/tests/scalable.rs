//! Root, context and PASID tables of scalable mode.

use super::*;
use crate::formats::Field;

const PASS: PasidEntry = PasidEntry([1 | 4 << 6, 5, 0, 0, 0, 0, 0, 0]);

/// A device whose requests without PASID and with PASID 3 pass.
fn scene() -> Scene {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PASS);
    scene.pasid(SOURCE, 3, PASS);
    scene
}
fn without(bits: u64) -> Scene {
    let mut profile = Profile::maximal();
    profile.ecap &= !bits;
    let mut scene = Scene::new(profile, Mode::Scalable);
    scene.pasid(SOURCE, 0, PASS);
    scene
}

#[test]
fn the_root_entry_cannot_be_read() {
    let mut scene = Scene::scalable();
    scene.unit.state.root = NOWHERE;
    assert_eq!(scene.blocked(read(0x7000)), Reason::SRT_1);
}
#[test]
fn the_half_of_the_root_entry_is_not_present() {
    let mut scene = scene();
    // Device 16 is in the other half.
    assert_eq!(scene.blocked(Request { source: 0x0180, ..read(0x7000) }), Reason::SRT_2);
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
}
#[test]
fn the_upper_half_is_for_devices_from_16_on() {
    let mut scene = Scene::scalable();
    for source in [0x0180, 0x01ff, 0x0100, 0x017f] {
        scene.pasid(source, 0, PASS);
        assert_eq!(scene.passed(Request { source, ..read(0x7000) }).address, 0x7000);
    }
    assert_ne!(scene.get(ROOT + 16), scene.get(ROOT + 24));
}
#[test]
fn the_root_entry_has_reserved_bits_set() {
    for (low, high) in [(2, 0), (1 << 11, 0), (1 << 52, 0), (0, 1 | 2), (0, 1 | 1 << 63)] {
        let mut scene = scene();
        let root = scene.get(ROOT + 16);
        scene.put(ROOT + 16, &[root | low, high]);
        assert_eq!(scene.blocked(read(0x7000)), Reason::SRT_3, "{low:x} {high:x}");
    }
    // A half that is not present has no reserved bits.
    let mut scene = scene();
    scene.put(ROOT + 24, &[!1]);
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
}
#[test]
fn the_context_entry_cannot_be_read() {
    let mut scene = Scene::scalable();
    scene.put(ROOT + 16, &[NOWHERE | 1]);
    assert_eq!(scene.blocked(read(0x7000)), Reason::SCT_1);
}
#[test]
fn the_context_entry_is_not_present() {
    let mut scene = scene();
    scene.change_context(|_| ScalableContextEntry([!3, !0, !0, !0]));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SCT_2);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SCT_2);
}
#[test]
fn fpd_counts_even_if_the_context_entry_is_not_present() {
    let mut scene = scene();
    scene.change_context(|_| ScalableContextEntry([2, 0, 0, 0]));
    scene.ask(read(0x7000));
    assert_eq!(scene.recorded(), None);
}
#[test]
fn the_context_entry_has_reserved_bits_set() {
    for bit in [7, 8, 52, 85, 127, 128, 191, 192, 255] {
        let mut scene = scene();
        scene.change_context(|entry| entry.with(Field::bit(bit), 1));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SCT_3, "{bit}");
    }
}
#[test]
fn bits_of_features_that_are_missing_are_reserved_in_the_context_entry() {
    use ScalableContextEntry as Entry;
    let features = [
        (1 << 2 | 1 << 29, Entry::DTE),
        (1 << 40 | 1 << 56, Entry::PASIDE),
        (1 << 29, Entry::PRE),
        (1 << 55, Entry::HPTE),
        (1 << 56, Entry::EPTR),
        (1 << 49, Entry::RID_PASID),
        (1 << 53, Entry::RID_PRIV),
    ];
    for (ecap, field) in features {
        let mut scene = without(ecap);
        assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
        let mut scene = without(ecap);
        scene.change_context(|entry| entry.with(field, 1));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SCT_3, "{field:?}");
    }
}
#[test]
fn page_requests_without_device_tlb_are_inconsistent() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::DTE, 0));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SCT_4);
}
#[test]
fn rid_pasid_is_beyond_pdts() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PASID, 0x2000));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SCT_4);
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PASID, 0x1fff));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SPD_2);
}
#[test]
fn eptr_without_paside_is_inconsistent() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::PASIDE, 0));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SCT_4);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3).of(Kind::Translated)), Reason::SCT_4);
    // Of these PASIDE itself says enough.
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SCT_6);
}
#[test]
fn translation_and_translated_requests_need_dte() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::DTE, 0).with(ScalableContextEntry::PRE, 0));
    for pasid in [None, Some(3)] {
        assert_eq!(scene.blocked(Request { pasid, ..read(0x7000).of(ATS) }), Reason::SCT_5);
        assert_eq!(scene.blocked(Request { pasid, ..read(0x7000).of(Kind::Translated) }), Reason::SCT_5);
        assert_eq!(scene.passed(Request { pasid, ..read(0x7000) }).address, 0x7000);
    }
}
#[test]
fn requests_with_pasid_need_paside() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::PASIDE, 0).with(ScalableContextEntry::EPTR, 0));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SCT_6);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3).of(ATS)), Reason::SCT_6);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3).of(Kind::Translated)), Reason::SCT_10);
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
}
#[test]
fn the_pasid_is_beyond_pdts() {
    let mut scene = scene();
    for kind in [Kind::Untranslated, ATS, Kind::Translated] {
        assert_eq!(scene.blocked(read(0x7000).with_pasid(0x2000).of(kind)), Reason::SCT_7);
    }
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0x1fff)), Reason::SPD_2);
    scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Scalable);
    scene.change_context(|entry| entry.with(ScalableContextEntry::PDTS, 1));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0x2000)), Reason::SPD_2);
    scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Scalable);
    scene.change_context(|entry| entry.with(ScalableContextEntry::PDTS, 7));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0xf_ffff)), Reason::SPD_2);
}
#[test]
fn the_pasid_of_a_request_is_rid_pasid() {
    let mut scene = scene();
    for kind in [Kind::Untranslated, ATS, Kind::Translated] {
        assert_eq!(scene.blocked(read(0x7000).with_pasid(0).of(kind)), Reason::SCT_9);
    }
    scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Scalable);
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PASID, 3));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SCT_9);
    assert_eq!(scene.passed(read(0x7000).with_pasid(0)).address, 0x7000);
}
#[test]
fn translated_requests_with_pasid_need_eptr() {
    let mut scene = scene();
    assert_eq!(scene.passed(read(0x7000).with_pasid(3).of(Kind::Translated)).address, 0x7000);
    scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Scalable);
    scene.change_context(|entry| entry.with(ScalableContextEntry::EPTR, 0));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3).of(Kind::Translated)), Reason::SCT_10);
    // Without the feature the root complex blocks them.
    assert_eq!(without(1 << 56).blocked(read(0x7000).with_pasid(3).of(Kind::Translated)), Reason::NONE);
}
#[test]
fn the_pasid_is_wider_than_pss() {
    let mut scene = scene();
    scene.unit.profile.ecap = scene.unit.profile.ecap & !(0x1f << 35) | 9 << 35;
    scene.change_context(|entry| entry.with(ScalableContextEntry::PDTS, 7));
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0x400)), Reason::SGN_10);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0x3ff)), Reason::SPD_2);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0x400).of(ATS)), Reason::SGN_10);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0x400).of(Kind::Translated)), Reason::SGN_10);
}
#[test]
fn the_directory_entry_cannot_be_read() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::PASIDDIRPTR, NOWHERE >> 12));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SPD_1);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SPD_1);
}
#[test]
fn the_directory_entry_is_not_present() {
    let mut scene = scene();
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0x40)), Reason::SPD_2);
    assert_eq!(scene.nothing(read(0x7000).with_pasid(0x40).of(ATS)), Reason::SPD_2);
}
fn directory(scene: &mut Scene) -> u64 {
    let context = scene.scalable_context_at(SOURCE);
    scene.get(context) & !0xfff
}
#[test]
fn the_directory_entry_has_reserved_bits_set() {
    for bit in [2, 11, 52, 63] {
        let mut scene = scene();
        let directory = directory(&mut scene);
        let entry = scene.get(directory);
        scene.put(directory, &[entry | 1 << bit]);
        assert_eq!(scene.blocked(read(0x7000)), Reason::SPD_3, "{bit}");
    }
}
#[test]
fn fpd_counts_in_the_directory_even_if_its_entry_is_not_present() {
    let mut scene = scene();
    let directory = directory(&mut scene);
    let entry = scene.get(directory);
    scene.put(directory, &[2]);
    scene.ask(read(0x7000));
    assert_eq!(scene.recorded(), None);
    // And when the PASID entry has been cached.
    scene.put(directory, &[entry | 2]);
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
    for _ in 0..2 {
        assert_eq!(scene.blocked(read(1 << 52)), Reason::SGN_4);
        assert_eq!(scene.recorded(), None);
    }
}
#[test]
fn the_pasid_entry_cannot_be_read() {
    let mut scene = scene();
    let directory = directory(&mut scene);
    scene.put(directory, &[NOWHERE | 1]);
    assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_1);
    assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SPT_1);
}
#[test]
fn the_pasid_entry_is_not_present() {
    let mut scene = scene();
    assert_eq!(scene.blocked(read(0x7000).with_pasid(4)), Reason::SPT_2);
    assert_eq!(scene.nothing(read(0x7000).with_pasid(4).of(ATS)), Reason::SPT_2);
}
#[test]
fn fpd_counts_in_the_pasid_entry_even_if_it_is_not_present() {
    let mut scene = scene();
    scene.pasid(SOURCE, 4, PasidEntry([2, 0, 0, 0, 0, 0, 0, 0]));
    scene.ask(read(0x7000).with_pasid(4));
    assert_eq!(scene.recorded(), None);
    scene.pasid(SOURCE, 4, PASS.with(PasidEntry::FPD, 1));
    scene.ask(read(1 << 52).with_pasid(4));
    assert_eq!(scene.recorded(), None);
}
#[test]
fn the_pasid_entry_has_reserved_bits_set() {
    for bit in [5, 10, 11, 52, 63, 80, 86, 91, 95, 129, 136, 139, 192, 255, 256, 258, 320, 383, 384, 511] {
        let mut scene = scene();
        scene.pasid(SOURCE, 0, PASS.with(Field::bit(bit), 1));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_3, "{bit}");
        assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SPT_3, "{bit}");
    }
}
#[test]
fn pointers_of_the_pasid_entry_are_no_wider_than_the_host() {
    for bit in [40, 63, 168, 191, 296, 319] {
        let mut scene = Scene::scalable();
        scene.unit.profile.width = 40;
        scene.unit.profile.ecap |= 1 << 55;
        scene.pasid(SOURCE, 0, PASS.with(Field::bit(bit - 1), u64::from(bit % 64 == 40)));
        assert_eq!(scene.passed(read(0x7000)).address, 0x7000, "{bit}");
        scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Scalable);
        scene.pasid(SOURCE, 0, PASS.with(Field::bit(bit), 1));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_3, "{bit}");
    }
}
#[test]
fn bits_133_and_134_of_the_pasid_entry_are_ignored() {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PASS.with(Field::bits(134, 133), 3));
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
}
#[test]
fn bits_of_features_that_are_missing_are_reserved_in_the_pasid_entry() {
    use PasidEntry as Entry;
    let features = [
        (1 << 46, Entry::SSPTPTR),
        (1 << 46, Entry::SSADE),
        (1 << 45, Entry::SSADE),
        (1 << 48, Entry::PWSNP),
        (1 << 7, Entry::PGSNP),
        (1 << 25, Entry::CD),
        (1 << 25, Entry::EMTE),
        (1 << 25, Entry::PAT),
        (1 << 31, Entry::SRE),
        (1 << 47, Entry::FSPM),
        (1 << 47, Entry::WPE),
        (1 << 47, Entry::FSPTPTR),
        (1 << 34, Entry::EAFE),
        (1 << 55, Entry::HPTSZ),
        (1 << 55, Entry::HPTPTR),
        (1 << 55, Entry::HPTDID),
    ];
    for (ecap, field) in features {
        let mut scene = without(ecap);
        scene.pasid(SOURCE, 0, PASS.with(field, 1));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_3, "{field:?}");
        // With the feature, pass-through ignores what it does not need.
        let mut scene = Scene::scalable();
        scene.unit.profile.ecap |= 1 << 55;
        scene.pasid(SOURCE, 0, PASS.with(field, 1));
        assert_eq!(scene.passed(read(0x7000)).address, 0x7000, "{field:?}");
    }
}
#[test]
fn aw_without_second_stage_is_reserved_only_if_the_unit_is_strict() {
    for strict in [false, true] {
        let mut scene = without(1 << 46 | 1 << 26);
        scene.unit.profile.strict_aw = strict;
        scene.pasid(SOURCE, 0, PASS.with(PasidEntry::AW, 2));
        match strict {
            true => assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_3),
            false => assert_eq!(scene.passed(read(0x7000)).address, 0x7000),
        }
    }
}
#[test]
fn a_domain_id_wider_than_nd_is_reserved() {
    let mut scene = scene();
    scene.unit.profile.cap = scene.unit.profile.cap & !7 | 2;
    scene.pasid(SOURCE, 0, PASS.with(PasidEntry::DID, 0x100));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_3);
}
#[test]
fn pgtt_is_not_one_that_the_unit_has() {
    for (pgtt, ecap) in [(0, 0), (5, 0), (6, 0), (7, 0), (1, 1 << 47), (2, 1 << 46), (3, 1 << 26), (4, 1 << 6)] {
        let mut profile = Profile::maximal();
        profile.ecap &= !ecap;
        let mut scene = Scene::new(profile, Mode::Scalable);
        scene.pasid(SOURCE, 0, PasidEntry::new(pgtt, 5));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_4, "{pgtt}");
        assert_eq!(scene.blocked(read(0x7000).of(ATS)), Reason::SPT_4, "{pgtt}");
    }
}
#[test]
fn aw_is_not_one_that_the_unit_has() {
    for aw in [0, 4, 7] {
        let mut scene = Scene::scalable();
        scene.pasid(SOURCE, 0, PasidEntry::second_stage(0x8000, aw, 5));
        scene.pasid(SOURCE, 3, PasidEntry::nested(0x8000, false, 0x8000, aw, 5));
        assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_4, "{aw}");
        assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SPT_4, "{aw}");
    }
    let mut scene = Scene::scalable();
    scene.unit.profile.cap &= !(1 << 10);
    scene.pasid(SOURCE, 0, PasidEntry::second_stage(0x8000, 2, 5));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_4);
}
#[test]
fn fspm_is_not_one_that_the_unit_has() {
    for (fspm, cap) in [(2, 0), (3, 0), (1, 1 << 60)] {
        let mut scene = Scene::scalable();
        scene.unit.profile.cap &= !cap;
        let entry = PasidEntry::first_stage(0x8000, false, 5).with(PasidEntry::FSPM, fspm);
        scene.pasid(SOURCE, 0, entry);
        assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_4, "{fspm}");
        scene.pasid(SOURCE, 3, PASS.with(PasidEntry::FSPM, fspm));
        assert_eq!(scene.passed(read(0x7000).with_pasid(3)).address, 0x7000, "{fspm}");
    }
}
#[test]
fn fsptptr_is_too_wide_for_the_second_stage() {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PasidEntry::nested(1 << 39, false, 0x8000, 1, 5));
    scene.pasid(SOURCE, 3, PasidEntry::nested(1 << 38, false, 0x8000, 1, 5));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_4);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(3)), Reason::SSS_2);
}
#[test]
fn requests_to_execute_are_blocked() {
    let execute = Request { execute: true, ..read(0x7000) };
    let mut scene = scene();
    assert_eq!(scene.blocked(execute.with_pasid(3)), Reason::RTA_5);
    assert_eq!(scene.blocked(execute.with_pasid(3).of(ATS)), Reason::RTA_5);
    assert_eq!(scene.blocked(execute.with_pasid(3).of(Kind::Translated)), Reason::RTA_5);
    assert_eq!(scene.passed(execute).address, 0x7000);
    scene.unit.profile.version = 0x70;
    assert_eq!(scene.blocked(execute.with_pasid(3)), Reason::SPT_5);
    assert_eq!(scene.nothing(execute.with_pasid(3).of(ATS)), Reason::SPT_5);
    assert_eq!(scene.passed(execute.with_pasid(3).of(Kind::Translated)).address, 0x7000);
    scene.unit.profile.ecap |= 1 << 30;
    assert_eq!(scene.passed(execute.with_pasid(3)).address, 0x7000);
}
#[test]
fn privileged_requests_need_sre() {
    let privileged = Request { privileged: true, ..read(0x7000) };
    let mut scene = scene();
    scene.pasid(SOURCE, 4, PASS.with(PasidEntry::SRE, 1));
    assert_eq!(scene.blocked(privileged.with_pasid(3)), Reason::SPT_6);
    assert_eq!(scene.nothing(privileged.with_pasid(3).of(ATS)), Reason::SPT_6);
    assert!(scene.translated(privileged.with_pasid(3).of(ATS)).privileged);
    assert_eq!(scene.passed(privileged.with_pasid(4)).address, 0x7000);
    // Without PASID the request cannot say so.
    assert_eq!(scene.passed(privileged).address, 0x7000);
}
#[test]
fn rid_priv_makes_requests_without_pasid_privileged() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PRIV, 1));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SPT_6);
    assert_eq!(scene.passed(read(0x7000).with_pasid(3)).address, 0x7000);
    scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Scalable);
    scene.pasid(SOURCE, 0, PASS.with(PasidEntry::SRE, 1));
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
    assert!(!scene.translated(read(0x7000).of(ATS)).privileged);
}
#[test]
fn requests_without_pasid_go_by_rid_pasid() {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0x77, PASS);
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PASID, 0x77));
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
    let mut scene = without(1 << 49);
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
    assert_eq!(scene.blocked(read(0x7000).with_pasid(0)), Reason::SCT_9);
}
#[test]
fn a_pass_through_address_is_wider_than_the_host() {
    let mut scene = scene();
    assert_eq!(scene.passed(read((1 << 52) - 8)).address, (1 << 52) - 8);
    assert_eq!(scene.blocked(read(1 << 52)), Reason::SGN_4);
    assert_eq!(scene.nothing(read(1 << 52).of(ATS)), Reason::SGN_4);
}
#[test]
fn pass_through_to_the_interrupt_range_is_blocked() {
    let mut scene = scene();
    assert_eq!(scene.blocked(write(0xfee0_0000).with_pasid(3)), Reason::SGN_8);
    // Also when the neighbourhood has been cached.
    assert_eq!(scene.passed(write(0xfed0_0000).with_pasid(3)).address, 0xfed0_0000);
    assert_eq!(scene.passed(write(0xfef0_0000).with_pasid(3)).address, 0xfef0_0000);
    assert_eq!(scene.blocked(write(0xfee0_0000).with_pasid(3)), Reason::SGN_8);
    assert_eq!(scene.blocked(read(0xfeef_f000).with_pasid(3).of(ATS)), Reason::SGN_8);
}
#[test]
fn pgsnp_makes_every_access_snoop() {
    let mut scene = scene();
    scene.pasid(SOURCE, 4, PASS.with(PasidEntry::PGSNP, 1));
    assert!(!scene.passed(Request { no_snoop: true, ..read(0x7000) }.with_pasid(3)).snoop);
    assert!(scene.passed(Request { no_snoop: true, ..read(0x7000) }.with_pasid(4)).snoop);
}
#[test]
fn cd_makes_pages_uncacheable() {
    let mut scene = scene();
    scene.pasid(SOURCE, 4, PASS.with(PasidEntry::CD, 1));
    assert_eq!(scene.passed(read(0x7000).with_pasid(3)).memory_type, 6);
    assert_eq!(scene.passed(read(0x7000).with_pasid(4)).memory_type, 0);
}
#[test]
fn tables_are_read_as_coherently_as_ecap_c_says() {
    for coherent in [false, true] {
        let mut scene = scene();
        scene.unit.profile.ecap = scene.unit.profile.ecap & !1 | u64::from(coherent);
        scene.bus.unsnooped = Some(Ram::new(NOWHERE));
        match coherent {
            true => assert_eq!(scene.passed(read(0x7000)).address, 0x7000),
            false => assert_eq!(scene.blocked(read(0x7000)), Reason::SRT_2),
        }
    }
}
#[test]
fn translated_requests_pass_as_they_are() {
    let mut scene = scene();
    // No PASID entry is asked.
    scene.pasid(SOURCE, 0, PasidEntry::default());
    let expected = Passed { address: 0x7123, page: u64::MAX, snoop: true, memory_type: 6 };
    assert_eq!(scene.passed(write(0x7123).of(Kind::Translated)), expected);
    assert_eq!(scene.blocked(read(1 << 52).of(Kind::Translated)), Reason::SGN_4);
    assert_eq!(scene.blocked(write(0xfee0_0000).of(Kind::Translated)), Reason::SGN_8);
    scene.unit.state.protected = [Some((0x7000, 0x7fff)), None];
    assert_eq!(scene.blocked(read(0x7123).of(Kind::Translated)), Reason::NONE);
}

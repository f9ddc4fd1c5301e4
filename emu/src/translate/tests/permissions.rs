//! Host permission tables.

use super::*;

const AV: u64 = 1;

/// A device whose translated requests are looked up; where the top table is.
fn scene() -> (Scene, u64) {
    let mut profile = Profile::maximal();
    profile.ecap |= 1 << 55 | 1 << 59;
    let mut scene = Scene::new(profile, Mode::Scalable);
    let top = scene.page();
    scene.pasid(SOURCE, 0, PasidEntry::pass_through(5).with(PasidEntry::HPTPTR, top >> 12));
    scene.change_context(|entry| entry.with(ScalableContextEntry::HPTE, 1));
    (scene, top)
}
/// Gives a 4-bit permission at a level to an address; makes the tables above.
fn permit(scene: &mut Scene, top: u64, level: u32, address: u64, permission: u64) {
    let mut table = top;
    for (now, select) in [(4, 41), (3, 33), (2, 25), (1, 17)] {
        let index = address >> select & if now == 4 { 0x7ff } else { 0xff };
        let at = table + 16 * index;
        if now == level {
            let shift = match level {
                3 => address >> 30 & 7,
                2 => address >> 21 & 15,
                _ => address >> 12 & 31,
            };
            let word = at + 8 * (shift >> 4);
            let entry = scene.get(word) | permission << (4 * (shift & 15));
            scene.put(word, &[entry]);
            return;
        }
        if scene.get(at + 8) & AV == 0 {
            let next = scene.page();
            scene.put(at + 8, &[next | AV]);
        }
        table = scene.get(at + 8) & !0xfff;
    }
}
fn translated(request: Request) -> Request {
    request.of(Kind::Translated)
}

#[test]
fn pages_of_all_sizes_have_permissions() {
    for level in [1, 2, 3] {
        let (mut scene, top) = scene();
        let address = 0x12_3456_7000;
        permit(&mut scene, top, level, address, 3);
        assert_eq!(scene.passed(translated(read(address))).address, address);
        assert_eq!(scene.passed(translated(write(address))).address, address);
        assert_eq!(scene.passed(translated(atomic(address))).address, address);
        let size = 1 << (3 + 9 * level);
        assert_eq!(scene.blocked(translated(write(address + size))), Reason::HPT_5, "{level}");
        assert_eq!(scene.blocked(translated(read(address - size))), Reason::HPT_6, "{level}");
    }
}
#[test]
fn permissions_are_for_reads_or_writes() {
    let (mut scene, top) = scene();
    permit(&mut scene, top, 1, 0x7000, 1);
    permit(&mut scene, top, 1, 0x8000, 2);
    assert_eq!(scene.passed(translated(read(0x7000))).address, 0x7000);
    assert_eq!(scene.blocked(translated(write(0x7000))), Reason::HPT_5);
    assert_eq!(scene.blocked(translated(atomic(0x7000))), Reason::HPT_5);
    assert_eq!(scene.passed(translated(write(0x8000))).address, 0x8000);
    assert_eq!(scene.blocked(translated(read(0x8000))), Reason::HPT_6);
}
#[test]
fn zero_length_reads_need_any_permission_with_zlr() {
    let (mut scene, top) = scene();
    permit(&mut scene, top, 1, 0x8000, 2);
    assert_eq!(scene.passed(translated(flush(0x8000))).address, 0x8000);
    assert_eq!(scene.blocked(translated(flush(0x9000))), Reason::HPT_4);
    scene.unit.profile.cap &= !(1 << 22);
    assert_eq!(scene.blocked(translated(flush(0x8000))), Reason::HPT_6);
}
#[test]
fn the_top_entry_cannot_be_read() {
    let (mut scene, _) = scene();
    scene.pasid(SOURCE, 0, PasidEntry::pass_through(5).with(PasidEntry::HPTPTR, NOWHERE >> 12));
    assert_eq!(scene.blocked(translated(read(0x7000))), Reason::HPT_3);
}
#[test]
fn another_entry_cannot_be_read() {
    let (mut scene, top) = scene();
    scene.put(top + 8, &[NOWHERE | AV]);
    assert_eq!(scene.blocked(translated(read(0x7000))), Reason::HPT_1);
}
#[test]
fn an_entry_has_reserved_bits_set() {
    for (level, low, high) in
        [(4, 1, 0), (4, 0, 2), (3, 1 << 32, 0), (3, 4, 0), (3, 0, 1 << 11), (2, 8, 0), (1, 4, 0), (1, 0, 8)]
    {
        let (mut scene, top) = scene();
        permit(&mut scene, top, 1, 0x7000, 3);
        let mut at = top;
        for _ in level..4 {
            at = scene.get(at + 8) & !0xfff;
        }
        let words = [scene.get(at) | low, scene.get(at + 8) | high];
        scene.put(at, &words);
        assert_eq!(scene.blocked(translated(read(0x7000))), Reason::HPT_2, "{level} {low:x} {high:x}");
    }
}
#[test]
fn pages_of_1_gib_are_reserved_without_hpt1gps() {
    let (mut scene, top) = scene();
    scene.unit.profile.ecap &= !(1 << 59);
    permit(&mut scene, top, 3, 0x7000, 3);
    assert_eq!(scene.blocked(translated(read(0x7000))), Reason::HPT_2);
}
#[test]
fn the_address_is_beyond_the_table() {
    let (mut scene, top) = scene();
    scene.pasid(SOURCE, 3, PasidEntry::pass_through(5).with(PasidEntry::HPTPTR, top >> 12).with(PasidEntry::HPTSZ, 1));
    assert_eq!(scene.blocked(translated(read(1 << 49))), Reason::SPT_9);
    assert_eq!(scene.blocked(translated(read(1 << 49)).with_pasid(3)), Reason::HPT_6);
    assert_eq!(scene.blocked(translated(read(1 << 52))), Reason::SGN_4);
}
#[test]
fn faults_of_pasid_tables_come_first() {
    let (mut scene, _) = scene();
    scene.pasid(SOURCE, 0, PasidEntry::default());
    assert_eq!(scene.blocked(translated(read(0x7000))), Reason::SPT_2);
    scene.pasid(SOURCE, 0, PasidEntry::new(7, 5));
    assert_eq!(scene.blocked(translated(read(0x7000))), Reason::SPT_4);
}
#[test]
fn other_requests_need_no_permissions() {
    let (mut scene, _) = scene();
    assert_eq!(scene.passed(read(0x7000)).address, 0x7000);
    assert!(scene.translated(read(0x7000).of(ATS)).write);
}

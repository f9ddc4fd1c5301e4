use super::*;
use crate::pace::Pace;
use crate::profile::{Profile, Qemu};
use crate::testing::{FECTL, FSTS, GSTS, IQA, IQH, IQT, IRTA, RTADDR, Rig};
use std::format;

fn rig(profile: Profile) -> Rig {
    Rig::new(profile, Pace::prompt())
}

#[test]
fn what_a_unit_is_stands_in_ver_cap_and_ecap() {
    for profile in Profile::all() {
        let mut rig = rig(profile.clone());
        assert_eq!(rig.r32(0), profile.version);
        assert_eq!(rig.r64(0x08), profile.cap);
        assert_eq!(rig.r64(0x10), profile.ecap);
        assert_eq!((rig.r32(0x0c), rig.r32(0x14)), ((profile.cap >> 32) as u32, (profile.ecap >> 32) as u32));
        for at in [0, 8, 0x0c, 0x10, 0x14, 0x1c] {
            rig.w32(at, 0xffff_ffff);
        }
        assert_eq!((rig.r32(0), rig.r64(8), rig.r64(0x10)), (profile.version, profile.cap, profile.ecap));
        rig.clean();
    }
}

#[test]
fn reset_values() {
    for profile in Profile::all() {
        let mut rig = rig(profile.clone());
        for at in (0x18..0x1000).step_by(4) {
            let expected = match at {
                0x38 => 1 << 31,
                0xa0 if profile.qi() => 1 << 31,
                // The page-request event is the page-request queue's.
                0xe0 if profile.prs() => continue,
                0x100 if profile.mts() => 0x50a,
                _ => 0,
            };
            assert_eq!(rig.r32(at), expected, "{} at {at:#x}", profile.name);
        }
        rig.clean();
    }
}

#[test]
fn bytes_and_words_are_told_and_mean_nothing() {
    let mut rig = rig(Profile::server());
    for size in [Size::Byte, Size::Word] {
        assert_eq!(rig.unit.read(&mut rig.bus, 8, size), 0);
        rig.broke(Rule::AccessSize, "0x8");
        rig.unit.write(&mut rig.bus, RTADDR, size, 0x1000);
        rig.broke(Rule::AccessSize, "0x20");
        assert_eq!(rig.r64(RTADDR), 0);
    }
}

#[test]
fn accesses_are_aligned() {
    let mut rig = rig(Profile::server());
    assert_eq!(rig.r32(0x0a), 0);
    rig.broke(Rule::AccessSize, "0xa");
    assert_eq!(rig.r64(0x0c), 0);
    rig.broke(Rule::AccessSize, "0xc");
    rig.w64(RTADDR + 4, 1 << 44);
    rig.broke(Rule::AccessSize, "0x24");
    assert_eq!(rig.r64(RTADDR), 0);
}

#[test]
fn a_quad_word_over_two_32_bit_registers_is_told_and_done_as_two_accesses() {
    let mut rig = rig(Profile::server());
    rig.w64(FECTL, 0x41 << 32);
    rig.broke(Rule::AccessSize, "0x38");
    assert_eq!((rig.r32(FECTL), rig.r32(FECTL + 4)), (0, 0x41));
}

#[test]
fn a_64_bit_register_is_written_by_quad_word_or_by_double_words() {
    let mut rig = rig(Profile::maximal());
    for at in [RTADDR, IQA, IRTA, 0x70, 0x78, 0x188] {
        rig.w64(at, 0xf_ffff_ffe0_0000);
        assert_eq!(rig.r64(at), 0xf_ffff_ffe0_0000, "{at:#x}");
        rig.w32(at, 0);
        rig.w32(at + 4, 0x1234);
        assert_eq!((rig.r32(at), rig.r32(at + 4)), (0, 0x1234), "{at:#x}");
    }
    rig.clean();
}

#[test]
fn addresses_have_the_hosts_width() {
    // 46 bits.
    let mut rig = rig(Profile::server());
    for at in [RTADDR, IQA, IRTA] {
        rig.w64(at, 0xffff_ffff_ffff_f000);
        assert_eq!(rig.r64(at), 0x3fff_ffff_f000);
    }
    rig.clean();
}

#[test]
fn reserved_bits_are_told_and_dropped() {
    for (at, v, left) in [
        (RTADDR, 0x1301, 0x1000),
        (RTADDR, 0x1080, 0x1000),
        (FSTS, 0x80, 0),
        (FECTL, 0x8000_0001, 0x8000_0000),
        (0x3c, 0x1_0041, 0x41),
        (0x40, 0xfee0_0003, 0xfee0_0000),
        (0x44, 1, 0),
        (0x64, 2, 0),
        (IQT, 0x80000, 0),
        (IQT, 0x8, 0),
        (IQA, 0x3008, 0x3000),
        (0x9c, 2, 0),
        (0xa0, 0xc000_0001, 0x8000_0000),
        (0xa4, 0x1_0000, 0),
        (IRTA, 0x2010, 0x2000),
        (0x108, 1 << 16, 0),
        (0x100, 1, 0),
        (0x208, 1, 0),
        (0x20c, 1 << 18, 0),
        (0x2c, 4, 0),
        (0x200, 0x80, 0),
    ] {
        // No EIM: the upper halves of message addresses are reserved, too.
        let mut rig = rig(Profile::server().with_ecap(0, 1 << 4));
        rig.w32(at, v);
        rig.broke(Rule::ReservedBit, &format!("{:x}", at));
        assert_eq!(rig.r32(at), left, "{at:#x}");
    }
}

#[test]
fn status_bits_of_absent_features_are_reserved() {
    for (profile, bits) in [(Profile::old(), 0x10), (Profile::old(), 0x60), (Profile::qemu(Qemu::Legacy), 0x20)] {
        let mut rig = rig(profile);
        rig.w32(FSTS, bits);
        rig.broke(Rule::ReservedBit, "0x34");
    }
    let mut rig = rig(Profile::server());
    rig.w32(FSTS, 0xff73);
    rig.clean();
}

#[test]
fn eime_is_reserved_without_eim() {
    let mut rig = rig(Profile::qemu(Qemu::Legacy));
    rig.w32(IRTA, 0x2800);
    rig.broke(Rule::ReservedBit, "0xb8");
    assert_eq!(rig.r32(IRTA), 0x2000);
}

#[test]
fn modes_that_the_unit_lacks_are_told() {
    for (profile, v) in [
        (Profile::server(), 0x400),
        (Profile::server(), 0x800),
        (Profile::maximal(), 0x800),
        (Profile::sapphire_rapids(), 0xc00),
        (Profile::maximal(), 0x80),
    ] {
        let mut rig = rig(profile);
        rig.w64(RTADDR, 0x1000 | v);
        rig.broke(Rule::ReservedBit, "no such mode");
        assert_eq!(rig.r64(RTADDR), 0x1000 | v);
    }
    let mut rig = rig(Profile::maximal());
    for v in [0, 0x400, 0xc00, 0x480] {
        rig.w64(RTADDR, 0x1000 | v);
    }
    rig.clean();
}

#[test]
fn registers_of_absent_features_are_0_and_stay_0() {
    let mut rig = rig(Profile::old().with_cap(0, 3 << 5));
    for at in
        [0x64, 0x68, 0x70, 0x78, IQH, IQT, IQA, 0x9c, 0xa0, 0xb0, IRTA, 0xc0, 0xdc, 0xe0, 0x120, 0x400, 0xdc0, 0xe00]
    {
        rig.w32(at, 0x8000_0010);
        rig.broke(Rule::ReservedBit, &format!("{at:#x}"));
        assert_eq!(rig.r32(at), 0, "{at:#x}");
        rig.w32(at, 0);
    }
    rig.clean();
}

#[test]
fn status_and_head_are_read_only() {
    let mut rig = rig(Profile::maximal());
    for at in [GSTS, IQH, 0xb0] {
        rig.w32(at, 0xffff_fff0);
        assert_eq!(rig.r32(at), 0);
    }
    rig.clean();
}

#[test]
fn where_the_floating_registers_are() {
    let mut rig = rig(Profile::maximal());
    rig.unit.flood_faults(&mut rig.bus, 0x100);
    for n in 0..32 {
        assert_eq!(rig.r64(0x608 + 16 * n) >> 63, 1, "{n}");
    }
    assert_eq!(rig.r64(0x600 + 16 * 31) >> 12, 31);
    rig.w64(0x500, 0x1000);
    assert_eq!(rig.r64(0x500), 0, "IVA is write-only");
    rig.clean();
    assert_eq!(rig.r64(0x800), 0);
    rig.broke(Rule::AccessSize, "0x800");
}

#[test]
fn mtrrs_store_what_they_have_bits_for() {
    let mut rig = rig(Profile::maximal());
    assert_eq!(rig.r64(0x100), 0x50a);
    rig.w64(0x100, u64::MAX);
    assert_eq!(rig.r64(0x100), 0x50a);
    for (at, v) in
        [(0x108, 0xc06), (0x120, u64::MAX), (0x170, 0x0606_0606_0606_0606), (0x180, 0xf_ffff_ffff_f006), (0x218, 0x800)]
    {
        rig.w64(at, v);
        assert_eq!(rig.r64(at), v);
    }
    rig.clean();
    rig.w32(0x108, 0x100);
    rig.broke(Rule::ReservedBit, "0x108");
}

#[test]
fn the_rdt_register_stores_its_fields() {
    let mut rig = rig(Profile::maximal());
    rig.w64(0xdc0, 0x1f_0000_0fff);
    assert_eq!(rig.r64(0xdc0), 0x1f_0000_0fff);
    rig.clean();
}

#[test]
fn enhanced_commands_are_all_unknown() {
    let mut rig = rig(Profile::maximal().with_cap(1 << 61, 0));
    assert_eq!((rig.r64(0x430), rig.r64(0x438), rig.r64(0x440), rig.r64(0x448)), (0, 0, 0, 0), "none is supported");
    rig.w64(0x408, 7);
    rig.w64(0x400, 0xf0);
    assert_eq!(rig.r64(0x410), 2, "not in progress, status 1");
    rig.clean();
}

#[test]
fn a_unit_that_is_gone_reads_as_ones_and_does_nothing() {
    let mut rig = rig(Profile::server());
    rig.w64(RTADDR, 0x1000);
    rig.unit.adversary().gone_after = Some(2);
    assert_eq!(rig.r64(RTADDR), 0x1000);
    rig.w32(0x18, 1 << 30);
    assert_eq!(rig.r32(GSTS), u32::MAX);
    assert_eq!(rig.r64(8), u64::MAX);
    assert_eq!(rig.unit.read(&mut rig.bus, 8, Size::Byte), 0xff);
    assert_eq!(rig.unit.read(&mut rig.bus, 8, Size::Word), 0xffff);
    rig.step(10, 0);
    assert!(rig.unit.is_gone());
    assert_eq!(rig.unit.state().root, 0, "the command was given, and nothing comes of it");
}

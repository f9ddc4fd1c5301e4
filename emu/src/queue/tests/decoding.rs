use super::super::descriptor::{Act, Cause, Descriptor, Wait, decode};
use crate::bus::{DeviceInvalidation, GroupResponse};
use crate::invalidation::{Invalidation, Pages};
use crate::profile::{Profile, Qemu};
use crate::state::Mode;

fn everything() -> Profile {
    Profile::maximal().with_ecap(1 << 55, 0)
}

fn scalable(words: [u64; 2]) -> Result<Act, Cause> {
    decode([words[0], words[1], 0, 0], true, &everything(), Mode::Scalable).map(|d| d.act)
}

fn legacy(words: [u64; 2], profile: &Profile) -> Result<Act, Cause> {
    decode([words[0], words[1], 0, 0], false, profile, Mode::Legacy).map(|d| d.act)
}

fn forget(what: Invalidation) -> Result<Act, Cause> {
    Ok(Act::Forget(what))
}

#[test]
fn which_types_there_are_in_which_mode_and_width() {
    let valid = |kind, wide, mode| {
        // A valid descriptor of each type: granularity 3 for all that have one.
        let q0 = [0, 0x31, 0x32, 3, 4, 0x45, 0x36, 0x37, 8, 9, 0x3a, 0xb, 0xc, 0xd, 0xe, 0xf][kind];
        match decode([q0, 0, 0, 0], wide, &everything(), mode) {
            Ok(_) => true,
            Err(Cause::Type) => false,
            Err(cause) => panic!("{kind}: {cause:?}"),
        }
    };
    for (mode, wide, last) in
        [(Mode::Legacy, false, 5), (Mode::Legacy, true, 5), (Mode::Scalable, true, 10), (Mode::Abort, true, 10)]
    {
        let found: std::vec::Vec<_> = (0..16).filter(|&kind| valid(kind, wide, mode)).collect();
        assert!(found.iter().copied().eq(1..=last), "{mode:?} {wide}: {found:?}");
    }
}

#[test]
fn bits_11_to_9_belong_to_the_type() {
    for bit in 9..12 {
        assert_eq!(scalable([0x11 | 1 << bit, 0]), Err(Cause::Type));
    }
}

#[test]
fn types_need_their_capabilities() {
    for (bit, words) in [(2, [3, 0]), (2, [8, 0]), (3, [4, 0]), (29, [9, 0]), (55, [0x1a, 0])] {
        let lacking = everything().with_ecap(0, 1 << bit);
        assert_eq!(decode([words[0], 0, 0, 0], true, &lacking, Mode::Scalable), Err(Cause::Type));
        assert!(scalable(words).is_ok());
    }
}

/// The fields as the figures 6-1 to 6-9 and 7-2 show them; every other bit is reserved.
#[test]
fn every_reserved_bit_of_every_type() {
    let figures: [([u64; 2], [u64; 2]); 10] = [
        ([0x11, 0], [0x0003_ffff_ffff_003f, 0]),
        ([0x12, 0], [0x0000_0000_ffff_00ff, 0xffff_ffff_ffff_f07f]),
        ([0x03, 0], [0xfff0_ffff_001f_f00f, 0xffff_ffff_ffff_f001]),
        ([0x04, 0], [0x0000_ffff_f800_001f, 0]),
        ([0x05, 0], [0xffff_ffff_0000_00ff, 0xffff_ffff_ffff_fffc]),
        ([0x26, 0], [0x000f_ffff_ffff_003f, 0xffff_ffff_ffff_f07f]),
        ([0x07, 0], [0x000f_ffff_ffff_003f, 0]),
        ([0x08, 0], [0xffff_ffff_ffff_f1ff, 0xffff_ffff_ffff_f801]),
        ([0x09, 0], [0x000f_ffff_ffff_f01f, 0x0000_0000_0000_0ffc]),
        ([0x1a, 0], [0x0000_0000_ffff_003f, 0xffff_ffff_ffff_f0ff]),
    ];
    for (base, fields) in figures {
        for bit in (4..256).filter(|bit| !(9..12).contains(bit)) {
            let mut words = [base[0], base[1], 0, 0];
            words[bit / 64] ^= 1 << (bit % 64);
            let field = bit < 128 && fields[bit / 64] >> (bit % 64) & 1 != 0;
            let decoded = decode(words, true, &everything(), Mode::Scalable);
            if !field {
                assert_eq!(decoded, Err(Cause::Reserved), "type {}, bit {bit}", base[0] & 15);
            } else if !(4..6).contains(&bit) {
                // Granularities are looked at below.
                assert!(decoded.is_ok(), "type {}, bit {bit}: {decoded:?}", base[0] & 15);
            }
        }
    }
}

#[test]
fn fields_of_absent_capabilities_are_reserved() {
    let plain = everything().with_ecap(0, 1 << 41 | 1 << 42);
    for words in [[0x1003, 0], [1 << 52 | 3, 0], [0x1008, 0], [1 << 52 | 8, 0], [0x80 | 0x45, 0]] {
        assert_eq!(decode([words[0], 0, 0, 0], true, &plain, Mode::Scalable), Err(Cause::Reserved));
        assert!(scalable(words).is_ok());
    }
}

#[test]
fn context_cache() {
    let server = Profile::server();
    assert_eq!(legacy([0x11, 0], &server), forget(Invalidation::Contexts));
    assert_eq!(legacy([0x5_0021, 0], &server), forget(Invalidation::ContextsOfDomain(5)));
    let device = Invalidation::ContextOfDevice { domain: 5, source: 0x100, mask: 2 };
    assert_eq!(legacy([0x0002_0100_0005_0031, 0], &server), forget(device));
    assert_eq!(legacy([0x01, 0], &server), Err(Cause::Reserved));
    assert_eq!(scalable([0x5_0021, 0]), forget(Invalidation::Contexts), "no domains in scalable mode");
}

#[test]
fn iotlb() {
    let server = Profile::server();
    assert_eq!(legacy([0xd2, 0], &server), forget(Invalidation::Iotlb));
    assert_eq!(legacy([0x5_0022, 0], &server), forget(Invalidation::IotlbOfDomain(5)));
    let pages = |address, order, leaf_only| forget(Invalidation::IotlbPages(5, Pages { address, order, leaf_only }));
    assert_eq!(legacy([0x5_00f2, 0x20_0009], &server), pages(0x20_0000, 9, false));
    assert_eq!(legacy([0x5_00f2, 0x2f_f049], &server), pages(0x20_0000, 9, true));
    assert_eq!(legacy([0x5_00f2, 0xffff_0000_0000_1000], &server), pages(0x1000, 0, false), "MGAW is 48 bits");
    assert_eq!(legacy([0x02, 0], &server), Err(Cause::Reserved));
    assert!(legacy([0x32, 18], &server).is_ok());
    assert_eq!(legacy([0x32, 19], &server), Err(Cause::Reserved), "MAMV is 18");
    assert!(legacy([0x22, 63], &server).is_ok(), "which matters to page-selective ones only");
    assert_eq!(legacy([0x32, 0], &server.with_cap(0, 1 << 39)), Err(Cause::Reserved), "no PSI");
}

#[test]
fn domain_ids_have_the_bits_that_the_unit_has() {
    let narrow = Profile::server().with_cap(2, 7);
    assert_eq!(legacy([0x3205_0022, 0], &narrow), forget(Invalidation::IotlbOfDomain(5)));
}

#[test]
fn pasid_iotlb() {
    assert_eq!(scalable([0x0000_0005_0001_0026, 0]), forget(Invalidation::PasidIotlb(1, 5)));
    // Any mask, whatever MAMV and PSI say.
    let profile = everything().with_cap(0, 1 << 39 | 63 << 48);
    let words = [0x0000_0005_0001_0036, 0xffff_ffff_ffe0_0049, 0, 0];
    let pages = Pages { address: 0xffff_ffff_ffe0_0000, order: 9, leaf_only: true };
    let decoded = decode(words, true, &profile, Mode::Scalable).map(|d| d.act);
    assert_eq!(decoded, forget(Invalidation::PasidIotlbPages(1, 5, pages)));
    let all = Pages { address: 0, order: 63, leaf_only: false };
    assert_eq!(scalable([0x36, 0xffff_ffff_ffff_f03f]), forget(Invalidation::PasidIotlbPages(0, 0, all)));
    for granularity in [0, 1] {
        assert_eq!(scalable([granularity << 4 | 6, 0]), Err(Cause::Reserved));
    }
}

#[test]
fn pasid_cache() {
    assert_eq!(scalable([0x0000_0005_0001_0007, 0]), forget(Invalidation::PasidsOfDomain(1)));
    assert_eq!(scalable([0x0000_0005_0001_0017, 0]), forget(Invalidation::PasidOfDomain(1, 5)));
    assert_eq!(scalable([0x27, 0]), Err(Cause::Reserved));
    assert_eq!(scalable([0x37, 0]), forget(Invalidation::Pasids));
}

#[test]
fn interrupt_entries() {
    let server = Profile::server();
    assert_eq!(legacy([0x0000_0020_1000_0004, 0], &server), forget(Invalidation::Interrupts));
    assert_eq!(legacy([0x0000_0020_1000_0014, 0], &server), forget(Invalidation::InterruptsAt(0x20, 2)));
    assert!(legacy([15 << 27 | 0x14, 0], &server).is_ok());
    assert_eq!(legacy([16 << 27 | 0x14, 0], &server), Err(Cause::Reserved), "MHMV is 15");
}

#[test]
fn host_permissions() {
    for granularity in 1..4 {
        assert_eq!(scalable([granularity << 4 | 10, 0xc0]), forget(Invalidation::HostPermissions));
    }
    assert_eq!(scalable([0x0a, 0]), Err(Cause::Reserved));
}

#[test]
fn device_tlbs_and_their_ranges() {
    let request = |q0, q1| match scalable([q0, q1]) {
        Ok(Act::Device { request, function }) => (request, function),
        other => panic!("{other:?}"),
    };
    let of = |pasid, global, address, last| DeviceInvalidation { tag: 0, source: 0x100, pasid, global, address, last };
    let (plain, with_pasid) = (0x0000_0100_0000_0003, 0x0000_0005_0100_0008);
    for (q1, address, last) in [
        (0x40_0000, 0x40_0000, 0x40_0fff),
        (0x40_0001, 0x40_0000, 0x40_1fff),
        (0x40_1001, 0x40_0000, 0x40_3fff),
        (0x4f_f001, 0x40_0000, 0x5f_ffff),
        (0x7fff_ffff_ffff_f001, 0, u64::MAX),
        (0xffff_ffff_ffff_f001, 0, u64::MAX),
    ] {
        assert_eq!(request(plain, q1).0, of(None, false, address, last), "{q1:#x}");
        let q1 = q1 & !1 | (q1 & 1) << 11;
        assert_eq!(request(with_pasid, q1).0, of(Some(5), false, address, last), "{q1:#x}");
    }
    assert_eq!(request(with_pasid, 1).0, of(Some(5), true, 0, 0xfff));
    // PFSID 0x1234 and MIP 3.
    assert_eq!(request(plain | 0x1230_0000_0003_4000, 0).1, (0x1234, 3));
    assert_eq!(request(with_pasid | 0x1230_0000_0000_4030, 0).1, (0x1234, 3));
}

#[test]
fn group_responses() {
    let words = [0x0000_0005_0100_1019, 0x18];
    let expected = GroupResponse { source: 0x100, pasid: Some(5), group: 3, code: 1 };
    assert_eq!(scalable(words), Ok(Act::Respond(expected)));
    let words = [0x0000_0005_0100_f009, 0xfff & !3];
    let expected = GroupResponse { source: 0x100, pasid: None, group: 0x1ff, code: 15 };
    assert_eq!(scalable(words), Ok(Act::Respond(expected)), "bit 66 is ignored");
}

#[test]
fn waits() {
    let wait = |status, interrupt, fence| Ok(Act::Wait(Wait { status, interrupt, fence, drain: false }));
    let server = Profile::server();
    assert_eq!(legacy([0x0000_0001_0000_0025, 0x3004], &server), wait(Some((0x3004, 1)), false, false));
    assert_eq!(legacy([0x0000_0001_0000_0015, 0x3004], &server), wait(None, true, false));
    assert_eq!(legacy([0x45, 0], &server), wait(None, false, true));
    assert_eq!(legacy([0x05, 0], &server), wait(None, false, false), "nothing to do is no error");
    assert_eq!(legacy([0x25, 1 << 46], &server), wait(Some((0, 0)), false, false), "beyond the host's width");
    assert_eq!(legacy([0x25, 2], &server), Err(Cause::Reserved));
    let drain = Wait { status: None, interrupt: false, fence: false, drain: true };
    assert_eq!(scalable([0x85, 0]), Ok(Act::Wait(drain)));
}

#[test]
fn nothing_that_is_decoded_panics() {
    let mut random = crate::random::Random::new(3);
    let profiles = Profile::all();
    for n in 0..200_000u64 {
        let kind = random.below(16);
        let few = [random.bits() & random.bits() & random.bits() & !15 | kind, random.bits(), 0, 0];
        let words = if n % 2 == 0 { few } else { [few[0], few[1], random.bits() & 1, random.bits()] };
        let mode = [Mode::Legacy, Mode::Scalable, Mode::Reserved, Mode::Abort][random.below(4) as usize];
        let profile = &profiles[random.below(profiles.len() as u64) as usize];
        let _: Result<Descriptor, _> = decode(words, n % 3 == 0, profile, mode);
    }
    assert!(legacy([0x11, 0], &Profile::qemu(Qemu::Legacy)).is_ok());
}

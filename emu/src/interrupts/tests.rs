//! Every check and every reason of chapter 5.

use super::*;
use crate::invalidation::Invalidation;
use crate::memory::Ram;
use crate::profile::Profile;
use crate::state::Mode;
use crate::testing::TestBus;
use proptest::prelude::*;
use std::vec;

const TABLE: u64 = 0x10_0000;
const DESCRIPTOR: u64 = 0x12_3440;
const SOURCE: SourceId = 0x0100;
/// Vector 0x41, physical, fixed, x2APIC id 3 (Appendix A of the project's reference), by SOURCE alone.
const X2APIC: [u64; 2] = [0x0000_0003_0041_0001, 0x0004_0100];
/// The same, xAPIC id 3.
const XAPIC: [u64; 2] = [0x0000_0300_0041_0001, 0x0004_0100];
/// Posts vector 0x41 to DESCRIPTOR.
const POSTED: [u64; 2] = [0x0012_3440_0041_8001, 0x0004_0100];

/// A unit in x2APIC mode with a table of 256 entries, `entry` at 5.
fn unit(entry: [u64; 2]) -> (Unit, TestBus) {
    let mut unit = Unit::new(profile(), 1);
    unit.state.remapping = true;
    unit.state.extended = true;
    unit.state.interrupts = TABLE;
    unit.state.interrupt_entries = 256;
    let mut bus = TestBus::new();
    write(&mut bus, 5, entry);
    (unit, bus)
}

fn profile() -> Profile {
    // QI, IR, EIM, posting, one fault register at 0x200.
    Profile { name: "interrupts", version: 0x60, cap: 1 << 59 | 0x20 << 24, ecap: 0x1a, width: 46, ..Profile::server() }
}

fn write(bus: &mut TestBus, index: u64, entry: [u64; 2]) {
    bus.put(TABLE + 16 * index, &entry);
}

/// A request for an index, without subhandle.
fn to(index: u16) -> InterruptRequest {
    let handle = u64::from(index & 0x7fff) << 5 | u64::from(index >> 15) << 2;
    InterruptRequest { source: SOURCE, address: 0xfee0_0010 | handle, data: 0 }
}

/// Asks; `Err`: the reason, and whether it was recorded with the right index.
fn ask(unit: &mut Unit, bus: &mut TestBus, request: &InterruptRequest) -> Result<InterruptAnswer, (u8, bool)> {
    let before = bus.messages.len();
    match unit.interrupt(bus, request) {
        InterruptAnswer::Blocked(reason) => {
            assert_eq!(bus.messages.len(), before, "a blocked interrupt went out");
            Err((reason.0, recorded(unit, bus, request, reason)))
        }
        answer => Ok(answer),
    }
}

/// Whether the first fault register holds this fault, and clears it.
fn recorded(unit: &mut Unit, bus: &mut TestBus, request: &InterruptRequest, reason: Reason) -> bool {
    use crate::unit::Size;
    let [low, high] = [0x200, 0x208].map(|at| unit.read(bus, at, Size::Quad));
    if high >> 63 == 0 {
        return false;
    }
    assert_eq!(high & 0xffff, u64::from(request.source));
    assert_eq!(high >> 32 & 0xff, u64::from(reason.0));
    assert_eq!(high >> 31 & 1, 0, "interrupts have no PASID");
    if !matches!(reason.0, 0x20 | 0x25 | 0x29 | 0x2a | 0x2b) {
        let shv = request.address & 8 != 0;
        let handle = (request.address >> 5 & 0x7fff) + ((request.address & 4) << 13);
        let index = handle + if shv { u64::from(request.data as u16) } else { 0 };
        assert_eq!(low, (index & 0xffff) << 48);
    }
    unit.write(bus, 0x20c, Size::Double, 1 << 31);
    true
}

fn one(entry: [u64; 2]) -> Result<InterruptAnswer, (u8, bool)> {
    let (mut unit, mut bus) = unit(entry);
    ask(&mut unit, &mut bus, &to(5))
}

fn with_bits(entry: [u64; 2], bit: u32) -> [u64; 2] {
    let [low, high] = entry;
    if bit < 64 { [low ^ 1 << bit, high] } else { [low, high ^ 1 << (bit - 64)] }
}

// --- Whether anything is remapped.

#[test]
fn while_remapping_is_off_interrupts_of_both_formats_pass_as_they_are() {
    let (mut unit, mut bus) = unit(X2APIC);
    unit.state.remapping = false;
    for address in [0xfee0_3000, to(5).address] {
        let request = InterruptRequest { source: SOURCE, address, data: 0x41 };
        assert_eq!(ask(&mut unit, &mut bus, &request), Ok(InterruptAnswer::Passed));
    }
    assert!(bus.messages.is_empty(), "that is the caller's to do");
}

#[test]
fn while_remapping_is_off_and_required_2b() {
    let (mut unit, mut bus) = unit(X2APIC);
    unit.state.remapping = false;
    unit.profile.ecap |= 1 << 62;
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x2b, true)));
    unit.state.remapping = true;
    assert!(ask(&mut unit, &mut bus, &to(5)).is_ok());
}

#[test]
fn extended_mode_off_and_required_2a() {
    let (mut unit, mut bus) = unit(XAPIC);
    unit.state.extended = false;
    unit.state.compatible = true;
    unit.profile.ecap |= 1 << 61;
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x2a, true)));
    let compatible = InterruptRequest { address: 0xfee0_3000, ..to(0) };
    assert_eq!(ask(&mut unit, &mut bus, &compatible), Err((0x2a, true)), "whatever the format");
    unit.profile.ecap &= !(1 << 61);
    assert!(ask(&mut unit, &mut bus, &to(5)).is_ok());
}

#[test]
fn an_address_outside_the_range_is_no_interrupt_29() {
    let (mut unit, mut bus) = unit(X2APIC);
    for address in [0xfed0_0010, 0xfef0_0010, 0x1_fee0_0010] {
        let request = InterruptRequest { address, ..to(5) };
        assert_eq!(ask(&mut unit, &mut bus, &request), Err((0x29, true)));
    }
}

// --- Compatibility format.

#[test]
fn compatibility_format_passes_only_with_cfi_and_without_extended_mode_25() {
    let (mut unit, mut bus) = unit(X2APIC);
    let request = InterruptRequest { source: SOURCE, address: 0xfee0_3000, data: 0x41 };
    for (extended, compatible) in [(false, false), (true, false), (true, true)] {
        unit.state.extended = extended;
        unit.state.compatible = compatible;
        assert_eq!(ask(&mut unit, &mut bus, &request), Err((0x25, true)), "{extended} {compatible}");
    }
    unit.state.extended = false;
    assert_eq!(ask(&mut unit, &mut bus, &request), Ok(InterruptAnswer::Passed));
    assert!(bus.messages.is_empty());
}

// --- Remappable format.

#[test]
fn the_index_is_the_handle() {
    let (mut unit, mut bus) = unit(X2APIC);
    unit.state.interrupt_entries = 1 << 16;
    for index in [0, 1, 5, 0x7fff, 0x8000, 0xffff] {
        bus.ram.clear();
        write(&mut bus, u64::from(index), X2APIC);
        let data = 0xdead_beef;
        assert!(ask(&mut unit, &mut bus, &InterruptRequest { data, ..to(index) }).is_ok(), "{index:x}");
    }
    // Handle 0x8001 with SHV, as in the reference.
    write(&mut bus, 0x8001, X2APIC);
    assert!(ask(&mut unit, &mut bus, &InterruptRequest { address: 0xfee0_003c, ..to(0) }).is_ok());
    // Address bits 1:0 mean nothing.
    assert!(ask(&mut unit, &mut bus, &InterruptRequest { address: 0xfee0_003f, ..to(0) }).is_ok());
}

#[test]
fn with_shv_the_subhandle_is_added() {
    let (mut unit, mut bus) = unit(X2APIC);
    let request = InterruptRequest { address: to(3).address | 8, data: 2, ..to(3) };
    assert!(ask(&mut unit, &mut bus, &request).is_ok());
    assert_eq!(ask(&mut unit, &mut bus, &InterruptRequest { address: to(3).address, ..request }), Err((0x22, true)));
}

#[test]
fn with_shv_the_upper_data_is_reserved_20() {
    let (mut unit, mut bus) = unit(X2APIC);
    for bit in 16..32 {
        let request = InterruptRequest { address: to(5).address | 8, data: 1 << bit, ..to(5) };
        assert_eq!(ask(&mut unit, &mut bus, &request), Err((0x20, true)), "{bit}");
    }
}

#[test]
fn an_index_beyond_the_table_21() {
    let (mut unit, mut bus) = unit(X2APIC);
    write(&mut bus, 255, X2APIC);
    write(&mut bus, 256, X2APIC);
    assert!(ask(&mut unit, &mut bus, &to(255)).is_ok());
    assert_eq!(ask(&mut unit, &mut bus, &to(256)), Err((0x21, true)));
    // Handle and subhandle do not wrap, not even with the largest table.
    unit.state.interrupt_entries = 1 << 16;
    write(&mut bus, 0, X2APIC);
    let beyond = InterruptRequest { address: to(0xffff).address | 8, data: 1, ..to(0xffff) };
    assert_eq!(ask(&mut unit, &mut bus, &beyond), Err((0x21, true)));
}

#[test]
fn an_entry_above_the_host_address_width_21() {
    let (mut unit, mut bus) = unit(X2APIC);
    unit.state.interrupts = (1 << unit.profile.width) - 16 * 5;
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x21, true)));
    assert_eq!(
        ask(&mut unit, &mut bus, &to(4)),
        Err((0x23, true)),
        "below it there is no memory, which is another thing"
    );
    unit.state.interrupts = !0xfff;
    unit.profile.width = 64;
    assert_eq!(ask(&mut unit, &mut bus, &to(255)), Err((0x23, true)));
    unit.state.interrupt_entries = 512;
    assert_eq!(ask(&mut unit, &mut bus, &to(256)), Err((0x21, true)));
}

#[test]
fn a_table_without_memory_23() {
    let (mut unit, mut bus) = unit(X2APIC);
    unit.state.interrupts = TestBus::END;
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x23, true)));
}

#[test]
fn the_entry_is_read_as_the_unit_reads_its_tables() {
    let (mut unit, mut bus) = unit(X2APIC);
    bus.unsnooped = Some(Ram::new(TestBus::END));
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x22, true)), "what the CPU wrote has not reached memory");
    unit.profile.ecap |= 1;
    assert!(ask(&mut unit, &mut bus, &to(5)).is_ok(), "coherent");
}

#[test]
fn an_entry_that_is_not_present_22() {
    assert_eq!(one([0; 2]), Err((0x22, true)));
    // Nothing else of it is looked at.
    assert_eq!(one([!3, !0]), Err((0x22, true)));
    assert_eq!(one([2, 0]), Err((0x22, false)), "FPD holds for it");
}

// --- Whose it is.

fn by(entry: [u64; 2], source: SourceId) -> bool {
    let (mut unit, mut bus) = unit(entry);
    match ask(&mut unit, &mut bus, &InterruptRequest { source, ..to(5) }) {
        Ok(_) => true,
        other => {
            assert_eq!(other, Err((0x26, true)));
            false
        }
    }
}

#[test]
fn without_source_validation_anybody_may() {
    for source in [0, SOURCE, 0xffff] {
        assert!(by([X2APIC[0], 0x0100], source));
    }
}

#[test]
fn the_source_qualifier_ignores_function_bits_26() {
    for (sq, ignored) in [(0, 0), (1, 0b100), (2, 0b110), (3, 0b111)] {
        for bit in 0..16 {
            let source = 0x1234 ^ 1 << bit;
            assert_eq!(by([X2APIC[0], 0x4_1234 | sq << 16], source), ignored & 1 << bit != 0, "SQ {sq}, bit {bit}");
        }
        assert!(by([X2APIC[0], 0x4_1234 | sq << 16], 0x1234));
    }
}

#[test]
fn a_bus_range_holds_its_ends_26() {
    for sq in 0..4 {
        let entry = [X2APIC[0], 0x8_1013 | sq << 16];
        let allowed: vec::Vec<u16> = (0..=255).filter(|bus| by(entry, bus << 8 | 0x28)).collect();
        assert_eq!(allowed, [0x10, 0x11, 0x12, 0x13], "SQ {sq} means nothing here");
    }
    assert!(!by([X2APIC[0], 0x8_1310], 0x1100), "a range from 13h to 10h is empty");
}

#[test]
fn source_validation_type_3_is_reserved_24() {
    assert_eq!(one([X2APIC[0], 0xc_0100]), Err((0x24, true)));
}

#[test]
fn whose_it_is_comes_before_what_is_in_it() {
    let entry = with_bits(X2APIC, 24);
    let (mut unit, mut bus) = unit(entry);
    assert_eq!(ask(&mut unit, &mut bus, &InterruptRequest { source: 1, ..to(5) }), Err((0x26, true)));
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x24, true)));
}

#[test]
fn fpd_silences_what_is_qualified() {
    assert_eq!(one(with_bits(with_bits(X2APIC, 1), 24)), Err((0x24, false)));
    let (mut unit, mut bus) = unit(with_bits(X2APIC, 1));
    assert!(ask(&mut unit, &mut bus, &to(5)).is_ok());
    let other = InterruptRequest { source: 1, ..to(5) };
    assert_eq!(ask(&mut unit, &mut bus, &other), Err((0x26, false)));
}

// --- What is in it.

/// The bits of an entry that are reserved, by flipping each: those that make reason 24h of an interrupt that is fine.
fn reserved_bits(entry: [u64; 2], set: impl Fn(&mut Unit)) -> vec::Vec<u32> {
    let reserved = |bit: &u32| {
        let (mut unit, mut bus) = unit(with_bits(entry, *bit));
        set(&mut unit);
        ask(&mut unit, &mut bus, &to(5)) == Err((0x24, true))
    };
    // P, IM, and who may: not the subject.
    (0..128).filter(|bit| ![0, 15, 82, 83].contains(bit)).filter(reserved).collect()
}

#[test]
fn reserved_bits_of_a_remapping_entry_24() {
    let fixed: vec::Vec<u32> = (12..15).chain(24..32).chain(84..128).collect();
    assert_eq!(reserved_bits(X2APIC, |_| ()), fixed);
    // xAPIC: of the destination, 47:40 is left.
    let xapic: vec::Vec<u32> = (12..15).chain(24..40).chain(48..64).chain(84..128).collect();
    assert_eq!(reserved_bits(XAPIC, |unit| unit.state.extended = false), xapic);
}

#[test]
fn delivery_modes_that_are_not_defined_24() {
    for mode in 0..8 {
        let entry = [X2APIC[0] | mode << 5, X2APIC[1]];
        assert_eq!(one(entry) == Err((0x24, true)), [3, 6].contains(&mode), "{mode}");
    }
}

#[test]
fn reserved_bits_of_a_posting_entry_24() {
    let width = u32::from(profile().width);
    let fixed: vec::Vec<u32> = (2..8).chain([12, 13]).chain(24..38).chain(84..96).chain(64 + width..128).collect();
    assert_eq!(reserved_bits(POSTED, |_| ()), fixed);
    assert_eq!(reserved_bits(POSTED, |unit| unit.state.extended = false), fixed);
}

#[test]
fn posting_without_the_capability_24() {
    let (mut unit, mut bus) = unit(POSTED);
    unit.profile.cap &= !(1 << 59);
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x24, true)));
}

// --- What goes out.

fn message(entry: [u64; 2], extended: bool) -> (u64, u32) {
    let (mut unit, mut bus) = unit(entry);
    unit.state.extended = extended;
    let answer = ask(&mut unit, &mut bus, &InterruptRequest { data: 0x1234_5678, ..to(5) });
    let [(address, data)] = bus.messages[..] else { panic!("{:?}", bus.messages) };
    assert_eq!(answer, Ok(InterruptAnswer::Remapped(address, data)));
    (address, data)
}

#[test]
fn a_remapped_interrupt_is_what_the_entry_says() {
    assert_eq!(message(X2APIC, true), (0xfee0_3000, 0x4041));
    assert_eq!(message(XAPIC, false), (0xfee0_3000, 0x4041));
    // All 32 bits of the destination: the upper ones in 63:40.
    assert_eq!(message([0x1234_5678_0041_0001, X2APIC[1]], true), (0x1234_5600_fee7_8000, 0x4041));
    // Logical, redirection hint, lowest priority, level.
    assert_eq!(message([X2APIC[0] | 0x3c, X2APIC[1]], true), (0xfee0_300c, 0xc141));
    assert_eq!(message([X2APIC[0] | 0x04, X2APIC[1]], true), (0xfee0_3004, 0x4041));
    assert_eq!(message([X2APIC[0] | 0xe0, X2APIC[1]], true), (0xfee0_3000, 0x4741));
    // Software's bits change nothing.
    assert_eq!(message([X2APIC[0] | 0xf00, X2APIC[1]], true), (0xfee0_3000, 0x4041));
}

// --- What is kept.

#[test]
fn an_entry_stays_until_it_is_invalidated() {
    let (mut unit, mut bus) = unit(X2APIC);
    ask(&mut unit, &mut bus, &to(5)).unwrap();
    write(&mut bus, 5, [0; 2]);
    assert!(ask(&mut unit, &mut bus, &to(5)).is_ok());
    let other = InterruptRequest { source: 1, ..to(5) };
    assert_eq!(ask(&mut unit, &mut bus, &other), Err((0x26, true)), "whose it is, is asked each time");
    unit.caches.invalidate(&Invalidation::InterruptsAt(5, 0), Mode::Legacy);
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x22, true)));
}

#[test]
fn an_entry_that_faults_is_kept_by_caching_units_only() {
    for (cm, entry, reason) in
        [(0, [0; 2], 0x22), (1, [0; 2], 0x22), (0, [1 << 24 | 1, 0], 0x24), (1, [1 << 24 | 1, 0], 0x24)]
    {
        let (mut unit, mut bus) = unit(entry);
        unit.profile.cap |= cm << 7;
        assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((reason, true)));
        write(&mut bus, 5, X2APIC);
        assert_eq!(ask(&mut unit, &mut bus, &to(5)).is_ok(), cm == 0, "{reason:x}");
    }
}

#[test]
fn an_entry_that_refused_a_stranger_is_not_kept() {
    let (mut unit, mut bus) = unit(X2APIC);
    let other = InterruptRequest { source: 1, ..to(5) };
    assert_eq!(ask(&mut unit, &mut bus, &other), Err((0x26, true)));
    write(&mut bus, 5, [0; 2]);
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x22, true)));
}

// --- Posting.

/// Posts to a descriptor whose bits 319:256 are `control`: the answer, the requests, the control word after, the messages.
fn post(entry: [u64; 2], control: u64, extended: bool) -> (InterruptAnswer, [u64; 4], u64, vec::Vec<(u64, u32)>) {
    let (mut unit, mut bus) = unit(entry);
    unit.state.extended = extended;
    bus.put(DESCRIPTOR + 32, &[control]);
    let answer = unit.interrupt(&mut bus, &to(5));
    let words = [0, 8, 16, 24, 32].map(|at| bus.get(DESCRIPTOR + at));
    (answer, [words[0], words[1], words[2], words[3]], words[4], bus.messages)
}

/// Notification vector 0xf2, x2APIC id 0x12345678.
const CONTROL: u64 = 0x1234_5678_00f2_0000;

#[test]
fn posting_sets_the_request_and_notifies() {
    let (answer, requests, control, messages) = post(POSTED, CONTROL, true);
    assert_eq!(answer, InterruptAnswer::Posted(true));
    assert_eq!(requests, [0, 2, 0, 0]);
    assert_eq!(control, CONTROL | 1);
    assert_eq!(messages, vec![(0x1234_5600_fee7_8000, 0x40f2)]);
}

#[test]
fn a_notification_in_xapic_mode_goes_to_eight_bits() {
    let (answer, _, control, messages) = post(POSTED, 0x0000_0300_00f2_0000, false);
    assert_eq!(answer, InterruptAnswer::Posted(true));
    assert_eq!(control, 0x0000_0300_00f2_0001);
    assert_eq!(messages, vec![(0xfee0_3000, 0x40f2)]);
}

#[test]
fn every_vector_has_its_bit() {
    for vector in 0..=255_u64 {
        let entry = [POSTED[0] & !0xff_0000 | vector << 16, POSTED[1]];
        let (answer, requests, ..) = post(entry, CONTROL, true);
        assert_eq!(answer, InterruptAnswer::Posted(true));
        let mut expected = [0; 4];
        expected[vector as usize / 64] = 1 << (vector % 64);
        assert_eq!(requests, expected);
    }
}

#[test]
fn no_notification_while_one_is_outstanding_or_they_are_suppressed() {
    let urgent = [POSTED[0] | 1 << 14, POSTED[1]];
    for (entry, control, notifies) in [
        (POSTED, CONTROL, true),
        (POSTED, CONTROL | 1, false),
        (POSTED, CONTROL | 2, false),
        (POSTED, CONTROL | 3, false),
        (urgent, CONTROL, true),
        (urgent, CONTROL | 1, false),
        (urgent, CONTROL | 2, true),
        (urgent, CONTROL | 3, false),
    ] {
        let (answer, requests, after, messages) = post(entry, control, true);
        assert_eq!(answer, InterruptAnswer::Posted(notifies), "{control:x}");
        assert_eq!(requests, [0, 2, 0, 0], "it is posted all the same");
        assert_eq!(after, control | u64::from(notifies));
        assert_eq!(messages.len(), usize::from(notifies));
    }
}

#[test]
fn what_cpus_write_at_the_same_time_is_not_lost() {
    let (mut unit, mut bus) = unit(POSTED);
    bus.put(DESCRIPTOR + 32, &[CONTROL]);
    bus.race = (DESCRIPTOR + 8, 1);
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Ok(InterruptAnswer::Posted(true)));
    assert_eq!(bus.get(DESCRIPTOR + 8), 3, "vector 40h was a CPU's");
    // ON is set by a CPU between the look and the exchange: then there is nothing to notify.
    bus.put(DESCRIPTOR + 8, &[0]);
    bus.put(DESCRIPTOR + 32, &[CONTROL]);
    bus.race = (DESCRIPTOR + 32, 1);
    bus.messages.clear();
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Ok(InterruptAnswer::Posted(false)));
    assert_eq!(bus.get(DESCRIPTOR + 32), CONTROL | 1);
    assert!(bus.messages.is_empty());
}

#[test]
fn a_descriptor_that_never_stands_still_27() {
    let (mut unit, mut bus) = unit(POSTED);
    bus.race = (DESCRIPTOR + 8, u32::MAX);
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x27, true)));
}

#[test]
fn reserved_bits_of_a_descriptor_28() {
    let reserved = |extended: bool, control: u64| -> vec::Vec<u64> {
        let bad = |bit: &u64| {
            let (mut unit, mut bus) = unit(POSTED);
            unit.state.extended = extended;
            bus.put(DESCRIPTOR + 32, &[control]);
            let at = DESCRIPTOR + bit / 64 * 8;
            let flipped = bus.get(at) ^ 1 << (bit % 64);
            bus.put(at, &[flipped]);
            let answer = ask(&mut unit, &mut bus, &to(5));
            let written = bus.get(DESCRIPTOR + 8) & 2 != 0;
            assert_eq!(written, answer.is_ok() || *bit == 65, "a bad descriptor is left alone");
            assert!(answer.is_ok() || answer == Err((0x28, true)));
            answer.is_err()
        };
        (0..512).filter(bad).collect()
    };
    let x2apic: vec::Vec<u64> = (258..272).chain(280..288).chain(320..512).collect();
    assert_eq!(reserved(true, CONTROL), x2apic);
    let xapic: vec::Vec<u64> = (258..272).chain(280..296).chain(304..512).collect();
    assert_eq!(reserved(false, 0x0000_0300_00f2_0000), xapic);
}

#[test]
fn a_descriptor_without_memory_27() {
    let nowhere = [(TestBus::END & 0xffff_ffff) << 32 | 0x0041_8001, TestBus::END & !0xffff_ffff | 0x0004_0100];
    assert_eq!(one(nowhere), Err((0x27, true)));
    assert_eq!(one(with_bits(nowhere, 1)), Err((0x27, false)), "FPD holds for it");
    let top = [0xffff_ffc0_0041_8001, 0xffff_ffff_0004_0100];
    let (mut unit, mut bus) = unit(top);
    unit.profile.width = 64;
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Err((0x27, true)));
}

#[test]
fn the_descriptor_is_always_snooped() {
    let (mut unit, mut bus) = unit(POSTED);
    bus.put(DESCRIPTOR + 32, &[CONTROL]);
    ask(&mut unit, &mut bus, &to(5)).unwrap();
    // The entry is in the cache; of the descriptor nothing has reached memory.
    bus.unsnooped = Some(Ram::new(TestBus::END));
    bus.put(DESCRIPTOR + 32, &[CONTROL]);
    assert_eq!(ask(&mut unit, &mut bus, &to(5)), Ok(InterruptAnswer::Posted(true)));
}

// --- Whatever comes.

proptest! {
    /// Any entry, any descriptor, any request, any mode: no panic; what is blocked leaves no trace, what passes leaves one.
    #[test]
    fn nothing_makes_it_panic(
        entry in any::<[u64; 2]>(),
        // Often one that is nearly right.
        base in prop::sample::select(vec![[0; 2], X2APIC, XAPIC, POSTED]),
        few in any::<[u64; 4]>(),
        descriptor in any::<[u64; 8]>(),
        clean in any::<bool>(),
        address in any::<u64>(),
        data in any::<u32>(),
        source in prop::sample::select(vec![SOURCE, SOURCE, SOURCE, 0x0101]),
        modes in any::<u16>(),
        table in any::<u64>(),
        cap_ecap in any::<[u64; 2]>(),
        width in 32..65_u8,
    ) {
        let (low, high) = (few[0] & few[1], few[2] & few[3]);
        let random = match modes >> 8 & 3 {
            0 => entry,
            1 => [entry[0] & low & high, entry[1] & low & !high],
            _ => [0; 2],
        };
        let (mut unit, mut bus) = unit([base[0] ^ random[0], base[1] ^ random[1]]);
        unit.state.remapping = modes & 7 != 0;
        unit.state.extended = modes & 8 != 0;
        unit.state.compatible = modes & 16 != 0;
        if modes & 0xe0 == 0xe0 {
            unit.state.interrupts = table & !0xfff;
            unit.profile.width = width;
            unit.profile.cap ^= cap_ecap[0] & 1 << 59;
            unit.profile.ecap ^= cap_ecap[1] & (3 << 61 | 1);
            unit.state.interrupt_entries = data >> 10;
        }
        let mask = if clean { 0 } else { few[0] & few[1] };
        let words = descriptor.map(|word| word & mask);
        bus.put(DESCRIPTOR, &words);
        let (address, data) = match modes >> 12 {
            0 => (address, data),
            1..4 => (0xfee0_0000 | address & 0xf_ffff, data),
            4 => (to(3).address | 8, 2),
            _ => (to(5).address, data),
        };
        for _ in 0..2 {
            let before = [0, 8, 16, 24, 32, 40, 48, 56].map(|at| bus.get(DESCRIPTOR + at));
            let sent = bus.messages.len();
            let answer = unit.interrupt(&mut bus, &InterruptRequest { source, address, data });
            let sent = bus.messages.len() - sent;
            let same = before == [0, 8, 16, 24, 32, 40, 48, 56].map(|at| bus.get(DESCRIPTOR + at));
            match answer {
                InterruptAnswer::Passed => prop_assert!(sent == 0 && same),
                InterruptAnswer::Remapped(address, data) => {
                    prop_assert_eq!(bus.messages.last(), Some(&(address, data)));
                    prop_assert!(sent == 1 && same);
                }
                InterruptAnswer::Posted(notified) => prop_assert_eq!(sent, usize::from(notified)),
                InterruptAnswer::Blocked(reason) => {
                    prop_assert!((0x20..=0x2b).contains(&reason.0));
                    prop_assert!(sent == 0 && same);
                }
            }
        }
    }
}

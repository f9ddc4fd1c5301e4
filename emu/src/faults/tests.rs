use super::*;
use crate::pace::Pace;
use crate::profile::Qemu;
use crate::testing::{FECTL, FSTS, Rig};

fn memory(source: SourceId, access: Access, address: u64) -> Record {
    Record {
        reason: Reason(0x05),
        source,
        pasid: None,
        privileged: false,
        execute: false,
        kind: RecordKind::Memory(Kind::Untranslated, access),
        address,
    }
}

fn write(source: SourceId) -> Record {
    memory(source, Access::Write, 0x1000)
}

struct Log {
    rig: Rig,
    first: u32,
}

fn log(profile: Profile) -> Log {
    let first = 16 * profile.fro() as u32;
    Log { rig: Rig::new(profile, Pace::prompt()), first }
}

impl Log {
    fn record(&mut self, record: Record) {
        self.rig.unit.record(&mut self.rig.bus, record);
    }
    fn low(&mut self, n: u32) -> u64 {
        self.rig.r64(self.first + 16 * n)
    }
    fn high(&mut self, n: u32) -> u64 {
        self.rig.r64(self.first + 16 * n + 8)
    }
    fn clear(&mut self, n: u32) {
        self.rig.w32(self.first + 16 * n + 12, 1 << 31);
    }
    fn fsts(&mut self) -> u32 {
        self.rig.r32(FSTS)
    }
    /// The event unmasked, to an address of its own.
    fn listen(&mut self) {
        self.rig.w32(0x3c, 0x41);
        self.rig.w32(0x40, 0xfee0_1000);
        self.rig.w32(FECTL, 0);
    }
    fn heard(&self) -> usize {
        self.rig.bus.messages.len()
    }
}

#[test]
fn a_write_is_recorded() {
    let mut log = log(Profile::server());
    log.record(memory(0x0123, Access::Write, 0x1234_5678_9abc));
    assert_eq!(log.fsts(), PPF);
    assert_eq!(log.low(0), 0x1234_5678_9000);
    assert_eq!(log.high(0), 1 << 63 | 5 << 32 | 0x0123);
}

#[test]
fn types_and_address_types() {
    for (kind, expected) in [
        (RecordKind::Memory(Kind::Untranslated, Access::Write), 0),
        (RecordKind::Memory(Kind::Untranslated, Access::Read), 1 << 62),
        (RecordKind::Memory(Kind::Untranslated, Access::Flush), 1 << 62),
        (RecordKind::Memory(Kind::Untranslated, Access::Atomic), 1 << 62 | 1 << 28),
        (RecordKind::Memory(Kind::Translation { no_write: false }, Access::Read), 1 << 62 | 1 << 60),
        (RecordKind::Memory(Kind::Translated, Access::Write), 2 << 60),
        (RecordKind::PageRequest, 1 << 28),
        (RecordKind::Interrupt, 0),
    ] {
        let mut log = log(Profile::maximal());
        log.record(Record { kind, ..write(0) });
        assert_eq!(log.high(0) & !(1 << 63 | 0xff << 32), expected, "{kind:?}");
    }
}

#[test]
fn address_types_need_device_tlbs() {
    let mut log = log(Profile::qemu(Qemu::Legacy));
    log.record(Record { kind: RecordKind::Memory(Kind::Translated, Access::Write), ..write(0) });
    assert_eq!(log.high(0), 1 << 63 | 5 << 32);
}

#[test]
fn pasids_and_what_comes_with_them() {
    let record = Record { pasid: Some(0xabcde), privileged: true, execute: true, ..memory(8, Access::Read, 0) };
    let pasid = 1 << 31 | 1 << 29 | 0xabcde << 40;
    for (profile, record, expected) in [
        (Profile::maximal(), record, pasid | 1 << 30 | 1 << 62),
        (Profile::maximal(), Record { kind: write(0).kind, ..record }, pasid),
        (Profile::maximal(), Record { kind: RecordKind::PageRequest, ..record }, pasid | 1 << 28),
        (Profile::maximal(), Record { pasid: None, ..record }, 1 << 62),
        (Profile::sapphire_rapids(), record, 1 << 62),
    ] {
        let mut log = log(profile);
        log.record(record);
        assert_eq!(log.high(0), 1 << 63 | 5 << 32 | 8 | expected);
    }
}

#[test]
fn addresses_have_the_bits_of_the_widest_tables() {
    let wide_first_stage = Profile::qemu(Qemu::FirstStage).with_cap(1 << 60, 0);
    for (profile, expected) in [
        (Profile::old(), 0x7f_ffff_f000),
        (Profile::qemu(Qemu::Narrow), 0x7f_ffff_f000),
        (Profile::server(), 0xffff_ffff_f000),
        (Profile::maximal(), 0x1ff_ffff_ffff_f000),
        (wide_first_stage, 0x1ff_ffff_ffff_f000),
        (Profile::qemu(Qemu::FirstStage).with_cap(0, 0x1f << 8), 0xffff_ffff_f000),
    ] {
        let mut log = log(profile);
        log.record(memory(0, Access::Write, u64::MAX));
        assert_eq!(log.low(0), expected);
    }
}

#[test]
fn an_interrupt_is_recorded_by_its_index() {
    let mut log = log(Profile::old());
    let kind = RecordKind::Interrupt;
    log.record(Record { kind, reason: Reason(0x22), pasid: Some(1), address: 0x8123_ffff_ffff_ffff, ..write(0xf0) });
    assert_eq!((log.low(0), log.high(0)), (0x8123 << 48, 1 << 63 | 0x22 << 32 | 0xf0));
}

#[test]
fn records_fill_a_ring_and_fri_is_the_first() {
    let mut log = log(Profile::server());
    for n in 0..3 {
        log.record(write(n));
    }
    assert_eq!(log.fsts(), PPF);
    for n in 0..3 {
        log.clear(n);
    }
    assert_eq!(log.fsts() & 3, 0);
    for n in 3..10 {
        log.record(write(n));
        assert_eq!(log.fsts(), PPF | 3 << 8);
    }
    assert_eq!(log.high(1) as u16, 9, "7 comes before 0");
}

#[test]
fn a_full_ring_overflows_and_nothing_is_recorded_until_pfo_is_cleared() {
    let mut log = log(Profile::server());
    for n in 0..9 {
        log.record(write(n));
    }
    assert_eq!(log.fsts(), PFO | PPF);
    for n in 0..8 {
        assert_eq!(log.high(n) as u32, n);
        log.clear(n);
    }
    assert_eq!(log.fsts(), PFO);
    log.record(write(20));
    assert_eq!(log.fsts(), PFO);
    log.rig.w32(FSTS, PFO);
    log.record(write(21));
    assert_eq!((log.fsts(), log.high(0) as u16), (PPF, 21));
}

#[test]
fn one_register_is_a_ring_too() {
    let mut log = log(Profile::old());
    log.record(write(1));
    log.record(write(2));
    assert_eq!((log.fsts(), log.high(0) as u16), (PFO | PPF, 1));
    log.clear(0);
    log.rig.w32(FSTS, PFO);
    log.record(write(3));
    assert_eq!((log.fsts(), log.high(0) as u16), (PPF, 3));
}

#[test]
fn faults_of_one_source_are_one_where_the_unit_compresses() {
    for compression in [true, false] {
        let mut log = log(Profile { compression, ..Profile::server() });
        for source in [1, 1, 2, 1] {
            log.record(write(source));
        }
        let count = (0..8).filter(|n| log.high(*n) >> 63 != 0).count();
        assert_eq!(count, if compression { 2 } else { 4 });
        log.clear(0);
        log.record(write(1));
        assert_eq!(log.high(if compression { 2 } else { 4 }) >> 63, 1, "what is cleared does not count");
    }
}

#[test]
fn only_a_1_in_the_top_bit_clears_a_record() {
    let mut log = log(Profile::server());
    log.record(write(1));
    let (low, high) = (log.low(0), log.high(0));
    for (at, v) in [(0x100, 0xffff_f000), (0x104, u32::MAX), (0x108, 0xf000_ffff), (0x10c, 0x7fff_ffff)] {
        log.rig.w32(at, v);
        assert_eq!((log.low(0), log.high(0)), (low, high));
    }
    log.rig.w64(0x108, 1 << 63);
    assert_eq!((log.high(0), log.fsts()), (high & !F, 0));
    log.rig.clean();
}

#[test]
fn the_event_comes_with_the_first_fault_only() {
    let mut log = log(Profile::server());
    log.listen();
    log.record(write(1));
    log.record(write(2));
    assert_eq!(log.rig.bus.messages, [(0xfee0_1000, 0x41)]);
    log.clear(0);
    log.record(write(3));
    assert_eq!(log.heard(), 1, "the second record is pending still");
    log.clear(1);
    log.clear(2);
    log.record(write(4));
    assert_eq!(log.heard(), 2);
}

#[test]
fn an_overflow_raises_no_event_and_holds_back_others() {
    let mut log = log(Profile::server().with_cap(0, 0xff << 40));
    log.listen();
    log.record(write(1));
    log.record(write(2));
    log.clear(0);
    assert_eq!((log.heard(), log.fsts()), (1, PFO));
    log.rig.unit.report(&mut log.rig.bus, IQE);
    assert_eq!(log.heard(), 1, "PFO has not been seen to");
    log.rig.w32(FSTS, PFO | IQE);
    log.rig.unit.report(&mut log.rig.bus, IQE);
    assert_eq!(log.heard(), 2);
}

#[test]
fn every_status_holds_back_the_event() {
    for bit in [IQE, ICE, ITE] {
        let mut log = log(Profile::server());
        log.listen();
        log.rig.unit.report(&mut log.rig.bus, bit);
        assert_eq!((log.fsts(), log.heard()), (bit, 1));
        log.record(write(1));
        for other in [IQE, ICE, ITE] {
            log.rig.unit.report(&mut log.rig.bus, other);
        }
        assert_eq!(log.heard(), 1);
        log.rig.w32(FSTS, IQE | ICE | ITE);
        assert_eq!(log.fsts(), PPF, "written as 1 they are cleared; a record is not");
        log.clear(0);
        log.rig.unit.report(&mut log.rig.bus, bit);
        assert_eq!(log.heard(), 2);
    }
}

#[test]
fn a_masked_event_is_pending_until_unmasked() {
    let mut log = log(Profile::server());
    log.rig.w32(0x40, 0xfee0_1000);
    log.record(write(1));
    assert_eq!((log.heard(), log.rig.r32(FECTL)), (0, 3 << 30));
    log.rig.w32(FECTL, 1 << 31);
    assert_eq!(log.rig.r32(FECTL), 3 << 30);
    log.rig.w32(FECTL, 0);
    assert_eq!((log.heard(), log.rig.r32(FECTL)), (1, 0));
    log.rig.w32(FECTL, 1 << 31);
    log.rig.w32(FECTL, 0);
    assert_eq!(log.heard(), 1);
}

#[test]
fn a_masked_event_is_forgotten_when_everything_is_seen_to() {
    let mut log = log(Profile::server());
    log.rig.w32(0x40, 0xfee0_1000);
    log.record(write(1));
    log.rig.unit.report(&mut log.rig.bus, ITE);
    log.clear(0);
    assert_eq!(log.rig.r32(FECTL), 3 << 30, "ITE is left");
    log.rig.w32(FSTS, ITE);
    assert_eq!(log.rig.r32(FECTL), 1 << 31);
    log.rig.w32(FECTL, 0);
    assert_eq!(log.heard(), 0);
}

#[test]
fn messages_have_upper_addresses_with_eim_only() {
    for (profile, expected) in
        [(Profile::maximal(), 0x0000_0100_fee0_1000), (Profile::server().with_ecap(0, 1 << 4), 0xfee0_1000)]
    {
        let mut log = log(profile);
        log.rig.w32(0x44, 0x100);
        log.listen();
        log.record(write(1));
        assert_eq!(log.rig.bus.messages, [(expected, 0x41)]);
    }
}

#[test]
fn a_flood_overflows_every_ring() {
    for profile in Profile::all() {
        let mut log = log(profile);
        log.rig.unit.flood_faults(&mut log.rig.bus, 0xfff8);
        assert_eq!(log.fsts() & 3, PFO | PPF);
    }
}

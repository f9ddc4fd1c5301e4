//! Whatever software writes, in whatever size and wherever, a unit neither panics nor goes on for ever.

use super::*;
use crate::interrupts::{InterruptAnswer, InterruptRequest};
use crate::memory::Memory;
use crate::request::{Access, Answer, Request};
use crate::testing::{FSTS, GCMD, IQA, IQT, IRTA, RTADDR, TestBus};
use proptest::collection::vec;
use proptest::prelude::*;
use std::vec::Vec;

#[derive(Clone, Debug)]
enum Deed {
    Read(u32, Size),
    Write(u32, Size, u64),
    /// Bytes for the queue.
    Fill(u16, Vec<u64>),
    Step(u32, u64),
    Complete(u16, u32),
    Misfortune(u8, u64),
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![1 => Just(Size::Byte), 1 => Just(Size::Word), 6 => Just(Size::Double), 6 => Just(Size::Quad)]
}

fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => prop::sample::select(std::vec![GCMD, RTADDR, 0x28, 0x2c, FSTS, 0x38, 0x64, 0x68, 0x70, IQT, IQA, 0x9c, 0xa0, IRTA]),
        2 => (0u32..0x100).prop_map(|n| n * 4),
        1 => 0u32..0x1000,
        1 => any::<u32>(),
    ]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..64).prop_map(|n| 1 << n),
        2 => (0u64..0x400).prop_map(|n| n << 4),
        2 => any::<u64>(),
        2 => (0u64..16, 0u64..16).prop_map(|(page, low)| page << 12 | low),
        1 => Just(u64::MAX),
        1 => Just(0),
    ]
}

/// Descriptors that are nearly right, and others.
fn words() -> impl Strategy<Value = Vec<u64>> {
    let q0 =
        prop_oneof![(0u64..0x100), (any::<u32>(), 0u64..0x40).prop_map(|(h, l)| u64::from(h) << 16 | l), any::<u64>()];
    vec(prop_oneof![3 => q0, 3 => Just(0), 1 => value()], 1..64)
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => (offset(), size()).prop_map(|(at, size)| Deed::Read(at, size)),
        8 => (offset(), size(), value()).prop_map(|(at, size, v)| Deed::Write(at, size, v)),
        3 => (any::<u16>(), words()).prop_map(|(at, words)| Deed::Fill(at, words)),
        2 => (0u32..50, prop_oneof![Just(0), any::<u64>()]).prop_map(|(n, time)| Deed::Step(n, time)),
        1 => any::<(u16, u32)>().prop_map(|(source, tags)| Deed::Complete(source, tags)),
        1 => (0u8..8, any::<u64>()).prop_map(|(which, v)| Deed::Misfortune(which, v)),
    ]
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![Just(Pace::at_once()), Just(Pace::prompt()), any::<u64>().prop_map(Pace::slow)]
}

fn befall(unit: &mut Unit, bus: &mut TestBus, which: u8, v: u64) {
    let adversary = unit.adversary();
    match which {
        0 => adversary.stuck_commands = v as u32,
        1 => adversary.stuck_registers ^= true,
        2 => adversary.stuck_queue ^= true,
        3 => adversary.queue_error = Some(v % 8),
        4 => drop(adversary.lost_completions.insert(v as u16)),
        5 => adversary.spurious = (v % 101) as u8,
        6 if v.is_multiple_of(8) => adversary.gone_after = Some(v / 8 % 64),
        _ => unit.flood_faults(bus, v as u16),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_software_does_breaks_a_unit(
        profile in prop::sample::select(Profile::all()),
        overrides in (any::<u64>(), any::<u64>(), prop::bool::weighted(0.2)),
        pace in pace(),
        iqa in prop::option::of(prop_oneof![Just(0), Just(0x800), 0u64..8]),
        mode in 0u64..4,
        deeds in vec(deed(), 1..80),
    ) {
        let profile = match overrides {
            (cap, ecap, true) => profile.with_cap(cap, 0).with_ecap(ecap, 0),
            (cap, ecap, false) => profile.with_cap(0, cap & 1 << 39).with_ecap(0, ecap & 1 << 41),
        };
        let mut unit = Unit::new(profile, 1).with_pace(pace);
        let mut bus = TestBus::new();
        bus.silent.extend(0..0x8000);
        if let Some(iqa) = iqa {
            unit.write(&mut bus, IQA, Size::Quad, iqa);
            unit.write(&mut bus, GCMD, Size::Double, 1 << 26);
            unit.write(&mut bus, RTADDR, Size::Quad, mode << 10);
            unit.write(&mut bus, GCMD, Size::Double, 1 << 26 | 1 << 30);
            unit.step(&mut bus, 50, 0);
        }
        for deed in deeds {
            match deed {
                Deed::Read(at, size) => {
                    let v = unit.read(&mut bus, at, size);
                    let most = match size {
                        Size::Byte => 0xff,
                        Size::Word => 0xffff,
                        Size::Double => 0xffff_ffff,
                        Size::Quad => u64::MAX,
                    };
                    prop_assert!(v <= most);
                }
                Deed::Write(at, size, v) => unit.write(&mut bus, at, size, v),
                Deed::Fill(at, words) => {
                    for (n, word) in words.iter().enumerate() {
                        // Where IQA points to most of the time: the first sixteen pages.
                        bus.ram.write64((u64::from(at) & !7) + n as u64 * 8, *word);
                    }
                }
                Deed::Step(n, time) => unit.step(&mut bus, n, time),
                Deed::Complete(source, tags) => unit.device_completion(&mut bus, source, tags),
                Deed::Misfortune(which, v) => befall(&mut unit, &mut bus, which, v),
            }
        }
    }
}

#[test]
fn nothing_passes_a_unit_that_is_gone() {
    let mut unit = Unit::new(Profile::server(), 1);
    let mut bus = TestBus::new();
    let request = Request::new(8, Access::Write, 0x1000);
    let interrupt = InterruptRequest { source: 8, address: 0xfee0_0000, data: 0x41 };
    assert!(matches!(unit.request(&mut bus, &request), Answer::Passed(_)));
    assert_eq!(unit.interrupt(&mut bus, &interrupt), InterruptAnswer::Passed);
    unit.adversary().gone_after = Some(0);
    assert!(matches!(unit.request(&mut bus, &request), Answer::Blocked(_)));
    assert!(matches!(unit.interrupt(&mut bus, &interrupt), InterruptAnswer::Blocked(_)));
    unit.flood_faults(&mut bus, 0);
    unit.adversary().gone_after = None;
    assert_eq!(unit.read(&mut bus, FSTS, Size::Double), 0);
}

/// The same calls and the same seed tell the same story.
#[test]
fn the_same_seed_tells_the_same_story() {
    let tell = |seed| {
        let mut line = crate::testing::Rig::new(Profile::server(), Pace::slow(seed));
        line.w64(RTADDR, 0x1000);
        line.command(crate::command::SRTP, true);
        line.w64(IQA, 0x10_0000);
        line.command(crate::command::QIE, true);
        for n in 0..20 {
            line.bus.put(0x10_0000 + 16 * n, &[[0x11, 0x12, 0x04][n as usize % 3], 0]);
        }
        line.w64(IQT, 320);
        line.step(100, 5);
        line.unit.story.text()
    };
    assert_eq!(tell(3), tell(3));
    assert_ne!(tell(3), tell(4));
}

#[test]
fn steps_in_which_nothing_can_happen_are_not_made() {
    let mut unit = Unit::new(Profile::server(), 1);
    let mut bus = TestBus::new();
    unit.step(&mut bus, u32::MAX, u64::MAX);
    assert_eq!(unit.now(), u64::MAX);
}

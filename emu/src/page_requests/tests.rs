//! Every rule of sections 7.4 and 7.5, and the registers.

use super::*;
use crate::caches::Stage;
use crate::formats::{PasidDirectoryEntry, PasidEntry, ScalableContextEntry, ScalableRootEntry};
use crate::invalidation::Pages;
use crate::pace::Pace;
use crate::profile::Profile;
use crate::reason::{Completion, Reason};
use crate::request::SourceId;
use crate::state::Mode;
use crate::testing::TestBus;
use crate::unit::Size;
use alloc::vec::Vec;
use proptest::prelude::*;
use std::vec;

const QUEUE: u64 = 0x20_0000;
const SOURCE: SourceId = 0x0100;
const TARGET: PageRequestTarget = PageRequestTarget { domain: 7, pasid: 5, stage: Stage::First };
const MESSAGE: (u64, u32) = (0xfee0_1000, 0x51);

const PQH: u32 = 0xc0;
const PQT: u32 = 0xc8;
const PQA: u32 = 0xd0;
const PRS: u32 = 0xdc;
const PECTL: u32 = 0xe0;

/// A unit in scalable mode with a queue of one page whose event is not masked.
fn unit() -> (Unit, TestBus) {
    let profile = Profile {
        name: "page requests",
        version: 0x60,
        // One fault register at 0x200.
        cap: 0x20 << 24,
        // QI, device TLBs, page requests, PASIDs of 20 bits, drain, scalable mode.
        ecap: 0b110 | 1 << 29 | 19 << 35 | 1 << 40 | 1 << 42 | 1 << 43,
        width: 46,
        ..Profile::server()
    };
    let mut unit = Unit::new(profile, 1);
    unit.state.translation = true;
    unit.state.mode = Mode::Scalable;
    let mut bus = TestBus::new();
    for (at, v) in [(PQA, QUEUE as u32), (0xe4, MESSAGE.1), (0xe8, MESSAGE.0 as u32), (PECTL, 0)] {
        unit.page_requests.write(&mut bus, at, v);
    }
    (unit, bus)
}

/// A read of a page, the last of its group.
const LAST: PageRequest = PageRequest {
    source: SOURCE,
    pasid: Some(5),
    privileged: false,
    execute: false,
    read: true,
    write: false,
    last: true,
    group: 3,
    address: 0x1234_5000,
};
const FIRST: PageRequest = PageRequest { last: false, ..LAST };
const STOP: PageRequest = PageRequest { read: false, ..LAST };

fn fault(recordable: bool) -> Fault {
    Fault { reason: Reason(0x47), completion: Completion::InvalidRequest, recordable }
}

fn response(code: u8) -> GroupResponse {
    GroupResponse { source: SOURCE, pasid: Some(5), group: 3, code }
}

/// A request that the tables have nothing against.
fn admit(unit: &mut Unit, bus: &mut TestBus, request: &PageRequest) -> PageAnswer {
    unit.admit_page_request(bus, request, Ok(TARGET))
}

/// A queue of 128 entries takes 127.
fn fill(unit: &mut Unit, bus: &mut TestBus) {
    for _ in 0..127 {
        assert_eq!(admit(unit, bus, &LAST), PageAnswer::Queued);
    }
}

fn words(bus: &TestBus, n: u64) -> [u64; 4] {
    [0, 8, 16, 24].map(|at| bus.get(QUEUE + 32 * n + at))
}

fn status(unit: &Unit) -> u32 {
    unit.page_requests.read(PRS)
}

// --- Descriptors.

#[test]
fn a_descriptor_says_what_was_requested() {
    let (mut unit, mut bus) = unit();
    assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Queued);
    assert_eq!(words(&bus, 0), [0x0000_0005_0100_0101, 0x1234_501d, 0, 0]);
    let everything = PageRequest {
        source: 0xffff,
        pasid: Some(!0),
        privileged: true,
        execute: true,
        write: true,
        group: !0,
        address: !0,
        ..LAST
    };
    admit(&mut unit, &mut bus, &everything);
    assert_eq!(words(&bus, 1), [0x003f_ffff_ffff_0101, !0, 0, 0]);
    // Nothing of a prefix that was not there, and no PASID to rely on.
    admit(&mut unit, &mut bus, &PageRequest { pasid: None, group: 0, ..everything });
    assert_eq!(words(&bus, 2), [0x000f_ffff_ffff_0001, 0xffff_ffff_ffff_f007, 0, 0]);
    assert_eq!(unit.page_requests.read(PQT), 0x60);
    assert!(bus.responses.is_empty());
}

#[test]
fn a_stop_marker_is_queued_like_a_request() {
    for sms in [0, 1] {
        let (mut unit, mut bus) = unit();
        unit.profile.ecap |= sms << 58;
        assert_eq!(admit(&mut unit, &mut bus, &STOP), PageAnswer::Queued);
        assert_eq!(words(&bus, 0)[1], 0x1234_5ffc, "its group is undefined");
        assert!(bus.responses.is_empty());
    }
}

// --- The queue.

#[test]
fn the_queue_wraps_at_its_size_and_keeps_a_place_empty() {
    for size in 0..8 {
        let (mut unit, mut bus) = unit();
        unit.page_requests.write(&mut bus, PQA, QUEUE as u32 | size);
        let entries = 128 << size;
        for n in 1..entries {
            assert_eq!(admit(&mut unit, &mut bus, &PageRequest { group: n as u16 & 0xff, ..LAST }), PageAnswer::Queued);
            assert_eq!(unit.page_requests.read(PQT), 32 * n);
        }
        let last = 32 * (entries - 1);
        assert_eq!(bus.get(QUEUE + u64::from(last)), 0, "the last place is empty");
        assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Answered(0), "full");
        // Software has seen to one, and clears the overflow: there is one place.
        unit.page_requests.write(&mut bus, PQH, 32);
        unit.page_requests.write(&mut bus, PRS, OVERFLOW);
        assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Queued);
        assert_eq!(unit.page_requests.read(PQT), 0, "wrapped");
        assert_ne!(bus.get(QUEUE + u64::from(last)), 0);
        assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Answered(0));
    }
}

#[test]
fn offsets_beyond_the_queue_do_no_harm() {
    let (mut unit, mut bus) = unit();
    unit.page_requests.write(&mut bus, PQT, !0);
    unit.page_requests.write(&mut bus, PQH, !0);
    assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Queued);
    assert_ne!(bus.get(QUEUE + 127 * 32), 0);
    assert_eq!(unit.page_requests.read(PQT), 0);
}

#[test]
fn a_queue_without_memory_is_an_invalid_request() {
    for base in [TestBus::END, 0xffff_ffff_ffff_f000] {
        let (mut unit, mut bus) = unit();
        unit.page_requests.write(&mut bus, PQA, base as u32);
        unit.page_requests.write(&mut bus, PQA + 4, (base >> 32) as u32);
        assert_eq!(admit(&mut unit, &mut bus, &FIRST), PageAnswer::Dropped);
        assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Answered(1));
        assert_eq!(bus.responses, vec![response(1)]);
        assert_eq!((status(&unit), unit.page_requests.read(PQT)), (0, 0));
        assert!(bus.messages.is_empty());
    }
}

// --- Overflow.

#[test]
fn a_full_queue_sets_pro_and_answers_the_last_of_a_group_with_success() {
    let (mut unit, mut bus) = unit();
    fill(&mut unit, &mut bus);
    assert_eq!(status(&unit), PENDING);
    assert_eq!(admit(&mut unit, &mut bus, &FIRST), PageAnswer::Dropped, "the first of a group gets no answer");
    assert_eq!(status(&unit), PENDING | OVERFLOW);
    assert!(bus.responses.is_empty());
    assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Answered(0));
    assert_eq!(bus.responses, vec![response(0)]);
    assert_eq!(unit.page_requests.read(PQT), 127 * 32);
}

#[test]
fn while_pro_is_set_requests_are_dropped_though_there_is_room() {
    let (mut unit, mut bus) = unit();
    fill(&mut unit, &mut bus);
    admit(&mut unit, &mut bus, &LAST);
    unit.page_requests.write(&mut bus, PQH, 127 * 32);
    unit.page_requests.write(&mut bus, PRS, PENDING);
    bus.responses.clear();
    assert_eq!(admit(&mut unit, &mut bus, &FIRST), PageAnswer::Dropped);
    assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Answered(0));
    assert_eq!(bus.responses, vec![response(0)]);
    assert_eq!(status(&unit), OVERFLOW);
    unit.page_requests.write(&mut bus, PRS, OVERFLOW);
    assert_eq!(admit(&mut unit, &mut bus, &LAST), PageAnswer::Queued);
}

#[test]
fn a_stop_marker_that_finds_no_room_is_gone_without_a_trace_where_the_unit_knows_it() {
    let (mut unit, mut bus) = unit();
    unit.profile.ecap |= 1 << 58;
    fill(&mut unit, &mut bus);
    assert_eq!(admit(&mut unit, &mut bus, &STOP), PageAnswer::Dropped);
    assert_eq!(status(&unit), PENDING);
    admit(&mut unit, &mut bus, &FIRST);
    assert_eq!(admit(&mut unit, &mut bus, &STOP), PageAnswer::Dropped, "with PRO set, too");
    assert!(bus.responses.is_empty());
    // It is one only with a PASID, and only as the last of a group.
    for request in [PageRequest { pasid: None, ..STOP }, LAST] {
        assert_eq!(admit(&mut unit, &mut bus, &request), PageAnswer::Answered(0));
    }
    unit.profile.ecap &= !(1 << 58);
    assert_eq!(admit(&mut unit, &mut bus, &STOP), PageAnswer::Answered(0), "a unit that does not know it answers");
}

// --- The event.

#[test]
fn only_the_first_of_several_requests_interrupts() {
    let (mut unit, mut bus) = unit();
    admit(&mut unit, &mut bus, &FIRST);
    assert_eq!(bus.messages, vec![MESSAGE]);
    admit(&mut unit, &mut bus, &LAST);
    assert_eq!(bus.messages.len(), 1, "PPR was set");
    unit.page_requests.write(&mut bus, PRS, PENDING);
    assert_eq!(status(&unit), 0);
    admit(&mut unit, &mut bus, &LAST);
    assert_eq!(bus.messages.len(), 2);
}

#[test]
fn an_overflow_interrupts_only_when_nothing_is_pending() {
    let (mut unit, mut bus) = unit();
    fill(&mut unit, &mut bus);
    admit(&mut unit, &mut bus, &LAST);
    assert_eq!(bus.messages.len(), 1, "PPR was set");
    unit.page_requests.write(&mut bus, PRS, PENDING | OVERFLOW);
    admit(&mut unit, &mut bus, &LAST);
    assert_eq!((status(&unit), bus.messages.len()), (OVERFLOW, 2));
    unit.page_requests.write(&mut bus, PQH, 64);
    unit.page_requests.write(&mut bus, PRS, PENDING);
    admit(&mut unit, &mut bus, &LAST);
    assert_eq!((status(&unit), bus.messages.len()), (OVERFLOW, 2), "PRO was set");
}

#[test]
fn a_masked_event_waits_in_ip_until_unmasked_or_seen_to() {
    const MASKED: u32 = 1 << 31;
    const WAITING: u32 = 1 << 30;
    let (mut unit, mut bus) = unit();
    unit.page_requests.write(&mut bus, PECTL, MASKED);
    admit(&mut unit, &mut bus, &LAST);
    assert_eq!(unit.page_requests.read(PECTL), MASKED | WAITING);
    assert!(bus.messages.is_empty());
    unit.page_requests.write(&mut bus, PECTL, 0);
    assert_eq!((unit.page_requests.read(PECTL), &bus.messages[..]), (0, &[MESSAGE][..]));
    // Masked again, and seen to: both PPR and PRO must be clear.
    unit.page_requests.write(&mut bus, PRS, PENDING);
    unit.page_requests.write(&mut bus, PECTL, MASKED);
    fill_to_overflow(&mut unit, &mut bus);
    unit.page_requests.write(&mut bus, PRS, PENDING);
    assert_eq!(unit.page_requests.read(PECTL), MASKED | WAITING);
    unit.page_requests.write(&mut bus, PRS, OVERFLOW);
    assert_eq!(unit.page_requests.read(PECTL), MASKED);
    unit.page_requests.write(&mut bus, PECTL, 0);
    assert_eq!(bus.messages.len(), 1);
}

fn fill_to_overflow(unit: &mut Unit, bus: &mut TestBus) {
    while status(unit) & OVERFLOW == 0 {
        admit(unit, bus, &LAST);
    }
}

// --- Faults of the tables.

#[test]
fn a_fault_of_the_tables_is_recorded_and_answered_with_invalid_request() {
    let (mut unit, mut bus) = unit();
    for (request, answer) in [(FIRST, PageAnswer::Dropped), (LAST, PageAnswer::Answered(1))] {
        assert_eq!(unit.admit_page_request(&mut bus, &request, Err(fault(true))), answer);
        assert!(recorded(&mut unit, &mut bus));
        assert_eq!(unit.admit_page_request(&mut bus, &request, Err(fault(false))), answer, "with FPD");
        assert!(!recorded(&mut unit, &mut bus));
    }
    assert_eq!(bus.responses, vec![response(1); 2]);
    assert_eq!((status(&unit), unit.page_requests.read(PQT)), (0, 0), "the queue is not touched");
}

#[test]
fn a_fault_of_the_tables_comes_before_an_overflow() {
    let (mut unit, mut bus) = unit();
    fill_to_overflow(&mut unit, &mut bus);
    assert_eq!(unit.admit_page_request(&mut bus, &LAST, Err(fault(true))), PageAnswer::Answered(1));
    assert!(recorded(&mut unit, &mut bus));
}

#[test]
fn a_stop_marker_that_faults_is_gone_without_a_trace_where_the_unit_knows_it() {
    let (mut unit, mut bus) = unit();
    assert_eq!(unit.admit_page_request(&mut bus, &STOP, Err(fault(true))), PageAnswer::Answered(1));
    assert!(recorded(&mut unit, &mut bus));
    unit.profile.ecap |= 1 << 58;
    bus.responses.clear();
    assert_eq!(unit.admit_page_request(&mut bus, &STOP, Err(fault(true))), PageAnswer::Dropped);
    assert!(!recorded(&mut unit, &mut bus));
    assert!(bus.responses.is_empty());
}

/// Whether the first fault register holds the fault of LAST or FIRST, and clears it.
fn recorded(unit: &mut Unit, bus: &mut TestBus) -> bool {
    let [low, high] = [0x200, 0x208].map(|at| unit.read(bus, at, Size::Quad));
    if high >> 63 == 0 {
        return false;
    }
    // F, T1=0 with T2=1: a page request; PASID 5, reason 47h.
    assert_eq!((low & 0xffff_ffff, high), (0x1234_5000, 1 << 63 | 5 << 40 | 0x47 << 32 | 1 << 31 | 1 << 28 | 0x0100));
    unit.write(bus, 0x20c, Size::Double, 1 << 31);
    true
}

#[test]
fn page_requests_in_legacy_mode_32_and_in_abort_mode_33() {
    for (mode, reason) in [(Mode::Legacy, 0x32), (Mode::Abort, 0x33), (Mode::Reserved, 0x30)] {
        let (mut unit, mut bus) = unit();
        unit.profile.ecap |= 1 << 52;
        unit.state.mode = mode;
        assert_eq!(unit.page_request(&mut bus, &LAST), PageAnswer::Answered(1));
        assert_eq!(unit.page_request(&mut bus, &FIRST), PageAnswer::Dropped);
        assert_eq!(unit.read(&mut bus, 0x208, Size::Quad) >> 32 & 0xff, reason);
        assert_eq!(bus.responses, vec![response(1)]);
    }
}

#[test]
fn units_that_know_no_page_requests_or_do_not_translate_drop_them() {
    let (mut unit, mut bus) = unit();
    unit.state.translation = false;
    assert_eq!(unit.page_request(&mut bus, &LAST), PageAnswer::Dropped);
    unit.state.translation = true;
    unit.profile.ecap &= !(1 << 29);
    assert_eq!(unit.page_request(&mut bus, &LAST), PageAnswer::Dropped);
    assert_eq!(unit.read(&mut bus, 0x208, Size::Quad), 0);
    assert!(bus.responses.is_empty());
}

// --- Late requests, and draining them.

/// A unit that takes its time over page requests, with an invalidation queue of 256-bit descriptors at 30_0000h; the tables
/// are not the subject.
fn slow() -> (Unit, TestBus) {
    let (mut unit, mut bus) = unit();
    unit.set_pace(Pace { page_request: (4, 4), ..Pace::at_once() });
    unit.state.mode = Mode::Legacy;
    unit.write(&mut bus, 0x90, Size::Quad, 0x30_0800);
    unit.write(&mut bus, 0x18, Size::Double, 1 << 26);
    unit.state.mode = Mode::Scalable;
    assert_eq!(unit.read(&mut bus, 0x1c, Size::Double) >> 26 & 1, 1);
    unit.set_pace(Pace { page_request: (1000, 1000), ..Pace::prompt() });
    (unit, bus)
}

/// Queues descriptors and lets the unit see to them.
fn submit(unit: &mut Unit, bus: &mut TestBus, descriptors: &[[u64; 2]]) {
    let mut tail = unit.read(bus, 0x88, Size::Quad);
    for descriptor in descriptors {
        bus.put(0x30_0000 + tail, &[descriptor[0], descriptor[1], 0, 0]);
        tail += 32;
    }
    unit.write(bus, 0x88, Size::Quad, tail);
    unit.step(bus, 8, 0);
    assert_eq!(unit.read(bus, 0x80, Size::Quad), tail, "{:x}", unit.read(bus, 0x34, Size::Double));
}

#[test]
fn a_late_request_comes_to_the_queue_after_its_steps() {
    let (mut unit, mut bus) = unit();
    unit.set_pace(Pace { page_request: (4, 4), ..Pace::prompt() });
    assert_eq!(unit.page_request(&mut bus, &LAST), PageAnswer::Received);
    assert_eq!(unit.page_request(&mut bus, &FIRST), PageAnswer::Received);
    unit.step(&mut bus, 4, 0);
    assert!(bus.responses.is_empty());
    unit.step(&mut bus, 1, 0);
    // The tables of this test have nothing to say: the unit refuses.
    assert_eq!(bus.responses, vec![response(1)]);
    assert_eq!(unit.page_requests.received.len(), 1);
    unit.step(&mut bus, 100, 0);
    assert!(unit.page_requests.received.is_empty());
}

#[test]
fn what_comes_later_does_not_overtake() {
    let (mut unit, mut bus) = unit();
    unit.set_pace(Pace { page_request: (4, 4), ..Pace::prompt() });
    unit.page_request(&mut bus, &LAST);
    unit.set_pace(Pace::prompt());
    assert_eq!(unit.page_request(&mut bus, &PageRequest { group: 4, ..LAST }), PageAnswer::Received);
    unit.step(&mut bus, 100, 0);
    assert_eq!(bus.responses.iter().map(|r| r.group).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn only_so_many_requests_wait() {
    let (mut unit, mut bus) = slow();
    for _ in 0..64 {
        unit.page_request(&mut bus, &LAST);
    }
    assert!(bus.responses.is_empty());
    unit.page_request(&mut bus, &LAST);
    assert_eq!(bus.responses.len(), 1);
}

#[test]
fn a_wait_with_pd_comes_after_the_requests_that_had_come_and_one_without_does_not() {
    let (mut unit, mut bus) = slow();
    unit.page_request(&mut bus, &LAST);
    submit(&mut unit, &mut bus, &[[0x1_0000_0025, 0x3000]]);
    assert_eq!((bus.get(0x3000), bus.responses.len()), (1, 0));
    submit(&mut unit, &mut bus, &[[0x2_0000_00a5, 0x3000]]);
    assert_eq!((bus.get(0x3000), bus.responses.len()), (2, 1));
}

#[test]
fn a_unit_that_is_off_by_the_time_drops_what_has_come() {
    let (mut unit, mut bus) = slow();
    unit.page_request(&mut bus, &LAST);
    unit.state.translation = false;
    unit.drain_page_requests(&mut bus);
    assert!(bus.responses.is_empty());
}

// --- What software answers.

/// `pgrp_resp` for LAST, with these bits more.
fn answer(code: u64) -> [u64; 2] {
    [0x0000_0005_0100_0019 | code << 12, 0x18]
}

fn breaches(unit: &Unit) -> Vec<Rule> {
    unit.oracle()
        .breaches()
        .iter()
        .map(|b| b.rule)
        .filter(|r| matches!(r, Rule::GroupResponse | Rule::PageRequestQueue))
        .collect()
}

#[test]
fn a_group_is_answered_once() {
    for code in [0, 1, 15] {
        let (mut unit, mut bus) = slow();
        admit(&mut unit, &mut bus, &FIRST);
        admit(&mut unit, &mut bus, &LAST);
        submit(&mut unit, &mut bus, &[answer(code)]);
        assert_eq!(bus.responses, vec![response(code as u8)]);
        assert_eq!(breaches(&unit), []);
        submit(&mut unit, &mut bus, &[answer(code)]);
        assert_eq!(bus.responses.len(), 2, "it goes out all the same");
        assert_eq!(breaches(&unit), [Rule::GroupResponse]);
    }
}

#[test]
fn nobody_is_answered_who_asked_for_no_answer() {
    // Before the last of the group; a stop marker; what the unit answered itself; another PASID, or none; another group.
    type Before = fn(&mut Unit, &mut TestBus) -> PageAnswer;
    let before: [Before; 5] = [
        |unit, bus| admit(unit, bus, &FIRST),
        |unit, bus| admit(unit, bus, &STOP),
        |unit, bus| unit.admit_page_request(bus, &LAST, Err(fault(true))),
        |unit, bus| admit(unit, bus, &PageRequest { pasid: None, ..LAST }),
        |unit, bus| admit(unit, bus, &PageRequest { group: 4, ..LAST }),
    ];
    for (n, before) in before.into_iter().enumerate() {
        let (mut unit, mut bus) = slow();
        before(&mut unit, &mut bus);
        submit(&mut unit, &mut bus, &[answer(0)]);
        assert_eq!(breaches(&unit), [Rule::GroupResponse], "{n}");
    }
}

#[test]
fn reserved_response_codes() {
    let (mut unit, mut bus) = slow();
    admit(&mut unit, &mut bus, &LAST);
    submit(&mut unit, &mut bus, &[answer(2)]);
    assert_eq!(breaches(&unit), [Rule::GroupResponse]);
}

#[test]
fn the_head_stays_within_what_the_queue_holds() {
    let head = |to: u32| {
        let (mut unit, mut bus) = unit();
        admit(&mut unit, &mut bus, &LAST);
        admit(&mut unit, &mut bus, &LAST);
        unit.write(&mut bus, PQH, Size::Double, 0x20);
        assert_eq!(breaches(&unit), []);
        unit.write(&mut bus, PQH, Size::Double, to.into());
        breaches(&unit)
    };
    assert_eq!(head(0x20), []);
    assert_eq!(head(0x40), []);
    assert_eq!(head(0), [], "begins anew");
    for beyond in [0x60, 0xfe0, 0x1020, 0x1040] {
        assert_eq!(head(beyond), [Rule::PageRequestQueue], "{beyond:x}");
    }
}

// --- With the tables.

/// Tables for SOURCE: PASID 5 of domain 7 has first-stage tables, the other PASIDs nothing.
fn tables(bus: &mut TestBus, context: ScalableContextEntry) {
    bus.put(0x1000 + 16, &ScalableRootEntry::new(Some(0x2000), None).0);
    bus.put(0x2000, &context.0);
    bus.put(0x3000, &PasidDirectoryEntry::new(0x4000).0);
    bus.put(0x4000 + 5 * 64, &PasidEntry::first_stage(0x5000, false, 7).0);
}

fn context() -> ScalableContextEntry {
    type C = ScalableContextEntry;
    C::new(0x3000, 0).with(C::DTE, 1).with(C::PRE, 1).with(C::PASIDE, 1)
}

/// What becomes of LAST under these tables: the answer, and the reason that was recorded.
fn under(context: ScalableContextEntry, change: impl Fn(&mut TestBus), request: &PageRequest) -> (PageAnswer, u64) {
    let (mut unit, mut bus) = unit();
    unit.profile.ecap |= 1 << 47 | 1 << 49;
    unit.state.root = 0x1000;
    tables(&mut bus, context);
    change(&mut bus);
    let answer = unit.page_request(&mut bus, request);
    (answer, unit.read(&mut bus, 0x208, Size::Quad) >> 32 & 0xff)
}

#[test]
fn a_page_request_asks_the_tables() {
    type C = ScalableContextEntry;
    let nothing = |_: &mut TestBus| ();
    assert_eq!(under(context(), nothing, &LAST), (PageAnswer::Queued, 0));
    // Without PASID: that of RID_PASID, which nobody else may use.
    let rid = context().with(C::RID_PASID, 5);
    assert_eq!(under(rid, nothing, &PageRequest { pasid: None, ..LAST }), (PageAnswer::Queued, 0));
    let refused = |reason| (PageAnswer::Answered(1), reason);
    assert_eq!(under(rid, nothing, &LAST), refused(0x48));
    for (context, reason) in [
        (context().with(C::P, 0), 0x41),
        (context().with(C::PRE, 0), 0x47),
        (context().with(C::DTE, 0), 0x43),
        (context().with(C::PASIDE, 0), 0x45),
        (context().with(C::FPD, 1).with(C::PRE, 0), 0),
    ] {
        assert_eq!(under(context, nothing, &LAST), refused(reason));
    }
    for (at, word, reason) in [
        (0x1010, 0, 0x39),
        (0x1010, TestBus::END | 1, 0x40),
        (0x3000, 0, 0x51),
        (0x3000, TestBus::END | 1, 0x58),
        (0x4140, 0, 0x59),
        (0x4140, 1 << 9 | 0x41, 0x5a),
        (0x4140, 1, 0x5b),
    ] {
        assert_eq!(under(context(), |bus| bus.put(at, &[word]), &LAST), refused(reason), "{at:x}");
    }
    assert_eq!(under(context(), nothing, &PageRequest { pasid: Some(1 << 13), ..LAST }), refused(0x46));
    assert_eq!(under(context(), nothing, &PageRequest { pasid: Some(6), ..FIRST }), (PageAnswer::Dropped, 0x59));
}

// --- What it implies for the caches.

/// What the caches were told to forget.
fn forgotten(unit: &Unit) -> Vec<Invalidation> {
    let told = |(_, what): &(u64, Happening)| match *what {
        Happening::Forgot(what) => Some(what),
        _ => None,
    };
    unit.story.iter().filter_map(told).collect()
}

#[test]
fn an_accepted_request_invalidates_its_page_as_its_tables_ask_for() {
    let page = Pages { address: 0x1234_5000, order: 0, leaf_only: false };
    for (stage, what) in [
        (Stage::First, Invalidation::PasidIotlbPages(7, 5, page)),
        (Stage::Second, Invalidation::IotlbPages(7, page)),
        (Stage::PassThrough, Invalidation::IotlbPages(7, page)),
        (Stage::Nested, Invalidation::IotlbOfDomain(7)),
    ] {
        let (mut unit, mut bus) = unit();
        let target = PageRequestTarget { stage, ..TARGET };
        unit.admit_page_request(&mut bus, &PageRequest { address: 0x1234_5678, ..LAST }, Ok(target));
        assert_eq!(forgotten(&unit), [what]);
    }
}

#[test]
fn requests_that_are_not_accepted_invalidate_nothing() {
    let (mut unit, mut bus) = unit();
    unit.admit_page_request(&mut bus, &LAST, Err(fault(true)));
    assert!(forgotten(&unit).is_empty());
    fill_to_overflow(&mut unit, &mut bus);
    unit.story = Default::default();
    admit(&mut unit, &mut bus, &LAST);
    assert!(forgotten(&unit).is_empty());
}

// --- Registers.

#[test]
fn registers_hold_the_bits_that_they_have() {
    let (mut unit, mut bus) = unit();
    for (at, mask) in [
        (0xc0, 0x7_ffe0),
        (0xc4, 0),
        (0xc8, 0x7_ffe0),
        (0xcc, 0),
        (0xd0, 0xffff_f007),
        (0xd4, !0),
        (0xd8, 0),
        (0xdc, 0),
        (0xe0, 1 << 31),
        (0xe4, 0xffff),
        (0xe8, !3),
        (0xec, !0),
    ] {
        unit.page_requests.write(&mut bus, at, !0);
        assert_eq!(unit.page_requests.read(at), mask, "{at:x}");
        unit.page_requests.write(&mut bus, at, 0);
        assert_eq!(unit.page_requests.read(at), 0, "{at:x}");
    }
}

#[test]
fn reserved_bits_of_registers_are_no_ones_to_set() {
    for (at, bit) in
        [(0xc0, 4), (0xc0, 19), (0xc4, 0), (0xc8, 4), (0xd0, 3), (0xd0, 11), (0xdc, 2), (0xe4, 16), (0xe8, 1)]
    {
        let (mut unit, mut bus) = unit();
        unit.write(&mut bus, at, Size::Double, 1 << bit);
        assert_eq!(
            unit.oracle().breaches().iter().map(|b| b.rule).collect::<Vec<_>>(),
            [Rule::ReservedBit],
            "{at:x} {bit}"
        );
    }
    let (mut unit, mut bus) = unit();
    unit.write(&mut bus, PQA, Size::Quad, 0x3f_ffff_f000 | 7);
    assert_eq!(unit.read(&mut bus, PQA, Size::Quad), 0x3f_ffff_f007);
    unit.write(&mut bus, PQA, Size::Quad, !0xff8);
    assert_eq!(unit.read(&mut bus, PQA, Size::Quad), 0x3fff_ffff_f007, "46 bits of address");
    assert!(unit.oracle().breaches().is_empty());
}

// --- Whatever comes.

proptest! {
    /// Any registers and any requests: no panic, and nothing is written outside of the queue.
    #[test]
    fn nothing_makes_it_panic(
        writes in prop::collection::vec((0x30..0x3c_u32, any::<u32>(), 0..4_u32), 0..12),
        requests in prop::collection::vec((any::<u64>(), any::<u16>(), any::<Option<u32>>(), any::<u16>()), 1..40),
        capabilities in any::<u64>(),
    ) {
        let (mut unit, mut bus) = unit();
        unit.profile.ecap ^= capabilities & 1 << 58;
        for (register, v, narrow) in writes {
            // Often offsets and addresses that mean something.
            let v = [v, v & 0xf_ffff, v & 0xff_f007, v & 3][narrow as usize];
            unit.page_requests.write(&mut bus, 4 * register, v);
            unit.page_requests.read(4 * register);
        }
        let base = u64::from(unit.page_requests.read(PQA + 4)) << 32 | u64::from(unit.page_requests.read(PQA) & !0xfff);
        let size = 4096_u64 << (unit.page_requests.read(PQA) & 7);
        for (address, source, pasid, bits) in requests {
            let bit = |n: u16| bits >> n & 1 != 0;
            let request = PageRequest {
                source,
                pasid,
                privileged: bit(0),
                execute: bit(1),
                read: bit(2),
                write: bit(3),
                last: bit(4),
                group: bits >> 5,
                address,
            };
            let target = if bit(15) { Err(fault(bit(14))) } else { Ok(TARGET) };
            let tail = unit.page_requests.read(PQT);
            let answers = bus.responses.len();
            let answer = unit.admit_page_request(&mut bus, &request, target);
            let moved = unit.page_requests.read(PQT) != tail;
            let answered = bus.responses.len() - answers;
            match answer {
                PageAnswer::Queued => prop_assert!(moved && answered == 0),
                PageAnswer::Answered(code) => prop_assert!(!moved && answered == 1 && code <= 1 && request.last),
                PageAnswer::Dropped => prop_assert!(!moved && answered == 0),
                PageAnswer::Received => prop_assert!(false, "nothing is late here"),
            }
        }
        for at in (0..TestBus::END).step_by(4096).filter(|at| *at < base || *at - base >= size) {
            prop_assert_eq!(bus.get(at), 0);
        }
    }
}

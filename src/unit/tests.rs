//! One unit on the stand-in: commands, bringing it up, the queue, the registers, the log, domain ids.

use super::bring_up::{Place, Skipped, TakeOver};
use super::command::Command;
use super::config::{Config, Tables};
use super::errata::Errata;
use super::ids::DomainIds;
use super::invalidate::{Batch, Request};
use super::standin::{
    Answer, CAP, CAP_PLMR, CAP_PSI, CAP_RWBF, ECAP, ECAP_C, ECAP_QI, ECAP_SM, ECAP_SSTS, IRE, QIE, SRTP, Standin, TE,
    WBF,
};
use super::{Host, Unit};
use crate::host::address::{Hpa, UnitId};
use crate::host::error::{Error, ErrorKind, State, Step};
use crate::host::testing;
use crate::hw::descriptors::Descriptor;
use crate::hw::faults::FaultRecord;
use crate::hw::invalidation::{Drain, Iva};
use crate::hw::registers::at;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec;
use std::vec::Vec;

const BASE: u64 = 0xfed9_0000;

/// How many turns a long test takes: `VTD_SCALE` per cent of `n`.
pub(super) fn scaled(n: usize) -> usize {
    let percent = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100);
    (n * percent / 100).max(1)
}

/// Scalable mode where the unit has it.
fn config() -> Config {
    Config { tables: Tables::Best, ..Config::default() }
}

/// Descriptors in a queue of a page.
pub(super) fn slots(ecap: u64) -> usize {
    if ecap & ECAP_SM == ECAP_SM { 128 } else { 256 }
}

pub(super) struct Bench {
    pub(super) h: Host<testing::Host>,
    pub(super) unit: Unit<testing::Host>,
    pub(super) standin: Standin,
}

fn probe(h: &Host<testing::Host>) -> Result<Result<Unit<testing::Host>, Skipped>, Error> {
    let place = Place {
        id: UnitId(0),
        segment: 0,
        base: Hpa::new(BASE),
        window: 4096,
        node: None,
        width: 47,
        found: TakeOver::Disable,
    };
    Unit::probe(h, place, Errata::empty())
}

impl Bench {
    fn off(cap: u64, ecap: u64, config: Config) -> Self {
        let platform = testing::Host::new();
        let standin = Standin::new(&platform, BASE, cap, ecap);
        let h = Host { platform, config };
        let unit = probe(&h).unwrap().unwrap_or_else(|why| panic!("{why}"));
        Bench { h, unit, standin }
    }

    fn start(&self) -> Result<(), Error> {
        self.unit.quiet(&self.h, TakeOver::Disable)?;
        self.unit.start_queue(&self.h)?;
        self.unit.start_root(&self.h)?;
        self.unit.start_events(&self.h);
        self.unit.start_translation(&self.h).map(drop)
    }

    pub(super) fn on(cap: u64, ecap: u64) -> Self {
        let b = Self::off(cap, ecap, config());
        b.start().unwrap();
        b.standin.take();
        b
    }

    pub(super) fn invalidate(&self, list: &[Request]) -> Result<(), Error> {
        let mut batch = Batch::new();
        for r in list {
            assert!(batch.push(*r));
        }
        self.unit.invalidate(&self.h, &batch)
    }

    /// Off, and everything given back.
    pub(super) fn end(self) {
        self.end_keeping(0);
    }

    /// Off, and everything given back but this many frames.
    fn end_keeping(self, frames: u64) {
        self.unit.stop(&self.h).unwrap();
        self.unit.release(&self.h.platform);
        assert_eq!(self.h.platform.counts().frames, frames);
    }
}

fn places(writes: &[(u32, u64)]) -> Vec<u32> {
    writes
        .iter()
        .map(|(at, _)| *at)
        .filter(|at| [at::GCMD, at::RTADDR, at::IQA, at::IQT, at::PMEN].contains(at))
        .collect()
}

pub(super) const PAGE_2: Request = Request::IotlbPages { did: 2, first: 0x5000, order: 0, leaf_only: true };

fn the_queue_comes_before_the_root_pointer_and_protected_memory_goes_after_translation(ecap: u64) {
    let b = Bench::off(CAP | CAP_PLMR, ecap, config());
    b.standin.regs.set32(at::PMEN, 1 << 31 | 1);
    b.start().unwrap();
    let (writes, done) = b.standin.take();
    let order = [at::IQT, at::IQA, at::GCMD, at::RTADDR, at::GCMD, at::IQT, at::GCMD, at::PMEN];
    assert_eq!(places(&writes), order);
    let commands: Vec<u64> = writes.iter().filter(|(at, _)| *at == at::GCMD).map(|(_, v)| *v).collect();
    assert_eq!(commands, [QIE, QIE | SRTP, QIE | TE].map(u64::from));
    let mut global = vec![Descriptor::cc_global(), Descriptor::pc_global(), Descriptor::iotlb_global(Drain::BOTH)];
    global.retain(|d| ecap == ECAP_SM || *d != Descriptor::pc_global());
    assert_eq!(done, global.into_iter().map(Descriptor::narrow).collect::<Vec<_>>());
    let modes = [b.standin.regs.get32(at::RTADDR) >> 10 & 3, b.standin.regs.get32(at::IQA) >> 11 & 1];
    assert_eq!(modes, [u32::from(ecap == ECAP_SM); 2], "TTM and DW");
    b.standin.take();
    b.unit.stop(&b.h).unwrap();
    let commands: Vec<u64> = b.standin.take().0.iter().filter(|(at, _)| *at == at::GCMD).map(|(_, v)| *v).collect();
    assert_eq!(commands, [u64::from(QIE), 0], "translation first, then the queue");
    b.end();
}

#[test]
fn a_unit_of_first_stage_tables_alone_is_used_unless_legacy_mode_is_forced() {
    let ecap = ECAP_SM & !ECAP_SSTS | 1 << 47;
    for (tables, skipped) in [(Tables::Best, None), (Tables::Scalable, None), (Tables::Legacy, Some(Skipped::NoWidth))]
    {
        let platform = testing::Host::new();
        Standin::new(&platform, BASE, CAP & !(0x1f << 8), ecap);
        let h = Host { platform, config: Config { tables, ..Config::default() } };
        match probe(&h).unwrap() {
            Ok(unit) => {
                assert!(unit.has_first_stage() && !unit.has_second_stage());
                unit.release(&h.platform);
                assert_eq!(skipped, None);
            }
            Err(why) => assert_eq!(skipped, Some(why)),
        }
    }
}

#[test]
fn nothing_answers_and_the_unit_is_skipped() {
    let odd = [(0, ECAP), (u64::MAX, ECAP), (CAP, u64::MAX), (CAP & !(0x1f << 8), ECAP)];
    let whys = [Skipped::NoAnswer, Skipped::NoAnswer, Skipped::NoAnswer, Skipped::NoWidth];
    for ((cap, ecap), why) in odd.into_iter().zip(whys) {
        let platform = testing::Host::new();
        let standin = Standin::new(&platform, BASE, cap, ecap);
        let h = Host { platform, config: Config::default() };
        assert_eq!(probe(&h).unwrap().err(), Some(why));
        assert!(standin.state().writes.is_empty());
        assert_eq!(h.platform.counts().frames, 0);
    }
    let h = Host { platform: testing::Host::new(), config: Config::default() };
    assert_eq!(probe(&h).unwrap().err(), Some(Skipped::NotMapped));
}

#[test]
fn registers_beyond_the_first_page_are_mapped_before_they_are_used() {
    // Fault registers at 0x2ff0: the stand-in's registers refuse what was not mapped.
    let cap = CAP & !(0x3ff << 24) | 0x2ff << 24;
    let b = Bench::off(cap, ECAP, Config::default());
    assert_eq!(b.unit.caps.window(), 0x4000);
    for at in (0..4).filter_map(|i| b.unit.caps.fault_record(i)) {
        let top = at + FaultRecord::LAST_DWORD;
        assert_eq!(crate::host::platform::Registers::read32(&b.unit.regs, top), 0);
    }
    b.end();
}

fn a_unit_found_on_is_refused_untouched_or_turned_off_in_order(ecap: u64) {
    let b = Bench::off(CAP, ecap, config());
    b.standin.regs.set32(at::GSTS, TE | SRTP | QIE | IRE);
    let refused = b.unit.quiet(&b.h, TakeOver::Refuse).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::State(State::FoundOn));
    b.unit.stop(&b.h).unwrap();
    assert!(b.standin.state().writes.is_empty(), "nothing was written");
    b.unit.quiet(&b.h, TakeOver::Disable).unwrap();
    let commands: Vec<u64> = b.standin.take().0.iter().filter(|(at, _)| *at == at::GCMD).map(|(_, v)| *v).collect();
    assert_eq!(commands, [TE | QIE, QIE, 0].map(u64::from), "no one-shot bit is written again");
    b.end();
}

#[test]
fn contexts_are_invalidated_before_translations_in_whatever_order_they_were_asked_for() {
    for ecap in [ECAP, ECAP & !ECAP_QI] {
        let b = Bench::on(CAP, ecap);
        let mut list = Vec::new();
        for source in 1..=9 {
            // As an attachment of several requester ids asks.
            list.extend([Request::ContextDevice { did: 5, source }, Request::IotlbDomain { did: 5 }]);
        }
        b.invalidate(&list).unwrap();
        let (_, done) = b.standin.take();
        let kinds: Vec<u64> = done.iter().map(|d| d[0] & 0xf).collect();
        assert_eq!(kinds, [1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
        let sources: std::collections::BTreeSet<u64> = done[..9].iter().map(|d| d[0] >> 32 & 0xffff).collect();
        assert_eq!(sources.len(), 9);
        b.end();
    }
}

#[test]
fn status_bits_that_a_unit_lacks_are_written_as_zero() {
    const DT: u64 = 1 << 2;
    for (ecap, wanted) in [(ECAP & !ECAP_QI, 1), (ECAP, 0x11), (ECAP | DT, 0x71)] {
        let b = Bench::off(CAP, ecap, Config::default());
        b.start().unwrap();
        let (writes, _) = b.standin.take();
        let cleared: Vec<u64> = writes.iter().filter(|(place, _)| *place == at::FSTS).map(|(_, v)| *v).collect();
        assert_eq!(cleared, [wanted]);
        b.end();
    }
}

fn a_command_that_never_completes_ends_at_the_deadline(ecap: u64) {
    let steps = [(QIE, Step::Queue), (SRTP, Step::RootPointer), (TE, Step::Translation), (WBF, Step::WriteBuffer)];
    for (bit, step) in steps {
        let b = Bench::off(CAP | CAP_RWBF, ecap, config());
        b.standin.state().stuck = bit;
        let before = b.h.platform.time();
        assert_eq!(b.start().unwrap_err().kind, ErrorKind::Timeout(step));
        let took = b.h.platform.time() - before;
        assert!((1_000_000_000..1_100_000_000).contains(&took), "{took} ns");
        // The unit may still carry it out: root table, queue and status words stay owned.
        b.end_keeping(if bit == WBF { 0 } else { 3 });
    }
}

fn a_unit_that_goes_away_at_any_step_is_an_error_and_no_endless_wait(ecap: u64) {
    for ecap in [ecap, ecap & !ECAP_QI] {
        for n in 0.. {
            let b = Bench::off(CAP | CAP_PLMR | CAP_RWBF, ecap, config());
            b.standin.regs.set32(at::PMEN, 1 << 31 | 1);
            b.standin.state().gone_after = Some(n);
            let outcome = b.start().and_then(|()| b.invalidate(&[PAGE_2]));
            let writes = b.standin.state().writes.len();
            let took = b.h.platform.time();
            if writes <= n {
                assert!(outcome.is_ok() && n > 10);
                break;
            }
            assert!(took < 5_000_000_000, "{took} ns");
            // What was written when all was done but the last look may go unnoticed; the next look says it.
            assert_eq!(b.unit.status().unwrap_err().kind, ErrorKind::UnitGone);
            assert!(outcome.is_err() || n + 2 >= writes, "{n} of {writes}");
            // It counts as off, and what it may reach stays owned.
            let queue = b.unit.has_queue();
            b.end_keeping(if writes < 3 {
                0
            } else if queue {
                3
            } else {
                1
            });
        }
    }
}

fn the_queue_wraps_thousands_of_times_with_one_tail_write_and_no_register_read_each(ecap: u64) {
    let b = Bench::on(CAP, ecap);
    let reads = b.standin.regs.reads();
    let turns = scaled(200_000);
    for i in 0..turns {
        let sizes: Vec<Request> = (0..i as u64 % 5 + 1)
            .map(|n| Request::IotlbPages { did: 2, first: n << 12, order: 0, leaf_only: false })
            .collect();
        b.invalidate(&sizes).unwrap();
        let (writes, done) = b.standin.take();
        assert!(writes.len() == 1 && writes[0].0 == at::IQT);
        assert_eq!(done.len(), sizes.len());
        let last = Descriptor::iotlb_pages(2, Drain::BOTH, Iva::new((sizes.len() as u64 - 1) << 12, 0, false));
        assert_eq!(done.last(), Some(&last.narrow()));
    }
    assert_eq!(b.standin.regs.reads(), reads, "not one register was read");
    b.end();
}

fn completions_in_any_order_belong_to_their_submissions(ecap: u64) {
    let b = Bench::on(CAP, ecap);
    let queue = b.unit.queue.as_ref().unwrap();
    let mut seed = 1u64;
    for _ in 0..scaled(20_000) {
        b.standin.state().hold = true;
        let one = |_| Descriptor::iotlb_domain(3, Drain::BOTH);
        let mut open: Vec<_> = (0..6).map(|n| queue.submit(&b.h, &b.unit, n % 3, one).unwrap()).collect();
        assert!(open.iter().all(|s| queue.poll(*s).is_none()));
        while !open.is_empty() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let which = (seed >> 33) as usize % open.len();
            b.standin.release(|i| i == which);
            for (i, s) in open.iter().enumerate().filter(|(i, _)| *i != which) {
                assert!(queue.poll(*s).is_none(), "{i} was not completed, {which} was");
            }
            assert_eq!(queue.poll(open.remove(which)), Some(Ok(())));
        }
    }
    b.standin.state().hold = false;
    b.end();
}

fn a_full_ring_waits_for_room_and_goes_on(ecap: u64) {
    let b = Bench::on(CAP, ecap);
    let queue = b.unit.queue.as_ref().unwrap();
    let room = slots(ecap) - 2;
    assert_eq!(queue.capacity(), room);
    let any = |_| Descriptor::iotlb_global(Drain::BOTH);
    assert!(queue.submit(&b.h, &b.unit, room + 1, any).is_err(), "more than there is room for at all");
    queue.wait(&b.h, &b.unit, queue.submit(&b.h, &b.unit, room, any).unwrap()).unwrap();
    b.standin.state().hold = true;
    let first = queue.submit(&b.h, &b.unit, room - 54, any).unwrap();
    let second = queue.submit(&b.h, &b.unit, 40, any).unwrap();
    // Nothing is released: no room until the deadline, and nothing of the ring changed.
    assert_eq!(queue.submit(&b.h, &b.unit, 60, any).unwrap_err().kind, ErrorKind::Timeout(Step::Queue));
    // A completion out of order makes no room in front of the first; the first one does, once its verdict was taken.
    let turns = AtomicUsize::new(0);
    let standin = b.standin.clone();
    b.h.platform.on_relax(move || match turns.fetch_add(1, Ordering::Relaxed) {
        10 => standin.release(|i| i == 1),
        30 => standin.release(|_| true),
        _ => {}
    });
    queue.abandon(first);
    let third = queue.submit(&b.h, &b.unit, 60, any).unwrap();
    b.standin.state().hold = false;
    b.standin.release(|_| true);
    assert_eq!(queue.poll(second), Some(Ok(())));
    assert_eq!(queue.poll(third), Some(Ok(())));
    b.end();
}

fn slots_of_a_timed_out_submission_stay_owned_until_it_completes(ecap: u64) {
    let b = Bench::on(CAP, ecap);
    b.standin.state().hold = true;
    // Each takes two slots, and one stays empty.
    let most = slots(ecap) / 2 - 1;
    for _ in 0..most {
        let before = b.h.platform.time();
        assert_eq!(b.invalidate(&[PAGE_2]).unwrap_err().kind, ErrorKind::Timeout(Step::Invalidation));
        assert!((1_000_000_000..1_100_000_000).contains(&(b.h.platform.time() - before)));
    }
    assert_eq!(b.invalidate(&[PAGE_2]).unwrap_err().kind, ErrorKind::Timeout(Step::Queue), "the ring is full");
    assert_eq!(b.standin.state().held.len(), most);
    b.standin.state().hold = false;
    // The last one alone is not the oldest: still no room.
    b.standin.release(|i| i == most - 1);
    assert_eq!(b.invalidate(&[PAGE_2]).unwrap_err().kind, ErrorKind::Timeout(Step::Queue));
    b.standin.release(|_| true);
    for _ in 0..300 {
        b.invalidate(&[PAGE_2]).unwrap();
    }
    b.end();
}

fn a_submission_that_nobody_asks_for_holds_nobody_up(ecap: u64) {
    let b = Bench::on(CAP, ecap);
    let queue = b.unit.queue.as_ref().unwrap();
    let any = |_| Descriptor::iotlb_global(Drain::BOTH);
    let kept = queue.submit(&b.h, &b.unit, 1, any).unwrap();
    for _ in 0..300 {
        b.invalidate(&[PAGE_2]).unwrap();
    }
    assert_eq!(queue.poll(kept), Some(Ok(())));
    // Of those that failed the tickets stay until somebody asks, or the failures would be lost; there are as many as slots.
    let fail = || {
        b.standin.state().bad = Some((0, 3));
        let failed = queue.submit(&b.h, &b.unit, 1, any).unwrap();
        b.unit.tend_queue(&b.h).unwrap();
        failed
    };
    let failed: Vec<_> = (0..slots(ecap)).map(|_| fail()).collect();
    assert_eq!(b.invalidate(&[PAGE_2]).unwrap_err().kind, ErrorKind::Timeout(Step::Queue));
    queue.abandon(failed[0]);
    (0..300).for_each(|_| b.invalidate(&[PAGE_2]).unwrap());
    for f in &failed[1..] {
        assert_eq!(queue.poll(*f), Some(Err(ErrorKind::QueueError(3).on(UnitId(0)))));
    }
    let again: Vec<_> = (0..slots(ecap)).map(|_| fail()).collect();
    again.into_iter().for_each(|f| queue.abandon(f));
    b.invalidate(&[PAGE_2]).unwrap();
    b.end();
}

fn an_error_at_any_descriptor_hits_its_submission_alone(ecap: u64) {
    // Two submissions before, three descriptors and a wait, one after: the queue stops at each of them in turn.
    for bad in 0..9usize {
        for code in [0u8, 3] {
            let b = Bench::on(CAP, ecap);
            let queue = b.unit.queue.as_ref().unwrap();
            let one = |_| Descriptor::iotlb_domain(7, Drain::BOTH);
            b.standin.state().bad = Some((bad, code));
            let lengths = [0, 1, 3, 1];
            let open: Vec<_> = lengths.iter().map(|n| queue.submit(&b.h, &b.unit, *n, one).unwrap()).collect();
            let outcomes: Vec<_> = open.into_iter().map(|s| queue.wait(&b.h, &b.unit, s)).collect();
            let hit = match bad {
                0 => 0,
                1..3 => 1,
                3..7 => 2,
                _ => 3,
            };
            for (i, outcome) in outcomes.into_iter().enumerate() {
                match outcome {
                    Err(e) if i == hit => assert_eq!(e.kind, ErrorKind::QueueError(code)),
                    Ok(()) if i != hit => {}
                    other => panic!("bad {bad}, submission {i}: {other:?}"),
                }
            }
            // Waits are not counted: all others were carried out.
            let wait = [0, 2, 6, 8].contains(&bad);
            assert_eq!(b.standin.take().1.len(), if wait { 5 } else { 4 });
            for _ in 0..200 {
                b.invalidate(&[PAGE_2, Request::ContextGlobal]).unwrap();
            }
            b.end();
        }
    }
}

fn a_verdict_that_was_not_taken_yet_outlives_a_ring_full_of_others(ecap: u64) {
    let b = Bench::on(CAP, ecap);
    let queue = b.unit.queue.as_ref().unwrap();
    b.standin.state().bad = Some((0, 4));
    let failed = queue.submit(&b.h, &b.unit, 1, |_| Descriptor::cc_global()).unwrap();
    b.unit.tend_queue(&b.h).unwrap();
    (0..600).for_each(|_| b.invalidate(&[PAGE_2]).unwrap());
    assert_eq!(queue.poll(failed), Some(Err(ErrorKind::QueueError(4).on(UnitId(0)))));
    (0..200).for_each(|_| b.invalidate(&[PAGE_2]).unwrap());
    b.end();
}

fn queue_errors_that_nobody_waits_for_are_tended(ecap: u64) {
    let b = Bench::on(CAP, ecap);
    let queue = b.unit.queue.as_ref().unwrap();
    b.standin.state().bad = Some((0, 3));
    let s = queue.submit(&b.h, &b.unit, 1, |_| Descriptor::cc_global()).unwrap();
    queue.abandon(s);
    b.unit.tend_queue(&b.h).unwrap();
    let cleared: Vec<_> = b.standin.take().0.into_iter().filter(|(at, _)| *at == at::FSTS).collect();
    assert_eq!(cleared, [(at::FSTS, 1 << 4)], "IQE and nothing else");
    // The errors of translation caches, which no device has yet, are cleared and hold nothing up.
    b.standin.raise(1 << 5 | 1 << 6 | 1);
    b.unit.tend_queue(&b.h).unwrap();
    assert_eq!(b.standin.regs.get32(at::FSTS), 1, "the overflow is the log's");
    b.invalidate(&[PAGE_2]).unwrap();
    b.end();
}

#[test]
fn the_registers_do_what_the_queue_does() {
    let requests = [
        Request::ContextGlobal,
        Request::ContextDevice { did: 5, source: 0x1f8 },
        Request::IotlbGlobal,
        Request::IotlbDomain { did: 9 },
        Request::IotlbPages { did: 9, first: 0x20_0000, order: 9, leaf_only: true },
    ];
    let plain = |list: Vec<[u64; 2]>| -> Vec<[u64; 2]> {
        // Address and hint count for pages only; drain bits stand elsewhere in the register.
        list.into_iter().map(|[a, b]| [a & !0xc0, if a & 0x3f == 0x32 { b } else { 0 }]).collect()
    };
    let (queue, registers) = (Bench::on(CAP, ECAP), Bench::on(CAP, ECAP & !ECAP_QI));
    assert!(queue.unit.has_queue() && !registers.unit.has_queue());
    queue.invalidate(&requests).unwrap();
    registers.invalidate(&requests).unwrap();
    assert_eq!(plain(queue.standin.take().1), plain(registers.standin.take().1));
    registers.standin.state().register_path = Answer::Refused;
    for r in requests {
        assert_eq!(registers.invalidate(&[r]).unwrap_err().kind, ErrorKind::QueueError(0));
    }
    registers.standin.state().register_path = Answer::Never;
    for r in [requests[0], requests[3]] {
        assert_eq!(registers.invalidate(&[r]).unwrap_err().kind, ErrorKind::Timeout(Step::Invalidation));
    }
    // One that is still under way is not taken for the next one.
    registers.standin.state().register_path = Answer::Done;
    registers.standin.take();
    for r in requests {
        assert_eq!(registers.invalidate(&[r]).unwrap_err().kind, ErrorKind::Timeout(Step::Invalidation));
    }
    assert!(registers.standin.take().0.is_empty());
    queue.end();
    registers.end();
    let chosen = Bench::off(CAP, ECAP, Config { queue: false, ..Config::default() });
    assert!(!chosen.unit.has_queue(), "the host may want the registers");
    chosen.end();
}

fn pages_become_the_domain_where_the_unit_cannot_select_them(ecap: u64) {
    let pages = |order| Request::IotlbPages { did: 4, first: 0, order, leaf_only: false };
    let domain = Descriptor::iotlb_domain(4, Drain::BOTH).narrow();
    for ecap in [ecap, ecap & !ECAP_QI] {
        let b = Bench::on(CAP & !CAP_PSI, ecap);
        b.invalidate(&[pages(0)]).unwrap();
        assert_eq!(b.standin.take().1[0][0] & !0xc0, domain[0] & !0xc0);
        b.end();
        let b = Bench::on(CAP & !(63 << 48) | 5 << 48, ecap);
        b.invalidate(&[pages(5), pages(6)]).unwrap();
        let done = b.standin.take().1;
        assert_eq!((done[0][0] >> 4 & 3, done[1][0] & !0xc0), (3, domain[0] & !0xc0));
        b.end();
    }
}

#[test]
fn contexts_go_before_pasids_and_these_before_translations_whatever_the_order_they_came_in() {
    let context = |source| Request::ContextDevice { did: 0, source };
    let (pasid, domain) = (|did| Request::Pasid { did, pasid: 0 }, |did| Request::IotlbDomain { did });
    let mut batch = Batch::new();
    let mut expected = [vec![], vec![], vec![]];
    for n in 0..31 {
        for (list, r) in expected.iter_mut().zip([context(n), pasid(n), domain(n)]).rev() {
            assert!(batch.push(r) && batch.push(r), "once");
            list.push(r);
        }
    }
    for n in [97, 98] {
        assert!(batch.push(context(n)));
        expected[0].push(context(n));
    }
    assert!(!batch.push(context(99)), "full, but for the widest");
    batch.widen();
    expected[2].push(Request::IotlbGlobal);
    assert_eq!(batch.requests().collect::<Vec<_>>(), expected.concat());
}

/// A record of `source`.
fn fault(b: &Bench, register: u32, source: u16) {
    b.standin.record(register, u64::from(source) << 12, u64::from(source) | 6 << 32);
}

fn sources(b: &Bench) -> Vec<u16> {
    std::iter::from_fn(|| b.unit.faults().take(&b.h).map(|(_, r)| r.source())).collect()
}

#[test]
fn records_are_read_from_the_index_round_the_end_and_cleared_one_by_one() {
    let b = Bench::on(CAP, ECAP);
    for (register, source) in [(2, 10), (3, 11), (0, 12)] {
        fault(&b, register, source);
    }
    assert!(b.unit.faults().collect(&b.h, &b.unit));
    assert_eq!(sources(&b), [10, 11, 12]);
    let clears: Vec<_> = b.standin.take().0;
    assert_eq!(clears, [(0x24c, 1 << 31), (0x25c, 1 << 31), (0x22c, 1 << 31)], "nothing else was written");
    assert!(!b.unit.faults().collect(&b.h, &b.unit));
    assert_eq!(b.unit.faults().take_lost(&b.h), 0);
    b.end();
}

#[test]
fn overflows_are_counted_and_no_other_status_is_cleared() {
    let b = Bench::on(CAP, ECAP);
    (0..4).for_each(|i| fault(&b, i, i as u16));
    b.standin.raise(1 | 1 << 4 | 1 << 5 | 1 << 6);
    b.unit.faults().collect(&b.h, &b.unit);
    assert_eq!(b.standin.regs.get32(at::FSTS) & 0xff, 0x70, "the queue's errors are the queue's");
    assert_eq!(sources(&b), [0, 1, 2, 3]);
    assert_eq!((b.unit.faults().take_lost(&b.h), b.unit.faults().take_lost(&b.h)), (1, 0));
    b.standin.regs.set32(at::FSTS, 0);
    // The log in memory holds 256.
    for i in 0..300u16 {
        fault(&b, u32::from(i) % 4, i);
        b.unit.faults().collect(&b.h, &b.unit);
    }
    assert_eq!(sources(&b), (0..256).collect::<Vec<_>>());
    assert_eq!(b.unit.faults().take_lost(&b.h), 44);
    b.end();
}

#[test]
fn a_storm_does_not_hold_the_cpu() {
    let b = Bench::on(CAP, ECAP);
    // A unit whose records come back as soon as they are cleared.
    let (regs, count) = (b.standin.regs.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = count.clone();
    (0..4).for_each(|i| fault(&b, i, 1));
    regs.on_write(move |_, _, _| {
        seen.fetch_add(1, Ordering::Relaxed);
    });
    assert!(b.unit.faults().collect(&b.h, &b.unit));
    assert_eq!(count.load(Ordering::Relaxed), 8, "twice round the registers");
}

#[test]
fn ids_end_and_come_back_and_two_are_never_given() {
    let host = testing::Host::new();
    for (count, usable) in [(16u32, 14usize), (64, 62), (256, 254), (65536, 65534)] {
        let mut ids = DomainIds::new(&host, count, None).unwrap();
        let mut all: Vec<u16> = (0..usable).map(|_| ids.alloc().unwrap()).collect();
        assert_eq!(ids.alloc(), Err(ErrorKind::OutOfDomainIds));
        assert!(all.iter().all(|id| *id >= 2 && u32::from(*id) < count));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), usable);
        for id in [0, 1] {
            ids.free(id);
            assert_eq!(ids.alloc(), Err(ErrorKind::OutOfDomainIds), "{id} is reserved");
        }
        for id in [*all.last().unwrap(), 2, 9] {
            ids.free(id);
            assert_eq!(ids.alloc(), Ok(id));
        }
        ids.release(&host);
    }
    assert_eq!(host.counts().frames, 0);
}

#[test]
fn commands_take_turns_and_flush_the_write_buffer_only_where_there_is_one() {
    let b = Bench::on(CAP, ECAP);
    b.unit.flush_write_buffer(&b.h).unwrap();
    assert!(b.standin.take().0.is_empty());
    b.end();
    let b = Bench::on(CAP | CAP_RWBF, ECAP & !ECAP_C);
    b.unit.flush_write_buffer(&b.h).unwrap();
    assert_eq!(b.standin.take().0, vec![(at::GCMD, u64::from(TE | QIE | WBF))]);
    // Somebody else's command is under way: this one ends at its deadline and writes nothing.
    let turn =
        b.unit.commands.take(crate::host::wait::Wait::new(&b.h.platform, UnitId(0), b.h.config.command_deadline));
    let late = b.unit.command(&b.h, Command::WriteBuffer).unwrap_err();
    assert_eq!(late.kind, ErrorKind::Timeout(Step::WriteBuffer));
    assert!(b.standin.take().0.is_empty());
    drop(turn);
    b.end();
}

super::standin::in_both_modes! {
    the_queue_wraps_thousands_of_times_with_one_tail_write_and_no_register_read_each
    completions_in_any_order_belong_to_their_submissions
    a_full_ring_waits_for_room_and_goes_on
    slots_of_a_timed_out_submission_stay_owned_until_it_completes
    a_submission_that_nobody_asks_for_holds_nobody_up
    an_error_at_any_descriptor_hits_its_submission_alone
    a_verdict_that_was_not_taken_yet_outlives_a_ring_full_of_others
    queue_errors_that_nobody_waits_for_are_tended
    the_queue_comes_before_the_root_pointer_and_protected_memory_goes_after_translation
    a_unit_found_on_is_refused_untouched_or_turned_off_in_order
    a_command_that_never_completes_ends_at_the_deadline
    a_unit_that_goes_away_at_any_step_is_an_error_and_no_endless_wait
    pages_become_the_domain_where_the_unit_cannot_select_them
}

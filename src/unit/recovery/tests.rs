//! Errors of the queue on the stand-in: at every descriptor, with devices that do not answer, named and not, however far
//! the unit had fetched, with late answers, on several CPUs, round the end of the ring.

use crate::host::address::{DeviceId, SourceId, UnitId};
use crate::host::error::{Error, ErrorKind, Step};
use crate::hw::descriptors::{Descriptor, DeviceTlbRange, Throttle};
use crate::hw::invalidation::{Drain, Iva};
use crate::hw::registers::at;
use crate::unit::queue::Submission;
use crate::unit::standin::{CAP, ECAP_DT};
use crate::unit::tests::{Bench, PAGE_2, scaled, slots};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec;
use std::vec::Vec;

/// One descriptor of a story.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Part {
    /// What the unit does alone.
    Alone,
    /// For a device's translation cache.
    Ask(u16),
    /// The same with a PASID.
    AskPasid(u16),
}
use Part::{Alone, Ask, AskPasid};

/// A bench that gives every descriptor a number, so that what was carried out can be told apart.
struct Story {
    b: Bench,
    numbers: u64,
    /// First number and parts of what was submitted.
    open: Vec<(u64, Vec<Part>, Submission)>,
}

fn descriptor(part: Part, n: u64, wide: bool) -> Descriptor {
    let page = DeviceTlbRange::pages(n << 12, 0);
    match part {
        Alone => Descriptor::iotlb_pages(2, Drain::BOTH, Iva::new(n << 12, 0, false)),
        AskPasid(source) if wide => Descriptor::p_dev_tlb(source, 5, Throttle::NONE, page),
        Ask(source) | AskPasid(source) => Descriptor::dev_tlb(source, Throttle::NONE, page),
    }
}

impl Story {
    fn new(ecap: u64) -> Self {
        Story { b: Bench::on(CAP, ecap | ECAP_DT), numbers: 1, open: Vec::new() }
    }

    fn wide(&self) -> bool {
        self.b.unit.queue.as_ref().unwrap().words_per_slot() == 4
    }

    fn submit(&mut self, parts: &[Part]) -> Submission {
        let queue = self.b.unit.queue.as_ref().unwrap();
        let (first, wide) = (self.numbers, self.wide());
        let one = |i: usize| descriptor(parts[i], first + i as u64, wide);
        let sub = queue.submit(&self.b.h, &self.b.unit, parts.len(), one).unwrap();
        self.numbers += parts.len() as u64;
        self.open.push((first, parts.to_vec(), sub));
        sub
    }

    /// Has what waits for a device time out after some turns of every wait.
    fn time_outs_come(&self) {
        let (standin, turns) = (self.b.standin.clone(), AtomicU32::new(0));
        self.b.h.platform.on_relax(move || {
            if turns.fetch_add(1, Ordering::Relaxed) % 40 == 20 {
                standin.expire();
            }
        });
    }

    /// Awaits all, and compares each outcome with what the dead devices make of it: a success has been carried out whole.
    fn end_of_all(&mut self, dead: &[u16]) {
        let wide = self.wide();
        for (first, parts, sub) in core::mem::take(&mut self.open) {
            let outcome = self.b.unit.queue.as_ref().unwrap().wait(&self.b.h, &self.b.unit, sub);
            let done: Vec<[u64; 2]> = self.b.standin.state().done.clone();
            let count = |i: usize| {
                let d = descriptor(parts[i], first + i as u64, wide).narrow();
                done.iter().filter(|known| **known == d).count()
            };
            let asks = |p: &Part, who: &[u16]| matches!(p, Ask(d) | AskPasid(d) if who.contains(d));
            for (i, part) in parts.iter().enumerate() {
                let unanswered = asks(part, dead);
                assert_eq!(count(i) == 0, unanswered, "{i} of {parts:?}: {} times", count(i));
            }
            match outcome {
                Ok(()) => assert!(!parts.iter().any(|p| asks(p, dead)), "{parts:?} with {dead:?}"),
                Err(e) => {
                    assert_eq!((e.kind, e.unit), (ErrorKind::DeviceTimeout, Some(UnitId(0))), "{parts:?}");
                    let who = e.device.unwrap();
                    assert_eq!(who.segment, 0);
                    assert!(parts.iter().any(|p| asks(p, &[who.source.0])) && dead.contains(&who.source.0));
                }
            }
        }
    }

    fn suspects(&self) -> BTreeSet<u16> {
        let all: Vec<u16> = core::iter::from_fn(|| self.b.unit.take_suspect(&self.b.h)).map(|s| s.0).collect();
        let set: BTreeSet<u16> = all.iter().copied().collect();
        assert_eq!(set.len(), all.len(), "each once");
        set
    }

    fn end(self) {
        // Whatever there was, the queue goes on.
        for _ in 0..300 {
            self.b.invalidate(&[PAGE_2]).unwrap();
        }
        self.b.end();
    }
}

fn an_error_at_any_descriptor_of_any_kind_hits_its_submission_alone(ecap: u64) {
    let all: [&[Part]; 4] = [&[], &[Alone, Ask(7)], &[Ask(7), Ask(8), Alone], &[AskPasid(9)]];
    let owner = |bad: usize| [1, 4, 8, 10].iter().position(|end| bad < *end).unwrap();
    for bad in 0..10 {
        for code in [0, 2, 3, 4, 9] {
            let mut story = Story::new(ecap);
            story.b.standin.state().bad = Some((bad, code));
            let subs: Vec<_> = all.iter().map(|parts| story.submit(parts)).collect();
            for (i, sub) in subs.into_iter().enumerate() {
                let outcome = story.b.unit.queue.as_ref().unwrap().wait(&story.b.h, &story.b.unit, sub);
                let expected = if i == owner(bad) { Err(ErrorKind::QueueError(code).on(UnitId(0))) } else { Ok(()) };
                assert_eq!(outcome, expected, "bad {bad}, submission {i}");
            }
            let lost = usize::from(![0, 3, 7, 9].contains(&bad));
            assert_eq!(story.b.standin.take().1.len(), 6 - lost);
            assert_eq!(story.b.unit.stats(&story.b.h).queue_errors, 1);
            story.end();
        }
    }
}

fn an_error_that_names_no_descriptor_condemns_nobody(ecap: u64) {
    for code in [1, 5, 6, 7] {
        let mut story = Story::new(ecap);
        story.b.standin.state().bad = Some((1, code));
        let subs = [story.submit(&[Alone]), story.submit(&[Alone, Ask(3)])];
        for sub in subs {
            story.b.unit.queue.as_ref().unwrap().wait(&story.b.h, &story.b.unit, sub).unwrap();
        }
        assert_eq!(story.b.standin.take().1.len(), 3);
        story.end();
    }
}

fn a_queue_that_stops_again_and_again_gives_every_waiter_an_error_and_completes_when_it_comes_to(ecap: u64) {
    for code in [0, 5, 7] {
        let mut story = Story::new(ecap);
        story.b.standin.state().always = Some(code);
        let one = story.submit(&[Alone]);
        let other = story.submit(&[Alone, Alone]);
        let began = story.b.h.platform.time();
        let (h, unit) = (&story.b.h, &story.b.unit);
        let queue = unit.queue.as_ref().unwrap();
        for sub in [one, other] {
            assert_eq!(queue.wait(h, unit, sub).unwrap_err().kind, ErrorKind::QueueError(code));
        }
        assert!(h.platform.time() - began < 1_000_000_000, "they need not wait for the deadline");
        assert_eq!(unit.stats(h).timeouts, 0);
        story.b.standin.state().always = None;
        let mine = queue.submit(h, unit, 1, |_| Descriptor::cc_global()).unwrap();
        assert_eq!(queue.wait(h, unit, mine), Ok(()));
        story.end();
    }
}

fn who_does_not_answer_is_named_and_everyone_elses_go_on(ecap: u64) {
    let all: [&[Part]; 5] =
        [&[Alone, Ask(1)], &[Alone, Ask(2), Ask(1), Alone], &[AskPasid(3), AskPasid(1)], &[Alone], &[Ask(2), Ask(3)]];
    for names in [true, false] {
        // However far the unit had fetched: up to any descriptor of any of them.
        for ahead in 0..17 {
            for dead in [&[1][..], &[2], &[3], &[1, 2], &[2, 3], &[1, 2, 3]] {
                let mut story = Story::new(ecap);
                {
                    let mut s = story.b.standin.state();
                    (s.names, s.ahead) = (names, ahead);
                    s.dead.extend(dead);
                }
                story.time_outs_come();
                for parts in all {
                    story.submit(parts);
                }
                story.end_of_all(dead);
                assert_eq!(story.suspects(), dead.iter().copied().collect(), "ahead {ahead}, dead {dead:?}");
                let h = &story.b.h;
                assert!(dead.iter().all(|d| story.b.unit.is_silent(SourceId(*d))));
                assert!(h.platform.counts().wakes >= 1);
                let stats = story.b.unit.stats(h);
                assert!(stats.requeued >= 1 && stats.timeouts == 0 && stats.leaked_slots == 0);
                // What is for them from now on is not sent, and says so at once; the rest is done.
                story.b.standin.take();
                story.submit(&[Alone, Ask(dead[0]), Ask(9)]);
                story.end_of_all(dead);
                assert_eq!(story.b.unit.stats(&story.b.h).device_timeouts, stats.device_timeouts);
                // After a reset the device is asked again.
                story.b.standin.state().dead.clear();
                dead.iter().for_each(|d| story.b.unit.hear_again(&story.b.h, SourceId(*d)));
                story.submit(&[Ask(dead[0]), Alone]);
                story.end_of_all(&[]);
                assert_eq!(story.suspects(), BTreeSet::new());
                story.end();
            }
        }
    }
}

/// Random submissions of random devices, some of them dead, the unit fetching as far as it likes, named or not.
fn any_submissions_with_any_dead_devices_get_their_own_outcomes(ecap: u64) {
    let mut seed = 7u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    for _ in 0..scaled(400) {
        let mut story = Story::new(ecap);
        story.time_outs_come();
        let mut dead = Vec::new();
        for round in 0..8 {
            story.b.standin.state().names = random(2) == 0;
            story.b.standin.state().ahead = random(40) as usize;
            if round % 2 == 0 {
                // Only who was silenced already may be dead without having timed out.
                let d = random(6) as u16;
                story.b.standin.state().dead.insert(d);
                if !dead.contains(&d) {
                    dead.push(d);
                }
            }
            for _ in 0..random(6) + 1 {
                let parts: Vec<Part> = (0..random(9))
                    .map(|_| match random(3) {
                        0 => Alone,
                        1 => Ask(random(6) as u16),
                        _ => AskPasid(random(6) as u16),
                    })
                    .collect();
                story.submit(&parts);
            }
            story.end_of_all(&dead);
        }
        assert!(story.suspects().iter().all(|d| dead.contains(d)));
        story.end();
    }
}

fn what_was_sent_before_a_time_out_and_times_out_later_condemns_nobody(ecap: u64) {
    let mut story = Story::new(ecap);
    {
        let mut s = story.b.standin.state();
        s.ahead = 9;
        s.dead.extend([1, 2]);
    }
    let slow = story.submit(&[Alone, Ask(1)]);
    story.submit(&[Ask(2), Alone]);
    let time_out = || {
        assert!(story.b.standin.expire());
        story.b.unit.tend_queue(&story.b.h).unwrap();
    };
    // Both were asked, and one is late: nobody knows which. Asked alone, the first is slow, and what was sent to the
    // second before times out meanwhile.
    time_out();
    time_out();
    story.b.standin.revive(1);
    let queue = story.b.unit.queue.as_ref().unwrap();
    assert_eq!(queue.poll(slow), Some(Ok(())));
    assert_eq!(story.suspects(), BTreeSet::new());
    time_out();
    assert_eq!(story.suspects(), BTreeSet::new(), "once is not enough");
    // Again while a third is asked alone in vain for the first time, and answers then.
    time_out();
    assert_eq!(story.suspects(), BTreeSet::from([2]));
    story.b.standin.state().dead.insert(3);
    let third = story.b.unit.queue.as_ref().unwrap();
    let one = |_| descriptor(Ask(3), 99, story.wide());
    let sub = third.submit(&story.b.h, &story.b.unit, 1, one).unwrap();
    time_out();
    story.b.standin.revive(3);
    assert_eq!(third.poll(sub), Some(Ok(())));
    assert_eq!(story.suspects(), BTreeSet::new());
    story.open.remove(0);
    story.end_of_all(&[2]);
    story.end();
}

fn the_rest_is_done_when_a_device_is_reported(ecap: u64) {
    let mut story = Story::new(ecap);
    {
        let mut s = story.b.standin.state();
        s.names = true;
        s.dead.insert(1);
    }
    story.time_outs_come();
    story.submit(&[Alone, Ask(1), Alone]);
    story.end_of_all(&[1]);
    // Waits that are not fenced complete the newest first.
    story.b.standin.state().late = true;
    let standin = story.b.standin.clone();
    story.b.h.platform.on_relax(move || standin.complete_newest());
    for _ in 0..3 {
        story.submit(&[Alone, Ask(1), Alone, Ask(2)]);
    }
    story.end_of_all(&[1]);
    story.end();
}

fn a_submission_that_fills_the_ring_is_cut_where_there_is_room(ecap: u64) {
    // Every device is another; the one in the middle does not answer.
    let mut story = Story::new(ecap);
    let room = story.b.unit.queue.as_ref().unwrap().capacity();
    assert_eq!(room, slots(ecap) - slots(ecap) / 16 - 2);
    assert!(room >= 64);
    let dead = 40;
    story.b.standin.state().dead.insert(dead);
    story.b.standin.state().ahead = usize::MAX - 1;
    story.time_outs_come();
    let parts: Vec<Part> = (0..room as u16).map(Ask).collect();
    story.submit(&parts);
    story.end_of_all(&[dead]);
    assert_eq!(story.suspects(), BTreeSet::from([dead]));
    // Halved until the one is alone, and twice for certain.
    assert!(story.b.unit.stats(&story.b.h).device_timeouts <= 11);
    story.end();
}

fn a_unit_that_times_out_for_ever_gives_every_waiter_an_error(ecap: u64) {
    let mut story = Story::new(ecap);
    story.b.standin.state().names = true;
    story.b.standin.state().dead.insert(1);
    story.time_outs_come();
    story.submit(&[Ask(1)]);
    story.end_of_all(&[1]);
    // It goes on reporting a device that is asked nothing any more, and completes nothing.
    let standin = story.b.standin.clone();
    story.b.standin.state().asleep = true;
    story.b.h.platform.on_relax(move || standin.raise(1 << 6));
    let subs = [story.submit(&[Alone]), story.submit(&[Ask(2)])];
    let began = story.b.h.platform.time();
    for sub in subs {
        let outcome = story.b.unit.queue.as_ref().unwrap().wait(&story.b.h, &story.b.unit, sub);
        let kind = outcome.unwrap_err().kind;
        assert!([ErrorKind::DeviceTimeout, ErrorKind::Timeout(Step::Invalidation)].contains(&kind), "{kind:?}");
    }
    assert!(story.b.h.platform.time() - began < 10_000_000_000);
    story.b.h.platform.on_relax(|| {});
    story.b.standin.awake();
    assert_eq!(story.suspects(), BTreeSet::from([1]), "and nobody else");
    story.end();
}

fn a_late_answer_completes_what_was_given_up(ecap: u64) {
    let mut story = Story::new(ecap);
    story.b.standin.state().dead.insert(4);
    let slow = story.submit(&[Alone, Ask(4)]);
    let (h, unit) = (&story.b.h, &story.b.unit);
    let queue = unit.queue.as_ref().unwrap();
    let began = h.platform.time();
    assert_eq!(queue.wait(h, unit, slow).unwrap_err().kind, ErrorKind::Timeout(Step::Invalidation));
    let took = h.platform.time() - began;
    assert!((100_000_000_000..101_000_000_000).contains(&took), "a device has its own deadline: {took} ns");
    assert_eq!(unit.stats(h).timeouts, 1);
    let used = {
        let s = queue.state.lock(&h.platform);
        queue.offset(&s, s.tail)
    };
    assert_eq!(used, 3, "its slots are still the unit's");
    story.b.standin.revive(4);
    queue.reclaim(&mut queue.state.lock(&h.platform));
    let used = {
        let s = queue.state.lock(&h.platform);
        queue.offset(&s, s.tail)
    };
    assert_eq!(used, 0);
    assert!(!unit.is_silent(SourceId(4)), "nobody timed out");
    story.open.clear();
    story.end();
}

fn what_waits_behind_a_device_has_that_devices_time(ecap: u64) {
    let mut story = Story::new(ecap);
    story.b.standin.state().dead.insert(4);
    story.submit(&[Ask(4)]);
    let alone = story.submit(&[Alone]);
    let (h, unit) = (&story.b.h, &story.b.unit);
    let (standin, turns) = (story.b.standin.clone(), AtomicU32::new(0));
    // Later than the unit's own deadline.
    h.platform.on_relax(move || {
        if turns.fetch_add(1, Ordering::Relaxed) == 5000 {
            standin.revive(4);
        }
    });
    assert_eq!(unit.queue.as_ref().unwrap().wait(h, unit, alone), Ok(()));
    story.end_of_all(&[]);
    story.end();
}

fn invalid_completions_are_counted_and_cleared(ecap: u64) {
    let mut story = Story::new(ecap);
    for n in 1..4 {
        story.b.standin.raise(1 << 5);
        story.b.unit.tend_queue(&story.b.h).unwrap();
        assert_eq!(story.b.unit.stats(&story.b.h).invalid_completions, n);
        assert_eq!(story.b.standin.regs.get32(at::FSTS) & 1 << 5, 0);
    }
    story.submit(&[Alone, Ask(1)]);
    story.end_of_all(&[]);
    story.end();
}

fn both_errors_at_once_are_both_dealt_with(ecap: u64) {
    for names in [true, false] {
        let mut story = Story::new(ecap);
        {
            let mut s = story.b.standin.state();
            (s.names, s.ahead, s.bad) = (names, 8, Some((4, 3)));
            s.dead.insert(1);
        }
        // The unit stops at the fifth descriptor, while the second waits for its device, and then that times out.
        let dead = story.submit(&[Alone, Ask(1)]);
        let bad = story.submit(&[Alone, Alone]);
        let good = story.submit(&[Ask(2)]);
        assert_eq!(story.b.standin.regs.get32(at::FSTS) & 0x50, 0x10);
        assert!(story.b.standin.expire());
        assert_eq!(story.b.standin.regs.get32(at::FSTS) & 0x50, 0x50);
        let (h, unit) = (&story.b.h, &story.b.unit);
        let wait = |sub| unit.queue.as_ref().unwrap().wait(h, unit, sub);
        assert_eq!(wait(dead).unwrap_err().device, Some(DeviceId::new(0, 0, 0, 1)));
        assert_eq!(wait(bad), Err(ErrorKind::QueueError(3).on(UnitId(0))));
        assert_eq!(wait(good), Ok(()));
        story.open.clear();
        story.end();
    }
}

fn a_unit_that_is_gone_keeps_what_it_has_and_it_is_counted(ecap: u64) {
    let mut story = Story::new(ecap);
    story.b.standin.state().asleep = true;
    let sub = story.submit(&[Alone, Ask(1)]);
    (0..0x6000).step_by(4).for_each(|at| story.b.standin.regs.set32(at, u32::MAX));
    let (h, unit) = (&story.b.h, &story.b.unit);
    assert_eq!(unit.queue.as_ref().unwrap().wait(h, unit, sub), Err(ErrorKind::UnitGone.on(UnitId(0))));
    let stats = unit.stats(h);
    // Ring, dwords, copy, marks.
    assert_eq!((stats.leaked_slots, stats.leaked_frames), (3, 1 + 1 + 1 + 4));
}

fn after_a_reset_the_ring_is_empty_and_what_was_queued_counts_as_done(ecap: u64) {
    let mut story = Story::new(ecap);
    (0..5).for_each(|_| story.b.invalidate(&[PAGE_2]).unwrap());
    story.b.standin.state().asleep = true;
    let subs = [story.submit(&[Alone, Ask(1)]), story.submit(&[Alone])];
    let (h, unit) = (&story.b.h, &story.b.unit);
    let queue = unit.queue.as_ref().unwrap();
    assert_eq!(subs.map(|s| queue.poll(s)), [None, None]);
    // As after a sleep: the registers hold nothing.
    story.b.standin.regs.set64(at::IQH, 0);
    story.b.standin.regs.set64(at::IQT, 0);
    queue.reset(h, unit);
    assert_eq!(subs.map(|s| queue.poll(s)), [Some(Ok(())), Some(Ok(()))]);
    story.b.standin.awake();
    story.b.standin.take();
    story.b.invalidate(&[PAGE_2]).unwrap();
    let (writes, done) = story.b.standin.take();
    assert_eq!((writes[0].0, writes[0].1, done.len()), (at::IQT, 2 * 8 * queue.words_per_slot() as u64, 1));
    story.open.clear();
    story.end();
}

fn several_cpus_get_their_own_outcomes_while_devices_die(ecap: u64) {
    for turn in 0..scaled(60) as u16 {
        let story = Story::new(ecap);
        {
            let mut s = story.b.standin.state();
            (s.names, s.ahead) = (turn % 2 == 0, usize::from(turn % 11));
            s.dead.insert(turn % 4);
        }
        story.time_outs_come();
        let (h, unit, wide) = (&story.b.h, &story.b.unit, story.wide());
        let queue = unit.queue.as_ref().unwrap();
        let outcomes: Vec<HashMap<u16, Vec<Result<(), Error>>>> = std::thread::scope(|scope| {
            let cpus: Vec<_> = (0..4u64)
                .map(|cpu| {
                    scope.spawn(move || {
                        let mut outcomes: HashMap<u16, Vec<_>> = HashMap::new();
                        for n in 0..12u64 {
                            let who = ((n + cpu) % 4) as u16;
                            let parts = [Alone, Ask(who), Alone];
                            let one = |i: usize| descriptor(parts[i], cpu << 20 | n << 8 | i as u64, wide);
                            let sub = queue.submit(h, unit, 3, one).unwrap();
                            outcomes.entry(who).or_default().push(queue.wait(h, unit, sub));
                        }
                        outcomes
                    })
                })
                .collect();
            cpus.into_iter().map(|cpu| cpu.join().unwrap()).collect()
        });
        for (who, all) in outcomes.into_iter().flatten() {
            let device = DeviceId { segment: 0, source: SourceId(who) };
            let expected =
                if who == turn % 4 { Err(ErrorKind::DeviceTimeout.on(UnitId(0)).of(device)) } else { Ok(()) };
            assert_eq!(all, vec![expected; 3]);
        }
        let done: BTreeSet<[u64; 2]> = story.b.standin.take().1.into_iter().collect();
        assert_eq!(done.len(), 4 * 12 * 2 + 4 * 9, "everyone else's, all of them");
        assert_eq!(story.suspects(), BTreeSet::from([turn % 4]));
        story.end();
    }
}

crate::unit::standin::in_both_modes! {
    an_error_at_any_descriptor_of_any_kind_hits_its_submission_alone
    an_error_that_names_no_descriptor_condemns_nobody
    a_queue_that_stops_again_and_again_gives_every_waiter_an_error_and_completes_when_it_comes_to
    who_does_not_answer_is_named_and_everyone_elses_go_on
    any_submissions_with_any_dead_devices_get_their_own_outcomes
    what_was_sent_before_a_time_out_and_times_out_later_condemns_nobody
    the_rest_is_done_when_a_device_is_reported
    a_submission_that_fills_the_ring_is_cut_where_there_is_room
    a_unit_that_times_out_for_ever_gives_every_waiter_an_error
    a_late_answer_completes_what_was_given_up
    what_waits_behind_a_device_has_that_devices_time
    invalid_completions_are_counted_and_cleared
    both_errors_at_once_are_both_dealt_with
    a_unit_that_is_gone_keeps_what_it_has_and_it_is_counted
    after_a_reset_the_ring_is_empty_and_what_was_queued_counts_as_done
    several_cpus_get_their_own_outcomes_while_devices_die
}

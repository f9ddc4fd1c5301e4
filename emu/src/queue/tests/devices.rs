use super::*;
use crate::bus::DeviceInvalidation;
use crate::command::QIE;
use crate::testing::FECTL;

const IQERCD: u32 = 0xb0;
const ITE: u32 = 1 << 6;
const ICE: u32 = 1 << 5;
const LATE: u64 = 50_000_000;

fn modern(pace: Pace) -> Line {
    wide(Profile::maximal(), pace)
}

fn silent(line: &mut Line, source: u16) {
    line.rig.bus.silent.insert(source);
}

#[test]
fn an_invalidation_reaches_its_device_and_the_wait_waits_for_it() {
    let mut line = modern(Pace::prompt());
    silent(&mut line, 0x100);
    line.run(&[dev_tlb(0x100), wait(1)]);
    let sent = DeviceInvalidation { tag: 0, source: 0x100, pasid: None, global: false, address: 0, last: u64::MAX };
    assert_eq!(line.rig.bus.invalidations, [sent]);
    assert_eq!((line.status(), line.head()), (0, 64));
    line.rig.bus.silent.clear();
    line.rig.step(1, 0);
    assert_eq!(line.status(), 1);
    assert_eq!(line.fsts(), 0);
}

#[test]
fn invalidations_under_way_have_tags_of_their_own_and_no_more_than_there_are() {
    let mut line = modern(Pace { tags: 3, ..Pace::prompt() });
    for source in 1..6 {
        silent(&mut line, source);
    }
    line.run(&[dev_tlb(1), p_dev_tlb(2, 9), dev_tlb(3), dev_tlb(4), dev_tlb(5), wait(1)]);
    let tags: Vec<_> = line.rig.bus.invalidations.iter().map(|i| (i.source, i.tag)).collect();
    assert_eq!(tags, [(1, 0), (2, 1), (3, 2)]);
    line.rig.bus.silent.remove(&2);
    line.rig.step(2, 0);
    let last = line.rig.bus.invalidations.last().map(|i| (i.source, i.tag));
    assert_eq!(last, Some((4, 1)), "the tag is free again");
    line.rig.bus.silent.clear();
    line.rig.step(9, 0);
    assert_eq!((line.status(), line.rig.bus.invalidations.len()), (1, 5));
}

/// MIP 2, and a physical function.
fn throttled(source: u64, function: u64) -> [u64; 2] {
    [source << 32 | 2 << 16 | function << 12 | 3, 0]
}

#[test]
fn a_tag_is_not_used_again_before_all_others() {
    let mut line = modern(Pace { tags: 3, ..Pace::prompt() });
    line.run(&[dev_tlb(1); 5]);
    let tags: Vec<_> = line.rig.bus.invalidations.iter().map(|i| i.tag).collect();
    assert_eq!(tags, [0, 1, 2, 0, 1]);
}

#[test]
fn a_physical_function_gets_no_more_than_it_takes() {
    let mut line = modern(Pace::prompt());
    for source in 0x11..0x15 {
        silent(&mut line, source);
    }
    line.run(&[throttled(0x11, 1), throttled(0x12, 2), throttled(0x13, 1), throttled(0x14, 1)]);
    let sent = |line: &Line| line.rig.bus.invalidations.iter().map(|i| i.source).collect::<Vec<_>>();
    assert_eq!(sent(&line), [0x11, 0x12, 0x13]);
    line.rig.bus.silent.remove(&0x11);
    line.rig.step(2, 0);
    assert_eq!(sent(&line), [0x11, 0x12, 0x13, 0x14]);
}

#[test]
fn a_time_out_is_told_and_gives_up_the_waits() {
    let mut line = modern(Pace::prompt());
    line.rig.w32(0x40, 0xfee0_1000);
    line.rig.w32(FECTL, 0);
    silent(&mut line, 0x100);
    line.run(&[IOTLB, dev_tlb(0x100), wait(1), wait(2)]);
    line.rig.step(1, LATE - 1);
    assert_eq!(line.fsts(), 0);
    line.rig.step(1, 1);
    assert_eq!(line.fsts(), ITE);
    assert_eq!(line.rig.r64(IQERCD), 0x100 << 32);
    assert_eq!(line.rig.bus.messages.len(), 1);
    assert_eq!(line.head(), 128);
    // Nothing is fetched, and the waits never complete.
    line.run(&[wait(3)]);
    assert_eq!((line.head(), line.status()), (128, 0));
    line.rig.w32(FSTS, ITE);
    line.rig.step(1, 0);
    assert_eq!((line.head(), line.status()), (160, 3));
    line.rig.bus.silent.clear();
    line.rig.step(1, 0);
    assert_eq!(line.completed(), [0, 128], "neither the invalidation nor its waits");
}

#[test]
fn older_units_do_not_say_whose_invalidation_timed_out() {
    let mut line = narrow(Profile::server(), Pace::prompt());
    silent(&mut line, 0x100);
    line.run(&[dev_tlb(0x100), wait(1)]);
    line.rig.step(1, LATE);
    assert_eq!((line.fsts(), line.rig.r64(IQERCD)), (ITE, 0));
}

#[test]
fn the_source_of_the_first_time_out_stands() {
    let mut line = modern(Pace::prompt());
    silent(&mut line, 1);
    line.run(&[dev_tlb(1)]);
    line.rig.step(1, LATE / 2);
    silent(&mut line, 2);
    line.run(&[dev_tlb(2)]);
    line.rig.step(1, LATE / 2);
    assert_eq!(line.rig.r64(IQERCD), 1 << 32);
    line.rig.step(1, LATE / 2);
    assert_eq!(line.rig.r64(IQERCD), 1 << 32);
    line.rig.w32(FSTS, ITE);
    line.run(&[dev_tlb(2)]);
    line.rig.step(1, LATE);
    assert_eq!(line.rig.r64(IQERCD), 2 << 32);
}

#[test]
fn a_device_that_answers_while_another_is_late_is_heard() {
    let mut line = modern(Pace::prompt());
    silent(&mut line, 1);
    line.run(&[dev_tlb(1)]);
    line.rig.step(1, 1);
    silent(&mut line, 2);
    line.run(&[dev_tlb(2), wait(1)]);
    line.rig.step(1, LATE - 1);
    assert_eq!(line.fsts(), ITE);
    line.rig.bus.silent.remove(&2);
    line.rig.step(1, 0);
    assert_eq!(line.completed(), [32]);
}

#[test]
fn a_fence_holds_everything_behind_a_late_device() {
    for pace in [Pace::prompt(), Pace::slow(1)] {
        let mut line = modern(pace);
        silent(&mut line, 1);
        line.run(&[dev_tlb(1), FENCE, CC, IOTLB, wait(1)]);
        assert_eq!((line.status(), line.forgot().len()), (0, 0));
        line.rig.bus.silent.clear();
        line.rig.step(1000, 0);
        assert_eq!((line.status(), line.forgot().len()), (1, 2));
    }
}

#[test]
fn a_completion_out_of_nowhere_is_an_error_and_the_queue_goes_on() {
    let mut line = modern(Pace::prompt());
    silent(&mut line, 0x100);
    line.run(&[dev_tlb(0x100), wait(1)]);
    // The right tag from the wrong device, and another tag.
    line.rig.unit.device_completion(&mut line.rig.bus, 0x200, 1);
    assert_eq!((line.fsts(), line.rig.r64(IQERCD)), (ICE, 0x200 << 48));
    line.rig.unit.device_completion(&mut line.rig.bus, 0x100, 4);
    assert_eq!(line.rig.r64(IQERCD), 0x200 << 48, "the first stands");
    assert_eq!(line.status(), 0);
    line.rig.unit.device_completion(&mut line.rig.bus, 0x100, 5);
    line.rig.step(1, 0);
    assert_eq!(line.status(), 1, "what is valid in a completion counts");
    line.rig.w32(FSTS, ICE);
    assert_eq!(line.fsts(), 0);
}

#[test]
fn old_units_may_lose_valid_tags_beside_an_invalid_one() {
    let mut line = narrow(Profile::server(), Pace { disorder: true, ..Pace::prompt() });
    silent(&mut line, 0x100);
    line.run(&[dev_tlb(0x100), wait(1)]);
    line.rig.unit.device_completion(&mut line.rig.bus, 0x100, 3);
    line.rig.step(9, 0);
    assert_eq!((line.fsts(), line.status()), (ICE, 0));
    line.rig.unit.device_completion(&mut line.rig.bus, 0x100, 1);
    line.rig.step(9, 0);
    assert_eq!(line.status(), 1);
}

#[test]
fn lost_completions_time_out() {
    let mut line = modern(Pace::prompt());
    line.rig.unit.adversary().lost_completions.insert(7);
    line.run(&[dev_tlb(7), dev_tlb(8), wait(1)]);
    line.rig.step(1, LATE);
    assert_eq!((line.fsts(), line.status()), (ITE, 0));
    assert_eq!(line.rig.r64(IQERCD), 7 << 32);
}

#[test]
fn responses_reach_their_devices_in_order_with_invalidations() {
    for seed in 0..50 {
        let mut line = modern(Pace::slow(seed));
        line.run(&[response(1, 1), dev_tlb(1), response(1, 2), p_dev_tlb(1, 3), response(1, 3), wait(1)]);
        let groups: Vec<_> = line.rig.bus.responses.iter().map(|r| r.group).collect();
        assert_eq!(groups, [1, 2, 3]);
        let pasids: Vec<_> = line.rig.bus.invalidations.iter().map(|i| i.pasid).collect();
        assert_eq!(pasids, [None, Some(3)]);
        assert_eq!(line.completed().len(), 6);
    }
    // An invalidation that waits for an IOTLB invalidation holds up the responses behind it.
    let mut line = modern(Pace { descriptor: (4, 4), disorder: true, ..Pace::prompt() });
    line.put(&[IOTLB, dev_tlb(1), response(1, 1)]);
    line.rig.step(8, 0);
    assert!(line.rig.bus.responses.is_empty());
    line.rig.step(100, 0);
    assert_eq!(line.rig.bus.responses.len(), 1);
}

#[test]
fn after_a_time_out_nothing_behind_the_device_is_sure_to_be_executed() {
    // One has been executed when the device is found late, two wait for it: both may be lost, or neither.
    let mut counts = [0; 4];
    for seed in 0..60 {
        let mut line = modern(Pace { descriptor: (3, 3), ..Pace::slow(seed) });
        silent(&mut line, 1);
        line.put(&[dev_tlb(1), CC, PC, IOTLB]);
        line.rig.step(4, 0);
        line.rig.step(1, LATE);
        line.rig.step(1000, 0);
        counts[line.forgot().len()] += 1;
        assert_eq!(line.fsts(), ITE);
    }
    assert!(counts[0] == 0 && counts[1..].iter().all(|n| *n != 0), "{counts:?}");
}

#[test]
fn the_queue_is_not_quiet_after_a_time_out() {
    let mut line = modern(Pace::prompt());
    silent(&mut line, 1);
    line.run(&[dev_tlb(1), wait(1)]);
    line.rig.step(1, LATE);
    line.rig.w32(FSTS, ITE);
    line.rig.submit(QIE, false);
    line.rig.broke(Rule::CommandOrder, "no completed wait");
}

use super::*;
use crate::command::{QIE, TE};
use crate::profile::Qemu;
use crate::testing::{FECTL, IQH};

const ICS: u32 = 0x9c;
const IECTL: u32 = 0xa0;
const IQERCD: u32 = 0xb0;

fn server() -> Line {
    narrow(Profile::server(), Pace::prompt())
}

#[test]
fn rings_of_every_size_and_width_wrap() {
    for profile in [Profile::server(), Profile::maximal()] {
        for size in 0..8 {
            let wide = profile.smts();
            let mut line = line(profile.clone(), Pace::prompt(), 0, size | if wide { 0x800 } else { 0 });
            let entries = (256u32 << size) / if wide { 2 } else { 1 };
            for n in 0..entries + 3 {
                line.put(&[wait(n + 1)]);
                line.rig.step(1, 0);
                assert_eq!(line.status(), n + 1);
            }
            assert_eq!(line.rig.r64(IQH), u64::from(line.tail));
            assert_eq!(line.tail, 3 * if wide { 32 } else { 16 });
            line.rig.clean();
        }
    }
}

#[test]
fn a_full_ring_is_one_short() {
    let mut line = server();
    line.rig.unit.adversary().stuck_queue = true;
    line.rig.unit.set_pace(Pace { in_flight: 0, ..Pace::prompt() });
    line.put(&[FENCE; 255]);
    line.rig.clean();
    line.put(&[FENCE]);
    line.rig.broke(Rule::QueueOverrun, "IQH at 0x0");
}

#[test]
fn nothing_is_fetched_while_the_queue_is_off() {
    let mut rig = Rig::new(Profile::server(), Pace::prompt());
    rig.w64(IQA, BASE);
    rig.bus.put(BASE, &wait(1));
    rig.w64(IQT, 16);
    rig.step(9, 0);
    assert_eq!((rig.r64(IQH), rig.bus.get(STATUS)), (0, 0));
}

#[test]
fn what_stands_before_the_tail_at_enable_is_executed() {
    let mut rig = Rig::new(Profile::server(), Pace::prompt());
    rig.w64(IQA, BASE);
    rig.bus.put(BASE, &wait(1));
    rig.w64(IQT, 16);
    rig.submit(QIE, true);
    rig.broke(Rule::CommandOrder, "IQT is not 0");
    rig.step(9, 0);
    assert_eq!(rig.bus.get(STATUS), 1);
}

#[test]
fn disabling_rewinds_the_head_and_leaves_the_tail() {
    let mut line = server();
    line.run(&[wait(1)]);
    line.rig.command(QIE, false);
    assert_eq!((line.rig.r64(IQH), line.rig.r64(IQT)), (0, 16));
    line.rig.clean();
}

/// The queue stands with this cause, the head where it was.
fn stands(line: &mut Line, cause: u32, head: u32) {
    assert!(line.rig.unit.story.iter().any(|(_, h)| matches!(h, Happening::Refused(at, _) if *at == u64::from(head))));
    assert_eq!(line.fsts() & 0xff, 1 << 4, "IQE");
    assert_eq!(line.rig.r64(IQERCD), cause.into());
    assert_eq!(line.head(), head);
}

fn modern(rtaddr: u64, iqa: u64) -> Line {
    line(Profile::maximal(), Pace::prompt(), rtaddr, iqa)
}

#[test]
fn a_tail_beyond_the_ring_is_cause_1() {
    let mut line = modern(0, 0);
    line.rig.w64(IQT, 0x1000);
    line.rig.forgive();
    line.rig.step(1, 0);
    stands(&mut line, 1, 0);
}

#[test]
fn a_ring_that_cannot_be_read_is_cause_2() {
    for iqa in [0, 0x800] {
        let mut line = modern(0, iqa);
        line.rig.w64(IQA, 0x7fff_f000 | iqa);
        line.rig.w64(IQT, 0x20);
        line.rig.step(1, 0);
        stands(&mut line, 2, 0);
    }
}

#[test]
fn an_unknown_type_is_cause_3_and_reserved_bits_are_cause_4() {
    for (words, cause) in [([0x0f, 0], 3), ([0x37, 0], 3), ([0x11, 1], 4), ([0x01, 0], 4)] {
        let mut line = modern(0, 0);
        line.run(&[IOTLB, words, IOTLB]);
        stands(&mut line, cause, 16);
        assert_eq!(line.forgot().len(), 1, "what stood before is executed, what stands behind is not");
    }
}

#[test]
fn the_upper_half_of_wide_descriptors_is_reserved() {
    let mut line = modern(0, 0x800);
    line.rig.bus.put(BASE, &[0x11, 0, 1, 0]);
    line.rig.w64(IQT, 0x20);
    line.rig.step(1, 0);
    stands(&mut line, 4, 0);
}

#[test]
fn the_wrong_width_is_cause_5() {
    for rtaddr in [0x400, 0xc00] {
        let mut line = modern(rtaddr, 0);
        line.run(&[IOTLB]);
        stands(&mut line, 5, 0);
        let mut line = modern(rtaddr, 0x800);
        line.run(&[IOTLB]);
        assert_eq!(line.fsts() & 0xff, 0);
    }
    let neither = Profile::maximal().with_ecap(0, 1 << 43 | 1 << 52);
    let mut line = line(neither, Pace::prompt(), 0, 0x800);
    line.run(&[IOTLB]);
    stands(&mut line, 5, 0);
}

#[test]
fn a_tail_in_the_middle_of_a_wide_descriptor_is_cause_6() {
    let mut line = modern(0, 0x800);
    line.rig.w64(IQT, 0x30);
    line.rig.step(1, 0);
    stands(&mut line, 6, 0);
}

#[test]
fn a_mode_that_the_unit_lacks_is_cause_7() {
    let lacking = Profile::maximal().with_ecap(0, 1 << 52);
    for (profile, rtaddr) in [(Profile::maximal(), 0x800), (lacking, 0xc00)] {
        let mut line = line(profile, Pace::prompt(), rtaddr, 0x800);
        line.run(&[IOTLB]);
        stands(&mut line, 7, 0);
    }
}

#[test]
fn older_units_do_not_say_why() {
    let mut line = server();
    line.run(&[[0x0f, 0]]);
    stands(&mut line, 0, 0);
}

#[test]
fn an_error_stops_the_queue_until_it_is_cleared() {
    let mut line = modern(0, 0);
    line.run(&[IOTLB, [0, 0], wait(1)]);
    line.run(&[wait(2)]);
    stands(&mut line, 3, 16);
    // Software puts something valid in its place, and clears.
    line.rig.bus.put(BASE + 16, &FENCE);
    line.rig.w32(FSTS, 1 << 4);
    assert_eq!(line.fsts() & 0xff, 0);
    line.rig.step(3, 0);
    assert_eq!((line.status(), line.head()), (2, 64), "no write of the tail is needed");
    line.rig.clean();
}

#[test]
fn an_error_that_stays_is_found_again() {
    let mut line = modern(0, 0);
    line.run(&[[0, 0]]);
    line.rig.w32(FSTS, 1 << 4);
    line.rig.step(1, 0);
    stands(&mut line, 3, 0);
}

#[test]
fn an_error_raises_the_fault_event() {
    let mut line = modern(0, 0);
    line.rig.w32(0x3c, 0x41);
    line.rig.w32(0x40, 0xfee0_1000);
    line.rig.w32(FECTL, 0);
    line.run(&[[0, 0]]);
    assert_eq!(line.rig.bus.messages, [(0xfee0_1000, 0x41)]);
}

#[test]
fn a_wait_writes_32_bits_when_it_completes() {
    let mut line = server();
    line.rig.bus.put(STATUS, &[0xffff_ffff_ffff_ffff]);
    line.run(&[[5 << 32 | 0x25, STATUS + 4]]);
    assert_eq!(line.rig.bus.get(STATUS), 0x0000_0005_ffff_ffff);
}

#[test]
fn a_status_that_goes_nowhere_is_told() {
    let mut line = server();
    line.run(&[[0x25, 0xfee0_0000]]);
    line.rig.broke(Rule::StatusAddress, "0xfee00000");
    line.run(&[[0x25, 0x3000_0000]]);
    line.rig.broke(Rule::StatusAddress, "0x30000000");
}

#[test]
fn a_wait_interrupts_once_until_its_status_is_cleared() {
    let mut line = server();
    line.rig.w32(0xa4, 0x51);
    line.rig.w32(0xa8, 0xfee0_2000);
    line.rig.w32(IECTL, 0);
    let interrupt = [0x15, 0];
    line.run(&[interrupt]);
    assert_eq!(line.rig.bus.messages, [(0xfee0_2000, 0x51)]);
    assert_eq!((line.rig.r32(ICS), line.rig.r32(IECTL)), (1, 0));
    line.run(&[interrupt]);
    assert_eq!(line.rig.bus.messages.len(), 1);
    line.rig.w32(ICS, 0);
    line.run(&[interrupt]);
    assert_eq!(line.rig.bus.messages.len(), 1, "writing 0 clears nothing");
    line.rig.w32(ICS, 1);
    assert_eq!(line.rig.r32(ICS), 0);
    line.run(&[interrupt]);
    assert_eq!(line.rig.bus.messages.len(), 2);
    line.rig.clean();
}

#[test]
fn a_masked_event_is_pending_until_unmasked_or_seen_to() {
    let mut line = server();
    line.rig.w32(0xa8, 0xfee0_2000);
    line.run(&[[0x15, 0]]);
    assert_eq!(line.rig.r32(IECTL), 3 << 30);
    line.rig.w32(IECTL, 0);
    assert_eq!((line.rig.bus.messages.len(), line.rig.r32(IECTL)), (1, 0));
    line.rig.w32(IECTL, 1 << 31);
    line.rig.w32(ICS, 1);
    line.run(&[[0x15, 0]]);
    line.rig.w32(ICS, 1);
    assert_eq!(line.rig.r32(IECTL), 1 << 31);
    line.rig.w32(IECTL, 0);
    assert_eq!(line.rig.bus.messages.len(), 1);
    line.rig.clean();
}

#[test]
fn the_ring_may_move_while_it_is_empty() {
    let mut line = server();
    line.run(&[wait(1)]);
    line.rig.w64(IQA, 0x20_0000);
    line.rig.clean();
    line.rig.bus.put(0x20_0010, &wait(7));
    line.rig.w64(IQT, 32);
    line.rig.step(1, 0);
    assert_eq!(line.status(), 7);
    line.rig.unit.adversary().stuck_queue = true;
    line.rig.unit.set_pace(Pace { in_flight: 0, ..Pace::prompt() });
    line.rig.w64(IQT, 48);
    line.rig.w32(IQA, 0);
    line.rig.broke(Rule::CommandOrder, "IQA");
}

#[test]
fn after_srtp_the_caches_are_invalidated_in_their_order() {
    let cases: [(&[[u64; 2]], &str); 4] = [
        (&[CC, PC, IOTLB], ""),
        (&[PC, CC, IOTLB], "PASID cache"),
        (&[CC, IOTLB, PC], "IOTLB"),
        (&[CC, IOTLB], "PASID"),
    ];
    for (batch, missing) in cases {
        let mut line = wide(Profile::sapphire_rapids(), Pace::prompt());
        line.run(batch);
        line.rig.command(TE, true);
        match missing {
            "" => line.rig.clean(),
            _ => line.rig.broke(Rule::GlobalInvalidation, missing),
        }
    }
}

#[test]
fn write_buffers_are_flushed_before_invalidations() {
    let mut line = narrow(Profile::server().with_cap(1 << 4, 0), Pace::prompt());
    let before = line.rig.bus.flushes;
    line.run(&[CC, IOTLB, IEC, wait(1)]);
    assert_eq!(line.rig.bus.flushes - before, 3);
    assert_eq!(server().rig.bus.flushes, 0);
}

#[test]
fn the_head_runs_ahead_of_completion() {
    let mut line = narrow(Profile::server(), Pace { descriptor: (5, 5), ..Pace::prompt() });
    line.put(&[IOTLB, wait(1)]);
    line.rig.step(1, 0);
    assert_eq!((line.head(), line.status()), (32, 0));
    assert_eq!(line.forgot(), [], "effects come with completion");
    line.rig.step(20, 0);
    assert_eq!((line.forgot().len(), line.status()), (1, 1));
}

#[test]
fn at_once_means_within_the_write_of_the_tail() {
    let mut line = narrow(Profile::qemu(Qemu::Legacy), Pace::at_once());
    line.put(&[IOTLB, wait(1)]);
    assert_eq!((line.forgot().len(), line.status(), line.head()), (1, 1, 32));
    let many = [FENCE; 200];
    line.put(&many);
    assert_eq!(line.head(), 202 * 16);
}

#[test]
fn a_descriptor_can_be_spoilt() {
    let mut line = modern(0, 0);
    line.rig.unit.adversary().queue_error = Some(2);
    line.run(&[IOTLB, IOTLB, wait(1), IOTLB]);
    stands(&mut line, 4, 32);
    line.rig.w32(FSTS, 1 << 4);
    line.rig.step(2, 0);
    assert_eq!((line.status(), line.head()), (1, 64), "only that one, once");
}

#[test]
fn completions_can_fail_to_come() {
    let mut line = server();
    line.rig.unit.adversary().stuck_queue = true;
    line.run(&[IOTLB, wait(1)]);
    assert_eq!((line.head(), line.status(), line.forgot().len()), (32, 0, 0));
    line.rig.unit.adversary().stuck_queue = false;
    line.rig.step(1, 0);
    assert_eq!(line.status(), 1);
}

#[test]
fn interrupts_can_come_for_nothing_but_not_masked() {
    let mut line = server();
    line.rig.unit.adversary().spurious = 50;
    line.rig.step(100, 0);
    assert_eq!(line.rig.bus.messages, []);
    line.rig.w32(0x40, 0xfee0_1000);
    line.rig.w32(0xa8, 0xfee0_2000);
    line.rig.w32(FECTL, 0);
    line.rig.w32(IECTL, 0);
    line.rig.step(100, 0);
    let of = |address| line.rig.bus.messages.iter().filter(|m| m.0 == address).count();
    assert!(of(0xfee0_1000) > 10 && of(0xfee0_2000) > 10);
    assert_eq!(line.rig.r32(FSTS), 0);
}

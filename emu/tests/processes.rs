//! Stories of scalable mode: PASIDs, device TLBs that know them, page requests.

mod common;

use common::Rig;
use vtd_emu::{
    Access, Answers, Blocked, Dma, Form, Function, FunctionId, GroupResponse, Manner, PageAnswer, PageRequest, Probe,
    Profile, Reason, Seen, SourceId, Via,
};

const DEVICE: SourceId = 0x10;
const PRQ: u64 = 0xa000;
const PQH: u32 = 0xc0;
const PQT: u32 = 0xc8;
const PQA: u32 = 0xd0;
const PRS: u32 = 0xdc;

/// A device with everything on, and processes 1 and 2 in domain 7 with a mapped page each: rig, function, their tables,
/// their frames.
fn processes() -> (Rig, FunctionId, [u64; 2], [u64; 2]) {
    let mut rig = Rig::new(Profile::maximal());
    let function = Function::new(DEVICE, 0).of(Form::Endpoint).with_ats().with_pri(4).with_pasid(20);
    let f = rig.add(function);
    let directory = rig.page();
    let (tables, frames) = ([rig.page(), rig.page()], [rig.frame(), rig.frame()]);
    for n in 0..2 {
        rig.map_first(tables[n], 0x7000_0000, frames[n]);
        rig.bind(directory, 1 + n as u32, 7, tables[n]);
    }
    rig.attach_scalable(DEVICE, directory);
    rig.w64(PQH, 0);
    rig.w64(PQT, 0);
    rig.w64(PQA, PRQ);
    rig.bring_up_scalable();
    rig.enable_pasid(DEVICE);
    rig.enable_ats(DEVICE);
    rig.enable_pri(DEVICE, 4);
    (rig, f, tables, frames)
}

fn at(address: u64) -> Dma {
    Dma::at(address).with_pasid(1)
}

fn ask(address: u64, last: bool) -> PageRequest {
    PageRequest {
        source: 0,
        pasid: Some(1),
        privileged: false,
        execute: false,
        read: true,
        write: true,
        last,
        group: 3,
        address,
    }
}

/// `p_iotlb` and `p_dev_tlb` of everything of a PASID.
fn p_iotlb(pasid: u64) -> [u64; 2] {
    [6 | 2 << 4 | 7 << 16 | pasid << 32, 0]
}

fn p_dev_tlb(pasid: u64) -> [u64; 2] {
    let pf = u64::from(DEVICE);
    [8 | (pf & 15) << 12 | pf << 16 | pasid << 32 | (pf >> 4) << 52, 0x7fff_ffff_ffff_f800]
}

#[test]
fn each_process_reaches_its_own_page_and_marks_it() {
    let (mut rig, f, tables, frames) = processes();
    for n in 0..2 {
        rig.dma_put(f, Dma::at(0x7000_0008).with_pasid(1 + n as u32), 100 + n as u64).unwrap();
        assert_eq!(rig.get(frames[n] + 8), 100 + n as u64);
        let entry = rig.first_entry(tables[n], 0x7000_0000);
        assert_eq!(rig.get(entry) & 0x60, 0x60);
    }
    assert!(rig.dma_put(f, Dma::at(0x7000_0000).with_pasid(3), 1).is_err());
    assert_eq!(rig.breaches(), [""; 0]);
}

#[test]
fn invalidating_one_process_spares_the_other() {
    let (mut rig, f, tables, _) = processes();
    for pasid in [1, 2] {
        rig.dma_put(f, Dma::at(0x7000_0000).with_pasid(pasid), 1).unwrap();
        let entry = rig.first_entry(tables[pasid as usize - 1], 0x7000_0000);
        rig.put(entry, 0);
    }
    rig.submit(p_iotlb(1));
    assert!(rig.dma_put(f, Dma::at(0x7000_0000).with_pasid(1), 1).is_err());
    rig.dma_put(f, Dma::at(0x7000_0000).with_pasid(2), 1).unwrap();
}

#[test]
fn a_device_tlb_keeps_processes_apart() {
    let (mut rig, f, tables, frames) = processes();
    for pasid in [1, 2] {
        rig.dma_put(f, Dma::at(0x7000_0000).with_pasid(pasid).via(Via::DeviceTlb), u64::from(pasid)).unwrap();
        let entry = rig.first_entry(tables[pasid as usize - 1], 0x7000_0000);
        rig.put(entry, 0);
    }
    assert_eq!(frames.map(|at| rig.get(at)), [1, 2]);
    rig.submit(p_iotlb(1));
    rig.submit(p_iotlb(2));
    rig.submit(p_dev_tlb(1));
    assert_eq!(rig.m.device_tlb(f).iter().map(|k| k.pasid).collect::<Vec<_>>(), [Some(2)]);
    let refused = rig.dma_put(f, at(0x7000_0000).via(Via::DeviceTlb), 3);
    assert!(matches!(refused, Err(Blocked::NoPermission(_))), "{refused:?}");
    rig.dma_put(f, Dma::at(0x7000_0000).with_pasid(2).via(Via::DeviceTlb), 4).unwrap();
    assert_eq!(frames.map(|at| rig.get(at)), [1, 4]);
}

#[test]
fn a_missing_page_is_asked_for_brought_in_and_reached() {
    let (mut rig, f, tables, _) = processes();
    let through = at(0x7000_5000).via(Via::DeviceTlb);
    assert!(matches!(rig.dma_put(f, through, 1), Err(Blocked::NoPermission(_))));
    assert_eq!(rig.m.page_request(f, &ask(0x7000_5000, true)), Ok(PageAnswer::Queued));
    assert_eq!(rig.r64(PQT), 32);
    let request = [0, 8].map(|off| rig.get(PRQ + off));
    assert_eq!(request[0] >> 16 & 0xffff, u64::from(DEVICE));
    assert_eq!(request[0] >> 32 & 0xf_ffff, 1);
    assert_eq!(request[1], 0x7000_5000 | 3 << 3 | 7);
    let frame = rig.frame();
    rig.map_first(tables[0], 0x7000_5000, frame);
    rig.w64(PQH, 32);
    assert_eq!(rig.m.outstanding(f), [(Some(1), 3, true)]);
    rig.submit([9 | 1 << 4 | u64::from(DEVICE) << 16 | 1 << 32, 3 << 3]);
    assert!(rig.m.outstanding(f).is_empty());
    assert_eq!(rig.m.responses(f), [GroupResponse { source: DEVICE, pasid: Some(1), group: 3, code: 0 }]);
    rig.dma_put(f, through, 1).unwrap();
    assert_eq!(rig.get(frame), 1);
    assert_eq!(rig.breaches(), [""; 0]);
}

#[test]
fn a_response_of_failure_turns_page_requests_off() {
    let (mut rig, f, ..) = processes();
    rig.m.page_request(f, &ask(0x7000_5000, true)).unwrap();
    rig.submit([9 | 1 << 4 | 15 << 12 | u64::from(DEVICE) << 16 | 1 << 32, 3 << 3]);
    assert_eq!(rig.m.page_request(f, &ask(0x7000_5000, true)), Err(Blocked::Disabled));
    let pri = rig.capability(DEVICE, 0x13);
    assert_eq!(rig.m.config_read(DEVICE, pri + 4) >> 16 & 0x101, 0x101);
}

#[test]
fn a_flood_overflows_the_queue_and_is_answered_by_the_unit() {
    let (mut rig, f, tables, _) = processes();
    // Half of its requests have no PASID.
    let directory = rig.page();
    rig.bind(directory, 0, 7, tables[0]);
    rig.attach_scalable(DEVICE, directory);
    rig.invalidate_all();
    rig.m.set_manner(f, Manner { flood: 40, ..Manner::default() });
    rig.m.step(20);
    assert_ne!(rig.r32(PRS) & 2, 0, "PRO");
    assert!(rig.m.responses(f).iter().any(|r| r.code == 0), "no group was told to try again");
    // Those who wait for software are as many as the queue holds.
    assert_eq!(rig.r64(PQT), 4096 - 32);
}

#[test]
fn a_removed_device_hears_no_response_and_completes_nothing() {
    let (mut rig, f, ..) = processes();
    rig.m.page_request(f, &ask(0x7000_5000, true)).unwrap();
    rig.m.remove(f);
    rig.submit([9 | 1 << 4 | u64::from(DEVICE) << 16 | 1 << 32, 3 << 3]);
    assert!(rig.m.responses(f).is_empty());
    rig.queue(&[p_dev_tlb(1)]);
    rig.m.relax(1_000_000);
    assert!(!rig.drained());
}

#[test]
fn a_function_that_answers_within_some_time_answers_all_in_the_end() {
    let (mut rig, f, ..) = processes();
    rig.m.set_manner(f, Manner { answers: Answers::Within(100_000), ..Manner::default() });
    rig.queue(&[p_dev_tlb(1), p_dev_tlb(2), p_dev_tlb(3)]);
    rig.wait("the device", |r| r.drained());
}

#[test]
fn a_replaced_page_is_the_old_or_the_new_one_at_every_store() {
    let (mut rig, f, tables, frames) = processes();
    let new = rig.frame();
    let entry = rig.first_entry(tables[0], 0x7000_0000);
    rig.m.set_probes(vec![Probe::new(f, Access::Write, 0x7000_0010).with_pasid(1)]);
    rig.put(entry, new | 7);
    let (old, new) = (Seen::Memory(frames[0] + 0x10), Seen::Memory(new + 0x10));
    assert_eq!(rig.m.probes().path(0), [old, new]);
    assert_eq!(rig.m.probes().turns(0, &[old, new]), Ok(()));
}

#[test]
fn a_page_that_is_taken_away_in_between_is_seen_as_a_third_state() {
    let (mut rig, f, tables, frames) = processes();
    let new = rig.frame();
    let entry = rig.first_entry(tables[0], 0x7000_0000);
    rig.m.set_probes(vec![Probe::new(f, Access::Read, 0x7000_0000).with_pasid(1)]);
    rig.put(entry, 0);
    rig.put(entry, new | 7);
    let third = rig.m.probes().only(0, &[Seen::Memory(frames[0]), Seen::Memory(new)]).unwrap_err();
    assert_eq!((third.store, third.seen), (entry, Seen::Blocked(Reason(0x71))));
}

#[test]
fn probes_leave_no_trace_unless_they_are_for_real() {
    let (mut rig, f, tables, frames) = processes();
    let entry = rig.first_entry(tables[0], 0x7000_0000);
    rig.m.set_probes(vec![Probe::new(f, Access::Write, 0x7000_0000).with_pasid(1)]);
    rig.store(0x5000, 1);
    assert_eq!(rig.get(entry) & 0x60, 0, "it marked the entry");
    assert!(rig.fault().is_none());
    let real = Probe::new(f, Access::Write, 0x7000_0000).with_pasid(1).for_real();
    rig.m.set_probes(vec![real]);
    rig.store(0x5000, 2);
    // What was cached serves on.
    rig.put(entry, 0);
    assert_eq!(rig.m.probes().path(0), [Seen::Memory(frames[0])]);
    rig.submit(p_iotlb(1));
    rig.store(0x5000, 3);
    assert_eq!(rig.m.probes().path(0).len(), 2);
    assert!(rig.fault().is_some());
}

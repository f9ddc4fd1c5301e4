use super::*;
use crate::bus::{Bus, DeviceInvalidation, GroupResponse, Snoop};
use crate::devices::{Alias, Answers, Form, Manner};
use crate::memory::Ram;
use crate::request::{PageRequest, Pasid};
use alloc::vec::Vec;
use std::vec;

/// There is no unit of that number: requests reach memory as they are.
const NONE: usize = 9;

fn machine() -> Machine<Ram> {
    Machine::new(Ram::new(1 << 24), 1)
}

impl Machine<Ram> {
    /// What stands at a function's extended capability.
    fn capability(&self, source: SourceId, id: u32) -> u16 {
        let mut at = 0x100;
        while self.config_read(source, at) & 0xffff != id {
            at = (self.config_read(source, at) >> 20) as u16;
            assert_ne!(at, 0, "no such capability");
        }
        at
    }
    fn enable_ats(&mut self, source: SourceId) {
        let at = self.capability(source, 0xf);
        self.config_write(source, at + 6, Size::Word, 0x8000);
    }
    fn enable_pri(&mut self, source: SourceId, allocation: u32) {
        let at = self.capability(source, 0x13);
        self.config_write(source, at + 12, Size::Double, allocation);
        self.config_write(source, at + 4, Size::Word, 1);
    }
    fn wires(&mut self, unit: usize) -> Wires<'_, Ram> {
        Wires { world: &mut self.world, unit }
    }
    /// Puts a translation into a device TLB.
    fn plant(&mut self, f: FunctionId, pasid: Option<Pasid>, address: u64, to: u64) {
        let owner = crate::devices::Owner { pasid, privileged: false };
        let answer = crate::request::Translated {
            address: to,
            page: 4096,
            read: true,
            write: true,
            untranslated_only: false,
            snoop: false,
            execute: false,
            privileged: false,
            global: false,
            because: None,
        };
        self.world.devices.get_mut(f).unwrap().tlb.keep(owner, address, &answer, 4096).unwrap();
    }
}

fn everything(source: SourceId, tag: u8) -> DeviceInvalidation {
    DeviceInvalidation { tag, source, pasid: None, global: false, address: 0, last: u64::MAX }
}

fn ask(group: u16, last: bool) -> PageRequest {
    PageRequest {
        source: 0,
        pasid: None,
        privileged: false,
        execute: false,
        read: true,
        write: false,
        last,
        group,
        address: 0x1000,
    }
}

#[test]
fn bytes_are_read_and_written_at_any_address_and_their_neighbours_stay() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE));
    machine.dma_write(f, &Dma::at(0x1000), &[0xee; 64]).unwrap();
    machine.dma_write(f, &Dma::at(0x1003), &(1..=14).collect::<Vec<u8>>()).unwrap();
    let mut all = [0; 20];
    machine.dma_read(f, &Dma::at(0x1001), &mut all).unwrap();
    let mut expected = vec![0xee, 0xee];
    expected.extend(1..=14);
    expected.extend([0xee; 4]);
    assert_eq!(all[..], expected);
}

#[test]
fn an_access_is_split_at_pages_and_ends_where_memory_ends() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE));
    let mut data = vec![0; 8192];
    let end = 1 << 24;
    assert_eq!(machine.dma_read(f, &Dma::at(end - 4096), &mut data), Err(Blocked::NoMemory(end)));
    assert_eq!(machine.dma_read(f, &Dma::at(u64::MAX - 4), &mut data), Err(Blocked::NoMemory(u64::MAX - 4)));
}

#[test]
fn copies_may_be_long_and_crooked() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE));
    let data: Vec<u8> = (0..10_000u32).map(|n| (n * 7) as u8).collect();
    machine.dma_write(f, &Dma::at(0x1_0123), &data).unwrap();
    machine.dma_copy(f, &Dma::at(0x1_0123), &Dma::at(0x2_0456), data.len()).unwrap();
    let mut copy = vec![0; data.len()];
    machine.dma_read(f, &Dma::at(0x2_0456), &mut copy).unwrap();
    assert_eq!(copy, data);
}

#[test]
fn an_atomic_access_returns_what_stood_there_and_must_be_aligned() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE));
    machine.store(0x1000, 40).unwrap();
    assert_eq!(machine.dma_fetch_add(f, &Dma::at(0x1000), 2), Ok(40));
    assert_eq!(machine.memory().read64(0x1000), Some(42));
    assert_eq!(machine.dma_fetch_add(f, &Dma::at(0x1004), 2), Err(Blocked::Unsupported));
}

#[test]
fn a_device_that_does_not_snoop_reads_what_has_left_the_caches() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE));
    machine.store(0x1000, 5).unwrap();
    let careless = Dma { no_snoop: true, ..Dma::at(0x1000) };
    let mut byte = [9];
    machine.dma_read(f, &careless, &mut byte).unwrap();
    assert_eq!(byte, [0]);
    machine.dma_read(f, &Dma::at(0x1000), &mut byte).unwrap();
    assert_eq!(byte, [5]);
    machine.flush(0x1000, 8);
    machine.fence();
    machine.dma_read(f, &careless, &mut byte).unwrap();
    assert_eq!(byte, [5]);
}

#[test]
fn what_devices_write_is_seen_by_everyone() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE));
    machine.store(0x1000, 0x1111_1111_1111_1111).unwrap();
    machine.dma_write(f, &Dma::at(0x1002), &[0xff, 0xee]).unwrap();
    machine.wires(0).write32(0x1004, 0x2222_2222).unwrap();
    assert_eq!(machine.wires(0).read64(0x1000, Snoop::Yes), Some(0x2222_2222_eeff_1111));
    assert_eq!(machine.wires(0).read64(0x1000, Snoop::No), Some(0x2222_2222_eeff_0000));
}

#[test]
fn a_failed_exchange_of_hardware_brings_the_line_to_memory() {
    let mut machine = machine();
    machine.store(0x1000, 5).unwrap();
    assert_eq!(machine.wires(0).compare_exchange64(0x1000, 0, 1), Some(5));
    assert_eq!(machine.wires(0).read128(0x1000, Snoop::No), Some([5, 0]));
}

#[test]
fn functions_do_nothing_while_their_enable_bits_are_off() {
    let mut machine = machine();
    let f = machine
        .add_function(Function { master: false, ..Function::new(8, NONE).with_ats().with_pri(8).with_pasid(20) });
    assert_eq!(machine.dma_write(f, &Dma::at(0), &[0]), Err(Blocked::Disabled));
    machine.config_write(8, 4, Size::Word, 4);
    assert_eq!(machine.dma_write(f, &Dma::at(0), &[0]), Ok(()));
    assert_eq!(machine.dma_write(f, &Dma::at(0).with_pasid(1), &[0]), Err(Blocked::Disabled));
    assert_eq!(machine.dma_write(f, &Dma::at(0).via(Via::DeviceTlb), &[0]), Err(Blocked::Disabled));
    assert_eq!(machine.translate(f, &Dma::at(0), false), Err(Blocked::Disabled));
    assert_eq!(machine.page_request(f, &ask(0, true)), Err(Blocked::Disabled));
    assert_eq!(machine.msi(f), Err(Blocked::Disabled));
}

#[test]
fn an_unruly_function_does_not_mind() {
    let mut machine = machine();
    let manner = Manner { unruly: true, ..Manner::default() };
    let f = machine.add_function(Function { master: false, manner, ..Function::new(8, NONE) });
    assert_eq!(machine.dma_write(f, &Dma::at(0), &[0]), Ok(()));
    assert_eq!(machine.dma_write(f, &Dma::at(0).with_pasid(1), &[0]), Err(Blocked::Unsupported));
}

#[test]
fn ats_needs_a_unit() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE).with_ats());
    machine.enable_ats(8);
    assert_eq!(machine.translate(f, &Dma::at(0), false), Err(Blocked::Unsupported));
    assert_eq!(machine.dma_read(f, &Dma::at(0).via(Via::Nothing), &mut [0]), Err(Blocked::Unsupported));
}

#[test]
fn a_function_signals_where_its_msi_capability_says() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE));
    machine.config_write(8, 0x54, Size::Double, 0xfee0_1000);
    machine.config_write(8, 0x5c, Size::Word, 0x41);
    machine.config_write(8, 0x52, Size::Word, 1);
    machine.msi(f).unwrap();
    assert_eq!(machine.messages(), [Message { unit: NONE, address: 0xfee0_1000, data: 0x41 }]);
    assert!(machine.messages().is_empty());
}

#[test]
fn a_removed_function_reads_as_ones_and_sends_nothing() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE).with_ats());
    machine.enable_ats(8);
    assert_eq!(machine.config_read(8, 0), 0x11e8_1234);
    machine.remove(f);
    assert_eq!(machine.config_read(8, 0), u32::MAX);
    assert_eq!(machine.dma_read(f, &Dma::at(0), &mut [0]), Err(Blocked::Gone));
    assert_eq!(machine.translate(f, &Dma::at(0), false), Err(Blocked::Gone));
    assert_eq!(machine.page_request(f, &ask(0, true)), Err(Blocked::Gone));
    let again = machine.add_function(Function::new(8, NONE));
    assert_eq!(machine.config_read(8, 0), 0x11e8_1234);
    assert_eq!(machine.dma_read(again, &Dma::at(0), &mut [0]), Ok(()));
}

#[test]
fn functions_of_one_slot_say_that_there_are_several() {
    let mut machine = machine();
    machine.add_function(Function::new(8, NONE));
    assert_eq!(machine.config_read(8, 0xc) >> 23 & 1, 0);
    machine.add_function(Function::new(9, NONE));
    assert_eq!(machine.config_read(8, 0xc) >> 23 & 1, 1);
    assert_eq!(machine.config_read(9, 0xc) >> 23 & 1, 1);
}

#[test]
fn hidden_functions_have_no_configuration_space() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE).of(Form::Hidden));
    assert_eq!(machine.config_read(8, 0), u32::MAX);
    assert_eq!(machine.dma_write(f, &Dma::at(0), &[1]), Ok(()));
}

#[test]
fn an_invalidation_takes_the_entries_when_it_completes() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, 0).with_ats());
    machine.enable_ats(8);
    machine.plant(f, None, 0x1000, 0x5000);
    machine.wires(0).invalidate_device(everything(8, 3));
    assert_eq!(machine.device_tlb(f).len(), 1);
    assert!(!machine.wires(0).device_invalidated(8, 4));
    assert!(!machine.wires(1).device_invalidated(8, 3));
    assert!(machine.wires(0).device_invalidated(8, 3));
    assert!(!machine.wires(0).device_invalidated(8, 3));
    assert!(machine.device_tlb(f).is_empty());
}

#[test]
fn a_late_function_keeps_its_entries_until_it_answers() {
    let mut machine = machine();
    let manner = Manner { answers: Answers::After(500), ..Manner::default() };
    let f = machine.add_function(Function::new(8, 0).with_ats().with_manner(manner));
    machine.enable_ats(8);
    machine.plant(f, None, 0x1000, 0x5000);
    machine.wires(0).invalidate_device(everything(8, 3));
    machine.relax(499);
    assert!(!machine.wires(0).device_invalidated(8, 3));
    assert_eq!(machine.device_tlb(f).len(), 1);
    machine.relax(1);
    assert!(machine.wires(0).device_invalidated(8, 3));
    assert!(machine.device_tlb(f).is_empty());
}

#[test]
fn answers_within_some_time_overtake_each_other() {
    let mut machine = machine();
    let manner = Manner { answers: Answers::Within(1000), ..Manner::default() };
    machine.add_function(Function::new(8, 0).with_ats().with_manner(manner));
    for tag in 0..16 {
        machine.wires(0).invalidate_device(everything(8, tag));
    }
    let mut order = Vec::new();
    for _ in 0..100 {
        machine.relax(10);
        order.extend((0..16).filter(|tag| machine.wires(0).device_invalidated(8, *tag)));
    }
    assert_eq!(order.len(), 16);
    assert!(!order.is_sorted());
}

#[test]
fn a_function_that_keeps_its_entries_says_that_it_did_not() {
    let mut machine = machine();
    let manner = Manner { keeps: true, ..Manner::default() };
    let f = machine.add_function(Function::new(8, 0).with_ats().with_manner(manner));
    machine.enable_ats(8);
    machine.plant(f, None, 0x1000, 0x5000);
    machine.wires(0).invalidate_device(everything(8, 3));
    assert!(machine.wires(0).device_invalidated(8, 3));
    assert_eq!(machine.device_tlb(f).len(), 1);
}

#[test]
fn silent_removed_unknown_and_plain_functions_never_complete_an_invalidation() {
    let mut machine = machine();
    let manner = Manner { answers: Answers::Never, ..Manner::default() };
    machine.add_function(Function::new(8, 0).with_ats().with_manner(manner));
    let removed = machine.add_function(Function::new(16, 0).with_ats());
    machine.add_function(Function::new(24, 0));
    machine.wires(0).invalidate_device(everything(16, 1));
    machine.remove(removed);
    for source in [8, 24, 32] {
        machine.wires(0).invalidate_device(everything(source, 1));
    }
    machine.relax(1 << 40);
    for source in [8, 16, 24, 32] {
        assert!(!machine.wires(0).device_invalidated(source, 1), "{source}");
    }
}

#[test]
fn turning_ats_on_empties_the_device_tlb() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, 0).with_ats());
    machine.plant(f, None, 0x1000, 0x5000);
    machine.enable_ats(8);
    assert!(machine.device_tlb(f).is_empty());
}

#[test]
fn a_function_level_reset_forgets_translations_requests_and_enables() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE).of(Form::Endpoint).with_ats().with_pri(8));
    machine.enable_ats(8);
    machine.enable_pri(8, 8);
    machine.plant(f, None, 0x1000, 0x5000);
    let _ = machine.page_request(f, &ask(1, true));
    assert_eq!(machine.outstanding(f), [(None, 1, true)]);
    machine.config_write(8, 0x78, Size::Word, 0x8000);
    assert!(machine.device_tlb(f).is_empty() && machine.outstanding(f).is_empty());
    assert_eq!(machine.dma_read(f, &Dma::at(0), &mut [0]), Err(Blocked::Disabled));
    assert_eq!(machine.page_request(f, &ask(1, true)), Err(Blocked::Disabled));
}

#[test]
fn page_requests_stay_within_the_allotment_and_the_capacity() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE).with_pri(2));
    machine.enable_pri(8, 100);
    let _ = machine.page_request(f, &ask(1, false));
    let _ = machine.page_request(f, &ask(1, true));
    assert_eq!(machine.page_request(f, &ask(2, true)), Err(Blocked::Allotted));
    machine.wires(NONE).respond(GroupResponse { source: 8, pasid: None, group: 1, code: 0 });
    assert_ne!(machine.page_request(f, &ask(2, true)), Err(Blocked::Allotted));
    assert_eq!(machine.responses(f).len(), 1);
}

#[test]
fn page_requests_have_stopped_once_the_last_was_answered() {
    let mut machine = machine();
    let f = machine.add_function(Function::new(8, NONE).with_pri(2));
    let pri = machine.capability(8, 0x13);
    let stopped = |m: &Machine<Ram>| m.config_read(8, pri + 4) >> 24 & 1 != 0;
    assert!(stopped(&machine));
    machine.enable_pri(8, 2);
    let _ = machine.page_request(f, &ask(1, true));
    machine.config_write(8, pri + 4, Size::Word, 0);
    assert!(!stopped(&machine));
    assert!(machine.misdeeds().is_empty());
    machine.config_write(8, pri + 4, Size::Word, 1);
    assert_eq!(machine.misdeeds().len(), 1);
    machine.config_write(8, pri + 4, Size::Word, 0);
    machine.wires(NONE).respond(GroupResponse { source: 8, pasid: None, group: 1, code: 0 });
    assert!(stopped(&machine));
}

#[test]
fn a_failure_response_turns_page_requests_off_for_the_whole_device() {
    let mut machine = machine();
    for source in [8, 9, 16] {
        machine.add_function(Function::new(source, NONE).with_pri(2));
        machine.enable_pri(source, 2);
    }
    let at = machine.capability(8, 0x13) + 4;
    machine.wires(NONE).respond(GroupResponse { source: 8, pasid: None, group: 1, code: 15 });
    let state = |m: &Machine<Ram>, s| (m.config_read(s, at) & 1, m.config_read(s, at) >> 16 & 3);
    assert_eq!([8, 9, 16].map(|s| state(&machine, s)), [(0, 3), (0, 1), (1, 0)]);
}

#[test]
fn a_deaf_function_never_hears_that_it_was_answered() {
    let mut machine = machine();
    let manner = Manner { deaf: true, ..Manner::default() };
    let f = machine.add_function(Function::new(8, NONE).with_pri(2).with_manner(manner));
    machine.enable_pri(8, 2);
    let _ = machine.page_request(f, &ask(1, true));
    machine.wires(NONE).respond(GroupResponse { source: 8, pasid: None, group: 1, code: 0 });
    assert_eq!(machine.outstanding(f), [(None, 1, true)]);
}

#[test]
fn a_flooding_function_sends_page_requests_at_every_step_and_minds_no_allotment() {
    let mut machine = machine();
    let manner = Manner { flood: 5, ..Manner::default() };
    let f = machine.add_function(Function::new(8, NONE).with_pri(2).with_manner(manner));
    machine.step(3);
    assert!(machine.outstanding(f).is_empty());
    machine.enable_pri(8, 2);
    machine.step(3);
    assert!(machine.outstanding(f).len() > 2);
}

#[test]
fn ports_block_forged_ids_and_translated_addresses_where_acs_says_so() {
    let mut machine = machine();
    let port = Form::RootPort { secondary: 2, subordinate: 3 };
    machine.add_function(Function::bridge(0x18, NONE, port).with_acs(0x5f));
    let f = machine.add_function(Function::new(0x300, NONE).of(Form::Endpoint).with_ats());
    let acs = machine.capability(0x18, 0xd);
    let forged = Dma { forged: Some(0x0008), ..Dma::at(0) };
    assert_eq!(machine.dma_read(f, &forged, &mut [0]), Ok(()));
    machine.config_write(0x18, acs + 6, Size::Word, 3);
    assert_eq!(machine.dma_read(f, &forged, &mut [0]), Err(Blocked::Port));
    assert_eq!(machine.dma_read(f, &Dma::at(0).via(Via::Nothing), &mut [0]), Err(Blocked::Port));
    assert_eq!(machine.dma_read(f, &Dma::at(0), &mut [0]), Ok(()));
}

#[test]
fn registers_of_a_unit_that_is_not_there_read_as_ones() {
    let mut machine = machine();
    assert_eq!(machine.read(0, 0, Size::Double), 0xffff_ffff);
    assert_eq!(machine.read(0, 8, Size::Quad), u64::MAX);
}

#[test]
fn time_passes_where_it_is_told_to() {
    let mut machine = machine();
    machine.relax(1234);
    assert_eq!(machine.now(), 1234);
    machine.step(2);
    assert_eq!(machine.now(), 1234 + 2 * STEP);
}

#[test]
fn aliases_stand_for_some_or_all_requests() {
    let mut random = Random::new(1);
    let mut devices = Devices::default();
    let always = devices.add(Function::new(0x500, 0).behind(0x400));
    let sometimes = devices.add(Function { alias: Alias::Sometimes(0x400), ..Function::new(0x508, 0) });
    let mut of = |f| -> Vec<SourceId> { (0..64).map(|_| devices.get(f).unwrap().requester(&mut random)).collect() };
    assert!(of(always).iter().all(|s| *s == 0x400));
    let some = of(sometimes);
    assert!(some.contains(&0x400) && some.contains(&0x508));
}

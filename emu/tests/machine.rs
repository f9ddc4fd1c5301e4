//! Whole stories on a machine, told with nothing but the public interface.

mod common;

use common::{FEADDR, FECTL, FEDATA, FSTS, GSTS, RW, Rig, TE, WBF};
use vtd_emu::{Answers, Blocked, Dma, Form, Function, Manner, Message, Pace, Profile, Reason, Size, Snoop, Via};

fn reason(blocked: Result<impl Sized, Blocked>) -> u8 {
    match blocked {
        Err(Blocked::Fault(fault)) => fault.reason.0,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it went through"),
    }
}

/// A unit that does not snoop the CPUs' caches (ECAP.C clear).
fn incoherent() -> Profile {
    Profile::server().with_ecap(0, 1)
}

/// A legacy unit, a function, and one mapped page: rig, function, table, frame.
fn legacy(profile: Profile) -> (Rig, vtd_emu::FunctionId, u64, u64) {
    let mut rig = Rig::new(profile);
    let f = rig.add(Function::new(8, 0).with_ats());
    let (table, frame) = (rig.page(), rig.frame());
    rig.map(table, 0x40_0000, frame, RW);
    rig.attach(8, 5, table, 0);
    rig.bring_up();
    (rig, f, table, frame)
}

#[test]
fn before_remapping_is_on_requests_reach_memory_as_they_are() {
    let mut rig = Rig::new(Profile::server());
    let f = rig.add(Function::new(8, 0));
    rig.dma_put(f, Dma::at(0x5000), 77).unwrap();
    assert_eq!(rig.get(0x5000), 77);
}

#[test]
fn a_mapped_page_is_reached_in_every_profile_and_at_every_pace() {
    for profile in Profile::all() {
        for pace in [Pace::at_once(), Pace::prompt(), Pace::slow(3)] {
            let name = profile.name;
            let mut rig = Rig::new(profile.clone()).at_pace(pace);
            let f = rig.add(Function::new(8, 0));
            let (table, frame) = (rig.page(), rig.frame());
            rig.map(table, 0x40_0000, frame, RW);
            rig.attach(8, 5, table, 0);
            rig.bring_up();
            rig.dma_put(f, Dma::at(0x40_0018), 0xabcd).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!(rig.get(frame + 0x18), 0xabcd, "{name}");
            assert_eq!(rig.dma_get(f, Dma::at(0x40_0018)), Ok(0xabcd), "{name}");
            assert!(rig.dma_get(f, Dma::at(0x40_1000)).is_err(), "{name}");
            assert_eq!(rig.fault().map(|(at, source, _)| (at, source)), Some((0x40_1000, 8)), "{name}");
            assert_eq!(rig.breaches(), [""; 0], "{name}");
        }
    }
}

#[test]
fn an_unmapped_page_stays_within_reach_until_it_is_invalidated() {
    let (mut rig, f, table, frame) = legacy(Profile::server());
    rig.dma_put(f, Dma::at(0x40_0000), 1).unwrap();
    rig.unmap(table, 0x40_0000);
    rig.dma_put(f, Dma::at(0x40_0000), 2).unwrap();
    assert_eq!(rig.get(frame), 2);
    rig.invalidate_iotlb();
    assert_eq!(reason(rig.dma_put(f, Dma::at(0x40_0000), 3)), 5);
    assert_eq!(rig.get(frame), 2);
    assert_eq!(rig.fault(), Some((0x40_0000, 8, 5)));
    assert_eq!(rig.fault(), None);
}

#[test]
fn a_fault_raises_the_event_interrupt_once_unmasked() {
    let (mut rig, f, ..) = legacy(Profile::server());
    rig.w32(FEDATA, 0x31);
    rig.w32(FEADDR, 0xfee0_1000);
    rig.w32(FECTL, 0);
    assert!(rig.dma_get(f, Dma::at(0x50_0000)).is_err());
    assert_eq!(rig.m.messages(), [Message { unit: 0, address: 0xfee0_1000, data: 0x31 }]);
    assert_ne!(rig.r32(FSTS) & 2, 0);
}

#[test]
fn one_source_is_another_ones_alias_behind_a_bridge() {
    let (mut rig, ..) = legacy(Profile::server());
    let bridged = rig.add(Function::new(0x208, 0).of(Form::Conventional).behind(8));
    let straight = rig.add(Function::new(0x210, 0));
    rig.dma_put(bridged, Dma::at(0x40_0000), 1).unwrap();
    assert!(rig.dma_put(straight, Dma::at(0x40_0000), 1).is_err());
    assert_eq!(rig.fault().unwrap().1, 0x210);
}

#[test]
fn a_device_tlb_keeps_what_the_unit_has_forgotten_until_it_is_told_too() {
    let (mut rig, f, table, frame) = legacy(Profile::server());
    rig.attach(8, 5, table, 1);
    rig.invalidate_all();
    rig.enable_ats(8);
    let through = Dma::at(0x40_0000).via(Via::DeviceTlb);
    rig.dma_put(f, through, 1).unwrap();
    assert_eq!(rig.m.device_tlb(f).len(), 1);
    rig.unmap(table, 0x40_0000);
    rig.invalidate_iotlb();
    assert!(rig.dma_put(f, Dma::at(0x40_0000), 2).is_err());
    rig.dma_put(f, through, 3).unwrap();
    assert_eq!(rig.get(frame), 3);
    let descriptor = rig.invalidate_device(8);
    rig.submit(descriptor);
    assert!(rig.m.device_tlb(f).is_empty());
    assert!(matches!(rig.dma_put(f, through, 4), Err(Blocked::NoPermission(_))));
    assert_eq!(rig.get(frame), 3);
}

#[test]
fn a_device_that_does_not_forget_reaches_memory_even_after_the_flush() {
    let (mut rig, f, table, frame) = legacy(Profile::server());
    rig.m.set_manner(f, Manner { keeps: true, ..Manner::default() });
    rig.attach(8, 5, table, 1);
    rig.invalidate_all();
    rig.enable_ats(8);
    let through = Dma::at(0x40_0000).via(Via::DeviceTlb);
    rig.dma_put(f, through, 1).unwrap();
    rig.unmap(table, 0x40_0000);
    let descriptor = rig.invalidate_device(8);
    rig.submit([0x12, 0]);
    rig.submit(descriptor);
    rig.dma_put(f, through, 2).unwrap();
    assert_eq!(rig.get(frame), 2);
    // Blocking translated requests helps against it.
    rig.attach(8, 5, table, 0);
    rig.invalidate_all();
    assert_eq!(reason(rig.dma_put(f, through, 3)), 0xd);
}

#[test]
fn a_read_only_page_serves_reads_through_the_device_tlb_and_no_writes() {
    let (mut rig, f, table, _) = legacy(Profile::server());
    let frame = rig.frame();
    rig.map(table, 0x40_2000, frame, 1);
    rig.attach(8, 5, table, 1);
    rig.invalidate_all();
    rig.enable_ats(8);
    let through = Dma::at(0x40_2000).via(Via::DeviceTlb);
    assert_eq!(rig.dma_get(f, through), Ok(0));
    assert!(matches!(rig.dma_put(f, through, 1), Err(Blocked::NoPermission(t)) if t.read && !t.write));
}

#[test]
fn a_device_cannot_invent_translated_addresses_while_ats_is_blocked() {
    let (mut rig, f, ..) = legacy(Profile::server());
    rig.enable_ats(8);
    assert_eq!(reason(rig.dma_get(f, Dma::at(0x1000).via(Via::Nothing))), 0xd);
    rig.m.set_manner(f, Manner { wild: 3, ..Manner::default() });
    while rig.fault().is_some() {}
    rig.m.step(1);
    assert_eq!(rig.fault().map(|(_, source, why)| (source, why)), Some((8, 0xd)));
}

#[test]
fn an_invalidation_for_a_removed_device_times_out_and_names_it() {
    let (mut rig, f, table, _) = legacy(Profile::sapphire_rapids());
    rig.attach(8, 5, table, 1);
    rig.invalidate_all();
    rig.enable_ats(8);
    rig.dma_put(f, Dma::at(0x40_0000).via(Via::DeviceTlb), 1).unwrap();
    rig.m.remove(f);
    assert_eq!(rig.m.config_read(8, 0), u32::MAX);
    let descriptor = rig.invalidate_device(8);
    rig.queue(&[descriptor]);
    rig.wait("ITE", |r| {
        r.m.relax(10_000_000);
        r.r32(FSTS) & 1 << 6 != 0
    });
    assert!(!rig.drained());
    // IQERCD.ITESID, 47:32.
    assert_eq!(rig.r64(0xb0) >> 32 & 0xffff, 8);
}

#[test]
fn a_late_device_holds_the_wait_up_and_keeps_its_entries_until_then() {
    let (mut rig, f, table, _) = legacy(Profile::server());
    rig.m.set_manner(f, Manner { answers: Answers::After(1_000_000), ..Manner::default() });
    rig.attach(8, 5, table, 1);
    rig.invalidate_all();
    rig.enable_ats(8);
    rig.dma_put(f, Dma::at(0x40_0000).via(Via::DeviceTlb), 1).unwrap();
    let descriptor = rig.invalidate_device(8);
    rig.queue(&[descriptor]);
    for _ in 0..9 {
        rig.m.relax(100_000);
        assert!(!rig.drained());
        assert_eq!(rig.m.device_tlb(f).len(), 1);
    }
    rig.wait("the late device", |r| r.drained());
    assert!(rig.m.device_tlb(f).is_empty());
}

#[test]
fn where_walks_do_not_snoop_a_store_counts_once_it_is_flushed() {
    let (mut rig, f, table, _) = legacy(incoherent());
    let frame = rig.frame();
    let entry = rig.entry(table, 0x40_1000);
    rig.store(entry, frame | RW);
    assert!(rig.dma_put(f, Dma::at(0x40_1000), 1).is_err());
    rig.m.flush(entry, 8);
    assert!(rig.dma_put(f, Dma::at(0x40_1000), 1).is_err());
    rig.m.fence();
    rig.dma_put(f, Dma::at(0x40_1000), 1).unwrap();
    assert_eq!(rig.get(frame), 1);
}

#[test]
fn a_fresh_table_that_was_not_flushed_leads_anywhere() {
    let (mut rig, f, table, _) = legacy(incoherent());
    rig.careful = false;
    let page = rig.page();
    let entry = rig.entry(table, 0x4000_0000) & !0xfff;
    assert_ne!(entry, page);
    rig.careful = true;
    // The upper entry is flushed and the table it leads to is not.
    let upper = (rig.get(table) & !0xfff) + 8;
    rig.put(upper, page | RW);
    assert!(rig.dma_get(f, Dma::at(0x4000_0000)).is_err());
    assert_ne!(rig.fault().unwrap().2, 6, "it read zeros");
}

#[test]
fn write_buffers_hold_an_entry_back_until_they_are_flushed() {
    let (mut rig, f, table, _) = legacy(Profile::old());
    let frame = rig.frame();
    rig.map(table, 0x40_1000, frame, RW);
    assert!(rig.dma_put(f, Dma::at(0x40_1000), 1).is_err());
    rig.command(WBF, true);
    rig.dma_put(f, Dma::at(0x40_1000), 1).unwrap();
    assert_eq!(rig.get(frame), 1);
}

#[test]
fn an_invalidation_flushes_write_buffers_on_its_way() {
    let (mut rig, f, table, _) = legacy(Profile::old());
    let frame = rig.frame();
    rig.map(table, 0x40_1000, frame, RW);
    rig.invalidate_iotlb();
    rig.dma_put(f, Dma::at(0x40_1000), 1).unwrap();
}

#[test]
fn write_buffers_hold_back_what_a_unit_that_snoops_would_see() {
    let (mut rig, f, table, _) = legacy(Profile::server().with_cap(1 << 4, 0));
    rig.careful = false;
    let frame = rig.frame();
    rig.map(table, 0x40_1000, frame, RW);
    assert!(rig.dma_put(f, Dma::at(0x40_1000), 1).is_err());
    rig.command(WBF, true);
    rig.dma_put(f, Dma::at(0x40_1000), 1).unwrap();
}

#[test]
fn a_device_that_does_not_snoop_is_made_to_where_the_entry_says_so() {
    let (mut rig, f, table, _) = legacy(Profile::server());
    let (free, forced) = (rig.frame(), rig.frame());
    rig.map(table, 0x40_1000, free, RW);
    rig.map(table, 0x40_2000, forced, RW | 1 << 11);
    for at in [free, forced] {
        rig.store(at, 5);
    }
    let careless = |at| Dma { no_snoop: true, ..Dma::at(at) };
    assert_eq!(rig.dma_get(f, careless(0x40_1000)), Ok(0));
    assert_eq!(rig.dma_get(f, careless(0x40_2000)), Ok(5));
}

#[test]
fn interrupts_pass_as_they_are_until_they_are_remapped() {
    let (mut rig, f, ..) = legacy(Profile::server());
    rig.m.config_write(8, 0x54, Size::Double, 0xfee0_0000);
    rig.m.config_write(8, 0x5c, Size::Word, 0x41);
    rig.m.config_write(8, 0x52, Size::Word, 1);
    rig.m.msi(f).unwrap();
    assert_eq!(rig.m.messages(), [Message { unit: 0, address: 0xfee0_0000, data: 0x41 }]);
}

#[test]
fn interrupts_are_remapped_by_their_entry_and_blocked_without_one() {
    let (mut rig, f, ..) = legacy(Profile::server());
    let table = rig.page();
    // Entry 3: present, fixed, vector 51h, APIC 1 (11:8 of the destination), any source.
    rig.put(table + 3 * 16 + 8, 0);
    rig.put(table + 3 * 16, 1 | 0x51 << 16 | 1 << 40);
    rig.w64(common::IRTA, table | 7);
    rig.command(common::SIRTP, true);
    rig.submit([4, 0]);
    rig.command(common::IRE, true);
    let message = |index: u64| 0xfee0_0010 | index << 5;
    rig.m.dma_write(f, &Dma::at(message(3)), &[0; 4]).unwrap();
    let sent = rig.m.messages();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].address, sent[0].data & 0xff), (0xfee0_1000, 0x51));
    assert_eq!(rig.m.dma_write(f, &Dma::at(message(4)), &[0; 4]), Err(Blocked::Interrupt(Reason(0x22))));
    assert_eq!(rig.m.messages(), []);
}

#[test]
fn two_units_share_memory_and_the_clock_and_no_caches() {
    let mut rig = Rig::new(Profile::server());
    let second = rig.m.add_unit(Profile::server());
    let (here, there) = (rig.add(Function::new(8, 0)), rig.add(Function::new(16, second)));
    let (table, frame) = (rig.page(), rig.frame());
    rig.map(table, 0x40_0000, frame, RW);
    rig.attach(8, 5, table, 0);
    rig.attach(16, 5, table, 0);
    rig.bring_up();
    rig.dma_put(here, Dma::at(0x40_0000), 1).unwrap();
    // The second is off.
    rig.dma_put(there, Dma::at(frame), 2).unwrap();
    assert_eq!(rig.m.read(second, GSTS, Size::Double) as u32 & TE, 0);
    assert_eq!(rig.get(frame), 2);
    rig.m.relax(500);
    assert_eq!([0, second].map(|n| rig.m.unit(n).unwrap().now()), [rig.m.now(); 2]);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = || {
        let mut rig = Rig::new(Profile::server()).at_pace(Pace::slow(9));
        let f = rig.add(Function::new(8, 0).with_ats());
        let (table, frame) = (rig.page(), rig.frame());
        rig.map(table, 0x40_0000, frame, RW);
        rig.attach(8, 5, table, 1);
        rig.m.set_leaking(30);
        rig.bring_up();
        rig.enable_ats(8);
        rig.m.set_manner(f, Manner { answers: Answers::Within(5000), wild: 2, ..Manner::default() });
        rig.dma_put(f, Dma::at(0x40_0000).via(Via::DeviceTlb), 1).unwrap();
        let descriptor = rig.invalidate_device(8);
        rig.submit(descriptor);
        let unit = rig.m.unit(0).unwrap();
        (rig.m.now(), format!("{unit:?}"))
    };
    assert_eq!(story(), story());
}

#[test]
fn a_unit_can_be_reached_with_its_bus() {
    let mut rig = Rig::new(Profile::server());
    rig.store(0x5000, 9);
    let seen = rig.m.with_unit(0, |_, bus| bus.read64(0x5000, Snoop::Yes)).unwrap();
    assert_eq!(seen, Some(9));
    assert!(rig.m.with_unit(1, |_, _| ()).is_none());
}

use super::*;
use crate::pace::Pace;
use crate::profile::{Profile, Qemu};
use crate::testing::{FSTS, GCMD, GSTS, IQA, IQT, IRTA, RTADDR, Rig};
use alloc::format;

const CCMD: u32 = 0x28;
const PMEN: u32 = 0x64;

fn server() -> Rig {
    Rig::new(Profile::server(), Pace::prompt())
}

/// At this pace a command completes at the fourth access after its own.
fn lazy(profile: Profile) -> Rig {
    Rig::new(profile, Pace { command: (3, 3), ..Pace::prompt() })
}

fn invalidations(rig: &Rig) -> Vec<Invalidation> {
    let told = rig.unit.story.iter();
    told.filter_map(|(_, h)| if let Happening::Forgot(what) = h { Some(*what) } else { None }).collect()
}

/// SRTP with the invalidations that units without ESRTPS need, through the registers.
fn root(rig: &mut Rig, rtaddr: u64) {
    rig.w64(RTADDR, rtaddr);
    rig.command(SRTP, true);
    if !rig.unit.profile().esrtps() {
        rig.w64(CCMD, ICC | 1 << 61);
        assert_eq!(rig.r64(CCMD) >> 63, 0);
        let iotlb = 16 * rig.unit.profile().iro() as u32 + 8;
        rig.w64(iotlb, IVT | 1 << 60);
        assert_eq!(rig.r64(iotlb) >> 63, 0);
    }
}

#[test]
fn a_driver_of_2008_comes_up() {
    let mut rig = Rig::new(Profile::old(), Pace::slow(7));
    root_slowly(&mut rig);
    rig.command(WBF, true);
    rig.command(TE, true);
    assert!(rig.unit.state().translation);
    rig.command(TE, false);
    assert!(!rig.unit.state().translation);
    rig.clean();
}

fn root_slowly(rig: &mut Rig) {
    rig.w64(RTADDR, 0x1000);
    rig.command(SRTP, true);
    let iotlb = 16 * rig.unit.profile().iro() as u32 + 8;
    for (at, v) in [(CCMD, ICC | 1 << 61), (iotlb, IVT | 1 << 60)] {
        rig.w64(at, v);
        assert!((0..100).any(|_| rig.r64(at) >> 63 == 0));
    }
}

#[test]
fn gcmd_reads_as_0_and_its_levels_show_in_gsts() {
    let mut rig = server();
    root(&mut rig, 0x1000);
    for bit in [TE, CFI] {
        rig.command(bit, true);
        assert_eq!(rig.r32(GSTS) & bit, bit);
        assert_eq!(rig.r32(GCMD), 0);
    }
    assert!(rig.unit.state().compatible);
    rig.command(CFI, false);
    assert!(!rig.unit.state().compatible);
    assert_eq!(rig.r32(GSTS), TE | SRTP);
    rig.clean();
}

#[test]
fn srtp_clears_rtps_until_it_is_done_and_latches_rtaddr() {
    let mut rig = lazy(Profile::qemu(Qemu::SecondStage));
    rig.w64(RTADDR, 0x5400);
    rig.w32(GCMD, SRTP);
    assert_eq!(rig.r32(GSTS), 0);
    assert_eq!(rig.unit.state().root, 0);
    rig.step(3, 0);
    assert_eq!(rig.r32(GSTS), SRTP);
    assert_eq!((rig.unit.state().root, rig.unit.state().mode), (0x5000, Mode::Scalable));
    rig.w64(RTADDR, 0x6000);
    assert_eq!(rig.unit.state().root, 0x5000, "RTADDR alone changes nothing");
    rig.w32(GCMD, SRTP);
    assert_eq!(rig.r32(GSTS), 0);
    rig.step(3, 0);
    assert_eq!((rig.unit.state().root, rig.unit.state().mode), (0x6000, Mode::Legacy));
    rig.clean();
}

#[test]
fn wbfs_is_set_while_write_buffers_are_flushed() {
    let mut rig = lazy(Profile::old());
    rig.w32(GCMD, WBF);
    assert_eq!(rig.r32(GSTS), WBF);
    assert_eq!(rig.bus.flushes, 0);
    rig.step(3, 0);
    assert_eq!(rig.r32(GSTS), 0);
    assert_eq!(rig.bus.flushes, 1);
    rig.clean();
}

#[test]
fn wbf_does_nothing_where_no_flush_is_required() {
    let mut rig = server();
    rig.w32(GCMD, WBF);
    assert_eq!(rig.r32(GSTS), 0);
    assert_eq!(rig.bus.flushes, 0);
    rig.clean();
}

#[test]
fn at_once_means_within_the_write() {
    let mut rig = Rig::new(Profile::qemu(Qemu::Legacy), Pace::at_once());
    rig.w64(RTADDR, 0x1000);
    rig.w32(GCMD, SRTP);
    assert_eq!(rig.unit.state().root, 0x1000);
}

#[test]
fn reserved_bits_of_gcmd_are_told() {
    let mut rig = server();
    rig.w32(GCMD, 1);
    rig.broke(Rule::ReservedBit, "GCMD");
}

#[test]
fn commands_of_absent_features_are_told_and_ignored() {
    let mut rig = Rig::new(Profile::old(), Pace::prompt());
    for bit in [QIE, IRE, SIRTP, CFI] {
        rig.w32(GCMD, bit);
        rig.broke(Rule::CommandOrder, "does not have");
        assert_eq!(rig.r32(GSTS), 0);
    }
}

#[test]
fn several_commands_in_one_write_are_told_and_all_done() {
    let mut rig = server();
    root(&mut rig, 0x1000);
    rig.w32(GCMD, TE | CFI);
    rig.broke(Rule::CommandOrder, "several");
    assert_eq!(rig.r32(GSTS), TE | CFI | SRTP);
    rig.w32(GCMD, TE | CFI | SRTP);
    assert_eq!(rig.r32(GSTS), TE | CFI | SRTP);
    rig.clean();
}

#[test]
fn writing_rtps_back_as_srtp_is_a_second_command() {
    let mut rig = server();
    root(&mut rig, 0x1000);
    let all = rig.r32(GSTS);
    rig.w32(GCMD, all | CFI);
    rig.broke(Rule::CommandOrder, "several");
}

#[test]
fn a_command_before_the_last_was_seen_complete_is_told() {
    let mut rig = server();
    rig.w64(RTADDR, 0x1000);
    rig.w32(GCMD, SRTP);
    rig.w32(GCMD, CFI);
    rig.broke(Rule::CommandOrder, "nobody has waited");
    assert_eq!(rig.r32(GSTS), SRTP | CFI);
    // Whichever register it goes through.
    rig.w64(CCMD, ICC | 1 << 61);
    rig.clean();
    rig.w32(GCMD, 0);
    rig.broke(Rule::CommandOrder, "nobody has waited");
    rig.r32(GSTS);
    rig.w32(PMEN, 1 << 31);
    rig.clean();
    rig.w64(CCMD, ICC | 1 << 61);
    rig.broke(Rule::CommandOrder, "nobody has waited");
}

#[test]
fn te_without_srtp_is_told() {
    let mut rig = Rig::new(Profile::qemu(Qemu::Legacy), Pace::prompt());
    rig.command(TE, true);
    rig.broke(Rule::CommandOrder, "TE without SRTP");
    rig.command(TE, false);
    root(&mut rig, 0x1000);
    rig.command(TE, true);
    rig.command(TE, false);
    rig.clean();
    rig.command(TE, true);
    rig.broke(Rule::CommandOrder, "TE without SRTP");
}

#[test]
fn srtp_before_rtaddr_is_told() {
    let mut rig = server();
    rig.command(SRTP, true);
    rig.broke(Rule::CommandOrder, "RTADDR");
}

#[test]
fn the_mode_changes_under_translation_only_with_esrtps() {
    for (esrtps, clear) in [(1 << 63, 0), (0, 1 << 63)] {
        let mut rig = Rig::new(Profile::maximal().with_cap(esrtps, clear), Pace::prompt());
        rig.w64(RTADDR, 0x1c00);
        rig.command(SRTP, true);
        rig.command(TE, true);
        rig.clean();
        rig.w64(RTADDR, 0x1400);
        if esrtps == 0 {
            rig.broke(Rule::CommandOrder, "TTM or SSIRWE");
        }
        rig.command(SRTP, true);
        if esrtps == 0 {
            rig.broke(Rule::CommandOrder, "TTM");
        }
        rig.clean();
    }
}

#[test]
fn without_esrtps_the_caches_are_invalidated_before_te() {
    let mut rig = server();
    rig.w64(RTADDR, 0x1000);
    rig.command(SRTP, true);
    // The IOTLB before the context cache does not count.
    rig.w64(0x208, IVT | 1 << 60);
    rig.r64(0x208);
    rig.w64(CCMD, ICC | 1 << 61);
    rig.r64(CCMD);
    rig.command(TE, true);
    rig.broke(Rule::GlobalInvalidation, "IOTLB");
    rig.command(TE, false);
    rig.command(SRTP, true);
    rig.command(TE, true);
    rig.broke(Rule::GlobalInvalidation, "context cache");
    rig.command(TE, false);
    root(&mut rig, 0x1000);
    rig.command(TE, true);
    rig.clean();
}

#[test]
fn without_esirtps_the_entries_are_invalidated_before_ire() {
    let mut rig = server();
    rig.w64(IRTA, 0x2007);
    rig.command(SIRTP, true);
    rig.command(IRE, true);
    rig.broke(Rule::GlobalInvalidation, "interrupt entry cache");
    assert!(rig.unit.state().remapping);
    assert_eq!((rig.unit.state().interrupts, rig.unit.state().interrupt_entries), (0x2000, 256));
}

#[test]
fn srtp_and_sirtp_invalidate_with_esrtps_and_esirtps_only() {
    let mut rig = Rig::new(Profile::maximal(), Pace::prompt());
    rig.w64(RTADDR, 0x1000);
    rig.command(SRTP, true);
    rig.w64(IRTA, 0x2000);
    rig.command(SIRTP, true);
    assert_eq!(invalidations(&rig), [Invalidation::Everything, Invalidation::Interrupts]);
    rig.command(IRE, true);
    rig.command(IRE, false);
    assert_eq!(invalidations(&rig).len(), 3, "IRE=0 invalidates, too");
    rig.clean();
    let mut rig = server();
    rig.w64(RTADDR, 0x1000);
    rig.command(SRTP, true);
    rig.w64(IRTA, 0x2000);
    rig.command(SIRTP, true);
    assert_eq!(invalidations(&rig), []);
}

#[test]
fn te_0_invalidates_on_units_with_scalable_mode() {
    for (profile, expected) in [(Profile::maximal(), 1), (Profile::qemu(Qemu::Legacy), 0)] {
        let mut rig = Rig::new(profile, Pace::prompt());
        root(&mut rig, 0x1000);
        rig.command(TE, true);
        let before = invalidations(&rig).len();
        rig.command(TE, false);
        assert_eq!(invalidations(&rig).len() - before, expected);
        rig.clean();
    }
}

#[test]
fn ire_without_sirtp_is_told() {
    let mut rig = server();
    rig.command(IRE, true);
    rig.broke(Rule::CommandOrder, "IRE without SIRTP");
    // Nor after a disable.
    let mut rig = Rig::new(Profile::maximal(), Pace::prompt());
    rig.w64(IRTA, 0x2000);
    rig.command(SIRTP, true);
    rig.command(IRE, true);
    rig.command(IRE, false);
    rig.clean();
    rig.command(IRE, true);
    rig.broke(Rule::CommandOrder, "IRE without SIRTP");
}

#[test]
fn eime_stays_while_interrupts_are_remapped() {
    let mut rig = Rig::new(Profile::maximal(), Pace::prompt());
    rig.w64(IRTA, 0x2800);
    rig.command(SIRTP, true);
    rig.command(IRE, true);
    assert!(rig.unit.state().extended);
    rig.w64(IRTA, 0x3800);
    rig.command(SIRTP, true);
    rig.clean();
    rig.w64(IRTA, 0x3000);
    rig.broke(Rule::CommandOrder, "EIME was changed");
    rig.command(SIRTP, true);
    rig.broke(Rule::CommandOrder, "another EIME");
}

#[test]
fn a_unit_that_requires_eime_is_given_it() {
    let mut rig = Rig::new(Profile::maximal().with_ecap(1 << 61, 0), Pace::prompt());
    rig.w64(IRTA, 0x2000);
    rig.command(SIRTP, true);
    rig.broke(Rule::CommandOrder, "requires it");
    rig.w64(IRTA, 0x2800);
    rig.command(SIRTP, true);
    rig.clean();
}

#[test]
fn qie_needs_iqa_and_a_tail_of_0() {
    let mut rig = server();
    rig.command(QIE, true);
    rig.broke(Rule::CommandOrder, "IQA");
    rig.command(QIE, false);
    rig.w64(IQA, 0x3000);
    rig.w32(IQT, 0x10);
    rig.submit(QIE, true);
    rig.broke(Rule::CommandOrder, "IQT");
}

#[test]
fn the_queue_is_not_disabled_before_it_is_empty_and_quiet() {
    let mut rig = server();
    rig.w64(IQA, 0x3000);
    rig.command(QIE, true);
    rig.command(QIE, false);
    rig.command(QIE, true);
    rig.clean();
    // A context-cache invalidation, and no wait.
    rig.bus.put(0x3000, &[0x11, 0, 0x45, 0]);
    rig.w64(IQT, 0x10);
    rig.step(4, 0);
    rig.submit(QIE, false);
    rig.broke(Rule::CommandOrder, "no completed wait");
    rig.step(4, 0);
    rig.r32(GSTS);
    assert_eq!(rig.r64(crate::testing::IQH), 0);
    // With a wait it may be; with something left to fetch it may not.
    rig.w64(IQT, 0);
    rig.command(QIE, true);
    rig.w64(IQT, 0x20);
    rig.step(4, 0);
    rig.submit(QIE, false);
    rig.clean();
    rig.r32(GSTS);
    rig.w64(IQT, 0);
    rig.command(QIE, true);
    rig.unit.adversary().stuck_queue = true;
    rig.unit.set_pace(Pace { in_flight: 1, ..Pace::prompt() });
    rig.w64(IQT, 0x20);
    rig.submit(QIE, false);
    assert!(!rig.unit.oracle().breaches().is_empty());
    let told = format!("{:?}", rig.unit.oracle().breaches());
    assert!(told.contains("IQH is not IQT"));
}

#[test]
fn registers_of_a_pending_command_are_left_alone() {
    let mut rig = lazy(Profile::maximal());
    rig.w64(RTADDR, 0x1000);
    rig.w32(GCMD, SRTP);
    rig.w32(RTADDR, 0x2000);
    rig.broke(Rule::CommandOrder, "RTADDR was written while SRTP");
    rig.step(9, 0);
    rig.r32(GSTS);
    rig.w64(IRTA, 0x2000);
    rig.w32(GCMD, SIRTP);
    rig.w32(IRTA, 0x3000);
    rig.broke(Rule::CommandOrder, "IRTA was written while SIRTP");
}

#[test]
fn context_cache_invalidations_through_ccmd() {
    let mut rig = server();
    let v = ICC | 2 << 32 | 0x0108 << 16 | 5;
    let device = Invalidation::ContextOfDevice { domain: 5, source: 0x0108, mask: 2 };
    for (granularity, what) in [(1, Invalidation::Contexts), (2, Invalidation::ContextsOfDomain(5)), (3, device)] {
        rig.w64(CCMD, v | granularity << 61);
        assert_eq!(rig.r64(CCMD) >> 59 & 0x13, granularity, "ICC is clear, CAIG says what was done");
        assert_eq!(invalidations(&rig).last(), Some(&what));
    }
    rig.w64(CCMD, v);
    assert_eq!(rig.r64(CCMD) >> 59 & 0x13, 0, "no granularity: an error");
    assert_eq!(invalidations(&rig).len(), 3);
    rig.clean();
}

#[test]
fn the_upper_half_of_ccmd_starts_it() {
    let mut rig = server();
    rig.w32(CCMD, 7);
    assert_eq!(invalidations(&rig), []);
    rig.w32(CCMD + 4, 1 << 31 | 2 << 29);
    assert_eq!(rig.r32(CCMD + 4) >> 31, 0);
    assert_eq!(invalidations(&rig), [Invalidation::ContextsOfDomain(7)]);
    rig.clean();
}

#[test]
fn iotlb_invalidations_through_registers() {
    let mut rig = server();
    let (iva, iotlb) = (0x200, 0x208);
    rig.w64(iva, 0x123_4567_8000 | 9 | 1 << 6);
    let pages = Pages { address: 0x123_4560_0000, order: 9, leaf_only: true };
    for (granularity, what) in
        [(1, Invalidation::Iotlb), (2, Invalidation::IotlbOfDomain(5)), (3, Invalidation::IotlbPages(5, pages))]
    {
        rig.w64(iotlb, IVT | granularity << 60 | 5 << 32);
        assert_eq!(rig.r64(iotlb) >> 57 & 0x43, granularity);
        assert_eq!(invalidations(&rig).last(), Some(&what));
    }
    rig.w64(iva, 0xffff_0000_0000_1000);
    rig.w64(iotlb, IVT | 3 << 60);
    rig.r64(iotlb);
    let pages = Pages { address: 0x1000, order: 0, leaf_only: false };
    assert_eq!(invalidations(&rig).last(), Some(&Invalidation::IotlbPages(0, pages)), "MGAW is 48 bits");
    rig.w64(iva, 19);
    rig.w64(iotlb, IVT | 3 << 60);
    assert_eq!(rig.r64(iotlb) >> 57 & 0x43, 0, "AM above MAMV");
    assert_eq!(invalidations(&rig).len(), 4);
    rig.clean();
}

#[test]
fn without_psi_a_page_takes_its_domain_along() {
    let mut rig = Rig::new(Profile::server().with_cap(0, 1 << 39), Pace::prompt());
    rig.w64(0x208, IVT | 3 << 60 | 5 << 32);
    assert_eq!(rig.r64(0x208) >> 57 & 0x43, 2);
    assert_eq!(invalidations(&rig), [Invalidation::IotlbOfDomain(5)]);
}

#[test]
fn domain_ids_have_the_bits_that_the_unit_has() {
    // ND is 2: 8 bits.
    let mut rig = Rig::new(Profile::old(), Pace::prompt());
    rig.w64(CCMD, ICC | 2 << 61 | 0x3205);
    rig.r64(CCMD);
    rig.w64(0x108, IVT | 2 << 60 | 0x3206 << 32);
    rig.r64(0x108);
    assert_eq!(invalidations(&rig), [Invalidation::ContextsOfDomain(5), Invalidation::IotlbOfDomain(6)]);
    assert_eq!(rig.bus.flushes, 2, "write buffers are flushed before");
}

#[test]
fn registers_invalidate_nothing_from_major_version_6_nor_outside_legacy_mode() {
    let mut modern = Rig::new(Profile::sapphire_rapids(), Pace::prompt());
    let mut scalable = Rig::new(Profile::qemu(Qemu::SecondStage), Pace::prompt());
    root(&mut scalable, 0x1400);
    for (rig, iotlb) in [(&mut modern, 0x508), (&mut scalable, 0xf8)] {
        let before = invalidations(rig).len();
        rig.w64(CCMD, ICC | 1 << 61 | 3 << 59);
        assert_eq!(rig.r64(CCMD) >> 59 & 0x13, 0);
        rig.w64(iotlb, IVT | 1 << 60 | 3 << 57);
        assert_eq!(rig.r64(iotlb) >> 57 & 0x43, 0);
        assert_eq!(invalidations(rig).len(), before);
        rig.clean();
    }
}

#[test]
fn registers_and_queue_are_not_mixed() {
    let mut rig = server();
    rig.w64(IQA, 0x3000);
    rig.command(QIE, true);
    rig.w64(CCMD, ICC | 1 << 61);
    rig.broke(Rule::CommandOrder, "while QIES");
    assert_eq!(rig.r64(CCMD) >> 59 & 0x13, 0, "an error");
    rig.w64(0x208, IVT | 1 << 60);
    rig.broke(Rule::CommandOrder, "while QIES");
    assert_eq!(rig.r64(0x208) >> 57 & 0x43, 0);
    assert_eq!(invalidations(&rig), []);
}

#[test]
fn pending_invalidations_are_not_disturbed() {
    let mut rig = lazy(Profile::server());
    rig.w64(CCMD, ICC | 1 << 61);
    rig.w32(CCMD, 9);
    rig.broke(Rule::CommandOrder, "while ICC");
    rig.w64(0x208, IVT | 1 << 60);
    rig.forgive();
    rig.w64(0x208, IVT | 1 << 60);
    assert!(!rig.unit.oracle().breaches().is_empty());
    rig.forgive();
    let mut rig = lazy(Profile::server());
    rig.w64(0x208, IVT | 1 << 60);
    rig.w32(0x200, 0x1000);
    rig.broke(Rule::CommandOrder, "IVA was written while IVT");
    rig.w32(0x208 + 4, 0);
    rig.broke(Rule::CommandOrder, "IOTLB was written while IVT");
}

#[test]
fn protected_memory_has_the_granularity_that_reading_back_shows() {
    let mut rig = server();
    for at in [0x68, 0x6c] {
        rig.w32(at, u32::MAX);
        assert_eq!(rig.r32(at), 0xffe0_0000);
    }
    for at in [0x70, 0x78] {
        rig.w64(at, u64::MAX);
        assert_eq!(rig.r64(at), 0x3fff_ffe0_0000, "and the host's width");
    }
    rig.clean();
}

#[test]
fn protected_regions_are_base_to_limit_and_limits_end_in_ones() {
    let mut rig = lazy(Profile::server());
    rig.w32(0x68, 0x0020_0000);
    rig.w32(0x6c, 0x0020_0000);
    rig.w64(0x70, 0x2_0000_0000);
    rig.w64(0x78, 0x1_0000_0000);
    rig.w32(PMEN, 1 << 31);
    assert_eq!(rig.r32(PMEN), 1 << 31);
    assert_eq!(rig.unit.state().protected, [None, None]);
    rig.step(3, 0);
    assert_eq!(rig.r32(PMEN), 1 << 31 | 1);
    assert_eq!(rig.unit.state().protected, [Some((0x20_0000, 0x3f_ffff)), None], "a limit below its base disables");
    rig.clean();
    rig.w32(0x68, 0);
    rig.broke(Rule::CommandOrder, "protected region");
    rig.w32(PMEN, 0);
    rig.step(4, 0);
    assert_eq!(rig.r32(PMEN), 0);
    assert_eq!(rig.unit.state().protected, [None, None]);
    rig.clean();
}

#[test]
fn a_region_that_the_unit_lacks_protects_nothing() {
    let mut rig = Rig::new(Profile::server().with_cap(0, 1 << 6), Pace::prompt());
    rig.w32(PMEN, 1 << 31);
    assert_eq!(rig.r32(PMEN), 1 << 31 | 1);
    assert_eq!(rig.unit.state().protected, [Some((0, 0x1f_ffff)), None]);
    rig.clean();
}

#[test]
fn the_fault_index_rewinds_when_both_kinds_of_remapping_are_off() {
    let mut rig = server();
    root(&mut rig, 0x1000);
    rig.command(TE, true);
    rig.unit.flood_faults(&mut rig.bus, 0x100);
    assert_eq!(rig.r32(FSTS) & 3, 3);
    for n in 0..8 {
        rig.w32(0x10c + 16 * n, 1 << 31);
    }
    rig.w32(FSTS, 1);
    for _ in 0..2 {
        rig.unit.record(&mut rig.bus, fault());
    }
    assert_eq!(rig.r32(FSTS) >> 8, 0, "eight registers: the ring came round");
    rig.w32(0x10c, 1 << 31);
    rig.w32(0x11c, 1 << 31);
    rig.unit.record(&mut rig.bus, fault());
    assert_eq!(rig.r32(FSTS) >> 8, 2);
    rig.w32(0x12c, 1 << 31);
    rig.clean();
    rig.command(IRE, true);
    rig.command(TE, false);
    rig.unit.record(&mut rig.bus, fault());
    assert_eq!(rig.r32(FSTS) >> 8, 3, "interrupts are remapped still");
    rig.w32(0x13c, 1 << 31);
    rig.command(IRE, false);
    rig.unit.record(&mut rig.bus, fault());
    assert_eq!(rig.r32(FSTS) >> 8, 0);
}

fn fault() -> crate::faults::Record {
    crate::faults::Record {
        reason: crate::reason::Reason(2),
        source: 8,
        pasid: None,
        privileged: false,
        execute: false,
        kind: crate::faults::RecordKind::PageRequest,
        address: 0,
    }
}

#[test]
fn what_is_stuck_never_completes() {
    let mut rig = server();
    rig.unit.adversary().stuck_commands = CFI;
    rig.unit.adversary().stuck_registers = true;
    rig.submit(CFI, true);
    rig.step(1000, 0);
    assert_eq!(rig.r32(GSTS), 0);
    let mut rig = server();
    rig.unit.adversary().stuck_registers = true;
    rig.w64(CCMD, ICC | 1 << 61);
    rig.step(1000, 0);
    assert_eq!(rig.r64(CCMD) >> 63, 1);
}

//! Attaching, replacing, detaching: what devices reach then, with caches that keep everything.

use super::machine::{BEHIND, Machine, SUBSTITUTE, WIDE, config, dev, map, range};
use crate::host::testing::Host;
use crate::hw::registers::at;
use crate::unit::standin::{
    CAP, CAP_CM, CAP_RWBF, ECAP_C, ECAP_FSTS, ECAP_NEST, ECAP_PT, ECAP_QI, ECAP_SM, ECAP_SMPWCS, ECAP_SNOOP, Standin,
    WBF,
};
use crate::{
    Access, Change, Config, Domain, DomainSpec, ErrorKind, Field, Gpa, Group, Iova, MapWhy, Need, Owner, PageSizes,
    Stage1Spec, Step, Target, UnitId,
};

/// Kinds of units.
fn kinds(ecap: u64) -> [(u64, u64); 5] {
    [(CAP, ecap), (CAP | CAP_CM, ecap), (CAP | CAP_RWBF, ecap), (CAP, ecap & !ECAP_QI), (CAP | CAP_CM, ecap & !ECAP_QI)]
}
const ONE: u16 = 1 << 3;

fn domain(m: &Machine, to: u64) -> Domain<Host> {
    let d = m.vtd.domain(&WIDE).unwrap();
    map(&d, 0x1000, to, 0x1000);
    d
}

fn asks(writes: &[(u32, u64)]) -> usize {
    writes.iter().filter(|(place, v)| *place == at::GCMD && *v & u64::from(WBF) != 0).count()
}

fn devices_meet_what_they_are_attached_to_and_never_what_they_were(ecap: u64) {
    for kind in kinds(ecap) {
        let m = Machine::new(&[kind]);
        let reach = || m.units[0].access(ONE, 0x1234);
        assert_eq!(reach(), None);
        let (a, b) = (domain(&m, 0xa000), domain(&m, 0xb000));
        let group = m.claim(dev(1));
        assert_eq!(reach(), None);
        assert_eq!(group.attach(Target::Domain(&a)), Ok(Change::WithGap));
        assert_eq!(reach(), Some(0xa234));
        assert_eq!(group.attach(Target::Domain(&b)), Ok(Change::Seamless));
        assert_eq!(reach(), Some(0xb234));
        assert_eq!(group.attach(Target::Domain(&b)), Ok(Change::Seamless));
        assert_eq!(group.attach(Target::Identity), Ok(Change::Seamless));
        assert_eq!(reach(), Some(0x1234));
        assert_eq!(group.attach(Target::Domain(&a)), Ok(Change::Seamless));
        assert_eq!(reach(), Some(0xa234));
        assert_eq!(group.attach(Target::Blocked), Ok(Change::WithGap));
        assert_eq!(reach(), None);
        group.attach(Target::Domain(&a)).unwrap();
        assert_eq!(reach(), Some(0xa234));
        group.release().map_err(|(_, e)| e).unwrap();
        assert_eq!(reach(), None);
        drop((a, b));
        m.end();
    }
}

fn every_id_that_a_group_may_carry_goes_the_same_way(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let group = m.claim(BEHIND[1]);
    assert_eq!(group.devices().count(), 3);
    let d = domain(&m, 0xc000);
    group.attach(Target::Domain(&d)).unwrap();
    let ids = [0x100, 0x208, 0x210, SUBSTITUTE];
    assert_eq!(ids.map(|id| m.units[0].access(id, 0x1000)), [Some(0xc000); 4]);
    m.forget();
    group.attach(Target::Blocked).unwrap();
    assert_eq!(ids.map(|id| m.units[0].access(id, 0x1000)), [None; 4]);
    let (writes, done) = m.units[0].take();
    assert_eq!(writes.len(), 1, "one write of the tail");
    // Each id's context, or the one PASID that they share a domain id for; and only then the translations, once.
    let kinds: std::vec::Vec<u64> = done.iter().map(|d| d[0] & 15).collect();
    assert_eq!(kinds, if ecap == ECAP_SM { &[7, 2][..] } else { &[1, 1, 1, 1, 2] });
    drop((group, d));
    m.end();
}

fn a_domain_that_a_unit_cannot_take_is_refused_by_name_and_nothing_changes(ecap: u64) {
    let wide = DomainSpec { width: 39, ..WIDE };
    let lacks = [
        (CAP & !(1 << 10), ecap, wide, Need::Width),
        (CAP & !(63 << 16) | 38 << 16, ecap, DomainSpec { width: 40, ..WIDE }, Need::Width),
        (CAP & !(1 << 35), ecap, wide, Need::PageSizes),
        (CAP & !(3 << 34), ecap, DomainSpec { sizes: PageSizes::SIZE_2M, ..wide }, Need::PageSizes),
        (CAP, ecap & !ECAP_SNOOP, wide, Need::Coherence),
        (CAP, ecap & !(1 << 7), DomainSpec { force_snoop: true, ..wide }, Need::SnoopControl),
    ];
    for (cap, lacking, spec, need) in lacks {
        let m = Machine::new(&[(CAP, ecap), (cap, lacking)]);
        let d: Domain<Host> = m.vtd.domain(&spec).unwrap();
        map(&d, 0x1000, 0x4000, 0x1000);
        let (able, lacking) = (m.claim(dev(1)), m.claim(dev(9)));
        able.attach(Target::Domain(&d)).unwrap();
        lacking.attach(Target::Identity).unwrap();
        m.forget();
        let e = lacking.attach(Target::Domain(&d)).unwrap_err();
        assert_eq!((e.kind, e.unit), (ErrorKind::Unsupported(need), Some(UnitId(1))));
        assert!(m.units[1].take().0.is_empty());
        assert_eq!(m.units[1].access(9 << 3, 0x9000), Some(0x9000));
        assert_eq!(m.units[0].access(ONE, 0x1000), Some(0x4000));
        let fits: Domain<Host> = m.vtd.domain(&lacking.best_spec()).unwrap();
        lacking.attach(Target::Domain(&fits)).unwrap();
        assert_eq!(m.units[1].access(9 << 3, 0x9000), None);
        drop((able, lacking, d, fits));
        m.end();
    }
}

fn domain_ids_end_as_an_error_and_come_back(ecap: u64) {
    for cap in [CAP & !7, CAP & !7 | CAP_CM] {
        let m = Machine::new(&[(cap, ecap)]);
        let domains: std::vec::Vec<_> = (0..15).map(|n| domain(&m, 0x10_0000 + (n << 12))).collect();
        let groups: std::vec::Vec<_> = (1..16).map(|n| m.claim(dev(n))).collect();
        for (g, d) in groups.iter().zip(&domains).take(14) {
            g.attach(Target::Domain(d)).unwrap();
        }
        let e = groups[14].attach(Target::Domain(&domains[14])).unwrap_err();
        assert_eq!((e.kind, e.unit), (ErrorKind::OutOfDomainIds, Some(UnitId(0))));
        // A domain that has an id on the unit needs no other.
        groups[14].attach(Target::Domain(&domains[3])).unwrap();
        groups[14].attach(Target::Blocked).unwrap();
        for n in 0..100 {
            let (out, within) = (n % 14, 14);
            groups[out].attach(Target::Blocked).unwrap();
            groups[within].attach(Target::Domain(&domains[within])).unwrap();
            assert_eq!(m.units[0].access(15 << 3, 0x1000), Some(0x10_e000));
            assert_eq!(m.units[0].access((out as u16 + 1) << 3, 0x1000), None);
            groups[within].attach(Target::Blocked).unwrap();
            groups[out].attach(Target::Domain(&domains[out])).unwrap();
            assert_eq!(m.units[0].access((out as u16 + 1) << 3, 0x1000), Some(0x10_0000 + ((out as u64) << 12)));
        }
        drop((groups, domains));
        m.end();
    }
}

fn an_id_is_given_again_only_when_its_flush_has_completed(ecap: u64) {
    let m = Machine::new(&[(CAP & !7, ecap)]);
    let (a, b) = (domain(&m, 0xa000), domain(&m, 0xb000));
    let group = m.claim(dev(1));
    group.attach(Target::Domain(&a)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xa000));
    let did = |unit: &Standin| unit.take().1.iter().filter(|d| d[0] & 0x3f == 0x22).map(|d| d[0] >> 16).next_back();
    m.units[0].state().hold = true;
    let e = group.attach(Target::Blocked).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout(Step::Invalidation));
    let held = did(&m.units[0]).unwrap();
    m.units[0].state().hold = false;
    m.units[0].release(|_| true);
    // The group is blocked; the id of what may still be cached goes to nobody.
    assert_eq!(m.units[0].access(ONE, 0x1000), None);
    for n in 2..9 {
        let other = m.claim(dev(n));
        other.attach(Target::Domain(&b)).unwrap();
        other.attach(Target::Blocked).unwrap();
        assert_ne!(did(&m.units[0]), Some(held));
    }
    group.attach(Target::Domain(&b)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xb000));
    // That flushed everything: id and tables are not in doubt any more.
    m.forget();
    let other = m.claim(dev(9));
    other.attach(Target::Domain(&a)).unwrap();
    other.attach(Target::Blocked).unwrap();
    assert_eq!(did(&m.units[0]), Some(held));
    drop((group, other, a, b));
    m.end();
}

fn a_group_that_is_dropped_while_its_device_is_isolated_comes_back(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let a = domain(&m, 0xa000);
    let group = m.claim(dev(1));
    let id = group.id();
    group.attach(Target::Domain(&a)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xa000));
    // Its owner drops it while another waits for its flush.
    m.units[0].state().hold = true;
    let (unit, last) = (m.units[0].clone(), std::sync::Mutex::new(Some(group)));
    m.host.on_relax(move || {
        if let Some(group) = last.lock().unwrap().take() {
            drop(group);
            unit.state().hold = false;
            unit.release(|_| true);
        }
    });
    m.vtd.removed(dev(1)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), None);
    assert_eq!(m.vtd.claim(id, Owner(8)).unwrap_err().kind, ErrorKind::Busy);
    m.vtd.service(9);
    // The same kind of device answers there.
    let next = m.vtd.claim(id, Owner(8)).unwrap();
    next.attach(Target::Domain(&a)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xa000));
    drop((next, a));
    m.end();
}

fn attaching_under_every_failing_allocation_changes_nothing(ecap: u64) {
    for kind in [(CAP, ecap), (CAP | CAP_CM, ecap), (CAP, ecap & !ECAP_SNOOP)] {
        let mut n = 0;
        loop {
            let (host, units, dmar) = Machine::prepare(Host::new(), &[kind]);
            let dmar = dmar.reserved(0x7a00_0000, 0x7a3f_0fff, dev(1)).reserved(0x7b00_0000, 0x7b00_0fff, dev(1));
            let m = Machine::with(host, units, &dmar, config());
            let spec = DomainSpec { coherent: kind.1 & ECAP_C != 0, ..WIDE };
            let d: Domain<Host> = m.vtd.domain(&spec).unwrap();
            let group = m.vtd.claim(m.vtd.group_of(dev(1)).unwrap(), Owner::HOST).unwrap();
            let before = m.host.counts().frames;
            m.host.fail_after(Some(n));
            let outcome = group.attach(Target::Domain(&d));
            m.host.fail_after(None);
            if let Err(e) = outcome {
                assert_eq!(e.kind, ErrorKind::OutOfFrames);
                assert_eq!(m.units[0].access(ONE, 0x7a00_0000), None);
                d.settle().unwrap();
                assert_eq!(m.host.counts().frames, before);
                assert_eq!(d.translate(Iova::at(0x7a00_0000)), None);
                group.attach(Target::Domain(&d)).unwrap();
            }
            assert_eq!(m.units[0].access(ONE, 0x7a3f_0000), Some(0x7a3f_0000));
            assert_eq!(m.units[0].access(ONE, 0x7b00_0010), Some(0x7b00_0010));
            drop((group, d));
            m.end();
            if outcome.is_ok() {
                break;
            }
            n += 1;
        }
        assert!(n >= 3);
    }
}

fn regions_are_mapped_while_attached_and_never_over_something_else(ecap: u64) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let dmar = dmar.reserved(0x7a00_0000, 0x7a00_3fff, dev(1)).reserved(0x7a00_0000, 0x7a00_3fff, dev(2));
    let m = Machine::with(host, units, &dmar, config());
    let claim = |n| m.vtd.claim(m.vtd.group_of(dev(n)).unwrap(), Owner::HOST).unwrap();
    let (one, two) = (claim(1), claim(2));
    let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    map(&d, 0x7a00_2000, 0x5000, 0x1000);
    let e = one.attach(Target::Domain(&d)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid(Field::ReservedRegion));
    assert_eq!(m.units[0].access(ONE, 0x7a00_2000), None);
    assert_eq!(d.translate(Iova::at(0x7a00_0000)), None);
    d.unmap(range(0x7a00_2000, 0x7a00_2fff)).unwrap().flush().unwrap();
    one.attach(Target::Domain(&d)).unwrap();
    two.attach(Target::Domain(&d)).unwrap();
    for device in [ONE, 2 << 3] {
        assert_eq!(m.units[0].access(device, 0x7a00_2000), Some(0x7a00_2000));
    }
    // The owner of the domain has no say about them meanwhile.
    let region = range(0x7a00_1000, 0x7a00_1fff);
    assert_eq!(d.unmap(region).map(drop).unwrap_err().why, MapWhy::InterruptRange);
    assert_eq!(d.protect(region, Access::READ).map(drop).unwrap_err().why, MapWhy::InterruptRange);
    assert_eq!(d.edit().unmap(region).unwrap_err().why, MapWhy::InterruptRange);
    one.attach(Target::Blocked).unwrap();
    assert_eq!(m.units[0].access(2 << 3, 0x7a00_2000), Some(0x7a00_2000), "the other needs it still");
    two.attach(Target::Blocked).unwrap();
    assert_eq!(d.translate(Iova::at(0x7a00_2000)), None);
    drop((one, two, d));
    m.end();
}

fn regions_that_overlap_are_mapped_once_and_stay_while_one_needs_them(ecap: u64) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let dmar = dmar.reserved(0x7a00_1000, 0x7a00_4fff, dev(1)).reserved(0x7a00_3000, 0x7a00_7fff, dev(2));
    let dmar = dmar.reserved(0x7a00_0000, 0x7a00_8fff, dev(3));
    let m = Machine::with(host, units, &dmar, config());
    let claim = |n| m.vtd.claim(m.vtd.group_of(dev(n)).unwrap(), Owner::HOST).unwrap();
    let groups = [claim(1), claim(2), claim(3)];
    let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    let mapped = || (0..10u64).filter(|i| d.translate(Iova::at(0x7a00_0000 + i * 0x1000)).is_some()).sum::<u64>();
    let attach = |n: usize| groups[n].attach(Target::Domain(&d)).map(drop);
    let block = |n: usize| groups[n].attach(Target::Blocked).map(drop).unwrap();
    attach(0).unwrap();
    assert_eq!(mapped(), 1 + 2 + 3 + 4);
    attach(1).unwrap();
    assert_eq!(mapped(), (1..=7).sum::<u64>());
    attach(2).unwrap();
    assert_eq!(mapped(), (0..=8).sum::<u64>());
    for n in 1..=3u16 {
        assert_eq!(m.units[0].access(n << 3, 0x7a00_3010), Some(0x7a00_3010));
    }
    block(2);
    assert_eq!(mapped(), (1..=7).sum::<u64>(), "the others need theirs still");
    block(0);
    assert_eq!(mapped(), (3..=7).sum::<u64>());
    block(1);
    assert_eq!(mapped(), 0);
    // Something else stands in the last piece: nothing stays of those before it.
    map(&d, 0x7a00_8000, 0x5000, 0x1000);
    attach(1).unwrap();
    assert_eq!(attach(2).unwrap_err().kind, ErrorKind::Invalid(Field::ReservedRegion));
    assert_eq!(mapped(), (3..=8).sum::<u64>());
    drop((groups, d));
    m.end();
}

fn identity_is_pass_through_or_tables_that_leave_the_interrupt_addresses_out(ecap: u64) {
    for (ecap, interrupts) in [(ecap, Some(0xfee0_1000)), (ecap & !ECAP_PT, None)] {
        let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap), (CAP, ecap & !ECAP_SNOOP)]);
        // With a region in RAM, and one above what the tables reach.
        let dmar = dmar.reserved(0x7a00_0000, 0x7a00_3fff, dev(1)).reserved(0x40_0000_0000, 0x40_0000_0fff, dev(1));
        let m = Machine::with(host, units, &dmar, Config { identity_top: super::machine::hpa(8 << 30), ..config() });
        let group = m.vtd.claim(m.vtd.group_of(dev(1)).unwrap(), Owner::HOST).unwrap();
        let other = m.claim(dev(9));
        group.attach(Target::Identity).unwrap();
        other.attach(Target::Identity).unwrap();
        for address in [0, 0x7a00_1000, 0xfedf_f000, 0xfef0_0000, 0x1_ffff_f000] {
            assert_eq!(m.units[0].access(ONE, address), Some(address), "{address:#x}");
            assert_eq!(m.units[1].access(9 << 3, address), Some(address), "{address:#x}");
        }
        assert_eq!(m.units[0].access(ONE, 0x40_0000_0000), Some(0x40_0000_0000));
        assert_eq!(m.units[0].access(ONE, 0xfee0_1000), interrupts);
        group.attach(Target::Blocked).unwrap();
        assert_eq!(m.units[1].access(9 << 3, 0x7a00_1000), Some(0x7a00_1000), "others keep all of it");
        drop((group, other));
        m.end();
    }
}

fn write_buffers_are_flushed_where_nothing_else_does(ecap: u64) {
    let m = Machine::new(&[(CAP | CAP_RWBF, ecap)]);
    let d = domain(&m, 0xa000);
    let group = m.claim(dev(1));
    m.forget();
    group.attach(Target::Domain(&d)).unwrap();
    let (writes, done) = m.units[0].take();
    assert_eq!((asks(&writes), done.len()), (1, 0), "from blocked, nothing is invalidated");
    group.attach(Target::Identity).unwrap();
    let (writes, done) = m.units[0].take();
    assert_eq!((asks(&writes), done.len()), (0, 2), "invalidations flush it too");
    drop((group, d));
    m.end();
}

fn caching_mode_flushes_absent_entries_under_id_0(ecap: u64) {
    let m = Machine::new(&[(CAP | CAP_CM, ecap)]);
    let d = domain(&m, 0xa000);
    let group = m.claim(dev(1));
    m.forget();
    group.attach(Target::Domain(&d)).unwrap();
    let (_, done) = m.units[0].take();
    let (context, domain) = (1 | 3 << 4 | u64::from(ONE) << 32, |did: u64| 2 | 2 << 4 | 3 << 6 | did << 16);
    let words: std::vec::Vec<u64> = done.iter().map(|d| d[0]).collect();
    // In scalable mode the absent PASID entry too.
    let expected = [context, 7, domain(0), domain(2)];
    assert_eq!(
        words,
        expected.into_iter().filter(|w| ecap == ECAP_SM || ![7, domain(0)].contains(w)).collect::<std::vec::Vec<_>>()
    );
    drop((group, d));
    m.end();
}

fn units_that_do_not_snoop_read_in_memory_what_they_should(ecap: u64) {
    // In scalable mode walks of page tables may snoop while those of other tables do not, and the other way round.
    for missing in [ECAP_SNOOP, ECAP_C, ECAP_SMPWCS] {
        let (host, units, dmar) = Machine::prepare(Host::incoherent(), &[(CAP, ecap & !missing); 2]);
        let dmar = dmar.reserved(0x7a00_0000, 0x7a00_3fff, dev(3));
        let m = Machine::with(host, units, &dmar, config());
        assert_eq!(m.units[0].access(3 << 3, 0x7a00_0123), Some(0x7a00_0123));
        assert_eq!(m.units[0].access(ONE, 0x7a00_0123), None);
        assert_eq!(m.units[1].access(0xff00, 0x7a00_0123), None);
        let d: Domain<Host> = m.vtd.domain(&DomainSpec { coherent: false, ..WIDE }).unwrap();
        let group = m.claim(BEHIND[0]);
        group.attach(Target::Domain(&d)).unwrap();
        let unit =
            m.units.iter().find(|u| u.access(SUBSTITUTE, 0x1000).is_none() && !u.state().writes.is_empty()).unwrap();
        let unit = if m.vtd.unit_of(BEHIND[0]).unwrap() == UnitId(1) { &m.units[1] } else { unit };
        for (n, len) in [(1u64, 0x1000u64), (2, 0x20_0000), (3, 0x4000_0000), (4, 0x4020_1000)] {
            let at = n << 33;
            map(&d, at, at, len);
            assert_eq!(unit.access(SUBSTITUTE, at + len - 1), Some(at + len - 1));
            assert_eq!(unit.access(0x208, at), Some(at));
            d.unmap(range(at, at + 0xfff)).unwrap().flush().unwrap();
            assert_eq!(unit.access(0x208, at), None);
            assert_eq!(unit.access(0x208, at + 0x1000), (len > 0x1000).then_some(at + 0x1000));
        }
        group.attach(Target::Blocked).unwrap();
        assert_eq!(unit.access(SUBSTITUTE, (2 << 33) + 0x1000), None);
        drop((group, d));
        m.end();
    }
}

fn what_a_failed_flush_left_in_caches_does_not_go_on_to_the_next_owner(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let (a, b) = (domain(&m, 0xa000), domain(&m, 0xb000));
    let group = m.claim(dev(1));
    group.attach(Target::Domain(&a)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xa000));
    m.units[0].state().asleep = true;
    assert_eq!(group.attach(Target::Blocked).unwrap_err().kind, ErrorKind::Timeout(Step::Invalidation));
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xa000), "the entry is absent, but cached");
    // No entry changes any more, and yet there is something to flush.
    let (group, e) = group.release().unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout(Step::Invalidation));
    assert!(group.attach(Target::Domain(&b)).is_err());
    m.units[0].awake();
    group.attach(Target::Domain(&b)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xb000));
    m.forget();
    group.attach(Target::Domain(&b)).unwrap();
    let global = |d: &[u64; 2]| [0x11, 0x37, 0x12].contains(&(d[0] & 0x3f));
    assert!(!m.units[0].take().1.iter().any(global), "proved: no global invalidation again");
}

fn a_flush_that_failed_and_then_succeeded_leaves_nothing_owned(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let (a, b) = (domain(&m, 0xa000), domain(&m, 0xb000));
    let group = m.claim(dev(1));
    group.attach(Target::Domain(&a)).unwrap();
    assert_eq!(m.units[0].access(ONE, 0x1000), Some(0xa000));
    m.units[0].state().bad = Some((0, 3));
    assert_eq!(group.attach(Target::Domain(&b)).unwrap_err().kind, ErrorKind::QueueError(3));
    assert_eq!(m.units[0].access(ONE, 0x1000), None);
    drop((group, a, b));
    m.end();
}

fn a_group_behind_two_units_is_blocked_on_one_whatever_the_other_does(ecap: u64) {
    let (host, units, _) = Machine::prepare(Host::new(), &[(CAP, ecap); 2]);
    let dmar = super::machine::Dmar::default()
        .unit(super::machine::BASES[0], &BEHIND[..1])
        .unit(super::machine::BASES[1], &[]);
    let m = Machine::with(host, units, &dmar, config());
    let (a, b) = (domain(&m, 0xa000), domain(&m, 0xb000));
    let group = m.claim(BEHIND[0]);
    for to in [Target::Blocked, Target::Domain(&b)] {
        group.attach(Target::Domain(&a)).unwrap();
        let reach = || [m.units[0].access(0x208, 0x1000), m.units[1].access(0x210, 0x1000)];
        assert_eq!(reach(), [Some(0xa000); 2]);
        m.units[0].state().asleep = true;
        assert!(group.attach(to).is_err());
        assert_eq!(reach()[1], None);
        m.units[0].awake();
        group.attach(Target::Blocked).unwrap();
        assert_eq!(reach(), [None; 2]);
    }
}

fn identity_tables_and_best_specs_are_what_all_units_can_take(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap & !ECAP_PT), (CAP & !(1 << 10), ecap & !ECAP_PT)]);
    for (unit, device) in [(0, 1u8), (1, 9)] {
        let group = m.claim(dev(device));
        group.attach(Target::Identity).unwrap();
        assert_eq!(m.units[unit].access(u16::from(device) << 3, 0x1_2345_6000), Some(0x1_2345_6000));
    }
    m.end();
}

fn a_domain_of_another_driver_is_refused(ecap: u64) {
    let (m, other) = (Machine::new(&[(CAP, ecap)]), Machine::new(&[(CAP, ecap)]));
    let d = domain(&other, 0xa000);
    let group = m.claim(dev(1));
    assert_eq!(group.attach(Target::Domain(&d)).unwrap_err().kind, ErrorKind::Invalid(Field::Domain));
    assert_eq!(m.units[0].access(ONE, 0x1000), None);
    drop((group, d));
    m.end();
    other.end();
}

#[test]
fn each_change_in_scalable_mode_flushes_what_was_made_from_the_old_entry() {
    let m = Machine::new(&[(CAP, ECAP_SM)]);
    let (a, b) = (domain(&m, 0xa000), domain(&m, 0xb000));
    let group = m.claim(dev(1));
    let flushed = |to: Target<'_, Host>| {
        m.forget();
        group.attach(to).unwrap();
        m.units[0].take().1.into_iter().map(|d| d[0]).collect::<std::vec::Vec<_>>()
    };
    let entry = |did: u64| 7 | 1 << 4 | did << 16;
    let tables = |did: u64| [entry(did), 2 | 2 << 4 | 3 << 6 | did << 16];
    // The PASID; its translations.
    let passing = [entry(1), 6 | 2 << 4 | 1 << 16];
    assert_eq!(flushed(Target::Domain(&a)), []);
    assert_eq!(flushed(Target::Domain(&b)), tables(2));
    assert_eq!(flushed(Target::Identity), tables(3));
    assert_eq!(flushed(Target::Domain(&a)), passing);
    assert_eq!(flushed(Target::Blocked), tables(2));
    assert_eq!(flushed(Target::Identity), []);
    assert_eq!(flushed(Target::Blocked), passing);
    assert_eq!(flushed(Target::Blocked), []);
    drop((group, a, b));
    m.end();
}

#[test]
fn guests_entries_are_flushed_of_both_stages_and_their_memory_under_every_id() {
    let m = Machine::new(&[(CAP, ECAP_SM | ECAP_FSTS | ECAP_NEST)]);
    let memory = domain(&m, 0xa000);
    // A neighbour, so that no table goes.
    map(&memory, 0x2000, 0xb000, 0x1000);
    let over = |root| m.vtd.stage1(&memory, &Stage1Spec::new(Gpa::new(root).unwrap())).unwrap();
    let (one, two) = (over(0x4000), over(0x5000));
    let (first, second) = (m.claim(dev(1)), m.claim(dev(2)));
    let flushed = |act: &mut dyn FnMut()| {
        m.forget();
        act();
        m.units[0].take().1.into_iter().map(|d| d[0]).collect::<std::vec::Vec<_>>()
    };
    let (entry, all) = (|did: u64| 7 | 1 << 4 | did << 16, |did: u64| 2 | 2 << 4 | 3 << 6 | did << 16);
    let pages = |did: u64| 2 | 3 << 4 | 3 << 6 | did << 16;
    let attach = |g: &Group<Host>, to: Target<'_, Host>| assert!(g.attach(to).is_ok());
    assert_eq!(flushed(&mut || attach(&first, Target::Stage1(&one))), []);
    assert_eq!(flushed(&mut || attach(&second, Target::Stage1(&two))), []);
    // Nobody is attached to the memory itself: it has an id for each guest's tables.
    let unmap = || {
        memory.unmap(range(0x1000, 0x1fff)).unwrap().flush().unwrap();
    };
    let again = || map(&memory, 0x1000, 0xa000, 0x1000);
    assert_eq!(flushed(&mut || unmap()), [pages(2), pages(3)]);
    again();
    // The tables are another's: not in one store.
    assert_eq!(flushed(&mut || attach(&first, Target::Stage1(&two))), [entry(2), all(2)]);
    assert_eq!(flushed(&mut || unmap()), [pages(3)]);
    again();
    // Of the guest's own tables by page and PASID; all of them at once.
    let page = range(0x8000, 0x8fff);
    assert_eq!(flushed(&mut || two.invalidate(page, true).unwrap()), [6 | 3 << 4 | 3 << 16]);
    assert_eq!(flushed(&mut || two.invalidate_all().unwrap()), [6 | 2 << 4 | 3 << 16]);
    assert_eq!(m.vtd.invalidation_stats(UnitId(0)).unwrap().wide_flushes, 0, "it was asked for");
    // To the memory itself, with an id of its own; back to what blocks.
    assert_eq!(flushed(&mut || attach(&first, Target::Domain(&memory))), [entry(3), all(3)]);
    assert_eq!(flushed(&mut || unmap()), [pages(2), pages(3)]);
    assert_eq!(flushed(&mut || attach(&second, Target::Blocked)), [entry(3), all(3)]);
    assert_eq!(flushed(&mut || attach(&first, Target::Blocked)), [entry(2), all(2)]);
    drop((first, second, one, two, memory));
    m.end();
}

crate::unit::standin::in_both_modes! {
    devices_meet_what_they_are_attached_to_and_never_what_they_were
    every_id_that_a_group_may_carry_goes_the_same_way
    a_domain_that_a_unit_cannot_take_is_refused_by_name_and_nothing_changes
    domain_ids_end_as_an_error_and_come_back
    a_group_that_is_dropped_while_its_device_is_isolated_comes_back
    an_id_is_given_again_only_when_its_flush_has_completed
    attaching_under_every_failing_allocation_changes_nothing
    regions_are_mapped_while_attached_and_never_over_something_else
    regions_that_overlap_are_mapped_once_and_stay_while_one_needs_them
    identity_is_pass_through_or_tables_that_leave_the_interrupt_addresses_out
    write_buffers_are_flushed_where_nothing_else_does
    caching_mode_flushes_absent_entries_under_id_0
    units_that_do_not_snoop_read_in_memory_what_they_should
    what_a_failed_flush_left_in_caches_does_not_go_on_to_the_next_owner
    a_flush_that_failed_and_then_succeeded_leaves_nothing_owned
    a_group_behind_two_units_is_blocked_on_one_whatever_the_other_does
    identity_tables_and_best_specs_are_what_all_units_can_take
    a_domain_of_another_driver_is_refused
}

//! Units that a predecessor left translating, adopted.

use super::machine::{BEHIND, BRIDGE, Dmar, Driver, Machine, SUBSTITUTE, WIDE, config, dev, map, range};
use crate::host::mem::Frames;
use crate::host::testing::Host;
use crate::hw::capabilities::AddressWidth;
use crate::hw::pasid_tables::{Allowed, DirectoryEntry, FirstStage, PasidEntry, ScalableContextEntry, SecondStage};
use crate::hw::registers::{TableMode, at};
use crate::hw::tables::{ContextEntry, RootEntry, Translation};
use crate::unit::standin::{
    CAP, CAP_CM, CAP_ESRTPS, CAP_RWBF, ECAP, ECAP_ADMS, ECAP_PT, ECAP_QI, ECAP_SM, ECAP_SMTS, IRE, QIE, SIRTP, SRTP,
    Standin, TE, WBF, in_both_modes,
};
use crate::{
    Adopted, Config, Domain, ErrorKind, Flaw, Group, LeftShield, Owner, SourceId, State, Tables, TakeOver, Target,
    UnitId, Vtd,
};
use std::vec::Vec;

/// A predecessor that nobody hears of again, and what it left: devices 1 and 2 in one domain with page 1 at page 5, the group
/// behind the bridge passing.
struct Left {
    host: Host,
    units: Vec<Standin>,
    dmar: Dmar,
}

impl Left {
    fn new(cap: u64, ecap: u64) -> Self {
        let (host, units, dmar) = Machine::prepare(Host::new(), &[(cap, ecap)]);
        let dmar = dmar.reserved(0x7a00_0000, 0x7a00_ffff, dev(1));
        let m = Machine::with(host.clone(), units.clone(), &dmar, config());
        m.report.as_ref().unwrap();
        let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
        map(&d, 0x1000, 0x5000, 0x1000);
        map(&d, 0x2000, 0x6000, 0x1000);
        for n in [1, 2] {
            let group = m.vtd.claim(m.vtd.group_of(dev(n)).unwrap(), Owner::HOST).unwrap();
            group.attach(Target::Domain(&d)).unwrap();
            core::mem::forget(group);
        }
        let group = m.claim(BEHIND[0]);
        group.attach(Target::Identity).unwrap();
        core::mem::forget((group, d, m.vtd));
        let left = Left { host, units, dmar };
        assert_eq!(left.access(0x1000), [Some(0x5000), Some(0x5000), Some(0x1000), None]);
        left
    }

    /// What devices 1 and 2, one behind the bridge, and device 3 reach.
    fn access(&self, at: u64) -> [Option<u64>; 4] {
        [1 << 3, 2 << 3, SUBSTITUTE, 3 << 3].map(|source| self.units[0].access(source, at))
    }

    fn successor(&self, config: Config) -> Driver {
        Vtd::new(self.host.clone(), self.dmar.topology(), config).unwrap()
    }
}

fn claim(vtd: &Driver, n: u8) -> Group<Host> {
    vtd.claim(vtd.group_of(dev(n)).unwrap(), Owner::HOST).unwrap()
}

fn devices_go_on_until_they_are_claimed_and_are_blocked_then(ecap: u64) {
    for (cap, ecap) in [(CAP, ecap), (CAP | CAP_CM, ecap), (CAP, ecap & !ECAP_QI)] {
        let left = Left::new(cap, ecap);
        let scalable = left.units[0].regs.get32(at::RTADDR) >> 10 & 1 == 1;
        let frames = left.host.counts().frames;
        left.units[0].take();
        // Whatever the host would want otherwise.
        let tables = if scalable { Tables::Legacy } else { Tables::Scalable };
        let vtd = left.successor(Config { tables, ..config() });
        let report = vtd.bring_up(TakeOver::Adopt).unwrap();
        let line = report.units[0];
        assert_eq!((line.fell_back, line.tables == Some(TableMode::Scalable)), (None, scalable));
        // Both devices behind the bridge, the bridge, and the id that it uses for them.
        let Adopted { entries, domains } = line.adopted.unwrap();
        assert!(entries >= 5 && domains == 2, "{line:?}");
        let commands = |bit: u32| {
            let s = left.units[0].state();
            s.writes.iter().filter(|(at, v)| *at == at::GCMD && *v as u32 & bit == 0).count()
        };
        assert_eq!(commands(TE), 0, "translation was on all the time");
        assert!(report.firmware.is_empty());
        assert_eq!(left.access(0x2000), [Some(0x6000), Some(0x6000), Some(0x2000), None]);
        let first = claim(&vtd, 1);
        assert_eq!(left.access(0x1000), [None, Some(0x5000), Some(0x1000), None]);
        // The ids that are in use are nobody else's: what is flushed for one does not matter to the other.
        let domains: Vec<Domain<Host>> = (0..3).map(|_| vtd.domain(&WIDE).unwrap()).collect();
        domains.iter().for_each(|d| map(d, 0x1000, 0x9000, 0x1000));
        for d in &domains {
            first.attach(Target::Domain(d)).unwrap();
            assert_eq!(left.access(0x1000), [Some(0x9000), Some(0x5000), Some(0x1000), None]);
        }
        domains[2].unmap(range(0x1000, 0x1fff)).unwrap().flush().unwrap();
        assert_eq!(left.access(0x1000), [None, Some(0x5000), Some(0x1000), None]);
        let second = claim(&vtd, 2);
        second.attach(Target::Identity).unwrap();
        assert_eq!(left.access(0x1000), [None, Some(0x1000), Some(0x1000), None]);
        drop((first, second, domains));
        // What was never claimed ends with the unit.
        vtd.hand_back().map_err(|(_, e)| e).unwrap();
        assert_eq!(left.host.counts().frames, frames);
        assert_eq!(left.units[0].regs.get32(at::GSTS) & (TE | QIE), 0);
    }
}

fn whom_nobody_can_claim_any_more_is_blocked_and_has_no_id(ecap: u64) {
    let left = Left::new(CAP, ecap);
    // Taken out while nobody looked.
    left.host.set_config(dev(2), 0, u32::MAX);
    left.host.set_config(BEHIND[0], 0, u32::MAX);
    left.host.set_config(BEHIND[1], 0, u32::MAX);
    left.host.set_config(BRIDGE, 0, u32::MAX);
    let vtd = left.successor(config());
    vtd.bring_up(TakeOver::Adopt).unwrap();
    assert_eq!(left.access(0x1000), [Some(0x5000), None, None, None]);
    // Nor does anything keep the tables that they had: the predecessor's memory is free when the last one is claimed.
    let first = claim(&vtd, 1);
    assert_eq!(left.access(0x1000), [None; 4]);
    drop(first);
    vtd.hand_back().map_err(|(_, e)| e).unwrap();
}

fn what_is_handed_back_a_fresh_driver_takes_that_refuses(ecap: u64) {
    let left = Left::new(CAP, ecap);
    let status = left.units[0].regs.get32(at::GSTS);
    left.units[0].regs.set32(at::GSTS, status | IRE | SIRTP);
    left.units[0].regs.set64(at::IRTA, 0x7000_0007);
    let refusing = left.successor(config());
    assert_eq!(refusing.bring_up(TakeOver::Refuse).unwrap_err(), ErrorKind::State(State::FoundOn).on(UnitId(0)));
    assert_eq!(left.access(0x1000)[0], Some(0x5000));
    let vtd = left.successor(config());
    let report = vtd.bring_up(TakeOver::Adopt).unwrap();
    assert_eq!(report.units[0].found.bits(), TE | QIE | IRE);
    assert_eq!(left.units[0].regs.get32(at::GSTS) & IRE, IRE, "interrupts go on as they were");
    assert!(left.units[0].state().writes.iter().all(|(at, _)| *at != at::IRTA));
    vtd.hand_back().map_err(|(_, e)| e).unwrap();
    assert_eq!(left.units[0].regs.get32(at::GSTS) & (TE | QIE | IRE), 0);
    let next = left.successor(config());
    next.bring_up(TakeOver::Refuse).unwrap();
    next.hand_back().map_err(|(_, e)| e).unwrap();
}

fn ids_come_back_with_the_last_that_used_them(ecap: u64) {
    // Sixteen ids: two are reserved, one is adopted.
    let left = Left::new(CAP & !7, ecap);
    let vtd = left.successor(config());
    vtd.bring_up(TakeOver::Adopt).unwrap();
    let attached = |n: u8| {
        let group = claim(&vtd, n);
        let d: Domain<Host> = vtd.domain(&WIDE).unwrap();
        group.attach(Target::Domain(&d)).map(|_| (group, d))
    };
    let mut held: Vec<_> = (3..15).map(|n| attached(n).unwrap()).collect();
    held.push(attached(1).unwrap());
    // The id of devices 1 and 2 is still in use by the second.
    assert_eq!(attached(15).unwrap_err().kind, ErrorKind::OutOfDomainIds);
    let second = claim(&vtd, 2);
    held.push(attached(15).unwrap());
    drop((held, second));
}

fn a_claim_that_cannot_be_flushed_keeps_the_ids(ecap: u64) {
    let left = Left::new(CAP & !7, ecap);
    let vtd = left.successor(config());
    vtd.bring_up(TakeOver::Adopt).unwrap();
    left.units[0].state().hold = true;
    let e = vtd.claim(vtd.group_of(dev(1)).unwrap(), Owner::HOST).unwrap_err();
    assert!(matches!(e.kind, ErrorKind::Timeout(_)), "{e}");
    left.units[0].state().hold = false;
    left.units[0].release(|_| true);
    assert_eq!(left.units[0].access(1 << 3, 0x3000), None);
}

/// Tables by hand.
struct Hand {
    host: Host,
    standin: Standin,
    dmar: Dmar,
    tables: Vec<Frames>,
    scalable: bool,
}

/// What the tables are, in order.
const ROOT: usize = 0;
const CONTEXTS: usize = 1;
const TOP: usize = 2;
const DIRECTORY: usize = 3;
const PASIDS: usize = 4;

impl Hand {
    /// Device 1 (08) with a domain of id 9 and an empty top table.
    fn new(cap: u64, ecap: u64) -> Self {
        let (host, mut units, dmar) = Machine::prepare(Host::new(), &[(cap, ecap)]);
        let scalable = ecap & ECAP_SMTS != 0;
        let tables: Vec<Frames> = (0..5).map(|_| Frames::alloc(&host, 0, None).unwrap()).collect();
        let hand = Hand { host, standin: units.remove(0), dmar, tables, scalable };
        hand.put(ROOT, 0, RootEntry::legacy(hand.at(CONTEXTS)).lo);
        if scalable {
            let context = ScalableContextEntry::new(hand.at(DIRECTORY), 2, 0, Allowed::default());
            hand.put_all(CONTEXTS, 4 * 8, &context.0);
            hand.put(DIRECTORY, 0, DirectoryEntry::new(hand.at(PASIDS)).0);
            let second = SecondStage::new(hand.at(TOP), AddressWidth::Bits48);
            hand.put_all(PASIDS, 0, &PasidEntry::second_stage(second, 9).with_walk_snoop().0);
        } else {
            let e = ContextEntry::second_stage(hand.at(TOP), AddressWidth::Bits48, 9);
            hand.put_all(CONTEXTS, 2 * 8, &[e.lo, e.hi]);
        }
        hand.standin.left_on(hand.at(ROOT) | u64::from(scalable) << 10);
        hand
    }

    fn at(&self, table: usize) -> u64 {
        self.tables[table].hpa(&self.host).get()
    }

    fn put(&self, table: usize, i: usize, v: u64) {
        self.tables[table].set(i, v);
    }

    fn put_all(&self, table: usize, i: usize, words: &[u64]) {
        words.iter().enumerate().for_each(|(n, w)| self.put(table, i + n, *w));
    }

    /// The word that names the domain, or the PASID entry's first.
    fn change(&self, table: usize, i: usize, bits: u64) {
        self.put(table, i, self.tables[table].get(i) ^ bits);
    }

    /// What a successor makes of it; everything is given back.
    fn adopted(self) -> Result<Adopted, (Flaw, Option<SourceId>)> {
        let vtd = Vtd::new(self.host.clone(), self.dmar.topology(), config()).unwrap();
        let line = vtd.bring_up(TakeOver::Adopt).unwrap().units[0];
        assert_eq!(line.adopted.is_some(), line.fell_back.is_none());
        assert_eq!(line.found.bits(), TE);
        if let Some(why) = line.fell_back {
            assert!(!std::format!("{why}").is_empty());
            assert_eq!(self.standin.access(8, 0x1000), None, "it was turned off, and blocks now");
        }
        vtd.hand_back().map_err(|(_, e)| e).unwrap();
        self.tables.into_iter().for_each(|t| t.free(&self.host));
        assert_eq!(self.host.counts().frames, 0);
        line.adopted.ok_or_else(|| line.fell_back.map(|m| (m.flaw, m.source)).unwrap())
    }
}

#[test]
fn tables_made_by_hand_are_adopted() {
    for (ecap, domains) in [(ECAP, 1), (ECAP_SM, 1)] {
        assert_eq!(Hand::new(CAP, ecap).adopted(), Ok(Adopted { entries: 1, domains }));
        let none = Hand::new(CAP, ecap);
        none.put(ROOT, 0, 0);
        // Absent entries may hold anything.
        none.put(ROOT, 2, 0xffff_ffff_ffff_fffe);
        assert_eq!(none.adopted(), Ok(Adopted { entries: 0, domains: 0 }));
    }
}

#[test]
fn copied_tables_have_left_the_write_buffer_when_the_unit_takes_them() {
    let hand = Hand::new(CAP | CAP_RWBF, ECAP);
    let standin = hand.standin.clone();
    hand.adopted().unwrap();
    let commands: Vec<u32> =
        standin.take().0.iter().filter(|(at, _)| *at == at::GCMD).map(|(_, v)| *v as u32 & (WBF | SRTP)).collect();
    let first = commands.iter().copied().find(|c| *c != 0);
    assert_eq!(first, Some(WBF), "{commands:x?}");
}

#[test]
fn malformed_tables_are_named_and_the_unit_is_turned_off() {
    let device = Some(SourceId(8));
    // Table, word, bits to change, and what is wrong then.
    let legacy = [
        (ROOT, 0, 1 << 5, Flaw::Reserved, None),
        (ROOT, 1, 1, Flaw::Reserved, None),
        (ROOT, 0, 1 << 50, Flaw::Reserved, None),
        (ROOT, 0, 1 << 46, Flaw::NotMemory, None),
        (CONTEXTS, 16, 1 << 5, Flaw::Reserved, device),
        (CONTEXTS, 16, 1 << 50, Flaw::Reserved, device),
        (CONTEXTS, 17, 1 << 30, Flaw::Reserved, device),
        (CONTEXTS, 16, 3 << 2, Flaw::Translation, device),
        // No device TLBs.
        (CONTEXTS, 16, 1 << 2, Flaw::Translation, device),
        (CONTEXTS, 17, 1, Flaw::Levels, device),
        (CONTEXTS, 17, 2, Flaw::Levels, device),
        (CONTEXTS, 16, 1 << 46, Flaw::NotMemory, device),
    ];
    let scalable = [
        (ROOT, 0, 1 << 5, Flaw::Reserved, None),
        (ROOT, 1, 3, Flaw::Reserved, None),
        (ROOT, 0, 1 << 46, Flaw::NotMemory, None),
        // Device TLBs, PASIDs, page requests, another RID_PASID: the unit has none.
        (CONTEXTS, 32, 1 << 2, Flaw::Reserved, device),
        (CONTEXTS, 32, 1 << 3, Flaw::Reserved, device),
        (CONTEXTS, 32, 1 << 8, Flaw::Reserved, device),
        (CONTEXTS, 33, 1, Flaw::Reserved, device),
        (CONTEXTS, 34, 1, Flaw::Reserved, device),
        (CONTEXTS, 32, 1 << 46, Flaw::NotMemory, device),
        (DIRECTORY, 0, 1 << 4, Flaw::Reserved, device),
        (DIRECTORY, 0, 1 << 46, Flaw::NotMemory, device),
        (PASIDS, 0, 1 << 5, Flaw::Reserved, device),
        (PASIDS, 0, 1 << 9, Flaw::Reserved, device),
        (PASIDS, 3, 1, Flaw::Reserved, device),
        (PASIDS, 0, 7 << 6, Flaw::Translation, device),
        // First-stage tables, which it has not.
        (PASIDS, 0, 3 << 6, Flaw::Translation, device),
        (PASIDS, 0, 1 << 2, Flaw::Levels, device),
        (PASIDS, 0, 1 << 46, Flaw::NotMemory, device),
    ];
    for (ecap, list) in [(ECAP, &legacy[..]), (ECAP_SM, &scalable[..])] {
        for (table, i, bits, flaw, source) in list {
            let hand = Hand::new(CAP, ecap);
            hand.change(*table, *i, *bits);
            assert_eq!(hand.adopted(), Err((*flaw, *source)), "word {i} of table {table}, {bits:#x}");
        }
        let domain = |hand: &Hand, did: u64| {
            let (table, i, shift) = if hand.scalable { (PASIDS, 1, 0) } else { (CONTEXTS, 17, 8) };
            hand.change(table, i, (9 ^ did) << shift);
        };
        let caching = Hand::new(CAP | CAP_CM, ecap);
        domain(&caching, 0);
        assert_eq!(caching.adopted(), Err((Flaw::DomainId, device)));
        let many = Hand::new(CAP & !7, ecap);
        domain(&many, 0x11);
        assert_eq!(many.adopted(), Err((Flaw::Reserved, device)), "it has sixteen");
        let plain = Hand::new(CAP, ecap);
        domain(&plain, 0);
        assert!(plain.adopted().is_ok(), "without caching mode 0 is an id like others");
    }
}

#[test]
fn registers_that_cannot_be_believed_are_named() {
    let at_once = |change: &dyn Fn(&Hand)| {
        let hand = Hand::new(CAP, ECAP_SM);
        change(&hand);
        hand.adopted()
    };
    let rtaddr = |hand: &Hand, bits: u64| hand.standin.regs.set64(at::RTADDR, hand.at(ROOT) | bits);
    assert_eq!(at_once(&|h| h.standin.regs.set32(at::GSTS, TE)), Err((Flaw::NotLatched, None)));
    assert_eq!(at_once(&|h| rtaddr(h, 2 << 10)), Err((Flaw::Mode, None)));
    assert_eq!(at_once(&|h| rtaddr(h, 3 << 10)), Err((Flaw::Mode, None)));
    assert_eq!(at_once(&|h| rtaddr(h, 1 << 10 | 1 << 7)), Err((Flaw::Rights, None)));
    assert_eq!(at_once(&|h| h.standin.regs.set64(at::RTADDR, 0x7000_0400)), Err((Flaw::NotMemory, None)));
}

/// First-stage and nested entries, PASIDs, device TLBs.
const EVERYTHING: u64 = ECAP_SM | 1 << 2 | 1 << 26 | 1 << 29 | 1 << 40 | 19 << 35 | 1 << 47 | 1 << 49;

#[test]
fn every_kind_of_entry_is_known() {
    let hand = Hand::new(CAP, EVERYTHING);
    let allowed = Allowed { device_tlb: true, pasid: true, page_requests: true };
    hand.put_all(CONTEXTS, 4 * 8, &ScalableContextEntry::new(hand.at(DIRECTORY), 2, 0x41, allowed).0);
    hand.put(DIRECTORY, 1, DirectoryEntry::new(hand.at(PASIDS)).0);
    let (first, second) = (FirstStage::four_levels(hand.at(TOP)), SecondStage::new(hand.at(TOP), AddressWidth::Bits48));
    let guest = FirstStage::four_levels(1 << 46);
    for (pasid, e) in [
        (1, PasidEntry::first_stage(first, 11)),
        (2, PasidEntry::nested(guest, second, 12)),
        (3, PasidEntry::pass_through(13).with_fpd(true)),
        (63, PasidEntry::first_stage(first, 11).with_width(AddressWidth::Bits48)),
    ] {
        hand.put_all(PASIDS, pasid * 8, &e.0);
    }
    assert_eq!(hand.adopted(), Ok(Adopted { entries: 1, domains: 4 }));
    let five = Hand::new(CAP, EVERYTHING);
    let e = PasidEntry::first_stage(FirstStage { five_levels: true, ..first_of(&five) }, 11);
    five.put_all(PASIDS, 8, &e.0);
    assert_eq!(five.adopted(), Err((Flaw::Levels, Some(SourceId(8)))));
    let far = Hand::new(CAP, EVERYTHING);
    far.put(CONTEXTS, 33, 1 << 15);
    assert_eq!(far.adopted(), Err((Flaw::RidPasid, Some(SourceId(8)))));
    let legacy = Hand::new(CAP, ECAP | 1 << 2);
    let e = ContextEntry::new(Translation::WithDeviceTlb, legacy.at(TOP), AddressWidth::Bits48, 9);
    legacy.put_all(CONTEXTS, 16, &[e.lo, e.hi]);
    assert_eq!(legacy.adopted(), Ok(Adopted { entries: 1, domains: 1 }));
    let pass = Hand::new(CAP, ECAP & !ECAP_PT);
    let e = ContextEntry::pass_through(AddressWidth::Bits48, 9);
    pass.put_all(CONTEXTS, 16, &[e.lo, e.hi]);
    assert_eq!(pass.adopted(), Err((Flaw::Translation, Some(SourceId(8)))));
}

fn first_of(hand: &Hand) -> FirstStage {
    FirstStage::four_levels(hand.at(TOP))
}

#[test]
fn tables_without_end_are_not_read_without_end() {
    // Every entry of every table leads to the same few: 256 devices on 256 buses, each with 2^20 PASIDs.
    let hand = Hand::new(CAP, EVERYTHING);
    let context = ScalableContextEntry::new(hand.at(DIRECTORY), 2, 0, Allowed::default());
    for i in 0..512 {
        hand.put(ROOT, i, RootEntry::legacy(hand.at(CONTEXTS)).lo);
        hand.put(DIRECTORY, i, DirectoryEntry::new(hand.at(PASIDS)).0);
    }
    (0..128).for_each(|n| hand.put_all(CONTEXTS, 4 * n, &context.0));
    let (flaw, source) = hand.adopted().unwrap_err();
    assert!(flaw == Flaw::TooMuch && source.is_some());
}

fn pass_through_has_another_id_where_a_predecessor_used_that_one(ecap: u64) {
    let hand = Hand::new(CAP, ecap);
    if hand.scalable {
        hand.change(PASIDS, 1, 9 ^ 1);
    } else {
        hand.change(CONTEXTS, 17, (9 ^ 1) << 8);
    }
    let vtd = Vtd::new(hand.host.clone(), hand.dmar.topology(), config()).unwrap();
    assert!(vtd.bring_up(TakeOver::Adopt).unwrap().units[0].adopted.is_some());
    let group = claim(&vtd, 3);
    group.attach(Target::Identity).unwrap();
    assert_eq!(hand.standin.access(3 << 3, 0x5000), Some(0x5000));
    hand.standin.take();
    group.attach(Target::Blocked).unwrap();
    let ids: Vec<u64> = hand.standin.take().1.iter().map(|d| d[0] >> 16 & 0xffff).collect();
    assert!(ids.contains(&2) && !ids.contains(&1), "{ids:?}");
    drop(group);
    vtd.hand_back().map_err(|(_, e)| e).unwrap();
}

fn a_unit_that_is_not_translating_has_nothing_to_adopt(ecap: u64) {
    for on in [QIE, QIE | IRE | SIRTP, 0] {
        let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
        units[0].regs.set32(at::GSTS, on);
        let vtd = Vtd::new(host, dmar.topology(), config()).unwrap();
        let line = vtd.bring_up(TakeOver::Adopt).unwrap().units[0];
        assert_eq!((line.adopted, line.fell_back, line.found.bits()), (None, None, on & !SIRTP));
        assert_eq!(units[0].regs.get32(at::GSTS) & (TE | IRE), TE | on & IRE);
        assert_eq!(vtd.hand_back().map_err(|(_, e)| e).unwrap().counts().frames, 0);
    }
}

fn a_unit_that_aborts_everything_is_led_out_of_that(ecap: u64) {
    for (cap, ecap, left) in [
        (CAP | CAP_ESRTPS, ecap, Some(LeftShield::Seamless)),
        (CAP, ecap, Some(LeftShield::WithGap)),
        // Nothing to lead it out by: it is turned off.
        (CAP, ecap & !ECAP_QI, None),
    ] {
        let (host, units, dmar) = Machine::prepare(Host::new(), &[(cap, ecap | ECAP_ADMS)]);
        let first = Vtd::new(host.clone(), dmar.topology(), config()).unwrap();
        first.shield(false).unwrap();
        core::mem::forget(first);
        if ecap & ECAP_QI == 0 {
            units[0].left_on(3 << 10);
        }
        units[0].state().open = Some(0);
        let vtd = Vtd::new(host, dmar.topology(), config()).unwrap();
        let line = vtd.bring_up(TakeOver::Adopt).unwrap().units[0];
        assert_eq!((line.adopted, line.fell_back, line.left_shield), (None, None, left));
        assert_eq!(units[0].state().open == Some(0), left == Some(LeftShield::Seamless));
        assert_eq!(units[0].access(8, 0x5000), None);
        vtd.hand_back().map_err(|(_, e)| e).unwrap();
    }
}

fn memory_may_end_anywhere_while_tables_are_adopted(ecap: u64) {
    let left = Left::new(CAP, ecap);
    let frames = left.host.counts().frames;
    for n in 0.. {
        let vtd = left.successor(config());
        left.host.fail_after(Some(n));
        let outcome = vtd.bring_up(TakeOver::Adopt);
        left.host.fail_after(None);
        match outcome {
            Ok(report) => {
                assert!(n > 4 && report.units[0].adopted.is_some());
                vtd.hand_back().map_err(|(_, e)| e).unwrap();
                break;
            }
            Err(e) => assert_eq!(e.kind, ErrorKind::OutOfFrames),
        }
        assert_eq!(left.host.counts().frames, frames);
        assert_eq!(left.access(0x1000)[0], Some(0x5000), "it has not been touched");
        vtd.hand_back().map_err(|(_, e)| e).unwrap();
    }
    assert_eq!(left.host.counts().frames, frames);
}

in_both_modes! {
    devices_go_on_until_they_are_claimed_and_are_blocked_then
    whom_nobody_can_claim_any_more_is_blocked_and_has_no_id
    what_is_handed_back_a_fresh_driver_takes_that_refuses
    ids_come_back_with_the_last_that_used_them
    a_claim_that_cannot_be_flushed_keeps_the_ids
    pass_through_has_another_id_where_a_predecessor_used_that_one
    a_unit_that_is_not_translating_has_nothing_to_adopt
    a_unit_that_aborts_everything_is_led_out_of_that
    memory_may_end_anywhere_while_tables_are_adopted
}

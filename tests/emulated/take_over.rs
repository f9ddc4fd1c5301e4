//! Units that firmware or a predecessor left on.

use vtd::{Adopted, ErrorKind, Flaw, LeftShield, Shielding, State, TakeOver};
use vtd_emu::{Profile, Size};

use crate::probes::Seen;
use crate::rig::{AT, Ask, Mode, Plan, Rig, dev, map, unmap};

crate::stories!(
    a_unit_found_on_is_refused_or_turned_off_first,
    protected_memory_is_turned_off,
    old_faults_do_not_silence_new_ones,
    units_block_everything_before_there_are_tables,
    devices_go_on_while_a_successor_takes_over,
    a_successor_that_finds_malformed_tables_says_so_and_blocks,
    interrupt_remapping_goes_on_under_a_successor,
);

const GCMD: u32 = 0x18;
const GSTS: u32 = 0x1c;
const TE: u32 = 1 << 31;
const SRTP: u32 = 1 << 30;
const QIE: u32 = 1 << 26;
const IRE: u32 = 1 << 25;
const SIRTP: u32 = 1 << 24;

/// Who had the unit before.
struct Predecessor<'r> {
    rig: &'r Rig,
    tail: u64,
    queue: u64,
}

impl Predecessor<'_> {
    fn read(&self, at: u32, size: Size) -> u64 {
        self.rig.host.machine().read(0, at, size)
    }

    fn write(&self, at: u32, size: Size, v: u64) {
        self.rig.host.machine().write(0, at, size, v);
    }

    /// A page of zeros that the unit sees as such.
    fn page(&self) -> u64 {
        let at = self.rig.page();
        let mut m = self.rig.host.machine();
        m.flush(at, 4096);
        m.fence();
        at
    }

    fn until(&self, done: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            self.rig.host.machine().relax(1000);
        }
        panic!("the unit does not answer its predecessor");
    }

    fn command(&self, bit: u32) {
        let level = self.read(GSTS, Size::Double) as u32 & (TE | QIE | IRE | 1 << 23);
        self.write(GCMD, Size::Double, u64::from(level | bit));
        self.until(|p| p.read(GSTS, Size::Double) as u32 & bit != 0);
    }

    fn queued(&mut self, lo: u64, hi: u64) {
        let mut m = self.rig.host.machine();
        m.store(self.queue + self.tail, lo).unwrap();
        m.store(self.queue + self.tail + 8, hi).unwrap();
        m.flush(self.queue + self.tail, 16);
        m.fence();
        drop(m);
        self.tail += 16;
    }

    /// Lets the queue run.
    fn run(&self) {
        self.write(0x88, Size::Quad, self.tail);
        self.until(|p| p.read(0x80, Size::Quad) == p.tail);
    }

    /// Translation on, every device blocked; interrupt remapping too where that can be.
    fn take(&mut self, profile: &Profile) {
        let root = self.page();
        if profile.qi() {
            self.queue = self.page();
            self.write(0x88, Size::Quad, 0);
            self.write(0x90, Size::Quad, self.queue);
            self.command(QIE);
        }
        self.write(0x20, Size::Quad, root);
        self.command(SRTP);
        if profile.qi() {
            // Everything, and a wait for it.
            let status = self.page();
            self.queued(0x11, 0);
            self.queued(0x12, 0);
            self.queued(0x25 | 7 << 32, status);
            self.run();
            self.until(|p| p.rig.look(status) as u32 == 7);
        } else {
            self.write(0x28, Size::Quad, 1 << 63 | 1 << 61);
            self.until(|p| p.read(0x28, Size::Quad) >> 63 == 0);
            let iotlb = profile.iro() as u32 * 16 + 8;
            self.write(iotlb, Size::Quad, 1 << 63 | 1 << 60);
            self.until(|p| p.read(iotlb, Size::Quad) >> 63 == 0);
        }
        self.command(TE);
        if profile.ir() {
            let table = self.page();
            self.write(0xb8, Size::Quad, table | 7);
            self.command(SIRTP);
            let status = self.page();
            self.queued(0x04, 0);
            self.queued(0x25 | 8 << 32, status);
            self.run();
            self.until(|p| p.rig.look(status) as u32 == 8);
            self.command(IRE);
        }
    }
}

fn predecessor(rig: &Rig) -> Predecessor<'_> {
    Predecessor { rig, tail: 0, queue: 0 }
}

fn a_unit_found_on_is_refused_or_turned_off_first(profile: &Profile, mode: Mode) {
    for refuse in [true, false] {
        let rig = Plan::new(profile, mode).build();
        let page = rig.page();
        predecessor(&rig).take(profile);
        assert_eq!(rig.refused(dev(3), page, Ask::Read), 0x01);
        if refuse {
            let e = rig.vtd.bring_up(TakeOver::Refuse).unwrap_err();
            assert_eq!(e.kind, ErrorKind::State(State::FoundOn));
            // It is as it was.
            assert!(rig.host.machine().unit(0).unwrap().state().translation);
            assert_eq!(rig.refused(dev(3), page, Ask::Read), 0x01);
            rig.end();
            continue;
        }
        let report = rig.bring_up().unwrap();
        let found = report.units[0].found.bits();
        assert_eq!(found & TE, TE);
        assert_eq!((found & QIE != 0, found & IRE != 0), (profile.qi(), profile.ir()));
        let (group, domain, ear) = rig.attached(dev(3));
        map(&domain, AT, page, 0x1000);
        rig.reaches(dev(3), AT, page);
        rig.blocked(dev(3), 2 * AT, Ask::Read, 0x06, &ear);
        drop((group, domain));
        rig.end();
    }
}

fn protected_memory_is_turned_off(profile: &Profile, mode: Mode) {
    if !profile.plmr() {
        return;
    }
    let rig = Plan::new(profile, mode).build();
    let page = rig.memory(10);
    {
        let before = predecessor(&rig);
        // All of what is below 64 MiB.
        before.write(0x68, Size::Double, 0);
        before.write(0x6c, Size::Double, (64 << 20) - 1);
        before.write(0x64, Size::Double, 1 << 31);
        before.until(|p| p.read(0x64, Size::Double) & 1 != 0);
    }
    assert!(rig.read(dev(3), page).is_err());
    let report = rig.bring_up().unwrap();
    assert!(report.units[0].protected_memory);
    let (group, domain, _) = rig.attached(dev(3));
    map(&domain, AT, page, 0x1000);
    rig.reaches(dev(3), AT, page);
    drop((group, domain));
    rig.end();
}

fn old_faults_do_not_silence_new_ones(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).build();
    let page = rig.page();
    predecessor(&rig).take(profile);
    // More than there are registers: they overflow.
    for i in 0..profile.nfr() + 4 {
        assert_eq!(rig.refused(dev(3), page + i * 0x1000, Ask::Read), 0x01);
    }
    rig.bring_up().unwrap();
    rig.settle();
    assert_eq!((rig.ear.heard(), rig.ear.missed()), (vec![], 0), "they were the predecessor's");
    rig.blocked(dev(3), page, Ask::Write, 0x01, &rig.ear);
    rig.blocked(dev(4), page, Ask::Read, 0x01, &rig.ear);
    rig.end();
}

/// A device that is blocked, for whatever reason.
fn held_back(rig: &Rig, page: u64) {
    assert!(rig.read(dev(3), page).is_err() && rig.write(dev(1), page, 1).is_err());
}

fn units_block_everything_before_there_are_tables(profile: &Profile, mode: Mode) {
    // The same without the change of mode under translation, and without protected memory besides.
    let (adms, esrtps, regions) = (1 << 52, 1 << 63, 3 << 5);
    let forms = [
        (profile.clone().with_ecap(adms, 0).with_cap(esrtps | regions, 0), LeftShield::Seamless),
        (profile.clone().with_ecap(adms, 0).with_cap(regions, esrtps), LeftShield::BehindProtectedMemory),
        (profile.clone().with_ecap(adms, 0).with_cap(0, esrtps | regions), LeftShield::WithGap),
    ];
    for (form, left) in forms {
        let rig = Plan::two(&form, &form, mode).build();
        let page = rig.memory(10);
        let report = rig.vtd.shield(false).unwrap();
        if !profile.qi() {
            assert!(report.iter().all(|r| r.outcome == Shielding::Unsupported));
            rig.end();
            continue;
        }
        assert!(report.iter().all(|r| r.outcome == Shielding::On));
        held_back(&rig, page);
        rig.probes.add(1, dev(3), page);
        let report = rig.probes.looking(|| rig.bring_up()).unwrap();
        assert!(report.units.iter().all(|u| u.left_shield == Some(left) && !u.protected_memory));
        for (_, seen) in rig.probes.take() {
            let through = seen.iter().any(|s| matches!(s, Seen::Memory(_)));
            assert!(!through || left == LeftShield::WithGap, "{seen:x?}");
        }
        held_back(&rig, page);
        let (group, domain, _ear) = rig.attached(dev(3));
        map(&domain, AT, page, 0x1000);
        rig.reaches(dev(3), AT, page);
        drop((group, domain));
        rig.end();
    }
}

fn devices_go_on_while_a_successor_takes_over(profile: &Profile, mode: Mode) {
    let rig = Plan::two(profile, profile, mode).up();
    let (one, two) = (rig.page(), rig.page());
    let mut held = Vec::new();
    for d in [dev(1), dev(3), dev(5)] {
        let (group, domain, _) = rig.attached(d);
        map(&domain, AT, one, 0x1000);
        map(&domain, 2 * AT, two, 0x1000);
        rig.reaches(d, AT, one);
        held.push((group, domain));
    }
    let used = rig.host.arena().used();
    // The first is forgotten, and nobody tells the devices.
    let next = rig.successor();
    for (unit, d) in [(0, dev(1)), (1, dev(3)), (1, dev(5))] {
        rig.probes.add(unit, d, AT + 8);
        rig.probes.add(unit, d, 2 * AT);
    }
    let report = rig.probes.looking(|| next.bring_up(TakeOver::Adopt)).unwrap();
    for (unit, entries) in report.units.iter().zip([1, 2]) {
        assert_eq!(unit.fell_back, None);
        assert_eq!(unit.adopted.map(|a| (a.entries, a.domains)), Some((entries, entries)));
    }
    for (at, seen) in rig.probes.take() {
        let to = if at == 2 * AT { two } else { one + 8 };
        assert!(seen.iter().all(|s| *s == Seen::Memory(to)), "{at:#x}: {seen:x?}");
    }
    [dev(1), dev(3), dev(5)].into_iter().for_each(|d| rig.reaches(d, 2 * AT, two));
    assert_eq!(rig.read(dev(2), AT).map_err(drop), Err(()), "nobody gave it anything");
    // One after the other is claimed, and no other feels it.
    let mut mine = Vec::new();
    for d in [dev(3), dev(1)] {
        rig.probes.add(1, dev(5), AT + 8);
        let group = next.claim(next.group_of(d).unwrap(), vtd::Owner::HOST).unwrap();
        assert!(rig.read(d, AT).is_err() && rig.read(d, 2 * AT).is_err());
        let domain = next.domain(&group.best_spec()).unwrap();
        map(&domain, AT, two, 0x1000);
        group.attach(vtd::Target::Domain(&domain)).unwrap();
        rig.reaches(d, AT, two);
        assert!(rig.read(d, 2 * AT).is_err());
        rig.reaches(dev(5), AT, one);
        unmap(&domain, AT, AT + 0xfff);
        assert!(rig.read(d, AT).is_err());
        mine.push((group, domain));
    }
    drop(mine);
    rig.settle_of(&next);
    rig.sound();
    rig.host.handler(None);
    next.hand_back().map_err(|(_, e)| e).unwrap();
    assert_eq!(rig.host.arena().used(), used);
    // What is off may be taken by whoever refuses what is on.
    let last = rig.successor();
    last.bring_up(TakeOver::Refuse).unwrap();
    assert!(rig.read(dev(5), AT).is_err());
    rig.host.handler(None);
    last.hand_back().map_err(|(_, e)| e).unwrap();
    rig.sound();
}

/// The table of a context entry's requester in the predecessor's memory: where its first word stands.
fn context_entry(rig: &Rig, source: u16, scalable: bool) -> u64 {
    let root = rig.host.machine().unit(0).unwrap().state().root;
    let (bus, function) = (u64::from(source >> 8), u64::from(source & 0xff));
    let half = if scalable { 8 * (function >> 7) } else { 0 };
    let table = rig.look(root + 16 * bus + half) & !0xfff;
    if scalable { table + 32 * (function & 0x7f) } else { table + 16 * function }
}

fn a_successor_that_finds_malformed_tables_says_so_and_blocks(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let held = [dev(1), dev(3)].map(|d| rig.attached(d));
    for (d, (_, domain, _)) in [dev(1), dev(3)].into_iter().zip(&held) {
        map(domain, AT, page, 0x1000);
        rig.reaches(d, AT, page);
    }
    rig.settle();
    rig.sound();
    let scalable = rig.host.machine().unit(0).unwrap().state().mode == vtd_emu::Mode::Scalable;
    let at = context_entry(&rig, dev(3).source.0, scalable);
    // A bit that is always reserved; the caches of the unit do not know.
    rig.put(at, rig.look(at) | if scalable { 1 << 7 } else { 1 << 11 });
    let next = rig.successor();
    let report = next.bring_up(TakeOver::Adopt).unwrap();
    let why = report.units[0].fell_back.unwrap();
    assert_eq!((why.flaw, why.source, why.at), (Flaw::Reserved, Some(dev(3).source), at));
    assert_eq!(report.units[0].adopted, None);
    assert!(rig.read(dev(1), AT).is_err() && rig.read(dev(3), AT).is_err());
    let group = next.claim(next.group_of(dev(3)).unwrap(), vtd::Owner::HOST).unwrap();
    let domain = next.domain(&group.best_spec()).unwrap();
    map(&domain, AT, page, 0x1000);
    group.attach(vtd::Target::Domain(&domain)).unwrap();
    rig.reaches(dev(3), AT, page);
    drop((group, domain));
    rig.host.handler(None);
    next.hand_back().map_err(|(_, e)| e).unwrap();
}

fn interrupt_remapping_goes_on_under_a_successor(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).build();
    let page = rig.page();
    predecessor(&rig).take(profile);
    let state = |rig: &Rig| *rig.host.machine().unit(0).unwrap().state();
    let before = state(&rig);
    let report = rig.vtd.bring_up(TakeOver::Adopt).unwrap();
    let none = Adopted { entries: 0, domains: 0 };
    assert_eq!((report.units[0].adopted, report.units[0].fell_back), (Some(none), None));
    assert_eq!(report.units[0].tables, Some(vtd::hw::registers::TableMode::Legacy), "as it was found");
    let now = state(&rig);
    assert_eq!((now.translation, now.remapping, now.interrupts), (true, profile.ir(), before.interrupts));
    let (group, ear) = rig.claim(dev(3));
    // Legacy mode has second-stage tables, whatever the story asks for.
    let domain = rig.vtd.domain(&group.best_spec()).unwrap();
    group.attach(vtd::Target::Domain(&domain)).unwrap();
    map(&domain, AT, page, 0x1000);
    rig.reaches(dev(3), AT, page);
    rig.blocked(dev(3), 2 * AT, Ask::Read, 0x06, &ear);
    // A night's sleep: the table is where it was, and no cache holds what was of it.
    rig.vtd.suspend().unwrap();
    assert_eq!(state(&rig).remapping, profile.ir());
    rig.host.machine().with_unit(0, |unit, bus| unit.reset(bus)).unwrap();
    rig.vtd.resume().unwrap();
    assert_eq!((state(&rig).remapping, state(&rig).interrupts), (profile.ir(), before.interrupts));
    rig.reaches(dev(3), AT, page);
    drop((group, domain));
    let host = rig.host.clone();
    rig.end();
    assert!(!host.machine().unit(0).unwrap().state().remapping);
}

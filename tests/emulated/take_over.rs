//! Units that firmware or a predecessor left on.

use vtd::{ErrorKind, LeftShield, Shielding, State, TakeOver};
use vtd_emu::{Profile, Size};

use crate::probes::Seen;
use crate::rig::{AT, Ask, Mode, Plan, Rig, dev, map};

crate::stories!(
    a_unit_found_on_is_refused_or_turned_off_first,
    protected_memory_is_turned_off,
    old_faults_do_not_silence_new_ones,
    units_block_everything_before_there_are_tables,
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

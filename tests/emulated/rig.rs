//! The driver on an emulated machine, with devices to ask for memory: what every story begins and ends with.

use std::sync::{Arc, Mutex};

use vtd::dmar::Topology;
use vtd::{
    Access, BringUp, Config, DeviceId, Domain, DomainSpec, Events, Fault, Group, Hpa, Iova, Nanos, Owner, PageSizes,
    Range, Service, Stage, Tables, TakeOver, Target, Vtd,
};
use vtd_emu::{Alias, Blocked, Dma, Form, Function, FunctionId, Keep, Pace, Profile};

use crate::dmar::Dmar;
use crate::features;
use crate::heap;
use crate::host::{Driver, Host, base};
use crate::probes::Probes;

/// How the hardware behaves.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub name: &'static str,
    pace: fn(u64) -> Pace,
    keep: Keep,
    capacity: Option<usize>,
    /// Lines leave the CPU's caches early, in so many of a hundred steps.
    leaking: u8,
    /// Devices ask before and after every store of the driver.
    probes: bool,
    /// Interrupts come that nobody sent.
    spurious: u8,
    /// The tables that the driver is to run on, where there are units that have them.
    tables: Tables,
    /// Those of the stories' domains.
    pub stage: Stage,
}

impl Mode {
    /// The same with other tables.
    pub fn on(self, (tables, stage): (Tables, Stage)) -> Self {
        Mode { tables, stage, ..self }
    }

    /// Whether such a unit runs in scalable mode.
    pub fn scalable(&self, p: &Profile) -> bool {
        self.tables == Tables::Best && p.smts() && p.qi()
    }

    /// Whether it takes requests with PASID.
    pub fn tags(&self, p: &Profile) -> bool {
        self.scalable(p) && p.pasid()
    }

    /// The stages whose tables it has.
    pub fn stages(&self, p: &Profile) -> Vec<Stage> {
        let scalable = self.scalable(p);
        let there = [(Stage::First, scalable && p.fsts()), (Stage::Second, !scalable || p.ssts())];
        there.into_iter().filter_map(|(stage, there)| there.then_some(stage)).collect()
    }
}

const PROMPT: Mode = Mode {
    name: "prompt",
    pace: |_| Pace::prompt(),
    keep: Keep::Everything,
    capacity: None,
    leaking: 0,
    probes: false,
    spurious: 0,
    tables: Tables::Legacy,
    stage: Stage::Second,
};

/// Every adversary.
pub const MODES: &[Mode] = &[
    PROMPT,
    Mode { name: "at once", pace: |_| Pace::at_once(), ..PROMPT },
    Mode { name: "slow", pace: Pace::slow, ..PROMPT },
    Mode { name: "slow, another seed", pace: |seed| Pace::slow(!seed), leaking: 20, ..PROMPT },
    Mode { name: "keeps most", pace: Pace::slow, keep: Keep::Most(30), ..PROMPT },
    Mode { name: "keeps nothing", keep: Keep::Nothing, ..PROMPT },
    Mode { name: "small caches", capacity: Some(4), ..PROMPT },
    Mode { name: "lines leave early", leaking: 50, ..PROMPT },
    Mode { name: "probes", probes: true, ..PROMPT },
    Mode { name: "probes that nothing remembers", keep: Keep::Nothing, leaking: 30, probes: true, ..PROMPT },
    Mode {
        name: "slow, probes, keeps most, spurious interrupts",
        pace: Pace::slow,
        keep: Keep::Most(40),
        probes: true,
        spurious: 3,
        ..PROMPT
    },
];

/// A device on bus 0, alone in its group.
pub const fn dev(device: u8) -> DeviceId {
    DeviceId::new(0, 0, device, 0)
}

/// Integrated devices 1 to this one, which sends PASIDs; 4 is a USB controller.
pub const INTEGRATED: u8 = 6;
const PORT: DeviceId = dev(0x1c);
/// Behind a bridge from PCI Express, in one group with it and with each other.
pub const BRIDGE: DeviceId = DeviceId::new(0, 1, 0, 0);
pub const BEHIND: [DeviceId; 2] = [DeviceId::new(0, 2, 1, 0), DeviceId::new(0, 2, 2, 0)];
/// The id that the bridge puts in place of theirs, sometimes.
pub const SUBSTITUTE: u16 = 0x200;

/// Devices with PASIDs, of 20 bits and of 8.
pub const TAGGING: [DeviceId; 3] = [dev(1), dev(3), dev(5)];
pub const NARROW: DeviceId = dev(2);
/// Two functions in one group: the first sends PASIDs, the second none.
pub const ONE_TAGS: [DeviceId; 2] = [DeviceId::new(0, 0, 7, 0), DeviceId::new(0, 0, 7, 1)];
/// The same, where both do.
pub const BOTH_TAG: [DeviceId; 2] = [DeviceId::new(0, 0, 8, 0), DeviceId::new(0, 0, 8, 1)];

/// Who asks: a device, without PASID or with one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Who {
    pub device: DeviceId,
    pub pasid: Option<u32>,
}

impl From<DeviceId> for Who {
    fn from(device: DeviceId) -> Self {
        Who { device, pasid: None }
    }
}

impl From<(DeviceId, u32)> for Who {
    /// PASID 0 is none.
    fn from((device, pasid): (DeviceId, u32)) -> Self {
        Who { device, pasid: Some(pasid).filter(|p| *p != 0) }
    }
}

impl Who {
    fn at(self, address: u64) -> Dma {
        Dma { pasid: self.pasid, ..Dma::at(address) }
    }
}

/// Where nobody's devices reach anything, and a device of the driver's is sent first.
pub const AT: u64 = 0x10_0000;

/// All that is chosen before the driver begins.
pub struct Plan {
    pub profiles: Vec<Profile>,
    pub mode: Mode,
    pub config: Config,
    /// Regions that firmware reserves: first and last address, and the device.
    pub reserved: Vec<(u64, u64, DeviceId)>,
    pub seed: u64,
}

impl Plan {
    pub fn new(profile: &Profile, mode: Mode) -> Self {
        let wait = Nanos::millis(10);
        let config = Config {
            tables: mode.tables,
            first_stage_width: !profile.strict_aw,
            command_deadline: wait,
            invalidation_deadline: wait,
            identity_top: Hpa::new(64 << 20).expect("low"),
            ..Config::default()
        };
        Plan { profiles: vec![profile.clone()], mode, config, reserved: Vec::new(), seed: 1 }
    }

    /// The same with two units: the first serves devices 1 and 2, the second all others.
    pub fn two(profile: &Profile, other: &Profile, mode: Mode) -> Self {
        let mut plan = Plan::new(profile, mode);
        plan.profiles.push(other.clone());
        plan
    }

    pub fn reserve(mut self, first: u64, last: u64, device: DeviceId) -> Self {
        self.reserved.push((first, last, device));
        self
    }

    /// The machine, and the driver that has touched nothing yet.
    pub fn build(&self) -> Rig {
        let host = Host::new(self.seed);
        let mut devices = Vec::new();
        let mut dmar = Dmar::default();
        {
            let mut m = host.machine();
            for (n, profile) in self.profiles.iter().enumerate() {
                m.add_unit(profile.clone());
                let scopes = if n + 1 < self.profiles.len() { vec![dev(1), dev(2)] } else { vec![] };
                dmar = dmar.unit(base(n), &scopes);
                if let Some(unit) = m.unit_mut(n) {
                    unit.set_pace((self.mode.pace)(self.seed));
                    unit.set_caching(self.mode.keep, self.mode.capacity);
                }
            }
            m.set_leaking(self.mode.leaking);
            let last = self.profiles.len() - 1;
            let mut add = |d: DeviceId, f: Function| devices.push((d, m.add_function(f)));
            for n in 1..=INTEGRATED {
                let unit = if n <= 2 { 0 } else { last };
                let class = if n == 4 { 0x0c_0330 } else { 0x02_0000 };
                let f = Function { class, ..Function::new(dev(n).source.0, unit) };
                add(
                    dev(n),
                    match dev(n) {
                        NARROW => f.with_pasid(8),
                        d if TAGGING.contains(&d) => f.with_pasid(20),
                        _ => f,
                    },
                );
            }
            for d in ONE_TAGS.into_iter().chain(BOTH_TAG) {
                let f = Function::new(d.source.0, last);
                add(d, if d == ONE_TAGS[1] { f } else { f.with_pasid(20) });
            }
            let port = Form::RootPort { secondary: 1, subordinate: 2 };
            add(PORT, Function::bridge(PORT.source.0, last, port).with_acs(0x1d));
            let bridge = Form::ToConventional { secondary: 2, subordinate: 2 };
            add(BRIDGE, Function::bridge(BRIDGE.source.0, last, bridge));
            for d in BEHIND {
                let f = Function::new(d.source.0, last).of(Form::Conventional);
                add(d, Function { alias: Alias::Sometimes(SUBSTITUTE), ..f });
            }
        }
        for (first, end, device) in &self.reserved {
            dmar = dmar.reserved(*first, *end, *device);
        }
        let width = self.profiles.iter().map(|p| p.width).min().unwrap_or(39);
        let table = dmar.bytes(width);
        let topology = Topology::from_table(&table).expect("a table");
        assert_eq!(topology.defects(), 0);
        let vtd = Vtd::new(host.clone(), topology, self.config).expect("memory");
        host.handler(Some(vtd.clone()));
        let probes = Probes::new(&host, self.mode.probes);
        let ear = Arc::new(Ear::default());
        vtd.on_other_events(ear.clone());
        Rig {
            host,
            vtd,
            ear,
            probes,
            devices,
            profiles: self.profiles.clone(),
            spurious: self.mode.spurious,
            stage: self.mode.stage,
            table,
            config: self.config,
            pages: Mutex::default(),
        }
    }

    /// The driver in charge.
    pub fn up(&self) -> Rig {
        let rig = self.build();
        rig.bring_up().expect("bring-up");
        rig
    }
}

/// Keeps what it hears.
#[derive(Default)]
pub struct Ear {
    faults: Mutex<Vec<Fault>>,
    lost: Mutex<u64>,
}

impl Events for Ear {
    fn fault(&self, f: &Fault) {
        let _own = heap::spare();
        self.faults.lock().unwrap().push(*f);
    }
    fn lost(&self, count: u64) {
        *self.lost.lock().unwrap() += count;
    }
}

impl Ear {
    pub fn heard(&self) -> Vec<Fault> {
        std::mem::take(&mut self.faults.lock().unwrap())
    }
    pub fn missed(&self) -> u64 {
        std::mem::take(&mut self.lost.lock().unwrap())
    }
}

/// The driver and its machine.
pub struct Rig {
    pub host: Host,
    pub vtd: Driver,
    /// Who hears of what no owner hears.
    pub ear: Arc<Ear>,
    pub probes: Probes,
    devices: Vec<(DeviceId, FunctionId)>,
    pub profiles: Vec<Profile>,
    spurious: u8,
    stage: Stage,
    table: Vec<u8>,
    config: Config,
    /// Memory for devices, by physical address.
    pages: Mutex<Vec<(u64, u8)>>,
}

/// A write of one of the integrated devices, or a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    Read,
    Write,
}

/// The reason that legacy mode has for what scalable mode says otherwise, so that a story names one.
pub fn in_legacy_mode(reason: u8, ask: Ask) -> u8 {
    match (reason, ask) {
        // No half of a root entry; no context entry, PASID table or PASID entry.
        (0x39, _) => 0x01,
        (0x41 | 0x51 | 0x59, _) => 0x02,
        // Not present; no right.
        (0x71 | 0x79 | 0x85, Ask::Write) => 0x05,
        (0x71 | 0x79 | 0x86, Ask::Read) => 0x06,
        // Too wide; not canonical.
        (0x80 | 0x84, _) => 0x04,
        (other, _) => other,
    }
}

impl Rig {
    pub fn bring_up(&self) -> Result<BringUp, vtd::Error> {
        let report = self.vtd.bring_up(TakeOver::Disable)?;
        // Before, no handler is ready for them.
        for n in 0..self.profiles.len() {
            self.host.machine().unit_mut(n).unwrap().adversary().spurious = self.spurious;
        }
        Ok(report)
    }

    /// Another driver for the same machine, which has touched nothing yet. From now on interrupts are its.
    pub fn successor(&self) -> Driver {
        let topology = Topology::from_table(&self.table).expect("a table");
        let vtd = Vtd::new(self.host.clone(), topology, self.config).expect("memory");
        self.host.handler(Some(vtd.clone()));
        vtd
    }

    /// Memory for devices: `2^order` pages.
    pub fn memory(&self, order: u8) -> u64 {
        let at = self.host.arena().alloc(order).expect("room for data");
        let hpa = self.host.arena().hpa(at.as_ptr() as usize);
        self.pages.lock().unwrap().push((hpa, order));
        hpa
    }

    pub fn page(&self) -> u64 {
        self.memory(0)
    }

    /// What the CPU reads at a physical address.
    pub fn look(&self, at: u64) -> u64 {
        vtd_emu::Memory::read64(self.host.machine().memory(), at).expect("memory")
    }

    pub fn put(&self, at: u64, v: u64) {
        vtd_emu::Memory::write64(self.host.machine().memory_mut(), at, v).expect("memory");
    }

    pub fn function(&self, d: DeviceId) -> FunctionId {
        self.devices.iter().find(|(known, _)| *known == d).expect("a device").1
    }

    /// The device reads eight bytes.
    pub fn read(&self, who: impl Into<Who>, at: u64) -> Result<u64, Blocked> {
        let _own = heap::spare();
        let (who, mut bytes) = (who.into(), [0; 8]);
        let answer = self.host.machine().dma_read(self.function(who.device), &who.at(at), &mut bytes);
        self.host.interrupts();
        answer.map(|()| u64::from_le_bytes(bytes))
    }

    /// The device writes eight bytes.
    pub fn write(&self, who: impl Into<Who>, at: u64, v: u64) -> Result<(), Blocked> {
        let _own = heap::spare();
        let who = who.into();
        let answer = self.host.machine().dma_write(self.function(who.device), &who.at(at), &v.to_le_bytes());
        self.host.interrupts();
        answer
    }

    /// The device reaches `memory` at `at`: what it writes lands there, and it reads what stands there.
    #[track_caller]
    pub fn reaches(&self, who: impl Into<Who>, at: u64, memory: u64) {
        let d = who.into();
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let v = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * 0x1_0001;
        assert_eq!(self.write(d, at, v), Ok(()), "{d:?} writes at {at:#x}");
        assert_eq!(self.look(memory), v, "what {d:?} wrote at {at:#x} stands at {memory:#x}");
        self.put(memory, !v);
        assert_eq!(self.read(d, at), Ok(!v), "{d:?} reads at {at:#x}");
    }

    /// The reason for which the device is blocked, as `in_legacy_mode` has it; nothing is heard of it yet.
    #[track_caller]
    pub fn refused(&self, who: impl Into<Who>, at: u64, ask: Ask) -> u8 {
        let d = who.into();
        let answer = match ask {
            Ask::Read => self.read(d, at).map(drop),
            Ask::Write => self.write(d, at, 0xbad),
        };
        match answer {
            Err(Blocked::Fault(f)) => in_legacy_mode(f.reason.0, ask),
            other => panic!("{d:?} at {at:#x} ({ask:?}) should be blocked: {other:x?}"),
        }
    }

    /// The device is blocked, for this reason, and whoever hears of its faults is told so.
    #[track_caller]
    pub fn blocked(&self, who: impl Into<Who>, at: u64, ask: Ask, reason: u8, ear: &Ear) {
        let who = who.into();
        let d = who.device;
        self.settle();
        ear.heard();
        assert_eq!(self.refused(who, at, ask), reason, "{who:?} at {at:#x}");
        self.settle();
        let heard = ear.heard();
        let attempt = match ask {
            Ask::Read => vtd::hw::faults::Access::Read,
            Ask::Write => vtd::hw::faults::Access::Write,
        };
        // A record has no more address bits than the unit takes (11.4.14).
        let bits = self.profiles.iter().map(Profile::mgaw).min().unwrap_or(63);
        let page = !0xfff & (u64::MAX >> (63 - bits));
        let this = |f: &&Fault| {
            f.pasid.map(|p| p.get()) == who.pasid
                && (f.address.get() ^ at) & page == 0
                && in_legacy_mode(f.reason.0, ask) == reason
                && f.attempt == attempt
        };
        let found = heard.iter().find(this);
        let found = found.unwrap_or_else(|| panic!("{who:?} at {at:#x}, {reason:#x}: nobody told; heard {heard:x?}"));
        let alias = BEHIND.contains(&d) && found.source.0 == SUBSTITUTE;
        assert!(found.source == d.source || alias, "{found}");
        assert!(found.device == Some(d) || alias, "{found}");
    }

    /// Has the driver deliver all that it knows.
    pub fn settle(&self) {
        self.settle_of(&self.vtd);
    }

    /// The same with another driver.
    pub fn settle_of(&self, vtd: &Driver) {
        for _ in 0..1000 {
            self.host.interrupts();
            if vtd.service(64) == Service::Idle {
                return;
            }
        }
        panic!("service does not come to an end");
    }

    /// Claims the device's group; the ear hears of every member.
    #[track_caller]
    pub fn claim(&self, d: DeviceId) -> (Group<Host>, Arc<Ear>) {
        let group = self.vtd.claim(self.vtd.group_of(d).unwrap(), Owner::HOST).unwrap();
        let ear = Arc::new(Ear::default());
        let members: Vec<DeviceId> = group.devices().collect();
        members.iter().for_each(|m| group.on_events(*m, ear.clone()).unwrap());
        (group, ear)
    }

    /// The best domain of the mode's stage that the group's units allow.
    pub fn spec(&self, group: &Group<Host>) -> DomainSpec {
        self.spec_of(group, self.stage)
    }

    /// The same of a stage.
    pub fn spec_of(&self, group: &Group<Host>, stage: Stage) -> DomainSpec {
        let mut spec = group.best_spec();
        if stage == Stage::First && spec.stage != Stage::First && self.profiles.iter().all(Profile::fsts) {
            // Of units with both stages: 4 levels, their lower half.
            (spec.stage, spec.levels) = (Stage::First, 4);
            spec.width = self.profiles.iter().map(|p| p.mgaw() as u8 + 1).min().unwrap_or(39).min(47);
            spec.sizes = PageSizes::SIZE_2M;
            spec.sizes.set(PageSizes::SIZE_1G, self.profiles.iter().all(Profile::fs1gp));
        }
        spec
    }

    /// A domain as good as the group's units allow.
    pub fn domain(&self, group: &Group<Host>) -> Domain<Host> {
        self.vtd.domain(&self.spec(group)).unwrap()
    }

    /// Whether the stories' domains have first-stage tables.
    pub fn first_stage(&self) -> bool {
        self.stage == Stage::First
    }

    /// The same of a stage, which maps `at` to a page of its own.
    #[track_caller]
    pub fn domain_of(&self, group: &Group<Host>, stage: Stage, at: u64) -> (Domain<Host>, u64) {
        let (domain, page) = (self.vtd.domain(&self.spec_of(group, stage)).unwrap(), self.page());
        map(&domain, at, page, 0x1000);
        (domain, page)
    }

    /// Claims the device and attaches it to an empty domain of its own.
    #[track_caller]
    pub fn attached(&self, d: DeviceId) -> (Group<Host>, Domain<Host>, Arc<Ear>) {
        let (group, ear) = self.claim(d);
        let domain = self.domain(&group);
        group.attach(Target::Domain(&domain)).unwrap();
        (group, domain, ear)
    }

    /// What software owed the hardware and did not pay.
    #[track_caller]
    pub fn sound(&self) {
        let mut m = self.host.machine();
        m.at_rest();
        if let Some((unit, b)) = m.breaches().first() {
            panic!("unit {unit}: {:?} at {} ns: {}\n{}", b.rule, b.at, b.what, b.history);
        }
        assert_eq!(m.misdeeds(), []);
    }

    /// Hands everything back; nothing may be left, and nothing may have been owed.
    #[track_caller]
    pub fn end(self) {
        assert_eq!(self.end_keeping(), 0, "frames that were not given back");
    }

    /// The same; the number of frames that stay owned.
    #[track_caller]
    pub fn end_keeping(self) -> u64 {
        self.settle();
        // Nothing is under way: what caches hold now is what stands in memory.
        self.host.machine().at_rest();
        self.sound();
        self.probes.stop(&self.host);
        self.host.handler(None);
        let host = self.vtd.hand_back().map_err(|(_, e)| e).expect("everything was released");
        let m = host.machine();
        if let Some((unit, b)) = m.breaches().first() {
            panic!("at the end, unit {unit}: {:?} at {} ns: {}\n{}", b.rule, b.at, b.what, b.history);
        }
        drop(m);
        self.profiles.iter().enumerate().for_each(|(n, p)| features::note(p, host.seen(n)));
        for (at, order) in std::mem::take(&mut *self.pages.lock().unwrap()) {
            host.arena().free(host.arena().ptr(at), order);
        }
        host.arena().used()
    }
}

pub fn hpa(v: u64) -> Hpa {
    Hpa::new(v).expect("52 bits")
}

pub fn range(first: u64, last: u64) -> Range {
    Range::new(first, last).expect("in order")
}

/// Maps, for reading and writing.
#[track_caller]
pub fn map(d: &Domain<Host>, at: u64, to: u64, len: u64) {
    d.map(Iova::at(at), hpa(to), len, Access::all()).unwrap();
}

/// Unmaps, and flushes.
#[track_caller]
pub fn unmap(d: &Domain<Host>, first: u64, last: u64) {
    d.unmap(range(first, last)).unwrap().flush().unwrap();
}

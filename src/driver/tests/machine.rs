//! A machine for tests: stand-in units, a DMAR table that names them, configuration space, and the driver on top.

use crate::dmar::Topology;
use crate::host::address::{DeviceId, Hpa, Iova, Range};
use crate::host::error::Error;
use crate::host::testing::Host;
use crate::unit::standin::Standin;
use crate::{BringUp, Config, Domain, DomainSpec, Group, Owner, PageSizes, Stage, Tables, TakeOver, Vtd};
use std::vec::Vec;

pub(super) type Driver = Vtd<Host>;

/// A device on bus 0, alone in its group.
pub(super) const fn dev(device: u8) -> DeviceId {
    DeviceId::new(0, 0, device, 0)
}

/// Behind a bridge from PCI Express, in one group with it and with each other.
pub(super) const BRIDGE: DeviceId = DeviceId::new(0, 1, 0, 0);
pub(super) const BEHIND: [DeviceId; 2] = [DeviceId::new(0, 2, 1, 0), DeviceId::new(0, 2, 2, 0)];
/// The id that the bridge puts in place of theirs.
pub(super) const SUBSTITUTE: u16 = 0x200;

/// What a DMAR table says.
#[derive(Default, Clone)]
pub(super) struct Dmar {
    bytes: Vec<u8>,
}

fn scopes(devices: &[DeviceId]) -> Vec<u8> {
    let scope = |d: &DeviceId| [1, 8, 0, 0, 0, d.source.bus(), d.source.device(), d.source.function()];
    devices.iter().flat_map(scope).collect()
}

impl Dmar {
    fn add(mut self, kind: u16, body: &[&[u8]]) -> Self {
        let body = body.concat();
        self.bytes.extend([kind.to_le_bytes(), (body.len() as u16 + 4).to_le_bytes()].concat());
        self.bytes.extend(body);
        self
    }

    /// A unit for `devices`, or for all others where there are none.
    pub(super) fn unit(self, base: u64, devices: &[DeviceId]) -> Self {
        let all = u8::from(devices.is_empty());
        self.add(0, &[&[all, 0, 0, 0], &base.to_le_bytes(), &scopes(devices)])
    }

    /// A region reserved for a device.
    pub(super) fn reserved(self, first: u64, last: u64, device: DeviceId) -> Self {
        self.add(1, &[&[0, 0, 0, 0], &first.to_le_bytes(), &last.to_le_bytes(), &scopes(&[device])])
    }

    /// What holds for an integrated device (SIDP).
    pub(super) fn properties(self, device: DeviceId, flags: u8) -> Self {
        let mut scope = scopes(&[device]);
        scope[2] = flags;
        self.add(6, &[&[0, 0, 0, 0], &scope])
    }

    /// The structures alone.
    pub(super) fn structures(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole table.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut table =
            [b"DMAR".as_slice(), &(48 + self.bytes.len() as u32).to_le_bytes(), &[1, 0], b"STANDI", b"MACHINES"]
                .concat();
        table.resize(48, 0);
        // 47 bits.
        table[36] = 46;
        table.extend(&self.bytes);
        table[9] = 0u8.wrapping_sub(table.iter().fold(0, |sum, b| sum.wrapping_add(*b)));
        table
    }

    pub(super) fn topology(&self) -> Topology {
        let topology = Topology::from_table(&self.bytes()).unwrap();
        assert_eq!(topology.defects(), 0);
        topology
    }
}

pub(super) fn express(host: &Host, d: DeviceId, header: u32, kind: u32, class: u32) {
    let space = [(0, 0x1111_8086), (4, 1 << 20), (8, class << 8), (0xc, header << 16), (0x34, 0x40)];
    let capability = [(0x40, 0x10 | 2 << 16 | kind << 20), (0x44, 0), (0x68, 0), (0x100, 0)];
    space.into_iter().chain(capability).for_each(|(at, v)| host.set_config(d, at, v));
}

/// Configuration space: integrated devices 1 to 15 on bus 0 (4 is a USB controller), a root port with access control, a
/// bridge behind it, two conventional devices behind that.
pub(super) fn configure(host: &Host) {
    for n in 1..16 {
        express(host, dev(n), 0, 9, if n == 4 { 0x0c_0330 } else { 0x02_0000 });
    }
    let port = dev(0x1c);
    express(host, port, 1, 4, 0x06_0400);
    host.set_config(port, 0x18, 0x0002_0100);
    host.set_config(port, 0x100, 0x000d | 1 << 16);
    host.set_config(port, 0x104, 0x001d_001d);
    express(host, BRIDGE, 1, 7, 0x06_0400);
    host.set_config(BRIDGE, 0x18, 0x0002_0201);
    for d in BEHIND {
        [(0, 0x1111_8086), (4, 0), (8, 0x0200_0000), (0xc, 0)].iter().for_each(|(at, v)| host.set_config(d, *at, *v));
    }
}

pub(super) const BASES: [u64; 2] = [0xfed9_0000, 0xfed9_1000];

/// The driver over one unit for everything, or over two: the first serves devices 1 to 4.
pub(super) struct Machine {
    pub(super) host: Host,
    pub(super) units: Vec<Standin>,
    pub(super) vtd: Driver,
    pub(super) report: Result<BringUp, Error>,
}

impl Machine {
    /// Not yet up.
    pub(super) fn prepare(host: Host, units: &[(u64, u64)]) -> (Host, Vec<Standin>, Dmar) {
        configure(&host);
        let standins =
            units.iter().zip(BASES).map(|((cap, ecap), base)| Standin::new(&host, base, *cap, *ecap)).collect();
        let dmar = match units.len() {
            1 => Dmar::default().unit(BASES[0], &[]),
            _ => Dmar::default().unit(BASES[0], &[1, 2, 3, 4].map(dev)).unit(BASES[1], &[]),
        };
        (host, standins, dmar)
    }

    pub(super) fn with(host: Host, units: Vec<Standin>, dmar: &Dmar, config: Config) -> Self {
        let vtd = Vtd::new(host.clone(), dmar.topology(), config).unwrap();
        let report = vtd.bring_up(TakeOver::Disable);
        Machine { host, units, vtd, report }
    }

    /// Up.
    pub(super) fn new(units: &[(u64, u64)]) -> Self {
        let (host, standins, dmar) = Self::prepare(Host::new(), units);
        let m = Self::with(host, standins, &dmar, config());
        m.report.as_ref().unwrap();
        m.forget();
        m
    }

    /// Forgets what the units have seen so far.
    pub(super) fn forget(&self) {
        self.units.iter().for_each(|u| drop(u.take()));
    }

    pub(super) fn claim(&self, d: DeviceId) -> Group<Host> {
        self.vtd.claim(self.vtd.group_of(d).unwrap(), Owner(7)).unwrap()
    }

    /// Hands everything back; nothing may be left.
    pub(super) fn end(self) {
        assert_eq!(self.end_keeping(), 0);
    }

    /// Hands everything back; the number of frames that stay owned.
    pub(super) fn end_keeping(self) -> u64 {
        let host = self.vtd.hand_back().map_err(|(_, e)| e).expect("everything was released");
        host.counts().frames
    }
}

/// Scalable mode where the unit has it.
pub(super) fn config() -> Config {
    Config { tables: Tables::Best, ..Config::default() }
}

pub(super) fn range(first: u64, last: u64) -> Range {
    Range::new(first, last).unwrap()
}

pub(super) fn hpa(v: u64) -> Hpa {
    Hpa::new(v).unwrap()
}

/// 48 bits, every page size.
pub(super) const WIDE: DomainSpec = DomainSpec {
    stage: Stage::Any,
    levels: 4,
    width: 47,
    sizes: PageSizes::all(),
    coherent: true,
    force_snoop: false,
    dirty: false,
    extended_accessed: false,
};

pub(super) fn map(d: &Domain<Host>, at: u64, to: u64, len: u64) {
    d.map(Iova::at(at), hpa(to), len, crate::Access::all()).unwrap();
}

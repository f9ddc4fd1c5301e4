//! The table as the driver uses it: which unit serves a device, which regions it must keep, what the firmware says of its
//! translation cache. VT-d 8.3 to 8.9; scopes that lead through bridges: 8.3.1; ARI, virtual functions, hot plug: 8.3.2 to
//! 8.3.4.
//!
//! Built from any table that is a DMAR table at all; what the firmware got wrong is left out or repaired as the
//! documentation of each field says, and `audit` reports it.

use super::defect::Defect;
use super::parse::{Andd, Drhd, Entry, HeaderFlags, Scope, Scopes, Structure, Table};
use crate::host::address::{DeviceId, Hpa, PAGE, Range, SourceId, UnitId};
use crate::host::error::{Error, ErrorKind, Field};
use crate::host::grow;
use alloc::vec::Vec;

/// More units or regions than this no machine has, and a table that says so is refused: comparing each with each ends.
const MOST: usize = 4096;

/// The buses behind a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buses {
    /// The bus directly behind it.
    pub secondary: u8,
    /// The last bus behind it.
    pub subordinate: u8,
}

impl Buses {
    /// Whether `bus` is among them.
    pub fn holds(&self, bus: u8) -> bool {
        (self.secondary..=self.subordinate).contains(&bus)
    }
}

/// What resolving a scope needs of the PCI tree. A closure that answers `buses` is one.
pub trait Bridges {
    /// The buses behind `bridge` as its configuration space says them; `None` where it is no bridge or is not there.
    fn buses(&self, bridge: DeviceId) -> Option<Buses>;

    /// The function that scopes name for `d`: the physical function of a virtual one, function 0 of an ARI device
    /// (VT-d 8.3.2, 8.3.3).
    fn named(&self, d: DeviceId) -> DeviceId {
        d
    }
}

impl<F: Fn(DeviceId) -> Option<Buses>> Bridges for F {
    fn buses(&self, bridge: DeviceId) -> Option<Buses> {
        self(bridge)
    }
}

/// What a scope names (VT-d 8.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScopeKind {
    /// A PCI function.
    Endpoint,
    /// A bridge and everything behind it.
    SubHierarchy,
    /// An IOAPIC, by the id that the ACPI table MADT gives it.
    IoApic,
    /// An HPET that sends messages, by the number that the ACPI table HPET gives it.
    Hpet,
    /// A device of the ACPI name space, by the number that its ANDD gives it.
    Acpi,
    /// A type that is not known; it matches nothing.
    Unknown(u8),
}

/// A device scope (VT-d 8.3.1).
#[derive(PartialEq, Eq, Debug)]
pub struct DeviceScope {
    /// What it names.
    pub kind: ScopeKind,
    /// The id of the IOAPIC, HPET or ACPI device.
    pub enumeration_id: u8,
    /// The bus on which the path begins.
    pub start_bus: u8,
    /// Device and function on each bus of the way; never empty.
    pub path: Vec<[u8; 2]>,
}

/// How closely a scope names a device. Smaller is closer: 0 the device itself, else the number of buses behind the bridge.
type Closeness = u16;

impl DeviceScope {
    fn new(scope: &Scope<'_>) -> Result<Self, Error> {
        let mut path = grow::with_capacity(scope.path.len())?;
        for pair in scope.path {
            grow::push(&mut path, *pair)?;
        }
        let kind = match scope.kind {
            1 => ScopeKind::Endpoint,
            2 => ScopeKind::SubHierarchy,
            3 => ScopeKind::IoApic,
            4 => ScopeKind::Hpet,
            5 => ScopeKind::Acpi,
            n => ScopeKind::Unknown(n),
        };
        Ok(DeviceScope { kind, enumeration_id: scope.enumeration_id, start_bus: scope.start_bus, path })
    }

    /// The function or source id that the scope names today, in `segment`; `None` where its path leads through a bridge
    /// that is not there, or a device or function number is too large.
    pub fn resolve(&self, segment: u16, tree: &impl Bridges) -> Option<DeviceId> {
        let mut bus = self.start_bus;
        let mut at = None;
        for &[device, function] in &self.path {
            if let Some(bridge) = at {
                bus = tree.buses(bridge)?.secondary;
            }
            if device > 31 || function > 7 {
                return None;
            }
            at = Some(DeviceId { segment, source: SourceId::new(bus, device, function) });
        }
        at
    }

    /// Whether the scope holds `d`, and how closely.
    ///
    /// A bridge that was listed as an endpoint counts as the bridge that it is: what is behind it goes through its unit.
    fn holds(&self, segment: u16, d: DeviceId, tree: &impl Bridges) -> Option<Closeness> {
        if segment != d.segment || matches!(self.kind, ScopeKind::Unknown(_)) {
            return None;
        }
        let it = self.resolve(segment, tree)?;
        if it == d {
            return Some(0);
        }
        if !matches!(self.kind, ScopeKind::Endpoint | ScopeKind::SubHierarchy) {
            return None;
        }
        let behind = tree.buses(it)?;
        let width = u16::from(behind.subordinate.saturating_sub(behind.secondary));
        behind.holds(d.source.bus()).then_some(width.saturating_add(1))
    }
}

fn read_scopes(into: &mut Vec<DeviceScope>, scopes: Scopes<'_>) -> Result<(), Error> {
    for scope in scopes.flatten().filter(|s| !s.path.is_empty()) {
        grow::push(into, DeviceScope::new(&scope)?)?;
    }
    Ok(())
}

fn closest(scopes: &[DeviceScope], segment: u16, d: DeviceId, tree: &impl Bridges) -> Option<Closeness> {
    scopes.iter().filter_map(|s| s.holds(segment, d, tree)).min()
}

/// A remapping unit.
#[derive(PartialEq, Eq, Debug)]
pub struct Unit {
    /// Its place in the table, duplicates merged.
    pub id: UnitId,
    /// The PCI segment that it serves.
    pub segment: u16,
    /// Its registers. `None` where the table's address cannot be one (0, all ones, beyond 52 bits, not on a page, or that
    /// of a unit of another segment): the unit cannot be used, and its devices are served by nobody.
    pub base: Option<Hpa>,
    /// Bytes of its register set as the table says it; the registers themselves may reach further.
    pub window: u64,
    /// Whether it serves everything in its segment that no other unit serves.
    pub include_pci_all: bool,
    /// What it serves by name.
    pub scopes: Vec<DeviceScope>,
    /// Its NUMA node (RHSA).
    pub node: Option<u32>,
}

/// A region that the firmware reserved for devices (RMRR).
#[derive(PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The PCI segment of its devices.
    pub segment: u16,
    /// The first byte as the table says it.
    pub base: u64,
    /// The last byte as the table says it.
    pub limit: u64,
    /// The whole pages to be mapped one to one: rounded outwards; `None` where the region means nothing (0 to 0, end below
    /// start, beyond 52 bits).
    pub range: Option<Range>,
    /// The devices that use it.
    pub scopes: Vec<DeviceScope>,
}

#[derive(Debug)]
struct Listed {
    segment: u16,
    all: bool,
    flags: IntegratedFlags,
    scopes: Vec<DeviceScope>,
}

#[derive(Debug)]
struct Name {
    number: u8,
    path: Vec<u8>,
}

bitflags::bitflags! {
    /// What the firmware says of an integrated device (SIDP scope flags, VT-d 8.3.1; SATC, VT-d 8.8).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct IntegratedFlags: u8 {
        /// Requests without PASID should not be given nested translation.
        const NO_NESTING = 1 << 0;
        /// Page walks for requests without PASID must not be snooped (PWSNP stays 0).
        const NO_WALK_SNOOP = 1 << 1;
        /// Requests without PASID must not be forced to snoop (PGSNP and leaf SNP stay 0).
        const NO_PAGE_SNOOP = 1 << 2;
        /// The translation cache was validated; enabling it is recommended.
        const CACHE_HARDENED = 1 << 3;
        /// The device does not work without its translation cache.
        const CACHE_REQUIRED = 1 << 4;
    }
}

/// The checked topology of a machine's remapping units.
#[derive(Debug)]
pub struct Topology {
    width: u16,
    flags: HeaderFlags,
    oem: [u8; 6],
    oem_table: [u8; 8],
    units: Vec<Unit>,
    reserved: Vec<Reserved>,
    ats: Vec<Listed>,
    names: Vec<Name>,
    cached: Vec<Listed>,
    properties: Vec<Listed>,
    has_properties: bool,
    units_complete: bool,
    defects: usize,
}

impl Topology {
    /// Reads a table. Fails for bytes that are no DMAR table (`Invalid(Format)`), for absurd numbers of units or regions
    /// (`Invalid(Size)`), and when memory ends; every other defect is survived.
    ///
    /// May wait for the allocator; not for interrupt context.
    ///
    /// ```
    /// use vtd::dmar::Topology;
    /// use vtd::{Class, Hpa};
    ///
    /// // A header of 48 bytes, and one unit that serves everything in segment 0.
    /// let mut table = [0; 64];
    /// table[..4].copy_from_slice(b"DMAR");
    /// (table[4], table[8], table[36]) = (64, 1, 38);
    /// (table[50], table[52]) = (16, 1);
    /// table[56..].copy_from_slice(&0xfed9_0000u64.to_le_bytes());
    /// table[9] = table.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
    /// let topology = Topology::from_table(&table)?;
    /// assert_eq!((topology.host_address_width(), topology.defects()), (39, 0));
    /// assert_eq!(topology.units()[0].base, Hpa::new(0xfed9_0000));
    /// assert!(topology.units()[0].include_pci_all);
    /// // Only bytes that are no such table are refused.
    /// assert_eq!(Topology::from_table(b"FACP").map(|_| ()).unwrap_err().class(), Class::Invalid);
    /// # Ok::<(), vtd::Error>(())
    /// ```
    pub fn from_table(bytes: &[u8]) -> Result<Topology, Error> {
        let table = Table::new(bytes);
        if !table.is_dmar() {
            return Err(ErrorKind::Invalid(Field::Format).into());
        }
        let header = table.header();
        let mut t = Topology {
            width: header.host_address_width,
            flags: header.flags,
            oem: header.oem_id,
            oem_table: header.oem_table_id,
            units: Vec::new(),
            reserved: Vec::new(),
            ats: Vec::new(),
            names: Vec::new(),
            cached: Vec::new(),
            properties: Vec::new(),
            has_properties: false,
            units_complete: true,
            defects: 0,
        };
        let mut defects = 0usize;
        table.defects(&mut |_| defects = defects.saturating_add(1));
        t.defects = defects;
        // Types ascend, so that a table that ends early behind its units has them all.
        let mut beyond_units = false;
        for entry in table.structures() {
            let mut whole = true;
            entry.defects(&mut |d| whole &= matches!(d, Defect::StructureLong { .. }));
            match entry.kind {
                // Zeros to the end hide nothing: firmware's padding.
                _ if entry.is_padding() => {}
                Some(0) => t.units_complete &= whole,
                Some(_) => beyond_units = true,
                None => t.units_complete &= beyond_units,
            }
            t.add(&entry)?;
        }
        if matches!(header.length as usize, n if n > bytes.len()) {
            t.units_complete &= beyond_units;
        }
        let nodes =
            table.structures().filter_map(|e| if let Structure::Rhsa(a) = e.structure { Some(a) } else { None });
        for a in nodes.take(MOST) {
            for unit in t.units.iter_mut().filter(|u| u.base.is_some_and(|b| b.get() == a.register_base)) {
                unit.node = Some(a.proximity_domain);
            }
        }
        Ok(t)
    }

    /// What the structures of one remapping unit that came later say (VT-d 8.3, and 8.1 for such units): one DRHD, named `id`,
    /// and whatever else comes with it. The machine is that of `machine`.
    pub(crate) fn later(structures: &[u8], id: UnitId, machine: &Topology) -> Result<Topology, Error> {
        const HEADER: usize = 48;
        let bad = |field| Error::from(ErrorKind::Invalid(field));
        let len = HEADER.checked_add(structures.len()).and_then(|n| u32::try_from(n).ok()).ok_or(bad(Field::Size))?;
        let width = machine.width.saturating_sub(1) as u8;
        let mut table = grow::with_capacity(len as usize)?;
        let header = b"DMAR".iter().copied().chain(len.to_le_bytes()).chain([1]);
        let header = header.chain(core::iter::repeat_n(0, 27)).chain([width]).chain(core::iter::repeat_n(0, 11));
        for byte in header.chain(structures.iter().copied()) {
            grow::push(&mut table, byte)?;
        }
        let mut t = Topology::from_table(&table)?;
        // There is no table whose checksum could be right.
        match t.units.as_mut_slice() {
            [unit] if t.units_complete => unit.id = id,
            _ => return Err(bad(Field::Format)),
        }
        Ok(t)
    }

    fn add(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        let listed = |segment, all, flags, scopes| -> Result<Listed, Error> {
            let mut owned = Vec::new();
            read_scopes(&mut owned, scopes)?;
            Ok(Listed { segment, all, flags, scopes: owned })
        };
        match entry.structure {
            Structure::Drhd(d) => self.add_unit(&d)?,
            Structure::Rmrr(r) => {
                if self.reserved.len() >= MOST {
                    return Err(ErrorKind::Invalid(Field::Size).into());
                }
                let mut scopes = Vec::new();
                read_scopes(&mut scopes, r.scopes)?;
                let range = usable_range(r.base, r.limit);
                let region = Reserved { segment: r.segment, base: r.base, limit: r.limit, range, scopes };
                grow::push(&mut self.reserved, region)?;
            }
            Structure::Atsr(a) => {
                let l = listed(a.segment, a.flags & 1 != 0, IntegratedFlags::empty(), a.scopes)?;
                grow::push(&mut self.ats, l)?;
            }
            Structure::Andd(Andd { device_number, name, .. }) => {
                let mut path = grow::with_capacity(name.len())?;
                for c in name {
                    grow::push(&mut path, *c)?;
                }
                grow::push(&mut self.names, Name { number: device_number, path })?;
            }
            Structure::Satc(s) => {
                let required =
                    if s.flags & 1 != 0 { IntegratedFlags::CACHE_REQUIRED } else { IntegratedFlags::empty() };
                let l = listed(s.segment, false, required | IntegratedFlags::CACHE_HARDENED, s.scopes)?;
                grow::push(&mut self.cached, l)?;
            }
            Structure::Sidp(s) => {
                self.has_properties = true;
                for scope in s.scopes.flatten().filter(|x| !x.path.is_empty()) {
                    let mut one = Vec::new();
                    grow::push(&mut one, DeviceScope::new(&scope)?)?;
                    let flags = IntegratedFlags::from_bits_truncate(scope.flags);
                    grow::push(&mut self.properties, Listed { segment: s.segment, all: false, flags, scopes: one })?;
                }
            }
            Structure::Rhsa(_) | Structure::Unknown => {}
        }
        Ok(())
    }

    fn add_unit(&mut self, d: &Drhd<'_>) -> Result<(), Error> {
        let mut base = usable_base(d.register_base);
        if let Some(same) = self.units.iter_mut().find(|u| u.base.is_some() && u.base == base) {
            if same.segment == d.segment {
                same.include_pci_all |= d.include_pci_all();
                same.window = same.window.max(d.window());
                return read_scopes(&mut same.scopes, d.scopes);
            }
            base = None;
        }
        if self.units.len() >= MOST {
            return Err(ErrorKind::Invalid(Field::Size).into());
        }
        let id = UnitId(u16::try_from(self.units.len()).map_err(|_| ErrorKind::Invalid(Field::Size))?);
        let mut scopes = Vec::new();
        read_scopes(&mut scopes, d.scopes)?;
        let (segment, window, include_pci_all) = (d.segment, d.window(), d.include_pci_all());
        grow::push(&mut self.units, Unit { id, segment, base, window, include_pci_all, scopes, node: None })?;
        Ok(())
    }

    /// Bits of physical addresses that the platform's DMA reaches, 1 to 256 as the table says them.
    pub fn host_address_width(&self) -> u16 {
        self.width
    }

    /// The header's flags: interrupt remapping, the x2APIC opt-out, the firmware's promise to keep its DMA to the
    /// reserved regions.
    pub fn flags(&self) -> HeaderFlags {
        self.flags
    }

    /// The OEM's id, for `Identity::oem`.
    pub fn oem(&self) -> [u8; 6] {
        self.oem
    }

    /// The OEM's id of the table, for `Identity::oem_table`.
    pub fn oem_table(&self) -> [u8; 8] {
        self.oem_table
    }

    /// How many defects (`Table::defects`) the table has; 0 for a table that can be trusted as a whole.
    pub fn defects(&self) -> usize {
        self.defects
    }

    /// Whether every unit and every scope of a unit could be read. Where not, `unit_of` finds explicit scopes only: what
    /// is not named may belong to a unit that was lost, and its DMA would pass a unit that never sees it.
    pub fn units_complete(&self) -> bool {
        self.units_complete
    }

    /// The units, in the order of their ids.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// One unit.
    pub fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(usize::from(id.0))
    }

    /// The PCI segments that units serve, each once.
    pub fn segments(&self) -> impl Iterator<Item = u16> {
        let before = |n: usize| self.units.iter().take(n);
        let all = self.units.iter().enumerate();
        all.filter(move |(n, u)| before(*n).all(|o| o.segment != u.segment)).map(|(_, u)| u.segment)
    }

    /// The unit that serves `d` (VT-d 8.3): one that names it; else the one that names the nearest bridge above it; else
    /// its segment's INCLUDE_PCI_ALL unit. `d` is a PCI function or the source id of an IOAPIC, HPET or ACPI device.
    ///
    /// A unit without usable registers (`Unit::base`) is an answer too: then nobody translates for the device.
    pub fn unit_of(&self, d: DeviceId, tree: &impl Bridges) -> Option<&Unit> {
        let d = tree.named(d);
        let mut best: Option<(Closeness, &Unit)> = None;
        for unit in &self.units {
            if let Some(n) = closest(&unit.scopes, unit.segment, d, tree)
                && best.is_none_or(|(m, _)| n < m)
            {
                best = Some((n, unit));
            }
        }
        let rest = || self.units.iter().find(|u| u.include_pci_all && u.segment == d.segment && u.base.is_some());
        match best {
            Some((_, unit)) => Some(unit),
            None if self.units_complete => rest(),
            None => None,
        }
    }

    /// The unit and source id of an IOAPIC, HPET or ACPI device by its enumeration id (VT-d 8.3.1.1 to 8.3.1.3).
    pub fn source_of<'a>(&'a self, kind: ScopeKind, id: u8, tree: &'a impl Bridges) -> Option<(&'a Unit, DeviceId)> {
        self.sources(kind, tree).find(|(_, scope, _)| scope.enumeration_id == id).map(|(unit, _, d)| (unit, d))
    }

    /// Every scope of this kind with its unit and what it names today: all IOAPICs, all ACPI devices.
    pub fn sources<'a>(
        &'a self,
        kind: ScopeKind,
        tree: &'a impl Bridges,
    ) -> impl Iterator<Item = (&'a Unit, &'a DeviceScope, DeviceId)> + 'a {
        self.units.iter().flat_map(move |unit| {
            let scopes = unit.scopes.iter().filter(move |s| s.kind == kind);
            scopes.filter_map(move |s| s.resolve(unit.segment, tree).map(|d| (unit, s, d)))
        })
    }

    /// The path in the ACPI name space of the device with this number (ANDD), without the NUL.
    pub fn name(&self, number: u8) -> Option<&[u8]> {
        self.names.iter().find(|n| n.number == number).map(|n| n.path.as_slice())
    }

    /// All reserved regions, those that mean nothing included.
    pub fn reserved(&self) -> &[Reserved] {
        &self.reserved
    }

    /// The reserved regions that `d` uses, those that mean nothing left out.
    pub fn reserved_of<'a>(
        &'a self,
        d: DeviceId,
        tree: &'a impl Bridges,
    ) -> impl Iterator<Item = (&'a Reserved, Range)> + 'a {
        let d = tree.named(d);
        let held = self.reserved.iter().filter(move |r| closest(&r.scopes, r.segment, d, tree).is_some());
        held.filter_map(|r| r.range.map(|range| (r, range)))
    }

    /// Whether the root port `port` supports ATS (VT-d 8.5).
    pub fn port_has_ats(&self, port: DeviceId, tree: &impl Bridges) -> bool {
        self.ats
            .iter()
            .filter(|a| a.segment == port.segment)
            .any(|a| a.all || a.scopes.iter().any(|s| s.holds(a.segment, port, tree) == Some(0)))
    }

    /// What the firmware says of the integrated device `d`: SIDP where the table has any, else SATC (VT-d 8.9). `None` for
    /// a device that is not listed.
    pub fn integrated(&self, d: DeviceId, tree: &impl Bridges) -> Option<IntegratedFlags> {
        let d = tree.named(d);
        let list = if self.has_properties { &self.properties } else { &self.cached };
        let mut of = list.iter().filter(|l| l.scopes.iter().any(|s| s.holds(l.segment, d, tree) == Some(0)));
        let first = of.next()?.flags;
        Some(of.fold(first, |all, l| all | l.flags))
    }
}

/// A register base that can be one.
pub(super) fn usable_base(base: u64) -> Option<Hpa> {
    Hpa::new(base).filter(|b| base != 0 && b.is_aligned(PAGE))
}

/// The whole pages of a reserved region; `None` where it means nothing.
pub(super) fn usable_range(base: u64, limit: u64) -> Option<Range> {
    if limit < base || limit == 0 {
        return None;
    }
    Hpa::new(limit)?;
    Range::new(base & !(PAGE.wrapping_sub(1)), limit | PAGE.wrapping_sub(1))
}

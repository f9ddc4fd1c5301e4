//! Finds what is odd about a table that can be read: what the specification forbids (VT-d 8.1 to 8.9) and firmware does.
//!
//! Nothing here changes what the driver does; `topology` survives all of it.

use super::oddity::{Oddity, OddityKind};
use super::parse::{Andd, Atsr, Drhd, Entry, HeaderFlags, Rhsa, Rmrr, Satc, Scope, Scopes, Structure, Table};
use super::topology::{usable_base, usable_range};
use crate::host::address::{INTERRUPT_RANGE, PAGE, Range};

/// Structures beyond this many are looked at one by one, but not compared with the others: that ends for any table.
const COMPARED: usize = 1024;

/// Calls `report` with everything odd about `table`: first of its header, then in table order. `reserved` answers whether the memory map
/// keeps a range out of general use (reserved, or EFI runtime); without it that question is not asked.
///
/// Any context that `report` allows; neither waits nor allocates. Structures are compared with each other up to the 1024th
/// of the table, which is many times what machines have.
pub fn audit(table: &Table<'_>, reserved: Option<&dyn Fn(Range) -> bool>, report: &mut dyn FnMut(Oddity)) {
    if !table.is_dmar() {
        return;
    }
    let audit = Audit { table, reserved, names: names(table) };
    audit.header(&mut |at, kind| report(Oddity { at, kind }));
    let mut highest = 0;
    for (place, entry) in table.structures().enumerate() {
        let note = &mut |at, kind| report(Oddity { at, kind });
        if entry.at % 4 != 0 {
            note(entry.at, OddityKind::Alignment);
        }
        if let Some(kind) = entry.kind {
            if kind < highest {
                note(entry.at, OddityKind::Order(kind));
            }
            highest = highest.max(kind);
            if kind > 6 {
                note(entry.at, OddityKind::UnknownType(kind));
            }
            if has_reserved_bits(&entry) {
                note(entry.at, OddityKind::Reserved(kind));
            }
        }
        match entry.structure {
            _ if place >= COMPARED => {}
            Structure::Drhd(d) => audit.unit(place, &entry, &d, note),
            Structure::Rmrr(r) => audit.region(place, &entry, &r, note),
            Structure::Atsr(a) => audit.ports(&entry, &a, note),
            Structure::Rhsa(a) => audit.affinity(&entry, &a, note),
            Structure::Andd(a) => audit.name(place, &entry, &a, note),
            Structure::Satc(s) => audit.caches(&entry, &s, note),
            Structure::Sidp(s) => integrated(s.scopes, &[1, 5], note),
            Structure::Unknown => {}
        }
        let in_sidp = matches!(entry.structure, Structure::Sidp(_));
        for scope in entry.scopes().flatten() {
            audit.scope(&scope, in_sidp, note);
        }
    }
}

/// Whether an OEM's id says nothing.
fn blank(id: &[u8]) -> bool {
    !id.iter().take_while(|c| **c != 0).any(u8::is_ascii_graphic)
}

fn has_reserved_bits(entry: &Entry<'_>) -> bool {
    let set = |from: usize, to: usize| entry.bytes.get(from..to).is_some_and(|b| b.iter().any(|x| *x != 0));
    match entry.structure {
        Structure::Drhd(d) => d.flags > 1 || d.size > 15,
        Structure::Rmrr(_) | Structure::Sidp(_) => set(4, 6),
        Structure::Atsr(a) => a.flags > 1 || set(5, 6),
        Structure::Satc(s) => s.flags > 1 || set(5, 6),
        Structure::Rhsa(_) => set(4, 8),
        Structure::Andd(_) => set(4, 7),
        Structure::Unknown => false,
    }
}

/// Integrated devices have one of these scope types and a path of one step (VT-d 8.8, 8.9).
fn integrated(scopes: Scopes<'_>, kinds: &[u8], note: Note<'_>) {
    for scope in scopes.flatten().filter(|s| !kinds.contains(&s.kind) || s.path.len() != 1) {
        note(scope.at, OddityKind::NotIntegrated(scope.kind));
    }
}

type Note<'n> = &'n mut dyn FnMut(usize, OddityKind);

struct Audit<'t, 'a> {
    table: &'t Table<'a>,
    reserved: Option<&'t dyn Fn(Range) -> bool>,
    /// Which numbers of ACPI devices have a name, one bit each.
    names: [u64; 4],
}

fn names(table: &Table<'_>) -> [u64; 4] {
    let mut names = [0u64; 4];
    for entry in table.structures() {
        if let Structure::Andd(a) = entry.structure
            && let Some(word) = names.get_mut(usize::from(a.device_number >> 6))
        {
            *word |= 1 << (a.device_number & 63);
        }
    }
    names
}

impl<'a> Audit<'_, 'a> {
    fn compared(&self) -> impl Iterator<Item = (usize, Entry<'a>)> {
        self.table.structures().enumerate().take(COMPARED)
    }

    fn units(&self) -> impl Iterator<Item = (usize, Drhd<'a>)> {
        self.compared().filter_map(|(n, e)| if let Structure::Drhd(d) = e.structure { Some((n, d)) } else { None })
    }

    fn names(&self) -> impl Iterator<Item = (usize, Andd<'a>)> {
        self.compared().filter_map(|(n, e)| if let Structure::Andd(a) = e.structure { Some((n, a)) } else { None })
    }

    fn header(&self, note: Note<'_>) {
        let h = self.table.header();
        if h.revision != 1 {
            note(8, OddityKind::Revision(h.revision));
        }
        if blank(&h.oem_id) || blank(&h.oem_table_id) {
            note(10, OddityKind::BlankOem);
        }
        if !(12..=64).contains(&h.host_address_width) {
            note(36, OddityKind::Width(h.host_address_width));
        }
        if h.flags.contains(HeaderFlags::X2APIC_OPT_OUT) && !h.flags.contains(HeaderFlags::INTR_REMAP) {
            note(37, OddityKind::OptOutAlone);
        }
        if h.flags.bits() > 7 || self.table.reserved().iter().any(|b| *b != 0) {
            note(37, OddityKind::HeaderReserved);
        }
        if self.units().next().is_none() {
            note(super::parse::HEADER, OddityKind::NoUnits);
        } else if h.flags.contains(HeaderFlags::INTR_REMAP)
            && !self.units().any(|(_, d)| d.scopes.flatten().any(|s| s.kind == 3))
        {
            note(37, OddityKind::NoIoApic);
        }
    }

    fn unit(&self, place: usize, entry: &Entry<'_>, d: &Drhd<'_>, note: Note<'_>) {
        let (base, at) = (d.register_base, entry.at);
        let earlier = || self.units().take_while(|(n, _)| *n < place).map(|(_, d)| d);
        let of_segment = || earlier().filter(|o| o.segment == d.segment);
        if usable_base(base).is_none() {
            note(at, OddityKind::RegisterBase(base));
        } else {
            if base & d.window().wrapping_sub(1) != 0 {
                note(at, OddityKind::RegisterAlignment { base, window: d.window() });
            }
            if of_segment().any(|o| o.register_base == base) {
                note(at, OddityKind::DuplicateUnit(base));
            } else if earlier().any(|o| o.register_base == base) {
                note(at, OddityKind::SharedRegisters(base));
            }
            let mut nodes = self.compared().filter_map(|(_, e)| match e.structure {
                Structure::Rhsa(a) => Some(a.register_base),
                _ => None,
            });
            if let Some(first) = nodes.next()
                && first != base
                && !nodes.any(|b| b == base)
            {
                note(at, OddityKind::AffinityMissing(base));
            }
        }
        let all_before = of_segment().any(|o| o.include_pci_all());
        if d.include_pci_all() {
            if all_before {
                note(at, OddityKind::SecondIncludeAll(d.segment));
            }
            if d.scopes.flatten().any(|s| s.kind == 1 || s.kind == 2) {
                note(at, OddityKind::PciUnderIncludeAll);
            }
        } else {
            if all_before {
                note(at, OddityKind::AfterIncludeAll(d.segment));
            }
            if d.scopes.flatten().next().is_none() {
                note(at, OddityKind::IdleUnit);
            }
            let same = |o: &Drhd<'_>| o.segment == d.segment;
            let first = of_segment().next().is_none();
            if first && !self.units().any(|(_, o)| same(&o) && o.include_pci_all()) {
                note(at, OddityKind::NoIncludeAll(d.segment));
            }
        }
    }

    fn region(&self, place: usize, entry: &Entry<'_>, r: &Rmrr<'_>, note: Note<'_>) {
        let (base, limit, at) = (r.base, r.limit, entry.at);
        if r.scopes.flatten().next().is_none() {
            note(at, OddityKind::RegionIdle);
        }
        if limit < base {
            return note(at, OddityKind::RegionBackward { base, limit });
        }
        if limit == 0 {
            return note(at, OddityKind::RegionZero);
        }
        if base % PAGE != 0 || limit % PAGE != PAGE.wrapping_sub(1) {
            note(at, OddityKind::RegionAlignment { base, limit });
        }
        let Some(range) = usable_range(base, limit) else {
            return note(at, OddityKind::RegionBeyond(limit));
        };
        if range.overlaps(&INTERRUPT_RANGE) {
            note(at, OddityKind::RegionInterrupts);
        }
        let earlier = self.compared().take_while(|(n, _)| *n < place);
        let mut regions = earlier.filter_map(|(_, e)| match e.structure {
            Structure::Rmrr(o) => usable_range(o.base, o.limit).map(|o| (e.at, o)),
            _ => None,
        });
        if let Some((other, _)) = regions.find(|(_, o)| o.overlaps(&range)) {
            note(at, OddityKind::RegionOverlap(other));
        }
        if self.reserved.is_some_and(|is_reserved| !is_reserved(range)) {
            note(at, OddityKind::RegionNotReserved);
        }
    }

    fn ports(&self, entry: &Entry<'_>, a: &Atsr<'_>, note: Note<'_>) {
        if a.flags & 1 != 0 && a.scopes.flatten().next().is_some() {
            note(entry.at, OddityKind::PortsUnderAllPorts);
        }
        for scope in a.scopes.flatten().filter(|s| s.kind != 2) {
            note(scope.at, OddityKind::NotAPort(scope.kind));
        }
    }

    fn affinity(&self, entry: &Entry<'_>, a: &Rhsa, note: Note<'_>) {
        if !self.units().any(|(_, d)| d.register_base == a.register_base) {
            note(entry.at, OddityKind::AffinityUnknown(a.register_base));
        }
    }

    fn name(&self, place: usize, entry: &Entry<'_>, a: &Andd<'_>, note: Note<'_>) {
        if !a.terminated {
            note(entry.at, OddityKind::NameUnterminated);
        }
        if self.names().take_while(|(n, _)| *n < place).any(|(_, o)| o.device_number == a.device_number) {
            note(entry.at, OddityKind::NameTwice(a.device_number));
        }
    }

    fn caches(&self, entry: &Entry<'_>, s: &Satc<'_>, note: Note<'_>) {
        if self.compared().any(|(_, e)| matches!(e.structure, Structure::Sidp(_))) {
            note(entry.at, OddityKind::SatcBesideSidp);
        }
        integrated(s.scopes, &[1], note);
    }

    fn scope(&self, scope: &Scope<'_>, in_sidp: bool, note: Note<'_>) {
        if !(1..=5).contains(&scope.kind) {
            note(scope.at, OddityKind::UnknownScope(scope.kind));
        }
        let known_flags = if in_sidp && matches!(scope.kind, 1 | 5) { 0x1f } else { 0 };
        let id_reserved = matches!(scope.kind, 1 | 2) && scope.enumeration_id != 0;
        if scope.reserved != 0 || scope.flags & !known_flags != 0 || id_reserved {
            note(scope.at, OddityKind::ScopeReserved);
        }
        if let Some(&[device, function]) = scope.path.iter().find(|[d, f]| *d > 31 || *f > 7) {
            note(scope.at, OddityKind::ScopePath { device, function });
        }
        let n = scope.enumeration_id;
        if scope.kind == 5 && self.names.get(usize::from(n >> 6)).is_none_or(|word| word >> (n & 63) & 1 == 0) {
            note(scope.at, OddityKind::NameMissing(n));
        }
    }
}

//! DMAR tables: those of real machines, made ones that show a rule, and mutated ones that must not bring anything down.

use proptest::prelude::*;
use std::path::Path;
use vtd::dmar::{
    Buses, Defect, HeaderFlags, IntegratedFlags, Oddity, OddityKind, ScopeKind, Structure, Table, Topology, audit,
};
use vtd::{DeviceId, ErrorKind, Field, Range, UnitId};

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dmar");
    let mut all = Vec::new();
    for file in std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()) {
        if file.extension().is_some_and(|x| x == "bin") {
            all.push((file.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(&file).unwrap()));
        }
    }
    all.sort();
    assert!(all.len() >= 42);
    all
}

fn fixture(name: &str) -> Vec<u8> {
    fixtures().into_iter().find(|(n, _)| n == name).unwrap().1
}

fn defects(bytes: &[u8]) -> Vec<Defect> {
    let mut all = Vec::new();
    Table::new(bytes).defects(&mut |d| all.push(d));
    all
}

fn oddities(bytes: &[u8]) -> Vec<OddityKind> {
    let mut all = Vec::new();
    audit(&Table::new(bytes), None, &mut |o| all.push(o.kind));
    all
}

/// A table made of structures: header, lengths and checksum as they have to be.
fn table(structures: &[Vec<u8>]) -> Vec<u8> {
    let mut t = b"DMAR\0\0\0\0\x01\0OEMID OEMTABLE\x01\0\0\0UTIL\x01\0\0\0\x26\x01".to_vec();
    t.resize(48, 0);
    for s in structures {
        t.extend(s);
    }
    seal(t)
}

fn seal(mut t: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(t.len()).unwrap();
    t[4..8].copy_from_slice(&length.to_le_bytes());
    t[9] = 0;
    t[9] = t.iter().fold(0u8, |n, b| n.wrapping_sub(*b));
    t
}

fn structure(kind: u16, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u16::try_from(body.len() + 4).unwrap();
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), &body].concat()
}

fn drhd(flags: u8, segment: u16, base: u64, scopes: &[&[u8]]) -> Vec<u8> {
    structure(0, &[&[flags, 0], &segment.to_le_bytes(), &base.to_le_bytes(), &scopes.concat()])
}

fn rmrr(base: u64, limit: u64, scopes: &[&[u8]]) -> Vec<u8> {
    structure(1, &[&[0; 4], &base.to_le_bytes(), &limit.to_le_bytes(), &scopes.concat()])
}

fn scope(kind: u8, id: u8, bus: u8, path: &[[u8; 2]]) -> Vec<u8> {
    let length = 6 + 2 * u8::try_from(path.len()).unwrap();
    [&[kind, length, 0, 0, id, bus][..], path.as_flattened()].concat()
}

fn id(bus: u8, device: u8, function: u8) -> DeviceId {
    DeviceId::new(0, bus, device, function)
}

/// No bridge anywhere.
fn flat(_: DeviceId) -> Option<Buses> {
    None
}

/// Bridges: 00:01.0 to buses 1-3, 01:00.0 to buses 2-3, 00:1c.7 to bus 4.
fn bridges(d: DeviceId) -> Option<Buses> {
    let behind = |secondary, subordinate| Some(Buses { secondary, subordinate });
    match d {
        _ if d == id(0, 1, 0) => behind(1, 3),
        _ if d == id(1, 0, 0) => behind(2, 3),
        _ if d == id(0, 0x1c, 7) => behind(4, 4),
        _ => None,
    }
}

fn unit_of(t: &Topology, d: DeviceId) -> Option<u16> {
    t.unit_of(d, &bridges).map(|u| u.id.0)
}

#[test]
fn every_real_table_is_whole_and_makes_a_topology() {
    for (name, bytes) in fixtures() {
        assert_eq!(defects(&bytes), [], "{name}");
        let t = Topology::from_table(&bytes).unwrap();
        assert!(!t.units().is_empty() && t.units_complete() && t.defects() == 0, "{name}");
        for (n, unit) in t.units().iter().enumerate() {
            assert_eq!(usize::from(unit.id.0), n);
            assert_eq!(t.unit(unit.id), Some(unit));
        }
    }
}

#[test]
fn graphics_have_their_own_unit_and_the_rest_is_the_other_s() {
    let t = Topology::from_table(&fixture("dell-latitude-7480")).unwrap();
    assert_eq!(t.host_address_width(), 39);
    assert_eq!(t.flags(), HeaderFlags::INTR_REMAP);
    assert_eq!(unit_of(&t, id(0, 2, 0)), Some(0));
    assert_eq!(unit_of(&t, id(0, 0x1f, 3)), Some(1));
    assert_eq!(unit_of(&t, id(2, 0, 0)), Some(1));
    assert_eq!(unit_of(&t, DeviceId::new(1, 0, 2, 0)), None);
    let (unit, d) = t.source_of(ScopeKind::IoApic, 2, &flat).unwrap();
    assert_eq!((unit.id, d), (UnitId(1), id(0xf0, 0x1f, 0)));
    // ACPI devices have names, source ids and units.
    assert_eq!(t.sources(ScopeKind::Acpi, &flat).count(), 3);
    for (unit, scope, d) in t.sources(ScopeKind::Acpi, &flat) {
        assert!(t.name(scope.enumeration_id).unwrap().starts_with(b"\\_SB.PCI0."));
        assert_eq!(t.unit_of(d, &flat).unwrap().id, unit.id);
    }
    assert_eq!(t.reserved_of(id(0, 2, 0), &flat).count(), 1);
    assert_eq!(t.reserved_of(id(0, 0x1f, 3), &flat).count(), 0);
}

#[test]
fn reserved_regions_are_found_through_bridges() {
    let t = Topology::from_table(&fixture("hp-proliant-dl380e-gen8")).unwrap();
    assert_eq!(t.reserved().len(), 9);
    let of = |d| t.reserved_of(d, &bridges).map(|(_, range)| range).collect::<Vec<_>>();
    // 00:1c.7 leads to bus 4: function 04:00.2 has eight regions, 04:00.5 none.
    assert_eq!(of(id(4, 0, 2)).len(), 8);
    assert!(of(id(4, 0, 2)).contains(&Range::new(0x7dff_6000, 0x7dff_cfff).unwrap()));
    assert_eq!(of(id(4, 0, 5)), []);
    assert_eq!(of(id(0, 0x1a, 0)), [Range::new(0x7dff_d000, 0x7dff_ffff).unwrap()]);
    // Root ports of both ATSRs, and none else.
    assert!(t.port_has_ats(id(0, 1, 1), &bridges) && t.port_has_ats(id(0x20, 3, 3), &bridges));
    assert!(!t.port_has_ats(id(0, 0x1c, 7), &bridges));
    assert_eq!(unit_of(&t, id(0x20, 4, 7)), Some(0));
}

#[test]
fn what_firmware_says_of_integrated_devices() {
    // SIDP beside SATC: the SIDP counts.
    let t = Topology::from_table(&fixture("msi-claw-a1m")).unwrap();
    assert_eq!(t.integrated(id(0, 2, 0), &flat), Some(IntegratedFlags::all()));
    let cached = IntegratedFlags::CACHE_HARDENED | IntegratedFlags::CACHE_REQUIRED;
    assert_eq!(t.integrated(id(0, 11, 0), &flat), Some(cached | IntegratedFlags::NO_PAGE_SNOOP));
    assert_eq!(t.integrated(id(0, 3, 0), &flat), None);
    let satc = structure(5, &[&[1, 0, 0, 0], &scope(1, 0, 0, &[[5, 0]])]);
    let t = Topology::from_table(&table(&[drhd(1, 0, 0xfed9_0000, &[]), satc])).unwrap();
    assert_eq!(t.integrated(id(0, 5, 0), &flat), Some(cached));
}

#[test]
fn a_unit_has_its_node_and_its_window() {
    let t = Topology::from_table(&fixture("msi-ms-7885")).unwrap();
    assert!(t.units()[1].node.is_some() || t.units()[0].node.is_some());
    let mut wide = drhd(1, 0, 0xfed9_0000, &[]);
    wide[5] = 3;
    assert_eq!(Topology::from_table(&table(&[wide])).unwrap().units()[0].window, 32 << 10);
}

#[test]
fn named_beats_nearest_bridge_beats_the_rest() {
    let t = Topology::from_table(&table(&[
        drhd(0, 0, 0xfed9_0000, &[&scope(2, 0, 0, &[[1, 0]])]),
        drhd(0, 0, 0xfed9_1000, &[&scope(1, 0, 0, &[[1, 0], [0, 0], [4, 0]]), &scope(1, 0, 0, &[[2, 0]])]),
        drhd(0, 0, 0xfed9_2000, &[&scope(2, 0, 0, &[[1, 0], [0, 0]])]),
        drhd(1, 0, 0xfed9_3000, &[&scope(3, 8, 0, &[[0x1e, 7]])]),
        drhd(1, 1, 0xfed9_4000, &[]),
    ]))
    .unwrap();
    assert_eq!(unit_of(&t, id(0, 1, 0)), Some(0), "the bridge itself");
    assert_eq!(unit_of(&t, id(1, 3, 0)), Some(0), "below the bridge");
    assert_eq!(unit_of(&t, id(2, 4, 0)), Some(1), "by a path through two bridges");
    assert_eq!(unit_of(&t, id(2, 5, 0)), Some(2), "below the nearer bridge");
    assert_eq!(unit_of(&t, id(3, 0, 0)), Some(2));
    assert_eq!(unit_of(&t, id(0, 3, 0)), Some(3), "the rest");
    assert_eq!(unit_of(&t, id(4, 3, 0)), Some(3));
    assert_eq!(unit_of(&t, DeviceId::new(1, 0, 1, 0)), Some(4), "each segment has its own");
    assert_eq!(unit_of(&t, DeviceId::new(2, 0, 1, 0)), None);
    assert_eq!(t.segments().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn one_unit_without_include_all_serves_what_it_names_and_what_is_below() {
    // QEMU's: flags 0, every function of bus 0, bridges as sub-hierarchies.
    let names = [scope(3, 0, 0xff, &[[0, 0]]), scope(1, 0, 0, &[[2, 0]]), scope(2, 0, 0, &[[1, 0]])];
    let t = Topology::from_table(&table(&[drhd(0, 0, 0xfed9_0000, &[&names.concat()])])).unwrap();
    for d in [id(0, 2, 0), id(0, 1, 0), id(1, 0, 0), id(3, 31, 7), id(0xff, 0, 0)] {
        assert_eq!(unit_of(&t, d), Some(0), "{d}");
    }
    assert_eq!(unit_of(&t, id(0, 3, 0)), None, "plugged in later, named nowhere");
    // A bridge listed as an endpoint is a bridge all the same.
    let t = Topology::from_table(&table(&[drhd(0, 0, 0xfed9_0000, &[&scope(1, 0, 0, &[[1, 0]])])])).unwrap();
    assert_eq!(unit_of(&t, id(2, 0, 0)), Some(0));
}

#[test]
fn units_that_cannot_be_used_still_own_their_devices() {
    let bad = |base| {
        let t = Topology::from_table(&table(&[
            drhd(0, 0, base, &[&scope(1, 0, 0, &[[2, 0]])]),
            drhd(1, 0, 0xfed9_1000, &[]),
        ]))
        .unwrap();
        let unit = t.unit_of(id(0, 2, 0), &flat).unwrap();
        assert_eq!((unit.id, unit.base), (UnitId(0), None));
        assert_eq!(unit_of(&t, id(0, 3, 0)), Some(1));
    };
    for base in [0, u64::MAX, 0xfed9_0800, 1 << 52] {
        bad(base);
    }
    // Twice in the table: one unit. In another segment: not usable there.
    let twice = [
        drhd(0, 0, 0xfed9_0000, &[&scope(1, 0, 0, &[[2, 0]])]),
        drhd(1, 0, 0xfed9_0000, &[&scope(1, 0, 0, &[[3, 0]])]),
        drhd(1, 1, 0xfed9_0000, &[]),
    ];
    let t = Topology::from_table(&table(&twice)).unwrap();
    assert_eq!(t.units().len(), 2);
    assert_eq!(unit_of(&t, id(0, 3, 0)), Some(0));
    assert!(t.units()[0].include_pci_all && t.units()[1].base.is_none());
    assert!(t.unit_of(DeviceId::new(1, 0, 0, 0), &flat).is_none());
}

#[test]
fn reserved_regions_are_repaired_or_left_out() {
    let device = scope(1, 0, 0, &[[2, 0]]);
    let range = |base, limit| {
        let t = Topology::from_table(&table(&[drhd(1, 0, 0xfed9_0000, &[]), rmrr(base, limit, &[&device])])).unwrap();
        t.reserved_of(id(0, 2, 0), &flat).next().map(|(_, r)| (r.first.get(), r.last.get()))
    };
    assert_eq!(range(0x1000, 0x1fff), Some((0x1000, 0x1fff)));
    assert_eq!(range(0x1800, 0x2000), Some((0x1000, 0x2fff)));
    assert_eq!(range(0x1000, 0x1000), Some((0x1000, 0x1fff)));
    for (base, limit) in [(0, 0), (0x2000, 0x1fff), (u64::MAX, 0), (0, u64::MAX), (1 << 52, (1 << 52) + 0xfff)] {
        assert_eq!(range(base, limit), None);
    }
}

#[test]
fn what_is_odd_is_reported_in_words() {
    let pci = scope(1, 0, 0, &[[2, 0]]);
    let mut bytes = table(&[
        drhd(1, 0, 0xfed9_0000, &[&pci]),
        drhd(1, 0, 0xfed9_0000, &[]),
        drhd(0, 0, 0, &[&scope(9, 0, 0, &[[40, 0]])]),
        drhd(0, 1, 0xfed9_1000, &[]),
        structure(3, &[&[0; 4], &0xdead_0000u64.to_le_bytes(), &[0; 4]]),
        rmrr(0, 0, &[&pci]),
        rmrr(0x2000, 0x1fff, &[&pci]),
        rmrr(0x5000, 0x6fff, &[&pci]),
        rmrr(0x6800, 0x7fff, &[]),
        structure(4, &[&[0, 0, 0, 1], b"\\_SB.I2C0"]),
        structure(0x77, &[&[1, 2, 3]]),
    ]);
    bytes[36] = 10;
    bytes[37] = 2;
    bytes[38] = 1;
    bytes[10..24].fill(b' ');
    let bytes = seal(bytes);
    assert_eq!(defects(&bytes), []);
    let found = oddities(&bytes);
    let region = OddityKind::RegionAlignment { base: 0x6800, limit: 0x7fff };
    for kind in [
        OddityKind::BlankOem,
        OddityKind::Width(11),
        OddityKind::OptOutAlone,
        OddityKind::HeaderReserved,
        OddityKind::PciUnderIncludeAll,
        OddityKind::DuplicateUnit(0xfed9_0000),
        OddityKind::SecondIncludeAll(0),
        OddityKind::RegisterBase(0),
        OddityKind::AfterIncludeAll(0),
        OddityKind::UnknownScope(9),
        OddityKind::ScopePath { device: 40, function: 0 },
        OddityKind::NoIncludeAll(1),
        OddityKind::IdleUnit,
        OddityKind::AffinityMissing(0xfed9_1000),
        OddityKind::AffinityUnknown(0xdead_0000),
        OddityKind::Order(1),
        OddityKind::RegionZero,
        OddityKind::RegionBackward { base: 0x2000, limit: 0x1fff },
        region,
        OddityKind::RegionIdle,
        OddityKind::NameUnterminated,
        OddityKind::Alignment,
        OddityKind::UnknownType(0x77),
    ] {
        assert!(found.contains(&kind), "{kind}: {found:?}");
    }
    assert!(found.iter().any(|k| matches!(k, OddityKind::RegionOverlap(_))));
    let line = Oddity { at: 0, kind: region }.to_string();
    assert_eq!(
        line,
        "reserved region 0x6800-0x7fff is not made of whole pages: only whole pages can be mapped; it is widened to whole \
         pages"
    );
    Topology::from_table(&bytes).unwrap();
}

#[test]
fn the_memory_map_is_asked_about_reserved_regions() {
    let bytes = table(&[drhd(1, 0, 0xfed9_0000, &[]), rmrr(0x1000, 0x1fff, &[&scope(1, 0, 0, &[[2, 0]])])]);
    let ask = |answer: bool| {
        let mut all = Vec::new();
        audit(&Table::new(&bytes), Some(&|_| answer), &mut |o| all.push(o.kind));
        all.contains(&OddityKind::RegionNotReserved)
    };
    assert!(ask(false) && !ask(true));
}

#[test]
fn damage_is_named_and_the_rest_is_read() {
    let whole = table(&[
        drhd(0, 0, 0xfed9_0000, &[&scope(1, 0, 0, &[[2, 0]])]),
        drhd(1, 0, 0xfed9_1000, &[]),
        rmrr(0x1000, 0x1fff, &[&scope(1, 0, 0, &[[2, 0]])]),
    ]);
    let with = |at: usize, b: u8| {
        let mut t = whole.clone();
        t[at] = b;
        let t = if at == 0 { t } else { seal(t) };
        (defects(&t), Topology::from_table(&t))
    };
    let (d, t) = with(0, b'X');
    assert!(matches!(d[0], Defect::Signature { .. }));
    assert_eq!(t.unwrap_err().kind, ErrorKind::Invalid(Field::Format));
    // The first unit's length 0, then beyond the table: what it hides is served by nobody.
    for (b, units) in [(0, 0), (0xff, 1)] {
        let (d, t) = with(50, b);
        assert_eq!(d.len(), if b == 0 { 1 } else { 2 }, "{d:?}");
        let t = t.unwrap();
        assert_eq!((t.units().len(), t.units_complete()), (units, false));
        assert_eq!(unit_of(&t, id(0, 3, 0)), None);
    }
    // A scope too long for its structure, and one with half a pair.
    assert!(matches!(with(65, 9).0[..], [Defect::ScopeOverrun { at: 64, length: 9, left: 8 }]));
    let (d, t) = with(65, 7);
    assert!(matches!(d[..], [Defect::ScopePath { .. }, Defect::ScopeTail { .. }]), "{d:?}");
    assert!(!t.unwrap().units_complete());
    // The region cut off: the units are all there.
    let cut = &whole[..whole.len() - 20];
    assert!(matches!(defects(cut)[..], [Defect::TableCut { .. }, Defect::StructureOverrun { .. }, ..]));
    let t = Topology::from_table(cut).unwrap();
    assert!(t.units_complete() && t.defects() > 0);
    assert_eq!(unit_of(&t, id(0, 3, 0)), Some(1));
    // A unit cut off whole: the table ends where it began.
    let t = Topology::from_table(&whole[..72]).unwrap();
    assert!(!t.units_complete());
    let mut checksum = whole.clone();
    checksum[9] ^= 1;
    assert_eq!(defects(&checksum), [Defect::Checksum]);
    let mut tail = whole.clone();
    tail.push(0);
    assert!(matches!(defects(&tail)[..], [Defect::TableTail { bytes: 1, .. }]));
    assert!(matches!(defects(&[])[..], [Defect::HeaderCut { have: 0 }]));
}

#[test]
fn absurd_tables_are_refused() {
    let unit = drhd(0, 0, 0, &[]);
    let many = table(&std::iter::repeat_n(unit, 5000).collect::<Vec<_>>());
    assert_eq!(Topology::from_table(&many).unwrap_err().kind, ErrorKind::Invalid(Field::Size));
    assert!(oddities(&many).len() > 1024);
}

#[test]
fn tables_of_megabytes_are_judged_in_seconds() {
    let begun = std::time::Instant::now();
    let structures = |n: usize, s: Vec<u8>| std::iter::repeat_n(s, n);
    let scopes = scope(5, 7, 0, &[[1, 0]]).repeat(8000);
    let crowd = drhd(0, 0, 0xfed9_0000, &[&scopes]);
    let node = structure(3, &[&[0; 4], &0xdead_0000u64.to_le_bytes(), &[0; 4]]);
    let units: Vec<_> = (1..4097).map(|n| drhd(1, 0, n << 12, &[])).collect();
    for more in [structures(200, crowd).collect::<Vec<_>>(), structures(200_000, node).collect()] {
        let bytes = table(&[&units[..], &more].concat());
        let mut count = 0;
        audit(&Table::new(&bytes), None, &mut |_| count += 1);
        assert!(count > 1000);
        let _ = Topology::from_table(&bytes);
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn zeros_at_the_end_hide_no_unit() {
    for zeros in [1, 3, 4, 16] {
        let bytes = table(&[drhd(1, 0, 0xfed9_0000, &[]), vec![0; zeros]]);
        assert_eq!(defects(&bytes).len(), 1);
        let t = Topology::from_table(&bytes).unwrap();
        assert!(t.units_complete() && t.defects() == 1);
        assert_eq!(unit_of(&t, id(0, 3, 0)), Some(0));
    }
}

/// Everything that reads a table, over one.
fn read_all(bytes: &[u8]) {
    let table = Table::new(bytes);
    let mut words = String::new();
    table.defects(&mut |d| {
        assert!(d.offset() <= bytes.len().max(48));
        words = d.to_string();
    });
    audit(&table, Some(&|r| r.first.get() % 3 == 0), &mut |o| words = o.to_string());
    let mut end = 48;
    for entry in table.structures() {
        assert_eq!(entry.at, end);
        end += usize::from(entry.length);
        assert!(entry.scopes().count() <= entry.bytes.len());
        if let Structure::Drhd(d) = entry.structure {
            assert!(d.window() <= 128 << 20);
        }
    }
    if let Ok(t) = Topology::from_table(bytes) {
        for bus in [0, 1, 2, 0xf0] {
            let d = id(bus, 2, 0);
            assert!(t.unit_of(d, &bridges).is_none_or(|u| t.unit(u.id).is_some()));
            assert!(t.reserved_of(d, &bridges).all(|(_, r)| r.is_aligned(4096)));
            t.port_has_ats(d, &bridges);
            t.integrated(d, &bridges);
        }
        assert!(
            t.sources(ScopeKind::Acpi, &bridges)
                .all(|(_, s, _)| t.name(s.enumeration_id).is_none_or(|n| n.len() < 1 << 16))
        );
    }
}

/// Percent of the usual number of cases.
fn scale() -> u32 {
    std::env::var("VTD_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(100)
}

#[derive(Clone, Debug)]
enum Change {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Word(prop::sample::Index, u16),
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    Seal,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => any::<prop::sample::Index>().prop_map(Change::Cut),
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, b)| Change::Flip(at, b)),
        4 => (any::<prop::sample::Index>(), prop_oneof![0u16..64, any::<u16>()]).prop_map(|(at, w)| Change::Word(at, w)),
        2 => any::<[prop::sample::Index; 3]>().prop_map(|[a, b, c]| Change::Splice(a, b, c)),
        3 => Just(Change::Seal),
    ]
}

fn apply(bytes: &mut Vec<u8>, other: &[u8], change: &Change) {
    match change {
        _ if bytes.len() < 4 => {}
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Flip(at, b) => {
            let at = at.index(bytes.len());
            bytes[at] ^= b;
        }
        Change::Word(at, w) => {
            let at = at.index(bytes.len() - 1);
            bytes[at..at + 2].copy_from_slice(&w.to_le_bytes());
        }
        Change::Splice(at, from, to) => {
            let (a, b) = (from.index(other.len()), to.index(other.len()));
            let at = at.index(bytes.len());
            bytes.splice(at..at, other[a.min(b)..a.max(b)].iter().copied());
        }
        Change::Seal if bytes.len() >= 48 => *bytes = seal(std::mem::take(bytes)),
        Change::Seal => {}
    }
}

#[test]
fn mutated_tables_bring_nothing_down() {
    let tables = fixtures();
    let one = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::collection::vec(change(), 1..12));
    let config =
        ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000 / 100 * scale().max(1)) };
    proptest!(config, |((a, b, changes) in one)| {
        let mut bytes = a.get(&tables).1.clone();
        for change in &changes {
            apply(&mut bytes, &b.get(&tables).1, change);
        }
        read_all(&bytes);
    });
}

#[test]
fn any_bytes_bring_nothing_down() {
    let config =
        ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5_000 / 100 * scale().max(1)) };
    proptest!(config, |(body in prop::collection::vec(prop_oneof![3 => 0u8..8, 1 => any::<u8>()], 0..300))| {
        read_all(&body);
        let mut sealed = table(&[]);
        sealed.extend(body);
        read_all(&seal(sealed));
    });
}

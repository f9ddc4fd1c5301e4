//! Reading dirty bits of a domain that several units work on.

use super::machine::{Machine, WIDE, dev, map, range};
use crate::host::testing::Host;
use crate::hw::descriptors::Descriptor;
use crate::hw::invalidation::{Drain, Iva};
use crate::unit::standin::{CAP, ECAP, ECAP_SM};
use crate::{Domain, DomainSpec, ErrorKind, Field, Group, Need, PageSizes, Step, Target};
use std::vec::Vec;

const ECAP_SSADS: u64 = 1 << 45;
const SPEC: DomainSpec = DomainSpec { dirty: true, ..WIDE };
const GIB: u64 = 1 << 30;

/// A domain with dirty bits, and a device on each of two units in it.
fn attached(m: &Machine) -> (Domain<Host>, [Group<Host>; 2]) {
    let d: Domain<Host> = m.vtd.domain(&SPEC).unwrap();
    let groups = [m.claim(dev(1)), m.claim(dev(9))];
    for g in &groups {
        g.attach(Target::Domain(&d)).unwrap();
    }
    (d, groups)
}

/// Hardware writes through the page at `at`.
fn written(m: &Machine, d: &Domain<Host>, at: u64) {
    let mut table = d.space.root().table().get();
    for level in (1..=4).rev() {
        let place = table + (at >> (3 + 9 * level) & 511) * 8;
        let entry = m.host.read(place).unwrap();
        assert!(entry & 3 != 0);
        if level == 1 || entry & 0x80 != 0 {
            return m.host.hardware_or(place, 0x300);
        }
        table = entry & 0x000f_ffff_ffff_f000;
    }
}

fn flushes(m: &Machine) -> [Vec<[u64; 2]>; 2] {
    [0, 1].map(|i| m.units[i].take().1)
}

#[test]
fn what_was_written_is_named_once_and_flushed_on_every_unit() {
    let m = Machine::new(&[(CAP, ECAP_SM | ECAP_SSADS); 2]);
    let (d, groups) = attached(&m);
    map(&d, 0x10_1000, 0x20_1000, 0x10_0000);
    m.forget();
    [0x10_1000, 0x10_5000, 0x20_0000].iter().for_each(|at| written(&m, &d, *at));
    let r = range(0x10_1000, 0x20_0fff);
    let expected = [0x11, 0, 0, 0x8000_0000_0000_0000];
    let mut bits = [0; 4];
    d.dirty(r, &mut bits).unwrap();
    assert_eq!((bits, flushes(&m)), (expected, [const { Vec::new() }; 2]), "nothing is cleared");
    let mut bits = [0, 1 << 5, 0, 0];
    d.read_and_clear_dirty(r, &mut bits).unwrap();
    assert_eq!(bits, [expected[0], 1 << 5, expected[2], expected[3]]);
    for done in flushes(&m) {
        // 0x101000 to 0x200fff is more than eight exact pieces, and two that reach a page further on each side.
        let pages = |at, order| Descriptor::iotlb_pages(2, Drain::BOTH, Iva::new(at, order, true)).narrow();
        assert_eq!(done, [pages(0x10_0000, 8), pages(0x20_0000, 1)]);
    }
    let mut bits = [0; 4];
    d.read_and_clear_dirty(r, &mut bits).unwrap();
    assert_eq!((bits, flushes(&m)), ([0; 4], [const { Vec::new() }; 2]));
    written(&m, &d, 0x10_2000);
    d.read_and_clear_dirty(r, &mut bits).unwrap();
    assert_eq!(bits, [2, 0, 0, 0]);
    for done in flushes(&m) {
        assert_eq!(done, [Descriptor::iotlb_pages(2, Drain::BOTH, Iva::new(0x10_2000, 0, true)).narrow()]);
    }
    drop((d, groups));
    m.end();
}

/// Pieces end where the largest pages do, wherever the range begins.
#[test]
fn pages_of_a_gibibyte_are_read_whole() {
    let m = Machine::new(&[(CAP, ECAP_SM | ECAP_SSADS); 2]);
    let (d, groups) = attached(&m);
    map(&d, GIB - 0x1000, 5 * GIB - 0x1000, GIB + 0x2000);
    m.forget();
    written(&m, &d, GIB + 0x12_3456);
    written(&m, &d, 2 * GIB);
    let r = range(GIB - 0x3000, 2 * GIB + 0xfff);
    let mut bits = std::vec![0; 4097];
    d.read_and_clear_dirty(r, &mut bits).unwrap();
    assert_eq!((bits[0], bits[4096]), (u64::MAX << 3, 0xf));
    assert!(bits[1..4096].iter().all(|w| *w == u64::MAX));
    assert!(flushes(&m).iter().all(|done| !done.is_empty()));
    let mut bits = std::vec![0; 4097];
    d.read_and_clear_dirty(r, &mut bits).unwrap();
    assert!(bits.iter().all(|w| *w == 0));
    drop((d, groups));
    m.end();
}

/// A flush that failed stays owed: caches may hide writes until it is made good.
#[test]
fn the_next_answer_makes_a_failed_flush_good() {
    let m = Machine::new(&[(CAP, ECAP_SM | ECAP_SSADS); 2]);
    let (d, groups) = attached(&m);
    map(&d, 0x1000, 0x8000, 0x1000);
    m.forget();
    written(&m, &d, 0x1000);
    m.units[1].state().asleep = true;
    let (r, mut bits) = (range(0x1000, 0x1fff), [0]);
    let e = d.read_and_clear_dirty(r, &mut bits).unwrap_err();
    assert_eq!((e.kind, bits), (ErrorKind::Timeout(Step::Invalidation), [1]), "what was read is not lost");
    m.units[1].awake();
    m.forget();
    let mut bits = [0];
    d.read_and_clear_dirty(r, &mut bits).unwrap();
    assert_eq!(bits, [0]);
    for done in flushes(&m) {
        assert_eq!(done, [Descriptor::iotlb_pages(2, Drain::BOTH, Iva::new(0x1000, 0, true)).narrow()]);
    }
    drop((d, groups));
    m.end();
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let m = Machine::new(&[(CAP, ECAP_SM | ECAP_SSADS), (CAP, ECAP_SM)]);
    let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    let (page, mut bits) = (range(0x1000, 0x1fff), [0]);
    let without = ErrorKind::Unsupported(Need::DirtyTracking);
    assert_eq!(d.read_and_clear_dirty(page, &mut bits).map_err(|e| e.kind), Err(without));
    drop(d);
    let d: Domain<Host> = m.vtd.domain(&SPEC).unwrap();
    let groups = [m.claim(dev(1)), m.claim(dev(9))];
    groups[0].attach(Target::Domain(&d)).unwrap();
    assert_eq!(groups[1].attach(Target::Domain(&d)).unwrap_err().kind, without);
    for (r, what) in [
        (range(0, 64 * 0x1000 + 0xfff), Field::Size),
        (range(1, 0xfff), Field::Address),
        (range(1 << 47, (1 << 47) + 0xfff), Field::Address),
    ] {
        assert_eq!(d.read_and_clear_dirty(r, &mut bits).map_err(|e| e.kind), Err(ErrorKind::Invalid(what)));
        assert_eq!(d.dirty(r, &mut bits).map_err(|e| e.kind), Err(ErrorKind::Invalid(what)));
    }
    drop((d, groups));
    m.end();
    // Legacy mode has no such bits.
    let m = Machine::new(&[(CAP, ECAP | ECAP_SSADS)]);
    let d: Domain<Host> = m.vtd.domain(&DomainSpec { sizes: PageSizes::empty(), ..SPEC }).unwrap();
    let g = m.claim(dev(1));
    assert_eq!(g.attach(Target::Domain(&d)).unwrap_err().kind, without);
    drop((g, d));
    m.end();
}

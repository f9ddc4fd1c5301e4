//! Which pages devices have written to, as hardware notes it in tables of either stage.

use std::collections::BTreeSet;

use vtd::explain::{Attempt, Verdict, What};
use vtd::{Domain, ErrorKind, Group, Iova, Need, PageSizes, Stage, Strict, Target};
use vtd_emu::Profile;

use crate::host::Host;
use crate::rig::{AT, Mode, Plan, Rig, dev, map, range};

crate::stories!(
    every_page_that_was_written_to_is_named_once,
    a_large_page_is_named_whole,
    domains_without_dirty_bits_are_refused_by_name,
    extended_accessed_is_set_where_asked_and_nowhere_else,
);

/// Whether the tables of the form note writes on this unit.
fn noted(profile: &Profile, mode: Mode) -> bool {
    mode.scalable(profile) && profile.smpwcs() && (mode.stage == Stage::First || profile.ssads())
}

/// A domain with dirty bits, and a device in it.
fn attached(rig: &Rig, sizes: PageSizes) -> (Group<Host>, Domain<Host>) {
    let group = rig.claim(dev(3)).0;
    let mut spec = rig.spec(&group);
    (spec.sizes, spec.dirty) = (sizes, true);
    let domain = rig.vtd.domain(&spec).unwrap();
    group.attach(Target::Domain(&domain)).unwrap();
    (group, domain)
}

/// The pages of `pages` from `first` on that the domain says were written to.
fn named(domain: &Domain<Host>, first: u64, pages: u64) -> BTreeSet<u64> {
    let mut bits = vec![0; pages.div_ceil(64) as usize];
    domain.read_and_clear_dirty(range(first, first + pages * 0x1000 - 1), &mut bits).unwrap();
    (0..pages).filter(|i| bits[(i / 64) as usize] >> (i % 64) & 1 != 0).collect()
}

fn every_page_that_was_written_to_is_named_once(profile: &Profile, mode: Mode) {
    if !noted(profile, mode) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(6);
    let (group, domain) = attached(&rig, PageSizes::empty());
    map(&domain, AT, memory, 64 * 0x1000);
    let mut seed = 1u64;
    for round in 0..40u64 {
        let mut written = BTreeSet::new();
        for _ in 0..round % 7 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (page, other) = (seed >> 33 & 63, seed >> 45 & 63);
            rig.write(dev(3), AT + page * 0x1000 + 8, round).unwrap();
            rig.read(dev(3), AT + other * 0x1000).unwrap();
            written.insert(page);
        }
        // A part of the range first, now and then: what is not asked for stays.
        let mut told = if round % 3 == 0 { named(&domain, AT, 17) } else { BTreeSet::new() };
        let rest = named(&domain, AT, 64);
        assert!(told.is_disjoint(&rest));
        told.extend(rest);
        assert_eq!(told, written, "round {round}");
        written.iter().for_each(|page| assert_eq!(rig.look(memory + page * 0x1000 + 8), round));
    }
    drop((group, domain));
    rig.end();
}

fn a_large_page_is_named_whole(profile: &Profile, mode: Mode) {
    if !noted(profile, mode) || mode.stage == Stage::Second && profile.sslps() & 1 == 0 {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let to = rig.memory(9) & !((2 << 20) - 1);
    let (group, domain) = attached(&rig, PageSizes::SIZE_2M);
    let at = 6 << 21;
    map(&domain, at, to, 2 << 20);
    assert_eq!(named(&domain, at, 512), BTreeSet::new());
    rig.write(dev(3), at + 0x12_3450, 1).unwrap();
    let all: BTreeSet<u64> = (0..512).collect();
    // In part it stays dirty.
    assert_eq!(named(&domain, at + 0x1000, 511).len(), 511);
    assert_eq!(named(&domain, at, 512), all);
    assert_eq!(named(&domain, at, 512), BTreeSet::new());
    rig.write(dev(3), at, 2).unwrap();
    // Cut, each part has what the whole had.
    domain.unmap(range(at + 0x3000, at + 0x3fff)).unwrap().flush().unwrap();
    assert_eq!(named(&domain, at, 512), all.iter().copied().filter(|i| *i != 3).collect());
    rig.write(dev(3), at + 0x5000, 3).unwrap();
    assert_eq!(named(&domain, at, 512), BTreeSet::from([5]));
    drop((group, domain));
    rig.end();
}

fn domains_without_dirty_bits_are_refused_by_name(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (group, domain, _) = rig.attached(dev(3));
    assert_eq!(domain.spec().stage, mode.stage);
    let mut bits = [0];
    let without = ErrorKind::Unsupported(Need::DirtyTracking);
    let page = range(AT, AT + 0xfff);
    if mode.stage == Stage::Second {
        assert_eq!(domain.read_and_clear_dirty(page, &mut bits).map_err(|e| e.kind), Err(without));
    }
    let mut spec = domain.spec();
    spec.dirty = true;
    if !spec.coherent {
        let made: Result<Domain<Host>, _> = rig.vtd.domain(&spec);
        assert_eq!(made.map(drop).map_err(|e| e.kind), Err(ErrorKind::Unsupported(Need::Coherence)));
    } else if !noted(profile, mode) {
        let other: Domain<Host> = rig.vtd.domain(&spec).unwrap();
        assert_eq!(group.attach(Target::Domain(&other)).unwrap_err().kind, without);
    }
    drop((group, domain));
    rig.end();
}

fn extended_accessed_is_set_where_asked_and_nowhere_else(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let group = rig.claim(dev(3)).0;
    let mut spec = rig.spec(&group);
    spec.extended_accessed = true;
    if mode.stage != Stage::First {
        let e = rig.vtd.domain::<Strict>(&spec).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Unsupported(Need::FirstStage));
        drop(group);
        return rig.end();
    }
    for asked in [true, false] {
        spec.extended_accessed = asked;
        let domain = rig.vtd.domain::<Strict>(&spec).unwrap();
        map(&domain, AT, rig.page(), 0x1000);
        if asked && !profile.eafs() {
            let e = group.attach(Target::Domain(&domain)).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Unsupported(Need::ExtendedAccessed));
            continue;
        }
        group.attach(Target::Domain(&domain)).unwrap();
        rig.read(dev(3), AT).unwrap();
        let walk = rig.vtd.explain(dev(3), None, Iova::at(AT), Attempt::Read).unwrap().walk;
        assert!(matches!(walk.verdict, Verdict::Reaches { .. }), "{walk}");
        let tables = walk.steps().iter().filter(|s| matches!(s.what, What::First(_)));
        let marks: Vec<bool> = tables.map(|s| s.words()[0] >> 10 & 1 != 0).collect();
        assert_eq!(marks, [asked; 4], "{walk}");
        group.attach(Target::Blocked).unwrap();
    }
    drop(group);
    rig.end();
}

//! What is mapped is reached, with the rights that were given, and nothing beside it.

use vtd::{Access, Domain, DomainSpec, Iova, PageSizes, Target};
use vtd_emu::{Answer, Profile, Request};

use crate::host::Host;
use crate::probes::Seen;
use crate::rig::{AT, Ask, Mode, Plan, Rig, dev, hpa, map, range, unmap};

crate::stories!(
    dma_lands_where_it_was_mapped_with_every_page_size,
    rights_hold,
    every_number_of_levels_and_the_ends_of_its_reach,
    identity_is_every_address_as_it_is,
    a_device_that_asks_meanwhile_sees_nothing_or_the_page,
    what_is_mapped_is_reached_at_once,
    snooping_can_be_forced,
);

/// The size of the page by which a device is led, and the address.
fn page_of(rig: &Rig, unit: usize, source: u16, at: u64) -> (u64, u64) {
    let answer = rig.host.machine().request(unit, &Request::new(source, vtd_emu::Access::Read, at));
    match answer {
        Some(Answer::Passed(p)) => (p.page, p.address),
        other => panic!("{other:x?}"),
    }
}

fn dma_lands_where_it_was_mapped_with_every_page_size(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let large = rig.memory(9);
    let (group, domain, ear) = rig.attached(dev(3));
    let spec = domain.spec();
    let sizes = [(PageSizes::SIZE_2M, 2 << 20, "2 MiB pages"), (PageSizes::SIZE_1G, 1 << 30, "1 GiB pages")];
    // 4 KiB pages into the middle of a table, across its end, and far away.
    for at in [AT, (2 << 20) - 0x1000, (7 << 30) + 0x1000] {
        map(&domain, at, large + 0x3000, 0x3000);
        for i in 0..3 {
            rig.reaches(dev(3), at + i * 0x1000, large + 0x3000 + i * 0x1000);
            rig.reaches(dev(3), at + i * 0x1000 + 0xff8, large + 0x3000 + i * 0x1000 + 0xff8);
            assert_eq!(page_of(&rig, 0, dev(3).source.0, at + i * 0x1000), (0x1000, large + 0x3000 + i * 0x1000));
        }
        rig.blocked(dev(3), at + 0x3000, Ask::Read, 0x06, &ear);
    }
    rig.host.note(0, "4 KiB pages");
    if rig.host.machine().unit(0).is_some_and(|unit| unit.state().mode == vtd_emu::Mode::Scalable) {
        rig.host.note(0, if rig.first_stage() { "first-stage tables" } else { "scalable second-stage tables" });
    }
    for (_, bytes, name) in sizes.into_iter().filter(|(size, ..)| spec.sizes.contains(*size)) {
        let at = 4 << 30;
        // A piece of memory as large, of which the part that is there is used.
        let to = large & !(bytes - 1);
        map(&domain, at, to, bytes);
        let inside = large - to;
        for offset in [inside, inside + 0x12_3450, inside + (2 << 20) - 8] {
            rig.reaches(dev(3), at + offset, to + offset);
        }
        assert_eq!(page_of(&rig, 0, dev(3).source.0, at + inside).0, bytes);
        rig.blocked(dev(3), at + bytes, Ask::Read, 0x06, &ear);
        unmap(&domain, at, at + bytes - 1);
        rig.blocked(dev(3), at + inside, Ask::Write, 0x05, &ear);
        rig.host.note(0, name);
    }
    if !profile.coherent() {
        rig.host.note(0, "walks that do not snoop");
    }
    if profile.cm() {
        rig.host.note(0, "caching mode");
    }
    drop((group, domain));
    rig.end();
}

fn rights_hold(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, domain, ear) = rig.attached(dev(3));
    domain.map(Iova::at(AT), hpa(page), 0x1000, Access::READ).unwrap();
    rig.put(page, 77);
    assert_eq!(rig.read(dev(3), AT), Ok(77));
    rig.blocked(dev(3), AT, Ask::Write, 0x05, &ear);
    // Only the second stage can let a device write and not read.
    let only_written = domain.map(Iova::at(2 * AT), hpa(page), 0x1000, Access::WRITE);
    assert_eq!(only_written.is_err(), rig.first_stage());
    if only_written.is_ok() {
        assert_eq!(rig.write(dev(3), 2 * AT, 78), Ok(()));
        assert_eq!(rig.look(page), 78);
        rig.blocked(dev(3), 2 * AT, Ask::Read, 0x06, &ear);
    }
    // Down and up again: each flush makes it true.
    let change = |at: u64, how| domain.protect(range(at, at + 0xfff), how).unwrap().flush().unwrap();
    map(&domain, 3 * AT, page, 0x1000);
    rig.reaches(dev(3), 3 * AT, page);
    change(3 * AT, Access::READ);
    assert!(rig.read(dev(3), 3 * AT).is_ok());
    rig.blocked(dev(3), 3 * AT, Ask::Write, 0x05, &ear);
    if rig.first_stage() {
        assert!(domain.protect(range(3 * AT, 3 * AT + 0xfff), Access::WRITE).is_err());
    } else {
        change(3 * AT, Access::WRITE);
        rig.blocked(dev(3), 3 * AT, Ask::Read, 0x06, &ear);
        assert!(rig.write(dev(3), 3 * AT, 79).is_ok());
    }
    change(3 * AT, Access::all());
    rig.reaches(dev(3), 3 * AT, page);
    drop((group, domain));
    rig.end();
}

fn every_number_of_levels_and_the_ends_of_its_reach(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, ear) = rig.claim(dev(3));
    let mgaw = profile.mgaw() as u8 + 1;
    for (bit, levels, name) in [(1, 3, "3 levels"), (2, 4, "4 levels"), (3, 5, "5 levels")] {
        // The first stage sign-extends addresses: they end below the upper half.
        let first = rig.first_stage();
        let reach = 3 + 9 * (levels + 1) - u32::from(first);
        let mut spec: DomainSpec = rig.spec(&group);
        (spec.levels, spec.width) = (levels as u8, mgaw.min(reach as u8));
        if first && levels == 3 {
            assert!(rig.vtd.domain::<vtd::Strict>(&spec).is_err());
            continue;
        }
        let domain: Domain<Host> = rig.vtd.domain(&spec).unwrap();
        let there = if first { levels == 4 || profile.fs5lp() } else { profile.sagaw() >> bit & 1 != 0 };
        if !there {
            assert!(group.attach(Target::Domain(&domain)).is_err());
            continue;
        }
        group.attach(Target::Domain(&domain)).unwrap();
        let last = (1u64 << spec.width) - 0x1000;
        for at in [0, last] {
            map(&domain, at, page, 0x1000);
            rig.reaches(dev(3), at, page);
            rig.reaches(dev(3), at + 0xff8, page + 0xff8);
        }
        assert!(domain.map(Iova::at(last + 0x1000), hpa(page), 0x1000, Access::all()).is_err());
        // Wider than the tables, and than the unit, whose width is nothing to the first stage.
        rig.blocked(dev(3), 1 << reach, Ask::Read, 0x04, &ear);
        let within = first && u32::from(spec.width) < reach;
        rig.blocked(dev(3), last + 0x1000, Ask::Write, if within { 0x05 } else { 0x04 }, &ear);
        unmap(&domain, last, last + 0xfff);
        rig.blocked(dev(3), last, Ask::Read, 0x06, &ear);
        group.attach(Target::Blocked).unwrap();
        if !first {
            rig.host.note(0, name);
        }
    }
    drop(group);
    rig.end();
}

fn identity_is_every_address_as_it_is(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, ear) = rig.claim(dev(3));
    group.attach(Target::Identity).unwrap();
    rig.reaches(dev(3), page, page);
    rig.reaches(dev(3), page + 0xff8, page + 0xff8);
    rig.host.note(0, if profile.pt() { "pass-through" } else { "tables in place of pass-through" });
    let domain = rig.domain(&group);
    map(&domain, AT, page, 0x1000);
    group.attach(Target::Domain(&domain)).unwrap();
    rig.reaches(dev(3), AT, page);
    rig.blocked(dev(3), page, Ask::Read, 0x06, &ear);
    group.attach(Target::Identity).unwrap();
    rig.reaches(dev(3), page, page);
    group.attach(Target::Blocked).unwrap();
    rig.blocked(dev(3), page, Ask::Write, 0x02, &ear);
    drop((group, domain));
    rig.end();
}

fn a_device_that_asks_meanwhile_sees_nothing_or_the_page(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(4);
    let (group, domain, _) = rig.attached(dev(3));
    for turn in 0..6u64 {
        // Into fresh tables, beside what is there, across the end of a table, at the very end.
        let top = domain.addresses().last.get() + 1;
        let at = [AT, AT + 0x10000, (1 << 30) - 0x4000, 5 << 30, (5 << 30) + 0x20000, top - 0x20000][turn as usize];
        let probes: Vec<u64> = (0..8).map(|i| at + i * 0x2000).collect();
        probes.iter().for_each(|p| rig.probes.add(0, dev(3), *p));
        rig.probes.take();
        rig.probes.looking(|| map(&domain, at, memory, 0x10000));
        for (address, seen) in rig.probes.take().iter().filter(|(a, _)| probes.contains(a)) {
            let known = |s: &Seen| *s == Seen::Blocked(0x06) || *s == Seen::Memory(address - at + memory);
            assert!(seen.iter().all(known), "at {address:#x}: {seen:x?}");
            assert!(!seen.is_empty());
        }
        probes.iter().for_each(|p| rig.reaches(dev(3), *p, p - at + memory));
    }
    drop((group, domain));
    rig.end();
}

fn what_is_mapped_is_reached_at_once(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, domain, ear) = rig.attached(dev(3));
    // The unit has seen that nothing is there; in caching mode it has cached that.
    for i in 0..12u64 {
        let at = AT + i * 0x1000 + if i > 6 { i << 30 } else { 0 };
        rig.blocked(dev(3), at, Ask::Read, 0x06, &ear);
        map(&domain, at, page, 0x1000);
        rig.reaches(dev(3), at, page);
    }
    let mut edit = domain.edit();
    for i in 0..4u64 {
        edit.map(Iova::at((i + 20) << 21), hpa(page), 0x1000, Access::all()).unwrap();
    }
    edit.unmap(range(AT, AT + 0xfff)).unwrap();
    edit.finish().flush().unwrap();
    (0..4).for_each(|i| rig.reaches(dev(3), (i + 20) << 21, page));
    rig.blocked(dev(3), AT, Ask::Write, 0x05, &ear);
    drop((group, domain));
    rig.end();
}

fn snooping_can_be_forced(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, _) = rig.claim(dev(3));
    let (free, mut forced) = (rig.spec(&group), rig.spec(&group));
    forced.force_snoop = true;
    let domain: Domain<Host> = rig.vtd.domain(&forced).unwrap();
    if !profile.sc() {
        assert!(group.attach(Target::Domain(&domain)).is_err());
        drop((group, domain));
        return rig.end();
    }
    let other: Domain<Host> = rig.vtd.domain(&free).unwrap();
    for (domain, snooped) in [(&domain, true), (&other, false), (&domain, true)] {
        if domain.translate(Iova::at(AT)).is_none() {
            map(domain, AT, page, 0x1000);
        }
        group.attach(Target::Domain(domain)).unwrap();
        let request = Request { no_snoop: true, ..Request::new(dev(3).source.0, vtd_emu::Access::Write, AT) };
        match rig.host.machine().request(0, &request) {
            Some(Answer::Passed(p)) => assert_eq!((p.address, p.snoop), (page, snooped)),
            other => panic!("{other:x?}"),
        }
    }
    rig.host.note(0, "snoop control");
    drop((group, domain, other));
    rig.end();
}

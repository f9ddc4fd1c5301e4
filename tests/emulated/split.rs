//! Large pages cut while devices use them.

use vtd::{Access, PageSizes};
use vtd_emu::Profile;

use crate::probes::Seen;
use crate::rig::{Ask, Mode, Plan, dev, map, range, unmap};

crate::stories!(a_page_that_is_cut_maps_the_rest_all_the_while, rights_of_a_part_change_and_no_others);

const SIZES: [(PageSizes, u64); 2] = [(PageSizes::SIZE_2M, 2 << 20), (PageSizes::SIZE_1G, 1 << 30)];

fn a_page_that_is_cut_maps_the_rest_all_the_while(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(9);
    let (group, domain, ear) = rig.attached(dev(3));
    for (_, bytes) in SIZES.into_iter().filter(|(size, _)| domain.spec().sizes.contains(*size)) {
        let (at, to) = (8 << 30, memory & !(bytes - 1));
        let inside = memory - to;
        map(&domain, at, to, bytes);
        rig.reaches(dev(3), at + inside, memory);
        // One page out of the middle; the pages around it, and far ones, are asked for all the while.
        let hole = inside + 0x7_3000;
        let others = [inside, hole - 0x1000, hole + 0x1000, inside + (2 << 20) - 0x1000];
        others.iter().chain([&hole]).for_each(|o| rig.probes.add(0, dev(3), at + o));
        rig.probes.take();
        let unmapped = rig.probes.looking(|| domain.unmap(range(at + hole, at + hole + 0xfff)).unwrap());
        let flushed = rig.probes.looking(|| unmapped.flush());
        flushed.unwrap();
        for (address, seen) in rig.probes.take().iter().filter(|(a, _)| *a >= at) {
            let there = Seen::Memory(address - at + to);
            let known = |s: &Seen| *s == there || *address == at + hole && *s == Seen::Blocked(0x06);
            assert!(seen.iter().all(known), "at {address:#x}: {seen:x?}");
        }
        others.iter().for_each(|o| rig.reaches(dev(3), at + o, to + o));
        rig.blocked(dev(3), at + hole, Ask::Read, 0x06, &ear);
        rig.blocked(dev(3), at + hole, Ask::Write, 0x05, &ear);
        // The rest goes; so do the tables.
        unmap(&domain, at, at + bytes - 1);
        others.iter().for_each(|o| rig.blocked(dev(3), at + o, Ask::Read, 0x06, &ear));
        // The range is free for a large page again.
        map(&domain, at, to, bytes);
        rig.reaches(dev(3), at + hole, to + hole);
        unmap(&domain, at, at + bytes - 1);
    }
    drop((group, domain));
    rig.end();
}

fn rights_of_a_part_change_and_no_others(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(9);
    let (group, domain, ear) = rig.attached(dev(3));
    for (_, bytes) in SIZES.into_iter().filter(|(size, _)| domain.spec().sizes.contains(*size)) {
        let (at, to) = (8 << 30, memory & !(bytes - 1));
        let inside = memory - to;
        map(&domain, at, to, bytes);
        let (first, last) = (inside + 0x4_0000, inside + 0x7_ffff);
        let around = [inside, first - 0x1000, last + 1, inside + (2 << 20) - 0x1000];
        around.iter().chain([&first]).for_each(|o| rig.reaches(dev(3), at + o, to + o));
        around.iter().for_each(|o| rig.probes.add(0, dev(3), at + o));
        rig.probes.take();
        rig.probes.looking(|| {
            domain.protect(range(at + first, at + last), Access::READ).unwrap().flush().unwrap();
        });
        for (address, seen) in rig.probes.take().iter().filter(|(a, _)| *a >= at) {
            assert!(seen.iter().all(|s| *s == Seen::Memory(address - at + to)), "at {address:#x}: {seen:x?}");
        }
        for o in [first, last & !7] {
            assert!(rig.read(dev(3), at + o).is_ok());
            rig.blocked(dev(3), at + o, Ask::Write, 0x05, &ear);
        }
        around.iter().for_each(|o| rig.reaches(dev(3), at + o, to + o));
        unmap(&domain, at, at + bytes - 1);
    }
    drop((group, domain));
    rig.end();
}

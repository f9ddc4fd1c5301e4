//! Ranges as the unit's queue sees them: which descriptors, how many, with how many waits and accesses to registers.

use vtd::Domain;
use vtd_emu::{Profile, Random};

use crate::features::Wire;
use crate::host::Host;
use crate::rig::{AT, Ask, Mode, Plan, Rig, dev, map, range, unmap};

crate::stories!(
    two_pages_on_both_sides_of_a_line_are_two_descriptors,
    scattered_pages_go_in_one_batch,
    any_range_up_to_seven_of_the_largest_is_covered_below_twice_its_size,
    beyond_the_largest_blocks_the_rest_of_the_domain_goes_too,
    without_page_selective_invalidation_the_domain_goes,
    leaves_alone_are_said_to_be_alone,
);

/// The rig where there is a queue, with device 3 attached to a domain.
fn listening<R>(profile: &Profile, mode: Mode, body: impl FnOnce(&Rig, &Domain<Host>) -> R) {
    if !profile.qi() {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, domain, _) = rig.attached(dev(3));
    body(&rig, &domain);
    drop((group, domain));
    rig.end();
}

/// What the unit hears while `body` runs.
pub fn heard(rig: &Rig, body: impl FnOnce()) -> Wire {
    rig.host.listen(0);
    body();
    rig.host.heard(0)
}

/// One batch: a wait, a write of the tail, and where the hardware is as quick as it is asked no other access to a register.
#[track_caller]
fn one_batch(wire: &Wire, mode: Mode) {
    assert_eq!((wire.waits(), wire.tails), (1, 1), "{wire:x?}");
    assert_eq!(wire.descriptors.last().map(|d| d[0] & 0xf), Some(5), "the wait comes last");
    if ["prompt", "at once"].contains(&mode.name) {
        assert_eq!(wire.accesses, 1, "{wire:x?}");
    }
}

fn two_pages_on_both_sides_of_a_line_are_two_descriptors(profile: &Profile, mode: Mode) {
    listening(profile, mode, |rig, domain| {
        let memory = rig.memory(2);
        for line in [2u64 << 20, 1 << 30, 512 << 30] {
            if line > domain.addresses().last.get() {
                continue;
            }
            // With neighbours, so that no table goes.
            map(domain, line - 0x2000, memory, 0x4000);
            rig.reaches(dev(3), line - 0x1000, memory + 0x1000);
            rig.reaches(dev(3), line, memory + 0x2000);
            let wire = heard(rig, || unmap(domain, line - 0x1000, line + 0xfff));
            assert_eq!(wire.pages(), [(line - 0x1000, 0, true), (line, 0, true)]);
            assert_eq!(wire.iotlb(), 2);
            one_batch(&wire, mode);
            assert_eq!(rig.refused(dev(3), line, Ask::Read), 0x06);
            assert_eq!(rig.refused(dev(3), line - 0x1000, Ask::Write), 0x05);
            unmap(domain, line - 0x2000, line + 0x1fff);
        }
    });
}

fn scattered_pages_go_in_one_batch(profile: &Profile, mode: Mode) {
    listening(profile, mode, |rig, domain| {
        let memory = rig.memory(0);
        let place = |i: u64| AT + i * 0x2000;
        // Every second page goes.
        (0..128).for_each(|i| map(domain, AT + i * 0x1000, memory, 0x1000));
        (0..64).for_each(|i| rig.reaches(dev(3), place(i), memory));
        let wire = heard(rig, || {
            let mut edit = domain.edit();
            (0..64).for_each(|i| edit.unmap(range(place(i), place(i) + 0xfff)).unwrap());
            edit.finish().flush().unwrap();
        });
        assert_eq!(wire.pages(), (0..64).map(|i| (place(i), 0, true)).collect::<Vec<_>>());
        assert_eq!(wire.descriptors.len(), 65);
        one_batch(&wire, mode);
        (0..64).for_each(|i| assert_eq!(rig.refused(dev(3), place(i), Ask::Read), 0x06));
        (0..64).for_each(|i| rig.reaches(dev(3), place(i) + 0x1000, memory));
    });
}

/// CAP.MAMV.
fn largest(profile: &Profile, order: u64) -> Profile {
    profile.clone().with_cap(order << 48, 0x3f << 48)
}

fn any_range_up_to_seven_of_the_largest_is_covered_below_twice_its_size(profile: &Profile, mode: Mode) {
    for order in [0, 2, 4] {
        listening(&largest(profile, order), mode, |rig, domain| {
            let memory = rig.memory(7);
            let mut random = Random::new(order);
            for _ in 0..12 {
                let (first, pages) = (1 + random.below(64), 1 + random.below(7 << order));
                let (at, bytes) = ((AT >> 12) + first, pages << 12);
                map(domain, (at - 1) << 12, memory, bytes + 0x2000);
                let wire = heard(rig, || unmap(domain, at << 12, (at << 12) + bytes - 1));
                let blocks = wire.pages();
                assert_eq!(blocks.len(), wire.iotlb(), "all by pages: {wire:x?}");
                assert!(blocks.len() <= 8 && blocks.iter().all(|(_, o, _)| *o <= order), "{blocks:x?}");
                let covered: u64 = blocks.iter().map(|(_, o, _)| 1 << o).sum();
                let inside = |page: u64| blocks.iter().any(|(a, o, _)| (a >> 12..(a >> 12) + (1 << o)).contains(&page));
                assert!((at..at + pages).all(inside) && covered < 2 * pages, "{pages} at {at:#x}: {blocks:x?}");
                one_batch(&wire, mode);
                unmap(domain, (at - 1) << 12, ((at + pages + 1) << 12) - 1);
            }
        });
    }
}

fn beyond_the_largest_blocks_the_rest_of_the_domain_goes_too(profile: &Profile, mode: Mode) {
    listening(&largest(profile, 2), mode, |rig, domain| {
        let memory = rig.memory(6);
        map(domain, AT, memory, 0x40000);
        (0..64).for_each(|i| rig.reaches(dev(3), AT + i * 0x1000, memory + i * 0x1000));
        // 40 pages take ten blocks of four.
        let wire = heard(rig, || unmap(domain, AT, AT + 40 * 0x1000 - 1));
        assert_eq!((wire.pages().len(), wire.iotlb()), (0, 1), "{wire:x?}");
        one_batch(&wire, mode);
        (0..40).for_each(|i| assert_eq!(rig.refused(dev(3), AT + i * 0x1000, Ask::Read), 0x06));
        (40..64).for_each(|i| rig.reaches(dev(3), AT + i * 0x1000, memory + i * 0x1000));
    });
}

fn without_page_selective_invalidation_the_domain_goes(profile: &Profile, mode: Mode) {
    listening(&profile.clone().with_cap(0, 1 << 39), mode, |rig, domain| {
        let memory = rig.memory(2);
        map(domain, AT, memory, 0x4000);
        (0..4).for_each(|i| rig.reaches(dev(3), AT + i * 0x1000, memory + i * 0x1000));
        let wire = heard(rig, || unmap(domain, AT + 0x1000, AT + 0x1fff));
        // CAP.PSI is about second-stage translations; those of a PASID can always be told by pages (6.5.2.4).
        assert_eq!((wire.pages().len(), wire.iotlb()), (usize::from(rig.first_stage()), 1), "{wire:x?}");
        one_batch(&wire, mode);
        assert_eq!(rig.refused(dev(3), AT + 0x1000, Ask::Read), 0x06);
        rig.reaches(dev(3), AT + 0x2000, memory + 0x2000);
    });
}

fn leaves_alone_are_said_to_be_alone(profile: &Profile, mode: Mode) {
    listening(profile, mode, |rig, domain| {
        let memory = rig.memory(1);
        map(domain, AT, memory, 0x2000);
        rig.reaches(dev(3), AT, memory);
        let wire = heard(rig, || unmap(domain, AT, AT + 0xfff));
        assert_eq!(wire.pages(), [(AT, 0, true)]);
        // With the last page its table goes, and those above it: everything that was reached through them.
        let wire = heard(rig, || unmap(domain, AT + 0x1000, AT + 0x1fff));
        assert!(wire.pages().iter().all(|(.., alone)| !alone) && wire.iotlb() > 0, "{wire:x?}");
        // A change of rights takes no table.
        map(domain, AT, memory, 0x1000);
        let wire = heard(rig, || {
            domain.protect(range(AT, AT + 0xfff), vtd::Access::READ).unwrap().flush().unwrap();
        });
        assert_eq!(wire.pages(), [(AT, 0, true)]);
    });
}

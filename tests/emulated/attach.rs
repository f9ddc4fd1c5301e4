//! Groups attached, moved to another domain, detached.

use vtd::{Change, Target};
use vtd_emu::Profile;

use crate::host::Host;
use crate::probes::Seen;
use crate::rig::{AT, Ask, BEHIND, BRIDGE, Mode, Plan, dev, map};

crate::stories!(a_device_reaches_what_its_domain_maps_and_nothing_after_it_left, a_group_moves_from_domain_to_domain,);

fn a_device_reaches_what_its_domain_maps_and_nothing_after_it_left(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    rig.probes.add(0, dev(3), AT);
    let (group, ear) = rig.claim(dev(3));
    let domain = rig.domain(&group);
    map(&domain, AT, page, 0x1000);
    let reason = rig.refused(dev(3), AT, Ask::Read);
    assert!([0x01, 0x02].contains(&reason));
    // Nothing, or the page: at no time half an entry.
    let old_or_new = |to: Target<'_, Host>| {
        rig.probes.take();
        let change = rig.probes.looking(|| group.attach(to).unwrap());
        for (at, seen) in rig.probes.take() {
            let known = |s: &Seen| [Seen::Blocked(0x01), Seen::Blocked(0x02), Seen::Memory(page)].contains(s);
            assert!(seen.iter().all(known), "at {at:#x}: {seen:x?}");
        }
        change
    };
    assert_eq!(old_or_new(Target::Domain(&domain)), Change::WithGap);
    rig.reaches(dev(3), AT, page);
    rig.blocked(dev(3), AT + 0x1000, Ask::Read, 0x06, &ear);
    rig.blocked(dev(3), AT - 8, Ask::Write, 0x05, &ear);
    rig.blocked(dev(2), AT, Ask::Read, 0x02, &rig.ear);
    old_or_new(Target::Blocked);
    rig.blocked(dev(3), AT, Ask::Read, 0x02, &ear);
    rig.blocked(dev(3), AT, Ask::Write, 0x02, &ear);
    old_or_new(Target::Domain(&domain));
    rig.reaches(dev(3), AT, page);
    group.release().map_err(|(_, e)| e).unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x02, &rig.ear);
    drop(domain);
    rig.end();
}

fn a_group_moves_from_domain_to_domain(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (one, two) = (rig.page(), rig.page());
    let (group, ear) = rig.claim(BEHIND[0]);
    assert_eq!(rig.vtd.group_of(BEHIND[1]), rig.vtd.group_of(BEHIND[0]));
    assert!(group.devices().any(|d| d == BRIDGE || d == BEHIND[1]));
    let (first, second) = (rig.domain(&group), rig.domain(&group));
    map(&first, AT, one, 0x1000);
    map(&second, AT, two, 0x1000);
    map(&second, 2 * AT, one, 0x1000);
    group.attach(Target::Domain(&first)).unwrap();
    for d in BEHIND {
        rig.reaches(d, AT, one);
        rig.probes.add(0, d, AT);
    }
    for turn in 0..4 {
        let (to, memory) = if turn % 2 == 0 { (&second, two) } else { (&first, one) };
        rig.probes.take();
        let change = rig.probes.looking(|| group.attach(Target::Domain(to)).unwrap());
        // A first-stage entry has its table where no one store replaces it.
        let gap = rig.first_stage();
        assert_eq!(change, if gap { Change::WithGap } else { Change::Seamless });
        for (_, seen) in rig.probes.take() {
            let known = |s: &Seen| [one, two].map(Seen::Memory).contains(s) || gap && *s == Seen::Blocked(0x02);
            assert!(seen.iter().all(known), "{seen:x?}");
        }
        for d in BEHIND {
            rig.reaches(d, AT, memory);
            match turn % 2 {
                0 => rig.reaches(d, 2 * AT, one),
                _ => rig.blocked(d, 2 * AT, Ask::Read, 0x06, &ear),
            }
        }
    }
    drop((group, first, second));
    rig.end();
}

//! Several devices and units: one domain behind two units, many domains, groups with aliases.

use vtd::{ErrorKind, Field, GroupId, Owner, Target};
use vtd_emu::Profile;

use crate::rig::{AT, Ask, BEHIND, BRIDGE, INTEGRATED, Mode, Plan, dev, map, range, unmap};

crate::stories!(
    one_domain_behind_two_units_is_flushed_on_both,
    many_domains_keep_their_devices_apart,
    what_cannot_be_told_apart_is_one_group,
    domain_ids_come_back_clean,
);

fn one_domain_behind_two_units_is_flushed_on_both(profile: &Profile, mode: Mode) {
    let mut others = crate::profiles();
    others.retain(|p| [profile.name, "old", "server"].contains(&p.name));
    for other in others {
        let rig = Plan::two(profile, &other, mode).up();
        let (one, two) = (rig.page(), rig.page());
        let (first, ear) = rig.claim(dev(1));
        let (second, _) = rig.claim(dev(3));
        second.on_events(dev(3), ear.clone()).unwrap();
        let (mut spec, best) = (rig.spec(&first), rig.spec(&second));
        spec.width = spec.width.min(best.width);
        spec.sizes &= best.sizes;
        spec.coherent &= best.coherent;
        // Three levels are what the oldest of them has.
        if spec.levels != best.levels {
            spec.levels = 3;
            spec.width = spec.width.min(39);
        }
        let domain = match rig.vtd.domain(&spec) {
            Ok(domain) => domain,
            // First-stage tables have four levels at least.
            Err(e) => {
                assert!(e.kind == ErrorKind::Invalid(Field::Size) && rig.first_stage() && spec.levels == 3, "{e}");
                drop((first, second));
                rig.end();
                continue;
            }
        };
        match first.attach(Target::Domain(&domain)).and_then(|_| second.attach(Target::Domain(&domain))) {
            Ok(_) => {}
            // Units without a number of levels in common.
            Err(e) => {
                assert!(matches!(e.kind, ErrorKind::Unsupported(_)), "{e}");
                drop((first, second, domain));
                rig.end();
                continue;
            }
        }
        for turn in 0..4u64 {
            let at = AT + (turn << 21);
            map(&domain, at, one, 0x1000);
            map(&domain, at + 0x1000, two, 0x1000);
            for d in [dev(1), dev(3)] {
                rig.reaches(d, at, one);
                rig.reaches(d, at + 0x1000, two);
            }
            unmap(&domain, at, at + 0x1fff);
            for d in [dev(1), dev(3)] {
                rig.blocked(d, at, Ask::Read, 0x06, &ear);
                rig.blocked(d, at + 0x1000, Ask::Write, 0x05, &ear);
            }
        }
        // One leaves; the other goes on, and is flushed.
        map(&domain, AT, one, 0x1000);
        rig.reaches(dev(3), AT, one);
        rig.reaches(dev(1), AT, one);
        first.attach(Target::Blocked).unwrap();
        assert!(matches!(rig.refused(dev(1), AT, Ask::Read), 0x02));
        rig.reaches(dev(3), AT, one);
        unmap(&domain, AT, AT + 0xfff);
        rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
        drop((first, second, domain));
        rig.end();
    }
}

fn many_domains_keep_their_devices_apart(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let mut all = Vec::new();
    for n in 1..=INTEGRATED {
        let page = rig.page();
        let (group, domain, ear) = rig.attached(dev(n));
        map(&domain, AT, page, 0x1000);
        map(&domain, (u64::from(n) + 1) * AT + 0x1000, page, 0x1000);
        all.push((dev(n), group, domain, ear, page));
    }
    for (n, (d, _, _, ear, page)) in all.iter().enumerate() {
        rig.reaches(*d, AT, *page);
        for other in 0..all.len() as u64 {
            let at = (other + 2) * AT + 0x1000;
            if other == n as u64 {
                rig.reaches(*d, at, *page);
            } else {
                rig.blocked(*d, at, Ask::Read, 0x06, ear);
            }
        }
    }
    // Everyone's neighbour is unmapped; nobody else notices.
    for (n, (_, _, domain, ..)) in all.iter().enumerate() {
        unmap(domain, AT, AT + 0xfff);
        for (k, (d, _, _, ear, page)) in all.iter().enumerate() {
            if k <= n { rig.blocked(*d, AT, Ask::Write, 0x05, ear) } else { rig.reaches(*d, AT, *page) }
        }
    }
    drop(all);
    rig.end();
}

fn what_cannot_be_told_apart_is_one_group(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let id: GroupId = rig.vtd.group_of(BEHIND[0]).unwrap();
    assert_eq!((rig.vtd.group_of(BEHIND[1]).unwrap(), rig.vtd.group_of(BRIDGE).unwrap()), (id, id));
    assert!(rig.vtd.why_together(BEHIND[0], BEHIND[1]).unwrap().is_some());
    assert_ne!(rig.vtd.group_of(dev(1)).unwrap(), rig.vtd.group_of(dev(2)).unwrap());
    let (group, domain, ear) = rig.attached(BEHIND[1]);
    assert_eq!(rig.vtd.claim(id, Owner(9)).unwrap_err().kind, ErrorKind::Busy);
    map(&domain, AT, page, 0x1000);
    // Under their own ids and under the bridge's.
    for _ in 0..8 {
        BEHIND.iter().for_each(|d| rig.reaches(*d, AT, page));
    }
    for _ in 0..4 {
        BEHIND.iter().for_each(|d| rig.blocked(*d, 2 * AT, Ask::Read, 0x06, &ear));
    }
    unmap(&domain, AT, AT + 0xfff);
    for _ in 0..4 {
        BEHIND.iter().for_each(|d| rig.blocked(*d, AT, Ask::Write, 0x05, &ear));
    }
    map(&domain, AT, page, 0x1000);
    BEHIND.iter().for_each(|d| rig.reaches(*d, AT, page));
    group.attach(Target::Blocked).unwrap();
    for _ in 0..4 {
        BEHIND.iter().for_each(|d| assert_eq!(rig.refused(*d, AT, Ask::Read), 0x02));
    }
    drop((group, domain));
    rig.end();
}

fn domain_ids_come_back_clean(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (mine, yours) = (rig.page(), rig.page());
    let (group, ear) = rig.claim(dev(3));
    for turn in 0..6u64 {
        let first = rig.domain(&group);
        map(&first, AT, mine, 0x2000.min(0x1000 * (turn % 2 + 1)));
        group.attach(Target::Domain(&first)).unwrap();
        rig.reaches(dev(3), AT, mine);
        group.attach(Target::Blocked).unwrap();
        // The next domain gets the id, and the frames, that the first one had.
        drop(first);
        let second = rig.domain(&group);
        map(&second, 2 * AT, yours, 0x1000);
        group.attach(Target::Domain(&second)).unwrap();
        rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
        rig.reaches(dev(3), 2 * AT, yours);
        // Unmapped and not flushed when the last device leaves.
        drop(second.unmap(range(2 * AT, 2 * AT + 0xfff)).unwrap());
        group.attach(Target::Blocked).unwrap();
        drop(second);
    }
    drop(group);
    rig.end();
}

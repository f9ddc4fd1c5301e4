//! Requests with PASID beside those without: several address spaces of one device, attached, replaced, detached.

use vtd::{Change, Domain, ErrorKind, Field, Group, Need, Pasid, Stage, Step, Target};
use vtd_emu::{Answer, Profile, Request};

use crate::host::{Ends, Host};
use crate::probes::{Seen, in_order};
use crate::rig::{AT, Ask, BEHIND, BOTH_TAG, Mode, NARROW, ONE_TAGS, Plan, Rig, TAGGING, Who, dev, map, unmap};

crate::stories!(
    several_pasids_lead_to_several_domains_beside_plain_requests,
    a_replacement_is_the_old_then_the_new_and_never_a_third,
    what_was_there_stays_when_a_step_fails,
    a_pasid_whose_flush_fails_is_blocked_and_no_other_is,
    pasids_that_cannot_be_are_refused_by_name,
    a_sibling_without_pasids_is_in_nobodys_way,
    domain_ids_end_and_come_back,
    one_domain_serves_pasids_of_several_devices,
);

pub fn pasid(v: u32) -> Pasid {
    Pasid::new(v).expect("20 bits, and not 0")
}

/// Attaches requests with `pasid`, or for 0 those without.
pub fn attach(group: &Group<Host>, who: Who, to: Target<'_, Host>) -> Result<Change, vtd::Error> {
    match who.pasid {
        Some(p) => group.attach_pasid(who.device, pasid(p), to),
        None => group.attach(to),
    }
}

/// Why a request is blocked that no device sends any more; none where it is not.
fn refusal(rig: &Rig, who: Who, at: u64) -> Option<u8> {
    let plain = Request::new(who.device.source.0, vtd_emu::Access::Read, at);
    match rig.host.machine().request(0, &Request { pasid: who.pasid, ..plain }) {
        Some(Answer::Blocked(f)) => Some(f.reason.0),
        _ => None,
    }
}

/// The first and the last PASID of a table, of a directory's page, of all: what has its place elsewhere than others.
const PASIDS: [u32; 8] = [0, 1, 0x3f, 0x40, 0x7fff, 0x8000, 0xf_ffc0, 0xf_ffff];

fn several_pasids_lead_to_several_domains_beside_plain_requests(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, ear) = rig.claim(dev(3));
    let (stages, home) = (mode.stages(profile), rig.page());
    // One of them goes to memory as it is, the others each to a page of their own.
    let mut all: Vec<(Who, Option<Domain<Host>>, u64)> = Vec::new();
    for (n, p) in PASIDS.into_iter().enumerate() {
        let who = Who::from((dev(3), p));
        if p == 0x40 {
            attach(&group, who, Target::Identity).unwrap();
            all.push((who, None, home));
            continue;
        }
        let (domain, page) = rig.domain_of(&group, stages[n % stages.len()], home);
        if p != 0 {
            rig.blocked(who, home, Ask::Read, 0x02, &ear);
        }
        assert_eq!(attach(&group, who, Target::Domain(&domain)), Ok(Change::WithGap));
        all.push((who, Some(domain), page));
    }
    let each = |all: &[(Who, Option<Domain<Host>>, u64)]| {
        all.iter().for_each(|(who, _, page)| rig.reaches(*who, home, *page));
    };
    each(&all);
    rig.host.note(0, "requests with PASID");
    // PASIDs next to them are nobody's.
    for p in [2, 0x3e, 0x41, 0x8001, 0x1_0000, 0xf_fffe] {
        rig.blocked((dev(3), p), home, Ask::Read, 0x02, &ear);
    }
    // What one unmaps is the others' still.
    for n in 0..all.len() {
        let (who, Some(domain), page) = &all[n] else { continue };
        unmap(domain, home, home + 0xfff);
        for (k, (other, _, page)) in all.iter().enumerate() {
            if k == n { rig.blocked(*other, home, Ask::Write, 0x05, &ear) } else { rig.reaches(*other, home, *page) }
        }
        map(domain, home, *page, 0x1000);
        rig.reaches(*who, home, *page);
    }
    // They leave one by one, the plain ones among them; the last with the group.
    while all.len() > 2 {
        let (who, domain, _) = all.remove(all.len() / 2);
        match who.pasid {
            Some(p) => group.detach_pasid(dev(3), pasid(p)).unwrap(),
            None => drop(group.attach(Target::Blocked).unwrap()),
        }
        drop(domain);
        rig.blocked(who, home, Ask::Read, 0x02, &ear);
        rig.blocked(who, home, Ask::Write, 0x02, &ear);
        each(&all);
    }
    group.detach_pasid(dev(3), pasid(0x1234)).unwrap();
    group.release().map_err(|(_, e)| e).unwrap();
    for (who, ..) in &all {
        assert!(rig.read(*who, home).is_err());
        assert!(refusal(&rig, *who, home).is_some());
    }
    // Who comes next finds none of it.
    let (group, ear) = rig.claim(dev(3));
    for (who, ..) in &all {
        rig.blocked(*who, home, Ask::Read, 0x02, &ear);
    }
    drop((group, all));
    rig.end();
}

/// Something to attach to.
enum To {
    Blocked,
    Identity,
    Space(Stage, Domain<Host>, u64),
}

impl To {
    fn target(&self) -> Target<'_, Host> {
        match self {
            To::Blocked => Target::Blocked,
            To::Identity => Target::Identity,
            To::Space(_, domain, _) => Target::Domain(domain),
        }
    }

    /// What a request for `home` meets then.
    fn seen(&self, home: u64) -> Seen {
        match self {
            To::Blocked => Seen::Blocked(0x02),
            To::Identity => Seen::Memory(home),
            To::Space(.., page) => Seen::Memory(*page),
        }
    }

    fn stage(&self) -> Option<Stage> {
        if let To::Space(stage, ..) = self { Some(*stage) } else { None }
    }
}

fn a_replacement_is_the_old_then_the_new_and_never_a_third(profile: &Profile, mode: Mode) {
    let stages = mode.stages(profile);
    // Where there are both, one form of the story shows them.
    if mode.stage != stages[0] {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, _) = rig.claim(dev(3));
    let home = rig.page();
    let mut all = vec![To::Blocked, To::Identity];
    for stage in stages.iter().chain(&stages) {
        let (domain, page) = rig.domain_of(&group, *stage, home);
        all.push(To::Space(*stage, domain, page));
    }
    for p in [0, 5].into_iter().filter(|p| *p == 0 || mode.tags(profile)) {
        let who = Who::from((dev(3), p));
        rig.probes.clear();
        rig.probes.add(0, who, home);
        // The context table is there.
        attach(&group, who, all[2].target()).unwrap();
        for (from, to) in (0..all.len()).flat_map(|a| (0..all.len()).map(move |b| (a, b))) {
            let (old, new) = (&all[from], &all[to]);
            // On a fresh entry, and on one that another domain has left.
            for twice in [false, true] {
                if twice {
                    attach(&group, who, new.target()).unwrap();
                } else {
                    attach(&group, who, Target::Blocked).unwrap();
                }
                attach(&group, who, old.target()).unwrap();
                rig.probes.take();
                let change = rig.probes.looking(|| attach(&group, who, new.target()).unwrap());
                let states = [old.seen(home), Seen::Blocked(0x02), new.seen(home)];
                let (_, seen) = rig.probes.take().pop().unwrap();
                in_order(&seen, &states, &format!("{who:?} from {from} to {to}"));
                let gap = seen.contains(&Seen::Blocked(0x02));
                let open = !matches!(old, To::Blocked) && !matches!(new, To::Blocked);
                match change {
                    Change::Seamless => assert!(open && !gap, "from {from} to {to}: {seen:x?}"),
                    // To second-stage tables and to memory as it is there is always a way in one store.
                    Change::WithGap => assert!(!open || new.stage() == Some(Stage::First), "from {from} to {to}"),
                }
                if let Seen::Memory(page) = new.seen(home) {
                    rig.reaches(who, home, page);
                } else {
                    assert_eq!(rig.refused(who, home, Ask::Write), 0x02);
                }
            }
        }
        attach(&group, who, Target::Blocked).unwrap();
    }
    rig.probes.clear();
    drop((group, all));
    rig.end();
}

fn what_was_there_stays_when_a_step_fails(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, ear) = rig.claim(dev(3));
    let (plain, page) = rig.domain_of(&group, mode.stage, AT);
    let (tagged, its) = rig.domain_of(&group, mode.stage, AT);
    group.attach(Target::Domain(&plain)).unwrap();
    group.attach_pasid(dev(3), pasid(1), Target::Domain(&tagged)).unwrap();
    let unharmed = || {
        rig.reaches(dev(3), AT, page);
        rig.reaches((dev(3), 1), AT, its);
    };
    unharmed();
    // A new table for a PASID far away wants memory.
    for n in 0.. {
        rig.host.trouble().frames = Some(Ends::after(n));
        let outcome = group.attach_pasid(dev(3), pasid(0x5000 + n as u32 * 64), Target::Domain(&plain));
        rig.host.trouble().frames = None;
        unharmed();
        match outcome {
            Ok(_) => {
                assert!(n > 0);
                rig.reaches((dev(3), 0x5000 + n as u32 * 64), AT, page);
                break;
            }
            Err(e) => {
                assert_eq!(
                    (e.kind, e.device, e.pasid.map(Pasid::get)),
                    (ErrorKind::OutOfFrames, Some(dev(3)), Some(0x5000 + n as u32 * 64))
                );
                rig.blocked((dev(3), 0x5000 + n as u32 * 64), AT, Ask::Read, 0x02, &ear);
            }
        }
    }
    // A domain that wants more than the unit has takes nobody's place.
    let mut wide = rig.spec(&group);
    (wide.levels, wide.width) = (5, if mode.stage == Stage::First { 56 } else { 57 });
    let wide: Domain<Host> = rig.vtd.domain(&wide).unwrap();
    if let Err(e) = group.attach_pasid(dev(3), pasid(1), Target::Domain(&wide)) {
        assert!(matches!(e.kind, ErrorKind::Unsupported(_)), "{e}");
        unharmed();
        assert!(group.attach(Target::Domain(&wide)).is_err());
        unharmed();
    } else {
        rig.blocked((dev(3), 1), AT, Ask::Read, 0x06, &ear);
        rig.reaches(dev(3), AT, page);
    }
    drop((group, plain, tagged, wide));
    rig.end();
}

fn a_pasid_whose_flush_fails_is_blocked_and_no_other_is(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, ear) = rig.claim(dev(3));
    let (plain, page) = rig.domain_of(&group, mode.stage, AT);
    let (first, one) = rig.domain_of(&group, mode.stage, AT);
    let (second, two) = rig.domain_of(&group, mode.stage, AT);
    group.attach(Target::Domain(&plain)).unwrap();
    group.attach_pasid(dev(3), pasid(7), Target::Domain(&first)).unwrap();
    rig.reaches((dev(3), 7), AT, one);
    let stuck = |on: bool| rig.host.machine().unit_mut(0).unwrap().adversary().stuck_queue = on;
    stuck(true);
    let e = group.attach_pasid(dev(3), pasid(7), Target::Domain(&second)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout(Step::Invalidation));
    rig.reaches(dev(3), AT, page);
    stuck(false);
    rig.host.machine().step(2000);
    group.detach_pasid(dev(3), pasid(7)).unwrap();
    rig.blocked((dev(3), 7), AT, Ask::Read, 0x02, &ear);
    rig.reaches(dev(3), AT, page);
    group.attach_pasid(dev(3), pasid(7), Target::Domain(&second)).unwrap();
    rig.reaches((dev(3), 7), AT, two);
    // Once more, with everybody gone when the unit comes to: ids and tables that a cache may hold stay owned till then.
    stuck(true);
    assert_eq!(group.detach_pasid(dev(3), pasid(7)).unwrap_err().kind, ErrorKind::Timeout(Step::Invalidation));
    stuck(false);
    rig.host.machine().step(2000);
    // A change of others' proves nothing of it.
    group.attach(Target::Blocked).unwrap();
    drop((plain, first, second));
    rig.sound();
    group.release().map_err(|(_, e)| e).unwrap();
    rig.host.handler(None);
    rig.end();
}

fn pasids_that_cannot_be_are_refused_by_name(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let refused = |group: &Group<Host>, d, p: u32, kind: ErrorKind| {
        let e = group.attach_pasid(d, pasid(p), Target::Identity).unwrap_err();
        assert_eq!((e.kind, e.device, e.pasid.map(Pasid::get)), (kind, Some(d), Some(p)), "{e}");
    };
    let (group, _) = rig.claim(dev(3));
    if !mode.tags(profile) {
        refused(&group, dev(3), 1, ErrorKind::Unsupported(Need::Pasid));
        drop(group);
        return rig.end();
    }
    refused(&group, dev(4), 1, ErrorKind::Invalid(Field::Device));
    let none = ErrorKind::Unsupported(Need::DevicePasid);
    for d in [dev(4), dev(6), BOTH_TAG[0], BEHIND[0]] {
        let (group, _) = rig.claim(d);
        let members: Vec<_> = group.devices().collect();
        members.iter().for_each(|m| refused(&group, *m, 1, none));
    }
    let (narrow, ear) = rig.claim(NARROW);
    let (domain, page) = rig.domain_of(&narrow, mode.stage, AT);
    for p in [0x100, 0x1ff, 0xf_ffff] {
        refused(&narrow, NARROW, p, ErrorKind::Invalid(Field::Pasid));
    }
    narrow.attach_pasid(NARROW, pasid(0xff), Target::Domain(&domain)).unwrap();
    rig.reaches((NARROW, 0xff), AT, page);
    rig.blocked((NARROW, 0xfe), AT, Ask::Read, 0x02, &ear);
    drop((group, narrow, domain));
    rig.end();
}

fn a_sibling_without_pasids_is_in_nobodys_way(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let [tags, other] = ONE_TAGS;
    let (group, ear) = rig.claim(tags);
    assert_eq!(group.devices().count(), 2);
    let (plain, page) = rig.domain_of(&group, mode.stage, AT);
    let (tagged, its) = rig.domain_of(&group, mode.stage, AT);
    group.attach(Target::Domain(&plain)).unwrap();
    group.attach_pasid(tags, pasid(3), Target::Domain(&tagged)).unwrap();
    let e = group.attach_pasid(other, pasid(3), Target::Domain(&tagged)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unsupported(Need::DevicePasid));
    rig.reaches(tags, AT, page);
    rig.reaches(other, AT, page);
    rig.reaches((tags, 3), AT, its);
    unmap(&tagged, AT, AT + 0xfff);
    rig.blocked((tags, 3), AT, Ask::Write, 0x05, &ear);
    rig.reaches(other, AT, page);
    drop((group, plain, tagged));
    rig.end();
}

fn domain_ids_end_and_come_back(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) {
        return;
    }
    // CAP.ND 0: sixteen ids, of which two are taken.
    let rig = Plan::new(&profile.clone().with_cap(0, 7), mode).up();
    let (group, ear) = rig.claim(dev(3));
    let mut all = Vec::new();
    for p in 1..=14 {
        let (domain, page) = rig.domain_of(&group, mode.stage, AT);
        group.attach_pasid(dev(3), pasid(p), Target::Domain(&domain)).unwrap();
        rig.reaches((dev(3), p), AT, page);
        all.push((p, domain, page));
    }
    let (late, page) = rig.domain_of(&group, mode.stage, AT);
    for p in [14, 15] {
        let e = group.attach_pasid(dev(3), pasid(p), Target::Domain(&late)).unwrap_err();
        assert_eq!(e.kind, ErrorKind::OutOfDomainIds);
    }
    rig.blocked((dev(3), 15), AT, Ask::Read, 0x02, &ear);
    all.iter().for_each(|(p, _, page)| rig.reaches((dev(3), *p), AT, *page));
    // A domain that has its id has it for every PASID.
    group.attach_pasid(dev(3), pasid(15), Target::Domain(&all[0].1)).unwrap();
    rig.reaches((dev(3), 15), AT, all[0].2);
    group.detach_pasid(dev(3), pasid(1)).unwrap();
    assert!(group.attach_pasid(dev(3), pasid(14), Target::Domain(&late)).is_err(), "the id is in use still");
    group.detach_pasid(dev(3), pasid(15)).unwrap();
    // The id of one domain goes to another, on the PASID where it was.
    group.attach_pasid(dev(3), pasid(15), Target::Domain(&late)).unwrap();
    rig.reaches((dev(3), 15), AT, page);
    rig.blocked((dev(3), 1), AT, Ask::Read, 0x02, &ear);
    group.attach_pasid(dev(3), pasid(1), Target::Domain(&late)).unwrap();
    rig.reaches((dev(3), 1), AT, page);
    drop((group, all, late));
    rig.end();
}

fn one_domain_serves_pasids_of_several_devices(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let groups: Vec<_> = TAGGING.into_iter().map(|d| (d, rig.claim(d))).collect();
    let domain = rig.domain(&groups[0].1.0);
    let users: Vec<Who> = TAGGING.into_iter().flat_map(|d| [0, 1, 9].map(|p| Who::from((d, p)))).collect();
    let group = |who: &Who| &groups.iter().find(|(d, _)| *d == who.device).unwrap().1;
    for who in &users {
        attach(&group(who).0, *who, Target::Domain(&domain)).unwrap();
    }
    // Whoever leaves leaves the others what they have.
    for (n, leaving) in users.iter().enumerate() {
        map(&domain, AT, page, 0x2000);
        users[n..].iter().for_each(|who| rig.reaches(*who, AT, page));
        // Three PASIDs have their translations of first-stage tables apart, whose device ever asked; of second-stage tables
        // there is one.
        let left: std::collections::BTreeSet<_> = users[n..].iter().map(|who| who.pasid).collect();
        let flushes = if rig.first_stage() { left.len() } else { 1 };
        rig.host.listen(0);
        unmap(&domain, AT, AT + 0xfff);
        let heard = rig.host.heard(0);
        assert_eq!(heard.iotlb(), flushes, "{heard:x?}");
        assert_eq!((heard.waits(), heard.tails), (1, 1), "{heard:x?}");
        users[n..].iter().for_each(|who| rig.blocked(*who, AT, Ask::Read, 0x06, &group(who).1));
        unmap(&domain, AT + 0x1000, AT + 0x1fff);
        attach(&group(leaving).0, *leaving, Target::Blocked).unwrap();
        rig.blocked(*leaving, AT, Ask::Read, 0x02, &group(leaving).1);
    }
    drop((groups, domain));
    rig.end();
}

//! Devices with translation caches of their own: what they are given, and that nothing of it is left when it has gone.

use vtd::{Ats, DeviceId, Domain, ErrorKind, Group, Iova, Nanos, Need, NoAts, State, Target};
use vtd_emu::{Answers, Blocked, Dma, Form, Function, Manner, Pace, Profile, Size, Via, Virtuals};

use crate::features::Wire;
use crate::flush::heard;
use crate::host::Host;
use crate::pasids::pasid;
use crate::rig::{AT, Ask, Mode, Plan, Rig, Who, dev, hpa, map, range, unmap};

crate::stories!(
    a_trusted_device_loses_what_it_was_given_with_every_change,
    pasids_are_emptied_each_and_all_at_the_end,
    a_flush_waits_for_devices_that_answer_late,
    a_device_that_never_answers_is_isolated_and_everyone_else_goes_on,
    a_device_that_never_answers_its_own_groups_changes_leaves_it_blocked,
    caches_stay_off_where_the_way_cannot_be_relied_on,
    invalidations_are_throttled_by_the_physical_functions_queue,
    caches_that_were_on_are_off_and_empty_for_the_owner,
);

/// Integrated devices with PASIDs and translation caches.
pub const CACHING: [DeviceId; 3] = [dev(0x10), dev(0x11), dev(0x12)];

pub fn caching(d: DeviceId) -> Function {
    Function::new(d.source.0, 0).with_ats().with_pasid(20).with_pri(8)
}

pub fn plan(profile: &Profile, mode: Mode) -> Plan {
    let mut plan = Plan::new(profile, mode);
    plan.more = CACHING.map(|d| (d, caching(d))).to_vec();
    plan.config.device_deadline = Nanos::millis(15);
    plan
}

/// As `Rig::reaches`, with translated requests.
#[track_caller]
pub fn translates(rig: &Rig, who: impl Into<Who>, at: u64, memory: u64) {
    let who = who.into();
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let v = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * 0x1_0003;
    assert_eq!(write(rig, who, at, v), Ok(()), "{who:?} writes at {at:#x}");
    assert_eq!(rig.look(memory), v, "what {who:?} wrote at {at:#x} stands at {memory:#x}");
}

/// A write by a translated request.
pub fn write(rig: &Rig, who: impl Into<Who>, at: u64, v: u64) -> Result<(), Blocked> {
    let who = who.into();
    let dma = Dma { pasid: who.pasid, ..Dma::at(at).via(Via::DeviceTlb) };
    rig.host.machine().dma_write(rig.function(who.device), &dma, &v.to_le_bytes())
}

/// What a device's cache holds: of requests with this PASID or, for `None`, without.
pub fn kept(rig: &Rig, who: impl Into<Who>) -> usize {
    let who = who.into();
    rig.host.machine().device_tlb(rig.function(who.device)).iter().filter(|k| k.pasid == who.pasid).count()
}

fn manner(rig: &Rig, d: DeviceId, answers: Answers) {
    let f = rig.function(d);
    rig.host.machine().set_manner(f, Manner { answers, ..Manner::default() });
}

#[track_caller]
pub fn given_back(group: Group<Host>) {
    group.release().map_err(|(_, e)| e).unwrap();
}

/// Elsewhere (pKVM-IA #84) device TLBs were never flushed: here each change that takes something away, of pages, rights,
/// domains, trust and owners, takes it from the device too.
fn a_trusted_device_loses_what_it_was_given_with_every_change(profile: &Profile, mode: Mode) {
    let rig = plan(profile, mode).up();
    let d = CACHING[0];
    let (group, _) = rig.claim(d);
    if !profile.dt() {
        let e = group.set_ats(d, Ats::Trusted).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Unsupported(Need::Ats(NoAts::Unit)));
        assert_eq!(group.info(d).unwrap().ats, Err(NoAts::Unit));
        drop(group);
        return rig.end();
    }
    let (domain, other) = (rig.domain(&group), rig.domain(&group));
    let (one, two) = (rig.page(), rig.page());
    map(&domain, AT, one, 0x1000);
    map(&domain, AT + 0x1000, two, 0x1000);
    map(&other, AT, two, 0x1000);
    group.attach(Target::Domain(&domain)).unwrap();
    assert_eq!(write(&rig, d, AT, 1), Err(Blocked::Disabled), "off until the host says otherwise");
    assert!(!group.info(d).unwrap().ats_on);
    group.set_ats(d, Ats::Trusted).unwrap();
    assert!(group.info(d).unwrap().ats_on);
    translates(&rig, d, AT, one);
    translates(&rig, d, AT + 0x1000, two);
    assert_eq!(kept(&rig, d), 2);
    let wire = heard(&rig, || unmap(&domain, AT, AT + 0xfff));
    // The unit's own first; its order against `p_iotlb` nobody promises (6.5.2.12). Of waits, those with FN.
    let order: Vec<u64> = wire.descriptors.iter().map(|d| d[0] & 0xf).collect();
    let fenced = wire.descriptors.get(1).is_some_and(|d| d[0] >> 6 & 1 != 0);
    assert_eq!(order, if rig.first_stage() { vec![6, 5, 3, 5] } else { vec![2, 3, 5] });
    assert!(!rig.first_stage() || fenced);
    assert_eq!(kept(&rig, d), 1);
    assert!(write(&rig, d, AT, 1).is_err());
    translates(&rig, d, AT + 0x1000, two);
    domain.protect(range(AT + 0x1000, AT + 0x1fff), vtd::Access::READ).unwrap().flush().unwrap();
    assert!(write(&rig, d, AT + 0x1000, 1).is_err());
    group.attach(Target::Domain(&other)).unwrap();
    assert_eq!(kept(&rig, d), 0);
    translates(&rig, d, AT, two);
    group.attach(Target::Identity).unwrap();
    assert_eq!(kept(&rig, d), 0);
    if !mode.scalable(profile) && profile.pt() {
        assert!(!group.info(d).unwrap().ats_on, "pass-through in legacy mode blocks it");
        assert_eq!(write(&rig, d, one, 1), Err(Blocked::Disabled));
        rig.reaches(d, one, one);
    } else {
        translates(&rig, d, one, one);
    }
    group.attach(Target::Domain(&other)).unwrap();
    assert_eq!(kept(&rig, d), 0);
    translates(&rig, d, AT, two);
    group.attach(Target::Blocked).unwrap();
    assert_eq!(kept(&rig, d), 0);
    assert!(write(&rig, d, AT, 1).is_err());
    group.attach(Target::Domain(&other)).unwrap();
    translates(&rig, d, AT, two);
    group.set_ats(d, Ats::Off).unwrap();
    assert_eq!((kept(&rig, d), write(&rig, d, AT, 1)), (0, Err(Blocked::Disabled)));
    rig.reaches(d, AT, two);
    group.set_ats(d, Ats::Trusted).unwrap();
    translates(&rig, d, AT, two);
    rig.sound();
    given_back(group);
    assert_eq!((kept(&rig, d), write(&rig, d, AT, 1)), (0, Err(Blocked::Disabled)));
    // Trust is not for the next owner.
    let (group, _) = rig.claim(d);
    group.attach(Target::Domain(&other)).unwrap();
    assert_eq!(write(&rig, d, AT, 1), Err(Blocked::Disabled));
    drop((group, domain, other));
    rig.end();
}

fn pasids_are_emptied_each_and_all_at_the_end(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) || !profile.dt() {
        return;
    }
    let rig = plan(profile, mode).up();
    let d = CACHING[0];
    let (group, _) = rig.claim(d);
    let stages = mode.stages(profile);
    let (plain, first) = rig.domain_of(&group, stages[0], AT);
    let (shared, second) = rig.domain_of(&group, stages[stages.len() - 1], AT);
    group.attach(Target::Domain(&plain)).unwrap();
    for p in [5, 9] {
        group.attach_pasid(d, pasid(p), Target::Domain(&shared)).unwrap();
    }
    group.set_ats(d, Ats::Trusted).unwrap();
    let all = || {
        translates(&rig, d, AT, first);
        translates(&rig, (d, 5), AT, second);
        translates(&rig, (d, 9), AT, second);
    };
    all();
    unmap(&shared, AT, AT + 0xfff);
    assert_eq!([kept(&rig, d), kept(&rig, (d, 5)), kept(&rig, (d, 9))], [1, 0, 0]);
    map(&shared, AT, second, 0x1000);
    all();
    unmap(&plain, AT, AT + 0xfff);
    assert_eq!([kept(&rig, d), kept(&rig, (d, 5)), kept(&rig, (d, 9))], [0, 1, 1]);
    map(&plain, AT, first, 0x1000);
    all();
    group.detach_pasid(d, pasid(9)).unwrap();
    assert_eq!([kept(&rig, d), kept(&rig, (d, 5)), kept(&rig, (d, 9))], [1, 1, 0]);
    assert!(write(&rig, (d, 9), AT, 1).is_err());
    // One that comes while the cache is on.
    group.attach_pasid(d, pasid(9), Target::Domain(&plain)).unwrap();
    translates(&rig, (d, 9), AT, first);
    unmap(&plain, AT, AT + 0xfff);
    assert_eq!([kept(&rig, d), kept(&rig, (d, 5)), kept(&rig, (d, 9))], [0, 1, 0]);
    let wire = heard(&rig, || group.set_ats(d, Ats::Off).unwrap());
    assert_eq!(kept(&rig, (d, 5)), 0);
    // All PASIDs at once, where the device heeds that.
    let of_pasids: Vec<_> = wire.descriptors.iter().filter(|d| d[0] & 0xf == 8 && d[0] >> 9 & 7 == 0).collect();
    assert_eq!(of_pasids.iter().map(|d| d[1] & 1).collect::<Vec<_>>(), [1]);
    rig.sound();
    drop((group, plain, shared));
    rig.end();
}

fn a_flush_waits_for_devices_that_answer_late(profile: &Profile, mode: Mode) {
    if !profile.dt() {
        return;
    }
    let rig = plan(profile, mode).up();
    let domain;
    let (one, two) = (rig.page(), rig.page());
    let (first, _) = rig.claim(CACHING[0]);
    let (second, _) = rig.claim(CACHING[1]);
    domain = rig.domain(&first);
    for (group, d) in [(&first, CACHING[0]), (&second, CACHING[1])] {
        group.attach(Target::Domain(&domain)).unwrap();
        group.set_ats(d, Ats::Trusted).unwrap();
    }
    manner(&rig, CACHING[0], Answers::After(200_000));
    manner(&rig, CACHING[1], Answers::Within(300_000));
    for turn in 0..6 {
        let page = if turn % 2 == 0 { one } else { two };
        map(&domain, AT, page, 0x1000);
        for d in &CACHING[..2] {
            translates(&rig, *d, AT, page);
        }
        unmap(&domain, AT, AT + 0xfff);
        for d in &CACHING[..2] {
            assert_eq!(kept(&rig, *d), 0);
            assert!(write(&rig, *d, AT, 1).is_err());
        }
    }
    rig.sound();
    drop((first, second, domain));
    rig.end();
}

/// A unit that gives devices up soon.
fn hasty(rig: &Rig, mode: Mode) {
    rig.host.machine().unit_mut(0).unwrap().set_pace(Pace { timeout: 100_000, ..mode.pace() });
}

fn both(rig: &Rig) -> (Group<Host>, Group<Host>, Domain<Host>, std::sync::Arc<crate::rig::Ear>) {
    let (first, ear) = rig.claim(CACHING[0]);
    let (second, _) = rig.claim(CACHING[1]);
    let domain = rig.domain(&first);
    for (group, d) in [(&first, CACHING[0]), (&second, CACHING[1])] {
        group.attach(Target::Domain(&domain)).unwrap();
        group.set_ats(d, Ats::Trusted).unwrap();
    }
    (first, second, domain, ear)
}

fn a_device_that_never_answers_is_isolated_and_everyone_else_goes_on(profile: &Profile, mode: Mode) {
    if !profile.dt() {
        return;
    }
    let rig = plan(profile, mode).up();
    hasty(&rig, mode);
    let (first, second, domain, ear) = both(&rig);
    let (one, two) = (rig.page(), rig.page());
    map(&domain, AT, one, 0x1000);
    translates(&rig, CACHING[0], AT, one);
    translates(&rig, CACHING[1], AT, one);
    manner(&rig, CACHING[0], Answers::Never);
    let vtd::NotFlushed { error, still } = domain.unmap(range(AT, AT + 0xfff)).unwrap().flush().unwrap_err();
    assert_eq!((error.kind, error.device), (ErrorKind::DeviceTimeout, Some(CACHING[0])));
    assert_eq!(kept(&rig, CACHING[1]), 0, "whoever answers has forgotten it");
    rig.settle();
    assert_eq!(ear.isolated(), [CACHING[0]]);
    assert_eq!(first.info(CACHING[0]).unwrap().apart, Some(State::Quarantined));
    assert_eq!(write(&rig, CACHING[0], AT, 1), Err(Blocked::Disabled), "its cache is off");
    rig.blocked(CACHING[0], AT, Ask::Write, 0x02, &ear);
    // What was owed because of it can be had now, and the others go on.
    still.flush().unwrap();
    map(&domain, AT, two, 0x1000);
    translates(&rig, CACHING[1], AT, two);
    let again = first.attach(Target::Domain(&domain)).unwrap_err();
    assert_eq!((again.kind, again.device), (ErrorKind::State(State::Quarantined), Some(CACHING[0])));
    assert_eq!(first.set_ats(CACHING[0], Ats::Trusted).unwrap_err().kind, ErrorKind::State(State::Quarantined));
    rig.sound();
    crate::reset::by_function(&rig, &first, CACHING[0]);
    manner(&rig, CACHING[0], Answers::AtOnce);
    assert_eq!(first.info(CACHING[0]).unwrap().apart, None);
    translates(&rig, CACHING[0], AT, two);
    rig.reaches(CACHING[0], AT, two);
    unmap(&domain, AT, AT + 0xfff);
    assert_eq!(kept(&rig, CACHING[0]) + kept(&rig, CACHING[1]), 0);
    rig.sound();
    drop((first, second, domain));
    rig.end();
}

fn a_device_that_never_answers_its_own_groups_changes_leaves_it_blocked(profile: &Profile, mode: Mode) {
    if !profile.dt() {
        return;
    }
    for act in 0..4 {
        let rig = plan(profile, mode).up();
        hasty(&rig, mode);
        let (first, second, domain, ear) = both(&rig);
        let (other, page) = (rig.domain(&first), rig.page());
        map(&domain, AT, page, 0x1000);
        translates(&rig, CACHING[0], AT, page);
        manner(&rig, CACHING[0], Answers::Never);
        let group = match act {
            0 => {
                assert_eq!(first.attach(Target::Domain(&other)).unwrap_err().kind, ErrorKind::DeviceTimeout);
                Some(first)
            }
            1 => {
                assert_eq!(first.attach(Target::Blocked).unwrap_err().kind, ErrorKind::DeviceTimeout);
                Some(first)
            }
            2 => {
                assert_eq!(first.set_ats(CACHING[0], Ats::Off).unwrap_err().kind, ErrorKind::DeviceTimeout);
                Some(first)
            }
            _ => {
                given_back(first);
                None
            }
        };
        assert_eq!(rig.write(CACHING[0], AT, 1).map_err(drop), Err(()));
        assert_eq!(write(&rig, CACHING[0], AT, 1), Err(Blocked::Disabled));
        rig.settle();
        let told = if group.is_some() { vec![CACHING[0]] } else { vec![] };
        assert_eq!(ear.isolated(), told);
        // Its domain, and the other device in it, are rid of it.
        translates(&rig, CACHING[1], AT, page);
        unmap(&domain, AT, AT + 0xfff);
        rig.sound();
        drop((group, second, domain, other));
        rig.end();
    }
}

fn caches_stay_off_where_the_way_cannot_be_relied_on(profile: &Profile, mode: Mode) {
    if !profile.dt() {
        return;
    }
    let port = |device: u8, bus: u8| {
        let form = Form::RootPort { secondary: bus, subordinate: bus };
        (dev(device), Function::bridge(dev(device).source.0, 0, form).with_acs(0x1d))
    };
    let behind = |bus: u8| DeviceId::new(0, bus, 0, 0);
    let endpoint = |bus: u8| (behind(bus), caching(behind(bus)).of(Form::Endpoint));
    let unaligned = vtd_emu::Ats { depth: 0, aligned: false, global: true };
    let accelerator = Function { vendor: 0x8086, device: 0x4941, ..caching(dev(0x15)) };
    let mut plan = plan(profile, mode);
    plan.more.extend([port(0x13, 8), endpoint(8), port(0x14, 9), endpoint(9)]);
    plan.more.extend([(dev(0x15), accelerator), (dev(0x16), Function { ats: Some(unaligned), ..caching(dev(0x16)) })]);
    plan.ports.push(dev(0x13));
    let required = 1 << 4;
    plan.properties.push((CACHING[2], required));
    let rig = plan.up();
    let legacy = !mode.scalable(profile);
    let cases = [
        (behind(8), None),
        (behind(9), Some(NoAts::Port)),
        (dev(3), Some(NoAts::Capability)),
        (dev(0x15), Some(NoAts::Erratum)),
        (dev(0x16), Some(NoAts::Unaligned)),
        (CACHING[2], legacy.then_some(NoAts::ByHardware)),
    ];
    for (d, why) in cases {
        let (group, domain, _) = rig.attached(d);
        let page = rig.page();
        map(&domain, AT, page, 0x1000);
        assert_eq!(group.info(d).unwrap().ats, why.map_or(Ok(()), Err), "{d}");
        let outcome = group.set_ats(d, Ats::Trusted);
        match why {
            Some(why) => {
                let e = outcome.unwrap_err();
                assert_eq!((e.kind, e.device), (ErrorKind::Unsupported(Need::Ats(why)), Some(d)));
                let pages = group.info(d).unwrap().page_requests;
                assert!(pages.is_err(), "no page requests without it");
                if why != NoAts::Capability && !legacy && profile.prs() {
                    assert_eq!(pages, Err(Need::Ats(why)));
                }
            }
            None => {
                assert_eq!(outcome, Ok(()));
                translates(&rig, d, AT, page);
            }
        }
        rig.reaches(d, AT, page);
        drop((group, domain));
    }
    rig.end();
}

/// Source id, PFSID and MIP of the invalidations of device TLBs.
fn throttles(wire: &Wire) -> Vec<(u16, u16, u8)> {
    let of =
        |d: &[u64; 2]| ((d[0] >> 32) as u16, (d[0] >> 12 & 0xf | d[0] >> 48 & 0xfff0) as u16, (d[0] >> 16 & 31) as u8);
    let mut all: Vec<_> = wire.descriptors.iter().filter(|d| d[0] & 0xf == 3 && d[0] >> 9 & 7 == 0).map(of).collect();
    all.dedup();
    all
}

/// S0-36, S0-37, S0-38, X-12: the fields of both descriptors, of a physical function and a virtual one, and zero where the
/// unit does not take them.
fn invalidations_are_throttled_by_the_physical_functions_queue(profile: &Profile, mode: Mode) {
    if !profile.dt() {
        return;
    }
    let (physical, one, two) = (dev(0x18), dev(0x19), DeviceId::new(0, 0, 0x19, 2));
    let virtuals = Virtuals { number: 2, first: 8, stride: 2, device: 0x10ed };
    let depth = |f: Function, depth| Function { ats: Some(vtd_emu::Ats { depth, aligned: true, global: false }), ..f };
    let mut plan = plan(profile, mode);
    plan.more.push((physical, depth(Function::new(physical.source.0, 0).with_virtuals(virtuals), 7)));
    for d in [one, two] {
        plan.more.push((d, depth(Function::new(d.source.0, 0).virtual_of(physical.source.0).with_pasid(8), 0)));
    }
    let rig = plan.up();
    // Firmware left a smallest translation unit there, which is for the virtual functions too.
    let at = 0x150;
    let control = |v: Option<u32>| {
        let mut m = rig.host.machine();
        let at =
            (0x100..0x200).step_by(16).find(|at| m.config_read(physical.source.0, *at) & 0xffff == 0x0f).unwrap_or(at)
                + 4;
        if let Some(v) = v {
            m.config_write(physical.source.0, at, Size::Double, v);
        }
        m.config_read(physical.source.0, at) >> 16
    };
    control(Some(3 << 16));
    let cases = [(CACHING[0], CACHING[0], 0), (one, physical, 7), (two, physical, 7), (physical, physical, 7)];
    for (d, queue, mip) in cases {
        let (group, domain, _) = rig.attached(d);
        assert_eq!(group.info(d).unwrap().physical, Some(physical).filter(|p| *p != d && d != CACHING[0]));
        let page = rig.page();
        map(&domain, AT, page, 0x1000);
        group.set_ats(d, Ats::Trusted).unwrap();
        translates(&rig, d, AT, page);
        if d == one {
            assert_eq!(control(None), 0, "a page, and still off");
        }
        let expected = if profile.dit() { (d.source.0, queue.source.0, mip) } else { (d.source.0, 0, 0) };
        let wire = heard(&rig, || unmap(&domain, AT, AT + 0xfff));
        assert_eq!(throttles(&wire), [expected]);
        let wire = heard(&rig, || group.set_ats(d, Ats::Off).unwrap());
        assert_eq!(throttles(&wire), [expected]);
        assert_eq!(kept(&rig, d), 0);
        drop((group, domain));
    }
    rig.end();
}

fn caches_that_were_on_are_off_and_empty_for_the_owner(profile: &Profile, mode: Mode) {
    if !profile.dt() {
        return;
    }
    let rig = plan(profile, mode).up();
    let d = CACHING[0];
    let find = |m: &vtd_emu::Machine<crate::arena::Physical>| {
        (0x100..0x200).step_by(16).find(|at| m.config_read(d.source.0, *at) & 0xffff == 0x0f).unwrap()
    };
    {
        let mut m = rig.host.machine();
        let at = find(&m) + 4;
        m.config_write(d.source.0, at, Size::Double, 0x8002 << 16);
    }
    let wire = heard(&rig, || drop(rig.claim(d)));
    assert_eq!(throttles(&wire).len(), 1, "it was asked to forget everything");
    let m = rig.host.machine();
    assert_eq!(m.config_read(d.source.0, find(&m) + 4) >> 31, 0);
    drop(m);
    let (group, domain, _) = rig.attached(d);
    let page = rig.page();
    domain.map(Iova::at(AT), hpa(page), 0x1000, vtd::Access::all()).unwrap();
    group.set_ats(d, Ats::Trusted).unwrap();
    translates(&rig, d, AT, page);
    drop((group, domain));
    rig.end();
}

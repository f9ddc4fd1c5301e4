//! Guests' first-stage tables over a domain: built by hand in the guest's memory, walked by the unit through both stages.

use vtd::explain::{Attachment, Attempt, Verdict};
use vtd::{
    Access, Ats, Change, Domain, ErrorKind, Field, Gpa, Iova, MapWhy, Need, Stage, Stage1, Stage1Spec, Strict, Target,
};
use vtd_emu::{Dma, Profile};

use crate::ats::{CACHING, kept, plan, translates, write};
use crate::flush::heard;
use crate::host::Host;
use crate::pasids::{attach, pasid};
use crate::probes::{Seen, in_order};
use crate::rig::{AT, Ask, Mode, Plan, Rig, Who, dev, hpa, map, range, unmap};

crate::stories!(
    both_stages_translate_requests_with_pasid_and_without,
    what_the_memory_below_loses_every_guest_over_it_loses,
    a_guest_takes_anothers_place_and_is_replaced,
    devices_caches_lose_what_either_stage_loses,
    supervisors_are_served_where_the_guest_says_so_and_nowhere_after,
    dirty_pages_are_those_that_guests_devices_wrote,
    what_a_guest_may_not_say_is_refused_by_name,
    read_only_memory_and_guests_keep_apart_where_an_erratum_wants_it,
    ids_and_memory_of_guests_come_back,
    a_guest_whose_last_flush_failed_is_let_go_with_the_machine,
);

fn nests(profile: &Profile, mode: Mode) -> bool {
    // One form of the stories shows it.
    mode.scalable(profile) && profile.nest() && mode.stage == Stage::Second
}

/// Where the guest has its memory.
const GUEST: u64 = 0x80_0000;
const PAGES: u64 = 32;
/// Present, for reads and writes of users.
const ALL: u64 = 7;

/// A guest's memory, and tables in it of four or five levels, each of a page.
struct Memory {
    domain: Domain<Host>,
    at: u64,
}

impl Memory {
    fn new(rig: &Rig, domain: Domain<Host>) -> Self {
        let at = rig.memory(PAGES.trailing_zeros() as u8);
        map(&domain, GUEST, at, PAGES * 0x1000);
        Memory { domain, at }
    }

    /// Page `n` of it, as the machine knows it.
    fn hpa(&self, n: u64) -> u64 {
        self.at + n * 0x1000
    }

    /// The guest stores the entry for `address` in the table of `level` in page `n`.
    fn set(&self, rig: &Rig, n: u64, level: u32, address: u64, entry: u64) {
        rig.host.machine().store(self.hpa(n) + (address >> (3 + 9 * level) & 511) * 8, entry).expect("memory");
    }

    /// Tables in the pages from `first` on, the top one of `levels`, that lead `address` to page `to`.
    fn lead(&self, rig: &Rig, first: u64, levels: u32, address: u64, to: u64) {
        for level in (1..=levels).rev() {
            let n = first + u64::from(levels - level);
            let next = if level == 1 { gpa(to) } else { gpa(n + 1) };
            self.set(rig, n, level, address, next | ALL);
        }
    }

    fn over(&self, rig: &Rig, first: u64) -> Stage1<Host> {
        rig.vtd.stage1(&self.domain, &spec(first)).unwrap()
    }
}

/// Page `n` of the guest's memory, as the guest knows it.
fn gpa(n: u64) -> u64 {
    GUEST + n * 0x1000
}

fn spec(first: u64) -> Stage1Spec {
    Stage1Spec::new(Gpa::new(gpa(first)).unwrap())
}

fn memory(rig: &Rig, group: &vtd::Group<Host>) -> Memory {
    Memory::new(rig, rig.vtd.domain(&rig.spec_of(group, Stage::Second)).unwrap())
}

fn page(at: u64) -> vtd::Range {
    range(at, at | 0xfff)
}

/// What is in doubt holds the guest's tables, and what these lie over.
fn a_guest_whose_last_flush_failed_is_let_go_with_the_machine(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, _) = rig.claim(dev(3));
    let memory = memory(&rig, &group);
    memory.lead(&rig, 0, 4, AT, 20);
    let guest = memory.over(&rig, 0);
    group.attach(Target::Stage1(&guest)).unwrap();
    rig.reaches(dev(3), AT, memory.hpa(20));
    let stuck = |on: bool| rig.host.machine().unit_mut(0).unwrap().adversary().stuck_queue = on;
    stuck(true);
    drop(group);
    stuck(false);
    rig.host.machine().step(2000);
    assert!(rig.read(dev(3), AT).is_err());
    drop((guest, memory));
    rig.end();
}

fn both_stages_translate_requests_with_pasid_and_without(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, ear) = rig.claim(dev(3));
    let memory = memory(&rig, &group);
    // Two processes of the guest. The first has a page in the upper half too.
    let high = AT | 0xffff_8000_0000_0000;
    memory.lead(&rig, 0, 4, AT, 20);
    memory.set(&rig, 0, 4, high, gpa(1) | ALL);
    memory.lead(&rig, 4, 4, AT, 21);
    let (one, two) = (memory.over(&rig, 0), memory.over(&rig, 4));
    assert_eq!(group.attach(Target::Stage1(&one)), Ok(Change::WithGap));
    rig.host.note(0, "nested tables");
    rig.reaches(dev(3), AT, memory.hpa(20));
    rig.reaches(dev(3), high, memory.hpa(20));
    rig.blocked(dev(3), AT + 0x1000, Ask::Read, 0x06, &ear);
    let told = rig.vtd.explain(dev(3), None, Iova::at(AT), Attempt::Read).unwrap();
    assert_eq!((told.attached, told.walk.verdict), (Some(Attachment::Stage1), Verdict::Unknown), "{told}");
    let tagged = mode.tags(profile);
    if tagged {
        group.attach_pasid(dev(3), pasid(5), Target::Stage1(&two)).unwrap();
        group.attach_pasid(dev(3), pasid(9), Target::Stage1(&one)).unwrap();
        rig.reaches((dev(3), 5), AT, memory.hpa(21));
        rig.reaches((dev(3), 9), AT, memory.hpa(20));
    }
    // The guest moves a page of the first, takes it away, takes a table away, and puts it back.
    let others = || {
        if tagged {
            rig.reaches((dev(3), 5), AT, memory.hpa(21));
        }
    };
    memory.set(&rig, 3, 1, AT, gpa(22) | ALL);
    one.invalidate_all().unwrap();
    rig.reaches(dev(3), AT, memory.hpa(22));
    rig.reaches(dev(3), high, memory.hpa(22));
    others();
    memory.set(&rig, 3, 1, AT, 0);
    let wire = heard(&rig, || one.invalidate(page(AT), true).unwrap());
    assert_eq!(wire.iotlb(), if tagged { 2 } else { 1 }, "by page, of each PASID: {wire:x?}");
    assert!(wire.pages().iter().all(|p| *p == (AT, 0, true)), "{wire:x?}");
    one.invalidate(page(high), true).unwrap();
    rig.blocked(dev(3), AT, Ask::Write, 0x05, &ear);
    others();
    memory.set(&rig, 3, 1, AT, gpa(20) | ALL);
    rig.reaches(dev(3), AT, memory.hpa(20));
    memory.set(&rig, 1, 3, AT, 0);
    one.invalidate_all().unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
    rig.blocked(dev(3), high, Ask::Read, 0x06, &ear);
    if tagged {
        rig.blocked((dev(3), 9), AT, Ask::Read, 0x06, &ear);
    }
    others();
    // What is not the guest's memory is out of reach, whatever its tables say.
    memory.set(&rig, 1, 3, AT, gpa(2) | ALL);
    memory.set(&rig, 3, 1, AT, memory.hpa(20) | ALL);
    rig.refused(dev(3), AT, Ask::Write);
    drop(one);
    group.attach(Target::Blocked).unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x02, &ear);
    others();
    drop((group, two, memory));
    rig.end();
}

fn what_the_memory_below_loses_every_guest_over_it_loses(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (first, _) = rig.claim(dev(3));
    let (second, _) = rig.claim(dev(5));
    let (third, _) = rig.claim(dev(6));
    let memory = memory(&rig, &first);
    memory.lead(&rig, 0, 4, AT, 20);
    memory.lead(&rig, 4, 4, AT, 20);
    let (one, two) = (memory.over(&rig, 0), memory.over(&rig, 4));
    first.attach(Target::Stage1(&one)).unwrap();
    second.attach(Target::Stage1(&two)).unwrap();
    third.attach(Target::Domain(&memory.domain)).unwrap();
    let all = || {
        rig.reaches(dev(3), AT, memory.hpa(20));
        rig.reaches(dev(5), AT, memory.hpa(20));
        rig.reaches(dev(6), gpa(20), memory.hpa(20));
    };
    all();
    // The page, with neighbours, so that no table goes; then each of the guests' tables.
    let wire = heard(&rig, || unmap(&memory.domain, gpa(20), gpa(20) | 0xfff));
    assert_eq!(wire.iotlb(), 3, "under the domain's own id and each guest's: {wire:x?}");
    for (d, at) in [(dev(3), AT), (dev(5), AT), (dev(6), gpa(20))] {
        rig.refused(d, at, Ask::Write);
        rig.refused(d, at, Ask::Read);
    }
    map(&memory.domain, gpa(20), memory.hpa(20), 0x1000);
    all();
    for n in [0, 1, 2, 3] {
        unmap(&memory.domain, gpa(n), gpa(n) | 0xfff);
        rig.refused(dev(3), AT, Ask::Read);
        rig.reaches(dev(5), AT, memory.hpa(20));
        map(&memory.domain, gpa(n), memory.hpa(n), 0x1000);
        all();
    }
    // All of it at once, tables and all.
    unmap(&memory.domain, GUEST, GUEST + PAGES * 0x1000 - 1);
    for (d, at) in [(dev(3), AT), (dev(5), AT), (dev(6), gpa(20))] {
        rig.refused(d, at, Ask::Write);
    }
    map(&memory.domain, GUEST, memory.at, PAGES * 0x1000);
    all();
    // Who has left is not asked any more, and nobody else has its id.
    first.attach(Target::Blocked).unwrap();
    let wire = heard(&rig, || unmap(&memory.domain, gpa(20), gpa(20) | 0xfff));
    assert_eq!(wire.iotlb(), 2, "{wire:x?}");
    rig.refused(dev(5), AT, Ask::Write);
    rig.refused(dev(6), gpa(20), Ask::Write);
    drop((first, second, third, one, two, memory));
    rig.end();
}

/// Something to attach to, and where it leads.
enum To {
    Blocked,
    Identity,
    Space(Domain<Host>, u64),
    Guest(Stage1<Host>, u64),
}

impl To {
    fn target(&self) -> Target<'_, Host> {
        match self {
            To::Blocked => Target::Blocked,
            To::Identity => Target::Identity,
            To::Space(domain, _) => Target::Domain(domain),
            To::Guest(guest, _) => Target::Stage1(guest),
        }
    }

    fn seen(&self, home: u64) -> Seen {
        match self {
            To::Blocked => Seen::Blocked(0x02),
            To::Identity => Seen::Memory(home),
            To::Space(_, page) | To::Guest(_, page) => Seen::Memory(*page),
        }
    }

    /// To memory as it is, and to second-stage tables, there is always a way in one store.
    fn at_once(&self) -> bool {
        match self {
            To::Space(domain, _) => domain.spec().stage == Stage::Second,
            To::Identity => true,
            _ => false,
        }
    }
}

fn a_guest_takes_anothers_place_and_is_replaced(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, _) = rig.claim(dev(3));
    let home = rig.page();
    let (here, there) = (memory(&rig, &group), memory(&rig, &group));
    let mut all = vec![To::Blocked, To::Identity];
    for stage in mode.stages(profile) {
        let (domain, page) = rig.domain_of(&group, stage, home);
        all.push(To::Space(domain, page));
    }
    // Two guests' tables over one memory, and one at the same address of another.
    for (memory, first, page) in [(&here, 0, 20), (&here, 4, 21), (&there, 0, 22)] {
        memory.lead(&rig, first, 4, home, page);
        all.push(To::Guest(memory.over(&rig, first), memory.hpa(page)));
    }
    let guests = all.len() - 3;
    for p in [0, 5].into_iter().filter(|p| *p == 0 || mode.tags(profile)) {
        let who = Who::from((dev(3), p));
        rig.probes.clear();
        rig.probes.add(0, who, home);
        attach(&group, who, all[2].target()).unwrap();
        let pairs = (0..all.len()).flat_map(|a| (0..all.len()).map(move |b| (a, b)));
        for (from, to) in pairs.filter(|(a, b)| *a >= guests || *b >= guests) {
            let (old, new) = (&all[from], &all[to]);
            attach(&group, who, Target::Blocked).unwrap();
            attach(&group, who, old.target()).unwrap();
            if let Seen::Memory(page) = old.seen(home) {
                rig.reaches(who, home, page);
            }
            rig.probes.take();
            let change = rig.probes.looking(|| attach(&group, who, new.target()).unwrap());
            let states = [old.seen(home), Seen::Blocked(0x02), new.seen(home)];
            let (_, seen) = rig.probes.take().pop().unwrap();
            in_order(&seen, &states, &format!("{who:?} from {from} to {to}"));
            let gap = seen.contains(&Seen::Blocked(0x02));
            let open = !matches!(old, To::Blocked) && !matches!(new, To::Blocked);
            match change {
                Change::Seamless => assert!(open && !gap, "from {from} to {to}: {seen:x?}"),
                Change::WithGap => assert!(!open || !new.at_once(), "from {from} to {to}"),
            }
            match new.seen(home) {
                Seen::Memory(page) => rig.reaches(who, home, page),
                Seen::Blocked(_) => assert_eq!(rig.refused(who, home, Ask::Write), 0x02),
            }
        }
        attach(&group, who, Target::Blocked).unwrap();
    }
    rig.probes.clear();
    drop((group, all, here, there));
    rig.end();
}

fn devices_caches_lose_what_either_stage_loses(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) || !profile.dt() {
        return;
    }
    let rig = plan(profile, mode).up();
    let d = CACHING[0];
    let (group, _) = rig.claim(d);
    let memory = memory(&rig, &group);
    for first in [0, 4] {
        memory.lead(&rig, first, 4, AT, 20);
        memory.set(&rig, first + 3, 1, AT + 0x1000, gpa(21) | ALL);
    }
    let (one, two) = (memory.over(&rig, 0), memory.over(&rig, 4));
    group.attach(Target::Stage1(&one)).unwrap();
    group.set_ats(d, Ats::Trusted).unwrap();
    let mut who = vec![Who::from(d)];
    if mode.tags(profile) {
        // It comes while the cache is on.
        group.attach_pasid(d, pasid(5), Target::Stage1(&two)).unwrap();
        who.push(Who::from((d, 5)));
    }
    let all = || {
        for who in &who {
            translates(&rig, *who, AT, memory.hpa(20));
            translates(&rig, *who, AT + 0x1000, memory.hpa(21));
        }
    };
    all();
    // Of the guest's own change the device loses the page alone.
    memory.set(&rig, 3, 1, AT, 0);
    one.invalidate(page(AT), true).unwrap();
    assert_eq!(kept(&rig, d), 1);
    assert!(write(&rig, d, AT, 1).is_err());
    memory.set(&rig, 3, 1, AT, gpa(20) | ALL);
    all();
    // Of what the memory below loses nobody knows the device's addresses.
    unmap(&memory.domain, gpa(20), gpa(20) | 0xfff);
    for who in &who {
        assert_eq!(kept(&rig, *who), 0, "{who:?}");
        assert!(write(&rig, *who, AT, 1).is_err());
        translates(&rig, *who, AT + 0x1000, memory.hpa(21));
    }
    map(&memory.domain, gpa(20), memory.hpa(20), 0x1000);
    all();
    group.attach(Target::Domain(&memory.domain)).unwrap();
    assert_eq!(kept(&rig, d), 0);
    translates(&rig, d, gpa(20), memory.hpa(20));
    group.attach(Target::Stage1(&one)).unwrap();
    all();
    group.set_ats(d, Ats::Off).unwrap();
    assert_eq!(kept(&rig, d), 0);
    // With the cache off nobody is asked.
    let wire = heard(&rig, || unmap(&memory.domain, gpa(20), gpa(20) | 0xfff));
    assert!(wire.descriptors.iter().all(|d| [2, 5].contains(&(d[0] & 0xf))), "{wire:x?}");
    rig.sound();
    drop((group, one, two, memory));
    rig.end();
}

fn supervisors_are_served_where_the_guest_says_so_and_nowhere_after(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) || !profile.srs() || !mode.tags(profile) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, _) = rig.claim(dev(3));
    let memory = memory(&rig, &group);
    memory.lead(&rig, 0, 4, AT, 20);
    memory.lead(&rig, 4, 4, AT, 20);
    let mut kernel = spec(0);
    (kernel.supervisor, kernel.write_protect) = (true, true);
    let kernel = rig.vtd.stage1(&memory.domain, &kernel).unwrap();
    let user = memory.over(&rig, 4);
    let (domain, page) = rig.domain_of(&group, Stage::Second, AT);
    let privileged = || {
        let dma = Dma { pasid: Some(5), privileged: true, ..Dma::at(AT) };
        rig.host.machine().dma_read(rig.function(dev(3)), &dma, &mut [0; 8]).is_ok()
    };
    let who = Who::from((dev(3), 5));
    for (target, served, page) in [
        (Target::Stage1(&kernel), true, memory.hpa(20)),
        (Target::Domain(&domain), false, page),
        (Target::Stage1(&kernel), true, memory.hpa(20)),
        (Target::Stage1(&user), false, memory.hpa(20)),
    ] {
        attach(&group, who, target).unwrap();
        rig.reaches(who, AT, page);
        assert_eq!(privileged(), served);
    }
    drop((group, kernel, user, domain, memory));
    rig.end();
}

fn dirty_pages_are_those_that_guests_devices_wrote(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) || !profile.ssads() {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, _) = rig.claim(dev(3));
    let mut spec = rig.spec_of(&group, Stage::Second);
    (spec.dirty, spec.sizes) = (true, vtd::PageSizes::empty());
    let memory = Memory::new(&rig, rig.vtd.domain::<Strict>(&spec).unwrap());
    memory.lead(&rig, 0, 4, AT, 20);
    memory.set(&rig, 3, 1, AT + 0x1000, gpa(21) | ALL);
    let guest = memory.over(&rig, 0);
    group.attach(Target::Stage1(&guest)).unwrap();
    let whole = range(GUEST, GUEST + PAGES * 0x1000 - 1);
    for (at, n) in [(AT, 20), (AT + 0x1000, 21), (AT, 20)] {
        rig.write(dev(3), at, 1).unwrap();
        let mut bits = [0];
        memory.domain.read_and_clear_dirty(whole, &mut bits).unwrap();
        // Tables that hardware has marked may be among them.
        assert_eq!(bits[0] >> 4, 1 << (n - 4), "{bits:x?}");
    }
    drop((group, guest, memory));
    rig.end();
}

fn what_a_guest_may_not_say_is_refused_by_name(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (group, _) = rig.claim(dev(3));
    let refuse = |memory: &Memory, spec: &Stage1Spec| {
        let guest = match rig.vtd.stage1(&memory.domain, spec) {
            Ok(guest) => guest,
            Err(e) => return (e.kind, false),
        };
        let e = group.attach(Target::Stage1(&guest)).unwrap_err();
        assert!(e.unit.is_some(), "{e}");
        assert!(rig.read(dev(3), AT).is_err());
        (e.kind, true)
    };
    let unsupported = |need| (ErrorKind::Unsupported(need), true);
    if mode.stage == Stage::First {
        let domain = rig.domain(&group);
        let memory = Memory { domain, at: 0 };
        assert_eq!(refuse(&memory, &spec(0)), (ErrorKind::Unsupported(Need::SecondStage), false));
        drop((group, memory));
        return rig.end();
    }
    let memory = memory(&rig, &group);
    if !nests(profile, mode) {
        assert_eq!(refuse(&memory, &spec(0)), unsupported(Need::Nesting));
        drop((group, memory));
        return rig.end();
    }
    let with = |change: fn(&mut Stage1Spec)| {
        let mut spec = spec(0);
        change(&mut spec);
        spec
    };
    for (spec, there, need) in [
        (with(|s| s.five_levels = true), profile.fs5lp(), Need::Width),
        (with(|s| s.supervisor = true), profile.srs(), Need::Supervisor),
        (with(|s| s.extended_accessed = true), profile.eafs(), Need::ExtendedAccessed),
    ] {
        if !there {
            assert_eq!(refuse(&memory, &spec), unsupported(need));
            continue;
        }
        // Where the unit has it, it is no malformed entry.
        let levels = if spec.five_levels { 5 } else { 4 };
        memory.lead(&rig, 0, levels, AT, 20);
        let guest = rig.vtd.stage1(&memory.domain, &spec).unwrap();
        group.attach(Target::Stage1(&guest)).unwrap();
        rig.reaches(dev(3), AT, memory.hpa(20));
        group.attach(Target::Blocked).unwrap();
    }
    let at = |root| Stage1Spec::new(Gpa::new(root).unwrap());
    let (bits, mgaw) = (u64::from(memory.domain.spec().levels) * 9 + 12, profile.mgaw() + 1);
    for root in [GUEST + 8, 1 << bits] {
        assert_eq!(refuse(&memory, &at(root)), (ErrorKind::Invalid(Field::Address), false));
    }
    // Beyond what the unit takes, where that is less than what the levels reach.
    if mgaw < bits {
        assert_eq!(refuse(&memory, &at(1 << mgaw)), (ErrorKind::Invalid(Field::Address), true));
    }
    let last = rig.vtd.stage1(&memory.domain, &at((1 << mgaw.min(bits)) - 0x1000)).unwrap();
    group.attach(Target::Stage1(&last)).unwrap();
    // Nothing is there: a fault of the walk, of no entry.
    assert!(![0x5a, 0x5b].contains(&rig.refused(dev(3), AT, Ask::Read)));
    group.attach(Target::Blocked).unwrap();
    // One table is of one form.
    let plain = memory.over(&rig, 0);
    for other in [with(|s| s.five_levels = true), with(|s| s.extended_accessed = true)] {
        assert_eq!(refuse(&memory, &other), (ErrorKind::Invalid(Field::Format), false));
    }
    drop(plain);
    rig.vtd.stage1(&memory.domain, &with(|s| s.five_levels = true)).unwrap();
    // Another driver's memory.
    let (other, _) = rig.claim(dev(5));
    let successor = rig.successor();
    assert_eq!(successor.stage1(&memory.domain, &spec(0)).unwrap_err().kind, ErrorKind::Invalid(Field::Domain));
    rig.host.handler(Some(rig.vtd.clone()));
    drop((successor, group, other, last, memory));
    rig.end();
}

fn read_only_memory_and_guests_keep_apart_where_an_erratum_wants_it(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let (group, _) = rig.claim(dev(3));
    let memory = memory(&rig, &group);
    memory.lead(&rig, 0, 4, AT, 20);
    let (spare, extra) = (gpa(PAGES), rig.page());
    let guest = memory.over(&rig, 0);
    group.attach(Target::Stage1(&guest)).unwrap();
    let read_only = || {
        memory.domain.map(Iova::at(spare), hpa(extra), 0x1000, Access::READ).map_err(|e| e.why)?;
        memory.domain.protect(page(gpa(20)), Access::READ).map_err(|e| e.why).map(|u| {
            u.flush().unwrap();
        })
    };
    if !profile.erratum_772415 {
        read_only().unwrap();
        assert!(rig.read(dev(3), AT).is_ok());
        rig.refused(dev(3), AT, Ask::Write);
        drop((memory.over(&rig, 4), guest));
    } else {
        assert_eq!(read_only(), Err(MapWhy::ReadOnlyUnderNesting));
        let e = memory.domain.protect(page(gpa(20)), Access::READ).unwrap_err();
        assert_eq!((e.why, e.at), (MapWhy::ReadOnlyUnderNesting, Iova::at(gpa(20))));
        rig.reaches(dev(3), AT, memory.hpa(20));
        // When the last guest has gone it may have some, and takes no guests from then on.
        group.attach(Target::Blocked).unwrap();
        drop(guest);
        read_only().unwrap();
        let e = rig.vtd.stage1(&memory.domain, &spec(0)).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Invalid(Field::ReadOnly));
    }
    group.attach(Target::Blocked).unwrap();
    drop((group, memory));
    rig.end();
}

fn ids_and_memory_of_guests_come_back(profile: &Profile, mode: Mode) {
    if !nests(profile, mode) {
        return;
    }
    // Sixteen ids, of which two are never given out.
    let few = Profile { cap: profile.cap & !7, ..profile.clone() };
    let rig = Plan::new(&few, mode).up();
    let (first, _) = rig.claim(dev(3));
    let (second, _) = rig.claim(dev(5));
    let memory = memory(&rig, &first);
    memory.lead(&rig, 0, 4, AT, 20);
    second.attach(Target::Domain(&memory.domain)).unwrap();
    for _ in 0..20 {
        let guest = memory.over(&rig, 0);
        first.attach(Target::Stage1(&guest)).unwrap();
        rig.reaches(dev(3), AT, memory.hpa(20));
    }
    // The last attachment keeps both.
    rig.reaches(dev(3), AT, memory.hpa(20));
    let mut kept = Vec::new();
    if mode.tags(profile) {
        let e = loop {
            let guest = memory.over(&rig, 0);
            match first.attach_pasid(dev(3), pasid(1 + kept.len() as u32), Target::Stage1(&guest)) {
                Ok(_) => kept.push(guest),
                Err(e) => break e,
            }
        };
        assert_eq!((e.kind, kept.len()), (ErrorKind::OutOfDomainIds, 12));
        for n in 1..=12 {
            rig.reaches((dev(3), n), AT, memory.hpa(20));
        }
        unmap(&memory.domain, gpa(20), gpa(20) | 0xfff);
        for n in 1..=12 {
            rig.refused((dev(3), n), AT, Ask::Write);
        }
    }
    drop((kept, memory));
    first.release().map_err(|(_, e)| e).unwrap();
    second.release().map_err(|(_, e)| e).unwrap();
    rig.end();
}

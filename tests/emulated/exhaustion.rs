//! Memory ends: each allocation in turn, of frames and of the heap, once and for good, until a run has enough. Every call
//! answers, and afterwards frames, bytes of the heap, domain ids and present entries are what they were before.

use vtd::{Access, Domain, Error, ErrorKind, Gpa, Iova, MapError, MapWhy, Owner, Stage, Stage1Spec, TakeOver, Target};
use vtd_emu::{Memory, Profile};

use crate::heap;
use crate::host::{Ends, Host};
use crate::pasids::pasid;
use crate::rig::{AT, Mode, Plan, Rig, dev, hpa, map, range};

crate::stories!(
    memory_may_end_at_every_step_of_bring_up,
    memory_may_end_at_every_step_of_a_life_on_fresh_tables,
    memory_may_end_at_every_step_of_a_life_on_tables_that_are_there,
);

/// How memory ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lack {
    Frames,
    Heap,
}

const LACKS: [(Lack, bool); 4] = [(Lack::Frames, false), (Lack::Frames, true), (Lack::Heap, false), (Lack::Heap, true)];

/// Runs the driver with memory that ends.
fn lacking<R>(host: &Host, (lack, once): (Lack, bool), after: u64, body: impl FnOnce() -> R) -> R {
    let ends = Some(Ends { after, once });
    if lack == Lack::Frames {
        host.trouble().frames = ends;
    }
    let r = heap::driver(ends.filter(|_| lack == Lack::Heap), body);
    host.trouble().frames = None;
    r
}

/// What is to be the same before and after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Count {
    frames: u64,
    heap: i64,
    entries: usize,
}

fn count(rig: &Rig) -> Count {
    Count { frames: rig.host.arena().used(), heap: heap::bytes(), entries: entries(rig) }
}

/// Present entries that lead somewhere: context entries in legacy mode, PASID entries in scalable mode.
fn entries(rig: &Rig) -> usize {
    let machine = rig.host.machine();
    let state = *machine.unit(0).expect("a unit").state();
    let word = |at: u64| machine.memory().read64(at).expect("a table in memory");
    let table = |v: u64| v & !0xfff;
    // The present ones of `n` entries `step` apart.
    let present = |at: u64, n: u64, step: u64| (0..n).map(move |i| word(at + i * step)).filter(|v| v & 1 != 0);
    match (state.translation, state.mode) {
        (false, _) => 0,
        (_, vtd_emu::Mode::Scalable) => present(state.root, 512, 8)
            .flat_map(|half| present(table(half), 128, 32))
            .flat_map(|context| present(table(context), 1 << ((context >> 9 & 7) + 7), 8))
            .map(|directory| present(table(directory), 64, 64).count())
            .sum(),
        _ => present(state.root, 256, 16).map(|root| present(table(root), 256, 16).count()).sum(),
    }
}

/// These stories are long: one adversary, and no form that differs from another in what memory it takes.
fn enough_elsewhere(profile: &Profile, mode: Mode) -> bool {
    mode.name != "prompt" || profile.strict_aw || profile.cm()
}

fn memory_ended(e: &Error) {
    assert!(matches!(e.kind, ErrorKind::OutOfMemory | ErrorKind::OutOfFrames), "{e}");
}

fn memory_may_end_at_every_step_of_bring_up(profile: &Profile, mode: Mode) {
    if enough_elsewhere(profile, mode) {
        return;
    }
    for lack in LACKS.into_iter().filter(|(_, once)| !once) {
        for n in 0.. {
            let (none, rig) = (heap::bytes(), Plan::new(profile, mode).build());
            let outcome = lacking(&rig.host, lack, n, || rig.vtd.bring_up(TakeOver::Disable).map(drop));
            if let Err(e) = &outcome {
                memory_ended(e);
                // Every device reaches everything, as before.
                let page = rig.page();
                rig.reaches(dev(3), page, page);
            }
            // No frame, and no byte.
            rig.end();
            assert_eq!(heap::bytes(), none, "{lack:?} after {n}");
            if outcome.is_ok() {
                assert!(n >= 2, "{lack:?}: {n}");
                break;
            }
        }
    }
}

fn map_error(e: MapError) -> Error {
    Error::from(match e.why {
        MapWhy::OutOfFrames => ErrorKind::OutOfFrames,
        MapWhy::OutOfMemory => ErrorKind::OutOfMemory,
        other => panic!("{other:?}"),
    })
}

/// Attaches, maps, attaches PASIDs, replaces, unmaps, and gives all of it back, whatever happens.
fn life(rig: &Rig, mode: Mode, page: u64) -> Result<(), Error> {
    let profile = &rig.profiles[0];
    let all = Access::all();
    let group = rig.vtd.claim(rig.vtd.group_of(dev(3))?, Owner::HOST)?;
    let domain = |stage| -> Result<Domain<Host>, Error> { rig.vtd.domain(&rig.spec_of(&group, stage)) };
    let (one, other) = (domain(mode.stage)?, domain(mode.stage)?);
    one.map(Iova::at(AT), hpa(page), 0x2000, all).map_err(map_error)?;
    group.attach(Target::Domain(&one))?;
    let _ = rig.read(dev(3), AT);
    one.map(Iova::at(AT << 12), hpa(page), 0x1000, all).map_err(map_error)?;
    if mode.tags(profile) {
        for (n, stage) in
            [mode.stage, if profile.ssts() { Stage::Second } else { Stage::First }].into_iter().enumerate()
        {
            let tagged = domain(stage)?;
            tagged.map(Iova::at(AT), hpa(page), 0x1000, all).map_err(map_error)?;
            let far = pasid(7 + n as u32 * 0x4_0000);
            group.attach_pasid(dev(3), far, Target::Domain(&tagged))?;
            let _ = rig.read((dev(3), far.get()), AT);
            group.attach_pasid(dev(3), far, Target::Domain(&other))?;
            group.attach_pasid(dev(3), pasid(8), Target::Identity)?;
            group.attach_pasid(dev(3), far, Target::Domain(&tagged))?;
            tagged.unmap(range(AT, AT + 0xfff)).map_err(map_error)?.flush().map_err(|e| e.error)?;
            group.detach_pasid(dev(3), pasid(8))?;
        }
    }
    if mode.scalable(profile) && profile.nest() {
        let memory = domain(Stage::Second)?;
        memory.map(Iova::at(AT), hpa(page), 0x2000, all).map_err(map_error)?;
        let guest = rig.vtd.stage1(&memory, &Stage1Spec::new(Gpa::new(AT).expect("57 bits")))?;
        group.attach(Target::Stage1(&guest))?;
        guest.invalidate_all()?;
        memory.unmap(range(AT, AT + 0xfff)).map_err(map_error)?.flush().map_err(|e| e.error)?;
        group.attach(Target::Domain(&one))?;
    }
    // Scattered, and a page cut.
    let mut edit = one.edit();
    for i in 0..5 {
        edit.map(Iova::at((2 * i + 3) << 21), hpa(page), 0x1000, all).map_err(map_error)?;
    }
    edit.unmap(range(AT, AT + 0xfff)).map_err(map_error)?;
    edit.finish().flush().map_err(|e| e.error)?;
    one.protect(range(AT + 0x1000, AT + 0x1fff), Access::READ).map_err(map_error)?.flush().map_err(|e| e.error)?;
    group.attach(Target::Domain(&other))?;
    group.attach(Target::Identity)?;
    group.release().map_err(|(_, e)| e)
}

fn memory_may_end_at_every_step_of_a_life_on_fresh_tables(profile: &Profile, mode: Mode) {
    if enough_elsewhere(profile, mode) {
        return;
    }
    for lack in LACKS.into_iter().filter(|(_, once)| !once) {
        for n in 0.. {
            let rig = Plan::new(profile, mode).build();
            let none = heap::bytes();
            heap::driver(None, || rig.bring_up()).unwrap();
            let (page, before) = (rig.memory(1), entries(&rig));
            let outcome = lacking(&rig.host, lack, n, || life(&rig, mode, page));
            assert_eq!(entries(&rig), before, "{lack:?} after {n}");
            rig.end();
            assert_eq!(heap::bytes(), none, "{lack:?} after {n}");
            match outcome {
                Ok(()) => {
                    assert!(n >= 3, "{lack:?}: {n}");
                    break;
                }
                Err(e) => memory_ended(&e),
            }
        }
    }
}

fn memory_may_end_at_every_step_of_a_life_on_tables_that_are_there(profile: &Profile, mode: Mode) {
    if enough_elsewhere(profile, mode) {
        return;
    }
    // CAP.ND 0: sixteen ids, of which two are taken.
    let profile = &profile.clone().with_cap(0, 7);
    let rig = Plan::new(profile, mode).up();
    let page = rig.memory(1);
    heap::driver(None, || life(&rig, mode, page)).unwrap();
    for lack in LACKS {
        for n in 0.. {
            let before = count(&rig);
            let outcome = lacking(&rig.host, lack, n, || life(&rig, mode, page));
            assert_eq!(count(&rig), before, "{lack:?} after {n}");
            match outcome {
                Ok(()) => break,
                Err(e) => memory_ended(&e),
            }
        }
    }
    // Every domain id is there still.
    let groups: Vec<_> = (1..=6).map(|n| rig.claim(dev(n)).0).collect();
    let domains: Vec<Domain<Host>> = (0..14).map(|_| rig.domain(&groups[0])).collect();
    for (n, domain) in domains.iter().enumerate() {
        map(domain, AT, page, 0x1000);
        match groups.get(n) {
            Some(group) => drop(group.attach(Target::Domain(domain)).unwrap()),
            None if mode.tags(profile) => {
                groups[2].attach_pasid(dev(3), pasid(n as u32), Target::Domain(domain)).map(drop).unwrap();
            }
            None => break,
        }
    }
    drop((groups, domains));
    rig.end();
}

//! What is unmapped and flushed is out of reach; what is not flushed stays owned.

use std::ops::ControlFlow;

use vtd::{Access, Deferred, Domain, Iova, MapWhy, Target};
use vtd_emu::{Profile, Random};

use crate::host::Host;
use crate::rig::{AT, Ask, Mode, Plan, dev, hpa, map, range, unmap};

crate::stories!(
    what_was_flushed_is_out_of_reach,
    what_nobody_flushed_stays_owned_until_the_next_flush,
    deferred_unmaps_end_with_the_sync,
    tables_that_went_are_nobody_elses_before_the_flush,
    flushes_in_flight_end_one_by_one,
    random_operations_agree_with_a_plain_model,
);

fn what_was_flushed_is_out_of_reach(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(6);
    let (group, domain, ear) = rig.attached(dev(3));
    // One page; several in a table, from an odd one on; all of a table; across tables.
    let cases = [(AT, 1u64), (AT + 0x3000, 5), (2 << 20, 512), ((4 << 20) - 0x3000, 9), (1 << 30, 64)];
    for (at, pages) in cases {
        for first in (0..pages).step_by(64) {
            map(&domain, at + first * 0x1000, memory, (pages - first).min(64) * 0x1000);
        }
        let asked = [0, pages / 2, pages - 1].map(|i| (at + i * 0x1000, memory + i % 64 * 0x1000));
        asked.iter().for_each(|(at, to)| rig.reaches(dev(3), *at, *to));
        asked.iter().for_each(|(at, _)| rig.probes.add(0, dev(3), *at));
        let last = at + pages * 0x1000 - 1;
        let unmapped = domain.unmap(range(at, last)).unwrap();
        assert_eq!(domain.map(Iova::at(at), hpa(memory), 0x1000, Access::all()).unwrap_err().why, MapWhy::Unflushed);
        unmapped.flush().unwrap();
        for (at, _) in asked {
            rig.blocked(dev(3), at, Ask::Read, 0x06, &ear);
            rig.blocked(dev(3), at, Ask::Write, 0x05, &ear);
        }
        map(&domain, at, memory + 0x8000, 0x1000);
        rig.reaches(dev(3), at, memory + 0x8000);
        unmap(&domain, at, at + 0xfff);
    }
    drop((group, domain));
    rig.end();
}

fn what_nobody_flushed_stays_owned_until_the_next_flush(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (one, two) = (rig.page(), rig.page());
    let (group, domain, ear) = rig.attached(dev(3));
    // Pages that no other is next to: their tables go with them.
    for at in [AT, 3 << 30] {
        map(&domain, at, one, 0x1000);
        rig.reaches(dev(3), at, one);
    }
    let before = rig.host.arena().used();
    drop(domain.unmap(range(AT, AT + 0xfff)).unwrap());
    drop(domain.unmap(range(3 << 30, (3 << 30) + 0xfff)).unwrap());
    assert_eq!(rig.host.arena().used(), before, "tables stay owned");
    for at in [AT, 3 << 30] {
        assert_eq!(domain.map(Iova::at(at), hpa(two), 0x1000, Access::all()).unwrap_err().why, MapWhy::Unflushed);
    }
    // What is next to it may be mapped, and is reached.
    map(&domain, AT + 0x1000, two, 0x1000);
    rig.reaches(dev(3), AT + 0x1000, two);
    domain.settle().unwrap();
    assert!(rig.host.arena().used() < before);
    for at in [AT, 3 << 30] {
        rig.blocked(dev(3), at, Ask::Read, 0x06, &ear);
        map(&domain, at, two, 0x1000);
        rig.reaches(dev(3), at, two);
    }
    drop((group, domain));
    rig.end();
}

fn deferred_unmaps_end_with_the_sync(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(5);
    let (group, ear) = rig.claim(dev(3));
    let domain: Domain<Host, Deferred> = rig.vtd.domain(&rig.spec(&group)).unwrap();
    group.attach(Target::Deferred(&domain)).unwrap();
    for turn in 0..3u64 {
        let place = |i: u64| AT + ((i * 7 + turn) << 12) + ((i % 3) << 30);
        for i in 0..20 {
            domain.map(Iova::at(place(i)), hpa(memory + i * 0x1000), 0x1000, Access::all()).unwrap();
            rig.reaches(dev(3), place(i), memory + i * 0x1000);
        }
        for i in 0..20 {
            domain.unmap_later(range(place(i), place(i) + 0xfff)).unwrap();
            let again = domain.map(Iova::at(place(i)), hpa(memory), 0x1000, Access::all());
            assert_eq!(again.unwrap_err().why, MapWhy::Unflushed);
        }
        domain.sync().unwrap();
        (0..20).for_each(|i| rig.blocked(dev(3), place(i), Ask::Read, 0x06, &ear));
    }
    drop((group, domain));
    rig.end();
}

fn tables_that_went_are_nobody_elses_before_the_flush(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (mine, other) = (rig.page(), rig.page());
    let (group, domain, ear) = rig.attached(dev(3));
    let (neighbour, theirs, _) = rig.attached(dev(4));
    for turn in 0..8u64 {
        // Alone in tables of its own, down to the last one.
        let at = ((turn * 3 + 1) << 30) + (turn << 21) + (turn << 12);
        map(&domain, at, mine, 0x1000);
        rig.reaches(dev(3), at, mine);
        rig.probes.add(0, dev(3), at ^ 0x1000);
        let unmapped = domain.unmap(range(at, at + 0xfff)).unwrap();
        // The neighbour takes as many frames as there are: what it maps there is none of device 3's.
        for i in 0..4u64 {
            let place = ((turn * 4 + i) << 30) + 0x5000;
            theirs.map(Iova::at(place), hpa(other), 0x1000, Access::all()).unwrap();
            rig.reaches(dev(4), place, other);
            for neighbour in [at, at ^ 0x1000, at ^ 0x5000, (at & !0xfff_ffff) + 0x5000] {
                if let Ok(v) = rig.read(dev(3), neighbour) {
                    assert_eq!((neighbour, v), (at, rig.look(mine)), "only what it was given before");
                }
            }
        }
        unmapped.flush().unwrap();
        rig.blocked(dev(3), at, Ask::Write, 0x05, &ear);
        for i in 0..4u64 {
            let place = ((turn * 4 + i) << 30) + 0x5000;
            unmap(&theirs, place, place + 0xfff);
        }
    }
    drop((group, domain, neighbour, theirs));
    rig.end();
}

fn flushes_in_flight_end_one_by_one(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(4);
    let (group, domain, ear) = rig.attached(dev(3));
    for turn in 0..3 {
        let place = |i: u64| AT + (i << 21);
        for i in 0..16 {
            map(&domain, place(i), memory + i * 0x1000, 0x1000);
            rig.reaches(dev(3), place(i), memory + i * 0x1000);
        }
        let mut flights: Vec<_> =
            (0..16).map(|i| (i, domain.unmap(range(place(i), place(i) + 0xfff)).unwrap().submit().unwrap())).collect();
        let mut turns = 0;
        while !flights.is_empty() {
            let mut left = Vec::new();
            for (i, flight) in flights {
                match flight.poll() {
                    ControlFlow::Continue(flight) if turn == 1 && i % 4 == 0 => {
                        flight.wait().unwrap();
                        rig.blocked(dev(3), place(i), Ask::Read, 0x06, &ear);
                    }
                    ControlFlow::Continue(flight) => left.push((i, flight)),
                    ControlFlow::Break(flushed) => {
                        flushed.unwrap();
                        rig.blocked(dev(3), place(i), Ask::Read, 0x06, &ear);
                    }
                }
            }
            flights = left;
            rig.host.machine().relax(1000);
            turns += 1;
            assert!(turns < 10_000, "they end");
        }
    }
    drop((group, domain));
    rig.end();
}

/// What a model says of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Page {
    to: Option<u64>,
    how: Access0,
    /// It was unmapped or changed and not flushed: what devices may still reach.
    stale: Option<(u64, Access0)>,
    /// It was in a range that was unmapped and is not flushed.
    closed: bool,
}

/// Rights as two bits.
type Access0 = u8;

fn random_operations_agree_with_a_plain_model(profile: &Profile, mode: Mode) {
    let percent = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100u64);
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(6);
    let (group, domain, ear) = rig.attached(dev(3));
    let mut random = Random::new(profile.cap ^ mode.name.len() as u64);
    // Pages on both sides of the ends of tables of two levels.
    let bases = [(1u64 << 30) - 0x8000, (2 << 20) - 0x8000, 3 << 30];
    let place = |i: usize| bases[i / 16] + (i as u64 % 16) * 0x1000;
    let mut model = [Page::default(); 48];
    for (n, _) in (0..48).enumerate() {
        if n % 5 == 0 {
            rig.probes.add(0, dev(3), place(n));
        }
    }
    let mut unflushed = Vec::new();
    for _ in 0..(60 * percent / 100).max(10) {
        let first = random.below(48) as usize;
        let room = 16 - first % 16;
        let n = (random.below(room as u64) + 1) as usize;
        let whole = range(place(first), place(first + n - 1) + 0xfff);
        let frame = memory + random.below(32) * 0x1000;
        // First-stage tables have no right to write alone.
        let least = if rig.first_stage() { Access::READ } else { Access::empty() };
        let how = Access::from_bits_truncate(random.below(3) as u8 + 1) | least;
        match random.below(4) {
            0 | 1 => {
                let free = model[first..first + n].iter().all(|p| p.to.is_none() && !p.closed);
                let done = domain.map(Iova::at(place(first)), hpa(frame), n as u64 * 0x1000, how);
                assert!(done.is_ok() || !free, "{done:?}");
                if done.is_ok() {
                    for (i, p) in model[first..first + n].iter_mut().enumerate() {
                        assert_eq!(p.to, None);
                        (p.to, p.how) = (Some(frame + i as u64 * 0x1000), how.bits());
                    }
                }
            }
            2 => match domain.unmap(whole) {
                Ok(u) => {
                    for p in &mut model[first..first + n] {
                        p.closed = true;
                        if let Some(to) = p.to.take() {
                            p.stale = Some((to, p.how));
                        }
                    }
                    unflushed.push(u);
                }
                Err(e) => assert!(model[first..first + n].iter().all(|p| p.to.is_none()), "{e}"),
            },
            _ => match domain.protect(whole, how) {
                Ok(u) => {
                    for p in &mut model[first..first + n] {
                        if let Some(to) = p.to {
                            p.stale = Some((to, p.how | p.stale.map_or(0, |(_, how)| how)));
                            p.how = how.bits();
                        }
                    }
                    unflushed.push(u);
                }
                Err(e) => assert!(model[first..first + n].iter().all(|p| p.to.is_none()), "{e}"),
            },
        }
        if random.below(2) == 0 {
            for u in unflushed.drain(..) {
                u.flush().unwrap();
            }
            model.iter_mut().for_each(|p| (p.stale, p.closed) = (None, false));
        }
        for _ in 0..6 {
            let i = random.below(48) as usize;
            let (p, ask) = (model[i], if random.below(2) == 0 { Ask::Read } else { Ask::Write });
            let bit = if ask == Ask::Read { Access::READ.bits() } else { Access::WRITE.bits() };
            let fresh = p.to.filter(|_| p.how & bit != 0);
            let stale = p.stale.filter(|(_, how)| how & bit != 0).map(|(to, _)| to);
            let mark = random.bits();
            let went = match ask {
                Ask::Read => {
                    [fresh, stale].into_iter().flatten().enumerate().for_each(|(k, to)| rig.put(to, mark ^ k as u64));
                    rig.read(dev(3), place(i))
                        .ok()
                        .map(|v| (v, [fresh, stale].into_iter().flatten().any(|to| rig.look(to) == v)))
                }
                Ask::Write => rig
                    .write(dev(3), place(i), mark)
                    .ok()
                    .map(|()| (mark, [fresh, stale].into_iter().flatten().any(|to| rig.look(to) == mark))),
            };
            match went {
                Some((v, known)) => assert!(known, "{ask:?} at page {i}: {v:#x}, {p:x?}"),
                None => assert!(fresh.is_none() || p.stale.is_some(), "{ask:?} at page {i} is blocked: {p:x?}"),
            }
        }
        ear.heard();
        rig.settle();
    }
    drop(unflushed);
    domain.settle().unwrap();
    for (i, p) in model.iter().enumerate() {
        match p.to {
            Some(to) if p.how == Access::all().bits() => rig.reaches(dev(3), place(i), to),
            None => rig.blocked(dev(3), place(i), Ask::Read, 0x06, &ear),
            _ => {}
        }
    }
    drop((group, domain));
    rig.end();
}

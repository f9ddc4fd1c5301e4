//! Several CPUs at once.

use vtd::{Config, Domain, ErrorKind, Event, Nanos, Owner, Target, UnitId};
use vtd_emu::Profile;

use crate::host::Host;
use crate::pasids::{attach, pasid};
use crate::rig::{Ask, Mode, NARROW, Plan, TAGGING, Who, dev, map, unmap};

crate::stories!(
    cpus_map_flush_attach_and_detach_at_once,
    two_cpus_change_pasids_and_flush_what_both_use,
    four_cpus_change_pasids_and_flush_what_all_use,
);

fn cpus_map_flush_attach_and_detach_at_once(profile: &Profile, mode: Mode) {
    let percent = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100u64);
    // Time is turns of waiting: a thread that is not scheduled must not look like a dead unit.
    let patient = Nanos::millis(3_600_000);
    let mut plan = Plan::two(profile, profile, mode);
    plan.config = Config { command_deadline: patient, invalidation_deadline: patient, ..plan.config };
    let rig = plan.up();
    let memory = rig.memory(4);
    let shared: Domain<Host> = {
        let (group, _) = rig.claim(dev(1));
        rig.domain(&group)
    };
    let contended = rig.vtd.group_of(dev(6)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (rig, shared) = (&rig, &shared);
            scope.spawn(move || {
                rig.host.here();
                let device = dev([1, 3, 2][thread as usize]);
                let (group, _) = rig.claim(device);
                let own = rig.domain(&group);
                let (mine, ours) = (memory + thread * 0x2000, memory + thread * 0x2000 + 0x1000);
                for turn in 0..(12 * percent / 100).max(3) {
                    let (at, place) = ((thread + 1) << 30 | (turn % 7) << 21, (thread + 1) << 30);
                    map(shared, at, ours, 0x1000);
                    map(&own, place, mine, 0x1000);
                    group.attach(Target::Domain(shared)).unwrap();
                    rig.reaches(device, at, ours);
                    group.attach(Target::Domain(&own)).unwrap();
                    rig.reaches(device, place, mine);
                    unmap(shared, at, at + 0xfff);
                    unmap(&own, place, place + 0xfff);
                    assert_eq!(rig.refused(device, place, Ask::Read), 0x06);
                    if turn % 3 == 0 {
                        group.attach(Target::Blocked).unwrap();
                        match rig.vtd.claim(contended, Owner(thread)) {
                            Ok(group) => drop(group.attach(Target::Domain(shared)).unwrap()),
                            Err(e) => assert_eq!(e.kind, ErrorKind::Busy),
                        }
                    }
                    if turn % 5 == 0 {
                        rig.vtd.interrupt(UnitId(0), Event::Fault);
                        rig.vtd.service(3);
                    }
                }
            });
        }
    });
    drop(shared);
    rig.end();
}

fn two_cpus_change_pasids_and_flush_what_both_use(profile: &Profile, mode: Mode) {
    cpus_change_pasids(profile, mode, 2);
}

fn four_cpus_change_pasids_and_flush_what_all_use(profile: &Profile, mode: Mode) {
    cpus_change_pasids(profile, mode, 4);
}

/// Each with a device of its own and a domain of its own, and one domain that all attach PASIDs to, map in and unmap from.
fn cpus_change_pasids(profile: &Profile, mode: Mode, cpus: usize) {
    if !mode.tags(profile) {
        return;
    }
    let percent = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100u64);
    let patient = Nanos::millis(3_600_000);
    let mut plan = Plan::new(profile, mode);
    plan.config = Config { command_deadline: patient, invalidation_deadline: patient, ..plan.config };
    let rig = plan.up();
    let memory = rig.memory(4);
    let devices = [TAGGING[0], TAGGING[1], TAGGING[2], NARROW];
    let shared: Domain<Host> = {
        let (group, _) = rig.claim(TAGGING[0]);
        rig.domain(&group)
    };
    std::thread::scope(|scope| {
        for (n, device) in devices.into_iter().enumerate().take(cpus) {
            let (rig, shared) = (&rig, &shared);
            scope.spawn(move || {
                rig.host.here();
                let (group, _) = rig.claim(device);
                let own = rig.domain(&group);
                let (n, ours) = (n as u64, memory + n as u64 * 0x2000);
                let mine = ours + 0x1000;
                for turn in 0..(8 * percent / 100).max(3) {
                    let place = (n + 1) << 30 | (turn % 5) << 21;
                    // Of all directory entries that the narrowest device has.
                    let who = Who::from((device, 1 + (turn as u32 * 61) % 255));
                    let plain = Who::from(device);
                    map(shared, place, ours, 0x1000);
                    map(&own, place, mine, 0x1000);
                    attach(&group, who, Target::Domain(shared)).unwrap();
                    attach(&group, plain, Target::Domain(&own)).unwrap();
                    rig.reaches(who, place, ours);
                    rig.reaches(plain, place, mine);
                    attach(&group, who, Target::Domain(&own)).unwrap();
                    attach(&group, plain, Target::Domain(shared)).unwrap();
                    rig.reaches(who, place, mine);
                    rig.reaches(plain, place, ours);
                    unmap(shared, place, place + 0xfff);
                    unmap(&own, place, place + 0xfff);
                    assert_eq!(rig.refused(plain, place, Ask::Read), 0x06);
                    assert_eq!(rig.refused(who, place, Ask::Read), 0x06);
                    if turn % 2 == 0 {
                        group.detach_pasid(device, pasid(who.pasid.unwrap())).unwrap();
                        assert_eq!(rig.refused(who, place, Ask::Read), 0x02);
                    }
                    if turn % 3 == 0 {
                        attach(&group, plain, Target::Blocked).unwrap();
                    }
                }
            });
        }
    });
    drop(shared);
    rig.end();
}

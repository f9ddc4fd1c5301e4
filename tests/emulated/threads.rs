//! Several CPUs at once.

use vtd::{Config, Domain, ErrorKind, Event, Nanos, Owner, Target, UnitId};
use vtd_emu::Profile;

use crate::host::Host;
use crate::rig::{Ask, Mode, Plan, dev, map, unmap};

crate::stories!(cpus_map_flush_attach_and_detach_at_once);

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

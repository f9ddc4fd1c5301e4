//! Several threads at once, with the ranks of locks checked.

use super::machine::{Machine, WIDE, config, configure, dev, hpa, range};
use crate::host::testing::Host;
use crate::unit::standin::{CAP, CAP_CM, ECAP_QI};
use crate::{Access, Config, Domain, ErrorKind, Event, Iova, Nanos, Owner, Target, UnitId};

/// How many turns a thread takes: `VTD_SCALE` per cent of `n`.
fn scaled(n: u64) -> u64 {
    let percent = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100);
    (n * percent / 100).max(1)
}

fn threads_map_flush_attach_and_detach_at_once(ecap: u64) {
    for units in [&[(CAP, ecap)][..], &[(CAP | CAP_CM, ecap), (CAP, ecap & !ECAP_QI)]] {
        let (host, standins, dmar) = Machine::prepare(Host::new(), units);
        configure(&host);
        // Time in the tests' host is turns of waiting: a thread that is not scheduled must not look like a dead unit.
        let patient = Nanos::millis(3_600_000);
        let config = Config { command_deadline: patient, invalidation_deadline: patient, ..config() };
        let m = Machine::with(host, standins, &dmar, config);
        let shared: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
        let contended = m.vtd.group_of(dev(3)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (m, shared) = (&m, &shared);
                scope.spawn(move || {
                    let own: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
                    let device = dev(if thread % 2 == 0 { 1 } else { 9 } + thread as u8 / 2);
                    let source = device.source.0;
                    let unit = &m.units[usize::from(m.vtd.unit_of(device).unwrap().0)];
                    let group = m.claim(device);
                    let base = (thread + 1) << 32;
                    for turn in 0..scaled(3000) {
                        let at = base + ((turn % 7) << 21);
                        shared.map(Iova::at(at), hpa(at), 0x3000, Access::all()).unwrap();
                        own.map(Iova::at(base), hpa(at + 0x1000), 0x1000, Access::all()).unwrap();
                        group.attach(Target::Domain(shared)).unwrap();
                        assert_eq!(unit.access(source, at), Some(at));
                        group.attach(Target::Domain(&own)).unwrap();
                        assert_eq!(unit.access(source, base), Some(at + 0x1000));
                        shared.unmap(range(at, at + 0x2fff)).unwrap().flush().unwrap();
                        own.unmap(range(base, base + 0xfff)).unwrap().flush().unwrap();
                        assert_eq!(unit.access(source, base), None);
                        if turn % 3 == 0 {
                            group.attach(Target::Blocked).unwrap();
                            match m.vtd.claim(contended, Owner(thread)) {
                                Ok(group) => drop(group.attach(Target::Domain(shared)).unwrap()),
                                Err(e) => assert_eq!(e.kind, ErrorKind::Busy),
                            }
                        }
                        if turn % 5 == 0 {
                            m.vtd.interrupt(UnitId(0), Event::Fault);
                            m.vtd.service(3);
                        }
                    }
                });
            }
        });
        drop(shared);
        m.end();
    }
}

/// An edit holds the interrupt mask of its CPU: this compiles only because it is not `Send`.
const _: fn() = || {
    trait One<T> {
        fn of() {}
    }
    struct Sent;
    impl<T> One<()> for T {}
    impl<T: Send> One<Sent> for T {}
    <crate::space::domain::Edit<'static, Host> as One<_>>::of();
};

crate::unit::standin::in_both_modes! {
    threads_map_flush_attach_and_detach_at_once
}

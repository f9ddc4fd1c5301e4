//! From a unit's fault registers to whoever owns the device.

use super::machine::{BEHIND, Driver, Machine, SUBSTITUTE, dev};
use crate::hw::faults::{Access, Reason};
use crate::unit::standin::{CAP, Standin};
use crate::{DeviceId, Event, Events, Fault, Service, SourceId, UnitId};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// Keeps what it hears.
#[derive(Default)]
struct Ear {
    faults: Mutex<Vec<Fault>>,
    lost: Mutex<u64>,
}

impl Events for Ear {
    fn fault(&self, f: &Fault) {
        self.faults.lock().unwrap().push(*f);
    }
    fn lost(&self, count: u64) {
        *self.lost.lock().unwrap() += count;
    }
}

impl Ear {
    fn heard(&self) -> Vec<Fault> {
        core::mem::take(&mut self.faults.lock().unwrap())
    }
    fn missed(&self) -> u64 {
        core::mem::take(&mut self.lost.lock().unwrap())
    }
}

/// `n` read faults of `source`, as the unit records them, with an interrupt each.
fn faults(vtd: &Driver, unit: &Standin, source: u16, n: usize) {
    for i in 0..n as u64 {
        unit.record(i as u32 % 4, i << 12, u64::from(source) | 6 << 32 | 1 << 62);
        vtd.interrupt(UnitId(0), Event::Fault);
    }
}

fn listened(m: &Machine) -> (Arc<Ear>, Arc<Ear>, crate::Group<crate::host::testing::Host>) {
    let (own, rest) = (Arc::new(Ear::default()), Arc::new(Ear::default()));
    let group = m.claim(BEHIND[0]);
    group.on_events(BEHIND[0], own.clone()).unwrap();
    assert!(group.on_events(dev(1), own.clone()).is_err());
    m.vtd.on_other_events(rest.clone());
    (own, rest, group)
}

fn faults_go_to_the_owner_of_the_id_that_they_carry(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let (own, rest, group) = listened(&m);
    let wakes = m.host.counts().wakes;
    for source in [0x208, 0x210, SUBSTITUTE, 0x08, 0xbeef] {
        faults(&m.vtd, &m.units[0], source, 1);
    }
    assert_eq!(m.host.counts().wakes, wakes + 5);
    assert_eq!(m.vtd.service(100), Service::Idle);
    let named = |ear: &Ear| ear.heard().iter().map(|f| (f.source.0, f.device)).collect::<Vec<_>>();
    let heard = named(&own);
    // The bridge's substitute for its devices is one of theirs.
    assert!(heard.contains(&(0x208, Some(BEHIND[0]))), "{heard:?}");
    let others = named(&rest);
    assert!(others.contains(&(0x210, Some(BEHIND[1]))), "nobody listens for it: {others:?}");
    assert!(others.contains(&(8, Some(dev(1)))) && others.contains(&(0xbeef, None)));
    let substitute = heard.iter().chain(&others).find(|(s, _)| *s == SUBSTITUTE).unwrap();
    assert!(BEHIND.map(Some).contains(&substitute.1));
    // Decoded.
    faults(&m.vtd, &m.units[0], 0x208, 1);
    m.vtd.service(100);
    let f = own.heard()[0];
    assert_eq!((f.unit, f.source, f.attempt, f.reason), (UnitId(0), SourceId(0x208), Access::Read, Reason(6)));
    assert!(std::format!("{f}").starts_with("unit 0: device 0000:02:01.0: read at 0x0 blocked: "), "{f}");
    // After the release they are nobody's.
    group.release().map_err(|(_, e)| e).unwrap();
    faults(&m.vtd, &m.units[0], 0x208, 1);
    m.vtd.service(100);
    assert_eq!((own.heard().len(), rest.heard().len()), (0, 1));
    m.end();
}

fn a_device_gets_its_share_of_a_call_and_the_rest_is_counted(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let (own, rest, group) = listened(&m);
    faults(&m.vtd, &m.units[0], 0x208, 50);
    faults(&m.vtd, &m.units[0], 0xbeef, 3);
    assert_eq!(m.vtd.service(100), Service::Idle);
    assert_eq!((own.heard().len(), own.missed(), rest.heard().len(), rest.missed()), (8, 42, 3, 0));
    // So do all together that no owner hears.
    faults(&m.vtd, &m.units[0], 0xbeef, 20);
    faults(&m.vtd, &m.units[0], 0x208, 2);
    assert_eq!(m.vtd.service(100), Service::Idle);
    assert_eq!((own.heard().len(), own.missed(), rest.heard().len(), rest.missed()), (2, 0, 8, 12));
    // A share a call, not for ever.
    faults(&m.vtd, &m.units[0], 0x208, 5);
    m.vtd.service(100);
    assert_eq!((own.heard().len(), own.missed()), (5, 0));
    drop(group);
    m.end();
}

fn a_call_makes_as_many_deliveries_as_its_budget_and_says_that_more_wait(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let (own, rest, group) = listened(&m);
    faults(&m.vtd, &m.units[0], 0xbeef, 20);
    faults(&m.vtd, &m.units[0], 0x208, 20);
    assert_eq!(m.vtd.service(0), Service::Again);
    assert_eq!(rest.heard().len(), 0);
    let mut calls = 1;
    let mut heard = 0;
    while m.vtd.service(7) == Service::Again {
        let now = own.heard().len() + rest.heard().len();
        assert!(now <= 7);
        heard += now;
        calls += 1;
        assert!(calls < 20, "it ends");
    }
    heard += own.heard().len() + rest.heard().len();
    assert_eq!(heard as u64 + own.missed(), 40);
    drop(group);
    m.end();
}

fn overflows_reach_who_hears_the_rest(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let (own, rest, group) = listened(&m);
    faults(&m.vtd, &m.units[0], 0x208, 1);
    m.units[0].raise(1);
    m.vtd.interrupt(UnitId(0), Event::Fault);
    m.vtd.service(100);
    assert_eq!((own.heard().len(), own.missed(), rest.missed()), (1, 0, 1));
    // Without an interrupt: `service` looks for itself.
    m.units[0].record(1, 0, 0x208 | 6 << 32);
    m.vtd.service(100);
    assert_eq!(own.heard().len(), 1);
    drop(group);
    m.end();
}

fn a_handler_may_call_the_driver(ecap: u64) {
    struct Caller(Driver, DeviceId);
    impl Events for Caller {
        fn fault(&self, _: &Fault) {
            let group = self.0.claim(self.0.group_of(self.1).unwrap(), crate::Owner::HOST).unwrap();
            group.attach(crate::Target::Identity).unwrap();
            drop(group);
            self.0.service(1);
        }
    }
    let m = Machine::new(&[(CAP, ecap)]);
    m.vtd.on_other_events(Arc::new(Caller(m.vtd.clone(), dev(2))));
    faults(&m.vtd, &m.units[0], 0xbeef, 2);
    m.vtd.service(10);
    m.vtd.on_other_events(Arc::new(Ear::default()));
    m.end();
}

fn records_that_come_in_faster_than_they_are_read_are_not_forgotten(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    m.units[0].state().storm = true;
    faults(&m.vtd, &m.units[0], 0x208, 4);
    // The unit has told of them, and will not again.
    assert_eq!(m.vtd.service(100), Service::Again);
    m.units[0].state().storm = false;
    assert_eq!(m.vtd.service(100), Service::Idle);
    m.end();
}

fn the_faults_of_one_unit_do_not_silence_another(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap); 2]);
    let (own, rest) = (Arc::new(Ear::default()), Arc::new(Ear::default()));
    let group = m.claim(dev(9));
    group.on_events(dev(9), own.clone()).unwrap();
    m.vtd.on_other_events(rest.clone());
    m.units[1].record(0, 0, 9 << 3 | 6 << 32);
    for _ in 0..2 {
        faults(&m.vtd, &m.units[0], 0xbeef, 100);
        assert_eq!(m.vtd.service(4), Service::Again);
    }
    assert_eq!(own.heard().len(), 1);
    drop(group);
    m.end();
}

fn what_one_owner_missed_is_not_told_to_the_next(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let (own, _, group) = listened(&m);
    faults(&m.vtd, &m.units[0], 0x208, 50);
    assert_eq!(m.vtd.service(8), Service::Again);
    m.vtd.service(8);
    drop(group);
    let (next, _, group) = listened(&m);
    m.vtd.service(100);
    assert_eq!((own.missed(), next.missed()), (0, 0));
    drop(group);
    m.end();
}

crate::unit::standin::in_both_modes! {
    faults_go_to_the_owner_of_the_id_that_they_carry
    a_device_gets_its_share_of_a_call_and_the_rest_is_counted
    a_call_makes_as_many_deliveries_as_its_budget_and_says_that_more_wait
    overflows_reach_who_hears_the_rest
    a_handler_may_call_the_driver
    records_that_come_in_faster_than_they_are_read_are_not_forgotten
    the_faults_of_one_unit_do_not_silence_another
    what_one_owner_missed_is_not_told_to_the_next
}

//! Units that come and go while the machine runs.

use super::machine::{Dmar, Machine, WIDE, config, dev, express, map, range};
use crate::host::address::DeviceId;
use crate::host::testing::Host;
use crate::hw::registers::at;
use crate::unit::standin::{CAP, ECAP_SMTS, ECAP_SSTS, QIE, SRTP, Standin, TE, in_both_modes};
use crate::{
    Config, Domain, ErrorKind, Field, GroupId, Need, Owner, State, Step, Tables, TakeOver, Target, UnitId, Vtd,
};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

const BASE: u64 = 0xfeda_0000;
const REGION: u64 = 0x7a00_0000;

/// Two devices come, on a segment of their own, and a unit that serves them; the second has a region.
struct Plug {
    m: Machine,
    standin: Standin,
    structures: Vec<u8>,
}

impl Plug {
    fn new(ecap: u64) -> Self {
        let m = Machine::new(&[(CAP, ecap)]);
        Self::on(m, ecap)
    }

    fn on(m: Machine, ecap: u64) -> Self {
        for d in [DeviceId::new(1, 0, 1, 0), DeviceId::new(1, 0, 2, 0)] {
            express(&m.host, d, 0, 9, 0x02_0000);
        }
        let standin = Standin::new(&m.host, BASE, CAP, ecap);
        Plug { m, standin, structures: Self::structures(BASE) }
    }

    /// INCLUDE_PCI_ALL of segment 1, and a region of its device 2.
    fn structures(base: u64) -> Vec<u8> {
        let dmar = Dmar::default().unit(base, &[]).reserved(REGION, REGION + 0xfff, dev(2));
        let mut bytes = dmar.structures().to_vec();
        // The segments of both.
        (bytes[6], bytes[16 + 6]) = (1, 1);
        bytes
    }

    fn reaches(&self, device: u16, at: u64) -> Option<u64> {
        self.standin.access(device << 3, at)
    }
}

const fn new(device: u8) -> DeviceId {
    DeviceId::new(1, 0, device, 0)
}

fn a_unit_that_comes_serves_its_devices_as_any_other(ecap: u64) {
    let p = Plug::new(ecap);
    let before: Vec<GroupId> = p.m.vtd.groups().unwrap().collect();
    assert_eq!(p.m.vtd.group_of(new(1)).unwrap_err().kind, ErrorKind::Unknown);
    let old = p.m.claim(dev(1));
    let d: Domain<Host> = p.m.vtd.domain(&WIDE).unwrap();
    map(&d, 0x1000, 0x5000, 0x1000);
    old.attach(Target::Domain(&d)).unwrap();
    let report = p.m.vtd.add_unit(&p.structures).unwrap();
    assert_eq!((report.units.len(), report.units[0].unit, report.firmware.len()), (1, UnitId(1), 1));
    assert_eq!(report.firmware[0].error, None);
    assert_eq!((p.reaches(1, REGION), p.reaches(2, REGION), p.reaches(2, 0x1000)), (None, Some(REGION), None));
    assert_eq!(p.m.vtd.register_base(UnitId(1)).unwrap().get(), BASE);
    assert_eq!((p.m.vtd.unit_of(new(1)).unwrap(), p.m.vtd.unit_of(dev(1)).unwrap()), (UnitId(1), UnitId(0)));
    assert_eq!(p.m.vtd.groups().unwrap().count(), before.len() + 2);
    assert!(p.m.vtd.why_together(new(1), new(1)).is_ok());
    // One domain behind both units.
    let group = p.m.claim(new(1));
    assert_eq!(group.devices().collect::<Vec<_>>(), [new(1)]);
    group.attach(Target::Domain(&d)).unwrap();
    assert_eq!((p.reaches(1, 0x1000), p.m.units[0].access(8, 0x1000)), (Some(0x5000), Some(0x5000)));
    d.unmap(range(0x1000, 0x1fff)).unwrap().flush().unwrap();
    assert_eq!((p.reaches(1, 0x1000), p.m.units[0].access(8, 0x1000)), (None, None));
    let busy = p.m.vtd.remove_unit(UnitId(1)).unwrap_err();
    assert_eq!(busy, ErrorKind::Busy.on(UnitId(1)));
    group.release().map_err(|(_, e)| e).unwrap();
    p.m.vtd.suspend().unwrap();
    assert_eq!(
        p.m.vtd.add_unit(&Plug::structures(BASE + 0x1000)).unwrap_err().kind,
        ErrorKind::State(State::Suspended)
    );
    p.standin.lose_power();
    p.m.vtd.resume().unwrap();
    assert_eq!((p.reaches(1, REGION), p.reaches(2, REGION)), (None, Some(REGION)));
    drop((old, d));
    p.m.end();
    assert_eq!(p.standin.regs.get32(at::GSTS) & (TE | QIE), 0);
}

fn a_unit_that_goes_takes_its_groups_along_and_may_come_again(ecap: u64) {
    let p = Plug::new(ecap);
    for n in 1..=3u16 {
        let report = p.m.vtd.add_unit(&p.structures).unwrap();
        assert_eq!(report.units[0].unit, UnitId(n));
        let groups = p.m.vtd.groups().unwrap().count();
        assert_eq!(p.m.vtd.unit_of(new(1)).unwrap(), UnitId(n));
        let group = p.m.claim(new(1));
        group.attach(Target::Identity).unwrap();
        assert_eq!(p.reaches(1, 0x9000), Some(0x9000));
        group.release().map_err(|(_, e)| e).unwrap();
        p.m.vtd.remove_unit(UnitId(n)).unwrap();
        assert_eq!(p.standin.regs.get32(at::GSTS) & (TE | QIE), 0);
        assert_eq!(p.m.vtd.remove_unit(UnitId(n)).unwrap_err(), ErrorKind::UnitGone.on(UnitId(n)));
        let gone = p.m.vtd.claim(p.m.vtd.group_of(new(1)).unwrap(), Owner(1)).unwrap_err();
        assert_eq!((gone.kind, gone.unit), (ErrorKind::UnitGone, Some(UnitId(n))));
        assert_eq!(p.m.vtd.groups().unwrap().count(), groups);
        // Nobody else notices.
        p.m.claim(dev(1)).attach(Target::Identity).unwrap();
        p.m.vtd.service(10);
        p.m.vtd.suspend().unwrap();
        p.m.vtd.resume().unwrap();
    }
    p.m.end();
}

fn nobody_claims_what_is_about_to_lose_its_unit(ecap: u64) {
    let p = Plug::new(ecap);
    express(&p.m.host, new(3), 0, 9, 0x02_0000);
    p.m.vtd.add_unit(&p.structures).unwrap();
    let groups = [new(1), new(3)].map(|d| p.m.vtd.group_of(d).unwrap());
    // The region's domain is flushed on the way, and somebody else is quick.
    p.standin.state().hold = true;
    let (vtd, standin) = (Arc::new(Mutex::new(Some(p.m.vtd.clone()))), p.standin.clone());
    let (outcomes, other) = (Arc::new(Mutex::new(Vec::new())), vtd.clone());
    let seen = outcomes.clone();
    p.m.host.on_relax(move || {
        if let Some(vtd) = other.lock().unwrap().take() {
            standin.state().hold = false;
            let claims = groups.map(|g| vtd.claim(g, Owner(8)).map(core::mem::forget).map_err(|e| e.kind));
            seen.lock().unwrap().extend(claims);
            standin.release(|_| true);
        }
    });
    p.m.vtd.remove_unit(UnitId(1)).unwrap();
    assert_eq!(*outcomes.lock().unwrap(), [Err(ErrorKind::Busy); 2]);
    let gone = p.m.vtd.claim(groups[0], Owner(1)).unwrap_err();
    assert_eq!((gone.kind, gone.unit), (ErrorKind::UnitGone, Some(UnitId(1))));
    p.m.end();
}

fn a_unit_that_is_gone_is_declared_so_and_its_groups_come_free(ecap: u64) {
    let p = Plug::new(ecap);
    p.m.vtd.add_unit(&p.structures).unwrap();
    let group = p.m.claim(new(1));
    let d: Domain<Host> = p.m.vtd.domain(&WIDE).unwrap();
    map(&d, 0x1000, 0x5000, 0x1000);
    group.attach(Target::Domain(&d)).unwrap();
    p.standin.state().gone_after = Some(0);
    {
        let owed = d.unmap(range(0x1000, 0x1fff)).unwrap().flush().err().unwrap();
        assert_eq!((owed.error.kind, owed.error.unit), (ErrorKind::UnitGone, Some(UnitId(1))));
        p.m.vtd.remove_unit(UnitId(1)).unwrap();
        owed.still.flush().map_err(|e| e.error).unwrap();
    }
    group.release().map_err(|(_, e)| e).unwrap();
    drop(d);
    // The unit's own memory stays owned: it was cut off, and nobody saw it stop.
    assert!(p.m.end_keeping() > 0);
}

fn what_cannot_be_added_leaves_the_machine_as_it_was(ecap: u64) {
    let p = Plug::new(ecap);
    let (vtd, groups) = (&p.m.vtd, p.m.vtd.groups().unwrap().count());
    let frames = p.m.host.counts().frames;
    let refused = |bytes: &[u8]| vtd.add_unit(bytes).unwrap_err();
    assert_eq!(refused(&[]).kind, ErrorKind::Invalid(Field::Format));
    assert_eq!(refused(&p.structures[..10]).kind, ErrorKind::Invalid(Field::Format));
    assert_eq!(
        refused(&[&p.structures[..], &Plug::structures(BASE + 0x1000)].concat()).kind,
        ErrorKind::Invalid(Field::Format)
    );
    assert_eq!(refused(&Plug::structures(super::machine::BASES[0])).kind, ErrorKind::Invalid(Field::Address));
    assert_eq!(refused(&Plug::structures(0)).kind, ErrorKind::Invalid(Field::Address));
    assert_eq!(refused(&Plug::structures(0xfedf_0000)).kind, ErrorKind::Platform(Step::Registers));
    // A device that another unit serves.
    let e = refused(Dmar::default().unit(BASE, &[dev(3)]).structures());
    assert_eq!((e.kind, e.device, e.unit), (ErrorKind::Invalid(Field::Device), Some(dev(3)), Some(UnitId(0))));
    assert!(p.standin.state().writes.is_empty());
    // A unit that does not answer, that has nothing to translate by, that does not do as it is told.
    let cap = p.standin.regs.get32(at::CAP);
    p.standin.regs.set64(at::CAP, u64::MAX);
    assert_eq!(refused(&p.structures).kind, ErrorKind::UnitGone);
    p.standin.regs.set64(at::CAP, CAP);
    assert_eq!(p.standin.regs.get32(at::CAP), cap);
    assert_eq!((vtd.groups().unwrap().count(), p.m.host.counts().frames), (groups, frames));
    let mut kept = 0;
    for (bit, step) in [(QIE, Step::Queue), (SRTP, Step::RootPointer), (TE, Step::Translation)] {
        p.standin.state().stuck = bit;
        assert_eq!(refused(&p.structures).kind, ErrorKind::Timeout(step));
        p.standin.state().stuck = 0;
        assert_eq!(p.standin.regs.get32(at::GSTS) & TE, 0);
        p.m.claim(dev(1)).release().map_err(|(_, e)| e).unwrap();
        kept += 1;
    }
    let report = vtd.add_unit(&p.structures).unwrap();
    assert_eq!((report.units[0].unit.0 > 3, kept), (true, 3));
    assert_eq!(p.reaches(2, REGION), Some(REGION));
    // What the units that failed may still read.
    assert!(p.m.end_keeping() > 0);
}

fn memory_may_end_anywhere_while_a_unit_is_added(ecap: u64) {
    for n in 0.. {
        let p = Plug::new(ecap);
        p.m.host.fail_after(Some(n));
        let outcome = p.m.vtd.add_unit(&p.structures);
        p.m.host.fail_after(None);
        let done = match outcome {
            Ok(report) => report.firmware[0].error.is_none(),
            Err(e) => {
                assert_eq!(e.kind, ErrorKind::OutOfFrames);
                assert_eq!(p.standin.regs.get32(at::GSTS) & TE, 0);
                false
            }
        };
        p.m.end();
        if done {
            assert!(n > 4);
            return;
        }
    }
}

fn there_is_room_for_as_many_as_the_host_said(ecap: u64) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let m = Machine::with(host, units, &dmar, Config { spare_units: 1, ..config() });
    let p = Plug::on(m, ecap);
    p.m.vtd.add_unit(&p.structures).unwrap();
    p.m.vtd.remove_unit(UnitId(1)).unwrap();
    let frames = p.m.host.counts().frames;
    assert_eq!(p.m.vtd.add_unit(&p.structures).unwrap_err(), ErrorKind::Busy.on(UnitId(2)));
    assert_eq!(p.m.host.counts().frames, frames);
    p.m.end();
}

#[test]
fn nothing_is_added_to_what_was_never_up_and_nothing_that_lacks_what_the_host_wants() {
    let ecap = crate::unit::standin::ECAP_SM;
    let (host, _units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let vtd = Vtd::new(host, dmar.topology(), config()).unwrap();
    let not_up = ErrorKind::State(State::NotUp);
    assert_eq!(vtd.add_unit(&Plug::structures(BASE)).unwrap_err().kind, not_up);
    assert_eq!(vtd.remove_unit(UnitId(0)).unwrap_err().kind, not_up);
    vtd.bring_up(TakeOver::Disable).unwrap();
    assert_eq!(vtd.remove_unit(UnitId(7)).unwrap_err(), ErrorKind::Unknown.on(UnitId(7)));
    vtd.remove_unit(UnitId(0)).unwrap();
    assert_eq!(vtd.hand_back().map_err(|(_, e)| e).unwrap().counts().frames, 0);
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap)]);
    let m = Machine::with(host, units, &dmar, Config { tables: Tables::Scalable, ..config() });
    let p = Plug::on(m, ecap & !ECAP_SMTS & !ECAP_SSTS);
    let lacking = ErrorKind::Unsupported(Need::ScalableMode);
    assert_eq!(p.m.vtd.add_unit(&p.structures).unwrap_err().kind, lacking);
    p.m.end();
}

in_both_modes! {
    a_unit_that_comes_serves_its_devices_as_any_other
    a_unit_that_goes_takes_its_groups_along_and_may_come_again
    nobody_claims_what_is_about_to_lose_its_unit
    a_unit_that_is_gone_is_declared_so_and_its_groups_come_free
    what_cannot_be_added_leaves_the_machine_as_it_was
    memory_may_end_anywhere_while_a_unit_is_added
    there_is_room_for_as_many_as_the_host_said
}

//! Suspended and resumed, with registers that were kept and with registers that were lost.

use super::machine::{Machine, WIDE, dev, map, range};
use crate::host::testing::Host;
use crate::hw::registers::at;
use crate::unit::standin::{CAP, CAP_PLMR, CAP_RWBF, ECAP_QI, IRE, QIE, SIRTP, SRTP, TE, WBF};
use crate::{Domain, Error, ErrorKind, Owner, State, Step, Target, UnitId};

/// Two units; a device of each maps page 1 to page 5 and has asked for it, and the first unit remaps interrupts.
struct Night {
    m: Machine,
    domain: Domain<Host>,
    groups: [crate::Group<Host>; 2],
}

const TABLE: u64 = 0x7000_0007;

impl Night {
    fn new(ecap: u64) -> Self {
        let m = Machine::new(&[(CAP | CAP_PLMR, ecap); 2]);
        m.units[0].regs.set64(at::IRTA, TABLE);
        m.units[0].regs.set32(at::GSTS, m.units[0].regs.get32(at::GSTS) | IRE | SIRTP);
        let domain: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
        map(&domain, 0x1000, 0x5000, 0x1000);
        let groups = [dev(1), dev(9)].map(|d| m.claim(d));
        groups.iter().for_each(|g| assert!(g.attach(Target::Domain(&domain)).is_ok()));
        let n = Night { m, domain, groups };
        assert_eq!(n.page(0x1000), [Some(0x5000); 2]);
        n.m.forget();
        n
    }

    /// What both devices reach.
    fn page(&self, at: u64) -> [Option<u64>; 2] {
        [self.m.units[0].access(1 << 3, at), self.m.units[1].access(9 << 3, at)]
    }

    fn status(&self, n: usize) -> u32 {
        self.m.units[n].regs.get32(at::GSTS)
    }

    /// Page 1 goes and page 2 comes while the units are off.
    fn change(&self) {
        self.domain.unmap(range(0x1000, 0x1fff)).unwrap().flush().unwrap();
        map(&self.domain, 0x2000, 0x6000, 0x1000);
    }

    fn works(self) {
        assert_eq!((self.page(0x1000), self.page(0x2000)), ([None; 2], [Some(0x6000); 2]));
        assert_eq!((self.status(0) & (TE | IRE | SRTP), self.status(1) & (TE | IRE)), (TE | IRE | SRTP, TE));
        let other = self.m.claim(dev(2));
        other.attach(Target::Domain(&self.domain)).unwrap();
        self.domain.unmap(range(0x2000, 0x2fff)).unwrap().flush().unwrap();
        assert_eq!(self.page(0x2000), [None; 2]);
        let Night { m, domain, groups } = self;
        drop((groups, domain, other));
        m.end();
    }
}

fn what_changed_meanwhile_is_true_afterwards_whether_registers_were_kept_or_lost(ecap: u64) {
    for (lost, ecap) in [(false, ecap), (true, ecap), (true, ecap & !ECAP_QI)] {
        let n = Night::new(ecap);
        n.m.vtd.suspend().unwrap();
        assert_eq!((n.status(0) & (TE | QIE | IRE), n.status(1) & (TE | QIE)), (IRE, 0));
        for unit in &n.m.units {
            assert!(unit.regs.get32(at::FECTL) >> 31 == 1 && unit.regs.get32(at::IECTL) >> 31 == 1, "masked");
        }
        n.m.forget();
        n.change();
        assert!(n.m.units.iter().all(|u| u.take().0.is_empty()), "no unit is asked for anything");
        let suspended = ErrorKind::State(State::Suspended);
        assert_eq!(n.groups[0].attach(Target::Domain(&n.domain)).unwrap_err().kind, suspended);
        assert_eq!(n.m.vtd.claim(n.m.vtd.group_of(dev(3)).unwrap(), Owner(1)).unwrap_err().kind, suspended);
        if lost {
            n.m.units.iter().for_each(|u| u.lose_power());
            // Firmware's.
            n.m.units[1].regs.set32(at::PMEN, 1 << 31 | 1);
        }
        n.m.vtd.resume().unwrap();
        for (i, unit) in n.m.units.iter().enumerate() {
            let event = [at::FECTL, at::FEDATA, at::FEADDR].map(|r| unit.regs.get32(r));
            assert_eq!(event, [0, (i as u32) << 2, 0xfee0_0000]);
            assert_eq!((unit.regs.get32(at::PMEN), unit.regs.get32(at::IECTL) >> 31), (0, 1));
        }
        assert_eq!(n.m.units[0].regs.get32(at::IRTA), TABLE as u32);
        n.works();
    }
}

fn groups_are_released_while_units_are_suspended(ecap: u64) {
    let n = Night::new(ecap);
    n.m.vtd.suspend().unwrap();
    n.m.vtd.suspend().unwrap();
    let Night { m, domain, groups: [first, second] } = n;
    first.release().map_err(|(_, e)| e).unwrap();
    m.units.iter().for_each(|u| u.lose_power());
    m.vtd.resume().unwrap();
    m.vtd.resume().unwrap();
    assert_eq!((m.units[0].access(1 << 3, 0x1000), m.units[1].access(9 << 3, 0x1000)), (None, Some(0x5000)));
    drop((second, domain));
    m.end();
}

fn a_machine_is_given_back_while_it_is_suspended(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap); 2]);
    m.vtd.suspend().unwrap();
    m.units[1].lose_power();
    m.end();
}

fn a_unit_that_is_another_one_is_named_and_not_used(ecap: u64) {
    let n = Night::new(ecap);
    n.m.vtd.suspend().unwrap();
    n.change();
    n.m.units[1].lose_power();
    n.m.units[1].regs.set64(at::CAP, CAP);
    n.m.forget();
    assert_eq!(n.m.vtd.resume().unwrap_err(), ErrorKind::UnitChanged.on(UnitId(1)));
    assert!(n.m.units[1].state().writes.is_empty());
    n.m.units[1].regs.set64(at::CAP, CAP | CAP_PLMR);
    n.m.vtd.resume().unwrap();
    n.works();
}

/// Resumes with this trouble on the second unit, then without.
fn troubled(ecap: u64, begin: impl Fn(&Night), expected: &[ErrorKind]) {
    let n = Night::new(ecap);
    n.m.vtd.suspend().unwrap();
    n.change();
    n.m.units.iter().for_each(|u| u.lose_power());
    begin(&n);
    let Error { kind, unit, .. } = n.m.vtd.resume().unwrap_err();
    assert!(expected.contains(&kind) && unit == Some(UnitId(1)), "{kind:?}");
    let suspended = n.m.vtd.claim(n.m.vtd.group_of(dev(3)).unwrap(), Owner(1)).unwrap_err();
    assert!(matches!(suspended.kind, ErrorKind::State(_)), "{suspended}");
    {
        let mut s = n.m.units[1].state();
        (s.stuck, s.deaf) = (0, Default::default());
    }
    n.m.units[1].awake();
    n.m.vtd.resume().unwrap();
    n.works();
}

fn a_resume_that_fails_at_any_step_is_repeated(ecap: u64) {
    for (bit, step) in [(QIE, Step::Queue), (SRTP, Step::RootPointer), (TE, Step::Translation)] {
        troubled(ecap, |n| n.m.units[1].state().stuck = bit, &[ErrorKind::Timeout(step)]);
    }
    troubled(ecap, |n| n.m.units[1].state().asleep = true, &[ErrorKind::Timeout(Step::Invalidation)]);
    let deaf = [
        (at::IQA, Step::Queue),
        (at::RTADDR, Step::RootPointer),
        (at::FEDATA, Step::Message),
        (at::FEADDR, Step::Message),
        (at::FECTL, Step::Message),
    ];
    for (register, step) in deaf {
        let begin = |n: &Night| {
            n.m.units[1].regs.set64(register, 0x8000_0000);
            n.m.units[1].state().deaf.push(register);
        };
        troubled(ecap, begin, &[ErrorKind::Unverified(step)]);
    }
}

fn a_suspend_that_fails_at_any_step_is_repeated_or_taken_back(ecap: u64) {
    for (again, bit) in [(true, TE), (false, TE), (true, QIE), (false, QIE)] {
        let n = Night::new(ecap);
        n.m.units[1].state().stuck = bit;
        let step = if bit == TE { Step::Translation } else { Step::Queue };
        assert_eq!(n.m.vtd.suspend().unwrap_err(), ErrorKind::Timeout(step).on(UnitId(1)));
        n.m.units[1].state().stuck = 0;
        if again {
            n.m.vtd.suspend().unwrap();
            n.m.units.iter().for_each(|u| u.lose_power());
        }
        n.change();
        n.m.vtd.resume().unwrap();
        n.works();
    }
}

fn a_unit_that_goes_away_in_between_is_an_error_and_its_memory_stays_owned(ecap: u64) {
    for left in 0..40 {
        let m = Machine::new(&[(CAP | CAP_RWBF, ecap)]);
        m.units[0].state().gone_after = Some(left);
        let outcome = m.vtd.suspend().and_then(|()| m.vtd.resume());
        let gone = m.units[0].regs.get32(at::GSTS) == u32::MAX;
        assert!(gone || outcome.is_ok());
        assert!(m.host.time() < 5_000_000_000);
        if !gone {
            assert!(left > 8);
            m.units[0].state().gone_after = None;
            return m.end();
        }
        match m.vtd.hand_back() {
            Ok(host) => assert!(host.counts().frames > 0),
            Err((_, e)) => assert_eq!(e.kind, ErrorKind::UnitGone),
        }
    }
    panic!("it never ends");
}

#[test]
fn nothing_is_suspended_that_was_not_up() {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, crate::unit::standin::ECAP)]);
    let vtd = crate::Vtd::new(host, dmar.topology(), super::machine::config()).unwrap();
    let not_up = ErrorKind::State(State::NotUp);
    assert_eq!((vtd.suspend().unwrap_err().kind, vtd.resume().unwrap_err().kind), (not_up, not_up));
    units[0].state().stuck = WBF | TE;
    vtd.bring_up(crate::TakeOver::Disable).unwrap_err();
    units[0].state().stuck = 0;
    assert_eq!((vtd.suspend().unwrap_err().kind, vtd.resume().unwrap_err().kind), (not_up, not_up));
    assert_eq!(units[0].regs.get32(at::GSTS) & TE, 0);
}

crate::unit::standin::in_both_modes! {
    what_changed_meanwhile_is_true_afterwards_whether_registers_were_kept_or_lost
    groups_are_released_while_units_are_suspended
    a_machine_is_given_back_while_it_is_suspended
    a_unit_that_is_another_one_is_named_and_not_used
    a_resume_that_fails_at_any_step_is_repeated
    a_suspend_that_fails_at_any_step_is_repeated_or_taken_back
    a_unit_that_goes_away_in_between_is_an_error_and_its_memory_stays_owned
}

//! Requests that are tried around every store to memory that units read: each must see the old or the new state, never a
//! third.

use super::Machine;
use crate::devices::{Alias, FunctionId};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::request::{Access, Answer, Pasid, Request};
use alloc::vec::Vec;

/// A request that might come at any moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Of whom.
    pub function: FunctionId,
    /// What for.
    pub access: Access,
    /// Where.
    pub address: u64,
    /// With which PASID.
    pub pasid: Option<Pasid>,
    /// As a privileged entity.
    pub privileged: bool,
    /// As a real request, which the caches answer and fill and whose faults are recorded; without, it asks only what memory
    /// shows now to a unit with empty caches, and leaves no trace.
    pub real: bool,
}

impl Probe {
    /// Without PASID and trace.
    pub fn new(function: FunctionId, access: Access, address: u64) -> Self {
        Probe { function, access, address, pasid: None, privileged: false, real: false }
    }
    /// The same with a PASID.
    pub fn with_pasid(self, pasid: Pasid) -> Self {
        Probe { pasid: Some(pasid), ..self }
    }
    /// The same as a real request.
    pub fn for_real(self) -> Self {
        Probe { real: true, ..self }
    }
}

/// What a probe met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It reached memory at this address.
    Memory(u64),
    /// It was blocked.
    Blocked(Reason),
    /// It went elsewhere.
    Elsewhere,
}

impl From<Answer> for Seen {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Passed(p) => Seen::Memory(p.address),
            Answer::Blocked(f) => Seen::Blocked(f.reason),
            Answer::Translated(_) | Answer::Interrupt | Answer::Nothing => Seen::Elsewhere,
        }
    }
}

/// When a probe was tried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum When {
    /// Just before the store.
    Before,
    /// Right after it.
    After,
}

/// One try of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sight {
    /// Where the CPU stored.
    pub store: u64,
    /// Before or after.
    pub when: When,
    /// The probe's index.
    pub probe: usize,
    /// What it met.
    pub seen: Seen,
}

/// The probes that are set, and what they met so far, in order.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    probes: Vec<Probe>,
    sights: Vec<Sight>,
}

impl Probes {
    /// Everything that was met, in order.
    pub fn sights(&self) -> &[Sight] {
        &self.sights
    }
    /// What one probe met, in order, without repetitions.
    pub fn path(&self, probe: usize) -> Vec<Seen> {
        let mut path: Vec<Seen> = self.of(probe).map(|s| s.seen).collect();
        path.dedup();
        path
    }
    /// Whether a probe met nothing but these states; else the first sight of another.
    pub fn only(&self, probe: usize, states: &[Seen]) -> Result<(), Sight> {
        self.of(probe).find(|s| !states.contains(&s.seen)).map_or(Ok(()), |s| Err(*s))
    }
    /// Whether a probe met these states in this order: it may stay in one, it may not have come to the last, but it never
    /// goes back or elsewhere; else the first sight that does not fit.
    pub fn turns(&self, probe: usize, states: &[Seen]) -> Result<(), Sight> {
        let mut left = states;
        for sight in self.of(probe) {
            match left.iter().position(|s| *s == sight.seen) {
                Some(n) => left = &left[n..],
                None => return Err(*sight),
            }
        }
        Ok(())
    }
    fn of(&self, probe: usize) -> impl Iterator<Item = &Sight> {
        self.sights.iter().filter(move |s| s.probe == probe)
    }
}

impl<M: Memory> Machine<M> {
    /// From now on these probes are tried before and after every store; what others met is forgotten.
    pub fn set_probes(&mut self, probes: Vec<Probe>) {
        self.probes = Probes { probes, sights: Vec::new() };
    }
    /// The probes and what they met.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    pub(super) fn try_probes(&mut self, store: u64, when: When) {
        if self.probes.probes.is_empty() {
            return;
        }
        let probes = core::mem::take(&mut self.probes.probes);
        for (n, probe) in probes.iter().enumerate() {
            if let Some(answer) = self.try_probe(probe) {
                self.probes.sights.push(Sight { store, when, probe: n, seen: answer.into() });
            }
        }
        self.probes.probes = probes;
    }

    /// `None` where there is no such function, or no unit above it.
    fn try_probe(&mut self, probe: &Probe) -> Option<Answer> {
        let function = self.function(probe.function)?;
        let source = match function.alias {
            Alias::Always(id) => id,
            Alias::None | Alias::Sometimes(_) => function.source,
        };
        let unit = function.unit;
        let request = Request {
            pasid: probe.pasid,
            privileged: probe.privileged && probe.pasid.is_some(),
            ..Request::new(source, probe.access, probe.address)
        };
        self.with(unit, |u, wires| if probe.real { u.request(wires, &request) } else { u.look(wires, &request) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn probes(seen: &[Seen]) -> Probes {
        let sights = seen.iter().map(|&seen| Sight { store: 0, when: When::Before, probe: 0, seen });
        Probes { probes: vec![], sights: sights.collect() }
    }

    const OLD: Seen = Seen::Memory(0x1000);
    const NEW: Seen = Seen::Memory(0x2000);
    const BLOCKED: Seen = Seen::Blocked(Reason(5));

    #[test]
    fn a_third_state_is_found() {
        let seen = probes(&[OLD, OLD, BLOCKED, NEW]);
        assert_eq!(seen.only(0, &[OLD, NEW]).unwrap_err().seen, BLOCKED);
        assert!(seen.only(0, &[OLD, NEW, BLOCKED]).is_ok());
        assert!(seen.only(1, &[]).is_ok());
    }

    #[test]
    fn a_way_back_is_found() {
        assert!(probes(&[OLD, OLD, NEW, NEW]).turns(0, &[OLD, NEW]).is_ok());
        assert!(probes(&[OLD]).turns(0, &[OLD, NEW]).is_ok());
        assert!(probes(&[NEW]).turns(0, &[OLD, NEW]).is_ok());
        assert_eq!(probes(&[OLD, NEW, OLD]).turns(0, &[OLD, NEW]).unwrap_err().seen, OLD);
        assert!(probes(&[OLD, BLOCKED, NEW]).turns(0, &[OLD, NEW]).is_err());
    }

    #[test]
    fn the_path_leaves_repetitions_out() {
        assert_eq!(probes(&[OLD, OLD, NEW, OLD]).path(0), [OLD, NEW, OLD]);
    }
}

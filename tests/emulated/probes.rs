//! Requests of devices before and after every store of the driver: each sees the old state or the new, never a third.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vtd_emu::{Access, Answer, Request};

use crate::host::Host;
use crate::rig::{Ask, Who, in_legacy_mode};

/// Where a request led.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Seen {
    /// To this address.
    Memory(u64),
    /// It was blocked, for this reason.
    Blocked(u8),
}

#[derive(Default)]
struct Table {
    on: bool,
    /// By unit, who asks and address: all that was seen, in order, without repetitions.
    asked: BTreeMap<(usize, Who, u64), Vec<Seen>>,
}

/// The probes of one machine.
#[derive(Clone)]
pub struct Probes(Arc<Mutex<Table>>);

impl Probes {
    /// With `always`, all probes look at all stores; else only while a story wants them to.
    pub fn new(host: &Host, always: bool) -> Self {
        let probes = Probes(Arc::new(Mutex::new(Table { on: always, asked: BTreeMap::new() })));
        let table = probes.0.clone();
        host.trouble().around = Some(Box::new(move |machine| {
            let mut table = table.lock().unwrap();
            if !table.on {
                return;
            }
            for ((unit, who, address), seen) in &mut table.asked {
                let plain = Request::new(who.device.source.0, Access::Read, *address);
                let now = match machine.request(*unit, &Request { pasid: who.pasid, ..plain }) {
                    Some(Answer::Passed(p)) => Seen::Memory(p.address),
                    Some(Answer::Blocked(f)) => Seen::Blocked(in_legacy_mode(f.reason.0, Ask::Read)),
                    other => panic!("{other:?}"),
                };
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
            }
        }));
        probes
    }

    /// From now on a read of the device at this address goes with every store.
    pub fn add(&self, unit: usize, who: impl Into<Who>, address: u64) {
        self.0.lock().unwrap().asked.insert((unit, who.into(), address), Vec::new());
    }

    /// Nobody asks any more.
    pub fn clear(&self) {
        self.0.lock().unwrap().asked.clear();
    }

    /// What all probes have seen since the last call.
    pub fn take(&self) -> Vec<(u64, Vec<Seen>)> {
        let mut table = self.0.lock().unwrap();
        table.asked.iter_mut().map(|((.., address), seen)| (*address, std::mem::take(seen))).collect()
    }

    /// Runs `body` with the probes looking, whatever the mode says.
    pub fn looking<R>(&self, body: impl FnOnce() -> R) -> R {
        let was = std::mem::replace(&mut self.0.lock().unwrap().on, true);
        let r = body();
        self.0.lock().unwrap().on = was;
        r
    }

    pub fn stop(&self, host: &Host) {
        host.trouble().around = None;
    }
}

/// What was seen is some of `states`, one after the other, and never an earlier one again.
#[track_caller]
pub fn in_order(seen: &[Seen], states: &[Seen], whose: &str) {
    let mut left = states;
    for s in seen {
        let Some(n) = left.iter().position(|state| state == s) else {
            panic!("{whose}: {seen:x?}, and known {states:x?}");
        };
        left = &left[n..];
    }
}

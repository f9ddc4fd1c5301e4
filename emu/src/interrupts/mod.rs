//! Interrupt remapping and posting (chapter 5): from a device's write to the interrupt range to a message for a CPU, to a bit
//! in a posted-interrupt descriptor, or to the reason why not.

mod entry;
#[cfg(test)]
mod tests;

use crate::bus::{Bus, Snoop};
use crate::caches::Cached;
use crate::faults::{Record, RecordKind};
use crate::reason::Reason;
use crate::request::SourceId;
use crate::story::Happening;
use crate::unit::Unit;
use entry::{Control, Entry, RANGE, above};

/// A DWORD write to the interrupt address range, from a device or an I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptRequest {
    /// Who asks.
    pub source: SourceId,
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptAnswer {
    /// It goes on to the CPUs as it is, which is the caller's to do: remapping is off, or compatibility format passes.
    Passed,
    /// It went on remapped: message address and data.
    Remapped(u64, u32),
    /// It was posted; whether a notification went out.
    Posted(bool),
    /// It was blocked.
    Blocked(Reason),
}

/// A request in remappable format (5.1.2.2).
#[derive(Clone, Copy)]
struct Remappable {
    /// Handle and subhandle make this index (5.1.3). It can be beyond any table.
    index: u32,
    /// Reserved bits of the data are set.
    malformed: bool,
}

impl InterruptRequest {
    /// The request as one of remappable format, if it is one (address bit 4).
    fn remappable(&self) -> Option<Remappable> {
        if self.address & 1 << 4 == 0 {
            return None;
        }
        let handle = (self.address >> 5 & 0x7fff | (self.address >> 2 & 1) << 15) as u32;
        // SHV; without it the data means nothing.
        Some(match self.address & 1 << 3 {
            0 => Remappable { index: handle, malformed: false },
            _ => Remappable { index: handle + (self.data & 0xffff), malformed: self.data >> 16 != 0 },
        })
    }
}

/// Why an interrupt was blocked, and whether FPD keeps that from being recorded.
struct Blocked {
    reason: Reason,
    silent: bool,
}

impl From<Reason> for Blocked {
    /// A fault that no entry keeps from being recorded.
    fn from(reason: Reason) -> Self {
        Blocked { reason, silent: false }
    }
}

/// How often the update of a descriptor is tried while CPUs write to it, too.
const TRIES: u32 = 1000;

impl Unit {
    /// An interrupt request (5.1.4). What becomes of it, a remapped interrupt or a notification, goes out through
    /// [`Bus::message`].
    pub fn interrupt(&mut self, bus: &mut dyn Bus, request: &InterruptRequest) -> InterruptAnswer {
        if self.is_gone() {
            return InterruptAnswer::Blocked(Reason::NONE);
        }
        let answer = self.remap(bus, request);
        let reason = answer.as_ref().err().map(|blocked| blocked.reason);
        self.tell(Happening::Asked(request.source, None, request.address, reason));
        let blocked = match answer {
            Ok(answer) => return answer,
            Err(blocked) => blocked,
        };
        if !blocked.silent {
            self.record(
                bus,
                Record {
                    reason: blocked.reason,
                    source: request.source,
                    pasid: None,
                    privileged: false,
                    execute: false,
                    kind: RecordKind::Interrupt,
                    address: fault_info(request, blocked.reason),
                },
            );
        }
        InterruptAnswer::Blocked(blocked.reason)
    }

    fn remap(&mut self, bus: &mut dyn Bus, request: &InterruptRequest) -> Result<InterruptAnswer, Blocked> {
        if request.address >> 20 != RANGE {
            return Err(Reason::IR_29.into());
        }
        if !self.state.remapping {
            return if self.profile.irreq() { Err(Reason::IR_2B.into()) } else { Ok(InterruptAnswer::Passed) };
        }
        if self.profile.eimer() && !self.state.extended {
            return Err(Reason::IR_2A.into());
        }
        let Some(remappable) = request.remappable() else {
            return if self.state.extended || !self.state.compatible {
                Err(Reason::IR_25.into())
            } else {
                Ok(InterruptAnswer::Passed)
            };
        };
        if remappable.malformed {
            return Err(Reason::IR_20.into());
        }
        if remappable.index >= self.state.interrupt_entries.min(1 << 16) {
            return Err(Reason::IR_21.into());
        }
        let index = remappable.index as u16;
        let cached = match self.caches.interrupt(index) {
            Some(&Cached::Valid(words)) => Some(Entry(words)),
            _ => None,
        };
        let entry = match cached {
            Some(entry) => entry,
            None => self.fetch_interrupt(bus, index)?,
        };
        let answer = self.process(bus, request.source, entry);
        // Entries that fault are kept where the unit caches what is not present (6.4). The words say all about them, FPD too.
        if cached.is_none() && (answer.is_ok() || self.profile.cm()) {
            self.caches.keep_interrupt(index, Cached::Valid(entry.0));
        }
        answer.map_err(|reason| Blocked { reason, silent: entry.silent() })
    }

    /// Reads an entry, whole.
    fn fetch_interrupt(&mut self, bus: &mut dyn Bus, index: u16) -> Result<Entry, Blocked> {
        let at = self.state.interrupts.checked_add(16 * u64::from(index)).filter(|&at| !above(at, self.profile.width));
        let Some(at) = at else { return Err(Reason::IR_21.into()) };
        bus.read128(at, self.profile.snoop()).map(Entry).ok_or_else(|| Reason::IR_23.into())
    }

    /// What an entry makes of a request; the reasons here are qualified ones.
    fn process(&mut self, bus: &mut dyn Bus, source: SourceId, entry: Entry) -> Result<InterruptAnswer, Reason> {
        if !entry.present() {
            return Err(Reason::IR_22);
        }
        entry.admits(source)?;
        let extended = self.state.extended;
        if entry.malformed(&self.profile, extended) {
            return Err(Reason::IR_24);
        }
        if entry.posted() {
            return post(bus, entry, extended).map(InterruptAnswer::Posted);
        }
        let (address, data) = entry.message(extended);
        bus.message(address, data);
        Ok(InterruptAnswer::Remapped(address, data))
    }
}

/// The fault information (11.4.7.6): the index, where the reason has one. Elsewhere it is undefined, here 0.
fn fault_info(request: &InterruptRequest, reason: Reason) -> u64 {
    match request.remappable() {
        Some(remappable) if !matches!(reason, Reason::IR_20 | Reason::IR_29 | Reason::IR_2A | Reason::IR_2B) => {
            u64::from(remappable.index as u16) << 48
        }
        _ => 0,
    }
}

/// Posts an interrupt (5.2.3); whether it notified.
///
/// Hardware changes the whole descriptor in one step. Here the request is set first: who takes it before ON is set has got it,
/// and is notified once in vain.
fn post(bus: &mut dyn Bus, entry: Entry, extended: bool) -> Result<bool, Reason> {
    let descriptor = entry.descriptor();
    let mut words = [0; 8];
    for (word, at) in words.iter_mut().zip((descriptor..).step_by(8)) {
        *word = bus.read64(at, Snoop::Yes).ok_or(Reason::IR_27)?;
    }
    let [.., control, reserved1, reserved2, reserved3] = words;
    if Control(control).malformed(extended) || reserved1 | reserved2 | reserved3 != 0 {
        return Err(Reason::IR_28);
    }
    let request = descriptor + u64::from(entry.vector() / 64) * 8;
    update(bus, request, |old| old | 1 << (entry.vector() % 64)).ok_or(Reason::IR_27)?;
    let notifies = |control| Control(control).notifies(entry.urgent());
    let set = |old| if notifies(old) { old | Control::OUTSTANDING } else { old };
    let old = update(bus, descriptor + 32, set).ok_or(Reason::IR_27)?;
    if notifies(old) {
        let (address, data) = Control(old).message(extended);
        bus.message(address, data);
    }
    Ok(notifies(old))
}

/// Changes a word in one step; says what stood there.
fn update(bus: &mut dyn Bus, at: u64, change: impl Fn(u64) -> u64) -> Option<u64> {
    let mut old = bus.read64(at, Snoop::Yes)?;
    for _ in 0..TRIES {
        match bus.compare_exchange64(at, old, change(old))? {
            found if found == old => return Some(old),
            found => old = found,
        }
    }
    None
}

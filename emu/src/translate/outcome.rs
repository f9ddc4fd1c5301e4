//! What is granted of what is wanted, and how the device is told (3.6.1, 3.7.1, 3.8.1, 3.15, 4.2.3).

use super::attributes::effective;
use super::{Stop, Walk, Want};
use crate::caches::{Leaf, Rights, Stage};
use crate::explain::{Observer, Step};
use crate::reason::Reason;
use crate::request::{Answer, Kind, Passed, Request, Translated};
use crate::state::{Mode, State};

/// Write-back, as the PAT encodes it.
pub(super) const WRITE_BACK: u8 = 6;

/// Whether an address is in the interrupt range (3.15).
pub(super) fn is_interrupt(address: u64) -> bool {
    address >> 20 == 0xfee
}

/// Whether a page of `size` bytes, aligned to it, touches the interrupt range.
fn touches_interrupts(page: u64, size: u64) -> bool {
    page <= 0xfeef_ffff && page.saturating_add(size - 1) >= 0xfee0_0000
}

/// A translation, from the tables or from the IOTLB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// First input address of the page.
    pub(super) first: u64,
    /// Its size in bytes, a power of two.
    pub(super) size: u64,
    /// Physical address of the page.
    pub(super) physical: u64,
    /// The second stage lets it be read.
    pub(super) read: bool,
    /// The second stage lets it be written.
    pub(super) write: bool,
    /// What the first stage allows.
    pub(super) rights: Rights,
    /// No dirty bit is left to be set.
    pub(super) dirty: bool,
    /// Accesses snoop whatever they say themselves.
    pub(super) snoop: bool,
    /// Memory type, as the tables say it.
    pub(super) memory: u8,
    pub(super) stage: Stage,
}

/// Everything is allowed.
pub(super) const ALL: Rights = Rights { read: true, write: true, user: true };

impl Found {
    pub(super) fn of(leaf: &Leaf) -> Self {
        Found {
            first: leaf.first,
            size: leaf.size.max(1),
            physical: leaf.physical,
            read: leaf.read,
            write: leaf.write,
            rights: leaf.first_rights,
            dirty: leaf.dirty,
            snoop: leaf.snoop,
            memory: leaf.memory,
            stage: leaf.stage,
        }
    }
    /// Where an input address leads.
    pub(super) fn output(&self, address: u64) -> u64 {
        self.physical.wrapping_add(address.wrapping_sub(self.first))
    }
    fn staged(&self) -> bool {
        matches!(self.stage, Stage::First | Stage::Nested)
    }
}

/// What is granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) read: bool,
    pub(super) write: bool,
    /// What a translation request wanted and does not get.
    because: Option<Reason>,
}

/// The reasons for a lack of write and of read permission.
pub(super) fn denials(state: &State) -> (Reason, Reason) {
    match state.mode {
        Mode::Scalable => (Reason::SGN_6, Reason::SGN_7),
        _ => (Reason::LGN_2, Reason::LGN_3),
    }
}

impl<O: Observer> Walk<'_, O> {
    /// Judges a request by a translation; `check` hears of each check. The order is that of the rights first, then of where the
    /// page is.
    pub(super) fn judge(
        &self,
        found: &Found,
        request: &Request,
        want: &Want,
        mut check: impl FnMut(bool, Reason) -> Result<(), Reason>,
    ) -> Result<Grant, Reason> {
        if found.staged() {
            check(!want.privileged && !found.rights.user, Reason::SGN_2)?;
        }
        let writable = !found.staged() || found.rights.write || want.privileged && !want.protect;
        let (read, write) = (found.read, found.write && writable);
        // A zero-length read needs a page that is mapped for something (3.14).
        let excused = want.flush && self.profile.zlr() && found.write;
        let lacks_write = want.write && !write;
        let lacks_read = want.read && !read && !excused;
        let (no_write, no_read) = denials(self.state);
        let because = if lacks_write {
            Some(no_write)
        } else if lacks_read {
            Some(no_read)
        } else {
            None
        };
        let output = found.output(request.address);
        let interrupts = match (want.translation, found.stage) {
            // The whole page goes to the device.
            (true, Stage::First | Stage::Second | Stage::Nested) => touches_interrupts(found.physical, found.size),
            _ => is_interrupt(output),
        };
        if !want.translation {
            check(lacks_write, no_write)?;
            check(lacks_read, no_read)?;
        }
        check(interrupts, if self.state.mode == Mode::Scalable { Reason::SGN_8 } else { Reason::LGN_4 })?;
        if !want.translation && self.is_protected(request, output, found.stage == Stage::PassThrough) {
            check(true, Reason::NONE)?;
        }
        Ok(Grant { read, write, because })
    }
    /// The same, telling of the checks.
    pub(super) fn admit(&mut self, found: &Found, request: &Request, want: &Want) -> Result<Grant, Stop> {
        let mut seen = [None; 5];
        let mut slots = seen.iter_mut();
        let grant = self.judge(found, request, want, |failed, reason| {
            if let Some(slot) = slots.next() {
                *slot = Some((failed, reason));
            }
            if failed { Err(reason) } else { Ok(()) }
        });
        for (failed, reason) in seen.into_iter().flatten() {
            self.observer.see(|| Step::Check { reason, failed });
        }
        grant.map_err(Stop::Fault)
    }
    /// The answer where there is a translation.
    pub(super) fn granted(&self, found: &Found, grant: &Grant, request: &Request, want: &Want) -> Answer {
        let address = found.output(request.address);
        match request.kind {
            Kind::Translation { .. } => {
                let (read, write) = (grant.read, grant.write && want.write);
                if !read && !write {
                    return Answer::Translated(nothing(request, grant.because));
                }
                Answer::Translated(Translated {
                    address: found.physical,
                    page: found.size,
                    read,
                    write,
                    snoop: found.snoop,
                    ..nothing(request, grant.because)
                })
            }
            _ => Answer::Passed(Passed {
                address,
                page: if found.stage == Stage::PassThrough { u64::MAX } else { found.size },
                snoop: !request.no_snoop || found.snoop,
                memory_type: effective(found.memory, self.registers, self.profile.width, address),
            }),
        }
    }
    /// Whether a memory access meets protected memory (11.4.8.1). Old units let what page tables have translated pass there;
    /// `bare`: the address was not translated.
    fn is_protected(&self, request: &Request, address: u64, bare: bool) -> bool {
        let last = address.saturating_add(u64::from(request.length.max(1)) - 1);
        let meets = |range: &(u64, u64)| address <= range.1 && last >= range.0;
        (bare || self.profile.protects_all()) && self.state.protected.iter().flatten().any(meets)
    }
    /// Stops where an access meets protected memory.
    pub(super) fn protected(&mut self, request: &Request, address: u64, bare: bool) -> Result<(), Stop> {
        if self.is_protected(request, address, bare) { self.check(true, Reason::NONE) } else { Ok(()) }
    }
    /// A translated request: its address is the host's (4.2.5).
    pub(super) fn host_address(&mut self, request: &Request) -> Result<Answer, Stop> {
        let scalable = self.state.mode == Mode::Scalable;
        let (wide, interrupt) = if scalable { (Reason::SGN_4, Reason::SGN_8) } else { (Reason::LGN_1, Reason::LGN_4) };
        self.check(request.address & self.profile.beyond() != 0, wide)?;
        self.check(is_interrupt(request.address), interrupt)?;
        self.protected(request, request.address, true)?;
        Ok(unchanged(request))
    }
}

/// The answer where nothing is translated.
pub(super) fn unchanged(request: &Request) -> Answer {
    Answer::Passed(Passed {
        address: request.address,
        page: u64::MAX,
        snoop: !request.no_snoop,
        memory_type: WRITE_BACK,
    })
}

/// Success with R=W=U=S=0 (Table 30). Priv is set for every privileged request with PASID (4.2.3).
pub(super) fn nothing(request: &Request, because: Option<Reason>) -> Translated {
    Translated {
        address: 0,
        page: 0x1000,
        read: false,
        write: false,
        untranslated_only: false,
        snoop: false,
        execute: false,
        privileged: request.privileged && request.pasid.is_some(),
        global: false,
        because,
    }
}

/// The answer to a translation request without PASID for the interrupt range (S.1 and S.2 of Table 30): the device may write
/// there, untranslated.
pub(super) fn interrupt_range(request: &Request, want: &Want) -> Answer {
    Answer::Translated(Translated { write: want.write, untranslated_only: want.write, ..nothing(request, None) })
}

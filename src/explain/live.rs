//! The driver's answer: the walk of the tables that it has given the unit, and what it believes besides.
//!
//! Memory is read only where the driver owns it, from an owned table on: no number becomes a pointer. Locks are tried, never
//! waited for.

use super::data::{Attempt, Request, Unit, Verdict, Walk, Word};
use super::walk::walk;
use crate::device::GroupId;
use crate::device::events::Fault;
use crate::device::registry::{Attached, Owner};
use crate::driver::Vtd;
use crate::host::address::{DeviceId, Iova, Pasid, UnitId};
use crate::host::error::{Error, ErrorKind, Field};
use crate::host::platform::Platform;
use crate::hw::faults::Reason;
use core::fmt;

/// What a group, or a PASID of a device, is attached to, as the driver has it.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// Nothing: its requests are blocked.
    Blocked,
    /// All of memory: pass-through, or the tables that stand in for it.
    Identity,
    /// A domain.
    Domain,
    /// A guest's first-stage tables over a domain: the guest's are not the driver's, and the walk does not go into them.
    Stage1,
    /// What a predecessor attached it to: tables that are not the driver's, into which the walk does not go.
    Adopted,
}

/// Why a request of a device gets where it gets, or does not. It prints as lines.
#[derive(Clone, Copy, Debug)]
pub struct Explanation {
    /// The unit that serves the requester.
    pub unit: UnitId,
    /// Whether the unit translates; while it does not, devices reach all of memory, whatever its tables say.
    pub translates: bool,
    /// The group of the requester, where it is known.
    pub group: Option<GroupId>,
    /// Who has claimed it.
    pub owner: Option<Owner>,
    /// What it is attached to, or the PASID of the request; `None` where it has no group, or where that could not be seen.
    pub attached: Option<Attachment>,
    /// Somebody held a lock, and what is behind it was not looked at: the walk may end early, `Verdict::Unknown`.
    pub held: bool,
    /// What the unit gave as its reason, where the explanation is of a fault.
    pub fault: Option<Reason>,
    /// The walk of the tables.
    pub walk: Walk,
}

impl<P: Platform> Vtd<P> {
    /// Why `d`, asking to `attempt` something at `at`, gets where it gets: the walk of its unit's live tables. As memory
    /// says it; what a unit has cached, and what waits for a flush, is not seen. A user's request of 4 bytes.
    ///
    /// Any context, after a panic too: takes no lock that is held, does not wait, allocates nothing, and reads one register.
    /// Wants 3 KiB of stack.
    ///
    /// Errors: `State(NotUp)`; `Unknown` for no device of the machine; `Unsupported(Unit)` where no unit serves it;
    /// `UnitGone`.
    pub fn explain(&self, d: DeviceId, pasid: Option<Pasid>, at: Iova, attempt: Attempt) -> Result<Explanation, Error> {
        let request = Request { pasid, ..Request::new(d.source, attempt, at.get()) };
        let unit = self.unit_of(d)?;
        self.explain_request(unit, request).map_err(|e| e.of(d))
    }

    /// The same for the request that a fault tells of, as the tables are now: they may have changed since.
    ///
    /// Errors: as [`explain`](Vtd::explain), but that a requester may be unknown; `Invalid(Address)` for faults of
    /// interrupts, which have none.
    pub fn explain_fault(&self, f: &Fault) -> Result<Explanation, Error> {
        if f.reason.is_interrupt() {
            return Err(ErrorKind::Invalid(Field::Address).on(f.unit));
        }
        let (privileged, execute) = (f.privileged, f.execute);
        let plain = Request::new(f.source, f.attempt.into(), f.address.get());
        let request = Request { pasid: f.pasid, privileged, execute, ..plain };
        let mut explained = self.explain_request(f.unit, request)?;
        // A record has lost the sign of first-stage addresses; the tables say which bit it was.
        for bits in [48, 57] {
            let blocked = Verdict::Blocked { reason: Reason(0x80), recorded: true };
            let negative = request.address >> (bits - 1) == 1;
            if explained.walk.verdict == blocked && f.reason != Reason(0x80) && negative {
                let address = request.address | u64::MAX << bits;
                explained = self.explain_request(f.unit, Request { address, ..request })?;
            }
        }
        Ok(Explanation { fault: Some(f.reason), ..explained })
    }

    fn explain_request(&self, id: UnitId, request: Request) -> Result<Explanation, Error> {
        let core = self.core();
        let registry = core.registry()?;
        let p = core.platform();
        let unit = core.machine.unit(id)?;
        let root = unit.root_pointer().ok_or(ErrorKind::UnitGone.on(id))?;
        // Who has the driver write 0 there has units that want it.
        let strict_width = !core.host().config.first_stage_width;
        let facts = Unit { caps: unit.caps, hpa_width: core.hpa_width(), root, strict_width };
        let device = DeviceId { segment: unit.segment, source: request.source };
        let found = registry.find(device);
        let place = found.map(|(g, _)| g);

        let states = registry.states.try_lock(p);
        let tables = unit.root.try_lock(p);
        let mut held = states.is_none() || tables.is_none();
        let state = states.as_ref().and_then(|s| s.get(place?));
        let target = state.zip(found).map(|(s, (_, member))| s.target(member, request.pasid));
        let mut read = |word: u64| {
            let own = tables.as_ref().and_then(|t| t.word(p, request.source, word));
            let found = match (own, target) {
                (Some(entry), _) => Ok(Some(entry)),
                (None, Some(Attached::Space(space))) => space.entry(request.address, word),
                (None, _) => Ok(None),
            };
            held |= found.is_err();
            found.ok().flatten().map_or(Word::Unknown, Word::Is)
        };
        let walk = walk(&facts, request, &mut read);
        // Where a unit has no pass-through, tables stand in for it.
        let stands_in = |space| match core.one_to_one.try_lock(p) {
            Some(tables) => tables.as_ref().is_some_and(|d| d.space.is(space)),
            None => false,
        };
        let attached = target.map(|t| match t {
            Attached::Blocked => Attachment::Blocked,
            Attached::Identity => Attachment::Identity,
            Attached::Adopted => Attachment::Adopted,
            Attached::Space(space) if stands_in(space) => Attachment::Identity,
            Attached::Space(space) if space.nested() => Attachment::Stage1,
            Attached::Space(_) => Attachment::Domain,
        });
        Ok(Explanation {
            unit: id,
            translates: unit.translates(),
            group: place.and_then(|g| registry.id(g).ok()),
            owner: state.and_then(|s| s.owner),
            attached,
            held,
            fault: None,
            walk,
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.unit)?;
        match self.group {
            Some(group) => write!(f, ", {group}")?,
            None => f.write_str(", a requester that the driver does not know")?,
        }
        match self.owner {
            Some(Owner::HOST) => f.write_str(", claimed by the host")?,
            Some(Owner(n)) => write!(f, ", claimed by guest {n}")?,
            None if self.attached.is_some() => f.write_str(", claimed by nobody")?,
            None => {}
        }
        match self.attached {
            Some(Attachment::Blocked) => f.write_str(", blocked")?,
            Some(Attachment::Identity) => f.write_str(", attached to all of memory")?,
            Some(Attachment::Domain) => f.write_str(", attached to a domain")?,
            Some(Attachment::Stage1) => f.write_str(", attached to a guest's tables over a domain")?,
            Some(Attachment::Adopted) => f.write_str(", still where a predecessor attached it")?,
            None => {}
        }
        f.write_str("\n")?;
        if !self.translates {
            f.write_str("The unit does not translate: devices reach all of memory, whatever its tables say.\n")?;
        }
        write!(f, "{}", self.walk)?;
        if self.held {
            f.write_str("\nSomebody holds a lock: not everything was looked at.")?;
        }
        match (self.fault, self.walk.verdict) {
            (Some(then), Verdict::Blocked { reason, .. }) if then == reason => Ok(()),
            (Some(_), Verdict::Unknown) | (None, _) => Ok(()),
            // What made an address too wide is what a record drops of it.
            (Some(then), _) if matches!(then.0, 0x04 | 0x80 | 0x83 | 0x84) => {
                write!(f, "\nThe unit said {then}: its record has no room for all bits of such an address.")
            }
            (Some(then), _) => {
                write!(f, "\nThe unit said {then}: the tables have changed since, or it went by what it had cached.")
            }
        }
    }
}

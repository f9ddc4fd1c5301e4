//! Address spaces whose page tables are somebody else's: a CPU's own (VT-d 3.6, 3.7). The driver leads devices to them and flushes
//! what their owner says has changed; it never writes to them.

use super::flush::Flushed;
use super::foreign::{CheckedTables, ForeignTables, Offers, Refused, TableForm};
use super::state::Space;
use crate::host::address::{Hpa, Range};
use crate::host::error::{Error, ErrorKind};
use crate::host::mem::Shared;
use crate::host::platform::Platform;
use crate::unit::flights::Flights;
use crate::unit::{Machine, Unit};
use core::fmt;

/// Why tables were not taken for an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotShared {
    /// They do not fit the units, for this reason.
    Refused(Refused),
    /// The driver failed.
    Error(Error),
}

impl fmt::Display for NotShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotShared::Refused(r) => write!(f, "these tables cannot be a domain's: {r}"),
            NotShared::Error(e) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for NotShared {}

impl From<Refused> for NotShared {
    fn from(r: Refused) -> Self {
        NotShared::Refused(r)
    }
}

impl From<ErrorKind> for NotShared {
    fn from(e: ErrorKind) -> Self {
        NotShared::Error(e.into())
    }
}

/// An address space on a CPU's own page tables: made by `Group::share_tables`, attached as `Target::Shared`.
///
/// Who made it keeps the tables to the form that was checked and in place until the last device has left and the value is
/// dropped, and tells of every change by [`invalidate`](AddressSpace::invalidate).
pub struct AddressSpace<P: Platform> {
    pub(crate) space: Shared<Space<P>>,
    tables: CheckedTables,
}

impl<P: Platform> fmt::Debug for AddressSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Checks the tables for `units`.
    pub(crate) fn new<'u>(
        machine: &Shared<Machine<P>>,
        units: impl Iterator<Item = &'u Unit<P>>,
        (form, root, levels): (TableForm, Hpa, u8),
        tables: &dyn ForeignTables,
        hpa_width: u8,
    ) -> Result<Self, NotShared>
    where
        P: 'u,
    {
        let mut offers = None;
        for unit in units {
            let one = Offers::of(unit, form, hpa_width)?;
            offers = Some(match offers {
                Some(all) => one.and(all).ok_or(Refused::Stage(form))?,
                None => one,
            });
        }
        let offers = offers.ok_or(Refused::Stage(form))?;
        let tables = CheckedTables::check(tables, root, levels, &offers)?;
        let space = Space::foreign(machine, tables, hpa_width)?;
        let space = Shared::new(space).map_err(|(_, e)| NotShared::from(e))?;
        Ok(AddressSpace { space, tables })
    }

    /// What the check found.
    pub fn tables(&self) -> CheckedTables {
        self.tables
    }

    /// Whether an entry that comes where none was must be told of too: a unit that caches absent second-stage entries (CAP.CM),
    /// or buffers writes (CAP.RWBF), has a device in it.
    pub fn tell_of_new_entries(&self) -> bool {
        self.space.lock().flush_maps
    }

    /// Flushes what every unit and device may have cached of a range, after the owner has changed its entries and before it
    /// uses the memory for anything else. `leaf_only`: nothing but entries that map pages has changed. A table that was taken
    /// out of use may be freed when the flush of all that it mapped, with `leaf_only` false, has succeeded.
    ///
    /// A range of the upper half, for first-stage tables, is given by its sign-extended addresses. Waits, with a deadline; not for
    /// interrupt context. After an error the old entries may still be in caches: call it again before anything is reused.
    pub fn invalidate(&self, r: Range, leaf_only: bool) -> Result<Flushed, Error> {
        let (space, mut flights) = (&*self.space, Flights::new());
        let outcome =
            space.launch(&mut flights, |_, add| add(r, leaf_only)).and_then(|()| flights.wait(&space.machine));
        flights.abandon(&space.machine);
        outcome.map(|()| Flushed(()))
    }
}

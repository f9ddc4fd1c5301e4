//! Address spaces whose tables somebody else owns: a CPU's, checked once (`foreign`) and kept by their owner (VT-d 6.5.2).

use super::foreign::CheckedTables;
use super::paging::engine::Stale;
use super::state::Space;
use crate::host::address::{Iova, PAGE, Range};
use crate::host::error::{Error, ErrorKind};
use crate::host::mem::Shared;
use crate::host::platform::Platform;
use crate::unit::Machine;
use core::fmt;

/// A CPU's page tables, as what devices can be attached to. The driver reads nothing of them but in the check, and stores
/// nothing; the owner reports what changed with `invalidate`, as it does to its own CPUs.
pub struct AddressSpace<P: Platform> {
    pub(crate) space: Shared<Space<P>>,
}

impl<P: Platform> fmt::Debug for AddressSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace").field("tables", &self.space.foreign).finish_non_exhaustive()
    }
}

impl<P: Platform> AddressSpace<P> {
    pub(crate) fn new(machine: &Shared<Machine<P>>, tables: CheckedTables) -> Result<Self, ErrorKind> {
        let space = Shared::new(Space::foreign(machine, tables)?).map_err(|(_, e)| e)?;
        Ok(AddressSpace { space })
    }

    /// Flushes what units and devices may have cached of a range that changed: before the memory behind it, or a table that
    /// went, is used for anything else. `leaf_only`: no entry changed that led to a table. The range is rounded out to pages.
    ///
    /// After an error what was asked stays owed, and the next call that succeeds has flushed it too; but for `OutOfMemory`,
    /// after which nothing is remembered. Waits, with a deadline. Not for interrupt context.
    pub fn invalidate(&self, r: Range, leaf_only: bool) -> Result<(), Error> {
        self.space.changed(r, leaf_only)
    }

    /// Whether what became present must be invalidated too: a unit caches absent entries of a second stage (CAP.CM), or
    /// buffers writes (CAP.RWBF). It may become so with every attachment.
    pub fn reports_maps(&self) -> bool {
        self.space.lock().flush_maps
    }

    /// Ends it, where nothing is attached any more: then no unit has a way to the tables. Else gives it back. Dropping it
    /// instead leaves attachments, and the tables with them, to their groups.
    pub fn close(self) -> Result<(), Self> {
        match self.space.take() {
            // A unit that did not confirm the last flush may still walk them.
            Ok((space, place)) if space.in_use() => Err(AddressSpace { space: place.fill(space) }),
            Ok(_) => Ok(()),
            Err(space) => Err(AddressSpace { space }),
        }
    }
}

impl<P: Platform> Space<P> {
    /// The owner of the tables changed them: flushes what may be cached of a range.
    pub(super) fn changed(&self, r: Range, leaf_only: bool) -> Result<(), Error> {
        let (first, last) = (r.first.get() & !(PAGE - 1), r.last.get() | (PAGE - 1));
        let range = Range { first: Iova::at(first), last: Iova::at(last.max(first | (PAGE - 1))) };
        let mut s = self.lock();
        s.owed.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
        let ticket = s.ticket();
        s.owe(Stale { range, leaf_only }, None, ticket);
        self.end(s, ticket, None).flush_all().map(drop).map_err(|n| n.error)
    }
}

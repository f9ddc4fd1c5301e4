//! Which pages of a domain devices have written to (VT-d 3.6.2, 3.7.2), with the flushes that make the answer exact.

use super::domain::{Domain, FlushMode};
use crate::host::address::{Iova, PAGE, Range};
use crate::host::error::{Error, ErrorKind, Field, Need};
use crate::host::platform::Platform;

/// The largest page: no piece that is read at once may cut one, for then it would stay dirty.
const PIECE: u64 = 1 << 30;

impl<P: Platform, M: FlushMode> Domain<P, M> {
    /// Which pages of a range devices have written to since this was last asked, for a domain made with `dirty`. Bit `i` of
    /// `bits`, counted from bit 0 of word 0, is set for page `i` of 4 KiB of the range; no bit is cleared, so that one bitmap can
    /// gather several rounds.
    ///
    /// When this returns, everything that devices wrote before, to pages that it names, has reached memory, and a later
    /// write makes its page dirty again: what is copied then misses nothing. After an error keep the bits and copy nothing
    /// for them yet; what is not flushed stays owed, and the next call that succeeds answers for it.
    ///
    /// A page of 2 MiB or 1 GiB is dirty as a whole. One that lies in the range in part alone is named and stays dirty: read in
    /// ranges of whole pages, and make the domain with small pages where an exact answer matters. Pages that are unmapped
    /// take what they had to say with them.
    ///
    /// One reader of a range at a time: of two the union of both bitmaps is exact when both have returned, and neither alone.
    ///
    /// Waits, with a deadline, for the flush. Takes the domain's lock for 1 GiB at a time. Not for interrupt context.
    ///
    /// Errors: `Unsupported` without `dirty` (first-stage tables of `coherent` domains do without it); `Invalid` where the range is
    /// not whole pages of the domain's addresses, and where `bits` is too short for it; `OutOfMemory`; those of a flush.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn core::error::Error>> {
    /// # use vtd::{Access, Iova, PAGE, Range, Strict, Target};
    /// # let (host, vtd, group) = emulated::ready();
    /// let mut spec = group.best_spec();
    /// spec.dirty = true;
    /// let domain = vtd.domain::<Strict>(&spec)?;
    /// group.attach(Target::Domain(&domain))?;
    /// let range = Range::sized(Iova::at(0x4000_0000), 8 * PAGE).unwrap();
    /// domain.map(range.first, host.memory(8), 8 * PAGE, Access::READ | Access::WRITE)?;
    ///
    /// host.write(None, 0x4000_3000, 1)?;
    /// host.read(None, 0x4000_5000)?;
    /// let (mut bits, mut later) = ([0], [0]);
    /// domain.read_and_clear_dirty(range, &mut bits)?;
    /// domain.read_and_clear_dirty(range, &mut later)?;
    /// assert_eq!((bits, later), ([0b1000], [0]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_and_clear_dirty(&self, r: Range, bits: &mut [u64]) -> Result<(), Error> {
        let space = &*self.space;
        let ticket = space.lock().ticket();
        let read = self.read_pieces(r, bits, Some(ticket));
        // Also where nothing was dirty, or reading ended early: what is owed may hide a write that this call has to answer for.
        let flushed = space.end(space.lock(), ticket, None).flush_all().map_err(|n| n.error);
        read?;
        flushed.map(drop)
    }

    /// The same, with nothing cleared and nothing flushed: what devices wrote lately may be missing.
    pub fn dirty(&self, r: Range, bits: &mut [u64]) -> Result<(), Error> {
        self.read_pieces(r, bits, None)
    }

    /// Reads piece after piece, and clears where there is a ticket to owe the flush under.
    fn read_pieces(&self, r: Range, bits: &mut [u64], ticket: Option<u64>) -> Result<(), Error> {
        let space = &*self.space;
        let p = &space.machine.host.platform;
        if r.first > r.last || !r.is_aligned(PAGE) {
            return Err(ErrorKind::Invalid(Field::Address).into());
        }
        if r.len_minus_one() / PAGE / 64 >= bits.len() as u64 {
            return Err(ErrorKind::Invalid(Field::Size).into());
        }
        let mut first = r.first;
        loop {
            let piece = Range { first, last: r.last.min(Iova::at(first.get() | (PIECE - 1))) };
            let skip = first.get().wrapping_sub(r.first.get()) / PAGE;
            let mut s = space.lock();
            // Room for what will be owed, before anything is cleared.
            s.owed.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
            let tables = s.tables.as_mut().filter(|t| t.tracks_dirty());
            let tables = tables.ok_or(ErrorKind::Unsupported(Need::DirtyTracking))?;
            let stale = tables.read_dirty(p, piece, bits, skip, ticket.is_some());
            if let Some((stale, ticket)) = stale.map_err(|_| ErrorKind::Invalid(Field::Address))?.zip(ticket) {
                s.owe(stale, None, ticket);
            }
            drop(s);
            match piece.last.checked_add(1) {
                Some(next) if next <= r.last => first = next,
                _ => return Ok(()),
            }
        }
    }
}

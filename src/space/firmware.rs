//! Regions that firmware reserved for devices, mapped one to one in the domain while these are attached (VT-d 8.4), and whole
//! address spaces mapped so.

use super::paging::Access;
use super::state::{NOBODY, Space, State};
use crate::host::address::{Hpa, INTERRUPT_RANGE, Iova, Range};
use crate::host::error::{ErrorKind, Field, MapError, MapWhy};
use crate::host::grow;
use crate::host::platform::Platform;

impl<P: Platform> Space<P> {
    /// Maps a region that firmware reserved for a device, one to one, for as long as devices need it that are attached.
    pub(crate) fn enter_firmware(&self, r: Range) -> Result<(), ErrorKind> {
        let p = &self.machine.host.platform;
        let mut s = self.lock();
        if r.last.get() < s.one_to_one {
            return Ok(());
        }
        if let Some((_, uses)) = s.firmware.iter_mut().find(|(known, _)| *known == r) {
            *uses = uses.saturating_add(1);
            return Ok(());
        }
        // Room to remember the region, and to take back every piece of it that is mapped before one fails.
        let pieces = s.firmware.len().saturating_add(2);
        s.firmware.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
        s.owed.try_reserve(pieces).map_err(|_| ErrorKind::OutOfMemory)?;
        let (ticket, mut from, mut flush) = (s.ticket(), r.first, false);
        // Regions may overlap: what another one has mapped already is left to it.
        while let Some(piece) = s.bare(from, r.last) {
            let to = Hpa::new(piece.first.get()).ok_or(ErrorKind::Invalid(Field::Address));
            let len = piece.len_minus_one().checked_add(1).ok_or(ErrorKind::Invalid(Field::Address));
            let mapped = to.and_then(|to| {
                let how = Access::READ | Access::WRITE;
                s.map(p, piece.first, to, len?, how, ticket).map_err(|e| match e.why {
                    MapWhy::OutOfFrames => ErrorKind::OutOfFrames,
                    MapWhy::OutOfMemory => ErrorKind::OutOfMemory,
                    _ => ErrorKind::Invalid(Field::ReservedRegion),
                })
            });
            match mapped {
                Ok(f) => flush |= f,
                Err(e) => {
                    let before = piece.first.get().checked_sub(1).and_then(|last| Range::new(r.first.get(), last));
                    s.unmap_bare(p, before, ticket);
                    self.take_back(s, ticket);
                    return Err(e);
                }
            }
            let Some(next) = piece.last.checked_add(1) else { break };
            from = next;
        }
        grow::push(&mut s.firmware, (r, 1))?;
        drop(s);
        if flush && let Err(e) = self.flush_mapped(r) {
            self.leave_firmware(r);
            return Err(e.kind);
        }
        Ok(())
    }

    /// Ends a use of such a region; the last one unmaps what no other region needs. What units do not confirm in time stays
    /// owed.
    pub(crate) fn leave_firmware(&self, r: Range) {
        let mut s = self.lock();
        let Some((_, uses)) = s.firmware.iter_mut().find(|(known, _)| *known == r) else { return };
        *uses -= 1;
        if *uses == 0 {
            s.firmware.retain(|(_, uses)| *uses != 0);
            let ticket = s.ticket();
            s.unmap_bare(&self.machine.host.platform, Some(r), ticket);
            self.take_back(s, ticket);
        }
    }

    /// Maps every address below `top` to itself, but for the interrupt addresses. Locks for one GiB at a time, for that can
    /// be 262144 entries.
    pub(crate) fn map_one_to_one(&self, top: u64, how: Access) -> Result<(), ErrorKind> {
        let p = &self.machine.host.platform;
        let below = top.min(INTERRUPT_RANGE.first.get());
        let above = INTERRUPT_RANGE.last.get() + 1;
        for (mut first, end) in [(0, below), (above, top)] {
            while first < end {
                let next = ((first | 0x3fff_ffff) + 1).min(end);
                let (at, to) = (Iova::at(first), Hpa::of_entry(first));
                let mapped = self.lock().map(p, at, to, next - first, how, NOBODY);
                mapped.map_err(|_| ErrorKind::OutOfFrames)?;
                first = next;
            }
        }
        self.lock().one_to_one = top;
        Ok(())
    }
}

impl State {
    /// The first part of `from` to `last` that no region of firmware covers.
    pub(super) fn bare(&self, mut from: Iova, last: Iova) -> Option<Range> {
        let regions = || self.firmware.iter().map(|(r, _)| r);
        while let Some(r) = regions().find(|r| r.first <= from && from <= r.last) {
            from = r.last.checked_add(1)?;
        }
        let end = regions().filter(|r| r.first > from).map(|r| r.first.get() - 1).min();
        Range::new(from.get(), end.map_or(last.get(), |e| e.min(last.get())))
    }

    /// Unmaps what is mapped of a range and not covered by a region of firmware; owed under `ticket`.
    pub(super) fn unmap_bare<P: Platform>(&mut self, p: &P, r: Option<Range>, ticket: u64) {
        let Some(r) = r else { return };
        let mut from = r.first;
        while let Some(piece) = self.bare(from, r.last) {
            // Nothing there, or no memory to remember it by, for which `enter_firmware` made room: then it stays mapped.
            let _ = self.unmap(p, piece, ticket);
            let Some(next) = piece.last.checked_add(1) else { break };
            from = next;
        }
    }

    /// An error where the range meets a region that firmware needs for an attached device.
    pub(super) fn leave_alone(&self, r: Range) -> Result<(), MapError> {
        match self.firmware.iter().find(|(f, _)| f.overlaps(&r)) {
            Some((f, _)) => Err(MapError { why: MapWhy::InterruptRange, at: f.first.max(r.first) }),
            None => Ok(()),
        }
    }
}

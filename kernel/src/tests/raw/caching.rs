//! What the unit remembers and what makes it forget: register-based invalidation. VT-d 6.5.1.
//!
//! A page that leads from one frame to another shows it: where the write lands, cached or new, is seen in memory.

use super::frame::Frame;
use super::reasons::NO_WRITE;
use super::rig::{DOMAIN, Rig};
use super::space::Space;
use super::unit::RawUnit;
use crate::testing::Failure;
use crate::{check, check_eq, skip, test};
use alloc::vec::Vec;
use vtd::hw::faults::Access;
use vtd::hw::invalidation::{Ccmd, Drain, FunctionMask, Iotlb, IotlbScope, Iva};
use vtd::hw::pages::{WRITE, size};
use vtd::hw::tables::ContextEntry;

/// A rig whose page has just been led to another frame while its old translation was cached. Skips the test where the
/// unit caches nothing: there is nothing to be seen.
pub fn stale(level: u8) -> Result<(Rig, Frame, ()), Failure> {
    let mut rig = Rig::with(|u| u.capabilities.cap.widest(), level)?;
    // At the same offset in its page as the rig's own, so that one address leads to either.
    let other = if level == 1 { Frame::new()? } else { twin(&rig, level)? };
    rig.redirect(level, &other)?;
    if !rig.lands_in(&rig.target, &other)? {
        skip!("the unit caches no translations");
    }
    Ok((rig, other, ()))
}

/// A rig whose context entry has just been led to other tables, in the next domain, while the old one was cached.
pub fn other_tables() -> Result<(Rig, Frame, Space), Failure> {
    let mut rig = Rig::new()?;
    let (mut space, other) = (Space::new(rig.space.width)?, Frame::new()?);
    space.map(rig.iova, 1, other.address())?;
    let entry = ContextEntry::second_stage(space.top(), space.width, DOMAIN + 1);
    rig.unit.set_context(rig.writer.source, entry)?;
    rig.unit.invalidate_iotlb(Iotlb::global(Drain::BOTH), None)?;
    if !rig.lands_in(&rig.target, &other)? {
        skip!("the unit caches no context entries");
    }
    Ok((rig, other, space))
}

/// A frame in another page of `level`, at the same offset.
fn twin(rig: &Rig, level: u8) -> Result<Frame, Failure> {
    let offset = |f: &Frame| f.address() & (size(level) - 1);
    let mut rest = Vec::new();
    loop {
        let f = Frame::new()?;
        if offset(&f) == offset(&rig.target) {
            return Ok(f);
        }
        rest.push(f);
    }
}

test! {
    fn iotlb_forgets_everything() {
        let (rig, other, ()) = stale(1)?;
        check_eq!(rig.unit.invalidate_iotlb(Iotlb::global(Drain::BOTH), None)?, Some(IotlbScope::Global));
        check!(!rig.lands_in(&rig.target, &other)?);
    }

    fn iotlb_forgets_a_domain() {
        let (rig, other, ()) = stale(1)?;
        let done = rig.unit.invalidate_iotlb(Iotlb::domain(DOMAIN, Drain::BOTH), None)?;
        check!(matches!(done, Some(IotlbScope::Domain | IotlbScope::Global)), "{done:?}");
        check!(!rig.lands_in(&rig.target, &other)?);
    }

    /// What was not asked for may go with it, so only what is asked for is looked at.
    fn iotlb_forgets_a_page() {
        for leaf_only in [false, true] {
            let (rig, other, ()) = stale(1)?;
            let page = Iva::new(rig.iova, 0, leaf_only);
            let done = rig.unit.invalidate_iotlb(Iotlb::page(DOMAIN, Drain::NONE), Some(page))?;
            check!(done.is_some());
            check!(!rig.lands_in(&rig.target, &other)?);
        }
    }

    /// 2^MAMV pages at once and no more.
    fn iotlb_forgets_a_range() {
        let cap = RawUnit::open()?.capabilities.cap;
        if !cap.psi() {
            skip!("the unit invalidates no single pages");
        }
        for order in [1, 4, 9, cap.mamv()] {
            let (rig, other, ()) = stale(1)?;
            let first = rig.iova & !((0x1000 << order) - 1);
            let range = Iva::new(first, order, true);
            let done = rig.unit.invalidate_iotlb(Iotlb::page(DOMAIN, Drain::BOTH), Some(range))?;
            check!(done.is_some(), "order {order}");
            check!(!rig.lands_in(&rig.target, &other)?, "order {order}");
        }
        let (rig, ..) = stale(1)?;
        let range = Iva::new(0, cap.mamv() + 1, true);
        let done = rig.unit.invalidate_iotlb(Iotlb::page(DOMAIN, Drain::BOTH), Some(range))?;
        check_eq!(done, None, "more pages than the unit takes");
    }

    /// By the order that covers a large page, the large page goes.
    fn iotlb_forgets_a_large_page() {
        let (rig, other, ()) = stale(2)?;
        let page = Iva::new(rig.iova & !0x1f_ffff, 9, true);
        check!(rig.unit.invalidate_iotlb(Iotlb::page(DOMAIN, Drain::BOTH), Some(page))?.is_some());
        check!(!rig.lands_in(&rig.target, &other)?);
    }

    /// A page that is taken away works on until it is invalidated, and faults from then on.
    fn absent_page_is_noticed_when_invalidated() {
        let mut rig = Rig::new()?;
        let spare = Frame::new()?;
        rig.space.set(rig.iova, 1, 0)?;
        if !matches!(rig.lands_in(&rig.target, &spare), Ok(true)) {
            skip!("the unit caches no translations");
        }
        check!(rig.unit.fsts().is_empty(), "{:?}", rig.unit.fsts());
        let page = Iva::new(rig.iova, 0, true);
        rig.unit.invalidate_iotlb(Iotlb::page(DOMAIN, Drain::BOTH), Some(page))?;
        rig.stopped_cached("invalidated")?;
        rig.unit.expect_fault("invalidated", rig.writer.source, rig.iova, Access::Write, NO_WRITE)?;
    }

    /// What was absent is found at once where the unit does not cache that, else when it is invalidated.
    fn new_page_is_found() {
        let mut rig = Rig::new()?;
        let good = rig.space.get(rig.iova, 1);
        for level in 1..=rig.space.levels() {
            let entry = rig.space.get(rig.iova, level);
            rig.space.set(rig.iova, level, 0)?;
            rig.refused("absent", NO_WRITE)?;
            rig.space.set(rig.iova, level, entry)?;
            if rig.unit.capabilities.cap.cm() {
                let page = Iva::new(rig.iova, 0, false);
                rig.unit.invalidate_iotlb(Iotlb::page(DOMAIN, Drain::BOTH), Some(page))?;
            }
            let spare = Frame::new()?;
            check!(rig.lands_in(&rig.target, &spare)?, "level {level}");
        }
        check_eq!(rig.space.get(rig.iova, 1), good);
    }

    /// More rights need an invalidation, too: the old ones may be cached.
    fn right_to_write_is_found_when_invalidated() {
        let mut rig = Rig::new()?;
        let good = rig.space.get(rig.iova, 1);
        rig.space.set(rig.iova, 1, good & !WRITE)?;
        rig.refused("read-only", NO_WRITE)?;
        rig.space.set(rig.iova, 1, good)?;
        let page = Iva::new(rig.iova, 0, true);
        rig.unit.invalidate_iotlb(Iotlb::page(DOMAIN, Drain::BOTH), Some(page))?;
        let spare = Frame::new()?;
        check!(rig.lands_in(&rig.target, &spare)?);
    }

    /// A context entry that leads to other tables: the context cache first, then the domain that it named.
    fn context_cache_forgets() {
        let by: [fn(u16) -> Ccmd; 4] = [
            |_| Ccmd::global(),
            |_| Ccmd::domain(DOMAIN),
            |source| Ccmd::device(DOMAIN, source, FunctionMask::Exact),
            |source| Ccmd::device(DOMAIN, source, FunctionMask::Bits2To0),
        ];
        for what in by {
            let (rig, other, _space) = other_tables()?;
            let what = what(rig.writer.source);
            check!(rig.unit.invalidate_contexts(what)?.is_some(), "{what:x?}");
            check!(rig.unit.invalidate_iotlb(Iotlb::domain(DOMAIN, Drain::BOTH), None)?.is_some());
            check!(!rig.lands_in(&rig.target, &other)?, "{what:x?}");
        }
    }

    /// The pointer's takeover empties every cache by itself where the unit says so (ESRTPS); so does going off and on.
    fn commands_forget_everything() {
        let (rig, other, ()) = stale(1)?;
        if rig.unit.capabilities.cap.esrtps() {
            rig.unit.set_root_table(rig.unit.root().address())?;
            check!(!rig.lands_in(&rig.target, &other)?);
        } else {
            rig.unit.turn_on()?;
            check!(!rig.lands_in(&rig.target, &other)?);
        }
    }

    fn request_of_no_scope_is_refused() {
        let rig = Rig::new()?;
        // Everything but the scope.
        check_eq!(rig.unit.invalidate_contexts(Ccmd(1 << 63))?, None);
        check_eq!(rig.unit.invalidate_iotlb(Iotlb(1 << 63), None)?, None);
    }
}

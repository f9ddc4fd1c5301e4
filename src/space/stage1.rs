//! Guests' first-stage tables over a domain that is the guest's memory: nested translation (VT-d 3.8, 9.6).
//!
//! Such a space is known to a unit by a domain id of its own, for two tables under one id and PASID would be one to hardware
//! (6.2.1). What it may have left in caches was made of the domain's tables too: the domain keeps a tag for each such id, and
//! for each device behind it, and its flushes reach them.

use super::domain::{Domain, Strict};
use super::flush::Cached;
use super::paging::Access;
use super::state::{Root, Space, State, User};
use crate::dmar::IntegratedFlags;
use crate::host::address::{Gpa, Iova, PAGE, Range};
use crate::host::error::{Error, ErrorKind, Field, MapError, MapWhy, Need};
use crate::host::grow;
use crate::host::mem::Shared;
use crate::host::platform::Platform;
use crate::hw::capabilities::AddressWidth;
use crate::hw::pasid_tables::FirstStage;
use crate::unit::Machine;
use crate::unit::errata::Errata;
use core::fmt;

/// What a guest says of its first-stage tables.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1Spec {
    /// The top table, in the guest's memory, on a page boundary.
    pub root: Gpa,
    /// Five levels instead of four; wants CAP.FS5LP.
    pub five_levels: bool,
    /// Requests of supervisors are served (SRE); wants ECAP.SRS.
    pub supervisor: bool,
    /// Their writes obey the tables (WPE).
    pub write_protect: bool,
    /// Hardware sets the extended accessed flag (EAFE); wants ECAP.EAFS.
    pub extended_accessed: bool,
}

impl Stage1Spec {
    /// Four levels at `root`, and nothing else.
    pub const fn new(root: Gpa) -> Self {
        Stage1Spec { root, five_levels: false, supervisor: false, write_protect: false, extended_accessed: false }
    }

    fn first(&self) -> FirstStage {
        let Stage1Spec { root, five_levels, supervisor, write_protect, extended_accessed } = *self;
        FirstStage { table: root.get(), five_levels, supervisor, write_protect, extended_accessed }
    }
}

/// A guest's first-stage tables over a domain, as what devices can be attached to. The driver reads nothing of them and stores
/// nothing in them; the guest, or who acts for it, reports what changed with `invalidate`. What they lead to, and the tables
/// themselves, are addresses of the domain: what it does not map, no guest reaches. The domain must map tables for reading and
/// writing, for hardware notes in them what was used (VT-d 3.10).
///
/// It keeps the domain, and every attachment keeps both.
///
/// ```
/// # fn main() -> Result<(), Box<dyn core::error::Error>> {
/// # use vtd::{Access, Gpa, Iova, PAGE, Pasid, Range, Stage, Stage1Spec, Strict, Target};
/// # use emulated::CARD;
/// # let (host, vtd, group) = emulated::ready();
/// // The guest's memory: five pages, 0x1000 to 0x5fff for the guest.
/// let mut spec = group.best_spec();
/// spec.stage = Stage::Second;
/// let (memory, at) = (vtd.domain::<Strict>(&spec)?, host.memory(5));
/// memory.map(Iova::at(PAGE), at, 5 * PAGE, Access::READ | Access::WRITE)?;
/// // Its tables: four pages, one under the other, and the last page at 0x4000_0000.
/// let (mut table, address) = (at.get(), 0x4000_0000u64);
/// for (n, level) in [4u64, 3, 2, 1].into_iter().enumerate() {
///     let next = (n as u64 + 2) * PAGE;
///     host.machine().store(table + (address >> (3 + 9 * level) & 511) * 8, next | 7).unwrap();
///     table += PAGE;
/// }
///
/// let guest = vtd.stage1(&memory, &Stage1Spec::new(Gpa::new(PAGE).unwrap()))?;
/// let seven = Pasid::new(7).unwrap();
/// group.attach_pasid(CARD, seven, Target::Stage1(&guest))?;
/// host.write(Some(seven), address, 42)?;
/// assert_eq!(host.word(at.get() + 4 * PAGE), Some(42));
///
/// // The guest takes the page away, and says so.
/// host.machine().store(at.get() + 3 * PAGE + (address >> 12 & 511) * 8, 0).unwrap();
/// guest.invalidate(Range::sized(Iova::at(address), PAGE).unwrap(), true)?;
/// assert!(host.write(Some(seven), address, 43).is_err());
/// # Ok(())
/// # }
/// ```
pub struct Stage1<P: Platform> {
    pub(crate) space: Shared<Space<P>>,
    spec: Stage1Spec,
}

impl<P: Platform> fmt::Debug for Stage1<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage1").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl<P: Platform> Stage1<P> {
    pub(crate) fn new(
        machine: &Shared<Machine<P>>,
        parent: &Domain<P, Strict>,
        spec: Stage1Spec,
        errata: Errata,
    ) -> Result<Self, ErrorKind> {
        let parent = &parent.space;
        let Root::Second { table, width, dirty } = parent.root() else {
            return Err(ErrorKind::Unsupported(Need::SecondStage));
        };
        if !spec.root.is_aligned(PAGE) || spec.root.get() >> width.bits() != 0 {
            return Err(ErrorKind::Invalid(Field::Address));
        }
        parent.lock().take_guest(spec, errata)?;
        let mut space =
            Space::with(machine, parent.spec(), Root::Nested { first: spec.first(), table, width, dirty }, None);
        // From here on dropping it gives the place back.
        space.over = Some(Over { parent: parent.clone(), spec, width });
        Ok(Stage1 { space: Shared::new(space).map_err(|(_, e)| e)?, spec })
    }

    /// What the guest said of its tables.
    pub fn spec(&self) -> Stage1Spec {
        self.spec
    }

    /// Flushes what units and devices may have cached of a range of input addresses in which the guest changed its tables.
    /// `leaf_only`: no entry changed that led to a table. The range is rounded out to pages.
    ///
    /// After an error what was asked stays owed, and the next call that succeeds has flushed it too; but for `OutOfMemory`,
    /// after which nothing is remembered. Waits, with a deadline. Not for interrupt context.
    pub fn invalidate(&self, r: Range, leaf_only: bool) -> Result<(), Error> {
        self.space.changed(r, leaf_only)
    }

    /// The same of all addresses.
    pub fn invalidate_all(&self) -> Result<(), Error> {
        self.space.changed(Range { first: Iova::at(0), last: Iova::at(u64::MAX) }, false)
    }
}

/// What a guest's tables lie over.
pub(super) struct Over<P: Platform> {
    pub(super) parent: Shared<Space<P>>,
    spec: Stage1Spec,
    /// Of the addresses that the parent takes.
    width: AddressWidth,
}

impl<P: Platform> Over<P> {
    /// Why a unit cannot have such an entry for a user, or would take it for a malformed one (VT-d 7.1.3, SPT.4).
    pub(super) fn refused(&self, user: &User<'_, P>) -> Option<ErrorKind> {
        let (caps, spec) = (&user.unit.caps, &self.spec);
        let bits = caps.cap.mgaw().min(self.width.bits());
        let need = if !user.unit.scalable() || !caps.ecap.nest() || user.forbids(IntegratedFlags::NO_NESTING) {
            Need::Nesting
        } else if spec.five_levels && !caps.cap.fs5lp() {
            Need::Width
        } else if spec.supervisor && !caps.ecap.srs() {
            Need::Supervisor
        } else if spec.extended_accessed && !caps.ecap.eafs() {
            Need::ExtendedAccessed
        } else {
            let beyond = spec.root.get().checked_shr(bits.into()).unwrap_or(0) != 0;
            return beyond.then_some(ErrorKind::Invalid(Field::Address));
        };
        Some(ErrorKind::Unsupported(need))
    }
}

impl<P: Platform> Space<P> {
    /// Whether it is of a guest's tables.
    pub(crate) fn nested(&self) -> bool {
        self.over.is_some()
    }

    /// Registers a user of a guest's tables over this domain, known to its unit by `did`, before any entry leads there.
    pub(super) fn enter_nested(&self, user: &User<'_, P>, did: u16) -> Result<(), ErrorKind> {
        let (unit, mut s) = (user.unit, self.lock());
        s.tags.try_reserve(2).map_err(|_| ErrorKind::OutOfMemory)?;
        for what in Self::nested_tags(user, did).into_iter().flatten() {
            s.tag(user.index, what);
        }
        s.flush_maps |= unit.caps.cap.cm() || unit.needs_write_buffer_flush();
        Ok(())
    }

    /// Ends that, once no cache holds what the user was translated to.
    pub(super) fn leave_nested(&self, user: &User<'_, P>, did: u16) {
        let mut s = self.lock();
        for what in Self::nested_tags(user, did).into_iter().flatten() {
            s.untag(user.index, what);
        }
    }

    fn nested_tags(user: &User<'_, P>, did: u16) -> [Option<Cached>; 2] {
        [Some(Cached::NestedId { did }), user.device.map(|_| Cached::Nested(user.facts(0)))]
    }

    /// A guest's tables end.
    pub(super) fn forget_guest(&self) {
        let Some(over) = &self.over else { return };
        let mut s = over.parent.lock();
        if let Some(place) = s.guests.iter().position(|g| *g == over.spec) {
            s.guests.swap_remove(place);
        }
    }
}

impl State {
    /// Remembers a guest's tables over the domain.
    fn take_guest(&mut self, spec: Stage1Spec, errata: Errata) -> Result<(), ErrorKind> {
        // Hardware takes tables with the same tops for the same.
        let form = |g: &Stage1Spec| (g.five_levels, g.extended_accessed);
        if self.guests.iter().any(|g| g.root == spec.root && form(g) != form(&spec)) {
            return Err(ErrorKind::Invalid(Field::Format));
        }
        self.no_read_only = errata.contains(Errata::READ_ONLY_UNDER_NESTING);
        if self.no_read_only && self.read_only {
            return Err(ErrorKind::Invalid(Field::ReadOnly));
        }
        grow::push(&mut self.guests, spec)
    }

    /// Whether memory may come to have these rights; it is remembered that some had them.
    pub(super) fn permit(&mut self, how: Access, at: Iova) -> Result<(), MapError> {
        if how.contains(Access::READ) && !how.contains(Access::WRITE) {
            if self.no_read_only && !self.guests.is_empty() {
                return Err(MapError { why: MapWhy::ReadOnlyUnderNesting, at });
            }
            self.read_only = true;
        }
        Ok(())
    }
}

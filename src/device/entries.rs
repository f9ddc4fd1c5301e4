//! The one writer of context and PASID entries (VT-d 3.4.3, 9.3 to 9.6). What a change of one must flush is in the rows of
//! `unit::rules` (6.2.2.1, 6.2.3.1, Table 28); which row applies is said here.
//!
//! A device is blocked by an absent entry: the context entry in legacy mode, the PASID entry in scalable mode. A present entry
//! takes another's place in one store where they differ in 16 bytes alone, which entries of second-stage tables and
//! pass-through do. A first-stage or nested entry has its table in the third word: for it the old entry is cleared, flushed, and the new
//! one is written after that, presence last.

use crate::dmar::IntegratedFlags;
use crate::host::address::SourceId;
use crate::host::error::{Error, ErrorKind, Need};
use crate::host::platform::Platform;
use crate::hw::capabilities::AddressWidth;
use crate::hw::pasid_tables::{Allowed, FirstStage, PasidEntry, PasidTranslation, SecondStage};
use crate::hw::tables::{ContextEntry, Translation};
use crate::space::state::{Root, User};
use crate::unit::Host;
use crate::unit::invalidate::Batch;
use crate::unit::pasid::{Requester, seamless};
use crate::unit::root::Entry;
use crate::unit::rules::{self, Change};

/// Where requests are to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aim {
    /// Nowhere.
    Blocked,
    /// To the addresses that they carry.
    PassThrough,
    /// Through tables, known to the unit by a domain id, snooped whatever the device says if `snoop`.
    Tables { root: Root, did: u16, snoop: bool },
}

/// The entry that says so, of the unit's mode.
fn entry<P: Platform>(h: &Host<P>, user: &User<'_, P>, aim: Aim) -> Result<Entry, ErrorKind> {
    let unit = user.unit;
    if !unit.scalable() {
        return Ok(Entry::Context(match aim {
            Aim::Blocked => ContextEntry::ABSENT,
            Aim::PassThrough => {
                let widest = unit.caps.cap.widest().ok_or(ErrorKind::Unsupported(Need::SecondStage))?;
                ContextEntry::pass_through(widest, unit.pass_through)
            }
            // Snooping is forced by the leaves.
            Aim::Tables { root: Root::Second { table, width, .. }, did, .. } => {
                let kind = if user.device.is_some() { Translation::WithDeviceTlb } else { Translation::Untranslated };
                ContextEntry::new(kind, table.get(), width, did)
            }
            Aim::Tables { root: Root::First { .. }, .. } => return Err(ErrorKind::Unsupported(Need::FirstStage)),
            Aim::Tables { root: Root::Nested { .. }, .. } => return Err(ErrorKind::Unsupported(Need::Nesting)),
        }));
    }
    let (e, snoop) = match aim {
        Aim::Blocked => return Ok(Entry::Pasid(PasidEntry::ABSENT)),
        Aim::PassThrough => (PasidEntry::pass_through(unit.pass_through), false),
        Aim::Tables { root: Root::Second { table, width, dirty }, did, snoop } => {
            let second = SecondStage { accessed_dirty: dirty, ..SecondStage::new(table.get(), width) };
            (PasidEntry::second_stage(second, did), snoop)
        }
        Aim::Tables { root: Root::Nested { first, table, width, dirty }, did, snoop } => {
            let second = SecondStage { accessed_dirty: dirty, ..SecondStage::new(table.get(), width) };
            (PasidEntry::nested(first, second, did), snoop)
        }
        Aim::Tables { root: Root::First { table, five_levels, extended_accessed }, did, snoop } => {
            let first = FirstStage { five_levels, extended_accessed, ..FirstStage::four_levels(table.get()) };
            let e = PasidEntry::first_stage(first, did);
            let width = if five_levels { AddressWidth::Bits57 } else { AddressWidth::Bits48 };
            (if h.config.first_stage_width { e.with_width(width) } else { e }, snoop)
        }
    };
    let snooped = unit.snoops_walks() && !user.forbids(IntegratedFlags::NO_WALK_SNOOP);
    let e = if snooped { e.with_walk_snoop() } else { e };
    Ok(Entry::Pasid(if snoop { e.with_page_snoop() } else { e }))
}

/// What a change leaves to be done before it is true for the hardware.
pub(crate) struct Due<'u, P: Platform> {
    user: User<'u, P>,
    old: Entry,
    new: Entry,
    /// The entry was cleared to make room for another: once what is due is done, write again.
    pub(crate) again: bool,
}

impl<P: Platform> Due<'_, P> {
    /// The same where the device's own cache is off in the device, whatever the entry says.
    pub(crate) fn without_device(mut self) -> Self {
        self.user.device = None;
        self
    }

    /// Whether a present entry was replaced by a present one.
    pub(crate) fn seamless(&self) -> bool {
        self.old.present() && self.new.present()
    }

    /// Adds what must be invalidated. `false`: the batch is full, send it and start another.
    pub(crate) fn add_to(&self, batch: &mut Batch) -> bool {
        let unit = self.user.unit;
        let (change, did) = if self.old.present() {
            gone(self.old)
        } else if self.new.present() && unit.caps.cap.cm() {
            match self.new {
                Entry::Context(e) => (Change::ContextAppears, e.did()),
                Entry::Pasid(e) => (Change::PasidAppears, e.did()),
            }
        } else {
            return true;
        };
        self.user.facts(did).add(rules::steps(change, unit.mode), unit.errata, batch)
    }
}

/// The row for a present entry that ends, and its domain id.
pub(crate) fn gone(e: Entry) -> (Change, u16) {
    match e {
        Entry::Context(e) => (Change::ContextEntry, e.did()),
        Entry::Pasid(e) => {
            let change = match e.translation() {
                Some(PasidTranslation::FirstStage) => Change::FirstStageEntry,
                Some(PasidTranslation::PassThrough) => Change::PassThroughEntry,
                Some(PasidTranslation::Nested) => Change::NestedEntry,
                _ => Change::SecondStageEntry,
            };
            (change, e.did())
        }
    }
}

/// Makes sure that writing the entry of `user` will not need memory.
pub(crate) fn prepare<P: Platform>(h: &Host<P>, user: &User<'_, P>, of: Requester) -> Result<(), ErrorKind> {
    let mut root = user.unit.root.lock(&h.platform);
    root.prepare(&h.platform, SourceId(user.source), user.pasid, of)
}

/// Writes the entry of `user`: at once where that can be, else clears the old one first.
pub(crate) fn write<'u, P: Platform>(h: &Host<P>, user: User<'u, P>, aim: Aim) -> Result<Due<'u, P>, ErrorKind> {
    let (source, wanted) = (SourceId(user.source), entry(h, &user, aim)?);
    let mut root = user.unit.root.lock(&h.platform);
    // The group is `unproved` while it has such entries: everything is flushed.
    root.forsake(&h.platform, source);
    let old = root.get(source, user.pasid);
    let again = match (old, wanted) {
        (Entry::Pasid(old), Entry::Pasid(new)) => old.present() && new.present() && !seamless(old, new),
        _ => false,
    };
    let new = if again { Entry::Pasid(PasidEntry::ABSENT) } else { wanted };
    root.set(&h.platform, source, user.pasid, new)?;
    drop(root);
    Ok(Due { user, old, new, again })
}

/// Lets the translation and translated requests of a requester through or blocks them, in scalable mode, and adds what that is
/// to flush, of all PASIDs; `full` sends the batch and empties it. The device's own cache is off in the device, and not asked.
pub(crate) fn let_through<P: Platform>(
    h: &Host<P>,
    user: &User<'_, P>,
    on: bool,
    batch: &mut Batch,
    full: &mut dyn FnMut(&mut Batch) -> Result<(), Error>,
) -> Result<(), Error> {
    let (source, unit) = (SourceId(user.source), user.unit);
    {
        let mut root = unit.root.lock(&h.platform);
        // Also where the entry says so already: its flush may have failed.
        let Some(was) = root.allowed(source) else { return Ok(()) };
        if !root.set_allowed(&h.platform, source, Allowed { device_tlb: on, ..was }) {
            return Ok(());
        }
    }
    let row = rules::steps(Change::ContextEntry, unit.mode);
    let quiet = User { device: None, ..*user };
    // Each domain id behind the entry; none of them twice, and one at least, for the entry itself.
    let mut last = None;
    loop {
        let mut next: Option<u16> = None;
        unit.root.lock(&h.platform).present(source, &mut |_, e| {
            let (_, did) = gone(e);
            if last.is_none_or(|l| did > l) && next.is_none_or(|n| did < n) {
                next = Some(did);
            }
        });
        let did = match (next, last) {
            (Some(did), _) => did,
            (None, None) => 0,
            (None, Some(_)) => return Ok(()),
        };
        if !quiet.facts(did).add(row, unit.errata, batch) {
            full(batch)?;
            quiet.facts(did).add(row, unit.errata, batch);
        }
        last = Some(did);
    }
}

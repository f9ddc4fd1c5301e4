//! The one writer of context and PASID entries (VT-d 3.4.3, 9.3 to 9.6), and what each change of one must flush (6.2.2.1,
//! 6.2.3.1, 6.5.3.3, 6.8).
//!
//! A device is blocked by an absent entry: the context entry in legacy mode, the PASID entry of requests without PASID in
//! scalable mode. Second-stage and pass-through entries of either mode differ in 128 bits alone, so that one of them takes
//! the other's place in one store; an absent one becomes present by its last store.

use crate::host::address::{Hpa, SourceId};
use crate::host::error::{ErrorKind, Need};
use crate::host::platform::Platform;
use crate::hw::capabilities::AddressWidth;
use crate::hw::pasid_tables::{PasidEntry, PasidTranslation, SecondStage};
use crate::hw::registers::TableMode;
use crate::hw::tables::ContextEntry;
use crate::unit::ids::PASS_THROUGH;
use crate::unit::invalidate::{Batch, Request};
use crate::unit::pasid::RID_PASID;
use crate::unit::root::Entry;
use crate::unit::{Host, Unit};

/// Where the requests of a requester id are to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aim {
    /// Nowhere.
    Blocked,
    /// To the addresses that they carry.
    PassThrough,
    /// Through second-stage tables, known to the unit by a domain id.
    SecondStage { root: Hpa, width: AddressWidth, did: u16 },
}

/// The entry that says so, of the unit's mode.
fn entry<P: Platform>(unit: &Unit<P>, aim: Aim) -> Result<Entry, ErrorKind> {
    if unit.mode != TableMode::Scalable {
        return Ok(Entry::Context(match aim {
            Aim::Blocked => ContextEntry::ABSENT,
            Aim::PassThrough => {
                let widest = unit.caps.cap.widest().ok_or(ErrorKind::Unsupported(Need::SecondStage))?;
                ContextEntry::pass_through(widest, PASS_THROUGH)
            }
            Aim::SecondStage { root, width, did } => ContextEntry::second_stage(root.get(), width, did),
        }));
    }
    let e = match aim {
        Aim::Blocked => return Ok(Entry::Pasid(PasidEntry::ABSENT)),
        Aim::PassThrough => PasidEntry::pass_through(PASS_THROUGH),
        Aim::SecondStage { root, width, did } => PasidEntry::second_stage(SecondStage::new(root.get(), width), did),
    };
    Ok(Entry::Pasid(if unit.snoops_walks() { e.with_walk_snoop() } else { e }))
}

/// What a change leaves to be done before it is true for the hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Due {
    old: Entry,
    new: Entry,
    source: SourceId,
}

impl Due {
    /// Whether a present entry was replaced by a present one.
    pub(crate) fn seamless(&self) -> bool {
        self.old.present() && self.new.present()
    }

    /// Adds what must be invalidated. `false`: the batch is full, send it and start another.
    pub(crate) fn add_to<P: Platform>(&self, unit: &Unit<P>, batch: &mut Batch) -> bool {
        let due = if self.old.present() {
            self.gone()
        } else if self.new.present() && unit.caps.cap.cm() {
            self.come()
        } else {
            [None; 4]
        };
        due.into_iter().flatten().all(|r| batch.push(r))
    }

    /// After a present entry was replaced or cleared: what was made from it.
    fn gone(&self) -> [Option<Request>; 4] {
        let SourceId(source) = self.source;
        match self.old {
            Entry::Context(old) => {
                let did = old.did();
                [Some(Request::ContextDevice { did, source }), Some(Request::IotlbDomain { did }), None, None]
            }
            Entry::Pasid(old) => {
                let (did, pasid) = (old.did(), RID_PASID);
                let entry = Some(Request::Pasid { did, pasid });
                if old.translation() == Some(PasidTranslation::PassThrough) {
                    // The specification asks nothing of contexts here. But QEMU looks there alone for whether a device
                    // bypasses translation, and would let it go on doing so.
                    let context = Some(Request::ContextDevice { did: 0, source });
                    [context, entry, Some(Request::IotlbPasid { did, pasid }), None]
                } else {
                    // The whole domain also where a present entry takes its place: the id may go to other tables next.
                    [entry, Some(Request::IotlbDomain { did }), None, None]
                }
            }
        }
    }

    /// After an absent entry became present on a unit in caching mode: its absence, which is cached under domain id 0.
    fn come(&self) -> [Option<Request>; 4] {
        let SourceId(source) = self.source;
        let context = Some(Request::ContextDevice { did: 0, source });
        match self.new {
            Entry::Context(new) => [context, Some(Request::IotlbDomain { did: new.did() }), None, None],
            Entry::Pasid(new) => [
                context,
                Some(Request::PasidDomain { did: 0 }),
                Some(Request::IotlbDomain { did: 0 }),
                Some(Request::IotlbDomain { did: new.did() }),
            ],
        }
    }
}

/// Makes sure that writing the entry of `source` will not need memory.
pub(crate) fn prepare<P: Platform>(h: &Host<P>, unit: &Unit<P>, source: SourceId) -> Result<(), ErrorKind> {
    unit.root.lock(&h.platform).prepare(&h.platform, source)
}

/// Writes the entry of `source`: at once where one was present, presence last where not.
pub(crate) fn write<P: Platform>(h: &Host<P>, unit: &Unit<P>, source: SourceId, aim: Aim) -> Result<Due, ErrorKind> {
    let new = entry(unit, aim)?;
    let mut root = unit.root.lock(&h.platform);
    let old = root.get(source);
    root.set(&h.platform, source, new)?;
    Ok(Due { old, new, source })
}

//! What changed, what is flushed, and in which order: the one table of it (VT-d 6.2.2.1, 6.2.3.1, 6.5.2.12, Table 28). The
//! writer of entries and the flush of ranges read it, and `docs/invalidation.md` is printed from it.
//!
//! A row applies to what hardware may have cached: where the old entry was present, or, in the rows of caching mode, where
//! an absent one may have been kept. The steps are queued in the order of the row, and a wait that owns a status word ends
//! each submission. Steps of several changes are queued together: each kind after all of the kind before it.

use super::errata::Errata;
use super::invalidate::{Batch, Request};
use super::pasid::RID_PASID;
use crate::hw::descriptors::{DeviceTlbRange, Throttle};
use crate::hw::registers::TableMode;
use core::fmt;

/// What changed in memory that hardware may have cached.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Change {
    /// The root table pointer.
    RootPointer,
    /// A context entry that was present: cleared, or replaced.
    ContextEntry,
    /// A context entry that was absent, on a unit in caching mode.
    ContextAppears,
    /// A first-stage PASID entry that was present: cleared, or replaced.
    FirstStageEntry,
    /// A second-stage PASID entry that was present.
    SecondStageEntry,
    /// A pass-through PASID entry that was present.
    PassThroughEntry,
    /// A nested PASID entry that was present.
    NestedEntry,
    /// A PASID entry that was absent, on a unit in caching mode.
    PasidAppears,
    /// Entries of first-stage page tables.
    FirstStageTables,
    /// Entries of second-stage page tables.
    SecondStageTables,
    /// Entries of a guest's first-stage page tables, under nested entries.
    GuestTables,
    /// Entries of second-stage page tables, for what nested entries made of them.
    ParentTables,
    /// A device's translation cache goes out of use.
    DeviceTlbOff,
}

/// The tables that a unit runs on, as a row says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Legacy mode.
    Legacy,
    /// Scalable mode.
    Scalable,
    /// Both alike.
    Both,
}

/// One invalidation of a row.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// `cc`: everything.
    ContextGlobal,
    /// `cc`: the requester id; in legacy mode with the domain id that the old entry had.
    Context,
    /// `cc`: the requester id, with domain id 0, under which faulting entries are cached.
    ContextAbsent,
    /// The same as `Context`, on units that look into their context cache for what a PASID entry says.
    ContextByErratum,
    /// `pc`: everything.
    PasidGlobal,
    /// `pc`: every PASID of the domain id.
    PasidDomain,
    /// `pc`: what is cached under domain id 0, faulting entries.
    PasidAbsent,
    /// `pc`: the PASID in the domain id.
    Pasid,
    /// `iotlb`: everything.
    IotlbGlobal,
    /// `iotlb`: the domain id.
    IotlbDomain,
    /// `iotlb`: domain id 0, under which faulting entries are cached.
    IotlbAbsent,
    /// `iotlb`: the pages, in at most eight pieces, else the domain id.
    IotlbPages,
    /// `p_iotlb`: everything of the PASID in the domain id.
    PasidIotlb,
    /// `p_iotlb`: the pages of the PASID in the domain id, in at most eight pieces, else all of it.
    PasidIotlbPages,
    /// A wait with FN, where a `dev_tlb` follows a `p_iotlb`: the order of these two is not promised.
    Fence,
    /// `dev_tlb`, or `p_dev_tlb` for requests with PASID: everything; where the device has its cache on.
    DeviceTlb,
    /// The same for the pages.
    DeviceTlbPages,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What changed.
    pub change: Change,
    /// On which units.
    pub mode: Mode,
    /// What is flushed, in this order.
    pub steps: &'static [Step],
    /// Where that is from.
    pub source: &'static str,
}

/// All rows.
pub const TABLE: &[Rule] = &[
    Rule {
        change: Change::RootPointer,
        mode: Mode::Legacy,
        steps: &[Step::ContextGlobal, Step::IotlbGlobal, Step::DeviceTlb],
        source: "6.6; Table 28, root entry",
    },
    Rule {
        change: Change::RootPointer,
        mode: Mode::Scalable,
        steps: &[Step::ContextGlobal, Step::PasidGlobal, Step::IotlbGlobal, Step::DeviceTlb],
        source: "6.6; Table 28, root entry",
    },
    Rule {
        change: Change::ContextEntry,
        mode: Mode::Legacy,
        steps: &[Step::Context, Step::IotlbDomain, Step::DeviceTlb],
        source: "6.2.2.1; Table 28, context entry",
    },
    Rule {
        change: Change::ContextEntry,
        mode: Mode::Scalable,
        steps: &[Step::Context, Step::PasidDomain, Step::IotlbDomain, Step::DeviceTlb],
        source: "6.2.2.1; Table 28, context entry; once for each domain id behind the entry",
    },
    Rule {
        change: Change::ContextAppears,
        mode: Mode::Legacy,
        steps: &[Step::ContextAbsent, Step::IotlbDomain],
        source: "6.1; 6.2.2.1",
    },
    Rule {
        change: Change::FirstStageEntry,
        mode: Mode::Scalable,
        steps: &[Step::Pasid, Step::PasidIotlb, Step::Fence, Step::DeviceTlb],
        source: "6.2.3.1; Table 28, PASID entry",
    },
    Rule {
        change: Change::SecondStageEntry,
        mode: Mode::Scalable,
        steps: &[Step::Pasid, Step::IotlbDomain, Step::DeviceTlb],
        source: "6.2.3.1; Table 28, PASID entry; the whole domain also where a present entry follows, for the id may go to other tables next",
    },
    Rule {
        change: Change::PassThroughEntry,
        mode: Mode::Scalable,
        steps: &[Step::ContextByErratum, Step::Pasid, Step::PasidIotlb, Step::Fence, Step::DeviceTlb],
        source: "6.2.3.1; Table 28, PASID entry",
    },
    Rule {
        change: Change::NestedEntry,
        mode: Mode::Scalable,
        steps: &[Step::Pasid, Step::IotlbDomain, Step::DeviceTlb],
        source: "6.2.3.1; Table 28, PASID entry; `p_iotlb` leaves what was made from the second stage alone",
    },
    Rule {
        change: Change::PasidAppears,
        mode: Mode::Scalable,
        steps: &[Step::ContextAbsent, Step::PasidAbsent, Step::IotlbAbsent, Step::IotlbDomain],
        source: "6.1; 6.2.3.1; the context entry may have appeared with it",
    },
    Rule {
        change: Change::FirstStageTables,
        mode: Mode::Scalable,
        steps: &[Step::PasidIotlbPages, Step::Fence, Step::DeviceTlbPages],
        source: "6.5.2.4; 6.5.2.12; Table 28, first-stage entry",
    },
    Rule {
        change: Change::SecondStageTables,
        mode: Mode::Both,
        steps: &[Step::IotlbPages, Step::DeviceTlbPages],
        source: "6.5.2.3; Table 28, second-stage entry",
    },
    Rule {
        change: Change::GuestTables,
        mode: Mode::Scalable,
        steps: &[Step::PasidIotlbPages, Step::Fence, Step::DeviceTlbPages],
        source: "6.5.2.4; 6.5.2.12; Table 28, first-stage entry",
    },
    Rule {
        change: Change::ParentTables,
        mode: Mode::Scalable,
        steps: &[Step::IotlbPages, Step::DeviceTlb],
        source: "6.5.2.3; Table 28, second-stage entry; once for each domain id of nested entries, beside the domain's own; \
                 devices know none of these addresses, and lose everything",
    },
    Rule {
        change: Change::DeviceTlbOff,
        mode: Mode::Both,
        steps: &[Step::DeviceTlb],
        source: "4.5.2; PCI Express ATS; every PASID by one `p_dev_tlb` with GI where the device heeds that",
    },
];

/// The steps of the row for a change on a unit of this mode; none where there is no such row.
pub(crate) const fn steps(change: Change, mode: TableMode) -> &'static [Step] {
    let scalable = matches!(mode, TableMode::Scalable);
    let mut rest = TABLE;
    while let [rule, others @ ..] = rest {
        let here = match rule.mode {
            Mode::Legacy => !scalable,
            Mode::Scalable => scalable,
            Mode::Both => true,
        };
        if rule.change as u8 == change as u8 && here {
            return rule.steps;
        }
        rest = others;
    }
    &[]
}

/// Of whom and what a change of an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    pub(crate) source: u16,
    pub(crate) did: u16,
    pub(crate) pasid: u32,
    /// How to invalidate the requester's own translation cache, where that is on.
    pub(crate) device: Option<Throttle>,
}

impl Facts {
    /// The request for everything of the requester's own cache that is of this PASID; none where the cache is off.
    pub(crate) fn device_tlb(&self) -> Option<Request> {
        self.device_pages(DeviceTlbRange::ALL)
    }

    /// The same for a block of pages.
    pub(crate) fn device_pages(&self, range: DeviceTlbRange) -> Option<Request> {
        let (source, throttle) = (self.source, self.device?);
        Some(match self.pasid {
            RID_PASID => Request::DeviceTlb { source, throttle, range },
            pasid => Request::PasidDeviceTlb { source, pasid, throttle, range },
        })
    }

    fn request(&self, step: Step, errata: Errata) -> Option<Request> {
        let Facts { source, did, pasid, .. } = *self;
        Some(match step {
            Step::ContextGlobal => Request::ContextGlobal,
            Step::Context => Request::ContextDevice { did, source },
            Step::ContextAbsent => Request::ContextDevice { did: 0, source },
            Step::ContextByErratum if errata.contains(Errata::PASIDS_IN_CONTEXTS) => {
                Request::ContextDevice { did: 0, source }
            }
            Step::PasidGlobal => Request::PasidGlobal,
            Step::PasidDomain => Request::PasidDomain { did },
            Step::PasidAbsent => Request::PasidDomain { did: 0 },
            Step::Pasid => Request::Pasid { did, pasid },
            Step::IotlbGlobal => Request::IotlbGlobal,
            Step::IotlbDomain => Request::IotlbDomain { did },
            Step::IotlbAbsent => Request::IotlbDomain { did: 0 },
            Step::PasidIotlb => Request::IotlbPasid { did, pasid },
            Step::DeviceTlb => return self.device_tlb(),
            // A batch fences by itself; pages are the business of ranges.
            Step::Fence | Step::ContextByErratum => return None,
            Step::IotlbPages | Step::PasidIotlbPages | Step::DeviceTlbPages => return None,
        })
    }

    /// Adds the steps of a row to a batch. `false`: it is full.
    pub(crate) fn add(&self, steps: &[Step], errata: Errata, batch: &mut Batch) -> bool {
        steps.iter().filter_map(|s| self.request(*s, errata)).all(|r| batch.push(r))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::RootPointer => "root table pointer",
            Change::ContextEntry => "context entry that was present",
            Change::ContextAppears => "context entry that was absent, in caching mode",
            Change::FirstStageEntry => "first-stage PASID entry that was present",
            Change::SecondStageEntry => "second-stage PASID entry that was present",
            Change::PassThroughEntry => "pass-through PASID entry that was present",
            Change::NestedEntry => "nested PASID entry that was present",
            Change::PasidAppears => "PASID entry that was absent, in caching mode",
            Change::FirstStageTables => "first-stage page tables",
            Change::SecondStageTables => "second-stage page tables",
            Change::GuestTables => "a guest's first-stage page tables, under nested entries",
            Change::ParentTables => "second-stage page tables, for each nested domain id over them",
            Change::DeviceTlbOff => "device TLB going out of use",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Legacy => "legacy",
            Mode::Scalable => "scalable",
            Mode::Both => "both",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::ContextGlobal => "`cc` all",
            Step::Context => "`cc` requester id",
            Step::ContextAbsent => "`cc` requester id, domain id 0",
            Step::ContextByErratum => "(`cc` requester id, by erratum)",
            Step::PasidGlobal => "`pc` all",
            Step::PasidDomain => "`pc` domain",
            Step::PasidAbsent => "`pc` domain 0",
            Step::Pasid => "`pc` PASID",
            Step::IotlbGlobal => "`iotlb` all",
            Step::IotlbDomain => "`iotlb` domain",
            Step::IotlbAbsent => "`iotlb` domain 0",
            Step::IotlbPages => "`iotlb` pages",
            Step::PasidIotlb => "`p_iotlb` PASID",
            Step::PasidIotlbPages => "`p_iotlb` pages",
            Step::Fence => "(fence)",
            Step::DeviceTlb => "`dev_tlb` or `p_dev_tlb` all",
            Step::DeviceTlbPages => "`dev_tlb` or `p_dev_tlb` pages",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The order in which a row may queue its steps (6.5.2.12, 6.5.2.5).
    fn kind(s: &Step) -> u8 {
        match s {
            Step::ContextGlobal | Step::Context | Step::ContextAbsent | Step::ContextByErratum => 0,
            Step::PasidGlobal | Step::PasidDomain | Step::PasidAbsent | Step::Pasid => 1,
            Step::Fence => 3,
            Step::DeviceTlb | Step::DeviceTlbPages => 4,
            _ => 2,
        }
    }

    #[test]
    fn rows_are_in_the_order_that_hardware_needs() {
        for rule in TABLE {
            let kinds: Vec<u8> = rule.steps.iter().map(kind).collect();
            assert!(kinds.is_sorted(), "{}: {kinds:?}", rule.change);
        }
    }

    #[test]
    fn each_change_has_one_row_in_each_mode() {
        for (i, a) in TABLE.iter().enumerate() {
            for b in &TABLE[i + 1..] {
                assert!(a.change != b.change || a.mode != b.mode && a.mode != Mode::Both && b.mode != Mode::Both);
            }
        }
        assert_eq!(steps(Change::FirstStageEntry, TableMode::Legacy), []);
        assert_eq!(steps(Change::ContextEntry, TableMode::Legacy)[1], Step::IotlbDomain);
        assert_eq!(steps(Change::ContextEntry, TableMode::Scalable)[1], Step::PasidDomain);
    }

    #[test]
    fn qemu_is_told_of_contexts_where_pass_through_ends() {
        let f = Facts { source: 0x0100, did: 1, pasid: 0, device: None };
        let row = steps(Change::PassThroughEntry, TableMode::Scalable);
        for (errata, contexts) in [(Errata::empty(), 0), (Errata::PASIDS_IN_CONTEXTS, 1)] {
            let mut b = Batch::new();
            assert!(f.add(row, errata, &mut b));
            let found = b.requests().filter(|r| *r == Request::ContextDevice { did: 0, source: 0x0100 });
            assert_eq!(found.count(), contexts);
        }
    }

    #[test]
    fn a_nested_entry_takes_with_it_what_was_made_of_either_stage() {
        let f = Facts { source: 0x0100, did: 5, pasid: 9, device: None };
        let mut b = Batch::new();
        assert!(f.add(steps(Change::NestedEntry, TableMode::Scalable), Errata::empty(), &mut b));
        let wanted = [Request::Pasid { did: 5, pasid: 9 }, Request::IotlbDomain { did: 5 }];
        assert_eq!(b.requests().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn caches_of_devices_are_asked_where_they_are_on_and_by_the_pasid_that_they_know() {
        let quiet = Facts { source: 0x0100, did: 5, pasid: 0, device: None };
        let row = steps(Change::FirstStageEntry, TableMode::Scalable);
        let requests = |f: Facts| {
            let mut b = Batch::new();
            assert!(f.add(row, Errata::empty(), &mut b));
            b.requests().collect::<Vec<_>>()
        };
        let (pc, piotlb) = (Request::Pasid { did: 5, pasid: 0 }, Request::IotlbPasid { did: 5, pasid: 0 });
        assert_eq!(requests(quiet), [pc, piotlb]);
        let throttle = Throttle { pfsid: 0x100, mip: 3 };
        let with = Facts { device: Some(throttle), ..quiet };
        let range = DeviceTlbRange::ALL;
        assert_eq!(requests(with), [pc, piotlb, Request::Fence, Request::DeviceTlb { source: 0x100, throttle, range }]);
        let (pc, piotlb) = (Request::Pasid { did: 5, pasid: 9 }, Request::IotlbPasid { did: 5, pasid: 9 });
        let last = Request::PasidDeviceTlb { source: 0x100, pasid: 9, throttle, range };
        assert_eq!(requests(Facts { pasid: 9, ..with }), [pc, piotlb, last]);
    }
}

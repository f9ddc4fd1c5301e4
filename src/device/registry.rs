//! Which groups there are, which unit serves each member, and who owns them.

use super::ats::Offer;
use super::events::Events;
use super::group::{GroupId, Groups};
use super::pci::{PasidCapability, Tree};
use super::standing::Standing;
use crate::dmar::IntegratedFlags;
use crate::host::address::{DeviceId, Pasid, Range, SourceId};
use crate::host::error::{Error, ErrorKind};
use crate::host::mem::Shared;
use crate::host::platform::Platform;
use crate::host::sync::{Lock, Rank};
use crate::hw::pasid_tables::Allowed;
use crate::space::state::Space;
use crate::unit::Unit;
use crate::unit::pasid::Requester;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Who claims a group: the host itself, or a guest by a number of the host's choice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Owner(pub u64);

impl Owner {
    /// The host itself. Devices with memory regions reserved by firmware may be claimed for it.
    pub const HOST: Owner = Owner(0);
}

/// A member of a group.
pub(crate) struct Member {
    pub(crate) device: DeviceId,
    /// Index of the unit that serves it; `None` where none works.
    pub(crate) served: Option<usize>,
    /// Every requester id that its requests may carry.
    pub(crate) sources: Vec<SourceId>,
    /// Regions that firmware reserved for it, and whether a guest may do without.
    pub(crate) reserved: Vec<(Range, bool)>,
    /// Its PASID capability.
    pub(crate) pasid: Option<PasidCapability>,
    /// What is known of it and its translation cache.
    pub(crate) ats: Offer,
    /// The physical function that it is a virtual function of.
    pub(crate) physical: Option<DeviceId>,
    /// How it stands.
    pub(crate) standing: Standing,
    /// What firmware says of it, where it is integrated and listed.
    pub(crate) flags: Option<IntegratedFlags>,
    /// Whether it can send page requests.
    pub(crate) page_requests: bool,
}

impl Member {
    /// Index of the unit that serves it; `None` where none works.
    pub(crate) fn unit(&self) -> Option<usize> {
        self.served
    }

    /// What it can do with PASIDs behind that unit.
    pub(crate) fn requester<P: Platform>(&self, unit: &Unit<P>) -> Requester {
        let ecap = unit.caps.ecap;
        let bits = self.pasid.filter(|_| unit.scalable() && ecap.pasid()).map_or(0, |c| c.width.min(ecap.pss()));
        let allowed =
            Allowed { pasid: bits != 0, device_tlb: self.standing.throttle().is_some(), page_requests: false };
        Requester { pasid_bits: bits, allowed }
    }
}

/// What a group is attached to.
pub(crate) enum Attached<P: Platform> {
    Blocked,
    /// Pass-through entries, or the tables that stand in for them.
    Identity,
    Space(Shared<Space<P>>),
    /// What a predecessor's entries say, on some unit. Never a target.
    Adopted,
}

impl<P: Platform> Attached<P> {
    /// Whether a context entry for it, in legacy mode, blocks translation requests: pass-through, which has no tables.
    pub(crate) fn blocks_ats(&self) -> bool {
        matches!(self, Attached::Identity)
    }
}

impl<P: Platform> Clone for Attached<P> {
    fn clone(&self) -> Self {
        match self {
            Attached::Blocked => Attached::Blocked,
            Attached::Identity => Attached::Identity,
            Attached::Space(s) => Attached::Space(s.clone()),
            Attached::Adopted => Attached::Adopted,
        }
    }
}

/// What changes of a group.
pub(crate) struct GroupState<P: Platform> {
    pub(crate) owner: Option<Owner>,
    /// Somebody is changing its attachment, and waits.
    pub(crate) busy: bool,
    pub(crate) attached: Attached<P>,
    /// What PASIDs of members are attached to, beside that: member, PASID, and never `Blocked`.
    pub(crate) pasids: Vec<(usize, Pasid, Attached<P>)>,
    /// A flush failed: caches may hold what no entry says any more, and the next change flushes everything.
    pub(crate) unproved: bool,
    /// For each member: who hears of its events, and how many faults this call of `service` has delivered.
    pub(crate) ears: Vec<Ear>,
}

impl<P: Platform> GroupState<P> {
    /// What requests of a member with this PASID, or without, are attached to.
    pub(crate) fn target(&self, member: usize, pasid: Option<Pasid>) -> &Attached<P> {
        let Some(pasid) = pasid else { return &self.attached };
        self.pasids.iter().find(|(m, p, _)| (*m, *p) == (member, pasid)).map_or(&Attached::Blocked, |(.., to)| to)
    }
}

/// Who hears of one member's events.
#[derive(Default)]
pub(crate) struct Ear {
    pub(crate) handler: Option<Arc<dyn Events>>,
    /// The place in the unit's log where this owner's faults begin.
    pub(crate) since: usize,
    pub(crate) round: u64,
    pub(crate) delivered: u16,
    pub(crate) dropped: u64,
}

/// All groups.
pub(crate) struct Registry<P: Platform> {
    pub(crate) tree: Tree,
    pub(crate) groups: Groups,
    /// In the order of their ids. Elsewhere a group is named by its place here.
    list: Vec<(GroupId, Vec<Member>)>,
    /// Requester ids in order, each with the places of its group and member.
    by_source: Vec<(DeviceId, usize, usize)>,
    pub(crate) states: Lock<Vec<GroupState<P>>>,
}

impl<P: Platform> Registry<P> {
    pub(crate) fn new(tree: Tree, groups: Groups, mut list: Vec<(GroupId, Vec<Member>)>) -> Result<Self, ErrorKind> {
        use crate::host::grow::{filled, push, with_capacity};
        let mut by_source = Vec::new();
        list.sort_unstable_by_key(|(id, _)| *id);
        let mut states = with_capacity(list.len())?;
        for (g, (_, members)) in list.iter().enumerate() {
            for (m, member) in members.iter().enumerate() {
                for source in &member.sources {
                    let id = DeviceId { segment: member.device.segment, source: *source };
                    push(&mut by_source, (id, g, m))?;
                }
            }
            let ears = filled(members.len(), Ear::default)?;
            push(
                &mut states,
                GroupState {
                    owner: None,
                    busy: false,
                    attached: Attached::Blocked,
                    pasids: Vec::new(),
                    unproved: false,
                    ears,
                },
            )?;
        }
        // A member's own id comes before an alias that carries the same number.
        by_source.sort_unstable_by_key(|(id, g, m)| {
            let own = list.get(*g).and_then(|(_, l)| l.get(*m)).is_some_and(|x| x.device == *id);
            (*id, !own)
        });
        Ok(Registry { tree, groups, list, by_source, states: Lock::new(Rank::Groups, states) })
    }

    /// Says of every group with a predecessor's entries that it has them: they go with its first change, and everything that
    /// caches may hold of them.
    pub(crate) fn adopt(&self, p: &P, units: &[Unit<P>]) {
        for (g, (_, members)) in self.list.iter().enumerate() {
            let foreign = members.iter().any(|m| {
                let unit = m.unit().and_then(|i| units.get(i)).filter(|u| u.adopted.is_some());
                unit.is_some_and(|u| m.sources.iter().any(|s| u.root.lock(p).is_foreign(*s)))
            });
            if foreign && let Some(s) = self.states.lock(p).get_mut(g) {
                (s.attached, s.unproved) = (Attached::Adopted, true);
            }
        }
    }

    /// The places of the group and member that a requester id belongs to.
    pub(crate) fn find(&self, id: DeviceId) -> Option<(usize, usize)> {
        let i = self.by_source.partition_point(|(x, ..)| *x < id);
        self.by_source.get(i).filter(|(x, ..)| *x == id).map(|(_, g, m)| (*g, *m))
    }

    /// The place of a group.
    pub(crate) fn place(&self, id: GroupId) -> Result<usize, Error> {
        self.list.binary_search_by_key(&id, |(g, _)| *g).map_err(|_| ErrorKind::Unknown.into())
    }

    /// The group in a place.
    pub(crate) fn id(&self, place: usize) -> Result<GroupId, Error> {
        self.list.get(place).map(|(g, _)| *g).ok_or(ErrorKind::Unknown.into())
    }

    /// The members of the group in a place.
    pub(crate) fn members(&self, place: usize) -> &[Member] {
        self.list.get(place).map_or(&[], |(_, m)| m)
    }

    /// Number of groups.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
}

//! Which groups there are, which unit serves each member, and who owns them.

use super::ats::Offer;
use super::attach::Scope;
use super::events::Events;
use super::group::{GroupId, Groups, Why};
use super::pci::{PasidCapability, Tree};
use super::standing::Standing;
use crate::dmar::IntegratedFlags;
use crate::host::address::{DeviceId, Pasid, Range, SourceId};
use crate::host::error::{Error, ErrorKind};
use crate::host::grow;
use crate::host::mem::Shared;
use crate::host::platform::Platform;
use crate::host::sync::{Lock, Once, Rank};
use crate::hw::pasid_tables::Allowed;
use crate::space::state::Space;
use crate::unit::pasid::Requester;
use crate::unit::{Unit, Units};
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
    /// The function that answers for it, itself or its physical function, and at which vendor and device id.
    pub(crate) ids: Option<(DeviceId, u32)>,
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
    /// Requests whose flush failed, and what they were attached to: caches may hold what no entry says any more. It stays owned
    /// until their next change, which flushes everything, has succeeded.
    pub(crate) doubts: Vec<(Scope, Attached<P>)>,
    /// Its owner has dropped it while somebody else was changing it: `service` gives it back.
    pub(crate) dropped: bool,
    /// Its unit is being taken out of the machine: nobody may claim it.
    pub(crate) leaving: bool,
    /// For each member: who hears of its events, and how many faults this call of `service` has delivered.
    pub(crate) ears: Vec<Ear>,
}

impl<P: Platform> GroupState<P> {
    /// Room for a doubt about everything that is attached, and about what is to be.
    pub(crate) fn make_room(&mut self) -> Result<(), ErrorKind> {
        let each = self.pasids.len().saturating_add(3);
        self.doubts.try_reserve(each.saturating_mul(2)).map_err(|_| ErrorKind::OutOfMemory)
    }

    /// Whether caches may hold what nobody knows of: a flush failed, or a predecessor's entries are there.
    pub(crate) fn unproved(&self, scope: Scope) -> bool {
        let (scope, tagged) = (scope.whole(), matches!(scope, Scope::Pasid { .. }));
        !tagged && matches!(self.attached, Attached::Adopted) || self.doubts.iter().any(|(s, _)| *s == scope)
    }

    /// Says that a flush failed of requests that stay attached.
    pub(crate) fn doubt(&mut self, scope: Scope) {
        if !self.unproved(scope) {
            // There is room, from when they were attached.
            let _ = grow::push(&mut self.doubts, (scope.whole(), Attached::Blocked));
        }
    }

    /// Spaces that it holds.
    pub(crate) fn spaces(&self) -> usize {
        let beside = self.pasids.iter().map(|(.., to)| to).chain(self.doubts.iter().map(|(_, to)| to));
        beside.chain([&self.attached]).filter(|to| matches!(to, Attached::Space(_))).count()
    }

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

/// Groups that were found together: those of the machine as it was brought up, or those that came with a unit later.
pub(crate) struct Part {
    pub(crate) tree: Tree,
    pub(crate) groups: Groups,
    /// In the order of their ids. Elsewhere a group is named by its place here, counted on from `first`.
    list: Vec<(GroupId, Vec<Member>)>,
    /// Requester ids in order, each with the places of its group and member.
    by_source: Vec<(DeviceId, usize, usize)>,
    first: usize,
}

impl Part {
    /// The part, and a state for each of its groups.
    fn new<P: Platform>(found: Found, first: usize) -> Result<(Self, Vec<GroupState<P>>), ErrorKind> {
        let Found { tree, groups, mut list } = found;
        let mut by_source = Vec::new();
        list.sort_unstable_by_key(|(id, _)| *id);
        let mut states = grow::with_capacity(list.len())?;
        for (g, (_, members)) in list.iter().enumerate() {
            for (m, member) in members.iter().enumerate() {
                for source in &member.sources {
                    let id = DeviceId { segment: member.device.segment, source: *source };
                    grow::push(&mut by_source, (id, g, m))?;
                }
            }
            let ears = grow::filled(members.len(), Ear::default)?;
            let (attached, pasids) = (Attached::Blocked, Vec::new());
            let doubts = Vec::new();
            let state =
                GroupState { owner: None, busy: false, attached, pasids, doubts, dropped: false, leaving: false, ears };
            grow::push(&mut states, state)?;
        }
        // A member's own id comes before an alias that carries the same number.
        by_source.sort_unstable_by_key(|(id, g, m)| {
            let own = list.get(*g).and_then(|(_, l)| l.get(*m)).is_some_and(|x| x.device == *id);
            (*id, !own)
        });
        Ok((Part { tree, groups, list, by_source, first }, states))
    }

    fn find(&self, id: DeviceId) -> Option<(usize, usize)> {
        let i = self.by_source.partition_point(|(x, ..)| *x < id);
        self.by_source.get(i).filter(|(x, ..)| *x == id).map(|(_, g, m)| (self.first.saturating_add(*g), *m))
    }

    fn place(&self, id: GroupId) -> Option<usize> {
        self.list.binary_search_by_key(&id, |(g, _)| *g).ok().map(|i| self.first.saturating_add(i))
    }
}

/// What `scan` finds.
pub(crate) struct Found {
    pub(crate) tree: Tree,
    pub(crate) groups: Groups,
    pub(crate) list: Vec<(GroupId, Vec<Member>)>,
}

/// All groups.
pub(crate) struct Registry<P: Platform> {
    /// As they came, with room for more; a group keeps its place for good. What came later stands for what is gone.
    parts: Vec<Once<Part>>,
    pub(crate) states: Lock<Vec<GroupState<P>>>,
}

impl<P: Platform> Registry<P> {
    /// The groups of the machine, with room for `spare` parts more.
    pub(crate) fn new(found: Found, spare: usize) -> Result<Self, ErrorKind> {
        let parts = grow::filled(spare.saturating_add(1), Once::new)?;
        let (part, states) = Part::new(found, 0)?;
        if let Some(cell) = parts.first() {
            cell.call_once(|| part);
        }
        Ok(Registry { parts, states: Lock::new(Rank::Groups, states) })
    }

    /// Adds what came later, for one caller at a time. The places of the groups.
    pub(crate) fn add(&self, p: &P, found: Found) -> Result<core::ops::Range<usize>, ErrorKind> {
        let cell = self.parts.iter().find(|c| c.get().is_none()).ok_or(ErrorKind::Busy)?;
        let first = self.len();
        let (part, mut states) = Part::new(found, first)?;
        {
            let mut all = self.states.lock(p);
            all.try_reserve(states.len()).map_err(|_| ErrorKind::OutOfMemory)?;
            all.append(&mut states);
        }
        let count = part.list.len();
        cell.call_once(|| part);
        Ok(first..first.saturating_add(count))
    }

    fn parts(&self) -> impl DoubleEndedIterator<Item = &Part> {
        self.parts.iter().filter_map(Once::get)
    }

    fn part_of(&self, place: usize) -> Option<&Part> {
        self.parts().rfind(|part| part.first <= place)
    }

    /// Says of every group with a predecessor's entries that it has them: they go with its first change, and everything that
    /// caches may hold of them.
    pub(crate) fn adopt(&self, p: &P, units: Units<'_, P>) -> Result<(), ErrorKind> {
        for g in 0..self.len() {
            let foreign = self.members(g).iter().any(|m| {
                let unit = m.unit().and_then(|i| units.get(i)).filter(|u| u.adopted.is_some());
                unit.is_some_and(|u| m.sources.iter().any(|s| u.root.lock(p).is_foreign(*s)))
            });
            if foreign && let Some(s) = self.states.lock(p).get_mut(g) {
                s.attached = Attached::Adopted;
                s.make_room()?;
            }
        }
        Ok(())
    }

    /// Whether some group has this requester id, behind the unit in place `index`.
    pub(crate) fn serves(&self, id: DeviceId, index: usize) -> bool {
        let members = self.find(id).map_or(&[][..], |(g, _)| self.members(g));
        members.iter().any(|m| m.unit() == Some(index) && m.sources.contains(&id.source))
    }

    /// The places of the group and member that a requester id belongs to.
    pub(crate) fn find(&self, id: DeviceId) -> Option<(usize, usize)> {
        self.parts().rev().find_map(|part| part.find(id))
    }

    /// The place of a group.
    pub(crate) fn place(&self, id: GroupId) -> Result<usize, Error> {
        self.parts().rev().find_map(|part| part.place(id)).ok_or(ErrorKind::Unknown.into())
    }

    /// The group in a place.
    pub(crate) fn id(&self, place: usize) -> Result<GroupId, Error> {
        let part = self.part_of(place);
        let group = part.and_then(|part| part.list.get(place.wrapping_sub(part.first)));
        group.map(|(g, _)| *g).ok_or(ErrorKind::Unknown.into())
    }

    /// The members of the group in a place.
    pub(crate) fn members(&self, place: usize) -> &[Member] {
        let part = self.part_of(place);
        let group = part.and_then(|part| part.list.get(place.wrapping_sub(part.first)));
        group.map_or(&[], |(_, m)| m)
    }

    /// Number of groups, those included that others stand for by now.
    pub(crate) fn len(&self) -> usize {
        self.parts().last().map_or(0, |part| part.first.saturating_add(part.list.len()))
    }

    /// All groups.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        (0..self.len()).filter_map(|place| self.id(place).ok().filter(|id| self.place(*id).ok() == Some(place)))
    }

    /// Why two devices are in one group.
    pub(crate) fn why(&self, a: DeviceId, b: DeviceId) -> Option<Why<'_>> {
        let (place, _) = self.find(a)?;
        self.part_of(place)?.groups.why(a, b)
    }

    /// The machine as it was brought up.
    pub(crate) fn tree(&self) -> Option<&Tree> {
        self.parts().next().map(|part| &part.tree)
    }
}

//! From the PCI tree and the topology to the registry: who is there, which unit serves it, what firmware reserved for it.

use super::ats::Offer;
use super::group::Groups;
use super::pci::Tree;
use super::registry::{Found, Member};
use super::standing::Standing;
use crate::dmar::{ScopeKind, Topology};
use crate::host::address::{DeviceId, UnitId};
use crate::host::error::Error;
use crate::host::grow;
use crate::host::platform::Platform;
use crate::unit::Units;
use alloc::vec::Vec;

/// Looks at the whole machine, turns isolation on where ports have it, and groups what cannot be told apart.
pub(crate) fn machine<P: Platform>(p: &P, topology: &Topology, units: Units<'_, P>) -> Result<Found, Error> {
    groups(p, topology, &|u| units.iter().position(|x| x.id == u), &|_| true)
}

/// The same of what is behind a unit that came later: `topology` holds no other, and it is to be in place `place`.
pub(crate) fn behind<P: Platform>(p: &P, topology: &Topology, place: usize) -> Result<Found, Error> {
    groups(p, topology, &|_| Some(place), &|members| members.iter().any(|m| m.unit().is_some()))
}

/// Groups with their members, as far as they are wanted; `place` says where the unit is that serves a device.
fn groups<P: Platform>(
    p: &P,
    topology: &Topology,
    place: &dyn Fn(UnitId) -> Option<usize>,
    wanted: &dyn Fn(&[Member]) -> bool,
) -> Result<Found, Error> {
    let mut tree = Tree::scan(p, topology.units().iter().map(|u| u.segment))?;
    let mut acpi = Vec::new();
    for (_, _, id) in topology.sources(ScopeKind::Acpi, &tree) {
        grow::push(&mut acpi, id)?;
    }
    for id in acpi {
        tree.add(id)?;
    }
    tree.isolate(p)?;
    let groups = Groups::new(&tree)?;
    let mut list = Vec::new();
    for g in groups.iter() {
        let mut members = Vec::new();
        for d in groups.members(g) {
            grow::push(&mut members, member(d, topology, &tree, &groups, place)?)?;
        }
        if wanted(&members) {
            grow::push(&mut list, (g, members))?;
        }
    }
    Ok(Found { tree, groups, list })
}

fn member(
    device: DeviceId,
    topology: &Topology,
    tree: &Tree,
    groups: &Groups,
    place: &dyn Fn(UnitId) -> Option<usize>,
) -> Result<Member, Error> {
    let unit = topology.unit_of(device, tree).and_then(|u| place(u.id));
    let mut sources = Vec::new();
    for (id, _) in groups.requester_ids(device) {
        grow::push(&mut sources, id.source)?;
    }
    let relaxable = tree.function(device).is_some_and(|f| f.relaxable());
    let mut reserved = Vec::new();
    for (_, range) in topology.reserved_of(device, tree) {
        grow::push(&mut reserved, (range, relaxable))?;
    }
    let function = tree.function(device);
    // A virtual function answers at no vendor id.
    let answering = function.and_then(|f| f.physical.map_or(Some(f), |p| tree.function(p)));
    Ok(Member {
        device,
        served: unit,
        sources,
        reserved,
        pasid: function.and_then(|f| f.pasid),
        ats: Offer::of(device, tree, topology),
        physical: function.and_then(|f| f.physical),
        ids: answering.map(|f| (f.id, u32::from(f.vendor) | u32::from(f.device) << 16)),
        standing: Standing::default(),
        flags: topology.integrated(device, tree),
        page_requests: function.is_some_and(|f| f.page_requests),
    })
}

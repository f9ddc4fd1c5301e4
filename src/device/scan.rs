//! From the PCI tree and the topology to the registry: who is there, which unit serves it, what firmware reserved for it.

use super::ats::Offer;
use super::group::Groups;
use super::pci::Tree;
use super::registry::{Member, Registry};
use super::standing::Standing;
use crate::dmar::{ScopeKind, Topology};
use crate::host::address::DeviceId;
use crate::host::error::Error;
use crate::host::grow;
use crate::host::platform::Platform;
use crate::unit::Unit;
use alloc::vec::Vec;

/// Looks at the whole machine, turns isolation on where ports have it, and groups what cannot be told apart.
pub(crate) fn registry<P: Platform>(p: &P, topology: &Topology, units: &[Unit<P>]) -> Result<Registry<P>, Error> {
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
            grow::push(&mut members, member(d, topology, &tree, &groups, units)?)?;
        }
        grow::push(&mut list, (g, members))?;
    }
    Ok(Registry::new(tree, groups, list)?)
}

fn member<P: Platform>(
    device: DeviceId,
    topology: &Topology,
    tree: &Tree,
    groups: &Groups,
    units: &[Unit<P>],
) -> Result<Member, Error> {
    let unit = topology.unit_of(device, tree).and_then(|u| units.iter().position(|x| x.id == u.id));
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
    Ok(Member {
        device,
        served: unit,
        sources,
        reserved,
        pasid: function.and_then(|f| f.pasid),
        ats: Offer::of(device, tree, topology),
        physical: function.and_then(|f| f.physical),
        standing: Standing::default(),
        flags: topology.integrated(device, tree),
        page_requests: function.is_some_and(|f| f.page_requests),
    })
}

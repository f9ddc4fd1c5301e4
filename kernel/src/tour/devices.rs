//! The devices, the unit that serves each, the groups they are owned in, and why.

use super::report::{Report, Stop, detail, paragraph, table};
use crate::iommu::Session;
use crate::pci;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use vtd::DeviceId;
use vtd::device::{Function, Groups, Role, Tree};

pub fn show(report: &mut Report, session: &Session) -> Result<(), Stop> {
    let vtd = session.vtd();
    let tree = vtd.devices()?;
    let groups = Groups::new(tree)?;
    let mut rows = Vec::new();
    let mut served = 0;
    for f in in_tree_order(tree) {
        let depth = tree.above(f.id).count();
        let place = match depth {
            0 => f.id.to_string(),
            n => format!("{}└ {}", "  ".repeat(n - 1), f.id),
        };
        let unit = vtd.unit_of(f.id);
        served += usize::from(unit.is_ok());
        let ids = groups.requester_ids(f.id).map(|(id, _)| id).filter(|id| *id != f.id);
        let ids: Vec<String> = ids.map(|id| id.source.to_string()).collect();
        rows.push([
            place,
            format!("{:04x}:{:04x}", f.vendor, f.device),
            name(f).to_string(),
            unit.map_or("none".to_string(), |u| u.to_string()),
            vtd.group_of(f.id)?.first().source.to_string(),
            ids.join(" "),
        ]);
    }
    table(["device", "id", "what it is", "served by", "group", "also sends as"], &rows);
    let known = pci::all().iter().filter(|f| tree.function(f.id).is_some()).count();
    report.check(
        known == pci::all().len(),
        format_args!("the driver knows {known} of the {} functions that the kernel found", pci::all().len()),
    );
    report.check(served == rows.len(), format_args!("units serve {served} of {} functions", rows.len()));
    for g in vtd.groups()? {
        let members: Vec<_> = vtd.devices_of(g)?.collect();
        let Some((first, others)) = members.split_first().filter(|(_, others)| !others.is_empty()) else { continue };
        report.ok(format_args!("{g}: {} functions, to be owned as one, because", members.len()));
        let mut links = Vec::new();
        for other in others {
            let why = vtd.why_together(*other, *first)?.ok_or_else(|| format!("nothing says why {other} is there"))?;
            // What holds one member may hold the next.
            for link in why.links() {
                if !links.contains(&link) {
                    links.push(link);
                    paragraph("         - ", &link.to_string());
                }
            }
        }
    }
    detail(format_args!("all other functions are groups of their own"));
    Ok(())
}

/// Every function right behind the bridge that it is behind.
fn in_tree_order(tree: &Tree) -> Vec<&Function> {
    fn below<'t>(tree: &'t Tree, parent: Option<DeviceId>, found: &mut Vec<&'t Function>) {
        for f in tree.functions().iter().filter(|f| f.parent == parent) {
            found.push(f);
            below(tree, Some(f.id), found);
        }
    }
    let mut found = Vec::new();
    below(tree, None, &mut found);
    found
}

/// The name of a device that the machines have, or of its class.
fn name(f: &Function) -> &'static str {
    match (f.vendor, f.device) {
        (0x1234, 0x11e8) => return "edu, a DMA engine",
        (0x1b36, 0x0005) => return "iommu-testdev",
        (0x1af4, 0x1042) => return "virtio disk",
        (0x1af4, 0x1044) => return "virtio entropy",
        _ => {}
    }
    match (f.role, f.class) {
        (Role::Acpi, _) => "ACPI device",
        (Role::RootPort, _) => "root port",
        (Role::UpstreamPort | Role::DownstreamPort, _) => "switch port",
        (Role::ToPci | Role::ToExpress, _) => "bridge to PCI",
        (_, [0x01, ..]) => "storage",
        (_, [0x02, ..]) => "network",
        (_, [0x03, ..]) => "display",
        (_, [0x06, 0x00, _]) => "host bridge",
        (_, [0x06, 0x01, _]) => "ISA bridge",
        (_, [0x06, ..]) => "bridge",
        (_, [0x0c, 0x03, _]) => "USB controller",
        (_, [0x0c, 0x05, _]) => "SMBus",
        _ => "device",
    }
}

//! Who owns what, and what cannot be told apart.

use super::{session, testdev};
use crate::{check, check_eq, pci, test};
use vtd::{ErrorKind, Owner, Target};

test! {
    fn a_group_has_one_owner() {
        let s = session()?;
        let id = s.vtd().group_of(testdev()?.id())?;
        let first = s.vtd().claim(id, Owner(7))?;
        check_eq!(s.vtd().claim(id, Owner(8)).map(|_| ()).map_err(|e| e.kind), Err(ErrorKind::Busy));
        first.release().map_err(|(_, e)| e)?;
        let second = s.vtd().claim(id, Owner(8))?;
        drop(second);
        s.vtd().claim(id, Owner::HOST)?.release().map_err(|(_, e)| e)?;
        s.end()?;
    }

    fn every_function_is_in_a_group_that_a_unit_serves() {
        let s = session()?;
        for f in pci::all() {
            let g = s.vtd().group_of(f.id)?;
            check!(s.vtd().devices_of(g)?.any(|d| d == f.id), "{} is not in its group", f.id);
        }
        s.end()?;
    }

    fn functions_behind_a_conventional_bridge_share_a_group() {
        let s = session()?;
        // Bridges from PCI Express to PCI are of type 7.
        for bridge in pci::all().iter().filter(|f| f.express_type() == Some(7)) {
            let Some(b) = bridge.bridge else { continue };
            let mut groups = pci::all().iter().filter(|f| f.id.source.bus() == b.secondary).map(|f| s.vtd().group_of(f.id));
            let Some(first) = groups.next().transpose()? else { continue };
            for g in groups {
                check_eq!(g?, first, "behind {}", bridge.id);
            }
        }
        s.end()?;
    }

    fn a_member_of_another_group_has_no_say() {
        let s = session()?;
        let (group, events) = s.claim(testdev()?.id())?;
        let stranger = pci::all().iter().find(|f| s.vtd().group_of(f.id).is_ok_and(|g| g != group.id())).ok_or("one group")?;
        check!(group.on_events(stranger.id, events).is_err(), "{} is no member", stranger.id);
        group.attach(Target::Identity)?;
        group.release().map_err(|(_, e)| e)?;
        s.end()?;
    }
}

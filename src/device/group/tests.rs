//! Which functions belong together in machines of several kinds.

use super::super::pci::tests::{DOWNSTREAM, ENDPOINT, INTEGRATED, ROOT_PORT, Space, TO_PCI, UPSTREAM, id};
use super::*;
use std::string::ToString;
use std::vec::Vec;

fn groups(s: &Space) -> Groups {
    Groups::new(&s.tree()).unwrap()
}

fn members(g: &Groups, d: DeviceId) -> Vec<DeviceId> {
    g.members(g.group_of(d).unwrap()).collect()
}

fn requesters(g: &Groups, d: DeviceId) -> Vec<DeviceId> {
    g.requester_ids(d).map(|(d, _)| d).collect()
}

/// q35 with a chipset of several functions, a root port with a device, a root port with a bridge and two devices behind.
fn q35(acs: bool) -> Space {
    let mut s = Space::new();
    s.conventional(id(0, 0, 0), 0).conventional(id(0, 2, 0), 0);
    s.express(id(0, 3, 0), 1, ROOT_PORT).buses(id(0, 3, 0), 1, 1);
    s.express(id(0, 4, 0), 1, ROOT_PORT).buses(id(0, 4, 0), 2, 3);
    if acs {
        s.acs(id(0, 3, 0), 0x5f, 0x1d).acs(id(0, 4, 0), 0x5f, 0x1d);
    }
    s.express(id(1, 0, 0), 0, ENDPOINT);
    s.express(id(2, 0, 0), 1, TO_PCI).buses(id(2, 0, 0), 3, 3);
    s.conventional(id(3, 1, 0), 0).conventional(id(3, 2, 0), 0);
    for function in [0, 2, 3] {
        s.conventional(id(0, 31, function), 0x80);
    }
    s
}

#[test]
fn q35_with_access_control() {
    let g = groups(&q35(true));
    for alone in [id(0, 0, 0), id(0, 2, 0), id(0, 3, 0), id(0, 4, 0), id(1, 0, 0)] {
        assert_eq!(members(&g, alone), [alone]);
        assert_eq!(requesters(&g, alone), [alone]);
    }
    assert_eq!(members(&g, id(0, 31, 2)), [id(0, 31, 0), id(0, 31, 2), id(0, 31, 3)]);
    assert_eq!(members(&g, id(3, 1, 0)), [id(2, 0, 0), id(3, 1, 0), id(3, 2, 0)]);
    assert_eq!(requesters(&g, id(3, 2, 0)), [id(3, 0, 0), id(3, 2, 0)]);
    assert_eq!(requesters(&g, id(2, 0, 0)), [id(2, 0, 0)]);
    // Whoever sends requests as the bridge's substitute is in the group, though no function has that id.
    assert_eq!(g.group_of(id(3, 0, 0)), g.group_of(id(3, 1, 0)));
    assert_eq!(g.iter().count(), 7);
    assert_eq!(g.group_of(id(3, 1, 0)).unwrap().first(), id(2, 0, 0));
}

#[test]
fn every_pair_of_a_group_has_a_reason_in_words() {
    let g = groups(&q35(true));
    let why = |a, b| g.why(a, b).map(|w| w.to_string());
    assert_eq!(
        why(id(3, 1, 0), id(3, 2, 0)).unwrap(),
        "0000:03:01.0 and 0000:03:02.0 both send requests as 0000:03:00.0, which PCI Express-to-PCI bridge 0000:02:00.0 \
         makes of ids"
    );
    assert_eq!(
        why(id(0, 31, 2), id(0, 31, 3)).unwrap().matches("functions of one device without ACS").count(),
        2,
        "through function 0"
    );
    assert!(why(id(2, 0, 0), id(3, 2, 0)).unwrap().contains("does not isolate"));
    assert_eq!(why(id(1, 0, 0), id(0, 2, 0)), None);
    assert_eq!(why(id(9, 9, 0), id(0, 2, 0)), None);
    assert_eq!(why(id(1, 0, 0), id(1, 0, 0)).unwrap(), "both are the same function");
    for a in g.members.iter() {
        for b in g.members.iter().filter(|b| a.group == b.group && a.id != b.id) {
            // The steps lead from one to the other.
            let links: Vec<_> = g.why(a.id, b.id).unwrap().links().collect();
            for end in [a.id, b.id] {
                assert_eq!(links.iter().filter(|l| l.a == end || l.b == end).count(), 1, "{} {}", a.id, b.id);
            }
        }
    }
}

#[test]
fn a_root_port_without_access_control_takes_all_below_it() {
    let g = groups(&q35(false));
    assert_eq!(members(&g, id(1, 0, 0)), [id(0, 3, 0), id(1, 0, 0)]);
    assert_eq!(members(&g, id(3, 1, 0)), [id(0, 4, 0), id(2, 0, 0), id(3, 1, 0), id(3, 2, 0)]);
}

#[test]
fn behind_conventional_bridges_the_bridge_speaks() {
    let mut s = Space::new();
    s.conventional(id(0, 30, 0), 1).buses(id(0, 30, 0), 1, 2);
    s.conventional(id(1, 5, 0), 1).buses(id(1, 5, 0), 2, 2).conventional(id(1, 6, 0), 0);
    s.conventional(id(2, 1, 0), 0);
    let g = groups(&s);
    assert_eq!(members(&g, id(2, 1, 0)), [id(0, 30, 0), id(1, 5, 0), id(1, 6, 0), id(2, 1, 0)]);
    assert_eq!(requesters(&g, id(2, 1, 0)), [id(0, 30, 0), id(1, 5, 0), id(2, 1, 0)]);
    let why = g.why(id(1, 6, 0), id(2, 1, 0)).unwrap().to_string();
    assert!(why.ends_with("both send requests as 0000:00:1e.0, the id of PCI bridge 0000:00:1e.0 above"), "{why}");
}

fn switch(acs_on: [u16; 2]) -> Groups {
    let mut s = Space::new();
    s.express(id(0, 1, 0), 1, ROOT_PORT).buses(id(0, 1, 0), 1, 4).acs(id(0, 1, 0), 0x1f, 0x1d);
    s.express(id(1, 0, 0), 1, UPSTREAM).buses(id(1, 0, 0), 2, 4);
    for (n, on) in (0u8..).zip(acs_on) {
        let port = id(2, n, 0);
        s.express(port, 1, DOWNSTREAM).buses(port, n + 3, n + 3).acs(port, 0x1f, on);
        s.express(id(n + 3, 0, 0), 0, ENDPOINT);
    }
    groups(&s)
}

#[test]
fn a_switch_keeps_apart_what_its_ports_keep_apart() {
    let g = switch([0x1d, 0x1d]);
    assert_eq!(members(&g, id(3, 0, 0)), [id(3, 0, 0)]);
    assert_eq!(members(&g, id(4, 0, 0)), [id(4, 0, 0)]);
    // One port that lets requests turn round: what is below it reaches what is below the other, whatever that one does.
    let g = switch([0x0c, 0x1d]);
    assert_eq!(members(&g, id(3, 0, 0)).len(), 5);
    let why = g.why(id(4, 0, 0), id(2, 1, 0)).unwrap().to_string();
    assert!(why.contains("0000:01:00.0 above does not isolate"), "{why}");
    assert_eq!(g.group_of(id(0, 1, 0)).unwrap().first(), id(0, 1, 0));
}

#[test]
fn a_bus_that_two_bridges_claim_joins_both() {
    let mut s = Space::new();
    for (device, kind) in [(1, ROOT_PORT), (2, ROOT_PORT), (3, TO_PCI)] {
        s.express(id(0, device, 0), 1, kind).buses(id(0, device, 0), 1, 1).acs(id(0, device, 0), 0x1d, 0x1d);
    }
    s.buses(id(0, 2, 0), 2, 2).express(id(1, 0, 0), 0, ENDPOINT).express(id(2, 0, 0), 0, ENDPOINT);
    let g = groups(&s);
    assert_eq!(members(&g, id(1, 0, 0)), [id(0, 3, 0), id(1, 0, 0)]);
    assert_eq!(members(&g, id(2, 0, 0)), [id(2, 0, 0)]);
    let why = g.why(id(1, 0, 0), id(0, 3, 0)).unwrap().to_string();
    assert!(why.contains("another bridge too"), "{why}");
}

#[test]
fn behind_a_bridge_that_is_not_to_be_seen_the_one_above_speaks() {
    // 02:00.0 has no bridge with that secondary bus; the conventional bridge to buses 1-2 forwards for it.
    let mut s = Space::new();
    s.conventional(id(0, 30, 0), 1).buses(id(0, 30, 0), 1, 2).conventional(id(2, 0, 0), 0);
    let g = groups(&s);
    assert_eq!(requesters(&g, id(2, 0, 0)), [id(0, 30, 0), id(2, 0, 0)]);
    assert_eq!(members(&g, id(2, 0, 0)).len(), 2);
}

#[test]
fn below_a_port_that_does_not_isolate_nothing_is_isolated() {
    let mut s = Space::new();
    s.express(id(0, 1, 0), 1, ROOT_PORT).buses(id(0, 1, 0), 1, 3);
    s.express(id(1, 0, 0), 1, UPSTREAM).buses(id(1, 0, 0), 2, 3);
    s.express(id(2, 0, 0), 1, DOWNSTREAM).buses(id(2, 0, 0), 3, 3).acs(id(2, 0, 0), 0x1d, 0x1d);
    s.express(id(3, 0, 0), 0, ENDPOINT);
    let g = groups(&s);
    assert_eq!(members(&g, id(3, 0, 0)).len(), 4);
    assert!(g.why(id(3, 0, 0), id(2, 0, 0)).unwrap().to_string().contains("0000:00:01.0 above does not isolate"));
}

#[test]
fn functions_of_one_device_need_access_control_of_their_own() {
    let mut s = Space::new();
    for (function, acs) in [(0, None), (1, Some(0x0c)), (2, Some(0)), (3, None)] {
        s.express(id(0, 5, function), 0x80, INTEGRATED);
        if let Some(on) = acs {
            s.acs(id(0, 5, function), 0x0c, on);
        }
    }
    let g = groups(&s);
    assert_eq!(members(&g, id(0, 5, 1)), [id(0, 5, 1)]);
    assert_eq!(members(&g, id(0, 5, 3)), [id(0, 5, 0), id(0, 5, 2), id(0, 5, 3)]);
}

#[test]
fn phantom_functions_are_requester_ids() {
    let mut s = Space::new();
    s.express(id(0, 5, 0), 0x80, INTEGRATED).acs(id(0, 5, 0), 0, 0).set(id(0, 5, 0), 0x54, 1 << 3);
    s.express(id(0, 5, 1), 0x80, INTEGRATED).acs(id(0, 5, 1), 0, 0).set(id(0, 5, 1), 0x54, 1 << 3);
    s.express(id(0, 6, 0), 0, INTEGRATED).set(id(0, 6, 0), 0x54, 3 << 3);
    let g = groups(&s);
    assert_eq!(requesters(&g, id(0, 5, 1)), [id(0, 5, 1), id(0, 5, 5)]);
    assert_eq!(requesters(&g, id(0, 6, 0)).len(), 8);
    assert_eq!(g.group_of(id(0, 5, 5)), g.group_of(id(0, 5, 1)));
    assert_eq!(members(&g, id(0, 5, 0)), [id(0, 5, 0)]);
    // A function that has the number of another's phantom cannot be told from it.
    s.express(id(0, 5, 4), 0x80, INTEGRATED).acs(id(0, 5, 4), 0, 0);
    let g = groups(&s);
    assert_eq!(members(&g, id(0, 5, 0)), [id(0, 5, 0), id(0, 5, 4)]);
    assert!(g.why(id(0, 5, 4), id(0, 5, 0)).unwrap().to_string().ends_with("as 0000:00:05.4, a phantom function"));
}

#[test]
fn devices_known_to_use_function_1_have_its_id() {
    let mut s = Space::new();
    s.express(id(0, 5, 0), 0, INTEGRATED).set(id(0, 5, 0), 0x00, 0x9230_1b4b);
    assert_eq!(requesters(&groups(&s), id(0, 5, 0)), [id(0, 5, 0), id(0, 5, 1)]);
}

#[test]
fn devices_without_configuration_space_are_members_too() {
    let mut tree = q35(true).tree();
    tree.add(id(0xf0, 0, 0)).unwrap();
    tree.add(id(0, 2, 0)).unwrap();
    let g = Groups::new(&tree).unwrap();
    assert_eq!(members(&g, id(0xf0, 0, 0)), [id(0xf0, 0, 0)]);
    assert_eq!(members(&g, id(0, 2, 0)), [id(0, 2, 0)]);
}

#[test]
fn any_configuration_space_gives_groups() {
    // Numbers of a small generator, so that every run reads the same machines.
    let mut n = 1u64;
    let mut random = |below: u64| {
        n = n.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (n >> 33) % below
    };
    for _ in 0..200 {
        let mut s = Space::new();
        for _ in 0..random(60) {
            let d = id(random(8) as u8, random(4) as u8, random(8) as u8);
            s.express(d, [0, 1, 0x80, 0x81, 2][random(5) as usize], random(16) as u32);
            s.buses(d, random(10) as u8, random(10) as u8).acs(d, random(32) as u16, random(32) as u16);
            s.set(d, 0x54, random(32) as u32).set(d, 0x78, random(64) as u32);
            s.set(d, [0x40, 0x34, 0x100, 0x140, 0x0c][random(5) as usize], random(1 << 31) as u32);
        }
        let tree = s.tree();
        let g = Groups::new(&tree).unwrap();
        let mut seen = 0;
        for group in g.iter() {
            let of: Vec<_> = g.members(group).collect();
            seen += of.len();
            for (a, b) in of.iter().zip(of.iter().skip(1)) {
                assert!(g.why(*a, *b).unwrap().links().count() > 0);
            }
            // No id of one group is an id of another.
            for d in of {
                assert!(
                    g.requester_ids(d)
                        .all(|(x, _)| g.aliases.iter().all(|y| y.id != x || g.members[y.member].group == group))
                );
            }
        }
        assert_eq!(seen, tree.functions().len());
    }
}

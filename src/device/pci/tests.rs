//! A configuration space made of memory, and reading it.

use super::*;
use std::collections::BTreeMap;
use std::vec::Vec;

/// A machine's configuration space: what is not there reads all ones, buses beyond `last_bus` cannot be read.
pub(crate) struct Space {
    words: BTreeMap<(DeviceId, u16), u32>,
    last_bus: u8,
}

/// Device and port types of the PCI Express capability.
pub(crate) const ENDPOINT: u32 = 0;
pub(crate) const ROOT_PORT: u32 = 4;
pub(crate) const UPSTREAM: u32 = 5;
pub(crate) const DOWNSTREAM: u32 = 6;
pub(crate) const TO_PCI: u32 = 7;
pub(crate) const INTEGRATED: u32 = 9;

pub(crate) fn id(bus: u8, device: u8, function: u8) -> DeviceId {
    DeviceId::new(0, bus, device, function)
}

impl Space {
    pub(crate) fn new() -> Self {
        Space { words: BTreeMap::new(), last_bus: 255 }
    }

    pub(crate) fn set(&mut self, d: DeviceId, at: u16, v: u32) -> &mut Self {
        self.words.insert((d, at), v);
        self
    }

    /// A conventional function; `header` with the multifunction bit.
    pub(crate) fn conventional(&mut self, d: DeviceId, header: u8) -> &mut Self {
        self.set(d, 0x00, 0x1111_8086).set(d, 0x04, 0).set(d, 0x08, 0x0200_0000);
        self.set(d, 0x0c, u32::from(header) << 16)
    }

    /// A PCI Express function of this type.
    pub(crate) fn express(&mut self, d: DeviceId, header: u8, kind: u32) -> &mut Self {
        self.conventional(d, header).set(d, 0x04, 1 << 20).set(d, 0x34, 0x40).set(d, 0x40, 0x0005 | 0x50 << 8);
        self.set(d, 0x50, 0x10 | 2 << 16 | kind << 20).set(d, 0x54, 0).set(d, 0x78, 0).set(d, 0x100, 0)
    }

    /// The buses behind a bridge.
    pub(crate) fn buses(&mut self, d: DeviceId, secondary: u8, subordinate: u8) -> &mut Self {
        let own = u32::from(d.source.bus());
        self.set(d, 0x18, own | u32::from(secondary) << 8 | u32::from(subordinate) << 16)
    }

    pub(crate) fn acs(&mut self, d: DeviceId, able: u16, on: u16) -> &mut Self {
        self.set(d, 0x100, 0x0001 | 1 << 16 | 0x140 << 20);
        self.set(d, 0x140, 0x000d | 1 << 16).set(d, 0x144, u32::from(able) | u32::from(on) << 16)
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::read(&mut |d, at| self.read(d, at), [0]).unwrap()
    }

    fn read(&self, d: DeviceId, at: u16) -> Option<u32> {
        assert!(at.is_multiple_of(4) && at < 4096);
        (d.source.bus() <= self.last_bus).then(|| self.words.get(&(d, at)).copied().unwrap_or(u32::MAX))
    }
}

fn ids(tree: &Tree) -> Vec<DeviceId> {
    tree.functions().iter().map(|f| f.id).collect()
}

#[test]
fn functions_are_found_with_what_they_are() {
    let mut s = Space::new();
    s.conventional(id(0, 0, 0), 0).express(id(0, 1, 0), 1, ROOT_PORT).buses(id(0, 1, 0), 1, 2);
    s.acs(id(0, 1, 0), 0x1d, 0x1d);
    s.express(id(1, 0, 0), 1, TO_PCI).buses(id(1, 0, 0), 2, 2).conventional(id(2, 3, 0), 0x80);
    s.conventional(id(2, 3, 5), 0x80);
    let tree = s.tree();
    assert_eq!(ids(&tree), [id(0, 0, 0), id(0, 1, 0), id(1, 0, 0), id(2, 3, 0), id(2, 3, 5)]);
    let port = tree.function(id(0, 1, 0)).unwrap();
    assert!(port.isolates() && port.role == Role::RootPort);
    let above: Vec<_> = tree.above(id(2, 3, 5)).map(|f| f.id).collect();
    assert_eq!(above, [id(1, 0, 0), id(0, 1, 0)]);
    assert_eq!(tree.buses(id(1, 0, 0)), Some(Buses { secondary: 2, subordinate: 2 }));
}

#[test]
fn a_link_has_one_device_and_a_bus_that_cannot_be_read_none() {
    let mut s = Space::new();
    s.express(id(0, 1, 0), 1, ROOT_PORT).buses(id(0, 1, 0), 1, 1);
    for device in 0..32 {
        s.express(id(1, device, 0), 0, ENDPOINT);
    }
    s.conventional(id(9, 0, 0), 0);
    s.last_bus = 8;
    assert_eq!(ids(&s.tree()), [id(0, 1, 0), id(1, 0, 0)]);
}

#[test]
fn ari_functions_follow_their_chain_and_go_by_function_0() {
    let mut s = Space::new();
    s.express(id(0, 1, 0), 1, ROOT_PORT).buses(id(0, 1, 0), 1, 1).set(id(0, 1, 0), 0x78, 1 << 5);
    for (devfn, next) in [(0u8, 3u8), (3, 17), (17, 3)] {
        let d = id(1, devfn >> 3, devfn & 7);
        s.express(d, 0, ENDPOINT).set(d, 0x100, 0x000e | 1 << 16).set(d, 0x104, u32::from(next) << 8);
    }
    let tree = s.tree();
    assert_eq!(ids(&tree), [id(0, 1, 0), id(1, 0, 0), id(1, 0, 3), id(1, 2, 1)]);
    assert_eq!(tree.named(id(1, 2, 1)), id(1, 0, 0));
    assert_eq!(tree.named(id(0, 1, 0)), id(0, 1, 0));
}

#[test]
fn broken_configuration_space_ends() {
    let mut s = Space::new();
    // Behind itself, behind a lower bus, an empty range, capability lists that are circles.
    s.conventional(id(3, 0, 0), 1).buses(id(3, 0, 0), 3, 9);
    s.conventional(id(3, 1, 0), 1).buses(id(3, 1, 0), 2, 9);
    s.conventional(id(3, 2, 0), 1).buses(id(3, 2, 0), 7, 5);
    s.conventional(id(2, 0, 0), 1).buses(id(2, 0, 0), 3, 3);
    s.conventional(id(4, 0, 0), 0).set(id(4, 0, 0), 0x04, 1 << 20).set(id(4, 0, 0), 0x34, 0x40);
    s.set(id(4, 0, 0), 0x40, 0x01 | 0x40 << 8);
    s.express(id(5, 0, 0), 0, ENDPOINT).set(id(5, 0, 0), 0x100, 0x0001 | 0x100 << 20);
    let tree = s.tree();
    assert_eq!(tree.functions().len(), 6);
    assert_eq!(tree.buses(id(3, 0, 0)), None);
    assert_eq!(tree.above(id(3, 1, 0)).count(), 1);
}

#[test]
fn access_control_is_turned_on_where_it_can_be() {
    let mut s = Space::new();
    s.express(id(0, 1, 0), 1, ROOT_PORT).acs(id(0, 1, 0), 0x7f, 0);
    s.express(id(0, 2, 0), 1, ROOT_PORT).acs(id(0, 2, 0), 0x1d, 0x1d);
    s.express(id(0, 3, 0), 1, ROOT_PORT).express(id(0, 4, 0), 0, INTEGRATED);
    let mut tree = s.tree();
    let mut put = |d, at, v| {
        assert_eq!((d, at, v), (id(0, 1, 0), 0x144, 0x001d_007f));
        Ok(v)
    };
    assert_eq!(tree.isolate_by(&mut put).unwrap(), 1);
    assert!(tree.function(id(0, 1, 0)).unwrap().isolates());
    assert!(!tree.function(id(0, 3, 0)).unwrap().isolates());
    assert_eq!(tree.isolate_by(&mut put).unwrap(), 0);
    // A function that refuses is seen not to isolate.
    let mut tree = s.tree();
    tree.isolate_by(&mut |_, _, _| Ok(0)).unwrap();
    assert!(!tree.function(id(0, 1, 0)).unwrap().isolates());
    tree.isolate_by(&mut |_, _, _| Ok(u32::MAX)).unwrap();
    assert!(!tree.function(id(0, 1, 0)).unwrap().isolates(), "it is gone");
    assert!(s.tree().isolate_by(&mut |_, _, _| Err(PlatformError)).is_err());
    // A capability that cannot be read is none.
    s.set(id(0, 2, 0), 0x144, u32::MAX);
    assert!(!s.tree().function(id(0, 2, 0)).unwrap().isolates());
}

/// A physical function with ATS and, behind root port 00:1c.0, `number` virtual functions from `first` on.
fn physical(s: &mut Space, number: u32, first: u32, stride: u32) -> DeviceId {
    let (port, function) = (id(0, 0x1c, 0), id(1, 0, 0));
    s.express(port, 1, ROOT_PORT).buses(port, 1, 2).express(function, 0, ENDPOINT);
    s.set(function, 0x100, 0x0010 | 1 << 16 | 0x160 << 20).set(function, 0x108, 1).set(function, 0x110, number);
    s.set(function, 0x114, stride << 16 | first).set(function, 0x118, 0x10ed << 16);
    s.set(function, 0x160, 0x000f | 1 << 16 | 0x180 << 20).set(function, 0x164, 0x8003_0067);
    s.set(function, 0x180, 0x0013 | 1 << 16).set(function, 0x184, 0);
    function
}

/// It answers at no vendor id.
fn virtual_one(s: &mut Space, d: DeviceId) {
    s.express(d, 0, ENDPOINT).set(d, 0, u32::MAX).set(d, 0x100, 0x000f | 1 << 16).set(d, 0x104, 0x0020);
}

#[test]
fn caches_of_devices_and_page_requests_are_found() {
    let mut s = Space::new();
    let d = physical(&mut s, 0, 0, 0);
    let tree = s.tree();
    let f = tree.function(d).unwrap();
    let ats = f.ats.unwrap();
    assert_eq!((ats.depth, ats.aligned, ats.global, f.page_requests, f.physical), (7, true, true, true, None));
    s.set(d, 0x164, u32::MAX);
    assert_eq!(s.tree().function(d).unwrap().ats, None, "it could not be read");
}

#[test]
fn virtual_functions_are_where_their_physical_function_says_and_answer_at_no_vendor_id() {
    let mut s = Space::new();
    let d = physical(&mut s, 3, 0x80, 0x84);
    let all = [id(1, 16, 0), id(2, 0, 4), id(2, 17, 0)];
    // The third does not answer at all.
    all[..2].iter().for_each(|v| virtual_one(&mut s, *v));
    let tree = s.tree();
    assert_eq!(ids(&tree), [id(0, 0x1c, 0), d, all[0], all[1]]);
    for v in &all[..2] {
        let f = tree.function(*v).unwrap();
        assert_eq!((f.physical, f.parent, f.vendor, f.device), (Some(d), Some(id(0, 0x1c, 0)), 0x8086, 0x10ed));
        assert!(f.ats.is_some_and(|a| a.aligned && !a.global) && f.page_requests);
        assert_eq!(Bridges::named(&tree, *v), d);
    }
    assert_eq!(Bridges::named(&tree, d), d);
}

#[test]
fn virtual_functions_that_cannot_be_are_not_there() {
    for (number, first, stride, enabled) in
        [(2, 0, 1, 1), (2, 8, 0, 1), (2, 8, 1, 0), (2, 0x1000, 1, 1), (60000, 0xffff, 0xffff, 1)]
    {
        let mut s = Space::new();
        let d = physical(&mut s, number, first, stride);
        s.set(d, 0x108, enabled);
        for v in [id(1, 0, 1), id(1, 1, 0), id(1, 1, 1), id(17, 0, 0), id(17, 0, 1)] {
            virtual_one(&mut s, v);
        }
        assert_eq!(ids(&s.tree()), [id(0, 0x1c, 0), d], "{number} {first:#x} {stride:#x} {enabled}");
    }
}

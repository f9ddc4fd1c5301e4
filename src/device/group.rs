//! Functions that cannot be told apart or kept apart, as groups: VT-d 3.12 (who appears under which source id), PCI Express
//! 6.12 (access control services).
//!
//! Functions belong together that
//! - may send requests under the same id: those behind a PCI Express-to-PCI bridge (own id, or secondary bus:00.0), those
//!   behind a conventional bridge (the bridge's id), phantom functions, devices known to use another's id;
//! - can reach each other without passing a unit: whatever is below a port or bridge that does not send requests between
//!   its children upstream, with that port and everything above it up to the last such; the functions of a
//!   multifunction device without ACS.
//!
//! The last holds for devices integrated in the root complex too, whose ids alone tell them apart (VT-d 3.12.4): nothing
//! there says that their functions do not talk among themselves, and a group too large is safe where one too small is not.

use super::pci::{Function, Role, Tree};
use crate::host::address::{DeviceId, SourceId};
use crate::host::error::Error;
use crate::host::grow;
use alloc::vec::Vec;
use core::fmt;

/// A group, by its first member: segment in bits 31:16, source id in 15:0. The same after every scan that finds the same
/// first member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

impl GroupId {
    fn of(first: DeviceId) -> Self {
        GroupId(u32::from(first.segment) << 16 | u32::from(first.source.0))
    }

    /// The group's first member.
    pub fn first(self) -> DeviceId {
        DeviceId { segment: (self.0 >> 16) as u16, source: SourceId(self.0 as u16) }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.first())
    }
}

/// Why a function may send requests under an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AliasOf {
    /// The id is its own.
    Own,
    /// This bridge from PCI Express to PCI may put secondary bus:00.0 in its place (VT-d 3.12.1).
    ExpressBridge(DeviceId),
    /// This conventional bridge puts its own id in its place (VT-d 3.12.2).
    Bridge(DeviceId),
    /// It is one of its phantom functions (VT-d 3.12.5).
    Phantom,
    /// Functions of this kind are known to send requests as function 1 of their device.
    Quirk,
}

/// Why two functions belong together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Both may send requests under this id; why the first of the two may, and the second.
    SharedId(DeviceId, AliasOf, AliasOf),
    /// The second is above the first, and requests can turn round at this port or bridge.
    NotIsolated(DeviceId),
    /// Both the second and another bridge say that they forward to the first's bus; which one does is not known.
    TwoWays(DeviceId),
    /// They are functions of one device that does not isolate them.
    SameDevice,
}

#[derive(Debug)]
struct Member {
    id: DeviceId,
    group: GroupId,
    /// The way to the root of the tree of reasons that holds its group together.
    up: Option<(usize, Reason)>,
}

#[derive(Clone, Copy, Debug)]
struct Alias {
    id: DeviceId,
    member: usize,
    of: AliasOf,
}

/// All groups of a machine.
#[derive(Debug)]
pub struct Groups {
    /// In the order of their ids.
    members: Vec<Member>,
    /// In the order of their members.
    aliases: Vec<Alias>,
}

impl Groups {
    /// Groups the functions of `tree`. Goes by the access controls that were on when it was read (`Tree::isolate`).
    ///
    /// Allocates; not for interrupt context.
    pub fn new(tree: &Tree) -> Result<Groups, Error> {
        let functions = tree.functions();
        let mut aliases = Vec::new();
        for (place, f) in functions.iter().enumerate() {
            find_aliases(tree, f, &mut |id, of| Ok(grow::push(&mut aliases, Alias { id, member: place, of })?))?;
        }
        let mut forest = Forest::new(functions)?;
        forest.join_shared_ids(&mut aliases);
        for (place, f) in functions.iter().enumerate() {
            if let Some(parent) = f.parent.and_then(|p| tree.place(p))
                && let Some(port) = tree.turning(f.id)
            {
                forest.join(place, parent, Reason::NotIsolated(port.id));
            }
            for rival in tree.rivals(f.id) {
                if let Some(other) = tree.place(rival.id) {
                    forest.join(place, other, Reason::TwoWays(rival.id));
                }
            }
            if f.multifunction && !f.isolates() {
                let hub = functions.iter().skip(slot_start(functions, f));
                let mut siblings =
                    hub.take_while(|o| o.id.segment == f.id.segment && o.id.source.bus() == f.id.source.bus());
                let first = siblings.find(|o| o.slot() == f.slot() && o.multifunction && !o.isolates());
                if let Some(first) = first.and_then(|o| tree.place(o.id)) {
                    forest.join(place, first, Reason::SameDevice);
                }
            }
        }
        let members = forest.label();
        aliases.sort_unstable_by_key(|a| (a.member, a.id));
        Ok(Groups { members, aliases })
    }

    fn place(&self, d: DeviceId) -> Option<usize> {
        self.members.binary_search_by_key(&d, |m| m.id).ok()
    }

    /// The group of a function, or of whoever sends requests under this id.
    pub fn group_of(&self, d: DeviceId) -> Option<GroupId> {
        let alias = || self.aliases.iter().find(|a| a.id == d).map(|a| a.member);
        self.place(d).or_else(alias).and_then(|n| self.members.get(n)).map(|m| m.group)
    }

    /// All groups, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = GroupId> {
        self.members.iter().filter(|m| m.group == GroupId::of(m.id)).map(|m| m.group)
    }

    /// The members of a group, in the order of their ids: PCI functions, bridges among them, and ACPI devices.
    pub fn members(&self, g: GroupId) -> impl Iterator<Item = DeviceId> {
        self.members.iter().filter(move |m| m.group == g).map(|m| m.id)
    }

    /// Every id under which a member may send requests, its own included, and why. Each is to be programmed alike.
    pub fn requester_ids(&self, d: DeviceId) -> impl Iterator<Item = (DeviceId, AliasOf)> {
        let place = self.place(d).unwrap_or(usize::MAX);
        let from = self.aliases.partition_point(|a| a.member < place);
        let rest = self.aliases.get(from..).unwrap_or_default();
        rest.iter().take_while(move |a| a.member == place).map(|a| (a.id, a.of))
    }

    /// Why two functions belong together; `None` where they do not, or are not there.
    pub fn why(&self, a: DeviceId, b: DeviceId) -> Option<Why<'_>> {
        let (a, b) = (self.place(a)?, self.place(b)?);
        let same = self.members.get(a)?.group == self.members.get(b)?.group;
        same.then_some(Why { groups: self, a, b })
    }

    fn up(&self, n: usize) -> Option<(usize, Reason)> {
        self.members.get(n).and_then(|m| m.up)
    }

    fn way_up(&self, from: usize) -> impl Iterator<Item = usize> {
        core::iter::successors(Some(from), |n| self.up(*n).map(|(p, _)| p)).take(self.members.len())
    }

    fn shared_id(&self, a: usize, b: usize) -> Option<Reason> {
        let of = |n: usize| self.aliases.iter().filter(move |x| x.member == n);
        of(a).find_map(|x| of(b).find(|y| y.id == x.id).map(|y| Reason::SharedId(x.id, x.of, y.of)))
    }
}

/// Every id under which `f` may send requests (VT-d 3.12).
///
/// Its own id is among them behind conventional bridges too, though no request should bear it: bridges to PCI-X pass ids
/// on, and an entry that nothing uses does no harm.
fn find_aliases(
    tree: &Tree,
    f: &Function,
    found: &mut dyn FnMut(DeviceId, AliasOf) -> Result<(), Error>,
) -> Result<(), Error> {
    found(f.id, AliasOf::Own)?;
    if f.ari.is_none() {
        // The upper bits of the function number, of which a device with phantom functions implements none.
        let step = 8u16 >> f.phantom_bits.min(3);
        let real = f.id.source.0 & 7 & step.wrapping_sub(1);
        for function in (real..8).step_by(usize::from(step.max(1))) {
            let id = DeviceId { segment: f.id.segment, source: SourceId(f.id.source.0 & !7 | function) };
            if id != f.id {
                found(id, AliasOf::Phantom)?;
            }
        }
    }
    let function_1 = DeviceId { segment: f.id.segment, source: SourceId(f.id.source.0 & !7 | 1) };
    if function_1 != f.id && USE_FUNCTION_1.contains(&(f.vendor, f.device)) {
        found(function_1, AliasOf::Quirk)?;
    }
    for bridge in tree.above(f.id).chain(tree.rivals(f.id)) {
        match (bridge.role, bridge.behind) {
            (Role::ToPci, Some(behind)) => {
                let id = DeviceId::new(bridge.id.segment, behind.secondary, 0, 0);
                if id != f.id {
                    found(id, AliasOf::ExpressBridge(bridge.id))?;
                }
            }
            (Role::Conventional | Role::ToExpress, _) => found(bridge.id, AliasOf::Bridge(bridge.id))?,
            _ => {}
        }
    }
    Ok(())
}

/// Storage controllers that send requests as function 1, whether or not there is one (seen in the field, and listed by
/// Linux): vendor, device.
const USE_FUNCTION_1: [(u16, u16); 17] = [
    (0x1b4b, 0x9120),
    (0x1b4b, 0x9123),
    (0x1b4b, 0x9125),
    (0x1b4b, 0x9128),
    (0x1b4b, 0x9130),
    (0x1b4b, 0x9170),
    (0x1b4b, 0x9172),
    (0x1b4b, 0x917a),
    (0x1b4b, 0x9182),
    (0x1b4b, 0x9183),
    (0x1b4b, 0x91a0),
    (0x1b4b, 0x9215),
    (0x1b4b, 0x9220),
    (0x1b4b, 0x9230),
    (0x1b4b, 0x9235),
    (0x1103, 0x0642),
    (0x1103, 0x0645),
];

fn slot_start(functions: &[Function], f: &Function) -> usize {
    functions.partition_point(|o| o.id < f.slot())
}

/// Disjoint sets, and for each a tree of the reasons that made it.
struct Forest {
    members: Vec<Member>,
    sets: Vec<usize>,
}

impl Forest {
    fn new(functions: &[Function]) -> Result<Self, Error> {
        let (mut members, mut sets) = (Vec::new(), Vec::new());
        for (place, f) in functions.iter().enumerate() {
            grow::push(&mut members, Member { id: f.id, group: GroupId::of(f.id), up: None })?;
            grow::push(&mut sets, place)?;
        }
        Ok(Forest { members, sets })
    }

    /// The set's name: its smallest member.
    fn set(&mut self, mut n: usize) -> usize {
        // Every step leads to a smaller number.
        while let Some(above) = self.sets.get(n).copied().filter(|a| *a < n) {
            let further = self.sets.get(above).copied().unwrap_or(above);
            if let Some(entry) = self.sets.get_mut(n) {
                *entry = further;
            }
            n = above;
        }
        n
    }

    /// Joins `a` to `b` for a reason, unless they are together already.
    fn join(&mut self, a: usize, b: usize, reason: Reason) {
        let (x, y) = (self.set(a), self.set(b));
        if x == y {
            return;
        }
        if let Some(entry) = self.sets.get_mut(x.max(y)) {
            *entry = x.min(y);
        }
        // Turns a's tree round so that `a` is its root, and hangs it below `b`.
        let (mut at, mut above) = (a, Some((b, reason)));
        while let Some(member) = self.members.get_mut(at) {
            match core::mem::replace(&mut member.up, above) {
                Some((next, why)) => (above, at) = (Some((at, why)), next),
                None => break,
            }
        }
    }

    fn join_shared_ids(&mut self, aliases: &mut [Alias]) {
        aliases.sort_unstable_by_key(|a| (a.id, a.member));
        for pair in aliases.windows(2) {
            if let &[a, b] = pair
                && a.id == b.id
            {
                self.join(b.member, a.member, Reason::SharedId(a.id, b.of, a.of));
            }
        }
    }

    fn label(mut self) -> Vec<Member> {
        for n in 0..self.members.len() {
            let first = self.set(n);
            let group = self.members.get(first).map(|m| m.group);
            if let (Some(member), Some(group)) = (self.members.get_mut(n), group) {
                member.group = group;
            }
        }
        self.members
    }
}

/// Why two functions belong together: one step, or a chain of them. Prints as a sentence.
#[derive(Clone, Copy, Debug)]
pub struct Why<'g> {
    groups: &'g Groups,
    a: usize,
    b: usize,
}

/// A step of a chain of reasons: these two belong together, directly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// One.
    pub a: DeviceId,
    /// The other.
    pub b: DeviceId,
    /// Why.
    pub reason: Reason,
}

impl<'g> Why<'g> {
    /// The steps that lead from one to the other; none where both are the same function.
    pub fn links(self) -> impl Iterator<Item = Link> + 'g {
        let Why { groups, a, b } = self;
        let id = |n: usize| groups.members.get(n).map(|m| m.id);
        let direct = (a != b).then(|| groups.shared_id(a, b)).flatten();
        let meet = groups.way_up(a).find(|n| groups.way_up(b).any(|m| m == *n));
        let ends = if direct.is_some() { [None, None] } else { [Some(a), Some(b)] };
        let chain = ends.into_iter().flatten().flat_map(move |from| {
            let steps = groups.way_up(from).take_while(move |n| Some(*n) != meet);
            steps.filter_map(move |n| {
                let (above, reason) = groups.up(n)?;
                Some(Link { a: id(n)?, b: id(above)?, reason })
            })
        });
        let whole = move |reason| Some(Link { a: id(a)?, b: id(b)?, reason });
        direct.and_then(whole).into_iter().chain(chain)
    }
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for link in self.links() {
            write!(f, "{gap}{link}")?;
            gap = "; ";
        }
        if gap.is_empty() { f.write_str("both are the same function") } else { Ok(()) }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Link { a, b, reason } = self;
        match *reason {
            Reason::SharedId(id, why_a, why_b) => {
                write!(f, "{a} and {b} both send requests as {id}")?;
                match if why_a == AliasOf::Own { why_b } else { why_a } {
                    AliasOf::Own => Ok(()),
                    AliasOf::ExpressBridge(bridge) => {
                        write!(f, ", which PCI Express-to-PCI bridge {bridge} makes of ids")
                    }
                    AliasOf::Bridge(bridge) => write!(f, ", the id of PCI bridge {bridge} above"),
                    AliasOf::Phantom => f.write_str(", a phantom function"),
                    AliasOf::Quirk => f.write_str(", as devices of this kind are known to do"),
                }
            }
            Reason::NotIsolated(port) if port == *b => {
                write!(f, "{a} is below {b}, which does not isolate what is below it (no ACS, or not on)")
            }
            Reason::NotIsolated(port) => {
                write!(f, "{a} is below {b}, and {port} above does not isolate what is below it (no ACS, or not on)")
            }
            Reason::TwoWays(_) => write!(f, "{a} is on a bus to which {b} forwards, and another bridge too"),
            Reason::SameDevice => write!(f, "{a} and {b} are functions of one device without ACS between them"),
        }
    }
}

#[cfg(test)]
mod tests;

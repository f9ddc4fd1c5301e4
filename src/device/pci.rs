//! The PCI functions of a machine as configuration space shows them, read once: PCI 3.0 6.1 and 6.2 (headers, capability
//! lists), PCI Express 7.5.3 (PCI Express capability), 7.7.11 (ACS), 7.8.8 (ARI), 9.3.3 (SR-IOV), 10.5 (ATS, PRI).
//!
//! Nothing that configuration space says is believed further than an ordered walk can bear: a bridge whose secondary bus
//! is not beyond its own has nothing behind it, so that a way upwards always ends.

use super::ats::AtsCapability;
use crate::dmar::{Bridges, Buses};
use crate::host::address::{DeviceId, SourceId};
use crate::host::error::{Error, ErrorKind, Step};
use crate::host::grow;
use crate::host::platform::{Platform, PlatformError};
use alloc::vec::Vec;

/// What a function is on its way to the root complex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A PCI Express function that is no port: an endpoint, or one integrated in the root complex.
    Endpoint,
    /// A root port.
    RootPort,
    /// A switch's upstream port.
    UpstreamPort,
    /// A switch's downstream port.
    DownstreamPort,
    /// A bridge from PCI Express to PCI or PCI-X.
    ToPci,
    /// A bridge from PCI or PCI-X to PCI Express.
    ToExpress,
    /// Conventional PCI: a bridge where there are buses behind it, else a device.
    Conventional,
    /// Not a PCI function: a device of the ACPI name space with a source id.
    Acpi,
}

/// Access control services of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acs {
    /// Where in configuration space the capability stands.
    at: u16,
    /// What it can do (ACS capability register).
    pub able: u16,
    /// What of it is on (ACS control register).
    pub on: u16,
}

impl Acs {
    /// Source validation, request redirect, completion redirect, upstream forwarding.
    const ISOLATION: u16 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4;

    /// Translation blocking: requests with translated addresses, and for translations, end here.
    pub(super) fn blocks_translated(&self) -> bool {
        self.on & 1 << 1 != 0
    }

    /// Whether everything that isolates is on. What the function cannot switch it does anyway (PCI Express 7.7.11.2: the
    /// mechanisms are required, or required where they can be switched).
    pub fn isolates(&self) -> bool {
        let switched = self.able & Self::ISOLATION;
        self.on & switched == switched
    }
}

/// The PASID capability of a function (PCI Express 7.8.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PasidCapability {
    /// Where in configuration space it stands.
    pub(super) at: u16,
    /// Bits of the PASIDs that the function takes, at most 20.
    pub width: u8,
}

impl PasidCapability {
    /// Enable of the control register.
    const ENABLE: u32 = 1 << 16;

    /// Has the function send requests with PASID (without execute and privileged requests), or not. Nothing happens where
    /// the function is gone.
    pub(crate) fn switch<P: Platform>(&self, p: &P, d: DeviceId, on: bool) -> Result<(), Error> {
        let failed = |_| ErrorKind::Platform(Step::Configuration).of(d);
        let at = self.at.saturating_add(4);
        let was = p.config_read(d, at).map_err(failed)?;
        let capability = was & 0xffff;
        let wanted = capability | if on { Self::ENABLE } else { 0 };
        if was == u32::MAX || was == wanted {
            return Ok(());
        }
        p.config_write(d, at, wanted).map_err(failed)
    }
}

/// One function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub id: DeviceId,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, sub-class, programming interface.
    pub class: [u8; 3],
    /// What it is.
    pub role: Role,
    /// Whether its device says that it has several functions.
    pub multifunction: bool,
    /// What is behind it.
    pub behind: Option<Buses>,
    /// The bridge or port that it is behind; `None` on a root bus.
    pub parent: Option<DeviceId>,
    /// Its access control services.
    pub acs: Option<Acs>,
    /// Its PASID capability.
    pub pasid: Option<PasidCapability>,
    /// Its ATS capability.
    pub ats: Option<AtsCapability>,
    /// Whether it has the page-request capability. A virtual function uses that of its physical function.
    pub page_requests: bool,
    /// The physical function that it is a virtual function of.
    pub physical: Option<DeviceId>,
    /// How many of the upper bits of its function number it may use as phantom functions, 0 to 3.
    pub phantom_bits: u8,
    /// Function 0 of its device where that is an ARI device.
    pub ari: Option<DeviceId>,
    /// Whether it is a port that forwards ARI function numbers.
    pub forwards_ari: bool,
}

impl Function {
    /// Whether a firmware-reserved region of this function may be let go once a driver has taken over: USB and graphics,
    /// whose firmware uses end there. All others pin the function to the host (Linux decides alike).
    pub fn relaxable(&self) -> bool {
        matches!(self.class, [0x03, ..] | [0x0c, 0x03, _])
    }

    /// Whether requests that come through this function, or from it to its sibling functions, reach the unit.
    pub fn isolates(&self) -> bool {
        let acs = self.acs.is_some_and(|a| a.isolates());
        match self.role {
            Role::RootPort | Role::DownstreamPort => acs,
            Role::Endpoint | Role::UpstreamPort => acs || !self.multifunction,
            Role::ToPci | Role::ToExpress | Role::Conventional => false,
            Role::Acpi => true,
        }
    }

    /// What the functions of one device have in common.
    pub(super) fn slot(&self) -> DeviceId {
        let mut first = self.id;
        first.source.0 &= !7;
        self.ari.unwrap_or(first)
    }
}

/// Reads a function's configuration space, `None` where the platform fails.
type Read<'r> = &'r mut dyn FnMut(DeviceId, u16) -> Option<u32>;

/// The functions of a machine.
#[derive(Debug, Default)]
pub struct Tree {
    functions: Vec<Function>,
}

impl Tree {
    /// Finds every function on every bus of `segments`. A bus that the platform cannot read has none.
    ///
    /// Allocates; not for interrupt context.
    pub fn scan<P: Platform>(platform: &P, segments: impl IntoIterator<Item = u16>) -> Result<Tree, Error> {
        Self::read(&mut |d, at| platform.config_read(d, at).ok(), segments)
    }

    fn read(read: Read<'_>, segments: impl IntoIterator<Item = u16>) -> Result<Tree, Error> {
        let mut tree = Tree::default();
        for segment in segments {
            if tree.functions.iter().all(|f| f.id.segment != segment) {
                tree.read_segment(segment, read)?;
            }
        }
        tree.functions.sort_unstable_by_key(|f| f.id);
        Ok(tree)
    }

    fn read_segment(&mut self, segment: u16, read: Read<'_>) -> Result<(), Error> {
        let start = self.functions.len();
        for bus in 0..=255u8 {
            if read(DeviceId::new(segment, bus, 0, 0), 0).is_none() {
                continue;
            }
            let found = self.functions.get(start..).unwrap_or_default();
            let parent = nearest(found, bus).copied();
            // A link has one device on it; whatever answers at other numbers is the same one again.
            let direct = parent.filter(|p| p.behind.is_some_and(|b| b.secondary == bus));
            let link = direct.is_some_and(|p| matches!(p.role, Role::RootPort | Role::DownstreamPort));
            let last = if link { 0 } else { 31 };
            for device in 0..=last {
                self.read_device(DeviceId::new(segment, bus, device, 0), parent.as_ref(), read)?;
            }
        }
        self.read_virtual(start, read)
    }

    /// Finds the virtual functions of those from place `start` on, which answer at no vendor id: as many as each physical
    /// function has on, where its SR-IOV capability says.
    fn read_virtual(&mut self, start: usize, read: Read<'_>) -> Result<(), Error> {
        for place in start..self.functions.len() {
            let Some(physical) = self.functions.get(place).filter(|f| f.role == Role::Endpoint).copied() else {
                continue;
            };
            let Some(virtuals) = virtuals(physical.id, read) else { continue };
            let parent = physical.parent.and_then(|p| self.functions.iter().find(|f| f.id == p)).copied();
            for n in 0..virtuals.number {
                let steps = virtuals.stride.checked_mul(n).and_then(|v| virtuals.first.checked_add(v));
                let Some(source) = steps.and_then(|v| physical.id.source.0.checked_add(v)).map(SourceId) else { break };
                let id = DeviceId { source, ..physical.id };
                // Beyond the buses of the port its requests come from nowhere.
                let reached = parent.map_or(source.bus() == physical.id.source.bus(), |p| {
                    p.behind.is_some_and(|b| b.holds(source.bus()))
                });
                if !reached || self.functions.iter().skip(start).any(|f| f.id == id) {
                    continue;
                }
                // One that answers nothing at all is not there.
                if read(id, 0x04).is_none_or(|v| v == u32::MAX) {
                    continue;
                }
                let word = &mut |at: u16| read(id, at).unwrap_or(u32::MAX);
                let mut f = Function::new(id, Role::Endpoint);
                (f.vendor, f.device, f.class) = (physical.vendor, virtuals.device, physical.class);
                (f.parent, f.physical) = (physical.parent, Some(physical.id));
                if let Some(at) = capability(0x34, 0x10, word) {
                    express(&mut f, at, word);
                    extensions(&mut f, word);
                }
                f.page_requests = physical.page_requests;
                grow::push(&mut self.functions, f)?;
            }
        }
        Ok(())
    }

    fn read_device(&mut self, first: DeviceId, parent: Option<&Function>, read: Read<'_>) -> Result<(), Error> {
        let Some((head, mut next)) = read_function(first, parent, read) else { return Ok(()) };
        let multifunction = head.multifunction;
        let ari = parent.is_some_and(|p| p.forwards_ari) && next.is_some();
        grow::push(&mut self.functions, Function { ari: ari.then_some(first), ..head })?;
        if ari {
            let mut at = 0;
            while let Some(devfn) = next.filter(|n| *n > at) {
                at = devfn;
                let mut id = first;
                id.source.0 |= u16::from(devfn);
                let Some((f, then)) = read_function(id, parent, read) else { break };
                grow::push(&mut self.functions, Function { ari: Some(first), multifunction: true, ..f })?;
                next = then;
            }
        } else if multifunction {
            for function in 1..8 {
                let mut id = first;
                id.source.0 |= function;
                if let Some((f, _)) = read_function(id, parent, read) {
                    grow::push(&mut self.functions, Function { multifunction, ..f })?;
                }
            }
        }
        Ok(())
    }

    /// Adds a device that is no PCI function but has a source id (an ACPI device, VT-d 8.3.1.3). Where a function or
    /// another such device has that id, nothing changes: they cannot be told apart and are one.
    pub fn add(&mut self, id: DeviceId) -> Result<(), Error> {
        if let Err(at) = self.functions.binary_search_by_key(&id, |f| f.id) {
            grow::insert(&mut self.functions, at, Function::new(id, Role::Acpi))?;
        }
        Ok(())
    }

    /// Turns the isolating access controls on wherever a function has them. To be called before `Groups::new`, which goes
    /// by what is on. Answers how many functions changed.
    pub fn isolate<P: Platform>(&mut self, platform: &P) -> Result<usize, Error> {
        self.isolate_by(&mut |d, at, v| platform.config_write(d, at, v).and_then(|()| platform.config_read(d, at)))
    }

    /// The same by a function that writes and reads back.
    fn isolate_by(
        &mut self,
        put: &mut dyn FnMut(DeviceId, u16, u32) -> Result<u32, PlatformError>,
    ) -> Result<usize, Error> {
        let mut changed = 0usize;
        for f in &mut self.functions {
            let Some(acs) = f.acs.as_mut().filter(|a| !a.isolates()) else { continue };
            let on = acs.on | acs.able & Acs::ISOLATION;
            let word = u32::from(on) << 16 | u32::from(acs.able);
            let now = put(f.id, acs.at.saturating_add(4), word);
            let now = now.map_err(|_| ErrorKind::Platform(Step::Configuration).of(f.id))?;
            // All ones: the function is gone.
            acs.on = if now == u32::MAX { 0 } else { (now >> 16) as u16 };
            changed = changed.saturating_add(1);
        }
        Ok(changed)
    }

    /// The functions, in the order of their ids.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// One function.
    pub fn function(&self, id: DeviceId) -> Option<&Function> {
        self.place(id).and_then(|n| self.functions.get(n))
    }

    pub(super) fn place(&self, id: DeviceId) -> Option<usize> {
        self.functions.binary_search_by_key(&id, |f| f.id).ok()
    }

    /// The port or bridge above a function, nearest first, where requests can turn round instead of going up: one that
    /// does not isolate, or a switch of which a port below does not (what comes in there reaches every other port).
    pub(super) fn turning(&self, id: DeviceId) -> Option<&Function> {
        let open = |switch: &Function| {
            let mut ports =
                self.functions.iter().filter(|f| f.parent == Some(switch.id) && f.role == Role::DownstreamPort);
            switch.role == Role::UpstreamPort && ports.any(|f| !f.isolates())
        };
        self.above(id).find(|p| !p.isolates() || open(p))
    }

    /// Bridges that are not above a function and say all the same that they forward to its bus.
    pub(super) fn rivals(&self, id: DeviceId) -> impl Iterator<Item = &Function> {
        let rival =
            move |f: &&Function| f.id.segment == id.segment && f.behind.is_some_and(|b| b.holds(id.source.bus()));
        self.functions.iter().filter(rival).filter(move |f| self.above(id).all(|a| a.id != f.id))
    }

    /// The bridges and ports above a function, nearest first.
    pub fn above(&self, id: DeviceId) -> impl Iterator<Item = &Function> {
        let up = |f: &&Function| f.parent.and_then(|p| self.function(p));
        // Buses fall from step to step; the bound only says so once more.
        core::iter::successors(self.function(id).as_ref().and_then(up), move |f| up(f)).take(256)
    }
}

impl Bridges for Tree {
    fn buses(&self, bridge: DeviceId) -> Option<Buses> {
        self.function(bridge).and_then(|f| f.behind)
    }

    fn named(&self, d: DeviceId) -> DeviceId {
        let physical = self.function(d).and_then(|f| f.physical).unwrap_or(d);
        self.function(physical).and_then(|f| f.ari).unwrap_or(physical)
    }
}

impl Function {
    fn new(id: DeviceId, role: Role) -> Self {
        Function {
            id,
            vendor: u16::MAX,
            device: u16::MAX,
            class: [u8::MAX; 3],
            role,
            multifunction: false,
            behind: None,
            parent: None,
            acs: None,
            pasid: None,
            ats: None,
            page_requests: false,
            physical: None,
            phantom_bits: 0,
            ari: None,
            forwards_ari: false,
        }
    }
}

/// The bridge that a bus is behind: that whose secondary bus it is, else (the bridge between is not to be seen) the one
/// with the fewest buses behind it that forwards to it.
fn nearest(found: &[Function], bus: u8) -> Option<&Function> {
    let holding = found.iter().filter_map(|f| f.behind.filter(|b| b.holds(bus)).map(|b| (f, b)));
    holding.min_by_key(|(_, b)| (b.secondary != bus, b.subordinate.saturating_sub(b.secondary))).map(|(f, _)| f)
}

/// The function, and the next function number where it has the ARI capability. What cannot be read of a function that is
/// there reads as all ones, which makes it a multifunction device without capabilities: the least that can be trusted.
fn read_function(id: DeviceId, parent: Option<&Function>, read: Read<'_>) -> Option<(Function, Option<u8>)> {
    let ids = read(id, 0x00)?;
    if matches!(ids & 0xffff, 0 | 0xffff) {
        return None;
    }
    let word = &mut |at: u16| read(id, at).unwrap_or(u32::MAX);
    let mut f = Function::new(id, Role::Conventional);
    (f.vendor, f.device) = (ids as u16, (ids >> 16) as u16);
    f.parent = parent.map(|p| p.id);
    let [_, interface, sub, base] = word(0x08).to_le_bytes();
    f.class = [base, sub, interface];
    let [_, _, header, _] = word(0x0c).to_le_bytes();
    f.multifunction = header & 0x80 != 0;
    if matches!(header & 0x7f, 1 | 2) {
        let [_, secondary, subordinate, _] = word(0x18).to_le_bytes();
        let forward = secondary > id.source.bus() && subordinate >= secondary;
        f.behind = forward.then_some(Buses { secondary, subordinate });
    }
    let list = if header & 0x7f == 2 { 0x14 } else { 0x34 };
    let mut next = None;
    if let Some(at) = capability(list, 0x10, word) {
        express(&mut f, at, word);
        extensions(&mut f, word);
        next = extended(0x000e, word).map(|at| (word(at.saturating_add(4)) >> 8) as u8);
    }
    Some((f, next))
}

/// The extended capabilities.
fn extensions(f: &mut Function, word: &mut dyn FnMut(u16) -> u32) {
    // All ones are a read that failed.
    let mut found = |id| {
        let at = extended(id, word)?;
        Some((at, word(at.saturating_add(4)))).filter(|(_, w)| *w != u32::MAX)
    };
    f.acs = found(0x000d).map(|(at, w)| Acs { at, able: w as u16, on: (w >> 16) as u16 });
    f.ats = found(0x000f).map(|(at, w)| AtsCapability::new(at, w as u16));
    f.page_requests = found(0x0013).is_some();
    f.pasid = found(0x001b).and_then(|(at, w)| {
        let width = (w >> 8 & 31) as u8;
        (1..=20).contains(&width).then_some(PasidCapability { at, width })
    });
}

/// What a physical function says of its virtual functions.
struct Virtuals {
    number: u16,
    /// Steps of requester ids to the first, and from one to the next.
    first: u16,
    stride: u16,
    device: u16,
}

/// The SR-IOV capability of a function, where virtual functions are on.
fn virtuals(id: DeviceId, read: Read<'_>) -> Option<Virtuals> {
    const ENABLE: u32 = 1;
    let word = &mut |at: u16| read(id, at).unwrap_or(u32::MAX);
    capability(0x34, 0x10, word)?;
    let at = extended(0x0010, word)?;
    let mut field = |offset: u16| Some(word(at.saturating_add(offset))).filter(|w| *w != u32::MAX);
    let (control, number, places, device) = (field(0x08)?, field(0x10)?, field(0x14)?, field(0x18)?);
    let (first, stride) = (places as u16, (places >> 16) as u16);
    let v = Virtuals { number: number as u16, first, stride, device: (device >> 16) as u16 };
    (control & ENABLE != 0 && first != 0 && (stride != 0 || v.number < 2)).then_some(v)
}

/// The PCI Express capability (PCI Express 7.5.3).
fn express(f: &mut Function, at: u16, word: &mut dyn FnMut(u16) -> u32) {
    let capability = word(at);
    f.role = match (capability >> 20) & 15 {
        4 => Role::RootPort,
        5 => Role::UpstreamPort,
        6 => Role::DownstreamPort,
        7 => Role::ToPci,
        8 => Role::ToExpress,
        _ => Role::Endpoint,
    };
    let port = matches!(f.role, Role::RootPort | Role::DownstreamPort);
    if f.role == Role::Endpoint {
        f.phantom_bits = (word(at.saturating_add(4)) >> 3 & 3) as u8;
    } else if port && (capability >> 16) & 15 >= 2 {
        f.forwards_ari = word(at.saturating_add(0x28)) >> 5 & 1 != 0;
    }
}

/// A capability in the list that begins at `list` (PCI 3.0 6.7). At most as many steps as there is room for.
fn capability(list: u16, wanted: u8, word: &mut dyn FnMut(u16) -> u32) -> Option<u16> {
    if word(0x04) >> 20 & 1 == 0 {
        return None;
    }
    let mut at = word(list) as u8 & 0xfc;
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        let [kind, next, ..] = word(u16::from(at)).to_le_bytes();
        if kind == wanted {
            return Some(u16::from(at));
        }
        at = next & 0xfc;
    }
    None
}

/// An extended capability (PCI Express 7.6.3). At most as many steps as there is room for.
fn extended(wanted: u16, word: &mut dyn FnMut(u16) -> u32) -> Option<u16> {
    let mut at = 0x100;
    for _ in 0..480 {
        let header = word(at);
        if matches!(header, 0 | u32::MAX) {
            return None;
        }
        if header as u16 == wanted {
            return Some(at);
        }
        at = (header >> 20) as u16 & 0xffc;
        if at < 0x100 {
            return None;
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests;

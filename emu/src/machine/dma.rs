//! What functions do: reads, writes, copies and atomics of their DMA engine, translations for their device TLB, page
//! requests, interrupts (3.1, 4.1, 5.1, 7.4).

use super::Machine;
use crate::bus::{GroupResponse, Snoop};
use crate::devices::{FunctionId, Kept, Manner, Owner};
use crate::interrupts::{InterruptAnswer, InterruptRequest};
use crate::machine::wires::Message;
use crate::memory::Memory;
use crate::reason::Reason;
use crate::request::{
    Access, Answer, Fault, Kind, PageAnswer, PageRequest, Pasid, Passed, Request, SourceId, Translated,
};
use alloc::vec;
use alloc::vec::Vec;

const PAGE: u64 = 4096;

/// Which kind of address a function uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Via {
    /// Untranslated requests.
    #[default]
    Unit,
    /// Translated requests, with what the device TLB holds or gets for it.
    DeviceTlb,
    /// Translated requests with the very address, whoever gave it.
    Nothing,
}

/// One access of a DMA engine; it may be of any length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dma {
    /// Where.
    pub address: u64,
    /// On whose behalf.
    pub pasid: Option<Pasid>,
    /// As a privileged entity; only with a PASID.
    pub privileged: bool,
    /// To execute; only with a PASID.
    pub execute: bool,
    /// With the no-snoop attribute.
    pub no_snoop: bool,
    /// Which kind of address it is.
    pub via: Via,
    /// Under a requester id that is not the function's.
    pub forged: Option<SourceId>,
}

impl Dma {
    /// Untranslated, without PASID.
    pub fn at(address: u64) -> Self {
        Dma { address, ..Dma::default() }
    }
    /// The same with a PASID.
    pub fn with_pasid(self, pasid: Pasid) -> Self {
        Dma { pasid: Some(pasid), ..self }
    }
    /// The same as another kind of address.
    pub fn via(self, via: Via) -> Self {
        Dma { via, ..self }
    }
}

/// Why something that a function wanted did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// The unit blocked it.
    Fault(Fault),
    /// The unit blocked the interrupt.
    Interrupt(Reason),
    /// The device TLB holds, and the unit gives, no translation with the permission: the device may ask for the page.
    NoPermission(Translated),
    /// The function is not there, or no longer.
    Gone,
    /// Bus mastering, ATS, PASIDs, page requests or MSI is off.
    Disabled,
    /// A port on the way blocked it: source validation or translation blocking.
    Port,
    /// As many page requests are outstanding as were allotted.
    Allotted,
    /// It went through, and at this address there is no memory.
    NoMemory(u64),
    /// Nobody on the way knows such a request: ATS without a unit, an atomic access across words.
    Unsupported,
}

/// Where a request ended.
enum End {
    /// In memory.
    Memory { address: u64, snoop: Snoop },
    /// With the interrupt logic.
    Interrupt,
    /// Nowhere: data means nothing.
    Nothing,
}

/// The pieces of an access, none across a page: offset and length.
fn pieces(address: u64, length: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = length - done;
        if left == 0 {
            return None;
        }
        let at = address.wrapping_add(done as u64);
        let n = left.min((PAGE - at % PAGE) as usize);
        done += n;
        Some((done - n, n))
    })
}

impl<M: Memory> Machine<M> {
    /// A function reads. What came before the piece that was blocked has been read.
    pub fn dma_read(&mut self, f: FunctionId, dma: &Dma, into: &mut [u8]) -> Result<(), Blocked> {
        for (at, n) in pieces(dma.address, into.len()) {
            let piece = Dma { address: dma.address.wrapping_add(at as u64), ..*dma };
            let bytes = &mut into[at..at + n];
            match self.send(f, &piece, Access::Read, n as u32)? {
                End::Memory { address, snoop } => {
                    let unit = self.unit_of(f);
                    self.world.read_bytes(unit, address, snoop, bytes).map_err(Blocked::NoMemory)?;
                }
                End::Interrupt | End::Nothing => bytes.fill(0xff),
            }
        }
        Ok(())
    }

    /// A function writes. What came before the piece that was blocked has been written.
    pub fn dma_write(&mut self, f: FunctionId, dma: &Dma, from: &[u8]) -> Result<(), Blocked> {
        for (at, n) in pieces(dma.address, from.len()) {
            let piece = Dma { address: dma.address.wrapping_add(at as u64), ..*dma };
            let bytes = &from[at..at + n];
            match self.send(f, &piece, Access::Write, n as u32)? {
                End::Memory { address, .. } => self.world.write_bytes(address, bytes).map_err(Blocked::NoMemory)?,
                End::Interrupt => self.interrupt(f, &piece, bytes)?,
                End::Nothing => {}
            }
        }
        Ok(())
    }

    /// A function reads no bytes, to flush its writes (CAP.ZLR).
    pub fn dma_flush(&mut self, f: FunctionId, dma: &Dma) -> Result<(), Blocked> {
        self.send(f, dma, Access::Flush, 1).map(|_| ())
    }

    /// A function copies, a page at most at a time.
    pub fn dma_copy(&mut self, f: FunctionId, from: &Dma, to: &Dma, length: usize) -> Result<(), Blocked> {
        let mut buffer = vec![0; length.min(PAGE as usize)];
        for (at, n) in pieces(0, length) {
            let from = Dma { address: from.address.wrapping_add(at as u64), ..*from };
            let to = Dma { address: to.address.wrapping_add(at as u64), ..*to };
            self.dma_read(f, &from, &mut buffer[..n])?;
            self.dma_write(f, &to, &buffer[..n])?;
        }
        Ok(())
    }

    /// A function adds to 64 aligned bits in one step; returns what stood there.
    pub fn dma_fetch_add(&mut self, f: FunctionId, dma: &Dma, add: u64) -> Result<u64, Blocked> {
        if !dma.address.is_multiple_of(8) {
            return Err(Blocked::Unsupported);
        }
        let End::Memory { address, .. } = self.send(f, dma, Access::Atomic, 8)? else { return Ok(u64::MAX) };
        let mut old = self.world.memory.read64(address).ok_or(Blocked::NoMemory(address))?;
        loop {
            let new = old.wrapping_add(add);
            match self.world.compare_exchange64(address, old, new).ok_or(Blocked::NoMemory(address))? {
                was if was == old => return Ok(old),
                was => old = was,
            }
        }
    }

    /// A function asks for the translation of an address, and keeps it if it permits anything (4.1.1, 4.1.2).
    pub fn translate(&mut self, f: FunctionId, dma: &Dma, no_write: bool) -> Result<Translated, Blocked> {
        let device = self.world.devices.get(f).filter(|d| d.present()).ok_or(Blocked::Gone)?;
        if !device.may_cache() {
            return Err(Blocked::Disabled);
        }
        let smallest = PAGE << device.config.smallest();
        let page = Dma { address: dma.address & !(PAGE - 1), ..*dma };
        let Answer::Translated(answer) = self.ask(f, &page, Kind::Translation { no_write }, Access::Read, 8)? else {
            return Err(Blocked::Unsupported);
        };
        if let Some(device) = self.world.devices.get_mut(f) {
            device.tlb.keep(owner(dma), dma.address, &answer, smallest);
        }
        Ok(answer)
    }

    /// What a function's device TLB holds.
    pub fn device_tlb(&self, f: FunctionId) -> Vec<Kept> {
        self.world.devices.get(f).map_or(Vec::new(), |d| d.tlb.iter().copied().collect())
    }

    /// A function asks for a page (7.5); the request's source id becomes the function's.
    pub fn page_request(&mut self, f: FunctionId, request: &PageRequest) -> Result<PageAnswer, Blocked> {
        let device = self.world.devices.get(f).filter(|d| d.present()).ok_or(Blocked::Gone)?;
        if !device.may_ask() || request.pasid.is_some() && !device.may_tag() {
            return Err(Blocked::Disabled);
        }
        if !device.function.manner.unruly && device.groups.pages() >= device.config.allocation() {
            return Err(Blocked::Allotted);
        }
        self.send_page_request(f, request)
    }

    fn send_page_request(&mut self, f: FunctionId, request: &PageRequest) -> Result<PageAnswer, Blocked> {
        let device = self.world.devices.get_mut(f).filter(|d| d.present()).ok_or(Blocked::Gone)?;
        let request = PageRequest { source: device.function.source, group: request.group & 0x1ff, ..*request };
        device.groups.send(&request);
        device.settle_pages();
        let unit = device.function.unit;
        self.with(unit, |u, wires| u.page_request(wires, &request)).ok_or(Blocked::Unsupported)
    }

    /// The page groups that a function waits for: PASID, index, and whether its last request has been sent.
    pub fn outstanding(&self, f: FunctionId) -> Vec<(Option<Pasid>, u16, bool)> {
        self.world.devices.get(f).map_or(Vec::new(), |d| d.groups.outstanding())
    }

    /// The page-group responses that have reached a function since the last call.
    pub fn responses(&mut self, f: FunctionId) -> Vec<GroupResponse> {
        self.world.devices.get_mut(f).map_or(Vec::new(), |d| d.groups.take())
    }

    /// A function signals its interrupt as its MSI capability says.
    pub fn msi(&mut self, f: FunctionId) -> Result<(), Blocked> {
        let device = self.world.devices.get(f).filter(|d| d.present()).ok_or(Blocked::Gone)?;
        let (address, data) = device.config.message().ok_or(Blocked::Disabled)?;
        self.dma_write(f, &Dma::at(address), &data.to_le_bytes())
    }

    /// Changes how a function behaves.
    pub fn set_manner(&mut self, f: FunctionId, manner: Manner) {
        if let Some(device) = self.world.devices.get_mut(f) {
            device.function.manner = manner;
        }
    }

    fn unit_of(&self, f: FunctionId) -> usize {
        self.world.devices.get(f).map_or(usize::MAX, |d| d.function.unit)
    }

    /// Sends one access on its way, through the device TLB where that is asked for.
    fn send(&mut self, f: FunctionId, dma: &Dma, access: Access, length: u32) -> Result<End, Blocked> {
        let device = self.world.devices.get(f).filter(|d| d.present()).ok_or(Blocked::Gone)?;
        if !device.may_master() {
            return Err(Blocked::Disabled);
        }
        match dma.via {
            Via::Unit => self.ask_for_memory(f, dma, Kind::Untranslated, access, length),
            Via::Nothing => self.ask_for_memory(f, dma, Kind::Translated, access, length),
            Via::DeviceTlb => self.send_translated(f, dma, access, length),
        }
    }

    fn send_translated(&mut self, f: FunctionId, dma: &Dma, access: Access, length: u32) -> Result<End, Blocked> {
        let device = self.world.devices.get(f).ok_or(Blocked::Gone)?;
        if !device.may_cache() {
            return Err(Blocked::Disabled);
        }
        let find = |machine: &Self| {
            let device = machine.world.devices.get(f)?;
            device.tlb.find(owner(dma), dma.address, access.reads(), access.writes())
        };
        let kept = match find(self) {
            Some(kept) => kept,
            None => {
                let answer = self.translate(f, dma, !access.writes())?;
                match find(self) {
                    Some(kept) => kept,
                    None if answer.untranslated_only => {
                        return self.ask_for_memory(f, dma, Kind::Untranslated, access, length);
                    }
                    None => return Err(Blocked::NoPermission(answer)),
                }
            }
        };
        let translated = Dma {
            address: kept.translate(dma.address),
            pasid: None,
            privileged: false,
            execute: false,
            no_snoop: dma.no_snoop && !kept.snoop,
            ..*dma
        };
        self.ask_for_memory(f, &translated, Kind::Translated, access, length)
    }

    fn ask_for_memory(&mut self, f: FunctionId, d: &Dma, kind: Kind, a: Access, length: u32) -> Result<End, Blocked> {
        match self.ask(f, d, kind, a, length)? {
            Answer::Passed(p) => {
                let snoop = if p.snoop { Snoop::Yes } else { Snoop::No };
                Ok(End::Memory { address: p.address, snoop })
            }
            Answer::Interrupt => Ok(End::Interrupt),
            Answer::Nothing => Ok(End::Nothing),
            Answer::Translated(_) | Answer::Blocked(_) => Err(Blocked::Unsupported),
        }
    }

    /// Presents one request to the ports on the way and to the unit.
    fn ask(&mut self, f: FunctionId, dma: &Dma, kind: Kind, access: Access, length: u32) -> Result<Answer, Blocked> {
        let world = &mut self.world;
        let device = world.devices.get(f).ok_or(Blocked::Gone)?;
        if dma.pasid.is_some() && !device.may_tag() {
            return Err(Blocked::Disabled);
        }
        let (unit, own) = (device.function.unit, device.function.source);
        let source = dma.forged.unwrap_or_else(|| device.requester(&mut world.random));
        for port in world.devices.ports(own) {
            let (secondary, subordinate) = port.config.buses();
            let foreign = dma.forged.is_some_and(|s| !(secondary..=subordinate).contains(&((s >> 8) as u8)));
            if port.config.acs(0) && foreign || port.config.acs(1) && kind != Kind::Untranslated {
                return Err(Blocked::Port);
            }
        }
        let request = Request {
            source,
            pasid: dma.pasid,
            privileged: dma.privileged && dma.pasid.is_some(),
            execute: dma.execute && dma.pasid.is_some(),
            kind,
            access,
            address: dma.address,
            length,
            no_snoop: dma.no_snoop,
        };
        match self.with(unit, |u, wires| u.request(wires, &request)) {
            Some(Answer::Blocked(fault)) => Err(Blocked::Fault(fault)),
            Some(answer) => Ok(answer),
            None => without_unit(&request),
        }
    }

    /// A write of 32 bits to the interrupt range reaches the interrupt logic.
    fn interrupt(&mut self, f: FunctionId, dma: &Dma, bytes: &[u8]) -> Result<(), Blocked> {
        let data = bytes.try_into().map(u32::from_le_bytes).map_err(|_| Blocked::Unsupported)?;
        let device = self.world.devices.get(f).ok_or(Blocked::Gone)?;
        let unit = device.function.unit;
        let source = dma.forged.unwrap_or_else(|| device.requester(&mut self.world.random));
        let request = InterruptRequest { source, address: dma.address, data };
        match self.with(unit, |u, wires| u.interrupt(wires, &request)) {
            Some(InterruptAnswer::Blocked(reason)) => Err(Blocked::Interrupt(reason)),
            // The unit has sent what there was to send.
            Some(InterruptAnswer::Remapped(..) | InterruptAnswer::Posted(_)) => Ok(()),
            Some(InterruptAnswer::Passed) | None => {
                self.world.messages.push(Message { unit, address: dma.address, data });
                Ok(())
            }
        }
    }

    /// Functions of bad manners do what nobody asked for.
    pub(super) fn stir(&mut self) {
        for f in self.world.devices.ids() {
            let Some(device) = self.world.devices.get(f).filter(|d| d.present()) else { continue };
            let Manner { flood, wild, unruly, .. } = device.function.manner;
            let may_ask = device.may_ask();
            let may_cache = unruly || device.may_cache();
            let pasid = device.may_tag();
            for _ in 0..flood {
                if may_ask {
                    let request = any_page(self.world.random.bits(), pasid);
                    let _ = self.send_page_request(f, &request);
                }
            }
            for _ in 0..wild {
                if may_cache {
                    let address = self.world.random.bits() & 0x0000_ffff_ffff_fff8;
                    let _ = self.dma_read(f, &Dma::at(address).via(Via::Nothing), &mut [0; 8]);
                }
            }
        }
    }
}

/// A page request made of random bits.
fn any_page(bits: u64, pasid: bool) -> PageRequest {
    PageRequest {
        source: 0,
        pasid: (pasid && bits & 1 != 0).then_some((bits >> 1 & 0xff) as Pasid),
        privileged: false,
        execute: false,
        read: true,
        write: bits >> 9 & 1 != 0,
        last: bits >> 10 & 3 != 0,
        group: (bits >> 12 & 0x1ff) as u16,
        address: (bits >> 21 & 0x7fff_ffff) << 12,
    }
}

fn owner(dma: &Dma) -> Owner {
    Owner { pasid: dma.pasid, privileged: dma.privileged && dma.pasid.is_some() }
}

/// What becomes of a request where there is no unit.
fn without_unit(request: &Request) -> Result<Answer, Blocked> {
    let interrupt = (0xfee0_0000..0xfef0_0000).contains(&request.address);
    match request.kind {
        Kind::Untranslated if request.pasid.is_some() => Err(Blocked::Unsupported),
        Kind::Untranslated if interrupt && request.access == Access::Write && request.length == 4 => {
            Ok(Answer::Interrupt)
        }
        Kind::Untranslated if interrupt => Ok(Answer::Nothing),
        Kind::Untranslated => Ok(Answer::Passed(Passed {
            address: request.address,
            page: u64::MAX,
            snoop: !request.no_snoop,
            memory_type: 6,
        })),
        Kind::Translation { .. } | Kind::Translated => Err(Blocked::Unsupported),
    }
}

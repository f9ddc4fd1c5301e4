//! Commands: GCMD and GSTS (11.4.4), protected memory (11.4.8), register-based invalidation (6.5.1, 11.4.6), and the order
//! that they ask of software (6.6, 6.7, 6.9).

use crate::bus::Bus;
use crate::invalidation::{Invalidation, Pages};
use crate::oracle::Rule;
use crate::profile::below;
use crate::state::Mode;
use crate::story::Happening;
use crate::unit::Unit;
use alloc::vec::Vec;

pub(crate) const TE: u32 = 1 << 31;
pub(crate) const SRTP: u32 = 1 << 30;
pub(crate) const WBF: u32 = 1 << 27;
pub(crate) const QIE: u32 = 1 << 26;
pub(crate) const IRE: u32 = 1 << 25;
pub(crate) const SIRTP: u32 = 1 << 24;
pub(crate) const CFI: u32 = 1 << 23;
const LEVELS: u32 = TE | QIE | IRE | CFI;
const SHOTS: u32 = SRTP | WBF | SIRTP;

const ICC: u64 = 1 << 63;
const IVT: u64 = 1 << 63;

/// A register that takes a command and shows its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Port {
    /// GCMD, GSTS.
    Global,
    /// PMEN.
    Protection,
    /// CCMD.
    Context,
    /// IOTLB.
    Iotlb,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    port: Port,
    /// With `Global`, the bit of GCMD.
    bit: u32,
    /// What a level or EPM is to become.
    set: bool,
    /// Steps to go.
    left: u32,
}

/// What is under way, and what software has still to do before it may go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commands {
    /// GSTS.
    pub(crate) status: u32,
    pending: Vec<Pending>,
    /// The last command, until software has read that it is complete.
    unseen: Option<Port>,
    /// SRTP and SIRTP since reset, or since the last disable.
    rooted: bool,
    tabled: bool,
    /// Global invalidations that SRTP and SIRTP still ask for.
    contexts: bool,
    pasids: bool,
    iotlb: bool,
    interrupts: bool,
}

impl Commands {
    pub(crate) fn pending(&self, port: Port) -> bool {
        self.pending.iter().any(|p| p.port == port)
    }
    /// Whether this command of GCMD is under way.
    pub(crate) fn pending_bit(&self, bit: u32) -> bool {
        self.pending.iter().any(|p| p.port == Port::Global && p.bit == bit)
    }
    /// Software reads the status of a port.
    pub(crate) fn read(&mut self, port: Port) {
        if self.unseen == Some(port) && !self.pending(port) {
            self.unseen = None;
        }
    }
    /// The cache whose global invalidation is owed first, of those that translation or remapping use.
    pub(crate) fn owed(&self, translation: bool, remapping: bool) -> Option<&'static str> {
        let owed = [
            (translation && self.contexts, "context cache"),
            (translation && self.pasids, "PASID cache"),
            (translation && self.iotlb, "IOTLB"),
            (remapping && self.interrupts, "interrupt entry cache"),
        ];
        owed.into_iter().find(|(owed, _)| *owed).map(|(_, cache)| cache)
    }
    /// An invalidation has taken effect.
    pub(crate) fn forgot(&mut self, what: &Invalidation, mode: Mode) {
        match what {
            Invalidation::Contexts => self.contexts = false,
            Invalidation::ContextsOfDomain(_) if mode == Mode::Scalable => self.contexts = false,
            Invalidation::Pasids => self.pasids &= self.contexts,
            Invalidation::Iotlb => self.iotlb &= self.contexts || self.pasids,
            Invalidation::Interrupts => self.interrupts = false,
            Invalidation::Everything => (self.contexts, self.pasids, self.iotlb) = (false, false, false),
            _ => (),
        }
    }
}

impl Unit {
    /// A write of GCMD.
    pub(crate) fn command(&mut self, v: u32) {
        let mut supported = TE | SRTP;
        for (feature, bits) in [(self.profile.qi(), QIE), (self.profile.ir(), IRE | SIRTP | CFI)] {
            supported |= if feature { bits } else { 0 };
        }
        if v & !(LEVELS | SHOTS) != 0 {
            self.breach(Rule::ReservedBit, format_args!("GCMD = {v:#x}"));
        }
        // Software flushes write buffers for quirks, too: where WBF means nothing it does no harm.
        if v & (LEVELS | SHOTS) & !supported & !WBF != 0 {
            self.breach(Rule::CommandOrder, format_args!("GCMD = {v:#x} asks for what the unit does not have"));
        }
        supported |= if self.profile.rwbf() { WBF } else { 0 };
        let coming = self
            .commands
            .pending
            .iter()
            .filter(|p| p.port == Port::Global)
            .fold(self.commands.status, |status, p| if p.set { status | p.bit } else { status & !p.bit });
        let bits = (v ^ coming) & LEVELS & supported | v & SHOTS & supported;
        if bits == 0 {
            return;
        }
        if !bits.is_power_of_two() {
            self.breach(Rule::CommandOrder, format_args!("GCMD = {v:#x} gives several commands at once: {bits:#x}"));
        }
        self.submit(Port::Global);
        for bit in [WBF, QIE, SRTP, SIRTP, TE, IRE, CFI] {
            if bits & bit != 0 {
                let set = v & bit != 0;
                self.check_order(bit, set);
                match bit {
                    SRTP | SIRTP => self.commands.status &= !bit,
                    WBF => self.commands.status |= bit,
                    _ => (),
                }
                self.push(Port::Global, bit, set);
            }
        }
    }

    /// A write of PMEN's EPM.
    pub(crate) fn protect(&mut self, on: bool) {
        let pending = self.commands.pending.iter().rev().find(|p| p.port == Port::Protection);
        if on != pending.map_or(self.registers.protection, |p| p.set) {
            self.submit(Port::Protection);
            self.push(Port::Protection, 0, on);
        }
    }

    /// CCMD or IOTLB was written with its top bit.
    pub(crate) fn invalidate_by(&mut self, port: Port) {
        if self.commands.status & QIE != 0 {
            self.breach(Rule::CommandOrder, format_args!("{port:?}: register-based invalidation while QIES is set"));
        }
        self.submit(port);
        self.push(port, 0, true);
    }

    /// One command at a time, whichever register it goes through (6.9).
    fn submit(&mut self, port: Port) {
        if let Some(last) = self.commands.unseen.replace(port) {
            self.breach(
                Rule::CommandOrder,
                format_args!("{port:?}: nobody has waited for the last command ({last:?})"),
            );
        }
    }

    fn push(&mut self, port: Port, bit: u32, set: bool) {
        let left = self.draw(self.pace.command);
        self.commands.pending.push(Pending { port, bit, set, left });
    }

    /// What must have come before.
    fn check_order(&mut self, bit: u32, set: bool) {
        let esrtps = self.profile.esrtps();
        let (mode, separate_rights) = (Mode::of(self.registers.rtaddr), self.registers.rtaddr & 1 << 7 != 0);
        let (c, r, q) = (&self.commands, &self.registers, &self.queue);
        let state = &self.state;
        let extended = r.irta & 1 << 11 != 0;
        let misses: [(bool, &str); 4] = match (bit, set) {
            (TE, true) => [
                (!c.rooted, "TE without SRTP since reset or the last disable"),
                (c.pending(Port::Context) || c.pending(Port::Iotlb), "TE while an invalidation is pending"),
                (false, ""),
                (false, ""),
            ],
            (SRTP, _) => [
                (!r.rtaddr_written, "SRTP before RTADDR was written"),
                (state.translation && !esrtps && mode != state.mode, "SRTP with another TTM while TES is set"),
                (
                    state.translation && !esrtps && separate_rights != state.separate_rights,
                    "SRTP with another SSIRWE while TES is set",
                ),
                (false, ""),
            ],
            (QIE, true) => [
                (!q.iqa_written, "QIE before IQA was written"),
                (q.tail != 0, "QIE while IQT is not 0"),
                (c.pending(Port::Context) || c.pending(Port::Iotlb), "QIE while an invalidation is pending"),
                (false, ""),
            ],
            (QIE, false) => [
                (!q.is_empty(), "QIE cleared while IQH is not IQT"),
                (!q.is_quiet(), "QIE cleared while the last descriptor was no completed wait"),
                (false, ""),
                (false, ""),
            ],
            (SIRTP, _) => [
                (!r.irta_written, "SIRTP before IRTA was written"),
                (state.remapping && extended != state.extended, "SIRTP with another EIME while IRES is set"),
                (self.profile.eimer() && !extended, "SIRTP without EIME on a unit that requires it"),
                (false, ""),
            ],
            (IRE, true) => [
                (!c.tabled, "IRE without SIRTP since reset or the last disable"),
                (false, ""),
                (false, ""),
                (false, ""),
            ],
            _ => [(false, ""); 4],
        };
        let owed = c.owed((bit, set) == (TE, true), (bit, set) == (IRE, true));
        for (missed, what) in misses {
            if missed {
                self.breach(Rule::CommandOrder, format_args!("{what}"));
            }
        }
        if let Some(cache) = owed {
            self.breach(Rule::GlobalInvalidation, format_args!("enabled before the {cache} was invalidated globally"));
        }
    }

    /// One step of what is pending; whether more steps will bring more.
    pub(crate) fn step_commands(&mut self, bus: &mut dyn Bus) -> bool {
        let mut moved = false;
        let mut at = 0;
        while let Some(&p) = self.commands.pending.get(at) {
            let stuck = match p.port {
                Port::Global => self.adversary.stuck_commands & p.bit != 0,
                _ => self.adversary.stuck_registers,
            };
            if stuck {
                at += 1;
                continue;
            }
            moved = true;
            if p.left == 0 {
                self.commands.pending.remove(at);
                match p.port {
                    Port::Global => self.complete(bus, p.bit, p.set),
                    Port::Protection => self.complete_protection(p.set),
                    Port::Context => self.complete_context(bus),
                    Port::Iotlb => self.complete_iotlb(bus),
                }
            } else {
                if let Some(p) = self.commands.pending.get_mut(at) {
                    p.left -= 1;
                }
                at += 1;
            }
        }
        moved
    }

    /// A command of GCMD takes effect.
    fn complete(&mut self, bus: &mut dyn Bus, bit: u32, set: bool) {
        match (bit, set) {
            (WBF, _) => {
                bus.flush_write_buffers();
                self.commands.status &= !WBF;
            }
            (_, true) => self.commands.status |= bit,
            (_, false) => self.commands.status &= !bit,
        }
        match (bit, set) {
            (SRTP, _) => self.set_root(bus),
            (SIRTP, _) => self.set_interrupt_table(bus),
            (TE, _) => {
                self.state.translation = set;
                if !set {
                    self.commands.rooted = false;
                    if self.profile.smts() {
                        self.invalidate(bus, Invalidation::Everything);
                    }
                }
            }
            (IRE, _) => {
                self.state.remapping = set;
                if !set {
                    self.commands.tabled = false;
                    if self.profile.esirtps() {
                        self.invalidate(bus, Invalidation::Interrupts);
                    }
                }
            }
            (CFI, _) => self.state.compatible = set,
            (QIE, false) => self.queue.stop(),
            _ => (),
        }
        if !self.state.translation && !self.state.remapping {
            self.faults.rewind();
        }
        self.tell(Happening::Commanded(bit, set));
        if bit & (SRTP | TE) != 0 {
            self.watch_tables(bus);
        }
    }

    fn set_root(&mut self, bus: &mut dyn Bus) {
        let v = self.registers.rtaddr;
        self.state.mode = Mode::of(v);
        self.state.root = v & !0xfff;
        self.state.separate_rights = v & 1 << 7 != 0;
        self.commands.rooted = true;
        if self.profile.esrtps() {
            self.invalidate(bus, Invalidation::Everything);
        } else {
            // Whoever aborts everything looks into no cache.
            let cached = matches!(self.state.mode, Mode::Legacy | Mode::Scalable);
            (self.commands.contexts, self.commands.iotlb) = (cached, cached);
            self.commands.pasids = self.state.mode == Mode::Scalable;
        }
    }

    fn set_interrupt_table(&mut self, bus: &mut dyn Bus) {
        let v = self.registers.irta;
        self.state.interrupts = v & !0xfff;
        self.state.interrupt_entries = 2 << (v & 15);
        self.state.extended = v & 1 << 11 != 0;
        self.commands.tabled = true;
        if self.profile.esirtps() {
            self.invalidate(bus, Invalidation::Interrupts);
        } else {
            self.commands.interrupts = true;
        }
    }

    fn complete_protection(&mut self, on: bool) {
        self.registers.protection = on;
        self.state.protected = [None; 2];
        if on {
            let low_bits = below(self.profile.region_bits.into());
            let [low, high] = self.registers.regions;
            let has = [self.profile.plmr(), self.profile.phmr()];
            for ((region, (base, limit)), has) in self.state.protected.iter_mut().zip([low, high]).zip(has) {
                *region = (has && limit >= base).then_some((base, limit | low_bits));
            }
        }
    }

    /// Whether register-based invalidation does anything (11.4.6.1). Major version 6 has given it up, the other modes never
    /// had it, and it is not to be mixed with the queue.
    fn by_register(&self) -> bool {
        self.profile.major() <= 5 && self.state.mode == Mode::Legacy && self.commands.status & QIE == 0
    }

    fn complete_context(&mut self, bus: &mut dyn Bus) {
        let v = self.registers.ccmd;
        let domain = (v & below(self.profile.domain_bits())) as u16;
        let what = match v >> 61 & 3 {
            _ if !self.by_register() => None,
            1 => Some(Invalidation::Contexts),
            2 => Some(Invalidation::ContextsOfDomain(domain)),
            3 => Some(Invalidation::ContextOfDevice { domain, source: (v >> 16) as u16, mask: (v >> 32 & 3) as u8 }),
            _ => None,
        };
        let done = what.map_or(0, |_| v >> 61 & 3);
        if let Some(what) = what {
            self.invalidate(bus, what);
        }
        self.registers.ccmd = v & !(ICC | 3 << 59) | done << 59;
    }

    fn complete_iotlb(&mut self, bus: &mut dyn Bus) {
        let (v, iva) = (self.registers.iotlb, self.registers.iva);
        let domain = (v >> 32 & below(self.profile.domain_bits())) as u16;
        let order = iva & 0x3f;
        let (what, done) = match v >> 60 & 3 {
            _ if !self.by_register() => (None, 0),
            1 => (Some(Invalidation::Iotlb), 1),
            // The same without page-selective invalidation: it may do more than was asked for, and says so.
            2 => (Some(Invalidation::IotlbOfDomain(domain)), 2),
            3 if !self.profile.psi() => (Some(Invalidation::IotlbOfDomain(domain)), 2),
            3 if order <= self.profile.mamv() => {
                let address = iva & !0xfff & !below(12 + order as u32) & below(self.profile.mgaw() as u32 + 1);
                let pages = Pages { address, order: order as u8, leaf_only: iva & 1 << 6 != 0 };
                (Some(Invalidation::IotlbPages(domain, pages)), 3)
            }
            _ => (None, 0),
        };
        if let Some(what) = what {
            self.invalidate(bus, what);
        }
        self.registers.iotlb = v & !(IVT | 3 << 57) | done << 57;
    }
}

#[cfg(test)]
mod tests;

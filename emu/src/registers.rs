//! The register file (11.2 to 11.4): which register an access means, what it reads as, what writing does.
//!
//! Everything is done in double words; a quad word is two of them, the lower first (11.2).

use crate::bus::Bus;
use crate::command::{Port, QIE, SIRTP, SRTP};
use crate::faults::{ICE, IQE, ITE};
use crate::oracle::Rule;
use crate::page_requests::PageRequests;
use crate::profile::below;
use crate::state::Mode;
use crate::story::Happening;
use crate::unit::{Size, Unit};
use alloc::collections::BTreeMap;

/// What is stored in registers that belong to nobody else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    pub(crate) rtaddr: u64,
    pub(crate) rtaddr_written: bool,
    pub(crate) irta: u64,
    pub(crate) irta_written: bool,
    pub(crate) ccmd: u64,
    pub(crate) iva: u64,
    pub(crate) iotlb: u64,
    /// PMEN.PRS.
    pub(crate) protection: bool,
    /// PMEN.EPM.
    protect: bool,
    /// Base and limit of the protected low and high region, as they read.
    pub(crate) regions: [(u64, u64); 2],
    /// The status that ECRSP shows.
    response: u32,
    /// MTRRs and the RDT register, by the offset of the double word.
    plain: BTreeMap<u32, u32>,
}

impl Registers {
    /// An MTRR.
    pub(crate) fn mtrr(&self, at: u32) -> u64 {
        let half = |at| u64::from(self.plain.get(&at).copied().unwrap_or(0));
        half(at) | half(at + 4) << 32
    }
}

/// A register's double word that does not belong to the fixed part of the map.
enum Floating {
    Iva(u32),
    Iotlb(u32),
    /// Record, and double word of it.
    Fault(usize, u32),
    None,
}

fn half(v: u64, high: bool) -> u32 {
    (if high { v >> 32 } else { v }) as u32
}

fn set_half(to: &mut u64, high: bool, v: u32) {
    *to = match high {
        true => *to & 0xffff_ffff | u64::from(v) << 32,
        false => *to & !0xffff_ffff | u64::from(v),
    };
}

impl Unit {
    pub(crate) fn read_register(&mut self, at: u32, size: Size) -> u64 {
        match self.access(at, size) {
            false => 0,
            true if size == Size::Double => self.read32(at).into(),
            true => u64::from(self.read32(at)) | u64::from(self.read32(at + 4)) << 32,
        }
    }

    pub(crate) fn write_register(&mut self, bus: &mut dyn Bus, at: u32, size: Size, v: u64) {
        self.tell(Happening::Wrote(at, v));
        match self.access(at, size) {
            false => (),
            true if size == Size::Double => self.write32(bus, at, v as u32),
            // ECMD begins with its lowest byte (11.4.14).
            true if at == 0x400 && self.profile.ecmds() => {
                self.write32(bus, at + 4, (v >> 32) as u32);
                self.write32(bus, at, v as u32);
            }
            true => {
                self.write32(bus, at, v as u32);
                self.write32(bus, at + 4, (v >> 32) as u32);
            }
        }
    }

    /// Whether an access means anything; the specification knows aligned double words, and quad words of 64-bit registers.
    fn access(&mut self, at: u32, size: Size) -> bool {
        let (fits, allowed) = match size {
            Size::Byte | Size::Word => (false, false),
            Size::Double => (at.is_multiple_of(4), true),
            Size::Quad => (at.is_multiple_of(8), self.is_wide(at)),
        };
        if !fits || !allowed {
            self.breach(Rule::AccessSize, format_args!("{size:?} at {at:#x}"));
        }
        fits && at <= u32::MAX - 8
    }

    fn is_wide(&self, at: u32) -> bool {
        match at {
            0x08 | 0x10 | 0x20 | 0x28 | 0x70 | 0x78 | 0x80 | 0x88 | 0x90 | 0xb0 | 0xb8 | 0xc0 | 0xc8 | 0xd0 | 0xdc0 => {
                true
            }
            0x100..0x220 if self.profile.mts() => true,
            0x400..0x460 if self.profile.ecmds() => true,
            _ => !matches!(self.floating(at), Floating::None),
        }
    }

    fn floating(&self, at: u32) -> Floating {
        let at = u64::from(at);
        let (iva, first) = (16 * self.profile.iro(), 16 * self.profile.fro());
        let fault = at.wrapping_sub(first);
        match at.wrapping_sub(iva) {
            n @ (0 | 4) => Floating::Iva(n as u32),
            n @ (8 | 12) => Floating::Iotlb(n as u32),
            _ if at >= first && fault / 16 <= self.profile.nfr() => {
                Floating::Fault((fault / 16) as usize, (fault % 16 / 4) as u32)
            }
            _ => Floating::None,
        }
    }

    fn read32(&mut self, at: u32) -> u32 {
        let high = at & 4 != 0;
        let (p, r, q) = (&self.profile, &self.registers, &self.queue);
        match at {
            0x00 => p.version & 0xff,
            0x08 | 0x0c => half(p.cap, high),
            0x10 | 0x14 => half(p.ecap, high),
            0x18 => 0,
            0x1c => {
                self.commands.read(Port::Global);
                self.commands.status
            }
            0x20 | 0x24 => half(r.rtaddr, high),
            0x28 | 0x2c => {
                let v = r.ccmd;
                if high {
                    self.commands.read(Port::Context);
                }
                half(v, high)
            }
            0x34 => self.faults.status(),
            0x38..=0x44 => match at {
                0x44 if !p.eim() => 0,
                _ => self.fault_event.read((at - 0x38) / 4),
            },
            0x64 if p.plmr() || p.phmr() => {
                self.commands.read(Port::Protection);
                u32::from(self.registers.protect) << 31 | u32::from(self.registers.protection)
            }
            0x68 if p.plmr() => r.regions[0].0 as u32,
            0x6c if p.plmr() => r.regions[0].1 as u32,
            0x70 | 0x74 if p.phmr() => half(r.regions[1].0, high),
            0x78 | 0x7c if p.phmr() => half(r.regions[1].1, high),
            0x80 if p.qi() => q.head,
            0x88 if p.qi() => q.tail,
            0x90 | 0x94 if p.qi() => half(q.iqa, high),
            0x9c if p.qi() => q.complete.into(),
            0xa0..=0xac if p.qi() => match at {
                0xac if !p.eim() => 0,
                _ => q.event.read((at - 0xa0) / 4),
            },
            0xb0 | 0xb4 if p.qi() => half(q.error, high),
            0xb8 | 0xbc if p.ir() => half(r.irta, high),
            0xc0..=0xec if p.prs() => self.page_requests.read(at),
            0x100 if p.mts() => p.mtrr_cap as u32,
            0x108..=0x21c if p.mts() => r.plain.get(&at).copied().unwrap_or(0),
            0x410 if p.ecmds() => r.response << 1,
            0xdc0 | 0xdc4 if p.rdts() => r.plain.get(&at).copied().unwrap_or(0),
            _ => match self.floating(at) {
                // Write-only: what it reads as is undefined.
                Floating::Iva(_) | Floating::None => 0,
                Floating::Iotlb(n) => {
                    let v = r.iotlb;
                    if n == 12 {
                        self.commands.read(Port::Iotlb);
                    }
                    half(v, n == 12)
                }
                Floating::Fault(n, word) => self.faults.read(n, word),
            },
        }
    }

    fn write32(&mut self, bus: &mut dyn Bus, at: u32, v: u32) {
        let high = at & 4 != 0;
        let p = &self.profile;
        let address = half(p.addresses(), high);
        match at {
            // Read-only, as CAP, ECAP, GSTS, IQH, IQERCD and MTRRCAP below.
            0x00 | 0x08..=0x14 | 0x1c => (),
            0x18 => self.command(v),
            0x20 | 0x24 => self.write_rtaddr(at, v),
            0x28 | 0x2c => self.write_ccmd(high, v),
            0x34 => {
                let queue = if p.qi() { 0 } else { IQE };
                let devices = if p.dt() { 0 } else { ICE | ITE };
                let kept = self.reserved(at, v, 0xffff_008c | queue | devices);
                self.write_fsts(kept);
            }
            0x38..=0x44 => {
                let n = (at - 0x38) / 4;
                let kept = self.event_bits(at, n, v);
                self.fault_event.write(bus, n, kept);
            }
            0x64 if p.plmr() || p.phmr() => {
                self.reserved(at, v, 0x7fff_fffe);
                self.registers.protect = v >> 31 != 0;
                self.protect(v >> 31 != 0);
            }
            0x68..=0x7c if at < 0x70 && p.plmr() || at >= 0x70 && p.phmr() => self.write_region(at, v),
            0x80 | 0x84 | 0xb0 | 0xb4 if p.qi() => (),
            0x88 if p.qi() => {
                self.reserved(at, v, !0x7fff0);
                self.write_tail(v & 0x7fff0);
            }
            0x90 | 0x94 if p.qi() => {
                let kept = self.reserved(at, v, if high { 0 } else { 0x7f8 });
                self.write_iqa(high, kept & address);
            }
            0x9c if p.qi() => {
                if self.reserved(at, v, !1) & 1 != 0 {
                    self.queue.complete = false;
                    self.queue.event.settle();
                }
            }
            0xa0..=0xac if p.qi() => {
                let n = (at - 0xa0) / 4;
                let kept = self.event_bits(at, n, v);
                self.queue.event.write(bus, n, kept);
            }
            0xb8 | 0xbc if p.ir() => self.write_irta(at, v),
            0xc0..=0xec if p.prs() => self.write_page_requests(bus, at, v),
            0x100 | 0x104 if p.mts() => (),
            0x108..=0x21c if p.mts() => {
                let kept = v & half(self.mtrr_bits(at & !4), high);
                self.reserved(at, v, !half(self.mtrr_bits(at & !4), high));
                self.registers.plain.insert(at, kept);
            }
            // No enhanced command is known here (11.4.14.3: status 1).
            0x400 if p.ecmds() => self.registers.response = 1,
            0x404..=0x45c if p.ecmds() => (),
            0xdc0 | 0xdc4 if p.rdts() => {
                let kept = self.reserved(at, v, !if high { 0x1f } else { 0xfff });
                self.registers.plain.insert(at, kept);
            }
            _ => match self.floating(at) {
                Floating::Iva(n) => {
                    if self.commands.pending(Port::Iotlb) {
                        self.breach(Rule::CommandOrder, format_args!("IVA was written while IVT is set"));
                    }
                    let kept = self.reserved(at, v, if n == 0 { 0xf80 } else { 0 });
                    set_half(&mut self.registers.iva, n == 4, kept);
                }
                Floating::Iotlb(n) => self.write_iotlb(n == 12, v),
                Floating::Fault(n, word) => {
                    self.reserved(at, v, [0xfff, 0, 0x0fff_0000, 0][word as usize & 3]);
                    if word == 3 && v >> 31 != 0 {
                        self.clear_fault(n);
                    }
                }
                Floating::None => {
                    self.reserved(at, v, u32::MAX);
                }
            },
        }
    }

    /// Reserved bits must be written as 0 (11.2); says what is left without them.
    fn reserved(&mut self, at: u32, v: u32, bits: u32) -> u32 {
        if v & bits != 0 {
            self.breach(Rule::ReservedBit, format_args!("{v:#x} at {at:#x}: {:#x} is reserved", v & bits));
        }
        v & !bits
    }

    /// The register `n` of an event: control, data, address, upper address.
    fn event_bits(&mut self, at: u32, n: u32, v: u32) -> u32 {
        let bits = match n {
            0 => 0x3fff_ffff,
            1 => 0xffff_0000,
            2 => 3,
            _ if self.profile.eim() => 0,
            _ => u32::MAX,
        };
        self.reserved(at, v, bits)
    }

    fn write_rtaddr(&mut self, at: u32, v: u32) {
        let high = at == 0x24;
        let rights = if self.profile.ssirws() { 0 } else { 1 << 7 };
        let kept = self.reserved(at, v, if high { 0 } else { 0x37f | rights });
        let kept = kept & half(self.profile.addresses(), high);
        if self.commands.pending_bit(SRTP) {
            self.breach(Rule::CommandOrder, format_args!("RTADDR was written while SRTP is pending"));
        }
        let was = self.registers.rtaddr;
        set_half(&mut self.registers.rtaddr, high, kept);
        self.registers.rtaddr_written = true;
        let v = self.registers.rtaddr;
        let exists = match Mode::of(v) {
            Mode::Legacy => v & 1 << 7 == 0,
            Mode::Scalable => self.profile.smts(),
            Mode::Abort => self.profile.adms(),
            Mode::Reserved => false,
        };
        if !exists && !high {
            self.breach(Rule::ReservedBit, format_args!("RTADDR = {v:#x}: the unit has no such mode"));
        }
        if self.state.translation && !self.profile.esrtps() && (was ^ v) & 0xc80 != 0 {
            self.breach(Rule::CommandOrder, format_args!("RTADDR = {v:#x}: TTM or SSIRWE changed while TES is set"));
        }
    }

    fn write_ccmd(&mut self, high: bool, v: u32) {
        if self.commands.pending(Port::Context) {
            self.breach(Rule::CommandOrder, format_args!("CCMD was written while ICC is set"));
            return;
        }
        let kept = match high {
            false => v,
            true => self.reserved(0x2c, v, 0x07ff_fffc) & !0x1800_0000 | half(self.registers.ccmd, true) & 0x1800_0000,
        };
        set_half(&mut self.registers.ccmd, high, kept);
        if high && v >> 31 != 0 {
            if self.commands.pending(Port::Iotlb) {
                self.breach(Rule::CommandOrder, format_args!("ICC while IVT is set"));
            }
            self.invalidate_by(Port::Context);
        }
    }

    fn write_iotlb(&mut self, high: bool, v: u32) {
        if self.commands.pending(Port::Iotlb) {
            self.breach(Rule::CommandOrder, format_args!("IOTLB was written while IVT is set"));
            return;
        }
        let at = 16 * self.profile.iro() as u32 + 8;
        let kept = match high {
            false => self.reserved(at, v, u32::MAX),
            true => {
                self.reserved(at + 4, v, 0x49fc_0000) & !0x0600_0000 | half(self.registers.iotlb, true) & 0x0600_0000
            }
        };
        set_half(&mut self.registers.iotlb, high, kept);
        if high && v >> 31 != 0 {
            if self.commands.pending(Port::Context) {
                self.breach(Rule::CommandOrder, format_args!("IVT while ICC is set"));
            }
            self.invalidate_by(Port::Iotlb);
        }
    }

    /// Software finds out how regions are aligned by writing all ones: that the low bits are reserved is no offence here.
    fn write_region(&mut self, at: u32, v: u32) {
        if self.registers.protection || self.commands.pending(Port::Protection) {
            self.breach(Rule::CommandOrder, format_args!("a protected region was changed while PRS is set ({at:#x})"));
        }
        let high = at >= 0x70 && at & 4 != 0;
        let v = v & half(self.profile.addresses(), high);
        let [low, phm] = &mut self.registers.regions;
        let to = match at {
            0x68 => &mut low.0,
            0x6c => &mut low.1,
            0x70 | 0x74 => &mut phm.0,
            _ => &mut phm.1,
        };
        set_half(to, high, v);
        *to &= !below(self.profile.region_bits.into());
    }

    fn write_irta(&mut self, at: u32, v: u32) {
        let high = at == 0xbc;
        let extended = if self.profile.eim() { 0 } else { 1 << 11 };
        let kept = self.reserved(at, v, if high { 0 } else { 0x7f0 | extended });
        let kept = kept & half(self.profile.addresses(), high);
        if self.commands.pending_bit(SIRTP) {
            self.breach(Rule::CommandOrder, format_args!("IRTA was written while SIRTP is pending"));
        }
        let was = self.registers.irta;
        set_half(&mut self.registers.irta, high, kept);
        self.registers.irta_written = true;
        if self.state.remapping && (was ^ self.registers.irta) & 1 << 11 != 0 {
            self.breach(Rule::CommandOrder, format_args!("IRTA.EIME was changed while IRES is set"));
        }
    }

    fn write_iqa(&mut self, high: bool, v: u32) {
        if self.commands.status & QIE != 0 && !self.queue.is_empty() {
            self.breach(Rule::CommandOrder, format_args!("IQA was written while the queue is not empty"));
        }
        set_half(&mut self.queue.iqa, high, v);
        self.queue.iqa_written = true;
    }

    fn write_page_requests(&mut self, bus: &mut dyn Bus, at: u32, v: u32) {
        let kept = match at {
            0xe0.. => self.event_bits(at, (at - 0xe0) / 4, v),
            _ => self.reserved(at, v, PageRequests::reserved(at)),
        };
        let address = half(self.profile.addresses(), at & 4 != 0);
        if at == 0xc0 && !self.page_requests.may_head(kept) {
            let [head, tail] = [0xc0, 0xc8].map(|at| self.page_requests.read(at));
            self.breach(Rule::PageRequestQueue, format_args!("PQH from {head:#x} to {kept:#x} with PQT at {tail:#x}"));
        }
        self.page_requests.write(bus, at, if at & !4 == 0xd0 { kept & address } else { kept });
    }

    /// The bits that an MTRR has (11.4.12).
    fn mtrr_bits(&self, at: u32) -> u64 {
        let pages = self.profile.addresses() & !0xfff;
        let variable = u64::from(at.wrapping_sub(0x180) / 16) < self.profile.mtrr_cap & 0xff;
        match at {
            0x108 => 0xcff,
            0x120..0x178 if self.profile.mtrr_cap & 1 << 8 != 0 => u64::MAX,
            0x180..0x220 if variable && at & 8 == 0 => pages | 0xff,
            0x180..0x220 if variable => pages | 1 << 11,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;

//! Configuration space of a function (PCI Express base specification, chapters 7 and 10; VT-d 4.1, 7.4).

use super::function::{Form, Function};
use crate::unit::Size;
use alloc::collections::BTreeMap;

/// A register of 32 bits: what it holds, what software may write, what a written 1 clears.
#[derive(Clone, Copy, Debug, Default)]
struct Register {
    value: u32,
    writable: u32,
    clears: u32,
}

/// Where the capabilities stand; 0 for those that are not there.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    msi: u16,
    express: u16,
    ats: u16,
    acs: u16,
    pri: u16,
    pasid: u16,
}

/// The configuration space of one function.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    registers: BTreeMap<u16, Register>,
    places: Places,
    extended: bool,
}

const COMMAND: u16 = 0x04;
const MASTER: u32 = 1 << 2;
const FUNCTION_RESET: u32 = 1 << 15;
const UPPER: u32 = 16;

/// PRI control, and in the upper half of the same register its status.
const PAGES_ON: u32 = 1;
const PAGES_RESET: u32 = 2;
const RESPONSE_FAILURE: u32 = 1 << UPPER;
const UNEXPECTED_GROUP: u32 = 1 << (UPPER + 1);
const STOPPED: u32 = 1 << (UPPER + 8);
const PASID_REQUIRED: u32 = 1 << (UPPER + 15);

/// What a write to configuration space asked of the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Asked {
    /// Initiate Function Level Reset.
    pub(crate) reset: bool,
    /// ATS went from off to on: the device TLB starts empty.
    pub(crate) ats_on: bool,
    /// PRI reset: outstanding requests are forgotten.
    pub(crate) pages_reset: bool,
    /// What software must not do, in words.
    pub(crate) wrong: Option<&'static str>,
}

impl Config {
    pub(crate) fn new(f: &Function) -> Self {
        let extended = !matches!(f.form, Form::Conventional | Form::ConventionalBridge { .. } | Form::Hidden);
        let mut config = Config { registers: BTreeMap::new(), places: Places::default(), extended };
        config.header(f);
        config.capabilities(f);
        if extended {
            config.extended_capabilities(f);
        }
        config
    }

    fn put(&mut self, at: u16, value: u32, writable: u32, clears: u32) {
        self.registers.insert(at, Register { value, writable, clears });
    }

    fn value(&self, at: u16) -> u32 {
        self.registers.get(&at).map_or(0, |r| r.value)
    }

    fn change(&mut self, at: u16, clear: u32, set: u32) {
        if let Some(r) = self.registers.get_mut(&at) {
            r.value = r.value & !clear | set;
        }
    }

    fn header(&mut self, f: &Function) {
        let ids = u32::from(f.device) << 16 | u32::from(f.vendor);
        self.put(0x00, if f.physical.is_some() { u32::MAX } else { ids }, 0, 0);
        self.put(COMMAND, if f.master { MASTER } else { 0 }, 0x0547, 0);
        self.put(0x08, f.class << 8, 0, 0);
        match f.form.buses() {
            Some((secondary, subordinate)) => {
                self.put(0x0c, 1 << 16, 0, 0);
                let primary = u32::from(f.source >> 8);
                self.put(0x18, u32::from(subordinate) << 16 | u32::from(secondary) << 8 | primary, 0x00ff_ffff, 0);
            }
            None => self.put(0x0c, 0, 0, 0),
        }
        self.put(0x3c, 0, 0xff, 0);
    }

    fn capabilities(&mut self, f: &Function) {
        let mut list = [(false, 0u16); 2];
        if f.msi {
            list[0] = (true, 0x50);
            self.places.msi = 0x50;
            // 64-bit address, one message.
            self.put(0x50, 0x0080_0005, 1 << 16, 0);
            self.put(0x54, 0, 0xffff_fffc, 0);
            self.put(0x58, 0, u32::MAX, 0);
            self.put(0x5c, 0, 0xffff, 0);
        }
        if let Some(kind) = f.form.express() {
            list[1] = (true, 0x70);
            self.places.express = 0x70;
            self.put(0x70, u32::from(kind) << 20 | 2 << 16 | 0x10, 0, 0);
            // Role-based error reporting; function-level reset on those that are no bridges.
            self.put(0x74, 1 << 15 | if f.form.buses().is_none() { 1 << 28 } else { 0 }, 0, 0);
            self.put(0x78, 0, 0xffff, 0x000f_0000);
            // End-to-end prefixes pass, as many as PASIDs need.
            self.put(0x94, if f.prefixes { 1 << 21 | 1 << 22 } else { 0 }, 0, 0);
            self.put(0x98, 0, 0xffff, 0);
        }
        let mut next = 0;
        for (there, at) in list.into_iter().rev() {
            if there {
                self.change(at, 0xff00, u32::from(next) << 8);
                next = at;
            }
        }
        if next != 0 {
            self.put(0x34, next.into(), 0, 0);
            self.change(COMMAND, 0, 1 << (UPPER + 4));
        }
    }

    fn extended_capabilities(&mut self, f: &Function) {
        let mut at = 0x100;
        let mut last = None;
        let mut add = |config: &mut Self, id: u32, size: u16| {
            let here = at;
            config.put(here, 1 << 16 | id, 0, 0);
            if let Some(last) = last {
                config.change(last, 0, u32::from(here) << 20);
            }
            last = Some(here);
            at += size;
            here
        };
        if let Some(supported) = f.acs {
            let p = add(self, 0x0d, 0x10);
            self.places.acs = p;
            self.put(p + 4, supported.into(), u32::from(supported & 0x5f) << UPPER, 0);
        }
        if let Some(v) = f.virtuals {
            let p = add(self, 0x10, 0x40);
            // VF Enable and VF MSE; their number, their places, their device id.
            self.put(p + 8, 1 << 3 | 1, 0, 0);
            self.put(p + 0x10, v.number.into(), 0, 0);
            self.put(p + 0x14, u32::from(v.stride) << UPPER | u32::from(v.first), 0, 0);
            self.put(p + 0x18, u32::from(v.device) << UPPER, 0, 0);
        }
        if let Some(ats) = f.ats {
            let p = add(self, 0x0f, 0x10);
            self.places.ats = p;
            let value = u32::from(ats.depth & 0x1f) | u32::from(ats.aligned) << 5 | u32::from(ats.global) << 6;
            self.put(p + 4, value, 0x801f << UPPER, 0);
        }
        if let Some(pasid) = f.pasid {
            let p = add(self, 0x1b, 0x10);
            self.places.pasid = p;
            let value =
                u32::from(pasid.execute) << 1 | u32::from(pasid.privileged) << 2 | u32::from(pasid.width.min(20)) << 8;
            self.put(p + 4, value, (1 | value & 6) << UPPER, 0);
        }
        if let Some(pri) = f.pri {
            let p = add(self, 0x13, 0x10);
            self.places.pri = p;
            let status = STOPPED | if pri.pasid_required { PASID_REQUIRED } else { 0 };
            self.put(p + 4, status, PAGES_ON | PAGES_RESET, RESPONSE_FAILURE | UNEXPECTED_GROUP);
            self.put(p + 8, pri.capacity, 0, 0);
            self.put(p + 12, 0, u32::MAX, 0);
        }
    }

    /// The aligned 32 bits that hold the byte at `at`.
    pub(crate) fn read(&self, at: u16) -> u32 {
        match at {
            0x100..=0xfff if !self.extended => u32::MAX,
            0x1000.. => u32::MAX,
            _ => self.value(at & !3),
        }
    }

    /// Writes `size` at `at`, and says what that asked for; an access across 32 bits is none.
    pub(crate) fn write(&mut self, at: u16, size: Size, v: u32) -> Asked {
        let (bits, bytes) = match size {
            Size::Byte => (0xff, 1),
            Size::Word => (0xffff, 2),
            Size::Double => (u32::MAX, 4),
            Size::Quad => return Asked::default(),
        };
        let Some(register) = self.registers.get_mut(&(at & !3)).filter(|_| at.is_multiple_of(bytes)) else {
            return Asked::default();
        };
        let shift = u32::from(at & 3) * 8;
        let (mask, v) = (bits << shift, v << shift);
        let old = register.value;
        let writable = register.writable & mask;
        register.value = (old & !writable | v & writable) & !(v & mask & register.clears);
        let new = register.value;
        self.written(at & !3, old, new)
    }

    fn written(&mut self, at: u16, old: u32, new: u32) -> Asked {
        let mut asked = Asked::default();
        let p = self.places;
        let rose = |bit: u32| old & bit == 0 && new & bit != 0;
        if p.express != 0 && at == p.express + 8 && new & FUNCTION_RESET != 0 {
            self.change(at, FUNCTION_RESET, 0);
            if self.value(p.express + 4) >> 28 & 1 != 0 {
                asked.reset = true;
            }
        }
        if p.ats != 0 && at == p.ats + 4 {
            asked.ats_on = rose(1 << 31);
            if old & new & 1 << 31 != 0 && (old ^ new) & 0x1f << UPPER != 0 {
                asked.wrong = Some("the smallest translation unit changed while ATS was on");
            }
        }
        if p.pasid != 0 && at == p.pasid + 4 && old != new && self.ats() {
            asked.wrong = Some("the PASID control register changed while ATS was on");
        }
        if p.pri != 0 && at == p.pri + 4 {
            self.change(at, PAGES_RESET, 0);
            asked.pages_reset = new & PAGES_RESET != 0 && new & PAGES_ON == 0;
            if rose(PAGES_ON) && new & STOPPED == 0 {
                asked.wrong = Some("page requests were enabled before the last ones had stopped");
            }
        }
        if p.pri != 0 && at == p.pri + 12 && old != new && self.pri() {
            asked.wrong = Some("the page-request allocation changed while page requests were on");
        }
        asked
    }

    /// What a reset of the function leaves.
    pub(crate) fn reset(&mut self, f: &Function) {
        *self = Config::new(&Function { master: false, ..f.clone() });
    }

    /// Bus mastering.
    pub(crate) fn master(&self) -> bool {
        self.value(COMMAND) & MASTER != 0
    }
    /// ATS is on.
    pub(crate) fn ats(&self) -> bool {
        self.places.ats != 0 && self.value(self.places.ats + 4) >> 31 != 0
    }
    /// STU: the smallest translation has 2^(STU+12) bytes.
    pub(crate) fn smallest(&self) -> u32 {
        if self.places.ats == 0 { 0 } else { self.value(self.places.ats + 4) >> UPPER & 0x1f }
    }
    /// PASIDs are on.
    pub(crate) fn pasid(&self) -> bool {
        self.places.pasid != 0 && self.value(self.places.pasid + 4) >> UPPER & 1 != 0
    }
    /// Page requests are on.
    pub(crate) fn pri(&self) -> bool {
        self.places.pri != 0 && self.value(self.places.pri + 4) & PAGES_ON != 0
    }
    /// How many page requests may be outstanding.
    pub(crate) fn allocation(&self) -> u32 {
        if self.places.pri == 0 { 0 } else { self.value(self.places.pri + 12).min(self.value(self.places.pri + 8)) }
    }
    /// Message address and data where MSI is on.
    pub(crate) fn message(&self) -> Option<(u64, u32)> {
        let p = self.places.msi;
        (p != 0 && self.value(p) >> UPPER & 1 != 0)
            .then(|| (u64::from(self.value(p + 8)) << 32 | u64::from(self.value(p + 4)), self.value(p + 12)))
    }
    /// ACS controls: 0 source validation, 1 translation blocking.
    pub(crate) fn acs(&self, n: u32) -> bool {
        self.places.acs != 0 && self.value(self.places.acs + 4) >> (UPPER + n) & 1 != 0
    }
    /// Secondary and subordinate bus of a bridge.
    pub(crate) fn buses(&self) -> (u8, u8) {
        let v = self.value(0x18);
        ((v >> 8) as u8, (v >> 16) as u8)
    }
    /// The response to a page request was a failure: page requests are off.
    pub(crate) fn response_failed(&mut self) {
        self.pages(PAGES_ON, RESPONSE_FAILURE);
    }
    /// A response named a group that is not outstanding.
    pub(crate) fn unexpected_group(&mut self) {
        self.pages(0, UNEXPECTED_GROUP);
    }
    /// Whether page requests are still on their way or may come.
    pub(crate) fn set_stopped(&mut self, stopped: bool) {
        match stopped {
            true => self.pages(0, STOPPED),
            false => self.pages(STOPPED, 0),
        }
    }
    fn pages(&mut self, clear: u32, set: u32) {
        if self.places.pri != 0 {
            self.change(self.places.pri + 4, clear, set);
        }
    }
    /// Other functions share the device.
    pub(crate) fn set_multifunction(&mut self) {
        self.change(0x0c, 0, 1 << 23);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Virtuals;

    fn full() -> Config {
        Config::new(&Function::new(8, 0).of(Form::Endpoint).with_ats().with_pri(64).with_pasid(20).with_acs(0x5f))
    }

    /// Where an extended capability stands.
    fn find(config: &Config, id: u32) -> Option<u16> {
        let mut at = 0x100;
        while at != 0 && config.read(at) != 0 {
            if config.read(at) & 0xffff == id {
                return Some(at);
            }
            at = (config.read(at) >> 20) as u16;
        }
        None
    }

    /// Where a capability stands.
    fn find_low(config: &Config, id: u32) -> Option<u16> {
        let mut at = config.read(0x34) as u16;
        while at != 0 {
            if config.read(at) & 0xff == id {
                return Some(at);
            }
            at = (config.read(at) >> 8 & 0xff) as u16;
        }
        None
    }

    #[test]
    fn capabilities_are_found_by_their_chains() {
        let config = full();
        assert_eq!(config.read(0), 0x11e8_1234);
        assert!([0x0d, 0x0f, 0x13, 0x1b].into_iter().all(|id| find(&config, id).is_some()));
        assert_eq!(find(&config, 0x10), None);
        assert!([0x05, 0x10].into_iter().all(|id| find_low(&config, id).is_some()));
    }

    #[test]
    fn a_function_without_extended_capabilities_has_an_empty_chain() {
        assert_eq!(Config::new(&Function::new(8, 0)).read(0x100), 0);
        assert_eq!(Config::new(&Function::new(8, 0).of(Form::Conventional)).read(0x100), u32::MAX);
    }

    #[test]
    fn control_registers_are_written_by_halves_and_capabilities_not_at_all() {
        let mut config = full();
        let ats = find(&config, 0x0f).unwrap();
        let asked = config.write(ats + 6, Size::Word, 0x8003);
        assert!(asked.ats_on && config.ats());
        assert_eq!(config.smallest(), 3);
        assert_eq!(config.read(ats + 4), 0x8003_0060);
        config.write(ats + 4, Size::Word, 0);
        assert_eq!(config.read(ats + 4), 0x8003_0060);
    }

    #[test]
    fn a_physical_function_says_where_its_virtual_ones_are_and_these_have_no_ids() {
        let virtuals = Virtuals { number: 2, first: 8, stride: 1, device: 0x10ed };
        let config = Config::new(&Function::new(8, 0).with_virtuals(virtuals));
        let at = find(&config, 0x10).unwrap();
        let fields = [8, 0x10, 0x14, 0x18].map(|n| config.read(at + n));
        assert_eq!(fields, [9, 2, 0x0001_0008, 0x10ed_0000]);
        let one = Config::new(&Function::new(16, 0).virtual_of(8).with_ats());
        assert_eq!(one.read(0), u32::MAX);
        assert!(find(&one, 0x0f).is_some());
    }

    #[test]
    fn accesses_across_registers_or_of_64_bits_do_nothing() {
        let mut config = full();
        config.write(0x06, Size::Double, u32::MAX);
        config.write(0x05, Size::Word, u32::MAX);
        config.write(0x04, Size::Quad, u32::MAX);
        assert_eq!(config.read(4), full().read(4));
    }

    #[test]
    fn changing_pasid_control_or_stu_under_ats_is_wrong() {
        let mut config = full();
        let (ats, pasid) = (find(&config, 0x0f).unwrap(), find(&config, 0x1b).unwrap());
        assert_eq!(config.write(pasid + 6, Size::Word, 1).wrong, None);
        config.write(ats + 6, Size::Word, 0x8000);
        assert!(config.write(pasid + 6, Size::Word, 0).wrong.is_some());
        assert!(config.write(ats + 6, Size::Word, 0x8001).wrong.is_some());
    }

    #[test]
    fn page_requests_are_not_enabled_before_the_last_ones_have_stopped() {
        let mut config = full();
        let pri = find(&config, 0x13).unwrap();
        config.set_stopped(false);
        assert!(config.write(pri + 4, Size::Word, 1).wrong.is_some());
        config.write(pri + 4, Size::Word, 0);
        config.set_stopped(true);
        assert_eq!(config.write(pri + 4, Size::Word, 1).wrong, None);
        assert!(config.pri());
        assert!(config.write(pri + 12, Size::Double, 8).wrong.is_some());
    }

    #[test]
    fn a_page_request_reset_counts_only_while_they_are_off() {
        let mut config = full();
        let pri = find(&config, 0x13).unwrap();
        assert!(config.write(pri + 4, Size::Word, 2).pages_reset);
        assert!(!config.write(pri + 4, Size::Word, 3).pages_reset);
        assert!(config.pri());
    }

    #[test]
    fn page_request_status_is_cleared_by_ones() {
        let mut config = full();
        let pri = find(&config, 0x13).unwrap();
        config.response_failed();
        config.unexpected_group();
        assert_eq!(config.read(pri + 4) >> 16 & 3, 3);
        config.write(pri + 6, Size::Word, 1);
        assert_eq!(config.read(pri + 4) >> 16 & 3, 2);
    }

    #[test]
    fn a_function_level_reset_turns_everything_off() {
        let mut config = full();
        let express = find_low(&config, 0x10).unwrap();
        assert!(config.write(express + 8, Size::Word, 0x8000).reset);
        let function = Function::new(8, 0).of(Form::Endpoint).with_ats();
        config.reset(&function);
        assert!(!config.master() && !config.ats());
    }

    #[test]
    fn msi_says_where_and_what_once_it_is_on() {
        let mut config = full();
        let msi = find_low(&config, 5).unwrap();
        config.write(msi + 4, Size::Double, 0xfee0_0000);
        config.write(msi + 12, Size::Word, 0x41);
        assert_eq!(config.message(), None);
        config.write(msi + 2, Size::Word, 1);
        assert_eq!(config.message(), Some((0xfee0_0000, 0x41)));
    }
}

//! A stand-in for a unit, for host tests of the driver: registers that answer (VT-d 11.4), a queue that runs (6.5.2), and
//! caches for context entries, PASID entries and translations that keep everything until told otherwise (6.2), in legacy
//! and in scalable mode. The formats are stated here a second time, in plain numbers. Faults are injected, not found.

use crate::host::testing::{Host, Regs};
use crate::hw::registers::at;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::vec::Vec;

pub(crate) const TE: u32 = 1 << 31;
pub(crate) const SRTP: u32 = 1 << 30;
pub(crate) const WBF: u32 = 1 << 27;
pub(crate) const QIE: u32 = 1 << 26;
pub(crate) const IRE: u32 = 1 << 25;
pub(crate) const SIRTP: u32 = 1 << 24;
const ONE_SHOT: u32 = 1 << 30 | 1 << 29 | 1 << 27 | 1 << 24;

/// 3 and 4 levels, 48 bits, 2 MiB and 1 GiB, page-selective up to 2^18 pages, 65536 ids, 4 fault registers at 0x220.
pub(crate) const CAP: u64 = 6 | 0b110 << 8 | 47 << 16 | 0x22 << 24 | 3 << 34 | 1 << 39 | 3 << 40 | 18 << 48 | 3 << 54;
pub(crate) const CAP_CM: u64 = 1 << 7;
pub(crate) const CAP_RWBF: u64 = 1 << 4;
pub(crate) const CAP_PLMR: u64 = 1 << 5;
pub(crate) const CAP_PHMR: u64 = 1 << 6;
/// The mode of RTADDR changes under translation.
pub(crate) const CAP_ESRTPS: u64 = 1 << 63;
pub(crate) const CAP_PSI: u64 = 1 << 39;
/// Coherent, queue, pass-through, snoop control; IVA at 0x200.
pub(crate) const ECAP: u64 = 1 | 1 << 1 | 1 << 6 | 1 << 7 | 0x20 << 8;
pub(crate) const ECAP_C: u64 = 1;
pub(crate) const ECAP_QI: u64 = 1 << 1;
pub(crate) const ECAP_DT: u64 = 1 << 2;
pub(crate) const ECAP_PT: u64 = 1 << 6;
/// The same with scalable mode, second-stage tables in it, and snooped walks of these.
pub(crate) const ECAP_SM: u64 = ECAP | ECAP_SMTS | ECAP_SSTS | ECAP_SMPWCS;
pub(crate) const ECAP_SMTS: u64 = 1 << 43;
pub(crate) const ECAP_SSTS: u64 = 1 << 46;
pub(crate) const ECAP_NEST: u64 = 1 << 26;
pub(crate) const ECAP_FSTS: u64 = 1 << 47;
pub(crate) const ECAP_SMPWCS: u64 = 1 << 48;
pub(crate) const ECAP_ADMS: u64 = 1 << 52;
/// Both kinds of snooping.
pub(crate) const ECAP_SNOOP: u64 = ECAP_C | ECAP_SMPWCS;
const IOTLB: u32 = 0x208;
const FRCD: u32 = 0x220;

/// Makes of each story a test on a unit in legacy mode and one on a unit in scalable mode: it is told the unit's ECAP.
macro_rules! in_both_modes {
    ($($story:ident)*) => {
        mod legacy {
            $(#[test]
            fn $story() {
                super::$story(crate::unit::standin::ECAP);
            })*
        }
        mod scalable {
            $(#[test]
            fn $story() {
                super::$story(crate::unit::standin::ECAP_SM);
            })*
        }
    };
}
pub(crate) use in_both_modes;

/// What a translation leads to: an address, or nothing.
type Reached = Option<u64>;

#[derive(Default)]
pub(crate) struct State {
    /// Every write of the driver.
    pub(crate) writes: Vec<(u32, u64)>,
    /// Every invalidation carried out, waits left out; those by register in the queue's form.
    pub(crate) done: Vec<[u64; 2]>,
    /// Command bits that have no effect.
    pub(crate) stuck: u32,
    /// CCMD and IOTLB: never done, or refused.
    pub(crate) register_path: Answer,
    /// Registers that do not take what is written.
    pub(crate) deaf: Vec<u32>,
    /// Writes after which devices reached memory as they liked, from when this is `Some`.
    pub(crate) open: Option<usize>,
    /// The queue does nothing.
    pub(crate) asleep: bool,
    /// A record that was cleared is there again.
    pub(crate) storm: bool,
    /// Status writes are kept back until `release`.
    pub(crate) hold: bool,
    /// (address, data) of those kept back.
    pub(crate) held: Vec<(u64, u32)>,
    /// The queue stops at the descriptor after this many more, with this code.
    pub(crate) bad: Option<(usize, u8)>,
    /// The queue stops at every descriptor, with this code.
    pub(crate) always: Option<u8>,
    /// Answers all ones after this many more writes.
    pub(crate) gone_after: Option<usize>,
    /// The word that the queue stopped at; it must not be there any more when it goes on.
    offending: Option<[u64; 2]>,
    /// Devices that do not answer, until `expire`.
    pub(crate) dead: HashSet<u16>,
    /// Everything waits until `complete_newest`.
    pub(crate) late: bool,
    /// How many descriptors are fetched behind one that waits for a device.
    pub(crate) ahead: usize,
    /// IQERCD names the device that timed out.
    pub(crate) names: bool,
    /// Devices whose entries must not have walks snooped.
    pub(crate) unsnooped: HashSet<u16>,
    /// Fetched and not carried out, from the oldest that waits for a device on.
    pending: Vec<[u64; 2]>,
    fsts: u32,
    contexts: HashMap<u16, [u64; 4]>,
    /// Of PASID 0, by source.
    pasids: HashMap<u16, [u64; 8]>,
    /// By source and page, with the domain id.
    tlb: HashMap<(u16, u64), (u16, Reached)>,
    cap: u64,
    ecap: u64,
    scalable: bool,
    abort: bool,
    root: u64,
    iqa: u64,
    iva: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    #[default]
    Done,
    Never,
    Refused,
}

/// The device whose translation cache a descriptor is for.
fn device(d: [u64; 2]) -> Option<u16> {
    match d[0] & 15 {
        3 => Some((d[0] >> 32) as u16),
        8 => Some((d[0] >> 16) as u16),
        _ => None,
    }
}

/// The unit. Clones share everything.
#[derive(Clone)]
pub(crate) struct Standin {
    pub(crate) regs: Regs,
    host: Host,
    state: Arc<Mutex<State>>,
}

impl Standin {
    /// A unit at `base` of `host`'s machine.
    pub(crate) fn new(host: &Host, base: u64, cap: u64, ecap: u64) -> Self {
        let regs = host.unit(base);
        regs.set32(at::VER, 0x10);
        regs.set64(at::CAP, cap);
        regs.set64(at::ECAP, ecap);
        for control in [at::FECTL, at::IECTL] {
            regs.set32(control, 1 << 31);
        }
        let state = State { cap, ecap, ..State::default() };
        let unit = Standin { regs, host: host.clone(), state: Arc::new(Mutex::new(state)) };
        let this = unit.clone();
        unit.regs.on_write(move |_, at, v| this.write(at, v));
        unit
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What the driver wrote and had invalidated since the last call.
    pub(crate) fn take(&self) -> (Vec<(u32, u64)>, Vec<[u64; 2]>) {
        let mut s = self.state();
        (core::mem::take(&mut s.writes), core::mem::take(&mut s.done))
    }

    fn write(&self, place: u32, v: u64) {
        let mut s = self.state();
        s.writes.push((place, v));
        if let Some(left) = &mut s.gone_after {
            match left.checked_sub(1) {
                Some(rest) => *left = rest,
                None => return (0..0x6000).step_by(4).for_each(|at| self.regs.set32(at, u32::MAX)),
            }
        }
        if s.deaf.contains(&place) {
            return;
        }
        match place {
            at::GCMD => self.command(&mut s, v as u32),
            at::FSTS => {
                s.fsts &= !(v as u32 & 0x7d);
                if v & (1 << 4 | 1 << 6) != 0 {
                    self.run(&mut s);
                }
            }
            at::CCMD => {
                let kind = 1 | (v >> 61 & 3) << 4 | (v & 0xffff) << 16 | (v >> 16 & 0xffff) << 32;
                self.by_register(&mut s, place, v, [kind, 0], v >> 61 & 3, 59);
            }
            IOTLB => {
                let kind = 2 | (v >> 60 & 3) << 4 | (v >> 32 & 0xffff) << 16;
                let iva = s.iva;
                self.by_register(&mut s, place, v, [kind, iva], v >> 60 & 3, 57);
            }
            0x200 => s.iva = v,
            at::IQT if s.fsts & 1 << 4 != 0 => {}
            at::IQT => {
                self.regs.set64(place, v);
                self.run(&mut s);
            }
            at::PMEN => self.regs.set32(place, v as u32 & 1 << 31 | (v >> 31) as u32 & 1),
            at::ICS => self.regs.set32(place, self.regs.get32(place) & !(v as u32)),
            // As QEMU's unit has it: the base shows while the queue is on.
            at::IQA if self.regs.get32(at::GSTS) & QIE == 0 => {
                s.iqa = v;
                self.regs.set64(place, v & 0xfff);
            }
            at::RTADDR | at::IQA | at::IRTA => self.regs.set64(place, v),
            FRCD..0x260 if place % 16 == 12 => {
                assert_eq!(v, 1 << 31, "bit 31 alone clears a record");
                let again = u32::from(s.storm) << 31;
                self.regs.set32(place, self.regs.get32(place) & !(1 << 31) | again);
            }
            at::PLMBASE..at::IQH => {
                assert!(self.regs.get32(at::PMEN) & 1 == 0, "regions change while they are off");
            }
            at::FECTL..at::PMEN | at::IECTL..at::IQERCD => self.regs.set32(place, v as u32),
            other => panic!("write of {v:#x} to {other:#x}"),
        }
        if self.regs.get32(at::GSTS) & TE == 0 && self.regs.get32(at::PMEN) & 1 == 0 {
            s.open = s.open.map(|n| n + 1);
        }
        let pending = (0..4).any(|i| self.regs.get32(FRCD + i * 16 + 12) >> 31 != 0);
        s.fsts = s.fsts & !2 | u32::from(pending) << 1;
        self.regs.set32(at::FSTS, s.fsts);
    }

    fn command(&self, s: &mut State, v: u32) {
        let status = self.regs.get32(at::GSTS);
        let changed = (v ^ status) & !ONE_SHOT | v & ONE_SHOT;
        assert_eq!(changed.count_ones(), 1, "one command a write: {v:#x} over {status:#x}");
        if changed & s.stuck != 0 {
            // WBFS alone tells of a command in progress by being set.
            return self.regs.set32(at::GSTS, status | changed & WBF);
        }
        match changed {
            SRTP => {
                s.root = u64::from(self.regs.get32(at::RTADDR)) | u64::from(self.regs.get32(at::RTADDR + 4)) << 32;
                let was = (s.scalable, s.abort);
                (s.scalable, s.abort) = (s.root >> 10 & 3 == 1, s.root >> 10 & 3 == 3);
                let mode = if s.scalable { ECAP_SMTS } else { ECAP_ADMS };
                assert!((s.scalable || s.abort) && s.ecap & mode != 0 || s.root & 0xfff == 0, "RTADDR {:#x}", s.root);
                let kept = status & TE == 0 || s.cap & CAP_ESRTPS != 0 || was == (s.scalable, s.abort);
                assert!(kept, "another mode under translation");
            }
            TE => assert!(status & (if v & TE != 0 { SRTP } else { TE }) != 0, "no root pointer yet"),
            QIE => {
                let drained = self.regs.get32(at::IQH) == self.regs.get32(at::IQT);
                assert!(drained || s.fsts & 1 << 4 != 0, "head and tail agree");
                self.regs.set64(at::IQH, 0);
                if !s.deaf.contains(&at::IQA) {
                    self.regs.set64(at::IQA, if v & QIE != 0 { s.iqa } else { s.iqa & 0xfff });
                }
            }
            _ => {}
        }
        let kept = if changed & ONE_SHOT != 0 { status | changed & (SRTP | SIRTP) } else { status ^ changed };
        self.regs.set32(at::GSTS, kept);
        self.run(s);
    }

    fn by_register(&self, s: &mut State, place: u32, v: u64, request: [u64; 2], scope: u64, answer: u32) {
        assert!(v >> 63 == 1 && self.regs.get32(at::GSTS) & QIE == 0, "not while the queue is on");
        assert!(!s.scalable, "not in scalable mode");
        assert!(self.regs.get32(place + 4) >> 31 == 0, "one request at a time");
        match s.register_path {
            Answer::Never => return self.regs.set64(place, v),
            Answer::Refused => return self.regs.set64(place, v & !(1 << 63)),
            Answer::Done => {}
        }
        self.invalidate(s, request);
        self.regs.set64(place, v & !(1 << 63) | scope << answer);
    }

    /// Carries out what is between head and tail.
    fn run(&self, s: &mut State) {
        if self.regs.get32(at::GSTS) & QIE == 0 || s.fsts & (1 << 4 | 1 << 6) != 0 || s.asleep {
            return;
        }
        let iqa = u64::from(self.regs.get32(at::IQA)) | u64::from(self.regs.get32(at::IQA + 4)) << 32;
        let (size, slot) = (4096u32 << (iqa & 7), 16u32 << (iqa >> 11 & 1));
        loop {
            let head = self.regs.get32(at::IQH);
            if head == self.regs.get32(at::IQT) || s.pending.len() > s.ahead && !s.late {
                return;
            }
            let (narrow, wide) = (slot == 16 && !s.scalable && !s.abort, s.ecap & (ECAP_SMTS | ECAP_ADMS) != 0);
            assert!(narrow || slot == 32 && wide, "slots of {slot} bytes");
            let place = (iqa & !0xfff) + u64::from(head);
            let word = |i: u64| self.host.read(place + i * 8).expect("a queue in memory");
            let d = [word(0), word(1)];
            assert!(slot == 16 || word(2) | word(3) == 0, "the upper half of a descriptor");
            let stops = s.bad.is_some_and(|(n, _)| n == 0) || s.always.is_some();
            if s.offending.is_some_and(|o| o == d) || stops {
                let code = s.always.or(s.bad.take().map(|(_, code)| code)).unwrap_or(3);
                // The codes of registers say nothing of the descriptor.
                s.offending = Some(d).filter(|_| s.always.is_none() && ![1, 5, 6, 7].contains(&code));
                s.fsts |= 1 << 4;
                self.regs.set32(at::IQERCD, code.into());
                return self.regs.set32(at::FSTS, s.fsts);
            }
            s.offending = None;
            s.bad = s.bad.map(|(n, code)| (n - 1, code));
            // Nothing behind an invalidation that waits for its device need happen, and nothing does.
            let waits = device(d).is_some_and(|source| s.dead.contains(&source));
            if waits || s.late || !s.pending.is_empty() {
                s.pending.push(d);
            } else {
                self.carry_out(s, d);
            }
            self.regs.set64(at::IQH, u64::from((head + slot) % size));
        }
    }

    /// Its power goes and comes again: registers are as after reset, and what was cached may be anything.
    pub(crate) fn lose_power(&self) {
        self.state().fsts = 0;
        for at in (at::GSTS..at::PMEN).chain(at::IQH..at::IRTA + 8).step_by(4) {
            self.regs.set32(at, 0);
        }
        for control in [at::FECTL, at::IECTL] {
            self.regs.set32(control, 1 << 31);
        }
    }

    fn carry_out(&self, s: &mut State, d: [u64; 2]) {
        match d[0] & 0xf {
            5 if d[0] & 1 << 5 != 0 => {
                s.held.push((d[1], (d[0] >> 32) as u32));
                if !s.hold {
                    self.release_in(s, |_| true);
                }
            }
            5 => {}
            _ => self.invalidate(s, d),
        }
    }

    /// The device that is waited for does not answer in time, and what is pending is lost. `false` where none is.
    pub(crate) fn expire(&self) -> bool {
        let mut s = self.state();
        let Some(source) = s.pending.first().and_then(|d| device(*d)) else { return false };
        s.pending.clear();
        s.fsts |= 1 << 6;
        self.regs.set32(at::FSTS, s.fsts);
        self.regs.set32(at::IQERCD + 4, if s.names { source.into() } else { 0 });
        true
    }

    /// Completes the newest wait that may complete, with what lies between it and the wait before it: a fence goes first, and
    /// no other order holds (VT-d 6.5.2.12).
    pub(crate) fn complete_newest(&self) {
        let mut s = self.state();
        let waits: Vec<usize> = (0..s.pending.len()).filter(|i| s.pending[*i][0] & 15 == 5).collect();
        let fence = waits.iter().position(|i| s.pending[*i][0] & 1 << 6 != 0);
        let Some(newest) = fence.or(waits.len().checked_sub(1)) else { return };
        let first = if newest == 0 { 0 } else { waits[newest - 1] + 1 };
        for d in s.pending.drain(first..=waits[newest]).collect::<Vec<_>>() {
            self.carry_out(&mut s, d);
        }
    }

    /// A device answers from now on, and what waited for it is carried out.
    pub(crate) fn revive(&self, source: u16) {
        let mut s = self.state();
        s.dead.remove(&source);
        let waits = |s: &State, d: [u64; 2]| device(d).is_some_and(|source| s.dead.contains(&source));
        while let Some(d) = s.pending.first().copied().filter(|d| !waits(&s, *d)) {
            s.pending.remove(0);
            self.carry_out(&mut s, d);
        }
        self.run(&mut s);
    }

    /// Somebody had it translate before, by this root pointer.
    pub(crate) fn left_on(&self, rtaddr: u64) {
        let mut s = self.state();
        (s.root, s.scalable, s.abort) = (rtaddr, rtaddr >> 10 & 3 == 1, rtaddr >> 10 & 3 == 3);
        self.regs.set64(at::RTADDR, rtaddr);
        self.regs.set32(at::GSTS, TE | SRTP);
    }

    /// The queue goes on with what came meanwhile.
    pub(crate) fn awake(&self) {
        let mut s = self.state();
        s.asleep = false;
        self.run(&mut s);
    }

    fn release_in(&self, s: &mut State, mut which: impl FnMut(usize) -> bool) {
        let mut i = 0;
        s.held.retain(|(at, data)| {
            let go = which(i);
            i += 1;
            if go {
                self.host.hardware_write32(*at, *data);
            }
            !go
        });
    }

    /// Lets the status writes happen whose place among those held `which` accepts.
    pub(crate) fn release(&self, which: impl FnMut(usize) -> bool) {
        self.release_in(&mut self.state(), which);
    }

    fn invalidate(&self, s: &mut State, d: [u64; 2]) {
        s.done.push(d);
        let (scope, did, source) = (d[0] >> 4 & 3, (d[0] >> 16) as u16, (d[0] >> 32) as u16);
        let scalable = s.scalable || s.abort;
        // Absent entries are cached under id 0; context entries of scalable mode under none.
        let tagged = |e: &[u64; 4]| scalable || did == if e[0] & 1 == 0 { 0 } else { (e[1] >> 8) as u16 };
        let names = |e: &[u64; 8]| did == if e[0] & 1 == 0 { 0 } else { e[1] as u16 };
        match (d[0] & 15, scope) {
            (4, 0) => {}
            (1, 1) => s.contexts.clear(),
            (1, 2) => s.contexts.retain(|_, e| !tagged(e)),
            (1, 3) => s.contexts.retain(|k, e| *k != source || !tagged(e)),
            (7, 3) if scalable => s.pasids.clear(),
            (7, 0) if scalable => s.pasids.retain(|_, e| !names(e)),
            (7, 1) if scalable && d[0] >> 32 == 0 => s.pasids.retain(|_, e| !names(e)),
            // Of first-stage tables it walks none.
            (6, 3) if scalable && d[0] >> 32 == 0 => {}
            (6, 2) if scalable && d[0] >> 32 == 0 => s.tlb.retain(|_, (k, _)| *k != did),
            (3 | 8, _) => {}
            (2, 1) => s.tlb.clear(),
            (2, 2) => s.tlb.retain(|_, (k, _)| *k != did),
            (2, 3) => {
                let order = d[1] & 63;
                assert!(s.cap & CAP_PSI != 0 && order <= s.cap >> 48 & 63, "page-selective, 2^{order} pages");
                let first = d[1] >> 12;
                assert!(first.is_multiple_of(1 << order), "aligned to its size");
                s.tlb.retain(|(_, page), (k, _)| *k != did || page >> order != first >> order);
            }
            other => panic!("descriptor {d:x?} of type and scope {other:?}"),
        }
    }

    /// Records a fault in register `i`; `hi` without the valid bit.
    pub(crate) fn record(&self, i: u32, lo: u64, hi: u64) {
        let mut s = self.state();
        if s.fsts & 2 == 0 {
            s.fsts = s.fsts & !0xff00 | i << 8;
        }
        s.fsts |= 2;
        self.regs.set64(FRCD + i * 16, lo);
        self.regs.set64(FRCD + i * 16 + 8, hi | 1 << 63);
        self.regs.set32(at::FSTS, s.fsts);
    }

    /// Sets bits of FSTS.
    pub(crate) fn raise(&self, bits: u32) {
        let mut s = self.state();
        s.fsts |= bits;
        self.regs.set32(at::FSTS, s.fsts);
    }

    /// A device's access: through the caches as far as they hold anything, then through the tables as this unit reads
    /// them. What is found is kept; with caching mode, that nothing was found too.
    pub(crate) fn access(&self, source: u16, address: u64) -> Reached {
        let mut s = self.state();
        if self.regs.get32(at::GSTS) & TE == 0 {
            return (self.regs.get32(at::PMEN) & 1 == 0).then_some(address);
        }
        if s.abort {
            return None;
        }
        let (page, caching) = (address >> 12, s.cap & CAP_CM != 0);
        if let Some((_, to)) = s.tlb.get(&(source, page)) {
            return to.map(|to| to | address & 0xfff);
        }
        let read = |snoop: bool, at: u64| {
            let word = if snoop { self.host.read(at) } else { self.host.read_memory(at) };
            word.expect("a table in memory")
        };
        let table = |at| read(s.ecap & ECAP_C != 0, at);
        let devfn = u64::from(source & 0xff);
        let context = s.contexts.get(&source).copied().unwrap_or_else(|| {
            let half = if s.scalable { devfn >> 7 } else { 0 };
            let root = table((s.root & !0xfff) + u64::from(source >> 8) * 16 + half * 8);
            match (root & 1, s.scalable) {
                (0, _) => [0; 4],
                (_, false) => [0, 1, 2, 3].map(|i| if i < 2 { table((root & !0xfff) + devfn * 16 + i * 8) } else { 0 }),
                (_, true) => [0, 1, 2, 3].map(|i| table((root & !0xfff) + (devfn & 0x7f) * 32 + i * 8)),
            }
        });
        if context[0] & 1 != 0 || caching {
            s.contexts.insert(source, context);
        }
        if context[0] & 1 == 0 {
            return None;
        }
        let (did, pass, top, levels, snoop) = if s.scalable {
            let table = |at| read(s.ecap & ECAP_C != 0, at);
            assert_eq!(context[0] & 0x1fa | context[1] | context[2] | context[3], 0, "no flags but DTE, PASID 0");
            let entry = s.pasids.get(&source).copied().unwrap_or_else(|| {
                let directory = table(context[0] & !0xfff);
                let at = directory & !0xfff;
                if directory & 1 == 0 { [0; 8] } else { [0, 8, 16, 24, 32, 40, 48, 56].map(|i| table(at + i)) }
            });
            if entry[0] & 1 != 0 || caching {
                s.pasids.insert(source, entry);
            }
            if entry[0] & 1 == 0 {
                return None;
            }
            let (kind, snoop) = (entry[0] >> 6 & 7, entry[1] & 1 << 23 != 0);
            assert!(kind == 4 || kind == 2 && s.ecap & ECAP_SSTS != 0, "PGTT {kind}");
            assert_eq!(snoop, s.ecap & ECAP_SMPWCS != 0 && !s.unsnooped.contains(&source));
            assert_eq!(entry[2..], [0; 6]);
            (entry[1] as u16, kind == 4, entry[0] & !0xfff, (entry[0] >> 2 & 7) + 2, snoop)
        } else {
            let snoop = s.ecap & ECAP_C != 0;
            ((context[1] >> 8) as u16, context[0] >> 2 & 3 == 2, context[0] & !0xfff, (context[1] & 7) + 2, snoop)
        };
        let walk = || {
            if pass {
                return Some(page << 12);
            }
            let mut table = top;
            for level in (1..=levels).rev() {
                let shift = 3 + 9 * level;
                let e = read(snoop, table + (address >> shift & 511) * 8);
                if e & 3 == 0 {
                    return None;
                }
                table = e & 0x000f_ffff_ffff_f000;
                if level == 1 || e & 1 << 7 != 0 {
                    return Some(table | address & ((1 << shift) - 1) & !0xfff);
                }
            }
            None
        };
        let to = walk();
        if to.is_some() || caching {
            s.tlb.insert((source, page), (did, to));
        }
        to.map(|to| to | address & 0xfff)
    }
}

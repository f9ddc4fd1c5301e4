//! The walk of one untranslated request: root, context and PASID tables. VT-d 3.4, 3.9, 3.15, 9.1 to 9.6; the reasons and
//! what they ask: 7.1.3.

use super::data::{Attempt, Request, Said, Step, Unit, Verdict, Walk, What, Word};
use super::stages::{Page, Second};
use crate::host::address::{Hpa, INTERRUPT_RANGE, SourceId};
use crate::hw::capabilities::AddressWidth;
use crate::hw::faults::Reason;
use crate::hw::pasid_tables::{DirectoryEntry, PasidEntry, PasidTranslation, ScalableContextEntry};
use crate::hw::registers::TableMode;
use crate::hw::reserved;
use crate::hw::tables::{
    ContextEntry, RootEntry, Translation, context_index, directory_index, is_upper, pasid_index, root_index,
    scalable_context_index,
};
use crate::space::paging::Access;

/// What becomes of `request` on `unit` with the tables that `read` reads, a word at a time by host address. As memory says
/// it: a unit may still go by what it has cached. Protected memory regions (PMEN) are not considered.
///
/// Reads what the unit would, in its order, and each word once; no more than a few dozen entries. Any context.
pub fn walk(unit: &Unit, request: Request, read: &mut dyn FnMut(u64) -> Word) -> Walk {
    let mut walker = Walker { unit, read, walk: Walk::begin(request), silent: false };
    let (Ok(verdict) | Err(verdict)) = walker.verdict();
    walker.walk.verdict = verdict;
    walker.walk
}

pub(super) struct Walker<'a> {
    pub(super) unit: &'a Unit,
    read: &'a mut dyn FnMut(u64) -> Word,
    pub(super) walk: Walk,
    /// FPD was set on the way.
    silent: bool,
}

/// `Err` ends the walk.
pub(super) type Walked<T> = Result<T, Verdict>;

impl Walker<'_> {
    /// Ends the walk: blocked.
    pub(super) fn blocked<T>(&self, code: u8) -> Walked<T> {
        let reason = Reason(code);
        Err(Verdict::Blocked { reason, recorded: !(self.silent && reason.qualified()) })
    }

    /// What the last entry said.
    pub(super) fn said(&mut self, said: Said) {
        self.said_by(self.walk.steps().len(), said);
    }

    /// What the last of so many entries said.
    pub(super) fn said_by(&mut self, steps: usize, said: Said) {
        if let Some(step) = steps.checked_sub(1).and_then(|last| self.walk.step_mut(last)) {
            step.said = said;
        }
    }

    /// Ends the walk at the last entry.
    pub(super) fn refused<T>(&mut self, said: &'static str, code: u8) -> Walked<T> {
        self.said(Said::Refused(said));
        self.blocked(code)
    }

    /// Reads an entry of the table at `table` and writes it down. `input`: see [`Step::input`].
    pub(super) fn entry<const N: usize>(
        &mut self,
        what: What,
        table: u64,
        index: usize,
        input: u64,
        access: u8,
    ) -> Walked<[u64; N]> {
        let at = table.wrapping_add((index * N * 8) as u64);
        let mut words = [0; N];
        let mut failed = None;
        for (i, word) in words.iter_mut().enumerate() {
            match (self.read)(at.wrapping_add(i as u64 * 8)) {
                Word::Is(w) => *word = w,
                other => {
                    failed = Some(other);
                    break;
                }
            }
        }
        self.walk.push(Step::new(what, index, at, &words, input, self.io_rights()));
        match failed {
            None => Ok(words),
            Some(Word::NoMemory) => self.blocked(access),
            Some(_) => {
                self.said(Said::Unknown);
                Err(Verdict::Unknown)
            }
        }
    }

    /// Ends the walk where the last entry has bits of `masks` set.
    pub(super) fn reserved(&mut self, words: &[u64], masks: &[u64], code: u8) -> Walked<()> {
        for (i, (word, mask)) in words.iter().zip(masks).enumerate() {
            if word & mask != 0 {
                self.said(Said::Reserved(i as u8, word & mask));
                return self.blocked(code);
            }
        }
        Ok(())
    }

    /// Ends the walk where the last entry is absent; notes its FPD.
    fn present(&mut self, present: bool, fpd: bool, code: u8) -> Walked<()> {
        self.silent |= fpd;
        if present {
            return Ok(());
        }
        self.said(Said::Absent);
        self.blocked(code)
    }

    fn verdict(&mut self) -> Walked<Verdict> {
        let Request { pasid, address, attempt, execute, bytes, .. } = self.walk.request;
        if pasid.is_none() && in_interrupt_range(address) {
            return match attempt {
                Attempt::Write if bytes == 4 && address.is_multiple_of(4) => Ok(Verdict::Interrupt),
                Attempt::Flush => Ok(Verdict::Completes),
                _ => self.blocked(0x29),
            };
        }
        let ecap = self.unit.caps.ecap;
        let Some(mode) = self.unit.root.mode() else { return self.blocked(0x30) };
        match mode {
            TableMode::Abort if !ecap.adms() => return self.blocked(0x30),
            TableMode::Abort => return self.blocked(0x33),
            TableMode::Scalable if !ecap.smts() => return self.blocked(0x30),
            TableMode::Legacy if pasid.is_some() => return self.blocked(0x31),
            TableMode::Legacy if self.io_rights() => return self.blocked(0x30),
            TableMode::Legacy | TableMode::Scalable => {}
        }
        if pasid.is_some() && execute && self.unit.caps.version.major() >= 8 {
            return self.blocked(0x34);
        }
        match mode {
            TableMode::Scalable => self.scalable(),
            _ => self.legacy(),
        }
    }

    /// SSIRWE; the bit is not there on units without it.
    pub(super) fn io_rights(&self) -> bool {
        self.unit.root.io_rights() && self.unit.caps.ecap.ssirws()
    }

    fn legacy(&mut self) -> Walked<Verdict> {
        let Request { source: SourceId(source), address, .. } = self.walk.request;
        let (unit, width) = (self.unit, self.unit.hpa_width);
        let words: [u64; 2] = self.entry(What::Root, unit.root.table(), root_index(source), 0, 0x08)?;
        let [lo, hi] = words;
        let table = RootEntry { lo, hi }.table();
        self.present(table.is_some(), false, 0x01)?;
        self.reserved(&words, &reserved::root(width), 0x0a)?;
        let table = table.unwrap_or(0);
        self.said(Said::Table(table));

        let words: [u64; 2] = self.entry(What::Context, table, context_index(source), 0, 0x09)?;
        let [lo, hi] = words;
        let entry = ContextEntry { lo, hi };
        self.present(entry.present(), entry.fpd(), 0x02)?;
        self.reserved(&words, &reserved::context(entry, unit.caps.cap, width), 0x0b)?;
        let Some(aw) = entry.width().filter(|w| unit.caps.cap.supports(*w)) else {
            return self.refused("the unit lacks that address width", 0x03);
        };
        match entry.translation() {
            Some(Translation::Untranslated) => {}
            Some(Translation::WithDeviceTlb) if unit.caps.ecap.dt() => {}
            Some(Translation::PassThrough) if unit.caps.ecap.pt() => return self.through(0x04, 0x0e),
            _ => return self.refused("the unit lacks that translation type", 0x03),
        }
        if self.above(address, aw) {
            return self.refused("the address is above the width", 0x04);
        }
        self.said(Said::Table(entry.table()));
        let second = Second::legacy(entry.table(), aw);
        self.second(&second, address).map(reaches)
    }

    fn scalable(&mut self) -> Walked<Verdict> {
        let Request { source: SourceId(source), pasid, .. } = self.walk.request;
        let (unit, width) = (self.unit, self.unit.hpa_width);
        let words: [u64; 2] = self.entry(What::ScalableRoot, unit.root.table(), root_index(source), 0, 0x38)?;
        let [lo, hi] = words;
        let root = RootEntry { lo, hi };
        let table = if is_upper(source) { root.upper() } else { root.table() };
        self.present(table.is_some(), false, 0x39)?;
        // Of either half, whichever the request needs.
        let mask = |half: Option<u64>| half.map_or(0, |_| reserved::scalable_root(width));
        self.reserved(&words, &[mask(root.table()), mask(root.upper())], 0x3a)?;
        let table = table.unwrap_or(0);
        self.said(Said::Table(table));

        let at = scalable_context_index(source);
        let words: [u64; 4] = self.entry(What::ScalableContext, table, at, 0, 0x40)?;
        let entry = ScalableContextEntry(words);
        self.present(entry.present(), entry.fpd(), 0x41)?;
        self.reserved(&words, &reserved::scalable_context(unit.caps.ecap, width), 0x42)?;
        let [lo, ..] = words;
        let allowed = entry.allowed();
        if allowed.page_requests && !allowed.device_tlb {
            return self.refused("it allows page requests without ATS", 0x43);
        }
        if entry.rid_pasid() >= entry.pasids() {
            return self.refused("RID_PASID is beyond the directory", 0x43);
        }
        let pasid = match pasid {
            None if reserved::contradicts(lo) => {
                return self.refused("it allows PASIDs in translated requests alone", 0x43);
            }
            None => entry.rid_pasid(),
            Some(_) if !allowed.pasid => return self.refused("it does not allow PASIDs", 0x45),
            Some(pasid) => {
                let pasid = pasid.get();
                if pasid >= entry.pasids() {
                    return self.refused("the PASID is beyond the directory", 0x46);
                }
                if pasid == entry.rid_pasid() {
                    return self.refused("the PASID is RID_PASID", 0x48);
                }
                if pasid >> unit.caps.ecap.pss() != 0 {
                    return self.refused("the PASID has more bits than the unit takes", 0x89);
                }
                pasid
            }
        };
        self.said(Said::Table(entry.directory()));

        let [word] = self.entry(What::Directory, entry.directory(), directory_index(pasid), 0, 0x50)?;
        let there = DirectoryEntry(word);
        self.present(there.table().is_some(), there.fpd(), 0x51)?;
        self.reserved(&[word], &[reserved::directory(width)], 0x52)?;
        let table = there.table().unwrap_or(0);
        self.said(Said::Table(table));

        let words: [u64; 8] = self.entry(What::Pasid, table, pasid_index(pasid), 0, 0x58)?;
        let there = PasidEntry(words);
        self.present(there.present(), there.fpd(), 0x59)?;
        let masks = reserved::pasid(unit.caps.cap, unit.caps.ecap, width, unit.strict_width);
        self.reserved(&words, &masks, 0x5a)?;
        self.by_pasid(there, entry.rid_priv())
    }

    /// A request that its PASID table entry takes further.
    fn by_pasid(&mut self, entry: PasidEntry, rid_priv: bool) -> Walked<Verdict> {
        let Request { pasid, address, privileged, execute, .. } = self.walk.request;
        let (cap, ecap) = (self.unit.caps.cap, self.unit.caps.ecap);
        let kind = match entry.translation() {
            Some(PasidTranslation::FirstStage) if ecap.fsts() => PasidTranslation::FirstStage,
            Some(PasidTranslation::SecondStage) if ecap.ssts() => PasidTranslation::SecondStage,
            Some(PasidTranslation::Nested) if ecap.nest() => PasidTranslation::Nested,
            Some(PasidTranslation::PassThrough) if ecap.pt() => PasidTranslation::PassThrough,
            _ => return self.refused("the unit lacks that translation type", 0x5b),
        };
        let snooped = entry.walk_snoop();
        let second = match (kind, entry.second()) {
            (PasidTranslation::FirstStage | PasidTranslation::PassThrough, _) => None,
            (_, Some(s)) if cap.supports(s.width) => Some(Second::scalable(s, snooped)),
            _ => return self.refused("the unit lacks that address width", 0x5b),
        };
        let first = match (kind, entry.first()) {
            (PasidTranslation::SecondStage | PasidTranslation::PassThrough, _) => None,
            (_, Some(f)) if !f.five_levels || cap.fs5lp() => Some(f),
            _ => return self.refused("the unit lacks that number of first-stage levels", 0x5b),
        };
        if let (Some(f), Some(s)) = (first, second)
            && self.above(f.table, s.width)
        {
            return self.refused("the guest's top table is above the width", 0x5b);
        }
        if pasid.is_some() && execute && !ecap.ers() {
            return self.refused("the unit serves no requests for execute", 0x5c);
        }
        let supervisor = if pasid.is_some() { privileged } else { rid_priv && ecap.rprivs() };
        if supervisor && !entry.supervisor() {
            return self.refused("it serves no supervisor requests", 0x5d);
        }
        match (first, second) {
            (Some(f), s) => {
                self.said(Said::Table(f.table));
                self.first(&f, s.as_ref(), snooped, supervisor).map(reaches)
            }
            (None, Some(s)) => {
                if self.above(address, s.width) {
                    return self.refused("the address is above the width", 0x84);
                }
                self.said(Said::Table(s.table));
                self.second(&s, address).map(reaches)
            }
            (None, None) => self.through(0x83, 0x87),
        }
    }

    /// Pass-through.
    fn through(&mut self, above: u8, interrupt: u8) -> Walked<Verdict> {
        let address = self.walk.request.address;
        let Some(to) = Hpa::new(address).filter(|a| a.get() >> self.unit.hpa_width.min(63) == 0) else {
            return self.refused("the address is above the width of host addresses", above);
        };
        self.said(Said::Through);
        self.is_memory(address, interrupt)?;
        Ok(Verdict::Reaches { to, size: u64::MAX, rights: Access::READ | Access::WRITE })
    }

    /// Whether the second stage does not take the address: it takes the least of AW and MGAW.
    pub(super) fn above(&self, address: u64, width: AddressWidth) -> bool {
        address >> width.bits().min(self.unit.caps.cap.mgaw()).min(63) != 0
    }
}

/// The end of a walk that grants what is asked for.
fn reaches(page: Page) -> Verdict {
    let mut rights = Access::empty();
    rights.set(Access::READ, page.read);
    rights.set(Access::WRITE, page.write);
    // 52 bits by construction.
    Hpa::new(page.to).map_or(Verdict::Unknown, |to| Verdict::Reaches { to, size: page.size, rights })
}

pub(super) fn in_interrupt_range(address: u64) -> bool {
    (INTERRUPT_RANGE.first.get()..=INTERRUPT_RANGE.last.get()).contains(&address)
}

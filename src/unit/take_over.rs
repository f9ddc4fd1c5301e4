//! What a predecessor left running: its root, context, directory and PASID tables, walked once, checked, and copied as far as
//! the driver's own tables reach (VT-d 3.4, 6.6, 9.1 to 9.6). Nothing is written to the unit here.
//!
//! The driver gets root and context tables of its own whose entries lead where the predecessor's did, to page tables and PASID
//! tables in the predecessor's memory. So translation goes on unchanged, and every entry is the driver's to clear.

use super::bring_up::{Place, TakeOver};
use super::ids::{DomainIds, PASS_THROUGH};
use super::root::RootTable;
use crate::host::address::{Hpa, SourceId};
use crate::host::error::ErrorKind;
use crate::host::platform::{Platform, Registers};
use crate::hw::capabilities::{AddressWidth, Capabilities};
use crate::hw::pasid_tables::{DirectoryEntry, PasidEntry, PasidTranslation, ScalableContextEntry};
use crate::hw::registers::{Gsts, RootPointer, TableMode, at};
use crate::hw::tables::{ContextEntry, PASID_ENTRIES, ROOT_ENTRIES, RootEntry, SCALABLE_CONTEXT_ENTRIES, Translation};
use core::fmt;

/// Tables of a predecessor that a unit goes on with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adopted {
    /// Requester ids with a present context entry.
    pub entries: u32,
    /// Domain ids that they use, and that are not given to anybody else meanwhile.
    pub domains: u32,
}

/// Why the tables of a predecessor were not adopted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// What is wrong.
    pub flaw: Flaw,
    /// With the tables of which requester id, where it got that far.
    pub source: Option<SourceId>,
    /// Where the word stands; for a register, its offset.
    pub at: u64,
    /// The word.
    pub word: u64,
}

/// What is wrong with a predecessor's tables.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Translation is on, and no root table pointer was taken over (GSTS.RTPS).
    NotLatched,
    /// The table mode is one that the unit does not have (RTADDR.TTM).
    Mode,
    /// Second-stage entries have their rights elsewhere than this driver's (RTADDR.SSIRWE).
    Rights,
    /// The platform says that there is no memory.
    NotMemory,
    /// Reserved bits are set, or bits of an address above those that the machine has.
    Reserved,
    /// A translation type that is reserved, or that the unit does not have.
    Translation,
    /// A number of levels that the unit does not have.
    Levels,
    /// The PASID of requests without one lies outside of the directory.
    RidPasid,
    /// A domain id that stands for absent entries (CAP.CM).
    DomainId,
    /// More tables than the driver is ready to read, or more domain ids than leave it one.
    TooMuch,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.flaw {
            Flaw::NotLatched => "translation is on without a root table",
            Flaw::Mode => "the table mode is none that the unit has",
            Flaw::Rights => "second-stage rights are in bits 61 and 62",
            Flaw::NotMemory => "a table is not in memory",
            Flaw::Reserved => "reserved bits are set",
            Flaw::Translation => "a translation type that the unit does not have",
            Flaw::Levels => "a number of levels that the unit does not have",
            Flaw::RidPasid => "the PASID of requests without one lies outside of the directory",
            Flaw::DomainId => "a domain id that is reserved",
            Flaw::TooMuch => "more tables or domain ids than can be adopted",
        })?;
        if let Some(source) = self.source {
            write!(f, ", for {source}")?;
        }
        write!(f, ": {:#x} at {:#x}", self.word, self.at)
    }
}

/// Tables of the driver's own that lead where the predecessor's do.
pub(super) struct Foreign {
    pub(super) mode: TableMode,
    pub(super) root: RootTable,
    pub(super) ids: DomainIds,
    pub(super) adopted: Adopted,
    /// The id of pass-through entries of the driver's own.
    pub(super) pass_through: u16,
}

impl Foreign {
    /// Tables of the driver's own alone, all entries absent.
    pub(super) fn none<P: Platform>(
        p: &P,
        mode: TableMode,
        caps: Capabilities,
        node: Option<u32>,
    ) -> Result<Self, ErrorKind> {
        let root = RootTable::new(p, mode, caps.ecap.c(), node)?;
        match DomainIds::new(p, caps.cap.domain_ids(), node) {
            Ok(ids) => Ok(Foreign { mode, root, ids, adopted: Adopted::default(), pass_through: PASS_THROUGH }),
            Err(e) => {
                root.release(p);
                Err(e)
            }
        }
    }

    pub(super) fn release<P: Platform>(self, p: &P) {
        self.root.release(p);
        self.ids.release(p);
    }
}

/// What there is to adopt.
pub(super) enum Look {
    /// Nothing: translation is off, blocks everything by itself, or is not to be adopted.
    Nothing,
    Tables(Foreign),
    Broken(Malformed),
}

enum Trouble {
    Broken(Malformed),
    Memory(ErrorKind),
}

impl From<ErrorKind> for Trouble {
    fn from(e: ErrorKind) -> Self {
        Trouble::Memory(e)
    }
}

/// Tables that are read at most, of all kinds: more than any machine has in use, a second's work at most.
const TABLES: u32 = 1 << 16;

/// Looks at what a unit that is on goes by.
pub(super) fn look<P: Platform>(
    p: &P,
    regs: &P::Registers,
    caps: Capabilities,
    place: &Place,
) -> Result<Look, ErrorKind> {
    let raw = regs.read32(at::GSTS);
    let status = Gsts::from_bits_retain(raw);
    if place.found != TakeOver::Adopt || raw == u32::MAX || !status.contains(Gsts::TES) {
        return Ok(Look::Nothing);
    }
    let pointer = RootPointer(regs.read64(at::RTADDR));
    let broken = |flaw, at: u32, word| Malformed { flaw, source: None, at: at.into(), word };
    let mode = match pointer.mode() {
        _ if !status.contains(Gsts::RTPS) => {
            return Ok(Look::Broken(broken(Flaw::NotLatched, at::GSTS, raw.into())));
        }
        Some(TableMode::Abort) if caps.ecap.adms() => return Ok(Look::Nothing),
        Some(TableMode::Legacy) => TableMode::Legacy,
        Some(TableMode::Scalable) if caps.ecap.smts() && caps.ecap.qi() => TableMode::Scalable,
        _ => return Ok(Look::Broken(broken(Flaw::Mode, at::RTADDR, pointer.0))),
    };
    if pointer.io_rights() {
        return Ok(Look::Broken(broken(Flaw::Rights, at::RTADDR, pointer.0)));
    }
    let found = Foreign::none(p, mode, caps, place.node)?;
    let mut walk = Walk { p, caps, width: place.width, left: TABLES, source: None, own_pass_through: false, found };
    let outcome = walk.all(pointer.table()).and_then(|()| walk.settle_pass_through());
    let found = walk.found;
    let trouble = match outcome {
        Ok(()) => return Ok(Look::Tables(found)),
        Err(e) => e,
    };
    found.release(p);
    match trouble {
        Trouble::Broken(m) => Ok(Look::Broken(m)),
        Trouble::Memory(e) => Err(e),
    }
}

/// A walk of foreign tables: every word is read once, and believed only after it was checked.
struct Walk<'p, P: Platform> {
    p: &'p P,
    caps: Capabilities,
    /// Bits of a physical address.
    width: u8,
    /// Tables that may still be read.
    left: u32,
    source: Option<SourceId>,
    /// The driver's own id of pass-through entries is used for something else.
    own_pass_through: bool,
    found: Foreign,
}

impl<P: Platform> Walk<'_, P> {
    fn broken<T>(&self, flaw: Flaw, at: u64, word: u64) -> Result<T, Trouble> {
        Err(Trouble::Broken(Malformed { flaw, source: self.source, at, word }))
    }

    /// The word `i` of a table.
    fn word(&self, table: u64, i: usize) -> Result<u64, Trouble> {
        let at = table.saturating_add(8 * i as u64);
        match Hpa::new(at).and_then(|at| self.p.peek(at)) {
            Some(v) => Ok(v),
            None => self.broken(Flaw::NotMemory, at, 0),
        }
    }

    /// Counts a table that `word` at `at` leads to.
    fn enter(&mut self, at: u64, word: u64) -> Result<(), Trouble> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return self.broken(Flaw::TooMuch, at, word),
        }
        Ok(())
    }

    /// An error where there are reserved bits.
    fn clean(&self, reserved: bool, at: u64, word: u64) -> Result<(), Trouble> {
        if reserved { self.broken(Flaw::Reserved, at, word) } else { Ok(()) }
    }

    fn all(&mut self, root: u64) -> Result<(), Trouble> {
        for bus in 0..ROOT_ENTRIES {
            self.source = None;
            let at = root.saturating_add(16 * bus as u64);
            let e = RootEntry { lo: self.word(root, 2 * bus)?, hi: self.word(root, 2 * bus + 1)? };
            let first = (bus as u16) << 8;
            match self.found.mode {
                TableMode::Scalable => {
                    self.clean(e.scalable_reserved(self.width), at, e.lo | e.hi)?;
                    for (table, first) in [(e.table(), first), (e.upper(), first | 0x80)] {
                        if let Some(table) = table {
                            self.enter(at, e.lo)?;
                            self.scalable_contexts(table, first)?;
                        }
                    }
                }
                _ => {
                    self.clean(e.reserved(self.width), at, e.lo)?;
                    if let Some(table) = e.table() {
                        self.enter(at, e.lo)?;
                        self.contexts(table, first)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn contexts(&mut self, table: u64, first: u16) -> Result<(), Trouble> {
        for function in 0..=u8::MAX {
            let (i, source) = (2 * usize::from(function), SourceId(first | u16::from(function)));
            let lo = self.word(table, i)?;
            if !(ContextEntry { lo, hi: 0 }).present() {
                continue;
            }
            self.source = Some(source);
            let (at, e) = (table.saturating_add(8 * i as u64), ContextEntry { lo, hi: self.word(table, i + 1)? });
            let ids = self.caps.cap.domain_id_bits().unwrap_or(0);
            self.clean(e.reserved(self.width, ids), at, lo)?;
            let passes = match e.translation() {
                Some(Translation::Untranslated) => false,
                Some(Translation::WithDeviceTlb) if self.caps.ecap.dt() => false,
                Some(Translation::PassThrough) if self.caps.ecap.pt() => true,
                _ => return self.broken(Flaw::Translation, at, lo),
            };
            if !passes {
                self.second_stage(e.table(), e.width(), at, e.hi)?;
            }
            self.found.root.adopt(self.p, source, &[e.lo, e.hi])?;
            self.found.adopted.entries += 1;
            self.id(source, e.did(), passes, at, e.hi)?;
        }
        Ok(())
    }

    fn scalable_contexts(&mut self, table: u64, first: u16) -> Result<(), Trouble> {
        for n in 0..SCALABLE_CONTEXT_ENTRIES {
            let source = SourceId(first | n as u16);
            let lo = self.word(table, 4 * n)?;
            if !ScalableContextEntry([lo, 0, 0, 0]).present() {
                continue;
            }
            self.source = Some(source);
            let at = table.saturating_add(32 * n as u64);
            let [second, third, fourth] =
                [self.word(table, 4 * n + 1), self.word(table, 4 * n + 2), self.word(table, 4 * n + 3)];
            let e = ScalableContextEntry([lo, second?, third?, fourth?]);
            self.clean(e.reserved(self.caps.ecap, self.width), at, lo)?;
            if e.rid_pasid() >= e.pasids() {
                return self.broken(Flaw::RidPasid, at, e.rid_pasid().into());
            }
            self.found.root.adopt(self.p, source, &e.0)?;
            self.found.adopted.entries += 1;
            self.directory(source, e)?;
        }
        Ok(())
    }

    fn directory(&mut self, source: SourceId, e: ScalableContextEntry) -> Result<(), Trouble> {
        let directory = e.directory();
        for i in 0..e.pasids() as usize / PASID_ENTRIES {
            let at = directory.saturating_add(8 * i as u64);
            if at.is_multiple_of(4096) {
                self.enter(at, directory)?;
            }
            let d = DirectoryEntry(self.word(directory, i)?);
            if let Some(table) = d.table() {
                self.clean(d.reserved(self.width), at, d.0)?;
                self.enter(at, d.0)?;
                self.pasid_table(source, table)?;
            }
        }
        Ok(())
    }

    fn pasid_table(&mut self, source: SourceId, table: u64) -> Result<(), Trouble> {
        for n in 0..PASID_ENTRIES {
            let mut e = PasidEntry::ABSENT;
            for (i, w) in e.0.iter_mut().enumerate() {
                *w = self.word(table, 8 * n + i)?;
                // What is behind it means nothing without P.
                if i == 0 && *w & 1 == 0 {
                    break;
                }
            }
            if !e.present() {
                continue;
            }
            let (at, [lo, second, ..]) = (table.saturating_add(64 * n as u64), e.0);
            let (cap, ecap) = (self.caps.cap, self.caps.ecap);
            self.clean(e.reserved(cap, ecap, self.width), at, lo)?;
            let passes = match e.translation() {
                Some(PasidTranslation::FirstStage) if ecap.fsts() => {
                    self.first_stage(e, at)?;
                    false
                }
                Some(PasidTranslation::SecondStage) if ecap.ssts() => false,
                Some(PasidTranslation::Nested) if ecap.nest() => {
                    self.levels(e, at)?;
                    false
                }
                Some(PasidTranslation::PassThrough) if ecap.pt() => true,
                _ => return self.broken(Flaw::Translation, at, lo),
            };
            if let Some(PasidTranslation::SecondStage | PasidTranslation::Nested) = e.translation() {
                self.second_stage(e.second().map_or(0, |s| s.table), e.width(), at, lo)?;
            }
            self.id(source, e.did(), passes, at, second)?;
        }
        Ok(())
    }

    /// First-stage tables have a number of levels that the unit has.
    fn levels(&self, e: PasidEntry, at: u64) -> Result<u64, Trouble> {
        match e.first() {
            Some(first) if !first.five_levels || self.caps.cap.fs5lp() => Ok(first.table),
            _ => self.broken(Flaw::Levels, at, e.0.get(2).copied().unwrap_or(0)),
        }
    }

    fn first_stage(&self, e: PasidEntry, at: u64) -> Result<(), Trouble> {
        let table = self.levels(e, at)?;
        self.word(table, 0).map(drop)
    }

    /// The top second-stage table is there, and of as many levels as the unit has.
    fn second_stage(&self, table: u64, width: Option<AddressWidth>, at: u64, word: u64) -> Result<(), Trouble> {
        match width {
            Some(width) if self.caps.cap.supports(width) => self.word(table, 0).map(drop),
            _ => self.broken(Flaw::Levels, at, word),
        }
    }

    /// Takes a domain id out of use.
    fn id(&mut self, source: SourceId, did: u16, passes: bool, at: u64, word: u64) -> Result<(), Trouble> {
        if did == 0 && self.caps.cap.cm() {
            return self.broken(Flaw::DomainId, at, word);
        }
        self.own_pass_through |= did == PASS_THROUGH && !passes;
        if self.found.root.adopt_id(source, did)? {
            self.found.adopted.domains += 1;
        }
        self.found.ids.take(did);
        Ok(())
    }

    /// Finds another id for the driver's own pass-through entries, where the predecessor uses that one for tables: under one
    /// id a unit knows one kind of translation.
    fn settle_pass_through(&mut self) -> Result<(), Trouble> {
        if self.own_pass_through {
            self.source = None;
            self.found.pass_through = match self.found.ids.alloc() {
                Ok(id) => id,
                Err(_) => return self.broken(Flaw::TooMuch, 0, 0),
            };
        }
        Ok(())
    }
}

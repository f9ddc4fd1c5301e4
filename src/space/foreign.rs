//! A CPU's page tables as a domain's: the check that the formats agree and that a unit can walk them (VT-d 3.6, 3.7, 9.7, 9.8).
//!
//! The first stage has the form of a 64-bit CPU's tables, the second stage that of EPT, but not all that a CPU takes is taken
//! by a unit: page sizes, levels, widths and reserved bits differ, and a unit whose walks are not snooped would read what still
//! stands in the CPU's caches. Tables that devices can get at through themselves are refused in every case.
//!
//! **What the check is worth**: it is made once, of tables that their owner goes on changing. Who hands them in promises to
//! keep to the format, and to report what becomes less, as for translations of its own CPUs. A unit answers an entry that
//! it does not take with a fault, never with other memory; that tables stay out of devices' reach is for the owner to keep.

use super::paging::{Access, PageSizes};
use super::spec::{DomainSpec, Stage};
use crate::host::address::{Hpa, INTERRUPT_RANGE, Iova, PAGE};
use crate::host::grow;
use crate::host::platform::Platform;
use crate::hw::capabilities::{Cap, Ecap};
use crate::hw::pages::{self, first, shift, size};
use crate::hw::registers::TableMode;
use crate::unit::Unit;
use crate::unit::errata::Errata;
use alloc::vec::Vec;
use core::fmt;

/// Tables that somebody else owns, as the check reads them.
pub trait ForeignTables: Send + Sync {
    /// Entry `index` (below 512) of the table in the frame at `table`; `None` where that is no memory to read. One load:
    /// CPUs and units may be setting bits.
    fn read(&self, table: Hpa, index: usize) -> Option<u64>;
}

impl<F: Fn(Hpa, usize) -> Option<u64> + Send + Sync> ForeignTables for F {
    fn read(&self, table: Hpa, index: usize) -> Option<u64> {
        self(table, index)
    }
}

/// Tables of crate `x86_64`: a closure that finds the entry of the table in a frame.
///
/// ```
/// use vtd::{ForeignTables, PageTables};
/// use x86_64::structures::paging::{PageTable, PageTableIndex, PhysFrame};
///
/// fn tables(find: fn(PhysFrame) -> Option<&'static PageTable>) -> impl ForeignTables {
///     PageTables(move |frame, index: PageTableIndex| Some(find(frame)?[index].clone()))
/// }
/// ```
#[cfg(feature = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct PageTables<F>(pub F);

#[cfg(feature = "x86_64")]
mod x86 {
    use super::{ForeignTables, Hpa, PageTables};
    use x86_64::PhysAddr;
    use x86_64::structures::paging::page_table::PageTableEntry;
    use x86_64::structures::paging::{PageTableIndex, PhysFrame};

    impl<F: Fn(PhysFrame, PageTableIndex) -> Option<PageTableEntry> + Send + Sync> ForeignTables for PageTables<F> {
        fn read(&self, table: Hpa, index: usize) -> Option<u64> {
            let frame = PhysFrame::containing_address(PhysAddr::new_truncate(table.get()));
            let entry = (self.0)(frame, PageTableIndex::new_truncate(u16::try_from(index).ok()?))?;
            // An entry is its address and its flags; there is no third part.
            Some(entry.addr().as_u64() | entry.flags().bits())
        }
    }
}

/// Whose form tables have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TableForm {
    /// That of a CPU in 64-bit mode, for the first stage.
    X86_64,
    /// That of EPT, for the second stage.
    Ept,
}

/// What units offer for tables of a form.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offers {
    /// The form. A unit takes it with the stage (ECAP.FSTS; ECAP.SSTS in scalable mode).
    pub form: TableForm,
    /// Four levels. First stage: always. EPT: CAP.SAGAW.
    pub four_levels: bool,
    /// Five levels. First stage: CAP.FS5LP. EPT: CAP.SAGAW.
    pub five_levels: bool,
    /// Large pages: CAP.FS1GP, for EPT CAP.SSLPS. The first stage always has 2 MiB.
    pub sizes: PageSizes,
    /// Bits of a guest address (CAP.MGAW), beyond which a second stage takes none.
    pub input: u8,
    /// Bits of a host physical address; those above are reserved.
    pub output: u8,
    /// Walks are snooped.
    pub coherent: bool,
    /// Snoop control (ECAP.SC): bit 11 of a second-stage leaf has a meaning, and is not reserved.
    pub snoop_control: bool,
}

impl Offers {
    /// What capabilities offer, in scalable or in legacy mode, to tables of a form; `output` bits of host physical addresses.
    ///
    /// Errors: [`Refused::Stage`].
    pub fn new(form: TableForm, cap: Cap, ecap: Ecap, scalable: bool, output: u8) -> Result<Self, Refused> {
        let mut sizes = PageSizes::empty();
        let (stage, four_levels, five_levels) = match form {
            TableForm::X86_64 => {
                sizes.insert(PageSizes::SIZE_2M);
                sizes.set(PageSizes::SIZE_1G, cap.fs1gp());
                (scalable && ecap.fsts(), true, cap.fs5lp())
            }
            TableForm::Ept => {
                sizes.set(PageSizes::SIZE_2M, cap.pages_2m());
                sizes.set(PageSizes::SIZE_1G, cap.pages_1g());
                (!scalable || ecap.ssts(), cap.supports_levels(4), cap.supports_levels(5))
            }
        };
        if !stage {
            return Err(Refused::Stage(form));
        }
        let coherent = if scalable { ecap.smpwcs() } else { ecap.c() };
        let (input, snoop_control) = (cap.mgaw(), ecap.sc());
        Ok(Offers { form, four_levels, five_levels, sizes, input, output, coherent, snoop_control })
    }

    /// What a unit offers, in the mode in which it runs.
    pub(crate) fn of<P: Platform>(unit: &Unit<P>, form: TableForm, output: u8) -> Result<Self, Refused> {
        let scalable = unit.mode == TableMode::Scalable;
        let mut offers = Self::new(form, unit.caps.cap, unit.caps.ecap, scalable, output)?;
        if form == TableForm::Ept && unit.errata.contains(Errata::SMALL_PAGES) {
            offers.sizes = PageSizes::empty();
        }
        Ok(offers)
    }

    /// What both offer, for tables that units share; `None` where the form differs.
    pub fn and(self, other: Self) -> Option<Self> {
        (self.form == other.form).then_some(Offers {
            form: self.form,
            four_levels: self.four_levels && other.four_levels,
            five_levels: self.five_levels && other.five_levels,
            sizes: self.sizes & other.sizes,
            input: self.input.min(other.input),
            output: self.output.min(other.output),
            coherent: self.coherent && other.coherent,
            snoop_control: self.snoop_control && other.snoop_control,
        })
    }

    fn levels(&self, levels: u8) -> bool {
        levels == 4 && self.four_levels || levels == 5 && self.five_levels
    }
}

/// An entry that was found, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The lowest input address that leads to it.
    pub address: Iova,
    /// The level of its table: 1 for 4 KiB.
    pub level: u8,
    /// The entry.
    pub entry: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {:#x} of level {} for address {:#x}", self.entry, self.level, self.address)
    }
}

/// Why tables were refused.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The unit lacks the stage of that form.
    Stage(TableForm),
    /// The unit does not take so many levels.
    Levels(u8),
    /// Walks are not snooped: the CPU does not flush its tables for a unit, and the unit could not set accessed bits.
    NotSnooped,
    /// The address of the top table is no page's, or wider than host physical addresses.
    Root(Hpa),
    /// A table is in no memory that can be read.
    Unreadable {
        /// The table.
        table: Hpa,
        /// Its level.
        level: u8,
    },
    /// An entry has address bits beyond the host physical address width.
    AddressWidth(Place),
    /// An entry has other bits that are reserved for the unit.
    Reserved(Place),
    /// A page of a size that the unit has not, or the page-size bit where no page can be.
    PageSize(Place),
    /// Bit 11 of a second-stage entry, which is snoop control in a leaf, for a unit without it (ECAP.SC).
    SnoopControl(Place),
    /// A table is reached again as one of another level: through itself, as with a recursive entry, or through one below it.
    ReachesItself {
        /// The table.
        table: Hpa,
        /// The level that it has above.
        upper: u8,
        /// The level at which it is reached again.
        lower: u8,
    },
    /// A page that devices could write to holds one of the tables.
    Exposed {
        /// The page's entry.
        page: Place,
        /// The table.
        table: Hpa,
    },
    /// More tables than the check looks at: see [`CheckedTables::MOST`].
    TooMany,
    /// The heap ended.
    OutOfMemory,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Stage(TableForm::X86_64) => f.write_str("the unit has no first-stage translation (ECAP.FSTS)"),
            Refused::Stage(TableForm::Ept) => f.write_str("the unit has no second-stage translation (ECAP.SSTS)"),
            Refused::Levels(n) => write!(f, "the unit does not walk {n} levels (CAP.FS5LP, CAP.SAGAW)"),
            Refused::NotSnooped => {
                f.write_str("the unit does not snoop its walks, and a CPU does not flush its tables")
            }
            Refused::Root(at) => write!(f, "no table can be at {at:#x}"),
            Refused::Unreadable { table, level } => {
                write!(f, "the table of level {level} at {table:#x} is in no memory that can be read")
            }
            Refused::AddressWidth(place) => write!(f, "{place}: wider than host physical addresses"),
            Refused::Reserved(place) => write!(f, "{place}: sets bits that are reserved for the unit"),
            Refused::PageSize(place) => write!(f, "{place}: a page of a size that the unit has not"),
            Refused::SnoopControl(place) => write!(f, "{place}: sets bit 11, and the unit has no use for it there"),
            Refused::ReachesItself { table, upper, lower } => {
                write!(f, "the table of level {upper} at {table:#x} is reached again at level {lower}")
            }
            Refused::Exposed { page, table } => {
                write!(f, "{page}: lets devices write to the table at {table:#x}")
            }
            Refused::TooMany => write!(f, "more than {} tables", CheckedTables::MOST),
            Refused::OutOfMemory => f.write_str("the heap has ended"),
        }
    }
}

impl core::error::Error for Refused {}

/// Tables that a unit can walk, as they were when they were checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckedTables {
    root: Hpa,
    levels: u8,
    offers: Offers,
    pages: u64,
    unreachable: u64,
}

impl CheckedTables {
    /// Tables that are looked at at most: 2^20, which is 4 GiB of tables, for 2 TiB in pages of 4 KiB.
    pub const MOST: usize = 1 << 20;

    /// Checks all tables that the one at `root` leads to, of `levels` 4 or 5, for units that offer this. Reads each entry
    /// twice at most, however the tables are linked. Heap: 32 bytes for each table, half as much again while it grows.
    ///
    /// Pages that no device can use are let pass, and counted. First stage: those without U/S = 1 at every level, which
    /// is what a kernel has for itself; requests with supervisor privilege would reach them, and must stay refused (SRE = 0).
    /// EPT: those for execution alone, and those above the unit's guest address width.
    /// Either: pages of the interrupt addresses, to which units translate nothing.
    pub fn check(tables: &dyn ForeignTables, root: Hpa, levels: u8, offers: &Offers) -> Result<CheckedTables, Refused> {
        if !offers.levels(levels) {
            return Err(Refused::Levels(levels));
        }
        if !offers.coherent {
            return Err(Refused::NotSnooped);
        }
        if !root.is_aligned(PAGE) || root.get() >> offers.output.min(52) != 0 {
            return Err(Refused::Root(root));
        }
        let mut walk = Walk { tables, levels, offers, known: Vec::new(), parts: [(0, 0); 6], pages: 0, unreachable: 0 };
        walk.all(root)?;
        walk.exposed()?;
        Ok(CheckedTables { root, levels, offers: *offers, pages: walk.pages, unreachable: walk.unreachable })
    }

    /// The top table.
    pub const fn root(&self) -> Hpa {
        self.root
    }

    /// Levels of tables.
    pub const fn levels(&self) -> u8 {
        self.levels
    }

    /// The form.
    pub const fn form(&self) -> TableForm {
        self.offers.form
    }

    /// Entries that map pages for devices, of whatever size; those of a table that several entries lead to counted once
    /// for the same rights.
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Entries that a CPU uses and no device can.
    pub const fn unreachable(&self) -> u64 {
        self.unreachable
    }

    /// Bits of a host physical address that the tables were checked for.
    pub(crate) const fn output(&self) -> u8 {
        self.offers.output
    }

    /// Whether the verdict holds for a unit that offers this too: in nothing less than what the tables were checked for.
    pub fn holds_for(&self, offers: &Offers) -> bool {
        let checked = &self.offers;
        let reach = |o: &Offers| o.input.min(12 + 9 * self.levels.min(5));
        offers.form == checked.form
            && offers.levels(self.levels)
            && offers.sizes.contains(checked.sizes)
            && reach(offers) >= reach(checked)
            && offers.output >= checked.output
            && offers.coherent
            && (offers.snoop_control || !checked.snoop_control)
    }

    /// Whether a unit takes them.
    pub(super) fn taken_by<P: Platform>(&self, unit: &Unit<P>) -> bool {
        Offers::of(unit, self.form(), self.output()).is_ok_and(|offers| self.holds_for(&offers))
    }

    /// What a domain with such tables states that it needs.
    pub(super) fn spec(&self) -> DomainSpec {
        let (stage, sign) = match self.offers.form {
            TableForm::X86_64 => (Stage::First, 1),
            TableForm::Ept => (Stage::Second, 0),
        };
        let width = self.offers.input.min((12 + 9 * self.levels.min(5)).saturating_sub(sign));
        let sizes = self.offers.sizes;
        DomainSpec { stage, levels: self.levels, width, sizes, coherent: true, ..DomainSpec::default() }
    }
}

/// What an entry is to a unit.
enum Seen {
    /// Not present, for a CPU neither.
    Nothing,
    /// For a CPU alone.
    Unreachable,
    /// A page, or a table, and what devices can do with what is there.
    Page {
        to: u64,
        last: u64,
        rights: Access,
    },
    Table {
        at: u64,
        rights: Access,
    },
}

/// A table that was found, with the rights that the way to it leaves.
#[derive(Clone, Copy)]
struct Found {
    /// Its address; the rights in the low bits.
    key: u64,
    /// The lowest input address that leads there with these rights.
    first: u64,
}

impl Found {
    fn at(&self) -> u64 {
        self.key & pages::ADDRESS
    }

    fn rights(&self) -> Access {
        Access::from_bits_truncate(self.key as u8)
    }
}

/// The check under way: level by level, so that no table is looked at twice, however many ways lead there.
struct Walk<'a> {
    tables: &'a dyn ForeignTables,
    levels: u8,
    offers: &'a Offers,
    /// The tables of the top level, then those of the next, ...; each level sorted by key.
    known: Vec<Found>,
    /// Where in `known` a level begins and ends.
    parts: [(usize, usize); 6],
    pages: u64,
    unreachable: u64,
}

impl Walk<'_> {
    fn part(&self, level: u8) -> (usize, usize) {
        self.parts.get(usize::from(level)).copied().unwrap_or_default()
    }

    fn of_level(&self, level: u8) -> &[Found] {
        let (start, end) = self.part(level);
        self.known.get(start..end).unwrap_or_default()
    }

    /// Finds and checks every table.
    fn all(&mut self, root: Hpa) -> Result<(), Refused> {
        let mut next = Vec::new();
        let key = root.get() | u64::from(Access::all().bits());
        grow::push(&mut next, Found { key, first: 0 }).map_err(|_| Refused::OutOfMemory)?;
        for level in (1..=self.levels).rev() {
            self.add_level(level, &next)?;
            next = self.below(level)?;
        }
        Ok(())
    }

    /// Makes sorted tables known as those of a level.
    fn add_level(&mut self, level: u8, found: &[Found]) -> Result<(), Refused> {
        for f in found {
            for upper in level.saturating_add(1)..=self.levels {
                if self.first_from(upper, f.at()).is_some_and(|known| known == f.at()) {
                    return Err(Refused::ReachesItself { table: Hpa::of_entry(f.at()), upper, lower: level });
                }
            }
        }
        let start = self.known.len();
        self.known.try_reserve(found.len()).map_err(|_| Refused::OutOfMemory)?;
        for f in found {
            grow::push(&mut self.known, *f).map_err(|_| Refused::OutOfMemory)?;
        }
        if let Some(part) = self.parts.get_mut(usize::from(level)) {
            *part = (start, self.known.len());
        }
        Ok(())
    }

    /// The first table of a level at or above an address.
    fn first_from(&self, level: u8, at: u64) -> Option<u64> {
        let tables = self.of_level(level);
        tables.get(tables.partition_point(|t| t.at() < at)).map(Found::at)
    }

    /// Checks the entries of a level; the tables that they lead to.
    fn below(&mut self, level: u8) -> Result<Vec<Found>, Refused> {
        let (mut below, mut tidied) = (Vec::new(), 0usize);
        let (start, end) = self.part(level);
        for i in start..end {
            let Some(&table) = self.known.get(i) else { break };
            for index in 0..pages::ENTRIES {
                let (place, seen) = self.look(level, &table, index)?;
                match seen {
                    Seen::Nothing => {}
                    Seen::Page { rights, .. } if !rights.is_empty() => self.pages = self.pages.saturating_add(1),
                    Seen::Page { .. } | Seen::Unreachable => self.unreachable = self.unreachable.saturating_add(1),
                    Seen::Table { at, rights } => {
                        let found = Found { key: at | u64::from(rights.bits()), first: place.address.get() };
                        grow::push(&mut below, found).map_err(|_| Refused::OutOfMemory)?;
                    }
                }
            }
            // Many entries may lead to one table: the list stays in proportion to the tables.
            if below.len() > tidied.saturating_mul(2).saturating_add(4096) {
                tidied = self.tidy(&mut below)?;
            }
        }
        self.tidy(&mut below)?;
        Ok(below)
    }

    /// Leaves each table once; says how many there are.
    fn tidy(&self, found: &mut Vec<Found>) -> Result<usize, Refused> {
        found.sort_unstable_by_key(|f| (f.key, f.first));
        found.dedup_by_key(|f| f.key);
        match self.known.len().saturating_add(found.len()) {
            n if n > CheckedTables::MOST => Err(Refused::TooMany),
            _ => Ok(found.len()),
        }
    }

    /// No page that devices could write to may hold a table.
    fn exposed(&self) -> Result<(), Refused> {
        for level in 1..=pages::MAX_LEAF_LEVEL {
            for table in self.of_level(level).iter().filter(|t| t.rights().contains(Access::WRITE)) {
                for index in 0..pages::ENTRIES {
                    let (page, Seen::Page { to, last, rights }) = self.look(level, table, index)? else { continue };
                    if !rights.contains(Access::WRITE) {
                        continue;
                    }
                    let inside = |level| self.first_from(level, to).filter(|at| *at <= last);
                    if let Some(at) = (1..=self.levels).find_map(inside) {
                        return Err(Refused::Exposed { page, table: Hpa::of_entry(at) });
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads an entry of a table, once.
    fn look(&self, level: u8, table: &Found, index: usize) -> Result<(Place, Seen), Refused> {
        let at = Hpa::of_entry(table.at());
        let entry = self.tables.read(at, index).ok_or(Refused::Unreadable { table: at, level })?;
        let mut address = table.first | (index as u64) << shift(level);
        if self.offers.form == TableForm::X86_64 {
            let unused = 64u32.saturating_sub(shift(self.levels.saturating_add(1)));
            address = (address.wrapping_shl(unused) as i64).wrapping_shr(unused) as u64;
        }
        let place = Place { address: Iova::at(address), level, entry };
        Ok((place, self.judge(place, table.rights())?))
    }

    /// What the unit makes of an entry, where the way to it leaves `rights`.
    fn judge(&self, place: Place, rights: Access) -> Result<Seen, Refused> {
        let (offers, Place { address, level, entry }) = (self.offers, place);
        let granted = match offers.form {
            TableForm::X86_64 if entry & first::P == 0 => return Ok(Seen::Nothing),
            TableForm::X86_64 if entry & first::US == 0 => Access::empty(),
            TableForm::X86_64 if entry & first::RW == 0 => Access::READ,
            TableForm::X86_64 => Access::all(),
            TableForm::Ept if entry & (pages::PRESENT | pages::EXECUTE) == 0 => return Ok(Seen::Nothing),
            // Absent for a unit: nothing below is looked at.
            TableForm::Ept if entry & pages::PRESENT == 0 => return Ok(Seen::Unreachable),
            TableForm::Ept if address.get() >> offers.input.min(63) != 0 => Access::empty(),
            TableForm::Ept => Access::from_bits_truncate((entry & pages::PRESENT) as u8),
        };
        let leaf = level == 1 || entry & pages::PAGE_SIZE != 0;
        if (entry & pages::ADDRESS) >> offers.output.min(63) != 0 {
            return Err(Refused::AddressWidth(place));
        }
        if offers.form == TableForm::Ept {
            if entry & pages::IO_WRITE != 0 {
                return Err(Refused::Reserved(place));
            }
            if entry & pages::SNOOP != 0 && !(leaf && offers.snoop_control) {
                return Err(Refused::SnoopControl(place));
            }
        }
        let rights = rights & granted;
        if !leaf {
            return Ok(Seen::Table { at: entry & pages::ADDRESS, rights });
        }
        match level {
            1 => {}
            2 if offers.sizes.contains(PageSizes::SIZE_2M) => {}
            3 if offers.sizes.contains(PageSizes::SIZE_1G) => {}
            _ => return Err(Refused::PageSize(place)),
        }
        let to = entry & pages::leaf_address(level);
        let ignored = if offers.form == TableForm::X86_64 && level > 1 { first::PAT_LARGE } else { 0 };
        if entry & pages::ADDRESS & !ignored != to {
            return Err(Refused::Reserved(place));
        }
        let last = to | size(level).wrapping_sub(1);
        let interrupts = to >= INTERRUPT_RANGE.first.get() && last <= INTERRUPT_RANGE.last.get();
        Ok(Seen::Page { to, last, rights: if interrupts { Access::empty() } else { rights } })
    }
}

#[cfg(test)]
mod tests;

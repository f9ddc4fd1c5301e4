//! The walk through page tables: second stage, first stage, and one in the other. VT-d 3.6 to 3.8, 3.10, 9.7, 9.8.

use super::data::{Attempt, Said, What};
use super::walk::{Walked, Walker, in_interrupt_range};
use crate::hw::capabilities::AddressWidth;
use crate::hw::pages::{self, ACCESSED, ADDRESS, DIRTY, IO_READ, IO_WRITE, READ, WRITE};
use crate::hw::pasid_tables::{FirstStage, SecondStage};
use crate::hw::reserved;

/// Where a stage leads.
#[derive(Clone, Copy)]
pub(super) struct Page {
    pub(super) to: u64,
    pub(super) size: u64,
    pub(super) read: bool,
    pub(super) write: bool,
    /// The leaf's accessed bit is set, or nobody keeps it.
    accessed: bool,
    /// Likewise its dirty bit.
    dirty: bool,
}

/// The codes of second-stage walks: those of legacy mode differ.
#[derive(Clone, Copy)]
struct Codes {
    top: u8,
    lower: u8,
    reserved: u8,
    no_write: u8,
    no_read: u8,
    /// Nothing is granted. Legacy mode has no code for that.
    nothing: Option<u8>,
    /// It leads into the interrupt range.
    interrupt: u8,
}

#[rustfmt::skip]
const LEGACY: Codes =
    Codes { top: 0x03, lower: 0x07, reserved: 0x0c, no_write: 0x05, no_read: 0x06, nothing: None, interrupt: 0x0e };
#[rustfmt::skip]
const SCALABLE: Codes =
    Codes { top: 0x7b, lower: 0x78, reserved: 0x7a, no_write: 0x85, no_read: 0x86, nothing: Some(0x79), interrupt: 0x87 };

/// Second-stage tables as an entry names them.
#[derive(Clone, Copy)]
pub(super) struct Second {
    pub(super) table: u64,
    pub(super) width: AddressWidth,
    /// SSADE.
    marks: bool,
    /// Walks are snooped, so that marks can be set.
    snooped: bool,
    codes: Codes,
}

impl Second {
    pub(super) const fn legacy(table: u64, width: AddressWidth) -> Self {
        Second { table, width, marks: false, snooped: true, codes: LEGACY }
    }

    pub(super) const fn scalable(s: SecondStage, snooped: bool) -> Self {
        Second { table: s.table, width: s.width, marks: s.accessed_dirty, snooped, codes: SCALABLE }
    }
}

impl Walker<'_> {
    /// Where the second stage leads a request, which has the rights that it asks for.
    pub(super) fn second(&mut self, s: &Second, input: u64) -> Walked<Page> {
        let page = self.second_page(s, input)?;
        self.second_marks(s, page, self.walk.request.attempt.writes())?;
        Ok(page)
    }

    /// The same before marks are set.
    fn second_page(&mut self, s: &Second, input: u64) -> Walked<Page> {
        let page = self.second_walk(s, input)?;
        self.granted(s.codes, page)?;
        self.is_memory(page.to, s.codes.interrupt)?;
        Ok(page)
    }

    /// Ends the walk where it leads into the interrupt range.
    pub(super) fn is_memory(&mut self, to: u64, code: u8) -> Walked<()> {
        if in_interrupt_range(to) {
            return self.refused("it leads into the interrupt range", code);
        }
        Ok(())
    }

    /// Ends the walk where the page does not grant what the request asks for.
    fn granted(&mut self, codes: Codes, page: Page) -> Walked<()> {
        let attempt = self.walk.request.attempt;
        if attempt.writes() && !page.write {
            return self.refused("no right to write, there or in a table above", codes.no_write);
        }
        let empty = attempt == Attempt::Flush && page.write && self.unit.caps.cap.zlr();
        if attempt.reads() && !page.read && !empty {
            return self.refused("no right to read, there or in a table above", codes.no_read);
        }
        Ok(())
    }

    /// Ends the walk where the leaf is to be marked and cannot be. Rights come first: who has none uses no page.
    fn second_marks(&mut self, s: &Second, page: Page, write: bool) -> Walked<()> {
        if !s.snooped && (!page.accessed || write && !page.dirty) {
            return self.refused(UNMARKED, 0x7c);
        }
        Ok(())
    }

    fn second_walk(&mut self, s: &Second, input: u64) -> Walked<Page> {
        let unit = self.unit;
        let (reads, writes) = if self.io_rights() { (IO_READ, IO_WRITE) } else { (READ, WRITE) };
        let (mut table, mut read, mut write) = (s.table, true, true);
        let levels = s.width.levels();
        for level in (1..=levels).rev() {
            let index = pages::index(input, level);
            let access = if level == levels { s.codes.top } else { s.codes.lower };
            let [entry] = self.entry(What::Second(level), table, index, input, access)?;
            if entry & (reads | writes) == 0 {
                self.said(Said::Absent);
                return self.ungranted(s.codes);
            }
            let mask = reserved::second(entry, level, &unit.caps, unit.hpa_width, self.io_rights());
            self.reserved(&[entry], &[mask], s.codes.reserved)?;
            read &= entry & reads != 0;
            write &= entry & writes != 0;
            let accessed = !s.marks || entry & ACCESSED != 0;
            if reserved::second_is_leaf(entry, level) {
                let page = leaf(entry, level, input);
                self.said(Said::Page(page.to, page.size));
                if !read && !write {
                    self.said(Said::Refused("the tables above leave no right"));
                    return self.ungranted(s.codes);
                }
                return Ok(Page { read, write, accessed, dirty: !s.marks || entry & DIRTY != 0, ..page });
            }
            if !accessed && !s.snooped {
                return self.refused(UNMARKED, 0x7c);
            }
            table = entry & ADDRESS;
            self.said(Said::Table(table));
        }
        self.ungranted(s.codes)
    }

    /// Nothing is granted, whatever is asked for.
    fn ungranted<T>(&self, codes: Codes) -> Walked<T> {
        let legacy = if self.walk.request.attempt.writes() { codes.no_write } else { codes.no_read };
        self.blocked(codes.nothing.unwrap_or(legacy))
    }

    /// Where the first stage leads the request, which has the rights that it asks for; through the second stage where
    /// nested.
    pub(super) fn first(
        &mut self,
        f: &FirstStage,
        nested: Option<&Second>,
        snooped: bool,
        supervisor: bool,
    ) -> Walked<Page> {
        let (unit, request) = (self.unit, self.walk.request);
        let levels = if f.five_levels { 5 } else { 4 };
        let top = pages::shift(levels) + 8;
        let sign = (request.address as i64).wrapping_shr(top);
        if sign != 0 && sign != -1 {
            return self.refused("the address is not canonical", 0x80);
        }
        let (mut table, mut user, mut write) = (f.table, true, true);
        for level in (1..=levels).rev() {
            let index = pages::index(request.address, level);
            // The table's page, and whether marks can be set in it.
            let (host, page) = match nested {
                None => (table, None),
                Some(s) => {
                    let page = self.second_walk(s, table | (index as u64 * 8))?;
                    self.guest_table(s, page, level == levels)?;
                    (page.to & !0xfff, Some(page))
                }
            };
            let access = if level == levels { 0x73 } else { 0x70 };
            let [entry] = self.entry(What::First(level), host, index, request.address, access)?;
            if entry & pages::first::P == 0 {
                self.said(Said::Absent);
                return self.blocked(0x71);
            }
            let mask = reserved::first(entry, level, &unit.caps, unit.hpa_width);
            self.reserved(&[entry], &[mask], 0x72)?;
            let is_leaf = reserved::first_is_leaf(entry, level);
            let at = if is_leaf { entry & pages::leaf_address(level) } else { entry & ADDRESS };
            if let Some(s) = nested
                && self.above(at, s.width)
            {
                return self.refused("its address is above the width of the second stage", 0x74);
            }
            user &= entry & pages::first::US != 0;
            write &= entry & pages::first::RW != 0 || supervisor && !f.write_protect;
            let marks = pages::first::A | if f.extended_accessed { pages::first::EA } else { 0 };
            let accessed = entry & marks == marks;
            let step = self.walk.steps().len();
            if !is_leaf {
                self.first_marks(accessed, snooped, page, step)?;
                table = at;
                self.said(Said::Table(table));
                continue;
            }
            let found = leaf(at, level, request.address);
            self.said(Said::Page(found.to, found.size));
            if !user && !supervisor {
                return self.refused("a page of the supervisor, there or in a table above", 0x81);
            }
            let mine = Page { read: true, write, ..found };
            self.granted(SCALABLE, mine)?;
            let marked = accessed && !(request.attempt.writes() && entry & pages::first::D == 0);
            let Some(s) = nested else {
                self.is_memory(mine.to, SCALABLE.interrupt)?;
                self.first_marks(marked, snooped, page, step)?;
                return Ok(mine);
            };
            // Rights of both stages come before the marks of either.
            let below = self.second_page(s, mine.to)?;
            self.first_marks(marked, snooped, page, step)?;
            self.second_marks(s, below, request.attempt.writes())?;
            return Ok(Page { write: write && below.write, size: mine.size.min(below.size), ..below });
        }
        self.blocked(0x71)
    }

    /// Ends the walk where the second stage does not let the first stage's table be read.
    fn guest_table(&mut self, s: &Second, page: Page, top: bool) -> Walked<()> {
        let code = if top { 0x75 } else { 0x76 };
        if !page.read {
            return self.refused("no right to read the first-stage table there", code);
        }
        if s.marks && !page.write {
            return self.refused("no right to write, which reading first-stage tables wants with SSADE", 0x77);
        }
        // With SSADE each use of a guest's table counts as a write to it.
        self.second_marks(s, page, s.marks)
    }

    /// Ends the walk where a first-stage entry is to be marked and cannot be: the one of that many steps so far, in that
    /// page of the guest.
    fn first_marks(&mut self, marked: bool, snooped: bool, page: Option<Page>, step: usize) -> Walked<()> {
        let (said, code) = match page {
            _ if marked => return Ok(()),
            Some(page) if !page.write => ("it is to be marked, and the second stage does not let it be written", 0x77),
            _ if !snooped => (UNMARKED, 0x90),
            _ => return Ok(()),
        };
        self.said_by(step, Said::Refused(said));
        self.blocked(code)
    }
}

/// Why a mark cannot be set.
const UNMARKED: &str = "it is to be marked accessed or dirty, and the walk is not snooped";

/// The page that a leaf maps, and the place of `input` in it.
fn leaf(entry: u64, level: u8, input: u64) -> Page {
    let size = pages::size(level);
    let to = entry & pages::leaf_address(level) | input & (size - 1);
    Page { to, size, read: false, write: false, accessed: true, dirty: true }
}

//! Second-stage tables, entry by entry.

use super::frame::Frame;
use crate::testing::{Failure, Outcome};
use alloc::vec::Vec;
use vtd::hw::capabilities::AddressWidth;
use vtd::hw::pages::{ADDRESS, PAGE_SIZE, PRESENT, index, leaf_address};

/// Tables of one width. Level 1 is the lowest.
pub struct Space {
    pub width: AddressWidth,
    /// The top table first.
    tables: Vec<Frame>,
}

/// The entry that maps `physical` at `level` with `rights`.
pub fn leaf(physical: u64, level: u8, rights: u64) -> u64 {
    physical & leaf_address(level) | rights | if level > 1 { PAGE_SIZE } else { 0 }
}

impl Space {
    /// Nothing mapped.
    pub fn new(width: AddressWidth) -> Result<Self, Failure> {
        Ok(Space { width, tables: Vec::from([Frame::new()?]) })
    }

    /// The top table's address.
    pub fn top(&self) -> u64 {
        self.tables[0].address()
    }

    /// Levels of tables.
    pub fn levels(&self) -> u8 {
        self.width.levels()
    }

    /// The table of `level` for `iova`, as far as there is one.
    fn find(&self, iova: u64, level: u8) -> Option<&Frame> {
        let mut table = &self.tables[0];
        for above in (level + 1..=self.levels()).rev() {
            let next = table.get(index(iova, above)) & ADDRESS;
            table = self.tables.iter().find(|t| t.address() == next)?;
        }
        Some(table)
    }

    /// The entry of `level` for `iova`; 0 where no table leads to it.
    pub fn get(&self, iova: u64, level: u8) -> u64 {
        self.find(iova, level).map_or(0, |t| t.get(index(iova, level)))
    }

    /// Stores the entry of `level` for `iova`, below tables that grant everything and are made where they are missing.
    pub fn set(&mut self, iova: u64, level: u8, entry: u64) -> Outcome {
        for above in (level + 1..=self.levels()).rev() {
            if self.find(iova, above - 1).is_none() {
                let table = Frame::new()?;
                let parent = self.find(iova, above).ok_or("no table above")?;
                parent.set(index(iova, above), table.address() | PRESENT);
                self.tables.push(table);
            }
        }
        self.find(iova, level).ok_or("no table")?.set(index(iova, level), entry);
        Ok(())
    }

    /// Maps the page of `level` around `iova` to the one around `physical`, for reads and writes.
    pub fn map(&mut self, iova: u64, level: u8, physical: u64) -> Outcome {
        self.set(iova, level, leaf(physical, level, PRESENT))
    }
}

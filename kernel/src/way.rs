//! The way of an address through the tables that the driver built, read by the kernel as the unit reads them (VT-d 3.4.2 to
//! 3.7): root table, context table, in scalable mode PASID directory and PASID table, then page tables of either stage.

use crate::platform::KernelPlatform;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use vtd::hw::pages::{self, first};
use vtd::hw::pasid_tables::{DirectoryEntry, PasidEntry, PasidTranslation, ScalableContextEntry};
use vtd::hw::registers::{RootPointer, TableMode, at};
use vtd::hw::tables::{self, ContextEntry, RootEntry, Translation, context_index, root_index};
use vtd::{DeviceId, Hpa, Platform, Registers, Vtd};

/// One entry on the way.
pub struct Step {
    /// The table it is in.
    pub table: String,
    /// What finds it there.
    pub by: String,
    /// Its first word.
    pub entry: u64,
    /// What it says.
    pub says: String,
}

/// How the device's requests are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Not at all.
    PassThrough,
    /// By first-stage tables.
    First,
    /// By second-stage tables.
    Second,
}

/// The whole way.
pub struct Way {
    /// Entry after entry.
    pub steps: Vec<Step>,
    /// The tables that the unit runs on.
    pub mode: TableMode,
    /// What the context or PASID entry wants.
    pub scheme: Scheme,
    /// The domain id there.
    pub did: u16,
    /// Where the last entry is that was read of page tables, and what it is; with pass-through there is none.
    pub leaf: Option<(u64, u64)>,
    /// The memory that the address leads to, from the beginning of the page on.
    pub memory: Option<u64>,
}

/// Word `i` of the table at `table`.
fn word(table: u64, i: usize) -> Result<u64, String> {
    let at = Hpa::new(table + 8 * i as u64).filter(|_| i < pages::ENTRIES);
    at.and_then(|at| KernelPlatform.peek(at))
        .ok_or(format!("the way leads to a table at {table:#x}, where no memory is"))
}

fn words<const N: usize>(table: u64, first: usize) -> Result<[u64; N], String> {
    let mut all = [0; N];
    for (i, one) in all.iter_mut().enumerate() {
        *one = word(table, first + i)?;
    }
    Ok(all)
}

/// Follows `address`, as a request of `device` without PASID carries it, from the unit's register on.
pub fn of(vtd: &Vtd<KernelPlatform>, device: DeviceId, address: u64) -> Result<Way, String> {
    let base = vtd.unit_of(device).and_then(|u| vtd.register_base(u)).map_err(|e| e.to_string())?;
    let registers = KernelPlatform.registers(base, 4096).map_err(|_| "the unit's registers cannot be mapped")?;
    let pointer = RootPointer(registers.read64(at::RTADDR));
    let mode = pointer.mode().ok_or("the unit's tables are of no known mode")?;
    let mut way =
        Way { steps: Vec::new(), mode, scheme: Scheme::PassThrough, did: 0, leaf: None, memory: Some(address) };
    let root = pointer.table();
    let found = if mode == TableMode::Scalable { way.scalable(root, device)? } else { way.legacy(root, device)? };
    if let Some((table, levels)) = found {
        way.pages(address, table, levels)?;
    }
    Ok(way)
}

impl Way {
    fn step(&mut self, table: &str, by: String, entry: u64, says: String) {
        self.steps.push(Step { table: table.to_string(), by, entry, says });
    }

    /// The page tables that a context entry names, and their levels.
    fn legacy(&mut self, root: u64, device: DeviceId) -> Result<Option<(u64, u8)>, String> {
        let source = device.source;
        let [lo, hi] = words(root, 2 * root_index(source.0))?;
        let context = RootEntry { lo, hi }.table().ok_or("the root entry is absent")?;
        self.step("root table", format!("bus {:02x}", source.bus()), lo, format!("context table at {context:#x}"));
        let [lo, hi] = words(context, 2 * context_index(source.0))?;
        let entry = ContextEntry { lo, hi };
        let levels = entry.width().filter(|_| entry.present()).ok_or("the context entry is absent")?.levels();
        self.did = entry.did();
        let place = format!("function {:02x}.{}", source.device(), source.function());
        if entry.translation() == Some(Translation::PassThrough) {
            self.step("context table", place, lo, format!("domain id {}, pass-through", self.did));
            return Ok(None);
        }
        self.scheme = Scheme::Second;
        self.step("context table", place, lo, format!("domain id {}, {levels} levels", self.did));
        Ok(Some((entry.table(), levels)))
    }

    /// The same for the PASID entry of requests without PASID.
    fn scalable(&mut self, root: u64, device: DeviceId) -> Result<Option<(u64, u8)>, String> {
        let source = device.source;
        let [lo, hi] = words(root, 2 * root_index(source.0))?;
        let (entry, upper) = (RootEntry { lo, hi }, tables::is_upper(source.0));
        let context =
            if upper { entry.upper() } else { entry.table() }.ok_or("the half of the root entry is absent")?;
        let half = if upper { "upper" } else { "lower" };
        let shown = if upper { hi } else { lo };
        self.step(
            "root table",
            format!("bus {:02x}, {half} half", source.bus()),
            shown,
            format!("context table at {context:#x}"),
        );

        let entry = ScalableContextEntry(words(context, 4 * tables::scalable_context_index(source.0))?);
        if !entry.present() {
            return Err("the context entry is absent".to_string());
        }
        let pasid = entry.rid_pasid();
        self.step(
            "context table",
            format!("function {:02x}.{}", source.device(), source.function()),
            entry.0[0],
            format!("PASID directory at {:#x}, PASID {pasid} without one", entry.directory()),
        );

        let i = tables::directory_index(pasid);
        let directory = DirectoryEntry(word(entry.directory(), i)?);
        let table = directory.table().ok_or("the PASID directory entry is absent")?;
        self.step("PASID directory", format!("entry {i}"), directory.0, format!("PASID table at {table:#x}"));

        let i = tables::pasid_index(pasid);
        let entry = PasidEntry(words(table, 8 * i)?);
        if !entry.present() {
            return Err("the PASID entry is absent".to_string());
        }
        self.did = entry.did();
        let (scheme, says, found) = match entry.translation() {
            Some(PasidTranslation::FirstStage) => {
                let tables = entry.first().ok_or("the PASID entry names no first-stage tables")?;
                let levels = if tables.five_levels { 5 } else { 4 };
                (Scheme::First, format!("first stage, {levels} levels"), Some((tables.table, levels)))
            }
            Some(PasidTranslation::SecondStage) => {
                let tables = entry.second().ok_or("the PASID entry names no second-stage tables")?;
                let levels = tables.width.levels();
                (Scheme::Second, format!("second stage, {levels} levels"), Some((tables.table, levels)))
            }
            Some(PasidTranslation::PassThrough) => (Scheme::PassThrough, "pass-through".to_string(), None),
            other => return Err(format!("the PASID entry wants {other:?}")),
        };
        self.scheme = scheme;
        self.step("PASID table", format!("PASID {pasid}"), entry.0[0], format!("domain id {}, {says}", self.did));
        Ok(found)
    }

    fn pages(&mut self, address: u64, mut table: u64, levels: u8) -> Result<(), String> {
        self.memory = None;
        for level in (1..=levels).rev() {
            let i = pages::index(address, level);
            let entry = word(table, i)?;
            self.leaf = Some((table + 8 * i as u64, entry));
            let leaf = level == 1 || entry & pages::PAGE_SIZE != 0;
            table = entry & pages::ADDRESS;
            let present = match self.scheme {
                Scheme::First => entry & first::P != 0,
                _ => entry & pages::PRESENT != 0,
            };
            let says = match (present, leaf) {
                (false, _) => "absent".to_string(),
                (true, false) => format!("table at {table:#x}"),
                (true, true) => format!("memory at {table:#x}{}", self.rights(entry)),
            };
            self.step(&format!("level {level}"), format!("entry {i:#x}"), entry, says);
            if !present || leaf {
                self.memory = present.then_some(table);
                break;
            }
        }
        Ok(())
    }

    fn rights(&self, entry: u64) -> String {
        let first = [(first::RW, ", write"), (first::A, ", accessed"), (first::D, ", dirty")];
        let second = [(pages::READ, ", read"), (pages::WRITE, ", write")];
        let (head, bits) = if self.scheme == Scheme::First { (", read", &first[..]) } else { ("", &second[..]) };
        let set = bits.iter().filter(|(bit, _)| entry & bit != 0).map(|(_, words)| *words);
        core::iter::once(head).chain(set).collect()
    }
}

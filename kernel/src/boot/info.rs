//! What the loader says, copied out of memory that is about to be handed out: the memory map, the command line, where
//! ACPI begins.

use pvh::start_info::MemmapType;
use pvh::start_info::reader::StartInfoReader;
use spin::Once;

const MAX_REGIONS: usize = 128;
const MAX_TEXT: usize = 2048;

/// What a range of the memory map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Memory for everyone.
    Ram,
    /// Memory that holds ACPI's tables.
    Acpi,
    /// Everything else that the map names.
    Reserved,
}

/// A range of physical memory, `start` to before `end`.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub start: u64,
    pub end: u64,
    pub kind: Kind,
}

/// The copy.
pub struct BootInfo {
    regions: [Region; MAX_REGIONS],
    count: usize,
    text: [u8; MAX_TEXT],
    text_len: usize,
    /// The root pointer's physical address, where the loader names it.
    pub rsdp: Option<u64>,
}

static INFO: Once<BootInfo> = Once::new();

impl BootInfo {
    /// The memory map, in the loader's order.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.count]
    }

    /// The command line; nothing where it is not text.
    pub fn command_line(&self) -> &str {
        core::str::from_utf8(&self.text[..self.text_len]).unwrap_or("")
    }
}

/// The copy that `read` made.
pub fn get() -> &'static BootInfo {
    INFO.get().expect("read at boot")
}

/// Copies the start information.
///
/// # Safety
///
/// `at` is what the loader handed over, and its memory is still as the loader left it.
pub unsafe fn read(at: u32) {
    // SAFETY: the caller's promise; memory is mapped at its own addresses.
    let start = unsafe { StartInfoReader::from_paddr_identity(at) }.expect("no PVH start information");
    let mut info = BootInfo {
        regions: [Region { start: 0, end: 0, kind: Kind::Reserved }; MAX_REGIONS],
        count: 0,
        text: [0; MAX_TEXT],
        text_len: 0,
        rsdp: Some(start.raw().rsdp_paddr).filter(|&a| a != 0),
    };
    for (entry, slot) in start.memmap().iter().zip(&mut info.regions) {
        let kind = match entry.ty() {
            MemmapType::Ram => Kind::Ram,
            MemmapType::Acpi => Kind::Acpi,
            _ => Kind::Reserved,
        };
        *slot = Region { start: entry.addr, end: entry.addr.saturating_add(entry.size), kind };
        info.count += 1;
    }
    let text = start.cmdline().map_or(&[][..], |c| c.to_bytes());
    info.text_len = text.len().min(MAX_TEXT);
    info.text[..info.text_len].copy_from_slice(&text[..info.text_len]);
    INFO.call_once(|| info);
}

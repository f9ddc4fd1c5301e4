//! The unit's registers, by offset, as far as cases use them.

use super::qtest::Width::{self, Double, Quad};

pub const GCMD: u32 = 0x18;
pub const GSTS: u32 = 0x1c;
pub const RTADDR: u32 = 0x20;
pub const CCMD: u32 = 0x28;
pub const FSTS: u32 = 0x34;
pub const FECTL: u32 = 0x38;
pub const FEDATA: u32 = 0x3c;
pub const FEADDR: u32 = 0x40;
pub const IQH: u32 = 0x80;
pub const IQT: u32 = 0x88;
pub const IQA: u32 = 0x90;
pub const ICS: u32 = 0x9c;
pub const IECTL: u32 = 0xa0;
pub const IEDATA: u32 = 0xa4;
pub const IEADDR: u32 = 0xa8;
pub const IRTA: u32 = 0xb8;
pub const IVA: u32 = 0xf0;
pub const IOTLB: u32 = 0xf8;
pub const RECORD: u32 = 0x220;

/// GCMD and GSTS.
pub const TE: u64 = 1 << 31;
pub const SRTP: u64 = 1 << 30;
pub const QIE: u64 = 1 << 26;

/// FSTS.
pub const PFO: u64 = 1;
pub const IQE: u64 = 1 << 4;

/// What is read after each access of a device.
pub const AFTER_DMA: &[(u32, Width)] = &[(FSTS, Double), (RECORD, Quad), (RECORD + 8, Quad)];

/// What takes faults and status bits away.
pub const ACKNOWLEDGE: &[(u32, Width, u64)] =
    &[(RECORD + 12, Double, 1 << 31), (FSTS, Double, PFO | IQE | 0x60), (ICS, Double, 1)];

/// Its name, for reports.
pub fn name(at: u32) -> String {
    let name = match at {
        0x00 => "VER",
        0x08 => "CAP",
        0x10 => "ECAP",
        GCMD => "GCMD",
        GSTS => "GSTS",
        RTADDR => "RTADDR",
        CCMD => "CCMD",
        FSTS => "FSTS",
        FECTL => "FECTL",
        FEDATA => "FEDATA",
        FEADDR => "FEADDR",
        0x44 => "FEUADDR",
        0x64 => "PMEN",
        IQH => "IQH",
        IQT => "IQT",
        IQA => "IQA",
        ICS => "ICS",
        IECTL => "IECTL",
        IEDATA => "IEDATA",
        IEADDR => "IEADDR",
        0xac => "IEUADDR",
        0xb0 => "IQERCD",
        IRTA => "IRTA",
        IVA => "IVA",
        IOTLB => "IOTLB",
        RECORD => "FRCD low",
        0x228 => "FRCD high",
        0x22c => "FRCD top",
        _ => return format!("register {at:#x}"),
    };
    name.into()
}

/// What reset leaves in the registers that cases write.
pub const RESET: &[(u32, Width, u64)] = &[
    (FECTL, Double, 1 << 31),
    (FEDATA, Double, 0),
    (FEADDR, Double, 0),
    (0x44, Double, 0),
    (IQT, Quad, 0),
    (IQA, Quad, 0),
    (IECTL, Double, 1 << 31),
    (IEDATA, Double, 0),
    (IEADDR, Double, 0),
    (0xac, Double, 0),
    (IRTA, Quad, 0),
    (IVA, Quad, 0),
];

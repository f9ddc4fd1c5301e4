//! Registers: what is written, and what reads back.

use super::*;
use crate::differential::registers::{FEADDR, FECTL, FEDATA, ICS, IEADDR, IECTL, IEDATA, IRTA, IVA};

/// Registers of 32 and of 64 bits, and the bits that software may write.
const WRITABLE: &[(u32, Width, u64)] = &[
    (RTADDR, Quad, 0xffff_ffff_f000),
    (FECTL, Double, 1 << 31),
    (FEDATA, Double, 0xffff),
    (FEADDR, Double, 0xffff_fffc),
    (IECTL, Double, 1 << 31),
    (IEDATA, Double, 0xffff),
    (IEADDR, Double, 0xffff_fffc),
    (IRTA, Quad, 0xffff_ffff_f00f),
    (FSTS, Double, 0xffff),
    (ICS, Double, 1),
];

/// Registers to look at: all that there are, and where there are none.
const READABLE: &[(u32, Width)] = &[
    (0x00, Double),
    (0x04, Double),
    (0x08, Quad),
    (0x08, Double),
    (0x0c, Double),
    (0x10, Quad),
    (0x14, Double),
    (GCMD, Double),
    (GSTS, Double),
    (RTADDR, Quad),
    (RTADDR + 4, Double),
    (0x30, Double),
    (FSTS, Double),
    (0x44, Double),
    (0x58, Quad),
    (0x64, Double),
    (0x68, Double),
    (0x70, Quad),
    (IQH, Quad),
    (IQT, Quad),
    (ICS, Double),
    (0xb0, Quad),
    (0xc0, Quad),
    (0xdc, Double),
    (0x100, Quad),
    (IVA, Quad),
    (0x400, Quad),
    (0xe00, Quad),
];

impl Maker {
    /// A case about registers.
    pub fn registers(&mut self) {
        for _ in 0..4 + self.random.below(12) {
            let value = self.random.bits();
            if self.random.percent(50) {
                let (register, width, mask) = self.pick(WRITABLE);
                // Bits of addresses that memory does not have may be left out (11.4.5).
                let implemented = if width == Quad { (1 << self.form.width) - 1 } else { u64::MAX };
                self.write(register, width, value & mask & implemented);
                self.read(register, width);
            } else {
                let (register, width) = self.pick(READABLE);
                self.read(register, width);
            }
        }
    }
}

//! The memory type of a physical address by the unit's copies of the MTRRs (3.11.2, 11.4.12).

use super::attributes::known;
use crate::registers::Registers;

const DEFAULT: u32 = 0x108;
const FIXED_64K: u32 = 0x120;
const FIXED_16K: u32 = 0x128;
const FIXED_4K: u32 = 0x138;
const VARIABLE: u32 = 0x180;

const UNCACHEABLE: u8 = 0;
const WRITE_THROUGH: u8 = 4;
const WRITE_BACK: u8 = 6;

/// What the MTRRs say of an address; `width`: address bits of the host.
pub(super) fn memory_type(registers: &Registers, width: u8, address: u64) -> u8 {
    let default = registers.mtrr(DEFAULT);
    let (enabled, fixed) = (default >> 11 & 1 != 0, default >> 10 & 1 != 0);
    if !enabled {
        return UNCACHEABLE;
    }
    if fixed && address < 0x10_0000 {
        // Eight ranges a register.
        let (first, at, shift) = match address {
            0..0x8_0000 => (0, FIXED_64K, 16),
            0x8_0000..0xc_0000 => (0x8_0000, FIXED_16K, 14),
            _ => (0xc_0000, FIXED_4K, 12),
        };
        let range = ((address - first) >> shift) as u32;
        return known((registers.mtrr(at + range / 8 * 8) >> (range % 8 * 8)) as u8);
    }
    let bits = (u64::MAX >> 64_u8.saturating_sub(width).min(63)) & !0xfff;
    let mut found = None;
    for at in (VARIABLE..VARIABLE + 10 * 16).step_by(16) {
        let (base, mask) = (registers.mtrr(at), registers.mtrr(at + 8));
        if mask >> 11 & 1 == 0 || (address ^ base) & mask & bits != 0 {
            continue;
        }
        found = Some(match (found, known(base as u8)) {
            (None, new) => new,
            (Some(old), new) if old == new => old,
            (Some(WRITE_THROUGH | WRITE_BACK), WRITE_THROUGH | WRITE_BACK) => WRITE_THROUGH,
            // UC wins; other overlaps are undefined.
            _ => UNCACHEABLE,
        });
    }
    found.unwrap_or(known(default as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;
    use crate::profile::Profile;
    use crate::testing::Rig;

    fn rig(registers: &[(u32, u64)]) -> Rig {
        let mut rig = Rig::new(Profile { mtrr_cap: 0x50a, ..Profile::maximal() }, Pace::default());
        for (at, value) in registers {
            rig.w64(*at, *value);
        }
        rig
    }
    fn types<const N: usize>(registers: &[(u32, u64)], addresses: [u64; N]) -> [u8; N] {
        let rig = rig(registers);
        addresses.map(|address| memory_type(&rig.unit.registers, 52, address))
    }
    const ON: u64 = 1 << 11;
    const FIXED: u64 = 1 << 10;
    const VALID: u64 = 1 << 11;

    #[test]
    fn everything_is_uncacheable_while_they_are_off() {
        assert_eq!(types(&[(0x108, 6)], [0, 1 << 40]), [0, 0]);
    }
    #[test]
    fn the_default_is_for_all_else() {
        assert_eq!(types(&[(0x108, ON | 6)], [0, 1 << 40]), [6, 6]);
        assert_eq!(types(&[(0x108, ON | 3)], [0]), [0]);
    }
    #[test]
    fn fixed_ranges_are_for_the_first_mebibyte() {
        let registers = [
            (0x108, ON | FIXED | 6),
            (0x120, 0x0100_0000_0000_0004),
            (0x130, 0x0000_0000_0000_0500),
            (0x170, 0x0400_0000_0000_0000),
        ];
        let addresses = [0, 0xffff, 0x1_0000, 0x7_ffff, 0x8_0000, 0xa_4000, 0xa_8000, 0xf_ffff, 0x10_0000];
        assert_eq!(types(&registers, addresses), [4, 4, 0, 1, 0, 5, 0, 4, 6]);
        // Without FE they mean nothing.
        assert_eq!(types(&[(0x108, ON | 6), registers[1]], [0]), [6]);
    }
    #[test]
    fn variable_ranges_match_under_their_masks() {
        let mask = |size: u64| ((1 << 52) - size) | VALID;
        let registers = [
            (0x108, ON | 6),
            (0x180, 0x8000_0000),
            (0x188, mask(0x4000_0000)),
            (0x190, 0x1_0000_0004),
            (0x198, mask(0x1000)),
            // Not valid.
            (0x1a0, 0x2_0000_0004),
            (0x1a8, mask(0x1000) & !VALID),
        ];
        let addresses =
            [0x7fff_ffff, 0x8000_0000, 0xbfff_ffff, 0xc000_0000, 0x1_0000_0fff, 0x1_0000_1000, 0x2_0000_0000];
        assert_eq!(types(&registers, addresses), [6, 0, 0, 6, 4, 6, 6]);
    }
    #[test]
    fn of_overlapping_ranges_uc_wins_and_wt_over_wb() {
        let mask = ((1 << 52) - 0x1000) | VALID;
        let overlap =
            |a: u64, b: u64| types(&[(0x108, ON | 6), (0x180, a), (0x188, mask), (0x190, b), (0x198, mask)], [0]);
        assert_eq!(
            [overlap(6, 6), overlap(4, 6), overlap(6, 4), overlap(0, 6), overlap(5, 6)],
            [[6], [4], [4], [0], [0]]
        );
    }
}

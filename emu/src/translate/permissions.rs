//! Host permission tables (4.2.4, 9.12): whether a translated request may go where it says.

use super::{Stop, Walk};
use crate::explain::{Observer, What};
use crate::formats::{Field, PasidEntry};
use crate::reason::Reason;
use crate::request::{Access, Request};

/// AV: the entry leads to a table.
const AV: Field = Field::bit(64);
/// Where it is, with bits 63:52 ignored.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl<O: Observer> Walk<'_, O> {
    pub(super) fn permissions(&mut self, request: &Request, entry: &PasidEntry) -> Result<(), Stop> {
        let address = request.address;
        self.check(address >> (49 + entry.get(PasidEntry::HPTSZ)) != 0, Reason::SPT_9)?;
        let snoop = self.walk_snoop(entry);
        // Levels 4 to 1: by which bit the entry is selected, by which its permissions, how many permissions it holds.
        let levels = [(41, 41, 0), (33, 30, 8), (25, 21, 16), (17, 12, 32)];
        let mut table = entry.permissions();
        let mut granted = 0;
        for (level, (select, page, permissions)) in (1..=4).rev().zip(levels) {
            let (index, unreadable) = match level {
                4 => (address >> select & 0x7ff, Reason::HPT_3),
                _ => (address >> select & 0xff, Reason::HPT_1),
            };
            let at = table.wrapping_add(16 * index);
            self.trail.push(at);
            let words: [u64; 2] = self.read(What::HostPermission(level), at, snoop, unreadable)?;
            self.check(self.malformed(level, &words), Reason::HPT_2)?;
            if permissions > 0 {
                let number = (address >> page & (permissions - 1)) as u32;
                granted = Field::bits(4 * number + 3, 4 * number).get(&words);
            }
            if granted != 0 || level == 1 || !AV.is_set(&words) {
                break;
            }
            table = words[1] & ADDRESS;
        }
        let (read, write) = (granted & 1 != 0, granted & 2 != 0);
        if request.access == Access::Flush && self.profile.zlr() {
            return self.check(!read && !write, Reason::HPT_4);
        }
        self.check(request.access.writes() && !write, Reason::HPT_5)?;
        self.check(request.access.reads() && !read, Reason::HPT_6)
    }
    /// Whether a reserved bit of an entry is set.
    fn malformed(&self, level: u8, words: &[u64; 2]) -> bool {
        // Bits 3:2 of each permission.
        const SPARE: u64 = 0xcccc_cccc_cccc_cccc;
        let [low, high] = *words;
        let beyond = (self.profile.beyond() & ADDRESS) | 0xffe;
        let low_reserved = match level {
            4 => u64::MAX,
            // ECAP.HPT1GPS.
            3 if self.profile.ecap >> 59 & 1 == 0 => u64::MAX,
            3 => SPARE | u64::MAX << 32,
            _ => SPARE,
        };
        low & low_reserved != 0 || high & if level == 1 { SPARE } else { beyond } != 0
    }
}

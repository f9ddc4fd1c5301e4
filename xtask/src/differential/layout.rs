//! Where the tables, queues and pages of cases lie.

use super::board::Device;

/// Pages for tables: in low and in high memory.
pub const TABLES: [u64; 2] = [0x0200_0000, 0x1_2000_0000];
pub const TABLE_PAGES: u64 = 64;

/// Pages of 4 KiB for devices to reach; every word of them is different.
pub const DATA: [u64; 2] = [0x0400_0000, 0x1_3000_0000];
pub const DATA_PAGES: u64 = 16;

/// The invalidation queue, and the page that waits write to.
pub const QUEUE: u64 = 0x0100_0000;
pub const STATUS: u64 = 0x0110_0000;

/// What `edu`'s buffer is filled from, and looked at in.
pub const FILL: u64 = 0x0120_0000;
pub const DUMP: u64 = 0x0121_0000;

/// Frames of 2 MiB and of 1 GiB.
pub const LARGE: [u64; 3] = [0x0600_0000, 0x1_4000_0000, 0x1_5fe0_0000];
pub const HUGE: [u64; 3] = [0x4000_0000, 0x1_0000_0000, 0x1_4000_0000];

/// Where there is nothing: between the two parts of memory, and behind them.
pub const HOLES: [u64; 3] = [0x9000_0000, 0x2_0000_0000, 0x20_0000_0000];

/// Tables that let `edu` alone through, to the 2 MiB where `FILL` and `DUMP` lie: the unit goes by
/// them between cases. To turn translation off, or to let a device through untranslated, takes QEMU long.
pub const SERVICE: u64 = 0x0122_0000;
const SERVICE_CONTEXTS: u64 = 0x0123_0000;
const SERVICE_TABLES: [u64; 2] = [0x0124_0000, 0x0125_0000];
const SERVICE_CONTEXT: u64 = SERVICE_CONTEXTS + 16 * (Device::Edu.source() as u64 & 0xff);
const SERVICE_PAGE: u64 = 0x0120_0000;
pub const SERVICE_WORDS: [(u64, u64); 5] = [
    (SERVICE, SERVICE_CONTEXTS | 1),
    (SERVICE_CONTEXT, SERVICE_TABLES[0] | 1),
    // 39 bits.
    (SERVICE_CONTEXT + 8, 0xf0f0 << 8 | 1),
    (SERVICE_TABLES[0], SERVICE_TABLES[1] | 3),
    (SERVICE_TABLES[1] + 8 * (SERVICE_PAGE >> 21), SERVICE_PAGE | 1 << 7 | 3),
];

/// What stands at an address that nobody has written to.
pub fn initial(at: u64) -> u64 {
    if let Some((_, word)) = SERVICE_WORDS.iter().find(|(one, _)| *one == at) {
        return *word;
    }
    match DATA.iter().any(|first| (*first..*first + DATA_PAGES * 0x1000).contains(&at)) {
        true => (at | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        false => 0,
    }
}

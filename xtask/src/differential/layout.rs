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

/// Root and context table that let `edu` alone through, untranslated: the unit goes by them between cases, as turning
/// translation off and on takes QEMU long.
pub const SERVICE: u64 = 0x0122_0000;
const SERVICE_CONTEXTS: u64 = 0x0123_0000;
pub const SERVICE_WORDS: [u64; 3] = [SERVICE, service_context(), service_context() + 8];

const fn service_context() -> u64 {
    SERVICE_CONTEXTS + 16 * (Device::Edu.source() as u64 & 0xff)
}

/// What stands at an address that nobody has written to.
pub fn initial(at: u64) -> u64 {
    const CONTEXT: u64 = service_context();
    match at {
        SERVICE => return SERVICE_CONTEXTS | 1,
        // Pass-through, 39 bits.
        CONTEXT => return 2 << 2 | 1,
        at if at == CONTEXT + 8 => return 0xf0f0 << 8 | 1,
        _ => {}
    }
    match DATA.iter().any(|first| (*first..*first + DATA_PAGES * 0x1000).contains(&at)) {
        true => (at | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        false => 0,
    }
}

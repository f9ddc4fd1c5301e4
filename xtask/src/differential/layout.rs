//! Where the tables, queues and pages of cases lie.

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

/// What stands at an address that nobody has written to.
pub fn initial(at: u64) -> u64 {
    match DATA.iter().any(|first| (*first..*first + DATA_PAGES * 0x1000).contains(&at)) {
        true => (at | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        false => 0,
    }
}

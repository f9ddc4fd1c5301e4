//! What a host may choose.

use crate::host::address::{Hpa, Nanos};

/// Settings of the driver. `Config::default()` is right for most hosts.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long a unit may take to carry out a command (GCMD). Default: 1 s.
    pub command_deadline: Nanos,
    /// How long a unit may take to complete an invalidation that it does alone. Default: 1 s.
    pub invalidation_deadline: Nanos,
    /// Use queued invalidation where the unit has it (the default). `false` takes the register interface, for units
    /// whose queue is broken; units without that interface (version 6 and later) use the queue all the same.
    pub queue: bool,
    /// The queue's size: `2^queue_order` pages of 256 descriptors, 0 to 7. Default: 0.
    pub queue_order: u8,
    /// Ask for an interrupt with every completion, for platforms whose `relax` sleeps. Default: off, waits poll.
    pub completion_interrupt: bool,
    /// How far tables reach that stand in for pass-through on units without it: above all RAM and device memory.
    /// Default: 64 GiB.
    pub identity_top: Hpa,
    /// How many faults of one device one call of `service` delivers, and how many of one unit that no device's owner
    /// hears; the rest is counted (`Events::lost`). Default: 8.
    pub faults_per_service: u16,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            command_deadline: Nanos::millis(1000),
            invalidation_deadline: Nanos::millis(1000),
            queue: true,
            queue_order: 0,
            completion_interrupt: false,
            identity_top: Hpa::of_entry(64 << 30),
            faults_per_service: 8,
        }
    }
}

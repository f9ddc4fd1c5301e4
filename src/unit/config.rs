//! What a host may choose.

use crate::host::address::{Hpa, Nanos};

/// Which tables the units run on: one choice for all units, and what it comes to is decided for each.
///
/// Scalable mode wants queued invalidation: a unit that runs it uses the queue whatever [`Config::queue`] says.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// Legacy mode: context tables that name second-stage tables. Every unit has it.
    Legacy,
    /// Scalable mode: context tables that name PASID tables. A unit without it (ECAP.SMTS, ECAP.QI, and one of ECAP.SSTS,
    /// ECAP.FSTS and ECAP.PT) is an error of `bring_up`, `Unsupported(ScalableMode)`, before anything is written to any unit.
    Scalable,
    /// Scalable mode on units that have it with tables of one stage at least (ECAP.SSTS, ECAP.FSTS), legacy mode on the others.
    Best,
}

/// Settings of the driver. `Config::default()` is right for most hosts.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which tables the units run on. Default: `Tables::Best`.
    pub tables: Tables,
    /// How long a unit may take to carry out a command (GCMD). Default: 1 s.
    pub command_deadline: Nanos,
    /// How long a unit may take to complete an invalidation that it does alone. Default: 1 s.
    pub invalidation_deadline: Nanos,
    /// How long an invalidation may take that a device must answer. Default: 100 s, longer than the unit itself waits: PCI
    /// Express gives a function 1 minute to complete an invalidation of its ATC, with 50 % of tolerance, and then the unit
    /// reports a time-out (FSTS.ITE), by which the driver learns who did not answer. Never taken for shorter than
    /// `invalidation_deadline`.
    pub device_deadline: Nanos,
    /// Use queued invalidation where the unit has it (the default). `false` takes the register interface, for units
    /// whose queue is broken; units without that interface (version 6 and later) use the queue all the same.
    pub queue: bool,
    /// The queue's size: `2^queue_order` pages of 256 descriptors (128 on units in scalable mode or with
    /// abort-DMA mode), 0 to 7. Default: 0.
    pub queue_order: u8,
    /// Ask for an interrupt with every completion, for platforms whose `relax` sleeps. Default: off, waits poll.
    pub completion_interrupt: bool,
    /// How many units may be added while the machine runs (`Vtd::add_unit`), removed ones counted. Default: 8.
    pub spare_units: u8,
    /// How far tables reach that stand in for pass-through on units without it: above all RAM and device memory.
    /// Default: 64 GiB.
    pub identity_top: Hpa,
    /// What AW says in first-stage PASID entries. Default: the width of the first stage, which QEMU wants there and Linux
    /// writes; the specification reserves the field on units without ECAP.SSTS, and `false` writes 0.
    pub first_stage_width: bool,
    /// How many unmapped ranges a deferred domain gathers before an `unmap_later` flushes them itself. Default: 256.
    pub deferred_ranges: usize,
    /// How old the oldest of them may become before `service` flushes. Default: 10 ms.
    pub deferred_deadline: Nanos,
    /// How many faults of one device one call of `service` delivers, and how many of one unit that no device's owner
    /// hears; the rest is counted (`Events::lost`). Default: 8.
    pub faults_per_service: u16,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            tables: Tables::Best,
            command_deadline: Nanos::millis(1000),
            invalidation_deadline: Nanos::millis(1000),
            device_deadline: Nanos::millis(100_000),
            queue: true,
            queue_order: 0,
            completion_interrupt: false,
            spare_units: 8,
            identity_top: Hpa::of_entry(64 << 30),
            first_stage_width: true,
            deferred_ranges: 256,
            deferred_deadline: Nanos::millis(10),
            faults_per_service: 8,
        }
    }
}

//! As much of a unit as its queue wants to know.

use crate::host::address::UnitId;
use crate::host::platform::Platform;
use config::Config;
use errata::Errata;
use queue::Queue;

#[path = "../../../src/unit/config.rs"]
pub(crate) mod config;
#[path = "../../../src/unit/errata.rs"]
pub(crate) mod errata;
#[path = "../../../src/unit/queue.rs"]
pub(crate) mod queue;
#[path = "../../../src/unit/recovery.rs"]
pub(crate) mod recovery;
#[path = "../../../src/unit/stats.rs"]
pub(crate) mod stats;

pub(crate) struct Host<P: Platform> {
    pub(crate) platform: P,
    pub(crate) config: Config,
}

pub(crate) struct Unit<P: Platform> {
    pub(crate) id: UnitId,
    pub(crate) errata: Errata,
    pub(crate) regs: P::Registers,
    pub(crate) queue: Option<Queue>,
}

impl<P: Platform> Unit<P> {
    /// Flushes are derived elsewhere.
    pub(crate) fn wide_flushes(&self) -> u64 {
        0
    }
}

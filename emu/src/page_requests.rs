//! Page requests (7.4 to 7.6): the queue that software reads, overflow, automatic responses.

use crate::bus::Bus;
use crate::request::{PageAnswer, PageRequest};
use crate::unit::Unit;

/// The page-request queue's registers.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageRequests {}

impl PageRequests {
    /// Reads 32 bits of PQH to PEUADDR (0xc0 to 0xef).
    pub(crate) fn read(&self, _at: u32) -> u32 {
        0
    }
    /// Writes them.
    pub(crate) fn write(&mut self, _bus: &mut dyn Bus, _at: u32, _v: u32) {}
}

impl Unit {
    /// A page request of a device.
    pub fn page_request(&mut self, _bus: &mut dyn Bus, _request: &PageRequest) -> PageAnswer {
        PageAnswer::Dropped
    }
}

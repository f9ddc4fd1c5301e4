//! From a device's request to a physical address, or to the reason why not (chapters 3, 4 and 7.1).

use crate::bus::Bus;
use crate::request::{Answer, Request};
use crate::unit::Unit;

impl Unit {
    /// A request of a device: translated, checked, and recorded where it is blocked.
    pub fn request(&mut self, _bus: &mut dyn Bus, _request: &Request) -> Answer {
        Answer::Nothing
    }
}

//! What the command line promises of the machine.

use crate::acpi;
use crate::boot::cmdline;

/// An error where the machine has a DMAR table and the command line promises none, or the other way round.
pub fn keeps_promise() -> Result<(), &'static str> {
    let found = !acpi::tables().dmar.is_empty();
    match cmdline::get().iommu {
        Some(true) if !found => {
            Err("this machine promises a remapping unit (iommu=yes), and its firmware names none: no DMAR table")
        }
        Some(false) if found => {
            Err("this machine promises to have no remapping unit (iommu=no), and its firmware has a DMAR table")
        }
        _ => Ok(()),
    }
}

//! Drivers of the devices that the tests and the tour have do DMA.

pub mod edu;
pub mod testdev;
pub mod virtio;

use core::fmt;

/// Why a device did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// The machine has no such device, or its registers cannot be reached.
    Missing,
    /// The request lies outside what the device can do.
    Refused,
    /// The device did not finish in time.
    TimedOut,
    /// The device reaches memory past the remapping unit, so that no domain can keep it.
    Unguarded,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceError::Missing => "the device is missing",
            DeviceError::Refused => "the device cannot do this",
            DeviceError::TimedOut => "the device did not finish in time",
            DeviceError::Unguarded => "the device goes past the remapping unit (iommu_platform=off)",
        })
    }
}

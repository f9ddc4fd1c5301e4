//! Intel VT-d (IOMMU) driver for hypervisors and unikernels.
//!
//! `no_std` with `alloc`; no panics, no endless waits, running out of memory is an answer. The list of what users see
//! is this file; `docs/architecture.md` in the repository says how the parts stand on each other.
#![no_std]
#![deny(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::allow_attributes_without_reason,
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod host;
mod hw;
mod space;

pub use host::address::{DeviceId, Gpa, Hpa, INTERRUPT_RANGE, Iova, Nanos, PAGE, Pasid, Range, SourceId, UnitId};
pub use host::error::{Class, Error, ErrorKind, Field, MapError, MapWhy, Need, State, Step};
pub use host::platform::{Event, Identity, Message, Mmio, Platform, PlatformError, Registers};
pub use space::flush::Flushed;
pub use space::iova::{IovaError, IovaSpace};
pub use space::paging::{Access, PageSizes};

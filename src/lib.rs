//! Intel VT-d (IOMMU) driver for hypervisors and unikernels.
//!
//! `no_std` with `alloc`; no panics, no endless waits, running out of memory is an answer. The list of what users see
//! is this file; `docs/architecture.md` in the repository says how the parts stand on each other.
//!
//! The examples run on the emulated unit of crate `vtd-emu`; `host` is what stands on the device's side there.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! # use vtd::{Access, Config, Iova, Owner, PAGE, Range, Strict, TakeOver, Target, Vtd};
//! # use emulated::{CARD, Host, Profile};
//! # let (platform, device) = (Host::new(Profile::maximal()), CARD);
//! # let host = platform.clone();
//! # let dmar = emulated::dmar();
//! // A platform of your own (`Platform`), and the table that firmware gives.
//! let topology = vtd::dmar::Topology::from_table(&dmar)?;
//! let vtd = Vtd::new(platform, topology, Config::default())?;
//! vtd.bring_up(TakeOver::Disable)?; // on, and everything blocked
//!
//! let group = vtd.claim(vtd.group_of(device)?, Owner::HOST)?; // what cannot be told apart, one owner
//! let domain = vtd.domain::<Strict>(&group.best_spec())?;
//! group.attach(Target::Domain(&domain))?;
//!
//! let (at, memory) = (Iova::at(0x4000_0000), host.memory(1));
//! domain.map(at, memory, PAGE, Access::READ | Access::WRITE)?;
//! host.write(None, 0x4000_0000, 42)?; // what the device does
//! assert_eq!(host.word(memory.get()), Some(42));
//! domain.unmap(Range::sized(at, PAGE).unwrap())?.flush().map_err(|not| not.error)?;
//!
//! group.release().map_err(|(_, e)| e)?;
//! drop(domain);
//! vtd.hand_back().map_err(|(_, e)| e)?; // everything off
//! # Ok(())
//! # }
//! ```
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

pub mod device;
pub mod dmar;
mod driver;
pub mod explain;
mod host;
/// The hardware's own formats, for who reads or builds tables by hand.
pub mod hw;
/// What is flushed when something changed, as the driver does it.
pub mod invalidation {
    pub use crate::unit::rules::{Change, Mode, Rule, Step, TABLE};
}
mod space;
mod unit;

pub use device::GroupId;
pub use device::ats::Ats;
pub use device::attach::{Change, Group, Target};
pub use device::events::{Events, Fault};
pub use device::info::DeviceInfo;
pub use device::registry::Owner;
pub use device::reset::Reset;
pub use driver::shield::{ShieldReport, Shielding};
pub use driver::{BringUp, FirmwareReport, Service, UnitReport, Vtd};
pub use host::address::{DeviceId, Gpa, Hpa, INTERRUPT_RANGE, Iova, Nanos, PAGE, Pasid, Range, SourceId, UnitId};
pub use host::error::{Class, Error, ErrorKind, Field, MapError, MapWhy, Need, NoAts, State, Step};
#[cfg(feature = "observe")]
pub use host::observe::{Store, observe};
pub use host::platform::{Event, Identity, Message, Mmio, Platform, PlatformError, Registers};
pub use space::address_space::AddressSpace;
pub use space::domain::{Deferred, Domain, Edit, FlushMode, Strict};
pub use space::flush::Flushed;
#[cfg(feature = "x86_64")]
pub use space::foreign::PageTables;
pub use space::foreign::{CheckedTables, ForeignTables, Offers, Place, Refused, TableForm};
pub use space::iova::{IovaError, IovaSpace};
pub use space::paging::{Access, PageSizes};
pub use space::spec::{DomainSpec, Stage};
pub use space::stage1::{Stage1, Stage1Spec};
pub use space::unmapped::{NotFlushed, Pending, Unmapped};
pub use unit::bring_up::{Skipped, TakeOver};
pub use unit::config::{Config, Tables};
pub use unit::errata::{Errata, Erratum};
pub use unit::shield::LeftShield;
pub use unit::stats::UnitStats;
pub use unit::take_over::{Adopted, Flaw, Malformed};

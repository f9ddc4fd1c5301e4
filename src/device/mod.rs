//! Devices: what cannot be told apart by requester id or isolated from each other, and so is owned and attached together
//! (`group`, from the PCI tree that `pci` reads), which unit serves it and who owns it (`scan`, `registry`), the one writer
//! of context and PASID entries (`entries`), attaching (`attach`, `change`), devices' own translation caches (`ats`), devices that are
//! blocked apart from their group (`reset`, `standing`), what devices can do (`info`) and report (`events`), and what all
//! handles of the driver share (`common`).

pub(crate) mod ats;
pub(crate) mod attach;
mod change;
pub(crate) mod common;
pub(crate) mod entries;
pub(crate) mod events;
mod group;
pub(crate) mod info;
mod pci;
pub(crate) mod registry;
pub(crate) mod reset;
pub(crate) mod scan;
pub(crate) mod standing;

pub use ats::AtsCapability;
pub use group::{AliasOf, GroupId, Groups, Link, Reason, Why};
pub use pci::{Acs, Function, Role, Tree};

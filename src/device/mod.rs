//! Devices: what cannot be told apart by requester id or isolated from each other, and so is owned and attached together
//! (`group`, from the PCI tree that `pci` reads), which unit serves it and who owns it (`scan`, `registry`), the one writer
//! of context entries (`entries`), attaching (`attach`), and what devices report (`events`).

pub(crate) mod attach;
pub(crate) mod entries;
pub(crate) mod events;
mod group;
mod pci;
pub(crate) mod registry;
pub(crate) mod scan;

pub use group::{AliasOf, GroupId, Groups, Link, Reason, Why};
pub use pci::{Acs, Function, Role, Tree};

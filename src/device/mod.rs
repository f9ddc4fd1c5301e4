//! Devices: what cannot be told apart by requester id or isolated from each other, and so is owned and attached together.

mod group;
mod pci;

pub use group::{AliasOf, GroupId, Groups, Link, Reason, Why};
pub use pci::{Acs, Function, Role, Tree};

//! A software VT-d unit that caches everything, with devices behind it, to test drivers against.
//!
//! It states registers, tables, descriptors and fault reasons from the specification (Intel D51397, rev 5.10) and knows
//! nothing of any driver. What hardware may cache stays cached until an invalidation that by the specification covers it has
//! completed; what hardware may do late, out of order or not at all, it does when a test asks for it. Everything is
//! deterministic: the same seed and the same calls tell the same story.
//!
//! [`Machine`] is memory, units and the devices below them; [`Unit`] is one remapping unit over a [`Bus`]. Section numbers in this crate are the specification's.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod adversary;
mod bus;
mod caches;
mod command;
mod devices;
mod events;
mod explain;
mod faults;
pub mod formats;
mod interrupts;
mod invalidation;
mod machine;
mod memory;
mod oracle;
mod pace;
mod page_requests;
mod profile;
mod queue;
mod random;
mod reason;
mod registers;
mod request;
mod state;
mod story;
#[cfg(test)]
mod testing;
mod translate;
mod unit;

pub use adversary::Adversary;
pub use bus::{Bus, DeviceInvalidation, GroupResponse, Snoop};
pub use caches::{Cached, Caches, Context, Held, Keep, Leaf, PasidEntry, Rights, Stage, Table, Translation};
pub use devices::{Alias, Answers, Ats, Form, Function, FunctionId, Kept, Manner, PasidCapability, Pri, Virtuals};
pub use explain::{Explanation, Step, What, Words};
pub use interrupts::{InterruptAnswer, InterruptRequest};
pub use invalidation::{Invalidation, Pages};
pub use machine::{Blocked, Dma, Machine, Message, Probe, Probes, Seen, Sight, Via, When};
pub use memory::{Memory, Ram};
pub use oracle::{Breach, Oracle, Rule};
pub use pace::Pace;
pub use profile::{Profile, Qemu};
pub use random::Random;
pub use reason::{Completion, Reason};
pub use request::{Access, Answer, Fault, Kind, PageAnswer, PageRequest, Pasid, Passed, Request, SourceId, Translated};
pub use state::{Mode, State};
pub use story::{Happening, Story};
pub use unit::{Size, Unit};

/// The guide, so that its example runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Guide;

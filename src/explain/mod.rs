//! Why a request of a device gets where it gets, or does not: the walk of the tables in words and as data. Beside the floors:
//! it reads every floor, and nothing depends on its answers. No allocation, no wait; good after a panic.
//!
//! [`walk`] knows the hardware's formats and its order of checks (VT-d 3.4 to 3.9, 3.15, 7.1.3) and reads memory through a
//! closure; [`Vtd::explain`](crate::Vtd::explain) (`live`) hands it the driver's own tables.

mod data;
mod live;
mod stages;
#[cfg(test)]
mod tests;
mod walk;
mod words;

pub use data::{Attempt, Request, Said, Step, Unit, Verdict, Walk, What, Word};
pub use live::{Attachment, Explanation};
pub use walk::walk;

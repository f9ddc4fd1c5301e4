//! The hardware's own formats and nothing else: registers, tables, page entries, queue descriptors and fault records as
//! pure values that are built, read and compared. Nothing here touches memory or a register.
//!
//! Every bit position stands once. A value too wide for its field loses what does not fit, as it would in hardware;
//! a caller that holds numbers from outside checks them before it builds an entry.

pub mod capabilities;
pub mod descriptors;
pub mod faults;
mod field;
pub mod invalidation;
pub mod pages;
pub mod pasid_tables;
pub mod registers;
pub mod reserved;
pub mod tables;

mod describe;
mod reasons;

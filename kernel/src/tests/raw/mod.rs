//! The hardware by hand: tables are built with `vtd::hw`, registers written without the driver. What the driver stands
//! on is seen here alone.

mod caching;
mod frame;
mod queue;
mod reasons;
mod recording;
mod registers;
mod rig;
mod ring;
mod space;
mod translation;
mod unit;
mod vector;

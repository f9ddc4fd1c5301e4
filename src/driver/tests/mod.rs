//! The whole driver on stand-in units.

mod attach;
mod bring_up;
mod dirty;
mod domain;
mod faults;
mod heap;
mod machine;
mod power;
mod shield;
mod threads;

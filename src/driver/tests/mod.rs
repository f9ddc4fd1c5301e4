//! The whole driver on stand-in units.

mod ats;
mod attach;
mod bring_up;
mod dirty;
mod domain;
mod explain;
mod faults;
mod foreign;
mod heap;
mod hot_plug;
mod machine;
mod power;
mod shield;
mod take_over;
mod threads;

//! Root entries (9.1, 9.2).

use super::{Field, PAGE, entry};
use crate::profile::Profile;

/// A root entry of legacy mode (9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RootEntry(pub [u64; 2]);

entry!(RootEntry);

impl RootEntry {
    /// P.
    pub const P: Field = Field::bit(0);

    /// A present entry.
    pub fn new(table: u64) -> Self {
        RootEntry([table & PAGE | 1, 0])
    }
    /// CTP: where the context table is.
    pub fn table(&self) -> u64 {
        self.0[0] & PAGE
    }
    /// Whether a reserved bit is set.
    pub fn reserved(&self, profile: &Profile) -> bool {
        self.0[0] & !(profile.pointer() | 1) != 0 || self.0[1] != 0
    }
}

/// A root entry of scalable mode (9.2): a half for devices 0 to 15, and one for devices 16 to 31.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScalableRootEntry(pub [u64; 2]);

entry!(ScalableRootEntry);

impl ScalableRootEntry {
    /// LP.
    pub const LP: Field = Field::bit(0);
    /// UP.
    pub const UP: Field = Field::bit(64);

    /// An entry with the halves that are given.
    pub fn new(lower: Option<u64>, upper: Option<u64>) -> Self {
        ScalableRootEntry([lower, upper].map(|table| table.map_or(0, |table| table & PAGE | 1)))
    }
    /// The half of a device and function.
    pub fn half(&self, function: u8) -> u64 {
        self.0[usize::from(function >> 7)]
    }
    /// Whether a reserved bit is set in a half that is present.
    ///
    /// As the specification words it, both halves count, whichever of them the request uses.
    pub fn reserved(&self, profile: &Profile) -> bool {
        self.0.iter().any(|half| half & 1 != 0 && half & !(profile.pointer() | 1) != 0)
    }
}

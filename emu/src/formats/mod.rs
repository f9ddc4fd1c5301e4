//! Formats of the memory-resident tables of DMA remapping (chapter 9): entries as the unit reads them, and as tests build them.

mod context;
mod first;
mod pasid;
mod root;
mod second;

pub use context::{ContextEntry, ScalableContextEntry};
pub use first::FirstStageEntry;
pub use pasid::{PasidDirectoryEntry, PasidEntry};
pub use root::{RootEntry, ScalableRootEntry};
pub use second::SecondStageEntry;

use crate::profile::Profile;

/// A field of an entry, by its bits in the whole entry. No field spans two words of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    low: u32,
    width: u32,
}

impl Field {
    /// The bits `high` down to `low`.
    pub const fn bits(high: u32, low: u32) -> Self {
        Field { low, width: high - low + 1 }
    }
    /// One bit.
    pub const fn bit(at: u32) -> Self {
        Field::bits(at, at)
    }
    /// The field in its word.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.width) << (self.low % 64)
    }
    /// The field's value.
    pub fn get(self, words: &[u64]) -> u64 {
        words.get(self.low as usize / 64).map_or(0, |word| (word & self.mask()) >> (self.low % 64))
    }
    /// Whether any bit of it is set.
    pub fn is_set(self, words: &[u64]) -> bool {
        self.get(words) != 0
    }
    /// Gives it a value, of which what does not fit is lost.
    pub fn put(self, words: &mut [u64], value: u64) {
        if let Some(word) = words.get_mut(self.low as usize / 64) {
            *word = *word & !self.mask() | value << (self.low % 64) & self.mask();
        }
    }
}

/// The address bits of a pointer to a page (63:12).
pub(crate) const PAGE: u64 = !0xfff;

/// Bits that a unit knows if it has their feature.
fn when(there: bool, bits: u64) -> u64 {
    if there { bits } else { 0 }
}

impl Profile {
    /// The bits of a pointer to a page that the host's addresses have: `width - 1` down to 12.
    pub(crate) fn pointer(&self) -> u64 {
        !self.beyond() & PAGE
    }
    /// The address bits that the host does not have: 63 down to `width`.
    pub(crate) fn beyond(&self) -> u64 {
        u64::MAX.checked_shl(u32::from(self.width)).unwrap_or(0)
    }
    /// How many of the sixteen bits of a domain id there are, as a mask.
    pub(crate) fn domains(&self) -> u64 {
        0xffff >> 16_u32.saturating_sub(self.domain_bits())
    }
}

/// Implements what all entries of several words have in common.
macro_rules! entry {
    ($name:ident) => {
        impl $name {
            /// The same entry with this field so.
            #[must_use]
            pub fn with(mut self, field: $crate::formats::Field, value: u64) -> Self {
                field.put(&mut self.0, value);
                self
            }
            /// A field's value.
            pub fn get(&self, field: $crate::formats::Field) -> u64 {
                field.get(&self.0)
            }
            /// Whether any bit of a field is set.
            pub fn has(&self, field: $crate::formats::Field) -> bool {
                field.is_set(&self.0)
            }
        }
    };
}
use entry;

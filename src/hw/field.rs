//! A field of a 64-bit word, named by its highest and lowest bit as the specification's tables do.

/// Bits `high`:`low` of a word.
#[derive(Clone, Copy)]
pub(super) struct Field {
    low: u32,
    mask: u64,
}

impl Field {
    /// Bits `high`:`low`. Evaluated in constants only, so that a wrong pair does not compile.
    pub const fn bits(high: u32, low: u32) -> Self {
        assert!(high < 64 && low <= high);
        Field { low, mask: u64::MAX >> (63 - (high - low)) }
    }

    /// One bit.
    pub const fn bit(at: u32) -> Self {
        Field::bits(at, at)
    }

    /// The field's value in `word`.
    pub const fn of(self, word: u64) -> u64 {
        word.wrapping_shr(self.low) & self.mask
    }

    /// Whether any bit of the field is set in `word`.
    pub const fn is_set(self, word: u64) -> bool {
        self.of(word) != 0
    }

    /// A word with `value` in this field and 0 elsewhere; what does not fit is dropped.
    pub const fn with(self, value: u64) -> u64 {
        (value & self.mask).wrapping_shl(self.low)
    }

    /// A word with `on` in the field's lowest bit.
    pub const fn flag(self, on: bool) -> u64 {
        self.with(on as u64)
    }

    /// The field's bits in place: what an address field keeps of an address.
    pub const fn in_place(self, word: u64) -> u64 {
        word & self.mask.wrapping_shl(self.low)
    }
}

/// An enum whose values are the encodings of a field, and the way back from a field's value.
macro_rules! encoding {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$what:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[$what])* $variant = $value,)*
        }

        impl $name {
            /// What a field with this value says; `None` where the value is reserved.
            pub const fn of(value: u64) -> Option<Self> {
                match value {
                    $($value => Some($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(super) use encoding;

//! Where QEMU's unit is known to answer otherwise than the specification has it.

use super::compare::Pair;

/// A known difference.
pub struct Deviation {
    pub name: &'static str,
    /// Why QEMU is as it is.
    pub reason: &'static str,
    /// The forms in which it comes about; none: in all.
    pub forms: &'static [&'static str],
    /// Whether the two answers to a step differ as this says.
    pub claims: fn(&Pair<'_>) -> bool,
}

pub static DEVIATIONS: &[Deviation] = &[];

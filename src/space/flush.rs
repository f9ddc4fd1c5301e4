//! Flushes.

/// Proof that no cache of the hardware holds what was unmapped; the only thing for which the allocator of input ranges
/// takes a range back.
pub struct Flushed(pub(crate) ());

//! What a unit's invalidation queue has seen.

/// Counts of one unit's invalidation queue since bring-up. All but `wide_flushes` 0 where invalidation goes
/// through registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnitStats {
    /// Batches handed to the queue, each with one wait and one write of the tail.
    pub submissions: u64,
    /// Descriptors in them, without the waits.
    pub descriptors: u64,
    /// Waits for completion or for room whose deadline passed. What they waited for stays the unit's until it completes.
    pub timeouts: u64,
    /// Times the queue stopped at a descriptor (FSTS.IQE).
    pub queue_errors: u64,
    /// Times a device did not answer in the unit's own time (FSTS.ITE).
    pub device_timeouts: u64,
    /// Completions from devices that nobody had asked for (FSTS.ICE).
    pub invalid_completions: u64,
    /// Batches, or parts of them, that were queued again because a device of somebody had not answered.
    pub requeued: u64,
    /// Ranges for which everything of a domain id or PASID was flushed: too large for eight pieces, or one of too many.
    pub wide_flushes: u64,
    /// Slots of the queue that were in use when the unit was found gone: they never come back.
    pub leaked_slots: u64,
    /// Frames of 4 KiB that the queue keeps for ever, for the unit is gone.
    pub leaked_frames: u64,
}

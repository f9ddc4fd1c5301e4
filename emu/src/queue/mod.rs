//! The invalidation queue (6.5.2).

/// The queue's registers and what is in flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {}

//! Page tables: a format is small, the engine that maps, unmaps and splits is written once (VT-d 3.6, 3.7, 9.7, 9.8).
//!
//! Nothing here waits, and nothing flushes the hardware's translation caches: each change says what must be flushed
//! ([`Stale`]), and freed tables stay with the tree until the caller has flushed and releases them.

pub(crate) mod engine;
pub(crate) mod first;
pub(crate) mod format;
pub(crate) mod second;
#[cfg(test)]
mod tests;

pub use format::{Access, PageSizes};

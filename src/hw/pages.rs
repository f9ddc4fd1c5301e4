//! Second-stage page-table entries (VT-d 9.9).

/// Reads are permitted.
pub(crate) const READ: u64 = 1 << 0;
/// Writes are permitted.
pub(crate) const WRITE: u64 = 1 << 1;
/// In entries of levels 2 and 3: a page, not a table.
pub(crate) const PAGE_SIZE: u64 = 1 << 7;
/// Accessed; written by hardware with SSADE only.
pub(crate) const ACCESSED: u64 = 1 << 8;
/// Dirty, in leaves; written by hardware with SSADE only.
pub(crate) const DIRTY: u64 = 1 << 9;
/// Ignored by hardware in non-leaf entries and in leaves.
pub(crate) const SOFTWARE: u64 = 1 << 10;
/// In leaves: every access snoops. Reserved without ECAP.SC.
pub(crate) const SNOOP: u64 = 1 << 11;

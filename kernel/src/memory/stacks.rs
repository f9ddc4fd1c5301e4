//! Stacks in a part of the address space of their own, each with an unmapped page below it: running over the end faults
//! instead of overwriting what lies there.

use super::{frames, paging};
use crate::memory::paging::Access;
use core::sync::atomic::{AtomicU64, Ordering};
use vtd::PAGE;

/// Where the stacks begin: the upper half, in which nothing else is mapped.
const START: u64 = 0xffff_8000_0000_0000;

static NEXT: AtomicU64 = AtomicU64::new(START);

/// A new stack of `pages` pages: its top. It is never given back.
pub fn alloc(pages: u64) -> Option<u64> {
    let guard = NEXT.fetch_add((pages + 1) * PAGE, Ordering::Relaxed);
    for i in 1..=pages {
        let frame = frames::alloc(0)?;
        paging::map(guard + i * PAGE, frame.as_ptr() as u64, PAGE, Access::Write).ok()?;
    }
    Some(guard + (pages + 1) * PAGE)
}

//! The heap of this program: what the driver has of it is counted, and it can be told to end. What is allocated within a
//! [`spare`] is the machine's or the story's, not the driver's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::host::Ends;

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

std::thread_local! {
    /// Within so many `driver`s, less its `spare`s.
    static DRIVER: Cell<bool> = const { Cell::new(false) };
    static ENDS: Cell<Option<Ends>> = const { Cell::new(None) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

/// Ahead of each allocation stands whether it counts.
fn around(layout: Layout) -> Option<(Layout, usize)> {
    let ahead = layout.align().max(16);
    Some((Layout::from_size_align(layout.size().checked_add(ahead)?, ahead).ok()?, ahead))
}

fn count(bytes: i64) {
    let _ = BYTES.try_with(|b| b.set(b.get() + bytes));
}

/// Whether this allocation is the driver's; none where it is and there is no more.
fn begin() -> Option<bool> {
    if !DRIVER.try_with(Cell::get).unwrap_or(false) {
        return Some(false);
    }
    let mut ends = ENDS.try_with(Cell::take).unwrap_or(None);
    let there = ends.as_mut().is_none_or(Ends::take);
    let _ = ENDS.try_with(|e| e.set(ends));
    there.then_some(true)
}

fn behind_a_head(layout: Layout, alloc: impl FnOnce(Layout) -> *mut u8) -> *mut u8 {
    let (Some((whole, ahead)), Some(counts)) = (around(layout), begin()) else { return std::ptr::null_mut() };
    let at = alloc(whole);
    if at.is_null() {
        return at;
    }
    if counts {
        count(layout.size() as i64);
    }
    // SAFETY: the head is ours.
    unsafe {
        at.write(u8::from(counts));
        at.add(ahead)
    }
}

// SAFETY: what `System` gives, behind a head of at least 16 bytes that keeps the alignment.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is not 0.
        behind_a_head(layout, |whole| unsafe { System.alloc(whole) })
    }

    /// A machine's memory is large, and mostly never touched.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is not 0.
        behind_a_head(layout, |whole| unsafe { System.alloc_zeroed(whole) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let Some((whole, ahead)) = around(layout) else { return };
        // SAFETY: `alloc` made it with this layout.
        unsafe {
            let start = at.sub(ahead);
            if start.read() != 0 {
                count(-(layout.size() as i64));
            }
            System.dealloc(start, whole);
        }
    }
}

/// What the driver has of the heap, as far as this thread gave and took it.
pub fn bytes() -> i64 {
    BYTES.get()
}

struct Was(bool);

impl Drop for Was {
    fn drop(&mut self) {
        let _ = DRIVER.try_with(|d| d.set(self.0));
    }
}

/// Runs the driver: what it allocates counts, and ends where `ends` says.
pub fn driver<R>(ends: Option<Ends>, body: impl FnOnce() -> R) -> R {
    let _was = Was(DRIVER.replace(true));
    ENDS.set(ends);
    let r = body();
    ENDS.set(None);
    r
}

/// As long as this lives the driver's allocations are over.
#[must_use]
pub fn spare() -> impl Drop {
    Was(DRIVER.replace(false))
}

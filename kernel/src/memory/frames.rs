//! Physical frames: a buddy allocator. Runs of `2^order` frames, aligned to their size, zeroed when they are handed out.
//!
//! One byte a frame says whether a free block begins there; the blocks' links stand in the free memory itself, so the
//! allocator needs no heap and cannot run out while giving back.

use super::heap::spend;
use crate::boot::info::{self, Kind};
use crate::sync::IrqLock;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI64, Ordering};
use vtd::{Hpa, PAGE};

/// Orders 0 (4 KiB) to 18 (1 GiB).
const ORDERS: usize = 19;

/// In the state of a frame: no free block begins here. Any other value is the order of the one that does.
const NONE: u8 = 0xff;

/// Below, memory belongs to the firmware's data and to the start of the other CPUs.
const LOWEST: u64 = 0x10_0000;

/// What the first page tables map.
const FIRST_MAPPED: u64 = 1 << 32;

/// The head of a free block, in the block itself.
struct Links {
    next: *mut Links,
    prev: *mut Links,
}

struct Buddy {
    /// One byte for each frame below the end of memory.
    state: *mut u8,
    frames: usize,
    lists: [*mut Links; ORDERS],
    free: usize,
}

// SAFETY: the pointers lead to memory that the allocator owns; the lock around it keeps CPUs apart.
unsafe impl Send for Buddy {}

static BUDDY: IrqLock<Buddy> =
    IrqLock::new(Buddy { state: ptr::null_mut(), frames: 0, lists: [ptr::null_mut(); ORDERS], free: 0 });

/// Allocations that still succeed; negative for no limit.
static BUDGET: AtomicI64 = AtomicI64::new(-1);

impl Buddy {
    fn state(&mut self, frame: usize) -> &mut u8 {
        assert!(frame < self.frames, "frame {frame:#x} lies outside memory");
        // SAFETY: there are `frames` bytes at `state`, and `self` is borrowed for as long as the byte.
        unsafe { &mut *self.state.add(frame) }
    }

    fn push(&mut self, frame: usize, order: usize) {
        let links = (frame as u64 * PAGE) as *mut Links;
        let next = self.lists[order];
        // SAFETY: the block is free, mapped and ours; so is the head of the list.
        unsafe {
            links.write(Links { next, prev: ptr::null_mut() });
            if !next.is_null() {
                (*next).prev = links;
            }
        }
        self.lists[order] = links;
        *self.state(frame) = order as u8;
    }

    fn unlink(&mut self, frame: usize, order: usize) {
        let links = (frame as u64 * PAGE) as *mut Links;
        // SAFETY: the block is in the list of its order, so its links and its neighbours' are valid.
        unsafe {
            let Links { next, prev } = links.read();
            if prev.is_null() {
                self.lists[order] = next;
            } else {
                (*prev).next = next;
            }
            if !next.is_null() {
                (*next).prev = prev;
            }
        }
        *self.state(frame) = NONE;
    }

    fn alloc(&mut self, order: usize) -> Option<usize> {
        let from = (order..ORDERS).find(|&o| !self.lists[o].is_null())?;
        let frame = (self.lists[from] as u64 / PAGE) as usize;
        self.unlink(frame, from);
        for half in (order..from).rev() {
            self.push(frame + (1 << half), half);
        }
        self.free -= 1 << order;
        Some(frame)
    }

    fn give(&mut self, mut frame: usize, mut order: usize) {
        assert!(*self.state(frame) == NONE, "frame {frame:#x} is given back twice");
        self.free += 1 << order;
        while order + 1 < ORDERS {
            let buddy = frame ^ (1 << order);
            if buddy >= self.frames || *self.state(buddy) != order as u8 {
                break;
            }
            self.unlink(buddy, order);
            frame &= buddy;
            order += 1;
        }
        self.push(frame, order);
    }

    /// Gives the range in the largest aligned blocks.
    fn give_range(&mut self, start: u64, end: u64) {
        let (mut at, end) = ((start.div_ceil(PAGE)) as usize, (end / PAGE) as usize);
        while at < end {
            let order = (at.trailing_zeros() as usize).min((end - at).ilog2() as usize).min(ORDERS - 1);
            self.give(at, order);
            at += 1 << order;
        }
    }
}

/// Takes over the memory that the first page tables map, all but the kernel's image.
///
/// # Safety
///
/// Called once, before anything else uses memory outside the image.
pub unsafe fn init() {
    let image = super::image();
    let ram = || info::get().regions().iter().filter(|r| r.kind == Kind::Ram);
    let frames = ram().map(|r| r.end / PAGE).max().unwrap_or(0) as usize;
    let bytes = (frames as u64).next_multiple_of(PAGE);
    // The states go to the first place behind the image, or behind 1 MiB, that has the room.
    let states = ram()
        .map(|r| (r.start.max(LOWEST).max(image.end).next_multiple_of(PAGE), r.end.min(FIRST_MAPPED)))
        .find(|&(start, end)| start.saturating_add(bytes) <= end)
        .expect("no room for the states of frames")
        .0;
    let mut buddy = BUDDY.lock();
    buddy.state = states as *mut u8;
    buddy.frames = frames;
    // SAFETY: mapped memory behind the image that nobody uses yet.
    unsafe { buddy.state.write_bytes(NONE, frames) };
    for r in ram() {
        let end = r.end.min(FIRST_MAPPED);
        // Everything but the image and the states, which may touch.
        let holes = [(image.start, image.end), (states, states + bytes)];
        let mut at = r.start.max(LOWEST);
        for (from, to) in holes {
            if at < to && from < end {
                buddy.give_range(at, from.max(at));
                at = to;
            }
        }
        if at < end {
            buddy.give_range(at, end);
        }
    }
}

/// Takes over the memory above 4 GiB.
///
/// # Safety
///
/// Called once, with page tables that map all memory.
pub unsafe fn init_high() {
    let mut buddy = BUDDY.lock();
    for r in info::get().regions().iter().filter(|r| r.kind == Kind::Ram && r.end > FIRST_MAPPED) {
        buddy.give_range(r.start.max(FIRST_MAPPED), r.end);
    }
}

/// `2^order` frames, zeroed, aligned to their size; `None` where no such run is left.
pub fn alloc(order: u8) -> Option<NonNull<u8>> {
    let at = alloc_unzeroed(order)?;
    // SAFETY: the run is mapped and now the caller's.
    unsafe { at.write_bytes(0, (PAGE as usize) << order) };
    Some(at)
}

/// The same with whatever the memory holds.
pub fn alloc_unzeroed(order: u8) -> Option<NonNull<u8>> {
    let order = usize::from(order);
    if order >= ORDERS || !spend(&BUDGET) {
        return None;
    }
    let frame = BUDDY.lock().alloc(order)?;
    NonNull::new((frame as u64 * PAGE) as *mut u8)
}

/// Gives a run back.
///
/// # Safety
///
/// `at` and `order` are those of an `alloc`, and nothing refers to the memory any more.
pub unsafe fn free(at: NonNull<u8>, order: u8) {
    BUDDY.lock().give((at.as_ptr() as u64 / PAGE) as usize, usize::from(order));
}

/// Frames not handed out.
pub fn free_count() -> usize {
    BUDDY.lock().free
}

/// Lets `n` more allocations succeed and then none; `None` takes the limit away. For tests.
pub fn limit(n: Option<u32>) {
    BUDGET.store(n.map_or(-1, i64::from), Ordering::Release);
}

/// The physical address of memory that is mapped at its own address, which all of it is.
pub fn hpa(at: NonNull<u8>) -> Hpa {
    Hpa::of_entry(at.as_ptr() as u64).checked_add(at.as_ptr() as u64 % PAGE).expect("a physical address")
}

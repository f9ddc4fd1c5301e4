//! Memory: physical frames, the heap, page tables, stacks. All memory is mapped at its own address.

pub mod frames;
pub mod heap;
pub mod paging;
pub mod stacks;

use core::ops::Range;
use core::ptr::NonNull;

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __boot_stack_guard: u8;
}

macro_rules! span {
    ($start:ident, $end:ident) => {
        &raw const $start as u64..&raw const $end as u64
    };
}

/// Where the kernel's image stands.
pub fn image() -> Range<u64> {
    span!(__image_start, __image_end)
}

/// The image's code.
pub fn text() -> Range<u64> {
    span!(__text_start, __text_end)
}

/// The image's constants.
pub fn rodata() -> Range<u64> {
    span!(__rodata_start, __rodata_end)
}

/// The image's variables, the boot stack and its guard page.
pub fn data() -> Range<u64> {
    span!(__data_start, __data_end)
}

/// The page below the boot stack.
pub fn boot_stack_guard() -> u64 {
    &raw const __boot_stack_guard as u64
}

/// The heap gets a sixteenth of what is free, within these bounds.
const HEAP: Range<usize> = 4 << 20..64 << 20;

/// Frames, heap, page tables.
///
/// # Safety
///
/// Called once, on the boot processor, on the first page tables.
pub unsafe fn init() {
    // SAFETY: the caller's promise.
    unsafe { frames::init() };
    let bytes = (frames::free_count() * vtd::PAGE as usize / 16).clamp(HEAP.start, HEAP.end);
    let order = (bytes / vtd::PAGE as usize).ilog2() as u8;
    let heap: NonNull<u8> = frames::alloc_unzeroed(order).expect("no memory for the heap");
    // SAFETY: just handed out, and never given back.
    unsafe { heap::claim(heap.as_ptr(), (vtd::PAGE as usize) << order) };
    // SAFETY: the boot processor's first and only call; the tables map what the first ones did and more.
    unsafe { paging::init() };
    // SAFETY: the new tables map all memory.
    unsafe { frames::init_high() };
}

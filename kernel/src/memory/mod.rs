//! Memory: the loader's map, physical frames, the heap, page tables.

pub mod heap;

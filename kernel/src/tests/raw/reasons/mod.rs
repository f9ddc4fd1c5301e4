//! Each fault reason that legacy tables can have. Every case starts from a working state, spoils one thing, and sees
//! the DMA stopped and recorded; put right, it works again. Nothing is cached in between: some units, QEMU's among
//! them, say nothing of a fault on a cached translation.

mod context;
mod pages;
mod root;

/// A reason: its code and the specification's name for it.
#[derive(Clone, Copy)]
pub struct Why {
    pub code: u8,
    pub name: &'static str,
}

const fn why(code: u8, name: &'static str) -> Why {
    Why { code, name }
}

pub const ROOT_ABSENT: Why = why(0x01, "LRT.2");
pub const CONTEXT_ABSENT: Why = why(0x02, "LCT.2");
pub const CONTEXT_UNUSABLE: Why = why(0x03, "LCT.4");
pub const BEYOND_WIDTH: Why = why(0x04, "LGN.1");
pub const NO_WRITE: Why = why(0x05, "LGN.2");
pub const NO_READ: Why = why(0x06, "LGN.3");
pub const PAGES_UNREADABLE: Why = why(0x07, "LSS.1");
pub const ROOT_UNREADABLE: Why = why(0x08, "LRT.1");
pub const CONTEXT_UNREADABLE: Why = why(0x09, "LCT.1");
pub const ROOT_RESERVED: Why = why(0x0a, "LRT.3");
pub const CONTEXT_RESERVED: Why = why(0x0b, "LCT.3");
pub const PAGES_RESERVED: Why = why(0x0c, "LSS.2");
pub const INTERRUPT_RANGE: Why = why(0x0e, "LGN.4");
/// What a unit with scalable mode may say instead, in legacy tables too.
pub const INTERRUPT_RANGE_SCALABLE: Why = why(0x87, "SGN.8");

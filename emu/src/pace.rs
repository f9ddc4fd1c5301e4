//! How long a unit takes over things, in its own steps, and in which order it gets them done.

/// A unit makes one step at each register access and those that [`Unit::step`](crate::Unit::step) asks for. Everything is
/// public: start from one of the three and change what the test is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pace {
    /// A register write returns only when nothing more comes of it.
    pub immediate: bool,
    /// Fewest and most steps from a write of GCMD, PMEN, CCMD or IOTLB to its completion.
    pub command: (u32, u32),
    /// Fewest and most steps that a descriptor takes once its turn has come.
    pub descriptor: (u32, u32),
    /// Descriptors fetched in a step.
    pub fetch: u32,
    /// Most descriptors that are fetched and not completed.
    pub in_flight: u32,
    /// Descriptors overtake each other wherever 6.5.2.12 lets them; without, they overtake device-TLB invalidations that are on
    /// their way, and nothing else.
    pub disorder: bool,
    /// ITags: most device-TLB invalidations on their way at a time, 1 to 32.
    pub tags: u8,
    /// Nanoseconds after which a device-TLB invalidation has timed out.
    pub timeout: u64,
    /// Fewest and most steps that a page request waits at the unit before it comes to the queue; a wait with PD brings those
    /// about that have come before (7.7).
    pub page_request: (u32, u32),
    /// Of the choices that the ranges leave.
    pub seed: u64,
}

impl Pace {
    /// Everything within the register write, as emulators do it.
    pub fn at_once() -> Self {
        Pace { immediate: true, ..Pace::prompt() }
    }
    /// Everything in order, one step later.
    pub fn prompt() -> Self {
        Pace {
            immediate: false,
            command: (0, 0),
            descriptor: (0, 0),
            fetch: 64,
            in_flight: 64,
            disorder: false,
            tags: 32,
            timeout: 50_000_000,
            page_request: (0, 0),
            seed: 0,
        }
    }
    /// Late, and in any order that is allowed.
    pub fn slow(seed: u64) -> Self {
        Pace {
            command: (0, 20),
            descriptor: (0, 12),
            fetch: 3,
            in_flight: 16,
            disorder: true,
            tags: 4,
            page_request: (0, 20),
            seed,
            ..Pace::prompt()
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Pace::prompt()
    }
}

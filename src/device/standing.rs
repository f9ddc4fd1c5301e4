//! How a member of a group stands: whether its own translation cache is on, whether it is blocked apart from its group, and
//! whether it is there at all. Read without a lock.

use crate::host::sync::{AtomicU32, Ordering};
use crate::hw::descriptors::Throttle;
use bitflags::bitflags;

bitflags! {
    /// What is the matter with a member. Only who may change its group's attachment changes it, but for `SUSPECT` and `GONE`,
    /// which anybody sets.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Matter: u32 {
        /// Its translation cache is on.
        const CACHING = 1 << 31;
        /// The host trusts it with translated addresses.
        const TRUSTED = 1 << 30;
        /// It is blocked apart from its group: none of its entries is present, and it is in no domain's tags.
        const HELD = 1 << 29;
        /// Because it did not answer an invalidation.
        const QUARANTINED = 1 << 28;
        /// It did not answer an invalidation, or is gone, and its owner has not been told.
        const SUSPECT = 1 << 27;
        /// It was taken out: nothing is there to be written to or waited for.
        const GONE = 1 << 26;
    }
}

/// How a member stands, and how its translation cache is invalidated where that is on.
#[derive(Default)]
pub(crate) struct Standing(AtomicU32);

impl Standing {
    const PFSID: u32 = 0xffff;
    const MIP: u32 = 0x1f << 16;

    fn read(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn is(&self, what: Matter) -> bool {
        self.read() & what.bits() != 0
    }

    pub(crate) fn set(&self, what: Matter) {
        self.0.fetch_or(what.bits(), Ordering::AcqRel);
    }

    /// Says whether any of it was set.
    pub(crate) fn clear(&self, what: Matter) -> bool {
        self.0.fetch_and(!what.bits(), Ordering::AcqRel) & what.bits() != 0
    }

    /// How to invalidate its translation cache; `None` where that is off.
    pub(crate) fn throttle(&self) -> Option<Throttle> {
        let v = self.read();
        let on = v & Matter::CACHING.bits() != 0;
        on.then_some(Throttle { pfsid: v as u16, mip: ((v & Self::MIP) >> 16) as u8 })
    }

    /// Its translation cache is on, and invalidated so; or it is off.
    pub(crate) fn set_cache(&self, how: Option<Throttle>) {
        match how {
            Some(t) => {
                let bits = u32::from(t.pfsid) | u32::from(t.mip) << 16 & Self::MIP;
                // Off meanwhile: nobody else turns it on, and half a throttle is nobody's.
                self.0.fetch_and(!(Self::PFSID | Self::MIP), Ordering::AcqRel);
                self.0.fetch_or(bits, Ordering::AcqRel);
                self.set(Matter::CACHING);
            }
            None => drop(self.clear(Matter::CACHING)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_and_what_is_the_matter_are_kept_apart() {
        let s = Standing::default();
        assert_eq!(s.throttle(), None);
        s.set(Matter::TRUSTED | Matter::GONE);
        for t in [Throttle { pfsid: 0xffff, mip: 0x1f }, Throttle { pfsid: 0x1234, mip: 0 }, Throttle::NONE] {
            s.set_cache(Some(t));
            assert_eq!(s.throttle(), Some(t));
        }
        s.set_cache(None);
        assert_eq!(s.throttle(), None);
        assert!(s.is(Matter::TRUSTED) && s.is(Matter::GONE) && !s.is(Matter::HELD));
        assert!(s.clear(Matter::GONE) && !s.clear(Matter::GONE) && s.is(Matter::TRUSTED));
    }
}

//! Locks that mask interrupts and have a rank, and atomics. No other module names `spin` or `core::sync::atomic`.
//!
//! A lock is held for memory operations only, never over a wait or a call into the host's handlers (design rule 6).

use super::platform::Platform;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

pub(crate) use plain::*;

/// The atomics of the machine; under `cfg(loom)` those of `loom`, which tries every order that the language allows
/// (tests/loom). Nothing else of the driver differs there.
#[cfg(not(loom))]
mod plain {
    use super::{Site, strong};
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
    pub(super) use spin::mutex::{SpinMutex as Mutex, SpinMutexGuard as MutexGuard};

    /// Words in a frame of 4 KiB.
    pub(crate) const WORDS: usize = 512;

    /// A dword that hardware writes. There are `DWORDS` in a word of memory.
    pub(crate) type Dword = AtomicU32;
    pub(crate) const DWORDS: usize = 2;

    /// The order of a load, a store or an exchange at its site.
    #[inline(always)]
    pub(crate) const fn order(site: Site) -> Ordering {
        strong(site)
    }

    /// A fence of its site's order.
    #[inline(always)]
    pub(crate) fn fence_at(site: Site) {
        fence(strong(site));
    }
}

#[cfg(loom)]
mod plain {
    use super::{Site, strong};
    pub(super) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

    /// A ring of four slots.
    pub(crate) const WORDS: usize = 8;

    /// One of `loom`'s words, of which half is used.
    #[repr(transparent)]
    pub(crate) struct Dword(AtomicU64);
    pub(crate) const DWORDS: usize = 1;

    impl Dword {
        pub(crate) fn load(&self, order: Ordering) -> u32 {
            self.0.load(order) as u32
        }

        pub(crate) fn store(&self, v: u32, order: Ordering) {
            self.0.store(v.into(), order);
        }
    }

    /// `loom`'s lock, with the interface of `spin`'s.
    pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|e| e.into_inner())
        }

        pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }

        pub(super) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(|e| e.into_inner())
        }
    }

    std::thread_local! {
        /// The site that is relaxed, to see that something fails.
        pub(crate) static WEAK: core::cell::Cell<Option<Site>> = const { core::cell::Cell::new(None) };
    }

    pub(crate) fn order(site: Site) -> Ordering {
        if WEAK.get() == Some(site) { Ordering::Relaxed } else { strong(site) }
    }

    pub(crate) fn fence_at(site: Site) {
        if WEAK.get() != Some(site) {
            fence(strong(site));
        }
    }
}
/// Where the invalidation queue and whose turn it is need an order between memory accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Site {
    /// What was put into the ring, before the tail that shows it.
    Publish,
    /// A status dword that hardware wrote, before what hardware did by then.
    Completion,
    /// Another CPU saw the completion, and says so in the ticket's fate.
    FateStore,
    /// The fate, before what the other CPU saw.
    FateLoad,
    /// Whose turn it is, before what was done in the turn before.
    TurnTaken,
    /// What was done in one's turn, before it is given up.
    TurnGiven,
}

const fn strong(site: Site) -> Ordering {
    match site {
        Site::Publish | Site::FateStore | Site::TurnGiven => Ordering::Release,
        Site::Completion | Site::FateLoad | Site::TurnTaken => Ordering::Acquire,
    }
}

/// A value that is set once and read without a lock.
pub(crate) use spin::Once;

/// The order in which locks may be taken: only towards higher ranks. Checked in debug builds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Rank {
    /// Who owns which group.
    Groups = 0,
    /// One address space: its tables, its cache tags.
    Domain = 1,
    /// One unit's root and context tables and domain ids.
    Entries = 2,
    /// One unit's invalidation queue: slots and tail.
    Queue = 3,
    /// One unit's fault records.
    Faults = 4,
    /// Leaf locks under which nothing else is taken.
    Leaf = 5,
}

/// A spin lock that masks interrupts while it is held.
pub(crate) struct Lock<T> {
    rank: Rank,
    inner: Mutex<T>,
}

impl<T> Lock<T> {
    pub(crate) fn new(rank: Rank, value: T) -> Self {
        Lock { rank, inner: Mutex::new(value) }
    }

    pub(crate) fn lock<'a, P: Platform>(&'a self, platform: &'a P) -> Guard<'a, T, P> {
        let irq = platform.irq_save();
        ranks::enter(platform, self.rank);
        let rank = Some(self.rank);
        Guard { inner: self.inner.lock(), _restore: Restore { rank, irq, platform, here: PhantomData } }
    }

    /// The same where nobody holds the lock; never waits, and so may be called whatever this CPU holds: after a panic, too.
    pub(crate) fn try_lock<'a, P: Platform>(&'a self, platform: &'a P) -> Option<Guard<'a, T, P>> {
        let irq = platform.irq_save();
        match self.inner.try_lock() {
            Some(inner) => Some(Guard { inner, _restore: Restore { rank: None, irq, platform, here: PhantomData } }),
            None => {
                platform.irq_restore(irq);
                None
            }
        }
    }

    /// The value, where no other reference can exist.
    pub(crate) fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

/// The held lock; dropping it unlocks (first field), then puts the interrupt mask back (second).
pub(crate) struct Guard<'a, T, P: Platform> {
    inner: MutexGuard<'a, T>,
    _restore: Restore<'a, P>,
}

struct Restore<'a, P: Platform> {
    /// `None` where the lock came without a wait, which no order of locks can make a dead one.
    rank: Option<Rank>,
    irq: P::Irq,
    platform: &'a P,
    /// The mask belongs to this CPU: a guard does not change threads.
    here: PhantomData<*const ()>,
}

impl<P: Platform> Drop for Restore<'_, P> {
    fn drop(&mut self) {
        if let Some(rank) = self.rank {
            ranks::leave(self.platform, rank);
        }
        self.platform.irq_restore(self.irq);
    }
}

impl<T, P: Platform> Deref for Guard<'_, T, P> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T, P: Platform> DerefMut for Guard<'_, T, P> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(all(debug_assertions, not(loom)))]
mod ranks {
    use super::{AtomicU32, Ordering, Platform, Rank};

    /// One mask of held ranks a CPU. Numbers beyond share a slot and are not checked.
    static HELD: [AtomicU32; 1024] = [const { AtomicU32::new(0) }; 1024];

    pub(super) fn enter(platform: &impl Platform, rank: Rank) {
        let Some(held) = HELD.get(platform.cpu() as usize) else { return };
        let before = held.fetch_or(1 << rank as u8, Ordering::Relaxed);
        debug_assert!(before >> rank as u8 == 0, "lock of rank {rank:?} taken while holding {before:#b}");
    }

    pub(super) fn leave(platform: &impl Platform, rank: Rank) {
        if let Some(held) = HELD.get(platform.cpu() as usize) {
            held.fetch_and(!(1 << rank as u8), Ordering::Relaxed);
        }
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
mod ranks {
    use super::{Platform, Rank};

    pub(super) fn enter(_: &impl Platform, _: Rank) {}
    pub(super) fn leave(_: &impl Platform, _: Rank) {}
}

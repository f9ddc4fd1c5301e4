//! Feature `observe`, for tests alone: whoever stands in for the hardware is called around every store that hardware may
//! read, and may look at memory, as the hardware may, before it and after it. Without the feature nothing is left of it.

/// A store of one or two words to memory that hardware may read, about to happen or done.
#[cfg(any(test, feature = "observe"))]
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// Where the first word is, in the memory that `Platform::alloc` gave.
    pub at: usize,
    /// What stands there, or stood.
    pub old: &'a [u64],
    /// What will stand there, or does.
    pub new: &'a [u64],
    /// It has happened. One that was announced may be given up, where hardware changed the word meanwhile.
    pub done: bool,
}

#[cfg(any(test, feature = "observe"))]
mod on {
    use super::Store;
    use crate::host::sync::{AtomicU64, Once, Ordering};

    static OBSERVER: Once<fn(&Store<'_>)> = Once::new();

    /// Has `f` called before and after every store of the driver that hardware may read, on the thread that stores. The first
    /// caller in a process has its way; says whether that was this one. `f` must not call the driver.
    pub fn observe(f: fn(&Store<'_>)) -> bool {
        let mut first = false;
        OBSERVER.call_once(|| {
            first = true;
            f
        });
        first
    }

    /// A store that was announced.
    pub(crate) struct Announced<const N: usize> {
        at: usize,
        old: [u64; N],
        new: [u64; N],
    }

    /// Announces the store of `new` to the words from `at` on.
    #[inline(always)]
    pub(crate) fn announce<const N: usize>(at: [&AtomicU64; N], new: [u64; N]) -> Announced<N> {
        let old = at.map(|w| w.load(Ordering::Relaxed));
        let announced = Announced { at: at.first().map_or(0, |w| w.as_ptr() as usize), old, new };
        announced.tell(false);
        announced
    }

    impl<const N: usize> Announced<N> {
        /// It has happened.
        #[inline(always)]
        pub(crate) fn done(self) {
            self.tell(true);
        }

        fn tell(&self, done: bool) {
            if let Some(f) = OBSERVER.get() {
                f(&Store { at: self.at, old: &self.old, new: &self.new, done });
            }
        }
    }
}

#[cfg(not(any(test, feature = "observe")))]
mod on {
    use crate::host::sync::AtomicU64;

    pub(crate) struct Announced;

    #[inline(always)]
    pub(crate) fn announce<const N: usize>(_: [&AtomicU64; N], _: [u64; N]) -> Announced {
        Announced
    }

    impl Announced {
        #[inline(always)]
        pub(crate) fn done(self) {}
    }
}

pub(crate) use on::announce;
#[cfg(any(test, feature = "observe"))]
pub use on::observe;

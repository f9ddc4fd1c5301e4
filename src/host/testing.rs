//! A host for the tests of all floors: frames from the heap (physical address = address), counted, and known one by one,
//! so that a leak, a double free, or hardware that would read what never left the caches is seen; registers in an array,
//! with a hook for writes.

use super::address::{DeviceId, Hpa, Nanos, UnitId};
use super::observe::{Store, observe};
use super::platform::{Event, Identity, Message, Platform, PlatformError, Registers};
use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::boxed::Box;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::vec::Vec;

/// Words that memory holds until a flush: two bits that every format reads as present, and an address of nobody.
pub(crate) const GARBAGE: u64 = 0x000f_dead_beef_d003;

type OnStore = Box<dyn FnMut(&Store<'_>)>;

std::thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static WATCHER: RefCell<Option<OnStore>> = const { RefCell::new(None) };
}

/// Tells this thread's watcher of a store.
fn stored(store: &Store<'_>) {
    if WATCHED.with(Cell::get) {
        WATCHER.with(|w| {
            if let Some(f) = w.borrow_mut().as_mut() {
                f(store);
            }
        });
    }
}

/// Runs `body` with `watcher` called around every store that hardware may see. The watcher must not store.
pub(crate) fn watch_stores<R>(watcher: impl FnMut(&Store<'_>) + 'static, body: impl FnOnce() -> R) -> R {
    observe(stored);
    WATCHER.with(|w| *w.borrow_mut() = Some(Box::new(watcher)));
    WATCHED.with(|w| w.set(true));
    let r = body();
    WATCHED.with(|w| w.set(false));
    WATCHER.with(|w| *w.borrow_mut() = None);
    r
}

/// The same, called once after each store.
pub(crate) fn watch<R>(mut watcher: impl FnMut() + 'static, body: impl FnOnce() -> R) -> R {
    watch_stores(
        move |s| {
            if s.done {
                watcher()
            }
        },
        body,
    )
}

/// What the host was asked for.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Frames of 4 KiB out now.
    pub(crate) frames: u64,
    /// Successful allocations so far.
    pub(crate) allocs: u64,
    /// Cache lines flushed.
    pub(crate) lines: u64,
    /// Fences.
    pub(crate) fences: u64,
    /// Calls of `wake`.
    pub(crate) wakes: u64,
}

struct Frame {
    order: u8,
    /// What memory holds as a device without snooping reads it; empty unless kept.
    memory: Vec<u64>,
}

#[derive(Default)]
struct Inner {
    counts: Counts,
    frames: HashMap<usize, Frame>,
    flushed: Vec<(usize, usize)>,
    fail_after: Option<u64>,
    keep_memory: bool,
    now: u64,
    units: HashMap<u64, Regs>,
    config: HashMap<(DeviceId, u16), u32>,
    on_relax: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// The host. Clones share everything.
#[derive(Clone, Default)]
pub(crate) struct Host(Arc<Mutex<Inner>>);

impl Host {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A host that also keeps what memory holds behind the caches, for incoherent units. Slower.
    pub(crate) fn incoherent() -> Self {
        let host = Self::default();
        host.inner().keep_memory = true;
        host
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// Lets `n` allocations succeed and fails all further ones; `None` lets all succeed.
    pub(crate) fn fail_after(&self, n: Option<u64>) {
        self.inner().fail_after = n;
    }

    /// The registers at `base`, made where there are none yet.
    pub(crate) fn unit(&self, base: u64) -> Regs {
        self.inner().units.entry(base).or_default().clone()
    }

    /// Sets 32 bits of configuration space; all else reads as all ones.
    pub(crate) fn set_config(&self, d: DeviceId, at: u16, v: u32) {
        self.inner().config.insert((d, at), v);
    }

    /// Sets bits of a word as hardware does, in one locked access.
    pub(crate) fn hardware_or(&self, at: u64, bits: u64) {
        assert!(self.read(at).is_some());
        // SAFETY: within a live frame, aligned; written as an atomic.
        unsafe { AtomicU64::from_ptr(at as *mut u64) }.fetch_or(bits, Ordering::AcqRel);
    }

    /// Writes an aligned 32-bit word as hardware does.
    pub(crate) fn hardware_write32(&self, at: u64, v: u32) {
        assert!(at.is_multiple_of(4) && self.read(at & !7).is_some());
        // SAFETY: within a live frame, aligned; written as an atomic.
        unsafe { AtomicU32::from_ptr(at as *mut u32) }.store(v, Ordering::Release);
    }

    /// Has `f` called in every turn of every wait, with time stood still.
    pub(crate) fn on_relax(&self, f: impl Fn() + Send + Sync + 'static) {
        self.inner().on_relax = Some(Arc::new(f));
    }

    /// The time, without letting any pass.
    pub(crate) fn time(&self) -> u64 {
        self.inner().now
    }

    fn word(&self, at: u64, memory: bool) -> Option<u64> {
        let inner = self.inner();
        let (page, i) = (at as usize & !4095, (at as usize & 4095) / 8);
        // Frames of higher orders are known by their first page.
        let (&base, frame) = match inner.frames.get_key_value(&page) {
            Some(found) => found,
            None => inner.frames.iter().find(|(b, f)| (**b..**b + (4096 << f.order)).contains(&page))?,
        };
        if memory && inner.keep_memory {
            return frame.memory.get((page - base) / 8 + i).copied();
        }
        // SAFETY: within a live frame, aligned; read as an atomic.
        Some(unsafe { AtomicU64::from_ptr((page + i * 8) as *mut u64) }.load(Ordering::Acquire))
    }

    /// The word at a physical address, as a snooping device reads it; `None` outside the frames handed out.
    pub(crate) fn read(&self, at: u64) -> Option<u64> {
        self.word(at, false)
    }

    /// The word as a device reads it that does not snoop: what left the caches and was fenced.
    pub(crate) fn read_memory(&self, at: u64) -> Option<u64> {
        self.word(at, true)
    }
}

// SAFETY: frames come zeroed from the heap, aligned to their size, and stay until `free`; `hpa` and `ptr` are the identity.
unsafe impl Platform for Host {
    type Registers = Regs;
    type Irq = ();

    fn registers(&self, base: Hpa, len: u64) -> Result<Regs, PlatformError> {
        let _own = heap::spare();
        let regs = self.inner().units.get(&base.get()).cloned().ok_or(PlatformError)?;
        Ok(Regs { mapped: len as u32, ..regs })
    }

    fn alloc(&self, order: u8, _: Option<u32>) -> Option<NonNull<u8>> {
        let _own = heap::spare();
        let mut inner = self.inner();
        if let Some(left) = &mut inner.fail_after {
            *left = left.checked_sub(1)?;
        }
        let size = 4096usize << order;
        let layout = Layout::from_size_align(size, size).ok()?;
        // SAFETY: the layout has a size.
        let at = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        inner.counts.frames += 1 << order;
        inner.counts.allocs += 1;
        let memory = if inner.keep_memory { std::vec![GARBAGE; size / 8] } else { Vec::new() };
        inner.frames.insert(at.as_ptr() as usize, Frame { order, memory });
        Some(at)
    }

    unsafe fn free(&self, at: NonNull<u8>, order: u8) {
        let _own = heap::spare();
        let mut inner = self.inner();
        let frame = inner.frames.remove(&(at.as_ptr() as usize)).expect("freed twice, or never allocated");
        assert_eq!(frame.order, order);
        inner.counts.frames -= 1 << order;
        let size = 4096usize << order;
        // SAFETY: from `alloc` with this layout, and freed once: the line above.
        unsafe { dealloc(at.as_ptr(), Layout::from_size_align(size, size).expect("as in alloc")) }
    }

    fn hpa(&self, at: NonNull<u8>) -> Hpa {
        Hpa::new(at.as_ptr() as u64).expect("user addresses have 47 bits")
    }

    fn ptr(&self, at: Hpa) -> NonNull<u8> {
        NonNull::new(at.get() as *mut u8).expect("no frame is at 0")
    }

    fn flush(&self, at: NonNull<u8>, len: usize) {
        let _own = heap::spare();
        let mut inner = self.inner();
        let (first, end) = (at.as_ptr() as usize / 64, (at.as_ptr() as usize + len).div_ceil(64));
        inner.counts.lines += (end - first) as u64;
        inner.flushed.push((first * 64, end * 64));
    }

    fn fence(&self) {
        let _own = heap::spare();
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.counts.fences += 1;
        for (first, end) in inner.flushed.drain(..) {
            let page = first & !4095;
            if let Some(frame) = inner.frames.get_mut(&page).filter(|f| !f.memory.is_empty()) {
                for at in (first..end).step_by(8) {
                    // SAFETY: within the frame, which is live.
                    let v = unsafe { AtomicU64::from_ptr(at as *mut u64) }.load(Ordering::Acquire);
                    frame.memory[(at - page) / 8] = v;
                }
            }
        }
    }

    fn irq_save(&self) {}
    fn irq_restore(&self, (): ()) {}

    fn now(&self) -> Nanos {
        let mut inner = self.inner();
        inner.now += 100;
        Nanos(inner.now)
    }

    /// Time passes.
    fn relax(&self, _: UnitId, _: Nanos) {
        let _own = heap::spare();
        std::thread::yield_now();
        let f = {
            let mut inner = self.inner();
            inner.now += 1_000_000;
            inner.on_relax.clone()
        };
        if let Some(f) = f {
            f();
        }
    }

    fn wake(&self) {
        self.inner().counts.wakes += 1;
    }

    /// A number for the thread.
    fn cpu(&self) -> u32 {
        let _own = heap::spare();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        std::thread_local!(static MINE: u32 = NEXT.fetch_add(1, Ordering::Relaxed) as u32);
        MINE.with(|n| *n)
    }

    fn config_read(&self, d: DeviceId, at: u16) -> Result<u32, PlatformError> {
        Ok(self.inner().config.get(&(d, at)).copied().unwrap_or(u32::MAX))
    }

    fn config_write(&self, d: DeviceId, at: u16, v: u32) -> Result<(), PlatformError> {
        let _own = heap::spare();
        self.set_config(d, at, v);
        Ok(())
    }

    fn peek(&self, at: Hpa) -> Option<u64> {
        self.read(at.get())
    }

    fn event(&self, unit: UnitId, e: Event) -> Result<Message, PlatformError> {
        Ok(Message { address: 0xfee0_0000, data: u32::from(unit.0) << 2 | e as u32 })
    }

    fn identity(&self) -> Identity {
        Identity::default()
    }
}

type OnWrite = Arc<dyn Fn(&Regs, u32, u64) + Send + Sync>;

/// A unit's registers: 24 KiB of 32-bit words, as far as any capability lets them reach. Clones share everything but how
/// much of them is mapped.
#[derive(Clone)]
pub(crate) struct Regs {
    words: Arc<Mutex<Vec<u32>>>,
    on_write: Arc<Mutex<Option<OnWrite>>>,
    reads: Arc<AtomicU64>,
    mapped: u32,
}

impl Default for Regs {
    fn default() -> Self {
        let words = Arc::new(Mutex::new(std::vec![0; 6144]));
        Regs { words, on_write: Arc::default(), reads: Arc::default(), mapped: 0x6000 }
    }
}

impl Regs {
    /// Sets 32 bits without telling the hook.
    pub(crate) fn set32(&self, at: u32, v: u32) {
        self.words.lock().expect("no panic under the lock")[at as usize / 4] = v;
    }

    /// Sets 64 bits without telling the hook.
    pub(crate) fn set64(&self, at: u32, v: u64) {
        let mut words = self.words.lock().expect("no panic under the lock");
        words[at as usize / 4] = v as u32;
        words[at as usize / 4 + 1] = (v >> 32) as u32;
    }

    /// Reads 32 bits without being counted.
    pub(crate) fn get32(&self, at: u32) -> u32 {
        self.words.lock().expect("no panic under the lock")[at as usize / 4]
    }

    /// Has `f` called in place of every write of the driver: with the registers, the offset and the value. What it does
    /// not store through `set32` and `set64` is not stored.
    pub(crate) fn on_write(&self, f: impl Fn(&Regs, u32, u64) + Send + Sync + 'static) {
        *self.on_write.lock().expect("no panic under the lock") = Some(Arc::new(f));
    }

    /// How often the driver has read a register.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn hook(&self) -> Option<OnWrite> {
        self.on_write.lock().expect("no panic under the lock").clone()
    }

    fn check(&self, at: u32, size: u32) {
        assert!(at.is_multiple_of(size) && at + size <= self.mapped, "no register at {at:#x} of {:#x}", self.mapped);
    }
}

impl Registers for Regs {
    fn read32(&self, at: u32) -> u32 {
        self.check(at, 4);
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.get32(at)
    }
    fn write32(&self, at: u32, v: u32) {
        let _own = heap::spare();
        self.check(at, 4);
        match self.hook() {
            Some(f) => f(self, at, u64::from(v)),
            None => self.set32(at, v),
        }
    }
    fn read64(&self, at: u32) -> u64 {
        self.check(at, 8);
        self.reads.fetch_add(1, Ordering::Relaxed);
        let words = self.words.lock().expect("no panic under the lock");
        u64::from(words[at as usize / 4]) | u64::from(words[at as usize / 4 + 1]) << 32
    }
    fn write64(&self, at: u32, v: u64) {
        let _own = heap::spare();
        self.check(at, 8);
        match self.hook() {
            Some(f) => f(self, at, v),
            None => self.set64(at, v),
        }
    }
}

/// The heap of the tests, which ends when a test says so, for the thread that says it; what the stand-ins do in between has
/// memory always.
pub(crate) mod heap {
    use core::cell::Cell;
    use std::alloc::{GlobalAlloc, Layout, System};

    std::thread_local! {
        /// Allocations that still succeed.
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        static SPARED: Cell<u32> = const { Cell::new(0) };
    }

    struct Heap;

    #[global_allocator]
    static HEAP: Heap = Heap;

    fn ended() -> bool {
        LEFT.with(|left| match left.get() {
            Some(n) if SPARED.with(Cell::get) == 0 => {
                left.set(Some(n.saturating_sub(1)));
                n == 0
            }
            _ => false,
        })
    }

    // SAFETY: the system's allocator, but for calls that fail.
    unsafe impl GlobalAlloc for Heap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's promise.
            if ended() { core::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
        }
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's promise.
            if ended() { core::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
        }
        unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: the caller's promise.
            if ended() { core::ptr::null_mut() } else { unsafe { System.realloc(at, layout, size) } }
        }
        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(at, layout) }
        }
    }

    /// Runs `body` with a heap that ends after `n` allocations.
    pub(crate) fn ending<R>(n: u64, body: impl FnOnce() -> R) -> R {
        LEFT.with(|left| left.set(Some(n)));
        let result = body();
        LEFT.with(|left| left.set(None));
        result
    }

    /// As long as it lives, allocations of this thread succeed and do not count.
    pub(crate) struct Spare;

    pub(crate) fn spare() -> Spare {
        SPARED.with(|n| n.set(n.get() + 1));
        Spare
    }

    impl Drop for Spare {
        fn drop(&mut self) {
            SPARED.with(|n| n.set(n.get() - 1));
        }
    }
}

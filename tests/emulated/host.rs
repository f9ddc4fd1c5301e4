//! A host for the driver on an emulated machine: frames from an arena, registers, cache flushes and configuration space of
//! the machine, its clock, and interrupts that arrive wherever the driver has not masked them.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vtd::{
    DeviceId, Event, Hpa, Identity, Message, Nanos, Platform, PlatformError, Registers, SourceId, Store, UnitId, Vtd,
};
use vtd_emu::{Machine, Memory, Profile, Size};

use crate::arena::{Arena, Physical};
use crate::features::{Watch, Wire};
use crate::heap;

pub type Driver = Vtd<Host>;

/// Where the first unit's registers are; each has 64 KiB.
pub const REGISTERS: u64 = 0xfed9_0000;
const WINDOW: u64 = 0x1_0000;

/// Where unit `n`'s registers are.
pub const fn base(n: usize) -> u64 {
    REGISTERS + n as u64 * WINDOW
}

/// What one turn of a wait takes on the simulated clock.
const TURN: u64 = 1000;

/// The host. Clones share everything.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    arena: Arc<Arena>,
    machine: Mutex<Machine<Physical>>,
    /// Who hears of interrupts.
    handler: Mutex<Option<Driver>>,
    trouble: Mutex<Trouble>,
    /// Accesses to registers so far.
    accesses: AtomicU64,
    /// Cache lines that were told to leave the CPU's caches so far.
    lines: AtomicU64,
    watches: Mutex<Vec<Watch>>,
}

pub type Around = Box<dyn FnMut(&mut Machine<Physical>) + Send>;

/// When something comes to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// After so many.
    pub after: u64,
    /// That one alone fails.
    pub once: bool,
}

impl Ends {
    /// After `n` there is no more.
    pub fn after(n: u64) -> Self {
        Ends { after: n, once: false }
    }

    /// Whether there is one more.
    pub fn take(&mut self) -> bool {
        let there = self.after != 0;
        if there {
            self.after -= 1;
        } else if self.once {
            self.after = u64::MAX;
        }
        there
    }
}

/// What goes wrong on purpose.
#[derive(Default)]
pub struct Trouble {
    /// When allocations of frames fail.
    pub frames: Option<Ends>,
    /// So many accesses to registers still reach a unit; then all of them are gone.
    pub accesses: Option<u64>,
    /// The platform has no messages to give.
    pub no_messages: bool,
    /// Called with the machine before and after every store, and in every turn of a wait.
    pub around: Option<Around>,
}

std::thread_local! {
    static HERE: RefCell<Option<Host>> = const { RefCell::new(None) };
    static MASKED: Cell<u32> = const { Cell::new(0) };
    static TURNS: Cell<u32> = const { Cell::new(0) };
}

fn observer(store: &Store<'_>) {
    HERE.with(|here| {
        if let Some(host) = &*here.borrow() {
            host.stored(store);
        }
    });
}

fn own<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(|e| e.into_inner())
}

impl Host {
    /// A host of an empty machine, whose stores this thread makes.
    pub fn new(seed: u64) -> Self {
        vtd::observe(observer);
        let arena = Arc::new(Arena::new());
        let machine = Machine::new(Physical(arena.clone()), seed);
        let host = Host(Arc::new(Inner {
            arena,
            machine: Mutex::new(machine),
            handler: Mutex::default(),
            trouble: Mutex::default(),
            accesses: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            watches: Mutex::default(),
        }));
        host.here();
        host
    }

    /// This thread works for this host.
    pub fn here(&self) {
        HERE.with(|here| *here.borrow_mut() = Some(self.clone()));
        MASKED.set(0);
    }

    pub fn machine(&self) -> MutexGuard<'_, Machine<Physical>> {
        own(&self.0.machine)
    }

    pub fn trouble(&self) -> MutexGuard<'_, Trouble> {
        own(&self.0.trouble)
    }

    pub fn arena(&self) -> &Arena {
        &self.0.arena
    }

    /// Cache lines that were told to leave the CPU's caches so far.
    pub fn lines(&self) -> u64 {
        self.0.lines.load(Ordering::Relaxed)
    }

    pub fn accesses(&self) -> u64 {
        self.0.accesses.load(Ordering::Relaxed)
    }

    /// What was exercised of unit `n`.
    pub fn seen(&self, n: usize) -> Vec<&'static str> {
        own(&self.0.watches).get(n).map_or(Vec::new(), |w| w.seen().collect())
    }

    /// Notes that something of unit `n` was exercised.
    pub fn note(&self, n: usize, feature: &'static str) {
        self.watch(n, |w| w.note(feature));
    }

    /// From now on what unit `n` is told is written down.
    pub fn listen(&self, n: usize) {
        self.watch(n, |w| w.wire = Some(Wire::default()));
    }

    /// What it was told.
    pub fn heard(&self, n: usize) -> Wire {
        let mut heard = Wire::default();
        self.watch(n, |w| heard = w.wire.take().unwrap_or_default());
        heard
    }

    fn watch(&self, n: usize, what: impl FnOnce(&mut Watch)) {
        let mut watches = own(&self.0.watches);
        if watches.len() <= n {
            watches.resize_with(n + 1, Watch::default);
        }
        what(&mut watches[n]);
    }

    /// Who hears of interrupts from now on. To be taken away before the driver is handed back.
    pub fn handler(&self, driver: Option<Driver>) {
        *own(&self.0.handler) = driver;
    }

    fn stored(&self, store: &Store<'_>) {
        let _own = heap::spare();
        let at = self.0.arena.hpa(store.at);
        let mut machine = self.machine();
        match (store.done, store.old, store.new) {
            (false, ..) => machine.storing(at),
            (true, &[old], &[new]) => machine.stored(at, old, new),
            (true, &[a, b], &[c, d]) => machine.stored_pair(at, [a, b], [c, d]),
            other => panic!("a store of another size: {other:x?}"),
        }
        self.look(&mut machine);
    }

    /// Devices ask now, where a story wants them to.
    fn look(&self, machine: &mut Machine<Physical>) {
        if let Some(around) = &mut self.trouble().around {
            around(machine);
        }
    }

    /// Delivers interrupts, unless this thread has masked them.
    pub fn interrupts(&self) {
        let _own = heap::spare();
        if MASKED.get() != 0 {
            return;
        }
        // A handler is not interrupted.
        MASKED.set(1);
        let driver = own(&self.0.handler).clone();
        for _ in 0..8 {
            let messages = self.machine().messages();
            if let Some(driver) = &driver {
                for m in &messages {
                    let event = match m.data & 3 {
                        0 => Event::Fault,
                        1 => Event::Invalidation,
                        _ => Event::PageRequest,
                    };
                    if m.address == MESSAGE {
                        driver.interrupt(UnitId((m.data >> 2) as u16), event);
                    }
                }
            }
            if messages.is_empty() {
                break;
            }
        }
        drop(driver);
        MASKED.set(0);
    }

    /// Whether an access to a register still reaches a unit.
    fn reaches(&self) -> bool {
        self.0.accesses.fetch_add(1, Ordering::Relaxed);
        match &mut self.trouble().accesses {
            None => true,
            Some(0) => false,
            Some(n) => {
                *n -= 1;
                true
            }
        }
    }
}

/// The address of the messages that the host hands out.
const MESSAGE: u64 = 0xfee0_0000;

// SAFETY: frames come zeroed from the arena, aligned to their size, and stay there; `hpa` and `ptr` add and subtract the same
// number; registers are the machine's.
unsafe impl Platform for Host {
    type Registers = Window;
    type Irq = ();

    fn registers(&self, base: Hpa, len: u64) -> Result<Window, PlatformError> {
        let _own = heap::spare();
        let unit = (base.get().checked_sub(REGISTERS).ok_or(PlatformError)? / WINDOW) as usize;
        let profile = self.machine().unit(unit).map(|u| u.profile().clone()).ok_or(PlatformError)?;
        if len > WINDOW {
            return Err(PlatformError);
        }
        Ok(Window { host: self.clone(), unit, profile, len })
    }

    fn alloc(&self, order: u8, _: Option<u32>) -> Option<NonNull<u8>> {
        let _own = heap::spare();
        if !self.trouble().frames.as_mut().is_none_or(Ends::take) {
            return None;
        }
        let at = self.0.arena.alloc(order)?;
        self.machine().allocated(self.0.arena.hpa(at.as_ptr() as usize), 4096 << order);
        Some(at)
    }

    unsafe fn free(&self, at: NonNull<u8>, order: u8) {
        let _own = heap::spare();
        self.machine().freed(self.0.arena.hpa(at.as_ptr() as usize), 4096 << order);
        self.0.arena.free(at, order);
    }

    fn hpa(&self, at: NonNull<u8>) -> Hpa {
        Hpa::new(self.0.arena.hpa(at.as_ptr() as usize)).expect("a low address")
    }

    fn ptr(&self, at: Hpa) -> NonNull<u8> {
        self.0.arena.ptr(at.get())
    }

    fn flush(&self, at: NonNull<u8>, len: usize) {
        let _own = heap::spare();
        let (first, last) = (at.as_ptr() as usize / 64, (at.as_ptr() as usize + len.max(1) - 1) / 64);
        self.0.lines.fetch_add((last - first + 1) as u64, Ordering::Relaxed);
        self.machine().flush(self.0.arena.hpa(at.as_ptr() as usize), len as u64);
    }

    fn fence(&self) {
        let _own = heap::spare();
        self.machine().fence();
    }

    fn irq_save(&self) {
        MASKED.set(MASKED.get() + 1);
    }

    fn irq_restore(&self, (): ()) {
        MASKED.set(MASKED.get() - 1);
        self.interrupts();
    }

    fn now(&self) -> Nanos {
        let _own = heap::spare();
        Nanos(self.machine().now())
    }

    fn relax(&self, _: UnitId, _: Nanos) {
        let _own = heap::spare();
        let mut machine = self.machine();
        machine.relax(TURN);
        self.look(&mut machine);
        drop(machine);
        self.interrupts();
        // Others may hold what this one waits for.
        TURNS.set(TURNS.get() + 1);
        if TURNS.get().is_multiple_of(16) {
            std::thread::yield_now();
        }
    }

    /// `Rig::settle` asks without being told.
    fn wake(&self) {}

    fn cpu(&self) -> u32 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        std::thread_local!(static MINE: u32 = NEXT.fetch_add(1, Ordering::Relaxed) as u32);
        MINE.with(|n| *n)
    }

    fn config_read(&self, d: DeviceId, at: u16) -> Result<u32, PlatformError> {
        let _own = heap::spare();
        let SourceId(source) = d.source;
        Ok(if d.segment == 0 { self.machine().config_read(source, at) } else { u32::MAX })
    }

    fn config_write(&self, d: DeviceId, at: u16, v: u32) -> Result<(), PlatformError> {
        let _own = heap::spare();
        if d.segment == 0 {
            self.machine().config_write(d.source.0, at, Size::Double, v);
        }
        Ok(())
    }

    fn peek(&self, at: Hpa) -> Option<u64> {
        self.machine().memory().read64(at.get())
    }

    fn event(&self, unit: UnitId, e: Event) -> Result<Message, PlatformError> {
        if self.trouble().no_messages {
            return Err(PlatformError);
        }
        Ok(Message { address: MESSAGE, data: u32::from(unit.0) << 2 | e as u32 })
    }

    fn identity(&self) -> Identity {
        // Errata come with processors.
        let spr = self.machine().unit(0).is_some_and(|u| u.profile().erratum_772415);
        Identity { cpu: if spr { 0x0008_06f8 } else { 0 }, ..Identity::default() }
    }
}

/// One unit's registers.
pub struct Window {
    host: Host,
    unit: usize,
    profile: Profile,
    len: u64,
}

impl Window {
    fn read(&self, at: u32, size: Size, bytes: u32) -> u64 {
        let _own = heap::spare();
        assert!(at.is_multiple_of(bytes) && u64::from(at + bytes) <= self.len, "{at:#x} of {:#x}", self.len);
        let there = self.host.reaches();
        let v = if there { self.host.machine().read(self.unit, at, size) } else { u64::MAX };
        self.host.watch(self.unit, |w| w.read(at, v));
        self.host.interrupts();
        v
    }

    fn write(&self, at: u32, size: Size, bytes: u32, v: u64) {
        let _own = heap::spare();
        assert!(at.is_multiple_of(bytes) && u64::from(at + bytes) <= self.len, "{at:#x} of {:#x}", self.len);
        if self.host.reaches() {
            let memory = Physical(self.host.0.arena.clone());
            self.host.watch(self.unit, |w| w.write(&self.profile, at, v, |at| memory.read64(at).unwrap_or(0)));
            self.host.machine().write(self.unit, at, size, v);
        }
        self.host.interrupts();
    }
}

impl Registers for Window {
    fn read32(&self, at: u32) -> u32 {
        self.read(at, Size::Double, 4) as u32
    }
    fn write32(&self, at: u32, v: u32) {
        self.write(at, Size::Double, 4, v.into());
    }
    fn read64(&self, at: u32) -> u64 {
        self.read(at, Size::Quad, 8)
    }
    fn write64(&self, at: u32, v: u64) {
        self.write(at, Size::Quad, 8, v);
    }
}

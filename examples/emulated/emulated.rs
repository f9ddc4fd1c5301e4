//! A host for the driver on an emulated machine (crate `vtd-emu`): one unit, one network card behind it, and this program's
//! own memory. The documentation's examples run on it, and the kernel shows on it what no unit of QEMU has.
//!
//! ```text
//! let host = Host::new(Profile::maximal());
//! let vtd = host.bring_up(Config::default())?;     // the driver, on, and everything blocked
//! host.read(None, iova)                            // the card asks for memory
//! ```
#![no_std]

extern crate alloc;

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::error::Error;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use spin::{Mutex, MutexGuard};
use vtd::dmar::Topology;
use vtd::{
    Config, DeviceId, Event, Group, Hpa, Identity, Message, Nanos, Owner, PAGE, Pasid, Platform, PlatformError,
    Registers, TakeOver, UnitId, Vtd,
};
use vtd_emu::{Blocked, Dma, Function, FunctionId, Machine, Memory, Size};

pub use vtd_emu::{Access, Pace, Probe, Profile, Seen};

/// The network card. It sends PASIDs of 20 bits.
pub const CARD: DeviceId = DeviceId::new(0, 0, 3, 0);

/// Where the unit's registers are.
const REGISTERS: u64 = 0xfed9_0000;
const WINDOW: u64 = 0x1_0000;

/// Numbers of hosts so far, which tell them apart in debug builds' checks, and from the CPUs of a kernel.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

/// What one turn of a wait takes on the machine's clock, in nanoseconds.
const TURN: u64 = 1000;

/// The memory that the machine reaches: what was allocated, at the addresses that it has in this program.
#[derive(Clone, Debug)]
pub struct Own(Arc<Mutex<Vec<(u64, u64)>>>);

impl Own {
    /// Whether all bytes are in memory that was allocated.
    fn holds(&self, at: u64, bytes: u64) -> bool {
        at.is_multiple_of(bytes) && self.0.lock().iter().any(|(first, len)| at >= *first && at - first < *len)
    }

    fn word(&self, at: u64) -> Option<&AtomicU64> {
        // SAFETY: aligned, in memory that is allocated and only used through atomic accesses while the machine may reach it.
        self.holds(at, 8).then(|| unsafe { AtomicU64::from_ptr(at as *mut u64) })
    }
}

impl Memory for Own {
    fn read64(&self, at: u64) -> Option<u64> {
        Some(self.word(at)?.load(SeqCst))
    }
    fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        self.word(at)?.store(v, SeqCst);
        Some(())
    }
    fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        // SAFETY: as for whole words.
        self.holds(at, 4).then(|| unsafe { AtomicU32::from_ptr(at as *mut u32) }.store(v, SeqCst))
    }
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        Some(self.word(at)?.compare_exchange(old, new, SeqCst, SeqCst).unwrap_or_else(|was| was))
    }
}

/// A machine whose unit has all tables and whose device has PASIDs; its driver, up; and the device's group, claimed: where most
/// examples begin.
pub fn ready() -> (Host, Vtd<Host>, Group<Host>) {
    let host = Host::new(Profile::maximal());
    let vtd = host.bring_up(Config::default()).expect("a sound machine");
    let group = vtd.group_of(CARD).and_then(|g| vtd.claim(g, Owner::HOST)).expect("the only device");
    (host, vtd, group)
}

/// The host. Clones are the same machine.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    machine: Mutex<Machine<Own>>,
    memory: Own,
    card: FunctionId,
    number: u32,
}

impl Host {
    /// A machine with a unit of this kind. Without interrupts: `Vtd::service` looks for faults.
    pub fn new(profile: Profile) -> Self {
        let memory = Own(Arc::default());
        let mut machine = Machine::new(memory.clone(), 1);
        machine.add_unit(profile);
        let card = machine.add_function(Function::new(CARD.source.0, 0).with_pasid(20));
        let number = 512 + NUMBERS.fetch_add(1, SeqCst) % 512;
        Host(Arc::new(Inner { machine: Mutex::new(machine), memory, card, number }))
    }

    /// The driver for it, that has touched nothing yet.
    pub fn driver(&self, config: Config) -> Result<Vtd<Host>, vtd::Error> {
        Vtd::new(self.clone(), Topology::from_table(&dmar())?, config)
    }

    /// The driver for it, up: everything is blocked.
    pub fn bring_up(&self, config: Config) -> Result<Vtd<Host>, vtd::Error> {
        let vtd = self.driver(config)?;
        vtd.bring_up(TakeOver::Disable)?;
        Ok(vtd)
    }

    /// The emulated machine itself.
    pub fn machine(&self) -> MutexGuard<'_, Machine<Own>> {
        self.0.machine.lock()
    }

    /// The card, as the machine knows it.
    pub fn card(&self) -> FunctionId {
        self.0.card
    }

    /// `pages` pages of memory in one piece, zeroed, for whoever wants some; never given back.
    pub fn memory(&self, pages: u64) -> Hpa {
        let order = pages.next_power_of_two().trailing_zeros() as u8;
        let at = self.alloc(order, None).expect("memory");
        self.hpa(at)
    }

    /// The word of memory at an address; none where there is no memory.
    pub fn word(&self, at: u64) -> Option<u64> {
        self.0.memory.read64(at)
    }

    /// The card reads 8 bytes, with a PASID or without.
    pub fn read(&self, pasid: Option<Pasid>, at: u64) -> Result<u64, NotDone> {
        let mut bytes = [0; 8];
        self.machine().dma_read(self.0.card, &dma(pasid, at), &mut bytes).map_err(NotDone)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The card writes 8 bytes.
    pub fn write(&self, pasid: Option<Pasid>, at: u64, v: u64) -> Result<(), NotDone> {
        self.machine().dma_write(self.0.card, &dma(pasid, at), &v.to_le_bytes()).map_err(NotDone)
    }

    /// The machine sleeps: its unit forgets what it was told, and what it cached.
    pub fn lose_power(&self) {
        self.machine().with_unit(0, |unit, bus| unit.reset(bus));
    }

    /// Tells the machine of a store of the driver, about to happen or done, and lets its probes look.
    pub fn stored(&self, at: u64, old: &[u64], new: &[u64], done: bool) {
        if !self.0.memory.holds(at, 8) {
            return;
        }
        let mut machine = self.machine();
        match (done, old, new) {
            (false, ..) => machine.storing(at),
            (true, &[old], &[new]) => machine.stored(at, old, new),
            (true, &[a, b], &[c, d]) => machine.stored_pair(at, [a, b], [c, d]),
            _ => {}
        }
    }
}

/// Why the card did not get through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotDone(pub Blocked);

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device does not get through: {:?}", self.0)
    }
}

impl Error for NotDone {}

fn dma(pasid: Option<Pasid>, at: u64) -> Dma {
    Dma { pasid: pasid.map(Pasid::get), ..Dma::at(at) }
}

/// A DMAR table with one unit for everything, and 47-bit addresses.
pub fn dmar() -> Vec<u8> {
    let unit: &[u8] = &[0, 0, 16, 0, 1, 4, 0, 0];
    let mut table = [b"DMAR", &[64, 0, 0, 0, 1][..], &[0; 27], &[46], &[0; 11], unit].concat();
    table.extend(REGISTERS.to_le_bytes());
    table[9] = table.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
    table
}

fn layout(order: u8) -> Layout {
    let bytes = (PAGE as usize) << order;
    Layout::from_size_align(bytes, bytes).expect("a small size")
}

// SAFETY: memory comes zeroed, aligned to its size, and stays where it is; `hpa` and `ptr` are inverse; registers are the
// machine's.
unsafe impl Platform for Host {
    type Registers = Window;
    type Irq = ();

    fn registers(&self, base: Hpa, len: u64) -> Result<Window, PlatformError> {
        if base.get() != REGISTERS || len > WINDOW {
            return Err(PlatformError);
        }
        Ok(Window(self.clone()))
    }

    fn alloc(&self, order: u8, _node: Option<u32>) -> Option<NonNull<u8>> {
        // SAFETY: the layout has a size.
        let at = NonNull::new(unsafe { alloc_zeroed(layout(order)) })?;
        let (first, len) = (at.as_ptr() as u64, PAGE << order);
        self.0.memory.0.lock().push((first, len));
        self.machine().allocated(first, len);
        Some(at)
    }

    unsafe fn free(&self, at: NonNull<u8>, order: u8) {
        let first = at.as_ptr() as u64;
        self.machine().freed(first, PAGE << order);
        self.0.memory.0.lock().retain(|(known, _)| *known != first);
        // SAFETY: from `alloc` with the same order, which the caller promises.
        unsafe { dealloc(at.as_ptr(), layout(order)) };
    }

    fn hpa(&self, at: NonNull<u8>) -> Hpa {
        Hpa::new(at.as_ptr() as u64).expect("an address of 52 bits")
    }

    fn ptr(&self, at: Hpa) -> NonNull<u8> {
        NonNull::new(at.get() as *mut u8).unwrap_or(NonNull::dangling())
    }

    fn flush(&self, at: NonNull<u8>, len: usize) {
        self.machine().flush(at.as_ptr() as u64, len as u64);
    }

    fn fence(&self) {
        self.machine().fence();
    }

    fn irq_save(&self) {}

    fn irq_restore(&self, (): ()) {}

    fn now(&self) -> Nanos {
        Nanos(self.machine().now())
    }

    fn relax(&self, _unit: UnitId, _since: Nanos) {
        self.machine().relax(TURN);
    }

    fn wake(&self) {}

    fn cpu(&self) -> u32 {
        self.0.number
    }

    fn config_read(&self, d: DeviceId, at: u16) -> Result<u32, PlatformError> {
        Ok(if d.segment == 0 { self.machine().config_read(d.source.0, at) } else { u32::MAX })
    }

    fn config_write(&self, d: DeviceId, at: u16, v: u32) -> Result<(), PlatformError> {
        if d.segment == 0 {
            self.machine().config_write(d.source.0, at, Size::Double, v);
        }
        Ok(())
    }

    fn peek(&self, at: Hpa) -> Option<u64> {
        self.word(at.get())
    }

    fn event(&self, _unit: UnitId, _e: Event) -> Result<Message, PlatformError> {
        Err(PlatformError)
    }

    fn identity(&self) -> Identity {
        Identity::default()
    }
}

/// The unit's registers.
pub struct Window(Host);

impl Registers for Window {
    fn read32(&self, at: u32) -> u32 {
        self.0.machine().read(0, at, Size::Double) as u32
    }
    fn write32(&self, at: u32, v: u32) {
        self.0.machine().write(0, at, Size::Double, v.into());
    }
    fn read64(&self, at: u32) -> u64 {
        self.0.machine().read(0, at, Size::Quad)
    }
    fn write64(&self, at: u32, v: u64) {
        self.0.machine().write(0, at, Size::Quad, v);
    }
}

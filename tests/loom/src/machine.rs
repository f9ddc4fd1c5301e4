//! A machine whose memory and tail register are `loom`'s, and the unit that steps through its queue.

use crate::host::address::{DeviceId, Hpa, Nanos, UnitId};
use crate::host::platform::{Event, Identity, Message, Platform, PlatformError, Registers};
use crate::host::sync::{AtomicU64, Ordering, WORDS, fence};
use crate::hw::registers::at;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// What one descriptor of the model asks for.
const DOMAINS: usize = 4;
/// The place of what waits do.
const WAITED: usize = 3;

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct Machine(Arc<Shared>);

struct Shared {
    /// Where each block of memory is: block `n` has the physical address `n + 1` pages.
    memory: Mutex<Vec<(usize, usize)>>,
    tail: AtomicU64,
    /// What the hardware did: by domain, that its translations are dropped.
    dropped: [AtomicU64; DOMAINS],
}

const PAGE: u64 = 4096;

impl Machine {
    pub(crate) fn new() -> Self {
        let dropped = std::array::from_fn(|_| AtomicU64::new(0));
        Machine(Arc::new(Shared { memory: Mutex::default(), tail: AtomicU64::new(0), dropped }))
    }

    /// Whether the translations of a domain are dropped, as far as this thread can know.
    pub(crate) fn dropped(&self, domain: u16) -> bool {
        self.0.dropped[usize::from(domain)].load(Ordering::Relaxed) != 0
    }

    /// Whether a wait is done, as far as this thread can know.
    pub(crate) fn waited(&self) -> bool {
        self.0.dropped[WAITED].load(Ordering::Relaxed) != 0
    }

    fn word(&self, address: u64, size: u64) -> &AtomicU64 {
        let memory = self.0.memory.lock().unwrap();
        let (at, words) = memory[(address / PAGE) as usize - 1];
        let i = (address % PAGE / size) as usize;
        assert!(i < words);
        // SAFETY: a live block of this many words.
        unsafe { &*(at as *const AtomicU64).add(i) }
    }

    /// The unit: fetches what the tail covers, carries it out, writes statuses, until so many waits are done.
    pub(crate) fn run_unit(&self, ring: u64, waits: usize) {
        let (mut head, mut done) = (0, 0);
        while done < waits {
            let tail = self.0.tail.load(Ordering::Relaxed);
            if head == tail {
                loom::thread::yield_now();
                continue;
            }
            fence(Ordering::Acquire);
            let [q0, q1] = [0, 8].map(|i| self.word(ring + head + i, 8).load(Ordering::Relaxed));
            match q0 & 15 {
                2 => self.0.dropped[(q0 >> 16 & 0xffff) as usize].store(1, Ordering::Relaxed),
                5 => {
                    done += 1;
                    self.0.dropped[WAITED].store(1, Ordering::Relaxed);
                    self.word(q1, 4).store(q0 >> 32, Ordering::Release);
                }
                _ => panic!("the unit fetched what was not there yet"),
            }
            head = (head + 16) % (WORDS as u64 * 8);
        }
    }
}

// SAFETY: blocks are owned, zero, aligned for their words, and stay until `free`; `hpa` and `ptr` are inverse on them.
unsafe impl Platform for Machine {
    type Registers = Machine;
    type Irq = ();

    fn registers(&self, _: Hpa, _: u64) -> Result<Machine, PlatformError> {
        Ok(self.clone())
    }

    fn alloc(&self, order: u8, _: Option<u32>) -> Option<NonNull<u8>> {
        let words: Box<[AtomicU64]> = (0..WORDS << order).map(|_| AtomicU64::new(0)).collect();
        let len = words.len();
        let at = NonNull::new(Box::into_raw(words).cast::<u8>())?;
        self.0.memory.lock().unwrap().push((at.as_ptr() as usize, len));
        Some(at)
    }

    unsafe fn free(&self, at: NonNull<u8>, order: u8) {
        let words = std::ptr::slice_from_raw_parts_mut(at.as_ptr().cast::<AtomicU64>(), WORDS << order);
        // SAFETY: from `alloc`, and nobody else's any more.
        drop(unsafe { Box::from_raw(words) });
    }

    fn hpa(&self, at: NonNull<u8>) -> Hpa {
        let memory = self.0.memory.lock().unwrap();
        let n = memory.iter().position(|(block, _)| *block == at.as_ptr() as usize).expect("a block of this machine");
        Hpa::new((n as u64 + 1) * PAGE).expect("a small address")
    }

    fn ptr(&self, at: Hpa) -> NonNull<u8> {
        NonNull::new(self.0.memory.lock().unwrap()[(at.get() / PAGE) as usize - 1].0 as *mut u8).expect("a block")
    }

    fn flush(&self, _: NonNull<u8>, _: usize) {}
    fn fence(&self) {}
    fn irq_save(&self) {}
    fn irq_restore(&self, (): ()) {}

    /// No deadline passes.
    fn now(&self) -> Nanos {
        Nanos(0)
    }

    fn relax(&self, _: UnitId, _: Nanos) {
        loom::thread::yield_now();
    }

    fn wake(&self) {}

    fn cpu(&self) -> u32 {
        0
    }

    fn config_read(&self, _: DeviceId, _: u16) -> Result<u32, PlatformError> {
        Err(PlatformError)
    }

    fn config_write(&self, _: DeviceId, _: u16, _: u32) -> Result<(), PlatformError> {
        Err(PlatformError)
    }

    fn event(&self, _: UnitId, _: Event) -> Result<Message, PlatformError> {
        Err(PlatformError)
    }

    fn identity(&self) -> Identity {
        Identity::default()
    }
}

/// The registers: a write orders nothing by itself, and nothing but the tail has a meaning.
impl Registers for Machine {
    fn read32(&self, _: u32) -> u32 {
        0
    }

    fn write32(&self, _: u32, _: u32) {}

    fn read64(&self, _: u32) -> u64 {
        0
    }

    fn write64(&self, at: u32, v: u64) {
        assert_eq!(at, at::IQT);
        self.0.tail.store(v, Ordering::Relaxed);
    }
}

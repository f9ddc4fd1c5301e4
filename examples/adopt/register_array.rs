//! Runs the example on the host: registers are an array in memory, and a thread answers as a unit does.

use adopt::{Host, drive};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use vtd::hw::registers::{Gcmd, at};
use vtd::{DeviceId, Events, Fault, Hpa, Identity};

#[repr(align(4096))]
struct Registers([AtomicU64; 512]);

impl Registers {
    fn low(&self, at: u32) -> &AtomicU32 {
        // SAFETY: within the array, aligned, and atomic like all accesses.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast::<u32>().add(at as usize / 4).cast_mut()) }
    }

    fn wide(&self, at: u32) -> u64 {
        self.0[at as usize / 8].load(SeqCst)
    }

    /// One look at what the driver wrote.
    fn answer(&self) {
        let command = Gcmd::from_bits_retain(self.low(at::GCMD).load(SeqCst));
        // All errors that were written to it are cleared.
        self.low(at::FSTS).store(0, SeqCst);
        let latched = self.low(at::GSTS).load(SeqCst) | command.bits();
        let status = command.bits() & !Gcmd::ONE_SHOT.bits() | latched & Gcmd::SRTP.bits();
        if !command.contains(Gcmd::QIE) {
            self.0[at::IQH as usize / 8].store(0, SeqCst);
        }
        self.low(at::GSTS).store(status, SeqCst);
        while command.contains(Gcmd::QIE) && self.wide(at::IQH) != self.wide(at::IQT) {
            let head = self.wide(at::IQH);
            let descriptor = (self.wide(at::IQA) & !0xfff) + head;
            if word(descriptor) & 0x2f == 0x25 {
                // SAFETY: a wait descriptor names a status word in the driver's memory.
                let status = unsafe { AtomicU32::from_ptr(word(descriptor + 8) as *mut u32) };
                status.store((word(descriptor) >> 32) as u32, SeqCst);
            }
            self.0[at::IQH as usize / 8].store((head + 16) % 4096, SeqCst);
        }
    }

    /// Where a request of bus 0 leads through the driver's tables.
    fn walk(&self, devfn: u64, address: u64) -> Option<u64> {
        let context = (word(self.wide(at::RTADDR) & !0xfff) & !0xfff) + devfn * 16;
        let mut table = word(context) & !0xfff;
        if word(context) & 1 == 0 {
            return None;
        }
        for level in (1..=(word(context + 8) & 7) + 2).rev() {
            let entry = word(table + (address >> (3 + 9 * level) & 511) * 8);
            if entry & 3 == 0 {
                return None;
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        Some(table)
    }
}

/// A word in memory at its physical address, which is its address here.
fn word(at: u64) -> u64 {
    // SAFETY: the driver's tables and queue, which live as long as it does.
    unsafe { AtomicU64::from_ptr(at as *mut u64) }.load(SeqCst)
}

/// A DMAR table with one unit for everything.
fn dmar(base: u64) -> Vec<u8> {
    let mut table =
        [b"DMAR".as_slice(), &[64, 0, 0, 0, 1], &[0; 27], &[46], &[0; 11], &[0, 0, 16, 0, 1, 0, 0, 0]].concat();
    table.extend(base.to_le_bytes());
    table[9] = table.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
    table
}

/// The only function of the machine, a network card on bus 0.
const CARD: DeviceId = DeviceId::new(0, 0, 3, 0);

fn configuration_space() -> Vec<u32> {
    let mut space = vec![u32::MAX; 256 * 1024];
    let card = usize::from(CARD.source.0) * 1024;
    space[card..card + 64].fill(0);
    (space[card], space[card + 2]) = (0x100e_8086, 0x0200_0000);
    space
}

/// Ends the answering thread, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

struct Silence;

impl Events for Silence {
    fn fault(&self, f: &Fault) {
        panic!("{f}");
    }
}

#[test]
fn a_foreign_host_drives_a_device() {
    let registers = Arc::new(Registers([const { AtomicU64::new(0) }; 512]));
    registers.low(at::VER).store(0x10, SeqCst);
    // 65536 domain ids, 4 levels, 48 bits, fault register at 0x220, page-selective; snooped walks, queue.
    registers.0[at::CAP as usize / 8].store(6 | 1 << 10 | 47 << 16 | 0x22 << 24 | 1 << 39 | 18 << 48, SeqCst);
    registers.0[at::ECAP as usize / 8].store(3 | 0x20 << 8, SeqCst);
    let space = configuration_space();
    let host = Host {
        direct_map: 0,
        ecam: space.as_ptr() as usize,
        buses: 1,
        tsc_mhz: 3000,
        vectors: 0x40,
        irq_off: || false,
        irq_on: || (),
        service: AtomicBool::new(false),
        identity: Identity::default(),
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(SeqCst) {
                registers.answer();
                std::thread::yield_now();
            }
        });
        let _over = Over(&over);
        let memory = (Hpa::new(0x1234_5000).unwrap(), 0x3000);
        let devfn = u64::from(CARD.source.devfn());
        let table = dmar(registers.0.as_ptr() as u64);
        let mut worked = false;
        let vtd = drive(host, &table, CARD, memory, Arc::new(Silence), |iova| {
            worked = true;
            assert_eq!(registers.walk(devfn, iova.get() + 0x2000), Some(0x1234_7000));
            assert_eq!(registers.walk(devfn, iova.get() + 0x3000), None);
            assert_eq!(registers.walk(devfn + 8, iova.get()), None);
        });
        let vtd = vtd.map_err(|e| e.to_string()).unwrap();
        let on = registers.low(at::GSTS).load(SeqCst);
        assert_eq!(registers.walk(devfn, 0x10_0000), None, "released is blocked");
        let host = vtd.hand_back().map_err(|(_, e)| e).unwrap();
        assert!(!host.service.load(SeqCst));
        let off = registers.low(at::GSTS).load(SeqCst);
        let running = Gcmd::TE | Gcmd::QIE;
        assert!(worked && on & running.bits() == running.bits() && off & running.bits() == 0);
    });
}

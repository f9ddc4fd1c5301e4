//! Runs the example on an emulated unit: registers are an array in memory, a thread carries what is written there to the
//! unit and its answers back, and a device reads and writes through what the driver set up.

use adopt::{Host, drive};
use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use vtd::hw::registers::at;
use vtd::{DeviceId, Events, Fault, Hpa, Identity};
use vtd_emu::{Blocked, Dma, Function, Machine, Memory, Pace, Profile, Qemu, Size};

/// The only function of the machine, a network card on bus 0.
const CARD: DeviceId = DeviceId::new(0, 0, 3, 0);

/// The memory of this process: a physical address is a pointer.
#[derive(Debug)]
struct Own;

impl Own {
    fn at(at: u64) -> Option<&'static AtomicU64> {
        if at < 4096 || !at.is_multiple_of(8) {
            return None;
        }
        // SAFETY: the unit follows the driver's tables and queue, and devices go where these lead; the test sees to it that
        // all of that is memory, which is there until its end.
        Some(unsafe { AtomicU64::from_ptr(at as *mut u64) })
    }
}

impl Memory for Own {
    fn read64(&self, at: u64) -> Option<u64> {
        Some(Own::at(at)?.load(SeqCst))
    }
    fn write64(&mut self, at: u64, v: u64) -> Option<()> {
        Own::at(at)?.store(v, SeqCst);
        Some(())
    }
    fn write32(&mut self, at: u64, v: u32) -> Option<()> {
        Own::at(at & !7)?;
        // SAFETY: as above; a status word is 32 bits for software too.
        unsafe { AtomicU32::from_ptr(at as *mut u32) }.store(v, SeqCst);
        Some(())
    }
    fn compare_exchange64(&mut self, at: u64, old: u64, new: u64) -> Option<u64> {
        Some(Own::at(at)?.compare_exchange(old, new, SeqCst, SeqCst).unwrap_or_else(|was| was))
    }
}

#[repr(align(4096))]
struct Registers([AtomicU64; 512]);

const WIDE: &[u32] = &[at::CAP, at::ECAP, at::RTADDR, at::CCMD, at::IQH, at::IQT, at::IQA, at::IQERCD, 0x228];
const NARROW: &[u32] = &[
    at::VER,
    at::GSTS,
    at::FSTS,
    at::FECTL,
    at::FEDATA,
    at::FEADDR,
    at::FEUADDR,
    at::PMEN,
    at::IECTL,
    at::ICS,
    0x220,
    0x224,
];
/// The record's last word: what is written there clears it.
const RECORD: u32 = 0x22c;

impl Registers {
    fn wide(&self, at: u32) -> &AtomicU64 {
        &self.0[at as usize / 8]
    }

    fn narrow(&self, at: u32) -> &AtomicU32 {
        // SAFETY: within the array, aligned, and atomic like all accesses.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast::<u32>().add(at as usize / 4).cast_mut()) }
    }

    /// Carries what the driver wrote since the last time to the unit, and the unit's answers to the array.
    fn carry(&self, machine: &mut Machine<Own>, shown: &mut [u64; 1024], commanded: &mut u32) {
        // Looked at first and carried last: what was written before a command reaches the unit before it.
        let command = self.narrow(at::GCMD).load(SeqCst);
        for &at in WIDE {
            let v = self.wide(at).load(SeqCst);
            if v != shown[at as usize / 4] {
                machine.write(0, at, Size::Quad, v);
            }
            let now = machine.read(0, at, Size::Quad);
            if self.wide(at).compare_exchange(v, now, SeqCst, SeqCst).is_ok() {
                shown[at as usize / 4] = now;
            }
        }
        for &at in NARROW.iter().chain(&[RECORD]) {
            let v = self.narrow(at).load(SeqCst);
            if u64::from(v) != shown[at as usize / 4] {
                machine.write(0, at, Size::Double, v.into());
            }
            let now = machine.read(0, at, Size::Double) as u32;
            if self.narrow(at).compare_exchange(v, now, SeqCst, SeqCst).is_ok() {
                shown[at as usize / 4] = now.into();
            }
        }
        // It reads as 0 on a unit; here it shows the last command, or turning everything off would not be seen.
        if command != *commanded {
            machine.write(0, at::GCMD, Size::Double, command.into());
            *commanded = command;
        }
        machine.relax(1000);
    }
}

/// A DMAR table with one unit for everything.
fn dmar(base: u64) -> Vec<u8> {
    let mut table =
        [b"DMAR".as_slice(), &[64, 0, 0, 0, 1], &[0; 27], &[46], &[0; 11], &[0, 0, 16, 0, 1, 0, 0, 0]].concat();
    table.extend(base.to_le_bytes());
    table[9] = table.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
    table
}

fn configuration_space() -> Vec<u32> {
    let mut space = vec![u32::MAX; 256 * 1024];
    let card = usize::from(CARD.source.0) * 1024;
    space[card..card + 64].fill(0);
    (space[card], space[card + 2]) = (0x100e_8086, 0x0200_0000);
    space
}

/// Ends the carrying thread, also when the test fails.
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
fn a_foreign_host_drives_a_device_behind_an_emulated_unit() {
    for pace in [Pace::at_once(), Pace::prompt(), Pace::slow(3)] {
        let registers = Arc::new(Registers([const { AtomicU64::new(0) }; 512]));
        let mut emulated = Machine::new(Own, 1);
        emulated.add_unit(Profile::qemu(Qemu::Legacy));
        emulated.unit_mut(0).unwrap().set_pace(pace);
        let card = emulated.add_function(Function::new(CARD.source.0, 0));
        let emulated = Mutex::new(emulated);
        let (mut shown, mut commanded) = ([0; 1024], 0);
        registers.carry(&mut emulated.lock().unwrap(), &mut shown, &mut commanded);
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
                    registers.carry(&mut emulated.lock().unwrap(), &mut shown, &mut commanded);
                    std::thread::yield_now();
                }
            });
            let _over = Over(&over);
            // SAFETY: the layout has a size; the memory is never given back, for a device might still write to it.
            let memory = unsafe { alloc_zeroed(Layout::from_size_align(0x3000, 0x1000).unwrap()) } as u64;
            let read = |at: u64| {
                let mut bytes = [0; 8];
                let answer = emulated.lock().unwrap().dma_read(card, &Dma::at(at), &mut bytes);
                answer.map(|()| u64::from_le_bytes(bytes))
            };
            let write = |at, v: u64| emulated.lock().unwrap().dma_write(card, &Dma::at(at), &v.to_le_bytes());
            let mut worked = false;
            let table = dmar(registers.0.as_ptr() as u64);
            let vtd = drive(host, &table, CARD, (Hpa::new(memory).unwrap(), 0x3000), Arc::new(Silence), |iova| {
                worked = true;
                for offset in [0, 0x1ff8, 0x2ff8] {
                    assert_eq!(write(iova.get() + offset, 0x77 + offset), Ok(()));
                    assert_eq!(Own.read64(memory + offset), Some(0x77 + offset));
                    assert_eq!(read(iova.get() + offset), Ok(0x77 + offset));
                }
            });
            let vtd = vtd.map_err(|e| e.to_string()).unwrap();
            assert!(worked);
            let refused = |answer: Result<u64, Blocked>| matches!(answer, Err(Blocked::Fault(f)) if f.reason.0 == 2);
            assert!(refused(read(0x10_0000)), "released is blocked");
            let host = vtd.hand_back().map_err(|(_, e)| e).unwrap();
            assert!(!host.service.load(SeqCst));
            let machine = emulated.lock().unwrap();
            assert!(!machine.unit(0).unwrap().state().translation);
            let breaches: Vec<String> =
                machine.breaches().iter().map(|(_, b)| format!("{:?}: {}", b.rule, b.what)).collect();
            assert!(breaches.is_empty(), "{breaches:?}");
        });
    }
}

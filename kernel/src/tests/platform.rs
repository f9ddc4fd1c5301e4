//! What the driver stands on.

use crate::memory::frames;
use crate::platform::{KernelPlatform, on_event, take_wake};
use crate::time::wait_until;
use crate::{check, check_eq, test};
use core::sync::atomic::{AtomicUsize, Ordering};
use vtd::{DeviceId, Event, Nanos, PAGE, Platform, UnitId};

/// The unit and event of the last call of `heard`, plus 1.
static HEARD: AtomicUsize = AtomicUsize::new(0);

fn heard(unit: UnitId, event: Event) {
    HEARD.store(usize::from(unit.0) * 4 + event as usize + 1, Ordering::Release);
}

test! {
    fn memory_has_two_names() {
        let p = KernelPlatform;
        let before = frames::free_count();
        for order in [0, 3, 8] {
            let at = p.alloc(order, None).ok_or("no frames")?;
            check_eq!(p.ptr(p.hpa(at)), at);
            check!(p.hpa(at).is_aligned(PAGE << order));
            // SAFETY: within the run that was just handed out.
            let inside = unsafe { at.add(0x123) };
            check_eq!(p.hpa(inside).get(), p.hpa(at).get() + 0x123);
            check_eq!(p.ptr(p.hpa(inside)), inside);
            // SAFETY: as above. Flushing must not change what memory holds.
            unsafe {
                inside.write(0x5a);
                p.flush(at, (PAGE as usize) << order);
                p.fence();
                check_eq!(inside.read(), 0x5a);
                p.free(at, order);
            }
        }
        check_eq!(frames::free_count(), before);
    }

    fn interrupt_mask_nests() {
        let p = KernelPlatform;
        let outer = p.irq_save();
        let inner = p.irq_save();
        check!(outer && !inner);
        p.irq_restore(inner);
        check!(!x86_64::instructions::interrupts::are_enabled());
        p.irq_restore(outer);
        check!(x86_64::instructions::interrupts::are_enabled());
        check_eq!(p.cpu(), 0);
    }

    fn configuration_space() {
        let p = KernelPlatform;
        let bridge = DeviceId::new(0, 0, 0, 0);
        check_eq!(p.config_read(bridge, 0), Ok(p.identity().host_bridge));
        check_eq!(p.config_read(DeviceId::new(0, 0, 0, 7), 0), Ok(u32::MAX));
        check!(p.config_read(DeviceId::new(9, 0, 0, 0), 0).is_err());
        check!(p.config_write(bridge, 4096, 0).is_err());
    }

    fn events_reach_their_handler() {
        let p = KernelPlatform;
        on_event(heard);
        let fault = p.event(UnitId(5), Event::Fault).map_err(|_| "no message")?;
        let request = p.event(UnitId(5), Event::PageRequest).map_err(|_| "no message")?;
        check!(fault != request);
        check_eq!(p.event(UnitId(5), Event::Fault), Ok(fault), "the same again");
        for (message, event) in [(fault, Event::Fault), (request, Event::PageRequest)] {
            HEARD.store(0, Ordering::Release);
            crate::cpu::apic::send(crate::cpu::apic::id(), message.data);
            let came = wait_until(Nanos::millis(1000), || HEARD.load(Ordering::Acquire) != 0);
            check!(came, "{event:?}");
            check_eq!(HEARD.load(Ordering::Acquire), 5 * 4 + event as usize + 1);
        }
        check!(!take_wake());
        p.wake();
        check!(take_wake() && !take_wake());
    }
}

//! The invalidation queue without the driver. VT-d 6.5.2.

use super::caching::{other_tables, stale};
use super::frame::Frame;
use super::rig::{DOMAIN, Rig};
use super::ring::Ring;
use super::unit::RawUnit;
use super::vector::Vector;
use crate::testing::{Failure, Outcome};
use crate::time::wait_until;
use crate::{check, check_eq, test};
use alloc::vec::Vec;
use vtd::hw::descriptors::{Descriptor, WaitFlags};
use vtd::hw::invalidation::{DescriptorWidth, Drain, FunctionMask, Ics, Iva};
use vtd::hw::registers::{EventControl, Fsts, at};
use vtd::{Nanos, Registers};

/// Widths of descriptors that the unit takes in legacy mode.
fn widths(unit: &RawUnit) -> impl Iterator<Item = DescriptorWidth> {
    let wide = unit.capabilities.ecap.smts();
    [DescriptorWidth::Bits128, DescriptorWidth::Bits256].into_iter().take(if wide { 2 } else { 1 })
}

fn completed(unit: &RawUnit) -> Ics {
    Ics::from_bits_retain(unit.registers.read32(at::ICS))
}

/// Descriptors that no unit takes in legacy mode.
fn bad(unit: &RawUnit, width: DescriptorWidth) -> Vec<(&'static str, Descriptor)> {
    let mamv = unit.capabilities.cap.mamv();
    let mut all = Vec::from([
        ("zeros", Descriptor([0; 4])),
        ("type 10", Descriptor([10, 0, 0, 0])),
        ("type 15", Descriptor([15, 0, 0, 0])),
        ("a type above 15", Descriptor([1 << 9 | 5, 0, 0, 0])),
        ("context cache without scope", Descriptor([1, 0, 0, 0])),
        ("context cache, a reserved bit", Descriptor([Descriptor::cc_global().0[0] | 1 << 60, 0, 0, 0])),
        ("IOTLB without scope", Descriptor([2, 0, 0, 0])),
        ("IOTLB, a reserved bit", Descriptor([Descriptor::iotlb_global(Drain::NONE).0[0] | 1 << 40, 0, 0, 0])),
        ("IOTLB, too many pages", Descriptor::iotlb_pages(DOMAIN, Drain::NONE, Iva::new(0, mamv + 1, false))),
        ("a wait for nothing", Descriptor([5, 0, 0, 0])),
        ("a wait with a reserved bit", Descriptor([5 | 1 << 6 | 1 << 12, 0, 0, 0])),
    ]);
    if width == DescriptorWidth::Bits256 {
        all.push(("words that have to be 0", Descriptor([Descriptor::cc_global().0[0], 0, 1, 0])));
    }
    all
}

/// Rings with `d` and a wait behind it, and sees the queue stop at `d`.
fn stops_at(unit: &RawUnit, ring: &mut Ring<'_>, what: &str, d: Descriptor) -> Outcome {
    let (at, before) = (ring.tail(), ring.status());
    ring.push(d);
    let wait = ring.next_wait(WaitFlags::empty());
    ring.push(wait);
    ring.ring();
    let stopped = wait_until(Nanos::millis(2000), || unit.fsts().contains(Fsts::IQE));
    check!(stopped, "{what}: taken");
    check_eq!(unit.fsts(), Fsts::IQE, "{what}");
    check_eq!(ring.head(), at, "{what}: the head");
    check_eq!(ring.status(), before, "{what}: what follows was carried out");
    Ok(())
}

/// Has descriptors make the unit forget the old way, in a queue of every width. `old` makes a unit that goes it still.
fn forgets<T>(
    old: impl Fn() -> Result<(Rig, Frame, T), Failure>,
    descriptors: impl Fn(&Rig) -> Vec<Descriptor>,
) -> Outcome {
    for width in [DescriptorWidth::Bits128, DescriptorWidth::Bits256] {
        let (rig, other, _tables) = old()?;
        if !widths(&rig.unit).any(|w| w == width) {
            continue;
        }
        let mut ring = Ring::new(&rig.unit, width, 0)?;
        let wait = ring.next_wait(WaitFlags::FN);
        ring.run(wait)?;
        check!(rig.lands_in(&rig.target, &other)?, "a wait has emptied the cache");
        let descriptors = descriptors(&rig);
        for d in &descriptors {
            ring.run(*d)?;
        }
        check!(!rig.lands_in(&rig.target, &other)?, "{descriptors:x?}");
        check_eq!(rig.unit.fsts(), Fsts::empty());
    }
    Ok(())
}

test! {
    /// Waits of every kind, one behind the other.
    fn wait_writes_its_status() {
        let unit = RawUnit::open()?;
        for width in widths(&unit) {
            let mut ring = Ring::new(&unit, width, 0)?;
            for flags in [WaitFlags::empty(), WaitFlags::FN, WaitFlags::IF, WaitFlags::IF | WaitFlags::FN] {
                let wait = ring.next_wait(flags);
                ring.push(wait);
                ring.ring();
                ring.finish()?;
                check_eq!(ring.head(), ring.tail());
            }
        }
    }

    /// Several times around, in pieces that do not divide the ring, up to one that leaves a single slot free.
    fn ring_wraps() {
        let unit = RawUnit::open()?;
        for width in widths(&unit) {
            for order in [0, 2, 7] {
                let mut ring = Ring::new(&unit, width, order)?;
                check_eq!(ring.entries(), (4096 << order) / width.bytes());
                let largest = ring.entries() - 1;
                for piece in [1, 3, 7, largest, largest - 1, largest / 2, largest, 5] {
                    for _ in 0..piece {
                        let wait = ring.next_wait(WaitFlags::empty());
                        ring.push(wait);
                    }
                    ring.ring();
                    ring.finish()?;
                    check_eq!(ring.head(), ring.tail(), "after {piece}");
                    check_eq!(unit.registers.read64(at::IQT), width.offset(ring.tail()));
                }
            }
        }
        check_eq!(unit.fsts(), Fsts::empty());
    }

    fn bad_descriptor_stops_the_queue() {
        let unit = RawUnit::open()?;
        for width in widths(&unit) {
            let mut ring = Ring::new(&unit, width, 0)?;
            for (what, d) in bad(&unit, width) {
                stops_at(&unit, &mut ring, what, d)?;
                // Nothing moves while the error stands, whatever the tail says.
                ring.ring();
                check!(ring.status() != ring.expected(), "{what}: with the error standing");
                ring.recover()?;
                check_eq!(unit.fsts(), Fsts::empty(), "{what}: recovered");
                check_eq!(ring.head(), ring.tail(), "{what}: recovered");
            }
        }
    }

    /// Descriptors of scalable mode are none in a queue of narrow slots.
    fn narrow_queue_takes_no_wide_descriptors() {
        let unit = RawUnit::open()?;
        let mut ring = Ring::new(&unit, DescriptorWidth::Bits128, 0)?;
        for (what, d) in [("PASID IOTLB", Descriptor::p_iotlb_pasid(1, 1)), ("PASID cache", Descriptor::pc_global())] {
            stops_at(&unit, &mut ring, what, d)?;
            ring.recover()?;
        }
    }

    fn tail_beyond_the_queue_stops_it() {
        let unit = RawUnit::open()?;
        let mut ring = Ring::new(&unit, DescriptorWidth::Bits128, 0)?;
        let head = ring.head();
        unit.registers.write64(at::IQT, DescriptorWidth::Bits128.offset(ring.entries() + 3));
        check!(unit.fsts().contains(Fsts::IQE), "{:?}", unit.fsts());
        check_eq!(ring.head(), head);
        ring.recover()?;
        check_eq!(unit.fsts(), Fsts::empty());
    }

    /// The queue's error is told by the fault event.
    fn error_interrupts() {
        let vector = Vector::new()?;
        let unit = RawUnit::open()?;
        let mut ring = Ring::new(&unit, DescriptorWidth::Bits128, 0)?;
        unit.set_event(at::FECTL, vector.message(), false);
        stops_at(&unit, &mut ring, "zeros", Descriptor([0; 4]))?;
        check!(vector.comes(1));
        ring.recover()?;
        check!(vector.stays(1));
    }

    fn wait_interrupts() {
        let vector = Vector::new()?;
        let unit = RawUnit::open()?;
        let mut ring = Ring::new(&unit, DescriptorWidth::Bits128, 0)?;
        unit.set_event(at::IECTL, vector.message(), false);
        let wait = ring.next_wait(WaitFlags::empty());
        ring.run(wait)?;
        check!(vector.stays(0), "a wait that did not ask for it");
        check_eq!(completed(&unit), Ics::empty());
        let interrupting = Descriptor::wait(WaitFlags::IF, None);
        ring.run(interrupting)?;
        check!(vector.comes(1));
        check_eq!(completed(&unit), Ics::IWC);
        ring.run(interrupting)?;
        check!(vector.stays(1), "while the first one's status stands");
        unit.registers.write32(at::ICS, Ics::IWC.bits());
        check_eq!(completed(&unit), Ics::empty());
        ring.run(interrupting)?;
        check!(vector.comes(2));
    }

    fn masked_wait_interrupts_later() {
        let vector = Vector::new()?;
        let unit = RawUnit::open()?;
        let mut ring = Ring::new(&unit, DescriptorWidth::Bits128, 0)?;
        unit.set_event(at::IECTL, vector.message(), true);
        ring.run(Descriptor::wait(WaitFlags::IF, None))?;
        check!(vector.stays(0), "in spite of the mask");
        check!(unit.event_control(at::IECTL).contains(EventControl::IP));
        unit.mask_event(at::IECTL, false);
        check!(vector.comes(1));
        check!(!unit.event_control(at::IECTL).contains(EventControl::IP));
    }

    fn iotlb_forgets_everything() {
        forgets(|| stale(1), |_| [Descriptor::iotlb_global(Drain::BOTH)].into())?;
    }

    fn iotlb_forgets_a_domain() {
        forgets(|| stale(1), |_| [Descriptor::iotlb_domain(DOMAIN, Drain::BOTH)].into())?;
    }

    fn iotlb_forgets_pages() {
        for (level, order) in [(1, 0), (1, 3), (2, 9), (2, 0)] {
            forgets(
                || stale(level),
                |rig| {
                    let first = rig.iova & !((0x1000 << order) - 1);
                    [Descriptor::iotlb_pages(DOMAIN, Drain::BOTH, Iva::new(first, order, true))].into()
                },
            )?;
        }
    }

    /// The context cache first, then the domain that the old entry named.
    fn context_cache_forgets() {
        let then = Descriptor::iotlb_domain(DOMAIN, Drain::BOTH);
        forgets(other_tables, |_| [Descriptor::cc_global(), then].into())?;
        forgets(other_tables, |_| [Descriptor::cc_domain(DOMAIN), then].into())?;
        for mask in [FunctionMask::Exact, FunctionMask::Bits2To0] {
            forgets(other_tables, |rig| [Descriptor::cc_device(DOMAIN, rig.writer.source, mask), then].into())?;
        }
    }
}

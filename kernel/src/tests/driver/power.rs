//! A suspend of the machine in which the unit's registers are lost, and back.

use super::bring_up::registers;
use super::{SOON, attached, edu, session, testdev, unmapped_reason};
use crate::devices::testdev::Verdict;
use crate::iommu::Session;
use crate::memory::buffer::Buffer;
use crate::{check, check_eq, test};
use vtd::hw::registers::{EventControl, Gsts, at};
use vtd::{Access, ErrorKind, Iova, PAGE, Range, Registers, State, Strict, Target};

const RW: Access = Access::READ.union(Access::WRITE);

/// Takes from the unit what it was told, as a machine that sleeps does.
fn lose_registers(s: &Session) -> Result<(), vtd::Error> {
    let r = registers(s)?;
    r.write32(at::GCMD, 0);
    r.write64(at::RTADDR, 0);
    r.write64(at::IQT, 0);
    r.write64(at::IQA, 0);
    for (control, message) in [(at::FECTL, at::FEDATA), (at::IECTL, at::IEDATA)] {
        r.write32(control, EventControl::IM.bits());
        r.write32(message, 0);
    }
    r.write32(at::FEADDR, 0);
    r.write32(at::IEADDR, 0);
    Ok(())
}

test! {
    fn devices_go_on_where_they_were_after_the_registers_were_lost() {
        let s = session()?;
        let (dev, engine) = (testdev()?, edu()?);
        let (a, b) = (attached(&s, dev.id())?, attached(&s, engine.id())?);
        let page = Buffer::new(0).ok_or("no memory")?;
        let (kept, gone, new) = (Iova::at(0x12_0000_0000), Iova::at(0x5000_0000), Iova::at(0x6000_0000));
        for domain in [&a.domain, &b.domain] {
            domain.map(kept, page.hpa(), PAGE, RW)?;
        }
        a.domain.map(gone, page.hpa(), PAGE, RW)?;
        for at in [kept, gone] {
            check_eq!(dev.write(at.get(), page.hpa().get(), 16), Verdict::Arrived);
        }
        s.vtd().suspend()?;
        let r = registers(&s)?;
        let on = Gsts::from_bits_retain(r.read32(at::GSTS));
        check!(!on.intersects(Gsts::TES | Gsts::QIES), "suspended with {on:?}");
        lose_registers(&s)?;
        // The owner's memory lives on meanwhile.
        a.domain.unmap(Range::sized(gone, PAGE).ok_or("range")?)?.flush().map_err(|n| n.error)?;
        a.domain.map(new, page.hpa(), PAGE, RW)?;
        let other = s.vtd().domain::<Strict>(&a.group.best_spec())?;
        let early = a.group.attach(Target::Domain(&other)).map_err(|e| e.kind);
        check_eq!(early, Err(ErrorKind::State(State::Suspended)));
        s.vtd().resume()?;
        let on = Gsts::from_bits_retain(r.read32(at::GSTS));
        check!(on.contains(Gsts::TES | Gsts::QIES | Gsts::RTPS), "resumed with {on:?}");
        for at in [kept, new] {
            check_eq!(dev.write(at.get(), page.hpa().get(), 16), Verdict::Arrived, "{at:?}");
        }
        check_eq!(dev.write(gone.get(), page.hpa().get(), 16), Verdict::Stopped);
        let faults = a.events.await_faults(s.vtd(), SOON);
        check!(faults.len() == 1 && faults[0].reason.0 == unmapped_reason(a.domain.spec()), "{faults:x?}");
        page.set(0, 0xfeed_0004);
        engine.read_memory(kept.get(), 0, 4)?;
        engine.write_memory(kept.get() + 64, 0, 4)?;
        check_eq!(page.get(16), 0xfeed_0004);
        // And changes are flushed as ever.
        a.domain.unmap(Range::sized(new, PAGE).ok_or("range")?)?.flush().map_err(|n| n.error)?;
        check_eq!(dev.write(new.get(), page.hpa().get(), 16), Verdict::Stopped);
        a.release()?;
        b.release()?;
        drop(other);
        s.end()?;
    }

    fn suspend_and_resume_as_often_as_one_likes() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        a.domain.map(Iova::at(0x5000_0000), page.hpa(), PAGE, RW)?;
        for round in 0..5 {
            s.vtd().suspend()?;
            if round % 2 == 0 {
                lose_registers(&s)?;
            }
            s.vtd().resume()?;
            check_eq!(dev.write(0x5000_0000, page.hpa().get(), 16), Verdict::Arrived, "round {round}");
        }
        s.vtd().suspend()?;
        a.release()?;
        s.vtd().resume()?;
        check_eq!(dev.write(0x5000_0000, page.hpa().get(), 16), Verdict::Stopped);
        s.end()?;
    }
}

//! What devices did wrong reaches whoever owns them, in words, and never lost silently.

use super::{SOON, attached, session, testdev};
use crate::devices::testdev::{TestDevice, Verdict};
use crate::{check, check_eq, iommu, skip, test};
use alloc::format;
use vtd::hw::faults::Access as Attempt;
use vtd::{Iova, Service, UnitId};

test! {
    fn a_fault_names_device_address_and_reason() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        check_eq!(dev.write(0xdead_b000, 0x1000, 4), Verdict::Stopped);
        let faults = a.events.await_faults(s.vtd(), SOON);
        check_eq!(faults.len(), 1);
        let f = &faults[0];
        check_eq!((f.unit, f.device, f.source), (UnitId(0), Some(dev.id()), dev.id().source));
        check_eq!((f.address, f.attempt, f.pasid), (Iova::at(0xdead_b000), Attempt::Write, None));
        let text = format!("{f}");
        check!(text.contains("write at 0xdeadb000") && text.contains(f.reason.name()), "{text}");
        a.release()?;
        s.end()?;
    }

    fn faults_come_one_after_the_other() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        for i in 0..20u64 {
            check_eq!(dev.write(0x1_0000 + i * 0x1000, 0x1000, 4), Verdict::Stopped);
            let faults = a.events.await_faults(s.vtd(), SOON);
            check_eq!(faults.len(), 1, "round {i}");
            check_eq!(faults[0].address, Iova::at(0x1_0000 + i * 0x1000));
        }
        a.release()?;
        s.end()?;
    }

    fn an_overflow_is_counted() {
        let s = session()?;
        let mut devices = TestDevice::all().filter(|d| d.id().source.bus() == 0);
        let (Some(one), Some(two)) = (devices.next(), devices.next()) else { skip!("fewer than two test devices") };
        let (a, b) = (attached(&s, one.id())?, attached(&s, two.id())?);
        // With interrupts masked the records stay where they are: one register, two devices.
        x86_64::instructions::interrupts::without_interrupts(|| {
            one.write(0x1000, 0x1000, 4);
            two.write(0x2000, 0x1000, 4);
        });
        let first = a.events.await_faults(s.vtd(), SOON);
        iommu::tend(s.vtd());
        while s.vtd().service(16) == Service::Again {}
        check_eq!(first.len(), 1);
        let (recorded, lost) = (b.events.take().len() as u64, s.rest.take_lost());
        check!(recorded + lost >= 1, "the second device's fault is lost silently");
        // And the unit records again.
        check_eq!(two.write(0x3000, 0x1000, 4), Verdict::Stopped);
        check_eq!(b.events.await_faults(s.vtd(), SOON).len(), 1);
        a.release()?;
        b.release()?;
        s.end()?;
    }

    fn a_flood_is_summarised() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let total = 100u64;
        for i in 0..total {
            dev.write(0x10_0000 + i * 0x1000, 0x1000, 4);
            // The interrupt comes; the bottom half does not.
            crate::time::delay(vtd::Nanos(20_000));
        }
        while s.vtd().service(1000) == Service::Again {}
        let (told, lost) = (a.events.take().len() as u64, a.events.take_lost() + s.rest.take_lost());
        check_eq!(told, u64::from(vtd::Config::default().faults_per_service));
        check!(told + lost <= total && lost > 0, "{told} told, {lost} counted of {total}");
        a.release()?;
        s.end()?;
    }

    fn the_budget_of_the_bottom_half_is_kept() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        for i in 0..4u64 {
            dev.write(0x10_0000 + i * 0x1000, 0x1000, 4);
            crate::time::delay(vtd::Nanos(20_000));
        }
        check_eq!(s.vtd().service(1), Service::Again);
        check_eq!(a.events.take().len(), 1);
        while s.vtd().service(1) == Service::Again {}
        check_eq!(a.events.take().len(), 3);
        a.release()?;
        s.end()?;
    }
}

//! Real devices reach what was mapped, and nothing else.

use super::{
    SOON, attached, edu, first_stage, read_only_reason, replaced, session, testdev, unmapped_reason, write_only,
};
use crate::devices::edu::Edu;
use crate::devices::testdev::{PATTERN, TestDevice, Verdict};
use crate::memory::buffer::Buffer;
use crate::{check, check_eq, skip, test};
use vtd::hw::faults::Access as Attempt;
use vtd::{Access, Iova, PAGE, Range, Strict, Target};

const RW: Access = Access::READ.union(Access::WRITE);

test! {
    fn edu_copies_through_an_address_of_its_own() {
        let s = session()?;
        let dev = edu()?;
        let a = attached(&s, dev.id())?;
        let (from, to) = (Buffer::new(0).ok_or("no memory")?, Buffer::new(0).ok_or("no memory")?);
        // Input addresses that are no machine's memory.
        let (at_from, at_to) = (Iova::at(0x10_0000_0000), Iova::at(0x20_0000_0000));
        a.domain.map(at_from, from.hpa(), PAGE, Access::READ)?;
        a.domain.map(at_to, to.hpa(), PAGE, write_only(a.domain.spec()))?;
        from.set(4, 0xc0de_cafe);
        dev.read_memory(at_from.get() + 16, 0, 4)?;
        dev.write_memory(at_to.get() + 32, 0, 4)?;
        check_eq!(to.get(8), 0xc0de_cafe);
        check_eq!(to.get(7), 0);
        a.release()?;
        s.end()?;
    }

    fn an_unmapped_page_is_not_reached() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let at = Iova::at(0x5000_0000);
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        check_eq!(dev.write(at.get(), page.hpa().get(), 64), Verdict::Arrived);
        check_eq!(page.get(0), PATTERN);
        page.set(0, 0);
        let range = Range::sized(at, PAGE).ok_or("range")?;
        a.domain.unmap(range)?.flush().map_err(|n| n.error)?;
        check_eq!(dev.write(at.get(), page.hpa().get(), 64), Verdict::Stopped, "after unmap and flush");
        check_eq!(page.get(0), 0);
        let faults = a.events.await_faults(s.vtd(), SOON);
        check_eq!(faults.len(), 1);
        check_eq!((faults[0].address, faults[0].attempt, faults[0].reason.0), (at, Attempt::Write, unmapped_reason(a.domain.spec())));
        check_eq!(faults[0].device, Some(dev.id()));
        a.release()?;
        s.end()?;
    }

    fn one_address_means_different_memory_for_two_devices() {
        let s = session()?;
        let mut devices = TestDevice::all().filter(|d| d.id().source.bus() == 0);
        let (Some(one), Some(two)) = (devices.next(), devices.next()) else { skip!("fewer than two test devices") };
        let (a, b) = (attached(&s, one.id())?, attached(&s, two.id())?);
        let (x, y) = (Buffer::new(0).ok_or("no memory")?, Buffer::new(0).ok_or("no memory")?);
        let at = Iova::at(0x7000_0000);
        a.domain.map(at, x.hpa(), PAGE, RW)?;
        b.domain.map(at, y.hpa(), PAGE, RW)?;
        check_eq!(one.write(at.get(), x.hpa().get(), 16), Verdict::Arrived);
        check_eq!((x.get(0), y.get(0)), (PATTERN, 0));
        check_eq!(two.write(at.get(), y.hpa().get(), 16), Verdict::Arrived);
        check_eq!(y.get(0), PATTERN);
        a.release()?;
        b.release()?;
        s.end()?;
    }

    fn pass_through_reaches_memory_at_its_own_address() {
        let s = session()?;
        let dev = testdev()?;
        let (group, _) = s.claim(dev.id())?;
        group.attach(Target::Identity)?;
        let page = Buffer::new(0).ok_or("no memory")?;
        check_eq!(dev.write(page.hpa().get(), page.hpa().get(), 16), Verdict::Arrived);
        group.attach(Target::Blocked)?;
        check_eq!(dev.write(page.hpa().get(), page.hpa().get(), 16), Verdict::Stopped);
        group.release().map_err(|(_, e)| e)?;
        s.end()?;
    }

    fn tables_take_the_place_of_pass_through_and_give_it_back() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let (own, at) = (page.hpa().get(), Iova::at(0x10_0000_0000));
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        for _ in 0..2 {
            check_eq!(a.group.attach(Target::Identity)?, vtd::Change::Seamless);
            check_eq!(dev.write(own, own, 16), Verdict::Arrived);
            check_eq!(a.group.attach(Target::Domain(&a.domain))?, vtd::Change::Seamless);
            check_eq!(dev.write(own, own, 16), Verdict::Stopped, "still passing through");
            check_eq!(dev.write(at.get(), own, 16), Verdict::Arrived);
        }
        a.release()?;
        s.end()?;
    }

    fn nobody_reaches_anything_before_it_is_attached() {
        let s = session()?;
        let dev = testdev()?;
        let page = Buffer::new(0).ok_or("no memory")?;
        check_eq!(dev.write(page.hpa().get(), page.hpa().get(), 16), Verdict::Stopped, "unclaimed");
        let faults = s.rest.await_faults(s.vtd(), SOON);
        check_eq!(faults.len(), 1);
        // No context entry for the device, or no context table for its bus.
        check!(matches!(faults[0].reason.0, 1 | 2), "{}", faults[0]);
        let (group, events) = s.claim(dev.id())?;
        check_eq!(dev.write(page.hpa().get(), page.hpa().get(), 16), Verdict::Stopped, "claimed");
        let faults = events.await_faults(s.vtd(), SOON);
        check_eq!(faults.len(), 1);
        check!(matches!(faults[0].reason.0, 1 | 2), "{}", faults[0]);
        drop(group);
        s.end()?;
    }

    fn an_attachment_is_replaced_and_comes_back() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let other = s.vtd().domain::<Strict>(&a.group.best_spec())?;
        let (x, y) = (Buffer::new(0).ok_or("no memory")?, Buffer::new(0).ok_or("no memory")?);
        let at = Iova::at(0x1234_5000);
        a.domain.map(at, x.hpa(), PAGE, RW)?;
        other.map(at, y.hpa(), PAGE, RW)?;
        for _ in 0..3 {
            check_eq!(dev.write(at.get(), x.hpa().get(), 16), Verdict::Arrived);
            check_eq!(a.group.attach(Target::Domain(&other))?, replaced(other.spec()));
            check_eq!(dev.write(at.get(), y.hpa().get(), 16), Verdict::Arrived);
            a.group.attach(Target::Domain(&a.domain))?;
        }
        check_eq!(s.rest.take().len() + a.events.take().len(), 0);
        a.release()?;
        drop(other);
        s.end()?;
    }

    fn a_domain_outlives_its_handle_while_devices_use_it() {
        let s = session()?;
        let dev = testdev()?;
        let (group, _) = s.claim(dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        {
            let domain = s.vtd().domain::<Strict>(&group.best_spec())?;
            domain.map(Iova::at(0x4000), page.hpa(), PAGE, RW)?;
            group.attach(Target::Domain(&domain))?;
        }
        check_eq!(dev.write(0x4000, page.hpa().get(), 16), Verdict::Arrived);
        group.release().map_err(|(_, e)| e)?;
        s.end()?;
    }

    fn reading_and_writing_are_separate_rights() {
        let s = session()?;
        let dev = edu()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let writable = write_only(a.domain.spec());
        let (ro, wo) = (Iova::at(0x10_0000), Iova::at(0x20_0000));
        a.domain.map(ro, page.hpa(), PAGE, Access::READ)?;
        a.domain.map(wo, page.hpa(), PAGE, writable)?;
        page.set(0, 7);
        dev.read_memory(ro.get(), 0, 4)?;
        dev.write_memory(wo.get() + 8, 0, 4)?;
        check_eq!(page.get(2), 7);
        // QEMU drops faults of cached entries: ask for what is forbidden on pages nobody has used yet.
        let (ro, wo) = (Iova::at(0x30_0000), Iova::at(0x40_0000));
        a.domain.map(ro, page.hpa(), PAGE, Access::READ)?;
        dev.write_memory(ro.get() + 12, 0, 4)?;
        check_eq!(page.get(3), 0, "a read-only page was written");
        let faults = a.events.await_faults(s.vtd(), SOON);
        check!(faults.len() == 1 && faults[0].address == ro, "{faults:x?}");
        check_eq!(faults[0].reason.0, read_only_reason(a.domain.spec()));
        if first_stage(a.domain.spec()) {
            let refused = a.domain.map(wo, page.hpa(), PAGE, Access::WRITE).map_err(|e| e.why);
            check_eq!(refused, Err(vtd::MapWhy::Access), "the first stage cannot keep a reader away");
            a.release()?;
            s.end()?;
            return Ok(());
        }
        a.domain.map(wo, page.hpa(), PAGE, Access::WRITE)?;
        dev.read_memory(wo.get(), 0, 4)?;
        let faults = a.events.await_faults(s.vtd(), SOON);
        check!(faults.len() == 1 && faults[0].reason.0 == 6 && faults[0].address == wo, "{faults:x?}");
        a.release()?;
        s.end()?;
    }

    fn devices_behind_a_bridge_do_dma() {
        let s = session()?;
        let behind = |bus: u8| bus != 0;
        let mut found = 0;
        for dev in TestDevice::all().filter(|d| behind(d.id().source.bus())) {
            let a = attached(&s, dev.id())?;
            let page = Buffer::new(0).ok_or("no memory")?;
            a.domain.map(Iova::at(0x9000), page.hpa(), PAGE, RW)?;
            check_eq!(dev.write(0x9000, page.hpa().get(), 16), Verdict::Arrived, "{}", dev.id());
            check_eq!(dev.write(0xa000, page.hpa().get(), 16), Verdict::Stopped);
            let faults = a.events.await_faults(s.vtd(), SOON);
            check_eq!(faults.len(), 1, "for {}", dev.id());
            a.release()?;
            found += 1;
        }
        for dev in Edu::all().filter(|d| behind(d.id().source.bus())) {
            let a = attached(&s, dev.id())?;
            let page = Buffer::new(0).ok_or("no memory")?;
            a.domain.map(Iova::at(0x9000), page.hpa(), PAGE, RW)?;
            page.set(0, 0x55aa);
            dev.read_memory(0x9000, 0, 4)?;
            dev.write_memory(0x9010, 0, 4)?;
            check_eq!(page.get(4), 0x55aa, "{}", dev.id());
            a.release()?;
            found += 1;
        }
        if found == 0 {
            skip!("no device with a DMA engine behind a bridge");
        }
        s.end()?;
    }
}

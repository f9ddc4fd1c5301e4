//! What a device meets whose transfer is under way while its domain changes: `edu` takes 100 ms from command to transfer.

use super::{SOON, attached, config, edu, replaced, session, session_with, unmapped_reason};
use crate::devices::edu::Edu;
use crate::memory::buffer::Buffer;
use crate::{check, check_eq, skip, test};
use vtd::hw::faults::Access as Attempt;
use vtd::{Access, Config, Deferred, Iova, MapWhy, Nanos, PAGE, Range, Service, Strict, Target};

const RW: Access = Access::READ.union(Access::WRITE);

test! {
    fn a_domain_is_switched_between_command_and_transfer() {
        let s = session()?;
        let dev = edu()?;
        let a = attached(&s, dev.id())?;
        let other = s.vtd().domain::<Strict>(&a.group.best_spec())?;
        let (x, y) = (Buffer::new(0).ok_or("no memory")?, Buffer::new(0).ok_or("no memory")?);
        let at = Iova::at(0x12_3400_0000);
        a.domain.map(at, x.hpa(), PAGE, RW)?;
        other.map(at, y.hpa(), PAGE, RW)?;
        x.set(0, 0xfeed_0001);
        dev.read_memory(at.get(), 0, 4)?;
        // Cached for the first domain by now.
        dev.start(at.get() + 64, 0, 4, true)?;
        check_eq!(a.group.attach(Target::Domain(&other))?, replaced(other.spec()));
        check!(dev.is_busy(), "the transfer did not wait for the switch");
        dev.finish()?;
        check_eq!((x.get(16), y.get(16)), (0, 0xfeed_0001), "the transfer went to the domain of before");
        check_eq!(a.events.take().len() + s.rest.take().len(), 0);
        a.group.attach(Target::Domain(&a.domain))?;
        a.release()?;
        drop(other);
        s.end()?;
    }

    fn what_is_unmapped_before_the_transfer_is_not_reached_by_it() {
        let s = session()?;
        let dev = edu()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let at = Iova::at(0x21_0000_0000);
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        page.set(0, 0xfeed_0002);
        dev.read_memory(at.get(), 0, 4)?;
        dev.start(at.get() + 64, 0, 4, true)?;
        a.domain.unmap(Range::sized(at, PAGE).ok_or("range")?)?.flush().map_err(|n| n.error)?;
        check!(dev.is_busy(), "the transfer did not wait for the unmap");
        // The page is somebody else's now.
        page.fill(|_| 0x5afe_5afe);
        dev.finish()?;
        check_eq!(page.first_other(|_| 0x5afe_5afe), None, "the device wrote to memory that was taken from it");
        let faults = a.events.await_faults(s.vtd(), SOON);
        let reason = unmapped_reason(a.domain.spec());
        check!(faults.len() == 1, "{faults:x?}");
        check_eq!((faults[0].address, faults[0].attempt, faults[0].reason.0), (at, Attempt::Write, reason));
        a.release()?;
        s.end()?;
    }

    fn a_device_that_is_given_back_before_the_transfer_reaches_nothing() {
        let s = session()?;
        let dev = edu()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let at = Iova::at(0x21_0000_0000);
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        page.set(0, 0xfeed_0003);
        dev.read_memory(at.get(), 0, 4)?;
        dev.start(at.get() + 64, 0, 4, true)?;
        a.release()?;
        check!(dev.is_busy(), "the transfer did not wait");
        dev.finish()?;
        check_eq!(page.get(16), 0, "the device is still attached");
        check_eq!(s.rest.await_faults(s.vtd(), SOON).len(), 1, "and nobody hears of it");
        s.end()?;
    }

    fn two_devices_transfer_at_once_while_a_third_domain_changes() {
        let s = session()?;
        let mut devices = Edu::all().filter(|d| d.id().source.bus() == 0);
        let (Some(one), Some(two)) = (devices.next(), devices.next()) else { skip!("fewer than two edu on the root bus") };
        let (a, b) = (attached(&s, one.id())?, attached(&s, two.id())?);
        let (x, y) = (Buffer::new(0).ok_or("no memory")?, Buffer::new(0).ok_or("no memory")?);
        let at = Iova::at(0x5000_0000);
        a.domain.map(at, x.hpa(), PAGE, RW)?;
        b.domain.map(at, y.hpa(), PAGE, RW)?;
        x.set(0, 1);
        y.set(0, 2);
        one.start(at.get(), 0, 4, false)?;
        two.start(at.get(), 0, 4, false)?;
        let third = super::attached(&s, super::testdev()?.id())?;
        let beside = Buffer::new(0).ok_or("no memory")?;
        for i in 0..20 {
            third.domain.map(Iova::at(at.get() + i * PAGE), beside.hpa(), PAGE, RW)?;
            let range = Range::sized(Iova::at(at.get() + i * PAGE), PAGE).ok_or("range")?;
            third.domain.unmap(range)?.flush().map_err(|n| n.error)?;
        }
        one.finish()?;
        two.finish()?;
        one.write_memory(at.get() + 16, 0, 4)?;
        two.write_memory(at.get() + 16, 0, 4)?;
        check_eq!((x.get(4), y.get(4)), (1, 2));
        check_eq!(a.events.take().len() + b.events.take().len(), 0);
        third.release()?;
        a.release()?;
        b.release()?;
        s.end()?;
    }

    fn a_deferred_domain_flushes_when_much_is_gathered_and_when_it_is_old() {
        let config = Config { deferred_ranges: 4, deferred_deadline: Nanos::millis(5), ..config() };
        let s = session_with(config)?;
        let dev = super::testdev()?;
        let (group, _) = s.claim(dev.id())?;
        let domain = s.vtd().domain::<Deferred>(&group.best_spec())?;
        group.attach(Target::Deferred(&domain))?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let at = |i: u64| Iova::at(0x10_0000 + 2 * i * PAGE);
        let range = |i| Range::sized(at(i), PAGE).ok_or("range");
        for i in 0..5 {
            domain.map(at(i), page.hpa(), PAGE, RW)?;
        }
        for i in 0..3 {
            domain.unmap_later(range(i)?)?;
        }
        check_eq!(domain.map(at(0), page.hpa(), PAGE, RW).map_err(|e| e.why), Err(MapWhy::Unflushed));
        domain.unmap_later(range(3)?)?;
        for i in 0..4 {
            domain.map(at(i), page.hpa(), PAGE, RW)?;
        }
        // One alone waits for the bottom half to find it old.
        domain.unmap_later(range(0)?)?;
        let next = s.vtd().service(16);
        check!(matches!(next, Service::At(_) | Service::Idle), "{next:?}");
        let flushed = crate::time::wait_until(Nanos::millis(1000), || {
            s.vtd().service(16);
            domain.map(at(0), page.hpa(), PAGE, RW).is_ok()
        });
        check!(flushed, "nobody flushes what is old");
        group.release().map_err(|(_, e)| e)?;
        drop(domain);
        s.end()?;
    }
}

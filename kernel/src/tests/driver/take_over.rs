//! One instance of the driver is forgotten while it runs, and another finds its unit on.

use super::bring_up::registers;
use super::{SOON, attached, config, edu, session, testdev};
use crate::devices::testdev::Verdict;
use crate::iommu::Session;
use crate::memory::buffer::Buffer;
use crate::{check, check_eq, test, way};
use vtd::hw::registers::{Gsts, RootPointer, at};
use vtd::{Access, Flaw, Iova, PAGE, Range, Registers, Strict, TakeOver, Target};

const RW: Access = Access::READ.union(Access::WRITE);

test! {
    fn a_transfer_goes_on_under_the_next_instance() {
        let s = session()?;
        let dev = edu()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let at = Iova::at(0x12_3400_0000);
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        page.set(0, 0xfeed_0005);
        dev.read_memory(at.get(), 0, 4)?;
        dev.start(at.get() + 64, 0, 4, true)?;
        // Whoever had it is gone, and its tables are left as they are.
        core::mem::forget((a, s));
        let s = Session::take_over(config(), TakeOver::Adopt)?;
        check!(dev.is_busy(), "the transfer did not wait for the next instance");
        let line = &s.report().units[0];
        check!(line.found.contains(Gsts::TES | Gsts::QIES), "found {:?}", line.found);
        check!(line.fell_back.is_none(), "turned off first: {:?}", line.fell_back);
        check_eq!(line.adopted.map(|a| (a.entries, a.domains)), Some((1, 1)), "one device with one domain");
        dev.finish()?;
        check_eq!(page.get(16), 0xfeed_0005, "the transfer did not arrive");
        // It reaches what it reached until somebody claims it, and nothing else.
        page.set(0, 0xfeed_0006);
        dev.read_memory(at.get(), 0, 4)?;
        dev.write_memory(at.get() + 128, 0, 4)?;
        check_eq!(page.get(32), 0xfeed_0006);
        check_eq!(s.rest.await_faults(s.vtd(), vtd::Nanos(0)).len(), 0, "nothing was to be blocked");
        check_eq!(testdev()?.write(at.get(), page.hpa().get(), 16), Verdict::Stopped, "another device");
        check_eq!(s.rest.await_faults(s.vtd(), SOON).len(), 1);
        let (group, events) = s.claim(dev.id())?;
        dev.write_memory(at.get() + 256, 0, 4)?;
        check_eq!(page.get(64), 0, "claimed is blocked");
        check_eq!(events.await_faults(s.vtd(), SOON).len(), 1);
        let domain = s.vtd().domain::<Strict>(&group.best_spec())?;
        let other = Buffer::new(0).ok_or("no memory")?;
        domain.map(at, other.hpa(), PAGE, RW)?;
        group.attach(Target::Domain(&domain))?;
        dev.write_memory(at.get() + 256, 0, 4)?;
        check_eq!((page.get(64), other.get(64)), (0, 0xfeed_0006), "the new owner's tables count");
        domain.unmap(Range::sized(at, PAGE).ok_or("range")?)?.flush().map_err(|n| n.error)?;
        group.release().map_err(|(_, e)| e)?;
        drop(domain);
        s.end()?;
        // And whoever comes then finds everything off.
        Session::take_over(config(), TakeOver::Refuse)?.end()?;
    }

    fn tables_that_are_malformed_are_not_gone_on_with() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let iova = Iova::at(0x5000_0000);
        a.domain.map(iova, page.hpa(), PAGE, RW)?;
        check!(way::of(s.vtd(), dev.id(), iova.get()).is_ok());
        let root = RootPointer(registers(&s)?.read64(at::RTADDR)).table();
        core::mem::forget((a, s));
        // SAFETY: the root table of an instance that is gone; the unit may read it, and nobody else does.
        unsafe {
            let entry = root as *mut u64;
            entry.write_volatile(entry.read_volatile() | 1 << 4);
        }
        let s = Session::take_over(config(), TakeOver::Adopt)?;
        let line = &s.report().units[0];
        check!(line.adopted.is_none(), "adopted: {:?}", line.adopted);
        let why = line.fell_back.ok_or("nothing says why it was turned off first")?;
        check_eq!((why.flaw, why.at, why.word & 1 << 4), (Flaw::Reserved, root, 1 << 4));
        check_eq!(dev.write(iova.get(), page.hpa().get(), 16), Verdict::Stopped, "a device goes on by such tables");
        s.end()?;
    }
}

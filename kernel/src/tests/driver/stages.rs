//! Which tables a device's requests go through: legacy entries or the PASID entry of requests without one, either stage, and
//! what the unit writes into them.

use super::{SOON, attached, config, first_stage, session, session_with, testdev, unmapped_reason};
use crate::devices::testdev::{PATTERN, Verdict};
use crate::memory::buffer::Buffer;
use crate::way::{self, Scheme};
use crate::{check, check_eq, test};
use vtd::explain::Attempt;
use vtd::hw::pages::{self, first};
use vtd::hw::registers::TableMode;
use vtd::{Access, Config, DomainSpec, ErrorKind, Iova, Need, PAGE, Pasid, Range, Stage, Strict, Target};

const RW: Access = Access::READ.union(Access::WRITE);

/// What the tables are to be where a domain has this kind.
fn scheme(spec: DomainSpec) -> Scheme {
    if first_stage(spec) { Scheme::First } else { Scheme::Second }
}

test! {
    fn requests_without_pasid_go_by_one_entry_to_tables_or_past_them() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let (at, own) = (Iova::at(0x12_3456_7000), page.hpa().get());
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        let tables = way::of(s.vtd(), dev.id(), at.get())?;
        let mode = s.report().units[0].tables.ok_or("the unit was left alone")?;
        check_eq!((tables.mode, tables.scheme, tables.memory), (mode, scheme(a.domain.spec()), Some(own)));
        // Root, context, directory and PASID table with PASID 0; root and context table in legacy mode.
        let above = if mode == TableMode::Scalable { 4 } else { 2 };
        check_eq!(tables.steps.len(), above + usize::from(a.domain.spec().levels));
        check!(tables.did != 0, "domain id 0 is the hardware's in caching mode");
        check_eq!(dev.write(at.get(), own, 16), Verdict::Arrived);
        a.group.attach(Target::Identity)?;
        let past = way::of(s.vtd(), dev.id(), own)?;
        check_eq!((past.scheme, past.memory, past.steps.len()), (Scheme::PassThrough, Some(own), above));
        check!(past.did != tables.did, "what passes through shares no domain id with tables");
        check_eq!(dev.write(own, own, 16), Verdict::Arrived);
        a.group.attach(Target::Blocked)?;
        check!(way::of(s.vtd(), dev.id(), own).is_err(), "an entry is left");
        check_eq!(dev.write(own, own, 16), Verdict::Stopped);
        a.release()?;
        s.end()?;
    }

    fn a_pasid_is_refused_for_what_is_missing() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let pasid = Pasid::new(1).ok_or("no such PASID")?;
        let refused = a.group.attach_pasid(dev.id(), pasid, Target::Domain(&a.domain));
        // No QEMU unit of these machines offers PASIDs.
        check_eq!(refused.map_err(|e| (e.kind, e.pasid)), Err((ErrorKind::Unsupported(Need::Pasid), Some(pasid))));
        a.release()?;
        s.end()?;
    }

    fn the_other_stage_is_refused_where_the_unit_lacks_it() {
        let s = session()?;
        let (group, _) = s.claim(testdev()?.id())?;
        let spec = group.best_spec();
        let mut other = spec;
        (other.stage, other.levels, other.width) = match spec.stage {
            Stage::First => (Stage::Second, 4, 39),
            _ => (Stage::First, 4, 39),
        };
        let need = if first_stage(spec) { Need::SecondStage } else { Need::FirstStage };
        let domain = s.vtd().domain::<Strict>(&other)?;
        check_eq!(group.attach(Target::Domain(&domain)).map_err(|e| e.kind), Err(ErrorKind::Unsupported(need)));
        group.release().map_err(|(_, e)| e)?;
        drop(domain);
        s.end()?;
    }

    fn dirty_tracking_is_refused_where_walks_are_not_snooped() {
        let s = session()?;
        let (group, _) = s.claim(testdev()?.id())?;
        let mut spec = group.best_spec();
        check!(!spec.coherent, "no QEMU unit snoops its walks");
        spec.dirty = true;
        let refused = s.vtd().domain::<Strict>(&spec).map(drop);
        check_eq!(refused.map_err(|e| e.kind), Err(ErrorKind::Unsupported(Need::Coherence)));
        group.release().map_err(|(_, e)| e)?;
        s.end()?;
    }

    fn accessed_and_dirty_bits_are_what_the_stage_makes_of_them() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let (page, at) = (Buffer::new(0).ok_or("no memory")?, Iova::at(0x7654_3000));
        a.domain.map(at, page.hpa(), PAGE, RW)?;
        let entry = || -> Result<(u64, u64), alloc::string::String> {
            way::of(s.vtd(), dev.id(), at.get())?.leaf.ok_or("no page tables".into())
        };
        let marks = if first_stage(a.domain.spec()) { first::A | first::D } else { pages::ACCESSED | pages::DIRTY };
        let (place, was) = entry()?;
        check_eq!(was & marks, marks, "set from the start, where hardware's own updates are not snooped");
        // As if the driver had not: QEMU's unit marks first-stage entries when it walks, and second-stage entries never.
        // SAFETY: the entry of a page that no request has reached yet; nobody else writes there.
        unsafe { (place as *mut u64).write_volatile(was & !marks) };
        check_eq!(a.domain.translate(at).map(|t| t.0), Some(page.hpa()), "the driver reads the entry as the same page");
        check_eq!(dev.write(at.get(), page.hpa().get(), 16), Verdict::Arrived);
        let wanted = if first_stage(a.domain.spec()) { was } else { was & !marks };
        check_eq!(entry()?.1, wanted, "after a device has written to the page");
        let explained = s.vtd().explain(dev.id(), None, at, Attempt::Write)?;
        let seen = explained.walk.steps().last().ok_or("nothing was read")?;
        check_eq!((seen.at, seen.words()), (place, &[wanted][..]), "the driver sees the same: {explained}");
        check_eq!(a.domain.translate(at).map(|t| t.0), Some(page.hpa()));
        a.domain.unmap(Range::sized(at, PAGE).ok_or("range")?)?.flush().map_err(|n| n.error)?;
        check_eq!(dev.write(at.get(), page.hpa().get(), 16), Verdict::Stopped);
        a.release()?;
        s.end()?;
    }

    fn first_stage_addresses_need_the_width_in_the_entry() {
        let page = Buffer::new(0).ok_or("no memory")?;
        for said in [true, false] {
            let s = session_with(Config { first_stage_width: said, ..config() })?;
            let dev = testdev()?;
            let a = attached(&s, dev.id())?;
            // QEMU takes addresses below 2^(30 + 9 AW) for canonical, half of them on either side.
            let (below, above) = (Iova::at((1 << 29) - PAGE), Iova::at(1 << 29));
            for at in [below, above] {
                a.domain.map(at, page.hpa(), PAGE, RW)?;
            }
            check_eq!(dev.write(below.get(), page.hpa().get(), 16), Verdict::Arrived, "AW is said: {said}");
            let narrow = first_stage(a.domain.spec()) && !said;
            let wanted = if narrow { Verdict::Stopped } else { Verdict::Arrived };
            check_eq!(dev.write(above.get(), page.hpa().get(), 16), wanted, "AW is said: {said}");
            let faults = a.events.await_faults(s.vtd(), if narrow { SOON } else { vtd::Nanos(0) });
            let reasons = faults.iter().map(|f| f.reason.0);
            check!(reasons.eq(narrow.then_some(0x80)), "{faults:x?}");
            a.release()?;
            s.end()?;
        }
    }

    fn the_upper_half_of_the_addresses_is_not_mapped() {
        let s = session()?;
        let dev = testdev()?;
        let a = attached(&s, dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let last = a.domain.addresses().last.get();
        let beyond = a.domain.map(Iova::at(last + 1), page.hpa(), PAGE, RW);
        check_eq!(beyond.map_err(|e| e.why), Err(vtd::MapWhy::Width));
        // A first-stage address with all upper bits set is canonical, and simply not mapped.
        let at = if first_stage(a.domain.spec()) { !last } else { last - PAGE + 1 };
        check_eq!(dev.write(at, page.hpa().get(), 16), Verdict::Stopped);
        let faults = a.events.await_faults(s.vtd(), SOON);
        check!(faults.len() == 1 && faults[0].reason.0 == unmapped_reason(a.domain.spec()), "{faults:x?}");
        a.release()?;
        s.end()?;
    }

    fn entries_of_scalable_mode_are_flushed_when_pass_through_ends_and_when_a_pasid_entry_does() {
        let s = session()?;
        let dev = testdev()?;
        let (group, events) = s.claim(dev.id())?;
        let page = Buffer::new(0).ok_or("no memory")?;
        let own = page.hpa().get();
        // Each change is seen by the very next request, whatever QEMU has cached of the one before.
        for round in 0..3 {
            let domain = s.vtd().domain::<Strict>(&group.best_spec())?;
            let at = Iova::at(0x40_0000_0000 + round * PAGE);
            domain.map(at, page.hpa(), PAGE, RW)?;
            group.attach(Target::Identity)?;
            page.set(0, 0);
            check_eq!(dev.write(own, own, 16), Verdict::Arrived, "round {round}");
            check_eq!(page.get(0), PATTERN);
            group.attach(Target::Blocked)?;
            check_eq!(dev.write(own, own, 16), Verdict::Stopped, "round {round}: still passing through");
            group.attach(Target::Domain(&domain))?;
            check_eq!(dev.write(at.get(), own, 16), Verdict::Arrived, "round {round}");
            group.attach(Target::Blocked)?;
            check_eq!(dev.write(at.get(), own, 16), Verdict::Stopped, "round {round}: the PASID entry lives on");
            check!(!events.await_faults(s.vtd(), SOON).is_empty(), "round {round}: nobody reports it");
        }
        group.release().map_err(|(_, e)| e)?;
        s.end()?;
    }
}

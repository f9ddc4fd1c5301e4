//! How faults are recorded and told. VT-d 7.2 (records), 7.3 (events).

use super::reasons::{CONTEXT_ABSENT, CONTEXT_RESERVED, NO_WRITE, ROOT_ABSENT};
use super::rig::{DOMAIN, NOWHERE, Rig, Writer};
use super::space::leaf;
use super::vector::Vector;
use crate::testing::{Failure, Outcome};
use crate::{check, check_eq, skip, test};
use vtd::Registers;
use vtd::hw::faults::{Access, FaultRecord};
use vtd::hw::pages::{IO_WRITE, PRESENT};
use vtd::hw::registers::{EventControl, Fsts, Gcmd, at};
use vtd::hw::tables::{ContextEntry, RootEntry};

/// A rig whose page is not there, and a second device without a context entry.
fn two_sources() -> Result<(Rig, Writer), Failure> {
    let mut rig = Rig::new()?;
    let Some(other) = Writer::all().find(|w| w.source != rig.writer.source) else { skip!("one source id only") };
    rig.unit.set_context(other.source, ContextEntry::ABSENT)?;
    rig.space.set(rig.iova, 1, 0)?;
    Ok((rig, other))
}

/// One fault of the rig's device on its absent page, recorded or not.
fn fault(rig: &Rig) -> Outcome {
    rig.stopped("an absent page")
}

fn control(rig: &Rig) -> EventControl {
    rig.unit.event_control(at::FECTL)
}

test! {
    /// FPD in the context entry: still stopped, no longer recorded. It counts in an entry that is absent or wrong, too.
    fn disabled_faults_are_not_recorded() {
        let mut rig = Rig::new()?;
        let (source, good) = (rig.writer.source, rig.context());
        rig.space.set(rig.iova, 1, 0)?;
        rig.refused("recorded", NO_WRITE)?;
        for (what, entry) in [
            ("an absent page", good),
            ("an absent entry", ContextEntry::ABSENT),
            ("a reserved type", ContextEntry { lo: good.lo | 0b11 << 2, ..good }),
            ("a reserved width", ContextEntry { hi: good.hi & !7, ..good }),
            ("tables outside memory", ContextEntry::second_stage(NOWHERE, rig.space.width, DOMAIN)),
        ] {
            rig.unit.set_context(source, entry.with_fpd(true))?;
            rig.stopped(what)?;
            check_eq!(rig.unit.fsts(), Fsts::empty(), "{what}");
        }
        rig.unit.set_context(source, good.with_fpd(true))?;
        for (what, level, entry) in [
            ("a reserved bit", 1, leaf(rig.target.address(), 1, PRESENT | IO_WRITE)),
            ("the interrupt range", 1, leaf(vtd::INTERRUPT_RANGE.first.get(), 1, PRESENT)),
            ("a table outside memory", 2, NOWHERE | PRESENT),
        ] {
            let before = rig.space.get(rig.iova, level);
            rig.space.set(rig.iova, level, entry)?;
            rig.stopped(what)?;
            check_eq!(rig.unit.fsts(), Fsts::empty(), "{what}");
            rig.space.set(rig.iova, level, before)?;
        }
        rig.unit.set_context(source, good)?;
        rig.refused("recorded again", NO_WRITE)?;
    }

    /// Reserved bits in the context entry itself: the specification has the flag count, QEMU records them all the same.
    fn disabled_fault_of_the_context_entry_itself() {
        let mut rig = Rig::new()?;
        let (source, good) = (rig.writer.source, rig.context());
        let bad = ContextEntry { hi: good.hi | 1 << 40, ..good };
        rig.unit.set_context(source, bad.with_fpd(true))?;
        rig.stopped("a reserved bit")?;
        if !rig.unit.fsts().is_empty() {
            rig.unit.expect_fault("a reserved bit", source, rig.iova, Access::Write, CONTEXT_RESERVED)?;
        }
    }

    /// Without a context entry there is no flag: recorded.
    fn absent_root_entry_is_always_recorded() {
        let mut rig = Rig::new()?;
        let quiet = rig.context().with_fpd(true);
        rig.unit.set_context(rig.writer.source, quiet)?;
        rig.root_refused("an absent root entry", RootEntry::ABSENT, ROOT_ABSENT)?;
    }

    /// A second fault of the source whose record is pending is dropped, or gets a record of its own where there is one:
    /// it does not count as lost.
    fn same_source_does_not_overflow() {
        let (rig, _) = two_sources()?;
        fault(&rig)?;
        fault(&rig)?;
        check!(rig.unit.fsts().contains(Fsts::PPF));
        if rig.unit.capabilities.cap.nfr() == 1 {
            check!(!rig.unit.fsts().contains(Fsts::PFO), "{:?}", rig.unit.fsts());
            rig.unit.expect_fault("the first", rig.writer.source, rig.iova, Access::Write, NO_WRITE)?;
        }
        rig.unit.forget_faults();
        check_eq!(rig.unit.fsts(), Fsts::empty());
        rig.refused("recorded again", NO_WRITE)?;
    }

    /// Without a free record a fault of another source is lost, as PFO says. Until that is cleared nothing is recorded.
    fn other_source_overflows() {
        let (rig, other) = two_sources()?;
        if rig.unit.capabilities.cap.nfr() > 1 {
            skip!("more records than sources");
        }
        fault(&rig)?;
        rig.unit.invalidate_all()?;
        other.write(rig.iova, &rig.target);
        check_eq!(rig.unit.fsts() & (Fsts::PFO | Fsts::PPF), Fsts::PFO | Fsts::PPF);
        // The record is still the first one's, and cleared alone it does not let the next one in.
        let at = rig.unit.capabilities.cap.fro();
        let record = FaultRecord { lo: rig.unit.registers.read64(at), hi: rig.unit.registers.read64(at + 8) };
        check_eq!((record.source(), record.reason().0), (rig.writer.source, NO_WRITE.code));
        rig.unit.registers.write32(at + FaultRecord::LAST_DWORD, FaultRecord::CLEAR);
        check_eq!(rig.unit.fsts(), Fsts::PFO);
        rig.unit.invalidate_all()?;
        other.write(rig.iova, &rig.target);
        check_eq!(rig.unit.fsts(), Fsts::PFO, "recorded in spite of the overflow");
        rig.unit.registers.write32(at::FSTS, Fsts::PFO.bits());
        check_eq!(rig.unit.fsts(), Fsts::empty());
        rig.unit.invalidate_all()?;
        other.write(rig.iova, &rig.target);
        rig.unit.expect_fault("the other", other.source, rig.iova, Access::Write, CONTEXT_ABSENT)?;
    }

    fn record_outlives_translation() {
        let (rig, _) = two_sources()?;
        fault(&rig)?;
        rig.unit.command(Gcmd::TE, false)?;
        rig.unit.expect_fault("off", rig.writer.source, rig.iova, Access::Write, NO_WRITE)?;
    }

    /// The address is that of the page, wherever in it the request began.
    fn record_names_the_page() {
        let (mut rig, _) = two_sources()?;
        for offset in [0, 4, 0x345 & !3, 0xfc0] {
            let page = rig.iova & !0xfff;
            rig.iova = page + offset;
            rig.refused("within the page", NO_WRITE)?;
        }
    }

    fn fault_interrupts() {
        let vector = Vector::new()?;
        let (rig, _) = two_sources()?;
        rig.unit.set_event(at::FECTL, vector.message(), false);
        check!(!control(&rig).contains(EventControl::IM));
        check!(vector.stays(0), "before any fault");
        fault(&rig)?;
        check!(vector.comes(1));
        check!(!control(&rig).contains(EventControl::IP), "delivered, so no longer pending");
        fault(&rig)?;
        check!(vector.stays(1), "an interrupt while a fault is pending");
        rig.unit.forget_faults();
        fault(&rig)?;
        check!(vector.comes(2), "no interrupt after all was cleared");
    }

    /// A masked fault waits in the control register and comes when the mask is taken away.
    fn masked_fault_interrupts_later() {
        let vector = Vector::new()?;
        let (rig, _) = two_sources()?;
        rig.unit.set_event(at::FECTL, vector.message(), true);
        fault(&rig)?;
        check!(vector.stays(0), "in spite of the mask");
        check_eq!(control(&rig) & (EventControl::IM | EventControl::IP), EventControl::IM | EventControl::IP);
        rig.unit.mask_event(at::FECTL, false);
        check!(vector.comes(1));
        check!(!control(&rig).contains(EventControl::IP));
    }

    /// The fault is dealt with before the mask is taken away: nothing is left to tell.
    fn masked_fault_that_is_cleared_does_not_interrupt() {
        let vector = Vector::new()?;
        let (rig, _) = two_sources()?;
        rig.unit.set_event(at::FECTL, vector.message(), true);
        fault(&rig)?;
        rig.unit.forget_faults();
        check!(!control(&rig).contains(EventControl::IP), "{:?}", control(&rig));
        rig.unit.mask_event(at::FECTL, false);
        check!(vector.stays(0));
    }
}

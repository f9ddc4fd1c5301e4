//! What the registers say, one by one.

use super::rig::Rig;
use super::ring::Ring;
use super::unit::RawUnit;
use crate::memory::frames;
use crate::{check, check_eq, test};
use vtd::Registers;
use vtd::hw::capabilities::AddressWidth;
use vtd::hw::invalidation::DescriptorWidth;
use vtd::hw::registers::{EventControl, Fsts, Gcmd, Gsts, at};

test! {
    fn no_fault_is_pending_at_first() {
        let unit = RawUnit::open()?;
        check_eq!(unit.fsts(), Fsts::empty());
    }

    fn fault_event_is_masked_at_first() {
        let unit = RawUnit::open()?;
        check!(unit.event_control(at::FECTL).contains(EventControl::IM));
    }

    fn version_is_one_that_exists() {
        let unit = RawUnit::open()?;
        check!(unit.capabilities.version.major() >= 1, "{:?}", unit.capabilities.version);
        check_eq!(unit.capabilities.version.0 >> 8, 0, "the rest of the register");
    }

    fn tables_of_39_bits_are_supported() {
        let unit = RawUnit::open()?;
        let cap = unit.capabilities.cap;
        check!(cap.supports(AddressWidth::Bits39), "SAGAW is {:#x}", cap.sagaw());
        check_eq!(cap.sagaw() & !0xe, 0, "reserved bits");
        let widest = cap.widest().ok_or("no width")?;
        check!(cap.mgaw() <= 64 && widest.bits() <= cap.mgaw(), "{widest:?} in {} bits", cap.mgaw());
    }

    /// Pages of 1 GiB come with those of 2 MiB only, and the reserved half of the field is 0.
    fn large_page_sizes_are_consistent() {
        let unit = RawUnit::open()?;
        let cap = unit.capabilities.cap;
        check!(!cap.pages_1g() || cap.pages_2m());
        check!(matches!(cap.sslps(), 0 | 1 | 3), "SSLPS is {:#x}", cap.sslps());
    }

    fn domain_ids_and_fault_records_make_sense() {
        let unit = RawUnit::open()?;
        let cap = unit.capabilities.cap;
        check!(cap.domain_id_bits().is_some(), "ND is {}", cap.nd());
        check!(cap.fro() >= 0x100 && unit.capabilities.iva() >= 0x40, "FRO {:#x}", cap.fro());
        // The two groups do not lie on each other.
        let (records, iva) = (cap.fro()..cap.fro() + cap.nfr() * at::FRCD_STRIDE, unit.capabilities.iva());
        check!(!records.contains(&iva) && !records.contains(&(iva + 15)), "{records:x?} and {iva:#x}");
        check!(!cap.psi() || cap.mamv() >= 9, "pages of 2 MiB cannot be invalidated: MAMV is {}", cap.mamv());
    }

    /// Wide registers read the same by halves.
    fn halves_are_those_of_the_whole() {
        let unit = RawUnit::open()?;
        for register in [at::CAP, at::ECAP] {
            let (low, high) = (unit.registers.read32(register), unit.registers.read32(register + 4));
            check_eq!(unit.registers.read64(register), u64::from(high) << 32 | u64::from(low), "{register:#x}");
        }
    }

    fn root_table_is_taken_over() {
        let unit = RawUnit::open()?;
        unit.set_root_table(unit.root().address())?;
        check!(unit.gsts().contains(Gsts::RTPS));
        check!(!unit.gsts().contains(Gsts::TES), "by this alone nothing is translated");
    }

    fn translation_goes_on_and_off() {
        let unit = RawUnit::open()?;
        unit.turn_on()?;
        check!(unit.gsts().contains(Gsts::TES));
        unit.command(Gcmd::TE, false)?;
        check!(!unit.gsts().contains(Gsts::TES));
        check_eq!(unit.fsts(), Fsts::empty());
    }

    fn queue_goes_on_and_off() {
        let unit = RawUnit::open()?;
        let ring = Ring::new(&unit, DescriptorWidth::Bits128, 0)?;
        check!(unit.gsts().contains(Gsts::QIES));
        check!(!unit.gsts().contains(Gsts::TES), "the queue has nothing to do with translation");
        drop(ring);
        check!(!unit.gsts().contains(Gsts::QIES));
        check_eq!(unit.registers.read64(at::IQH), 0, "switched off, the head is back at the start");
    }

    /// For the tests that use the driver.
    fn unit_is_left_as_it_was_found() {
        let before = frames::free_count();
        let found = RawUnit::open()?.gsts() - Gsts::RTPS;
        let rig = Rig::new()?;
        rig.unit.root().set(usize::from(rig.writer.source >> 8) * 2, 0);
        rig.stopped("a fault that nobody looks at")?;
        check!(!rig.unit.fsts().is_empty());
        drop(rig);
        let unit = RawUnit::open()?;
        check_eq!(unit.gsts() - Gsts::RTPS, found);
        check_eq!(unit.fsts(), Fsts::empty());
        check!(unit.event_control(at::FECTL).contains(EventControl::IM));
        drop(unit);
        check_eq!(frames::free_count(), before, "frames");
    }
}

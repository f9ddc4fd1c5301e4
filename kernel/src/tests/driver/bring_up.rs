//! Bringing the unit up and shutting it down, as its registers tell it.

use super::{config, session, session_with};
use crate::iommu::Session;
use crate::platform::KernelPlatform;
use crate::{check, check_eq, test};
use vtd::hw::invalidation::Iqa;
use vtd::hw::registers::{Fsts, Gsts, RootPointer, TableMode, at};
use vtd::{Config, Platform, Registers, Tables, TakeOver, UnitId};

/// The unit's registers, beside the driver.
pub(super) fn registers(s: &Session) -> Result<vtd::Mmio, vtd::Error> {
    let base = s.vtd().register_base(UnitId(0))?;
    KernelPlatform.registers(base, 4096).map_err(|_| vtd::ErrorKind::Unknown.into())
}

test! {
    fn registers_say_that_everything_is_on() {
        let s = session()?;
        let r = registers(&s)?;
        check_eq!(r.read32(at::FSTS), 0, "no fault may be pending");
        let gsts = Gsts::from_bits_retain(r.read32(at::GSTS));
        check!(gsts.contains(Gsts::TES | Gsts::RTPS | Gsts::QIES), "{gsts:?}");
        check_eq!(s.report().units.len(), 1);
        check!(s.report().units[0].queue && s.report().units[0].fault_interrupt);
        s.end()?;
        let gsts = Gsts::from_bits_retain(r.read32(at::GSTS));
        check!(!gsts.intersects(Gsts::TES | Gsts::QIES), "left on: {gsts:?}");
    }

    fn the_unit_runs_on_the_tables_that_were_chosen() {
        let s = session()?;
        let able = s.vtd().capabilities(UnitId(0))?.ecap.smts();
        let scalable = config().tables == Tables::Scalable || config().tables == Tables::Best && able;
        let mode = if scalable { TableMode::Scalable } else { TableMode::Legacy };
        check_eq!(s.report().units[0].tables, Some(mode));
        let r = registers(&s)?;
        check_eq!(RootPointer(r.read64(at::RTADDR)).mode(), Some(mode));
        check_eq!(Iqa(r.read64(at::IQA)).width() as u8, mode as u8, "descriptors of 256 bits in scalable mode");
        s.end()?;
    }

    fn capabilities_are_consistent() {
        let s = session()?;
        let caps = s.vtd().capabilities(UnitId(0))?;
        check!(caps.cap.supports_levels(3), "every QEMU unit has 39 bits");
        check!(caps.cap.pages_2m() || !caps.cap.pages_1g(), "1 GiB pages without 2 MiB pages");
        check!(caps.cap.nfr() >= 1 && caps.cap.domain_ids() >= 16);
    }

    fn comes_up_again_and_again() {
        for _ in 0..10 {
            session()?.end()?;
        }
    }

    fn a_unit_that_is_on_is_refused_or_disabled() {
        let s = session()?;
        // A predecessor that left everything on: its handle is lost, the hardware is not.
        core::mem::forget(s);
        let refused = Session::take_over(config(), TakeOver::Refuse);
        check!(refused.is_err(), "a running unit was accepted");
        let s = session()?;
        let found = s.report().units[0].found;
        check!(found.contains(Gsts::TES | Gsts::QIES), "the report says {found:?}");
        check_eq!(registers(&s)?.read32(at::FSTS) & Fsts::PPF.bits(), 0);
        s.end()?;
    }

    fn hand_back_is_refused_while_something_is_in_use() {
        let s = session()?;
        let d = s.vtd().domain::<vtd::Strict>(&vtd::DomainSpec::default())?;
        let vtd = s.vtd().clone();
        check!(s.end().is_err(), "two handles and a domain are alive");
        drop(d);
        check!(vtd.hand_back().is_ok(), "nothing is in use any more");
    }

    fn comes_up_without_the_queue() {
        let s = session_with(Config { queue: false, ..config() })?;
        let gsts = Gsts::from_bits_retain(registers(&s)?.read32(at::GSTS));
        // Scalable mode has nothing else.
        let queue = s.report().units[0].tables == Some(TableMode::Scalable);
        check!(gsts.contains(Gsts::TES) && gsts.contains(Gsts::QIES) == queue, "{gsts:?}");
        check_eq!(s.report().units[0].queue, queue);
        s.end()?;
    }
}

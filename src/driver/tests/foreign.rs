//! Devices on tables that somebody else owns.

use super::machine::{Dmar, Machine, config, dev, hpa, range};
use crate::host::error::{ErrorKind, Field, Need, Step};
use crate::host::testing::Host;
use crate::unit::standin::{CAP, ECAP_SM, Standin};
use crate::{AddressSpace, CheckedTables, Group, Hpa, Offers, Refused, TableForm, Target};

const ECAP_SC: u64 = 1 << 7;
const PAGE: u64 = 0x1000;

/// EPT of four tables with one page at `PAGE`.
struct Ept;

impl Ept {
    const ROOT: u64 = 0x10_0000;

    fn read(table: Hpa, index: usize) -> Option<u64> {
        let n = (table.get() - Self::ROOT) / 0x1000;
        Some(match (n, index) {
            (3, 1) => 0x8000 | 0x803,
            (0..3, 0) => (table.get() + 0x1000) | 7,
            _ => 0,
        })
    }

    fn check(offers: Result<Offers, Refused>) -> Result<CheckedTables, Refused> {
        CheckedTables::check(&Self::read, hpa(Self::ROOT), 4, &offers?)
    }
}

fn attached(m: &Machine) -> (AddressSpace<Host>, Group<Host>) {
    let group = m.claim(dev(1));
    let checked = Ept::check(group.table_offers(TableForm::Ept)).unwrap();
    let space = m.vtd.address_space(checked).unwrap();
    group.attach(Target::Shared(&space)).unwrap();
    m.forget();
    (space, group)
}

#[test]
fn a_flush_that_failed_is_made_good_by_the_next() {
    let m = Machine::new(&[(CAP, ECAP_SM)]);
    let (space, group) = attached(&m);
    m.units[0].state().asleep = true;
    let e = space.invalidate(range(PAGE, PAGE + 7), true).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout(Step::Invalidation));
    m.units[0].awake();
    m.forget();
    space.invalidate(range(0x20_0000, 0x20_0fff), true).unwrap();
    let pages: std::vec::Vec<u64> = m.units[0].take().1.iter().map(|d| d[1] & !0xfff).collect();
    assert_eq!(pages, [PAGE, 0x20_0000]);
    let space = space.close().expect_err("a group is attached");
    drop(group);
    space.close().expect("the group let go");
    m.end();
}

#[test]
fn a_unit_that_offers_less_is_refused_at_attach() {
    // Unit 1 has no snoop control, which the tables make use of.
    let m = Machine::new(&[(CAP, ECAP_SM), (CAP, ECAP_SM & !ECAP_SC)]);
    let (space, group) = attached(&m);
    let other = m.claim(dev(9));
    assert!(matches!(Ept::check(other.table_offers(TableForm::Ept)), Err(Refused::SnoopControl(_))));
    let e = other.attach(Target::Shared(&space)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unsupported(Need::SnoopControl));
    assert_eq!(other.table_offers(TableForm::X86_64), Err(Refused::Stage(TableForm::X86_64)));
    // A verdict about more address bits than there are is none.
    let mut offers = group.table_offers(TableForm::Ept).unwrap();
    offers.output += 1;
    let e = m.vtd.address_space(Ept::check(Ok(offers)).unwrap()).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid(Field::Address));
    drop((other, group));
    space.close().unwrap();
    m.end();
}

/// Firmware's regions would have to be mapped, in tables that are not the driver's.
#[test]
fn a_device_that_firmware_needs_a_region_for_is_refused() {
    let host = Host::new();
    super::machine::configure(&host);
    let units = std::vec![Standin::new(&host, 0xfed9_0000, CAP, ECAP_SM)];
    let dmar = Dmar::default().unit(0xfed9_0000, &[]).reserved(0x7000_0000, 0x7000_0fff, dev(1));
    let m = Machine::with(host, units, &dmar, config());
    m.report.as_ref().unwrap();
    let group = m.vtd.claim(m.vtd.group_of(dev(1)).unwrap(), crate::Owner::HOST).unwrap();
    let checked = Ept::check(group.table_offers(TableForm::Ept)).unwrap();
    let space = m.vtd.address_space(checked).unwrap();
    let e = group.attach(Target::Shared(&space)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid(Field::ReservedRegion));
    drop(group);
    space.close().expect("nobody is attached");
    m.end();
}

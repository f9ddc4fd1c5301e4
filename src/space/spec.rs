//! What a domain states that it needs of every unit that its devices are behind (VT-d 3.7, 11.4.2).

use super::paging::PageSizes;
use crate::host::error::{ErrorKind, Field, Need};
use crate::host::platform::Platform;
use crate::hw::capabilities::AddressWidth;
use crate::hw::registers::TableMode;
use crate::unit::Unit;
use crate::unit::errata::Errata;

/// The floor that every unit which may join must meet; a unit below it is refused by name at attach.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DomainSpec {
    /// Levels of tables: 3 (39 bits), 4 (48 bits) or 5 (57 bits). A unit takes those of CAP.SAGAW.
    pub levels: u8,
    /// Bits of input addresses: at most what the levels reach, and CAP.MGAW of every unit.
    pub width: u8,
    /// Page sizes that the tables may use beside 4 KiB.
    pub sizes: PageSizes,
    /// Only units that snoop their table walks may join (ECAP.C, in scalable mode ECAP.SMPWCS); saves flushing cache lines.
    pub coherent: bool,
    /// Every access of a device is snooped, whatever the device asks for.
    pub force_snoop: bool,
    /// The tables say which pages devices have written to: see [`Domain::read_and_clear_dirty`](crate::Domain::read_and_clear_dirty).
    pub dirty: bool,
}

impl Default for DomainSpec {
    /// Four levels, 39 bits, 4 KiB pages, any coherence: what nearly every unit takes.
    fn default() -> Self {
        DomainSpec {
            levels: 4,
            width: 39,
            sizes: PageSizes::empty(),
            coherent: false,
            force_snoop: false,
            dirty: false,
        }
    }
}

impl DomainSpec {
    /// The most that all of the units offer: tables of up to 48 bits where that can be, the page sizes that each has,
    /// coherent where each snoops. `None` without units.
    pub(crate) fn best_of<'u, P: Platform>(units: impl Iterator<Item = &'u Unit<P>> + Clone) -> Option<Self> {
        let common = |l: &u8| units.clone().all(|u| u.caps.cap.supports_levels(*l));
        let levels = [4, 3, 5].into_iter().find(common).unwrap_or(4);
        let one = |u: &Unit<P>| {
            let width = u.caps.cap.mgaw().min(12 + 9 * levels);
            DomainSpec {
                levels,
                width,
                sizes: sizes_of(u),
                coherent: u.snoops_walks(),
                force_snoop: false,
                dirty: false,
            }
        };
        units.clone().map(one).reduce(|a, b| DomainSpec {
            width: a.width.min(b.width),
            sizes: a.sizes & b.sizes,
            coherent: a.coherent && b.coherent,
            ..a
        })
    }

    /// The width that the levels reach, as entries encode it.
    pub(super) fn reach(&self) -> Result<AddressWidth, ErrorKind> {
        AddressWidth::of_levels(self.levels)
            .filter(|w| (12..=w.bits()).contains(&self.width))
            .ok_or(ErrorKind::Invalid(Field::Size))
    }

    /// What a unit lacks of it.
    pub(super) fn lacking<P: Platform>(&self, unit: &Unit<P>) -> Option<Need> {
        let caps = &unit.caps;
        if !unit.has_second_stage() {
            Some(Need::SecondStage)
        } else if !caps.cap.supports_levels(self.levels) || caps.cap.mgaw() < self.width {
            Some(Need::Width)
        } else if !sizes_of(unit).contains(self.sizes) {
            Some(Need::PageSizes)
        } else if self.coherent && !unit.snoops_walks() {
            Some(Need::Coherence)
        } else if self.force_snoop && !caps.ecap.sc() {
            Some(Need::SnoopControl)
        } else if self.dirty && !(unit.mode == TableMode::Scalable && caps.ecap.ssads() && unit.snoops_walks()) {
            Some(Need::DirtyTracking)
        } else {
            None
        }
    }
}

fn sizes_of<P: Platform>(unit: &Unit<P>) -> PageSizes {
    let mut sizes = PageSizes::empty();
    if !unit.errata.contains(Errata::SMALL_PAGES) {
        sizes.set(PageSizes::SIZE_2M, unit.caps.cap.pages_2m());
        sizes.set(PageSizes::SIZE_1G, unit.caps.cap.pages_1g());
    }
    sizes
}

//! What a domain states that it needs of every unit that its devices are behind (VT-d 3.7, 11.4.2).

use super::paging::PageSizes;
use crate::host::error::{ErrorKind, Field, Need};
use crate::host::platform::Platform;
use crate::hw::capabilities::AddressWidth;
use crate::unit::Unit;
use crate::unit::errata::Errata;

/// Which page tables a domain has (VT-d 3.6, 3.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// Second-stage tables where every unit of the machine has them in its mode, else first-stage tables.
    Any,
    /// First-stage tables: the CPUs' format. Scalable mode with ECAP.FSTS. Reading is always allowed, and addresses end below
    /// 2^47 (4 levels) or 2^56 (5 levels), for those above are sign-extended.
    First,
    /// Second-stage tables: legacy mode, and scalable mode with ECAP.SSTS.
    Second,
}

/// The floor that every unit which may join must meet; a unit below it is refused by name at attach.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DomainSpec {
    /// Which tables.
    pub stage: Stage,
    /// Levels of tables: 3 (39 bits), 4 (48 bits) or 5 (57 bits). A unit takes those of CAP.SAGAW; of first-stage tables 4, and 5
    /// with CAP.FS5LP.
    pub levels: u8,
    /// Bits of input addresses: at most what the levels reach (in the first stage one less, for the lower half), and CAP.MGAW
    /// of every unit.
    pub width: u8,
    /// Page sizes that the tables may use beside 4 KiB.
    pub sizes: PageSizes,
    /// Only units that snoop their table walks may join (ECAP.C, in scalable mode ECAP.SMPWCS); saves flushing cache lines.
    pub coherent: bool,
    /// Every access of a device is snooped, whatever the device asks for (ECAP.SC). Pass-through cannot be forced in legacy mode.
    pub force_snoop: bool,
    /// Hardware notes in the tables what devices write, for [`Domain::read_and_clear_dirty`](crate::Domain::read_and_clear_dirty):
    /// in the second stage ECAP.SSADS, in either a unit that snoops its walks, so `coherent` must be set too.
    pub dirty: bool,
    /// Hardware notes in first-stage tables that devices reached a page, apart from what CPUs note (ECAP.EAFS).
    pub extended_accessed: bool,
}

impl Default for DomainSpec {
    /// Four levels, 39 bits, 4 KiB pages, any coherence: what nearly every unit takes.
    fn default() -> Self {
        DomainSpec {
            stage: Stage::Any,
            levels: 4,
            width: 39,
            sizes: PageSizes::empty(),
            coherent: false,
            force_snoop: false,
            dirty: false,
            extended_accessed: false,
        }
    }
}

impl DomainSpec {
    /// The most that all of the units offer: second-stage tables where all have them, else first-stage tables; of up to 48 bits
    /// where that can be, the page sizes that each has, coherent where each snoops. `None` without units.
    pub(crate) fn best_of<'u, P: Platform>(units: impl Iterator<Item = &'u Unit<P>> + Clone) -> Option<Self> {
        let stage = stage_of(units.clone());
        let common = |l: &u8| units.clone().all(|u| has_levels(u, stage, *l));
        let levels = [4, 3, 5].into_iter().find(common).unwrap_or(4);
        let one = |u: &Unit<P>| DomainSpec {
            stage,
            levels,
            width: u.caps.cap.mgaw().min(reach_of(stage, levels)),
            sizes: sizes_of(u, stage),
            coherent: u.snoops_walks(),
            ..DomainSpec::default()
        };
        units.clone().map(one).reduce(|a, b| DomainSpec {
            width: a.width.min(b.width),
            sizes: a.sizes & b.sizes,
            coherent: a.coherent && b.coherent,
            ..a
        })
    }

    /// The same with the stage said, and what cannot be refused.
    pub(super) fn decided<'u, P: Platform>(
        mut self,
        units: impl Iterator<Item = &'u Unit<P>> + Clone,
    ) -> Result<Self, ErrorKind> {
        if self.stage == Stage::Any {
            self.stage = stage_of(units);
            // A spec that was made for any stage is for this one too.
            if self.stage == Stage::First {
                self.levels = self.levels.max(4);
                self.width = self.width.min(reach_of(Stage::First, self.levels));
            }
        }
        if self.dirty && !self.coherent {
            return Err(ErrorKind::Unsupported(Need::Coherence));
        }
        if self.extended_accessed && self.stage != Stage::First {
            return Err(ErrorKind::Unsupported(Need::FirstStage));
        }
        Ok(self)
    }

    /// The width that the levels reach, as entries encode it.
    pub(super) fn reach(&self) -> Result<AddressWidth, ErrorKind> {
        AddressWidth::of_levels(self.levels)
            .filter(|_| (12..=reach_of(self.stage, self.levels)).contains(&self.width))
            .filter(|_| self.stage != Stage::First || self.levels >= 4)
            .ok_or(ErrorKind::Invalid(Field::Size))
    }

    /// What a unit lacks of it.
    pub(super) fn lacking<P: Platform>(&self, unit: &Unit<P>) -> Option<Need> {
        let caps = &unit.caps;
        if self.stage == Stage::First && !unit.has_first_stage() {
            Some(Need::FirstStage)
        } else if self.stage != Stage::First && !unit.has_second_stage() {
            Some(Need::SecondStage)
        } else if !has_levels(unit, self.stage, self.levels) || caps.cap.mgaw() < self.width {
            Some(Need::Width)
        } else if !sizes_of(unit, self.stage).contains(self.sizes) {
            Some(Need::PageSizes)
        } else if self.coherent && !unit.snoops_walks() {
            Some(Need::Coherence)
        } else if self.force_snoop && !caps.ecap.sc() {
            Some(Need::SnoopControl)
        } else if self.dirty && self.stage != Stage::First && !(unit.scalable() && caps.ecap.ssads()) {
            Some(Need::DirtyTracking)
        } else if self.extended_accessed && !caps.ecap.eafs() {
            Some(Need::ExtendedAccessed)
        } else {
            None
        }
    }
}

/// Second-stage tables where all units have them, or none has others.
fn stage_of<'u, P: Platform>(mut units: impl Iterator<Item = &'u Unit<P>> + Clone) -> Stage {
    let first = units.clone().next().is_some() && units.clone().all(Unit::has_first_stage);
    if first && !units.all(Unit::has_second_stage) { Stage::First } else { Stage::Second }
}

/// Bits of the addresses that tables of `levels` take from 0 on.
fn reach_of(stage: Stage, levels: u8) -> u8 {
    let bits = levels.saturating_mul(9).saturating_add(12);
    if stage == Stage::First { bits.saturating_sub(1) } else { bits }
}

fn has_levels<P: Platform>(unit: &Unit<P>, stage: Stage, levels: u8) -> bool {
    match stage {
        Stage::First => levels == 4 || levels == 5 && unit.caps.cap.fs5lp(),
        _ => unit.caps.cap.supports_levels(levels),
    }
}

fn sizes_of<P: Platform>(unit: &Unit<P>, stage: Stage) -> PageSizes {
    let (cap, mut sizes) = (unit.caps.cap, PageSizes::empty());
    if stage == Stage::First {
        sizes.set(PageSizes::SIZE_2M, true);
        sizes.set(PageSizes::SIZE_1G, cap.fs1gp());
    } else if !unit.errata.contains(Errata::SMALL_PAGES) {
        sizes.set(PageSizes::SIZE_2M, cap.pages_2m());
        sizes.set(PageSizes::SIZE_1G, cap.pages_1g());
    }
    sizes
}

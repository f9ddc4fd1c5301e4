//! What a device and its unit can do together, and how the device stands.

use super::attach::Group;
use super::standing::Matter;
use crate::dmar::IntegratedFlags;
use crate::host::address::{DeviceId, UnitId};
use crate::host::error::{Error, Need, NoAts, State};
use crate::host::platform::Platform;
use crate::hw::registers::TableMode;

/// What a device can do behind its unit, and how it stands ([`Group::info`]).
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// The unit that serves it.
    pub unit: UnitId,
    /// The tables that the unit runs on.
    pub tables: TableMode,
    /// The unit has first-stage tables in that mode.
    pub first_stage: bool,
    /// The unit has second-stage tables in that mode.
    pub second_stage: bool,
    /// The unit has pass-through; without, tables stand in for it.
    pub pass_through: bool,
    /// Bits of the input addresses that the unit translates (CAP.MGAW).
    pub address_bits: u8,
    /// Bits of the PASIDs that device and unit both take; 0: none.
    pub pasid_bits: u8,
    /// Whether a translation cache of the device's own can be turned on.
    pub ats: Result<(), NoAts>,
    /// Whether it is.
    pub ats_on: bool,
    /// Whether the device can send page requests to its unit: those want its translation cache on.
    pub page_requests: Result<(), Need>,
    /// The physical function that the device is a virtual function of.
    pub physical: Option<DeviceId>,
    /// What firmware says of it, where it is integrated and listed (SIDP, SATC). What requests without PASID must not have
    /// (`NO_WALK_SNOOP`, `NO_PAGE_SNOOP`) the driver obeys, and refuses domains that want it.
    pub integrated: Option<IntegratedFlags>,
    /// Why it is blocked apart from its group: `Quarantined`, `InReset` or `Removed`.
    pub apart: Option<State>,
}

impl<P: Platform> Group<P> {
    /// What device `d` of the group can do, and how it stands. `Invalid(Device)` for one that is no member. Does not wait.
    pub fn info(&self, d: DeviceId) -> Result<DeviceInfo, Error> {
        let (_, m, unit) = self.member(d)?;
        let ecap = unit.caps.ecap;
        let ats = m.able(unit).map(drop);
        let ats_on = m.standing.is(Matter::CACHING);
        let page_requests = match ats {
            _ if !(unit.scalable() && ecap.prs()) => Err(Need::PageRequests),
            _ if !m.page_requests => Err(Need::DevicePageRequests),
            Err(why) => Err(Need::Ats(why)),
            Ok(()) if !ats_on => Err(Need::Ats(NoAts::Off)),
            Ok(()) => Ok(()),
        };
        Ok(DeviceInfo {
            unit: unit.id,
            tables: unit.mode,
            first_stage: unit.has_first_stage(),
            second_stage: unit.has_second_stage(),
            pass_through: ecap.pt(),
            address_bits: unit.caps.cap.mgaw(),
            pasid_bits: m.requester(unit).pasid_bits,
            ats,
            ats_on,
            page_requests,
            physical: m.physical,
            integrated: m.flags,
            apart: m.apart(),
        })
    }
}

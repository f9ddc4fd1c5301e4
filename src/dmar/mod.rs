//! What the firmware says about remapping: the bytes of the ACPI table DMAR, read without trust (`parse`), made into a
//! topology of units, scopes and reserved regions (`topology`), and judged (`audit`). VT-d 8.

mod audit;
mod defect;
mod oddity;
mod parse;
mod topology;

pub use audit::audit;
pub use defect::Defect;
pub use oddity::{Oddity, OddityKind};
pub use parse::{
    Andd, Atsr, Drhd, Entry, HEADER, Header, HeaderFlags, Rhsa, Rmrr, Satc, Scope, Scopes, Sidp, Structure, Structures,
    Table,
};
pub use topology::{Bridges, Buses, DeviceScope, IntegratedFlags, Reserved, ScopeKind, Topology, Unit};

//! What the firmware says about remapping: the bytes of the ACPI table DMAR, read without trust (`parse`), made into a
//! topology of units, scopes and reserved regions (`topology`), and judged (`audit`). VT-d 8.

mod defect;
pub mod parse;
pub mod topology;

pub use defect::Defect;
pub use parse::{Entry, Header, HeaderFlags, Scope, Structure, Table};
pub use topology::{Bridges, Buses, DeviceScope, IntegratedFlags, Reserved, ScopeKind, Topology, Unit};

//! The forms of the unit that are compared.

use vtd_emu::{Profile, Qemu};

/// Which tables a form translates with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    Legacy,
    SecondStage,
    FirstStage,
}

/// A form of the unit.
#[derive(Debug)]
pub struct Form {
    /// Also the machine's name.
    pub name: &'static str,
    pub tables: Tables,
    /// Address bits of memory and of the widest second-stage tables.
    pub width: u8,
    make: Qemu,
}

pub static FORMS: &[Form] = &[
    Form { name: "legacy", tables: Tables::Legacy, width: 48, make: Qemu::Legacy },
    Form { name: "legacy-39", tables: Tables::Legacy, width: 39, make: Qemu::Narrow },
    Form { name: "caching", tables: Tables::Legacy, width: 48, make: Qemu::Caching },
    Form { name: "second-stage", tables: Tables::SecondStage, width: 48, make: Qemu::SecondStage },
    Form { name: "first-stage", tables: Tables::FirstStage, width: 48, make: Qemu::FirstStage },
];

impl Form {
    /// The unit of `vtd-emu` that is to be like QEMU's.
    pub fn profile(&self) -> Profile {
        Profile::qemu(self.make)
    }
}

/// What QEMU says of its unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    pub version: u32,
    pub cap: u64,
    pub ecap: u64,
}

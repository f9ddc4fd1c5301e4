//! The forms of the unit that are compared.

use anyhow::{Context, Result};
use vtd_emu::{Profile, Qemu};

use crate::machines::{self, Machine};

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
    pub name: &'static str,
    pub tables: Tables,
    /// Address bits of memory and of the widest second-stage tables.
    pub width: u8,
    /// Bits of ECAP that `vtd-emu` has besides.
    pub granted: u64,
    machine: &'static str,
    make: Qemu,
}

pub static FORMS: &[Form] = &[
    form("legacy", "legacy", Tables::Legacy, 48, 0, Qemu::Legacy),
    form("legacy-39", "legacy-39", Tables::Legacy, 39, 0, Qemu::Narrow),
    form("caching", "caching", Tables::Legacy, 48, 0, Qemu::Caching),
    form("second-stage", "second-stage", Tables::SecondStage, 48, 0, Qemu::SecondStage),
    form("first-stage", "first-stage", Tables::FirstStage, 48, 0, Qemu::FirstStage),
    form("marks", "first-stage", Tables::FirstStage, 48, SMPWCS, Qemu::FirstStage),
];

/// ECAP.SMPWCS. QEMU marks entries as accessed and dirty although it says that it cannot snoop; a unit that says so does not.
const SMPWCS: u64 = 1 << 48;

const fn form(name: &'static str, machine: &'static str, tables: Tables, width: u8, granted: u64, make: Qemu) -> Form {
    Form { name, tables, width, granted, machine, make }
}

impl Form {
    /// The unit of `vtd-emu` that is to be like QEMU's.
    pub fn profile(&self) -> Profile {
        Profile::qemu(self.make).with_ecap(self.granted, 0)
    }

    /// The machine that QEMU plays.
    pub fn machine(&self) -> Result<&'static Machine> {
        machines::by_name(self.machine)
    }

    /// Whether accessed and dirty bits are what is compared.
    pub fn marks(&self) -> bool {
        self.granted & SMPWCS != 0
    }
}

/// The form of that name, or a sentence with the names there are.
pub fn by_name(name: &str) -> Result<&'static Form> {
    let names: Vec<&str> = FORMS.iter().map(|form| form.name).collect();
    let found = FORMS.iter().find(|form| form.name == name);
    found.with_context(|| format!("there is no form `{name}`; there are {}", names.join(", ")))
}

/// All forms for `--help`.
pub fn listing() -> String {
    let about = |form: &Form| form.machine().map_or("", |machine| machine.about);
    let marks = |form: &Form| if form.marks() { ", that mark accessed and dirty pages" } else { "" };
    let lines = FORMS.iter().map(|form| format!("\n  {:13} {}{}", form.name, about(form), marks(form)));
    format!("Forms:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_a_machine() {
        for form in FORMS {
            assert!(form.machine().is_ok_and(Machine::has_unit), "{}", form.name);
            assert_eq!(by_name(form.name).unwrap().name, form.name);
        }
        assert!(by_name("no-iommu").unwrap_err().to_string().contains("second-stage"));
    }
}

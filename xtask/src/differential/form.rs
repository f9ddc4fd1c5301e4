//! The forms of the unit that are compared.

use anyhow::{Context, Result};
use vtd_emu::{Profile, Qemu};

use crate::machines;

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

/// The form of that name, or a sentence with the names there are.
pub fn by_name(name: &str) -> Result<&'static Form> {
    let names: Vec<&str> = FORMS.iter().map(|form| form.name).collect();
    let found = FORMS.iter().find(|form| form.name == name);
    found.with_context(|| format!("there is no form `{name}`; there are {}", names.join(", ")))
}

/// All forms for `--help`.
pub fn listing() -> String {
    let about = |form: &Form| machines::by_name(form.name).map_or("", |machine| machine.about);
    let lines = FORMS.iter().map(|form| format!("\n  {:13} {}", form.name, about(form)));
    format!("Forms:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_a_machine() {
        for form in FORMS {
            assert!(machines::by_name(form.name).is_ok_and(machines::Machine::has_unit), "{}", form.name);
            assert_eq!(by_name(form.name).unwrap().name, form.name);
        }
        assert!(by_name("no-iommu").unwrap_err().to_string().contains("second-stage"));
    }
}

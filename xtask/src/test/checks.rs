//! Checks that are no tests: form, lints, the foreign host's build, the packages' contents.

use std::process::Stdio;

use anyhow::{Result, bail};

use super::silencers;
use crate::kernel;
use crate::places;
use crate::setup::sysroot::{self, Sysroot, TARGET};

pub const ADOPT_MANIFEST: &str = "examples/adopt/Cargo.toml";

/// A check's full name, its group, and what it does.
pub struct Check {
    pub name: &'static str,
    pub group: &'static str,
    pub work: fn() -> Result<()>,
}

/// Before the tests.
pub const EARLY: &[Check] = &[
    Check { name: "check::format", group: "format", work: format },
    Check { name: "check::allows", group: "format", work: silencers::check },
    Check { name: "check::clippy", group: "clippy", work: clippy_host },
    Check { name: "check::clippy-bare", group: "clippy", work: clippy_bare },
];

/// After the host's tests.
pub const LATE: &[Check] = &[
    Check { name: "check::adopt", group: "adopt", work: adopt },
    Check { name: "check::package", group: "package", work: package },
];

/// Whether the example of a foreign host is there.
pub fn has_adopt() -> bool {
    places::root().join(ADOPT_MANIFEST).exists()
}

/// Starts cargo; its words go to the user.
fn cargo(arguments: &[&str], sysroot: Option<&Sysroot>, last: &[&str]) -> Result<()> {
    let mut command = places::cargo();
    command.args(arguments).args(sysroot.map(Sysroot::cargo_options).unwrap_or_default()).args(last);
    if !command.stdout(Stdio::inherit()).status()?.success() {
        bail!("`cargo {}` failed; its words above say why", arguments.join(" "));
    }
    Ok(())
}

fn format() -> Result<()> {
    cargo(&["fmt", "--all", "--check"], None, &[])
}

const DENY: &[&str] = &["--", "--deny", "warnings"];

fn clippy_host() -> Result<()> {
    cargo(&["clippy", "--quiet", "--package", "vtd", "--all-targets", "--all-features"], None, DENY)?;
    // Targets with `test = false` are not among all targets.
    cargo(&["clippy", "--quiet", "--package", "vtd", "--test", "qemu"], None, DENY)?;
    let others = ["--package", "vtd-emu", "--package", "vtd-loom", "--package", "xtask", "--all-targets"];
    cargo(&[&["clippy", "--quiet"], &others[..]].concat(), None, DENY)
}

fn clippy_bare() -> Result<()> {
    let mut arguments = vec!["clippy", "--quiet", "--target", TARGET, "--profile", kernel::PROFILE];
    [kernel::PACKAGE, "vtd", "vtd-emu", "emulated"].iter().for_each(|name| arguments.extend(["--package", name]));
    cargo(&arguments, Some(&sysroot::ensure()?), DENY)
}

fn adopt() -> Result<()> {
    let arguments = ["build", "--quiet", "--manifest-path", ADOPT_MANIFEST, "--target", TARGET];
    cargo(&arguments, Some(&sysroot::ensure()?), &[])
}

/// The packages that others may use, and the folders that belong in them.
const PACKAGES: &[(&str, &[&str])] = &[("vtd", &["src/", "examples/"]), ("vtd-emu", &["src/", "tests/"])];

/// Texts that each package has to bring.
const TEXTS: &[&str] = &["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Each package holds what belongs in it and nothing else.
fn package() -> Result<()> {
    for (name, folders) in PACKAGES {
        let arguments = ["package", "--quiet", "--package", name, "--allow-dirty", "--no-verify", "--offline"];
        let text = places::output_of(places::cargo().args(arguments).arg("--list"))?;
        let foreign: Vec<&str> = text.lines().filter(|file| !belongs(file, folders)).collect();
        if !foreign.is_empty() {
            bail!("package {name} would hold {}; `include` in Cargo.toml says what it may", foreign.join(", "));
        }
        if let Some(missing) = TEXTS.iter().find(|file| !text.lines().any(|line| line == **file)) {
            bail!("package {name} would lack {missing}");
        }
        cargo(&arguments, None, &[])?;
    }
    Ok(())
}

fn belongs(file: &str, folders: &[&str]) -> bool {
    const META: &[&str] = &["Cargo.toml", "Cargo.toml.orig", "Cargo.lock", ".cargo_vcs_info.json"];
    META.contains(&file) || TEXTS.contains(&file) || folders.iter().any(|folder| file.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_hold_their_own_folders_only() {
        let [(_, driver), (_, unit)] = PACKAGES else { panic!("two packages") };
        assert!(["src/lib.rs", "examples/adopt/main.rs", "README.md"].iter().all(|file| belongs(file, driver)));
        let foreign = ["kernel/src/main.rs", "tests/qemu.rs", "xtask/Cargo.toml", "emu/src/lib.rs"];
        assert!(!foreign.iter().any(|file| belongs(file, driver)));
        assert!(belongs("tests/speed.rs", unit) && !belongs("proptest-regressions/x.txt", unit));
    }
}

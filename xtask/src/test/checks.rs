//! Checks that are no tests: form, lints, the foreign host's build, the package's contents.

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
    cargo(&["clippy", "--quiet", "--package", "vtd-emu", "--package", "xtask", "--all-targets"], None, DENY)
}

fn clippy_bare() -> Result<()> {
    let packages = ["clippy", "--quiet", "--package", kernel::PACKAGE, "--package", "vtd", "--package", "vtd-emu"];
    let options = ["--target", TARGET, "--profile", kernel::PROFILE];
    cargo(&[&packages[..], &options].concat(), Some(&sysroot::ensure()?), DENY)
}

fn adopt() -> Result<()> {
    let arguments = ["build", "--quiet", "--manifest-path", ADOPT_MANIFEST, "--target", TARGET];
    cargo(&arguments, Some(&sysroot::ensure()?), &[])
}

/// The package holds the driver and nothing else.
fn package() -> Result<()> {
    let arguments = ["package", "--quiet", "--package", "vtd", "--allow-dirty", "--no-verify", "--offline"];
    let text = places::output_of(places::cargo().args(arguments).arg("--list"))?;
    let foreign: Vec<&str> = text.lines().filter(|file| !belongs(file)).collect();
    if !foreign.is_empty() {
        bail!("the package would hold {}; `include` in Cargo.toml says what it may", foreign.join(", "));
    }
    cargo(&arguments, None, &[])
}

fn belongs(file: &str) -> bool {
    const META: &[&str] = &["Cargo.toml", "Cargo.toml.orig", "Cargo.lock", ".cargo_vcs_info.json"];
    const TEXTS: &[&str] = &["README.md", "LICENSE-MIT", "LICENSE-APACHE"];
    META.contains(&file) || TEXTS.contains(&file) || file.starts_with("src/") || file.starts_with("examples/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_the_driver() {
        assert!(belongs("src/lib.rs") && belongs("examples/adopt/main.rs") && belongs("README.md"));
        assert!(!belongs("kernel/src/main.rs") && !belongs("tests/qemu.rs") && !belongs("xtask/Cargo.toml"));
    }
}

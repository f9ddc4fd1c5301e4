//! Builds the kernel.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::places;
use crate::setup::sysroot::{Sysroot, TARGET};

pub const PACKAGE: &str = "vtd-kernel";
pub const PROFILE: &str = "kernel";

/// Where cargo puts the image.
pub fn image() -> PathBuf {
    places::target().join(TARGET).join(PROFILE).join(PACKAGE)
}

/// Builds the kernel; cargo's own words go to the user.
pub fn build(sysroot: &Sysroot) -> Result<PathBuf> {
    let mut command = places::cargo();
    command.args(["build", "--package", PACKAGE, "--target", TARGET, "--profile", PROFILE]);
    command.args(sysroot.cargo_options());
    let status = command.status()?;
    if !status.success() {
        bail!("the kernel does not build; cargo's words above say why");
    }
    Ok(image())
}

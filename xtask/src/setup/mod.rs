//! Set-up of a bare machine: the target library and QEMU, all under `target/vtd-setup`.

pub mod apt;
pub mod apt_sources;
pub mod qemu;
pub mod sysroot;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The file that is written last into a folder that set-up made: without it the folder is unfinished.
const STAMP: &str = "complete";

/// What the finished folder `dir` says of itself.
pub fn stamp_of(dir: &Path) -> Option<String> {
    fs::read_to_string(dir.join(STAMP)).ok()
}

fn write_stamp(dir: &Path, text: &str) -> Result<()> {
    let file = dir.join(STAMP);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// An empty folder, whatever an interrupted run left there.
fn fresh_dir(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    make_dir(dir)
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))
}

/// Keeps two runs from fetching into the same folder at once.
fn lock() -> Result<fs::File> {
    let dir = crate::places::setup();
    make_dir(&dir)?;
    let file = fs::File::create(dir.join("lock")).context("cannot make the lock file of set-up")?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another set-up in {} ...", dir.display());
        file.lock().context("cannot lock the folder of set-up")?;
    }
    Ok(file)
}

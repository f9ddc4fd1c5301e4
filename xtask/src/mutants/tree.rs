//! A copy of the workspace that mutants may change, with a target folder of its own that they share.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::patch::Patch;
use crate::places;

pub struct Tree {
    root: PathBuf,
    target: PathBuf,
    /// Keeps other runs out of the copy.
    _lock: fs::File,
}

impl Tree {
    /// Brings the copy up to date. Files that are the same are left alone, so that builds stay incremental.
    pub fn new() -> Result<Self> {
        let base = places::target().join("mutants");
        let root = base.join("tree");
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        let tree = Self { root, target: base.join("target"), _lock: lock(&base)? };
        copy(places::root(), &tree.root, true)?;
        Ok(tree)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo in the copy.
    pub fn cargo(&self) -> Command {
        let mut command = places::cargo();
        // Nobody looks into these programs.
        command.env("CARGO_PROFILE_TEST_DEBUG", "0");
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// Changes the copy as `patch` says until the result is dropped.
    pub fn change(&self, patch: &Patch) -> Result<Changed> {
        let mut changed = Changed { originals: Vec::new() };
        for path in patch.paths() {
            let file = self.root.join(path);
            let text = fs::read_to_string(&file).with_context(|| format!("it no longer applies: no file {path}"))?;
            let new = patch.applied(path, &text)?;
            changed.originals.push((file.clone(), text));
            fs::write(file, new)?;
        }
        Ok(changed)
    }
}

/// Puts the files back.
pub struct Changed {
    originals: Vec<(PathBuf, String)>,
}

impl Drop for Changed {
    fn drop(&mut self) {
        for (file, text) in &self.originals {
            let _ = fs::write(file, text);
        }
    }
}

/// Waits until no other run changes the copy.
fn lock(base: &Path) -> Result<fs::File> {
    let file = fs::File::create(base.join("lock")).context("cannot make the lock file of the mutants")?;
    if file.try_lock().is_err() {
        eprintln!("waiting for other mutants in {} ...", base.display());
        file.lock().context("cannot lock the folder of the mutants")?;
    }
    Ok(file)
}

/// Makes folder `to` hold what `from` holds. At the top, what cargo builds and what is hidden but cargo's is left out.
fn copy(from: &Path, to: &Path, top: bool) -> Result<()> {
    let mut kept = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, source) = (entry.file_name(), entry.path());
        let hidden = name.as_encoded_bytes().starts_with(b".") && name != ".cargo";
        if top && (hidden || source == places::target() || name == "target") {
            continue;
        }
        let goal = to.join(&name);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir_all(&goal)?;
            copy(&source, &goal, false)?;
        } else if kind.is_file() {
            let text = fs::read(&source)?;
            if fs::read(&goal).ok().as_ref() != Some(&text) {
                fs::write(&goal, text)?;
            }
        } else {
            continue;
        }
        kept.insert(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !kept.contains(&entry.file_name()) {
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_its_original_and_leaves_alone_what_is_the_same() {
        let base = places::target().join(format!("mutants-test-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        fs::create_dir_all(from.join("a")).unwrap();
        fs::create_dir_all(from.join("target")).unwrap();
        fs::create_dir_all(&to).unwrap();
        fs::write(from.join("a/one"), "1").unwrap();
        fs::write(from.join("two"), "2").unwrap();
        fs::write(to.join("old"), "x").unwrap();
        copy(&from, &to, true).unwrap();
        let changed = fs::metadata(to.join("two")).unwrap().modified().unwrap();
        assert_eq!(fs::read_to_string(to.join("a/one")).unwrap(), "1");
        assert!(!to.join("old").exists() && !to.join("target").exists());
        fs::remove_file(from.join("a/one")).unwrap();
        copy(&from, &to, true).unwrap();
        assert!(!to.join("a/one").exists());
        assert_eq!(fs::metadata(to.join("two")).unwrap().modified().unwrap(), changed);
        fs::remove_dir_all(&base).unwrap();
    }
}

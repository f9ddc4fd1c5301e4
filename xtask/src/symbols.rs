//! Turns addresses of the kernel into functions and lines.

use std::path::Path;

use addr2line::Loader;
use anyhow::{Result, anyhow};

use crate::places;

pub struct Symbols(Loader);

impl Symbols {
    pub fn load(elf: &Path) -> Result<Self> {
        let loader = Loader::new(elf).map_err(|error| anyhow!("cannot read symbols of {}: {error}", elf.display()))?;
        Ok(Self(loader))
    }

    /// What a return address stands in, one line for each inlined function, innermost first.
    pub fn describe(&self, address: u64) -> Vec<String> {
        // A return address is behind its call, and perhaps already in the next line.
        let probe = address.saturating_sub(1);
        let mut lines = Vec::new();
        if let Ok(mut frames) = self.0.find_frames(probe) {
            while let Ok(Some(frame)) = frames.next() {
                let Some(function) = frame.function.as_ref().and_then(|f| f.demangle().ok().map(|n| n.into_owned()))
                else {
                    continue;
                };
                lines.push(match frame.location.and_then(|at| Some((at.file?, at.line?))) {
                    Some((file, line)) => format!("{function} at {}:{line}", short(file)),
                    None => function,
                });
            }
        }
        if lines.is_empty() {
            lines.push(match self.0.find_symbol(probe) {
                Some(name) => addr2line::demangle_auto(name.into(), None).into_owned(),
                None => "?".into(),
            });
        }
        lines
    }
}

/// Paths in the workspace as one would type them there.
fn short(file: &str) -> &str {
    let root = places::root().to_string_lossy();
    file.strip_prefix(root.as_ref()).map_or(file, |rest| rest.trim_start_matches('/'))
}

//! Counts the attributes in `src/` that silence a lint; each has to say why.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::places;

pub fn check() -> Result<()> {
    let mut files = Vec::new();
    collect(&places::root().join("src"), &mut files)?;
    files.sort();
    let (mut count, mut bare) = (0, Vec::new());
    for file in &files {
        for found in silencers(&fs::read_to_string(file)?) {
            count += 1;
            if !found.reasoned {
                let name = file.strip_prefix(places::root()).unwrap_or(file);
                bare.push(format!("{}:{}", name.display(), found.line));
            }
        }
    }
    println!("{count} attributes in src/ silence a lint");
    if !bare.is_empty() {
        bail!("give a reason (`allow(lint, reason = \"...\")`) at {}", bare.join(", "));
    }
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => collect(&path, files)?,
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Silencer {
    line: usize,
    reasoned: bool,
}

/// Every `allow(...)` and `expect(...)` that begins an attribute or stands in a `cfg_attr`.
fn silencers(text: &str) -> Vec<Silencer> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices('#') {
        let rest = &text[start + 1..];
        let rest = rest.strip_prefix('!').unwrap_or(rest);
        let line_begin = text[..start].rfind('\n').map_or(0, |at| at + 1);
        if !rest.starts_with('[') || text[line_begin..start].contains("//") {
            continue;
        }
        let attribute = bracketed(rest);
        let line = text[..start].matches('\n').count() + 1;
        for word in ["allow(", "expect("] {
            for (at, _) in attribute.match_indices(word) {
                if attribute[..at].trim_end().ends_with(['[', ',']) {
                    let reasoned = bracketed(&attribute[at + word.len() - 1..]).contains("reason =");
                    found.push(Silencer { line, reasoned });
                }
            }
        }
    }
    found
}

/// The text up to the bracket that closes its first one; brackets in strings do not count.
fn bracketed(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' if !quoted => depth += 1,
            ')' | ']' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..=at];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_silences_lints() {
        let text = "#![allow(missing_docs, reason = \"a ] in words\")]\n\
            // #[allow(dead_code)]\n\
            #[allow(dead_code)]\n\
            fn expect(x: u8) {}\n\
            #[cfg_attr(test, allow(\n    clippy::unwrap_used,\n    reason = \"tests\"))]\n\
            #[expect(unsafe_code)]\n\
            #[derive(Debug)]\n";
        let lines: Vec<(usize, bool)> = silencers(text).iter().map(|found| (found.line, found.reasoned)).collect();
        assert_eq!(lines, [(1, true), (3, false), (5, true), (8, false)]);
    }
}

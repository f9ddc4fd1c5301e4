//! The floors of the driver and their one direction, kept by reading its sources as text: who imports whom, where `unsafe`
//! and atomics may stand, and that what silences a lint says why.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top; a file uses its own floor and those above it. Whatever is named nowhere here is the bottom.
const FLOORS: &[&str] = &["host", "hw", "dmar", "unit", "space", "device", "guest"];
/// `hw` is the formats alone.
const PURE: &str = "hw";
/// Beside the floors: reads them all, and nothing depends on its answers. Only `lib.rs` names it.
const BESIDE: &str = "explain";
/// Modules that may be `unsafe`, and the ones that may name `spin` and atomics: path and why.
const UNSAFE: &[&str] = &["host/platform.rs", "host/mem.rs", "host/testing.rs"];
const ATOMICS: &[&str] = &["host/sync.rs", "host/testing.rs"];

/// The place of a module in the table.
fn floor(module: &str) -> usize {
    FLOORS.iter().position(|f| *f == module).unwrap_or(FLOORS.len())
}

/// The text without comments and the contents of literals, and without what is compiled for tests only in this file; lines
/// stay where they are.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let blank = |s: &str| s.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect::<String>();
    while let Some(c) = rest.chars().next() {
        let skip = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |n| n + 2),
            '"' => string(rest),
            'r' if rest.starts_with("r#\"") => rest.find("\"#").map_or(rest.len(), |n| n + 2),
            '\'' if rest[1..].starts_with("\\'") => 4,
            '\'' if rest[1..].chars().nth(1) == Some('\'') => 2 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => 0,
        };
        if skip == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.push_str(&blank(&rest[..skip]));
            rest = &rest[skip..];
        }
    }
    // A module of tests at the end of a file may look at everything.
    match out.find("#[cfg(test)]\nmod tests {").or(out.find("#[cfg(test)]\npub(super) mod tests {")) {
        Some(at) => out[..at].to_owned() + &blank(&out[at..]),
        None => out,
    }
}

/// The length of the string literal that begins `text`.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (n, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return n + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The path segments that follow `at` in `text`, spread over the braces of a `use`: what `crate::{a, b::c}` begins with.
fn heads(text: &str) -> Vec<&str> {
    let word = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let text = text.trim_start();
    let Some(inner) = text.strip_prefix('{') else { return vec![&text[..word(text)]] };
    let (mut depth, mut begins, mut found) = (0usize, true, Vec::new());
    for (n, c) in inner.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                found.push(&inner[n..n + word(&inner[n..])]);
                begins = false;
            }
            _ => {}
        }
    }
    found
}

/// Every place of `what` as a whole path or word.
fn places<'a>(text: &'a str, what: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(what).map(|(n, _)| n).filter(move |n| {
        let ends = what.ends_with(':') || !text[n + what.len()..].starts_with(part);
        !text[..*n].ends_with(part) && ends
    })
}

/// What is wrong with the file at `path` (below `src/`).
fn check(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let mut wrong = Vec::new();
    let mut report = |at: usize, what: String| {
        wrong.push(format!("src/{path}:{}: {what}", code[..at].matches('\n').count() + 1));
    };
    let own = path.split('/').next().unwrap_or("").trim_end_matches(".rs");
    let tests = path.ends_with("tests.rs") || path.contains("/tests/") || path == "unit/standin.rs";
    for at in places(&code, "crate::") {
        for head in heads(&code[at + "crate::".len()..]) {
            let allowed = if own == PURE { head == PURE } else { floor(head) <= floor(own) };
            if !allowed && !tests {
                report(at, format!("{own} is above {head} and must not know it"));
            } else if head == BESIDE && own != BESIDE && !tests {
                report(at, format!("nothing depends on what {head} says"));
            }
        }
    }
    // Modules deep: mod.rs is its folder's, any other file one further down.
    let depth = path.matches('/').count() + usize::from(!path.ends_with("mod.rs"));
    for at in places(&code, "super::") {
        let ups = code[at..].split("super::").take_while(|between| between.is_empty()).count();
        if !code[..at].ends_with("super::") && ups >= depth && path != "lib.rs" && !tests && FLOORS.contains(&own) {
            report(at, "`super` leaves the floor; say `crate::`".into());
        }
    }
    if own == PURE {
        for at in places(&code, "use") {
            let head = heads(&code[at + "use".len()..])[0];
            if !["core", "bitflags", "super", "crate", "self"].contains(&head) && !local(&code, head) && !tests {
                report(at, format!("the formats import {head}; they know core and bitflags only"));
            }
        }
    }
    if !UNSAFE.contains(&path) {
        places(&code, "unsafe").for_each(|at| report(at, "`unsafe` stands in host/platform.rs and host/mem.rs".into()));
    }
    if !ATOMICS.contains(&path) && !tests {
        for name in ["spin", "core::sync::atomic", "std::sync::atomic"] {
            places(&code, name).for_each(|at| report(at, format!("{name}: take it from host/sync.rs")));
        }
    }
    for at in places(&code, "allow") {
        let attribute = &code[at..code[at..].find(']').map_or(code.len(), |n| at + n)];
        if attribute.starts_with("allow(") && !attribute.contains("reason =") {
            report(at, "a lint is silenced without a reason".into());
        }
    }
    wrong
}

/// Whether `head` is a module or macro of the file itself.
fn local(code: &str, head: &str) -> bool {
    ["mod ", "macro_rules! ", "enum "].iter().any(|kind| places(code, &format!("{kind}{head}")).next().is_some())
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_driver_keeps_its_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&root, &mut all);
    assert!(all.len() > 40);
    for f in FLOORS.iter().filter(|f| **f != "guest") {
        assert!(root.join(f).join("mod.rs").exists(), "{f} is a floor");
    }
    let wrong: Vec<String> = all
        .iter()
        .flat_map(|path| check(path.strip_prefix(&root).unwrap().to_str().unwrap(), &fs::read_to_string(path).unwrap()))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_file_that_looks_down_is_found() {
    let found = |path, text: &str| check(path, text).len();
    assert_eq!(found("unit/queue.rs", "use crate::host::mem::Frames;\nuse crate::hw::{a, b};"), 0);
    assert_eq!(
        check("unit/queue.rs", "use core::fmt;\nuse crate::space::domain;"),
        ["src/unit/queue.rs:2: unit is above space and must not know it"]
    );
    assert_eq!(found("unit/queue.rs", "fn f() { crate::device::attach::g() }"), 1);
    assert_eq!(found("unit/queue.rs", "use crate::{host::mem, device::{a, b}, driver::c, unit::d};"), 2);
    assert_eq!(found("dmar/audit.rs", "use crate::unit::errata::Errata;"), 1);
    assert_eq!(found("host/wait.rs", "use crate::hw::registers::at;"), 1);
    assert_eq!(found("space/paging/engine.rs", "use crate::driver::Core;"), 1);
    assert_eq!(found("device/attach.rs", "use crate::host::a; use crate::space::b; use crate::device::c;"), 0);
    assert_eq!(found("guest/abi.rs", "use crate::device::attach::Group;"), 0);
    assert_eq!(found("driver.rs", "use crate::device::attach::Group;"), 0);
    assert_eq!(found("explain/live.rs", "use crate::driver::Vtd; use crate::explain::data::Walk;"), 0);
    assert_eq!(
        check("driver.rs", "use crate::explain::Walk;"),
        ["src/driver.rs:1: nothing depends on what explain says"]
    );
    // The root's own re-exports are at the bottom, too.
    assert_eq!(found("space/domain.rs", "use crate::Vtd;"), 1);
    // Comments, literals and a file's own tests are no imports.
    let quiet =
        "// crate::device::x\n/* unsafe */ const A: &str = \"unsafe crate::device \\\" \";\nconst C: char = '\"';\n";
    assert_eq!(found("unit/queue.rs", quiet), 0);
    assert_eq!(found("unit/queue.rs", "#[cfg(test)]\nmod tests {\n use crate::device::x;\n}"), 0);
    assert_eq!(found("unit/tests.rs", "use crate::device::x;"), 0);
}

#[test]
fn ways_around_the_table_are_found() {
    let found = |path, text: &str| check(path, text).len();
    assert_eq!(found("unit/queue.rs", "use super::{Host, Unit};"), 0);
    assert_eq!(found("unit/queue.rs", "use super::super::device::x;"), 1);
    assert_eq!(found("unit/mod.rs", "use super::device::x;"), 1);
    assert_eq!(found("space/paging/engine.rs", "use super::super::flush;"), 0);
    assert_eq!(found("space/paging/engine.rs", "use super::super::super::device;"), 1);
}

#[test]
fn formats_know_core_and_bitflags_alone() {
    let found = |text: &str| check("hw/tables.rs", text).len();
    assert_eq!(
        found("use core::fmt;\nuse bitflags::bitflags;\nuse super::field::Field;\nuse crate::hw::pages::READ;"),
        0
    );
    assert_eq!(found("use crate::host::address::Hpa;"), 1);
    assert_eq!(found("use alloc::vec::Vec;"), 1);
}

#[test]
fn unsafe_atomics_and_silence_are_found_where_they_do_not_belong() {
    let found = |path, text: &str| check(path, text).len();
    for text in ["fn f() { unsafe { g() } }", "unsafe impl Send for X {}"] {
        assert_eq!((found("unit/queue.rs", text), found("host/mem.rs", text), found("host/wait.rs", text)), (1, 0, 1));
    }
    assert_eq!(found("lib.rs", "#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]"), 0);
    assert_eq!(found("device/registry.rs", "use core::sync::atomic::AtomicU32;"), 1);
    assert_eq!(found("device/registry.rs", "static A: spin::Mutex<u8> = x;"), 1);
    assert_eq!(found("host/sync.rs", "use core::sync::atomic::AtomicU32;\nuse spin::Once;"), 0);
    assert_eq!(found("unit/queue.rs", "fn f() { core::hint::spin_loop() }"), 0);
    assert_eq!(found("unit/queue.rs", "#[allow(dead_code)]\nfn f() {}"), 1);
    assert_eq!(found("unit/queue.rs", "#[allow(dead_code, reason = \"why\")]\nfn f() {}"), 0);
    assert_eq!(found("unit/queue.rs", "#[cfg_attr(test, allow(dead_code))]\nfn f() { disallow(1) }"), 1);
}

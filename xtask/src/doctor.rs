//! `cargo xtask doctor`: the state of this machine, without changing anything.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::places::{self, find_program, output_of};
use crate::setup::apt::Apt;
use crate::setup::qemu::{self, Qemu};
use crate::setup::sysroot::{Compiler, TARGET};
use crate::setup::{apt_sources, stamp_of};
use crate::{guest, machines};

pub fn run() -> Result<ExitCode> {
    let compiler = Compiler::ask()?;
    say("Rust", format!("{} in {}", compiler.release, compiler.sysroot.display()));
    say("cargo", first_line(&mut places::cargo(), "--version"));
    say("git", first_line(&mut Command::new("git"), "--version"));
    say(TARGET, target_library(&compiler));
    say("QEMU", emulator());
    let unpacked =
        stamp_of(&qemu::root()).map(|version| format!("Debian's {} in {}", version.trim(), qemu::root().display()));
    say("QEMU unpacked", unpacked.unwrap_or_else(|| "none yet".into()));
    say(
        "packages",
        match (Apt::missing(), apt_sources::mirror()) {
            (None, Some(mirror)) => format!("apt, mirror {mirror}"),
            (missing, _) => format!("{}: install what is missing above by hand", missing.unwrap_or("no mirror")),
        },
    );
    say(
        "KVM",
        match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            Ok(_) => "/dev/kvm opens (used only with --kvm)".into(),
            Err(error) => format!("not usable ({error}); it is not needed"),
        },
    );
    say("processors", std::thread::available_parallelism().map_or("unknown".into(), |count| count.to_string()));
    say("set-up in", places::setup().display().to_string());
    println!("\n{}", machines::listing());
    Ok(ExitCode::SUCCESS)
}

fn say(what: &str, how: String) {
    println!("{what:20} {how}");
}

fn first_line(command: &mut Command, argument: &str) -> String {
    match output_of(command.arg(argument)) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(error) => format!("missing: {error:#}"),
    }
}

fn target_library(compiler: &Compiler) -> String {
    if compiler.has_target() {
        return "installed in the toolchain".into();
    }
    if let Some(dir) = compiler.built() {
        return format!("built from source in {}", dir.display());
    }
    let mut ways = Vec::new();
    if find_program("rustup").is_some() {
        ways.push("rustup".to_owned());
    }
    if compiler.source().is_some() {
        ways.push("the component rust-src".into());
    } else if Apt::missing().is_none() {
        ways.push(format!("Debian's package rust-src {} (about 45 MB)", compiler.release));
    }
    match ways.is_empty() {
        true => format!("missing; install it by hand: `rustup target add {TARGET}`"),
        false => format!("missing; will be made from {}", ways.join(", else ")),
    }
}

fn emulator() -> String {
    let describe = |program: &Path, origin: &str, used: &str| match Qemu::at(program, origin) {
        Ok(qemu) => format!("{} at {} ({origin}), {}", qemu.version, program.display(), use_of(&qemu, used)),
        Err(error) => format!("{} ({origin}) cannot be used: {error:#}", program.display()),
    };
    match (qemu::named(None), find_program(qemu::PROGRAM)) {
        (Some(program), _) => describe(&program, "VTD_QEMU", "used for everything, as you say"),
        (None, Some(program)) => describe(&program, "PATH", ""),
        (None, None) if qemu::unpacked_version().is_some() => "none installed; the unpacked one is used".into(),
        (None, None) if Apt::missing().is_some() => {
            format!("missing; install {} or newer by hand", guest::LEAST_FOR_TESTS)
        }
        (None, None) => format!("none installed; Debian's {} will be fetched (about 44 MB)", qemu::WANTED),
    }
}

/// What a QEMU that was found serves for; `named` if the user leaves no choice.
fn use_of<'a>(qemu: &Qemu, named: &'a str) -> &'a str {
    let runs = machines::MACHINES.iter().all(|machine| qemu.version >= machine.least);
    match (named, runs, qemu.version >= guest::LEAST_FOR_TESTS) {
        ("", true, true) => "serves for everything",
        ("", true, false) => "serves for `run`; for `test` a newer one is fetched",
        ("", false, _) => "too old: a newer one is fetched",
        (named, ..) => named,
    }
}

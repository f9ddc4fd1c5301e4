//! The library (`core`, `alloc`) of the bare target: installed, or built once from the release's own source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::{fresh_dir, lock, make_dir, stamp_of, write_stamp};
use crate::places::{self, cargo, find_program, output_of, rustc};

pub const TARGET: &str = "x86_64-unknown-none";

/// How long rustup may take before the library is built here instead.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// Debian's suites that carry releases of Rust, the likeliest first.
const SUITES: &[&[&str]] = &[&["trixie", "trixie-backports"], &["sid"], &["experimental"]];

/// Where the target's library is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sysroot {
    /// In the toolchain: nothing has to be said.
    Installed,
    /// Built by us.
    Built(PathBuf),
}

impl Sysroot {
    /// The cargo options that make the bare target buildable; they add to .cargo/config.toml.
    pub fn cargo_options(&self) -> Vec<String> {
        match self {
            Self::Installed => Vec::new(),
            Self::Built(dir) => {
                // A JSON string is a TOML string too.
                let flag = serde_json::Value::String(format!("--sysroot={}", dir.display()));
                vec!["--config".into(), format!("target.{TARGET}.rustflags=[{flag}]")]
            }
        }
    }
}

/// The compiler that is used.
pub struct Compiler {
    /// All that `rustc -vV` says: what a library built by us belongs to.
    pub identity: String,
    /// `1.95.0`
    pub release: String,
    pub sysroot: PathBuf,
}

impl Compiler {
    pub fn ask() -> Result<Self> {
        let identity = output_of(rustc().arg("-vV")).context("Rust is missing; install it by hand (rustup does)")?;
        let release = identity.lines().find_map(|line| line.strip_prefix("release: "));
        let release = release.context("`rustc -vV` names no release")?.to_owned();
        let sysroot = PathBuf::from(output_of(rustc().args(["--print", "sysroot"]))?.trim());
        Ok(Self { identity, release, sysroot })
    }

    pub fn has_target(&self) -> bool {
        has_library(&self.sysroot)
    }

    /// The component `rust-src`, if it is installed.
    pub fn source(&self) -> Option<PathBuf> {
        let dir = self.sysroot.join("lib/rustlib/src/rust/library");
        dir.join("core/Cargo.toml").exists().then_some(dir)
    }

    fn built_dir(&self) -> PathBuf {
        places::setup().join("sysroot")
    }

    /// The library that an earlier run built for this very compiler.
    pub fn built(&self) -> Option<PathBuf> {
        let dir = self.built_dir();
        (stamp_of(&dir).as_deref() == Some(&self.identity)).then_some(dir)
    }
}

fn has_library(sysroot: &Path) -> bool {
    let Ok(files) = fs::read_dir(sysroot.join("lib/rustlib").join(TARGET).join("lib")) else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

/// The library of the bare target, by the first way that works.
pub fn ensure() -> Result<Sysroot> {
    let compiler = Compiler::ask()?;
    if compiler.has_target() {
        return Ok(Sysroot::Installed);
    }
    if let Some(dir) = compiler.built() {
        return Ok(Sysroot::Built(dir));
    }
    let _lock = lock()?;
    if let Some(dir) = compiler.built() {
        return Ok(Sysroot::Built(dir));
    }
    if rustup_adds() && compiler.has_target() {
        return Ok(Sysroot::Installed);
    }
    let source = match compiler.source() {
        Some(source) => source,
        None => fetch_source(&compiler.release).with_context(|| {
            format!(
                "the library for {TARGET} is neither installed nor can it be built here; install it by hand: \
                 `rustup target add {TARGET}`, or `rustup component add rust-src`"
            )
        })?,
    };
    build(&compiler, &source)?;
    // The source has served.
    let _ = fs::remove_dir_all(source_dir());
    Ok(Sysroot::Built(compiler.built_dir()))
}

fn rustup_adds() -> bool {
    if find_program("rustup").is_none() {
        return false;
    }
    eprintln!("adding the target {TARGET} by rustup ...");
    let mut command = Command::new("rustup");
    command.args(["target", "add", TARGET]).current_dir(places::root()).env("RUSTUP_MAX_RETRIES", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let begun = Instant::now();
    let done = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if begun.elapsed() < RUSTUP_LIMIT => std::thread::sleep(Duration::from_millis(50)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break false;
            }
        }
    };
    if !done {
        eprintln!("rustup cannot fetch it here: building it from source");
    }
    done
}

fn source_dir() -> PathBuf {
    places::setup().join("rust-src")
}

/// The library's source of `release` from Debian's package `rust-src`.
fn fetch_source(release: &str) -> Result<PathBuf> {
    let root = source_dir();
    let library = root.join(format!("usr/src/rustc-{release}/library"));
    if stamp_of(&root).as_deref() == Some(release) && library.exists() {
        return Ok(library);
    }
    for suites in SUITES {
        let apt = Apt::open(&places::setup().join("apt-rust"), suites)?;
        let versions = apt.versions("rust-src").unwrap_or_default();
        let Some(version) = versions.iter().find(|version| is_release(version, release)) else { continue };
        eprintln!("fetching the source of Rust's library {release} (1 package, about 45 MB) ...");
        apt.fetch_one("rust-src", version)?;
        fresh_dir(&root)?;
        apt.unpack(&root)?;
        if !library.exists() {
            bail!("Debian's package rust-src {version} has no library of {release}");
        }
        write_stamp(&root, release)?;
        apt.forget()?;
        return Ok(library);
    }
    bail!("Debian has no rust-src of {release}")
}

/// Whether a package's version (`1.95.0+dfsg1-1~bpo13+1`) is of this release.
fn is_release(version: &str, release: &str) -> bool {
    version.strip_prefix(release).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
}

fn build(compiler: &Compiler, source: &Path) -> Result<()> {
    eprintln!("building the library for {TARGET} (once, about half a minute) ...");
    let work = places::setup().join("sysroot-build");
    fresh_dir(&work.join("src"))?;
    // Its own workspace, and the profile that the released libraries have.
    let manifest = "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
        [profile.release]\npanic = \"abort\"\n";
    fs::write(work.join("Cargo.toml"), manifest)?;
    fs::write(work.join("src/lib.rs"), "#![no_std]\nextern crate alloc;\n")?;
    let target = work.join("target");
    let mut command = cargo();
    command.current_dir(&work).args(["build", "--quiet", "--release", "--target", TARGET]);
    command.args(["-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"]);
    command.arg("--target-dir").arg(&target);
    // The one place that needs unstable options: the source is of this very release, so they are sound.
    command.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", source).env_remove("RUSTFLAGS");
    output_of(&mut command).context("cannot build Rust's library; cargo must reach its registry for this once")?;

    let dir = compiler.built_dir();
    fresh_dir(&dir)?;
    let into = dir.join("lib/rustlib").join(TARGET).join("lib");
    make_dir(&into)?;
    for file in fs::read_dir(target.join(TARGET).join("release/deps"))? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        let wanted = ["libcore-", "liballoc-", "libcompiler_builtins-"].iter().any(|start| name.starts_with(start));
        if wanted && name.ends_with(".rlib") {
            fs::copy(file.path(), into.join(&name))?;
        }
    }
    if !has_library(&dir) {
        bail!("cargo built no libcore");
    }
    write_stamp(&dir, &compiler.identity)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packages_release_is_matched_exactly() {
        assert!(is_release("1.95.0+dfsg1-1~bpo13+1", "1.95.0"));
        assert!(is_release("1.95.0-2", "1.95.0"));
        assert!(!is_release("1.95.0.1-2", "1.95.0"));
        assert!(!is_release("1.95.01-2", "1.95.0"));
        assert!(!is_release("1.94.1-2", "1.95.0"));
    }

    #[test]
    fn the_sysroot_is_passed_as_an_addition() {
        assert!(Sysroot::Installed.cargo_options().is_empty());
        let options = Sysroot::Built("/a \"b\"".into()).cargo_options();
        assert_eq!(options[1], r#"target.x86_64-unknown-none.rustflags=["--sysroot=/a \"b\""]"#);
    }
}

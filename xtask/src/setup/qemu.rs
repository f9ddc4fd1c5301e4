//! Finds a QEMU that is new enough, or unpacks Debian's under `target/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::{fresh_dir, lock, stamp_of, write_stamp};
use crate::places::{self, find_program, output_of};
use crate::version::Version;

/// The version that the tests' expectations were written against.
pub const WANTED: Version = Version::new(11, 1, 3);

pub const PROGRAM: &str = "qemu-system-x86_64";
pub const SUITES: &[&str] = &["trixie", "trixie-backports"];
const SUITE: &str = "trixie-backports";
const FIRMWARE: &str = "ovmf";
const PACKAGE: &str = "qemu-system-x86";

/// A QEMU and what it can do.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    arguments: Vec<OsString>,
    modules: Option<PathBuf>,
    pub version: Version,
    /// Where it comes from, for people.
    pub origin: String,
    unit_help: String,
    device_help: String,
}

impl Qemu {
    /// The QEMU at `program`.
    pub fn at(program: &Path, origin: &str) -> Result<Self> {
        Self::probe(program.to_owned(), Vec::new(), None, origin.to_owned())
    }

    /// The QEMU that was unpacked to `root`: started by its own loader, as the system's libc may be older.
    fn unpacked(root: &Path) -> Result<Self> {
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let mut arguments: Vec<OsString> = vec!["--library-path".into(), libraries.clone().into()];
        arguments.push(root.join("usr/bin").join(PROGRAM).into());
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            arguments.extend(["-L".into(), root.join(data).into()]);
        }
        let modules = Some(libraries.join("qemu"));
        Self::probe(root.join("usr/lib64/ld-linux-x86-64.so.2"), arguments, modules, "Debian's package".into())
    }

    /// Asks the QEMU that these first arguments start what it is.
    pub fn probe(program: PathBuf, arguments: Vec<OsString>, modules: Option<PathBuf>, origin: String) -> Result<Self> {
        let nothing = Version::new(0, 0, 0);
        let (unit_help, device_help) = (String::new(), String::new());
        let mut qemu = Self { program, arguments, modules, version: nothing, origin, unit_help, device_help };
        let says = output_of(qemu.command().arg("--version"))?;
        qemu.version = Version::parse(&says).with_context(|| format!("no version in `{}`", says.trim()))?;
        qemu.device_help = output_of(qemu.command().args(["-device", "help"]))?;
        qemu.unit_help = output_of(qemu.command().args(["-device", "intel-iommu,help"]))?;
        Ok(qemu)
    }

    /// The command, still without a machine.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).current_dir(places::root());
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command
    }

    pub fn has_device(&self, name: &str) -> bool {
        self.device_help.contains(&format!("name \"{name}\""))
    }

    /// The first of several names that a property of `intel-iommu` had over the versions.
    pub fn unit_property<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        let known = |name: &str| self.unit_help.lines().any(|line| line.trim_start().starts_with(&format!("{name}=")));
        names.iter().copied().find(|name| known(name))
    }
}

/// The QEMU that the user named, by option or variable.
pub fn named(option: Option<&Path>) -> Option<PathBuf> {
    option.map(Path::to_owned).or_else(|| std::env::var_os("VTD_QEMU").map(PathBuf::from))
}

pub fn root() -> PathBuf {
    places::setup().join("qemu")
}

/// What an earlier run unpacked.
pub fn unpacked_version() -> Option<Version> {
    Version::parse(&stamp_of(&root())?)
}

/// A QEMU of at least version `least`: the one that the user named, that of the search path, or Debian's.
pub fn ensure(option: Option<&Path>, least: Version) -> Result<Qemu> {
    if let Some(program) = named(option) {
        let qemu = Qemu::at(&program, "named by you")
            .with_context(|| format!("{} cannot be used; name another by --qemu or VTD_QEMU", program.display()))?;
        if qemu.version < least {
            bail!(
                "{} is QEMU {}, but this needs {least} or newer; leave out --qemu and VTD_QEMU, and one is fetched",
                program.display(),
                qemu.version
            );
        }
        return Ok(qemu);
    }
    if let Some(program) = find_program(PROGRAM)
        && let Ok(qemu) = Qemu::at(&program, "found in PATH")
        && qemu.version >= least
    {
        return Ok(qemu);
    }
    if unpacked_version().is_none() {
        let _lock = lock()?;
        if unpacked_version().is_none() {
            fetch().with_context(|| {
                format!("QEMU {least} or newer is missing and cannot be fetched; install it by hand and name it by --qemu or VTD_QEMU")
            })?;
        }
    }
    let qemu = Qemu::unpacked(&root()).with_context(|| {
        format!("the QEMU in {} does not start; delete that folder and try again", root().display())
    })?;
    if qemu.version < least {
        bail!(
            "Debian's QEMU is {} now, but this needs {least}; install one by hand and name it by --qemu",
            qemu.version
        );
    }
    Ok(qemu)
}

fn fetch() -> Result<()> {
    let apt = Apt::open(&places::setup().join("apt-qemu"), SUITES)?;
    let versions = apt.versions(PACKAGE)?;
    let of_wanted = versions.iter().find(|version| Version::parse(version) == Some(WANTED));
    let version = of_wanted.or(versions.first()).with_context(|| format!("the mirror has no package {PACKAGE}"))?;
    let number = Version::parse(version).with_context(|| format!("{PACKAGE} has the strange version {version}"))?;
    if number != WANTED {
        eprintln!(
            "note: the mirror has QEMU {number} instead of {WANTED}; what tests expect of the emulated unit \
             (fault codes, which reserved bits it checks) was written for {WANTED} and may differ"
        );
    }
    let package = format!("{PACKAGE}={version}");
    let packages = [package.as_str(), FIRMWARE];
    let plan = apt.plan(SUITE, &packages)?;
    // An interrupted run may have fetched them all.
    if plan.packages > 0 {
        eprintln!("fetching QEMU {number} ({} packages, {} MB) ...", plan.packages, plan.bytes.div_ceil(1_000_000));
        apt.fetch(SUITE, &packages, &plan)?;
    }
    eprintln!("unpacking QEMU {number} ...");
    fresh_dir(&root())?;
    apt.unpack(&root())?;
    if !root().join("usr/bin").join(PROGRAM).exists() {
        bail!("the packages of QEMU {number} hold no {PROGRAM}");
    }
    write_stamp(&root(), version)?;
    apt.forget()
}

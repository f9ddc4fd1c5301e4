//! Debian packages without root and without touching the machine's own apt: `apt-get` on folders of ours.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{apt_sources, make_dir};
use crate::places::{find_program, last_lines, output_of};

/// An apt of our own.
pub struct Apt {
    dir: PathBuf,
}

/// What a download consists of.
pub struct Plan {
    pub packages: usize,
    pub bytes: u64,
}

impl Apt {
    /// What this machine lacks for fetching Debian's packages.
    pub fn missing() -> Option<&'static str> {
        let there = ["apt-get", "apt-cache", "dpkg-deb"].iter().all(|name| find_program(name).is_some());
        match there {
            false => Some("this machine has no apt"),
            true if apt_sources::mirror().is_none() => Some("apt's sources name no Debian archive"),
            true => None,
        }
    }

    /// An apt that knows the packages of `suites`, with its lists brought up to date.
    pub fn open(dir: &Path, suites: &[&str]) -> Result<Self> {
        if let Some(missing) = Self::missing() {
            bail!("{missing}");
        }
        let apt = Self { dir: dir.to_owned() };
        for folder in ["lists/partial", "cache/archives/partial", "empty"] {
            make_dir(&dir.join(folder))?;
        }
        let mirror = apt_sources::mirror().context("apt's sources name no Debian archive")?;
        let key = match keyring() {
            Some(file) => format!("[signed-by={}] ", file.display()),
            None => String::new(),
        };
        let lines: String = suites.iter().map(|suite| format!("deb {key}{mirror} {suite} main\n")).collect();
        fs::write(dir.join("sources.list"), lines)?;
        fs::write(dir.join("status"), "")?;
        fs::write(dir.join("apt.conf"), apt.configuration())?;
        eprintln!("reading the package lists of {} from {mirror} ...", suites.join(", "));
        output_of(apt.command("apt-get").arg("update")).with_context(|| {
            format!(
                "cannot read the package lists of {mirror}; check the network, and that the package \
                 debian-archive-keyring is installed and recent"
            )
        })?;
        Ok(apt)
    }

    /// The machine's own settings (proxies, say) stay; its hooks do not: they act on the system's folders.
    fn configuration(&self) -> String {
        let dir = self.dir.display();
        format!(
            "#clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Pre-Install-Pkgs;\n\
             #clear DPkg::Pre-Invoke;\n\
             #clear DPkg::Post-Invoke;\n\
             Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
             Dir::Etc::sourceparts \"{dir}/empty\";\n\
             Dir::Etc::preferences \"{dir}/empty/preferences\";\n\
             Dir::Etc::preferencesparts \"{dir}/empty\";\n\
             Dir::State::Lists \"{dir}/lists\";\n\
             Dir::State::status \"{dir}/status\";\n\
             Dir::State::extended_states \"{dir}/extended_states\";\n\
             Dir::Cache \"{dir}/cache\";\n\
             Dir::Cache::archives \"archives\";\n\
             Dir::Log \"{dir}\";\n\
             APT::Install-Recommends \"false\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Update::Error-Mode \"any\";\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"2\";\n\
             Acquire::http::Timeout \"30\";\n\
             Acquire::https::Timeout \"30\";\n\
             Debug::NoLocking \"1\";\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.dir.join("apt.conf")).env("LC_ALL", "C").stdin(Stdio::null());
        command.current_dir(self.archives());
        command
    }

    fn archives(&self) -> PathBuf {
        self.dir.join("cache/archives")
    }

    /// The versions of a package that the suites have, newest first.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let text = output_of(self.command("apt-cache").args(["madison", package]))?;
        Ok(text.lines().filter_map(|line| line.split('|').nth(1)).map(|version| version.trim().to_owned()).collect())
    }

    /// What `install` of these packages from `suite` would fetch.
    pub fn plan(&self, suite: &str, packages: &[&str]) -> Result<Plan> {
        let mut command = self.command("apt-get");
        command.args(["-y", "--print-uris", "-t", suite, "install"]).args(packages);
        Ok(parse_uris(&output_of(&mut command)?))
    }

    /// Fetches these packages and all they depend on; goes on where an interrupted run stopped.
    pub fn fetch(&self, suite: &str, packages: &[&str], plan: &Plan) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["-y", "--download-only", "-t", suite, "install"]).args(packages);
        follow(command, plan.packages)
    }

    /// Fetches one package without what it depends on.
    pub fn fetch_one(&self, package: &str, version: &str) -> Result<()> {
        let mut command = self.command("apt-get");
        command.arg("download").arg(format!("{package}={version}"));
        follow(command, 1)
    }

    /// Unpacks every package that was fetched into `root`.
    pub fn unpack(&self, root: &Path) -> Result<()> {
        make_dir(root)?;
        for entry in fs::read_dir(self.archives())? {
            let file = entry?.path();
            if file.extension() == Some(OsStr::new("deb")) {
                output_of(Command::new("dpkg-deb").arg("-x").arg(&file).arg(root))
                    .with_context(|| format!("cannot unpack {}; delete it and try again", file.display()))?;
            }
        }
        Ok(())
    }

    /// Gives the disk space of the packages back.
    pub fn forget(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}

fn keyring() -> Option<PathBuf> {
    let names = ["debian-archive-keyring.gpg", "debian-archive-keyring.pgp"];
    names.iter().map(|name| Path::new("/usr/share/keyrings").join(name)).find(|file| file.exists())
}

/// Lines `'uri' name size hash` among others.
fn parse_uris(text: &str) -> Plan {
    let lines = text.lines().filter(|line| line.starts_with('\''));
    let sizes: Vec<u64> =
        lines.map(|line| line.split(' ').nth(2).and_then(|size| size.parse().ok()).unwrap_or(0)).collect();
    Plan { packages: sizes.len(), bytes: sizes.iter().sum() }
}

/// Runs a download and counts the packages that began to arrive.
fn follow(mut command: Command, total: usize) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start apt-get")?;
    let errors = child.stderr.take().map(|pipe| {
        std::thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).collect::<Vec<_>>().join("\n"))
    });
    let live = std::io::stderr().is_terminal();
    let mut count = 0;
    for line in child.stdout.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok)) {
        if line.starts_with("Get:") {
            count += 1;
            if live {
                eprint!("\r  {count} of {total}");
                let _ = std::io::stderr().flush();
            }
        }
    }
    if live && count > 0 {
        eprintln!();
    }
    let status = child.wait()?;
    let errors = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if !status.success() {
        bail!(
            "the download failed ({}); check the network and start the command again: it goes on where it stopped",
            last_lines(&errors, 2)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_a_download_needs() {
        let text = "Reading package lists...\n\
            'http://mirror.example/debian/pool/a.deb' a_1_amd64.deb 1000 SHA256:00\n\
            'http://mirror.example/debian/pool/b.deb' b_1_amd64.deb 2500 SHA256:01\n";
        let plan = parse_uris(text);
        assert_eq!((plan.packages, plan.bytes), (2, 3500));
    }
}

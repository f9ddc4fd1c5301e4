//! One boot of a machine: starts QEMU, hands on what it says, and ends it when it takes too long.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::machines::Setting;
use crate::places;
use crate::protocol::Line;
use crate::setup::qemu::Qemu;

/// How many of the last lines are kept for the report of a silent machine.
const LAST_LINES: usize = 8;

/// A longer line is taken for several.
const LONGEST_LINE: u64 = 64 << 10;

/// How long the last words of a machine that was stopped are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// QEMU's exit codes for the kernel's values 0x10, 0x11 and 0x12.
pub const SUCCESS: i32 = 33;
pub const FAILURE: i32 = 35;
pub const PANIC: i32 = 37;

/// The virtio disk has this many sectors of 512 bytes.
const DISK_SECTORS: u32 = 2048;

/// How long a boot may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub total: Duration,
    /// Between two lines.
    pub silence: Duration,
}

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// QEMU ended by itself, with this code if it was not by a signal.
    Exit(Option<i32>),
    Silent(Duration),
    TooLong(Duration),
}

/// What is known of a boot when it is over.
pub struct Outcome {
    pub end: End,
    pub last: Vec<String>,
    /// QEMU's own words.
    pub errors: String,
}

impl Outcome {
    /// Why this was no success, in one sentence with what was last said where that helps.
    pub fn reason(&self) -> String {
        let last = match self.last.is_empty() {
            true => "it had said nothing at all".to_owned(),
            false => format!("last it said:\n    {}", self.last.join("\n    ")),
        };
        let reason = match self.end {
            End::Exit(Some(SUCCESS)) => return "it succeeded".into(),
            End::Exit(Some(FAILURE)) => return "the kernel reported a failure".into(),
            End::Exit(Some(PANIC)) => return "the kernel panicked, or its CPU faulted".into(),
            End::Exit(Some(0)) => format!("the machine reset or went off before the kernel was done; {last}"),
            End::Exit(Some(code)) => format!("QEMU ended with exit code {code}; {last}"),
            End::Exit(None) => format!("QEMU was killed; {last}"),
            End::Silent(time) => format!("the machine was silent for {} s; {last}", time.as_secs()),
            End::TooLong(time) => format!("the machine was not done after {} s; {last}", time.as_secs()),
        };
        match self.errors.trim() {
            "" => reason,
            errors => format!("{reason}\n    QEMU said: {}", places::last_lines(errors, 3)),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason())
    }
}

/// Boots a machine and gives each line that it says to `hear`.
pub fn boot(
    qemu: &Qemu,
    kernel: &Path,
    setting: &Setting<'_>,
    words: &str,
    limits: Limits,
    hear: &mut dyn FnMut(Line),
) -> Result<Outcome> {
    let disk = Disk::make()?;
    let arguments = setting.arguments(qemu, kernel, &disk.file, words)?;
    let mut command = qemu.command();
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut machine = Machine(command.spawn().context("cannot start QEMU")?);

    let lines = machine.0.stdout.take().map_or_else(|| mpsc::channel().1, lines_of);
    let errors = machine.0.stderr.take().map(last_words_of);

    let begun = Instant::now();
    let mut last = Vec::new();
    let mut take = |line: String| {
        let line = line.trim_end_matches(['\r', '\n']);
        keep(&mut last, line);
        hear(Line::parse(line));
    };
    let end = loop {
        let left = limits.total.saturating_sub(begun.elapsed());
        // Without this a machine that never stops talking has all the time there is.
        if left.is_zero() {
            break End::TooLong(limits.total);
        }
        match lines.recv_timeout(left.min(limits.silence)) {
            Ok(line) => take(line),
            Err(RecvTimeoutError::Disconnected) => break End::Exit(machine.wait()?.code()),
            Err(RecvTimeoutError::Timeout) if left <= limits.silence => break End::TooLong(limits.total),
            Err(RecvTimeoutError::Timeout) => break End::Silent(limits.silence),
        }
    };
    machine.end();
    // A line that had no end yet when the machine was stopped. What it started may live on and hold its pipes.
    let stopped = Instant::now();
    while stopped.elapsed() < LAST_WORDS
        && let Ok(line) = lines.recv_timeout(LAST_WORDS)
    {
        take(line);
    }
    let errors = errors.and_then(|words| words.recv_timeout(LAST_WORDS).ok()).unwrap_or_default();
    Ok(Outcome { end, last, errors })
}

/// Gives each line of a pipe to `take` until that answers `false`.
fn each_line(pipe: impl Read, mut take: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while matches!(reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes), Ok(1..))
        && take(String::from_utf8_lossy(&bytes).into_owned())
    {
        bytes.clear();
    }
}

/// The lines of a pipe, read no faster than they are heard.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::sync_channel(LAST_LINES);
    std::thread::spawn(move || each_line(pipe, |line| sender.send(line).is_ok()));
    lines
}

/// The last lines of a pipe, when it ends.
pub(crate) fn last_words_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, words) = mpsc::channel();
    std::thread::spawn(move || {
        let mut last = Vec::new();
        each_line(pipe, |line| {
            keep(&mut last, line.trim_end());
            true
        });
        let _ = sender.send(last.join("\n"));
    });
    words
}

fn keep(last: &mut Vec<String>, line: &str) {
    if !line.trim().is_empty() {
        if last.len() == LAST_LINES {
            last.remove(0);
        }
        last.push(line.to_owned());
    }
}

/// A running QEMU, ended when it goes out of scope.
struct Machine(Child);

impl Machine {
    /// The serial line is closed, so QEMU is about to end.
    fn wait(&mut self) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > Duration::from_secs(10) {
                self.end();
                return Ok(self.0.wait()?);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// The image of the virtio disk, new for each boot.
struct Disk {
    file: PathBuf,
}

impl Disk {
    fn make() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = places::target().join("vtd-run");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        Self::clear(&dir);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = dir.join(format!("disk-{}-{number}.img", std::process::id()));
        let image: Vec<u8> = (0..DISK_SECTORS).flat_map(sector).collect();
        fs::write(&file, image).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { file })
    }

    /// Removes the images of runs that were killed.
    fn clear(dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("disk-").and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// What stands in a sector: its number in words, then its low byte.
fn sector(number: u32) -> Vec<u8> {
    let mut bytes = format!("vtd sector {number}\n").into_bytes();
    bytes.resize(512, number as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_say_their_number() {
        let bytes = sector(700);
        assert!(bytes.starts_with(b"vtd sector 700\n\xbc"));
        assert_eq!(bytes.len(), 512);
    }

    /// What becomes of a boot of this shell script, within 1.5 s and with 0.5 s of silence.
    fn boot_of(script: &str) -> (End, usize) {
        let fake = format!("case \"$*\" in *--version*) echo 'version 11.1.3' ;; *help*) ;; *) {script} ;; esac");
        let arguments = vec!["-c".into(), fake.into(), "qemu".into()];
        let qemu = Qemu::probe("sh".into(), arguments, None, "a fake".into()).unwrap();
        let limits = Limits { total: Duration::from_millis(1500), silence: Duration::from_millis(500) };
        let setting = Setting::new(crate::machines::by_name("no-iommu").unwrap());
        let (begun, mut longest) = (Instant::now(), 0);
        let outcome = boot(&qemu, Path::new("kernel"), &setting, "test", limits, &mut |line| {
            if let Line::Text(text) = line {
                longest = longest.max(text.len());
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(10), "{script}");
        (outcome.unwrap().end, longest)
    }

    #[test]
    fn a_boot_ends_whatever_the_machine_does() {
        assert!(matches!(boot_of("exec yes").0, End::TooLong(_)));
        assert!(matches!(boot_of("yes >&2").0, End::Silent(_)));
        assert!(matches!(boot_of("sleep 20 & echo; sleep 20").0, End::Silent(_)), "others hold its pipes");
        let (end, longest) = boot_of("exec tr '\\0' x < /dev/zero");
        assert!(matches!(end, End::TooLong(_)) && longest <= LONGEST_LINE as usize, "{end:?} {longest}");
        assert_eq!(boot_of("kill -9 $$").0, End::Exit(None));
    }

    #[test]
    fn a_reset_is_told_with_the_last_words() {
        let last = vec!["paging: on".to_owned()];
        let outcome = Outcome { end: End::Exit(Some(0)), last, errors: "qemu: odd\n".into() };
        let reason = outcome.reason();
        assert!(reason.contains("reset") && reason.contains("paging: on") && reason.contains("qemu: odd"), "{reason}");
    }
}

//! One boot of a machine: starts QEMU, hands on what it says, and ends it when it takes too long.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::machines::Setting;
use crate::places;
use crate::protocol::Line;
use crate::setup::qemu::Qemu;

/// How many of the last lines are kept for the report of a silent machine.
const LAST_LINES: usize = 8;

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

    let (sender, lines) = mpsc::channel();
    if let Some(pipe) = machine.0.stdout.take() {
        std::thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
                if sender.send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                    break;
                }
                bytes.clear();
            }
        });
    }
    let errors = machine.0.stderr.take().map(|mut pipe| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    });

    let begun = Instant::now();
    let mut last = Vec::new();
    let mut take = |line: String| {
        let line = line.trim_end_matches(['\r', '\n']);
        if !line.trim().is_empty() {
            if last.len() == LAST_LINES {
                last.remove(0);
            }
            last.push(line.to_owned());
        }
        hear(Line::parse(line));
    };
    let end = loop {
        let left = limits.total.saturating_sub(begun.elapsed());
        match lines.recv_timeout(left.min(limits.silence)) {
            Ok(line) => take(line),
            Err(RecvTimeoutError::Disconnected) => break End::Exit(machine.wait()?.code()),
            Err(RecvTimeoutError::Timeout) if left <= limits.silence => break End::TooLong(limits.total),
            Err(RecvTimeoutError::Timeout) => break End::Silent(limits.silence),
        }
    };
    machine.end();
    // A line that had no end yet when the machine was stopped.
    while let Ok(line) = lines.recv_timeout(Duration::from_secs(1)) {
        take(line);
    }
    let errors = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok(Outcome { end, last, errors })
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

    #[test]
    fn a_reset_is_told_with_the_last_words() {
        let last = vec!["paging: on".to_owned()];
        let outcome = Outcome { end: End::Exit(Some(0)), last, errors: "qemu: odd\n".into() };
        let reason = outcome.reason();
        assert!(reason.contains("reset") && reason.contains("paging: on") && reason.contains("qemu: odd"), "{reason}");
    }
}

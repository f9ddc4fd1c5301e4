//! The tests that run on the host: `cargo test`, its answers read line by line.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::report::Report;
use crate::filter;
use crate::guest::{TestResult, Verdict};
use crate::places;

/// A run of `cargo test`: the head of its tests' full names, its group, and cargo's arguments.
pub struct Suite {
    pub head: &'static str,
    pub group: &'static str,
    arguments: &'static [&'static str],
}

pub const SUITES: &[Suite] = &[
    Suite { head: "host", group: "host tests", arguments: &["--package", "vtd", "--all-features", "--lib", "--tests"] },
    // Its doc tests, too.
    Suite { head: "emu", group: "emulated unit", arguments: &["--package", "vtd-emu"] },
    // The driver's queue under every order of memory accesses that the language allows.
    Suite { head: "loom", group: "loom", arguments: &["--package", "vtd-loom"] },
    Suite { head: "xtask", group: "host tests", arguments: &["--package", "xtask", "--lib"] },
    Suite { head: "doc", group: "doc tests", arguments: &["--package", "vtd", "--all-features", "--doc"] },
];

/// The example of a foreign host has its own manifest.
pub const ADOPT: Suite =
    Suite { head: "adopt", group: "adopt", arguments: &["--manifest-path", super::checks::ADOPT_MANIFEST] };

impl Suite {
    fn command(&self) -> Command {
        let mut command = places::cargo();
        // Quiet, cargo has libtest print dots.
        command.args(["test", "--no-fail-fast"]).args(self.arguments).env("CARGO_TERM_QUIET", "false");
        command
    }

    pub fn selected(&self, filter: &str) -> bool {
        filter::behind(self.head, filter).is_some()
    }

    /// The full names of the tests that `filter` selects.
    pub fn list(&self, filter: &str) -> Result<Vec<String>> {
        let Some(part) = filter::behind(self.head, filter) else { return Ok(Vec::new()) };
        let text = places::output_of(self.command().args(["--", "--list", "--format", "terse"]).arg(part))?;
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(|name| format!("{}::{name}", self.head)).collect())
    }

    /// Runs the tests that `filter` selects.
    pub fn run(&self, filter: &str, scale: u32, deadline: Option<Instant>, report: &mut Report) {
        let Some(part) = filter::behind(self.head, filter) else { return };
        let begun = Instant::now();
        let mut command = self.command();
        command.env("VTD_SCALE", scale.to_string()).arg("--").arg(part);
        let mut lines = Vec::new();
        let ended = follow(&mut command, deadline, &mut lines);
        let (mut count, mut failures) = (0, 0);
        for (name, verdict) in lines.iter().filter_map(|line| parse(line)) {
            count += 1;
            failures += usize::from(matches!(verdict, Verdict::Failed(_)));
            let name = format!("{}::{name}", self.head);
            report.take_quietly(TestResult { name, verdict, time: Duration::ZERO, machine: None });
        }
        let told: usize = lines.iter().filter_map(|line| parse_sum(line)).sum();
        let ended = ended.and_then(|()| {
            ensure!(told == count, "libtest counts {told} tests, but {count} results were heard");
            Ok(())
        });
        println!("{count} tests of {} in {:.1} s", self.head, begun.elapsed().as_secs_f64());
        // What the driver exercised of the emulated unit.
        lines
            .iter()
            .skip_while(|line| !line.starts_with("What is exercised"))
            .take_while(|line| !line.is_empty())
            .for_each(|line| println!("{line}"));
        if failures > 0 {
            lines.iter().skip_while(|line| *line != "failures:").for_each(|line| println!("{line}"));
        } else if ended.is_err() {
            lines.iter().for_each(|line| println!("{line}"));
            report.check(&format!("{}::run", self.head), begun.elapsed(), ended);
        }
    }
}

/// Runs a command and keeps what it prints; fails if the command does, or is not done at the deadline.
fn follow(command: &mut Command, deadline: Option<Instant>, lines: &mut Vec<String>) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let (sender, receiver) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        std::thread::spawn(move || {
            BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
    }
    loop {
        let left = deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        match receiver.recv_timeout(left) {
            // Who never stops talking is out of time all the same.
            Ok(_) if left.is_zero() => return stop(child),
            Ok(line) => {
                // libtest's word on long tests: the only sign of life for minutes.
                if line.contains(" has been running for over ") {
                    println!("{line}");
                }
                lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => return stop(child),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`cargo test` failed ({status}); its words above say why");
    }
    Ok(())
}

fn stop(mut child: Child) -> Result<()> {
    let _ = child.kill();
    let _ = child.wait();
    bail!("not done when the time of the whole run was over");
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`: how many tests that is.
fn parse_sum(line: &str) -> Option<usize> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |part: &str| part.trim().split(' ').next().and_then(|number| number.parse::<usize>().ok());
    counts.split(';').take(3).map(number).sum()
}

/// `test NAME ... ok`, `... FAILED`, `... ignored`, `... ignored, REASON`
fn parse(line: &str) -> Option<(String, Verdict)> {
    let (name, answer) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match answer.split_once(", ").unwrap_or((answer, "")) {
        ("ok", _) => Verdict::Passed,
        ("FAILED", _) => Verdict::Failed("see below".into()),
        ("ignored", "") => Verdict::Skipped("ignored without a reason".into()),
        ("ignored", reason) => Verdict::Skipped(reason.into()),
        _ => return None,
    };
    Some((name.trim_end().to_owned(), verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_libtests_lines() {
        let failed = || Verdict::Failed("see below".into());
        let cases = [
            ("test a::b ... ok", Some(("a::b", Verdict::Passed))),
            ("test a::b - should panic ... ok", Some(("a::b - should panic", Verdict::Passed))),
            ("test src/lib.rs - x (line 3) ... FAILED", Some(("src/lib.rs - x (line 3)", failed()))),
            ("test a::c ... ignored, needs a disk", Some(("a::c", Verdict::Skipped("needs a disk".into())))),
            ("test a::d   ... ok", Some(("a::d", Verdict::Passed))),
            ("test a::c ... ignored", Some(("a::c", Verdict::Skipped("ignored without a reason".into())))),
            ("test result: ok. 3 passed; 0 failed", None),
            ("running 3 tests", None),
        ];
        for (line, wanted) in cases {
            assert_eq!(parse(line), wanted.map(|(name, verdict)| (name.to_owned(), verdict)), "{line}");
        }
    }

    #[test]
    fn reads_libtests_sums() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 40 filtered out; finished in 0.00s";
        assert_eq!(parse_sum(line), Some(6));
        assert_eq!(parse_sum("test result_of::it ... ok"), None);
    }

    #[test]
    fn a_command_is_stopped_at_the_deadline() {
        let mut lines = Vec::new();
        let deadline = Some(Instant::now() + Duration::from_millis(300));
        let ended = follow(Command::new("sh").args(["-c", "echo one; exec sleep 60"]), deadline, &mut lines);
        assert!(ended.unwrap_err().to_string().contains("not done"));
        assert_eq!(lines, ["one"]);
        let deadline = Some(Instant::now() + Duration::from_millis(300));
        assert!(follow(Command::new("sh").args(["-c", "exec yes"]), deadline, &mut lines).is_err());
    }
}

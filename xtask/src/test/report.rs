//! What came out of a test run, and how it is shown.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::skips::Allowed;
use crate::guest::{TestResult, Verdict};

/// Results and times, in the order in which they came.
#[derive(Default)]
pub struct Report {
    results: Vec<TestResult>,
    times: Vec<(String, Duration)>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Count {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Count {
    fn of<'a>(results: impl Iterator<Item = &'a TestResult>) -> Self {
        let mut count = Self::default();
        for result in results {
            match result.verdict {
                Verdict::Passed => count.passed += 1,
                Verdict::Failed(_) => count.failed += 1,
                Verdict::Skipped(_) => count.skipped += 1,
            }
        }
        count
    }

    fn cell(self) -> String {
        match self {
            Self { passed: 0, failed: 0, skipped: 0 } => "-".into(),
            Self { passed, failed, skipped } => format!("{passed}/{failed}/{skipped}"),
        }
    }
}

impl Report {
    /// Runs a group and keeps its time; groups of the same name are added up.
    pub fn group<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let begun = Instant::now();
        let answer = work(self);
        let time = begun.elapsed();
        match self.times.iter_mut().find(|(group, _)| group == name) {
            Some((_, sum)) => *sum += time,
            None => self.times.push((name.into(), time)),
        }
        answer
    }

    /// Takes a result and shows it.
    pub fn take(&mut self, result: TestResult) {
        println!("{}", shown(&result));
        self.results.push(result);
    }

    /// Takes a result that is shown only if someone has to look at it.
    pub fn take_quietly(&mut self, result: TestResult) {
        match result.verdict {
            Verdict::Passed => self.results.push(result),
            _ => self.take(result),
        }
    }

    /// Takes the result of a check that ran in no machine.
    pub fn check(&mut self, name: &str, time: Duration, answer: anyhow::Result<()>) {
        let verdict = answer.map_or_else(|error| Verdict::Failed(format!("{error:#}")), |()| Verdict::Passed);
        self.take(TestResult { name: name.into(), verdict, time, machine: None });
    }

    pub fn count(&self) -> Count {
        Count::of(self.results.iter())
    }

    /// Fails if there are skips that are not allowed, and names them.
    pub fn deny_skips(&self, allowed: &Allowed) -> anyhow::Result<()> {
        let mut denied = Vec::new();
        for result in &self.results {
            if let Verdict::Skipped(reason) = &result.verdict
                && !allowed.allow(&result.name, reason)
            {
                denied.push(format!("{}: {reason}", result.name));
            }
        }
        let list = denied.join("\n    ");
        anyhow::ensure!(denied.is_empty(), "skips that tests/allowed-skips.txt does not list:\n    {list}");
        Ok(())
    }

    /// Everything that stands at the end, the line with the sums last.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let failed = self.results.iter().filter(|result| matches!(result.verdict, Verdict::Failed(_)));
        for (index, result) in failed.enumerate() {
            let _ = writeln!(text, "{}  {}", if index == 0 { "\nFailed:\n" } else { "" }, result.name);
        }
        text.push_str("\nTime by group:\n");
        for (name, time) in &self.times {
            let _ = writeln!(text, "  {name:24} {:7.1} s", time.as_secs_f64());
        }
        let all: Duration = self.times.iter().map(|(_, time)| *time).sum();
        let _ = writeln!(text, "  {:24} {:7.1} s", "all", all.as_secs_f64());
        text.push_str(&self.table());
        let Count { passed, failed, skipped } = self.count();
        let _ = write!(text, "\n{passed} passed, {failed} failed, {skipped} skipped");
        text
    }

    /// The kernel's test groups by machine.
    fn table(&self) -> String {
        let mut machines: Vec<&str> = Vec::new();
        let mut groups: Vec<&str> = Vec::new();
        for result in &self.results {
            let Some(machine) = result.machine else { continue };
            if !machines.contains(&machine) {
                machines.push(machine);
            }
            if !groups.contains(&group_of(result)) {
                groups.push(group_of(result));
            }
        }
        if machines.is_empty() {
            return String::new();
        }
        groups.sort_unstable();
        let mut text = format!("\nKernel tests by machine, passed/failed/skipped:\n  {:14}", "");
        machines.iter().for_each(|machine| text.push_str(&format!(" {machine:>12}")));
        for row in groups.iter().map(Some).chain([None]) {
            let _ = write!(text, "\n  {:14}", row.unwrap_or(&"all"));
            for column in &machines {
                let here = |result: &&TestResult| {
                    result.machine == Some(column) && row.is_none_or(|row| group_of(result) == *row)
                };
                let _ = write!(text, " {:>12}", Count::of(self.results.iter().filter(here)).cell());
            }
        }
        text.push('\n');
        text
    }
}

/// The module in `machine::module::function`, or `tour`.
fn group_of(result: &TestResult) -> &str {
    let mut parts = result.name.split("::");
    match parts.next() {
        Some("tour") => "tour",
        _ => parts.next().unwrap_or("?"),
    }
}

fn shown(TestResult { name, verdict, time, .. }: &TestResult) -> String {
    let milliseconds = time.as_millis();
    match verdict {
        Verdict::Passed => format!("{name} ... ok ({milliseconds} ms)"),
        Verdict::Failed(reason) => format!("{name} ... FAILED ({milliseconds} ms)\n    {reason}"),
        Verdict::Skipped(reason) => format!("{name} ... skipped: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        let mut report = Report::default();
        let bad = || Verdict::Failed("bad".into());
        let results = [
            ("check::format", Verdict::Passed, None),
            ("legacy::paging::a", Verdict::Passed, Some("legacy")),
            ("legacy::fault::b", bad(), Some("legacy")),
            ("tour::legacy", Verdict::Passed, Some("legacy")),
            ("caching::paging::a", Verdict::Skipped("no edu".into()), Some("caching")),
        ];
        for (name, verdict, machine) in results {
            report.take(TestResult { name: name.into(), verdict, time: Duration::ZERO, machine });
        }
        report
    }

    #[test]
    fn the_last_line_counts_everything() {
        let summary = sample().summary();
        assert_eq!(summary.lines().last(), Some("3 passed, 1 failed, 1 skipped"));
        assert!(summary.contains("Failed:\n  legacy::fault::b\n"), "{summary}");
    }

    #[test]
    fn the_table_has_a_column_for_each_machine() {
        let table = sample().table();
        let words: Vec<Vec<&str>> = table.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["legacy", "caching"]);
        assert_eq!(words[1], ["fault", "0/1/0", "-"]);
        assert_eq!(words[2], ["paging", "1/0/0", "0/0/1"]);
        assert_eq!(words[3], ["tour", "1/0/0", "-"]);
        assert_eq!(words[4], ["all", "2/1/0", "0/0/1"]);
    }

    #[test]
    fn skips_are_denied_by_name() {
        let error = sample().deny_skips(&Allowed::default()).unwrap_err().to_string();
        assert!(error.contains("caching::paging::a: no edu"), "{error}");
    }
}

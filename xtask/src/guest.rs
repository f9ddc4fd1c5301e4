//! The kernel's own tests, one boot after the other until each has its result.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::boot::{self, End, Limits, Outcome};
use crate::filter;
use crate::kernel;
use crate::machines::{Change, Machine, Setting, by_name};
use crate::protocol::Line;
use crate::setup::qemu::{self, Qemu};
use crate::setup::sysroot::Sysroot;
use crate::symbols::Symbols;
use crate::version::Version;

/// The oldest QEMU whose unit answers as the tests expect.
pub const LEAST_FOR_TESTS: Version = Version::new(11, 1, 0);

/// A machine that goes down more often than this is given up.
const MOST_BOOTS: usize = 25;

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A test's full name, `machine::module::function`, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    pub name: String,
    pub verdict: Verdict,
    pub time: Duration,
    /// The machine, for tests that ran in one.
    pub machine: Option<&'static str>,
}

/// All that boots need.
pub struct Bench {
    pub qemu: Qemu,
    pub kernel: PathBuf,
    /// Repetitions of tests with random parts, in percent.
    pub scale: u32,
    /// When the whole run has to be over.
    pub deadline: Option<Instant>,
}

/// A tour that is tested: its name, machine, change and the exit code it must end with.
pub struct Tour {
    pub name: String,
    pub setting: Setting<'static>,
    wanted: i32,
}

impl Bench {
    /// Set-up and build of all that boots need.
    pub fn prepare(sysroot: &Sysroot, scale: u32, deadline: Option<Instant>) -> Result<Self> {
        let named = qemu::named(None).is_some();
        let least = if named { Version::new(0, 0, 0) } else { LEAST_FOR_TESTS };
        let qemu = qemu::ensure(None, least)?;
        let kernel = kernel::build(sysroot)?;
        Ok(Self { qemu, kernel, scale, deadline })
    }

    fn limits(&self) -> Limits {
        let factor = (self.scale / 100).max(1);
        let limits = Limits { total: Duration::from_secs(600) * factor, silence: Duration::from_secs(60) * factor };
        match self.deadline {
            Some(end) => Limits { total: limits.total.min(end.saturating_duration_since(Instant::now())), ..limits },
            None => limits,
        }
    }

    /// The names of the kernel's tests for a machine, without the machine.
    pub fn list(&self, machine: &'static Machine) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let outcome = self.boot(&Setting::new(machine), "list", &mut |line| {
            if let Line::Listed { name } = line {
                names.push(name);
            }
        })?;
        if outcome.end != End::Exit(Some(boot::SUCCESS)) {
            bail!("machine {} does not list its tests: {outcome}", machine.name);
        }
        Ok(names)
    }

    fn boot(&self, setting: &Setting<'_>, words: &str, hear: &mut dyn FnMut(Line)) -> Result<Outcome> {
        boot::boot(&self.qemu, &self.kernel, setting, words, self.limits(), hear)
    }

    /// Runs the tests of a machine whose full name contains `filter`, and gives each result to `report`.
    pub fn run(&self, machine: &'static Machine, filter: &str, report: &mut dyn FnMut(TestResult)) -> Result<()> {
        let Some(part) = filter::behind(machine.name, filter) else { return Ok(()) };
        let mut after = None;
        for _ in 0..MOST_BOOTS {
            let mut words = format!("test scale={}", self.scale);
            if !part.is_empty() {
                words.push_str(&format!(" filter={part}"));
            }
            if let Some(name) = &after {
                words.push_str(&format!(" after={name}"));
            }
            let mut session = Session::new(&self.kernel);
            let outcome = self.boot(&Setting::new(machine), &words, &mut |line| {
                if let Some((name, verdict, time)) = session.hear(line) {
                    let name = format!("{}::{name}", machine.name);
                    // The kernel knows no machine names, so it may run more than was asked for.
                    if name.contains(filter) {
                        report(TestResult { name, verdict, time, machine: Some(machine.name) });
                    }
                }
            })?;
            let end = session.end(&outcome);
            if let Some((name, text, time)) = end.broken {
                let name = format!("{}::{name}", machine.name);
                if name.contains(filter) {
                    report(TestResult { name, verdict: Verdict::Failed(text), time, machine: Some(machine.name) });
                }
            }
            match end.next {
                Some(name) => after = Some(name),
                None => return Ok(()),
            }
        }
        let text = format!("the machine went down {MOST_BOOTS} times; its other tests were not run");
        report(TestResult {
            name: format!("{}::boot", machine.name),
            verdict: Verdict::Failed(text),
            time: Duration::ZERO,
            machine: Some(machine.name),
        });
        Ok(())
    }

    /// Runs a tour and holds its end against what it must be.
    pub fn tour(&self, tour: &Tour) -> Result<TestResult> {
        let begun = Instant::now();
        let mut session = Session::new(&self.kernel);
        let words = format!("tour scale={}", self.scale);
        let outcome = self.boot(&tour.setting, &words, &mut |line| {
            session.hear(line);
        })?;
        let verdict = match outcome.end {
            End::Exit(Some(code)) if code == tour.wanted => Verdict::Passed,
            End::Exit(Some(boot::SUCCESS)) => Verdict::Failed("the tour succeeded where it must not".into()),
            _ => Verdict::Failed(session.with_panic(match outcome.end {
                End::Exit(Some(boot::FAILURE)) => {
                    format!("{outcome}; last it said:\n    {}", outcome.last.join("\n    "))
                }
                _ => outcome.reason(),
            })),
        };
        Ok(TestResult {
            name: tour.name.clone(),
            verdict,
            time: begun.elapsed(),
            machine: Some(tour.setting.machine.name),
        })
    }
}

/// The tours of these machines, each as it is and some with a change.
pub fn tours(machines: &[&'static Machine]) -> Vec<Tour> {
    let plain = |machine: &'static Machine| Tour {
        name: format!("tour::{}", machine.name),
        setting: Setting::new(machine),
        wanted: boot::SUCCESS,
    };
    let mut list: Vec<Tour> = machines.iter().map(|machine| plain(machine)).collect();
    let Some(legacy) = by_name("legacy").ok().filter(|legacy| machines.iter().any(|one| one.name == legacy.name))
    else {
        return list;
    };
    let same = Change::default();
    let changes = [
        ("legacy-3g", Change { large_memory: true, ..same }, boot::SUCCESS),
        ("legacy-other-slots", Change { other_slots: true, ..same }, boot::SUCCESS),
        ("promise-broken", Change { without_unit: true, ..same }, boot::FAILURE),
    ];
    for (name, change, wanted) in changes {
        let setting = Setting { change, ..Setting::new(legacy) };
        list.push(Tour { name: format!("tour::{name}"), setting, wanted });
    }
    list
}

/// What is known of one boot's tests.
struct Session<'a> {
    kernel: &'a std::path::Path,
    current: Option<(String, Instant)>,
    finished: Option<String>,
    done: bool,
    panic: Vec<String>,
    symbols: Option<Symbols>,
}

/// What follows from how a boot ended.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    /// The test that the boot broke at, why, and how long it took.
    broken: Option<(String, String, Duration)>,
    /// The test to go on after.
    next: Option<String>,
}

impl<'a> Session<'a> {
    fn new(kernel: &'a std::path::Path) -> Self {
        Self { kernel, current: None, finished: None, done: false, panic: Vec::new(), symbols: None }
    }

    /// Takes a line; a result comes out when it ends a test.
    fn hear(&mut self, line: Line) -> Option<(String, Verdict, Duration)> {
        let (name, verdict, time) = match line {
            Line::Begin { name } => {
                self.current = Some((name, Instant::now()));
                return None;
            }
            Line::Passed { name, milliseconds } => (name, Verdict::Passed, Some(Duration::from_millis(milliseconds))),
            Line::Failed { name, text } => (name, Verdict::Failed(text), None),
            Line::Skipped { name, text } => (name, Verdict::Skipped(text), None),
            Line::Done { .. } => {
                self.done = true;
                return None;
            }
            Line::Panic { text } => {
                self.panic.push(text);
                return None;
            }
            Line::Frame { address } => {
                self.frame(address);
                return None;
            }
            Line::Text(text) => {
                // Registers follow a panic as text.
                if !self.panic.is_empty() && !text.trim().is_empty() {
                    self.panic.push(text);
                }
                return None;
            }
            _ => return None,
        };
        let begun = self.current.take().map(|(_, begun)| begun.elapsed());
        self.finished = Some(name.clone());
        Some((name, verdict, time.or(begun).unwrap_or_default()))
    }

    fn frame(&mut self, address: u64) {
        if self.symbols.is_none() {
            self.symbols = Symbols::load(self.kernel).ok();
        }
        let functions = self.symbols.as_ref().map(|symbols| symbols.describe(address)).unwrap_or_default();
        self.panic.push(format!("  {address:#x}  {}", functions.join(", in ")));
    }

    /// A reason, or the panic if there was one.
    fn with_panic(&self, reason: String) -> String {
        match self.panic.is_empty() {
            true => reason,
            false => self.panic.join("\n    "),
        }
    }

    fn end(mut self, outcome: &Outcome) -> Next {
        if self.done && matches!(outcome.end, End::Exit(Some(boot::SUCCESS | boot::FAILURE))) {
            return Next { broken: None, next: None };
        }
        let reason = self.with_panic(outcome.reason());
        if let Some((name, begun)) = self.current.take() {
            return Next { broken: Some((name.clone(), reason, begun.elapsed())), next: Some(name) };
        }
        // Between two tests, or before the first: the machine itself is at fault.
        let text = match &self.finished {
            Some(name) => format!("after {name}: {reason}"),
            None => reason,
        };
        Next { broken: Some(("boot".into(), text, Duration::ZERO)), next: self.finished.filter(|_| !self.done) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::machines::MACHINES;

    fn hear(session: &mut Session<'_>, lines: &[&str]) -> Vec<(String, Verdict)> {
        let results = lines.iter().filter_map(|line| session.hear(Line::parse(line)));
        results.map(|(name, verdict, _)| (name, verdict)).collect()
    }

    fn ended(end: End) -> Outcome {
        Outcome { end, last: vec!["@test begin a::two".into()], errors: String::new() }
    }

    #[test]
    fn a_session_that_is_done_has_nothing_left() {
        let mut session = Session::new(Path::new("kernel"));
        let results = hear(&mut session, &["@boot", "@test begin a::one", "@test fail a::one bad", "@test done 0 1 0"]);
        assert_eq!(results, [("a::one".into(), Verdict::Failed("bad".into()))]);
        assert_eq!(session.end(&ended(End::Exit(Some(boot::FAILURE)))), Next { broken: None, next: None });
    }

    #[test]
    fn a_hang_fails_its_test_and_goes_on_behind_it() {
        let mut session = Session::new(Path::new("kernel"));
        let lines = ["@test begin a::one", "@test ok a::one 3", "@test begin a::two"];
        assert_eq!(hear(&mut session, &lines).len(), 1);
        let next = session.end(&ended(End::Silent(Duration::from_secs(60))));
        assert_eq!(next.next.as_deref(), Some("a::two"));
        let (name, reason, _) = next.broken.unwrap();
        assert!(name == "a::two" && reason.contains("silent for 60 s"), "{reason}");
    }

    #[test]
    fn a_panic_is_the_reason() {
        let mut session = Session::new(Path::new("kernel"));
        hear(&mut session, &["@test begin a::two", "@panic divided by zero", "rip 1234"]);
        let (_, reason, _) = session.end(&ended(End::Exit(Some(boot::PANIC)))).broken.unwrap();
        assert!(reason.contains("divided by zero") && reason.contains("rip 1234"), "{reason}");
    }

    #[test]
    fn a_machine_that_never_begins_a_test_is_given_up() {
        let session = Session::new(Path::new("kernel"));
        let next = session.end(&ended(End::Exit(Some(0))));
        assert_eq!((next.broken.map(|broken| broken.0), next.next), (Some("boot".into()), None));
    }

    #[test]
    fn going_down_after_the_last_test_does_not_go_on() {
        let mut session = Session::new(Path::new("kernel"));
        hear(&mut session, &["@test begin a::one", "@test ok a::one 3", "@test done 1 0 0"]);
        let next = session.end(&ended(End::Silent(Duration::from_secs(60))));
        assert_eq!((next.broken.map(|broken| broken.0), next.next), (Some("boot".into()), None));
    }

    #[test]
    fn tours_follow_their_machines() {
        let names =
            |machines: &[&'static Machine]| tours(machines).into_iter().map(|tour| tour.name).collect::<Vec<_>>();
        let all: Vec<&Machine> = MACHINES.iter().collect();
        assert_eq!(names(&all).len(), all.len() + 3);
        assert_eq!(names(&[by_name("caching").unwrap()]), ["tour::caching"]);
        assert!(names(&all).contains(&"tour::promise-broken".into()));
    }
}

//! What one boot's lines say about its tests.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Verdict;
use crate::boot::{self, End, Outcome};
use crate::protocol::Line;
use crate::symbols::Symbols;

/// What is known of one boot's tests.
pub struct Session<'a> {
    kernel: &'a Path,
    current: Option<(String, Instant)>,
    finished: Option<String>,
    heard: u64,
    failed: u64,
    done: Option<u64>,
    tour: Option<Duration>,
    panic: Vec<String>,
    symbols: Option<Symbols>,
}

/// What follows from how a boot ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Next {
    /// The test that the boot broke at, why, and how long it took.
    pub broken: Option<(String, String, Duration)>,
    /// The test to go on after.
    pub next: Option<String>,
}

impl<'a> Session<'a> {
    pub fn new(kernel: &'a Path) -> Self {
        Self {
            kernel,
            current: None,
            finished: None,
            heard: 0,
            failed: 0,
            done: None,
            tour: None,
            panic: Vec::new(),
            symbols: None,
        }
    }

    /// Takes a line; a result comes out when it ends a test.
    pub fn hear(&mut self, line: Line) -> Option<(String, Verdict, Duration)> {
        let (name, verdict, time) = match line {
            Line::Begin { name } => {
                self.current = Some((name, Instant::now()));
                return None;
            }
            Line::Passed { name, milliseconds } => (name, Verdict::Passed, Some(Duration::from_millis(milliseconds))),
            Line::Failed { name, text } => (name, Verdict::Failed(text), None),
            Line::Skipped { name, text } => (name, Verdict::Skipped(text), None),
            Line::Done { passed, failed, skipped } => {
                self.done = Some(passed + failed + skipped);
                return None;
            }
            Line::Time { name, nanoseconds } if name == "tour" => {
                self.tour = Some(Duration::from_nanos(nanoseconds));
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
        self.heard += 1;
        self.failed += u64::from(matches!(verdict, Verdict::Failed(_)));
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
    pub fn with_panic(&self, reason: String) -> String {
        match self.panic.is_empty() {
            true => reason,
            false => self.panic.join("\n    "),
        }
    }

    /// How long the tour took by the kernel's own clock.
    pub fn tour(&self) -> Option<Duration> {
        self.tour
    }

    pub fn end(mut self, outcome: &Outcome) -> Next {
        let ended_itself = matches!(outcome.end, End::Exit(Some(boot::SUCCESS | boot::FAILURE)));
        let success = outcome.end == End::Exit(Some(boot::SUCCESS));
        let reason = match (ended_itself, self.done) {
            (true, Some(count)) if count == self.heard && success == (self.failed == 0) => {
                return Next { broken: None, next: None };
            }
            (true, Some(count)) if count == self.heard => {
                format!("{} of its tests failed, and {}", self.failed, outcome.reason())
            }
            (true, Some(count)) => format!("the kernel counts {count} tests, but {} were heard of", self.heard),
            (true, None) => "the kernel ended without saying that its tests are done".into(),
            (false, _) => self.with_panic(outcome.reason()),
        };
        if let Some((name, begun)) = self.current.take() {
            return Next { broken: Some((name.clone(), reason, begun.elapsed())), next: Some(name) };
        }
        // Between two tests, or before the first: the machine itself is at fault.
        let text = match &self.finished {
            Some(name) => format!("after {name}: {reason}"),
            None => reason,
        };
        let next = self.finished.filter(|_| self.done.is_none());
        Next { broken: Some(("boot".into(), text, Duration::ZERO)), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_exit_code_has_to_say_what_the_results_say() {
        for (word, code) in [("ok a::one 1", boot::FAILURE), ("fail a::one bad", boot::SUCCESS)] {
            let mut session = Session::new(Path::new("kernel"));
            hear(&mut session, &["@test begin a::one", &format!("@test {word}"), "@test done 1 0 0"]);
            let (name, _, _) = session.end(&ended(End::Exit(Some(code)))).broken.unwrap();
            assert_eq!(name, "boot", "{word}");
        }
    }

    #[test]
    fn a_lost_result_is_noticed() {
        let mut session = Session::new(Path::new("kernel"));
        hear(
            &mut session,
            &["@test begin a::one", "@test ok a::o", "@test begin a::two", "@test ok a::two 1", "@test done 2 0 0"],
        );
        let next = session.end(&ended(End::Exit(Some(boot::SUCCESS))));
        let (name, text, _) = next.broken.unwrap();
        assert!(name == "boot" && text.contains("counts 2") && next.next.is_none(), "{text}");
    }
}

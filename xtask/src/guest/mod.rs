//! The kernel's own tests, one boot after the other until each has its result.

mod session;

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
use crate::version::Version;
use session::{Next, Session};

/// The oldest QEMU whose unit answers as the tests expect.
pub const LEAST_FOR_TESTS: Version = Version::new(11, 1, 0);

/// A machine that goes down more often than this is given up.
const MOST_BOOTS: usize = 25;

/// What a tour may take by the kernel's own clock.
const TOUR_LIMIT: Duration = Duration::from_secs(5);

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
    /// Of each boot.
    pub limits: Limits,
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
        let factor = (scale / 100).max(1);
        let limits = Limits { total: Duration::from_secs(600) * factor, silence: Duration::from_secs(60) * factor };
        Ok(Self { qemu, kernel, scale, deadline, limits })
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
        let mut limits = self.limits;
        if let Some(end) = self.deadline {
            limits.total = limits.total.min(end.saturating_duration_since(Instant::now()));
        }
        boot::boot(&self.qemu, &self.kernel, setting, words, limits, hear)
    }

    /// Runs the tests of a machine whose full name contains `filter`, and gives each result to `report`.
    pub fn run(&self, machine: &'static Machine, filter: &str, report: &mut dyn FnMut(TestResult)) -> Result<()> {
        let Some(part) = filter::behind(machine.name, filter) else { return Ok(()) };
        if part.contains(char::is_whitespace) {
            // No test has such a name, and the kernel would take it for several words.
            return Ok(());
        }
        let mut after = None;
        let mut heard = 0;
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
                    heard += 1;
                    let name = format!("{}::{name}", machine.name);
                    // The kernel knows no machine names, so it may run more than was asked for.
                    if name.contains(filter) {
                        report(TestResult { name, verdict, time, machine: Some(machine.name) });
                    }
                }
            })?;
            let Next { broken, next } = session.end(&outcome);
            if broken.is_none() && heard == 0 && part.is_empty() {
                report(Self::failed(machine, "boot", "the kernel ran no test at all".into(), Duration::ZERO));
            }
            if let Some((name, text, time)) = broken {
                report(Self::failed(machine, &name, text, time));
            }
            match next {
                Some(name) => after = Some(name),
                None => return Ok(()),
            }
        }
        let text = format!("the machine went down {MOST_BOOTS} times; its other tests were not run");
        report(Self::failed(machine, "boot", text, Duration::ZERO));
        Ok(())
    }

    fn failed(machine: &'static Machine, name: &str, text: String, time: Duration) -> TestResult {
        let name = format!("{}::{name}", machine.name);
        TestResult { name, verdict: Verdict::Failed(text), time, machine: Some(machine.name) }
    }

    /// Runs a tour and holds its end against what it must be.
    pub fn tour(&self, tour: &Tour) -> Result<TestResult> {
        let begun = Instant::now();
        let mut session = Session::new(&self.kernel);
        let words = format!("tour scale={}", self.scale);
        let outcome = self.boot(&tour.setting, &words, &mut |line| {
            session.hear(line);
        })?;
        let slow = session.tour().filter(|time| *time > TOUR_LIMIT);
        let verdict = match outcome.end {
            End::Exit(Some(boot::SUCCESS)) if tour.wanted == boot::SUCCESS => match (slow, session.tour()) {
                (Some(time), _) => {
                    Verdict::Failed(format!("it took {:.1} s, and has {TOUR_LIMIT:?}", time.as_secs_f64()))
                }
                (None, Some(_)) => Verdict::Passed,
                (None, None) => Verdict::Failed("it ended without having shown the tour (no `@time tour`)".into()),
            },
            // Failing is not enough where it must: it must say why.
            End::Exit(Some(boot::FAILURE))
                if tour.wanted == boot::FAILURE && outcome.last.iter().any(|line| line.contains(PROMISE)) =>
            {
                Verdict::Passed
            }
            End::Exit(Some(boot::SUCCESS)) => Verdict::Failed("the tour succeeded where it must not".into()),
            End::Exit(Some(boot::FAILURE)) => {
                Verdict::Failed(format!("{outcome}; last it said:\n    {}", outcome.last.join("\n    ")))
            }
            _ => Verdict::Failed(session.with_panic(outcome.reason())),
        };
        Ok(TestResult {
            name: tour.name.clone(),
            verdict,
            time: begun.elapsed(),
            machine: Some(tour.setting.machine.name),
        })
    }
}

/// What a tour says whose machine does not keep its promise.
const PROMISE: &str = "promises a remapping unit";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::MACHINES;

    #[test]
    fn tours_follow_their_machines() {
        let names =
            |machines: &[&'static Machine]| tours(machines).into_iter().map(|tour| tour.name).collect::<Vec<_>>();
        let all: Vec<&Machine> = MACHINES.iter().collect();
        assert_eq!(names(&all).len(), all.len() + 3);
        assert_eq!(names(&[by_name("caching").unwrap()]), ["tour::caching"]);
        assert!(names(&all).contains(&"tour::promise-broken".into()));
    }

    /// Stands in for QEMU: says what a kernel would, by what it was told to go on after.
    const FAKE: &str = r#"
case "$*" in
*--version*) echo "QEMU emulator version 11.1.3" ;;
"-device help") echo 'name "edu", bus PCI' ;;
*intel-iommu,help*) echo "  aw-bits=<uint8>" ;;
*"-m 3G "*) exit 33 ;;
*"list machine=legacy"*) echo "@test list a::one"; exit 33 ;;
*"test scale=100 machine=legacy-39"*) echo "@test done 0 0 0"; exit 33 ;;
*"tour scale=100 machine=no-iommu iommu=no"*) echo "@time tour 6000000000"; exit 33 ;;
*"tour scale=100 machine=legacy iommu=yes"*) echo "no unit, and it promises a remapping unit"; exit 35 ;;
*after=a::four*) echo "@test begin a::five"; echo "@test skip a::five no disk"; echo "@test done 0 0 1"; exit 33 ;;
*after=a::three*) echo "@test begin a::four"; echo "@panic out of memory"; exit 37 ;;
*after=a::two*) echo "@test begin a::three"; exec sleep 60 ;;
*"filter=a "*) echo "@test begin a::one"; echo "@test ok a::one 5"; echo "@test begin a::two"; exit 0 ;;
*) exit 33 ;;
esac
"#;

    fn bench() -> Bench {
        let arguments = vec!["-c".into(), FAKE.into(), "qemu".into()];
        let qemu = Qemu::probe("sh".into(), arguments, None, "a fake".into()).unwrap();
        let limits = Limits { total: Duration::from_secs(30), silence: Duration::from_millis(500) };
        Bench { qemu, kernel: "no-kernel".into(), scale: 100, deadline: None, limits }
    }

    #[test]
    fn each_test_has_its_result_however_the_machine_ends() {
        let mut results = Vec::new();
        let legacy = by_name("legacy").unwrap();
        bench().run(legacy, "legacy::a", &mut |result| results.push(result)).unwrap();
        let names: Vec<&str> = results.iter().map(|result| result.name.as_str()).collect();
        assert_eq!(
            names,
            ["legacy::a::one", "legacy::a::two", "legacy::a::three", "legacy::a::four", "legacy::a::five"]
        );
        let says = |index: usize, wanted: &str| match &results[index].verdict {
            Verdict::Failed(text) => assert!(text.contains(wanted), "{text}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(results[0].verdict, Verdict::Passed);
        says(1, "reset");
        says(2, "silent");
        says(3, "out of memory");
        assert_eq!(results[4].verdict, Verdict::Skipped("no disk".into()));
    }

    #[test]
    fn a_machine_that_runs_nothing_has_not_passed() {
        let mut results = Vec::new();
        bench().run(by_name("legacy-39").unwrap(), "", &mut |result| results.push(result)).unwrap();
        assert_eq!(results.len(), 1);
        assert!(matches!(&results[0].verdict, Verdict::Failed(text) if text.contains("no test at all")));
        // A filter is one word to the kernel or none.
        bench().run(by_name("legacy").unwrap(), "a tour", &mut |_| panic!("nothing has this name")).unwrap();
    }

    #[test]
    fn tours_are_held_against_what_they_must_end_with() {
        let bench = bench();
        let verdict = |name: &str| {
            let tours = tours(&MACHINES.iter().collect::<Vec<_>>());
            bench.tour(tours.iter().find(|tour| tour.name == name).unwrap()).unwrap().verdict
        };
        assert_eq!(verdict("tour::promise-broken"), Verdict::Passed);
        assert!(matches!(verdict("tour::legacy"), Verdict::Failed(text) if text.contains("no unit")));
        assert!(matches!(verdict("tour::no-iommu"), Verdict::Failed(text) if text.contains("6.0 s")));
        assert!(matches!(verdict("tour::legacy-3g"), Verdict::Failed(text) if text.contains("without having shown")));
        assert_eq!(bench.list(by_name("legacy").unwrap()).unwrap(), ["a::one"]);
    }
}

//! The kernel's tests, one by one, each with its machine in its name: `cargo test --test qemu`.
//!
//! Each machine is booted once for all of its tests that were asked for; `cargo xtask test` runs the same tests
//! by the same code, and more besides.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use xtask::filter;
use xtask::guest::{self, Bench, TestResult, Tour, Verdict};
use xtask::machines::{MACHINES, Machine};
use xtask::setup::sysroot;

/// The repetitions of `cargo xtask test`.
const SCALE: u32 = 100;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match trials(arguments.filter.as_deref().unwrap_or_default()) {
        Ok(trials) => trials,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials(filter: &str) -> anyhow::Result<Vec<Trial>> {
    let bench = Arc::new(Bench::prepare(&sysroot::ensure()?, SCALE, None)?);
    let mut trials = Vec::new();
    for machine in MACHINES.iter().filter(|machine| filter::behind(machine.name, filter).is_some()) {
        let names = bench.list(machine)?;
        let boots = Arc::new(Boots { bench: bench.clone(), machine, filter: filter.into(), results: OnceLock::new() });
        for name in names {
            let boots = boots.clone();
            let name = format!("{}::{name}", machine.name);
            trials.push(Trial::ignorable_test(name.clone(), move || boots.verdict(&name)));
        }
    }
    let machines: Vec<&'static Machine> = MACHINES.iter().collect();
    for tour in guest::tours(&machines) {
        let bench = bench.clone();
        trials.push(Trial::ignorable_test(tour.name.clone(), move || tour_verdict(&bench, &tour)));
    }
    Ok(trials)
}

/// The tests of one machine, run when the first is asked for.
struct Boots {
    bench: Arc<Bench>,
    machine: &'static Machine,
    filter: String,
    results: OnceLock<Result<Vec<TestResult>, String>>,
}

impl Boots {
    fn verdict(&self, name: &str) -> Result<Completion, Failed> {
        let results = self.results.get_or_init(|| {
            let mut results = Vec::new();
            let run = self.bench.run(self.machine, &self.filter, &mut |result| results.push(result));
            run.map(|()| results).map_err(|error| format!("{error:#}"))
        });
        let results = results.as_ref().map_err(Failed::from)?;
        let boot = format!("{}::boot", self.machine.name);
        let at = |name: &str| results.iter().position(|result| result.name == name);
        // What is wrong with the machine itself comes after the test that it went down behind, and fails it.
        let own = at(name).map(|n| results.get(n + 1).filter(|next| next.name == boot).unwrap_or(&results[n]));
        match own.or_else(|| results.get(at(&boot)?)) {
            Some(result) => completion(&result.verdict),
            None => Err("the kernel lists this test, but did not run it".into()),
        }
    }
}

fn tour_verdict(bench: &Bench, tour: &Tour) -> Result<Completion, Failed> {
    completion(&bench.tour(tour).map_err(|error| format!("{error:#}"))?.verdict)
}

fn completion(verdict: &Verdict) -> Result<Completion, Failed> {
    match verdict {
        Verdict::Passed => Ok(Completion::Completed),
        Verdict::Failed(reason) => Err(reason.into()),
        Verdict::Skipped(reason) => Ok(Completion::ignored_with(reason)),
    }
}

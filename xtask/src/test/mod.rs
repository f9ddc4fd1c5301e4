//! `cargo xtask test`: every check and test, and what came of them.

mod checks;
mod differential;
mod host;
mod report;
mod silencers;
mod skips;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::cli::TestArgs;
use crate::differential::{FORMS, Form};
use crate::filter;
use crate::guest::{self, Bench, Tour};
use crate::machines::{self, MACHINES, Machine};
use crate::mutants;
use crate::setup::sysroot;
use checks::Check;
use host::Suite;
use report::{Count, Report};
use skips::Allowed;

/// The default size has to be done in this time.
const TIME_LIMIT: Duration = Duration::from_secs(20 * 60);

/// How many mutants the default size tries, and which.
const MUTANTS: usize = 3;
const SEED: u64 = 1;

/// The machines and tours of `--quick`.
const QUICK_MACHINES: &[&str] = &["legacy", "second-stage", "no-iommu"];
const QUICK_TOURS: &[&str] = &["tour::legacy", "tour::no-iommu", "tour::promise-broken"];

/// What is to be run, and how often.
struct Plan<'a> {
    filter: &'a str,
    scale: u32,
    machines: Vec<&'static Machine>,
    tours: Vec<Tour>,
    /// Forms of the unit that are compared with QEMU's, and in how many cases.
    forms: Vec<&'static Form>,
    cases: u64,
    mutants: Vec<String>,
    deadline: Option<Instant>,
}

impl<'a> Plan<'a> {
    fn new(args: &'a TestArgs) -> Result<Self> {
        let (scale, limit) = match (args.quick, args.long) {
            (true, _) => (10, Some(TIME_LIMIT)),
            (_, true) => (2000, None),
            _ => (100, Some(TIME_LIMIT)),
        };
        let filter = args.filter.as_deref().unwrap_or_default();
        let mut machines: Vec<&'static Machine> = Vec::new();
        for machine in &args.machines {
            if machines.iter().all(|one| one.name != machine.name) {
                machines.push(machine);
            }
        }
        if machines.is_empty() {
            machines.extend(MACHINES.iter().filter(|one| !args.quick || QUICK_MACHINES.contains(&one.name)));
        }
        let mut tours = guest::tours(&machines);
        let few = args.quick && args.machines.is_empty();
        tours.retain(|tour| tour.name.contains(filter) && (!few || QUICK_TOURS.contains(&tour.name.as_str())));
        let wanted = |form: &&Form| args.machines.is_empty() || machines.iter().any(|one| one.name == form.name);
        let forms = FORMS.iter().filter(|form| wanted(form) && differential::name_of(form).contains(filter)).collect();
        let cases = if args.long { 20_000 } else { 4 * u64::from(scale) };
        machines.retain(|machine| filter::behind(machine.name, filter).is_some());
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mutants = mutants_for(args, filter)?;
        Ok(Self { filter, scale, machines, tours, forms, cases, mutants, deadline })
    }

    fn checks<'b>(&'b self, checks: &'b [Check]) -> impl Iterator<Item = &'b Check> {
        checks
            .iter()
            .filter(|check| check.name.contains(self.filter) && (check.name != "check::adopt" || checks::has_adopt()))
    }

    fn suites(&self) -> impl Iterator<Item = &'static Suite> {
        let adopt = checks::has_adopt().then_some(&host::ADOPT);
        host::SUITES.iter().chain(adopt).filter(|suite| suite.selected(self.filter))
    }
}

/// All where they are asked for, a few in the default size, none where it has to be quick or machines were named.
fn mutants_for(args: &TestArgs, filter: &str) -> Result<Vec<String>> {
    let Some(part) = filter::behind("mutant", filter) else { return Ok(Vec::new()) };
    let named = filter.starts_with("mutant");
    if !named && (args.quick || !args.machines.is_empty()) {
        return Ok(Vec::new());
    }
    let mut names = mutants::names()?;
    names.retain(|name| name.contains(part));
    Ok(if named || args.long { names } else { mutants::sample(names, MUTANTS, SEED) })
}

pub fn run(args: &TestArgs) -> Result<ExitCode> {
    let plan = Plan::new(args)?;
    if args.list {
        list(&plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let allowed = Allowed::load()?;
    let mut report = Report::default();
    run_checks(&plan, checks::EARLY, &mut report);
    for suite in plan.suites() {
        report.group(suite.group, |report| suite.run(plan.filter, plan.scale, plan.deadline, report));
    }
    run_checks(&plan, checks::LATE, &mut report);
    if !plan.forms.is_empty() {
        report.group("differential", |report| differential::run(&plan.forms, plan.cases, plan.deadline, report));
    }
    run_mutants(&plan, &mut report);
    if !plan.machines.is_empty() || !plan.tours.is_empty() {
        match report.group("set-up and kernel", |_| prepare(&plan)) {
            Ok(bench) => run_guests(&plan, &bench, &mut report),
            Err(error) => report.check("check::kernel", Duration::ZERO, Err(error)),
        }
    }
    if args.deny_skips && report.count() != Count::default() {
        let answer = report.deny_skips(&allowed);
        report.check("check::skips", Duration::ZERO, answer);
    }
    if plan.deadline.is_some_and(|deadline| Instant::now() > deadline) {
        let minutes = TIME_LIMIT.as_secs() / 60;
        let error = anyhow!("the run took more than {minutes} minutes; the time by group shows what to make cheaper");
        report.check("check::time", begun.elapsed(), Err(error));
    }
    if report.count() == Count::default() {
        report.check("check::filter", Duration::ZERO, Err(anyhow!("no test's name contains `{}`", plan.filter)));
    }
    println!("{}", report.summary());
    Ok(if report.count().failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn prepare(plan: &Plan<'_>) -> Result<Bench> {
    Bench::prepare(&sysroot::ensure()?, plan.scale, plan.deadline)
}

fn run_checks(plan: &Plan<'_>, checks: &[Check], report: &mut Report) {
    for check in plan.checks(checks) {
        report.group(check.group, |report| {
            let begun = Instant::now();
            let answer = (check.work)();
            report.check(check.name, begun.elapsed(), answer);
        });
    }
}

fn run_mutants(plan: &Plan<'_>, report: &mut Report) {
    if plan.mutants.is_empty() {
        return;
    }
    report.group("mutants", |report| {
        let done = mutants::each(&plan.mutants, &mut |_, name, time, outcome| {
            report.check(&format!("mutant::{name}"), time, outcome.map(drop));
        });
        if let Err(error) = done {
            report.check("mutant::run", Duration::ZERO, Err(error));
        }
    });
}

fn run_guests(plan: &Plan<'_>, bench: &Bench, report: &mut Report) {
    println!("machines in QEMU {} ({})", bench.qemu.version, bench.qemu.origin);
    for machine in &plan.machines {
        report.group(&format!("machine {}", machine.name), |report| {
            if let Err(error) = bench.run(machine, plan.filter, &mut |result| report.take(result)) {
                report.check(&format!("{}::boot", machine.name), Duration::ZERO, Err(error));
            }
        });
    }
    for tour in &plan.tours {
        report.group("tours", |report| match bench.tour(tour) {
            Ok(result) => report.take(result),
            Err(error) => report.check(&tour.name, Duration::ZERO, Err(error)),
        });
    }
}

fn list(plan: &Plan<'_>) -> Result<()> {
    let checks = plan.checks(checks::EARLY).chain(plan.checks(checks::LATE));
    let mut names: Vec<String> = checks.map(|check| check.name.to_owned()).collect();
    for suite in plan.suites() {
        names.extend(suite.list(plan.filter)?);
    }
    if !plan.machines.is_empty() {
        let bench = prepare(plan)?;
        for machine in &plan.machines {
            let full = bench.list(machine)?.into_iter().map(|name| format!("{}::{name}", machine.name));
            names.extend(full.filter(|name| name.contains(plan.filter)));
        }
    }
    names.extend(plan.forms.iter().map(|form| differential::name_of(form)));
    names.extend(plan.mutants.iter().map(|name| format!("mutant::{name}")));
    names.extend(plan.tours.iter().map(|tour| tour.name.clone()));
    names.iter().for_each(|name| println!("{name}"));
    println!("\n{} tests\n\n{}", names.len(), machines::listing());
    Ok(())
}

//! `cargo xtask differential`: the unit of QEMU and `vtd-emu` are given the same tables, queues and requests, and must answer
//! alike.

pub mod board;
pub mod case;
pub mod compare;
pub mod deviations;
pub mod form;
pub mod generate;
pub mod layout;
pub mod ours;
pub mod qtest;
pub mod registers;
pub mod report;
pub mod theirs;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args as Arguments;
use vtd_emu::Profile;

use crate::guest::LEAST_FOR_TESTS;
use crate::machines;
use crate::setup::qemu::{self, Qemu};
use compare::{Outcome, Pair};
use deviations::DEVIATIONS;
use form::{FORMS, Form};
use theirs::Theirs;

/// How many cases a deviation has to come about in once.
const ENOUGH: u64 = 20_000;

/// Of this many cases, one may fall under a deviation.
const RARE: u64 = 50;

/// Compare QEMU's remapping unit with vtd-emu's: the same tables, queues and requests in both
#[derive(Arguments)]
pub struct Args {
    /// How many cases in each form
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub cases: u64,
    /// What the cases are made from
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Only this form of the unit (may be given several times)
    #[arg(long = "machine", value_name = "FORM", value_parser = by_name)]
    pub forms: Vec<&'static Form>,
    /// Only this case
    #[arg(long = "case", value_name = "I")]
    pub only: Option<u64>,
    /// Go on after differences until there are this many
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub differences: u64,
    /// The QEMU to use (also: variable VTD_QEMU)
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<std::path::PathBuf>,
}

fn by_name(name: &str) -> Result<&'static Form> {
    let names: Vec<&str> = FORMS.iter().map(|form| form.name).collect();
    let found = FORMS.iter().find(|form| form.name == name);
    found.with_context(|| format!("there is no form `{name}`; there are {}", names.join(", ")))
}

/// What came of the cases of a form.
#[derive(Default)]
pub struct Tally {
    pub cases: u64,
    pub agreed: u64,
    /// By the deviation's name.
    pub deviations: BTreeMap<&'static str, u64>,
    /// Cases that were cut short, as they would have reached what is no memory.
    pub cut: u64,
    /// Reports of differences that nothing explains.
    pub differences: Vec<String>,
    pub time: Duration,
}

/// How a case compared.
enum Verdict {
    Agreed,
    Known(&'static str),
    Unknown(String),
}

/// A form, ready to run cases.
pub struct Bench<'a> {
    form: &'static Form,
    profile: Profile,
    theirs: Theirs<'a>,
}

impl<'a> Bench<'a> {
    pub fn start(qemu: &'a Qemu, form: &'static Form) -> Result<Self> {
        let theirs = Theirs::start(qemu, machines::by_name(form.name)?)?;
        let profile = form.profile();
        let told = theirs.capabilities;
        ensure!(
            (told.version, told.cap, told.ecap) == (profile.version, profile.cap, profile.ecap),
            "form {}: QEMU {} has VER {:#x}, CAP {:#x}, ECAP {:#x}, and vtd-emu's profile {:#x}, {:#x}, {:#x}",
            form.name,
            qemu.version,
            told.version,
            told.cap,
            told.ecap,
            profile.version,
            profile.cap,
            profile.ecap,
        );
        Ok(Self { form, profile, theirs })
    }

    /// Runs one case.
    fn run(&mut self, seed: u64, number: u64, tally: &mut Tally) -> Result<()> {
        let case = generate::case(self.form, seed, number);
        let outcome = compare::run(&case, &self.profile, &mut self.theirs)
            .with_context(|| format!("form {}, seed {seed}, case {number}", self.form.name))?;
        tally.cases += 1;
        tally.cut += u64::from(outcome.ours.seen.len() < case.steps.len());
        let verdict = judge(&case, &outcome, &self.profile);
        if !matches!(verdict, Verdict::Agreed) {
            self.theirs.forget()?;
        }
        match verdict {
            Verdict::Agreed => tally.agreed += 1,
            Verdict::Known(name) => *tally.deviations.entry(name).or_default() += 1,
            Verdict::Unknown(text) => tally.differences.push(text),
        }
        Ok(())
    }
}

fn judge(case: &case::Case, outcome: &Outcome, profile: &Profile) -> Verdict {
    for pair in outcome.pairs(case, profile) {
        let claim = claim(&pair);
        match (pair.agrees(), claim) {
            (true, None) => {}
            (true, Some(name)) => {
                let text = report::difference(outcome, &pair);
                return Verdict::Unknown(format!("deviation {name} claims a step in which both agree\n{text}"));
            }
            // What comes after may follow from it.
            (false, Some(name)) => return Verdict::Known(name),
            (false, None) => return Verdict::Unknown(report::difference(outcome, &pair)),
        }
    }
    Verdict::Agreed
}

fn claim(pair: &Pair<'_>) -> Option<&'static str> {
    let here = |one: &&deviations::Deviation| one.forms.is_empty() || one.forms.contains(&pair.case.form.name);
    DEVIATIONS.iter().filter(here).find(|one| (one.claims)(pair)).map(|one| one.name)
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let qemu = qemu::ensure(args.qemu.as_deref(), LEAST_FOR_TESTS)?;
    let all: Vec<&'static Form> = FORMS.iter().collect();
    let forms = if args.forms.is_empty() { &all } else { &args.forms };
    println!("QEMU {} ({}), seed {}", qemu.version, qemu.origin, args.seed);
    let mut failed = false;
    for form in forms {
        let mut bench = Bench::start(&qemu, form)?;
        let numbers = args.only.map_or(0..args.cases, |only| only..only + 1);
        let tally = run_many(&mut bench, args.seed, numbers, args.differences)?;
        for text in &tally.differences {
            println!("\n{text}\n");
        }
        println!(
            "{}: {} cases, {} agreed, {} cut, {} differ, {:?}, {} starts",
            form.name,
            tally.cases,
            tally.agreed,
            tally.cut,
            tally.differences.len(),
            tally.time,
            bench.theirs.starts
        );
        failed |= !tally.differences.is_empty();
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run_many(bench: &mut Bench<'_>, seed: u64, numbers: std::ops::Range<u64>, most: u64) -> Result<Tally> {
    let begun = Instant::now();
    let mut shown = Instant::now();
    let mut tally = Tally::default();
    let count = numbers.end - numbers.start;
    let tell = std::io::stderr().is_terminal();
    for number in numbers {
        bench.run(seed, number, &mut tally)?;
        if tally.differences.len() as u64 >= most {
            break;
        }
        if tell && shown.elapsed() > Duration::from_secs(1) {
            shown = Instant::now();
            eprint!("\r{}: {} of {count} ", bench.form.name, tally.cases);
            let _ = std::io::stderr().flush();
        }
    }
    if tell {
        eprint!("\r\x1b[K");
    }
    tally.time = begun.elapsed();
    Ok(tally)
}

//! `cargo xtask differential`: the unit of QEMU and `vtd-emu` are given the same tables, queues and requests, and must answer
//! alike.
//!
//! A case is made from a seed and its number (`generate`), run in `vtd-emu` (`ours`), then in QEMU without a guest (`theirs`,
//! `board`, `qtest`), and compared step by step (`compare`). Where QEMU is known to be otherwise, `deviations` says how.

mod board;
mod case;
mod compare;
mod deviations;
mod form;
mod generate;
mod layout;
mod ours;
mod qtest;
mod registers;
mod report;
mod tally;
mod theirs;

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args as Arguments;
use vtd_emu::Profile;

use crate::guest::LEAST_FOR_TESTS;
use crate::setup::qemu::{self, Qemu};
use compare::{Outcome, Pair};
use deviations::DEVIATIONS;
pub use form::{FORMS, Form};
use tally::{Tally, Verdict};
use theirs::Theirs;

/// The seed of cases that nobody asked to be others.
pub const SEED: u64 = 1;

/// Compare QEMU's remapping unit with vtd-emu's: the same tables, queues and requests in both
///
/// Exits with 1 where they differ in a way that no known deviation explains, where a deviation does not come about in 20,000
/// cases, or where more than one case in fifty falls under
/// one; the last is asked from 5,000 cases on.
#[derive(Arguments)]
#[command(after_help = form::listing())]
pub struct Args {
    /// How many cases in each form
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    cases: u64,
    /// What the cases are made from
    #[arg(long, value_name = "S", default_value_t = SEED)]
    seed: u64,
    /// Only this form of the unit (may be given several times)
    #[arg(long = "machine", value_name = "FORM", value_parser = form::by_name)]
    forms: Vec<&'static Form>,
    /// Only the case of this number
    #[arg(long = "case", value_name = "I", conflicts_with = "cases",
          value_parser = clap::value_parser!(u64).range(..u64::MAX))]
    only: Option<u64>,
    /// Go on in a form until there are this many differences
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    differences: u64,
    /// Say of each deviation why it is one
    #[arg(long)]
    reasons: bool,
    /// The QEMU to use (also: variable VTD_QEMU)
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if args.reasons {
        DEVIATIONS.iter().for_each(|one| println!("{}\n    {}", one.name, one.reason));
        return Ok(ExitCode::SUCCESS);
    }
    let qemu = qemu::ensure(args.qemu.as_deref(), LEAST_FOR_TESTS)?;
    println!("QEMU {} ({}), seed {}", qemu.version, qemu.origin, args.seed);
    let numbers = args.only.map_or(0..args.cases, |only| only..only.saturating_add(1));
    let mut tallies = Vec::new();
    for form in FORMS {
        if args.forms.is_empty() || args.forms.iter().any(|one| one.name == form.name) {
            let mut bench = Bench::start(&qemu, form)?;
            let tally = bench.run(args.seed, numbers.clone(), args.differences as usize, None)?;
            println!("{}: {} cases in {:.0} s", form.name, tally.cases, tally.time.as_secs_f64());
            tally.differences.iter().for_each(|report| println!("\n{report}\n"));
            tallies.push(tally);
        }
    }
    println!("{}", tally::table(DEVIATIONS, &tallies));
    let mut complaints: Vec<String> = tallies.iter().filter_map(Tally::complaint).collect();
    let forms: Vec<&str> = FORMS.iter().map(|form| form.name).collect();
    let unused = tally::unused(DEVIATIONS, &forms, &tallies);
    complaints.extend(unused.iter().map(|name| format!("no case falls under deviation {name}: take it off the list")));
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    let differ = tallies.iter().any(|tally| !tally.differences.is_empty());
    Ok(if differ || !complaints.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs some cases of a form as a test; it fails at the first difference, and when they are not done at the deadline.
pub fn test(qemu: &Qemu, form: &'static Form, cases: u64, deadline: Option<Instant>) -> Result<()> {
    let tally = Bench::start(qemu, form)?.run(SEED, 0..cases, 1, deadline)?;
    if let Some(report) = tally.differences.first() {
        bail!("{report}");
    }
    if let Some(complaint) = tally.complaint() {
        bail!("{complaint}");
    }
    ensure!(tally.cases == cases, "{} of {cases} cases were run when the time of the whole run was over", tally.cases);
    Ok(())
}

/// A form, ready to run cases.
struct Bench<'a> {
    form: &'static Form,
    profile: Profile,
    theirs: Theirs<'a>,
}

impl<'a> Bench<'a> {
    fn start(qemu: &'a Qemu, form: &'static Form) -> Result<Self> {
        let theirs = Theirs::start(qemu, form.machine()?)?;
        let profile = form.profile();
        let wanted = [profile.version.into(), profile.cap, profile.ecap & !form.granted];
        let told = theirs.capabilities;
        ensure!(
            told == wanted,
            "form {}: QEMU {} says {told:#x?} in VER, CAP and ECAP, and vtd-emu's profile {wanted:#x?}",
            form.name,
            qemu.version,
        );
        Ok(Self { form, profile, theirs })
    }

    /// Runs cases until there are so many differences, or it is too late.
    fn run(&mut self, seed: u64, numbers: Range<u64>, most: usize, deadline: Option<Instant>) -> Result<Tally> {
        let begun = Instant::now();
        let mut shown = begun;
        let mut tally = Tally::new(self.form.name);
        let count = numbers.end - numbers.start;
        let tell = std::io::stderr().is_terminal();
        for number in numbers {
            self.case(seed, number, &mut tally)?;
            if tally.differences.len() >= most || deadline.is_some_and(|end| Instant::now() > end) {
                break;
            }
            if tell && shown.elapsed() > Duration::from_millis(500) {
                shown = Instant::now();
                let rate = tally.cases as f64 / begun.elapsed().as_secs_f64();
                eprint!("\r{}: {} of {count} cases, {rate:.0} a second ", self.form.name, tally.cases);
                let _ = std::io::stderr().flush();
            }
        }
        if tell {
            eprint!("\r\x1b[K");
        }
        tally.time = begun.elapsed();
        Ok(tally)
    }

    fn case(&mut self, seed: u64, number: u64, tally: &mut Tally) -> Result<()> {
        let name = self.form.name;
        let case = generate::case(self.form, seed, number);
        let outcome = compare::run(&case, &self.profile, &mut self.theirs)
            .with_context(|| format!("form {name}, seed {seed}, case {number}"))?;
        let mut verdict = judge(&case, &outcome, &self.profile);
        if verdict != Verdict::Agreed {
            self.theirs.forget()?;
        }
        if let Verdict::Unknown(report) = &mut verdict {
            // Is it the case, or what an earlier one left behind?
            self.theirs.restart()?;
            let again = compare::run(&case, &self.profile, &mut self.theirs)?;
            if !matches!(judge(&case, &again, &self.profile), Verdict::Unknown(_)) {
                report.push_str(
                    "\n  In a QEMU that ran nothing before it does not come about: some earlier case is to blame.",
                );
            }
            self.theirs.restart()?;
        }
        tally.cut += u64::from(outcome.ours.seen.len() < case.steps.len());
        for pair in outcome.pairs(&case, &self.profile).filter(|pair| pair.dma().is_some()) {
            tally.requests += 1;
            tally.blocked += u64::from(pair.records().0.is_some());
        }
        tally.take(verdict);
        Ok(())
    }
}

/// What a case's answers come to.
fn judge(case: &case::Case, outcome: &Outcome, profile: &Profile) -> Verdict {
    for pair in outcome.pairs(case, profile) {
        match (pair.agrees(), claim(&pair)) {
            (true, None) => {}
            (true, Some(name)) => {
                let report = report::difference(outcome, &pair);
                return Verdict::Unknown(format!("deviation {name} claims a step in which both agree\n{report}"));
            }
            // What comes after may follow from it.
            (false, Some(name)) => return Verdict::Known(name),
            (false, None) => return Verdict::Unknown(report::difference(outcome, &pair)),
        }
    }
    Verdict::Agreed
}

/// The deviation that says that QEMU answers so.
fn claim(pair: &Pair<'_>) -> Option<&'static str> {
    let here = DEVIATIONS.iter().filter(|one| one.is_of(pair.case.form.name));
    here.filter(|one| (one.claims)(pair)).map(|one| one.name).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A case, and the answers that the emulated unit gives, as both units'.
    fn alike(form: &'static Form, number: u64) -> (case::Case, Outcome) {
        let case = generate::case(form, SEED, number);
        let ours = ours::run(&case, &form.profile());
        let theirs = ours.seen.clone();
        (case, Outcome { ours, theirs })
    }

    #[test]
    fn no_deviation_claims_an_agreement() {
        for form in FORMS {
            for number in 0..40 {
                let (case, outcome) = alike(form, number);
                assert_eq!(judge(&case, &outcome, &form.profile()), Verdict::Agreed, "{} {number}", form.name);
            }
        }
    }

    #[test]
    fn a_difference_is_reported_with_the_command_to_see_it_again() {
        let form = &FORMS[0];
        let (case, mut outcome) = alike(form, 3);
        let last = outcome.theirs.iter_mut().filter_map(|seen| seen.last_mut()).next_back().unwrap();
        last.1 ^= 1 << 17;
        let Verdict::Unknown(report) = judge(&case, &outcome, &form.profile()) else { panic!("it was not noticed") };
        assert!(report.contains("differs") && report.contains("--machine legacy --seed 1 --case 3"), "{report}");
    }

    #[test]
    fn a_deviation_is_known_by_its_answers() {
        let form = &FORMS[0];
        let profile = form.profile();
        // The first fault in an access: as QEMU would record it had the address more bits than tables have.
        let found = (0..100).find_map(|number| {
            let (case, mut outcome) = alike(form, number);
            let at =
                outcome.pairs(&case, &profile).find(|pair| pair.dma().is_some() && pair.records().0.is_some())?.index;
            let low = case::What::Register(registers::RECORD);
            outcome.theirs[at].iter_mut().find(|(what, _)| *what == low)?.1 |= 1 << 60;
            Some(judge(&case, &outcome, &profile))
        });
        assert_eq!(found, Some(Verdict::Known("high-address-bits")));
    }
}

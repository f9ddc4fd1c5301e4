//! The whole driver on the emulated machine: each story in every profile, in legacy mode and, where the unit has it, in
//! scalable mode with second-stage tables and with first-stage tables, under every adversary. `cargo test --test emulated --
//! NAME` runs the stories whose names contain NAME; a run of all of them ends with a table of what was exercised.

mod arena;
mod dmar;
mod features;
mod heap;
mod host;
mod probes;
mod rig;

mod ats;
mod attach;
mod bring_up;
mod dirty;
mod errors;
mod exhaustion;
mod explain;
mod faults;
mod flush;
mod foreign;
mod map;
mod nested;
mod offers;
mod pasids;
mod power;
mod queue;
mod regressions;
mod reset;
mod several;
mod snooping;
mod speed;
mod split;
mod take_over;
mod threads;
mod unmap;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use rig::{MODES, Mode};
use vtd::{Stage, Tables};
use vtd_emu::Profile;

/// A test in one profile and under one adversary.
pub struct Story {
    name: &'static str,
    run: fn(&Profile, Mode),
}

/// The stories of a file, each a function.
#[macro_export]
macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        pub const STORIES: &[$crate::Story] =
            &[$($crate::Story { name: concat!(module_path!(), "::", stringify!($name)), run: $name }),*];
    };
}

const ALL: &[&[Story]] = &[
    ats::STORIES,
    attach::STORIES,
    bring_up::STORIES,
    dirty::STORIES,
    errors::STORIES,
    exhaustion::STORIES,
    explain::STORIES,
    faults::STORIES,
    flush::STORIES,
    foreign::STORIES,
    map::STORIES,
    nested::STORIES,
    pasids::STORIES,
    power::STORIES,
    queue::STORIES,
    regressions::STORIES,
    reset::STORIES,
    several::STORIES,
    snooping::STORIES,
    speed::STORIES,
    split::STORIES,
    take_over::STORIES,
    threads::STORIES,
    unmap::STORIES,
];

/// Every profile, and two that cache absent entries in scalable mode.
pub fn profiles() -> Vec<Profile> {
    let caching = |name, p: Profile| Profile { name, ..p }.with_cap(1 << 7, 0);
    let mut all = Profile::all();
    all.push(caching("QEMU, svm, caching mode", Profile::qemu(vtd_emu::Qemu::Svm)));
    all.push(caching("maximal, caching mode", Profile::maximal()));
    all
}

/// The tables on which a profile's stories run, by name.
fn forms(p: &Profile) -> Vec<(&'static str, Profile, (Tables, Stage))> {
    let scalable = p.smts() && p.qi();
    let legacy = ("", p.clone(), (Tables::Legacy, Stage::Second));
    let second = ("::second-stage", p.clone(), (Tables::Best, Stage::Second));
    let first = ("::first-stage", p.clone(), (Tables::Best, Stage::First));
    // Where AW of first-stage entries is reserved, as the text says of units without second stage.
    let strict = ("::strict", Profile { strict_aw: true, ..p.clone() }, (Tables::Best, Stage::First));
    [
        (true, legacy),
        (scalable && p.ssts(), second),
        (scalable && p.fsts(), first),
        (scalable && p.fsts() && !p.ssts(), strict),
    ]
    .into_iter()
    .filter_map(|(there, form)| there.then_some(form))
    .collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for story in ALL.iter().copied().flatten() {
        for profile in profiles() {
            let name = story.name.trim_start_matches("emulated::");
            let name = format!("{name}::{}", profile.name.replace([' ', ','], "-").replace("--", "-"));
            for (form, profile, tables) in forms(&profile) {
                trials.push(Trial::test(format!("{name}{form}"), move || everywhere(story, &profile, tables)));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.num_filtered_out == 0 && !arguments.list && !conclusion.has_failed() {
        match features::table(offers::FEATURES, &profiles()) {
            Ok(table) => println!("{table}{}\n", speed::told()),
            Err(table) => {
                println!("{table}");
                return ExitCode::FAILURE;
            }
        }
    }
    conclusion.exit_code()
}

/// Under every adversary; where a short test was asked for (`VTD_SCALE` below 100 per cent), under the plainest and two others,
/// which depend on the story and the profile, so that each has its turn.
fn everywhere(story: &Story, profile: &Profile, tables: (Tables, Stage)) -> Result<(), Failed> {
    let scale = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100u32);
    let place = story.name.len() + profile.name.len() * 3;
    let wanted = |n: usize| scale >= 100 || n == 0 || (n + place).is_multiple_of(MODES.len() / 2);
    for (_, mode) in MODES.iter().enumerate().filter(|(n, _)| wanted(*n)) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (story.run)(profile, mode.on(tables)))) {
            let words = payload.downcast_ref::<String>().map(String::as_str);
            let words = words.or(payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            return Err(format!("adversary `{}`: {words}", mode.name).into());
        }
    }
    Ok(())
}

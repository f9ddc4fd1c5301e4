//! The whole driver on the emulated machine: each story in every profile that has second-stage tables, in legacy mode and,
//! where the unit has them there, in scalable mode, under every adversary. `cargo test --test emulated -- NAME` runs the stories whose names contain NAME; a run of all of them ends with
//! a table of what was exercised.

mod arena;
mod dmar;
mod features;
mod host;
mod probes;
mod rig;

mod attach;
mod bring_up;
mod errors;
mod faults;
mod map;
mod offers;
mod power;
mod queue;
mod several;
mod speed;
mod split;
mod take_over;
mod threads;
mod unmap;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use rig::{MODES, Mode};
use vtd::Tables;
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
    attach::STORIES,
    bring_up::STORIES,
    errors::STORIES,
    faults::STORIES,
    map::STORIES,
    power::STORIES,
    queue::STORIES,
    several::STORIES,
    speed::STORIES,
    split::STORIES,
    take_over::STORIES,
    threads::STORIES,
    unmap::STORIES,
];

/// The profiles whose units translate by second-stage tables in legacy mode, which all of these have.
pub fn profiles() -> Vec<Profile> {
    Profile::all().into_iter().filter(|p| p.sagaw() != 0).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for story in ALL.iter().copied().flatten() {
        for profile in profiles() {
            let name = story.name.trim_start_matches("emulated::");
            let name = format!("{name}::{}", profile.name.replace([' ', ','], "-").replace("--", "-"));
            if scalable(&profile) {
                let (name, profile) = (format!("{name}::scalable"), profile.clone());
                trials.push(Trial::test(name, move || everywhere(story, &profile, Tables::Best)));
            }
            trials.push(Trial::test(name, move || everywhere(story, &profile, Tables::Legacy)));
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

/// Whether the unit has second-stage tables in scalable mode.
pub fn scalable(profile: &Profile) -> bool {
    profile.smts() && profile.ssts() && profile.qi()
}

fn everywhere(story: &Story, profile: &Profile, tables: Tables) -> Result<(), Failed> {
    for mode in MODES {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (story.run)(profile, mode.on(tables)))) {
            let words = payload.downcast_ref::<String>().map(String::as_str);
            let words = words.or(payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            return Err(format!("adversary `{}`: {words}", mode.name).into());
        }
    }
    Ok(())
}

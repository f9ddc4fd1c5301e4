//! `cargo xtask mutants`: takes a flush, a fence or an order out of the driver, and wants a test to notice.

mod patch;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::places;
use patch::{Patch, Tests};
use tree::Tree;

const FOLDER: &str = "tests/mutants";

/// Apply each patch of tests/mutants/ to a copy of the workspace, and fail if the tests that it names do not
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Each file tests/mutants/NAME.patch begins with a sentence that says why the change must be noticed and with lines \
`tests: TARGET FILTER` (TARGET is `lib` or a target in tests/); the rest is a unified diff. A mutant is caught when one of \
the tests fails, or runs much longer than it does without the change. The copy lies in target/mutants.")]
pub struct Args {
    /// Only patches whose name contains this
    #[arg(value_name = "FILTER")]
    pub filter: Option<String>,
    /// Only so many of them, chosen at random
    #[arg(long, value_name = "N")]
    pub sample: Option<NonZeroUsize>,
    /// What the choice depends on
    #[arg(long, value_name = "S", default_value_t = 1, requires = "sample")]
    pub seed: u64,
    /// Show the names
    #[arg(long)]
    pub list: bool,
}

/// What became of a mutant: by what it was caught, or why not.
pub type Outcome = Result<String>;

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut names = names()?;
    names.retain(|name| args.filter.as_ref().is_none_or(|filter| name.contains(filter)));
    ensure!(!names.is_empty(), "no patch in {FOLDER} has such a name");
    if let Some(count) = args.sample {
        names = sample(names, count.get(), args.seed);
    }
    if args.list {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let (begun, mut survivors) = (Instant::now(), Vec::new());
    let count = names.len();
    each(&names, &mut |n, name, time, outcome| {
        let (word, why) = match &outcome {
            Ok(by) => ("caught", by.clone()),
            Err(error) => {
                survivors.push(name.to_owned());
                ("NOT CAUGHT", format!("{error:#}"))
            }
        };
        println!("[{}/{count}] {name} ... {word} ({:.1} s): {why}", n + 1, time.as_secs_f64());
    })?;
    let caught = count - survivors.len();
    println!("\n{caught} of {count} mutants caught in {:.0} s", begun.elapsed().as_secs_f64());
    if survivors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("not caught: {}", survivors.join(", "));
    Ok(ExitCode::FAILURE)
}

/// The names of all mutants, in order.
pub fn names() -> Result<Vec<String>> {
    let folder = places::root().join(FOLDER);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// `count` of the names, in their order; the same for the same seed.
pub fn sample(mut names: Vec<String>, count: usize, seed: u64) -> Vec<String> {
    let mut state = seed;
    while names.len() > count {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        names.remove((state >> 33) as usize % names.len());
    }
    names
}

/// Tries the mutants one after the other, and tells of each: its number, name, time, and outcome.
pub fn each(names: &[String], tell: &mut dyn FnMut(usize, &str, Duration, Outcome)) -> Result<()> {
    let mut bench = Bench { tree: Tree::new()?, sound: BTreeMap::new() };
    for (n, name) in names.iter().enumerate() {
        let begun = Instant::now();
        let outcome = bench.attempt(name);
        tell(n, name, begun.elapsed(), outcome);
    }
    Ok(())
}

struct Bench {
    tree: Tree,
    /// Tests that pass without any change, and how long they take.
    sound: BTreeMap<Tests, Duration>,
}

/// How a run of tests ended.
enum End {
    Passed,
    Failed,
    OutOfTime,
}

impl Bench {
    fn attempt(&mut self, name: &str) -> Outcome {
        let file = places::root().join(FOLDER).join(format!("{name}.patch"));
        let patch = Patch::parse(name, &fs::read_to_string(&file)?)?;
        // Before anything is built for it.
        drop(self.tree.change(&patch)?);
        for tests in &patch.tests {
            let usual = self.usual(tests)?;
            let _changed = self.tree.change(&patch)?;
            match self.test(tests, usual * 10 + Duration::from_secs(20))? {
                End::Passed => {}
                End::Failed => return Ok(format!("by {tests}")),
                End::OutOfTime => return Ok(format!("{tests} did not end")),
            }
        }
        let tests: Vec<String> = patch.tests.iter().map(Tests::to_string).collect();
        bail!("it survives {}", tests.join(" and "))
    }

    /// How long the tests take where nothing is changed; an error where they fail: they would catch everything.
    fn usual(&mut self, tests: &Tests) -> Result<Duration> {
        if let Some(time) = self.sound.get(tests) {
            return Ok(*time);
        }
        self.build(&tests.target)?;
        let begun = Instant::now();
        match self.test(tests, Duration::from_secs(600))? {
            End::Passed => {}
            _ => bail!("`{tests}` fails without the change too"),
        }
        self.sound.insert(tests.clone(), begun.elapsed());
        Ok(begun.elapsed())
    }

    fn test(&self, tests: &Tests, limit: Duration) -> Result<End> {
        let mut command = Command::new(self.build(&tests.target)?);
        command.arg(&tests.filter).current_dir(self.tree.root()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut pipe = child.stdout.take().context("no pipe")?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let text = reader.join().map_err(|_| anyhow::anyhow!("no words of the tests"))??;
        ensure!(!text.contains("running 0 tests"), "`{tests}` names no test");
        Ok(match status {
            None => End::OutOfTime,
            Some(status) if status.success() => End::Passed,
            Some(_) => End::Failed,
        })
    }

    /// Builds the tests of a target, and says where they are.
    fn build(&self, target: &str) -> Result<PathBuf> {
        let mut command = self.tree.cargo();
        command.args(["test", "--quiet", "--no-run", "--message-format", "json", "--package", "vtd"]);
        match target {
            "lib" => command.arg("--lib"),
            other => command.args(["--test", other]),
        };
        let text = places::output_of(&mut command).context("the changed driver does not build")?;
        let found = text.lines().filter_map(executable).next_back();
        found.with_context(|| format!("cargo built no tests of `{target}`"))
    }
}

/// Cargo's word on a program that it built.
fn executable(line: &str) -> Option<PathBuf> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    value.get("executable")?.as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_applies_to_the_driver_as_it_is() {
        for name in names().unwrap() {
            let file = places::root().join(FOLDER).join(format!("{name}.patch"));
            let patch = Patch::parse(&name, &fs::read_to_string(file).unwrap()).unwrap();
            for path in patch.paths() {
                let text = fs::read_to_string(places::root().join(path)).unwrap();
                let new = patch.applied(path, &text).map_err(|e| format!("{name}: {e:#}")).unwrap();
                assert_ne!(new, text, "{name}");
            }
        }
    }

    #[test]
    fn a_sample_is_what_its_seed_says() {
        let names: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let some = sample(names.clone(), 3, 7);
        assert_eq!(some.len(), 3);
        assert_eq!(some, sample(names.clone(), 3, 7));
        assert!((0..20).any(|seed| sample(names.clone(), 3, seed) != some));
        assert_eq!(sample(names.clone(), 99, 7), names);
    }

    #[test]
    fn programs_are_found_in_cargos_words() {
        let line = r#"{"reason":"compiler-artifact","executable":"/x/vtd-1"}"#;
        assert_eq!(executable(line), Some(PathBuf::from("/x/vtd-1")));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#), None);
        assert_eq!(executable("warning"), None);
    }
}

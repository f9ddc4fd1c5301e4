//! The tests' runner: what a test is, how it fails, and the words that xtask reads (docs/architecture.md).

use crate::boot::cmdline::{self, CommandLine};
use crate::{println, time};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use linkme::distributed_slice;

/// Why a test did not pass.
#[derive(Debug)]
pub enum Failure {
    /// It found something wrong.
    Fail(String),
    /// It cannot run on this machine.
    Skip(String),
}

/// How a test ends.
pub type Outcome = Result<(), Failure>;

/// Whatever can be printed is a failure by `?`.
impl<E: fmt::Display> From<E> for Failure {
    #[track_caller]
    fn from(e: E) -> Self {
        let at = core::panic::Location::caller();
        Failure::Fail(format!("{}:{}: {e}", at.file(), at.line()))
    }
}

/// A test, as the macro `test!` registers it.
pub struct Test {
    pub module: &'static str,
    pub function: &'static str,
    pub run: fn() -> Outcome,
}

impl Test {
    /// `module::function`.
    fn name(&self) -> String {
        let module = self.module.strip_prefix("vtd_kernel::").unwrap_or(self.module);
        format!("{}::{}", module.strip_prefix("tests::").unwrap_or(module), self.function)
    }
}

/// Every test of the kernel, gathered by the linker.
#[distributed_slice]
pub static TESTS: [Test];

/// Declares tests: functions that return nothing when they pass, and leave early by `check!`, `check_eq!`, `skip!` or `?`.
#[macro_export]
macro_rules! test {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)+) => { $(
        $(#[$meta])*
        fn $name() -> $crate::testing::Outcome {
            #[linkme::distributed_slice($crate::testing::TESTS)]
            static TEST: $crate::testing::Test =
                $crate::testing::Test { module: module_path!(), function: stringify!($name), run: $name };
            $body
            Ok(())
        }
    )+ };
}

/// Fails the test unless the condition holds; what follows it is said as well.
#[macro_export]
macro_rules! check {
    ($condition:expr $(,)?) => { $crate::check!($condition, "does not hold") };
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            return Err($crate::testing::Failure::Fail(alloc::format!(
                "{}:{}: {}: {}", file!(), line!(), stringify!($condition), format_args!($($arg)+)
            )));
        }
    };
}

/// Fails the test unless the two are equal.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr $(,)?) => { $crate::check_eq!($left, $right, "not equal") };
    ($left:expr, $right:expr, $($arg:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err($crate::testing::Failure::Fail(alloc::format!(
                        "{}:{}: {} is {:x?}, {} is {:x?}: {}",
                        file!(), line!(), stringify!($left), left, stringify!($right), right, format_args!($($arg)+)
                    )));
                }
            }
        }
    };
}

/// Ends the test: it cannot run here, for the reason given.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => { return Err($crate::testing::Failure::Skip(alloc::format!($($arg)+))) };
}

/// `repetitions`, as the command line scales them; at least one.
pub fn scaled(repetitions: u64) -> u64 {
    (repetitions * u64::from(cmdline::get().scale) / 100).max(1)
}

/// The tests that the command line asks for, in the order of their names.
fn chosen(line: &CommandLine) -> Vec<(String, &'static Test)> {
    let mut tests: Vec<_> = TESTS
        .iter()
        .map(|t| (t.name(), t))
        .filter(|(name, _)| line.filter.is_none_or(|f| name.contains(f)))
        .filter(|(name, _)| line.only.is_none_or(|o| name == o))
        .filter(|(name, _)| line.after.is_none_or(|a| name.as_str() > a))
        .collect();
    tests.sort_by(|a, b| a.0.cmp(&b.0));
    tests
}

/// Prints the names.
pub fn list(line: &CommandLine) {
    for (name, _) in chosen(line) {
        println!("@test list {name}");
    }
}

/// Runs the tests; whether none failed.
pub fn run(line: &CommandLine) -> bool {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, test) in chosen(line) {
        println!("@test begin {name}");
        let start = time::now();
        let outcome = (test.run)();
        let ms = (time::now().0 - start.0) / 1_000_000;
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("@test ok {name} {ms}");
            }
            Err(Failure::Fail(why)) => {
                failed += 1;
                println!("@test fail {name} {}", why.replace('\n', " "));
            }
            Err(Failure::Skip(why)) => {
                skipped += 1;
                println!("@test skip {name} {}", why.replace('\n', " "));
            }
        }
    }
    println!("@test done {passed} {failed} {skipped}");
    failed == 0
}

//! The emulated unit against QEMU's, as tests.

use std::time::{Duration, Instant};

use super::report::Report;
use crate::differential::{Form, test};
use crate::guest::{LEAST_FOR_TESTS, TestResult, Verdict};
use crate::setup::qemu;
use crate::version::Version;

/// A form's full name.
pub fn name_of(form: &Form) -> String {
    format!("differential::{}", form.name)
}

/// Runs so many cases of each form.
pub fn run(forms: &[&'static Form], cases: u64, deadline: Option<Instant>, report: &mut Report) {
    let least = if qemu::named(None).is_some() { Version::new(0, 0, 0) } else { LEAST_FOR_TESTS };
    let qemu = match qemu::ensure(None, least) {
        Ok(qemu) => qemu,
        Err(error) => return report.check("differential::qemu", Duration::ZERO, Err(error)),
    };
    for form in forms {
        let (name, begun) = (name_of(form), Instant::now());
        if qemu.version < LEAST_FOR_TESTS {
            let reason = format!("units are compared from QEMU {LEAST_FOR_TESTS} on, and this is {}", qemu.version);
            report.take(TestResult { name, verdict: Verdict::Skipped(reason), time: Duration::ZERO, machine: None });
        } else {
            let answer = test(&qemu, form, cases, deadline);
            report.check(&name, begun.elapsed(), answer);
        }
    }
}

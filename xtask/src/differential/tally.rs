//! What came of the cases, and whether the list of deviations still fits.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::deviations::Deviation;

/// In this many cases of a form each deviation has to come about.
const ENOUGH: u64 = 20_000;

/// One of this many cases may fall under a deviation.
const RARE: u64 = 50;

/// From so many cases on a share means something.
const SHARE: u64 = 5_000;

/// How a case compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Agreed,
    /// It falls under this deviation.
    Known(&'static str),
    /// Nothing explains it: the report.
    Unknown(String),
}

/// What came of the cases of a form.
#[derive(Debug, Default)]
pub struct Tally {
    pub form: &'static str,
    pub cases: u64,
    pub agreed: u64,
    /// Cases by deviation.
    pub deviations: BTreeMap<&'static str, u64>,
    /// Cases that were cut short, as they would have reached what is neither memory nor a hole.
    pub cut: u64,
    /// The requests in them, and how many were blocked.
    pub requests: u64,
    pub blocked: u64,
    /// Reports of differences that nothing explains.
    pub differences: Vec<String>,
    pub time: Duration,
}

impl Tally {
    pub fn new(form: &'static str) -> Self {
        Self { form, ..Self::default() }
    }

    pub fn take(&mut self, verdict: Verdict) {
        self.cases += 1;
        match verdict {
            Verdict::Agreed => self.agreed += 1,
            Verdict::Known(name) => *self.deviations.entry(name).or_default() += 1,
            Verdict::Unknown(report) => self.differences.push(report),
        }
    }

    fn known(&self) -> u64 {
        self.deviations.values().sum()
    }

    /// What is wrong with the sums.
    pub fn complaint(&self) -> Option<String> {
        let (known, cases) = (self.known(), self.cases);
        (cases >= SHARE && known * RARE > cases).then(|| {
            format!("form {}: {known} of {cases} cases fall under a deviation, and one in {RARE} may", self.form)
        })
    }
}

/// Deviations that did not come about though enough cases were run in each form that may have them.
pub fn unused(deviations: &'static [Deviation], tallies: &[Tally]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for deviation in deviations {
        let here = || tallies.iter().filter(|tally| deviation.is_of(tally.form));
        let enough = here().next().is_some() && here().all(|tally| tally.cases >= ENOUGH);
        if enough && here().all(|tally| !tally.deviations.contains_key(deviation.name)) {
            names.push(deviation.name);
        }
    }
    names
}

/// The sums of all forms.
pub fn table(deviations: &'static [Deviation], tallies: &[Tally]) -> String {
    let mut text = String::new();
    let mut row = |name: &str, cell: &dyn Fn(&Tally) -> String| {
        let _ = write!(text, "{name:28}");
        for tally in tallies {
            let _ = write!(text, " {:>13}", cell(tally));
        }
        text.push('\n');
    };
    row("form", &|tally| tally.form.into());
    row("cases", &|tally| tally.cases.to_string());
    row("agreed", &|tally| tally.agreed.to_string());
    row("requests", &|tally| tally.requests.to_string());
    row("requests blocked", &|tally| tally.blocked.to_string());
    row("cut short", &|tally| tally.cut.to_string());
    row("under a deviation", &|tally| tally.known().to_string());
    for deviation in deviations {
        row(&format!("  {}", deviation.name), &|tally| match tally.deviations.get(deviation.name) {
            Some(count) => count.to_string(),
            None if deviation.is_of(tally.form) => "0".into(),
            None => "-".into(),
        });
    }
    row("differ otherwise", &|tally| tally.differences.len().to_string());
    row("seconds", &|tally| format!("{:.1}", tally.time.as_secs_f64()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    static LIST: [Deviation; 2] = [
        Deviation { name: "everywhere", reason: "", forms: &[], claims: |_| false },
        Deviation { name: "there", reason: "", forms: &["legacy"], claims: |_| false },
    ];

    fn tally(form: &'static str, cases: u64, known: &[(&'static str, u64)]) -> Tally {
        Tally { cases, deviations: known.iter().copied().collect(), ..Tally::new(form) }
    }

    #[test]
    fn verdicts_are_counted() {
        let mut tally = Tally::new("legacy");
        let known = || Verdict::Known("there");
        [Verdict::Agreed, known(), Verdict::Unknown("so".into()), known()].map(|verdict| tally.take(verdict));
        assert_eq!((tally.cases, tally.agreed, tally.known()), (4, 1, 2));
        assert_eq!(tally.differences, ["so"]);
    }

    #[test]
    fn a_deviation_that_does_not_come_about_is_named() {
        let seen = tally("legacy", ENOUGH, &[("everywhere", 1), ("there", 2)]);
        assert!(unused(&LIST, &[seen]).is_empty());
        assert_eq!(unused(&LIST, &[tally("legacy", ENOUGH, &[("everywhere", 1)])]), ["there"]);
        // It is of no other form.
        assert!(unused(&LIST, &[tally("caching", ENOUGH, &[("everywhere", 1)])]).is_empty());
        // One form is enough.
        let both = [tally("caching", ENOUGH, &[("everywhere", 1)]), tally("legacy", ENOUGH, &[("there", 1)])];
        assert!(unused(&LIST, &both).is_empty());
    }

    #[test]
    fn few_cases_prove_nothing() {
        assert!(unused(&LIST, &[tally("legacy", ENOUGH - 1, &[])]).is_empty());
        assert_eq!(tally("legacy", 100, &[("there", 50)]).complaint(), None);
    }

    #[test]
    fn one_case_in_fifty_may_deviate() {
        assert_eq!(tally("legacy", ENOUGH, &[("there", 200), ("everywhere", 200)]).complaint(), None);
        let complaint = tally("legacy", ENOUGH, &[("there", 200), ("everywhere", 201)]).complaint().unwrap();
        assert!(complaint.contains("401 of 20000"), "{complaint}");
    }

    #[test]
    fn the_table_has_each_deviation() {
        let text = table(&LIST, &[tally("caching", 10, &[("everywhere", 3)])]);
        let cells = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!((cells("everywhere").as_str(), cells("there").as_str()), ("3", "-"));
    }
}

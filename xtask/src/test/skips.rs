//! The skips that `--deny-skips` allows: tests/allowed-skips.txt.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::places;

/// Lines `PATTERN: REASON`; `*` in the pattern stands for anything.
#[derive(Debug, Default)]
pub struct Allowed(Vec<(String, String)>);

impl Allowed {
    pub fn load() -> Result<Self> {
        let file = places::root().join("tests/allowed-skips.txt");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut list = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(": ") {
                Some((pattern, reason)) if !reason.trim().is_empty() => {
                    list.push((pattern.trim().to_owned(), reason.trim().to_owned()));
                }
                _ => bail!("tests/allowed-skips.txt: `{line}` is not of the form `PATTERN: REASON`"),
            }
        }
        Ok(Self(list))
    }

    /// Whether a test may be skipped for this reason, which has to contain the listed one.
    pub fn allow(&self, name: &str, reason: &str) -> bool {
        self.0.iter().any(|(pattern, listed)| matches(pattern, name) && reason.contains(listed))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(tail, &rest[at..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_needs_its_name_and_its_reason() {
        let allowed = Allowed::parse("# why\n\n*::pri::*: no PRI device\nlegacy::a::b: too old\n").unwrap();
        assert!(allowed.allow("legacy::pri::one", "no PRI device on this machine"));
        assert!(allowed.allow("legacy::a::b", "too old"));
        assert!(!allowed.allow("legacy::a::b", "too new"));
        assert!(!allowed.allow("legacy::a::bc", "too old"));
        assert!(!allowed.allow("legacy::edu::one", "no PRI device"));
        assert!(Allowed::parse("legacy::a").is_err());
        assert!(Allowed::parse("legacy::a: ").is_err());
    }

    #[test]
    fn stars_match_any_part() {
        assert!(matches("*", ""));
        assert!(matches("a*c", "abbc") && matches("a*b*c", "abbc") && matches("a*", "a"));
        assert!(!matches("a*c", "abcd") && !matches("a", "ab"));
    }

    #[test]
    fn the_projects_list_is_well_formed() {
        Allowed::load().unwrap();
    }
}

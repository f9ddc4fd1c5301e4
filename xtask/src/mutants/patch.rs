//! A mutant's file: why the change must be noticed, the tests that notice it, and the change as a unified diff.

use anyhow::{Context, Result, bail, ensure};

/// One file of `tests/mutants/`.
#[derive(Debug, PartialEq, Eq)]
pub struct Patch {
    /// The file's name without its ending.
    pub name: String,
    /// Any of these may notice it; they are tried in this order.
    pub tests: Vec<Tests>,
    files: Vec<File>,
}

/// A line `tests: TARGET FILTER`: tests of package `vtd` whose names contain the filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tests {
    /// `lib`, or the name of a file or folder in `tests/`.
    pub target: String,
    pub filter: String,
}

impl std::fmt::Display for Tests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.target, self.filter)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct File {
    path: String,
    hunks: Vec<Hunk>,
}

/// Lines that stand together in a file, and what they become.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hunk {
    /// The number of the first line when the patch was made, from 0.
    line: usize,
    old: Vec<String>,
    new: Vec<String>,
}

impl Patch {
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let (head, diff) = match text.find("\n--- ") {
            Some(at) => text.split_at(at + 1),
            None => bail!("there is no diff in it"),
        };
        let mut tests = Vec::new();
        let mut why = false;
        for line in head.lines() {
            match line.strip_prefix("tests: ").map(|rest| rest.trim().split_once(' ')) {
                Some(Some((target, filter))) => {
                    tests.push(Tests { target: target.into(), filter: filter.trim().into() });
                }
                Some(None) => bail!("`{line}` is not of the form `tests: TARGET FILTER`"),
                None => why |= line.split(' ').count() > 2,
            }
        }
        ensure!(!tests.is_empty(), "no line `tests: TARGET FILTER` stands before the diff");
        ensure!(why, "no sentence before the diff says why the change must be noticed");
        Ok(Self { name: name.into(), tests, files: diff_of(diff)? })
    }

    /// The paths that it changes.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }

    /// What becomes of `text`, the file at `path`.
    pub fn applied(&self, path: &str, text: &str) -> Result<String> {
        let mut lines: Vec<&str> = text.lines().collect();
        for hunk in self.files.iter().filter(|file| file.path == path).flat_map(|file| &file.hunks) {
            let at = hunk.place(&lines).with_context(|| {
                let first = hunk.old.iter().find(|line| !line.trim().is_empty()).map_or("", |line| line.trim());
                format!("it no longer applies: {path} does not hold the lines from `{first}` on, or several times")
            })?;
            lines.splice(at..at + hunk.old.len(), hunk.new.iter().map(String::as_str));
        }
        Ok(lines.join("\n") + "\n")
    }
}

impl Hunk {
    /// Where the old lines stand: where the patch says, else where they stand once.
    fn place(&self, lines: &[&str]) -> Option<usize> {
        let fits = |at: &usize| lines[*at..].iter().zip(&self.old).all(|(a, b)| a == b);
        let last = (lines.len() + 1).checked_sub(self.old.len().max(1))?;
        if self.line < last && fits(&self.line) {
            return Some(self.line);
        }
        let mut all = (0..last).filter(fits);
        all.next().filter(|_| all.next().is_none())
    }
}

fn diff_of(text: &str) -> Result<Vec<File>> {
    let mut files: Vec<File> = Vec::new();
    let mut left = (0, 0);
    for line in text.lines() {
        if left != (0, 0) {
            let hunk = files.last_mut().and_then(|file| file.hunks.last_mut()).context("a hunk without a file")?;
            let (kind, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
            if kind == " " || kind == "-" {
                hunk.old.push(rest.into());
                left.0 -= 1;
            }
            if kind == " " || kind == "+" {
                hunk.new.push(rest.into());
                left.1 -= 1;
            }
            ensure!(left.0 >= 0 && left.1 >= 0 && " -+\\".contains(kind), "a hunk is not as long as it says");
        } else if let Some(path) = line.strip_prefix("+++ b/") {
            files.push(File { path: path.trim().into(), hunks: Vec::new() });
        } else if let Some(counts) = line.strip_prefix("@@ -") {
            let file = files.last_mut().context("a hunk without a file")?;
            let (old, rest) = counts.split_once(" +").context("a hunk without counts")?;
            let new = rest.split(" @@").next().unwrap_or_default();
            let (first, length) = counts_of(old)?;
            left = (length, counts_of(new)?.1);
            file.hunks.push(Hunk { line: first.saturating_sub(1), ..Hunk::default() });
        }
    }
    ensure!(left == (0, 0), "a hunk is not as long as it says");
    ensure!(files.iter().any(|file| !file.hunks.is_empty()), "there is no hunk in it");
    Ok(files)
}

/// `LINE,COUNT` or `LINE`.
fn counts_of(text: &str) -> Result<(usize, i64)> {
    let (line, count) = text.split_once(',').unwrap_or((text, "1"));
    Ok((line.parse()?, count.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Nothing waits for the flush any more.\ntests: lib unit::tests\ntests: emulated unmap\n\n";
    const DIFF: &str = "--- a/src/x.rs\n+++ b/src/x.rs\n@@ -2,3 +2,2 @@ fn f()\n b\n-c\n d\n";

    fn patch() -> Patch {
        Patch::parse("m", &format!("{HEAD}{DIFF}")).unwrap()
    }

    #[test]
    fn names_its_tests_and_paths() {
        let p = patch();
        let tests: Vec<String> = p.tests.iter().map(Tests::to_string).collect();
        assert_eq!(tests, ["lib unit::tests", "emulated unmap"]);
        assert_eq!(p.paths().collect::<Vec<_>>(), ["src/x.rs"]);
    }

    #[test]
    fn applies_where_it_says_or_where_its_lines_stand_once() {
        let p = patch();
        assert_eq!(p.applied("src/x.rs", "a\nb\nc\nd\n").unwrap(), "a\nb\nd\n");
        assert_eq!(p.applied("src/x.rs", "0\n1\n2\na\nb\nc\nd\ne\n").unwrap(), "0\n1\n2\na\nb\nd\ne\n");
        assert_eq!(p.applied("src/x.rs", "a\nb\nc\nd\nb\nc\nd\n").unwrap(), "a\nb\nd\nb\nc\nd\n");
        assert_eq!(p.applied("src/y.rs", "a\n").unwrap(), "a\n");
    }

    #[test]
    fn a_patch_that_no_longer_applies_is_named() {
        for text in ["", "a\nb\nx\nd\n", "x\na\nb\nc\nd\nb\nc\nd\n"] {
            let error = patch().applied("src/x.rs", text).unwrap_err().to_string();
            assert!(error.contains("src/x.rs") && error.contains("no longer applies"), "{error}");
        }
    }

    #[test]
    fn what_lacks_a_part_is_refused() {
        assert!(Patch::parse("m", DIFF).is_err());
        assert!(Patch::parse("m", HEAD).is_err());
        assert!(Patch::parse("m", &format!("tests: lib x\n\n{DIFF}")).is_err());
        assert!(Patch::parse("m", &format!("Why it is so.\n\n{DIFF}")).is_err());
        assert!(Patch::parse("m", &format!("Why it is so.\ntests: lib\n\n{DIFF}")).is_err());
        assert!(Patch::parse("m", &format!("{HEAD}{}", DIFF.replace("-2,3", "-2,4"))).is_err());
    }
}

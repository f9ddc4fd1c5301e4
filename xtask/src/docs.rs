//! `cargo xtask docs`: what documents say of the driver's tables is printed from these tables.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use vtd::invalidation::{Step, TABLE};

use crate::places;

/// Print the table in docs/invalidation.md from the constant that the driver's invalidation engine reads.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Change nothing, and fail where the document says something else
    #[arg(long)]
    check: bool,
}

const FILE: &str = "docs/invalidation.md";
const BEGIN: &str = "<!-- begin: printed by `cargo xtask docs` -->\n";
const END: &str = "<!-- end -->\n";

pub fn run(args: &Args) -> Result<ExitCode> {
    let text = read()?;
    let wanted = printed(&text)?;
    if text == wanted {
        println!("{FILE} says what the table says");
        return Ok(ExitCode::SUCCESS);
    }
    if args.check {
        bail!("{FILE} differs from vtd::invalidation::TABLE; `cargo xtask docs` prints it anew");
    }
    std::fs::write(path(), wanted).with_context(|| format!("cannot write {FILE}"))?;
    println!("{FILE} is printed anew");
    Ok(ExitCode::SUCCESS)
}

fn path() -> PathBuf {
    places::root().join(FILE)
}

fn read() -> Result<String> {
    std::fs::read_to_string(path()).with_context(|| format!("cannot read {FILE}"))
}

/// The document with the table as it is now between its marks.
fn printed(text: &str) -> Result<String> {
    let parts = text.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) =
        parts.with_context(|| format!("{FILE} has no place for the table between {BEGIN:?} and {END:?}"))?;
    Ok(format!("{head}{BEGIN}\n{}\n{END}{tail}", table()))
}

/// The table: a row for each change.
fn table() -> String {
    let mut text = String::from("| what changed | tables | flushed, in this order | from |\n|---|---|---|---|\n");
    for rule in TABLE {
        let steps: Vec<String> = rule.steps.iter().map(Step::to_string).collect();
        let _ = writeln!(text, "| {} | {} | {} | {} |", rule.change, rule.mode, steps.join(" → "), rule.source);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_what_the_engine_reads() {
        let text = read().unwrap();
        assert!(text == printed(&text).unwrap(), "`cargo xtask docs` prints {FILE} anew");
    }

    #[test]
    fn every_row_is_a_line_of_four_cells() {
        let text = table();
        assert_eq!(text.lines().count(), 2 + TABLE.len());
        assert!(text.lines().all(|line| line.matches('|').count() == 5), "{text}");
    }

    #[test]
    fn what_stands_between_the_marks_is_replaced_and_nothing_else() {
        let old = format!("before\n{BEGIN}something else\n{END}after\n");
        let new = printed(&old).unwrap();
        assert!(new.starts_with(&format!("before\n{BEGIN}")) && new.ends_with(&format!("{END}after\n")));
        assert!(new != old && new.contains("| root table pointer | legacy |") && !new.contains("something else"));
        assert_eq!(printed(&new).unwrap(), new);
        assert!(printed("no marks").is_err());
    }
}

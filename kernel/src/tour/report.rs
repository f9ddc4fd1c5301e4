//! What the tour says: sections, results, tables. Results are counted, and what is wrong is said again at the end.

use crate::{print, println};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// Columns of a line.
const WIDTH: usize = 98;

/// Why a section ends early.
pub enum Stop {
    /// Something is not as it must be.
    Wrong(String),
    /// The machine lacks what the section shows.
    Missing(String),
}

/// Whatever can be printed is something wrong, by `?`.
impl<E: fmt::Display> From<E> for Stop {
    fn from(e: E) -> Self {
        Stop::Wrong(e.to_string())
    }
}

/// What was done to devices' address spaces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Pages mapped.
    pub mapped: u64,
    /// Ranges unmapped, each flushed before the memory was used for anything else.
    pub unmaps: u64,
    /// Blocked requests that were reported.
    pub faults: u64,
}

/// The tour so far.
#[derive(Default)]
pub struct Report {
    section: u32,
    results: u32,
    wrong: Vec<String>,
    pub tally: Tally,
}

impl Report {
    /// A section with a title; an error of `body` is its last result.
    pub fn section(&mut self, title: &str, body: impl FnOnce(&mut Report) -> Result<(), Stop>) {
        self.section += 1;
        let head = format!("── {}  {title} ", self.section);
        let rest = WIDTH.saturating_sub(head.chars().count());
        println!("\n{head}{:─<rest$}", "");
        match body(self) {
            Ok(()) => {}
            Err(Stop::Wrong(why)) => self.check(false, format_args!("{why}")),
            Err(Stop::Missing(what)) => paragraph("  none   ", &what),
        }
    }

    /// A result: as it must be, or not.
    pub fn check(&mut self, ok: bool, what: fmt::Arguments<'_>) {
        let what = what.to_string();
        self.results += 1;
        paragraph(if ok { "  ok     " } else { "  WRONG  " }, &what);
        if !ok {
            self.wrong.push(format!("section {}: {what}", self.section));
        }
    }

    /// A result that is as it must be.
    pub fn ok(&mut self, what: fmt::Arguments<'_>) {
        self.check(true, what);
    }

    /// How many results there were, and those that were wrong.
    pub fn results(&self) -> (u32, &[String]) {
        (self.results, &self.wrong)
    }
}

/// A fact with its name.
pub fn fact(name: &str, what: fmt::Arguments<'_>) {
    paragraph(&format!("  {name:<11}"), &what.to_string());
}

/// What belongs to the line above.
pub fn detail(what: fmt::Arguments<'_>) {
    paragraph("         ", &what.to_string());
}

/// Words in lines of at most `WIDTH` columns; those after the first are indented as far as `head` reaches.
pub fn paragraph(head: &str, text: &str) {
    let indent = head.chars().count();
    let (mut line, mut column) = (String::from(head), indent);
    let mut empty = true;
    // Single blanks are where a line may end; runs of them are alignment and stay.
    for word in text.split(' ') {
        let len = word.chars().count();
        if !empty && column + 1 + len > WIDTH {
            println!("{}", line.trim_end());
            line = " ".repeat(indent);
            (column, empty) = (indent, true);
        }
        if !empty {
            line.push(' ');
            column += 1;
        }
        line.push_str(word);
        column += len;
        empty = false;
    }
    println!("{}", line.trim_end());
}

/// Rows in aligned columns below their titles.
pub fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) {
    let widths: [usize; N] = core::array::from_fn(|c| {
        let cells = rows.iter().map(|r| r[c].chars().count());
        cells.chain([titles[c].chars().count()]).max().unwrap_or(0)
    });
    let line = |cells: [&str; N]| {
        let mut text = String::from("  ");
        for (cell, width) in cells.iter().zip(widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        println!("{}", text.trim_end());
    };
    line(titles);
    for row in rows {
        line(core::array::from_fn(|c| row[c].as_str()));
    }
}

/// Short texts in two columns, then the long ones in lines of their own.
pub fn pairs(texts: &[String]) {
    const HALF: usize = (WIDTH - 2) / 2;
    let (short, long): (Vec<&String>, Vec<&String>) = texts.iter().partition(|t| t.chars().count() < HALF - 1);
    let rows = short.len().div_ceil(2);
    for i in 0..rows {
        print!("  {:<HALF$}", short[i]);
        println!("{}", short.get(rows + i).map_or("", |t| t.as_str()));
    }
    for text in long {
        paragraph("  ", text);
    }
}

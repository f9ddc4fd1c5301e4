//! A difference in words.

use std::fmt::Write;

use super::case::{Part, Step, What, outcome};
use super::compare::{Outcome, Pair};
use super::registers;

/// Everything that one needs to see what happened, and to see it again.
pub fn difference(outcome: &Outcome, pair: &Pair<'_>) -> String {
    let case = pair.case;
    let mut text = String::new();
    let name = case.form.name;
    let _ = writeln!(
        text,
        "form {name}, seed {}, case {}: the units differ in step {}",
        case.seed, case.number, pair.index
    );
    let _ = writeln!(text, "\n  tables:");
    for note in &case.notes {
        let words = match note.part {
            Part::Root | Part::Directory | Part::Entry(..) => 1,
            Part::Context => 2,
            Part::PasidEntry => 3,
        };
        let words: Vec<String> = (0..words)
            .map(|word| {
                let at = note.at + 8 * word;
                let value = case.memory.iter().find(|(one, _)| *one == at).map_or(0, |(_, value)| *value);
                format!("{value:#x}")
            })
            .collect();
        let mutations: String = note.mutations.iter().map(|one| format!("   <- {}", one.name)).collect();
        let _ = writeln!(text, "    {:#x} {:22} {}{mutations}", note.at, part(note.part), words.join(" "));
    }
    let _ = writeln!(text, "\n  steps{}:", if case.forgetful { " (nothing is kept)" } else { "" });
    for one in outcome.pairs(case, pair.profile).take(pair.index + 1) {
        let _ = writeln!(text, "    {:3} {}", one.index, step(one.step()));
        let differences = one.differences();
        for (what, ours) in one.ours {
            if differences.iter().all(|(other, ..)| other != what) && one.index != pair.index {
                continue;
            }
            let theirs = one.theirs.iter().find(|(other, _)| other == what).map(|(_, value)| *value);
            let theirs = theirs.map_or("nothing".into(), |value| shown(*what, value));
            let mark = if differences.iter().any(|(other, ..)| other == what) { "  <- differs" } else { "" };
            let what_name = what_name(*what);
            let _ = writeln!(text, "          {what_name:18} vtd-emu {:24} QEMU {theirs}{mark}", shown(*what, *ours));
        }
    }
    let _ = write!(
        text,
        "\n  again: cargo xtask differential --machine {name} --seed {} --case {}",
        case.seed, case.number
    );
    text
}

fn part(part: Part) -> String {
    match part {
        Part::Root => "root entry".into(),
        Part::Context => "context entry".into(),
        Part::Directory => "PASID-directory entry".into(),
        Part::PasidEntry => "PASID entry".into(),
        Part::Entry(stage, level) => {
            format!("{} entry, level {level}", if stage == 1 { "first-stage" } else { "second-stage" })
        }
    }
}

fn step(step: &Step) -> String {
    match step {
        Step::Store(words) => {
            let words: Vec<String> = words.iter().map(|(at, word)| format!("[{at:#x}]={word:#x}")).collect();
            format!("store {}", words.join(" "))
        }
        Step::Write(register, _, value) => format!("{} <- {value:#x}", registers::name(*register)),
        Step::Read(register, _) => format!("read {}", registers::name(*register)),
        Step::Look(at) => format!("look at {at:#x}"),
        Step::Dma(dma) => {
            let verb = if dma.write { "writes" } else { "reads" };
            format!("{:?} ({:#06x}) {verb} {} bytes at {:#x}", dma.device, dma.device.source(), dma.length, dma.at)
        }
        Step::Acknowledge => "acknowledge all".into(),
        Step::Memory => "look at all memory".into(),
    }
}

fn what_name(what: What) -> String {
    match what {
        What::Register(register) => registers::name(register),
        What::Memory(at) => format!("[{at:#x}]"),
        What::Outcome => "access".into(),
        What::Data => "read".into(),
    }
}

fn shown(what: What, value: u64) -> String {
    match (what, value) {
        (What::Outcome, outcome::FAILED) => "failed".into(),
        (What::Outcome, outcome::ARRIVED) => "arrived".into(),
        (What::Outcome, outcome::ELSEWHERE) => "elsewhere".into(),
        (What::Register(0x228), high) if high >> 63 != 0 => {
            format!("{high:#x} (reason {:#04x})", high >> 32 & 0xff)
        }
        (_, value) => format!("{value:#x}"),
    }
}

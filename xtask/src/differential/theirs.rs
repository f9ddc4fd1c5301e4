//! A case on QEMU's unit.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;

use super::board::{Board, Device, Written};
use super::case::{Case, Dma, Seen, Step, What, outcome};
use super::layout::{self, DATA, DATA_PAGES, DUMP, FILL, QUEUE, SERVICE, SERVICE_WORDS, STATUS, TABLE_PAGES, TABLES};
use super::ours::{BUFFER, Run};
use super::qtest::{Round, Ticket, Width};
use super::registers::{self, FSTS, GCMD, GSTS, IQH, IQT, RECORD, SRTP, TE};
use crate::machines::Machine;
use crate::setup::qemu::Qemu;

const PAGE: u64 = 0x1000;

/// GSTS keeps what earlier cases did with interrupt remapping's table.
pub const GSTS_MASK: u64 = !(1 << 24);

/// A wait that does nothing but end.
const WAIT: u64 = 0x45;

/// QEMU, ready for the next case.
pub struct Theirs<'a> {
    qemu: &'a Qemu,
    machine: &'static Machine,
    board: Board,
    /// VER, CAP, ECAP.
    pub capabilities: [u64; 3],
}

/// A value that is on its way.
enum Wanted {
    Register(u32, Ticket),
    Memory(u64, Ticket),
    Result(Ticket),
    Words(u64, usize, Ticket),
    /// The slot of `edu`'s buffer.
    Data(u32),
}

impl<'a> Theirs<'a> {
    pub fn start(qemu: &'a Qemu, machine: &'static Machine) -> Result<Self> {
        let (board, capabilities) = begin(qemu, machine)?;
        Ok(Self { qemu, machine, board, capabilities })
    }

    /// Another QEMU in its place.
    pub fn restart(&mut self) -> Result<()> {
        let (board, capabilities) = begin(self.qemu, self.machine)?;
        ensure!(capabilities == self.capabilities, "QEMU's unit changed its capabilities");
        self.board = board;
        Ok(())
    }

    /// Runs the steps that `ours` has run.
    pub fn run(&mut self, case: &Case, ours: &Run) -> Result<Vec<Seen>> {
        match self.try_run(case, ours) {
            Ok(seen) => Ok(seen),
            Err(error) => {
                let told = error.context("QEMU did not get through the case");
                self.restart().context("and cannot be started again")?;
                Err(told)
            }
        }
    }

    fn try_run(&mut self, case: &Case, ours: &Run) -> Result<Vec<Seen>> {
        let board = &mut self.board;
        if case.has_edu() {
            board.edu(false, FILL, PAGE as u32, 0)?;
        }
        for (at, words) in runs(case.memory.iter().copied()) {
            board.line.store(at, &words)?;
        }
        let mut wanted: Vec<Vec<Wanted>> = Vec::new();
        for (index, step) in case.steps.iter().enumerate().take(ours.seen.len()) {
            wanted.push(ask(board, step, ours, index)?);
        }
        // Nothing is asked of the unit any more; what cases leave behind goes.
        for (register, width, value) in registers::ACKNOWLEDGE {
            board.write(*register, *width, *value)?;
        }
        board.write(GCMD, Width::Double, TE)?;
        serve(board)?;
        let mut dump = None;
        if case.has_edu() {
            board.edu(true, DUMP, PAGE as u32, 0)?;
            dump = Some(board.line.load(DUMP, (PAGE / 8) as usize)?);
        }
        for (register, width, value) in registers::RESET {
            if case.steps.iter().any(|step| matches!(step, Step::Write(at, ..) if at & !7 == register & !7)) {
                board.write(*register, *width, *value)?;
            }
        }
        for (at, words) in runs(ours.memory.written.keys().map(|at| (*at, layout::initial(*at)))) {
            board.line.store(at, &words)?;
        }
        let clean = clean(board)?;
        let round = board.finish()?;
        let dump = dump.map(|ticket| round.words(ticket)).transpose()?;
        let seen = wanted.iter().map(|wanted| seen(&round, wanted, dump.as_deref())).collect::<Result<_>>()?;
        if !is_clean(&round, &clean)? {
            self.clean_up()?;
        }
        Ok(seen)
    }

    /// Brings a unit back that a case left in the middle of something.
    fn clean_up(&mut self) -> Result<()> {
        let board = &mut self.board;
        board.line.store(QUEUE, &[WAIT, 0, 0, 0].repeat(PAGE as usize / 32))?;
        for (register, width, value) in registers::ACKNOWLEDGE {
            board.write(*register, *width, *value)?;
        }
        for tail in [32, 64, 0] {
            board.write(IQT, Width::Quad, tail)?;
        }
        board.write(GCMD, Width::Double, TE)?;
        board.write(IQT, Width::Quad, 0)?;
        for (register, width, value) in registers::ACKNOWLEDGE.iter().chain(registers::RESET) {
            board.write(*register, *width, *value)?;
        }
        board.line.fill(QUEUE, PAGE as usize, 0)?;
        let clean = clean(board)?;
        if is_clean(&board.finish()?, &clean)? { Ok(()) } else { self.restart() }
    }

    /// After a case that did not go as expected its memory is not as expected either.
    pub fn forget(&mut self) -> Result<()> {
        fill_memory(&mut self.board)?;
        serve(&mut self.board)?;
        self.board.finish().map(drop)
    }
}

fn begin(qemu: &Qemu, machine: &'static Machine) -> Result<(Board, [u64; 3])> {
    let mut board = Board::start(qemu, machine).with_context(|| format!("machine {}", machine.name))?;
    fill_memory(&mut board)?;
    board.line.fill(FILL, PAGE as usize, BUFFER)?;
    serve(&mut board)?;
    board.write(GCMD, Width::Double, TE)?;
    let version = board.read(0, Width::Double)?;
    let (cap, ecap) = (board.read(8, Width::Quad)?, board.read(0x10, Width::Quad)?);
    let round = board.finish()?;
    Ok((board, [round.number(version)?, round.number(cap)?, round.number(ecap)?]))
}

fn fill_memory(board: &mut Board) -> Result<()> {
    for (at, word) in SERVICE_WORDS {
        board.line.write(at, Width::Quad, word)?;
    }
    for first in TABLES {
        board.line.fill(first, (TABLE_PAGES * PAGE) as usize, 0)?;
    }
    for page in DATA.iter().flat_map(|first| (0..DATA_PAGES).map(move |page| first + page * PAGE)) {
        let words: Vec<u64> = (0..PAGE / 8).map(|word| layout::initial(page + 8 * word)).collect();
        board.line.store(page, &words)?;
    }
    board.line.fill(QUEUE, 4 * PAGE as usize, 0)?;
    board.line.fill(STATUS, PAGE as usize, 0)
}

/// Has the unit go by the tables that serve between cases.
fn serve(board: &mut Board) -> Result<()> {
    board.write(registers::RTADDR, Width::Quad, SERVICE)?;
    board.write(GCMD, Width::Double, TE | SRTP)
}

/// Asks a step of QEMU.
fn ask(board: &mut Board, step: &Step, ours: &Run, index: usize) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    match step {
        Step::Store(words) => {
            for (at, words) in runs(words.iter().copied()) {
                board.line.store(at, &words)?;
            }
        }
        Step::Write(register, width, value) => board.write(*register, *width, *value)?,
        Step::Read(register, width) => wanted.push(Wanted::Register(*register, board.read(*register, *width)?)),
        Step::Look(at) => wanted.push(Wanted::Memory(*at, board.line.read(*at, Width::Quad)?)),
        Step::Dma(Dma { device: Device::Edu, write, at, length, slot }) => {
            board.edu(*write, *at, *length, *slot)?;
            if !write {
                wanted.push(Wanted::Data(*slot));
            }
        }
        Step::Dma(dma) => {
            let there = ours.target.get(index).copied().flatten().unwrap_or(STATUS + PAGE - 8);
            wanted.push(Wanted::Result(board.dma_write(dma.device, dma.at, dma.length, there)?));
        }
        Step::Acknowledge => {
            for (register, width, value) in registers::ACKNOWLEDGE {
                board.write(*register, *width, *value)?;
            }
        }
        Step::Memory => {
            for (at, words) in runs(ours.memory.written.iter().map(|(at, word)| (*at, *word))) {
                wanted.push(match words.len() {
                    1 => Wanted::Memory(at, board.line.read(at, Width::Quad)?),
                    count => Wanted::Words(at, count, board.line.load(at, count)?),
                });
            }
        }
    }
    if matches!(step, Step::Dma(_)) {
        for (register, width) in registers::AFTER_DMA {
            wanted.push(Wanted::Register(*register, board.read(*register, *width)?));
        }
    }
    Ok(wanted)
}

/// What the answers say.
fn seen(round: &Round, wanted: &[Wanted], dump: Option<&[u64]>) -> Result<Seen> {
    let mut seen = Seen::new();
    for wanted in wanted {
        seen.push(match wanted {
            Wanted::Register(register, ticket) => (What::Register(*register), round.number(*ticket)?),
            Wanted::Memory(at, ticket) => (What::Memory(*at), round.number(*ticket)?),
            Wanted::Result(ticket) => {
                let result = round.number(*ticket)?;
                let outcome = match Written::from_result(result) {
                    Some(Written::There) => outcome::ARRIVED,
                    Some(Written::Elsewhere) => outcome::ELSEWHERE,
                    Some(Written::Failed) => outcome::FAILED,
                    None => bail!("the test device answers {result:#x}"),
                };
                (What::Outcome, outcome)
            }
            Wanted::Words(at, count, ticket) => {
                let words = round.words(*ticket)?;
                ensure!(words.len() == *count, "{} words came instead of {count}", words.len());
                seen.extend((*at..).step_by(8).map(What::Memory).zip(words));
                continue;
            }
            Wanted::Data(slot) => {
                let word = dump.and_then(|dump| dump.get((slot / 8) as usize));
                (What::Data, *word.context("the buffer was not dumped")?)
            }
        });
    }
    Ok(seen)
}

/// What has to be 0 before the next case.
fn clean(board: &mut Board) -> Result<Vec<(Ticket, u64)>> {
    board.write(IQT, Width::Quad, 0)?;
    Ok(vec![
        (board.read(GSTS, Width::Double)?, registers::QIE),
        (board.read(IQH, Width::Quad)?, u64::MAX),
        (board.read(IQT, Width::Quad)?, u64::MAX),
        (board.read(FSTS, Width::Double)?, u64::MAX),
        (board.read(RECORD + 8, Width::Quad)?, 1 << 63),
    ])
}

fn is_clean(round: &Round, clean: &[(Ticket, u64)]) -> Result<bool> {
    for (ticket, bits) in clean {
        if round.number(*ticket)? & bits != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Words at addresses that follow each other.
fn runs(words: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, Vec<u64>)> {
    let words: BTreeMap<u64, u64> = words.collect();
    let mut runs: Vec<(u64, Vec<u64>)> = Vec::new();
    for (at, word) in words {
        match runs.last_mut() {
            Some((first, run)) if *first + 8 * run.len() as u64 == at => run.push(word),
            _ => runs.push((at, vec![word])),
        }
    }
    runs
}

//! A case: what stands in memory, what software and devices do, and what is looked at after each of it.

use super::board::Device;
use super::form::Form;
use super::qtest::Width;

/// What one case does, in both units.
#[derive(Clone, Debug)]
pub struct Case {
    pub form: &'static Form,
    pub seed: u64,
    pub number: u64,
    /// Words in memory before the first step.
    pub memory: Vec<(u64, u64)>,
    pub steps: Vec<Step>,
    /// What the memory and its changes mean, for people and for deviations.
    pub notes: Vec<Note>,
    /// The unit may keep nothing: else it keeps everything.
    pub forgetful: bool,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A CPU stores words.
    Store(Vec<(u64, u64)>),
    /// Software writes a register.
    Write(u32, Width, u64),
    /// Software reads a register.
    Read(u32, Width),
    /// Software reads a word of memory.
    Look(u64),
    /// A device reads or writes.
    Dma(Dma),
    /// Software takes the fault records and status bits away.
    Acknowledge,
    /// Software reads all memory that something was written to.
    Memory,
}

/// A device's access. `edu` reads to, and writes from, the 8 bytes of its buffer at `slot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dma {
    pub device: Device,
    pub write: bool,
    pub at: u64,
    pub length: u32,
    pub slot: u32,
}

/// What a word in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Root,
    Context,
    Directory,
    PasidEntry,
    /// An entry of a table of this stage and level; 1 is the level of 4 KiB pages.
    Entry(u8, u8),
}

/// A remark on a word.
#[derive(Clone, Debug)]
pub struct Note {
    pub at: u64,
    pub part: Part,
    /// What was done to it, beside what makes it valid.
    pub mutations: Vec<Mutated>,
}

/// What a mutation did.
#[derive(Clone, Copy, Debug)]
pub struct Mutated {
    pub name: &'static str,
    pub at: u64,
    pub was: u64,
    pub now: u64,
}

/// Something that was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A register's value.
    Register(u32),
    /// A word of memory.
    Memory(u64),
    /// What became of an access: one of `outcome`.
    Outcome,
    /// What a device read.
    Data,
}

/// What becomes of an access.
pub mod outcome {
    pub const FAILED: u64 = 0;
    /// It arrived where `vtd-emu` says it goes.
    pub const ARRIVED: u64 = 1;
    /// It arrived elsewhere in memory, or as an interrupt.
    pub const ELSEWHERE: u64 = 2;
}

/// What was observed in a step.
pub type Seen = Vec<(What, u64)>;

impl Case {
    /// Whether `edu` has a part in it.
    pub fn has_edu(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Dma(dma) if dma.device == Device::Edu))
    }
}

//! A QEMU without a guest, driven over its qtest line: commands are gathered and sent together, as one round trip for each
//! would take most of the time.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::boot;
use crate::places;
use crate::setup::qemu::Qemu;

/// QEMU answers each command at once; a busy host may not.
const PATIENCE: Duration = Duration::from_secs(60);

/// What may be on its way in one direction before the other side has to read: less than a socket's buffer.
const UNANSWERED: usize = 48 << 10;

/// Fewer answers than this are waited for one by one, more are left to gather for so long.
const FEW: usize = 8;
const NAP: Duration = Duration::from_micros(100);

/// What an answer of one number takes.
const SHORT: usize = 32;

/// A gathered command whose answer is worth something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(usize);

/// A QEMU that waits for commands; it ends with this value.
pub struct Qtest {
    child: Child,
    line: UnixStream,
    errors: Option<Receiver<String>>,
    /// Commands that were not sent yet.
    text: String,
    /// How many they are, and the most that their answers take.
    commands: usize,
    expected: usize,
    /// Bytes that came after the last whole line.
    rest: Vec<u8>,
    answers: Vec<Answer>,
}

/// What came back for one command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Number(u64),
    Bytes(Vec<u8>),
}

impl Qtest {
    /// Starts QEMU with these arguments besides those of qtest itself.
    pub fn start(qemu: &Qemu, arguments: &[String]) -> Result<Self> {
        let (line, theirs) = UnixStream::pair().context("cannot make the line to QEMU")?;
        line.set_read_timeout(Some(PATIENCE))?;
        line.set_write_timeout(Some(PATIENCE))?;
        let (input, output) = (OwnedFd::from(theirs.try_clone()?), OwnedFd::from(theirs));
        let mut command = qemu.command();
        command.args(["-accel", "qtest", "-qtest", "stdio", "-qtest-log", "/dev/null", "-display", "none"]);
        command.args(["-nodefaults", "-run-with", "exit-with-parent=on"]).args(arguments);
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start QEMU")?;
        let errors = child.stderr.take().map(boot::last_words_of);
        // The command held the other end open: with it gone, QEMU's end is the end of the line.
        drop(command);
        let (text, rest, answers) = (String::new(), Vec::new(), Vec::new());
        let mut this = Self { child, line, errors, text, commands: 0, expected: 0, rest, answers };
        this.number("readl 0xfee00030")?;
        Ok(this)
    }

    fn gather(&mut self, command: std::fmt::Arguments<'_>, answer: usize) -> Result<Ticket> {
        if self.text.len() > UNANSWERED || self.expected + answer > UNANSWERED {
            self.exchange()?;
        }
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(command);
        self.text.push('\n');
        self.commands += 1;
        self.expected += answer;
        Ok(Ticket(self.answers.len() + self.commands - 1))
    }

    /// Sends what was gathered and hears the answers.
    fn exchange(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        if let Err(error) = self.line.write_all(text.as_bytes()) {
            return Err(self.gone(error.into()));
        }
        self.expected = 0;
        let mut sent = text.lines();
        while self.commands > 0 {
            let line = match self.hear() {
                Ok(line) => line,
                Err(error) => return Err(self.gone(error)),
            };
            if let Some(answer) = parse(&line) {
                let command = sent.next().unwrap_or_default();
                self.answers.push(answer.with_context(|| format!("QEMU answered `{command:.60}`"))?);
                self.commands -= 1;
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<String> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.rest[searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=searched + end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            searched = self.rest.len();
            if self.commands > FEW {
                // QEMU sends each answer by itself: waking up for each would take longer than the commands do.
                std::thread::sleep(NAP);
            }
            let mut bytes = [0; 16 << 10];
            match self.line.read(&mut bytes) {
                Ok(0) => bail!("QEMU is gone"),
                Ok(count) => self.rest.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    bail!("QEMU did not answer in {} s", PATIENCE.as_secs())
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An error with what QEMU had to say about it.
    fn gone(&mut self, error: anyhow::Error) -> anyhow::Error {
        let _ = self.child.kill();
        let status = self.child.wait();
        let words = self.errors.take().and_then(|words| words.recv_timeout(Duration::from_secs(1)).ok());
        let words = words.unwrap_or_default();
        let status = status.map_or_else(|_| String::new(), |status| format!(" ({status})"));
        match words.trim() {
            "" => error.context(format!("the line to QEMU broke{status}, and QEMU said nothing")),
            words => {
                error.context(format!("the line to QEMU broke{status}; QEMU said: {}", places::last_lines(words, 4)))
            }
        }
    }

    /// Ends a round: everything gathered is sent, and the answers can be asked for.
    pub fn finish(&mut self) -> Result<Round> {
        self.exchange()?;
        Ok(Round(std::mem::take(&mut self.answers)))
    }

    /// A command by itself that is answered with a number.
    fn number(&mut self, command: &str) -> Result<u64> {
        let ticket = self.gather(format_args!("{command}"), SHORT)?;
        self.finish()?.number(ticket)
    }

    /// Reads a register or memory.
    pub fn read(&mut self, at: u64, size: Width) -> Result<Ticket> {
        self.gather(format_args!("read{} {at:#x}", size.letter()), SHORT)
    }

    /// Writes a register or memory.
    pub fn write(&mut self, at: u64, size: Width, value: u64) -> Result<()> {
        self.gather(format_args!("write{} {at:#x} {value:#x}", size.letter()), SHORT).map(drop)
    }

    /// Fills memory with one byte.
    pub fn fill(&mut self, at: u64, size: usize, byte: u8) -> Result<()> {
        self.gather(format_args!("memset {at:#x} {size:#x} {byte:#x}"), SHORT).map(drop)
    }

    /// Writes 64-bit words to memory.
    pub fn store(&mut self, at: u64, words: &[u64]) -> Result<()> {
        if let [word] = words {
            return self.write(at, Width::Quad, *word);
        }
        let mut digits = String::with_capacity(16 * words.len());
        for word in words {
            let _ = write!(digits, "{:016x}", word.swap_bytes());
        }
        self.gather(format_args!("write {at:#x} {:#x} 0x{digits}", 8 * words.len()), SHORT).map(drop)
    }

    /// Reads this many 64-bit words of memory.
    pub fn load(&mut self, at: u64, words: usize) -> Result<Ticket> {
        self.gather(format_args!("read {at:#x} {:#x}", 8 * words), SHORT + 16 * words)
    }

    /// Lets time pass in the machine.
    pub fn pass(&mut self, nanoseconds: u64) -> Result<()> {
        self.gather(format_args!("clock_step {nanoseconds}"), SHORT).map(drop)
    }

    /// Writes a port.
    pub fn out(&mut self, port: u16, value: u32) -> Result<()> {
        self.gather(format_args!("outl {port:#x} {value:#x}"), SHORT).map(drop)
    }

    /// Reads a register of a function's configuration space at once.
    pub fn config(&mut self, source: u16, at: u8) -> Result<u32> {
        self.out(0xcf8, 1 << 31 | u32::from(source) << 8 | u32::from(at & !3))?;
        let ticket = self.gather(format_args!("inl 0xcfc"), SHORT)?;
        Ok(self.finish()?.number(ticket)? as u32)
    }

    /// Writes one.
    pub fn set_config(&mut self, source: u16, at: u8, value: u32) -> Result<()> {
        self.out(0xcf8, 1 << 31 | u32::from(source) << 8 | u32::from(at & !3))?;
        self.out(0xcfc, value)
    }
}

impl Drop for Qtest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The width of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 32 bits.
    Double,
    /// 64 bits.
    Quad,
}

impl Width {
    fn letter(self) -> char {
        match self {
            Self::Double => 'l',
            Self::Quad => 'q',
        }
    }
}

/// The answers of one round.
#[derive(Debug, Default)]
pub struct Round(Vec<Answer>);

impl Round {
    /// What was read.
    pub fn number(&self, ticket: Ticket) -> Result<u64> {
        match self.0.get(ticket.0) {
            Some(Answer::Number(number)) => Ok(*number),
            other => Err(anyhow!("QEMU was asked for a number and answered {other:?}")),
        }
    }

    /// What was loaded.
    pub fn words(&self, ticket: Ticket) -> Result<Vec<u64>> {
        let Some(Answer::Bytes(bytes)) = self.0.get(ticket.0) else { bail!("QEMU was asked for memory and sent none") };
        let (words, rest) = bytes.as_chunks::<8>();
        ensure!(rest.is_empty(), "QEMU sent a part of a word");
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

/// An answer; nothing for lines that answer no command.
fn parse(line: &str) -> Option<Result<Answer>> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let answer = match (word, rest.trim()) {
        ("IRQ", _) => return None,
        ("OK", "") => Ok(Answer::Nothing),
        ("OK", text) => value(text).with_context(|| format!("with `{line:.60}`, which is no number")),
        _ => Err(anyhow!("with `{line:.80}`")),
    };
    Some(answer)
}

/// `0x` and 16 digits are a number, other lengths are memory; without `0x` it is a decimal number.
fn value(text: &str) -> Option<Answer> {
    let Some(digits) = text.strip_prefix("0x") else { return text.parse().ok().map(Answer::Number) };
    if digits.len() <= 16 {
        return u64::from_str_radix(digits, 16).ok().map(Answer::Number);
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.filter(|_| rest.is_empty()).map(Answer::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: &str) -> Option<Answer> {
        parse(line).map(Result::unwrap)
    }

    #[test]
    fn reads_qtests_answers() {
        assert_eq!(answer("OK"), Some(Answer::Nothing));
        assert_eq!(answer("OK 0x00000000dead0002"), Some(Answer::Number(0xdead_0002)));
        assert_eq!(answer("OK 0x12"), Some(Answer::Number(0x12)));
        assert_eq!(answer("OK 100000000"), Some(Answer::Number(100_000_000)));
        let bytes = vec![1, 2, 3, 4, 5, 6, 7, 8, 0, 0xff];
        assert_eq!(answer("OK 0x010203040506070800ff"), Some(Answer::Bytes(bytes)));
        assert_eq!(answer("IRQ raise 4"), None);
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        for line in ["FAIL Unknown command 'reada'", "ERR no memory", "OK 0xzz", "OK 0x01020304050607080", "hello"] {
            assert!(parse(line).unwrap().is_err(), "{line}");
        }
    }

    #[test]
    fn words_are_little_endian() {
        let round = Round(vec![Answer::Nothing, value("0x0100000000000000ff00000000000080").unwrap()]);
        assert_eq!(round.words(Ticket(1)).unwrap(), [1, 0x8000_0000_0000_00ff]);
        assert!(
            round.number(Ticket(1)).is_err() && round.words(Ticket(0)).is_err() && round.number(Ticket(2)).is_err()
        );
    }
}

//! The one way to give a unit a command and await it (VT-d 11.4.4): GCMD, one bit at a time, one-shot bits masked.

use super::{Host, Unit};
use crate::host::address::Nanos;
use crate::host::error::{Error, ErrorKind, Step};
use crate::host::platform::{Platform, Registers};
use crate::host::sync::Ordering;
use crate::host::wait::Wait;
use crate::hw::registers::{Gcmd, Gsts, Pmen, at};

/// The commands of GCMD that the driver gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Latch RTADDR (SRTP).
    RootPointer,
    /// Translation on or off (TE).
    Translation(bool),
    /// Queued invalidation on or off (QIE).
    Queue(bool),
    /// Interrupt remapping on or off (IRE).
    InterruptRemapping(bool),
    /// Latch IRTA (SIRTP).
    InterruptTable,
    /// Interrupts of compatibility format pass, or not (CFI).
    CompatibilityInterrupts(bool),
    /// Flush the write buffer (WBF).
    WriteBuffer,
}

impl Command {
    /// The command bit, the value it takes, and the value that its status bit takes when it is done.
    fn bits(self) -> (Gcmd, bool, Gsts, bool) {
        match self {
            Command::RootPointer => (Gcmd::SRTP, true, Gsts::RTPS, true),
            Command::Translation(on) => (Gcmd::TE, on, Gsts::TES, on),
            Command::Queue(on) => (Gcmd::QIE, on, Gsts::QIES, on),
            Command::InterruptRemapping(on) => (Gcmd::IRE, on, Gsts::IRES, on),
            Command::InterruptTable => (Gcmd::SIRTP, true, Gsts::IRTPS, true),
            Command::CompatibilityInterrupts(on) => (Gcmd::CFI, on, Gsts::CFIS, on),
            Command::WriteBuffer => (Gcmd::WBF, true, Gsts::WBFS, false),
        }
    }

    /// Whether it changes what the unit reads and writes in memory.
    fn reaches_memory(self) -> bool {
        matches!(self, Command::RootPointer | Command::Translation(_) | Command::Queue(_))
    }

    fn step(self) -> Step {
        match self {
            Command::RootPointer => Step::RootPointer,
            Command::Translation(_) => Step::Translation,
            Command::Queue(_) => Step::Queue,
            Command::InterruptRemapping(_) | Command::InterruptTable | Command::CompatibilityInterrupts(_) => {
                Step::InterruptRemapping
            }
            Command::WriteBuffer => Step::WriteBuffer,
        }
    }
}

impl<P: Platform> Unit<P> {
    /// What the unit says it is doing; an error where it reads all ones.
    pub(crate) fn status(&self) -> Result<Gsts, Error> {
        match self.regs.read32(at::GSTS) {
            u32::MAX => Err(ErrorKind::UnitGone.on(self.id)),
            v => Ok(Gsts::from_bits_retain(v)),
        }
    }

    /// Gives a command and awaits it. Waits, with a deadline; not for interrupt context.
    pub(crate) fn command(&self, h: &Host<P>, c: Command) -> Result<(), Error> {
        let limit = h.config.command_deadline;
        let timeout = ErrorKind::Timeout(c.step()).on(self.id);
        let _turn = self.commands.take(Wait::new(&h.platform, self.id, limit)).ok_or(timeout)?;
        let (bit, on, done, want) = c.bits();
        let mut v = self.status()?.level();
        v.set(bit, on);
        self.regs.write32(at::GCMD, v.bits());
        let answer = self.until(h, limit, timeout, |u| Ok(u.status()?.contains(done) == want));
        // Unanswered, it may still be carried out, at any time, and what the unit may reach then is never given back: until
        // the same bit has been answered.
        match (answer.is_err(), c.reaches_memory()) {
            (_, false) => {}
            (true, true) => drop(self.doubted.fetch_or(bit.bits(), Ordering::AcqRel)),
            (false, true) => drop(self.doubted.fetch_and(!bit.bits(), Ordering::AcqRel)),
        }
        answer
    }

    /// Turns protected memory off (VT-d 11.4.8), which firmware may have left on; after translation is on.
    pub(crate) fn protected_memory_off(&self, h: &Host<P>) -> Result<bool, Error> {
        if !(self.caps.cap.plmr() || self.caps.cap.phmr()) {
            return Ok(false);
        }
        let timeout = ErrorKind::Timeout(Step::ProtectedMemory).on(self.id);
        let wait = Wait::new(&h.platform, self.id, h.config.command_deadline);
        let _turn = self.commands.take(wait).ok_or(timeout)?;
        let was = Pmen::from_bits_retain(self.regs.read32(at::PMEN));
        if !was.intersects(Pmen::EPM | Pmen::PRS) {
            return Ok(false);
        }
        self.regs.write32(at::PMEN, (was & !Pmen::EPM).bits());
        let limit = h.config.command_deadline;
        self.until(h, limit, timeout, |u| Ok(!Pmen::from_bits_retain(u.regs.read32(at::PMEN)).contains(Pmen::PRS)))?;
        Ok(true)
    }

    /// Has protected memory cover all memory (VT-d 11.4.8), on a unit that has both regions and with protection off.
    pub(super) fn protect_all_memory(&self, h: &Host<P>) -> Result<(), Error> {
        let timeout = ErrorKind::Timeout(Step::ProtectedMemory).on(self.id);
        let limit = h.config.command_deadline;
        let _turn = self.commands.take(Wait::new(&h.platform, self.id, limit)).ok_or(timeout)?;
        self.regs.write32(at::PLMBASE, 0);
        self.regs.write32(at::PLMLIMIT, u32::MAX);
        self.regs.write64(at::PHMBASE, 1 << 32);
        self.regs.write64(at::PHMLIMIT, u64::MAX);
        let was = Pmen::from_bits_retain(self.regs.read32(at::PMEN));
        self.regs.write32(at::PMEN, (was | Pmen::EPM).bits());
        self.until(h, limit, timeout, |u| {
            u.status()?;
            Ok(Pmen::from_bits_retain(u.regs.read32(at::PMEN)).contains(Pmen::PRS))
        })
    }

    /// Looks at the registers until `done` says so, or the deadline passes.
    pub(crate) fn until(
        &self,
        h: &Host<P>,
        limit: Nanos,
        timeout: Error,
        done: impl Fn(&Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut wait = Wait::new(&h.platform, self.id, limit);
        while !done(self)? {
            if !wait.turn() {
                return Err(timeout);
            }
        }
        Ok(())
    }
}

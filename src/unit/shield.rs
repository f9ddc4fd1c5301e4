//! Abort-DMA mode (VT-d 3.4.4, RTADDR.TTM): a unit blocks every request before there are tables, and until these take over.

use super::command::Command;
use super::{Host, Unit, phase};
use crate::host::error::Error;
use crate::host::platform::{Platform, Registers};
use crate::host::sync::Ordering;
use crate::hw::registers::{RootPointer, TableMode, at};
use core::fmt;

/// How a unit came out of abort-DMA mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeftShield {
    /// From the one mode to the other with translation on (CAP.ESRTPS): nothing passed in between.
    Seamless,
    /// Translation was off for a moment, in which protected memory regions covered all memory.
    BehindProtectedMemory,
    /// Translation was off for a moment, and nothing stood in for it: the unit has not both regions (CAP.PLMR, CAP.PHMR).
    WithGap,
}

impl fmt::Display for LeftShield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeftShield::Seamless => "nothing passed on the way out of abort-DMA mode",
            LeftShield::BehindProtectedMemory => "protected memory stood in while abort-DMA mode ended",
            LeftShield::WithGap => "translation was off for a moment as abort-DMA mode ended",
        })
    }
}

impl<P: Platform> Unit<P> {
    /// Whether it is in abort-DMA mode.
    pub(crate) fn shielded(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::SHIELDED
    }

    /// Whether it has the mode, and the queue that the mode wants: nothing else invalidates there.
    pub(crate) fn has_shield(&self) -> bool {
        self.caps.ecap.adms() && self.queue.is_some()
    }

    /// Whether its root pointer says so, whoever wrote that.
    pub(super) fn aborts(&self) -> bool {
        RootPointer(self.regs.read64(at::RTADDR)).mode() == Some(TableMode::Abort)
    }

    /// Blocks every request from now on. For a unit that has the mode and was found off. Waits, with deadlines.
    pub(crate) fn shield(&self, h: &Host<P>) -> Result<(), Error> {
        let on = self.on()?;
        self.phase.store(phase::TAKEN, Ordering::Release);
        self.silence(h, on)?;
        self.start_queue(h)?;
        self.latch(h, RootPointer::new(0, TableMode::Abort))?;
        self.command(h, Command::Translation(true))?;
        self.phase.store(phase::SHIELDED, Ordering::Release);
        Ok(())
    }

    /// Has the tables take over, where the mode is on; says how, and whether protected memory was on before that.
    ///
    /// TTM changes under translation only with CAP.ESRTPS (VT-d 6.6, 11.4.5).
    pub(crate) fn leave_shield(&self, h: &Host<P>) -> Result<(Option<LeftShield>, Option<bool>), Error> {
        if !self.shielded() {
            return Ok((None, None));
        }
        let (mut left, mut protected) = (LeftShield::Seamless, None);
        if !self.caps.cap.esrtps() {
            left = LeftShield::WithGap;
            if self.caps.cap.plmr() && self.caps.cap.phmr() {
                // Regions change only while they are off.
                protected = Some(self.protected_memory_off(h)?);
                self.kept.lock(&h.platform).protecting = true;
                self.protect_all_memory(h)?;
                left = LeftShield::BehindProtectedMemory;
            }
            self.command(h, Command::Translation(false))?;
        }
        self.latch_tables(h)?;
        self.phase.store(phase::TAKEN, Ordering::Release);
        Ok((Some(left), protected))
    }
}

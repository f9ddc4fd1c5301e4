//! All units through a suspend of the machine, and back.

use super::Vtd;
use crate::host::error::{Error, ErrorKind, State};
use crate::host::platform::Platform;

impl<P: Platform> Vtd<P> {
    /// Turns translation and queues of all units off, for a suspend of the machine in which their registers may be lost.
    ///
    /// The caller has made all devices quiet first: from here on nothing holds them back. Domains live on meanwhile: what is
    /// mapped and unmapped changes tables in memory, and flushes succeed at once, as `resume` begins with empty caches. Groups
    /// cannot be claimed, nor attached to domains, `State(Suspended)`; they can be released.
    ///
    /// After an error some units are still on; call it again, or `resume`, which brings back what was turned off. No other
    /// call of the driver may be waiting for units meanwhile. Interrupt remapping is left on. Waits, with deadlines.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn core::error::Error>> {
    /// # use vtd::{Access, Iova, PAGE, Range, Strict, Target};
    /// # let (host, vtd, group) = emulated::ready();
    /// # let domain = vtd.domain::<Strict>(&group.best_spec())?;
    /// # group.attach(Target::Domain(&domain))?;
    /// # let memory = host.memory(2);
    /// domain.map(Iova::at(0x4000_0000), memory, 2 * PAGE, Access::READ | Access::WRITE)?;
    /// vtd.suspend()?;
    /// host.lose_power();
    /// // Domains change meanwhile.
    /// domain.unmap(Range::sized(Iova::at(0x4000_0000), PAGE).unwrap())?.flush().map_err(|not| not.error)?;
    /// vtd.resume()?;
    /// assert!(host.write(None, 0x4000_0000, 1).is_err());
    /// host.write(None, 0x4000_1000, 2)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn suspend(&self) -> Result<(), Error> {
        let core = &*self.0;
        core.registry()?;
        core.units().iter().filter(|u| !u.removed()).try_for_each(|u| u.suspend(core.host()))
    }

    /// Puts all units back to work as `suspend` left them, whether or not they kept their registers: each is the unit that
    /// it was (`UnitChanged` names one that is not), queues, root tables, event messages and interrupt remapping are programmed
    /// anew and read back (`Unverified`), every cache is emptied, translation goes on, protected memory off.
    ///
    /// Keep all devices quiet until it has succeeded: after an error units may be off that are not yet back, and what they do
    /// not translate they do not block. It may be called again then; units that are back already are left alone. `State(NotUp)`
    /// where the driver was never up. Waits, with deadlines.
    pub fn resume(&self) -> Result<(), Error> {
        let core = &*self.0;
        let host = core.host();
        let units = || core.units().iter().filter(|u| !u.removed());
        core.registry()?;
        // Every step on all units before the next on any, as when they were brought up.
        units().try_for_each(|u| u.wake_up(host))?;
        units().try_for_each(|u| u.restart_queue(host))?;
        units().try_for_each(|u| u.restore_tables(host))?;
        units().try_for_each(|u| u.restore_translation(host))?;
        // A unit that was never brought up, or has been shut down, does not come to this.
        match units().all(|u| u.translates()) {
            true => Ok(()),
            false => Err(ErrorKind::State(State::NotUp).into()),
        }
    }
}

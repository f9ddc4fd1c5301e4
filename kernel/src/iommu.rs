//! The driver in this kernel: made from the firmware's table, its interrupts led to it, its reports gathered.

use crate::platform::{self, KernelPlatform};
use crate::sync::IrqLock;
use crate::{acpi, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use vtd::dmar::Topology;
use vtd::{BringUp, Config, DeviceId, Error, Event, Events, Fault, Nanos, Owner, TakeOver, UnitId, Vtd};

/// The driver that runs now, for the interrupt handler.
static RUNNING: IrqLock<Option<Vtd<KernelPlatform>>> = IrqLock::new(None);

/// Why there is no driver.
#[derive(Debug)]
pub enum NoIommu {
    /// The firmware has no DMAR table.
    NoTable,
    /// The driver says why.
    Driver(Error),
}

impl fmt::Display for NoIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoIommu::NoTable => f.write_str("the machine has no remapping unit (no DMAR table)"),
            NoIommu::Driver(e) => write!(f, "{e}"),
        }
    }
}

impl From<Error> for NoIommu {
    fn from(e: Error) -> Self {
        NoIommu::Driver(e)
    }
}

/// The machine's topology.
pub fn topology() -> Result<Topology, NoIommu> {
    let table = acpi::tables().dmar.first().ok_or(NoIommu::NoTable)?;
    Ok(Topology::from_table(table)?)
}

/// The driver, up and translating. Ends when dropped: every unit is off again.
pub struct Session {
    vtd: Option<Vtd<KernelPlatform>>,
    report: BringUp,
    /// What no claimed device's owner heard.
    pub rest: Arc<Recorder>,
}

impl Session {
    /// Brings every unit up.
    pub fn start(config: Config) -> Result<Session, NoIommu> {
        Session::take_over(config, TakeOver::Disable)
    }

    /// The same, with a say in what becomes of a unit that is on.
    pub fn take_over(config: Config, found: TakeOver) -> Result<Session, NoIommu> {
        let vtd = Vtd::new(KernelPlatform, topology()?, config)?;
        platform::on_event(interrupt);
        *RUNNING.lock() = Some(vtd.clone());
        let report = match vtd.bring_up(found) {
            Ok(report) => report,
            Err(e) => {
                *RUNNING.lock() = None;
                let _ = vtd.hand_back();
                return Err(e.into());
            }
        };
        let rest = Arc::new(Recorder::default());
        vtd.on_other_events(rest.clone());
        Ok(Session { vtd: Some(vtd), report, rest })
    }

    /// The driver.
    pub fn vtd(&self) -> &Vtd<KernelPlatform> {
        self.vtd.as_ref().expect("until it ends")
    }

    /// What bringing it up found.
    pub fn report(&self) -> &BringUp {
        &self.report
    }

    /// Claims the group of a device for the host, its events recorded.
    pub fn claim(&self, d: DeviceId) -> Result<(vtd::Group<KernelPlatform>, Arc<Recorder>), Error> {
        let group = self.vtd().claim(self.vtd().group_of(d)?, Owner::HOST)?;
        let recorder = Arc::new(Recorder::default());
        for member in group.devices() {
            group.on_events(member, recorder.clone())?;
        }
        Ok((group, recorder))
    }

    /// Turns everything off; an error where something is still in use or a unit does not answer.
    pub fn end(mut self) -> Result<(), Error> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), Error> {
        *RUNNING.lock() = None;
        // Nobody is left to do what a wake asked for.
        platform::take_wake();
        match self.vtd.take().map(Vtd::hand_back) {
            Some(Err((vtd, e))) => {
                drop(vtd);
                Err(e)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.vtd.is_some()
            && let Err(e) = self.stop()
        {
            crate::println!("the driver does not end: {e}");
        }
    }
}

/// The top half.
fn interrupt(unit: UnitId, event: Event) {
    if event == Event::Invalidation {
        COMPLETIONS.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(vtd) = &*RUNNING.lock() {
        vtd.interrupt(unit, event);
    }
}

static COMPLETIONS: AtomicU64 = AtomicU64::new(0);

/// Interrupts of completed invalidations so far.
pub fn completions() -> u64 {
    COMPLETIONS.load(Ordering::Relaxed)
}

/// Runs the bottom half if the driver asked for it.
pub fn tend(vtd: &Vtd<KernelPlatform>) {
    if platform::take_wake() {
        while vtd.service(16) == vtd::Service::Again {}
    }
}

/// Keeps what a device reports.
pub struct Recorder {
    faults: IrqLock<Vec<Fault>>,
    lost: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder { faults: IrqLock::new(Vec::new()), lost: AtomicU64::new(0) }
    }
}

impl Recorder {
    /// All faults since the last call.
    pub fn take(&self) -> Vec<Fault> {
        core::mem::take(&mut *self.faults.lock())
    }

    /// How many faults were counted only, since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Waits for the interrupt of a fault, has the driver deliver it, and takes what came.
    pub fn await_faults(&self, vtd: &Vtd<KernelPlatform>, patience: Nanos) -> Vec<Fault> {
        time::wait_until(patience, || {
            tend(vtd);
            !self.faults.lock().is_empty()
        });
        self.take()
    }
}

impl Events for Recorder {
    fn fault(&self, f: &Fault) {
        self.faults.lock().push(*f);
    }

    fn lost(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }
}

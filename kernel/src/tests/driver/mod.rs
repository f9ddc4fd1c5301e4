//! The driver on the real registers of the machine's unit, with devices that do DMA through what it built.

mod bring_up;
mod dma;
mod faults;
mod groups;
mod invalidation;
mod mapping;
mod parallel;
mod pending;
mod power;
mod stages;
mod take_over;
mod virtio;

use crate::boot::cmdline;
use crate::devices::edu::Edu;
use crate::devices::testdev::TestDevice;
use crate::iommu::{NoIommu, Recorder, Session};
use crate::platform::KernelPlatform;
use crate::skip;
use crate::testing::Failure;
use alloc::sync::Arc;
use vtd::{Access, Change, Config, DeviceId, Domain, DomainSpec, Group, Nanos, Stage, Strict, Target};

/// How long a fault's interrupt may take.
const SOON: Nanos = Nanos::millis(1000);

/// What the command line says, and else what most hosts have.
fn config() -> Config {
    Config { tables: cmdline::get().tables, ..Config::default() }
}

/// The driver, or the reason why this machine has none.
fn session() -> Result<Session, Failure> {
    session_with(config())
}

fn session_with(config: Config) -> Result<Session, Failure> {
    match Session::start(config) {
        Ok(s) => Ok(s),
        Err(NoIommu::NoTable) => skip!("this machine has no remapping unit"),
        Err(e) => Err(e.into()),
    }
}

fn edu() -> Result<Edu, Failure> {
    match Edu::all().next() {
        Some(e) => Ok(e),
        None => skip!("no edu device"),
    }
}

/// The first `iommu-testdev` on the root bus.
fn testdev() -> Result<TestDevice, Failure> {
    match TestDevice::all().find(|d| d.id().source.bus() == 0) {
        Some(d) => Ok(d),
        None => skip!("no iommu-testdev on the root bus"),
    }
}

/// Whether tables of this kind are first-stage tables.
fn first_stage(spec: DomainSpec) -> bool {
    spec.stage == Stage::First
}

/// Why QEMU blocks a write to a page that such tables do not map: it gives the reasons of legacy mode also in scalable mode.
fn unmapped_reason(spec: DomainSpec) -> u8 {
    if first_stage(spec) { 0x71 } else { 0x05 }
}

/// Why it blocks a write to a page that may only be read.
fn read_only_reason(spec: DomainSpec) -> u8 {
    if first_stage(spec) { 0x85 } else { 0x05 }
}

/// How one domain takes the place of another: a first-stage entry is cleared first, for its table stands in another half.
fn replaced(spec: DomainSpec) -> Change {
    if first_stage(spec) { Change::WithGap } else { Change::Seamless }
}

/// The rights of a page that a device only writes to: in the first stage all pages can be read.
fn write_only(spec: DomainSpec) -> Access {
    if first_stage(spec) { Access::READ | Access::WRITE } else { Access::WRITE }
}

/// A device's group, claimed and attached to an empty domain of the best kind.
struct Attached {
    domain: Domain<KernelPlatform, Strict>,
    group: Group<KernelPlatform>,
    events: Arc<Recorder>,
}

fn attached(session: &Session, d: DeviceId) -> Result<Attached, Failure> {
    let (group, events) = session.claim(d)?;
    let domain = session.vtd().domain::<Strict>(&group.best_spec())?;
    group.attach(Target::Domain(&domain))?;
    Ok(Attached { domain, group, events })
}

impl Attached {
    /// Gives the device back; the domain goes too.
    fn release(self) -> Result<(), Failure> {
        self.group.release().map_err(|(_, e)| e)?;
        Ok(())
    }
}

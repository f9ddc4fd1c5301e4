//! The models, and running them with one site relaxed.

use crate::host::address::{Nanos, UnitId};
use crate::host::sync::{AtomicU64, Ordering, Site, WEAK};
use crate::host::wait::{Turn, Wait};
use crate::hw::descriptors::Descriptor;
use crate::hw::invalidation::{DescriptorWidth, Drain};
use crate::machine::Machine;
use crate::unit::config::Config;
use crate::unit::errata::Errata;
use crate::unit::queue::Queue;
use crate::unit::{Host, Unit};
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Something that threads do together, and the sites that it needs.
pub struct Model {
    /// Its name.
    pub name: &'static str,
    sites: &'static [Site],
    run: fn(),
    /// How often a thread may be interrupted in one run.
    interruptions: usize,
}

/// All of them.
pub const MODELS: &[Model] = &[
    Model {
        name: "queue",
        sites: &[Site::Publish, Site::Completion, Site::FateStore, Site::FateLoad],
        run: queue,
        interruptions: 2,
    },
    Model { name: "turn", sites: &[Site::TurnTaken, Site::TurnGiven], run: turn, interruptions: 3 },
];

/// The names of a model's sites.
pub fn sites(model: &Model) -> impl Iterator<Item = String> {
    model.sites.iter().map(|s| format!("{s:?}"))
}

/// Runs a model, with one site relaxed where one is named; says what went wrong. `interruptions` bounds how often a
/// thread may be interrupted, below the model's own bound.
pub fn check(model: &Model, relaxed: Option<&str>, interruptions: Option<usize>) -> Result<usize, String> {
    let site = model.sites.iter().copied().find(|s| Some(format!("{s:?}").as_str()) == relaxed);
    assert_eq!(site.is_some(), relaxed.is_some(), "no such site");
    WEAK.set(site);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(interruptions.unwrap_or(model.interruptions).min(model.interruptions));
    builder.max_branches = 20_000;
    builder.max_duration =
        Some(std::time::Duration::from_secs(std::env::var("MD").ok().and_then(|v| v.parse().ok()).unwrap_or(25)));
    if let Ok(p) = std::env::var("PB") {
        builder.preemption_bound = Some(p.parse().unwrap());
    }
    if let Ok(p) = std::env::var("NN") {
        N.store(p.parse().unwrap(), std::sync::atomic::Ordering::Relaxed);
    }
    let (runs, run) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), model.run);
    let count = runs.clone();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            run();
        });
    }));
    WEAK.set(None);
    match outcome {
        Ok(()) => Ok(runs.load(std::sync::atomic::Ordering::Relaxed)),
        Err(e) => Err(e
            .downcast_ref::<String>()
            .cloned()
            .or(e.downcast_ref::<&str>().map(|s| (*s).into()))
            .unwrap_or_default()),
    }
}

pub static N: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(2);
/// Two submitters and a unit on a ring of four slots, which is used again and wraps.
fn queue() {
    let machine = Machine::new();
    let queue = Queue::new(&machine, (UnitId(0), 0), (0, DescriptorWidth::Bits128), false, None).unwrap();
    let ring = queue.address(&machine).base();
    assert_eq!(queue.capacity(), 2);
    let host = Host { platform: machine.clone(), config: Config::default() };
    let unit = Unit { id: UnitId(0), errata: Errata::empty(), regs: machine.clone(), queue: Some(queue) };
    let shared = loom::sync::Arc::new((host, unit));
    let hardware = {
        let machine = machine.clone();
        thread::spawn(move || machine.run_unit(ring, N.load(std::sync::atomic::Ordering::Relaxed)))
    };
    let other = {
        let shared = shared.clone();
        thread::spawn(move || invalidate(&shared, 2))
    };
    invalidate(&shared, 1);
    if N.load(std::sync::atomic::Ordering::Relaxed) == 3 {
        invalidate(&shared, 3);
    }
    other.join().unwrap();
    hardware.join().unwrap();
    let (host, unit) = loom::sync::Arc::try_unwrap(shared).ok().unwrap();
    unit.queue.unwrap().release(&host.platform);
}

fn invalidate(shared: &(Host<Machine>, Unit<Machine>), domain: u16) {
    let (host, unit) = shared;
    let queue = unit.queue.as_ref().unwrap();
    let sub = queue.submit(host, unit, 1, |_| Descriptor::iotlb_domain(domain, Drain::NONE)).unwrap();
    queue.wait(host, unit, sub).unwrap();
    assert!(host.platform.dropped(domain), "a waiter does not see what was done by the completion");
}

/// What one CPU does in its turn, the next one sees.
fn turn() {
    let machine = Machine::new();
    let shared = loom::sync::Arc::new((Turn::new(), AtomicU64::new(0)));
    let one = move |shared: &(Turn, AtomicU64), machine: &Machine| {
        let taken = shared.0.take(Wait::new(machine, UnitId(0), Nanos(1))).unwrap();
        let seen = shared.1.load(Ordering::Relaxed);
        shared.1.store(seen + 1, Ordering::Relaxed);
        drop(taken);
    };
    let other = {
        let (shared, machine) = (shared.clone(), machine.clone());
        thread::spawn(move || one(&shared, &machine))
    };
    one(&shared, &machine);
    other.join().unwrap();
    assert_eq!(shared.1.load(Ordering::Relaxed), 2, "who had the turn does not see what was done in the one before");
}

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
}

/// All of them.
pub const MODELS: &[Model] = &[
    // A ring of four slots, used again and wrapped.
    Model { name: "ring", sites: &[Site::Publish, Site::Completion], run: || queue(3, 0) },
    Model {
        name: "queue",
        sites: &[Site::Publish, Site::Completion, Site::FateStore, Site::FateLoad],
        run: || queue(1, 1),
    },
    Model { name: "turn", sites: &[Site::TurnTaken, Site::TurnGiven], run: turn },
];

/// The names of a model's sites.
pub fn sites(model: &Model) -> impl Iterator<Item = String> {
    model.sites.iter().map(|s| format!("{s:?}"))
}

/// Runs a model, with one site relaxed where one is named, and with so many interruptions of threads in one run (waiting
/// is none). Says how many runs there were, or what went wrong.
pub fn check(model: &Model, relaxed: Option<&str>, interruptions: usize) -> Result<usize, String> {
    let site = model.sites.iter().copied().find(|s| Some(format!("{s:?}").as_str()) == relaxed);
    assert_eq!(site.is_some(), relaxed.is_some(), "no such site");
    WEAK.set(site);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.max_branches = 20_000;
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

/// One or two submitters and a unit on a ring of four slots.
fn queue(mine: u16, theirs: u16) {
    let machine = Machine::new();
    let queue = Queue::new(&machine, (UnitId(0), 0), (0, DescriptorWidth::Bits128), false, None).unwrap();
    let ring = queue.address(&machine).base();
    assert_eq!(queue.capacity(), 2);
    let host = Host { platform: machine.clone(), config: Config::default() };
    let unit = Unit { id: UnitId(0), errata: Errata::empty(), regs: machine.clone(), queue: Some(queue) };
    let shared = loom::sync::Arc::new((host, unit));
    let mut threads = Vec::new();
    threads.push(thread::spawn(move || machine.run_unit(ring, (mine + theirs).into())));
    if theirs != 0 {
        let shared = shared.clone();
        threads.push(thread::spawn(move || glance(&shared)));
    }
    (0..mine).for_each(|n| invalidate(&shared, n));
    threads.into_iter().for_each(|t| t.join().unwrap());
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

/// Has nothing but a wait, which finds room at once, and looks once whether it is complete.
fn glance(shared: &(Host<Machine>, Unit<Machine>)) {
    let (host, unit) = shared;
    let queue = unit.queue.as_ref().unwrap();
    let sub = queue.submit(host, unit, 0, |_| Descriptor::cc_global()).unwrap();
    // Who does not look again holds nobody up. `abandon` is left out: `loom` lets an exchange come late among stores.
    if let Some(outcome) = queue.poll(sub) {
        assert!(outcome.is_ok() && host.platform.waited(), "one who looks does not see what was done");
    }
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

//! The heap ends, at every allocation in turn: an error each time, nothing left behind, and never an abort.

use super::machine::{Dmar, Machine, WIDE, config, dev, map, range};
use crate::device::Tree;
use crate::dmar::Topology;
use crate::host::testing::{Host, heap};
use crate::unit::standin::CAP;
use crate::{Domain, Error, ErrorKind, Events, Fault, Iova, Owner, Range, TakeOver, Target, Vtd};
use std::sync::Arc;

/// Runs `body` with a heap that ends after 0, 1, 2, ... allocations, until it has enough; how often it had not.
fn until_enough<R>(mut body: impl FnMut(u64) -> Result<R, Error>) -> u64 {
    for n in 0.. {
        match body(n) {
            Ok(_) => return n,
            Err(e) => assert_eq!(e.kind, ErrorKind::OutOfMemory, "after {n} allocations"),
        }
    }
    unreachable!("numbers do not end")
}

struct Deaf;

impl Events for Deaf {
    fn fault(&self, _: &Fault) {}
}

/// A machine whose devices 1 and 2 have regions of firmware.
fn prepare(ecap: u64) -> (Host, std::vec::Vec<crate::unit::standin::Standin>, Dmar) {
    let (host, units, dmar) = Machine::prepare(Host::new(), &[(CAP, ecap); 2]);
    (host, units, dmar.reserved(0x7a00_0000, 0x7a00_0fff, dev(1)).reserved(0x7b00_0000, 0x7b00_0fff, dev(2)))
}

fn reading_the_firmware_s_table(ecap: u64) {
    let (host, _, dmar) = prepare(ecap);
    let bytes = dmar.bytes();
    assert!(until_enough(|n| heap::ending(n, || Topology::from_table(&bytes))) > 3);
    // The PCI tree and its groups.
    assert!(until_enough(|n| heap::ending(n, || Tree::scan(&host, [0]))) > 2);
    let tree = Tree::scan(&host, [0]).unwrap();
    assert!(until_enough(|n| heap::ending(n, || crate::device::Groups::new(&tree))) > 2);
}

fn making_the_driver_and_bringing_it_up(ecap: u64) {
    let failed = until_enough(|n| {
        let (host, units, dmar) = prepare(ecap);
        let topology = dmar.topology();
        let vtd = heap::ending(n, || Vtd::new(host.clone(), topology, config()))?;
        let vtd_needs = 2;
        let report = heap::ending(n.saturating_sub(vtd_needs), || vtd.bring_up(TakeOver::Disable));
        let m = Machine { host, units, vtd, report };
        // A region of firmware that could not be mapped is reported, and its device blocked.
        let error = match &m.report {
            Err(e) => Some(*e),
            Ok(r) => r.firmware.iter().find_map(|f| f.error),
        };
        m.end();
        error.map_or(Ok(()), Err)
    });
    assert!(failed > 20, "{failed}");
}

fn everything_that_a_driver_that_is_up_does(ecap: u64) {
    let (host, units, dmar) = prepare(ecap);
    let dmar = dmar.reserved(0x7a00_0000, 0x7a00_4fff, dev(3)).reserved(0x7a00_2000, 0x7a00_2fff, dev(3));
    let m = Machine::with(host, units, &dmar, config());
    let id = m.vtd.group_of(dev(3)).unwrap();
    let whole = range(0, 0x3fff_ffff);
    // The context table of its bus is made once, and stays.
    m.vtd.claim(id, Owner::HOST).unwrap().attach(Target::Identity).unwrap();
    let failed = until_enough(|n| {
        let before = m.host.counts().frames;
        let outcome = heap::ending(n, || {
            let group = m.vtd.claim(id, Owner::HOST)?;
            let domain: Domain<Host> = m.vtd.domain(&WIDE)?;
            let work = (|| {
                group.attach(Target::Domain(&domain))?;
                let handler: Arc<dyn Events> = {
                    let _own = heap::spare();
                    Arc::new(Deaf)
                };
                group.on_events(dev(3), handler)?;
                for i in 0..8u64 {
                    domain.map(Iova::at(i * 0x20_1000), hpa(0x10_0000), 0x1000, crate::Access::all()).map_err(why)?;
                }
                // Each second page: ranges that do not join.
                for i in 0..8u64 {
                    let page = Range::sized(Iova::at(i * 0x20_1000), 0x1000).ok_or(ErrorKind::Unknown)?;
                    drop(domain.unmap(page).map_err(why)?);
                }
                domain.settle()?;
                group.attach(Target::Identity)?;
                group.attach(Target::Domain(&domain))?;
                Ok(m.vtd.service(10))
            })();
            // Whatever happened, all of it can be given back without memory.
            if let Ok(rest) = domain.unmap(whole) {
                rest.flush().map_err(|f| f.error)?;
            }
            domain.settle()?;
            group.release().map_err(|(_, e)| e)?;
            work
        });
        if outcome.is_err() {
            assert_eq!(m.host.counts().frames, before, "after {n} allocations");
        }
        outcome
    });
    assert!(failed >= 4, "{failed}");
    let d: Domain<Host> = m.vtd.domain(&WIDE).unwrap();
    map(&d, 0x1000, 0x5000, 0x1000);
    drop(d);
    m.end();
}

fn hpa(v: u64) -> crate::Hpa {
    super::machine::hpa(v)
}

fn why(e: crate::MapError) -> Error {
    match e.why {
        crate::MapWhy::OutOfMemory => ErrorKind::OutOfMemory.into(),
        _ => ErrorKind::Unknown.into(),
    }
}

crate::unit::standin::in_both_modes! {
    reading_the_firmware_s_table
    making_the_driver_and_bringing_it_up
    everything_that_a_driver_that_is_up_does
}

//! How many translations a second the emulated unit makes, warm and cold, and how long a whole story takes.

mod common;

use common::{RW, Rig};
use std::time::{Duration, Instant};
use vtd_emu::{Access, Answer, Dma, Function, Keep, Profile, Request};

const PAGES: u64 = 512;
const BASE: u64 = 0x4000_0000;

/// A unit with so many mapped pages.
fn unit(profile: Profile) -> Rig {
    let mut rig = Rig::new(profile);
    let table = rig.page();
    for n in 0..PAGES {
        rig.map(table, BASE + n * 4096, 0x1000_0000 + n * 4096, RW);
    }
    rig.attach(8, 5, table, 0);
    rig.bring_up();
    rig
}

/// Translations a second, in the best of some rounds: the machine has other things to do as well.
fn rate(rig: &mut Rig, n: u64) -> u64 {
    let round = |rig: &mut Rig| -> Duration {
        let start = Instant::now();
        for i in 0..n {
            // Not in the order of the addresses.
            let at = BASE + i * 37 % PAGES * 4096;
            let answer = rig.m.request(0, &Request::new(8, Access::Read, at));
            assert!(matches!(answer, Some(Answer::Passed(_))), "{answer:?}");
        }
        start.elapsed()
    };
    let best = (0..5).map(|_| round(rig)).min().unwrap_or_default();
    (n as f64 / best.as_secs_f64()) as u64
}

/// What is wanted of an optimized build without checks; half of it with checks.
fn at_least(what: &str, rate: u64, wanted: u64) {
    println!("{what}: {rate} a second");
    let wanted = if cfg!(debug_assertions) { wanted / 2 } else { wanted };
    assert!(rate >= wanted, "{what}: {rate} a second, and {wanted} are wanted");
}

#[test]
fn a_million_warm_translations_a_second() {
    let mut rig = unit(Profile::server());
    at_least("warm", rate(&mut rig, 100_000), 1_000_000);
}

#[test]
fn two_hundred_thousand_cold_translations_a_second() {
    let mut rig = unit(Profile::server());
    rig.m.unit_mut(0).unwrap().set_caching(Keep::Nothing, None);
    at_least("cold", rate(&mut rig, 20_000), 200_000);
    let incoherent = Profile::server().with_ecap(0, 1);
    let mut rig = unit(incoherent);
    rig.m.unit_mut(0).unwrap().set_caching(Keep::Nothing, None);
    at_least("cold, without snooping", rate(&mut rig, 20_000), 200_000);
}

#[test]
fn a_story_from_bring_up_to_unmap_within_a_millisecond() {
    let story = || {
        let start = Instant::now();
        let mut rig = Rig::new(Profile::server());
        let f = rig.add(Function::new(8, 0));
        let table = rig.page();
        rig.attach(8, 5, table, 0);
        rig.bring_up();
        rig.map(table, BASE, 0x1000_0000, RW);
        rig.dma_put(f, Dma::at(BASE), 1).unwrap();
        rig.unmap(table, BASE);
        rig.invalidate_iotlb();
        rig.dma_put(f, Dma::at(BASE), 1).unwrap_err();
        start.elapsed()
    };
    let best = (0..300).map(|_| story()).min().unwrap_or_default();
    println!("a story: {} microseconds", best.as_micros());
    assert!(best < Duration::from_millis(1), "{best:?}");
}

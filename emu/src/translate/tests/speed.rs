//! How fast it goes. Run with `--ignored` in release mode.

use super::*;
use std::println;
use std::time::Instant;

/// A device with 4,096 pages in second-stage tables of four levels.
fn scene() -> Scene {
    let mut scene = Scene::legacy();
    let top = scene.page();
    scene.context(SOURCE, ContextEntry::new(top, 2, 5));
    for page in 0..4096 {
        scene.map_second(top, 4, page << 12, 12, SecondStageEntry::new(0x4000_0000 + (page << 12)));
    }
    scene
}
fn per_second(name: &str, mut work: impl FnMut() -> u32) -> f64 {
    let start = Instant::now();
    let count = work();
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    println!("{name}: {rate:.0} a second");
    rate
}

#[test]
#[ignore = "takes its time, and means something in release mode only"]
fn translations_are_as_fast_as_promised() {
    let mut scene = scene();
    let cold = per_second("cold", || {
        for _ in 0..25 {
            scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Legacy);
            for page in 0..4096 {
                let answer = scene.unit.request(&mut scene.bus, &read(page << 12));
                assert!(matches!(answer, Answer::Passed(_)));
            }
        }
        25 * 4096
    });
    let colder = per_second("without any cache", || {
        for _ in 0..25 {
            for page in 0..4096 {
                scene.unit.caches.invalidate(&crate::Invalidation::Everything, Mode::Legacy);
                let answer = scene.unit.request(&mut scene.bus, &read(page << 12));
                assert!(matches!(answer, Answer::Passed(_)));
            }
        }
        25 * 4096
    });
    for page in 0..4096 {
        scene.unit.request(&mut scene.bus, &read(page << 12));
    }
    let warm = per_second("warm", || {
        for _ in 0..250 {
            for page in 0..4096 {
                let answer = scene.unit.request(&mut scene.bus, &read(page << 12));
                assert!(matches!(answer, Answer::Passed(_)));
            }
        }
        250 * 4096
    });
    assert!(warm > 1e6 && cold > 2e5 && colder > 2e5);
}

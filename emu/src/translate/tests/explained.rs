//! Explanations.

use super::*;
use crate::explain::{Step, What};
use std::string::ToString;

fn scene() -> (Scene, u64) {
    let mut scene = Scene::legacy();
    let top = scene.page();
    scene.context(SOURCE, ContextEntry::new(top, 1, 5));
    scene.map_second(top, 3, 0x7000, 12, SecondStageEntry::new(0x9000));
    (scene, top)
}

#[test]
fn a_cold_walk_is_told_entry_by_entry() {
    let (mut scene, top) = scene();
    let explanation = scene.unit.explain(&mut scene.bus, &write(0x7123));
    let read: std::vec::Vec<What> = explanation
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Read { what, .. } => Some(*what),
            _ => None,
        })
        .collect();
    let expected = [What::Root, What::Context, What::SecondStage(30), What::SecondStage(21), What::SecondStage(12)];
    assert_eq!(read, expected);
    let text = explanation.to_string();
    for line in [
        "01:02.3 write of 4 bytes at 0x7123\n",
        "  root entry at 0x1010: 0x0000000000102001 0x0000000000000000\n",
        &std::format!("  second-stage entry of level 3 at {top:#x}: "),
        "  not so: LSS.2 (0ch): a second-stage entry has reserved bits set\n",
        "  passed to 0x9123 in a page of 0x1000 bytes, snooped\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
#[test]
fn a_warm_walk_tells_of_the_caches() {
    let (mut scene, _) = scene();
    scene.passed(read(0x7000));
    let text = scene.unit.explain(&mut scene.bus, &read(0x7000)).to_string();
    assert!(text.contains("  translation (Second), cached: 0x1000 bytes from 0x7000 at 0x9000\n"), "{text}");
    let text = scene.unit.explain(&mut scene.bus, &read(0x8000)).to_string();
    assert!(text.contains("  context entry, cached: "), "{text}");
    assert!(text.contains("  second-stage table of level 1, cached: "), "{text}");
    assert!(text.contains("  fault LGN.3 (06h): there is no permission to read\n"), "{text}");
    assert!(text.contains("  blocked (unsupported request): LGN.3"), "{text}");
}
#[test]
fn explaining_changes_nothing() {
    let mut scene = Scene::scalable();
    let top = scene.page();
    scene.pasid(SOURCE, 0, PasidEntry::first_stage(top, false, 5).with(PasidEntry::PWSNP, 1));
    let at = scene.map_first(top, 4, 0x7000, 12, FirstStageEntry::new(0x9000));
    let explanation = scene.unit.explain(&mut scene.bus, &write(0x7000));
    assert!(explanation.to_string().contains("first-stage entry of level 1 at "), "{explanation}");
    assert!(explanation.to_string().contains("marked: 0x0000000000009007 becomes 0x0000000000009067"), "{explanation}");
    assert_eq!(scene.get(at), 0x9007);
    scene.unit.explain(&mut scene.bus, &write(0x8000));
    assert_eq!(scene.recorded(), None);
    assert!(scene.unit.caches.leaf(SOURCE, None, 0x7000).is_none());
    assert!(scene.unit.caches.context(SOURCE).is_none());
}
#[test]
fn unreadable_tables_are_told() {
    let mut scene = Scene::legacy();
    scene.unit.state.root = NOWHERE;
    let text = scene.unit.explain(&mut scene.bus, &read(0x7000).with_pasid(5)).to_string();
    assert!(text.contains("PASID 0x5") && text.contains("RTA.2"), "{text}");
    let text = scene.unit.explain(&mut scene.bus, &read(0x7000)).to_string();
    assert!(text.contains("  root entry at 0x10000000010: no memory\n"), "{text}");
    assert!(text.contains("  fault LRT.1 (08h): the root entry could not be read\n"), "{text}");
}

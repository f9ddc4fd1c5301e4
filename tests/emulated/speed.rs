//! How long a whole story takes: bring-up, attachment, mapping, DMA, unmapping, detachment, hand-back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use vtd_emu::Profile;

use crate::rig::{AT, Mode, Plan, dev, map, unmap};

crate::stories!(a_whole_story_takes_less_than_a_millisecond);

static TOOK: Mutex<BTreeMap<&str, Duration>> = Mutex::new(BTreeMap::new());

/// What the stories of all profiles took.
pub fn told() -> String {
    let took = TOOK.lock().unwrap();
    let all: Vec<String> = took.iter().map(|(name, time)| format!("{name} {}", time.as_micros())).collect();
    format!("  A whole story, in microseconds: {}", all.join(", "))
}

fn a_whole_story_takes_less_than_a_millisecond(profile: &Profile, mode: Mode) {
    if mode.name != "prompt" {
        return;
    }
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        let rig = Plan::new(profile, mode).up();
        let page = rig.page();
        let (group, domain, _) = rig.attached(dev(3));
        map(&domain, AT, page, 0x1000);
        rig.reaches(dev(3), AT, page);
        unmap(&domain, AT, AT + 0xfff);
        drop((group, domain));
        rig.end();
        best = best.min(begun.elapsed());
    }
    TOOK.lock().unwrap().insert(profile.name, best);
    // Twice what is promised: the machine may be busy, and checks are on.
    assert!(best < Duration::from_millis(2), "{best:?}");
}

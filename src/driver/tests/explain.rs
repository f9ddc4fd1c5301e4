//! Explaining while others hold what it would look at: after a panic they hold it for ever.

use super::machine::{Machine, WIDE, dev, map};
use crate::explain::{Attachment, Attempt, Verdict};
use crate::unit::standin::{CAP, ECAP, ECAP_SM};
use crate::{ErrorKind, Iova, Target};
use std::string::ToString;

fn told_but_not_waited_for(ecap: u64) {
    let m = Machine::new(&[(CAP, ecap)]);
    let group = m.claim(dev(1));
    let domain = m.vtd.domain::<crate::Strict>(&WIDE).unwrap();
    group.attach(Target::Domain(&domain)).unwrap();
    map(&domain, 0x1000, 0x9000, 0x1000);
    let ask = || m.vtd.explain(dev(1), None, Iova::at(0x1000), Attempt::Read).unwrap();
    let whole = ask();
    let reaches = |v| matches!(v, Verdict::Reaches { to, .. } if to.get() == 0x9000);
    assert!(reaches(whole.walk.verdict) && !whole.held, "{whole}");
    let steps = whole.walk.steps().len();
    {
        // Groups: whose tables these are is not seen, nor is their inside.
        let registry = m.vtd.core().registry().unwrap();
        let _held = registry.states.lock(&m.host);
        let e = ask();
        assert_eq!((e.walk.verdict, e.held, e.attached, e.owner), (Verdict::Unknown, true, None, None), "{e}");
        assert_eq!(e.walk.steps().len(), steps - 3, "{e}");
        assert!(e.to_string().ends_with("Somebody holds a lock: not everything was looked at."));
    }
    {
        // The domain: its tables are not looked at.
        let _edit = domain.edit();
        let e = ask();
        assert_eq!((e.walk.verdict, e.held, e.attached), (Verdict::Unknown, true, Some(Attachment::Domain)), "{e}");
    }
    {
        // The unit's tables: not even the first entry is known.
        let unit = &m.vtd.core().units().get(0).unwrap();
        let _held = unit.root.lock(&m.host);
        let e = ask();
        assert_eq!((e.walk.verdict, e.held, e.walk.steps().len()), (Verdict::Unknown, true, 1), "{e}");
    }
    // Nothing is held when it is over.
    assert!(!ask().held);
    // The unit goes at the next store.
    m.units[0].state().gone_after = Some(0);
    assert!(group.attach(Target::Blocked).is_err());
    let gone = m.vtd.explain(dev(1), None, Iova::at(0), Attempt::Read).unwrap_err();
    assert_eq!((gone.kind, gone.device), (ErrorKind::UnitGone, Some(dev(1))));
}

#[test]
fn a_lock_that_is_held_is_told_and_not_waited_for() {
    told_but_not_waited_for(ECAP);
    told_but_not_waited_for(ECAP_SM);
}

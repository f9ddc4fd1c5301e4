//! Which stores leave the CPU's caches: those that a unit would not see there, by the kind of table, and no others (VT-d 6.8,
//! ECAP.C, ECAP.SMPWCS).

use vtd::Target;
use vtd_emu::Profile;

use crate::rig::{AT, Mode, Plan, Rig, dev, map, unmap};

crate::stories!(lines_are_flushed_by_what_the_unit_does_not_snoop_and_by_nothing_else);

/// Cache lines that `body` flushes.
fn lines(rig: &Rig, body: impl FnOnce()) -> u64 {
    let before = rig.host.lines();
    body();
    rig.host.lines() - before
}

fn lines_are_flushed_by_what_the_unit_does_not_snoop_and_by_nothing_else(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let entries = profile.coherent();
    let walks = if mode.scalable(profile) { profile.smpwcs() } else { entries };
    let group = rig.vtd.claim(rig.vtd.group_of(dev(3)).unwrap(), vtd::Owner::HOST).unwrap();
    let domain = rig.domain(&group);
    assert_eq!(domain.spec().coherent, walks);
    // Entries in tables that are made with the first: root, context, in scalable mode directory and PASID tables, a page each.
    let made = lines(&rig, || assert!(group.attach(Target::Domain(&domain)).is_ok()));
    assert_eq!(made == 0, entries, "{made} lines");
    let again = lines(&rig, || {
        group.attach(Target::Blocked).unwrap();
        group.attach(Target::Domain(&domain)).unwrap();
    });
    // An entry is within a line, and was cleared and written.
    assert_eq!(again, if entries { 0 } else { 2 });
    let page = rig.memory(4);
    // The first page makes tables, each whole; the next in the same table is an entry.
    let first = lines(&rig, || map(&domain, AT, page, 0x1000));
    assert_eq!(first == 0, walks, "{first} lines");
    let second = lines(&rig, || map(&domain, AT + 0x1000, page + 0x1000, 0x1000));
    assert_eq!(second, u64::from(!walks));
    // Eight entries are a line.
    let eight = lines(&rig, || map(&domain, AT + 0x8000, page + 0x8000, 0x8000));
    assert_eq!(eight, u64::from(!walks));
    rig.reaches(dev(3), AT + 0x8000, page + 0x8000);
    let gone = lines(&rig, || unmap(&domain, AT + 0x8000, AT + 0xffff));
    assert_eq!(gone, u64::from(!walks));
    group.release().map_err(|(_, e)| e).unwrap();
    drop(domain);
    rig.end();
}

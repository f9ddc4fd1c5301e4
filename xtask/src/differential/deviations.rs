//! Where QEMU's unit is known to answer otherwise than the specification has it.
//!
//! A deviation says for a step what each side must have answered. One that claims a step in which both agree is wrong, and so
//! is one that nothing falls under any more.

use super::case::Part;
use super::compare::{Pair, Record};

/// A known difference.
pub struct Deviation {
    pub name: &'static str,
    /// Why QEMU is as it is.
    pub reason: &'static str,
    /// The forms in which it comes about; none: in all.
    pub forms: &'static [&'static str],
    /// Whether the two answers to a step differ as this says.
    pub claims: fn(&Pair<'_>) -> bool,
}

const fn new(
    name: &'static str,
    reason: &'static str,
    forms: &'static [&'static str],
    claims: fn(&Pair<'_>) -> bool,
) -> Deviation {
    Deviation { name, reason, forms, claims }
}

/// Forms that walk second-stage tables, and report them as in legacy mode.
const LEGACY: &[&str] = &["legacy", "legacy-39", "caching"];

pub static DEVIATIONS: &[Deviation] = &[
    new(
        "high-address-bits",
        "FRCD.FI has only the bits that the widest tables translate (11.4.7.6); QEMU records all",
        &[],
        |pair| {
            both(pair, |ours, theirs| {
                let mask = (1 << (pair.case.form.width - 12)) - 1;
                theirs.page & !mask != 0
                    && ours.page == theirs.page & mask
                    && Record { page: ours.page, ..theirs } == ours
            })
        },
    ),
    new(
        "rights-first",
        "QEMU looks at an entry's rights before anything else in it or below it; vtd-emu at the end of the walk",
        LEGACY,
        |pair| {
            let names = ["no reading", "no writing", "nothing"];
            same_but_reason(pair, |ours, theirs, read| {
                matches!(ours, 0x07 | 0x0c | 0x0e) && theirs == if read { 0x06 } else { 0x05 }
            }) && pair.mutated(|part| matches!(part, Part::Entry(2, _)), &names)
        },
    ),
    new(
        "cached-rights",
        "QEMU drops an access that a cached translation does not allow without recording it (pitfall 3)",
        &[],
        |pair| {
            let (Some(ours), None) = pair.records() else { return false };
            let Some(dma) = pair.dma() else { return false };
            matches!(ours.reason, 0x05 | 0x06 | 0x85) && pair.passed_before(dma)
        },
    ),
    new(
        "malformed-and-silent",
        "FPD holds in a malformed entry too (7.1.3); QEMU does not ask it there",
        &[],
        |pair| {
            let (None, Some(theirs)) = pair.records() else { return false };
            let silent = |part| matches!(part, Part::Context | Part::Directory | Part::PasidEntry);
            matches!(theirs.reason, 0x0b) && pair.mutated(silent, &["faults not to be recorded"])
        },
    ),
    new("idle-wait", "QEMU takes a wait that asks for nothing for an error (its section 4)", &[], |pair| {
        theirs_stopped(pair, |[word, ..]| word & 0xf == 5 && word & 0x70 == 0)
    }),
    new("unwritable-status", "QEMU stops at a wait whose status cannot be written", &[], |pair| {
        theirs_stopped(pair, |[word, at, ..]| word & 0xf == 5 && word & 0x20 != 0 && at >> 33 != 0)
    }),
    new("device-tlb-without-any", "QEMU takes device-TLB invalidations without ECAP.DT", &[], |pair| {
        ours_stopped(pair, |[word, ..]| matches!(word & 0xf, 3 | 8))
    }),
    new("response-without-requests", "QEMU takes page-group responses without ECAP.PRS", &[], |pair| {
        ours_stopped(pair, |[word, ..]| word & 0xf == 9)
    }),
    new(
        "interrupt-mask",
        "QEMU takes any index mask in an interrupt-cache invalidation, whatever ECAP.MHMV says",
        &[],
        |pair| ours_stopped(pair, |[word, ..]| word & 0x1f == 0x14 && word >> 27 & 0x1f > 15),
    ),
];

/// Whether both recorded faults, and these.
fn both(pair: &Pair<'_>, what: impl Fn(Record, Record) -> bool) -> bool {
    let (Some(ours), Some(theirs)) = pair.records() else { return false };
    what(ours, theirs)
}

/// Whether the records differ in the reason only, and in this way: ours, theirs, whether of a read.
fn same_but_reason(pair: &Pair<'_>, reasons: impl Fn(u8, u8, bool) -> bool) -> bool {
    both(pair, |ours, theirs| {
        Record { reason: theirs.reason, ..ours } == theirs && reasons(ours.reason, theirs.reason, ours.read)
    })
}

fn ours_stopped(pair: &Pair<'_>, at: impl Fn([u64; 4]) -> bool) -> bool {
    pair.heads().0.is_some_and(at)
}

fn theirs_stopped(pair: &Pair<'_>, at: impl Fn([u64; 4]) -> bool) -> bool {
    pair.heads().1.is_some_and(at)
}

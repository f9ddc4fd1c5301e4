//! Where QEMU's unit is known to answer otherwise than the specification has it.
//!
//! A deviation says for a step what each side must have answered. One that claims a step in which both agree is wrong, and so
//! is one that nothing falls under any more.

use super::case::{Part, What};
use super::compare::{Pair, Record};
use super::registers::RTADDR;

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

impl Deviation {
    /// Whether a form may have it.
    pub fn is_of(&self, form: &str) -> bool {
        self.forms.is_empty() || self.forms.contains(&form)
    }
}

const fn new(
    name: &'static str,
    reason: &'static str,
    forms: &'static [&'static str],
    claims: fn(&Pair<'_>) -> bool,
) -> Deviation {
    Deviation { name, reason, forms, claims }
}

const SCALABLE: &[&str] = &["second-stage", "first-stage", "marks"];
const FIRST: &[&str] = &["first-stage"];
const MARKS: &[&str] = &["marks"];

/// Mutations that QEMU does not see.
const UNCHECKED: &[&str] = &[
    "reserved bit of the directory",
    "reserved bit of the first word",
    "reserved bit of the second word",
    "reserved bit of the third word",
    "reserved bit of the last words",
    "a feature that is not there",
    "RID_PASID",
    "another mode of the first stage",
    "first-stage pointer to a hole",
    "pointer to a hole",
    "bit 11",
];

pub static DEVIATIONS: &[Deviation] = &[
    new(
        "high-address-bits",
        "FRCD.FI has only the bits that the widest tables translate (11.4.7.6); QEMU records all",
        &[],
        |pair| {
            both(pair, |ours, theirs| {
                let mask = (1 << (pair.case.form.width - 12)) - 1;
                theirs.page & !mask != 0 && ours.page == theirs.page & mask && akin(pair, ours, theirs)
            })
        },
    ),
    new(
        "legacy-reasons",
        "QEMU gives the reasons of legacy mode for root, context and second-stage entries in scalable mode (its section 3)",
        SCALABLE,
        |pair| same_but_reason(pair, |ours, theirs, read| ours != theirs && legacy_reason(ours, read) == theirs),
    ),
    new(
        "scalable-reason",
        "a scalable unit of QEMU's has one reason for pages in the interrupt range, in legacy mode too",
        SCALABLE,
        |pair| same_but_reason(pair, |ours, theirs, _| (ours, theirs) == (0x0e, 0x87)),
    ),
    new(
        "rights-first",
        "QEMU looks at an entry's rights before anything else in it or below it; vtd-emu at the end of the walk",
        &[],
        |pair| {
            same_but_reason(pair, |ours, theirs, read| match theirs {
                0x05 => !read && matches!(ours, 0x07 | 0x0c | 0x0e | 0x78 | 0x79 | 0x7a | 0x87),
                0x06 => read && matches!(ours, 0x07 | 0x0c | 0x0e | 0x78 | 0x79 | 0x7a | 0x87),
                0x81 => matches!(ours, 0x70 | 0x71 | 0x72 | 0x85 | 0x87 | 0x90),
                0x85 => !read && matches!(ours, 0x70 | 0x71 | 0x72 | 0x81 | 0x87 | 0x90),
                _ => false,
            })
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
        "FPD holds in an absent or malformed entry too (7.1.3); QEMU does not ask it there",
        &[],
        |pair| pair.records().0.is_none() && like(pair, &["faults not to be recorded"]),
    ),
    new(
        "unchecked-reserved",
        "QEMU checks few reserved bits of scalable tables, RID_PASID and features it lacks not at all (its section 3)",
        SCALABLE,
        |pair| like(pair, UNCHECKED),
    ),
    new(
        "other-half",
        "QEMU checks the reserved bits of both halves of a scalable root entry, whichever it needs",
        SCALABLE,
        |pair| {
            let (ours, theirs) = pair.records();
            theirs.is_some_and(|theirs| theirs.reason == 0x0a)
                && ours.is_none_or(|ours| !matches!(ours.reason, 0x0a | 0x3a))
                && pair.mutated(
                    |part| part == Part::Root,
                    &["reserved bit in the upper half", "reserved bit below the pointer"],
                )
        },
    ),
    new(
        "type-before-presence",
        "QEMU looks at a PASID entry's type before it looks whether it is present",
        SCALABLE,
        |pair| same_but_reason(pair, |ours, theirs, _| (ours, theirs) == (0x59, 0x5b)),
    ),
    new(
        "first-stage-width",
        "QEMU takes the width of first-stage addresses from AW, which does not count there (9.6)",
        FIRST,
        |pair| {
            let names = ["another width", "another type"];
            pair.records().1.is_some_and(|theirs| theirs.reason == 0x80)
                && pair.records().0.is_none_or(|ours| ours.reason != 0x80)
                && pair.mutated(|part| part == Part::PasidEntry, &names)
        },
    ),
    new(
        "walk-marks-unsnooped-tables",
        "QEMU sets accessed and dirty bits whether or not walks are snooped (9.8 wants 90h)",
        FIRST,
        |pair| pair.records().0.is_some_and(|ours| ours.reason == 0x90) && like(pair, &["not accessed", "not dirty"]),
    ),
    new(
        "one-mark-for-both",
        "at a write QEMU sets neither the accessed nor the dirty bit of an entry that has one of them",
        MARKS,
        |pair| {
            let differences = pair.differences();
            let half = |(what, ours, theirs): &(What, u64, u64)| {
                matches!(what, What::Memory(_)) && *ours == theirs | 3 << 5 && matches!(theirs >> 5 & 3, 1 | 2)
            };
            !differences.is_empty() && differences.iter().all(half)
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
    new(
        "pasid-iotlb-mask",
        "QEMU holds CAP.MAMV against PASID-based invalidations too (6.5.2.4 does not)",
        SCALABLE,
        |pair| theirs_stopped(pair, |[word, at, ..]| word & 0x3f == 0x36 && at & 0x3f > 18),
    ),
    new("wrong-mode", "QEMU takes PASID-based invalidations in legacy mode too", SCALABLE, |pair| {
        ours_stopped(pair, |[word, ..]| matches!(word & 0xf, 6 | 7))
            && pair.written(RTADDR).is_some_and(|root| root & 1 << 10 == 0)
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

/// The same fault, but for what QEMU calls otherwise and for the bits of the address that it has too many.
fn akin(pair: &Pair<'_>, ours: Record, theirs: Record) -> bool {
    let mask = (1 << (pair.case.form.width - 12)) - 1;
    let reason =
        if SCALABLE.contains(&pair.case.form.name) { legacy_reason(ours.reason, ours.read) } else { ours.reason };
    let page = theirs.page & mask;
    let theirs = if page == ours.page { Record { page, ..theirs } } else { theirs };
    theirs == ours || theirs == Record { reason, ..ours }
}

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

/// The reason that legacy mode has for what scalable mode calls so.
fn legacy_reason(reason: u8, read: bool) -> u8 {
    match reason {
        0x38 => 0x08,
        0x39 => 0x01,
        0x3a => 0x0a,
        0x40 => 0x09,
        0x41 => 0x02,
        0x42 => 0x0b,
        0x78 => 0x07,
        0x79 if read => 0x06,
        0x79 | 0x85 => 0x05,
        0x7a => 0x0c,
        0x7b => 0x03,
        0x84 => 0x04,
        0x86 => 0x06,
        other => other,
    }
}

/// Whether QEMU answers as if the case had not done this, but for the name of a reason.
fn like(pair: &Pair<'_>, names: &[&str]) -> bool {
    if pair.agrees() {
        return false;
    }
    let Some(ours) = pair.as_if_without(names) else { return false };
    let pair = Pair { ours: &ours, ..*pair };
    match pair.records() {
        (Some(ours), Some(theirs)) => akin(&pair, ours, theirs),
        (None, None) => pair.passed().0 == pair.passed().1 && pair.data_agrees(),
        _ => false,
    }
}

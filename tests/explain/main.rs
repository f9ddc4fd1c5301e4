//! The driver's walk (`vtd::explain::walk`) against the emulated unit's: two statements of the specification, random tables of
//! every kind in every profile, random requests; each verdict is the same, to the reason, address, page size and rights.

mod make;

use std::collections::BTreeSet;

use make::{Tables, build, profile};
use vtd::explain::{Attempt, Request, Unit, Verdict, Word, walk};
use vtd::hw::capabilities::{Cap, Capabilities, Ecap, Version};
use vtd::hw::faults::Reason;
use vtd::hw::registers::RootPointer;
use vtd::{Access, Hpa, Pasid};
use vtd_emu::{Answer, Memory, Random, Size};

/// What the emulated unit is told: SRTP, then TE.
fn turn_on(t: &mut Tables, pointer: u64) {
    t.machine.write(0, 0x20, Size::Quad, pointer);
    for command in [1u64 << 30, 1 << 31] {
        t.machine.write(0, 0x18, Size::Double, command);
        for _ in 0..1000 {
            if t.machine.read(0, 0x1c, Size::Double) & command != 0 {
                break;
            }
        }
    }
}

fn asked(request: &Request) -> vtd_emu::Request {
    let access = match request.attempt {
        Attempt::Read => vtd_emu::Access::Read,
        Attempt::Write => vtd_emu::Access::Write,
        Attempt::Atomic => vtd_emu::Access::Atomic,
        Attempt::Flush => vtd_emu::Access::Flush,
    };
    vtd_emu::Request {
        pasid: request.pasid.map(Pasid::get),
        privileged: request.privileged,
        execute: request.execute,
        length: request.bytes,
        ..vtd_emu::Request::new(request.source.0, access, request.address)
    }
}

/// The emulated unit's answer in the driver's words; it says no rights.
fn told(answer: Answer) -> Verdict {
    match answer {
        Answer::Passed(p) => {
            Verdict::Reaches { to: Hpa::new(p.address).expect("a host address"), size: p.page, rights: Access::empty() }
        }
        Answer::Blocked(f) => Verdict::Blocked { reason: Reason(f.reason.0), recorded: f.recordable },
        Answer::Interrupt => Verdict::Interrupt,
        Answer::Nothing => Verdict::Completes,
        Answer::Translated(_) => panic!("nobody asked for a translation"),
    }
}

/// Both answers to a request.
fn both(t: &mut Tables, unit: &Unit, request: Request) -> (Verdict, Verdict) {
    let mine = walk(unit, request, &mut |at| match t.machine.memory().read64(at) {
        Some(word) => Word::Is(word),
        None => Word::NoMemory,
    });
    let theirs = t.machine.with_unit(0, |u, bus| u.look(bus, &asked(&request))).expect("there is a unit");
    (mine.verdict, told(theirs))
}

fn without_rights(v: Verdict) -> Verdict {
    match v {
        Verdict::Reaches { to, size, .. } => Verdict::Reaches { to, size, rights: Access::empty() },
        other => other,
    }
}

/// A case by its seed. What came of it, for the sum.
fn case(seed: u64) -> Verdict {
    let mut random = Random::new(seed);
    let profile = profile(&mut random);
    let caps = Capabilities { version: Version(profile.version), cap: Cap(profile.cap), ecap: Ecap(profile.ecap) };
    let (width, strict) = (profile.width, profile.strict_aw);
    let mut t = Tables::new(profile, random.bits());
    let (pointer, request) = build(&mut t);
    turn_on(&mut t, pointer);
    let unit = Unit { caps, hpa_width: width, root: RootPointer(pointer), strict_width: strict };
    let (mine, theirs) = both(&mut t, &unit, request);
    if without_rights(mine) != theirs {
        let why = t.machine.with_unit(0, |u, bus| u.explain(bus, &asked(&request)).to_string()).unwrap();
        let here = walk(&unit, request, &mut |at| t.machine.memory().read64(at).map_or(Word::NoMemory, Word::Is));
        panic!("case {seed}, {}, strict {strict}: {mine:?}, but the unit {theirs:?}\n{here}\n{why}", t.profile.name);
    }
    // Rights are what other requests get there, but for marks that cannot be set.
    if let Verdict::Reaches { rights, .. } = mine {
        for (attempt, wants) in [(Attempt::Read, Access::READ), (Attempt::Write, Access::WRITE)] {
            let (other, _) = both(&mut t, &unit, Request { attempt, ..request });
            let fits = match other {
                Verdict::Reaches { .. } => rights.contains(wants),
                Verdict::Blocked { reason, .. } => match reason.0 {
                    0x05 | 0x06 | 0x85 | 0x86 => !rights.contains(wants),
                    0x77 | 0x7c | 0x90 => attempt == Attempt::Write,
                    _ => false,
                },
                _ => false,
            };
            assert!(fits, "case {seed}: {rights:?}, but {attempt:?} is {other:?}");
        }
    }
    mine
}

/// The reasons that an untranslated request can meet, but for marks whose store fails: memory that is read can be written.
const REASONS: &[u8] = &[
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0e, 0x29, 0x30, 0x31, 0x33, 0x34, 0x38,
    0x39, 0x3a, 0x40, 0x41, 0x42, 0x43, 0x45, 0x46, 0x48, 0x50, 0x51, 0x52, 0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x70,
    0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x7c, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x89, 0x90,
];

#[test]
fn the_walk_says_what_the_emulated_unit_does() {
    let percent = std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100u64);
    let mut met = BTreeSet::new();
    let (mut reached, mut others) = (0, BTreeSet::new());
    let cases = 200_000 * percent / 100;
    for seed in 0..cases {
        match case(seed) {
            Verdict::Reaches { .. } => reached += 1,
            Verdict::Blocked { reason, .. } => drop(met.insert(reason.0)),
            other => drop(others.insert(format!("{other:?}"))),
        }
    }
    assert!(reached > cases / 8, "of {cases} only {reached} reach memory");
    if percent >= 100 {
        let missing: Vec<_> = REASONS.iter().filter(|r| !met.contains(r)).map(|r| Reason(*r).name()).collect();
        assert!(missing.is_empty(), "never met: {missing:?}");
        assert_eq!(Vec::from_iter(&others), ["Completes", "Interrupt"]);
    }
}

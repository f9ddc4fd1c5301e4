//! The walk's words, and its bounds. What it says of random tables: `tests/explain/`.

use super::*;
use crate::hw::capabilities::{AddressWidth, Cap, Capabilities, Ecap, Version};
use crate::hw::faults::Reason;
use crate::hw::pages::{self, first};
use crate::hw::pasid_tables::{Allowed, DirectoryEntry, FirstStage, PasidEntry, ScalableContextEntry, SecondStage};
use crate::hw::registers::{RootPointer, TableMode};
use crate::hw::tables::{ContextEntry, RootEntry};
use crate::{Pasid, SourceId};
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

/// 39, 48 and 57 bits, MGAW 57, 2 MiB and 1 GiB pages, FS1GP, FS5LP, ZLR, 16-bit domain ids.
const CAP: u64 = 6 | 0b1110 << 8 | 56 << 16 | 1 << 22 | 3 << 34 | 1 << 56 | 1 << 60;
/// C, QI, DT, PT, SC, NEST, SRS, EAFS, PSS 20, PASID, SMTS, SSADS, SSTS, FSTS, SMPWCS, RPS, RPRIVS.
const ECAP: u64 = 0b1100_0111 | 1 << 26 | 1 << 31 | 1 << 34 | 19 << 35 | 1 << 40 | 1 << 43 | 0b1_1111 << 45 | 1 << 53;

const RW: u64 = pages::READ | pages::WRITE;

#[derive(Default)]
struct Tables(BTreeMap<u64, u64>);

impl Tables {
    fn put(mut self, at: u64, words: &[u64]) -> Self {
        self.0.extend(words.iter().enumerate().map(|(i, w)| (at + 8 * i as u64, *w)));
        self
    }

    fn walk(&self, mode: TableMode, request: Request) -> Walk {
        self.walk_of(46, mode, request)
    }

    /// There is memory below 1 MiB, and addresses of so many bits.
    fn walk_of(&self, hpa_width: u8, mode: TableMode, request: Request) -> Walk {
        let caps = Capabilities { version: Version(0x50), cap: Cap(CAP), ecap: Ecap(ECAP) };
        let unit = Unit { caps, hpa_width, root: RootPointer::new(0x1000, mode), strict_width: false };
        walk(&unit, request, &mut |at| match at {
            0..0x10_0000 => Word::Is(self.0.get(&at).copied().unwrap_or(0)),
            _ => Word::NoMemory,
        })
    }
}

fn legacy() -> Tables {
    let context = ContextEntry::second_stage(0x3000, AddressWidth::Bits39, 5);
    Tables::default()
        .put(0x1000, &[RootEntry::legacy(0x2000).lo])
        .put(0x2000 + 16 * 0x18, &[context.lo, context.hi])
        .put(0x3000, &[0x4000 | RW])
        .put(0x4000, &[0x5000 | RW, 0x4000_0000 | pages::READ | pages::PAGE_SIZE])
        .put(0x5008, &[0x9000 | RW | pages::SNOOP])
}

fn read(address: u64) -> Request {
    Request::new(SourceId::new(0, 3, 0), Attempt::Read, address)
}

fn write(address: u64) -> Request {
    Request { attempt: Attempt::Write, ..read(address) }
}

/// The last lines.
fn end(walk: &Walk, n: usize) -> String {
    let text = walk.to_string();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    lines[lines.len() - n..].join("\n")
}

#[test]
fn a_walk_prints_a_line_a_step() {
    let walk = legacy().walk(TableMode::Legacy, write(0x1234));
    assert_eq!(
        walk.to_string(),
        "00:03.0: write at 0x1234
  root table, entry 0x0 at 0x1000 = 0x2001 0x0: context table at 0x2000
  context table, entry 0x18 at 0x2180 = 0x3001 0x501: domain 5, second stage, 39 bits, top table at 0x3000
  second-stage table of level 3, entry 0x0 at 0x3000 = 0x4003: read and write, table at 0x4000
  second-stage table of level 2, entry 0x0 at 0x4000 = 0x5003: read and write, table at 0x5000
  second-stage table of level 1, entry 0x1 at 0x5008 = 0x9803: read and write, a page of 4 KiB, to 0x9234
  reaches 0x9234 in a page of 4 KiB and may read and write"
    );
    assert_eq!(walk.blocked_by(), None);
    let walk = legacy().walk(TableMode::Legacy, write(0x20_1000));
    assert_eq!(
        end(&walk, 2),
        "second-stage table of level 2, entry 0x1 at 0x4008 = 0x40000081: read, \
         no right to write, there or in a table above\n\
         blocked: 05h LGN.2: a write without the right to write: the page is not mapped or read-only"
    );
    assert_eq!(walk.blocked_by().map(|s| (s.what, s.index)), Some((What::Second(2), 1)));
    let walk = legacy().walk(TableMode::Legacy, read(0x20_1000));
    assert_eq!(end(&walk, 1), "reaches 0x40001000 in a page of 2 MiB and may read");
}

#[test]
fn what_stands_against_a_request_is_named() {
    let at = 0x1000;
    let said = |tables: Tables, request| end(&tables.walk(TableMode::Legacy, request), 2);
    assert!(
        said(legacy(), read(0x3000))
            .starts_with("second-stage table of level 1, entry 0x3 at 0x5018 = 0x0: not present\nblocked: 06h LGN.3")
    );
    // Bits 62 and 51:46, by number.
    let spoilt = legacy().put(0x5008, &[0x400f_c000_0000_9003]);
    assert!(said(spoilt, read(at)).contains(": reserved bits set: 51:46, 62\nblocked: 0ch LSS.2"));
    let spoilt = legacy().put(0x2188, &[0x1_0000_0581]);
    assert!(said(spoilt, read(at)).contains(": reserved bits set: 71, 96\nblocked: 0bh LCT.3"));
    // No memory, and FPD.
    let quiet = ContextEntry::second_stage(0x20_0000, AddressWidth::Bits39, 5).with_fpd(true);
    let spoilt = legacy().put(0x2180, &[quiet.lo, quiet.hi]);
    assert_eq!(
        said(spoilt, read(at)),
        "second-stage table of level 3, entry 0x0 at 0x200000: no memory there\n\
         blocked: 03h LCT.4: the context entry has a width or type that the unit lacks, or its top table cannot be read; \
         not recorded, as FPD is set on the way"
    );
    let walk = legacy().walk(TableMode::Legacy, read(1 << 39));
    assert!(end(&walk, 2).contains("39 bits, the address is above the width\nblocked: 04h LGN.1"));
}

#[test]
fn requests_that_no_table_decides() {
    let verdict = |mode, request| legacy().walk(mode, request).verdict;
    let blocked = |code| Verdict::Blocked { reason: Reason(code), recorded: true };
    assert_eq!(verdict(TableMode::Legacy, write(0xfee0_0000)), Verdict::Interrupt);
    assert_eq!(verdict(TableMode::Legacy, read(0xfeef_fffc)), blocked(0x29));
    let flush = Request { attempt: Attempt::Flush, ..read(0xfee0_0000) };
    assert_eq!(verdict(TableMode::Legacy, flush), Verdict::Completes);
    assert_eq!(verdict(TableMode::Abort, read(0)), blocked(0x30));
    let pasid = read(0).with_pasid(Pasid::new(5).unwrap());
    let walk = legacy().walk(TableMode::Legacy, Request { privileged: true, ..pasid });
    assert_eq!((walk.verdict, walk.steps().len(), walk.blocked_by()), (blocked(0x31), 0, None));
    assert_eq!(walk.to_string().lines().next(), Some("00:03.0: privileged read at 0x0, PASID 0x5"));
}

fn scalable(entry: PasidEntry, rid_pasid: u32) -> Tables {
    let allowed = Allowed { pasid: true, ..Allowed::default() };
    Tables::default()
        .put(0x1000, &[RootEntry::legacy(0x2000).lo])
        .put(0x2000 + 32 * 0x18, &ScalableContextEntry::new(0x3000, 0, rid_pasid, allowed).0)
        .put(0x3000 + 8 * u64::from(rid_pasid >> 6), &[DirectoryEntry::new(0x4000).0])
        .put(0x4000 + 64 * u64::from(rid_pasid & 63), &entry.0)
}

#[test]
fn scalable_tables_in_words() {
    let entry = PasidEntry::first_stage(FirstStage::four_levels(0x5000), 9);
    let user = first::P | first::RW | first::US | first::A;
    let leaf = 0x4000_0000 | first::PS | first::D | user;
    let tables = scalable(entry, 0x41).put(0x5ff8, &[0x6000 | user]).put(0x6ff8, &[leaf]);
    let top = 0xffff_ffff_c000_1000;
    assert_eq!(
        tables.walk(TableMode::Scalable, write(top)).to_string(),
        "00:03.0: write at 0xffffffffc0001000
  scalable root table, entry 0x0 at 0x1000 = 0x2001 0x0: context table at 0x2000
  scalable context table, entry 0x18 at 0x2300 = 0x3009 0x41 0x0 0x0: 8192 PASIDs, 0x41 for requests without, \
  PASIDs allowed, PASID directory at 0x3000
  PASID directory, entry 0x1 at 0x3008 = 0x4001: PASID table at 0x4000
  PASID table, entry 0x1 at 0x4040 = 0x41 0x9 0x5000 0x0: domain 9, first stage, top table at 0x5000
  first-stage table of level 4, entry 0x1ff at 0x5ff8 = 0x6027: user, writable, accessed, table at 0x6000
  first-stage table of level 3, entry 0x1ff at 0x6ff8 = 0x400000e7: user, writable, accessed, dirty, \
  a page of 1 GiB, to 0x40001000
  reaches 0x40001000 in a page of 1 GiB and may read and write"
    );
    let same = read(top).with_pasid(Pasid::new(0x41).unwrap());
    assert!(end(&tables.walk(TableMode::Scalable, same), 2).contains("the PASID is RID_PASID\nblocked: 48h SCT.9"));
    let walk = tables.walk(TableMode::Scalable, read(1 << 48));
    assert!(end(&walk, 2).contains("first stage, the address is not canonical\nblocked: 80h SGN.1"));
    let entry = PasidEntry::pass_through(1);
    assert_eq!(
        end(&scalable(entry, 0).walk(TableMode::Scalable, read(0x1234)), 2),
        "PASID table, entry 0x0 at 0x4000 = 0x101 0x1 0x0 0x0: domain 1, pass-through, addresses pass as they are\n\
         reaches 0x1234 and may read and write"
    );
}

/// Five levels in five levels, all told: every table of the guest and its page lie at addresses of their own.
#[test]
fn the_longest_walk_is_told_whole() {
    let second = SecondStage::new(0x8000, AddressWidth::Bits57);
    let guest = |n: u64| n << 48 | n << 39 | n << 30 | n << 21 | n << 12;
    let five = FirstStage { five_levels: true, ..FirstStage::four_levels(guest(1)) };
    let user = first::P | first::RW | first::US | first::A | first::D;
    let mut tables = scalable(PasidEntry::nested(five, second, 3).with_walk_snoop(), 0);
    for n in 1..=6 {
        // Level 5 is shared; the page that the last level maps is itself somewhere.
        let host = |level: u64| 0x1_0000 + 0x8000 * n + 0x1000 * level;
        tables = tables.put(0x8000 + 8 * n, &[host(4) | RW]);
        for level in (1..=4).rev() {
            let below = if level == 1 { host(0) } else { host(level - 1) };
            tables = tables.put(host(level) + 8 * n, &[below | RW]);
        }
        if n <= 5 {
            tables = tables.put(host(0) + 8 * 7, &[guest(n + 1) | user]);
        }
    }
    let walk = tables.walk_of(52, TableMode::Scalable, write(guest(7) | 0xabc));
    let Verdict::Reaches { to, size, .. } = walk.verdict else { panic!("{walk}") };
    assert_eq!((to.get(), size, walk.steps().len()), (0x1_0000 + 0x8000 * 6 + 0xabc, 0x1000, 4 + 5 * 6 + 5));
    assert_eq!(walk.to_string().lines().count(), 39 + 2);
    // A right that a table of the guest lacks is the second stage's.
    let tables = tables.put(0x8008, &[0x1_c000 | pages::WRITE]);
    let walk = tables.walk_of(52, TableMode::Scalable, read(guest(7)));
    assert!(end(&walk, 2).contains("no right to read the first-stage table there\nblocked: 75h SFS.6"), "{walk}");
    assert_eq!(format!("{walk:?}").matches("Step {").count(), 9);
}

#[test]
fn what_cannot_be_read_is_not_guessed() {
    let caps = Capabilities { version: Version(0x50), cap: Cap(CAP), ecap: Ecap(ECAP) };
    let unit = Unit { caps, hpa_width: 46, root: RootPointer::new(0x1000, TableMode::Legacy), strict_width: false };
    let walk = walk(&unit, read(0x1000), &mut |at| {
        if at < 0x1010 { Word::Is(0x2001 * (1 - at / 8 % 2)) } else { Word::Unknown }
    });
    assert_eq!(
        end(&walk, 2),
        "context table, entry 0x18 at 0x2180: not to be read here\n\
         not known: the walk leads to what cannot be read here"
    );
}

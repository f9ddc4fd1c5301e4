//! Which bits of an entry are reserved on a unit: set in a present entry they are a fault. VT-d 9.1 to 9.8.
//!
//! Each function gives the bits in the entry's own words. `width` is the host address width of the machine.

use super::capabilities::{Cap, Capabilities};
use super::field::Field;
use super::pages::{self, ADDRESS, IO_WRITE, MAX_LEAF_LEVEL, PAGE_SIZE, SNOOP};
use super::pasid_tables::{
    AW, CD, DID, DTE, EAFE, EMTE, FSPM, PASIDE, PAT, PDTS, PGSNP, PGTT, PRE, PWSNP, RID_PASID, RID_PRIV, SRE, SSADE,
    WPE,
};
use super::tables::{CONTEXT_AW, CONTEXT_DID, CONTEXT_SOFTWARE, ContextEntry, FPD, P, TT, Translation};

/// The page address of a pointer, all bits that there are.
const POINTER: Field = Field::bits(63, 12);
/// Scalable context entry: host permission tables for translated requests, PASIDs in translated requests.
const HPTE: Field = Field::bit(5);
const EPTR: Field = Field::bit(6);
/// PASID table entry, third word: ignored.
const IGNORED: Field = Field::bits(6, 5);
/// Fifth word: HPTSZ and HPTPFD.
const HPT_FLAGS: Field = Field::bits(2, 0);

/// All bits of a field.
const fn all(field: Field) -> u64 {
    field.in_place(u64::MAX)
}

/// All bits of a field where the unit has what it is for.
const fn of(has: bool, field: Field) -> u64 {
    if has { all(field) } else { 0 }
}

/// The bits above the host's addresses.
const fn beyond(width: u8) -> u64 {
    if width < 64 { u64::MAX << width } else { 0 }
}

const fn pointer(width: u8) -> u64 {
    all(POINTER) & !beyond(width)
}

const fn domain(cap: Cap, field: Field) -> u64 {
    field.with(cap.domain_ids().saturating_sub(1) as u64)
}

/// Of a legacy root entry.
pub const fn root(width: u8) -> [u64; 2] {
    [!(all(P) | pointer(width)), u64::MAX]
}

/// Of each half of a scalable root entry.
pub const fn scalable_root(width: u8) -> u64 {
    !(all(P) | pointer(width))
}

/// Of `entry` in a legacy context table. Pass-through ignores the address of its tables.
pub const fn context(entry: ContextEntry, caps: &Capabilities, width: u8) -> [u64; 2] {
    let table =
        if matches!(entry.translation(), Some(Translation::PassThrough)) { all(POINTER) } else { pointer(width) };
    let hi = all(CONTEXT_AW) | all(CONTEXT_SOFTWARE) | domain(caps.cap, CONTEXT_DID);
    [!(all(P) | all(FPD) | all(TT) | table), !hi]
}

/// Of a scalable context entry.
pub const fn scalable_context(caps: &Capabilities, width: u8) -> [u64; 4] {
    let e = caps.ecap;
    let allowed = of(e.dt(), DTE) | of(e.pasid(), PASIDE) | of(e.prs(), PRE);
    let translated = of(e.hpts(), HPTE) | of(e.ptrs(), EPTR);
    let lo = all(P) | all(FPD) | allowed | translated | all(PDTS) | pointer(width);
    [!lo, !(of(e.rps(), RID_PASID) | of(e.rprivs(), RID_PRIV)), u64::MAX, u64::MAX]
}

/// Whether a scalable context entry allows PASIDs in translated requests but not in others, which is not allowed.
pub const fn contradicts(entry: u64) -> bool {
    EPTR.is_set(entry) && !PASIDE.is_set(entry)
}

/// Of a PASID directory entry.
pub const fn directory(width: u8) -> u64 {
    !(all(P) | all(FPD) | pointer(width))
}

/// Of an entry in a PASID table. AW is reserved without ECAP.SSTS, says Intel; known units ignore it there, and with
/// `strict_width` it is reserved.
pub const fn pasid(caps: &Capabilities, width: u8, strict_width: bool) -> [u64; 8] {
    let e = caps.ecap;
    let aw = of(e.ssts() || !strict_width, AW);
    let table = if e.ssts() { pointer(width) } else { 0 };
    let a = all(P) | all(FPD) | aw | all(PGTT) | of(e.ssts() && e.ssads(), SSADE) | table;
    let types = of(e.mts(), CD) | of(e.mts(), EMTE) | of(e.mts(), PAT);
    let b = domain(caps.cap, DID) | of(e.smpwcs(), PWSNP) | of(e.sc(), PGSNP) | types;
    let first = of(e.fsts(), FSPM) | of(e.fsts(), WPE) | if e.fsts() { pointer(width) } else { 0 };
    let c = of(e.srs(), SRE) | all(IGNORED) | of(e.eafs(), EAFE) | first;
    let (hpt, hptdid) = if e.hpts() { (all(HPT_FLAGS) | pointer(width), domain(caps.cap, DID)) } else { (0, 0) };
    [!a, !b, !c, u64::MAX, !hpt, !hptdid, u64::MAX, u64::MAX]
}

/// The address bits of an entry below the page that it maps; nothing for a table.
const fn unaligned(level: u8, leaf: bool) -> u64 {
    if leaf { ADDRESS & !pages::leaf_address(level) } else { 0 }
}

/// Whether a second-stage entry of `level` says that it maps a page.
pub const fn second_is_leaf(entry: u64, level: u8) -> bool {
    level == 1 || level <= MAX_LEAF_LEVEL && entry & PAGE_SIZE != 0
}

/// Of a second-stage entry in a table of `level`. With `io_rights` (RTADDR.SSIRWE) bit 62 is a right.
pub const fn second(entry: u64, level: u8, caps: &Capabilities, width: u8, io_rights: bool) -> u64 {
    let large = match level {
        1 => true,
        2 => caps.cap.pages_2m(),
        3 => caps.cap.pages_1g(),
        _ => false,
    };
    let leaf = second_is_leaf(entry, level);
    (ADDRESS & beyond(width))
        | (if io_rights { 0 } else { IO_WRITE })
        | (if large { 0 } else { PAGE_SIZE })
        | (if leaf && caps.ecap.sc() { 0 } else { SNOOP })
        | unaligned(level, leaf)
}

/// Whether a first-stage entry of `level` says that it maps a page.
pub const fn first_is_leaf(entry: u64, level: u8) -> bool {
    level == 1 || level <= MAX_LEAF_LEVEL && entry & pages::first::PS != 0
}

/// Of a first-stage entry in a table of `level`.
pub const fn first(entry: u64, level: u8, caps: &Capabilities, width: u8) -> u64 {
    let large = match level {
        1 | 2 => true,
        3 => caps.cap.fs1gp(),
        _ => false,
    };
    let leaf = first_is_leaf(entry, level);
    let pat = if leaf && level > 1 { pages::first::PAT_LARGE } else { 0 };
    (ADDRESS & beyond(width)) | (if large { 0 } else { pages::first::PS }) | unaligned(level, leaf) & !pat
}

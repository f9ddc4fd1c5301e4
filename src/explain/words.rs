//! The walk in words: a line a step.

use super::data::{Attempt, Request, Said, Step, Verdict, Walk, What};
use crate::hw::pages::{self, ACCESSED, DIRTY, IO_READ, IO_WRITE, READ, WRITE};
use crate::hw::pasid_tables::{PasidEntry, PasidTranslation, ScalableContextEntry};
use crate::hw::tables::{ContextEntry, Translation};
use crate::space::paging::Access;
use core::fmt;

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.request)?;
        for step in self.steps() {
            writeln!(f, "  {step}")?;
        }
        write!(f, "  {}", self.verdict)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Attempt::Read => "read",
            Attempt::Write => "write",
            Attempt::Atomic => "atomic operation",
            Attempt::Flush => "read of no bytes",
        })
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if self.privileged {
            f.write_str("privileged ")?;
        }
        if self.execute {
            f.write_str("executing ")?;
        }
        write!(f, "{} at {:#x}", self.attempt, self.address)?;
        match self.pasid {
            Some(p) => write!(f, ", PASID {:#x}", p.get()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Verdict::Reaches { to, size, rights } => {
                write!(f, "reaches {to:#x}")?;
                if size != u64::MAX {
                    write!(f, " in a page of {}", Size(size))?;
                }
                write!(f, " and may {}", Rights(rights))
            }
            Verdict::Blocked { reason, recorded } => {
                write!(f, "blocked: {reason}{}", if recorded { "" } else { "; not recorded, as FPD is set on the way" })
            }
            Verdict::Interrupt => f.write_str("an interrupt: goes to interrupt remapping"),
            Verdict::Completes => {
                f.write_str("completes and reaches nothing: a read of no bytes in the interrupt range")
            }
            Verdict::Unknown => f.write_str("not known: the walk leads to what cannot be read here"),
        }
    }
}

struct Rights(Access);

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.0.contains(Access::READ), self.0.contains(Access::WRITE)) {
            (true, true) => "read and write",
            (true, false) => "read",
            (false, true) => "write",
            (false, false) => "do nothing",
        })
    }
}

/// A page size.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trailing_zeros() {
            bits @ 10..20 => write!(f, "{} KiB", 1 << (bits - 10)),
            bits @ 20..30 => write!(f, "{} MiB", 1 << (bits - 20)),
            bits @ 30..40 => write!(f, "{} GiB", 1 << (bits - 30)),
            _ => write!(f, "{:#x} bytes", self.0),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Root => f.write_str("root table"),
            What::ScalableRoot => f.write_str("scalable root table"),
            What::Context => f.write_str("context table"),
            What::ScalableContext => f.write_str("scalable context table"),
            What::Directory => f.write_str("PASID directory"),
            What::Pasid => f.write_str("PASID table"),
            What::First(level) => write!(f, "first-stage table of level {level}"),
            What::Second(level) => write!(f, "second-stage table of level {level}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, entry {:#x} at {:#x}", self.what, self.index, self.at)?;
        if !matches!(self.said, Said::Nothing | Said::Unknown) {
            f.write_str(" =")?;
            for word in self.words() {
                write!(f, " {word:#x}")?;
            }
        }
        f.write_str(": ")?;
        match self.said {
            Said::Nothing => f.write_str("no memory there"),
            Said::Unknown => f.write_str("not to be read here"),
            Said::Absent => f.write_str("not present"),
            Said::Reserved(word, bits) => {
                write!(f, "reserved bits set: {}", Bits { first: u32::from(word) * 64, bits })
            }
            Said::Refused(why) => write!(f, "{}{why}", Holds(self)),
            Said::Table(at) => write!(f, "{}{} at {at:#x}", Holds(self), self.next()),
            Said::Page(to, size) => write!(f, "{}a page of {}, to {to:#x}", Holds(self), Size(size)),
            Said::Through => write!(f, "{}addresses pass as they are", Holds(self)),
        }
    }
}

impl Step {
    /// What the entry leads to.
    fn next(&self) -> &'static str {
        match self.what {
            What::Root | What::ScalableRoot => "context table",
            What::ScalableContext => "PASID directory",
            What::Directory => "PASID table",
            What::Context => "top table",
            What::Pasid => match self.pasid_entry().translation() {
                Some(PasidTranslation::Nested) => "top table at the guest's address,",
                _ => "top table",
            },
            What::First(_) | What::Second(_) => "table",
        }
    }

    fn pasid_entry(&self) -> PasidEntry {
        let mut all = [0; 8];
        all.iter_mut().zip(self.words()).for_each(|(a, w)| *a = *w);
        PasidEntry(all)
    }
}

/// What the fields of a present entry say, up to a comma.
struct Holds<'s>(&'s Step);

impl fmt::Display for Holds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.0;
        match (step.what, step.words()) {
            (What::Context, &[lo, hi]) => {
                let entry = ContextEntry { lo, hi };
                write!(f, "domain {}, ", entry.did())?;
                f.write_str(match entry.translation() {
                    Some(Translation::Untranslated) => "second stage, ",
                    Some(Translation::WithDeviceTlb) => "second stage, ATS allowed, ",
                    Some(Translation::PassThrough) => "pass-through, ",
                    None => "",
                })?;
                if let Some(w) = entry.width() {
                    write!(f, "{} bits, ", w.bits())?;
                }
                silent(f, entry.fpd())
            }
            (What::ScalableContext, &[a, b, c, d]) => {
                let entry = ScalableContextEntry([a, b, c, d]);
                let allowed = entry.allowed();
                write!(f, "{} PASIDs, {:#x} for requests without, ", entry.pasids(), entry.rid_pasid())?;
                for (is, what) in [
                    (allowed.device_tlb, "ATS allowed, "),
                    (allowed.pasid, "PASIDs allowed, "),
                    (allowed.page_requests, "page requests allowed, "),
                ] {
                    f.write_str(if is { what } else { "" })?;
                }
                silent(f, entry.fpd())
            }
            (What::Pasid, _) => {
                let entry = step.pasid_entry();
                write!(f, "domain {}, ", entry.did())?;
                match entry.translation() {
                    Some(PasidTranslation::FirstStage) => f.write_str("first stage, ")?,
                    Some(PasidTranslation::SecondStage) => f.write_str("second stage, ")?,
                    Some(PasidTranslation::Nested) => {
                        let table = entry.second().map_or(0, |s| s.table);
                        write!(f, "first stage in a second stage at {table:#x}, ")?;
                    }
                    Some(PasidTranslation::PassThrough) => f.write_str("pass-through, ")?,
                    None => {}
                }
                silent(f, entry.fpd())
            }
            (What::First(level), &[entry]) => {
                use pages::first::{A, D, RW, US};
                let leaf = matches!(step.said, Said::Page(..));
                f.write_str(if entry & US != 0 { "user, " } else { "supervisor, " })?;
                f.write_str(if entry & RW != 0 { "writable, " } else { "read-only, " })?;
                marks(f, entry & A != 0, (level == 1 || leaf) && entry & D != 0)
            }
            (What::Second(level), &[entry]) => {
                let leaf = matches!(step.said, Said::Page(..));
                let (reads, writes) = if step.io_rights { (IO_READ, IO_WRITE) } else { (READ, WRITE) };
                f.write_str(match (entry & reads != 0, entry & writes != 0) {
                    (true, true) => "read and write, ",
                    (true, false) => "read, ",
                    (false, true) => "write, ",
                    (false, false) => "",
                })?;
                marks(f, entry & ACCESSED != 0, (level == 1 || leaf) && entry & DIRTY != 0)
            }
            _ => Ok(()),
        }
    }
}

fn silent(f: &mut fmt::Formatter<'_>, fpd: bool) -> fmt::Result {
    f.write_str(if fpd { "faults not recorded, " } else { "" })
}

fn marks(f: &mut fmt::Formatter<'_>, accessed: bool, dirty: bool) -> fmt::Result {
    f.write_str(if accessed { "accessed, " } else { "" })?;
    f.write_str(if dirty { "dirty, " } else { "" })
}

/// Bits of an entry by their numbers, runs as the specification writes them.
struct Bits {
    first: u32,
    bits: u64,
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut left, mut between) = (self.bits, "");
        while left != 0 {
            let low = left.trailing_zeros();
            let run = left.wrapping_shr(low).trailing_ones();
            let high = low + run - 1;
            f.write_str(between)?;
            match run {
                1 => write!(f, "{}", self.first + low)?,
                _ => write!(f, "{}:{}", self.first + high, self.first + low)?,
            }
            between = ", ";
            // Runs of 64 bits end it.
            left &= u64::MAX.checked_shl(high + 1).unwrap_or(0);
        }
        Ok(())
    }
}

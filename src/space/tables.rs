//! The page tables of a domain, of either stage: one engine over two formats.

use super::paging::Access;
use super::paging::engine::{Failed, Limits, Paging, Stale};
use super::paging::first::FirstStage;
use super::paging::second::SecondStage;
use super::spec::{DomainSpec, Stage};
use crate::host::address::{Hpa, Iova, Range};
use crate::host::error::{ErrorKind, Field};
use crate::host::mem::FreedTables;
use crate::host::platform::Platform;

/// The tables of one domain.
pub(crate) enum Tables {
    First(Paging<FirstStage>),
    Second(Paging<SecondStage>),
}

/// The same call, whichever format it is.
macro_rules! either {
    ($tables:expr, $t:ident => $call:expr) => {
        match $tables {
            Tables::First($t) => $call,
            Tables::Second($t) => $call,
        }
    };
}

impl Tables {
    /// Empty tables as `spec` wants them; its stage is decided.
    pub(crate) fn new<P: Platform>(p: &P, spec: &DomainSpec, limits: Limits) -> Result<Self, ErrorKind> {
        let unknown = ErrorKind::Invalid(Field::Size);
        Ok(match spec.stage {
            Stage::First => {
                let format =
                    FirstStage::new(spec.levels, spec.sizes, spec.coherent, spec.extended_accessed).ok_or(unknown)?;
                Tables::First(Paging::new(p, format, limits)?)
            }
            _ => {
                let format = SecondStage::new(spec.levels, spec.sizes, spec.force_snoop, spec.dirty, spec.coherent)
                    .ok_or(unknown)?;
                Tables::Second(Paging::new(p, format, limits)?)
            }
        })
    }

    pub(crate) fn root<P: Platform>(&self, p: &P) -> Hpa {
        either!(self, t => t.root(p))
    }

    pub(crate) fn last(&self) -> Iova {
        either!(self, t => t.last())
    }

    #[inline]
    pub(crate) fn map<P: Platform>(&mut self, p: &P, at: Iova, to: Hpa, len: u64, how: Access) -> Result<(), Failed> {
        either!(self, t => t.map(p, at, to, len, how))
    }

    #[inline]
    pub(crate) fn unmap<P: Platform>(&mut self, p: &P, r: Range) -> Result<Stale, Failed> {
        either!(self, t => t.unmap(p, r))
    }

    pub(crate) fn protect<P: Platform>(&mut self, p: &P, r: Range, how: Access) -> Result<Option<Stale>, Failed> {
        either!(self, t => t.protect(p, r, how))
    }

    pub(crate) fn translate<P: Platform>(&self, p: &P, at: Iova) -> Option<(Hpa, u64, Access)> {
        either!(self, t => t.translate(p, at))
    }

    /// The word at physical address `word`, where it is an entry on the way of the address `at`.
    pub(crate) fn entry<P: Platform>(&self, p: &P, at: u64, word: u64) -> Option<u64> {
        either!(self, t => t.entry(p, at, word))
    }

    /// Whether hardware notes in them what devices write.
    pub(crate) fn tracks_dirty(&self) -> bool {
        either!(self, t => t.tracks_dirty())
    }

    pub(crate) fn read_dirty<P: Platform>(
        &mut self,
        p: &P,
        r: Range,
        bits: &mut [u64],
        skip: u64,
        clear: bool,
    ) -> Result<Option<Stale>, Failed> {
        either!(self, t => t.read_dirty(p, r, bits, skip, clear))
    }

    pub(crate) fn take_freed(&mut self) -> FreedTables {
        either!(self, t => t.take_freed())
    }

    pub(crate) fn into_freed<P: Platform>(self, p: &P) -> FreedTables {
        either!(self, t => t.into_freed(p))
    }
}

//! Nested translation (3.8): the second stage translates every address that the first stage yields.

use super::attributes::Attributes;
use super::first::Writable;
use super::lookup::Tags;
use super::outcome::Found;
use super::second::{SecondLeaf, SecondStage};
use super::{Stop, Walk, Want};
use crate::caches::Stage;
use crate::explain::Observer;
use crate::formats::PasidEntry;
use crate::reason::Reason;
use crate::request::{Answer, Request};

impl<O: Observer> Walk<'_, O> {
    pub(super) fn nested(
        &mut self,
        request: &Request,
        want: &Want,
        entry: &PasidEntry,
        attributes: &Attributes,
        tags: &Tags,
    ) -> Result<Answer, Stop> {
        let tables = self.first_stage(entry, tags);
        let second = self.second_stage(entry);
        let first = self.first(&tables, request.address)?;
        // What the first stage forbids, the second is not asked for.
        self.check(!want.privileged && !first.rights.user, Reason::SGN_2)?;
        let writable = first.rights.write || want.privileged && !want.protect;
        if !want.translation {
            self.check(want.write && !writable, self.no_write())?;
        }
        let middle = first.page | request.address & ((1 << first.bits) - 1);
        let mut leaf = self.second(&second, middle)?;
        self.apply_erratum(&mut leaf, middle);
        let bits = first.bits.min(leaf.bits);
        let physical = leaf.output(middle) >> bits << bits;
        let mut found = Found {
            first: request.address >> bits << bits,
            size: 1 << bits,
            physical,
            read: leaf.read,
            write: leaf.write,
            rights: first.rights,
            dirty: true,
            snoop: attributes.snoops(Some(&leaf)),
            memory: attributes.memory(Some((first.entry, first.bits)), Some(&leaf)),
            stage: Stage::Nested,
        };
        let grant = self.admit(&found, request, want)?;
        let write = want.write && grant.write;
        let dirty = self.mark_first_leaf(&tables, &first, write)?;
        found.dirty = !self.mark_second_leaf(&second, &leaf, write)? && dirty;
        self.keep(request, &found, tags);
        Ok(self.granted(&found, &grant, request, want))
    }
    /// Where a first-stage table is, and whether it may be written. With second-stage accessed and dirty bits every use of it
    /// counts as a write (3.8.1).
    pub(super) fn nested_table(
        &mut self,
        second: &SecondStage,
        address: u64,
        unreadable: Reason,
    ) -> Result<(u64, Writable), Stop> {
        let mut leaf = self.second(second, address)?;
        self.apply_erratum(&mut leaf, address);
        self.check(!leaf.read, unreadable)?;
        if second.marks {
            self.check(!leaf.write, Reason::SFS_8)?;
        }
        self.mark_second_leaf(second, &leaf, true)?;
        Ok((leaf.output(address), if leaf.write { Writable::Yes } else { Writable::No }))
    }
    /// Erratum 772415: what exactly goes wrong with read-only second-stage mappings under nesting is not published. This unit
    /// takes the worst: such a mapping can be written. The unit reports it as a breach at each walk that meets one.
    fn apply_erratum(&mut self, leaf: &mut SecondLeaf, address: u64) {
        if self.profile.erratum_772415 && leaf.read && !leaf.write {
            leaf.write = true;
            self.erratum = Some(address);
        }
    }
}

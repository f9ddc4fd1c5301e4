//! Root entries. VT-d 9.1.

use super::{CONTEXT_UNREADABLE, ROOT_ABSENT, ROOT_RESERVED, ROOT_UNREADABLE};
use crate::test;
use crate::tests::raw::rig::{NOWHERE, Rig};
use alloc::format;
use vtd::hw::tables::RootEntry;

test! {
    fn root_entry_absent() {
        let rig = Rig::new()?;
        rig.root_refused("an entry of zeros", RootEntry::ABSENT, ROOT_ABSENT)?;
        // All but P.
        let good = rig.unit.root_entry(rig.writer.source);
        rig.root_refused("an entry without P", RootEntry { lo: good.lo & !1, ..good }, ROOT_ABSENT)?;
    }

    fn root_entry_has_reserved_bits() {
        let rig = Rig::new()?;
        let good = rig.unit.root_entry(rig.writer.source);
        for bit in (1..12).chain(u32::from(rig.unit.host_bits)..64) {
            let bad = RootEntry { lo: good.lo | 1 << bit, ..good };
            rig.root_refused(&format!("bit {bit}"), bad, ROOT_RESERVED)?;
        }
        for bit in 0..64 {
            rig.root_refused(&format!("bit {}", 64 + bit), RootEntry { hi: 1 << bit, ..good }, ROOT_RESERVED)?;
        }
    }

    fn root_table_unreadable() {
        let rig = Rig::new()?;
        rig.unit.set_root_table(NOWHERE)?;
        rig.refused("a root table outside memory", ROOT_UNREADABLE)?;
        rig.unit.set_root_table(rig.unit.root().address())?;
        rig.arrives("with its own root table again")?;
    }

    fn context_table_unreadable() {
        let rig = Rig::new()?;
        rig.root_refused("a context table outside memory", RootEntry::legacy(NOWHERE), CONTEXT_UNREADABLE)?;
    }
}

//! Context entries. VT-d 9.3.

use super::{CONTEXT_ABSENT, CONTEXT_RESERVED, CONTEXT_UNUSABLE};
use crate::test;
use crate::tests::raw::rig::{DOMAIN, NOWHERE, Rig};
use alloc::format;
use vtd::hw::capabilities::AddressWidth;
use vtd::hw::tables::{ContextEntry, Translation};

test! {
    fn context_entry_absent() {
        let mut rig = Rig::new()?;
        rig.context_refused("an entry of zeros", ContextEntry::ABSENT, CONTEXT_ABSENT)?;
        let good = rig.context();
        rig.context_refused("an entry without P", ContextEntry { lo: good.lo & !1, ..good }, CONTEXT_ABSENT)?;
    }

    fn context_entry_has_reserved_bits() {
        let mut rig = Rig::new()?;
        let good = rig.context();
        for bit in (4..12).chain(u32::from(rig.unit.host_bits)..64) {
            let bad = ContextEntry { lo: good.lo | 1 << bit, ..good };
            rig.context_refused(&format!("bit {bit}"), bad, CONTEXT_RESERVED)?;
        }
        for bit in [7].into_iter().chain(24..64) {
            let bad = ContextEntry { hi: good.hi | 1 << bit, ..good };
            rig.context_refused(&format!("bit {}", 64 + bit), bad, CONTEXT_RESERVED)?;
        }
    }

    fn software_bits_of_the_context_entry_are_ignored() {
        let mut rig = Rig::new()?;
        let odd = rig.context().with_software(0xf);
        rig.context_passes("all four", odd)?;
    }

    /// Any domain id does: the unit tags with it and asks no more.
    fn context_entry_takes_every_domain_id() {
        let mut rig = Rig::new()?;
        let ids = rig.unit.capabilities.cap.domain_ids();
        // Id 0 is not for use where entries that are not present may be cached.
        let lowest = u32::from(rig.unit.capabilities.cap.cm());
        for id in [lowest, lowest + 1, ids / 2, ids - 1] {
            let odd = ContextEntry::second_stage(rig.space.top(), rig.space.width, id as u16);
            rig.context_passes(&format!("domain id {id:#x}"), odd)?;
        }
    }

    /// Reserved widths, and those that the unit lacks: with 39 bits only, tables of four levels are refused.
    fn context_entry_has_a_width_that_the_unit_lacks() {
        let mut rig = Rig::new()?;
        let (cap, good) = (rig.unit.capabilities.cap, rig.context());
        for width in 0..8 {
            if AddressWidth::of(width).is_none_or(|w| !cap.supports(w)) {
                let bad = ContextEntry { hi: good.hi & !7 | width, ..good };
                rig.context_refused(&format!("width {width}"), bad, CONTEXT_UNUSABLE)?;
                let pass = ContextEntry::pass_through(rig.space.width, DOMAIN);
                let bad = ContextEntry { hi: pass.hi & !7 | width, ..pass };
                rig.context_refused(&format!("width {width}, pass-through"), bad, CONTEXT_UNUSABLE)?;
            }
        }
    }

    fn context_entry_has_a_type_that_the_unit_lacks() {
        let mut rig = Rig::new()?;
        let (ecap, good) = (rig.unit.capabilities.ecap, rig.context());
        rig.context_refused("the reserved type", ContextEntry { lo: good.lo | 0b11 << 2, ..good }, CONTEXT_UNUSABLE)?;
        let with_tlb = ContextEntry::new(Translation::WithDeviceTlb, rig.space.top(), rig.space.width, DOMAIN);
        if ecap.dt() {
            rig.context_passes("with device-TLB", with_tlb)?;
        } else {
            rig.context_refused("with device-TLB", with_tlb, CONTEXT_UNUSABLE)?;
        }
        if !ecap.pt() {
            let pass = ContextEntry::pass_through(rig.space.width, DOMAIN);
            rig.context_refused("pass-through", pass, CONTEXT_UNUSABLE)?;
        }
    }

    fn top_table_unreadable() {
        let mut rig = Rig::new()?;
        let bad = ContextEntry::second_stage(NOWHERE, rig.space.width, DOMAIN);
        rig.context_refused("a top table outside memory", bad, CONTEXT_UNUSABLE)?;
    }
}

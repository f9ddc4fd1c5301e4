//! A device TLB (4.1): translations kept until an invalidation covers them.

use crate::bus::DeviceInvalidation;
use crate::request::{Pasid, Translated};
use alloc::vec::Vec;

/// For whom a translation was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) pasid: Option<Pasid>,
    pub(crate) privileged: bool,
}

/// A kept translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// For which PASID it was asked.
    pub pasid: Option<Pasid>,
    /// Whether for privileged requests.
    pub privileged: bool,
    /// First untranslated address.
    pub first: u64,
    /// Last untranslated address.
    pub last: u64,
    /// Where the first leads.
    pub to: u64,
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// N: requests must not ask for no-snoop.
    pub snoop: bool,
    /// The same for every PASID.
    pub global: bool,
}

impl Kept {
    fn serves(&self, owner: Owner) -> bool {
        match self.global && owner.pasid.is_some() && self.pasid.is_some() {
            true => self.privileged == owner.privileged,
            false => self.pasid == owner.pasid && self.privileged == owner.privileged,
        }
    }
    /// The translated address.
    pub fn translate(&self, address: u64) -> u64 {
        self.to.wrapping_add(address.wrapping_sub(self.first))
    }
}

/// The device TLB of one function.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceTlb {
    kept: Vec<Kept>,
}

impl DeviceTlb {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter()
    }

    pub(crate) fn clear(&mut self) {
        self.kept.clear();
    }

    pub(crate) fn find(&self, owner: Owner, address: u64, read: bool, write: bool) -> Option<Kept> {
        let fits = |k: &&Kept| k.first <= address && address <= k.last && k.serves(owner);
        self.kept.iter().filter(fits).find(|k| k.read >= read && k.write >= write).copied()
    }

    /// Keeps the answer to a question for `address`, unless it permits nothing or is for untranslated requests only. No
    /// translation is smaller than `smallest` bytes for the device, whatever the answer says (STU).
    pub(crate) fn keep(&mut self, owner: Owner, address: u64, answer: &Translated, smallest: u64) -> Option<Kept> {
        if answer.untranslated_only || !(answer.read || answer.write) {
            return None;
        }
        let size = if answer.page.is_power_of_two() { answer.page.max(smallest) } else { smallest };
        let kept = Kept {
            pasid: owner.pasid,
            privileged: owner.privileged,
            first: address & !(size - 1),
            last: address | (size - 1),
            to: answer.address & !(size - 1),
            read: answer.read,
            write: answer.write,
            snoop: answer.snoop,
            global: answer.global,
        };
        let same = |k: &Kept| k.first == kept.first && k.last == kept.last && k.serves(owner);
        match self.kept.iter_mut().find(|k| same(k)) {
            Some(k) => *k = kept,
            None => self.kept.push(kept),
        }
        Some(kept)
    }

    /// Forgets what the request covers. Without a PASID these are the entries of requests without PASID (6.5.2.5); everything
    /// if the request is for everything, since that is all that a changed context or PASID-directory entry asks for
    /// (6.5.3.3). `global`: whether the function heeds the global bit.
    pub(crate) fn invalidate(&mut self, request: &DeviceInvalidation, global: bool) {
        let everything = request.address == 0 && request.last == u64::MAX;
        self.kept.retain(|k| {
            let owner = match request.pasid {
                None => everything || k.pasid.is_none(),
                Some(_) if global && request.global => k.pasid.is_some(),
                Some(pasid) => k.pasid == Some(pasid) && !k.global,
            };
            !owner || k.last < request.address || request.last < k.first
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Owner = Owner { pasid: None, privileged: false };

    fn process(pasid: Pasid) -> Owner {
        Owner { pasid: Some(pasid), privileged: false }
    }

    fn answer(address: u64, page: u64) -> Translated {
        Translated {
            address,
            page,
            read: true,
            write: true,
            untranslated_only: false,
            snoop: false,
            execute: false,
            privileged: false,
            global: false,
            because: None,
        }
    }

    fn request(pasid: Option<Pasid>, address: u64, last: u64) -> DeviceInvalidation {
        DeviceInvalidation { tag: 0, source: 8, pasid, global: false, address, last }
    }

    #[test]
    fn translations_are_kept_for_their_page_and_owner() {
        let mut tlb = DeviceTlb::default();
        tlb.keep(NOBODY, 0x20_3123, &answer(0x40_0000, 0x20_0000), 4096);
        let found = tlb.find(NOBODY, 0x3f_ffff, true, true).unwrap();
        assert_eq!(found.translate(0x20_3456), 0x40_3456);
        assert_eq!(tlb.find(NOBODY, 0x40_0000, true, false), None);
        assert_eq!(tlb.find(process(1), 0x20_3000, true, false), None);
    }

    #[test]
    fn nothing_is_kept_without_permission_or_for_untranslated_requests_only() {
        let mut tlb = DeviceTlb::default();
        assert_eq!(tlb.keep(NOBODY, 0, &Translated { read: false, write: false, ..answer(0, 4096) }, 4096), None);
        assert_eq!(tlb.keep(NOBODY, 0, &Translated { untranslated_only: true, ..answer(0, 4096) }, 4096), None);
        assert_eq!(tlb.iter().count(), 0);
    }

    #[test]
    fn a_translation_without_write_permission_does_not_serve_writes() {
        let mut tlb = DeviceTlb::default();
        tlb.keep(NOBODY, 0x1000, &Translated { write: false, ..answer(0x5000, 4096) }, 4096);
        assert!(tlb.find(NOBODY, 0x1000, true, false).is_some());
        assert!(tlb.find(NOBODY, 0x1000, false, true).is_none());
    }

    #[test]
    fn an_invalidation_takes_what_overlaps_and_leaves_the_rest() {
        let mut tlb = DeviceTlb::default();
        for page in [0x1000, 0x2000, 0x3000] {
            tlb.keep(NOBODY, page, &answer(page, 4096), 4096);
        }
        tlb.keep(NOBODY, 0x20_0000, &answer(0x20_0000, 0x20_0000), 4096);
        tlb.invalidate(&request(None, 0x2000, 0x2fff), true);
        assert_eq!(tlb.iter().map(|k| k.first).collect::<Vec<_>>(), [0x1000, 0x3000, 0x20_0000]);
        tlb.invalidate(&request(None, 0x20_1000, 0x20_1fff), true);
        assert_eq!(tlb.iter().count(), 2);
    }

    #[test]
    fn an_invalidation_without_pasid_spares_pasids_unless_it_is_for_everything() {
        let mut tlb = DeviceTlb::default();
        tlb.keep(process(7), 0x1000, &answer(0x1000, 4096), 4096);
        tlb.invalidate(&request(None, 0x1000, 0x1fff), true);
        assert_eq!(tlb.iter().count(), 1);
        tlb.invalidate(&request(None, 0, u64::MAX), true);
        assert_eq!(tlb.iter().count(), 0);
    }

    #[test]
    fn an_invalidation_with_pasid_takes_that_one_and_with_the_global_bit_all() {
        let mut tlb = DeviceTlb::default();
        for owner in [NOBODY, process(7), process(8)] {
            tlb.keep(owner, 0x1000, &answer(0x1000, 4096), 4096);
        }
        tlb.invalidate(&request(Some(7), 0, u64::MAX), true);
        assert_eq!(tlb.iter().map(|k| k.pasid).collect::<Vec<_>>(), [None, Some(8)]);
        let global = DeviceInvalidation { global: true, ..request(Some(7), 0, u64::MAX) };
        tlb.invalidate(&global, false);
        assert_eq!(tlb.iter().count(), 2);
        tlb.invalidate(&global, true);
        assert_eq!(tlb.iter().map(|k| k.pasid).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_device_takes_no_translation_for_smaller_than_its_smallest() {
        let mut tlb = DeviceTlb::default();
        tlb.keep(NOBODY, 0x3000, &answer(0x9000, 4096), 0x4000);
        assert_eq!(tlb.find(NOBODY, 0x1000, true, false).unwrap().translate(0x1000), 0x9000);
    }
}

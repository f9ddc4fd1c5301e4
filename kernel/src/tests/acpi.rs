//! ACPI's tables.

use crate::acpi;
use crate::boot::info;
use crate::machine;
use crate::memory::frames;
use crate::{check, check_eq, test};
use alloc::vec::Vec;

/// The byte that makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b))
}

/// The addresses of all tables but the root, by the root pointer of the first revision.
fn table_addresses(rsdp: u64) -> Vec<u64> {
    // SAFETY: ACPI's tables stay where they are, and these two have been read before.
    unsafe {
        let rsdt = u64::from(((rsdp + 16) as *const u32).read_unaligned());
        let len = ((rsdt + 4) as *const u32).read_unaligned();
        (36..u64::from(len)).step_by(4).map(|at| u64::from(((rsdt + at) as *const u32).read_unaligned())).collect()
    }
}

test! {
    fn promise_of_an_iommu_is_kept() {
        machine::keeps_promise()?;
    }

    fn dmar_is_handed_out_whole() {
        for table in &acpi::tables().dmar {
            check_eq!(&table[..4], b"DMAR");
            check!(table.len() >= 48, "{} bytes", table.len());
            check_eq!(table.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0, "sum of all bytes");
        }
    }

    fn machine_is_described() {
        let tables = acpi::tables();
        check!(!tables.cpus.is_empty() && !tables.ecam.is_empty() && !tables.io_apics.is_empty(), "{tables:x?}");
        check!(tables.pm_timer.is_some());
    }

    fn root_of_revision_2_says_the_same() {
        let Some(rsdp) = info::get().rsdp.filter(|_| acpi::tables().revision == 0) else {
            crate::skip!("the firmware's root is not of revision 0");
        };
        // An XSDT and a root pointer of our own, to the firmware's tables.
        let addresses = table_addresses(rsdp);
        let frame = frames::alloc(0).ok_or("no frames")?;
        // SAFETY: the frame is ours, and large enough for both.
        let bytes = unsafe { core::slice::from_raw_parts_mut(frame.as_ptr(), 4096) };
        let (root, table) = bytes.split_at_mut(64);
        let len = 36 + addresses.len() * 8;
        table[..4].copy_from_slice(b"XSDT");
        table[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        table[8] = 1;
        table[10..24].copy_from_slice(b"OURS  OURXSDT ");
        for (slot, address) in table[36..len].chunks_mut(8).zip(&addresses) {
            slot.copy_from_slice(&address.to_le_bytes());
        }
        table[9] = checksum(&table[..len]);
        root[..8].copy_from_slice(b"RSD PTR ");
        root[9..15].copy_from_slice(b"OURS  ");
        root[15] = 2;
        root[20..24].copy_from_slice(&36u32.to_le_bytes());
        root[24..32].copy_from_slice(&(table.as_ptr() as u64).to_le_bytes());
        root[8] = checksum(&root[..20]);
        root[32] = checksum(&root[..36]);
        let (ours, firmware) = (acpi::read(root.as_ptr() as usize), acpi::tables());
        // SAFETY: from `alloc`, and the tables that were read do not point into it.
        unsafe { frames::free(frame, 0) };
        check_eq!(ours.revision, 2);
        check_eq!(ours.cpus, firmware.cpus);
        check_eq!(ours.dmar, firmware.dmar);
        check_eq!(ours.ecam.len(), firmware.ecam.len());
        check_eq!(ours.io_apics.len(), firmware.io_apics.len());
        check!(ours.pm_timer.is_some());
    }
}

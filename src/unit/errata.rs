//! Errata and quirks as data (design rule 7): what to look for, what to do, and why. Nothing else in the driver knows a
//! machine by name.

use crate::host::platform::Identity;
use bitflags::bitflags;

bitflags! {
    /// What to do differently.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Errata: u8 {
        /// Flush the write buffer although CAP.RWBF is 0.
        const WRITE_BUFFER = 1;
        /// Do not use 2 MiB and 1 GiB second-stage pages although CAP.SSLPS has them.
        const SMALL_PAGES = 1 << 1;
        /// Write the queue's tail again after an error was cleared, or fetching does not go on.
        const REWRITE_TAIL = 1 << 2;
        /// Invalidate the context entry too where a pass-through PASID entry ends.
        const PASIDS_IN_CONTEXTS = 1 << 3;
        /// Have no read-only second-stage memory under nested translation (erratum 772415).
        const READ_ONLY_UNDER_NESTING = 1 << 4;
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Erratum {
    /// What to do.
    pub what: Errata,
    /// Why, for people.
    pub why: &'static str,
    key: Key,
}

#[derive(Debug)]
enum Key {
    /// Device ids of Intel host bridges.
    HostBridge(&'static [u16]),
    /// Models of CPU family 6.
    Cpu(&'static [u8]),
    /// OEM id and table id of the DMAR table.
    Oem(&'static [u8; 6], &'static [u8; 8]),
}

/// All of them.
pub const TABLE: &[Erratum] = &[
    Erratum {
        what: Errata::WRITE_BUFFER,
        why: "this host bridge needs write-buffer flushes although its unit denies it",
        key: Key::HostBridge(&[0x2a40, 0x2e00, 0x2e10, 0x2e20, 0x2e30, 0x2e40, 0x2e90]),
    },
    Erratum {
        what: Errata::SMALL_PAGES,
        why: "units of this CPU generation report large second-stage pages and handle them badly",
        key: Key::Cpu(&[0x2a, 0x2d]),
    },
    Erratum {
        what: Errata::REWRITE_TAIL,
        why: "QEMU fetches on after a queue error only when the tail is written again",
        key: Key::Oem(b"BOCHS ", b"BXPC    "),
    },
    Erratum {
        what: Errata::PASIDS_IN_CONTEXTS,
        why: "QEMU takes from its context cache whether a device passes through, whatever its PASID entry says now",
        key: Key::Oem(b"BOCHS ", b"BXPC    "),
    },
    Erratum {
        what: Errata::READ_ONLY_UNDER_NESTING,
        why: "Sapphire Rapids' erratum 772415: what second-stage tables give for reading alone is not safe under nested translation",
        key: Key::Cpu(&[0x8f]),
    },
];

/// Whether a device may complete an invalidation of its translation cache before writes that it sent by what it held: then
/// no completion says that memory is free. Vendor and device id.
pub(crate) fn completes_early(vendor: u16, device: u16) -> bool {
    vendor == 0x8086 && device & 0xfffc == 0x4940
}

impl Erratum {
    fn applies(&self, id: &Identity) -> bool {
        match self.key {
            Key::HostBridge(list) => {
                id.host_bridge & 0xffff == 0x8086 && list.contains(&((id.host_bridge >> 16) as u16))
            }
            Key::Cpu(models) => {
                let (family, model) = (id.cpu >> 8 & 15, (id.cpu >> 4 & 15 | id.cpu >> 12 & 0xf0) as u8);
                family == 6 && models.contains(&model)
            }
            Key::Oem(oem, table) => id.oem == *oem && id.oem_table == *table,
        }
    }
}

impl Errata {
    /// The lines of the table that apply to a machine.
    pub fn found(id: &Identity) -> impl Iterator<Item = &'static Erratum> {
        TABLE.iter().filter(move |e| e.applies(id))
    }

    /// What to do differently on a machine.
    pub fn of(id: &Identity) -> Errata {
        Errata::found(id).fold(Errata::empty(), |all, e| all | e.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_known_by_their_keys_only() {
        assert_eq!(Errata::of(&Identity::default()), Errata::empty());
        let gm45 = Identity { host_bridge: 0x2a40_8086, ..Identity::default() };
        assert_eq!(Errata::of(&gm45), Errata::WRITE_BUFFER);
        let other_vendor = Identity { host_bridge: 0x2a40_1234, ..Identity::default() };
        assert_eq!(Errata::of(&other_vendor), Errata::empty());
        let sandy_bridge = Identity { cpu: 0x0002_06a7, ..Identity::default() };
        assert_eq!(Errata::of(&sandy_bridge), Errata::SMALL_PAGES);
        let sapphire_rapids = Identity { cpu: 0x0008_06f8, ..Identity::default() };
        assert_eq!(Errata::of(&sapphire_rapids), Errata::READ_ONLY_UNDER_NESTING);
        let qemu = Identity { oem: *b"BOCHS ", oem_table: *b"BXPC    ", ..Identity::default() };
        assert_eq!(Errata::of(&qemu), Errata::REWRITE_TAIL | Errata::PASIDS_IN_CONTEXTS);
    }
}

//! The table DMAR and its structures as views over the firmware's bytes: total, without allocation, no length believed.
//! VT-d 8.1 (header), 8.3 to 8.9 (structures), 8.3.1 (device scopes).
//!
//! What the bytes do not bear out is a [`Defect`]; everything else is handed out as it stands, however odd (that is
//! `audit`'s subject).

use super::defect::Defect;

/// Bytes of the header, before the first structure.
pub const HEADER: usize = 48;
/// Bytes of a structure's type and length.
const PREFIX: usize = 4;
/// Bytes of a device scope before its path.
const SCOPE: usize = 6;

fn u8_at(b: &[u8], at: usize) -> Option<u8> {
    b.get(at).copied()
}

fn array_at<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..)?.first_chunk().copied()
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    array_at(b, at).map(u16::from_le_bytes)
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    array_at(b, at).map(u32::from_le_bytes)
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    array_at(b, at).map(u64::from_le_bytes)
}

bitflags::bitflags! {
    /// The header's flags (VT-d 8.1, byte 37).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct HeaderFlags: u8 {
        /// The platform supports interrupt remapping.
        const INTR_REMAP = 1 << 0;
        /// The firmware asks system software to stay out of x2APIC mode. Means something with `INTR_REMAP` only.
        const X2APIC_OPT_OUT = 1 << 1;
        /// The firmware's own DMA is restricted to the reserved regions when it hands over.
        const DMA_CTRL_PLATFORM_OPT_IN = 1 << 2;
        const _ = !0;
    }
}

/// The table's header (VT-d 8.1). Fields beyond the end of the bytes are 0; `Table::available` says how many there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The signature, "DMAR" in a table that is one.
    pub signature: [u8; 4],
    /// The length of the whole table as the table says it.
    pub length: u32,
    /// The revision.
    pub revision: u8,
    /// Whether all bytes of the table sum to 0.
    pub checksum_ok: bool,
    /// The OEM's id.
    pub oem_id: [u8; 6],
    /// The OEM's id of the table.
    pub oem_table_id: [u8; 8],
    /// The OEM's revision.
    pub oem_revision: u32,
    /// The id of the utility that made the table.
    pub creator_id: [u8; 4],
    /// Its revision.
    pub creator_revision: u32,
    /// Bits of physical addresses that DMA reaches: the table's byte plus 1.
    pub host_address_width: u16,
    /// The flags, reserved bits included.
    pub flags: HeaderFlags,
}

/// A table over the firmware's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    bytes: &'a [u8],
    given: usize,
    header: Header,
}

impl<'a> Table<'a> {
    /// Reads the header; never fails, see [`Table::defects`].
    ///
    /// Any context; neither waits nor allocates.
    pub fn new(given: &'a [u8]) -> Self {
        let length = u32_at(given, 4).unwrap_or(0);
        let end = usize::try_from(length).unwrap_or(usize::MAX).min(given.len());
        let bytes = given.get(..end).unwrap_or(given);
        let sum = bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        let header = Header {
            signature: array_at(given, 0).unwrap_or_default(),
            length,
            revision: u8_at(given, 8).unwrap_or(0),
            checksum_ok: sum == 0 && bytes.len() >= HEADER && u64::from(length) == bytes.len() as u64,
            oem_id: array_at(given, 10).unwrap_or_default(),
            oem_table_id: array_at(given, 16).unwrap_or_default(),
            oem_revision: u32_at(given, 24).unwrap_or(0),
            creator_id: array_at(given, 28).unwrap_or_default(),
            creator_revision: u32_at(given, 32).unwrap_or(0),
            host_address_width: u8_at(given, 36).map_or(0, |n| u16::from(n).saturating_add(1)),
            flags: HeaderFlags::from_bits_retain(u8_at(given, 37).unwrap_or(0)),
        };
        Table { bytes, given: given.len(), header }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many bytes were given, whatever the table says of its length.
    pub fn available(&self) -> usize {
        self.given
    }

    /// Whether this is a DMAR table with a whole header, so that structures can be looked for.
    pub fn is_dmar(&self) -> bool {
        self.header.signature == *b"DMAR" && self.bytes.len() >= HEADER
    }

    /// The header's reserved bytes (38 to 47).
    pub(super) fn reserved(&self) -> &'a [u8] {
        self.bytes.get(38..HEADER).unwrap_or_default()
    }

    /// The structures in table order; empty where `is_dmar` is false. Ends at the first one whose length cannot be used.
    pub fn structures(&self) -> Structures<'a> {
        let bytes = if self.is_dmar() { self.bytes } else { &[] };
        Structures { bytes, at: HEADER, done: !self.is_dmar() }
    }

    /// Calls `report` with everything that the bytes do not bear out: first of the table as a whole, then in table order.
    ///
    /// Any context that `report` allows; neither waits nor allocates.
    pub fn defects(&self, report: &mut dyn FnMut(Defect)) {
        let length = self.header.length;
        if self.given < HEADER {
            report(Defect::HeaderCut { have: self.given });
        }
        if self.given >= 4 && self.header.signature != *b"DMAR" {
            report(Defect::Signature { found: self.header.signature });
        }
        if self.given < HEADER {
            return;
        }
        if (length as usize) < HEADER {
            report(Defect::TableLength { length });
        } else if self.given < length as usize {
            report(Defect::TableCut { length, have: self.given });
        } else {
            if !self.header.checksum_ok {
                report(Defect::Checksum);
            }
            if self.given > length as usize {
                report(Defect::TableTail { at: self.bytes.len(), bytes: self.given.saturating_sub(self.bytes.len()) });
            }
        }
        for entry in self.structures() {
            entry.defects(report);
        }
    }
}

/// Iterator over a table's structures.
#[derive(Clone, Debug)]
pub struct Structures<'a> {
    bytes: &'a [u8],
    at: usize,
    done: bool,
}

impl<'a> Iterator for Structures<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.done {
            return None;
        }
        let at = self.at;
        let rest = self.bytes.get(at..).unwrap_or_default();
        if rest.is_empty() {
            self.done = true;
            return None;
        }
        let (Some(kind), Some(length)) = (u16_at(rest, 0), u16_at(rest, 2)) else {
            self.done = true;
            let defect = Some(Defect::StructureTail { at, bytes: rest.len() });
            return Some(Entry { at, kind: None, length: 0, bytes: rest, structure: Structure::Unknown, defect });
        };
        let size = usize::from(length);
        let (bytes, overrun) = match rest.get(..size) {
            _ if size < PREFIX => {
                self.done = true;
                let defect = Some(Defect::StructureLength { at, kind, length, left: rest.len() });
                let structure = Structure::Unknown;
                return Some(Entry { at, kind: Some(kind), length, bytes: rest, structure, defect });
            }
            Some(bytes) => (bytes, None),
            None => {
                self.done = true;
                (rest, Some(Defect::StructureOverrun { at, kind, length, left: rest.len() }))
            }
        };
        self.at = at.saturating_add(size);
        let (structure, fault) = match Structure::read(kind, bytes, at) {
            Some(s) => (s, None),
            None => (Structure::Unknown, Some(Defect::StructureShort { at, kind, length })),
        };
        let long = match structure {
            Structure::Rhsa(_) if size != 20 => Some(Defect::StructureLong { at, kind, length }),
            _ => None,
        };
        Some(Entry { at, kind: Some(kind), length, bytes, structure, defect: overrun.or(fault).or(long) })
    }
}

/// One structure and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its offset in the table.
    pub at: usize,
    /// Its type; `None` for a rest of the table that is too short to have one.
    pub kind: Option<u16>,
    /// Its length as it says itself.
    pub length: u16,
    /// The bytes that are there of it.
    pub bytes: &'a [u8],
    /// What they say.
    pub structure: Structure<'a>,
    /// What is wrong with the structure as a whole; its scopes may have defects of their own.
    pub defect: Option<Defect>,
}

impl<'a> Entry<'a> {
    /// The device scopes, none for structures that have no such list.
    pub fn scopes(&self) -> Scopes<'a> {
        match self.structure {
            Structure::Drhd(Drhd { scopes, .. })
            | Structure::Rmrr(Rmrr { scopes, .. })
            | Structure::Atsr(Atsr { scopes, .. })
            | Structure::Satc(Satc { scopes, .. })
            | Structure::Sidp(Sidp { scopes, .. }) => scopes,
            Structure::Rhsa(_) | Structure::Andd(_) | Structure::Unknown => Scopes { bytes: &[], at: self.at },
        }
    }

    /// Whether this is no structure but zeros up to the end of the table.
    pub(super) fn is_padding(&self) -> bool {
        usize::from(self.length) < PREFIX && self.bytes.iter().all(|b| *b == 0)
    }

    /// Calls `report` with what is wrong with the structure and its scopes.
    pub fn defects(&self, report: &mut dyn FnMut(Defect)) {
        if let Some(d) = self.defect {
            report(d);
        }
        for scope in self.scopes() {
            match scope {
                Ok(Scope { defect: Some(d), .. }) | Err(d) => report(d),
                Ok(_) => {}
            }
        }
    }
}

/// A structure's content.
#[derive(Clone, Copy, Debug)]
pub enum Structure<'a> {
    /// A remapping unit.
    Drhd(Drhd<'a>),
    /// A reserved region.
    Rmrr(Rmrr<'a>),
    /// Root ports with ATS.
    Atsr(Atsr<'a>),
    /// A unit's NUMA node.
    Rhsa(Rhsa),
    /// The name of an ACPI device.
    Andd(Andd<'a>),
    /// Integrated devices with a translation cache.
    Satc(Satc<'a>),
    /// Properties of integrated devices.
    Sidp(Sidp<'a>),
    /// A type that is not known, or a structure shorter than its type demands: `Entry::bytes` is all there is.
    Unknown,
}

/// A remapping hardware unit definition (VT-d 8.3).
#[derive(Clone, Copy, Debug)]
pub struct Drhd<'a> {
    /// Bit 0: INCLUDE_PCI_ALL.
    pub flags: u8,
    /// Bits 3:0 = N: the register set has 2^N pages of 4 KiB. Reserved, 0, in tables before revision 4 of VT-d.
    pub size: u8,
    /// The PCI segment that it serves.
    pub segment: u16,
    /// The physical address of its registers.
    pub register_base: u64,
    /// The devices under it.
    pub scopes: Scopes<'a>,
}

impl Drhd<'_> {
    /// Whether the unit serves everything in its segment that no other unit serves.
    pub fn include_pci_all(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Bytes of the register set: at most 128 MiB.
    pub fn window(&self) -> u64 {
        4096 << (self.size & 15)
    }
}

/// A reserved memory region (VT-d 8.4).
#[derive(Clone, Copy, Debug)]
pub struct Rmrr<'a> {
    /// The PCI segment of its devices.
    pub segment: u16,
    /// Its first byte.
    pub base: u64,
    /// Its last byte.
    pub limit: u64,
    /// The devices that use it.
    pub scopes: Scopes<'a>,
}

/// Root ports that support ATS (VT-d 8.5).
#[derive(Clone, Copy, Debug)]
pub struct Atsr<'a> {
    /// Bit 0: ALL_PORTS.
    pub flags: u8,
    /// The PCI segment.
    pub segment: u16,
    /// The root ports, without ALL_PORTS.
    pub scopes: Scopes<'a>,
}

/// The proximity domain of a unit (VT-d 8.6).
#[derive(Clone, Copy, Debug)]
pub struct Rhsa {
    /// The unit, by its register base.
    pub register_base: u64,
    /// The proximity domain as in the ACPI table SRAT.
    pub proximity_domain: u32,
}

/// The name of an ACPI device (VT-d 8.7).
#[derive(Clone, Copy, Debug)]
pub struct Andd<'a> {
    /// The number that scopes of type 5 name.
    pub device_number: u8,
    /// The path in the ACPI name space, up to the first NUL or the end of the structure.
    pub name: &'a [u8],
    /// Whether there is a NUL.
    pub terminated: bool,
}

/// Integrated devices with a translation cache (VT-d 8.8).
#[derive(Clone, Copy, Debug)]
pub struct Satc<'a> {
    /// Bit 0: ATC_REQUIRED.
    pub flags: u8,
    /// The PCI segment.
    pub segment: u16,
    /// The devices.
    pub scopes: Scopes<'a>,
}

/// Properties of integrated devices (VT-d 8.9), in the flags of its scopes.
#[derive(Clone, Copy, Debug)]
pub struct Sidp<'a> {
    /// The PCI segment.
    pub segment: u16,
    /// The devices.
    pub scopes: Scopes<'a>,
}

impl<'a> Structure<'a> {
    /// `None` where a known type lacks bytes of its fixed part.
    fn read(kind: u16, b: &'a [u8], at: usize) -> Option<Self> {
        let scopes = |from: usize| Some(Scopes { bytes: b.get(from..)?, at: at.saturating_add(from) });
        Some(match kind {
            0 => Structure::Drhd(Drhd {
                flags: u8_at(b, 4)?,
                size: u8_at(b, 5)?,
                segment: u16_at(b, 6)?,
                register_base: u64_at(b, 8)?,
                scopes: scopes(16)?,
            }),
            1 => Structure::Rmrr(Rmrr {
                segment: u16_at(b, 6)?,
                base: u64_at(b, 8)?,
                limit: u64_at(b, 16)?,
                scopes: scopes(24)?,
            }),
            2 => Structure::Atsr(Atsr { flags: u8_at(b, 4)?, segment: u16_at(b, 6)?, scopes: scopes(8)? }),
            3 => Structure::Rhsa(Rhsa { register_base: u64_at(b, 8)?, proximity_domain: u32_at(b, 16)? }),
            4 => {
                let text = b.get(8..)?;
                let end = text.iter().position(|c| *c == 0);
                Structure::Andd(Andd {
                    device_number: u8_at(b, 7)?,
                    name: end.and_then(|n| text.get(..n)).unwrap_or(text),
                    terminated: end.is_some(),
                })
            }
            5 => Structure::Satc(Satc { flags: u8_at(b, 4)?, segment: u16_at(b, 6)?, scopes: scopes(8)? }),
            6 => Structure::Sidp(Sidp { segment: u16_at(b, 6)?, scopes: scopes(8)? }),
            _ => Structure::Unknown,
        })
    }
}

/// Iterator over the device scopes of a structure. Ends after the first one whose length cannot be used.
#[derive(Clone, Copy, Debug)]
pub struct Scopes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Scopes<'a> {
    type Item = Result<Scope<'a>, Defect>;

    fn next(&mut self) -> Option<Self::Item> {
        let (bytes, at) = (core::mem::take(&mut self.bytes), self.at);
        if bytes.is_empty() {
            return None;
        }
        let &[kind, length, flags, reserved, enumeration_id, start_bus, ..] = bytes else {
            return Some(Err(Defect::ScopeTail { at, bytes: bytes.len() }));
        };
        let size = usize::from(length);
        if size < SCOPE {
            return Some(Err(Defect::ScopeLength { at, length }));
        }
        let Some((own, rest)) = bytes.split_at_checked(size) else {
            return Some(Err(Defect::ScopeOverrun { at, length, left: bytes.len() }));
        };
        (self.bytes, self.at) = (rest, at.saturating_add(size));
        let pairs = own.get(SCOPE..).unwrap_or_default();
        let path = pairs.as_chunks().0;
        let defect = (path.is_empty() || size % 2 != 0).then_some(Defect::ScopePath { at, length });
        Some(Ok(Scope { at, kind, flags, reserved, enumeration_id, start_bus, path, defect }))
    }
}

/// A device scope (VT-d 8.3.1).
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Its offset in the table.
    pub at: usize,
    /// Its type: 1 PCI endpoint, 2 PCI sub-hierarchy, 3 IOAPIC, 4 HPET, 5 ACPI device.
    pub kind: u8,
    /// Its flags, which mean something in SIDP structures only.
    pub flags: u8,
    /// A reserved byte.
    pub(super) reserved: u8,
    /// The id of the IOAPIC, HPET or ACPI device.
    pub enumeration_id: u8,
    /// The bus on which the path begins.
    pub start_bus: u8,
    /// Device and function on each bus of the way.
    pub path: &'a [[u8; 2]],
    /// What is wrong with its path: empty, or half a pair at its end. The whole pairs are in `path`.
    pub defect: Option<Defect>,
}

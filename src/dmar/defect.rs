//! What is wrong with the bytes of a table: lengths, ends and the checksum. VT-d 8.1 to 8.3.1.

use super::parse::HEADER;
use core::fmt;

/// What the bytes of a table do not bear out: what was cut short, has a wrong length or checksum, or overruns.
///
/// Everything that a defect leaves to be trusted is decoded all the same. Prints as a sentence without the offset.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// There are not even the bytes of a header.
    HeaderCut {
        /// Bytes that there are.
        have: usize,
    },
    /// The signature is not "DMAR".
    Signature {
        /// What stands there.
        found: [u8; 4],
    },
    /// The table's length is less than its header's.
    TableLength {
        /// The length it says.
        length: u32,
    },
    /// There are fewer bytes than the table's length.
    TableCut {
        /// The length it says.
        length: u32,
        /// Bytes that there are.
        have: usize,
    },
    /// There are bytes after the table's end.
    TableTail {
        /// The table's end.
        at: usize,
        /// How many follow.
        bytes: usize,
    },
    /// The bytes do not sum to 0.
    Checksum,
    /// The table ends with fewer bytes than a structure's type and length take.
    StructureTail {
        /// Where they begin.
        at: usize,
        /// How many.
        bytes: usize,
    },
    /// A structure's length is less than its type and length take: what follows cannot be found.
    StructureLength {
        /// Its offset.
        at: usize,
        /// Its type.
        kind: u16,
        /// Its length.
        length: u16,
        /// Bytes to the end of the table.
        left: usize,
    },
    /// A structure reaches beyond the end of the table, or of the bytes that there are.
    StructureOverrun {
        /// Its offset.
        at: usize,
        /// Its type.
        kind: u16,
        /// Its length.
        length: u16,
        /// Bytes to the end.
        left: usize,
    },
    /// A structure lacks bytes that its type demands.
    StructureShort {
        /// Its offset.
        at: usize,
        /// Its type.
        kind: u16,
        /// Its length.
        length: u16,
    },
    /// A structure of fixed length is longer.
    StructureLong {
        /// Its offset.
        at: usize,
        /// Its type.
        kind: u16,
        /// Its length.
        length: u16,
    },
    /// A structure ends with fewer bytes than a device scope takes.
    ScopeTail {
        /// Where they begin.
        at: usize,
        /// How many.
        bytes: usize,
    },
    /// A device scope's length is less than its fixed part: what follows in the structure cannot be found.
    ScopeLength {
        /// Its offset.
        at: usize,
        /// Its length.
        length: u8,
    },
    /// A device scope reaches beyond its structure.
    ScopeOverrun {
        /// Its offset.
        at: usize,
        /// Its length.
        length: u8,
        /// Bytes to the end of the structure.
        left: usize,
    },
    /// A device scope's path is empty or ends with half a pair.
    ScopePath {
        /// Its offset.
        at: usize,
        /// Its length.
        length: u8,
    },
}

impl Defect {
    /// Where in the bytes it was found.
    pub fn offset(&self) -> usize {
        match *self {
            Defect::HeaderCut { have } | Defect::TableCut { have, .. } => have,
            Defect::Signature { .. } => 0,
            Defect::TableLength { .. } => 4,
            Defect::Checksum => 9,
            Defect::TableTail { at, .. }
            | Defect::StructureTail { at, .. }
            | Defect::StructureLength { at, .. }
            | Defect::StructureOverrun { at, .. }
            | Defect::StructureShort { at, .. }
            | Defect::StructureLong { at, .. }
            | Defect::ScopeTail { at, .. }
            | Defect::ScopeLength { at, .. }
            | Defect::ScopeOverrun { at, .. }
            | Defect::ScopePath { at, .. } => at,
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Defect::HeaderCut { have } => {
                write!(f, "the table is cut short: {have} bytes, and its header alone has {HEADER}")
            }
            Defect::Signature { found } => write!(f, "not a DMAR table: its signature is \"{}\"", found.escape_ascii()),
            Defect::TableLength { length } => {
                write!(f, "the table says that it is {length} bytes long, and its header alone has {HEADER}")
            }
            Defect::TableCut { length, have } => {
                write!(f, "the table is cut short: it says {length} bytes, and there are {have}")
            }
            Defect::TableTail { bytes, .. } => write!(f, "{bytes} bytes after the table's end are not read"),
            Defect::Checksum => f.write_str("wrong checksum: the table's bytes do not sum to 0"),
            Defect::StructureTail { bytes, .. } => {
                write!(f, "the last {bytes} bytes are too few for a structure and are not read")
            }
            Defect::StructureLength { kind, length, left, .. } => {
                write!(f, "structure of type {kind} has length {length}, so that the last {left} bytes cannot be read")
            }
            Defect::StructureOverrun { kind, length, left, .. } => {
                write!(f, "structure of type {kind} and length {length} overruns: {left} bytes are left")
            }
            Defect::StructureShort { kind, length, .. } => {
                write!(f, "structure of type {kind} is shorter ({length} bytes) than its fields and is not decoded")
            }
            Defect::StructureLong { kind, length, .. } => {
                write!(
                    f,
                    "structure of type {kind} is longer ({length} bytes) than its type allows; the rest is not read"
                )
            }
            Defect::ScopeTail { bytes, .. } => {
                write!(f, "the structure's last {bytes} bytes are too few for a device scope and are not read")
            }
            Defect::ScopeLength { length, .. } => {
                write!(f, "device scope has length {length}, so that the rest of its structure cannot be read")
            }
            Defect::ScopeOverrun { length, left, .. } => {
                write!(f, "device scope of length {length} overruns its structure, which has {left} bytes left")
            }
            Defect::ScopePath { length, .. } => {
                write!(f, "device scope of length {length} has no whole path")
            }
        }
    }
}

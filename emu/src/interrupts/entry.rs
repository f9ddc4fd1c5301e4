//! Formats: interrupt-remapping table entry (9.9, 9.10), posted-interrupt descriptor (9.11), interrupt message.

use crate::profile::Profile;
use crate::reason::Reason;
use crate::request::SourceId;

/// The range that means interrupts (3.15): FEEx_xxxxh.
pub(super) const RANGE: u64 = 0xfee;

/// One bit or field of a word.
fn field(word: u64, low: u32, bits: u32) -> u64 {
    word >> low & ((1 << bits) - 1)
}

/// An interrupt-remapping table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(pub(super) [u64; 2]);

impl Entry {
    /// P.
    pub(super) fn present(self) -> bool {
        self.0[0] & 1 != 0
    }
    /// FPD; means something in entries that are not present, too.
    pub(super) fn silent(self) -> bool {
        self.0[0] & 2 != 0
    }
    /// IM: the entry posts.
    pub(super) fn posted(self) -> bool {
        self.0[0] & 1 << 15 != 0
    }
    /// URG.
    pub(super) fn urgent(self) -> bool {
        self.0[0] & 1 << 14 != 0
    }
    /// V, or VV where the entry posts.
    pub(super) fn vector(self) -> u8 {
        field(self.0[0], 16, 8) as u8
    }
    /// Where the descriptor of a posting entry is: PDAH and PDAL.
    pub(super) fn descriptor(self) -> u64 {
        self.0[1] & 0xffff_ffff_0000_0000 | field(self.0[0], 38, 26) << 6
    }
    /// Whether `source` may use the entry: SVT, SQ, SID. SVT 11b is reserved.
    pub(super) fn admits(self, source: SourceId) -> Result<(), Reason> {
        let owner = self.0[1] as u16;
        let admitted = match field(self.0[1], 18, 2) {
            0b00 => true,
            0b01 => {
                let ignored = [0b000, 0b100, 0b110, 0b111][field(self.0[1], 16, 2) as usize];
                (source ^ owner) & !ignored == 0
            }
            0b10 => (owner >> 8..=owner & 0xff).contains(&(source >> 8)),
            _ => return Err(Reason::IR_24),
        };
        if admitted { Ok(()) } else { Err(Reason::IR_26) }
    }
    /// Whether a present entry has something where nothing may be; `extended`: EIME.
    pub(super) fn malformed(self, profile: &Profile, extended: bool) -> bool {
        let [low, high] = self.0;
        if self.posted() {
            // The descriptor's address must be one that memory can have.
            !profile.pi()
                || low & 0x0000_003f_ff00_30fc != 0
                || field(high, 20, 12) != 0
                || above(self.descriptor(), profile.width)
        } else {
            low & 0x0000_0000_ff00_7000 != 0
                || high >> 20 != 0
                || reserved_destination(low, extended)
                // Delivery modes that are not defined.
                || matches!(field(low, 5, 3), 0b011 | 0b110)
        }
    }
    /// The interrupt that a remapping entry makes: message address and data.
    pub(super) fn message(self, extended: bool) -> (u64, u32) {
        let low = self.0[0];
        let hints = low & 1 << 3 | field(low, 2, 1) << 2;
        let data = field(low, 16, 8) | field(low, 5, 3) << 8 | field(low, 4, 1) << 15;
        message(low, extended, hints, data as u32)
    }
}

/// Whether an address has bits that memory's addresses have not.
pub(super) fn above(address: u64, width: u8) -> bool {
    address.checked_shr(u32::from(width)).is_some_and(|rest| rest != 0)
}

/// Whether a destination in bits 63:32 of `word` has reserved bits set: without EIME all but 47:40.
fn reserved_destination(word: u64, extended: bool) -> bool {
    !extended && word & 0xffff_00ff_0000_0000 != 0
}

/// A message to the destination in bits 63:32 of `word`; always of trigger mode level "asserted".
fn message(word: u64, extended: bool, hints: u64, data: u32) -> (u64, u32) {
    let destination = if extended { word >> 32 } else { field(word, 40, 8) };
    let address = RANGE << 20 | (destination & 0xff) << 12 | hints;
    (address | destination >> 8 << 40, data | 1 << 14)
}

/// Bits 319:256 of a posted-interrupt descriptor: all of it but the requests and what is reserved for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Control(pub(super) u64);

impl Control {
    /// ON: a notification is outstanding.
    pub(super) const OUTSTANDING: u64 = 1;
    /// Whether reserved bits are set.
    pub(super) fn malformed(self, extended: bool) -> bool {
        self.0 & 0xff00_fffc != 0 || reserved_destination(self.0, extended)
    }
    /// Whether an interrupt posted now notifies (5.2.3): none outstanding, and urgent or not suppressed (SN).
    pub(super) fn notifies(self, urgent: bool) -> bool {
        self.0 & Self::OUTSTANDING == 0 && (urgent || self.0 & 2 == 0)
    }
    /// The notification: NV, physical, fixed, edge, to NDST.
    pub(super) fn message(self, extended: bool) -> (u64, u32) {
        message(self.0, extended, 0, field(self.0, 16, 8) as u32)
    }
}

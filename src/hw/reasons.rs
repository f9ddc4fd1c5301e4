//! Fault reasons as data. VT-d 7.1.3 (requests), 5.1.4.1 (interrupts). Codes of old revisions that the current one has
//! dropped are named too: old hardware reports them.

use core::fmt;

/// What part of the remapping a fault reason belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReasonClass {
    /// Legacy mode: root, context and second-stage tables.
    Legacy,
    /// Interrupt remapping.
    Interrupt,
    /// The root table address register.
    RootAddress,
    /// Scalable mode: root, context, PASID directory and PASID table.
    Scalable,
    /// First-stage tables.
    FirstStage,
    /// Second-stage tables of scalable mode.
    SecondStage,
    /// The address or the rights of the request, scalable mode.
    General,
    /// Host permission tables.
    HostPermission,
    /// A code that no table lists.
    Unknown,
}

/// Why a request was refused: the code in the fault record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reason(pub u8);

struct Row {
    code: u8,
    name: &'static str,
    class: ReasonClass,
    qualified: bool,
    text: &'static str,
}

impl Reason {
    fn row(self) -> Option<&'static Row> {
        ROWS.binary_search_by_key(&self.0, |row| row.code).ok().and_then(|at| ROWS.get(at))
    }

    /// The specification's name, "LRT.2". It names no interrupt faults: those are "IR." and the code. "unknown" for what
    /// no table lists.
    pub fn name(self) -> &'static str {
        self.row().map_or("unknown", |row| row.name)
    }

    /// What was found and what it means: a part of a sentence.
    pub fn text(self) -> &'static str {
        self.row().map_or("a reason that this driver does not know", |row| row.text)
    }

    /// What part of the remapping it belongs to.
    pub fn class(self) -> ReasonClass {
        self.row().map_or(ReasonClass::Unknown, |row| row.class)
    }

    /// Whether FPD in the entry of the device, PASID or interrupt keeps the fault from being recorded.
    pub fn qualified(self) -> bool {
        self.row().is_some_and(|row| row.qualified)
    }

    /// Whether the request was an interrupt, so that the record says nothing of address, PASID and access.
    pub const fn is_interrupt(self) -> bool {
        matches!(self.0, 0x20..=0x2f)
    }

    /// Whether the record holds an interrupt index instead of an address.
    pub const fn has_interrupt_index(self) -> bool {
        matches!(self.0, 0x21..=0x24 | 0x26..=0x28)
    }

    /// All that have a name, in the order of their codes.
    pub fn all() -> impl Iterator<Item = Reason> {
        ROWS.iter().map(|row| Reason(row.code))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}h {}: {}", self.0, self.name(), self.text())
    }
}

const fn row(code: u8, name: &'static str, class: ReasonClass, qualified: bool, text: &'static str) -> Row {
    Row { code, name, class, qualified, text }
}

use ReasonClass::{FirstStage, General, HostPermission, Interrupt, Legacy, RootAddress, Scalable, SecondStage};

/// Whether FPD suppresses the record.
const YES: bool = true;
const NO: bool = false;

/// In the order of the codes.
#[rustfmt::skip]
static ROWS: &[Row] = &[
    row(0x01, "LRT.2", Legacy, NO, "the root entry of the bus is not present: nothing is attached on this bus"),
    row(0x02, "LCT.2", Legacy, YES, "the context entry is not present: the device is attached to nothing"),
    row(0x03, "LCT.4", Legacy, YES, "the context entry has a width or type that the unit lacks, or its top table cannot be read"),
    row(0x04, "LGN.1", Legacy, YES, "the address is above the width of the domain or of the unit"),
    row(0x05, "LGN.2", Legacy, YES, "a write without the right to write: the page is not mapped or read-only"),
    row(0x06, "LGN.3", Legacy, YES, "a read without the right to read: the page is not mapped or write-only"),
    row(0x07, "LSS.1", Legacy, YES, "a second-stage entry cannot be read: a table lies where no memory is"),
    row(0x08, "LRT.1", Legacy, NO, "the root entry cannot be read: the root table lies where no memory is"),
    row(0x09, "LCT.1", Legacy, NO, "the context entry cannot be read: the context table lies where no memory is"),
    row(0x0a, "LRT.3", Legacy, NO, "the root entry has reserved bits set"),
    row(0x0b, "LCT.3", Legacy, YES, "the context entry has reserved bits set"),
    row(0x0c, "LSS.2", Legacy, YES, "a second-stage entry has reserved bits set"),
    row(0x0d, "LCT.5", Legacy, YES, "a translation or translated request from a device whose context entry does not allow ATS"),
    row(0x0e, "LGN.4", Legacy, YES, "the address leads into the interrupt range, which is no memory"),
    row(0x20, "IR.20", Interrupt, NO, "the interrupt request has reserved bits set"),
    row(0x21, "IR.21", Interrupt, NO, "the interrupt's index is beyond the remapping table"),
    row(0x22, "IR.22", Interrupt, YES, "the interrupt's remapping entry is not present"),
    row(0x23, "IR.23", Interrupt, NO, "the interrupt's remapping entry cannot be read: the table lies where no memory is"),
    row(0x24, "IR.24", Interrupt, YES, "the interrupt's remapping entry has reserved bits or values set"),
    row(0x25, "IR.25", Interrupt, NO, "an interrupt in compatibility format, which is blocked"),
    row(0x26, "IR.26", Interrupt, YES, "the interrupt comes from a device that its remapping entry does not name"),
    row(0x27, "IR.27", Interrupt, YES, "the posted-interrupt descriptor cannot be accessed"),
    row(0x28, "IR.28", Interrupt, YES, "the posted-interrupt descriptor has reserved bits set"),
    row(0x29, "IR.29", Interrupt, NO, "an access to the interrupt range that is no valid interrupt request"),
    row(0x2a, "IR.2A", Interrupt, NO, "the unit must run with 32-bit APIC ids and does not"),
    row(0x2b, "IR.2B", Interrupt, NO, "the unit blocks interrupts because interrupt remapping is off"),
    row(0x30, "RTA.1", RootAddress, NO, "the root table address register has a mode or flag that the unit lacks"),
    row(0x31, "RTA.2", RootAddress, NO, "a request with PASID, which legacy mode does not serve"),
    row(0x32, "RTA.3", RootAddress, NO, "a page request, which legacy mode does not serve"),
    row(0x33, "RTA.4", RootAddress, NO, "the unit is in abort mode, which blocks every request"),
    row(0x34, "RTA.5", RootAddress, NO, "a request for execute, which the unit does not serve"),
    row(0x38, "SRT.1", Scalable, NO, "the root entry cannot be read: the root table lies where no memory is"),
    row(0x39, "SRT.2", Scalable, NO, "the half of the root entry for the device is not present: nothing is attached there"),
    row(0x3a, "SRT.3", Scalable, NO, "the root entry has reserved bits set"),
    row(0x40, "SCT.1", Scalable, NO, "the context entry cannot be read: the context table lies where no memory is"),
    row(0x41, "SCT.2", Scalable, YES, "the context entry is not present: the device is attached to nothing"),
    row(0x42, "SCT.3", Scalable, YES, "the context entry has reserved bits set"),
    row(0x43, "SCT.4", Scalable, YES, "the context entry contradicts itself: page requests without ATS, or a PASID beyond its directory"),
    row(0x44, "SCT.5", Scalable, YES, "a translation or translated request from a device whose context entry does not allow ATS"),
    row(0x45, "SCT.6", Scalable, YES, "a request with PASID from a device whose context entry does not allow PASIDs"),
    row(0x46, "SCT.7", Scalable, YES, "the PASID is beyond the device's PASID directory"),
    row(0x47, "SCT.8", Scalable, YES, "a page request from a device whose context entry does not allow them"),
    row(0x48, "SCT.9", Scalable, YES, "a request with the very PASID that stands for requests without one"),
    row(0x49, "SCT.10", Scalable, YES, "a translated request with PASID from a device whose context entry does not allow them"),
    row(0x50, "SPD.1", Scalable, NO, "the PASID directory entry cannot be read: the directory lies where no memory is"),
    row(0x51, "SPD.2", Scalable, YES, "the PASID directory entry is not present: no PASID of this block is attached"),
    row(0x52, "SPD.3", Scalable, YES, "the PASID directory entry has reserved bits set"),
    row(0x58, "SPT.1", Scalable, NO, "the PASID table entry cannot be read: the table lies where no memory is"),
    row(0x59, "SPT.2", Scalable, YES, "the PASID table entry is not present: the PASID is attached to nothing"),
    row(0x5a, "SPT.3", Scalable, YES, "the PASID table entry has reserved bits set"),
    row(0x5b, "SPT.4", Scalable, YES, "the PASID table entry has a width, translation type or table that the unit does not take"),
    row(0x5c, "SPT.5", Scalable, YES, "a request for execute, which the unit does not serve"),
    row(0x5d, "SPT.6", Scalable, YES, "a supervisor request with a PASID that serves none"),
    row(0x60, "SPT.9", Scalable, YES, "a translated address is beyond the host permission table"),
    row(0x70, "SFS.1", FirstStage, YES, "a first-stage entry cannot be read: a table lies where no memory is"),
    row(0x71, "SFS.2", FirstStage, YES, "the page is not mapped in the first-stage tables"),
    row(0x72, "SFS.3", FirstStage, YES, "a first-stage entry has reserved bits set"),
    row(0x73, "SFS.4", FirstStage, YES, "the top first-stage table cannot be read: it lies where no memory is"),
    row(0x74, "SFS.5", FirstStage, YES, "a guest address in a first-stage entry is above the width of the second stage"),
    row(0x75, "SFS.6", FirstStage, YES, "the second stage gives no right to read the guest's top table"),
    row(0x76, "SFS.7", FirstStage, YES, "the second stage gives no right to read a table of the guest"),
    row(0x77, "SFS.8", FirstStage, YES, "the second stage gives no right to set accessed or dirty in a table of the guest"),
    row(0x78, "SSS.1", SecondStage, YES, "a second-stage entry cannot be read: a table lies where no memory is"),
    row(0x79, "SSS.2", SecondStage, YES, "the page is not mapped in the second-stage tables"),
    row(0x7a, "SSS.3", SecondStage, YES, "a second-stage entry has reserved bits set"),
    row(0x7b, "SSS.4", SecondStage, YES, "the top second-stage table cannot be read: it lies where no memory is"),
    row(0x7c, "SSS.5", SecondStage, YES, "accessed or dirty is to be set in a second-stage table whose walk is not snooped"),
    row(0x7d, "SSS.6", SecondStage, YES, "accessed or dirty could not be set in a second-stage table"),
    row(0x80, "SGN.1", General, YES, "the address is not canonical"),
    row(0x81, "SGN.2", General, YES, "a user request to a page of the supervisor"),
    row(0x82, "SGN.3", General, YES, "a request for execute of a page that may not be executed (old revisions)"),
    row(0x83, "SGN.4", General, YES, "a translated or passed-through address above the width of host addresses"),
    row(0x84, "SGN.5", General, YES, "the address is above the width of the second stage or of the unit"),
    row(0x85, "SGN.6", General, YES, "a write without the right to write"),
    row(0x86, "SGN.7", General, YES, "a read without the right to read"),
    row(0x87, "SGN.8", General, YES, "the address leads into the interrupt range, which is no memory"),
    row(0x88, "SGN.9", General, YES, "a reason of old revisions that the current one does not name"),
    row(0x89, "SGN.10", General, YES, "the PASID has more bits than the unit takes"),
    row(0x90, "SFS.9", FirstStage, YES, "accessed or dirty is to be set in a first-stage table whose walk is not snooped"),
    row(0x91, "SFS.10", FirstStage, YES, "accessed or dirty could not be set in a first-stage table"),
    row(0xa0, "HPT.1", HostPermission, YES, "an entry of the host permission table cannot be read: a table lies where no memory is"),
    row(0xa1, "HPT.2", HostPermission, YES, "an entry of the host permission table has reserved bits set"),
    row(0xa2, "HPT.3", HostPermission, YES, "the top host permission table cannot be read: it lies where no memory is"),
    row(0xa3, "HPT.4", HostPermission, YES, "a zero-length read of a page to which the host permission table gives no right"),
    row(0xa4, "HPT.5", HostPermission, YES, "the host permission table gives no right to write"),
    row(0xa5, "HPT.6", HostPermission, YES, "the host permission table gives no right to read"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn every_code_is_named_once() {
        let codes: Vec<u8> = Reason::all().map(|r| r.0).collect();
        let names: BTreeSet<_> = Reason::all().map(Reason::name).collect();
        // The search by code relies on the order.
        assert!(codes.is_sorted_by(|a, b| a < b));
        assert_eq!(names.len(), codes.len());
        for reason in Reason::all() {
            assert!(!reason.text().is_empty() && reason.class() != ReasonClass::Unknown, "{reason:?}");
        }
    }

    /// The codes again, as the specification's tables list them.
    #[test]
    fn no_code_is_missing() {
        let ranges = [
            0x01..=0x0e,
            0x20..=0x2b,
            0x30..=0x34,
            0x38..=0x3a,
            0x40..=0x49,
            0x50..=0x52,
            0x58..=0x5d,
            0x60..=0x60,
            0x70..=0x7d,
            0x80..=0x89,
            0x90..=0x91,
            0xa0..=0xa5,
        ];
        let expected: Vec<u8> = ranges.into_iter().flatten().collect();
        assert_eq!(Reason::all().map(|r| r.0).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn names_and_classes() {
        let expect = [
            (0x01, "LRT.2", ReasonClass::Legacy),
            (0x08, "LRT.1", ReasonClass::Legacy),
            (0x0e, "LGN.4", ReasonClass::Legacy),
            (0x22, "IR.22", ReasonClass::Interrupt),
            (0x33, "RTA.4", ReasonClass::RootAddress),
            (0x48, "SCT.9", ReasonClass::Scalable),
            (0x59, "SPT.2", ReasonClass::Scalable),
            (0x60, "SPT.9", ReasonClass::Scalable),
            (0x71, "SFS.2", ReasonClass::FirstStage),
            (0x90, "SFS.9", ReasonClass::FirstStage),
            (0x79, "SSS.2", ReasonClass::SecondStage),
            (0x87, "SGN.8", ReasonClass::General),
            (0xa3, "HPT.4", ReasonClass::HostPermission),
        ];
        for (code, name, class) in expect {
            assert_eq!((Reason(code).name(), Reason(code).class()), (name, class));
        }
        assert_eq!(Reason(0x01).to_string(), std::format!("01h LRT.2: {}", Reason(0x01).text()));
    }

    /// What the specification's tables do not qualify, and nothing else, is recorded in spite of FPD.
    #[test]
    fn qualified() {
        let always: Vec<u8> = Reason::all().filter(|r| !r.qualified()).map(|r| r.0).collect();
        let expected = [
            0x01, 0x08, 0x09, 0x0a, 0x20, 0x21, 0x23, 0x25, 0x29, 0x2a, 0x2b, 0x30, 0x31, 0x32, 0x33, 0x34, 0x38, 0x39,
            0x3a, 0x40, 0x50, 0x58,
        ];
        assert_eq!(always, expected);
    }

    #[test]
    fn unknown_codes() {
        for code in [0x00, 0x0f, 0x2c, 0x5e, 0xff] {
            let reason = Reason(code);
            assert_eq!((reason.name(), reason.class(), reason.qualified()), ("unknown", ReasonClass::Unknown, false));
            assert!(!reason.text().is_empty());
        }
    }
}

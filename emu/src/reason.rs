//! Why a request was blocked (7.1.3, Table 30; 5.1.4.1, Table 15 for interrupts), and how the device learns of it.

use crate::request::Kind;
use core::fmt;

/// How a blocked request ends on the wire (7.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// UR; posted writes are dropped.
    UnsupportedRequest,
    /// CA.
    CompleterAbort,
    /// The answer to a translation request: success without permissions.
    NoPermission,
    /// The answer to a translation request: success with the permissions that there are.
    Effective,
    /// The answer to a page request: invalid request.
    InvalidRequest,
}

/// A fault reason: the code of FRCD.FR.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(pub u8);

/// What Table 30 says of a condition.
struct Row {
    reason: Reason,
    label: &'static str,
    meaning: &'static str,
    qualified: bool,
    /// Of translation requests.
    translation: Completion,
    /// Of translated requests.
    translated: Completion,
}

/// Table 30 (and Table 15), one line a condition: name, code, label, qualified, the completions of translation and of
/// translated requests, meaning. Untranslated requests always end with UR and page requests with an invalid-request
/// response. Where the table says that a kind of request cannot meet a condition, UR stands.
macro_rules! reasons {
    ($($name:ident = $code:literal, $label:literal, $qualified:ident, $translation:ident, $translated:ident, $meaning:literal;)*) => {
        impl Reason {
            $(
                #[doc = concat!($label, ": ", $meaning, ".")]
                pub const $name: Reason = Reason($code);
            )*
        }
        const TABLE: &[Row] = &[$(Row {
            reason: Reason($code),
            label: $label,
            meaning: $meaning,
            qualified: $qualified,
            translation: Completion::$translation,
            translated: Completion::$translated,
        }),*];
    };
}

const Y: bool = true;
const N: bool = false;

reasons! {
    LRT_1 = 0x08, "LRT.1", N, CompleterAbort, UnsupportedRequest, "the root entry could not be read";
    LRT_2 = 0x01, "LRT.2", N, UnsupportedRequest, UnsupportedRequest, "the root entry is not present";
    LRT_3 = 0x0a, "LRT.3", N, CompleterAbort, UnsupportedRequest, "the root entry has reserved bits set";
    LCT_1 = 0x09, "LCT.1", N, CompleterAbort, UnsupportedRequest, "the context entry could not be read";
    LCT_2 = 0x02, "LCT.2", Y, UnsupportedRequest, UnsupportedRequest, "the context entry is not present";
    LCT_3 = 0x0b, "LCT.3", Y, CompleterAbort, UnsupportedRequest, "the context entry has reserved bits set";
    LCT_4 = 0x03, "LCT.4", Y, CompleterAbort, UnsupportedRequest, "the context entry has a bad AW, TT or SSPTPTR";
    LCT_5 = 0x0d, "LCT.5", Y, UnsupportedRequest, UnsupportedRequest, "TT blocks translation and translated requests";
    LSS_1 = 0x07, "LSS.1", Y, CompleterAbort, UnsupportedRequest, "a second-stage entry could not be read";
    LSS_2 = 0x0c, "LSS.2", Y, CompleterAbort, UnsupportedRequest, "a second-stage entry has reserved bits set";
    LGN_1 = 0x04, "LGN.1", Y, NoPermission, UnsupportedRequest, "the address is too wide";
    LGN_2 = 0x05, "LGN.2", Y, Effective, UnsupportedRequest, "there is no permission to write";
    LGN_3 = 0x06, "LGN.3", Y, Effective, UnsupportedRequest, "there is no permission to read";
    LGN_4 = 0x0e, "LGN.4", Y, CompleterAbort, UnsupportedRequest, "the output address is in the interrupt range";

    // The specification numbers the conditions of interrupts without naming them.
    IR_20 = 0x20, "20h", N, UnsupportedRequest, UnsupportedRequest, "the remappable request has reserved fields set";
    IR_21 = 0x21, "21h", N, UnsupportedRequest, UnsupportedRequest, "the interrupt index is beyond the table";
    IR_22 = 0x22, "22h", Y, UnsupportedRequest, UnsupportedRequest, "the interrupt-remapping entry is not present";
    IR_23 = 0x23, "23h", N, UnsupportedRequest, UnsupportedRequest, "the interrupt-remapping entry could not be read";
    IR_24 = 0x24, "24h", Y, UnsupportedRequest, UnsupportedRequest, "the interrupt-remapping entry has reserved fields set";
    IR_25 = 0x25, "25h", N, UnsupportedRequest, UnsupportedRequest, "interrupts of compatibility format are blocked";
    IR_26 = 0x26, "26h", Y, UnsupportedRequest, UnsupportedRequest, "the entry does not allow the source of the interrupt";
    IR_27 = 0x27, "27h", Y, UnsupportedRequest, UnsupportedRequest, "the posted-interrupt descriptor could not be accessed";
    IR_28 = 0x28, "28h", Y, UnsupportedRequest, UnsupportedRequest, "the posted-interrupt descriptor has reserved fields set";
    IR_29 = 0x29, "29h", N, UnsupportedRequest, UnsupportedRequest, "a request to the interrupt range is no interrupt";
    IR_2A = 0x2a, "2Ah", N, UnsupportedRequest, UnsupportedRequest, "extended interrupt mode is required and off";
    IR_2B = 0x2b, "2Bh", N, UnsupportedRequest, UnsupportedRequest, "interrupt remapping is required and off";

    RTA_1 = 0x30, "RTA.1", N, CompleterAbort, UnsupportedRequest, "the root-table address register has a bad TTM or SSIRWE";
    RTA_2 = 0x31, "RTA.2", N, UnsupportedRequest, UnsupportedRequest, "a request with PASID came in legacy mode";
    RTA_3 = 0x32, "RTA.3", N, UnsupportedRequest, UnsupportedRequest, "a page request came in legacy mode";
    RTA_4 = 0x33, "RTA.4", N, UnsupportedRequest, UnsupportedRequest, "abort-DMA mode blocks every request";
    RTA_5 = 0x34, "RTA.5", N, UnsupportedRequest, UnsupportedRequest, "a request asks to execute (version 8 and above)";

    SRT_1 = 0x38, "SRT.1", N, CompleterAbort, UnsupportedRequest, "the scalable-mode root entry could not be read";
    SRT_2 = 0x39, "SRT.2", N, UnsupportedRequest, UnsupportedRequest, "the half of the scalable-mode root entry is not present";
    SRT_3 = 0x3a, "SRT.3", N, CompleterAbort, UnsupportedRequest, "the scalable-mode root entry has reserved bits set";
    SCT_1 = 0x40, "SCT.1", N, CompleterAbort, UnsupportedRequest, "the scalable-mode context entry could not be read";
    SCT_2 = 0x41, "SCT.2", Y, UnsupportedRequest, UnsupportedRequest, "the scalable-mode context entry is not present";
    SCT_3 = 0x42, "SCT.3", Y, CompleterAbort, UnsupportedRequest, "the scalable-mode context entry has reserved bits set";
    SCT_4 = 0x43, "SCT.4", Y, CompleterAbort, UnsupportedRequest, "the context entry has PRE without DTE, EPTR without PASIDE, or RID_PASID beyond PDTS";
    SCT_5 = 0x44, "SCT.5", Y, UnsupportedRequest, UnsupportedRequest, "DTE is 0 for a translation or translated request";
    SCT_6 = 0x45, "SCT.6", Y, UnsupportedRequest, UnsupportedRequest, "PASIDE is 0 for a request with PASID";
    SCT_7 = 0x46, "SCT.7", Y, UnsupportedRequest, UnsupportedRequest, "the PASID is beyond PDTS";
    SCT_8 = 0x47, "SCT.8", Y, UnsupportedRequest, UnsupportedRequest, "PRE is 0 for a page request";
    SCT_9 = 0x48, "SCT.9", Y, UnsupportedRequest, UnsupportedRequest, "the PASID of the request is RID_PASID";
    SCT_10 = 0x49, "SCT.10", Y, UnsupportedRequest, UnsupportedRequest, "EPTR is 0 for a translated request with PASID";
    SPD_1 = 0x50, "SPD.1", N, CompleterAbort, CompleterAbort, "the PASID-directory entry could not be read";
    SPD_2 = 0x51, "SPD.2", Y, NoPermission, UnsupportedRequest, "the PASID-directory entry is not present";
    SPD_3 = 0x52, "SPD.3", Y, CompleterAbort, CompleterAbort, "the PASID-directory entry has reserved bits set";
    SPT_1 = 0x58, "SPT.1", N, CompleterAbort, CompleterAbort, "the PASID-table entry could not be read";
    SPT_2 = 0x59, "SPT.2", Y, NoPermission, UnsupportedRequest, "the PASID-table entry is not present";
    SPT_3 = 0x5a, "SPT.3", Y, CompleterAbort, CompleterAbort, "the PASID-table entry has reserved bits set";
    SPT_4 = 0x5b, "SPT.4", Y, CompleterAbort, CompleterAbort, "the PASID-table entry has a bad AW, PGTT, FSPM or FSPTPTR";
    SPT_5 = 0x5c, "SPT.5", Y, NoPermission, UnsupportedRequest, "a request asks to execute (version 7 and below)";
    SPT_6 = 0x5d, "SPT.6", Y, NoPermission, UnsupportedRequest, "SRE is 0 for a privileged request";
    SPT_9 = 0x60, "SPT.9", Y, UnsupportedRequest, UnsupportedRequest, "the translated address is beyond the host permission table";

    SFS_1 = 0x70, "SFS.1", Y, NoPermission, UnsupportedRequest, "a first-stage entry could not be read";
    SFS_2 = 0x71, "SFS.2", Y, NoPermission, UnsupportedRequest, "a first-stage entry is not present";
    SFS_3 = 0x72, "SFS.3", Y, NoPermission, UnsupportedRequest, "a first-stage entry has reserved bits set";
    SFS_4 = 0x73, "SFS.4", Y, NoPermission, UnsupportedRequest, "the top first-stage entry could not be read";
    SFS_5 = 0x74, "SFS.5", Y, NoPermission, UnsupportedRequest, "nested: the address in a first-stage entry is too wide";
    SFS_6 = 0x75, "SFS.6", Y, NoPermission, UnsupportedRequest, "nested: the top first-stage table may not be read";
    SFS_7 = 0x76, "SFS.7", Y, NoPermission, UnsupportedRequest, "nested: a first-stage table may not be read";
    SFS_8 = 0x77, "SFS.8", Y, NoPermission, UnsupportedRequest, "nested: a first-stage table may not be written to mark its entry";
    SFS_9 = 0x90, "SFS.9", Y, NoPermission, UnsupportedRequest, "a first-stage entry needs A, D or EA, and the walk does not snoop";
    SFS_10 = 0x91, "SFS.10", Y, NoPermission, UnsupportedRequest, "A, D or EA of a first-stage entry could not be set";

    SSS_1 = 0x78, "SSS.1", Y, CompleterAbort, UnsupportedRequest, "a second-stage entry could not be read";
    SSS_2 = 0x79, "SSS.2", Y, NoPermission, UnsupportedRequest, "second-stage entries grant neither reads nor writes";
    SSS_3 = 0x7a, "SSS.3", Y, CompleterAbort, UnsupportedRequest, "a second-stage entry has reserved bits set";
    SSS_4 = 0x7b, "SSS.4", Y, CompleterAbort, UnsupportedRequest, "the top second-stage entry could not be read";
    SSS_5 = 0x7c, "SSS.5", Y, CompleterAbort, UnsupportedRequest, "a second-stage entry needs A or D, and the walk does not snoop";
    SSS_6 = 0x7d, "SSS.6", Y, CompleterAbort, UnsupportedRequest, "A or D of a second-stage entry could not be set";

    SGN_1 = 0x80, "SGN.1", Y, NoPermission, UnsupportedRequest, "the address is not canonical";
    SGN_2 = 0x81, "SGN.2", Y, NoPermission, UnsupportedRequest, "a user's request met a supervisor's page";
    SGN_4 = 0x83, "SGN.4", Y, NoPermission, UnsupportedRequest, "the host address is wider than the host's";
    SGN_5 = 0x84, "SGN.5", Y, NoPermission, UnsupportedRequest, "the address is too wide for second-stage translation";
    SGN_6 = 0x85, "SGN.6", Y, Effective, UnsupportedRequest, "there is no permission to write";
    SGN_7 = 0x86, "SGN.7", Y, Effective, UnsupportedRequest, "there is no permission to read";
    SGN_8 = 0x87, "SGN.8", Y, CompleterAbort, UnsupportedRequest, "the output address is in the interrupt range";
    SGN_10 = 0x89, "SGN.10", Y, UnsupportedRequest, UnsupportedRequest, "the PASID is wider than PSS";

    HPT_1 = 0xa0, "HPT.1", Y, UnsupportedRequest, CompleterAbort, "a host-permission entry could not be read";
    HPT_2 = 0xa1, "HPT.2", Y, UnsupportedRequest, CompleterAbort, "a host-permission entry has reserved bits set";
    HPT_3 = 0xa2, "HPT.3", Y, UnsupportedRequest, CompleterAbort, "the top host-permission entry could not be read";
    HPT_4 = 0xa3, "HPT.4", Y, UnsupportedRequest, UnsupportedRequest, "no host permissions stand for the page of a zero-length read";
    HPT_5 = 0xa4, "HPT.5", Y, UnsupportedRequest, UnsupportedRequest, "the host permissions do not allow a write";
    HPT_6 = 0xa5, "HPT.6", Y, UnsupportedRequest, UnsupportedRequest, "the host permissions do not allow a read";
}

impl Reason {
    /// Not a fault of remapping: the protocol forbids the request (4.2.1), or it meets protected memory (11.4.8). Such a
    /// request is blocked with UR and never recorded.
    pub const NONE: Reason = Reason(0);

    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.reason == self)
    }
    /// Every reason of the specification, in its order.
    pub fn all() -> impl Iterator<Item = Reason> {
        TABLE.iter().map(|row| row.reason)
    }
    /// The condition's name in the specification; for interrupts, which have none, the code.
    pub fn label(self) -> &'static str {
        self.row().map_or("-", |row| row.label)
    }
    /// What is wrong.
    pub fn meaning(self) -> &'static str {
        self.row().map_or("the request is not allowed here", |row| row.meaning)
    }
    /// Whether FPD keeps it from being recorded (7.1.1).
    pub fn qualified(self) -> bool {
        self.row().is_some_and(|row| row.qualified)
    }
    /// How a request of this kind ends.
    pub fn completion(self, kind: Kind) -> Completion {
        let Some(row) = self.row() else { return Completion::UnsupportedRequest };
        match kind {
            Kind::Untranslated => Completion::UnsupportedRequest,
            Kind::Translation { .. } => row.translation,
            Kind::Translated => row.translated,
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} {}", self.0, self.label())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:02x}h): {}", self.label(), self.0, self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::string::ToString;

    const TRANSLATION: Kind = Kind::Translation { no_write: false };

    #[test]
    fn every_code_and_label_stands_once() {
        let codes: BTreeSet<u8> = Reason::all().map(|reason| reason.0).collect();
        let labels: BTreeSet<&str> = Reason::all().map(Reason::label).collect();
        assert_eq!((codes.len(), labels.len()), (TABLE.len(), TABLE.len()));
        assert_eq!(TABLE.len(), 84);
    }
    #[test]
    fn faults_before_the_context_entry_and_read_errors_of_tables_are_not_qualified() {
        let not: BTreeSet<u8> = Reason::all().filter(|reason| !reason.qualified()).map(|reason| reason.0).collect();
        let expected = [
            0x01, 0x08, 0x09, 0x0a, 0x20, 0x21, 0x23, 0x25, 0x29, 0x2a, 0x2b, 0x30, 0x31, 0x32, 0x33, 0x34, 0x38, 0x39,
            0x3a, 0x40, 0x50, 0x58,
        ];
        assert_eq!(not, BTreeSet::from(expected));
    }
    #[test]
    fn recoverable_faults_of_translation_requests_end_with_success() {
        let recoverable = |reason: &Reason| {
            matches!(reason.completion(TRANSLATION), Completion::NoPermission | Completion::Effective)
        };
        let codes: BTreeSet<u8> = Reason::all().filter(recoverable).map(|reason| reason.0).collect();
        let expected = [
            0x04, 0x05, 0x06, 0x51, 0x59, 0x5c, 0x5d, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x79, 0x80, 0x81,
            0x83, 0x84, 0x85, 0x86, 0x90, 0x91,
        ];
        assert_eq!(codes, BTreeSet::from(expected));
    }
    #[test]
    fn lack_of_a_right_leaves_the_other_to_translation_requests() {
        let effective = |reason: &Reason| reason.completion(TRANSLATION) == Completion::Effective;
        let codes: BTreeSet<u8> = Reason::all().filter(effective).map(|reason| reason.0).collect();
        assert_eq!(codes, BTreeSet::from([0x05, 0x06, 0x85, 0x86]));
    }
    #[test]
    fn translated_requests_are_aborted_by_bad_pasid_tables_and_permission_tables_only() {
        let aborted = |reason: &Reason| reason.completion(Kind::Translated) == Completion::CompleterAbort;
        let codes: BTreeSet<u8> = Reason::all().filter(aborted).map(|reason| reason.0).collect();
        assert_eq!(codes, BTreeSet::from([0x50, 0x52, 0x58, 0x5a, 0x5b, 0xa0, 0xa1, 0xa2]));
    }
    #[test]
    fn untranslated_requests_always_end_with_unsupported_request() {
        assert!(Reason::all().all(|reason| reason.completion(Kind::Untranslated) == Completion::UnsupportedRequest));
    }
    #[test]
    fn a_reason_names_itself() {
        assert_eq!(Reason::SFS_2.to_string(), "SFS.2 (71h): a first-stage entry is not present");
        assert_eq!(std::format!("{:?}", Reason::LGN_1), "0x04 LGN.1");
        assert_eq!((Reason(0xff).label(), Reason(0xff).qualified()), ("-", false));
    }
}

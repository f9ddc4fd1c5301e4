//! Why a request was blocked (7.1.3, Tables 25 and 26; 5.1.4 for interrupts), and how the device learns of it.

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

impl core::fmt::Debug for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

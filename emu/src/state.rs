//! What commands have latched: what a unit goes by, whatever its registers say now (11.4.4).

/// RTADDR.TTM: which tables the root pointer leads to (11.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// 00.
    #[default]
    Legacy,
    /// 01.
    Scalable,
    /// 10: reserved.
    Reserved,
    /// 11: every request is aborted.
    Abort,
}

/// The latched state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// TES: DMA remapping is on.
    pub translation: bool,
    /// TTM at the last SRTP.
    pub mode: Mode,
    /// RTA at the last SRTP.
    pub root: u64,
    /// SSIRWE at the last SRTP.
    pub separate_rights: bool,
    /// IRES: interrupt remapping is on.
    pub remapping: bool,
    /// Base of the interrupt-remapping table at the last SIRTP.
    pub interrupts: u64,
    /// Its entries: 2^(S+1).
    pub interrupt_entries: u32,
    /// EIME at the last SIRTP.
    pub extended: bool,
    /// CFIS: interrupts of compatibility format pass.
    pub compatible: bool,
    /// PMEN.PRS with the ranges [first, last] that block DMA (11.4.8): low, high.
    pub protected: [Option<(u64, u64)>; 2],
}

impl Mode {
    /// The mode that a value of RTADDR asks for.
    pub(crate) fn of(rtaddr: u64) -> Self {
        match rtaddr >> 10 & 3 {
            0 => Mode::Legacy,
            1 => Mode::Scalable,
            2 => Mode::Reserved,
            _ => Mode::Abort,
        }
    }
}

//! The top floor: what the driver stands on. The host's services (`platform`), memory that hardware may read (`mem`),
//! locks (`sync`), containers that can fail to grow (`grow`), and the words everything speaks (`address`, `error`).

pub mod address;
pub mod error;
pub(crate) mod grow;
#[allow(unsafe_code, reason = "design rule 9: owned memory and the store primitive")]
pub(crate) mod mem;
pub(crate) mod observe;
#[allow(unsafe_code, reason = "design rule 9: the contract of the host")]
pub mod platform;
pub(crate) mod sync;
#[cfg(test)]
#[allow(unsafe_code, reason = "a host for tests: its frames come from the heap")]
pub(crate) mod testing;
pub(crate) mod wait;

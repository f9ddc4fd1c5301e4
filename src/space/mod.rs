//! Address spaces: what is mapped (`paging`), what must be flushed where (`flush`, `tags`), domains, which bring both together
//! (`spec` what they need, `tables` of either stage, `foreign` those that a CPU has too, with `address_space`, `domain` the handle,
//! `dirty` what devices have written to, `state` what stands behind it, `firmware` regions reserved for devices, `unmapped` what is
//! still to be flushed, `stage1` guests' tables over them), and who has which input range (`iova`).

pub(crate) mod address_space;
pub(crate) mod dirty;
pub(crate) mod domain;
mod firmware;
pub(crate) mod flush;
pub(crate) mod foreign;
pub(crate) mod iova;
pub(crate) mod paging;
pub(crate) mod spec;
pub(crate) mod stage1;
pub(crate) mod state;
pub(crate) mod tables;
mod tags;
pub(crate) mod unmapped;

//! Address spaces: what is mapped (`paging`), what must be flushed where (`flush`), domains, which bring both together
//! (`domain`), and who has which input range (`iova`).

pub(crate) mod domain;
pub(crate) mod flush;
pub(crate) mod iova;
pub(crate) mod paging;

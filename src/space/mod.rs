//! Address spaces: what is mapped (`paging`), what must be flushed where (`flush`), domains, which bring both together
//! (`domain`), and who has which input range (`iova`).

pub mod domain;
pub mod flush;
pub mod paging;

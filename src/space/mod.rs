//! Address spaces: what is mapped (`paging`), what must be flushed where (`flush`), who has which input range (`iova`).

pub(crate) mod flush;
pub(crate) mod iova;
pub(crate) mod paging;

//! The hardware's own formats and nothing else: pure values that are built, read and compared.

pub(crate) mod pages;

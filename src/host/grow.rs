//! Containers that grow without aborting: what `Vec` offers on stable is `try_reserve`, and this is all that builds on it.

use super::error::ErrorKind;
use alloc::vec::Vec;

/// Appends, or says that memory ended; nothing is changed then.
#[allow(clippy::disallowed_methods, reason = "room was reserved the line before")]
pub(crate) fn push<T>(v: &mut Vec<T>, item: T) -> Result<(), ErrorKind> {
    v.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
    v.push(item);
    Ok(())
}

/// Inserts before position `at` (at most the length), or says that memory ended.
#[allow(clippy::disallowed_methods, reason = "room was reserved the line before")]
pub(crate) fn insert<T>(v: &mut Vec<T>, at: usize, item: T) -> Result<(), ErrorKind> {
    v.try_reserve(1).map_err(|_| ErrorKind::OutOfMemory)?;
    v.insert(at.min(v.len()), item);
    Ok(())
}

/// An empty vector with room for `n`.
pub(crate) fn with_capacity<T>(n: usize) -> Result<Vec<T>, ErrorKind> {
    let mut v = Vec::new();
    v.try_reserve_exact(n).map_err(|_| ErrorKind::OutOfMemory)?;
    Ok(v)
}

/// `n` values made by `make`.
pub(crate) fn filled<T>(n: usize, mut make: impl FnMut() -> T) -> Result<Vec<T>, ErrorKind> {
    let mut v = with_capacity(n)?;
    for _ in 0..n {
        push(&mut v, make())?;
    }
    Ok(v)
}

//! Buffers that a thread keeps from one operation to the next, so that steps allocate nothing.

use std::cell::RefCell;
use std::thread::LocalKey;

/// More than one where a thread takes up another item while it waits for a part of its own.
type Kept<N> = RefCell<Vec<Vec<N>>>;

thread_local! {
    static SINGLE: Kept<f32> = RefCell::default();
    static DOUBLE: Kept<f64> = RefCell::default();
}

/// Runs `f` on `length` zeros.
pub(super) fn singles<T>(length: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    zeros(&SINGLE, length, f)
}

/// Runs `f` on `length` zeros in f64.
pub(super) fn doubles<T>(length: usize, f: impl FnOnce(&mut [f64]) -> T) -> T {
    zeros(&DOUBLE, length, f)
}

fn zeros<N: Clone + Default, T>(kept: &'static LocalKey<Kept<N>>, length: usize, f: impl FnOnce(&mut [N]) -> T) -> T {
    let mut buffer = kept.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.clear();
    buffer.resize(length, N::default());
    let result = f(&mut buffer);
    kept.with_borrow_mut(|kept| kept.push(buffer));
    result
}

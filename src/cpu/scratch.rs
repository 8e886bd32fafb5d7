//! Buffers that a thread keeps from one operation to the next, so that steps allocate nothing.

use std::cell::Cell;

thread_local! {
    static SINGLE: Cell<Vec<f32>> = Cell::default();
    static DOUBLE: Cell<Vec<f64>> = Cell::default();
}

/// Runs `f` on `length` zeros.
pub(super) fn singles<T>(length: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    SINGLE.with(|place| zeros(place, length, f))
}

/// Runs `f` on `length` zeros in f64.
pub(super) fn doubles<T>(length: usize, f: impl FnOnce(&mut [f64]) -> T) -> T {
    DOUBLE.with(|place| zeros(place, length, f))
}

/// The buffer is away meanwhile: a nested call, also one that work stealing brings, finds an empty one and makes its own.
fn zeros<N: Clone + Default, T>(place: &Cell<Vec<N>>, length: usize, f: impl FnOnce(&mut [N]) -> T) -> T {
    let mut buffer = place.take();
    buffer.clear();
    buffer.resize(length, N::default());
    let result = f(&mut buffer);
    place.set(buffer);
    result
}

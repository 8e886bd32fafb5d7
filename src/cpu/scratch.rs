//! Buffers that a thread keeps from one operation to the next, so that steps allocate nothing.

use std::cell::RefCell;
use std::thread::LocalKey;

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};

/// More than one where a thread takes up another item while it waits for a part of its own.
pub(super) type Kept<T> = RefCell<Vec<T>>;

thread_local! {
    static SINGLE: Kept<Vec<f32>> = RefCell::default();
    static DOUBLE: Kept<Vec<f64>> = RefCell::default();
    static STACK: Kept<Option<MemBuffer>> = RefCell::default();
}

/// Runs `f` on `length` zeros.
pub(super) fn singles<T>(length: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    zeros(&SINGLE, length, f)
}

/// Runs `f` on `length` zeros in f64.
pub(super) fn doubles<T>(length: usize, f: impl FnOnce(&mut [f64]) -> T) -> T {
    zeros(&DOUBLE, length, f)
}

fn zeros<N: Clone + Default, T>(buffers: &'static LocalKey<Kept<Vec<N>>>, length: usize, f: impl FnOnce(&mut [N]) -> T) -> T {
    kept(buffers, |buffer| {
        buffer.clear();
        buffer.resize(length, N::default());
        f(buffer)
    })
}

/// Runs `f` on what an earlier call left, or on a new one.
pub(super) fn kept<W: Default, T>(all: &'static LocalKey<Kept<W>>, f: impl FnOnce(&mut W) -> T) -> T {
    let mut one = all.with_borrow_mut(Vec::pop).unwrap_or_default();
    let result = f(&mut one);
    all.with_borrow_mut(|all| all.push(one));
    result
}

/// Runs `f` on a stack for faer; one that an earlier call left, where it is large enough.
pub(super) fn stack<T>(needed: StackReq, f: impl FnOnce(&mut MemStack) -> T) -> T {
    kept(&STACK, |buffer| {
        let bytes = needed.unaligned_bytes_required();
        if buffer.as_ref().is_some_and(|buffer| buffer.len() < bytes) {
            *buffer = None;
        }
        f(MemStack::new(buffer.get_or_insert_with(|| MemBuffer::new(StackReq::new::<u8>(bytes)))))
    })
}

//! The CPU path: the same plan, the same operations, on faer and rayon.
//!
//! Parallel over items; within an item an operation is sequential unless its size alone (never the batch) makes it worth splitting, and only where
//! that changes no bit. File names mirror `shaders/`.

mod activation;
mod cholesky;
mod control;
mod curvature;
mod eigh;
mod elementwise;
pub(crate) mod engine;
mod gemm;
mod memory;
mod network;
mod polar;
mod product;
mod qr;
mod random_fill;
mod reduce;
mod scratch;
mod spectral;
mod thin;
mod tiles;
mod update;

use std::cell::Cell;

thread_local! {
    static SEQUENTIAL: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with every operation of this thread on this thread alone: for callers that have threads enough of their own. Changes no bit.
pub(crate) fn sequentially<T>(f: impl FnOnce() -> T) -> T {
    /// Puts the old state back, also where `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            SEQUENTIAL.set(self.0);
        }
    }
    let _restore = Restore(SEQUENTIAL.replace(true));
    f()
}

fn is_sequential() -> bool {
    SEQUENTIAL.get()
}

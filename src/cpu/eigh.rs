//! Symmetric eigendecompositions, in f64 and sequentially within an item.

use std::cell::Cell;

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{MatMut, MatRef, Par, Spec};
use rayon::prelude::*;

use super::memory::{Memory, worth_threads};
use super::tiles;
use crate::plan::{Eigh, Order};

/// What one decomposition needs; kept by each thread, so that steps allocate nothing.
#[derive(Default)]
struct Work {
    matrix: Vec<f64>,
    vectors: Vec<f64>,
    values: Vec<f64>,
    order: Vec<usize>,
    /// The stack of order `fits`.
    stack: Option<MemBuffer>,
    fits: usize,
}

thread_local! {
    static WORK: Cell<Work> = Cell::default();
}

#[allow(clippy::cast_possible_truncation, reason = "rounding an f64 result to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

fn stack_req(n: usize) -> StackReq {
    self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Spec::default())
}

impl Work {
    /// Takes in the symmetric part of an item; true where it is finite.
    fn load(&mut self, n: usize, words: &[f32], [row_stride, col_stride]: [usize; 2]) -> bool {
        for (buffer, length) in [(&mut self.matrix, n * n), (&mut self.vectors, n * n), (&mut self.values, n)] {
            buffer.resize(length, 0.0);
        }
        if self.fits != n {
            self.stack = None;
        }
        let (at, mut finite) = (|r: usize, c: usize| f64::from(words[r * row_stride + c * col_stride]), true);
        let matrix = &mut self.matrix;
        tiles::each(n, n, |r, c| {
            let x = 0.5 * (at(r, c) + at(c, r));
            finite &= x.is_finite();
            matrix[c * n + r] = x;
        });
        finite
    }

    /// Eigenpairs of the loaded matrix, values ascending, vectors in columns; false where there are none.
    fn decompose(&mut self, n: usize) -> bool {
        if (0..n).all(|c| self.matrix[c * n..][..n].iter().enumerate().all(|(r, x)| r == c || *x == 0.0)) {
            // Nothing to find: this is what items look like that a caller has masked out.
            let Work { matrix, vectors, values, order, .. } = self;
            let diagonal = |i: usize| matrix[i * (n + 1)];
            order.clear();
            order.extend(0..n);
            order.sort_unstable_by(|&a, &b| diagonal(a).total_cmp(&diagonal(b)).then(a.cmp(&b)));
            vectors.fill(0.0);
            for (c, &from) in order.iter().enumerate() {
                values[c] = diagonal(from);
                vectors[c * n + from] = 1.0;
            }
            return true;
        }
        self.fits = n;
        let stack = MemStack::new(self.stack.get_or_insert_with(|| MemBuffer::new(stack_req(n))));
        let matrix = MatRef::from_column_major_slice(&self.matrix, n, n);
        let vectors = MatMut::from_column_major_slice_mut(&mut self.vectors, n, n);
        self_adjoint_evd(matrix, DiagMut::from_slice_mut(&mut self.values), Some(vectors), Par::Seq, stack, Spec::default()).is_ok()
    }
}

/// All eigenpairs of the symmetric part, in f64. NaN where the matrix is not finite.
pub(super) fn eigh(op: &Eigh, memory: &mut Memory<'_>) {
    let (mut values, mut vectors) = (memory.take(op.values), memory.take(op.vectors));
    let a = memory.input(op.a);
    let n = op.vectors.rows;
    let decompose = |(i, (values, vectors)): (usize, (&mut [f32], &mut [f32]))| {
        let mut work = WORK.take();
        let done = work.load(n, a.item(i), [op.a.row_stride, op.a.col_stride]) && work.decompose(n);
        let from = |c: usize| if op.order == Order::Ascending { c } else { n - 1 - c };
        for c in 0..n {
            values[c * op.values.col_stride] = if done { narrow(work.values[from(c)]) } else { f32::NAN };
        }
        tiles::each(n, n, |r, c| {
            let x = if done { narrow(work.vectors[from(c) * n + r]) } else { f32::NAN };
            vectors[r * op.vectors.row_stride + c * op.vectors.col_stride] = x;
        });
        WORK.set(work);
    };
    if worth_threads(op.values.items, 9 * n * n * n) {
        values.items().zip(vectors.items()).enumerate().for_each(decompose);
    } else {
        values.items_seq().zip(vectors.items_seq()).enumerate().for_each(decompose);
    }
    memory.put(values);
    memory.put(vectors);
}

//! Symmetric eigendecompositions, sequential within an item but for large ones.
//!
//! Reflections make a tridiagonal matrix, whose eigenpairs are found and turned back; in f64, rounded at the end: what is made of the pairs errs by the rounding
//! of the vectors, whatever its condition.

mod reduction;
mod rotations;

use faer::diag::{DiagMut, DiagRef};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use faer::{MatMut, Par, Spec};
use rayon::prelude::*;

use super::memory::{Memory, worth_threads};
use super::scratch::{self, Kept};
use super::tiles;
use crate::plan::{Eigh, Order};
use reduction::{Reduction, pitch};

/// From this order on divide and conquer is faster than rotations (measured: 0.63 and 0.77 ms at 127, 2.5 and 2.0 at 200).
const DIVIDE: usize = 160;

/// From this order on faer's divide and conquer gives the same bits on any number of threads; below, threads would not pay.
const SPLIT: usize = 256;

/// What one decomposition needs; kept by each thread, so that steps allocate nothing.
#[derive(Default)]
struct Work {
    /// The matrix, its columns `pitch(n)` apart.
    matrix: Vec<f64>,
    reduction: Reduction,
    values: Vec<f64>,
    /// Columns in the order in which they were found, and that which makes values ascend.
    vectors: Vec<f64>,
    order: Vec<usize>,
}

thread_local! {
    static WORK: Kept<Work> = Kept::default();
}

#[allow(clippy::cast_possible_truncation, reason = "rounding an f64 result to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

impl Work {
    /// Takes in the symmetric part of an item; true where it is finite.
    fn load(&mut self, n: usize, words: &[f32], [row_stride, col_stride]: [usize; 2]) -> bool {
        let pitch = pitch(n);
        for (buffer, length) in [(&mut self.matrix, n * pitch), (&mut self.vectors, n * n), (&mut self.values, n)] {
            buffer.resize(length, 0.0);
        }
        let (at, mut finite) = (|r: usize, c: usize| f64::from(words[r * row_stride + c * col_stride]), true);
        let matrix = &mut self.matrix;
        tiles::each(n, n, |r, c| {
            let x = 0.5 * (at(r, c) + at(c, r));
            finite &= x.is_finite();
            matrix[c * pitch + r] = x;
        });
        finite
    }

    /// Eigenpairs of the loaded matrix, values ascending, vectors in columns; false where there are none.
    fn decompose(&mut self, n: usize, par: Par) -> bool {
        let pitch = pitch(n);
        if (0..n).all(|c| self.matrix[c * pitch..][..n].iter().enumerate().all(|(r, x)| r == c || *x == 0.0)) {
            self.read_diagonal(n);
            return true;
        }
        let Work { matrix, reduction, values, vectors, order } = self;
        reduction.reduce(n, matrix);
        order.clear();
        order.extend(0..n);
        let Reduction { diagonal, below, .. } = reduction;
        if n < DIVIDE {
            vectors.fill(0.0);
            vectors.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
            if !rotations::eigenpairs(diagonal, below, vectors, n) {
                return false;
            }
            order.sort_unstable_by(|&a, &b| diagonal[a].total_cmp(&diagonal[b]).then(a.cmp(&b)));
            values.iter_mut().zip(&*order).for_each(|(to, &from)| *to = diagonal[from]);
        } else {
            let [diagonal, below] = [&*diagonal, &*below].map(|band| DiagRef::from_slice(band));
            let (pairs, values) = (MatMut::from_column_major_slice_mut(vectors, n, n), DiagMut::from_slice_mut(values));
            let needed = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, Spec::default());
            let found = scratch::stack(needed, |stack| {
                tridiagonal_self_adjoint_evd(diagonal, below, values, Some(pairs), par, stack, Spec::default())
            });
            if found.is_err() {
                return false;
            }
        }
        reduction.turn_back(n, vectors);
        true
    }

    /// Eigenpairs of a diagonal matrix, exactly: this is what items look like that a caller has masked out.
    fn read_diagonal(&mut self, n: usize) {
        let Work { matrix, vectors, values, order, .. } = self;
        let diagonal = |i: usize| matrix[i * (pitch(n) + 1)];
        order.clear();
        order.extend(0..n);
        order.sort_unstable_by(|&a, &b| diagonal(a).total_cmp(&diagonal(b)).then(a.cmp(&b)));
        vectors.fill(0.0);
        for (c, &from) in order.iter().enumerate() {
            values[c] = diagonal(from);
            vectors[from * (n + 1)] = 1.0;
        }
    }
}

/// All eigenpairs of the symmetric part. NaN where the matrix is not finite.
pub(super) fn eigh(op: &Eigh, memory: &mut Memory<'_>) {
    let (mut values, mut vectors) = (memory.take(op.values), memory.take(op.vectors));
    let a = memory.input(op.a);
    let n = op.vectors.rows;
    // Where items keep all threads busy, each is better left to one.
    let few = op.values.items < rayon::current_num_threads() && !super::is_sequential();
    let par = if n >= SPLIT && few { Par::rayon(0) } else { Par::Seq };
    let decompose = |(i, (values, vectors)): (usize, (&mut [f32], &mut [f32]))| {
        scratch::kept(&WORK, |work| {
            let done = work.load(n, a.item(i), [op.a.row_stride, op.a.col_stride]) && work.decompose(n, par);
            let from = |c: usize| if op.order == Order::Ascending { c } else { n - 1 - c };
            for c in 0..n {
                values[c * op.values.col_stride] = if done { narrow(work.values[from(c)]) } else { f32::NAN };
            }
            tiles::each(n, n, |r, c| {
                let x = if done { narrow(work.vectors[work.order[from(c)] * n + r]) } else { f32::NAN };
                vectors[r * op.vectors.row_stride + c * op.vectors.col_stride] = x;
            });
        });
    };
    if worth_threads(op.values.items, 9 * n * n * n) {
        values.items().zip(vectors.items()).enumerate().for_each(decompose);
    } else {
        values.items_seq().zip(vectors.items_seq()).enumerate().for_each(decompose);
    }
    memory.put(values);
    memory.put(vectors);
}

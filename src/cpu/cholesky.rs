//! Cholesky factorization and triangular solves on faer.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Par, Spec};
use rayon::prelude::*;

use super::elementwise::Coefficient;
use super::gemm::{mat, mat_mut};
use super::memory::{Memory, worth_threads};
use crate::plan::{Cholesky, SolveTriangular};

/// Lower factor of `a + damping I`, and whether each item has one.
pub(super) fn cholesky(op: &Cholesky, memory: &mut Memory<'_>) {
    let (mut out, mut ok) = (memory.take(op.out), memory.take(op.ok));
    let (a, block) = (memory.input(op.a), op.block.map(|v| memory.input(v)));
    let (v, n) = (op.out, op.out.rows);
    let factor = |(i, (item, ok)): (usize, (&mut [f32], &mut [f32]))| {
        let damping = op.damping.at(block, i);
        let words = a.item(i);
        let at = |r: usize, c: usize| r * v.row_stride + c * v.col_stride;
        for r in 0..n {
            for c in 0..r + 1 {
                item[at(r, c)] = words[r * op.a.row_stride + c * op.a.col_stride];
            }
            item[at(r, r)] += damping;
        }
        let mut scratch = MemBuffer::new(cholesky_in_place_scratch::<f32>(n, Par::Seq, Spec::default()));
        let result =
            cholesky_in_place(mat_mut(item, &v), LltRegularization::default(), Par::Seq, MemStack::new(&mut scratch), Spec::default());
        // faer's column-major kernels leave their own numbers above the diagonal.
        for r in 0..n {
            for c in r + 1..n {
                item[at(r, c)] = 0.0;
            }
        }
        // As on a GPU, which may flush a subnormal pivot to zero: 2^-63 is the root of the smallest normal one.
        let finite = (0..n).all(|r| item[at(r, r)].is_finite() && item[at(r, r)] >= 1.084_202_2e-19);
        ok[0] = if result.is_ok() && finite { 1.0 } else { 0.0 };
    };
    if worth_threads(v.items, n * n * n / 3) {
        out.items().zip(ok.items()).enumerate().for_each(factor);
    } else {
        out.items_seq().zip(ok.items_seq()).enumerate().for_each(factor);
    }
    memory.put(out);
    memory.put(ok);
}

/// `out = L^{-1} b` or `L^{-T} b`.
pub(super) fn solve_triangular(op: &SolveTriangular, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (l, b) = (memory.input(op.l), op.b.map(|b| memory.input(b)));
    let v = op.out;
    out.for_each(v.rows * v.rows * v.cols, |i, item| {
        let b_item = b.map(|b| (b.item(i), b.view));
        for r in 0..v.rows {
            for c in 0..v.cols {
                item[r * v.row_stride + c * v.col_stride] = match b_item {
                    Some((b, view)) => b[r * view.row_stride + c * view.col_stride],
                    None if r == c => 1.0,
                    None => 0.0,
                };
            }
        }
        let (words, view) = l.matrix(i);
        let factor = mat(&words, &view);
        if op.transpose {
            solve_upper_triangular_in_place(factor.transpose(), mat_mut(item, &v), Par::Seq);
        } else {
            solve_lower_triangular_in_place(factor, mat_mut(item, &v), Par::Seq);
        }
    });
    memory.put(out);
}

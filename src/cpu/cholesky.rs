//! Cholesky factorization and triangular solves on faer.

use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Par, Spec};
use rayon::prelude::*;

use super::elementwise::Coefficient;
use super::gemm::{mat, mat_mut};
use super::memory::{Memory, runs, worth_threads};
use super::scratch;
use crate::plan::{Cholesky, SolveTriangular, Value};

/// Lower factor of `a + damping I`, and whether each item has one.
pub(super) fn cholesky(op: &Cholesky, memory: &mut Memory<'_>) {
    let (mut out, mut ok) = (memory.take(op.out), memory.take(op.ok));
    let (a, block) = (memory.input(op.a), op.block.map(|v| memory.input(v)));
    let (v, n) = (op.out, op.out.rows);
    let factor = |(i, (item, ok)): (usize, (&mut [f32], &mut [f32]))| {
        let damping = op.damping.at(block, i);
        let words = a.item(i);
        let at = |r: usize, c: usize| r * v.row_stride + c * v.col_stride;
        // faer factors a column-major matrix two to three times faster than a row-major one: the lower factor grows in the transposed place,
        // which is the view's upper triangle where rows are contiguous.
        let columns = if v.col_stride == 1 { v.t() } else { v };
        let across = |r: usize, c: usize| r * columns.row_stride + c * columns.col_stride;
        for r in 0..n {
            for c in 0..r + 1 {
                item[across(r, c)] = words[r * op.a.row_stride + c * op.a.col_stride];
            }
            item[across(r, r)] += damping;
        }
        let result = scratch::stack(cholesky_in_place_scratch::<f32>(n, Par::Seq, Spec::default()), |stack| {
            cholesky_in_place(mat_mut(item, &columns), LltRegularization::default(), Par::Seq, stack, Spec::default())
        });
        // What faer's kernels leave on the other side of the diagonal has no meaning.
        for r in 0..n {
            for c in 0..r {
                item[at(r, c)] = item[across(r, c)];
                item[at(c, r)] = 0.0;
            }
        }
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

/// `item = I`.
fn identity(item: &mut [f32], v: &Value) {
    let [run] = runs([*v]);
    for r in 0..run.rows {
        let row = &mut item[r * run.row_stride..];
        if run.col_stride == 1 {
            row[..run.cols].fill(0.0);
        } else {
            (0..run.cols).for_each(|c| row[c * run.col_stride] = 0.0);
        }
    }
    for r in 0..v.rows.min(v.cols) {
        item[r * (v.row_stride + v.col_stride)] = 1.0;
    }
}

/// `item = b`.
fn copy(b: &[f32], from: &Value, item: &mut [f32], to: &Value) {
    let [to, from] = runs([*to, *from]);
    for r in 0..to.rows {
        let (target, source) = (&mut item[r * to.row_stride..], &b[r * from.row_stride..]);
        for c in 0..to.cols {
            target[c * to.col_stride] = source[c * from.col_stride];
        }
    }
}

/// `out = L^{-1} b` or `L^{-T} b`.
pub(super) fn solve_triangular(op: &SolveTriangular, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (l, b) = (memory.input(op.l), op.b.map(|b| memory.input(b)));
    let v = op.out;
    out.for_each(v.rows * v.rows * v.cols, |i, item| {
        match b {
            Some(b) => copy(b.item(i), &b.view, item, &v),
            None => identity(item, &v),
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

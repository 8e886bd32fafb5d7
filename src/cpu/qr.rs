//! Householder QR in f64, and columns in order.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::memory::{Memory, worth_threads};
use crate::plan::{Qr, SortColumns};

/// Columns whose reflections are applied together.
const PANEL: usize = 32;

/// Reflections of one panel: `H_1 ... H_w = I - Y V^T`, both `[n - first, w]`.
struct Reflections {
    first: usize,
    v: Mat<f64>,
    y: Mat<f64>,
}

/// `out <- out - left (right^T out)`.
fn reflect(out: MatMut<'_, f64>, left: MatRef<'_, f64>, right: MatRef<'_, f64>) {
    let mut product = Mat::<f64>::zeros(right.ncols(), out.ncols());
    matmul(product.as_mut(), Accum::Replace, right.transpose(), out.as_ref(), 1.0, Par::Seq);
    matmul(out, Accum::Add, left, product.as_ref(), -1.0, Par::Seq);
}

/// Makes columns `first..` of a panel upper triangular. Dot products and updates run down the contiguous columns.
fn panel(r: &mut Mat<f64>, first: usize) -> Reflections {
    let n = r.nrows();
    let (rows, w) = (n - first, PANEL.min(n - first));
    let (mut v, mut t) = (Mat::<f64>::zeros(rows, w), Mat::<f64>::zeros(w, w));
    for k in 0..w {
        let (head, x) = (first + k, first + k + 1..n);
        let below: f64 = x.clone().map(|i| r[(i, head)] * r[(i, head)]).sum();
        let alpha = r[(head, head)];
        v[(k, k)] = 1.0;
        if below == 0.0 {
            continue;
        }
        let beta = -alpha.signum() * (alpha * alpha + below).sqrt();
        let (tau, scale) = ((beta - alpha) / beta, 1.0 / (alpha - beta));
        for i in x.clone() {
            v[(i - first, k)] = scale * r[(i, head)];
        }
        for c in k + 1..w {
            let c = first + c;
            let dot = r[(head, c)] + x.clone().map(|i| v[(i - first, k)] * r[(i, c)]).sum::<f64>();
            r[(head, c)] -= tau * dot;
            for i in x.clone() {
                r[(i, c)] -= tau * dot * v[(i - first, k)];
            }
        }
        r[(head, head)] = beta;
        t[(k, k)] = tau;
        let z: Vec<f64> = (0..k).map(|c| (k..rows).map(|i| v[(i, c)] * v[(i, k)]).sum()).collect();
        for i in 0..k {
            t[(i, k)] = -tau * (i..k).map(|l| t[(i, l)] * z[l]).sum::<f64>();
        }
    }
    let y = &v * &t;
    Reflections { first, v, y }
}

/// The orthonormal factor of a finite matrix.
fn orthonormal_factor(mut r: Mat<f64>) -> Mat<f64> {
    let n = r.nrows();
    let mut all = Vec::with_capacity(n.div_ceil(PANEL));
    for first in (0..n).step_by(PANEL) {
        let part = panel(&mut r, first);
        let next = (first + PANEL).min(n);
        reflect(r.as_mut().submatrix_mut(first, next, n - first, n - next), part.v.as_ref(), part.y.as_ref());
        all.push(part);
    }
    let mut q = Mat::<f64>::identity(n, n);
    for part in all.iter().rev() {
        let rest = n - part.first;
        reflect(q.as_mut().submatrix_mut(part.first, part.first, rest, rest), part.y.as_ref(), part.v.as_ref());
    }
    for c in (0..n).filter(|&c| r[(c, c)] < 0.0) {
        (0..n).for_each(|i| q[(i, c)] = -q[(i, c)]);
    }
    q
}

#[allow(clippy::cast_possible_truncation, reason = "rounding an f64 result to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// Orthonormal factors, in f64. NaN where the matrix is not finite.
pub(super) fn qr(op: &Qr, memory: &mut Memory<'_>) {
    let mut q = memory.take(op.q);
    let a = memory.input(op.a);
    let n = op.q.rows;
    let factor = |(i, item): (usize, &mut [f32])| {
        let words = a.item(i);
        let matrix = Mat::from_fn(n, n, |r, c| f64::from(words[r * op.a.row_stride + c * op.a.col_stride]));
        let finite = (0..n).all(|c| matrix.col(c).iter().all(|x| x.is_finite()));
        let result = if finite { orthonormal_factor(matrix) } else { Mat::full(n, n, f64::NAN) };
        for r in 0..n {
            for c in 0..n {
                item[r * op.q.row_stride + c * op.q.col_stride] = narrow(result[(r, c)]);
            }
        }
    };
    if worth_threads(op.q.items, 3 * n * n * n) {
        q.items().enumerate().for_each(factor);
    } else {
        q.items_seq().enumerate().for_each(factor);
    }
    memory.put(q);
}

/// Columns by descending keys.
pub(super) fn sort_columns(op: &SortColumns, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (keys, x) = (memory.input(op.keys), memory.input(op.x));
    let v = op.out;
    out.for_each(v.rows * v.cols, |i, item| {
        let words = x.item(i);
        // A NaN's sign is no order that devices share: all lie above infinity.
        let key = |c: usize| {
            let key = keys.scalar(i, c);
            if key.is_nan() { f32::NAN } else { key + 0.0 }
        };
        let mut order: Vec<usize> = (0..v.cols).collect();
        order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
        for (to, from) in order.into_iter().enumerate() {
            for r in 0..v.rows {
                item[r * v.row_stride + to * v.col_stride] = words[r * op.x.row_stride + from * op.x.col_stride];
            }
        }
    });
    memory.put(out);
}

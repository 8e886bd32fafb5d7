//! Matrix products on faer.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::elementwise::Coefficient;
use super::memory::Memory;
use super::thin::{self, Addend, Thin};
use crate::plan::{Gemm, KronFactor, Value};

/// A read view as faer sees it. One stride of a plan view is always 1.
pub(super) fn mat<'a>(words: &'a [f32], v: &Value) -> MatRef<'a, f32> {
    if v.col_stride == 1 {
        MatRef::from_row_major_slice_with_stride(words, v.rows, v.cols, v.row_stride.max(v.cols))
    } else {
        MatRef::from_column_major_slice_with_stride(words, v.rows, v.cols, v.col_stride.max(v.rows))
    }
}

/// A written view as faer sees it.
pub(super) fn mat_mut<'a>(words: &'a mut [f32], v: &Value) -> MatMut<'a, f32> {
    if v.col_stride == 1 {
        // Through the transpose: faer 0.24.4's own row-major form of `MatMut` swaps the strides.
        MatMut::from_column_major_slice_with_stride_mut(words, v.cols, v.rows, v.row_stride.max(v.cols)).transpose_mut()
    } else {
        MatMut::from_column_major_slice_with_stride_mut(words, v.rows, v.cols, v.col_stride.max(v.rows))
    }
}

/// Products above this split their own work; the item's shape alone decides, and faer's split gives the same bits.
const SPLIT_FLOPS: usize = 1 << 27;

fn par(flops: usize) -> Par {
    if flops >= SPLIT_FLOPS && !super::is_sequential() { Par::rayon(0) } else { Par::Seq }
}

/// `item <- beta item`.
fn scale(item: &mut [f32], v: &Value, beta: f32) {
    // One of the strides is 1: runs along that axis are contiguous.
    let (runs, length, stride) = if v.col_stride == 1 { (v.rows, v.cols, v.row_stride) } else { (v.cols, v.rows, v.col_stride) };
    for run in 0..runs {
        item[run * stride..][..length].iter_mut().for_each(|x| *x *= beta);
    }
}

/// `item = beta d`.
fn scaled_copy(d: &[f32], from: &Value, beta: f32, item: &mut [f32], v: &Value) {
    let (runs, length) = if v.col_stride == 1 { (v.rows, v.cols) } else { (v.cols, v.rows) };
    let axes = |v: &Value, by_row: bool| if by_row { (v.row_stride, v.col_stride) } else { (v.col_stride, v.row_stride) };
    let ((to_stride, _), (from_stride, from_step)) = (axes(v, v.col_stride == 1), axes(from, v.col_stride == 1));
    for run in 0..runs {
        let to = &mut item[run * to_stride..][..length];
        let source = &d[run * from_stride..];
        if from_step == 1 {
            to.iter_mut().zip(source).for_each(|(to, x)| *to = beta * x);
        } else {
            // Not `step_by`: the step of a broadcast row is 0.
            to.iter_mut().enumerate().for_each(|(i, to)| *to = beta * source[i * from_step]);
        }
    }
}

/// `out = alpha a b + beta d + gamma I`.
pub(super) fn gemm(op: &Gemm, memory: &mut Memory<'_>) {
    let in_place = op.d == Some(op.out);
    let mut out = memory.take(op.out);
    let (a, b, d) = (memory.input(op.a), memory.input(op.b), op.d.filter(|_| !in_place).map(|d| memory.input(d)));
    let block = op.block.map(|v| memory.input(v));
    let v = op.out;
    let flops = 2 * v.rows * v.cols * op.a.cols;
    out.for_each(flops, |i, item| {
        if op.gate.is_some_and(|column| block.is_some_and(|block| block.scalar(i, column as usize) == 0.0)) {
            return;
        }
        let [alpha, beta, gamma] = [op.alpha, op.beta, op.gamma].map(|c| c.at(block, i));
        let ((a_words, a_view), (b_words, b_view)) = (a.matrix(i), b.matrix(i));
        let addend = match d {
            _ if op.d.is_none() || op.beta.is_zero() => Addend::None,
            None => Addend::InPlace,
            Some(d) => Addend::Other(d.item(i), d.view),
        };
        let (a, b) = ((&*a_words, a_view), (&*b_words, b_view));
        if !thin::multiply(&mut Thin { alpha, a, b, beta, d: addend, out: (&mut *item, v) }) {
            match addend {
                Addend::None => {}
                Addend::InPlace if beta == 1.0 => {}
                Addend::InPlace => scale(item, &v, beta),
                Addend::Other(d, view) => scaled_copy(d, &view, beta, item, &v),
            }
            let accumulate = if matches!(addend, Addend::None) { Accum::Replace } else { Accum::Add };
            if op.symmetric {
                lower_triangle(item, &v, accumulate, a, b, alpha, par(flops));
            } else {
                matmul(mat_mut(item, &v), accumulate, mat(a.0, &a.1), mat(b.0, &b.1), alpha, par(flops));
            }
        }
        if op.symmetric {
            mirror(item, &v);
        }
        if !op.gamma.is_zero() {
            for r in 0..v.rows.min(v.cols) {
                item[r * (v.row_stride + v.col_stride)] += gamma;
            }
        }
    });
    memory.put(out);
}

/// Rows of a block row of a symmetric product: small enough to skip most of the upper triangle, large enough for faer's tiles (the fastest measured).
fn block_rows(q: usize) -> usize {
    if q <= 256 { 32 } else { 96 }
}

/// The lower triangle of `a b` and some of what is above: block rows by plain products, between half and all of the square's work, half for large results.
fn lower_triangle(item: &mut [f32], v: &Value, accumulate: Accum, a: (&[f32], Value), b: (&[f32], Value), alpha: f32, par: Par) {
    let step = block_rows(v.rows);
    for first in (0..v.rows).step_by(step) {
        let height = step.min(v.rows - first);
        let part = Value { rows: height, cols: first + height, ..*v };
        let rows = Value { offset: 0, rows: height, ..a.1 };
        let cols = Value { offset: 0, cols: first + height, ..b.1 };
        let out = mat_mut(&mut item[first * v.row_stride..], &part);
        matmul(out, accumulate, mat(&a.0[first * a.1.row_stride..], &rows), mat(b.0, &cols), alpha, par);
    }
}

/// Copies the lower triangle to the upper one.
fn mirror(item: &mut [f32], v: &Value) {
    let at = |r: usize, c: usize| r * v.row_stride + c * v.col_stride;
    for r in 0..v.rows {
        for c in 0..r {
            item[at(c, r)] = item[at(r, c)];
        }
    }
}

/// `out <- decay out + (1 - decay) scale / n x^T x`, lower triangle computed, upper mirrored.
pub(super) fn kron_factor(op: &KronFactor, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let x = memory.input(op.x);
    let (block, gate) = (op.block.map(|v| memory.input(v)), op.gate.map(|v| memory.input(v)));
    let (v, n, q) = (op.out, op.x.rows, op.x.cols);
    let flops = n * q * (q + 1);
    out.for_each(flops, |i, item| {
        if gate.is_some_and(|g| g.scalar(i, 0) == 0.0) {
            return;
        }
        let decay = op.decay.at(block, i);
        #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^24")]
        let weight = (1.0 - decay) * op.scale / n as f32;
        let at = |r: usize, c: usize| r * v.row_stride + c * v.col_stride;
        let (words, x) = x.matrix(i);
        let accumulate = if op.decay.is_zero() {
            Accum::Replace
        } else {
            for r in 0..v.rows {
                for c in 0..=r {
                    item[at(r, c)] *= decay;
                }
            }
            Accum::Add
        };
        // Of few columns, the whole square by dot products.
        let square = Value { rows: q, cols: q, ..v };
        let d = if op.decay.is_zero() { Addend::None } else { Addend::InPlace };
        let product = &mut Thin { alpha: weight, a: (&words, x.t()), b: (&words, x), beta: 1.0, d, out: (&mut *item, square) };
        let is_thin = thin::multiply(product);
        if !is_thin {
            lower_triangle(item, &square, accumulate, (&words, x.t()), (&words, x), weight, par(flops));
        }
        if op.ones {
            let mut sums = vec![0.0f32; q];
            for r in 0..n {
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum += words[r * x.row_stride + c * x.col_stride];
                }
            }
            #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^24")]
            let last = [n as f32];
            for (c, sum) in sums.iter().chain(&last).enumerate() {
                let old = if op.decay.is_zero() { 0.0 } else { item[at(q, c)] };
                item[at(q, c)] = old + weight * sum;
            }
        }
        mirror(item, &v);
    });
    memory.put(out);
}

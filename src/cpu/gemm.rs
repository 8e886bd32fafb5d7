//! Matrix products on faer.

use faer::{MatMut, MatRef};

use super::elementwise::{Coefficient, combine};
use super::memory::Memory;
use super::thin::{self, Addend, Thin};
use super::{product, scratch};
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

/// `item = beta d`.
fn scaled_copy(d: &[f32], from: &Value, beta: f32, item: &mut [f32], v: &Value) {
    let (runs, length) = if v.col_stride == 1 { (v.rows, v.cols) } else { (v.cols, v.rows) };
    let axes = |v: &Value, by_row: bool| if by_row { (v.row_stride, v.col_stride) } else { (v.col_stride, v.row_stride) };
    let ((to_stride, _), (from_stride, from_step)) = (axes(v, v.col_stride == 1), axes(from, v.col_stride == 1));
    for run in 0..runs {
        let to = &mut item[run * to_stride..][..length];
        let source = &d[run * from_stride..];
        if from_step == 1 {
            combine(to, beta, Some(source), 0.0, None, false);
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
            let before = match addend {
                Addend::None => None,
                Addend::InPlace => Some(beta),
                Addend::Other(d, view) => {
                    scaled_copy(d, &view, beta, item, &v);
                    Some(1.0)
                }
            };
            let (out, a, b) = (mat_mut(item, &v), mat(a.0, &a.1), mat(b.0, &b.1));
            if op.symmetric { product::symmetric(out, before, a, b, alpha) } else { product::multiply(out, before, a, b, alpha) }
        } else if op.symmetric {
            product::mirror(mat_mut(item, &v));
        }
        if !op.gamma.is_zero() {
            for r in 0..v.rows.min(v.cols) {
                item[r * (v.row_stride + v.col_stride)] += gamma;
            }
        }
    });
    memory.put(out);
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
        let before = (!op.decay.is_zero()).then_some(decay);
        // Of few columns, the whole square by dot products.
        let square = Value { rows: q, cols: q, ..v };
        let d = if before.is_some() { Addend::InPlace } else { Addend::None };
        let product = &mut Thin { alpha: weight, a: (&words, x.t()), b: (&words, x), beta: decay, d, out: (&mut *item, square) };
        let is_thin = thin::multiply(product);
        if is_thin {
            product::mirror(mat_mut(item, &square));
        } else {
            product::symmetric(mat_mut(item, &square), before, mat(&words, &x.t()), mat(&words, &x), weight);
        }
        if op.ones {
            scratch::singles(q + 1, |sums| {
                for r in 0..n {
                    for (c, sum) in sums[..q].iter_mut().enumerate() {
                        *sum += words[r * x.row_stride + c * x.col_stride];
                    }
                }
                #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^24")]
                let last = n as f32;
                sums[q] = last;
                for (c, sum) in sums.iter().enumerate() {
                    let old = if op.decay.is_zero() { 0.0 } else { decay * item[at(q, c)] };
                    item[at(q, c)] = old + weight * sum;
                    item[at(c, q)] = item[at(q, c)];
                }
            });
        }
    });
    memory.put(out);
}

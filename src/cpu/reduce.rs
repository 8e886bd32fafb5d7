//! Reductions. Sums run in f64 in element order, so their error is that of the last rounding.

use super::memory::{Input, Memory};
use crate::plan::{CheckFinite, ColumnMean, OperatorNorm, Reduce, ReduceKind};

/// Elements above this magnitude have an infinite square in f32.
pub(crate) const LARGEST: f32 = 1e18;

/// Squarings in [`operator_norm`]: the relative overestimate is at most `48^(2^-24)`, far below f32's rounding.
const SQUARINGS: usize = 24;

#[allow(clippy::cast_possible_truncation, reason = "rounding an f64 accumulation to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// `out = scale * reduction(x[, y])`.
pub(super) fn reduce(op: &Reduce, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (x, y) = (memory.input(op.x), op.y.map(|y| memory.input(y)));
    out.for_each(4 * op.x.rows * op.x.cols, |i, item| {
        item[0] = op.scale * narrow(reduction(op.kind, x, y, i));
    });
    memory.put(out);
}

fn larger(m: f32, a: f32) -> f32 {
    if a.is_nan() || m.is_nan() { f32::NAN } else { m.max(a.abs()) }
}

fn reduction(kind: ReduceKind, x: Input<'_>, y: Option<Input<'_>>, i: usize) -> f64 {
    match kind {
        ReduceKind::SumSq => x.iter(i).map(|a| f64::from(a) * f64::from(a)).sum(),
        ReduceKind::Trace => {
            let (item, v) = (x.item(i), x.view);
            (0..v.rows).map(|r| f64::from(item[r * (v.row_stride + v.col_stride)])).sum()
        }
        ReduceKind::Dot => y.map_or(f64::NAN, |y| x.iter(i).zip(y.iter(i)).map(|(a, b)| f64::from(a) * f64::from(b)).sum()),
        ReduceKind::MaxAbs => f64::from(x.iter(i).fold(0.0, larger)),
        ReduceKind::IdentityGap => {
            let n = x.view.cols;
            let gap = x.iter(i).enumerate().map(|(at, a)| if at / n == at % n { a - 1.0 } else { a });
            f64::from(gap.fold(0.0, larger))
        }
    }
}

/// `out[0, c] = mean over rows of x[r, c]`.
pub(super) fn column_mean(op: &ColumnMean, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (x, v) = (memory.input(op.x), op.out);
    #[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
    let rows = op.x.rows as f64;
    out.for_each(2 * op.x.rows * op.x.cols, |i, item| {
        let mut sums = vec![0.0f64; v.cols];
        let words = x.item(i);
        for r in 0..op.x.rows {
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum += f64::from(words[r * op.x.row_stride + c * op.x.col_stride]);
            }
        }
        for (c, sum) in sums.iter().enumerate() {
            item[c * v.col_stride] = narrow(sum / rows);
        }
    });
    memory.put(out);
}

/// Raises the flag of items with a non-finite or huge element.
pub(super) fn check_finite(op: &CheckFinite, memory: &mut Memory<'_>) {
    let mut flag = memory.take(op.flag);
    let x = memory.input(op.x);
    flag.for_each(op.x.rows * op.x.cols, |i, item| {
        // `<=` is false for NaN.
        if !x.iter(i).all(|a| a.abs() <= LARGEST) {
            item[0] = 1.0;
        }
    });
    memory.put(flag);
}

/// Largest singular value through `lambda_max = t_0 t_1^(1/2) t_2^(1/4) ...`, `t_i` the trace of the i-th normalised squaring of the Gram matrix.
pub(super) fn operator_norm(op: &OperatorNorm, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let x = memory.input(op.x);
    let v = if op.x.rows <= op.x.cols { op.x } else { op.x.t() };
    let k = v.rows;
    out.for_each(2 * k * k * (v.cols + SQUARINGS * k), |i, item| {
        let words = x.item(i);
        let element = |r: usize, c: usize| f64::from(words[r * v.row_stride + c * v.col_stride]);
        let mut gram = vec![0.0f64; k * k];
        for r in 0..k {
            for s in 0..=r {
                let dot = (0..v.cols).map(|c| element(r, c) * element(s, c)).sum();
                gram[r * k + s] = dot;
                gram[s * k + r] = dot;
            }
        }
        item[0] = narrow(largest_eigenvalue(gram, k).sqrt());
    });
    memory.put(out);
}

fn largest_eigenvalue(mut gram: Vec<f64>, k: usize) -> f64 {
    let (mut log_sum, mut weight) = (0.0f64, 1.0f64);
    for _ in 0..SQUARINGS {
        let trace: f64 = (0..k).map(|r| gram[r * k + r]).sum();
        if trace == 0.0 || !trace.is_finite() {
            return trace;
        }
        log_sum += weight * trace.ln();
        weight *= 0.5;
        let mut next = vec![0.0; k * k];
        for r in 0..k {
            for s in 0..k {
                next[r * k + s] = (0..k).map(|c| gram[r * k + c] * gram[c * k + s]).sum::<f64>() / (trace * trace);
            }
        }
        gram = next;
    }
    log_sum.exp()
}

//! Reductions. Sums run in f64 in an order that the item's shape fixes, so their error is that of the last rounding.

use rayon::prelude::*;

use super::memory::{Input, Memory, runs, worth_threads};
use super::scratch;
use crate::plan::{CheckFinite, ColumnMean, OperatorNorm, Reduce, ReduceKind, Value};

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
    let (runs, stride) = (op.out.cols, op.out.col_stride);
    out.for_each(4 * op.x.rows * op.x.cols, |i, item| {
        if runs == 1 {
            item[0] = op.scale * narrow(reduction(op.kind, x, y, i));
            return;
        }
        for run in 0..runs {
            item[run * stride] = op.scale * narrow(run_of(op.kind, x, y, i, run, runs));
        }
    });
    memory.put(out);
}

/// So many elements of a dense operand's items as one row.
fn elements_of(x: Input<'_>, first: usize, length: usize) -> Input<'_> {
    x.seen_as(Value { offset: x.view.offset + first, rows: 1, cols: length, row_stride: length, ..x.view })
}

/// The reduction over one of so many runs of item `i`, its elements row by row.
fn run_of(kind: ReduceKind, x: Input<'_>, y: Option<Input<'_>>, i: usize, run: usize, runs: usize) -> f64 {
    let (v, elements) = (x.view, x.view.rows * x.view.cols);
    let length = elements.div_ceil(runs);
    let (first, end) = ((run * length).min(elements), ((run + 1) * length).min(elements));
    let dense = |v: Value| v.col_stride == 1 && (v.rows == 1 || v.row_stride == v.cols);
    if first < end && kind != ReduceKind::IdentityGap && dense(v) && y.is_none_or(|y| dense(y.view)) {
        return reduction(kind, elements_of(x, first, end - first), y.map(|y| elements_of(y, first, end - first)), i);
    }
    let element = |x: Input<'_>, e: usize| x.item(i)[e / v.cols * x.view.row_stride + e % v.cols * x.view.col_stride];
    let wide = |x: Input<'_>, e: usize| f64::from(element(x, e));
    match kind {
        ReduceKind::SumSq => (first..end).map(|e| wide(x, e) * wide(x, e)).sum(),
        ReduceKind::Dot => y.map_or(f64::NAN, |y| (first..end).map(|e| wide(x, e) * wide(y, e)).sum()),
        ReduceKind::Sum | ReduceKind::Trace => (first..end).map(|e| wide(x, e)).sum(),
        ReduceKind::MaxAbs => f64::from(f32::from_bits((first..end).map(|e| element(x, e).abs().to_bits()).max().unwrap_or(0))),
        ReduceKind::IdentityGap => {
            let gap = |e: usize| element(x, e) - if e / v.cols == e % v.cols { 1.0 } else { 0.0 };
            f64::from(f32::from_bits((first..end).map(|e| gap(e).abs().to_bits()).max().unwrap_or(0)))
        }
    }
}

fn reduction(kind: ReduceKind, x: Input<'_>, y: Option<Input<'_>>, i: usize) -> f64 {
    match kind {
        ReduceKind::SumSq => dot(x, x, i),
        ReduceKind::Trace => {
            let (item, v) = (x.item(i), x.view);
            (0..v.rows).map(|r| f64::from(item[r * (v.row_stride + v.col_stride)])).sum()
        }
        ReduceKind::Dot => y.map_or(f64::NAN, |y| dot(x, y, i)),
        ReduceKind::Sum => {
            let (item, v) = (x.item(i), x.view);
            (0..v.rows).flat_map(|r| (0..v.cols).map(move |c| f64::from(item[r * v.row_stride + c * v.col_stride]))).sum()
        }
        ReduceKind::MaxAbs => f64::from(largest(x, i, false)),
        ReduceKind::IdentityGap => f64::from(largest(x, i, true)),
    }
}

/// `max |x|` of item `i`, or `max |x - I|` where `gap`; NaN if any is NaN.
pub(super) fn largest(x: Input<'_>, i: usize, gap: bool) -> f32 {
    // Bit patterns of magnitudes are ordered as the numbers are, those of NaN above all others: a maximum of integers becomes vectors.
    let (v, words, mut largest) = (x.view, x.item(i), 0);
    let arch = pulp::Arch::new();
    for r in 0..v.rows {
        let row = &words[r * v.row_stride..];
        if v.col_stride == 1 {
            let (before, from) = row[..v.cols].split_at(if gap { r.min(v.cols) } else { v.cols });
            largest = arch.dispatch(Largest(before)).max(largest);
            if let Some((diagonal, after)) = from.split_first() {
                largest = arch.dispatch(Largest(after)).max((diagonal - 1.0).abs().to_bits()).max(largest);
            }
        } else {
            let at = |c: usize| if gap && r == c { row[c * v.col_stride] - 1.0 } else { row[c * v.col_stride] };
            largest = (0..v.cols).fold(largest, |m, c| at(c).abs().to_bits().max(m));
        }
    }
    f32::from_bits(largest)
}

/// Neither NaN nor infinity among them.
pub(super) fn is_finite(x: &[f32]) -> bool {
    pulp::Arch::new().dispatch(Largest(x)) < f32::INFINITY.to_bits()
}

/// The largest magnitude's bits, compiled once for each vector unit.
struct Largest<'a>(&'a [f32]);

impl pulp::WithSimd for Largest<'_> {
    type Output = u32;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> u32 {
        let mut largest = 0;
        for x in self.0 {
            largest = x.abs().to_bits().max(largest);
        }
        largest
    }
}

/// Partial sums of [`dot`]: enough to hide an addition's latency.
const LANES: usize = 16;

/// `sum x y` of item `i`. Column `c` goes to partial sum `c mod 16` (of a one-column item, row `r` to `r mod 16`), whatever the strides are.
pub(super) fn dot(x: Input<'_>, y: Input<'_>, i: usize) -> f64 {
    let (v, w) = if x.view.cols == 1 { (x.view.t(), y.view.t()) } else { (x.view, y.view) };
    let mut sums = [0.0f64; LANES];
    let arch = pulp::Arch::new();
    for r in 0..v.rows {
        let (x, y) = (&x.item(i)[r * v.row_stride..], &y.item(i)[r * w.row_stride..]);
        if v.col_stride == 1 && w.col_stride == 1 {
            arch.dispatch(Dot { x: &x[..v.cols], y: &y[..v.cols], sums: &mut sums });
        } else {
            for c in 0..v.cols {
                sums[c % LANES] += f64::from(x[c * v.col_stride]) * f64::from(y[c * w.col_stride]);
            }
        }
    }
    sums.iter().sum()
}

/// Adds a row's products to the partial sums of [`dot`], compiled once for each vector unit.
struct Dot<'a> {
    x: &'a [f32],
    y: &'a [f32],
    sums: &'a mut [f64; LANES],
}

impl pulp::WithSimd for Dot<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let ((x, x_rest), (y, y_rest)) = (self.x.as_chunks::<LANES>(), self.y.as_chunks::<LANES>());
        let mut sums = *self.sums;
        for (x, y) in x.iter().zip(y) {
            for l in 0..LANES {
                sums[l] += f64::from(x[l]) * f64::from(y[l]);
            }
        }
        for ((sum, x), y) in sums.iter_mut().zip(x_rest).zip(y_rest) {
            *sum += f64::from(*x) * f64::from(*y);
        }
        *self.sums = sums;
    }
}

/// `out[0, c] = mean over rows of x[r, c]`, or of `x[r, c] y[r, c]`. Each column is by itself, so threads take some columns each.
pub(super) fn column_mean(op: &ColumnMean, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (x, y, v) = (memory.input(op.x), op.y.map(|y| memory.input(y)), op.out);
    #[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
    let rows = op.x.rows as f64;
    let contiguous = op.x.col_stride == 1 && op.y.is_none_or(|y| y.col_stride == 1);
    out.for_each(2 * op.x.rows * op.x.cols, |i, item| {
        let (x, y) = (x.item(i), y.map(|y| (y.item(i), y.view)));
        let some = |(strip, sums): (usize, &mut [f64])| {
            let first = strip * STRIP;
            for r in 0..op.x.rows {
                let x = &x[r * op.x.row_stride + first * op.x.col_stride..];
                let y = y.map(|(y, v)| (&y[r * v.row_stride + first * v.col_stride..], v.col_stride));
                if contiguous {
                    pulp::Arch::new().dispatch(AddRow { x, y: y.map(|(y, _)| y), sums });
                } else {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum += f64::from(x[c * op.x.col_stride]) * y.map_or(1.0, |(y, stride)| f64::from(y[c * stride]));
                    }
                }
            }
        };
        scratch::doubles(v.cols, |sums| {
            if worth_threads(sums.len().div_ceil(STRIP), 2 * op.x.rows * STRIP) {
                sums.par_chunks_mut(STRIP).enumerate().for_each(some);
            } else {
                sums.chunks_mut(STRIP).enumerate().for_each(some);
            }
            for (c, sum) in sums.iter().enumerate() {
                item[c * v.col_stride] = narrow(sum / rows);
            }
        });
    });
    memory.put(out);
}

/// Columns of [`column_mean`] that are summed together.
const STRIP: usize = 128;

/// Adds a row, or the products of two, to the sums of its columns, compiled once for each vector unit.
struct AddRow<'a> {
    x: &'a [f32],
    y: Option<&'a [f32]>,
    sums: &'a mut [f64],
}

impl pulp::WithSimd for AddRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let n = self.sums.len();
        let x = &self.x[..n];
        if let Some(y) = self.y {
            let y = &y[..n];
            for c in 0..n {
                self.sums[c] += f64::from(x[c]) * f64::from(y[c]);
            }
        } else {
            self.sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x));
        }
    }
}

/// Raises the flag of items with a non-finite or huge element.
pub(super) fn check_finite(op: &CheckFinite, memory: &mut Memory<'_>) {
    let mut flag = memory.take(op.flag);
    let x = memory.input(op.x);
    flag.for_each(op.x.rows * op.x.cols, |i, item| {
        // `<=` is false for NaN, and so is it for their bits.
        let [v] = runs([x.view]);
        let mut rows = (0..v.rows).map(|r| &x.item(i)[r * v.row_stride..]);
        let good = if v.col_stride == 1 {
            // Bits of magnitudes are ordered as the numbers, NaN above all.
            let arch = pulp::Arch::new();
            rows.all(|row| arch.dispatch(Largest(&row[..v.cols])) <= LARGEST.to_bits())
        } else {
            rows.fold(true, |good, row| (0..v.cols).fold(good, |good, c| good & (row[c * v.col_stride].abs() <= LARGEST)))
        };
        if !good {
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
        scratch::doubles(2 * k * k, |both| {
            let (gram, next) = both.split_at_mut(k * k);
            for r in 0..k {
                for s in 0..=r {
                    let dot = (0..v.cols).map(|c| element(r, c) * element(s, c)).sum();
                    gram[r * k + s] = dot;
                    gram[s * k + r] = dot;
                }
            }
            item[0] = narrow(largest_eigenvalue(gram, next, k).sqrt());
        });
    });
    memory.put(out);
}

fn largest_eigenvalue<'a>(mut gram: &'a mut [f64], mut next: &'a mut [f64], k: usize) -> f64 {
    let (mut log_sum, mut weight) = (0.0f64, 1.0f64);
    for _ in 0..SQUARINGS {
        let trace: f64 = (0..k).map(|r| gram[r * k + r]).sum();
        if trace == 0.0 || !trace.is_finite() {
            return trace;
        }
        log_sum += weight * trace.ln();
        weight *= 0.5;
        for r in 0..k {
            for s in 0..k {
                next[r * k + s] = (0..k).map(|c| gram[r * k + c] * gram[c * k + s]).sum::<f64>() / (trace * trace);
            }
        }
        std::mem::swap(&mut gram, &mut next);
    }
    log_sum.exp()
}

//! Standardisation with its backward pass, softmax with cross-entropy.
//!
//! A column of samples is summed in f64, row `r` into partial sum `r mod 16`, however it lies in memory: contiguous columns as they are, others after 16 of them
//! were laid out side by side. Samples of the cross-entropy go 32 at a time, class by class.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::memory::{Memory, worth_threads};
use crate::plan::{SoftmaxCrossEntropy, Standardise, StandardiseGradient, Value};
use crate::rng::{LN2_HIGH, LN2_LOW, LOG, horner};

/// Partial sums of a column: enough to hide an addition's latency.
const LANES: usize = 16;

/// Columns that are laid out together: a cache line of a row.
const ACROSS: usize = 16;

/// An item of each of two outputs.
type Pair<'a> = (&'a mut [f32], &'a mut [f32]);

/// Of three.
type Triple<'a> = (Pair<'a>, &'a mut [f32]);

/// Samples that the cross-entropy takes at once.
const SAMPLES: usize = 32;

#[allow(clippy::cast_possible_truncation, reason = "rounding an f64 accumulation to f32 is the purpose")]
#[inline(always)]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// `sum over r of f(x[r], y[r])` for two sums at once.
#[inline(always)]
fn sums(x: &[f32], y: &[f32], f: impl Fn(f64, f64) -> (f64, f64)) -> (f64, f64) {
    let (mut first, mut second) = ([0.0f64; LANES], [0.0f64; LANES]);
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        for l in 0..LANES {
            let (a, b) = f(f64::from(x[l]), f64::from(y[l]));
            first[l] += a;
            second[l] += b;
        }
    }
    for (l, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
        let (a, b) = f(f64::from(*x), f64::from(*y));
        first[l] += a;
        second[l] += b;
    }
    (first.iter().sum(), second.iter().sum())
}

/// One column of [`standardise`]; gives (mean, variance, scale).
struct Column<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    epsilon: f64,
}

impl WithSimd for Column<'_> {
    type Output = [f64; 3];

    #[inline(always)]
    #[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
    fn with_simd<S: Simd>(self, _: S) -> [f64; 3] {
        let n = self.x.len() as f64;
        let mean = sums(self.x, self.x, |x, _| (x, 0.0)).0 / n;
        let variance = sums(self.x, self.x, |x, _| ((x - mean) * (x - mean), 0.0)).0 / n;
        let below = variance + self.epsilon;
        // 0 of 0, NaN of NaN.
        let scale = if below > 0.0 { 1.0 / below.sqrt() } else { below };
        self.out.iter_mut().zip(self.x).for_each(|(out, x)| *out = narrow(scale * (f64::from(*x) - mean)));
        [mean, variance, scale]
    }
}

/// One column of [`standardise_gradient`]; gives both sums.
struct ColumnGradient<'a> {
    xhat: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    scale: f64,
}

impl WithSimd for ColumnGradient<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    #[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
    fn with_simd<S: Simd>(self, _: S) -> [f64; 2] {
        let n = self.dy.len() as f64;
        let (product, sum) = sums(self.xhat, self.dy, |x, y| (x * y, y));
        let (slope, mean) = (product / n, sum / n);
        for ((dx, x), y) in self.dx.iter_mut().zip(self.xhat).zip(self.dy) {
            *dx = narrow(self.scale * (f64::from(*y) - mean - f64::from(*x) * slope));
        }
        [product, sum]
    }
}

/// Columns of one item, one after another, as contiguous slices: `f(column, its inputs, its output)`.
fn by_column<const N: usize>(
    inputs: [(&[f32], Value); N],
    (out, v): (&mut [f32], Value),
    mut f: impl FnMut(usize, [&[f32]; N], &mut [f32]),
) {
    let (rows, cols) = (v.rows, v.cols);
    if rows == 1 || (v.row_stride == 1 && inputs.iter().all(|(_, view)| view.row_stride == 1)) {
        for c in 0..cols {
            f(c, inputs.map(|(words, view)| &words[c * view.col_stride..][..rows]), &mut out[c * v.col_stride..][..rows]);
        }
        return;
    }
    // An odd number of cache lines apart: columns whose rows meet in one cache set would push each other out.
    let apart = (rows | ACROSS).next_multiple_of(ACROSS) | ACROSS;
    let mut laid_out = vec![0.0f32; (N + 1) * ACROSS * apart];
    let (result, copies) = laid_out.split_at_mut(ACROSS * apart);
    for first in (0..cols).step_by(ACROSS) {
        let width = ACROSS.min(cols - first);
        for ((words, view), copy) in inputs.iter().zip(copies.chunks_mut(ACROSS * apart)) {
            for r in 0..rows {
                let row = &words[r * view.row_stride + first * view.col_stride..];
                (0..width).for_each(|c| copy[c * apart + r] = row[c * view.col_stride]);
            }
        }
        for c in 0..width {
            let column = std::array::from_fn(|i| &copies[(i * ACROSS + c) * apart..][..rows]);
            f(first + c, column, &mut result[c * apart..][..rows]);
        }
        for r in 0..rows {
            let row = &mut out[r * v.row_stride + first * v.col_stride..];
            (0..width).for_each(|c| row[c * v.col_stride] = result[c * apart + r]);
        }
    }
}

/// `out = scale (x - mean)` with the statistics of each column.
pub(super) fn standardise(op: &Standardise, memory: &mut Memory<'_>) {
    let (mut out, mut mean) = (memory.take(op.out), memory.take(op.mean));
    let (mut variance, mut scale) = (memory.take(op.variance), memory.take(op.scale));
    let x = memory.input(op.x);
    let arch = Arch::new();
    let item = |(i, (((out, mean), variance), scale)): (usize, (Triple<'_>, &mut [f32]))| {
        by_column([(x.item(i), op.x)], (out, op.out), |c, [x], out| {
            let [m, v, s] = arch.dispatch(Column { x, out, epsilon: f64::from(op.epsilon) });
            mean[c * op.mean.col_stride] = narrow(m);
            variance[c * op.variance.col_stride] = narrow(v);
            scale[c * op.scale.col_stride] = narrow(s);
        });
    };
    if worth_threads(op.out.items, 6 * op.x.rows * op.x.cols) {
        out.items().zip(mean.items()).zip(variance.items()).zip(scale.items()).enumerate().for_each(item);
    } else {
        out.items_seq().zip(mean.items_seq()).zip(variance.items_seq()).zip(scale.items_seq()).enumerate().for_each(item);
    }
    [out, mean, variance, scale].into_iter().for_each(|output| memory.put(output));
}

/// Backward pass of `gamma xhat + b`.
pub(super) fn standardise_gradient(op: &StandardiseGradient, memory: &mut Memory<'_>) {
    let (mut dx, mut sums) = (memory.take(op.dx), memory.take(op.sums));
    let (xhat, dy, scale) = (memory.input(op.xhat), memory.input(op.dy), memory.input(op.scale));
    let gamma = op.gamma.map(|gamma| memory.input(gamma));
    let arch = Arch::new();
    let item = |(i, (dx, sums)): (usize, (&mut [f32], &mut [f32]))| {
        by_column([(xhat.item(i), op.xhat), (dy.item(i), op.dy)], (dx, op.dx), |c, [xhat, dy], dx| {
            let scale = f64::from(scale.scalar(i, c)) * gamma.map_or(1.0, |gamma| f64::from(gamma.scalar(i, c)));
            let totals = arch.dispatch(ColumnGradient { xhat, dy, dx, scale });
            for (r, total) in totals.into_iter().enumerate() {
                sums[r * op.sums.row_stride + c * op.sums.col_stride] = op.factor * narrow(total);
            }
        });
    };
    if worth_threads(op.dx.items, 8 * op.dx.rows * op.dx.cols) {
        dx.items().zip(sums.items()).enumerate().for_each(item);
    } else {
        dx.items_seq().zip(sums.items_seq()).enumerate().for_each(item);
    }
    memory.put(dx);
    memory.put(sums);
}

/// (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2], from interpolation at the Chebyshev nodes: e^r to a relative 1.1e-8.
const EXP: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_556, 0.008_363_179, 0.001_392_618_4];

/// `e^x` for `x <= 0`; 0 below -87.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "an integer between -127 and 0")]
fn exponential(x: f32) -> f32 {
    let kept = x.max(-88.0);
    let k = (kept * std::f32::consts::LOG2_E + 0.5).floor();
    let r = (kept - k * LN2_HIGH) - k * LN2_LOW;
    let value = (1.0 + (r + r * r * horner(EXP, r))) * f32::from_bits(((k as i32 + 127) << 23).cast_unsigned());
    if x < -87.0 { 0.0 } else { value }
}

/// `ln(1 + s)` for `s >= 0`. Below `sqrt 2` nothing is lost to the 1.
#[inline(always)]
#[allow(clippy::cast_possible_wrap, reason = "exponents")]
fn log_one_plus(s: f32) -> f32 {
    let shifted = (1.0 + s).to_bits().wrapping_add(0x3F80_0000 - 0x3F35_04F3);
    let exponent = ((shifted >> 23) as i32 - 127) as f32;
    let f = if s < 0.414_213_54 { s } else { f32::from_bits((shifted & 0x007F_FFFF) + 0x3F35_04F3) - 1.0 };
    let f2 = f * f;
    exponent * LN2_HIGH + (f - (0.5 * f2 - (f * f2 * horner(LOG, f) + exponent * LN2_LOW)))
}

/// Some samples of one item: their logits, class by class, and labels.
struct Samples<'a> {
    /// Logits, replaced by deltas.
    z: &'a mut [[f32; SAMPLES]],
    labels: &'a [f32; SAMPLES],
    loss: &'a mut [f32; SAMPLES],
    hits: &'a mut [f32; SAMPLES],
    /// Samples of the whole batch.
    n: f32,
}

impl WithSimd for Samples<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::cast_precision_loss, reason = "class counts are far below 2^24")]
    fn with_simd<S: Simd>(self, _: S) {
        let (mut largest, mut best, mut bits) = (self.z[0], [0.0f32; SAMPLES], [0u32; SAMPLES]);
        for (c, z) in self.z.iter().enumerate() {
            for l in 0..SAMPLES {
                // By its bits NaN lies above infinity.
                bits[l] = bits[l].max(z[l].abs().to_bits());
                best[l] = if z[l] > largest[l] { c as f32 } else { best[l] };
                largest[l] = if z[l] > largest[l] { z[l] } else { largest[l] };
            }
        }
        let (classes, mut label, mut own) = (self.z.len() as f32, [-1.0f32; SAMPLES], [0.0f32; SAMPLES]);
        for (label, given) in label.iter_mut().zip(self.labels) {
            *label = if *given >= 0.0 && *given < classes { given.floor() } else { -1.0 };
        }
        let mut others = [0.0f32; SAMPLES];
        for (c, z) in self.z.iter_mut().enumerate() {
            let c = c as f32;
            for l in 0..SAMPLES {
                own[l] = if c == label[l] { z[l] } else { own[l] };
                z[l] = exponential(z[l] - largest[l]);
                others[l] += if c == best[l] { 0.0 } else { z[l] };
            }
        }
        let (mut share, mut rest) = ([0.0f32; SAMPLES], [0.0f32; SAMPLES]);
        for l in 0..SAMPLES {
            share[l] = 1.0 / (1.0 + others[l]);
            rest[l] = -others[l] * share[l];
            let loss = log_one_plus(others[l]) - (own[l] - largest[l]);
            let (counted, finite) = (label[l] >= 0.0, bits[l] < f32::INFINITY.to_bits());
            let loss = if finite { loss } else { f32::from_bits(bits[l]) };
            self.loss[l] = if counted { loss } else { 0.0 };
            self.hits[l] = if counted && finite && best[l] == label[l] { 1.0 } else { 0.0 };
        }
        for (c, z) in self.z.iter_mut().enumerate() {
            let c = c as f32;
            for l in 0..SAMPLES {
                let p = z[l] * share[l];
                let at_label = if c == best[l] { rest[l] } else { p - 1.0 };
                let value = if c == label[l] { at_label } else { p } / self.n;
                let value = if bits[l] < f32::INFINITY.to_bits() { value } else { f32::from_bits(bits[l]) };
                z[l] = if label[l] >= 0.0 { value } else { 0.0 };
            }
        }
    }
}

/// Loss, its gradient and hits, sample by sample.
pub(super) fn softmax_cross_entropy(op: &SoftmaxCrossEntropy, memory: &mut Memory<'_>) {
    let (mut loss, mut delta, mut hits) = (memory.take(op.loss), memory.take(op.delta), memory.take(op.hits));
    let (logits, labels) = (memory.input(op.logits), memory.input(op.labels));
    let (n, classes) = (op.delta.rows, op.delta.cols);
    let arch = Arch::new();
    let item = |(i, ((loss, delta), hits)): (usize, (Pair<'_>, &mut [f32]))| {
        let words = logits.item(i);
        let mut z = vec![[0.0f32; SAMPLES]; classes];
        let (mut label, mut lost, mut hit) = ([-1.0f32; SAMPLES], [0.0f32; SAMPLES], [0.0f32; SAMPLES]);
        for first in (0..n).step_by(SAMPLES) {
            let some = SAMPLES.min(n - first);
            for (c, z) in z.iter_mut().enumerate() {
                let from = &words[first * op.logits.row_stride + c * op.logits.col_stride..];
                (0..some).for_each(|l| z[l] = from[l * op.logits.row_stride]);
            }
            let from = &labels.item(i)[first * op.labels.row_stride..];
            (0..some).for_each(|l| label[l] = from[l * op.labels.row_stride]);
            arch.dispatch(Samples { z: &mut z, labels: &label, loss: &mut lost, hits: &mut hit, n: n as f32 });
            for (c, z) in z.iter().enumerate() {
                let to = &mut delta[first * op.delta.row_stride + c * op.delta.col_stride..];
                (0..some).for_each(|l| to[l * op.delta.row_stride] = z[l]);
            }
            for l in 0..some {
                loss[(first + l) * op.loss.row_stride] = lost[l];
                hits[(first + l) * op.hits.row_stride] = hit[l];
            }
        }
    };
    if worth_threads(op.delta.items, 16 * n * classes) {
        loss.items().zip(delta.items()).zip(hits.items()).enumerate().for_each(item);
    } else {
        loss.items_seq().zip(delta.items_seq()).zip(hits.items_seq()).enumerate().for_each(item);
    }
    [loss, delta, hits].into_iter().for_each(|output| memory.put(output));
}

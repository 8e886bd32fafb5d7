//! The scalars of matrix functions.

use super::elementwise::Coefficient;
use super::memory::Memory;
use super::scratch;
use crate::plan::control::{ACTIVE, COMMIT, LAMBDA, MEASURE, NORMAL, OK, ROOT, SCALE, SHIFT, STEPS, UNSCALE};
use crate::plan::{IterationControl, Quotient, SpectrumScale, Stage};

#[allow(clippy::cast_possible_truncation, reason = "rounding an f64 result to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// `out[r, c] = x[r, c] (max(values[c], 0) + shift)^(-1 / exponent)`.
pub(super) fn spectrum_scale(op: &SpectrumScale, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (x, values, block) = (memory.input(op.x), memory.input(op.values), op.block.map(|v| memory.input(v)));
    let v = op.out;
    out.for_each(4 * v.rows * v.cols, |i, item| {
        let shift = op.shift.at(block, i);
        let words = x.item(i);
        scratch::singles(v.cols, |factors| {
            for (c, factor) in factors.iter_mut().enumerate() {
                let damped = values.scalar(i, c).max(0.0) + shift;
                let good = damped > 0.0 && damped.is_finite();
                *factor = if good { narrow(f64::from(damped).powf(-1.0 / f64::from(op.exponent))) } else { 0.0 };
            }
            let contiguous = v.col_stride == 1 && op.x.col_stride == 1;
            for r in 0..v.rows {
                let (to, from) = (&mut item[r * v.row_stride..], &words[r * op.x.row_stride..]);
                if contiguous {
                    to.iter_mut().zip(from).zip(&*factors).for_each(|((to, x), factor)| *to = factor * x);
                } else {
                    factors.iter().enumerate().for_each(|(c, factor)| to[c * v.col_stride] = factor * from[c * op.x.col_stride]);
                }
            }
        });
    });
    memory.put(out);
}

/// `out = scale x / y` or `scale x / sqrt(y)`.
pub(super) fn quotient(op: &Quotient, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (x, y) = (op.x.map(|x| memory.input(x)), memory.input(op.y));
    out.for_each(1, |i, item| {
        let y = if op.root { y.scalar(i, 0).sqrt() } else { y.scalar(i, 0) };
        let result = op.scale * x.map_or(1.0, |x| x.scalar(i, 0)) / y;
        item[0] = if result.is_finite() && y.is_finite() { result } else { 0.0 };
    });
    memory.put(out);
}

/// `2^e`, e within -126..=127.
fn power_of_two(e: i32) -> f32 {
    f32::from_bits(u32::try_from(127 + e).unwrap_or(0) << 23)
}

/// The largest s of at most `24 / p` bits with `s^p <= x`, about.
fn short_root(x: f32, p: u32) -> f32 {
    let root = x.powf(1.0 / p as f32);
    f32::from_bits(root.to_bits() & (u32::MAX << (24 - 24 / p)))
}

/// Mirrors `iteration_control.wgsl`.
pub(super) fn iteration_control(op: &IterationControl, memory: &mut Memory<'_>) {
    let mut control = memory.take(op.control);
    let (x, block) = (memory.input(op.x), op.block.map(|v| memory.input(v)));
    let stride = op.control.col_stride;
    let p = op.p as f32;
    control.for_each(16, |i, row| {
        let at = |column: u32| column as usize * stride;
        let (x, ridge) = (x.scalar(i, 0), op.ridge.at(block, i));
        let switch = |on: bool| if on { 1.0 } else { 0.0 };
        match op.stage {
            Stage::Normalise => {
                let size = if op.relative { x } else { x + ridge };
                let good = size > 0.0 && size.is_finite();
                let exponent = i32::try_from(size.to_bits() >> 23 & 0xff).unwrap_or(0).clamp(1, 253) - 127;
                let k = if good { exponent / op.p.cast_signed() } else { 0 };
                row[at(NORMAL)] = power_of_two(-k * op.p.cast_signed());
                row[at(UNSCALE)] = power_of_two(-k);
                row[at(OK)] = switch(good);
                row[at(ACTIVE)] = switch(good);
                row[at(COMMIT)] = 0.0;
                row[at(MEASURE)] = 0.0;
                row[at(STEPS)] = 0.0;
            }
            Stage::Square => {
                let going = row[at(ACTIVE)] != 0.0 && x > 0.0 && x.is_finite();
                row[at(ACTIVE)] = switch(going);
                row[at(MEASURE)] = x;
                row[at(SCALE)] = if going { 1.0 / x } else { 0.0 };
            }
            Stage::Settle => row[at(ACTIVE)] = switch(row[at(ACTIVE)] != 0.0 && x > 1.6e-11 * row[at(MEASURE)]),
            Stage::Start => {
                let ridge = ridge * if op.relative { x } else { row[at(NORMAL)] };
                let top = x + ridge;
                let good = row[at(OK)] != 0.0 && ridge >= 0.0 && top > 0.0 && top.is_finite();
                let s = if good { short_root((p + 1.0) / (2.0 * top), op.p) } else { 0.0 };
                let mut scale = s;
                for _ in 1..op.p {
                    scale *= s;
                }
                row[at(LAMBDA)] = if good { ridge } else { 0.0 };
                row[at(SCALE)] = scale;
                row[at(SHIFT)] = if good { scale * ridge } else { 0.0 };
                row[at(ROOT)] = s * row[at(UNSCALE)];
                row[at(OK)] = switch(good);
                row[at(ACTIVE)] = switch(good);
                // No matrix starts farther from I.
                row[at(MEASURE)] = (0.5 * (p - 1.0)).max(1.0);
                row[at(STEPS)] = 0.0;
            }
            Stage::Newton => {
                let last = row[at(MEASURE)];
                let keep = row[at(ACTIVE)] != 0.0 && x <= 1.2 * last;
                let stalled = last < 1e-2 && x > 0.5 * last;
                row[at(COMMIT)] = switch(keep);
                row[at(ACTIVE)] = switch(keep && x > 3e-7 && !stalled);
                if keep {
                    row[at(MEASURE)] = x;
                    row[at(STEPS)] += 1.0;
                }
            }
            Stage::Finish { limit } => {
                let good = row[at(OK)] != 0.0 && row[at(MEASURE)] <= limit && x.is_finite();
                row[at(OK)] = switch(good);
                row[at(ACTIVE)] = 0.0;
            }
        }
    });
    memory.put(control);
}

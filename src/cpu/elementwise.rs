//! Linear combinations and conversions.

use rayon::prelude::*;

use super::memory::{CHUNK, Input, Memory, runs};
use super::tiles;
use crate::plan::{Axpby, Coef, Convert, Value};
use crate::tensor::ElementType;

/// Resolves coefficients against the block.
pub(super) trait Coefficient {
    /// The coefficient of item `i`.
    fn at(self, block: Option<Input<'_>>, i: usize) -> f32;
}

impl Coefficient for Coef {
    fn at(self, block: Option<Input<'_>>, i: usize) -> f32 {
        match (self, block) {
            (Coef::Const(c), _) => c,
            (Coef::Column { column, scale }, Some(block)) => scale * block.scalar(i, column as usize),
            // Recording refuses a column without a block.
            (Coef::Column { .. }, None) => f32::NAN,
        }
    }
}

/// `out = alpha x + beta y + gamma I`.
pub(super) fn axpby(op: &Axpby, memory: &mut Memory<'_>) {
    let in_place = op.y == Some(op.out);
    let mut out = memory.take(op.out);
    // What a constant zero multiplies is not read: NaN there does no harm.
    let x = op.x.filter(|_| !op.alpha.is_zero()).map(|x| memory.input(x));
    let reads_y = !op.beta.is_zero();
    let y = op.y.filter(|_| !in_place && reads_y).map(|y| memory.input(y));
    let (block, gate) = (op.block.map(|v| memory.input(v)), op.gate.map(|v| memory.input(v)));
    let v = op.out;
    let [v_run, x_run, y_run] = runs([v, op.x.unwrap_or(v), op.y.unwrap_or(v)]);
    let contiguous = [v_run, x_run, y_run].iter().all(|v| v.col_stride == 1);
    out.for_each(4 * v.rows * v.cols, |i, item| {
        if gate.is_some_and(|g| g.scalar(i, 0) == 0.0) {
            return;
        }
        let [alpha, beta, gamma] = [op.alpha, op.beta, op.gamma].map(|c| c.at(block, i));
        let (x_item, y_item) = (x.map(|x| x.item(i)), y.map(|y| y.item(i)));
        if !contiguous {
            // A transposed operand: tile by tile.
            let at = |v: &Value, r: usize, c: usize| r * v.row_stride + c * v.col_stride;
            tiles::each(v_run.rows, v_run.cols, |r, c| {
                let to = &mut item[at(&v_run, r, c)];
                let mut sum = x_item.map_or(0.0, |x| alpha * x[at(&x_run, r, c)]);
                if in_place && reads_y {
                    sum += beta * *to;
                } else if let Some(y) = y_item {
                    sum += beta * y[at(&y_run, r, c)];
                }
                *to = sum;
            });
        }
        for r in 0..if contiguous { v_run.rows } else { 0 } {
            let to = &mut item[r * v_run.row_stride..];
            let (x_row, y_row) = (x_item.map(|x| &x[r * x_run.row_stride..]), y_item.map(|y| &y[r * y_run.row_stride..]));
            combine(&mut to[..v_run.cols], alpha, x_row, beta, y_row, in_place && reads_y);
        }
        if !op.gamma.is_zero() {
            for r in 0..v.rows.min(v.cols) {
                item[r * (v.row_stride + v.col_stride)] += gamma;
            }
        }
    });
    memory.put(out);
}

/// `to = alpha x + beta y`, `y` being `to` itself where `in_place`; what is absent counts as 0. A long run in chunks on threads.
pub(super) fn combine(to: &mut [f32], alpha: f32, x: Option<&[f32]>, beta: f32, y: Option<&[f32]>, in_place: bool) {
    if to.len() > CHUNK && !super::is_sequential() {
        let chunk = |(i, to): (usize, &mut [f32])| {
            let part = i * CHUNK..i * CHUNK + to.len();
            let (x, y) = (x.map(|x| &x[part.clone()]), y.map(|y| &y[part.clone()]));
            combine(to, alpha, x, beta, y, in_place);
        };
        return to.par_chunks_mut(CHUNK).enumerate().for_each(chunk);
    }
    pulp::Arch::new().dispatch(Combine { to, alpha, x, beta, y, in_place });
}

/// [`combine`] for one chunk, compiled once for each vector unit. A struct, since a closure would not be inlined into the version that may use the unit.
struct Combine<'a> {
    to: &'a mut [f32],
    alpha: f32,
    x: Option<&'a [f32]>,
    beta: f32,
    y: Option<&'a [f32]>,
    in_place: bool,
}

impl pulp::WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Combine { to, alpha, x, beta, y, in_place } = self;
        match (x, y) {
            (Some(x), _) if in_place => add_to(to, alpha, x, beta),
            (None, _) if in_place => {
                for to in to {
                    *to *= beta;
                }
            }
            (Some(x), Some(y)) => sum(to, alpha, x, beta, y),
            (Some(x), None) if alpha == 1.0 => to.copy_from_slice(&x[..to.len()]),
            (Some(x), None) => product(to, alpha, x),
            (None, Some(y)) => product(to, beta, y),
            (None, None) => to.fill(0.0),
        }
    }
}

#[inline(always)]
fn add_to(to: &mut [f32], alpha: f32, x: &[f32], beta: f32) {
    for (to, x) in to.iter_mut().zip(x) {
        *to = alpha * x + beta * *to;
    }
}

#[inline(always)]
fn sum(to: &mut [f32], alpha: f32, x: &[f32], beta: f32, y: &[f32]) {
    let n = to.len();
    let (x, y) = (&x[..n], &y[..n]);
    for i in 0..n {
        to[i] = alpha * x[i] + beta * y[i];
    }
}

#[inline(always)]
fn product(to: &mut [f32], alpha: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to = alpha * x;
    }
}

/// Rounded, within f16's range. NaN stays.
fn bounded(x: f32) -> half::f16 {
    half::f16::from_f32(x.clamp(-65504.0, 65504.0))
}

/// `out = x` in the other element type.
pub(super) fn convert(op: &Convert, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let x = memory.input(op.x);
    let elements = op.out.rows * op.out.cols;
    let v = out.view;
    for b in 0..v.items {
        let source = x.elements(b);
        let first = v.offset + b * v.item_stride;
        match v.element {
            ElementType::F32 => out.words_mut()[first..first + elements].copy_from_slice(&source[..elements]),
            ElementType::F16 => {
                for (i, pair) in source[..elements].chunks(2).enumerate() {
                    let low = u32::from(bounded(pair[0]).to_bits());
                    let high = pair.get(1).map_or(0, |&p| u32::from(bounded(p).to_bits()));
                    out.words_mut()[first / 2 + i] = f32::from_bits(low | high << 16);
                }
            }
        }
    }
    memory.put(out);
}

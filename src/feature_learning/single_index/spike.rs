//! The strongest right singular direction of a step, by power iteration on the device.

use crate::error::Result;
use crate::plan::{Axpby, Coef, Gemm, Recorder, Reduce, ReduceKind, Value};
use crate::tensor::Shape;

/// Multiplications by `D^T D`. The error falls by `(s_2/s_1)^2` in each: a ratio of 0.9 leaves 1e-4 of what the start holds of other directions.
pub const ITERATIONS: usize = 40;

/// A singular triple without its left vector, item by item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// Unit right vector `u`, `[items, dX, 1]`; zero for a zero matrix.
    pub right: Value,
    /// `s = ||D u||`, `[items, 1, 1]`.
    pub singular: Value,
    /// `||D^T D u - s^2 u|| / s^2`, `[items, 1, 1]`: 0 at a singular vector, 0 for a zero matrix.
    pub residual: Value,
}

/// `x <- x / ||x||` in place, 0 where that is not finite; returns the squared norm's place.
fn normalise(r: &mut Recorder, x: Value, from: Value, square: Value) -> Result<()> {
    r.record(Reduce { kind: ReduceKind::SumSq, x: from, y: None, out: square, scale: 1.0 })?;
    let scale = r.quotient(1.0, None, square, true)?;
    r.record(Axpby { alpha: Coef::column(0), block: Some(scale), ..Axpby::copy(from, x) })
}

/// Largest singular value and right singular vector of `d` `[items, m, q]`, from `start` `[items, q, 1]`.
///
/// A start that holds something of every direction finds the largest; `D^T f` does, where `D` is a gradient through the second layer `f`. The matrix
/// times its norms must stay within f32: singular values between about 1e-18 and 1e18. No NaN arises from finite items.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit.
pub fn record(r: &mut Recorder, d: Value, start: Value) -> Result<Spike> {
    let (items, m, q) = (d.items(), d.rows(), d.cols());
    let mut vector = |name: &str, rows: usize| r.scratch(name, Shape::new(items, rows, 1));
    let (left, image) = (vector("spike.left", m)?, vector("spike.image", m)?);
    let (right, back) = (vector("spike.right", q)?, vector("spike.back", q)?);
    let (square, singular, residual) = (vector("spike.square", 1)?, vector("spike.singular", 1)?, vector("spike.residual", 1)?);
    normalise(r, right, start, square)?;
    for _ in 0..ITERATIONS {
        r.record(Gemm::new(d, right, image))?;
        normalise(r, left, image, square)?;
        r.record(Gemm::new(d.t(), left, back))?;
        normalise(r, right, back, square)?;
    }
    r.record(Gemm::new(d, right, image))?;
    r.record(Reduce { kind: ReduceKind::SumSq, x: image, y: None, out: square, scale: 1.0 })?;
    let inverse = r.quotient(1.0, None, square, true)?;
    r.record(Gemm::new(inverse, square, singular))?;
    // (D^T D u) / s - s u, over s once more.
    r.record(Axpby { alpha: Coef::column(0), block: Some(inverse), ..Axpby::copy(image, left) })?;
    let rest = r.scratch("spike.rest", Shape::new(items, q, 1))?;
    r.record(Gemm::new(d.t(), left, back))?;
    r.record(Axpby { beta: Coef::Column { column: 0, scale: -1.0 }, block: Some(singular), ..Axpby::add(back, right, rest) })?;
    let gap = r.reduce(ReduceKind::SumSq, 1.0, rest)?;
    let gap_inverse = r.quotient(1.0, None, gap, true)?;
    let length = r.matmul(gap, gap_inverse)?;
    r.record(Gemm::new(length, inverse, residual))?;
    Ok(Spike { right, singular, residual })
}

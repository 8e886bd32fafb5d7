//! Largest singular value, at any size and scale.

use super::normalise::{Ridge, largest_eigenvalue};
use crate::error::Result;
use crate::plan::control::{self, NORMAL};
use crate::plan::{Axpby, Coef, KronFactor, OPERATOR_NORM_MAX, Recorder, ReduceKind, Stage, Value};
use crate::tensor::Shape;

/// Largest singular value of each item, `[batch, 1, 1]`; 0 for a zero or a non-finite item.
///
/// The matrix is brought near 1 by a power of two. Up to a smaller side of 48 by [`OperatorNorm`](crate::plan::OperatorNorm); beyond, `sqrt(lambda_max(x x^T))`
/// by at most 20 squarings of the trace-normalised Gram matrix, which items leave when they have converged, and a Rayleigh quotient. Relative error about
/// 1e-6; no starting vector.
///
/// ```
/// use layerwise::{Recorder, Shape, linalg};
/// let mut r = Recorder::new();
/// let x = r.external("x", Shape::new(3, 100, 300))?;
/// assert_eq!(linalg::spectral_norm(&mut r, x)?.shape(), Shape::new(3, 1, 1));
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// # Errors
/// As [`Recorder::record`].
pub fn spectral_norm(r: &mut Recorder, x: Value) -> Result<Value> {
    let x = if x.rows() <= x.cols() { x } else { x.t() };
    let batch = Recorder::batch_of(&[x]);
    let none = Ridge { coef: Coef::Const(0.0), relative: true, block: None };
    let control = r.scratch("control", Shape::new(batch, 1, control::WIDTH))?;
    let size = r.reduce(ReduceKind::MaxAbs, 1.0, x)?;
    r.record(none.control(Stage::Normalise, 1, size, control))?;
    let scaled = r.scratch("normalised", Shape::new(batch, x.rows(), x.cols()))?;
    r.record(Axpby { alpha: Coef::column(NORMAL), block: Some(control), ..Axpby::copy(x, scaled) })?;
    let top = if x.rows() <= OPERATOR_NORM_MAX {
        r.operator_norm(scaled)?
    } else {
        let gram = r.scratch("gram", Shape::new(batch, x.rows(), x.rows()))?;
        r.record(KronFactor { scale: x.cols() as f32, ..KronFactor::new(scaled.t(), gram) })?;
        let square = largest_eigenvalue(r, gram, control)?;
        r.quotient(1.0, Some(square), square, true)?
    };
    r.quotient(1.0, Some(top), super::normalise::column(control, NORMAL)?, false)
}

//! Damped solve with a symmetric positive definite matrix.

use crate::error::Result;
use crate::plan::{Coef, Recorder, Value};

/// `x = (a + damping I)^{-1} b` for symmetric positive definite items `a` `[n, n]` and `b` `[n, m]`; returns `(x, ok)`.
///
/// Cholesky and two triangular solves, which is more accurate than multiplying by [`spd_inverse`](super::spd_inverse()) and cheaper for `m < n`.
/// Only the lower triangle of `a` is read. The damping is absolute: a constant, or a column of `block` (`[batch, 1, H]`). From the right,
/// `b (a + damping I)^{-1}` is the transposed view of the solution for `b.t()`.
///
/// ```
/// use layerwise::{Recorder, Shape, linalg};
/// let mut r = Recorder::new();
/// let a = r.external("a", Shape::new(3, 17, 17))?;
/// let b = r.external("b", Shape::new(3, 5, 17))?;
/// let (x, _ok) = linalg::spd_solve(&mut r, a, b.t(), 1e-3, None)?;
/// assert_eq!(x.t().shape(), Shape::new(3, 5, 17)); // b (a + 1e-3 I)^{-1}
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where `a` is not square, `b` has other rows, or the block does not fit.
pub fn spd_solve(r: &mut Recorder, a: Value, b: Value, damping: impl Into<Coef>, block: Option<Value>) -> Result<(Value, Value)> {
    let (l, ok) = r.cholesky(a, damping, block)?;
    let half = r.solve_triangular(l, b, false)?;
    let x = r.solve_triangular(l, half, true)?;
    Ok((x, ok))
}

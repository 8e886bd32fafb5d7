//! Least squares.

use super::orthonormalise;
use crate::error::{Error, Result};
use crate::plan::{Recorder, Value};

/// `x` that minimises `|a x - b|_F` for items `a` `[m, n]` of full column rank, `m >= n`, and `b` `[m, k]`; returns `(x, ok)`, `x` `[n, k]`.
///
/// By the QR decomposition `a = q l^T` of [`orthonormalise`](super::orthonormalise()), `x = l^{-T} q^T b`: the error grows with the condition of `a`, not
/// with its square as that of the normal equations does (as long as the residual is small). In f32 good for conditions up to about 1e5; `ok` is 0 for a
/// column that is zero or numerically dependent on the others. With a ridge `lambda` append `sqrt(lambda) I` to `a` and zeros to `b`.
/// Cost `10 m n^2 + 2 m n k` flops.
///
/// ```
/// use layerwise::{Recorder, Shape, linalg};
/// let mut r = Recorder::new();
/// let (a, b) = (r.external("a", Shape::new(3, 50, 8))?, r.external("b", Shape::new(3, 50, 2))?);
/// let (x, _ok) = linalg::least_squares(&mut r, a, b)?;
/// assert_eq!(x.shape(), Shape::new(3, 8, 2));
/// assert!(linalg::least_squares(&mut r, a.t(), b).is_err()); // 8 equations for 50 unknowns
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] where `m < n` or `b` has other rows.
pub fn least_squares(r: &mut Recorder, a: Value, b: Value) -> Result<(Value, Value)> {
    if a.rows() < a.cols() {
        let found = format!("[{}, {}] items", a.rows(), a.cols());
        return Err(Error::Shape { op: "least_squares", tensor: "a".into(), expected: "at least as many rows as columns".into(), found });
    }
    if b.rows() != a.rows() {
        let (expected, found) = (format!("[{}, ..] items", a.rows()), format!("[{}, {}] items", b.rows(), b.cols()));
        return Err(Error::Shape { op: "least_squares", tensor: "b".into(), expected, found });
    }
    let (q, ok) = orthonormalise(r, a.t())?;
    let l = r.matmul(a.t(), q.t())?;
    let right = r.matmul(q, b)?;
    Ok((r.solve_triangular(l, right, true)?, ok))
}

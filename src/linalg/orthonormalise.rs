//! Orthonormal rows by Cholesky-QR.

use crate::error::{Error, Result};
use crate::plan::{Coef, KronFactor, Recorder, ReduceKind, Value};
use crate::tensor::Shape;

/// Orthonormalises the rows of each item `[k, d]`, `k <= d`: `x = L q` with `q q^T = I` and `L` lower triangular with a positive diagonal;
/// returns `(q, ok)`.
///
/// This is the `Q^T` of the QR decomposition of `x^T` with positive diagonal R, the unique one, so that results do not jump by signs from step to step.
/// Shifted Cholesky-QR (Fukaya, Kannan, Nakatsukasa, Yamamoto, Yanagisawa, 2020): a first pass on `x x^T + s I`, which does not break down, then two
/// plain passes. Any triangular factor leaves `q` exact in exact arithmetic, so the shift costs conditioning, not correctness. Unlike the paper's
/// worst-case shift `11 (k d + k (k + 1)) u ||x||^2`, which is useless in f32, this takes `s = 2 (sqrt(d) + k) u ||x||_F^2`, the size that rounding has
/// in practice.
///
/// In f32 `||q q^T - I||` is about 1e-6 for condition numbers of `x` up to about 1e5; a row that is zero or numerically dependent on the others gives
/// `ok` 0. Squares must not over- or underflow: scale `x` to a norm between 1e-15 and 1e15. Cost `6 k^2 d` flops.
///
/// ```
/// use layerwise::{Recorder, Shape, linalg};
/// let mut r = Recorder::new();
/// let x = r.external("x", Shape::new(2, 8, 100))?;
/// let (q, _ok) = linalg::orthonormalise(&mut r, x)?;
/// assert_eq!(q.shape(), Shape::new(2, 8, 100));
/// assert!(linalg::orthonormalise(&mut r, x.t()).is_err()); // 100 rows in 8 dimensions
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] where `k > d`.
pub fn orthonormalise(r: &mut Recorder, x: Value) -> Result<(Value, Value)> {
    let (k, d) = (x.rows(), x.cols());
    if k > d {
        return Err(Error::Shape {
            op: "orthonormalise",
            tensor: "x".into(),
            expected: "at most as many rows as columns".into(),
            found: format!("[{k}, {d}] items"),
        });
    }
    let (q, first) = pass(r, x, true)?;
    let (q, second) = pass(r, q, false)?;
    let (q, third) = pass(r, q, false)?;
    let ok = r.matmul(first, second)?;
    let ok = r.matmul(ok, third)?;
    Ok((q, ok))
}

/// `L^{-1} x` with `L L^T = x x^T`, plus the shift in the first pass.
fn pass(r: &mut Recorder, x: Value, shifted: bool) -> Result<(Value, Value)> {
    let (k, d) = (x.rows(), x.cols());
    let gram = r.scratch("orthonormalise.gram", Shape::new(Recorder::batch_of(&[x]), k, k))?;
    r.record(KronFactor { scale: d as f32, ..KronFactor::new(x.t(), gram) })?;
    let (l, ok) = if shifted {
        let shift = r.reduce(ReduceKind::Trace, ((d as f32).sqrt() + k as f32) * f32::EPSILON, gram)?;
        r.cholesky(gram, Coef::column(0), Some(shift))?
    } else {
        r.cholesky(gram, 0.0, None)?
    };
    Ok((r.solve_triangular(l, x, false)?, ok))
}

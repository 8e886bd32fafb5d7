//! Symmetric eigendecomposition at any scale.

use super::normalise;
use crate::error::Result;
use crate::plan::control::NORMAL;
use crate::plan::{Axpby, Coef, Order, Recorder, Value};
use crate::tensor::Shape;

/// All eigenpairs of the symmetric part of each item `[n, n]`; returns `(values, vectors, ok)`: `[1, n]` in this order, and `[n, n]` with the vectors in columns.
///
/// The matrix is brought near 1 by a power of two first, so that nothing over- or underflows: any finite matrix whose largest element is above 1e-38.
/// On a GPU Jacobi in f32 (up to [`EIGH_SINGLE_MAX`](crate::plan::EIGH_SINGLE_MAX) in one workgroup an item, block Jacobi of bounded sweeps beyond), on the CPU
/// path **f64 inside**. Values err by a few `u max |values|`, `u = 2^-24` (22 measured at n = 256); vectors are orthonormal to about 1e-6. Signs of vectors and bases of repeated
/// eigenvalues are free. `ok` is 0 where the matrix is zero or not finite.
///
/// ```
/// use layerwise::{Recorder, Shape, linalg, plan::Order};
/// let mut r = Recorder::new();
/// let a = r.external("a", Shape::new(3, 17, 17))?;
/// let (values, vectors, _ok) = linalg::eigh(&mut r, a, Order::Descending)?;
/// assert_eq!((values.shape(), vectors.shape()), (Shape::new(3, 1, 17), Shape::new(3, 17, 17)));
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where `a` is not square.
pub fn eigh(r: &mut Recorder, a: Value, order: Order) -> Result<(Value, Value, Value)> {
    let plain = normalise::Ridge { coef: Coef::Const(0.0), relative: true, block: None };
    let (scaled, control) = normalise::normalise(r, a, 1, &plain)?;
    let (values, vectors) = r.eigh(scaled, order)?;
    let vectors = normalise::reorthogonalise(r, vectors)?;
    let unscale = r.quotient(1.0, None, control.col_range(NORMAL as usize..NORMAL as usize + 1)?, false)?;
    let out = r.scratch("eigh.values", Shape::new(values.items(), 1, values.cols()))?;
    r.record(Axpby { alpha: Coef::column(0), block: Some(unscale), ..Axpby::copy(values, out) })?;
    let ok = normalise::finish(r, control, vectors, f32::MAX)?;
    Ok((out, vectors, ok))
}

//! Orthonormal factors at any scale.

use crate::error::Result;
use crate::plan::{Axpby, Coef, NormRatio, Recorder, ReduceKind, Value};
use crate::tensor::Shape;

/// The orthonormal factor `q` of each item `[n, n]`, `a = q r` with `r` upper triangular and a diagonal that is not negative; returns `(q, ok)`.
///
/// [`Qr`](crate::plan::Qr) of `a` over its largest element, so that any finite matrix will do: for a rank-deficient one the columns of `q` are completed to an
/// orthonormal basis, for the zero matrix `q` is the identity. `||q^T q - I||` is a few roundings, `u sqrt(n)` about, whatever the condition of `a`: unlike
/// [`orthonormalise`](super::orthonormalise()), which is cheaper and needs independent rows. f32 on a GPU, **f64 inside** on the CPU path.
/// `ok` is 0 where `a` is not finite. Cost `(8/3) n^3` flops.
///
/// ```
/// use layerwise::{Recorder, Shape, linalg};
/// let mut r = Recorder::new();
/// let a = r.external("a", Shape::new(3, 17, 17))?;
/// let (q, ok) = linalg::qr(&mut r, a)?;
/// assert_eq!((q.shape(), ok.shape()), (Shape::new(3, 17, 17), Shape::new(3, 1, 1)));
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where `a` is not square.
pub fn qr(r: &mut Recorder, a: Value) -> Result<(Value, Value)> {
    let size = r.reduce(ReduceKind::MaxAbs, 1.0, a)?;
    let scale = r.quotient(1.0, None, size, false)?;
    let scaled = r.scratch("qr.scaled", Shape::new(size.items(), a.rows(), a.cols()))?;
    r.record(Axpby { alpha: Coef::column(0), block: Some(scale), ..Axpby::copy(a, scaled) })?;
    let q = r.qr(scaled)?;
    let square = r.reduce(ReduceKind::SumSq, 1.0, q)?;
    let finite = |r: &mut Recorder, own: Value| {
        let out = r.scratch("qr.ok", Shape::new(size.items(), 1, 1))?;
        r.record(NormRatio { donor: None, own, out })?;
        Ok::<Value, crate::Error>(out)
    };
    let (before, after) = (finite(r, size)?, finite(r, square)?);
    Ok((q, r.matmul(before, after)?))
}

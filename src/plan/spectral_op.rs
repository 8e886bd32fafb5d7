//! Operations of matrix functions: eigenpairs, spectra, and the scalars that steer an iteration on the device.

use super::value::{Coef, Value};
use crate::tensor::Shape;

/// Largest singular value of `x`, whose smaller side is at most [`OPERATOR_NORM_MAX`].
///
/// By repeated squaring of the trace-normalised Gram matrix: relative error about 1e-6, no starting vector, for norms between about 1e-18 and 1e18.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatorNorm {
    /// Any matrix with `min(rows, cols) <= OPERATOR_NORM_MAX`.
    pub x: Value,
    /// `[batch, 1, 1]`.
    pub out: Value,
}

/// Largest smaller side that [`OperatorNorm`] takes: the Gram matrix must fit WebGPU's default workgroup memory.
pub const OPERATOR_NORM_MAX: usize = 48;

/// Order of eigenvalues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Smallest first.
    #[default]
    Ascending,
    /// Largest first.
    Descending,
}

/// All eigenpairs of the symmetric `(a + a^T) / 2 = vectors diag(values) vectors^T`.
///
/// On a GPU cyclic Jacobi in f32: one workgroup an item up to [`EIGH_SINGLE_MAX`] (with a few more dispatches up to 64, where a workgroup has 25 KiB), block Jacobi
/// over many dispatches beyond. On the CPU path tridiagonalization and the tridiagonal matrix's eigenpairs (by rotations, beyond order 160 by divide and conquer)
/// **in f64**, rounded at the end. Signs of the vectors, and bases of repeated eigenvalues, are free.
///
/// `max |a|` should lie between 1e-6 and 1e6 on a GPU ([`linalg::eigh`](crate::linalg::eigh()) scales): thresholds are absolute there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eigh {
    /// `[n, n]`.
    pub a: Value,
    /// Order of the values.
    pub order: Order,
    /// Eigenvalues, `[1, n]`.
    pub values: Value,
    /// Eigenvectors in columns, `[n, n]`.
    pub vectors: Value,
    /// Scratch of the shape [`Eigh::work_shape`].
    pub work: Value,
    /// Scratch of `work`'s columns squared, beyond [`EIGH_SINGLE_MAX`].
    pub spare: Option<Value>,
}

/// Largest order whose matrix and vectors fit one workgroup's memory (16 KiB).
pub const EIGH_SINGLE_MAX: usize = 44;

/// Rows of a block pair of the block Jacobi method; the shaders' `W`.
pub(crate) const EIGH_PAIR: usize = 32;

impl Eigh {
    /// The scratch that a batch of order-`n` matrices needs: per item the matrix and its vectors, padded, and beyond one workgroup the rotations of block pairs.
    pub fn work_shape(batch: usize, n: usize) -> Shape {
        if n <= EIGH_SINGLE_MAX {
            let even = n.next_multiple_of(2);
            return Shape::new(batch, 2 * even, even);
        }
        let padded = n.next_multiple_of(EIGH_PAIR);
        Shape::new(batch, 2 * padded + EIGH_PAIR + 1, padded)
    }
}

/// `out[r, c] = x[r, c] (max(values[c], 0) + shift)^(-1 / exponent)`: columns scaled by an inverse root of a damped spectrum.
///
/// 0 where the damped eigenvalue is not positive and finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpectrumScale {
    /// `[m, n]`.
    pub x: Value,
    /// `[1, n]`.
    pub values: Value,
    /// Added to the clamped eigenvalues.
    pub shift: Coef,
    /// 1 to 16.
    pub exponent: u32,
    /// `[m, n]`.
    pub out: Value,
    /// `[batch, 1, H]`, read by a column shift.
    pub block: Option<Value>,
}

/// `out = scale x / y`, or `scale x / sqrt(y)` with `root`; 0 where that is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quotient {
    /// `[batch, 1, 1]`; `None` is 1.
    pub x: Option<Value>,
    /// `[batch, 1, 1]`.
    pub y: Value,
    /// `[batch, 1, 1]`.
    pub out: Value,
    /// Constant factor.
    pub scale: f32,
    /// Divide by the square root.
    pub root: bool,
}

/// Orthonormal factor of a square matrix: `a = q r`, `r` upper triangular with a diagonal that is not negative.
///
/// Householder reflections, so that `q` is orthonormal to rounding for every finite matrix, rank-deficient or zero: a column that depends on those before
/// it is completed by some direction orthogonal to all. On a GPU in f32, panels of 32 columns, their reflections gathered into `I - Y V^T` and applied by
/// matrix products; on the CPU path **in f64**, rounded at the end.
///
/// `max |a|` should lie near 1 on a GPU ([`linalg::qr`](crate::linalg::qr()) scales): what is left of a column counts as zero there below 1e-13.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Qr {
    /// `[n, n]`.
    pub a: Value,
    /// `[n, n]`.
    pub q: Value,
    /// Dense scratch, `[n, n]`.
    pub work: Value,
    /// Dense scratch, `[2 n, n]`.
    pub reflectors: Value,
    /// Dense scratch, `[Qr::PANEL, n]`.
    pub product: Value,
}

impl Qr {
    /// Columns whose reflections are applied together; the shader's `PANEL`.
    pub const PANEL: usize = 32;
}

/// `out` = the columns of `x` by descending `keys`; of equal keys the earlier column first. NaN has a place too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SortColumns {
    /// `[1, n]`.
    pub keys: Value,
    /// `[m, n]`.
    pub x: Value,
    /// `[m, n]`.
    pub out: Value,
}

/// Columns of an [`IterationControl`]'s row.
pub mod control {
    /// 1 while the item iterates: gates the work.
    pub const ACTIVE: u32 = 0;
    /// 1 where the step just measured is to be kept: gates the copies.
    pub const COMMIT: u32 = 1;
    /// What was measured at the last kept step.
    pub const MEASURE: u32 = 2;
    /// Factor of the matrix: `SCALE a + SHIFT I` starts the iteration; in repeated squaring the factor that restores a unit trace.
    pub const SCALE: u32 = 3;
    /// Added to the diagonal after scaling.
    pub const SHIFT: u32 = 4;
    /// Diagonal of the first iterate.
    pub const ROOT: u32 = 5;
    /// 1 while nothing has gone wrong.
    pub const OK: u32 = 6;
    /// The ridge in units of the normalised matrix.
    pub const LAMBDA: u32 = 7;
    /// Power of two that brings the matrix near 1.
    pub const NORMAL: u32 = 8;
    /// What the root of the normalised matrix is multiplied by.
    pub const UNSCALE: u32 = 9;
    /// Steps kept.
    pub const STEPS: u32 = 10;
    /// Columns of the row.
    pub const WIDTH: usize = 12;
}

/// What [`IterationControl`] decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// `x = max |a|`: `NORMAL = 2^(-p k)` and `UNSCALE = 2^-k` for `a^(-1/p)`, `2^(p k)` near x (plus an absolute ridge). `OK` where that is positive and finite.
    Normalise,
    /// Repeated squaring, `x = sum g^2` of a `g` of unit trace: `SCALE = 1 / x`, which keeps the trace.
    Square,
    /// `x = sum (g' - g)^2` after a squaring: active until the change is below 4e-6 of `g`, so that what eigenvalues still differ by no longer matters.
    Settle,
    /// `x = lambda_max` of the normalised matrix: `LAMBDA`, and the start of coupled Newton, `ROOT = s UNSCALE`, `SCALE = s^p`, `SHIFT = s^p LAMBDA` with
    /// `s^p` just below `(p + 1) / (2 (x + LAMBDA))` and so few bits in s that `s^p` is exact.
    Start,
    /// `x = max |M - I|` after a step: kept unless it grew by more than a fifth; active until it is below 3e-7 or, below 1e-2, fails to halve.
    Newton,
    /// `x = max |root|`: `OK` falls where that is not finite or the last measure is above `limit`.
    Finish {
        /// Largest accepted measure.
        limit: f32,
    },
}

/// Moves an iteration's row of scalars on: bounded iterations whose converged items leave early, without a readback.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IterationControl {
    /// What to decide.
    pub stage: Stage,
    /// The root's exponent is `-1/p`, 1 to 8.
    pub p: u32,
    /// What was measured, `[batch, 1, 1]`.
    pub x: Value,
    /// The ridge.
    pub ridge: Coef,
    /// The ridge counts in units of `lambda_max`.
    pub relative: bool,
    /// `[batch, 1, H]`, read by a column ridge.
    pub block: Option<Value>,
    /// `[batch, 1, control::WIDTH]`, updated in place.
    pub control: Value,
}

//! The closed set of operations. Engines execute it by an exhaustive `match`; nothing else computes.

use super::activation_op::Activation;
use super::curvature_op::{DampingControl, DirectionOutcome, SpectralDivide};
use super::network_op::{SoftmaxCrossEntropy, Standardise, StandardiseGradient};
use super::polar_op::{Momentum, Normalise, PolarOutcome};
use super::spectral_op::{Eigh, IterationControl, OperatorNorm, Qr, Quotient, SortColumns, SpectrumScale};
use super::update_op::{
    AdamUpdate, Advance, FactorDamping, GraftDirection, GraftScale, KlClip, NormClip, NormRatio, RootOutcome, SgdUpdate, StepScale,
};
use super::value::{Coef, Value};

/// `out = alpha a b + beta d + gamma I`, per item, accumulated in f32.
///
/// `a` is `[m, k]`, `b` `[k, n]`, `d` and `out` `[m, n]`, in any strides (transpose with [`Value::t`]). `a` and `b` may be f16. In-place form: `d == Some(out)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Left operand, `[m, k]`.
    pub a: Value,
    /// Right operand, `[k, n]`.
    pub b: Value,
    /// Added operand, `[m, n]`; ignored where `beta` is constant 0.
    pub d: Option<Value>,
    /// Result, `[m, n]`.
    pub out: Value,
    /// Factor of the product; default 1.
    pub alpha: Coef,
    /// Factor of `d`; default 1.
    pub beta: Coef,
    /// Added to the diagonal; default 0.
    pub gamma: Coef,
    /// `[batch, 1, H]`, read by the column coefficients.
    pub block: Option<Value>,
    /// Column of the block: items with 0 there are left alone.
    pub gate: Option<u32>,
    /// The caller knows that `a b` and `d` are symmetric: about half is computed, and the upper triangle of `out` is a copy of the lower one, which alone is read of
    /// `d`. `out` has to be square.
    pub symmetric: bool,
}

impl Gemm {
    /// `out = a b`.
    pub fn new(a: Value, b: Value, out: Value) -> Self {
        let (alpha, beta, gamma) = (Coef::Const(1.0), Coef::Const(1.0), Coef::Const(0.0));
        Gemm { a, b, d: None, out, alpha, beta, gamma, block: None, gate: None, symmetric: false }
    }

    /// `out = a b`, known to be symmetric: `x x^T`, or a product of commuting symmetric matrices.
    pub fn symmetric(a: Value, b: Value, out: Value) -> Self {
        Gemm { symmetric: true, ..Gemm::new(a, b, out) }
    }
}

/// `out <- decay out + (1 - decay) scale / n x^T x`: a Kronecker factor's running average, one triangle computed and mirrored.
///
/// `x` is `[n, q]` (samples are rows; pass `x.t()` for `x x^T`). With `ones` the samples get a trailing 1 (the bias as homogeneous column) and `out` is `[q + 1, q + 1]`.
/// A constant `decay` of 0 overwrites without reading. A closed `gate` keeps the item as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KronFactor {
    /// Samples, `[n, q]`.
    pub x: Value,
    /// Append a column of ones.
    pub ones: bool,
    /// The factor, `[q, q]` (or `[q + 1, q + 1]`), updated in place.
    pub out: Value,
    /// Running-average decay; default constant 0.
    pub decay: Coef,
    /// Extra factor of the new term; default 1.
    pub scale: f32,
    /// `[batch, 1, H]`, read by a column decay.
    pub block: Option<Value>,
    /// `[batch, 1, 1]`: items with 0 here are left alone.
    pub gate: Option<Value>,
}

impl KronFactor {
    /// `out = x^T x / n`.
    pub fn new(x: Value, out: Value) -> Self {
        KronFactor { x, ones: false, out, decay: Coef::Const(0.0), scale: 1.0, block: None, gate: None }
    }
}

/// `out = alpha x + beta y + gamma I`, element by element. Copies, scales, transposes (by views), adds to a diagonal.
///
/// An operand with a constant zero factor is not read. In-place form: `y == Some(out)`. A closed `gate` keeps the item as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axpby {
    /// First operand, same shape as `out`.
    pub x: Option<Value>,
    /// Second operand, same shape as `out`.
    pub y: Option<Value>,
    /// Result.
    pub out: Value,
    /// Factor of `x`; default 1.
    pub alpha: Coef,
    /// Factor of `y`; default 1.
    pub beta: Coef,
    /// Added to the diagonal; default 0.
    pub gamma: Coef,
    /// `[batch, 1, H]`, read by the column coefficients.
    pub block: Option<Value>,
    /// `[batch, 1, 1]`: items with 0 here are left alone.
    pub gate: Option<Value>,
}

impl Axpby {
    /// `out = x`.
    pub fn copy(x: Value, out: Value) -> Self {
        Axpby {
            x: Some(x),
            y: None,
            out,
            alpha: Coef::Const(1.0),
            beta: Coef::Const(1.0),
            gamma: Coef::Const(0.0),
            block: None,
            gate: None,
        }
    }

    /// `out = x + y`.
    pub fn add(x: Value, y: Value, out: Value) -> Self {
        Axpby { y: Some(y), ..Axpby::copy(x, out) }
    }
}

/// `out = x` with a change of element type (f32 to packed f16, round to nearest even, at most 65504 in magnitude; or back). Both dense.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convert {
    /// Source.
    pub x: Value,
    /// Destination, same shape, other element type.
    pub out: Value,
}

/// Which reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    /// `sum x^2`.
    SumSq,
    /// `sum x_ii`.
    Trace,
    /// `sum x y`.
    Dot,
    /// `max |x|`; NaN if any element is NaN.
    MaxAbs,
    /// `max |x - I|`; NaN if any element is NaN.
    IdentityGap,
    /// `sum x`: of partial sums.
    Sum,
}

/// `out[item] = scale * reduction(x[, y])`. The order of summation depends on the item's shape alone.
///
/// With `out` `[1, p]` the item's elements, row by row, are cut into p runs of `ceil(elements / p)`, and each run is reduced by itself: the first of two stages of
/// large items ([`Recorder::reduce`](super::Recorder::reduce) takes two where that pays), on a GPU a workgroup a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reduce {
    /// Which reduction.
    pub kind: ReduceKind,
    /// Operand.
    pub x: Value,
    /// Second operand of [`ReduceKind::Dot`], same shape.
    pub y: Option<Value>,
    /// `[batch, 1, 1]`, or `[batch, 1, p]`; p is 1 for [`ReduceKind::Trace`].
    pub out: Value,
    /// Constant factor.
    pub scale: f32,
}

/// `out[0, c] = mean over rows of x[r, c]`, or of `x[r, c] y[r, c]`. The order of summation depends on the item's shape alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColumnMean {
    /// `[n, q]`.
    pub x: Value,
    /// `[n, q]`: inner products of columns, over n.
    pub y: Option<Value>,
    /// `[1, q]`.
    pub out: Value,
}

/// Raises `flag[item]` to 1 where an element of `x` is NaN, infinite, or above 1e18 in magnitude (its square would be infinite in f32).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CheckFinite {
    /// The tensor to look at.
    pub x: Value,
    /// `[batch, 1, 1]`, only ever raised here.
    pub flag: Value,
}

/// Lower Cholesky factor of `a + damping I`; zeros above the diagonal.
///
/// Only the lower triangle of `a` is read. `ok[item]` becomes 1, or 0 where a pivot was not positive, not finite, or subnormal; the factor of such an item is meaningless.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cholesky {
    /// Symmetric matrix, `[n, n]`.
    pub a: Value,
    /// Lower factor, `[n, n]`.
    pub out: Value,
    /// Absolute damping; default constant 0.
    pub damping: Coef,
    /// `[batch, 1, H]`, read by a column damping.
    pub block: Option<Value>,
    /// `[batch, 1, 1]`.
    pub ok: Value,
}

/// Solves `L out = b`, or `L^T out = b` with `transpose`, for lower-triangular `L`.
///
/// Right-hand forms are transposed views: `out L^T = b` is `L out^T = b^T`. `out` must not be `b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolveTriangular {
    /// Lower-triangular, `[n, n]`; nothing above the diagonal is read.
    pub l: Value,
    /// Right-hand side, `[n, m]`; `None` is the identity (`m = n`).
    pub b: Option<Value>,
    /// Solution, `[n, m]`.
    pub out: Value,
    /// Solve with `L^T`.
    pub transpose: bool,
}

/// What [`RandomFill`] draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// Uniform in `(0, 1)`: 32 bits per element.
    Uniform,
    /// Standard normal by Box-Muller on our own polynomials: 32 bits per element.
    Normal,
    /// -1 or +1 with equal probability: one bit per element.
    Rademacher,
}

/// Fills `out` from Philox4x32-10 keyed by `keys[item]`, with counter (block, step, stream, 0). See [`crate::rng`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomFill {
    /// Destination, dense items.
    pub out: Value,
    /// What to draw.
    pub distribution: Distribution,
    /// Which of several independent tensors of one step this is.
    pub stream: u32,
    /// `[batch, 1, 2]`: two `u32` bit patterns, the Philox key (seed, task).
    pub keys: Value,
    /// `[batch, 1, 1]`: the step, an integer as f32 (exact up to 2^24).
    pub step: Value,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident => $label:literal),* $(,)?) => {
        /// One operation of a plan.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $name($name)),*
        }

        impl Op {
            /// The operation's name, shared by plan, CPU function, shader entry point and test row.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => $label),* }
            }

            /// Every name, for tables that must be complete.
            pub const NAMES: &'static [&'static str] = &[$($label),*];
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Op { Op::$name(op) }
        })*
    };
}

ops! {
    /// Matrix product.
    Gemm => "gemm",
    /// Kronecker factor statistics.
    KronFactor => "kron_factor",
    /// Element-wise linear combination.
    Axpby => "axpby",
    /// Element-wise non-linearity.
    Activation => "activation",
    /// Element type conversion.
    Convert => "convert",
    /// Reduction to a scalar.
    Reduce => "reduce",
    /// Mean over rows.
    ColumnMean => "column_mean",
    /// Non-finite detection.
    CheckFinite => "check_finite",
    /// Cholesky factorization.
    Cholesky => "cholesky",
    /// Triangular solve.
    SolveTriangular => "solve_triangular",
    /// Largest singular value.
    OperatorNorm => "operator_norm",
    /// Symmetric eigendecomposition.
    Eigh => "eigh",
    /// Orthonormal factor.
    Qr => "qr",
    /// Columns in order.
    SortColumns => "sort_columns",
    /// Columns times an inverse root of a spectrum.
    SpectrumScale => "spectrum_scale",
    /// Quotient of scalars.
    Quotient => "quotient",
    /// Steering of a bounded iteration.
    IterationControl => "iteration_control",
    /// Counter-based random numbers.
    RandomFill => "random_fill",
    /// Clocks, schedules and bias corrections.
    Advance => "advance",
    /// KFAC's damping of both factors.
    FactorDamping => "factor_damping",
    /// Bookkeeping after a refresh.
    RootOutcome => "root_outcome",
    /// KFAC's KL clip.
    KlClip => "kl_clip",
    /// Damped inverse of a Kronecker product in its eigenbasis.
    SpectralDivide => "spectral_divide",
    /// Count of dropped directions.
    DirectionOutcome => "direction_outcome",
    /// Levenberg-Marquardt damping.
    DampingControl => "damping_control",
    /// Clip by a joint norm.
    NormClip => "norm_clip",
    /// Grafted optimizer's direction.
    GraftDirection => "graft_direction",
    /// Ratio of norms.
    NormRatio => "norm_ratio",
    /// Ratio of whole tensors' norms.
    GraftScale => "graft_scale",
    /// SOAP's factor of a direction.
    StepScale => "step_scale",
    /// Momentum with its look-ahead.
    Momentum => "momentum",
    /// Division by the Frobenius norm.
    Normalise => "normalise",
    /// Bookkeeping of orthogonalised directions.
    PolarOutcome => "polar_outcome",
    /// SGD tail.
    SgdUpdate => "sgd_update",
    /// Adam tail.
    AdamUpdate => "adam_update",
    /// Batch standardisation.
    Standardise => "standardise",
    /// Its backward pass.
    StandardiseGradient => "standardise_gradient",
    /// Softmax with cross-entropy.
    SoftmaxCrossEntropy => "softmax_cross_entropy",
}

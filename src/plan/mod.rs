//! Plans: what to compute, apart from where.

mod access;
pub mod block;
mod cost;
mod curvature_op;
pub(crate) mod cut;
mod op;
#[allow(clippy::module_inception, reason = "the room and its main type share the name that readers look for")]
mod plan;
mod recorder;
mod spectral_op;
mod value;
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "only the GPU engine orders its work in waves"))]
pub(crate) mod wave;

pub use access::{Access, Operand};
pub use cost::Cost;
pub use curvature_op::{ControlStage, DampingControl, DirectionOutcome, SpectralDivide};
pub use op::{
    AdamUpdate, Advance, Axpby, CheckFinite, Cholesky, Clock, ColumnMean, Convert, DecayForm, Distribution, FactorDamping, Gemm,
    GraftDirection, KlClip, KronFactor, NormClip, NormRatio, Op, RandomFill, Reduce, ReduceKind, RootOutcome, SgdUpdate, SolveTriangular,
};
pub use plan::{Plan, Segment};
pub use recorder::Recorder;
#[cfg(feature = "gpu")]
pub(crate) use spectral_op::EIGH_PAIR;
pub use spectral_op::{
    EIGH_SINGLE_MAX, Eigh, IterationControl, OPERATOR_NORM_MAX, OperatorNorm, Order, Qr, Quotient, SortColumns, SpectrumScale, Stage,
    control,
};
pub use value::{Coef, Role, Value, ValueInfo};

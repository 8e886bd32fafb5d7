//! Plans: what to compute, apart from where.

mod access;
mod activation_op;
pub mod block;
mod cost;
mod curvature_op;
pub(crate) mod cut;
mod network_op;
mod op;
#[allow(clippy::module_inception, reason = "the room and its main type share the name that readers look for")]
mod plan;
mod polar_op;
mod recorder;
mod spectral_op;
mod update_op;
mod value;
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "only the GPU engine orders its work in waves"))]
pub(crate) mod wave;

pub use access::{Access, Operand};
pub(crate) use activation_op::LinkForm;
pub use activation_op::{Activation, Link};
pub use cost::Cost;
pub use curvature_op::{ControlStage, DampingControl, DirectionOutcome, SpectralDivide};
pub use network_op::{SoftmaxCrossEntropy, Standardise, StandardiseGradient};
pub use op::{
    Axpby, CheckFinite, Cholesky, ColumnMean, Convert, Distribution, Gemm, KronFactor, Op, RandomFill, Reduce, ReduceKind, SolveTriangular,
};
pub use plan::{Plan, Segment};
pub use polar_op::{Momentum, MomentumForm, Normalise, PolarOutcome};
pub use recorder::Recorder;
#[cfg(feature = "gpu")]
pub(crate) use spectral_op::EIGH_PAIR;
pub use spectral_op::{
    EIGH_SINGLE_MAX, Eigh, IterationControl, OPERATOR_NORM_MAX, OperatorNorm, Order, Qr, Quotient, SortColumns, SpectrumScale, Stage,
    control,
};
pub use update_op::{
    AdamUpdate, Advance, Clock, DecayForm, FactorDamping, GraftDirection, GraftScale, KlClip, NormClip, NormRatio, RootOutcome, SgdUpdate,
    StepScale,
};
pub use value::{Coef, Role, Value, ValueInfo};

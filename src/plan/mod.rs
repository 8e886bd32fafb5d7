//! Plans: what to compute, apart from where.

mod access;
pub mod block;
mod cost;
mod op;
#[allow(clippy::module_inception, reason = "the room and its main type share the name that readers look for")]
mod plan;
mod recorder;
mod value;
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "only the GPU engine orders its work in waves"))]
pub(crate) mod wave;

pub use access::{Access, Operand};
pub use cost::Cost;
pub use op::{
    AdamUpdate, Advance, Axpby, CheckFinite, Cholesky, Clock, ColumnMean, Convert, Distribution, FactorDamping, Gemm, KlClip, KronFactor,
    OPERATOR_NORM_MAX, Op, OperatorNorm, RandomFill, Reduce, ReduceKind, RootOutcome, SgdUpdate, SolveTriangular,
};
pub use plan::{Plan, Segment};
pub use recorder::Recorder;
pub use value::{Coef, Role, Value, ValueInfo};

//! Records operations, checking each, into a [`Plan`].

use super::activation_op::{Activation, Link};
use super::curvature_op::{DampingControl, DirectionOutcome, SpectralDivide};
use super::network_op::{SoftmaxCrossEntropy, Standardise, StandardiseGradient};
use super::op::{Axpby, CheckFinite, Cholesky, ColumnMean, Convert, Gemm, KronFactor, Op, RandomFill, Reduce, ReduceKind, SolveTriangular};
use super::plan::{Plan, Segment};
use super::polar_op::{Momentum, Normalise, PolarOutcome};
use super::spectral_op::{EIGH_SINGLE_MAX, Eigh, IterationControl, OperatorNorm, Order, Qr, Quotient, SortColumns, SpectrumScale};
use super::update_op::{
    AdamUpdate, Advance, FactorDamping, GraftDirection, GraftScale, KlClip, NormClip, NormRatio, RootOutcome, SgdUpdate, StepScale,
};
use super::value::{Coef, Role, Value, ValueInfo};
use crate::error::{Error, Result};
use crate::tensor::{ElementType, Shape};

/// Records operations. No device, no memory: what comes out is a [`Plan`].
///
/// ```
/// use layerwise::{Recorder, Shape};
/// let mut r = Recorder::new();
/// let a = r.external("a", Shape::new(4, 31, 7))?;
/// let gram = r.matmul(a, a.t())?; // scratch [4, 31, 31]
/// let plan = r.finish();
/// assert_eq!(plan.ops().len(), 1);
/// assert_eq!(gram.rows(), 31);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Recorder {
    values: Vec<ValueInfo>,
    ops: Vec<Op>,
    segments: Vec<Segment>,
    /// What is recorded is meant for the CPU path.
    host: bool,
}

impl Recorder {
    /// An empty recorder with one unnamed segment.
    pub fn new() -> Self {
        Recorder::default()
    }

    /// A recorder for the CPU path or for a GPU: composites that have several ways may take what is faster there. The plan runs on either.
    pub(crate) fn on(gpu: bool) -> Self {
        Recorder { host: !gpu, ..Recorder::default() }
    }

    /// True for the CPU path.
    pub(crate) fn is_for_host(&self) -> bool {
        self.host
    }

    /// A value that the caller binds: weights, gradients, taps.
    ///
    /// # Errors
    /// [`Error::Shape`] for a zero dimension, here and in the other declarations.
    pub fn external(&mut self, name: impl Into<String>, shape: Shape) -> Result<Value> {
        self.declare(name.into(), shape, ElementType::F32, Role::External)
    }

    /// A value that the plan's owner keeps between runs.
    ///
    /// # Errors
    /// As [`external`](Self::external).
    pub fn state(&mut self, name: impl Into<String>, shape: Shape) -> Result<Value> {
        self.declare(name.into(), shape, ElementType::F32, Role::State)
    }

    /// A value that lives within one run.
    ///
    /// # Errors
    /// As [`external`](Self::external).
    pub fn scratch(&mut self, name: impl Into<String>, shape: Shape) -> Result<Value> {
        self.declare(name.into(), shape, ElementType::F32, Role::Scratch)
    }

    /// A value of any element type and role.
    ///
    /// # Errors
    /// As [`external`](Self::external).
    pub fn declare(&mut self, name: String, shape: Shape, element: ElementType, role: Role) -> Result<Value> {
        shape.check("declare", &name)?;
        let id = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        self.values.push(ValueInfo { name, shape, element, role, arena: None });
        Ok(Value::dense(id, shape, element))
    }

    /// A scratch value in an arena, whose number is the caller's choice: see [`ValueInfo::arena`].
    ///
    /// # Errors
    /// As [`external`](Self::external).
    pub fn scratch_in(&mut self, name: impl Into<String>, shape: Shape, arena: u32) -> Result<Value> {
        let value = self.scratch(name, shape)?;
        if let Some(info) = self.values.last_mut() {
            info.arena = Some(arena);
        }
        Ok(value)
    }

    /// A number above those of all values so far.
    pub(crate) fn next_id(&self) -> u32 {
        u32::try_from(self.values.len()).unwrap_or(u32::MAX)
    }

    /// Starts a segment: operations from here on belong to it, and an engine can run it by itself, by the index returned here.
    pub fn segment(&mut self, name: impl Into<String>) -> usize {
        let start = self.ops.len();
        self.segments.push(Segment { name: name.into(), ops: start..start, stand_ins: Vec::new() });
        self.segments.len() - 1
    }

    /// Checks and appends one operation.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the operand that does not fit; nothing is recorded then.
    pub fn record(&mut self, op: impl Into<Op>) -> Result<()> {
        let op = op.into();
        for (_, value, _) in op.operands() {
            if !self.values.get(value.id as usize).is_some_and(|info| value.lies_in(info)) {
                return Err(Error::Aliasing {
                    op: op.name(),
                    tensor: format!("%{}", value.id),
                    reason: "the value belongs to another recorder".into(),
                });
            }
        }
        op.check().map_err(|(operand, expected, found)| {
            let name = op.operands().iter().find(|o| o.0 == operand).map(|o| self.values[o.1.id as usize].name.clone());
            Error::Shape { op: op.name(), tensor: name.map_or(operand.into(), |n| format!("{operand} = {n}")), expected, found }
        })?;
        if self.segments.is_empty() {
            self.segment("main");
        }
        self.ops.push(op);
        if let Some(segment) = self.segments.last_mut() {
            segment.ops.end = self.ops.len();
        }
        Ok(())
    }

    /// The finished plan.
    pub fn finish(self) -> Plan {
        Plan { values: self.values, ops: self.ops, segments: self.segments }
    }

    /// The number of logical items that operands with these views give together: the longest.
    pub(crate) fn batch_of(views: &[Value]) -> usize {
        views.iter().map(|v| if v.repeated { v.div * v.modulo } else { v.items }).max().unwrap_or(1)
    }

    fn temporary(&mut self, op: &str, batch: usize, rows: usize, cols: usize) -> Result<Value> {
        let name = format!("{op}.{}", self.values.len());
        self.scratch(name, Shape::new(batch, rows, cols))
    }

    /// Scratch `a b`.
    ///
    /// # Errors
    /// As [`record`](Self::record), here and below.
    pub fn matmul(&mut self, a: Value, b: Value) -> Result<Value> {
        let out = self.temporary("gemm", Self::batch_of(&[a, b]), a.rows, b.cols)?;
        self.record(Gemm::new(a, b, out))?;
        Ok(out)
    }

    /// Scratch `alpha x + beta y`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn axpby(&mut self, alpha: f32, x: Value, beta: f32, y: Value) -> Result<Value> {
        let out = self.temporary("axpby", Self::batch_of(&[x, y]), x.rows, x.cols)?;
        self.record(Axpby { alpha: Coef::Const(alpha), beta: Coef::Const(beta), ..Axpby::add(x, y, out) })?;
        Ok(out)
    }

    /// Scratch `alpha x`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn scale(&mut self, alpha: f32, x: Value) -> Result<Value> {
        let out = self.temporary("scale", Self::batch_of(&[x]), x.rows, x.cols)?;
        self.record(Axpby { alpha: Coef::Const(alpha), ..Axpby::copy(x, out) })?;
        Ok(out)
    }

    /// Scratch `sigma(x)`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn activation(&mut self, link: Link, x: Value) -> Result<Value> {
        let out = self.temporary("activation", Self::batch_of(&[x]), x.rows, x.cols)?;
        self.record(Activation::new(link, x, out))?;
        Ok(out)
    }

    /// `out = x`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn copy(&mut self, x: Value, out: Value) -> Result<()> {
        self.record(Axpby::copy(x, out))
    }

    /// `out = x + gamma I`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn add_diag(&mut self, x: Value, gamma: impl Into<Coef>, out: Value) -> Result<()> {
        self.record(Axpby { gamma: gamma.into(), ..Axpby::copy(x, out) })
    }

    /// Scratch dense `x^T` (views from [`Value::t`] cost nothing and serve wherever an operation takes them).
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn transpose(&mut self, x: Value) -> Result<Value> {
        let out = self.temporary("transpose", Self::batch_of(&[x]), x.cols, x.rows)?;
        self.copy(x.t(), out)?;
        Ok(out)
    }

    /// Scratch scalar `scale * reduction(x)` for [`ReduceKind::SumSq`], [`ReduceKind::Trace`] and [`ReduceKind::MaxAbs`].
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn reduce(&mut self, kind: ReduceKind, scale: f32, x: Value) -> Result<Value> {
        let out = self.temporary("reduce", Self::batch_of(&[x]), 1, 1)?;
        self.reduce_into(Reduce { kind, x, y: None, out, scale })?;
        Ok(out)
    }

    /// Records a reduction to one number an item: in two stages where an item has more than 2^16 elements, so that no workgroup has to read all of a large one.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn reduce_into(&mut self, op: Reduce) -> Result<()> {
        let elements = op.x.rows * op.x.cols;
        if elements <= ONE_STAGE || op.kind == ReduceKind::Trace {
            return self.record(op);
        }
        let runs = elements.div_ceil(STAGE_RUN).min(MOST_RUNS);
        let parts = self.temporary("reduce.parts", op.out.items, 1, runs)?;
        self.record(Reduce { out: parts, scale: 1.0, ..op })?;
        let largest = matches!(op.kind, ReduceKind::MaxAbs | ReduceKind::IdentityGap);
        let kind = if largest { ReduceKind::MaxAbs } else { ReduceKind::Sum };
        self.record(Reduce { kind, x: parts, y: None, ..op })
    }

    /// Scratch scalar `sum x y`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn dot(&mut self, x: Value, y: Value) -> Result<Value> {
        let out = self.temporary("dot", Self::batch_of(&[x, y]), 1, 1)?;
        self.reduce_into(Reduce { kind: ReduceKind::Dot, x, y: Some(y), out, scale: 1.0 })?;
        Ok(out)
    }

    /// Scratch `[1, q]` column means.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn column_mean(&mut self, x: Value) -> Result<Value> {
        let out = self.temporary("column_mean", Self::batch_of(&[x]), 1, x.cols)?;
        self.record(ColumnMean { x, y: None, out })?;
        Ok(out)
    }

    /// Scratch `[1, q]` inner products of the columns of two `[n, q]` operands, over n: `diag(x^T y) / n` without the product.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn column_dots(&mut self, x: Value, y: Value) -> Result<Value> {
        let out = self.temporary("column_dots", Self::batch_of(&[x, y]), 1, x.cols)?;
        self.record(ColumnMean { x, y: Some(y), out })?;
        Ok(out)
    }

    /// Scratch `x^T x / n`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn kron_factor(&mut self, x: Value) -> Result<Value> {
        let out = self.temporary("kron_factor", Self::batch_of(&[x]), x.cols, x.cols)?;
        self.record(KronFactor::new(x, out))?;
        Ok(out)
    }

    /// Scratch operator norm.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn operator_norm(&mut self, x: Value) -> Result<Value> {
        let out = self.temporary("operator_norm", Self::batch_of(&[x]), 1, 1)?;
        self.record(OperatorNorm { x, out })?;
        Ok(out)
    }

    /// Scratch (eigenvalues `[1, n]`, eigenvectors in columns `[n, n]`) of the symmetric part of `a`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn eigh(&mut self, a: Value, order: Order) -> Result<(Value, Value)> {
        let (batch, n) = (Self::batch_of(&[a]), a.rows);
        let values = self.temporary("eigh.values", batch, 1, n)?;
        let vectors = self.temporary("eigh.vectors", batch, n, n)?;
        let shape = Eigh::work_shape(batch, n);
        let work = self.scratch("eigh.work", shape)?;
        let spare = if n > EIGH_SINGLE_MAX { Some(self.scratch("eigh.spare", Shape::new(batch, shape.cols, shape.cols))?) } else { None };
        self.record(Eigh { a, order, values, vectors, work, spare })?;
        Ok((values, vectors))
    }

    /// Scratch orthonormal factor of `a` by [`Qr`]; [`linalg::qr`](crate::linalg::qr()) takes matrices of any scale.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn qr(&mut self, a: Value) -> Result<Value> {
        let (batch, n) = (Self::batch_of(&[a]), a.rows);
        let [q, work, reflectors, product] = [("q", n), ("work", n), ("reflectors", 2 * n), ("product", Qr::PANEL)]
            .map(|(name, rows)| self.temporary(&format!("qr.{name}"), batch, rows, n));
        let (q, work, reflectors, product) = (q?, work?, reflectors?, product?);
        self.record(Qr { a, q, work, reflectors, product })?;
        Ok(q)
    }

    /// Scratch columns of `x` by descending `keys` `[1, n]`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn sort_columns(&mut self, keys: Value, x: Value) -> Result<Value> {
        let out = self.temporary("sort_columns", Self::batch_of(&[keys, x]), x.rows, x.cols)?;
        self.record(SortColumns { keys, x, out })?;
        Ok(out)
    }

    /// Scratch scalar `scale x / y` (`None` is 1), or `scale x / sqrt(y)` with `root`; 0 where that is not finite.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn quotient(&mut self, scale: f32, x: Option<Value>, y: Value, root: bool) -> Result<Value> {
        let out = self.temporary("quotient", Self::batch_of(&[x.unwrap_or(y), y]), 1, 1)?;
        self.record(Quotient { x, y, out, scale, root })?;
        Ok(out)
    }

    /// Scratch (factor, ok) of `a + damping I`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn cholesky(&mut self, a: Value, damping: impl Into<Coef>, block: Option<Value>) -> Result<(Value, Value)> {
        let batch = Self::batch_of(&[a]);
        let out = self.temporary("cholesky", batch, a.rows, a.cols)?;
        let ok = self.temporary("cholesky.ok", batch, 1, 1)?;
        self.record(Cholesky { a, out, damping: damping.into(), block, ok })?;
        Ok((out, ok))
    }

    /// Scratch `L^{-1} b` or `L^{-T} b`.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn solve_triangular(&mut self, l: Value, b: Value, transpose: bool) -> Result<Value> {
        let out = self.temporary("solve_triangular", Self::batch_of(&[l, b]), b.rows, b.cols)?;
        self.record(SolveTriangular { l, b: Some(b), out, transpose })?;
        Ok(out)
    }

    /// Scratch laid out as `x` is: features first where `x` is.
    fn temporary_like(&mut self, op: &str, batch: usize, x: Value) -> Result<Value> {
        if x.row_stride < x.col_stride {
            Ok(self.temporary(op, batch, x.cols, x.rows)?.t())
        } else {
            self.temporary(op, batch, x.rows, x.cols)
        }
    }

    /// Scratch standardised columns of `x` with their statistics: the operation as recorded, with its outputs.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn standardise(&mut self, x: Value, epsilon: f32) -> Result<Standardise> {
        let batch = Self::batch_of(&[x]);
        let out = self.temporary_like("standardise", batch, x)?;
        let [mean, variance, scale] =
            ["mean", "variance", "scale"].map(|name| self.temporary(&format!("standardise.{name}"), batch, 1, x.cols));
        let op = Standardise { x, out, mean: mean?, variance: variance?, scale: scale?, epsilon };
        self.record(op)?;
        Ok(op)
    }

    /// Scratch (dx `[n, q]`, sums `[2, q]`): backward pass of `gamma xhat + b`; see [`StandardiseGradient`].
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn standardise_gradient(&mut self, of: &Standardise, gamma: Option<Value>, dy: Value, factor: f32) -> Result<(Value, Value)> {
        let batch = Self::batch_of(&[of.out, dy]);
        let dx = self.temporary_like("standardise_gradient", batch, dy)?;
        let sums = self.temporary("standardise_gradient.sums", batch, 2, dy.cols)?;
        self.record(StandardiseGradient { xhat: of.out, dy, scale: of.scale, gamma, dx, sums, factor })?;
        Ok((dx, sums))
    }

    /// Scratch (loss `[n, 1]`, delta `[n, c]`, hits `[n, 1]`) of softmax with cross-entropy; see [`SoftmaxCrossEntropy`].
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn softmax_cross_entropy(&mut self, logits: Value, labels: Value) -> Result<(Value, Value, Value)> {
        let batch = Self::batch_of(&[logits, labels]);
        let delta = self.temporary_like("softmax_cross_entropy", batch, logits)?;
        let loss = self.temporary("softmax_cross_entropy.loss", batch, logits.rows, 1)?;
        let hits = self.temporary("softmax_cross_entropy.hits", batch, logits.rows, 1)?;
        self.record(SoftmaxCrossEntropy { logits, labels, loss, delta, hits })?;
        Ok((loss, delta, hits))
    }
}

/// Elements of an item that are reduced in one stage.
const ONE_STAGE: usize = 1 << 16;
/// Elements of a run of the first of two stages, where there are not too many.
const STAGE_RUN: usize = 1 << 14;
const MOST_RUNS: usize = 256;

/// Operations without a shorthand, recorded through [`Recorder::record`]: named here so that the list of shorthands is seen to be complete.
#[allow(dead_code, reason = "a compile-time list: every operation is either a shorthand above or one of these")]
type RecordedDirectly = (
    (AdamUpdate, Advance, CheckFinite, Convert, FactorDamping, GraftDirection, IterationControl),
    (KlClip, NormClip, NormRatio, RandomFill, RootOutcome, SgdUpdate, SpectrumScale),
    (DampingControl, DirectionOutcome, SpectralDivide),
    (GraftScale, Momentum, Normalise, PolarOutcome, StepScale),
);

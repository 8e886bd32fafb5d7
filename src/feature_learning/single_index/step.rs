//! The first step of every method on a batch of data items, recorded once: samples, gradient, preconditioned directions, their spikes.

use super::problem::{Problem, Samples, Setting, task};
use super::student::{Forward, Student, reciprocal};
use super::{Direction, SingleIndex, spike};
use crate::error::Result;
use crate::linalg::spd_solve;
use crate::plan::block::WIDTH;
use crate::plan::{AdamUpdate, Advance, Axpby, Clock, Coef, DecayForm, Gemm, Recorder, Reduce, ReduceKind, SpectrumScale, Value};
use crate::tensor::Shape;

/// Columns of a log row: `<u, beta_*>`, `||u||^2`, residual, singular value.
pub(super) const COLUMNS: usize = 4;

/// Added to the batch variance under input normalisation.
const NORMALISATION_EPSILON: f32 = 1e-5;

/// A recorded step and its values, for looking at them after a run.
#[derive(Clone, Debug)]
pub struct Step {
    /// Targets and covariances.
    pub problem: Problem,
    /// Training samples.
    pub samples: Samples,
    /// Initial weights.
    pub student: Student,
    /// `dL/dG` at the initial weights, `[items, dh, dX]`.
    pub gradient: Value,
    /// `X^T X/n`, `[items, dX, dX]`, where a direction needs it.
    pub covariance: Option<Value>,
    /// Damping of each (item, KFAC direction), `[items * KFACs, 1, 1]`.
    pub damping: Option<Value>,
    /// A block for the sign direction, `[items, 1, WIDTH]`.
    pub(super) block: Option<Value>,
    /// By direction: the step's matrix `D`, `[items, dh, dX]`, all KFAC directions together in one value with items outer.
    pub directions: Vec<(Kind, Value)>,
    /// Log rows of each entry of `directions`, `[its items, 1, COLUMNS]`.
    pub(super) logs: Vec<Value>,
    /// `(c_1/sqrt(dh)) f beta_hat^T` plus the gradient: log row.
    pub(super) rank_one: Option<Value>,
}

/// Directions that are recorded together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The gradient.
    Sgd,
    /// All KFAC directions of an item, one after another.
    Kfac,
    /// Adam's first step.
    Sign,
    /// Input normalisation.
    BatchNormInputs,
    /// The true covariance.
    TrueWhitening,
}

impl Direction {
    pub(super) fn kind(self) -> Kind {
        match self {
            Direction::Sgd => Kind::Sgd,
            Direction::Kfac(_) | Direction::KfacBest => Kind::Kfac,
            Direction::Sign => Kind::Sign,
            Direction::BatchNormInputs => Kind::BatchNormInputs,
            Direction::TrueWhitening => Kind::TrueWhitening,
        }
    }
}

/// The settings of the problem.
pub(super) fn setting(config: &SingleIndex) -> Setting {
    Setting { d_x: config.d_x, rotated: config.rotated, inputs: config.inputs, teacher: config.teacher, noise: config.noise }
}

/// `gradient (S + damping I)^{-1}` for `each` dampings of every item, `[items * each, dh, dX]` as a transposed view.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit.
pub(in crate::feature_learning) fn precondition(
    r: &mut Recorder,
    gradient: Value,
    covariance: Value,
    damping: Value,
    each: usize,
) -> Result<Value> {
    let items = gradient.items();
    let (a, b) = (covariance.repeat(each, items)?, gradient.repeat(each, items)?);
    let (x, _) = spd_solve(r, a, b.t(), Coef::column(0), Some(damping))?;
    Ok(x.t())
}

fn log_spike(r: &mut Recorder, d: Value, start: Value, target: Value, log: Value) -> Result<()> {
    let cell = |column: usize| log.col_range(column..column + 1);
    let spike = spike::record(r, d, start)?;
    r.record(Gemm::new(target, spike.right, cell(0)?))?;
    r.record(Reduce { kind: ReduceKind::SumSq, x: spike.right, y: None, out: cell(1)?, scale: 1.0 })?;
    r.copy(spike.residual, cell(2)?)?;
    r.copy(spike.singular, cell(3)?)
}

impl Step {
    /// Records everything for `items` data items.
    pub(super) fn record(r: &mut Recorder, config: &SingleIndex, items: usize) -> Result<Self> {
        let mut problem = Problem::declare(r, setting(config), items)?;
        let samples = problem.draw(r, "train", task::STEP, config.samples)?;
        let (g, f) = problem.weights(r, config.hidden)?;
        let student = Student::new(config.student, g, f)?;
        let forward: Forward = student.forward(r, samples.x, samples.y)?;
        let gradient = student.gradient_g(r, &forward, samples.x)?;
        let kinds = config.kinds();
        let mut step = Step {
            problem,
            samples,
            student,
            gradient,
            covariance: None,
            damping: None,
            block: None,
            directions: Vec::new(),
            logs: Vec::new(),
            rank_one: None,
        };
        for (kind, each) in kinds {
            let d = step.direction(r, kind, items, each)?;
            let log = r.state(format!("log.{kind:?}"), Shape::new(items * each, 1, COLUMNS))?;
            let start = r.matmul(d.t(), f.t().repeat(each, items)?)?;
            log_spike(r, d, start, step.problem.beta.repeat(each, items)?, log)?;
            step.directions.push((kind, d));
            step.logs.push(log);
        }
        if config.rank_one {
            let log = r.state("log.rank_one", Shape::new(items, 1, COLUMNS))?;
            let rest = step.beyond_rank_one(r, config)?;
            // Any generic start serves: a row of the initial weights.
            log_spike(r, rest, g.row_range(0..1)?.t(), step.problem.beta, log)?;
            step.rank_one = Some(log);
        }
        Ok(step)
    }

    /// `grad_G + (c_1/sqrt(dh)) f beta_hat^T`, `beta_hat = X^T y/n`: what the rank-one approximation of the gradient leaves.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "rounding to the device's element type is the purpose")]
    fn beyond_rank_one(&self, r: &mut Recorder, config: &SingleIndex) -> Result<Value> {
        let (x, f) = (self.samples.x, self.student.f);
        let estimate = r.scratch("estimate", Shape::new(x.items(), 1, config.d_x))?;
        r.record(Gemm { alpha: Coef::Const(reciprocal(config.samples as f64)), ..Gemm::new(self.samples.y, x, estimate) })?;
        let rest = r.scratch("beyond_rank_one", self.gradient.shape())?;
        let alpha = config.student.moments().linear / (config.hidden as f64).sqrt();
        r.record(Gemm { d: Some(self.gradient), alpha: Coef::Const(alpha as f32), ..Gemm::new(f.t(), estimate, rest) })?;
        Ok(rest)
    }

    fn direction(&mut self, r: &mut Recorder, kind: Kind, items: usize, each: usize) -> Result<Value> {
        let (x, gradient) = (self.samples.x, self.gradient);
        match kind {
            Kind::Sgd => Ok(gradient),
            Kind::Kfac => {
                let covariance = r.kron_factor(x)?;
                let damping = r.external("damping", Shape::new(items * each, 1, 1))?;
                (self.covariance, self.damping) = (Some(covariance), Some(damping));
                precondition(r, gradient, covariance, damping, each)
            }
            Kind::TrueWhitening => self.problem.times_inverse(r, gradient),
            // Adam's first step from zero moments: g / (|g| + eps).
            Kind::Sign => {
                let block = r.state("block", Shape::new(items, 1, WIDTH))?;
                self.block = Some(block);
                let mut zero = |name: &str| -> Result<Value> {
                    let out = r.scratch(name, gradient.shape())?;
                    // What a constant zero multiplies is not read.
                    r.record(Axpby { alpha: Coef::Const(0.0), ..Axpby::copy(gradient, out) })?;
                    Ok(out)
                };
                let (w, m, v) = (zero("sign.w")?, zero("sign.m")?, zero("sign.v")?);
                r.record(Advance { block, clock: Clock::Step })?;
                r.record(AdamUpdate { w, g: gradient, m, v, v_max: None, nesterov: false, decay: DecayForm::Gradient, block })?;
                Ok(w)
            }
            Kind::BatchNormInputs => {
                let (shape, n) = (x.shape(), x.rows());
                let mean = r.column_mean(x)?;
                let (centred, standard) = (r.scratch("bn.centred", shape)?, r.scratch("bn.x", shape)?);
                r.record(Axpby { beta: Coef::Const(-1.0), ..Axpby::add(x, mean.broadcast_row(n)?, centred) })?;
                let variance = r.kron_factor(centred)?.diagonal()?;
                let shift = Coef::Const(NORMALISATION_EPSILON);
                let scaled = |x: Value, out: Value| SpectrumScale { x, values: variance, shift, exponent: 2, out, block: None };
                r.record(scaled(centred, standard))?;
                let forward = self.student.forward(r, standard, self.samples.y)?;
                let gradient = self.student.gradient_g(r, &forward, standard)?;
                // The step of the matrix that acts on raw inputs, G diag(1/sd).
                let out = r.scratch("bn.direction", gradient.shape())?;
                r.record(scaled(gradient, out))?;
                Ok(out)
            }
        }
    }
}

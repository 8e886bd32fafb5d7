//! What is recorded: one step, then ridge heads on the features before and after it.

use super::OneStepRidge;
use crate::error::Result;
use crate::feature_learning::link::Link;
use crate::feature_learning::single_index::problem::task;
use crate::feature_learning::single_index::student::reciprocal;
use crate::feature_learning::single_index::{Problem, Samples, Student};
use crate::linalg::spd_solve;
use crate::plan::{Activation, Axpby, Cholesky, Coef, Gemm, KronFactor, Recorder, Reduce, ReduceKind, SolveTriangular, Value};
use crate::tensor::Shape;

/// Columns of one trial in a log row: validation error, test error, whether the factorization succeeded.
pub(super) const COLUMNS: usize = 3;

/// A recorded run and its values, for looking at them after it.
#[derive(Clone, Debug)]
pub struct Heads {
    /// Targets and covariances.
    pub problem: Problem,
    /// Samples of the step.
    pub step: Samples,
    /// Fresh samples: those the head is fitted on, validation, test.
    pub fresh: [Samples; 3],
    /// Initial weights.
    pub student: Student,
    /// Ridge strengths, `[ridges, 1, 1]`.
    pub(super) ridges: Value,
    /// `[items * ridges, 1, COLUMNS * trials]`.
    pub(super) log: Value,
}

/// Buffers that all trials use one after another.
struct Work {
    /// `sigma(G X^T)` of fit, validation and test samples, `[items, dh, n]`.
    features: [Value; 3],
    gram: Value,
    cross: Value,
    factor: Value,
    half: Value,
    head: Value,
    /// Errors on validation and test samples, `[items * ridges, 1, n]`.
    errors: [Value; 2],
}

impl Work {
    fn new(r: &mut Recorder, name: &str, items: usize, ridges: usize, width: usize, samples: [usize; 3]) -> Result<Self> {
        let mut scratch =
            |part: &str, batch: usize, rows: usize, cols: usize| r.scratch(format!("{name}.{part}"), Shape::new(batch, rows, cols));
        Ok(Work {
            features: [
                scratch("fit", items, width, samples[0])?,
                scratch("validation", items, width, samples[1])?,
                scratch("test", items, width, samples[2])?,
            ],
            gram: scratch("gram", items, width, width)?,
            cross: scratch("cross", items, width, 1)?,
            factor: scratch("factor", items * ridges, width, width)?,
            half: scratch("half", items * ridges, width, 1)?,
            head: scratch("head", items * ridges, width, 1)?,
            errors: [scratch("errors.validation", items * ridges, 1, samples[1])?, scratch("errors.test", items * ridges, 1, samples[2])?],
        })
    }
}

impl Heads {
    /// Records everything for `items` data items.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "rounding to the device's element type is the purpose")]
    pub(super) fn record(r: &mut Recorder, config: &OneStepRidge, items: usize) -> Result<Self> {
        let mut problem = Problem::declare(r, config.setting(), items)?;
        let step = problem.draw(r, "step", task::STEP, config.step_samples)?;
        let samples = [config.fit_samples, config.validation_samples, config.test_samples];
        let mut fresh = |name: &str, task: u32, n: usize| problem.draw(r, name, task, n);
        let fresh = [
            fresh("fit", task::FIT, samples[0])?,
            fresh("validation", task::VALIDATION, samples[1])?,
            fresh("test", task::TEST, samples[2])?,
        ];
        let (g, f) = problem.weights(r, config.hidden)?;
        let student = Student::new(config.student, g, f)?;
        let ridges = r.external("ridges", Shape::new(config.ridges.len(), 1, 1))?;
        let trials = config.features().len();
        let log = r.state("log", Shape::new(items * config.ridges.len(), 1, COLUMNS * trials))?;
        let heads = Heads { problem, step, fresh, student, ridges, log };

        let width = config.hidden as f64;
        let (count, mut trial) = (config.ridges.len(), 0);
        let linear = Work::new(r, "linear", items, count, config.d_x, samples)?;
        for (sample, features) in heads.fresh.iter().zip(linear.features) {
            r.copy(sample.x.t(), features)?;
        }
        heads.fit(r, &linear, 1.0, &mut trial)?;

        let work = Work::new(r, "features", items, count, config.hidden, samples)?;
        let layers = |r: &mut Recorder, name: &str| -> Result<[Value; 3]> {
            let mut layer = |part: usize, n: usize| r.scratch(format!("{name}.{part}"), Shape::new(items, config.hidden, n));
            Ok([layer(0, samples[0])?, layer(1, samples[1])?, layer(2, samples[2])?])
        };
        let (initial, moved) = (layers(r, "initial")?, layers(r, "moved")?);
        for ((sample, &out), features) in heads.fresh.iter().zip(&initial).zip(work.features) {
            r.record(Gemm::new(g, sample.x.t(), out))?;
            r.record(Activation::new(config.student, out, features))?;
        }
        heads.fit(r, &work, width, &mut trial)?;

        let forward = student.forward(r, heads.step.x, heads.step.y)?;
        let gradient = student.gradient_g(r, &forward, heads.step.x)?;
        let mut directions = vec![gradient];
        if !config.dampings.is_empty() {
            let covariance = r.kron_factor(heads.step.x)?;
            for &lambda in &config.dampings {
                directions.push(spd_solve(r, covariance, gradient.t(), lambda as f32, None)?.0.t());
            }
        }
        for direction in directions {
            // Dense, for the product with the root.
            let dense = r.scratch("direction", gradient.shape())?;
            r.copy(direction, dense)?;
            let change = heads.problem.times_root(r, dense)?;
            let square = r.reduce(ReduceKind::SumSq, 1.0, change)?;
            let inverse = r.quotient(1.0, None, square, true)?;
            for (sample, &out) in heads.fresh.iter().zip(&moved) {
                r.record(Gemm::new(dense, sample.x.t(), out))?;
            }
            for &size in &config.sizes {
                // Downhill, so that the root mean square change of a pre-activation is `size`.
                let alpha = Coef::Column { column: 0, scale: -(size * width.sqrt()) as f32 };
                for ((&start, &moved), out) in initial.iter().zip(&moved).zip(work.features) {
                    r.record(Axpby { alpha, block: Some(inverse), ..Axpby::add(moved, start, out) })?;
                    r.record(Activation::new(config.student, out, out))?;
                }
                heads.fit(r, &work, width, &mut trial)?;
            }
        }
        Ok(heads)
    }

    /// Heads for all ridge strengths on what stands in `work.features`, whose entries count divided by `sqrt(width)`, and their errors.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "rounding to the device's element type is the purpose")]
    fn fit(&self, r: &mut Recorder, work: &Work, width: f64, trial: &mut usize) -> Result<()> {
        let (items, ridges) = (work.gram.items(), self.ridges.items());
        let [fit, ..] = work.features;
        let n = fit.cols() as f64;
        r.record(KronFactor { scale: reciprocal(width), ..KronFactor::new(fit.t(), work.gram) })?;
        let alpha = Coef::Const(reciprocal(n * width.sqrt()));
        r.record(Gemm { alpha, ..Gemm::new(fit, self.fresh[0].y.t(), work.cross) })?;
        let cell = |column: usize| self.log.col_range(COLUMNS * *trial + column..COLUMNS * *trial + column + 1);
        let (a, block) = (work.gram.repeat(ridges, items)?, Some(self.ridges.repeat(1, ridges)?));
        r.record(Cholesky { a, out: work.factor, damping: Coef::column(0), block, ok: cell(2)? })?;
        let b = Some(work.cross.repeat(ridges, items)?);
        r.record(SolveTriangular { l: work.factor, b, out: work.half, transpose: false })?;
        r.record(SolveTriangular { l: work.factor, b: Some(work.half), out: work.head, transpose: true })?;
        // A product for each strength, not one for all of them: results do not depend on how many there are.
        let targets = [self.fresh[1].y, self.fresh[2].clean];
        for (i, ((&features, out), target)) in work.features[1..].iter().zip(work.errors).zip(targets).enumerate() {
            let alpha = Coef::Const(reciprocal(width.sqrt()));
            let (features, d) = (features.repeat(ridges, items)?, Some(target.repeat(ridges, items)?));
            r.record(Gemm { d, alpha, beta: Coef::Const(-1.0), ..Gemm::new(work.head.t(), features, out) })?;
            let scale = reciprocal(features.cols() as f64);
            r.record(Reduce { kind: ReduceKind::SumSq, x: out, y: None, out: cell(i)?, scale })?;
        }
        *trial += 1;
        Ok(())
    }
}

/// The floor of every linear model, `c_{*>1}^2`, of a centred teacher.
pub fn linear_floor(teacher: Link) -> f64 {
    teacher.moments().nonlinear()
}

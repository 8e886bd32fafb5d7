//! Population dynamics: the linear model with infinitely many samples a step, so that what is left is the geometry of the update rule.
//!
//! `dL/dG = F^T (F G - M_*) Sigma` needs no sampling: the rows of `sqrt(dX) Sigma^{1/2}`, taken as dX samples without noise, have the second moment `Sigma`
//! itself, so a [`Scheme`] stepping on them takes its population step, exactly up to rounding. Every (covariance, head, learning rate) is a trial of one batched
//! plan. The distance to the target is measured at every step on the device, into a history that is read once in [`WINDOW`] steps.
//!
//! What to hold it against: [`kfac_contraction`](super::theory::kfac_contraction) and [`AmgdModes`].

use faer::Mat;

use super::experiment::{RateSchedule, block_row};
use super::method::Method;
use super::metrics::subspace_distance;
use super::scheme::{Damping, Initial, Scheme, Sizes};
use super::teacher::{Side, Teacher};
use super::theory::AmgdModes;
use super::two_layer::Batch;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::linalg::orthonormalise;
use crate::plan::{Axpby, Gemm, OPERATOR_NORM_MAX, Recorder, Value};
use crate::prepared::{Bindings, Prepared};
use crate::tensor::{Shape, Tensor};

/// Steps between two readings of the distances.
pub const WINDOW: usize = 256;

/// Steps in one submission.
const STEPS_PER_SUBMISSION: usize = 16;

/// Segment that measures the start.
const START: usize = 0;
/// Segment of one step and its measurement.
const STEP: usize = 1;

/// Where `G` starts; `F` starts at the target's head `F_*`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// The teacher's initial head and representation: a general start.
    Drawn,
    /// `qr_rows(G_* + eps u v^T)` at this distance from the target, `eps = distance/sqrt(1 - distance^2)`: all of the error on the weakest mode, `u` and `v` the
    /// eigenvectors of `F^T F` and of the conditional covariance for their smallest eigenvalues ([`AmgdModes`]).
    WeakestMode(f64),
}

/// Population dynamics of every covariance with every head. The defaults are ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Population {
    /// Inputs; default 50.
    pub d_x: usize,
    /// Outputs; default 15.
    pub d_y: usize,
    /// Hidden units; default 5.
    pub k: usize,
    /// Condition numbers of the log-spaced input covariance; default 1, 10, 100.
    pub kappas: Vec<f64>,
    /// Ratios of the largest to the smallest singular value of `F_*`; default 1, 3, 10.
    pub head_conditions: Vec<f64>,
    /// Haar eigenvectors of the covariance, axis-aligned otherwise; default true.
    pub rotated: bool,
    /// Seed of the target; default 0.
    pub seed: u32,
    /// Default the weakest mode at distance 0.5.
    pub start: Start,
    /// Distance at which a trial has arrived; default 1e-3.
    pub threshold: f64,
    /// Steps after which to give up; default 40 000.
    pub max_steps: usize,
}

impl Default for Population {
    fn default() -> Self {
        Population {
            d_x: 50,
            d_y: 15,
            k: 5,
            kappas: vec![1.0, 10.0, 100.0],
            head_conditions: vec![1.0, 3.0, 10.0],
            rotated: true,
            seed: 0,
            start: Start::WeakestMode(0.5),
            threshold: 1e-3,
            max_steps: 40_000,
        }
    }
}

/// One covariance with one head, and its modes.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Condition number of the input covariance.
    pub kappa: f64,
    /// Ratio of the singular values of the head.
    pub head_condition: f64,
    /// What AMGD's rates follow from.
    pub modes: AmgdModes,
    teacher: Teacher,
}

/// One trial: the distance at every step from 0 on.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// Index into [`Population::problems`].
    pub problem: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// Subspace distance before the first step, after it, and so on.
    pub distances: Vec<f64>,
}

impl Trajectory {
    /// The first step after which the distance is at most `threshold`.
    pub fn arrival(&self, threshold: f64) -> Option<usize> {
        self.distances.iter().position(|d| *d <= threshold)
    }

    /// Geometric mean of the factor by which a step changes the distance, from step `first` to step `last`; NaN unless `first < last` and both were taken.
    #[allow(clippy::cast_precision_loss, reason = "step counts are far below 2^52")]
    pub fn mean_rate(&self, first: usize, last: usize) -> f64 {
        match (self.distances.get(first), self.distances.get(last)) {
            (Some(a), Some(b)) if first < last => (b / a).powf(1.0 / (last - first) as f64),
            _ => f64::NAN,
        }
    }
}

fn refuse<T>(field: &'static str, found: String, allowed: &'static str) -> Result<T> {
    Err(Error::Config { method: "Population", field, found, allowed })
}

impl Population {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field outside its range.
    pub fn validate(&self) -> Result<()> {
        let conditions = |list: &[f64]| !list.is_empty() && list.iter().all(|x| x.is_finite() && *x >= 1.0);
        if self.k < 1 || self.k >= self.d_x || self.k > OPERATOR_NORM_MAX {
            return refuse("k", self.k.to_string(), "1 to min(d_x - 1, 48)");
        }
        if self.d_y < self.k {
            return refuse("d_y", self.d_y.to_string(), "at least k");
        }
        for (field, list) in [("kappas", &self.kappas), ("head_conditions", &self.head_conditions)] {
            if !conditions(list) {
                return refuse(field, format!("{list:?}"), "one or more, finite, at least 1");
            }
        }
        if let Start::WeakestMode(distance) = self.start
            && !(distance > 0.0 && distance < 1.0)
        {
            return refuse("start", distance.to_string(), "a distance between 0 and 1");
        }
        if !(self.threshold > 0.0 && self.threshold < 1.0) {
            return refuse("threshold", self.threshold.to_string(), "between 0 and 1");
        }
        if self.max_steps < 1 {
            return refuse("max_steps", self.max_steps.to_string(), "at least 1");
        }
        Ok(())
    }

    /// Every covariance (outer) with every head (inner), all around one target subspace.
    ///
    /// # Errors
    /// As [`validate`](Self::validate) and [`AmgdModes::new`].
    pub fn problems(&self) -> Result<Vec<Problem>> {
        self.validate()?;
        let mut problems = Vec::new();
        for &kappa in &self.kappas {
            for &head_condition in &self.head_conditions {
                let teacher = Teacher::draw(self.seed, self.d_x, self.d_y, self.k, Some(head_condition));
                let modes = AmgdModes::new(&teacher, Side::Train, kappa, self.rotated)?;
                problems.push(Problem { kappa, head_condition, modes, teacher });
            }
        }
        Ok(problems)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
fn row_major(x: &Mat<f64>) -> impl Iterator<Item = f32> {
    (0..x.nrows()).flat_map(move |r| (0..x.ncols()).map(move |c| x[(r, c)] as f32))
}

/// What a problem is on the device, row-major.
struct Arrays {
    x: Vec<f32>,
    y: Vec<f32>,
    f: Vec<f32>,
    g: Vec<f32>,
    reference: Vec<f32>,
}

impl Arrays {
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
    fn new(config: &Population, problem: &Problem) -> Self {
        let teacher = &problem.teacher;
        let (f, target) = (teacher.head_f64(Side::Train), teacher.representation_f64());
        let scale = (config.d_x as f64).sqrt();
        let root = teacher.covariance_root_f64(Side::Train, problem.kappa, config.rotated);
        let x = Mat::from_fn(config.d_x, config.d_x, |r, c| scale * root[(r, c)]);
        let y = &x * (f * target).transpose();
        let (f, g) = match config.start {
            Start::Drawn => (teacher.initial_head(), teacher.initial_representation()),
            Start::WeakestMode(distance) => {
                // The rotation that turns u^T G_* towards v leaves the rows orthonormal: no factorization is needed.
                let (u, v) = (&problem.modes.weakest_head, &problem.modes.weakest_input);
                let shrink = 1.0 - (1.0 - distance * distance).sqrt();
                let row: Vec<f64> = (0..config.d_x).map(|c| (0..config.k).map(|i| u[i] * target[(i, c)]).sum()).collect();
                let start = Mat::from_fn(config.k, config.d_x, |r, c| target[(r, c)] + u[r] * (distance * v[c] - shrink * row[c]));
                (row_major(f).collect(), row_major(&start).collect())
            }
        };
        Arrays { x: row_major(&x).collect(), y: row_major(&y).collect(), f, g, reference: row_major(target).collect() }
    }
}

/// A recorded run on the device.
struct Running {
    prepared: Prepared,
    g: Tensor,
    history: Tensor,
    trials: usize,
}

/// Measures the distance of every trial into the slot that `register` points at, then moves it on by one.
fn measure(r: &mut Recorder, g: Value, reference: Value, sharing: usize, register: Value, history: Value) -> Result<()> {
    let (basis, _) = orthonormalise(r, g)?;
    let distance = r.scratch("distance", Shape::new(g.items(), 1, 1))?;
    subspace_distance(r, basis, reference.repeat(sharing, reference.items())?, distance)?;
    let slot = r.scratch("slot", history.shape())?;
    r.record(Gemm::new(distance, register.repeat(g.items(), 1)?, slot))?;
    r.record(Axpby { y: Some(history), ..Axpby::copy(slot, history) })?;
    let next = r.scratch("next_slot", register.shape())?;
    let last = WINDOW - 1;
    r.record(Axpby::copy(register.col_range(last..WINDOW)?, next.col_range(0..1)?))?;
    r.record(Axpby::copy(register.col_range(0..last)?, next.col_range(1..WINDOW)?))?;
    r.record(Axpby::copy(next, register))
}

impl Running {
    fn new(context: &Context, config: &Population, problems: &[Problem], method: Method, rates: &[Vec<f64>]) -> Result<Self> {
        let sharing = rates.first().map_or(0, Vec::len);
        let fits = rates.len() == problems.len() && sharing > 0 && rates.iter().all(|list| list.len() == sharing);
        if !fits || rates.iter().flatten().any(|x| !x.is_finite() || *x <= 0.0) {
            return refuse("learning_rates", format!("{rates:?}"), "for each problem equally many, finite and positive");
        }
        let sizes = Sizes { data: problems.len(), sharing, d_x: config.d_x, d_y: config.d_y, k: config.k };
        let mut r = Recorder::new();
        let x = r.external("x", Shape::new(sizes.data, config.d_x, config.d_x))?;
        let y = r.external("y", Shape::new(sizes.data, config.d_x, config.d_y))?;
        let reference = r.external("reference", Shape::new(sizes.data, config.k, config.d_x))?;
        let register = r.state("register", Shape::new(1, 1, WINDOW))?;
        let history = r.state("history", Shape::new(sizes.trials(), 1, WINDOW))?;
        let undamped = Damping { inputs: 0.0, hidden: 0.0, dense: 0.0, decay: 0.0 };
        let scheme = Scheme::declare(&mut r, method, sizes, undamped)?;
        if !scheme.trained().is_empty() {
            return refuse("method", method.to_string(), "one whose step is recorded as a whole: amgd, dfw, kfac, kfac_ls, foof");
        }
        r.segment("start");
        measure(&mut r, scheme.model.g, reference, sharing, register, history)?;
        r.segment("step");
        scheme.record(&mut r, &Batch { x, y }, true)?;
        measure(&mut r, scheme.model.g, reference, sharing, register, history)?;
        let plan = r.finish();

        let arrays: Vec<Arrays> = problems.iter().map(|problem| Arrays::new(config, problem)).collect();
        let data = |part: fn(&Arrays) -> &[f32]| arrays.iter().flat_map(|a| part(a).iter().copied()).collect::<Vec<f32>>();
        let each = |part: fn(&Arrays) -> &[f32]| arrays.iter().flat_map(|a| part(a).repeat(sharing)).collect::<Vec<f32>>();
        let mut bindings = Bindings::new();
        bindings.bind(x, &context.upload(x.shape(), &data(|a| &a.x))?);
        bindings.bind(y, &context.upload(y.shape(), &data(|a| &a.y))?);
        bindings.bind(reference, &context.upload(reference.shape(), &data(|a| &a.reference))?);
        let (history_tensor, register_tensor) = (context.zeros(history.shape())?, context.zeros(register.shape())?);
        bindings.bind(history, &history_tensor);
        bindings.bind(register, &register_tensor);
        let mut weights = None;
        for &(value, initial) in &scheme.state {
            let shape = value.shape();
            let tensor = match initial {
                Initial::Zeros => context.zeros(shape)?,
                Initial::Ones => context.upload(shape, &vec![1.0; shape.elements()])?,
                Initial::Head => context.upload(shape, &each(|a| &a.f))?,
                Initial::Representation => context.upload(shape, &each(|a| &a.g))?,
                Initial::Block => {
                    let rows = rates.iter().flatten().flat_map(|&rate| block_row(rate, RateSchedule::Constant, 1));
                    context.upload(shape, &rows.collect::<Vec<f32>>())?
                }
            };
            bindings.bind(value, &tensor);
            if initial == Initial::Representation {
                weights = Some(tensor);
            }
        }
        let prepared = context.prepare(&plan, &bindings)?;
        let g = weights.ok_or_else(|| Error::Binding { value: "G".into(), reason: "the scheme has no representation".into() })?;
        let mut first = vec![0.0; WINDOW];
        first[0] = 1.0;
        register_tensor.write(&first)?;
        Ok(Running { prepared, g, history: history_tensor, trials: sizes.trials() })
    }
}

/// Steps every problem at every one of its learning rates (`learning_rates[problem]`, equally many for each) until each problem has a trial that arrived, or for
/// `max_steps`. Trajectories come problem by problem, learning rate by learning rate; all have the same length, whole windows of [`WINDOW`] measurements.
///
/// `progress` is called with the steps done, once a window.
///
/// # Errors
/// As [`Population::problems`]; [`Error::Config`] for learning rates that do not fit or a method that an [`Optimizer`](crate::optim::Optimizer) trains;
/// and what [`Context::prepare`] and [`Prepared::run`] return.
pub fn run(
    context: &Context,
    config: &Population,
    method: Method,
    learning_rates: &[Vec<f64>],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Trajectory>> {
    let problems = config.problems()?;
    let mut running = Running::new(context, config, &problems, method, learning_rates)?;
    let sharing = running.trials / problems.len();
    let mut trajectories: Vec<Trajectory> = (0..running.trials)
        .map(|t| Trajectory { problem: t / sharing, learning_rate: learning_rates[t / sharing][t % sharing], distances: Vec::new() })
        .collect();
    running.prepared.run(&[START])?;
    let (mut measured, mut steps) = (1, 0);
    loop {
        while measured < WINDOW {
            let now = (WINDOW - measured).min(STEPS_PER_SUBMISSION);
            running.prepared.run(&[STEP; STEPS_PER_SUBMISSION][..now])?;
            measured += now;
            steps += now;
        }
        let rows = running.history.read()?;
        for (trajectory, row) in trajectories.iter_mut().zip(rows.chunks_exact(WINDOW)) {
            trajectory.distances.extend(row.iter().map(|&d| f64::from(d)));
        }
        progress(steps);
        let arrived = |group: &[Trajectory]| group.iter().any(|t| t.arrival(config.threshold).is_some());
        if steps >= config.max_steps || trajectories.chunks(sharing).all(arrived) {
            return Ok(trajectories);
        }
        // The register went round once: it points at the first slot again.
        running.history.write(&vec![0.0; rows.len()])?;
        measured = 0;
    }
}

/// How exactly one KFAC step multiplies the part of `G` off the target subspace by `1 - eta`, at one learning rate for all problems: for each problem
/// `max |G_+ P_perp - (1 - eta) G P_perp| / max |G_+|`, evaluated in f64 from the weights before and after.
///
/// # Errors
/// As [`run`].
pub fn kfac_step_error(context: &Context, config: &Population, learning_rate: f64) -> Result<Vec<f64>> {
    let problems = config.problems()?;
    let mut running = Running::new(context, config, &problems, Method::Kfac, &vec![vec![learning_rate]; problems.len()])?;
    let before = running.g.read()?;
    running.prepared.run(&[STEP])?;
    let after = running.g.read()?;
    let (k, d) = (config.k, config.d_x);
    let off = |rows: &[f32], target: &Mat<f64>| {
        let g = Mat::from_fn(k, d, |r, c| f64::from(rows[r * d + c]));
        &g - &(&(&g * target.transpose()) * target)
    };
    let largest = |values: &mut dyn Iterator<Item = f64>| {
        values.fold(0.0f64, |a, v| if a.is_nan() || v.is_nan() { f64::NAN } else { a.max(v.abs()) })
    };
    Ok(problems
        .iter()
        .enumerate()
        .map(|(i, problem)| {
            let (old, new) = (&before[i * k * d..][..k * d], &after[i * k * d..][..k * d]);
            let target = problem.teacher.representation_f64();
            let (was, is) = (off(old, target), off(new, target));
            let kept = super::theory::kfac_contraction(learning_rate);
            let error = largest(&mut (0..k * d).map(|e| is[(e / d, e % d)] - kept * was[(e / d, e % d)]));
            error / largest(&mut new.iter().map(|&v| f64::from(v)))
        })
        .collect())
}

//! Linear representation learning: all trials of one method as one batched run.

use super::data::{TRAIN, TRANSFER, Task};
use super::method::Method;
use super::metrics::{self, Measurement};
use super::scheme::{Damping, Initial, Scheme, Sizes};
use super::teacher::{Side, Teacher};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::plan::block::{BETA1, BETA2, DECAY_STEPS, EPSILON, LEARNING_RATE, ONE_MINUS_BETA1, ONE_MINUS_BETA2, RIDGE, SCHEDULE, WIDTH};
use crate::plan::{Axpby, Coef, OPERATOR_NORM_MAX, Plan, Recorder, Role, Value};
use crate::prepared::{Bindings, Prepared};
use crate::tensor::{Shape, Tensor};

/// Segment that draws the transfer samples, once.
const SAMPLE: usize = 0;
/// Segment of one training step.
const STEP: usize = 1;
/// Segment that fills the log.
const LOG: usize = 2;

/// Steps in one submission: enough to hide its cost, few enough for progress reports and drivers' watchdogs.
const STEPS_PER_SUBMISSION: usize = 16;

/// How the learning rate changes over a run. Evaluated on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateSchedule {
    /// Always the base rate.
    Constant,
    /// `1 - t/T` of the base rate at step t of T (from 0).
    Linear,
}

impl RateSchedule {
    /// The name in tables, files and flags.
    pub fn name(self) -> &'static str {
        match self {
            RateSchedule::Constant => "constant",
            RateSchedule::Linear => "linear",
        }
    }
}

/// When metrics are logged, beside step 0 and the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPoints {
    /// This many steps, log-spaced and distinct (all steps where there are fewer).
    LogSpaced(usize),
    /// Every so many steps.
    Every(usize),
}

/// Online linear representation learning, `y = F_* G_* x + eps`, fresh data at every step.
///
/// All defaults are ours: the paper's settings were not available.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearRepresentation {
    /// Inputs; default 100.
    pub d_x: usize,
    /// Outputs; default 15.
    pub d_y: usize,
    /// Hidden units; default 8.
    pub k: usize,
    /// Samples per step; default 1024.
    pub batch: usize,
    /// Samples of the transfer task on which the transfer head is fitted; default 1024.
    pub transfer_samples: usize,
    /// Steps; default 1000.
    pub steps: usize,
    /// Condition numbers of both input covariances; default 1, 100, 1000.
    pub kappas: Vec<f64>,
    /// Haar eigenvectors, drawn independently for train and transfer; axis-aligned otherwise. Default true.
    pub rotated: bool,
    /// Seeds; default 3.
    pub seeds: usize,
    /// The first seed, the others follow; default 0.
    pub first_seed: u32,
    /// Standard deviation of the label noise on both tasks; default 0.1.
    pub noise: f64,
    /// Singular values of `F_*` log-spaced with this ratio instead of a Gaussian `F_*`; default none.
    pub head_condition: Option<f64>,
    /// Learning-rate schedule; default constant.
    pub schedule: RateSchedule,
    /// Damping of the preconditioned methods.
    pub damping: Damping,
    /// Default 30 log-spaced points.
    pub log_points: LogPoints,
}

impl Default for LinearRepresentation {
    fn default() -> Self {
        LinearRepresentation {
            d_x: 100,
            d_y: 15,
            k: 8,
            batch: 1024,
            transfer_samples: 1024,
            steps: 1000,
            kappas: vec![1.0, 100.0, 1000.0],
            rotated: true,
            seeds: 3,
            first_seed: 0,
            noise: 0.1,
            head_condition: None,
            schedule: RateSchedule::Constant,
            damping: Damping::default(),
            log_points: LogPoints::LogSpaced(30),
        }
    }
}

/// One trial at one log point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// The method.
    pub method: Method,
    /// Condition number of the covariances.
    pub kappa: f64,
    /// Haar or axis-aligned covariance.
    pub rotated: bool,
    /// Learning-rate schedule.
    pub schedule: RateSchedule,
    /// Seed.
    pub seed: u32,
    /// Base learning rate.
    pub learning_rate: f64,
    /// Steps done.
    pub step: usize,
    /// Metrics.
    pub measured: Measurement,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps handed to the device.
    pub steps_done: usize,
    /// Steps in all.
    pub steps: usize,
    /// Trials that make each step.
    pub trials: usize,
}

impl LinearRepresentation {
    /// Steps at which metrics are logged, from 0 to the last, increasing.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "step counts are far below 2^52"
    )]
    pub fn log_steps(&self) -> Vec<usize> {
        let mut steps = vec![0];
        match self.log_points {
            LogPoints::Every(period) => steps.extend((1..self.steps).filter(|t| t.is_multiple_of(period.max(1)))),
            LogPoints::LogSpaced(points) => {
                let mut last = 0;
                for i in 0..points {
                    let exact = (self.steps as f64).powf(i as f64 / (points.max(2) - 1) as f64);
                    last = (exact.round() as usize).max(last + 1);
                    if last < self.steps {
                        steps.push(last);
                    }
                }
            }
        }
        steps.push(self.steps);
        steps
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field outside its range.
    pub fn validate(&self) -> Result<()> {
        let seeds_fit = u32::try_from(self.seeds).is_ok_and(|n| self.first_seed.checked_add(n).is_some());
        let condition = self.head_condition.unwrap_or(1.0);
        let damped = [self.damping.inputs, self.damping.hidden].iter().all(|x| x.is_finite() && *x >= 0.0);
        let spectra = self.kappas.iter().all(|k| k.is_finite() && *k >= 1.0);
        let checks = [
            (self.k >= 1 && self.k <= self.d_x && self.k <= OPERATOR_NORM_MAX, "k", self.k.to_string(), "1 to min(d_x, 48)"),
            (self.d_y >= self.k, "d_y", self.d_y.to_string(), "at least k"),
            (self.batch >= 2 * self.k, "batch", self.batch.to_string(), "at least 2 k"),
            (self.transfer_samples >= self.k, "transfer_samples", self.transfer_samples.to_string(), "at least k"),
            (self.steps >= 1 && self.steps < 1 << 24, "steps", self.steps.to_string(), "1 to 2^24 - 1"),
            (!self.kappas.is_empty() && spectra, "kappas", format!("{:?}", self.kappas), "one or more, finite, at least 1"),
            (self.seeds >= 1, "seeds", self.seeds.to_string(), "at least 1"),
            (seeds_fit, "first_seed", self.first_seed.to_string(), "below 2^32 - seeds"),
            (self.noise.is_finite() && self.noise >= 0.0, "noise", self.noise.to_string(), "finite, at least 0"),
            (condition.is_finite() && condition >= 1.0, "head_condition", condition.to_string(), "finite, at least 1"),
            (damped, "damping", format!("{:?}", self.damping), "finite, at least 0"),
        ];
        match checks.into_iter().find(|c| !c.0) {
            Some((_, field, found, allowed)) => Err(Error::Config { method: "LinearRepresentation", field, found, allowed }),
            None => Ok(()),
        }
    }
}

/// A recorded run.
struct Recorded {
    plan: Plan,
    scheme: Scheme,
    inputs: Vec<(Value, Input)>,
    log: Value,
}

/// What is bound beside the scheme's state.
#[derive(Clone, Copy)]
enum Input {
    Root(Side),
    Target(Side),
    Keys(u32),
    Reference,
    Zeros,
}

fn record(config: &LinearRepresentation, method: Method, rates: usize) -> Result<Recorded> {
    let sizes = Sizes { data: config.kappas.len() * config.seeds, sharing: rates, d_x: config.d_x, d_y: config.d_y, k: config.k };
    let (data, seeds, trials) = (sizes.data, config.seeds, sizes.trials());
    let mut r = Recorder::new();
    let mut inputs = Vec::new();
    let mut task = |r: &mut Recorder, side: Side, key: u32, name: &str| -> Result<Task> {
        let root = r.external(format!("{name}.root"), Shape::new(data, config.d_x, config.d_x))?;
        let target = r.external(format!("{name}.target"), Shape::new(seeds, config.d_y, config.d_x))?;
        let keys = r.external(format!("{name}.keys"), Shape::new(seeds, 1, 2))?;
        let step = r.state(format!("{name}.step"), Shape::new(1, 1, 1))?;
        inputs.extend([(root, Input::Root(side)), (target, Input::Target(side)), (keys, Input::Keys(key)), (step, Input::Zeros)]);
        #[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
        Ok(Task { root, target, keys, step, noise: config.noise as f32 })
    };
    let train = task(&mut r, Side::Train, TRAIN, "train")?;
    let transfer = task(&mut r, Side::Transfer, TRANSFER, "transfer")?;
    let reference = r.external("reference", Shape::new(seeds, config.k, config.d_x))?;
    let log = r.state("log", Shape::new(trials, 1, metrics::COLUMNS))?;
    inputs.extend([(reference, Input::Reference), (log, Input::Zeros)]);
    let scheme = Scheme::declare(&mut r, method, sizes, config.damping)?;

    r.segment("sample");
    let samples = transfer.draw(&mut r, "transfer", config.transfer_samples, Role::State)?;
    inputs.extend([(samples.x, Input::Zeros), (samples.y.t(), Input::Zeros)]);
    r.segment("step");
    let batch = train.draw(&mut r, "train", config.batch, Role::Scratch)?;
    scheme.record(&mut r, &batch)?;
    r.record(Axpby { x: None, y: Some(train.step), out: train.step, gamma: Coef::Const(1.0), ..Axpby::copy(train.step, train.step) })?;
    r.segment("log");
    metrics::record(&mut r, &scheme, &train, &transfer, &samples, reference, log)?;
    Ok(Recorded { plan: r.finish(), scheme, inputs, log })
}

/// The plan of a run, for printing and counting: segments `sample`, `step` and `log`.
///
/// # Errors
/// As [`run`].
pub fn plan(config: &LinearRepresentation, method: Method, learning_rates: &[f64]) -> Result<Plan> {
    config.validate()?;
    check_rates(learning_rates)?;
    Ok(record(config, method, learning_rates.len())?.plan)
}

fn check_rates(rates: &[f64]) -> Result<()> {
    if rates.is_empty() || rates.iter().any(|x| !x.is_finite() || *x <= 0.0) {
        return Err(Error::Config {
            method: "run",
            field: "learning_rates",
            found: format!("{rates:?}"),
            allowed: "one or more, finite and positive",
        });
    }
    Ok(())
}

/// Hyper-parameter row of one trial.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "rounding to the device's element type is the purpose")]
pub fn block_row(learning_rate: f64, schedule: RateSchedule, steps: usize) -> [f32; WIDTH] {
    let mut row = [0.0; WIDTH];
    let (beta1, beta2) = (0.9f64, 0.999f64);
    for (column, value) in [
        (LEARNING_RATE, learning_rate),
        (SCHEDULE, if schedule == RateSchedule::Linear { 1.0 } else { 0.0 }),
        (DECAY_STEPS, steps as f64),
        (BETA1, beta1),
        (ONE_MINUS_BETA1, 1.0 - beta1),
        (BETA2, beta2),
        (ONE_MINUS_BETA2, 1.0 - beta2),
        (EPSILON, 1e-8),
        (RIDGE, 1.0),
    ] {
        row[column as usize] = value as f32;
    }
    row
}

fn prepare(context: &Context, config: &LinearRepresentation, recorded: &Recorded, rates: &[f64]) -> Result<(Prepared, Tensor)> {
    let teachers: Vec<(u32, Teacher)> = (config.first_seed..)
        .take(config.seeds)
        .map(|seed| (seed, Teacher::draw(seed, config.d_x, config.d_y, config.k, config.head_condition)))
        .collect();
    let per_seed = |f: &dyn Fn(u32, &Teacher) -> Vec<f32>| teachers.iter().flat_map(|(seed, t)| f(*seed, t)).collect::<Vec<f32>>();
    let per_trial = |f: &dyn Fn(&Teacher) -> Vec<f32>| {
        config.kappas.iter().flat_map(|_| teachers.iter()).flat_map(|(_, t)| f(t).repeat(rates.len())).collect::<Vec<f32>>()
    };
    let mut bindings = Bindings::new();
    let shape = |value: Value| recorded.plan.info(value).map_or(value.shape(), |info| info.shape);
    for &(value, input) in &recorded.inputs {
        let tensor = match input {
            Input::Zeros => context.zeros(shape(value))?,
            Input::Root(side) => {
                let roots: Vec<f32> =
                    config.kappas.iter().flat_map(|&kappa| per_seed(&|_, t| t.covariance_root(side, kappa, config.rotated))).collect();
                context.upload(shape(value), &roots)?
            }
            Input::Target(side) => context.upload(shape(value), &per_seed(&|_, t| t.target(side)))?,
            Input::Keys(task) => context.upload(shape(value), &per_seed(&|seed, _| vec![f32::from_bits(seed), f32::from_bits(task)]))?,
            Input::Reference => context.upload(shape(value), &per_seed(&|_, t| t.representation()))?,
        };
        bindings.bind(value, &tensor);
    }
    let rows: Vec<f32> = rates.iter().flat_map(|&rate| block_row(rate, config.schedule, config.steps)).collect();
    for &(value, initial) in &recorded.scheme.state {
        let shape = shape(value);
        let tensor = match initial {
            Initial::Zeros => context.zeros(shape)?,
            Initial::Identity => {
                let identity = (0..shape.elements()).map(|i| if i % (shape.rows * shape.cols) % (shape.cols + 1) == 0 { 1.0 } else { 0.0 });
                context.upload(shape, &identity.collect::<Vec<f32>>())?
            }
            Initial::Head => context.upload(shape, &per_trial(&Teacher::initial_head))?,
            Initial::Representation => context.upload(shape, &per_trial(&Teacher::initial_representation))?,
            Initial::Block => context.upload(shape, &rows.repeat(config.kappas.len() * config.seeds))?,
        };
        bindings.bind(value, &tensor);
    }
    let prepared = context.prepare(&recorded.plan, &bindings)?;
    let log =
        prepared.tensor(recorded.log).cloned().ok_or_else(|| Error::Binding { value: "log".into(), reason: "it was not bound".into() })?;
    Ok((prepared, log))
}

/// Trains every (anisotropy, seed, learning rate) of `method` and returns what was logged, ordered by step, anisotropy, seed, learning rate.
///
/// Between log points nothing is read; a trial that diverges is frozen where it is and changes nothing for the others. `progress` is called after each submission.
///
/// # Errors
/// [`Error::Config`] for a field or learning rate outside its range, and what [`Context::prepare`] and [`Prepared::run`] return.
pub fn run(
    context: &Context,
    config: &LinearRepresentation,
    method: Method,
    learning_rates: &[f64],
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Record>> {
    config.validate()?;
    check_rates(learning_rates)?;
    let recorded = record(config, method, learning_rates.len())?;
    let (mut prepared, log) = prepare(context, config, &recorded, learning_rates)?;
    let mut records = Vec::new();
    prepared.run(&[SAMPLE])?;
    let trials = recorded.scheme.model.trials();
    let mut done = 0;
    for target in config.log_steps() {
        while done < target {
            let now = (target - done).min(STEPS_PER_SUBMISSION);
            prepared.run(&[STEP; STEPS_PER_SUBMISSION][..now])?;
            done += now;
            progress(Progress { steps_done: done, steps: config.steps, trials });
        }
        prepared.run(&[LOG])?;
        let rows = log.read()?;
        let mut rows = rows.chunks_exact(metrics::COLUMNS);
        for &kappa in &config.kappas {
            for seed in (config.first_seed..).take(config.seeds) {
                for (&learning_rate, row) in learning_rates.iter().zip(&mut rows) {
                    let measured = Measurement::from_row(row);
                    let (rotated, schedule) = (config.rotated, config.schedule);
                    records.push(Record { method, kappa, rotated, schedule, seed, learning_rate, step: target, measured });
                }
            }
        }
    }
    Ok(records)
}

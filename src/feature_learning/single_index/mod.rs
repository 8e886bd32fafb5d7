//! The first step on a single-index model, `y = sigma_*(beta_*^T x) + eps`: how well the direction that it writes into the first layer aligns with `beta_*`.
//!
//! Student `f(x) = f^T sigma(G x)/sqrt(dh)` with `G_0` iid `N(0, 1/dX)` and `f` iid `N(0, 1/dh)`; inputs `x = Sigma^{1/2} u` with `tr Sigma = dX`;
//! `beta_*` isotropic in direction with `beta_*^T Sigma beta_* = 1`. One full-batch step moves `G` by a matrix close to rank one; its top right singular vector
//! is compared with `beta_*`. [`theory::single_index`](super::theory::single_index) has the predictions.
//!
//! A data item is a (spectrum, seed). All directions of an item share samples, gradient and covariance; items are the batch of one plan, split into chunks that fit a
//! memory limit. Items are independent: chunking changes no bit on the CPU. Samples and initial weights are drawn on the device, keyed by (seed, task, step):
//! all spectra of a seed see the same `u`, noise and weights. Sizes and links are ours: the paper's were not available.

pub mod problem;
pub mod spike;
pub mod step;
pub mod student;

use std::ops::Range;

pub use problem::{Host, Inputs, Problem, Samples, Setting};
pub use step::{Kind, Step};
pub use student::{Forward, Student};

use super::experiment::{RateSchedule, block_row};
use super::link::Link;
use super::theory::single_index::{SingleIndexTheory, Spectrum};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::plan::{Plan, Recorder, Role};
use crate::prepared::{Bindings, Prepared};

/// A spike whose power iteration left more than this (relative to the singular value) has not converged.
pub const CONVERGED: f64 = 1e-2;

/// What multiplies the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    /// Nothing.
    Sgd,
    /// `(X^T X/n + lambda I)^{-1}` from the right, `lambda > 0`.
    Kfac(f64),
    /// [`Kfac`](Self::Kfac) at the damping that theory calls best for the item's spectrum.
    KfacBest,
    /// Adam's first step from zero moments, which is the sign: `g / (|g| + 1e-8)`.
    Sign,
    /// The gradient of a network whose inputs are normalised by batch mean and variance (epsilon 1e-5), as a step of the matrix that acts on raw inputs.
    BatchNormInputs,
    /// `Sigma^{-1}` from the right: the true covariance instead of the batch's.
    TrueWhitening,
}

impl Direction {
    /// The name in tables and files; dampings are told apart by their value.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Sgd => "sgd",
            Direction::Kfac(_) => "kfac",
            Direction::KfacBest => "kfac_best",
            Direction::Sign => "sign",
            Direction::BatchNormInputs => "batch_norm_inputs",
            Direction::TrueWhitening => "true_whitening",
        }
    }

    /// The damping, where there is one.
    pub fn damping(self, theory: &SingleIndexTheory) -> Option<f64> {
        match self {
            Direction::Kfac(lambda) => Some(lambda),
            Direction::KfacBest => Some(theory.best_damping().0),
            _ => None,
        }
    }

    /// The predicted cosine, where there is a prediction.
    pub fn predicted(self, theory: &SingleIndexTheory) -> Option<f64> {
        match self {
            Direction::Sgd => Some(theory.sgd()),
            Direction::Kfac(lambda) => Some(theory.kfac(lambda)),
            Direction::KfacBest => Some(theory.best_damping().1),
            Direction::TrueWhitening => Some(theory.true_whitening()),
            Direction::Sign | Direction::BatchNormInputs => None,
        }
    }
}

/// The one-step experiment. All defaults are ours: the paper's settings were not available.
#[derive(Clone, Debug, PartialEq)]
pub struct SingleIndex {
    /// Inputs; default 400.
    pub d_x: usize,
    /// Samples; default 1600.
    pub samples: usize,
    /// Hidden units; default 600.
    pub hidden: usize,
    /// Standard deviation of the label noise; default 0.2.
    pub noise: f64,
    /// `sigma`; default tanh.
    pub student: Link,
    /// `sigma_*`; default tanh.
    pub teacher: Link,
    /// Covariance spectra; default identity.
    pub spectra: Vec<Spectrum>,
    /// Haar eigenvectors; default false, which is general for Gaussian inputs since `beta_*` is isotropic.
    pub rotated: bool,
    /// Law of the inputs; default Gaussian.
    pub inputs: Inputs,
    /// Seeds; default 4.
    pub seeds: usize,
    /// The first seed, the others follow; default 0.
    pub first_seed: u32,
    /// Default SGD and KFAC at 1e-3, 1e-1, 1.
    pub directions: Vec<Direction>,
    /// Measure the rank-one approximation of the gradient, too; default false.
    pub rank_one: bool,
    /// Bytes that a chunk of data items may take; default 512 MiB.
    pub memory_limit: u64,
}

impl Default for SingleIndex {
    fn default() -> Self {
        SingleIndex {
            d_x: 400,
            samples: 1600,
            hidden: 600,
            noise: 0.2,
            student: Link::Tanh,
            teacher: Link::Tanh,
            spectra: vec![Spectrum::Identity],
            rotated: false,
            inputs: Inputs::Gaussian,
            seeds: 4,
            first_seed: 0,
            directions: vec![Direction::Sgd, Direction::Kfac(1e-3), Direction::Kfac(1e-1), Direction::Kfac(1.0)],
            rank_one: false,
            memory_limit: 512 << 20,
        }
    }
}

/// One direction of one data item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    /// Covariance.
    pub spectrum: Spectrum,
    /// Seed.
    pub seed: u32,
    /// Direction.
    pub direction: Direction,
    /// Its damping, where it has one.
    pub damping: Option<f64>,
    /// `|<u, beta_*>| / (||u|| ||beta_*||)`, `u` the top right singular vector of the step; NaN where the step is zero or not finite.
    pub cosine: f64,
    /// `||D^T D u - s^2 u|| / s^2`: how far the power iteration is from a singular vector. Sound below [`CONVERGED`].
    pub residual: f64,
    /// `||grad + (c_1/sqrt(dh)) f beta_hat^T|| / ||grad||` in the operator norm, `beta_hat = X^T y/n`, to about 1 %; of the item, not of the direction.
    pub rank_one_error: Option<f64>,
}

impl Alignment {
    /// True where the cosine is a number and the power iteration has converged.
    pub fn is_sound(&self) -> bool {
        self.cosine.is_finite() && self.residual < CONVERGED
    }
}

/// A chunk of data items with memory.
#[derive(Debug)]
pub struct Chunk {
    /// The plan, ready to run its only segment.
    pub prepared: Prepared,
    /// Its values.
    pub step: Step,
    /// Covariances and targets, one for each item.
    pub hosts: Vec<Host>,
}

impl SingleIndex {
    /// Data items: spectra times seeds.
    pub fn items(&self) -> usize {
        self.spectra.len() * self.seeds
    }

    /// Spectrum and seed of an item: spectra outer, seeds inner.
    pub fn item(&self, index: usize) -> (Spectrum, u32) {
        let offset = u32::try_from(index % self.seeds).unwrap_or(u32::MAX);
        (self.spectra[index / self.seeds], self.first_seed.saturating_add(offset))
    }

    /// Predictions for a spectrum.
    ///
    /// # Errors
    /// As [`SingleIndexTheory::new`].
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
    pub fn theory(&self, spectrum: Spectrum) -> Result<SingleIndexTheory> {
        SingleIndexTheory::new(&spectrum.eigenvalues(self.d_x), self.d_x as f64 / self.samples as f64, self.teacher, self.noise)
    }

    /// Kinds of direction in order of first mention, with the number of directions of each.
    pub(super) fn kinds(&self) -> Vec<(Kind, usize)> {
        let mut kinds: Vec<(Kind, usize)> = Vec::new();
        for direction in &self.directions {
            match kinds.iter_mut().find(|k| k.0 == direction.kind()) {
                Some(known) => known.1 += usize::from(known.0 == Kind::Kfac),
                None => kinds.push((direction.kind(), 1)),
            }
        }
        kinds
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field outside its range.
    pub fn validate(&self) -> Result<()> {
        let seeds_fit = u32::try_from(self.seeds).is_ok_and(|n| self.first_seed.checked_add(n).is_some());
        let dampings = self.directions.iter().all(|d| !matches!(d, Direction::Kfac(l) if !(l.is_finite() && *l >= 1e-8)));
        let checks = [
            (self.d_x >= 1, "d_x", self.d_x.to_string(), "at least 1"),
            (self.samples >= 1, "samples", self.samples.to_string(), "at least 1"),
            (self.hidden >= 1, "hidden", self.hidden.to_string(), "at least 1"),
            (self.noise.is_finite() && self.noise >= 0.0, "noise", self.noise.to_string(), "finite, at least 0"),
            (!self.spectra.is_empty(), "spectra", "none".into(), "one or more"),
            (self.seeds >= 1, "seeds", self.seeds.to_string(), "at least 1"),
            (seeds_fit, "first_seed", self.first_seed.to_string(), "below 2^32 - seeds"),
            (!self.directions.is_empty(), "directions", "none".into(), "one or more"),
            (dampings, "directions", format!("{:?}", self.directions), "finite dampings of at least 1e-8"),
        ];
        if let Some((_, field, found, allowed)) = checks.into_iter().find(|c| !c.0) {
            return Err(Error::Config { method: "SingleIndex", field, found, allowed });
        }
        self.spectra.iter().try_for_each(|s| s.validate())?;
        self.teacher.validate_teacher()?;
        self.student.validate_student()
    }

    /// The plan of `items` data items, for printing and counting.
    ///
    /// # Errors
    /// [`Error::Config`] as [`validate`](Self::validate).
    pub fn plan(&self, items: usize) -> Result<Plan> {
        self.validate()?;
        let mut r = Recorder::new();
        Step::record(&mut r, self, items)?;
        Ok(r.finish())
    }

    /// Records and binds the data items of `range`.
    ///
    /// # Errors
    /// [`Error::Config`] as [`validate`](Self::validate), and what [`Context::prepare`] returns.
    pub fn prepare(&self, context: &Context, range: Range<usize>) -> Result<Chunk> {
        self.validate()?;
        let mut r = Recorder::new();
        let step = Step::record(&mut r, self, range.len())?;
        let plan = r.finish();
        let items: Vec<(Spectrum, u32)> = range.map(|i| self.item(i)).collect();
        let setting = step::setting(self);
        let hosts: Vec<Host> = items.iter().map(|&(spectrum, seed)| Host::draw(&setting, spectrum, seed)).collect();
        let mut bindings = Bindings::new();
        step.problem.bind(context, &hosts, &items.iter().map(|i| i.1).collect::<Vec<u32>>(), &mut bindings)?;
        if let Some(damping) = step.damping {
            let mut values = Vec::with_capacity(damping.items());
            for &(spectrum, _) in &items {
                let theory = self.theory(spectrum)?;
                #[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
                values.extend(self.directions.iter().filter_map(|d| d.damping(&theory)).map(|lambda| lambda as f32));
            }
            bindings.bind(damping, &context.upload(damping.shape(), &values)?);
        }
        if let Some(block) = step.block {
            let rows = block_row(1.0, RateSchedule::Constant, 1).repeat(items.len());
            bindings.bind(block, &context.upload(block.shape(), &rows)?);
        }
        for &log in step.logs.iter().chain(&step.rank_one) {
            bindings.bind(log, &context.zeros(log.shape())?);
        }
        Ok(Chunk { prepared: context.prepare(&plan, &bindings)?, step, hosts })
    }

    /// Data items a chunk: as many as fit `memory_limit` and the device's largest buffer.
    ///
    /// # Errors
    /// [`Error::Limit`] where not even one fits.
    pub fn chunk_items(&self, context: &Context) -> Result<usize> {
        items_that_fit(context, &self.plan(1)?, self.memory_limit, "a data item of SingleIndex", self.items())
    }
}

/// How many copies of the items of `one`, the plan of a single data item, fit a limit in bytes and the device's buffers; at least 1, at most `wanted`.
pub(super) fn items_that_fit(context: &Context, one: &Plan, limit: u64, what: &str, wanted: usize) -> Result<usize> {
    let bytes = |shape: crate::tensor::Shape| 4 * shape.elements() as u64;
    let bound: u64 = one.values().iter().filter(|v| v.role != Role::Scratch).map(|v| bytes(v.shape)).sum();
    let total = one.scratch_bytes() + bound;
    if total > limit {
        let advice = "raise `memory_limit` or make the problem smaller";
        return Err(Error::Limit { what: what.into(), needed: total, limit, advice });
    }
    let fit = limit / total.max(1);
    #[cfg(feature = "gpu")]
    let fit = match context.facts() {
        Some(facts) => {
            let largest = one.values().iter().map(|v| bytes(v.shape)).max().unwrap_or(1);
            let offered = facts.max_binding_bytes.min(facts.max_buffer_bytes);
            if largest > offered {
                let advice = "make the problem smaller: one tensor must fit one storage binding";
                return Err(Error::Limit { what: what.into(), needed: largest, limit: offered, advice });
            }
            fit.min(offered / largest)
        }
        None => fit,
    };
    #[cfg(not(feature = "gpu"))]
    let _ = context;
    Ok(usize::try_from(fit).unwrap_or(wanted).clamp(1, wanted))
}

/// Runs every (spectrum, seed, direction) and returns them in this order. `progress` is called with (items done, items) after each chunk.
///
/// # Errors
/// [`Error::Config`] for a field outside its range, [`Error::Limit`] where an item does not fit, and what [`Context::prepare`] and [`Prepared::run`] return.
pub fn run(context: &Context, config: &SingleIndex, progress: &mut dyn FnMut(usize, usize)) -> Result<Vec<Alignment>> {
    config.validate()?;
    let (items, chunk) = (config.items(), config.chunk_items(context)?);
    let mut results = Vec::with_capacity(items * config.directions.len());
    for first in (0..items).step_by(chunk) {
        let range = first..(first + chunk).min(items);
        let mut part = config.prepare(context, range.clone())?;
        part.prepared.run(&[0])?;
        results.extend(part.read(config, range.clone())?);
        progress(range.end, items);
    }
    Ok(results)
}

impl Chunk {
    fn read(&self, config: &SingleIndex, range: Range<usize>) -> Result<Vec<Alignment>> {
        let missing = || Error::Binding { value: "log".into(), reason: "it was not bound".into() };
        let read = |value| self.prepared.tensor(value).ok_or_else(missing)?.read();
        let mut logs = Vec::new();
        for ((kind, _), &log) in self.step.directions.iter().zip(&self.step.logs) {
            logs.push((*kind, read(log)?));
        }
        let rank_one = self.step.rank_one.map(read).transpose()?;
        let dampings = config.directions.iter().filter(|d| d.kind() == Kind::Kfac).count();
        let mut results = Vec::new();
        for (item, host) in self.hosts.iter().enumerate() {
            let (spectrum, seed) = config.item(range.start + item);
            let theory = config.theory(spectrum)?;
            let norm = host.beta.iter().map(|b| b * b).sum::<f64>().sqrt();
            let row = |log: &[f32], row: usize| -> [f64; step::COLUMNS] {
                std::array::from_fn(|c| log.get(row * step::COLUMNS + c).map_or(f64::NAN, |x| f64::from(*x)))
            };
            let gradient = logs.iter().find(|l| l.0 == Kind::Sgd).map(|l| row(&l.1, item)[3]);
            let rank_one_error = rank_one.as_ref().zip(gradient).map(|(log, size)| row(log, item)[3] / size);
            let mut kfac = 0;
            for &direction in &config.directions {
                let place = if direction.kind() == Kind::Kfac { item * dampings + kfac } else { item };
                kfac += usize::from(direction.kind() == Kind::Kfac);
                let log = logs.iter().find(|l| l.0 == direction.kind()).map_or(&[][..], |l| &l.1);
                let [dot, square, residual, _] = row(log, place);
                let cosine = dot.abs() / (square.sqrt() * norm);
                let damping = direction.damping(&theory);
                results.push(Alignment { spectrum, seed, direction, damping, cosine, residual, rank_one_error });
            }
        }
        Ok(results)
    }
}

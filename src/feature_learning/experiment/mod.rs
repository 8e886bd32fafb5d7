//! Linear representation learning: all trials of one method as one batched run.

mod chunks;
mod config;
#[cfg(feature = "gpu")]
mod fit;
mod recorded;
mod training;

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::method::Method;
use super::metrics::{COLUMNS, Measurement};
use crate::context::{Context, Inner};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::block::{DECAY_STEPS, LEARNING_RATE, RIDGE, SCHEDULE, STATISTICS_WEIGHT, WIDTH};
use chunks::Chunk;
use training::Training;

pub use config::{LinearRepresentation, LogPoints, RateSchedule};

/// Steps in one submission: enough to hide its cost, few enough for progress reports and drivers' watchdogs.
const STEPS_PER_SUBMISSION: usize = 16;

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
    /// Submissions that the host has not waited for; 0 on the CPU path.
    pub in_flight: usize,
}

/// The plan of a run, for printing and counting: segments `sample`, `step`, `stale step` (without refresh; empty where every step refreshes) and `log`.
/// The methods that an [`Optimizer`](crate::optim::Optimizer) trains have their gradients in `step`.
///
/// # Errors
/// As [`run`].
pub fn plan(config: &LinearRepresentation, method: Method, learning_rates: &[f64]) -> Result<Plan> {
    config.validate()?;
    check_rates(learning_rates)?;
    Ok(recorded::record(config, method, learning_rates.len())?.plan)
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
    for (column, value) in [
        (LEARNING_RATE, learning_rate),
        (SCHEDULE, if schedule == RateSchedule::Linear { 1.0 } else { 0.0 }),
        (DECAY_STEPS, steps as f64),
        (RIDGE, 1.0),
        // A factorization that fails counts only where there is something to factor; here there always is.
        (STATISTICS_WEIGHT, 1.0),
    ] {
        row[column as usize] = value as f32;
    }
    row
}

/// Trains every (anisotropy, seed, learning rate) of `method` and returns what was logged, ordered by step, anisotropy, seed, learning rate.
///
/// Log points are kept on the device and read once, at the end; between them nothing is read, and the host is at most a few submissions ahead. A trial that
/// diverges is frozen where it is and changes nothing for the others. On a GPU, trials that do not fit
/// [`memory_limit`](LinearRepresentation::memory_limit) together run in chunks. The CPU path gives each thread one seed and anisotropy with all its learning
/// rates, where there are as many as threads; on it a trial has the same bits whichever others run beside it and on however many threads.
/// `progress` is called after each submission.
///
/// # Errors
/// [`Error::Config`] for a field or learning rate outside its range, [`Error::Limit`] where a single trial does not fit the device, and what
/// [`Context::prepare`] and [`Prepared::run`](crate::Prepared::run) return.
pub fn run(
    context: &Context,
    config: &LinearRepresentation,
    method: Method,
    learning_rates: &[f64],
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Vec<Record>> {
    config.validate()?;
    check_rates(learning_rates)?;
    let whole = Chunk::all(config, learning_rates.len());
    let report = Report { progress: Mutex::new((progress, 0)), steps: config.steps, trials: whole.trials() };
    let train = |context: &Context, chunk: &Chunk| train(context, config, method, learning_rates, chunk, &report);
    let (chunks, histories) = match &context.inner {
        Inner::Cpu(cpu) => {
            let parts = chunks::one_by_one(config, learning_rates.len());
            let threads = cpu.pool.as_ref().map_or_else(rayon::current_num_threads, |pool| pool.current_num_threads());
            if parts.len() < threads {
                (vec![whole.clone()], vec![train(context, &whole)?])
            } else {
                let alone = || parts.par_iter().map(|c| crate::cpu::sequentially(|| train(&Context::cpu(), c))).collect::<Result<Vec<_>>>();
                let histories = cpu.pool.as_ref().map_or_else(alone, |pool| pool.install(alone))?;
                (parts, histories)
            }
        }
        #[cfg(feature = "gpu")]
        Inner::Gpu(device) => {
            let single = device.facts.max_binding_bytes.min(device.facts.max_buffer_bytes);
            let parts = fit::that_fit(config, method, learning_rates.len(), config.memory_limit, single)?;
            let histories = parts.iter().map(|chunk| train(context, chunk)).collect::<Result<Vec<_>>>()?;
            (parts, histories)
        }
    };
    Ok(gather(config, method, learning_rates, &chunks, &histories))
}

/// Where a run's progress is told.
struct Report<'a> {
    /// The callback, and steps times trials so far.
    progress: Mutex<(&'a mut (dyn FnMut(Progress) + Send), usize)>,
    steps: usize,
    trials: usize,
}

impl Report<'_> {
    fn add(&self, trial_steps: usize, in_flight: usize) {
        let mut guard = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let (progress, done) = &mut *guard;
        *done += trial_steps;
        progress(Progress { steps_done: *done / self.trials, steps: self.steps, trials: self.trials, in_flight });
    }
}

/// Trains the trials of a chunk; returns their log rows, by log point.
fn train(
    context: &Context,
    config: &LinearRepresentation,
    method: Method,
    learning_rates: &[f64],
    chunk: &Chunk,
    report: &Report<'_>,
) -> Result<Vec<f32>> {
    let (config, rates) = (chunk.config(config), &learning_rates[chunk.rates.clone()]);
    let recorded = recorded::record(&config, method, rates.len())?;
    let mut training = Training::new(context, &config, &recorded, rates)?;
    training.start()?;
    let mut done = 0;
    for target in config.log_steps() {
        loop {
            let now = (target - done).min(STEPS_PER_SUBMISSION);
            done += now;
            training.advance(now, done == target)?;
            report.add(now * chunk.trials(), training.in_flight());
            if done == target {
                break;
            }
        }
    }
    training.history()
}

/// The chunks' log rows as records, in the order of the whole study.
fn gather(config: &LinearRepresentation, method: Method, rates: &[f64], chunks: &[Chunk], histories: &[Vec<f32>]) -> Vec<Record> {
    let (rotated, schedule) = (config.rotated, config.schedule);
    let pairs: Vec<_> = chunks.iter().zip(histories).collect();
    let mut records = Vec::new();
    for (point, &step) in config.log_steps().iter().enumerate() {
        for (k, &kappa) in config.kappas.iter().enumerate() {
            for (s, seed) in (config.first_seed..).take(config.seeds).enumerate() {
                for (rate, &learning_rate) in rates.iter().enumerate() {
                    let holds = |c: &&(&Chunk, &Vec<f32>)| c.0.kappas.contains(&k) && c.0.seeds.contains(&s) && c.0.rates.contains(&rate);
                    let Some((chunk, history)) = pairs.iter().find(holds) else { continue };
                    let data = (k - chunk.kappas.start) * chunk.seeds.len() + s - chunk.seeds.start;
                    let row = point * chunk.trials() + data * chunk.rates.len() + rate - chunk.rates.start;
                    let measured = Measurement::from_row(&history[row * COLUMNS..(row + 1) * COLUMNS]);
                    records.push(Record { method, kappa, rotated, schedule, seed, learning_rate, step, measured });
                }
            }
        }
    }
    records
}

//! Studies of the linear model: methods trained at several settings, with the table, data file and learning curves that such examples share.

mod plots;
mod tables;

use std::time::Instant;

use layerwise::Context;
use layerwise::feature_learning::selection::{Criterion, Outcome, outcomes, select};
use layerwise::feature_learning::{LinearRepresentation, LogPoints, Method, Record, experiment};

use crate::progress::Progress;
use crate::report::Report;

pub use plots::{Metric, against, confidence, curves};

/// The small problem of `--smoke`: seconds on a software GPU.
pub fn smoke() -> LinearRepresentation {
    LinearRepresentation {
        d_x: 24,
        d_y: 6,
        k: 3,
        batch: 128,
        transfer_samples: 256,
        steps: 150,
        kappas: vec![1.0, 100.0],
        seeds: 2,
        log_points: LogPoints::LogSpaced(12),
        ..LinearRepresentation::default()
    }
}

/// One setting and what is trained at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its name in tables and files.
    pub name: String,
    /// Sizes, covariances, seeds.
    pub config: LinearRepresentation,
    /// Methods with their learning rates.
    pub methods: Vec<(Method, Vec<f64>)>,
}

impl Setting {
    /// Methods with the learning rates of their own grids.
    pub fn new(name: impl Into<String>, config: LinearRepresentation, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods = methods.into_iter().map(|m| (m, m.learning_rates().to_vec())).collect();
        Setting { name: name.into(), config, methods }
    }

    /// Trainings.
    pub fn trials(&self) -> usize {
        self.config.kappas.len() * self.config.seeds * self.methods.iter().map(|m| m.1.len()).sum::<usize>()
    }

    /// One training's steps, times trainings.
    fn work(&self) -> usize {
        self.config.steps * self.trials()
    }
}

/// A setting with what was logged.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was run.
    pub setting: Setting,
    /// Every trial at every log point.
    pub records: Vec<Record>,
    /// Final metrics by method, anisotropy and learning rate.
    pub outcomes: Vec<Outcome>,
}

impl Run {
    /// What `records` say of `setting`.
    pub fn new(setting: Setting, records: Vec<Record>) -> Self {
        let outcomes = outcomes(&records);
        Run { setting, records, outcomes }
    }

    /// True where the method was trained.
    pub fn has(&self, method: Method) -> bool {
        self.setting.methods.iter().any(|m| m.0 == method)
    }

    /// The methods, in order.
    pub fn methods(&self) -> impl Iterator<Item = Method> {
        self.setting.methods.iter().map(|m| m.0)
    }

    /// The outcome at the learning rate that the training loss selects; none where no rate was sound in all seeds.
    pub fn selected(&self, method: Method, kappa: f64) -> Option<&Outcome> {
        select(&self.outcomes, method, kappa, Criterion::TrainExcess)
    }

    /// The outcome at the learning rate with the best transfer excess: an oracle's.
    pub fn oracle(&self, method: Method, kappa: f64) -> Option<&Outcome> {
        select(&self.outcomes, method, kappa, Criterion::TransferExcess)
    }

    /// The outcome at one learning rate, where all its seeds are sound.
    pub fn at(&self, method: Method, kappa: f64, rate: f64) -> Option<&Outcome> {
        self.outcomes.iter().find(|o| (o.method, o.kappa, o.learning_rate) == (method, kappa, rate) && o.is_sound())
    }

    /// Geometric mean of the distance at the selected rate; NaN where there is none.
    pub fn distance(&self, method: Method, kappa: f64) -> f64 {
        self.selected(method, kappa).map_or(f64::NAN, Outcome::subspace_distance)
    }

    /// The first logged step at which every seed is below `limit`; none where that never happens.
    pub fn first_below(&self, method: Method, kappa: f64, rate: f64, metric: Metric, limit: f64) -> Option<usize> {
        let mine = |r: &&Record| (r.method, r.kappa, r.learning_rate) == (method, kappa, rate);
        let mut seeds: Vec<u32> = self.records.iter().filter(mine).map(|r| r.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let first = |seed: u32| {
            self.records
                .iter()
                .filter(mine)
                .find(|r| r.seed == seed && r.measured.is_sound() && metric.of(&r.measured) < limit)
                .map(|r| r.step)
        };
        seeds.into_iter().map(first).try_fold(0, |latest, step| step.map(|s| latest.max(s)))
    }
}

/// All settings of an example.
#[derive(Clone, Debug, Default)]
pub struct Study {
    /// In order.
    pub runs: Vec<Run>,
}

impl Study {
    /// Trains everything, method by method. Durations and settings go into `report`.
    ///
    /// # Errors
    /// As [`experiment::run`].
    pub fn train(settings: Vec<Setting>, context: &Context, progress: &Progress, report: &mut Report) -> layerwise::Result<Study> {
        progress.begin(settings.iter().map(Setting::work).sum());
        let (mut runs, mut before) = (Vec::new(), 0);
        for setting in settings {
            let config = &setting.config;
            let mut records = Vec::new();
            for (method, rates) in &setting.methods {
                progress.describe(method.name());
                let start = Instant::now();
                let mut tell = |p: experiment::Progress| progress.at(before + p.steps_done * p.trials);
                records.extend(experiment::run(context, config, *method, rates, &mut tell)?);
                let (seconds, trials) = (start.elapsed().as_secs_f64(), config.kappas.len() * config.seeds * rates.len());
                before += config.steps * trials;
                let each = seconds * 1e6 / (trials * config.steps) as f64;
                let what =
                    format!("{}, {method}: {trials} trainings of {} steps, {each:.1} us per trial and step", setting.name, config.steps);
                report.durations.push((what, seconds));
            }
            report.settings.push((setting.name.clone(), describe(config)));
            runs.push(Run::new(setting, records));
        }
        Ok(Study { runs })
    }

    /// The run of this name.
    pub fn run(&self, name: &str) -> Option<&Run> {
        self.runs.iter().find(|r| r.setting.name == name)
    }

    /// Trainings.
    pub fn trials(&self) -> usize {
        self.runs.iter().map(|r| r.setting.trials()).sum()
    }
}

/// A setting in words.
pub fn describe(c: &LinearRepresentation) -> String {
    let mut out = format!(
        "{} to {} to {} dimensions, {} {} covariances, condition numbers {:?}, {} inputs, {} samples a step, {} steps, noise {}, {} learning rate, seeds {} to {}, {} transfer samples",
        c.d_x,
        c.k,
        c.d_y,
        if c.rotated { "rotated" } else { "axis-aligned" },
        c.spectrum.name().replace('_', "-"),
        c.kappas,
        c.inputs.name(),
        c.batch,
        c.steps,
        c.noise,
        c.schedule.name(),
        c.first_seed,
        c.first_seed as usize + c.seeds - 1,
        c.transfer_samples,
    );
    let damping = c.damping;
    if let Some(condition) = c.head_condition {
        out += &format!(", heads of condition number {condition}");
    }
    out += &format!(", damping {:e} on inputs, {:e} on hidden units, {:e} dense", damping.inputs, damping.hidden, damping.dense);
    if damping.decay > 0.0 {
        out += &format!(", running averages of decay {}", damping.decay);
    }
    if c.precondition_every > 1 {
        out += &format!(", refresh every {} steps", c.precondition_every);
    }
    out
}

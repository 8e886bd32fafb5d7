//! A two-layer network on handwritten digits: loss and accuracy against steps, every optimizer at its tuned learning rate.

mod contenders;
mod data;
mod features;
mod network;
mod report;
mod training;

use std::time::Instant;

use kit::{Common, Progress, Report, Result};
use layerwise::Context;

use contenders::{Contender, RATES};
use network::Sizes;
use training::Outcome;

/// The flags beside the common ones.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Optimizers
    #[arg(
        long,
        help = "Optimizers: sgd, adam, adamw, muon, shampoo, soap, kfac, foof, ngd_emp [default: all; with --smoke sgd, adam, muon, kfac]",
        value_delimiter = ','
    )]
    methods: Option<Vec<String>>,
    /// Training steps [default: 400]
    #[arg(long)]
    steps: Option<usize>,
    /// Samples a step, a divisor of 1280 [default: 128]
    #[arg(long)]
    batch: Option<usize>,
    /// Hidden units [default: 64]
    #[arg(long)]
    hidden: Option<usize>,
    /// Also plots against seconds; that plot differs from run to run
    #[arg(long)]
    time: bool,
}

/// What is trained.
pub(crate) struct Setting {
    pub(crate) sizes: Sizes,
    pub(crate) log_steps: Vec<usize>,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) smoke: bool,
}

const STEPS: usize = 400;
const SEEDS: usize = 3;

/// Methods of the small problem.
const SMOKE: [&str; 4] = ["sgd", "adam", "muon", "kfac"];

fn setting(common: &Common, arguments: &Arguments) -> Result<Setting> {
    let smoke = common.smoke;
    let steps = arguments.steps.unwrap_or(if smoke { 40 } else { STEPS });
    let log_steps = log_steps(steps);
    let sizes = Sizes {
        first_seed: common.seed,
        seeds: common.seeds.unwrap_or(if smoke { 1 } else { SEEDS }),
        rates: if smoke { 2 } else { RATES },
        hidden: arguments.hidden.unwrap_or(if smoke { 16 } else { 64 }),
        batch: arguments.batch.unwrap_or(128),
        log_points: log_steps.len(),
    };
    if steps == 0 || sizes.seeds == 0 || sizes.hidden == 0 || sizes.batch == 0 || !data::TRAIN.is_multiple_of(sizes.batch) {
        return Err(format!("steps, seeds and hidden units have to be positive, and the batch a divisor of {}", data::TRAIN).into());
    }
    let all = contenders::all();
    let names = match &arguments.methods {
        Some(names) => names.clone(),
        None if smoke => SMOKE.map(str::to_owned).to_vec(),
        None => all.iter().map(|c| c.name.to_owned()).collect(),
    };
    let named = |name: &String| all.iter().find(|c| c.name == name).cloned().ok_or_else(|| format!("no method `{name}`"));
    let contenders = names.iter().map(named).collect::<Result<_, _>>()?;
    Ok(Setting { sizes, log_steps, contenders, smoke })
}

/// 0, then about five for each doubling up to ten, then log-spaced: a ratio of 1.2 from step to step.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "step counts are far below 2^52")]
fn log_steps(last: usize) -> Vec<usize> {
    let mut steps = vec![0];
    let mut next = 1usize;
    while next < last {
        steps.push(next);
        next = (next + 1).max((next as f64 * 1.2).round() as usize);
    }
    steps.push(last);
    steps
}

/// The example.
#[derive(Debug)]
pub(crate) struct Digits;

impl kit::Experiment for Digits {
    const NAME: &'static str = "digits";
    const TITLE: &'static str = "Handwritten digits: every optimizer at its tuned learning rate";
    type Arguments = Arguments;

    fn applies(common: &Common, arguments: &Arguments) -> std::result::Result<(), String> {
        let Arguments { methods, steps, batch, hidden, .. } = arguments;
        let changed =
            [("--methods", methods.is_some()), ("--steps", steps.is_some()), ("--batch", batch.is_some()), ("--hidden", hidden.is_some())];
        match changed.iter().find(|c| c.1) {
            Some((flag, _)) => Err(format!("{flag} is set; the thresholds are for its default")),
            None if common.seeds.is_some_and(|seeds| seeds < if common.smoke { 1 } else { SEEDS }) => {
                Err("--seeds is below the default".into())
            }
            None => Ok(()),
        }
    }

    fn run(common: &Common, arguments: &Arguments, context: &Context, progress: &Progress) -> Result<Report> {
        let setting = setting(common, arguments)?;
        let steps = setting.log_steps.last().copied().unwrap_or(0);
        let mut durations = Vec::new();
        let mut outcomes = Vec::new();
        progress.begin(setting.contenders.len() * steps * setting.sizes.trials());
        for contender in &setting.contenders {
            progress.describe(contender.name);
            let start = Instant::now();
            outcomes.push(Outcome::train(context, setting.sizes, contender.clone(), &setting.log_steps, arguments.time, progress)?);
            let seconds = start.elapsed().as_secs_f64();
            let each = seconds * 1e6 / (steps * setting.sizes.trials()) as f64;
            durations.push((
                format!("{}: {} trainings of {steps} steps, {each:.0} us per trial and step", contender.name, setting.sizes.trials()),
                seconds,
            ));
        }
        let mut report = report::report(&setting, &outcomes, arguments.time)?;
        report.durations = durations;
        Ok(report)
    }
}

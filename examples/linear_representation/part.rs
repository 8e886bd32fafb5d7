//! How the methods learn a subspace under anisotropic inputs: every learning rate, seed and anisotropy of each method as one batched run.

mod check;
mod plot;
mod study;

use std::time::Instant;

use clap::ValueEnum;
use kit::{Common, Progress, Report, Result};
use layerwise::Context;
use layerwise::feature_learning::{LinearRepresentation, LogPoints, Method, RateSchedule, Record, experiment};

use study::Study;

/// `--schedule`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Schedule {
    Constant,
    Linear,
}

/// The flags beside the common ones.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Condition numbers of the input covariances [default: 1,100,1000]
    #[arg(long, value_delimiter = ',')]
    kappa: Option<Vec<f64>>,
    /// Training methods
    #[arg(
        long,
        help = "Methods: sgd, amgd, amgd_split, dfw, adam, kfac, kfac_ls, foof, bn_in",
        value_delimiter = ',',
        default_value = "sgd,amgd,adam,kfac,foof"
    )]
    methods: Vec<Method>,
    /// Learning rates for every method [default: each method's own grid]
    #[arg(long, value_delimiter = ',')]
    learning_rates: Option<Vec<f64>>,
    /// Learning-rate schedule
    #[arg(long, value_enum, default_value = "constant")]
    schedule: Schedule,
    /// Training steps [default: 1000]
    #[arg(long)]
    steps: Option<usize>,
    /// Samples per step [default: 1024]
    #[arg(long)]
    batch: Option<usize>,
    /// Rotated covariances; `false` aligns them with the coordinate axes
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    rotated: bool,
}

/// The small problem of `--smoke`.
fn smoke() -> LinearRepresentation {
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

fn config(common: &Common, arguments: &Arguments) -> LinearRepresentation {
    let base = if common.smoke { smoke() } else { LinearRepresentation::default() };
    LinearRepresentation {
        kappas: arguments.kappa.clone().unwrap_or(base.kappas),
        seeds: common.seeds.unwrap_or(base.seeds),
        steps: arguments.steps.unwrap_or(base.steps),
        batch: arguments.batch.unwrap_or(base.batch),
        rotated: arguments.rotated,
        first_seed: common.seed,
        schedule: match arguments.schedule {
            Schedule::Constant => RateSchedule::Constant,
            Schedule::Linear => RateSchedule::Linear,
        },
        ..base
    }
}

/// The example.
#[derive(Debug)]
pub(crate) struct LinearStudy;

impl kit::Experiment for LinearStudy {
    const NAME: &'static str = "linear_representation";
    const TITLE: &'static str = "Subspace learning under anisotropic inputs: layer-wise preconditioning against its rivals";
    type Arguments = Arguments;

    fn applies(common: &Common, arguments: &Arguments) -> std::result::Result<(), String> {
        check::applies(common, arguments, &config(common, arguments))
    }

    fn run(common: &Common, arguments: &Arguments, context: &Context, progress: &Progress) -> Result<Report> {
        let config = config(common, arguments);
        config.validate()?;
        let mut report = Report { settings: settings(&config), ..Report::default() };
        let records = train(arguments, &config, context, progress, &mut report)?;
        let study = Study::new(config, arguments.methods.clone(), records);
        report.tables.push(study.table());
        report.files.push(("linear_representation.csv".into(), study.csv()));
        report.plots = plot::all(&study)?;
        report.verdicts = check::verdicts(common.smoke, &study);
        Ok(report)
    }
}

fn settings(c: &LinearRepresentation) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("inputs, hidden units, outputs", format!("{}, {}, {}", c.d_x, c.k, c.d_y)),
        pair("samples a step", c.batch.to_string()),
        pair("steps", c.steps.to_string()),
        pair("seeds", format!("{} from {}", c.seeds, c.first_seed)),
        pair("condition numbers of the covariances", format!("{:?}, {}", c.kappas, if c.rotated { "rotated" } else { "axis-aligned" })),
        pair("noise", c.noise.to_string()),
        pair("transfer samples", c.transfer_samples.to_string()),
        pair("learning-rate schedule", c.schedule.name().into()),
    ]
}

fn train(
    arguments: &Arguments,
    config: &LinearRepresentation,
    context: &Context,
    progress: &Progress,
    report: &mut Report,
) -> layerwise::Result<Vec<Record>> {
    let rates = |method: Method| arguments.learning_rates.clone().unwrap_or_else(|| method.learning_rates().to_vec());
    let trials = |method: Method| config.kappas.len() * config.seeds * rates(method).len();
    progress.begin(arguments.methods.iter().map(|&m| config.steps * trials(m)).sum());
    let mut records = Vec::new();
    let mut before = 0;
    for &method in &arguments.methods {
        progress.describe(method.name());
        let start = Instant::now();
        records.extend(experiment::run(context, config, method, &rates(method), &mut |p| progress.at(before + p.steps_done * p.trials))?);
        let seconds = start.elapsed().as_secs_f64();
        let (trials, steps) = (trials(method), config.steps);
        let each = seconds * 1e6 / (trials * steps) as f64;
        report.durations.push((format!("{method}: {trials} trainings of {steps} steps, {each:.1} us per trial and step"), seconds));
        before += steps * trials;
    }
    Ok(records)
}

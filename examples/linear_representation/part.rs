//! How the methods learn a subspace under anisotropic inputs: every learning rate, seed and anisotropy of each method as one batched run.

mod check;

use clap::ValueEnum;
use kit::study::{Metric, Run, Setting, Study, against, curves, smoke};
use kit::{Axis, Common, Figure, Panel, Progress, Report, Result};
use layerwise::Context;
use layerwise::feature_learning::{LinearRepresentation, Method, RateSchedule};

/// Names of the settings.
const ROTATED: &str = "rotated";
const ALIGNED: &str = "axis-aligned";

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
        help = "Methods: sgd, amgd, amgd_split, dfw, adam, adamw, sign, bn_in, bn_in_adam, bn_hid, bn_hid_adam, shampoo, soap, muon, kfac, kfac_emp, kfac_ls, foof, \
                ngd_gn, ngd_emp",
        value_delimiter = ',',
        default_value = "sgd,amgd,adam,bn_in,bn_in_adam,bn_hid,bn_hid_adam,shampoo,muon,kfac,foof"
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
    /// Rotated covariances alone, or with `false` those along the coordinate axes alone [default: both, the latter at the largest condition number]
    #[arg(long)]
    rotated: Option<bool>,
}

fn config(common: &Common, arguments: &Arguments) -> LinearRepresentation {
    let base = if common.smoke { smoke() } else { LinearRepresentation::default() };
    LinearRepresentation {
        kappas: arguments.kappa.clone().unwrap_or(base.kappas),
        seeds: common.seeds.unwrap_or(base.seeds),
        steps: arguments.steps.unwrap_or(base.steps),
        batch: arguments.batch.unwrap_or(base.batch),
        first_seed: common.seed,
        schedule: match arguments.schedule {
            Schedule::Constant => RateSchedule::Constant,
            Schedule::Linear => RateSchedule::Linear,
        },
        ..base
    }
}

fn settings(common: &Common, arguments: &Arguments) -> Vec<Setting> {
    let rotated = config(common, arguments);
    let mut aligned = LinearRepresentation { rotated: false, ..rotated.clone() };
    if arguments.rotated.is_none() {
        aligned.kappas = aligned.kappas.into_iter().reduce(f64::max).into_iter().collect();
    }
    let setting = |name: &str, config: LinearRepresentation| {
        let rates = |method: Method| arguments.learning_rates.clone().unwrap_or_else(|| method.learning_rates().to_vec());
        let methods = arguments.methods.iter().map(|&m| (m, rates(m))).collect();
        Setting { methods, ..Setting::new(name, config, []) }
    };
    let mut list = Vec::new();
    if arguments.rotated != Some(false) {
        list.push(setting(ROTATED, rotated));
    }
    if arguments.rotated != Some(true) {
        list.push(setting(ALIGNED, aligned));
    }
    list
}

/// The example.
#[derive(Debug)]
pub(crate) struct LinearStudy;

impl kit::Experiment for LinearStudy {
    const NAME: &'static str = "linear_representation";
    const TITLE: &'static str = "Subspace learning under anisotropic inputs: layer-wise preconditioning against its rivals";
    type Arguments = Arguments;

    fn applies(common: &Common, arguments: &Arguments) -> std::result::Result<(), String> {
        check::applies(common, arguments)
    }

    fn run(common: &Common, arguments: &Arguments, context: &Context, progress: &Progress) -> Result<Report> {
        let mut report = Report::default();
        let study = Study::train(settings(common, arguments), context, progress, &mut report)?;
        report.setting("trainings", study.trials());
        report.tables = study.runs.iter().map(Run::table).collect();
        report.files.push(("linear_representation.csv".into(), study.csv()));
        for run in &study.runs {
            let prefix = if run.setting.name == ROTATED { "" } else { "aligned_" };
            for &kappa in &run.setting.config.kappas {
                report.plots.push((format!("{prefix}curves_kappa_{kappa}.svg"), curves(run, kappa).svg()?));
            }
        }
        if let Some(run) = study.run(ROTATED) {
            report.plots.push(("distance_vs_kappa.svg".into(), distance_against_kappa(run).svg()?));
        }
        report.verdicts = check::verdicts(common.smoke, &study);
        Ok(report)
    }
}

fn distance_against_kappa(run: &Run) -> Figure {
    let c = &run.setting.config;
    let series = run.methods().map(|m| against(m, Metric::Distance, c.kappas.iter().map(|&kappa| (kappa, run.selected(m, kappa)))));
    let (low, high) = c.kappas.iter().fold((f64::INFINITY, 0.0f64), |(low, high), &k| (low.min(k), high.max(k)));
    let x = Axis::log("condition number of the input covariance").range(low / 1.6, high * 1.6);
    let panel = Panel::new("", x, Axis::log("subspace distance"), series.collect());
    let title = format!("Subspace distance after {} steps against anisotropy, rotated covariances", c.steps);
    let subtitle = format!("rate selected by train excess; point: geometric mean of {} seeds, bar: smallest to largest", c.seeds);
    Figure::new(title, subtitle, vec![panel])
}

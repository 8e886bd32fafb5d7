//! One step on the first layer, then a ridge head on fresh samples: test errors of SGD's and KFAC's features beside the baselines.

mod check;
mod plot;

use std::fmt::Write as _;
use std::time::Instant;

use kit::{Column, Common, Progress, Report, Result, Table};
use layerwise::Context;
use layerwise::feature_learning::ridge::{self, Family, Features, OneStepRidge, Trial, linear_floor, select};
use layerwise::feature_learning::theory::single_index::Spectrum;
use layerwise::feature_learning::{Inputs, Link};

/// The flags beside the common ones.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub(crate) struct Arguments {
    /// Links of teacher and student alike
    #[arg(
        long,
        help = "Links of teacher and student alike: tanh, centred_relu, erf, or hermite_A_B_C",
        value_delimiter = ',',
        default_value = "tanh,centred_relu"
    )]
    links: Vec<String>,
    /// Haar eigenvectors instead of the coordinate axes
    #[arg(long)]
    rotated: bool,
    /// Inputs from {-1, +1} instead of normal ones
    #[arg(long)]
    rademacher: bool,
    /// Standard deviation of the label noise
    #[arg(long, default_value_t = 0.1)]
    noise: f64,
}

impl Arguments {
    /// What the command line has without flags.
    fn usual() -> Self {
        Arguments { links: vec!["tanh".into(), "centred_relu".into()], rotated: false, rademacher: false, noise: 0.1 }
    }
}

fn configs(common: &Common, arguments: &Arguments) -> layerwise::Result<Vec<OneStepRidge>> {
    let full = OneStepRidge {
        spectra: vec![Spectrum::Identity, Spectrum::TwoLevel(0.9), Spectrum::LogSpaced(100.0), Spectrum::LogSpaced(1000.0)],
        ..OneStepRidge::default()
    };
    let small = OneStepRidge {
        d_x: 50,
        hidden: 100,
        step_samples: 400,
        fit_samples: 400,
        validation_samples: 400,
        test_samples: 1000,
        spectra: vec![Spectrum::Identity, Spectrum::LogSpaced(100.0)],
        sizes: vec![0.5, 1.0, 2.0, 4.0, 8.0, 16.0],
        ..OneStepRidge::default()
    };
    let base = OneStepRidge {
        rotated: arguments.rotated,
        inputs: if arguments.rademacher { Inputs::Rademacher } else { Inputs::Gaussian },
        noise: arguments.noise,
        seeds: common.seeds.unwrap_or(3),
        first_seed: common.seed,
        ..if common.smoke { small } else { full }
    };
    let links = arguments.links.iter().map(|name| Link::from_name(name));
    links.map(|link| link.map(|link| OneStepRidge { student: link, teacher: link, ..base.clone() })).collect()
}

/// All heads of one link.
struct Study {
    config: OneStepRidge,
    trials: Vec<Trial>,
}

impl Study {
    /// Test errors of the selected heads of a family, by seed; NaN where there is none.
    fn errors(&self, spectrum: Spectrum, family: Family) -> Vec<f64> {
        self.selected(spectrum, family).into_iter().map(|t| t.map_or(f64::NAN, |t| t.test_error)).collect()
    }

    fn selected(&self, spectrum: Spectrum, family: Family) -> Vec<Option<&Trial>> {
        (0..self.config.seeds).map(|i| select(&self.trials, spectrum, self.config.item(i).1, family)).collect()
    }

    /// Mean over seeds of the test error.
    fn mean(&self, spectrum: Spectrum, family: Family) -> f64 {
        let errors = self.errors(spectrum, family);
        errors.iter().sum::<f64>() / errors.len() as f64
    }
}

/// The example.
#[derive(Debug)]
pub(crate) struct RidgeStudy;

impl kit::Experiment for RidgeStudy {
    const NAME: &'static str = "one_step_ridge";
    const TITLE: &'static str = "One step, then a ridge head: test error of SGD's and KFAC's features";
    type Arguments = Arguments;

    fn applies(common: &Common, arguments: &Arguments) -> std::result::Result<(), String> {
        match (common.seeds, *arguments == Arguments::usual()) {
            (Some(seeds), _) if seeds != 3 => Err(format!("--seeds is {seeds}, the thresholds are for 3")),
            (_, false) => Err("--links, --rotated, --rademacher or --noise is not the default".into()),
            _ => Ok(()),
        }
    }

    fn run(common: &Common, arguments: &Arguments, context: &Context, progress: &Progress) -> Result<Report> {
        let configs = configs(common, arguments)?;
        progress.begin(configs.iter().map(OneStepRidge::items).sum());
        let (mut report, mut studies, mut before) = (Report::default(), Vec::new(), 0);
        settings(&configs, &mut report);
        for config in configs {
            progress.describe(config.teacher.name());
            let start = Instant::now();
            let trials = ridge::run(context, &config, &mut |done, _| progress.at(before + done))?;
            let (items, heads) = (config.items(), trials.len());
            report.durations.push((format!("{}: {items} problems, {heads} heads", config.teacher.name()), start.elapsed().as_secs_f64()));
            before += items;
            studies.push(Study { config, trials });
        }
        report.tables.push(table(&studies));
        report.files.push(("one_step_ridge.csv".into(), csv(&studies)));
        report.plots = plot::all(&studies)?;
        report.verdicts = check::verdicts(common.smoke, &studies);
        Ok(report)
    }
}

fn settings(configs: &[OneStepRidge], report: &mut Report) {
    let Some(c) = configs.first() else { return };
    report.setting("inputs, hidden units", format!("{}, {}", c.d_x, c.hidden));
    let samples = [c.step_samples, c.fit_samples, c.validation_samples, c.test_samples];
    report.setting("samples of the step, the head, validation and test", format!("{samples:?}"));
    report.setting("noise", c.noise);
    report.setting("seeds", format!("{} from {}", c.seeds, c.first_seed));
    report.setting("covariances", if c.rotated { "rotated" } else { "axis-aligned" });
    report.setting("inputs' law", c.inputs.name());
    report.setting("sizes of the step", format!("{:?}", c.sizes));
    report.setting("KFAC's dampings", format!("{:?}", c.dampings));
    report.setting("ridge strengths", format!("{:?}", c.ridges));
}

/// The sizes that validation chose, smallest to largest.
fn sizes(chosen: &[Option<&Trial>]) -> String {
    let size = |t: &&Trial| match t.features {
        Features::Sgd { size } | Features::Kfac { size, .. } => size,
        Features::Linear | Features::Random => 0.0,
    };
    let list = chosen.iter().flatten().map(size).fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), s| (low.min(s), high.max(s)));
    if list.0 == list.1 { list.0.to_string() } else { format!("{} to {}", list.0, list.1) }
}

fn table(studies: &[Study]) -> Table {
    let numbers = ["linear floor", "linear", "random features", "SGD step", "KFAC step", "SGD over KFAC", "SGD's size", "KFAC's size"];
    let columns = ["link", "covariance"].map(Column::text).into_iter().chain(numbers.map(Column::number));
    let mut table = Table::new("Mean squared test error against the teacher without noise, mean over seeds", columns);
    table.note = "Size of the step, damping and ridge are chosen on validation samples. Size: root mean square change of a pre-activation. Floor: c_{>1}^2 of the link."
        .into();
    for study in studies {
        for &spectrum in &study.config.spectra {
            let [linear, random, sgd, kfac] = Family::ALL.map(|family| study.mean(spectrum, family));
            let errors = [linear_floor(study.config.teacher), linear, random, sgd, kfac].map(|e| format!("{e:.4}"));
            let chosen = [Family::Sgd, Family::Kfac].map(|family| sizes(&study.selected(spectrum, family)));
            let names = [study.config.teacher.name(), spectrum.name()];
            table.row(names.into_iter().chain(errors).chain([format!("{:.2}", sgd / kfac)]).chain(chosen));
        }
    }
    table
}

fn csv(studies: &[Study]) -> String {
    let mut out = "link,spectrum,seed,features,damping,size,ridge,validation_error,test_error\n".to_owned();
    for study in studies {
        for t in &study.trials {
            let (damping, size) = match t.features {
                Features::Linear | Features::Random => (String::new(), String::new()),
                Features::Sgd { size } => (String::new(), size.to_string()),
                Features::Kfac { damping, size } => (damping.to_string(), size.to_string()),
            };
            let family = t.features.family().name();
            let names = [study.config.teacher.name(), t.spectrum.name(), t.seed.to_string(), family.into(), damping, size].join(",");
            let _ = writeln!(out, "{names},{},{:.6e},{:.6e}", t.ridge, t.validation_error, t.test_error);
        }
    }
    out
}

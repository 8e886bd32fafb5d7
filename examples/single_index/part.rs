//! The direction that one step writes into the first layer: SGD's is biased by the covariance, KFAC's is not, and closed forms say by how much.

mod check;
mod plot;
mod study;

use std::time::Instant;

use kit::{Column, Common, Progress, Report, Result, Table};
use layerwise::Context;
use layerwise::feature_learning::single_index::{self, Direction, SingleIndex};
use layerwise::feature_learning::theory::single_index::Spectrum;
use layerwise::feature_learning::{Inputs, Link};

use study::{Group, Point, Study};

/// The flags beside the common ones.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub(crate) struct Arguments {
    /// The student's link
    #[arg(long, help = "The student's link: tanh, relu, centred_relu, erf, or hermite_A_B_C", default_value = "tanh")]
    student: String,
    /// Haar eigenvectors instead of the coordinate axes
    #[arg(long)]
    rotated: bool,
    /// Inputs from {-1, +1} instead of normal ones
    #[arg(long)]
    rademacher: bool,
    /// Standard deviation of the label noise
    #[arg(long, default_value_t = 0.2)]
    noise: f64,
}

impl Arguments {
    /// What the command line has without flags.
    fn usual() -> Self {
        Arguments { student: "tanh".into(), rotated: false, rademacher: false, noise: 0.2 }
    }
}

/// One batched run: what it is for, and its settings.
struct Run {
    group: Group,
    config: SingleIndex,
}

const POWER_LAW: Spectrum = Spectrum::PowerLaw(1.0);

fn default_seeds(common: &Common) -> usize {
    if common.smoke { 4 } else { 8 }
}

fn runs(common: &Common, arguments: &Arguments) -> layerwise::Result<Vec<Run>> {
    let (d_x, samples, hidden) = if common.smoke { (80, 320, 120) } else { (400, 1600, 600) };
    let base = SingleIndex {
        d_x,
        samples,
        hidden,
        noise: arguments.noise,
        student: Link::from_name(&arguments.student)?,
        rotated: arguments.rotated,
        inputs: if arguments.rademacher { Inputs::Rademacher } else { Inputs::Gaussian },
        seeds: common.seeds.unwrap_or(default_seeds(common)),
        first_seed: common.seed,
        ..SingleIndex::default()
    };
    let levels = |list: &[f64]| list.iter().map(|&eps| Spectrum::TwoLevel(eps)).collect::<Vec<_>>();
    let mut runs = Vec::new();
    for teacher in [Link::Tanh, Link::CentredRelu] {
        let fixed = [1e-3, 1e-1, 1.0].map(Direction::Kfac);
        let spectra = vec![Spectrum::Identity, Spectrum::TwoLevel(0.5), Spectrum::TwoLevel(0.9), Spectrum::LogSpaced(100.0), POWER_LAW];
        let directions = [Direction::Sgd].into_iter().chain(fixed).chain([Direction::KfacBest, Direction::TrueWhitening]).collect();
        runs.push(Run { group: Group::Table, config: SingleIndex { teacher, spectra, directions, rank_one: true, ..base.clone() } });
        let eps: &[f64] = if common.smoke { &[0.0, 0.5, 0.9] } else { &[0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99] };
        let directions = vec![Direction::Sgd, Direction::Kfac(1e-3), Direction::KfacBest];
        runs.push(Run { group: Group::Anisotropy, config: SingleIndex { teacher, spectra: levels(eps), directions, ..base.clone() } });
    }
    // phi = dX/n of 1/20, 1/4, 1 and 4/3.
    for samples in if common.smoke { vec![320, 60] } else { vec![8000, 1600, 400, 300] } {
        let every = if common.smoke { 2 } else { 1 };
        let dampings = (-6..=4).step_by(every).map(|i| Direction::Kfac(10f64.powf(f64::from(i) / 2.0)));
        let directions = [Direction::Sgd].into_iter().chain(dampings).collect();
        runs.push(Run { group: Group::Damping, config: SingleIndex { samples, spectra: levels(&[0.9]), directions, ..base.clone() } });
    }
    for rotated in [true, false] {
        let (d_x, samples, hidden) = if common.smoke { (60, 300, 80) } else { (300, 1500, 400) };
        let directions = vec![Direction::Sgd, Direction::Sign, Direction::BatchNormInputs, Direction::TrueWhitening, Direction::Kfac(0.1)];
        let config = SingleIndex { d_x, samples, hidden, rotated, spectra: levels(&[0.9]), directions, ..base.clone() };
        runs.push(Run { group: Group::Others, config });
    }
    Ok(runs)
}

/// The example.
#[derive(Debug)]
pub(crate) struct SingleIndexStudy;

impl kit::Experiment for SingleIndexStudy {
    const NAME: &'static str = "single_index";
    const TITLE: &'static str = "One step on a single-index model: alignment with the target, theory against simulation";
    type Arguments = Arguments;

    fn applies(common: &Common, arguments: &Arguments) -> std::result::Result<(), String> {
        match (common.seeds, *arguments == Arguments::usual()) {
            (Some(seeds), _) if seeds != default_seeds(common) => {
                Err(format!("--seeds is {seeds}, the thresholds are for {}", default_seeds(common)))
            }
            (_, false) => Err("--student, --rotated, --rademacher or --noise is not the default".into()),
            _ => Ok(()),
        }
    }

    fn run(common: &Common, arguments: &Arguments, context: &Context, progress: &Progress) -> Result<Report> {
        let runs = runs(common, arguments)?;
        progress.begin(runs.iter().map(|r| r.config.items()).sum());
        let (mut report, mut study, mut before) = (Report::default(), Study::default(), 0);
        settings(&runs, &mut report);
        for Run { group, config } in runs {
            progress.describe(group.name());
            let start = Instant::now();
            let results = single_index::run(context, &config, &mut |done, _| progress.at(before + done))?;
            let (items, steps) = (config.items(), results.len());
            let what = format!("{}: {items} problems of {} samples, {steps} steps", group.name(), config.samples);
            report.durations.push((what, start.elapsed().as_secs_f64()));
            before += items;
            study.add(group, &config, &results)?;
        }
        report.tables = vec![alignments(&study), others(&study)];
        report.files.push(("single_index.csv".into(), study.csv()));
        report.plots = plot::all(&study)?;
        report.verdicts = check::verdicts(common.smoke, &study);
        Ok(report)
    }
}

fn settings(runs: &[Run], report: &mut Report) {
    let Some(Run { config, .. }) = runs.first() else { return };
    report.setting("inputs, hidden units", format!("{}, {}", config.d_x, config.hidden));
    report.setting("samples", config.samples);
    report.setting("student", config.student.name());
    report.setting("noise", config.noise);
    report.setting("seeds", format!("{} from {}", config.seeds, config.first_seed));
    report.setting("covariances", if config.rotated { "rotated" } else { "axis-aligned" });
    report.setting("inputs' law", config.inputs.name());
}

fn pair(point: Option<&Point>) -> String {
    point.map_or_else(String::new, |p| match p.theory {
        Some(theory) => format!("{:.3} / {theory:.3}", p.mean()),
        None => format!("{:.3}", p.mean()),
    })
}

/// Simulation beside theory for every teacher and covariance.
fn alignments(study: &Study) -> Table {
    let names = ["SGD", "KFAC 1e-3", "KFAC 0.1", "KFAC 1", "KFAC, best damping", "true covariance", "rank-one error"];
    let columns = ["teacher", "covariance"].map(Column::text).into_iter().chain(names.map(Column::number));
    let mut table = Table::new("Cosine with the target: mean over seeds / theory", columns);
    table.note = "The forms assume a bounded spectrum: under the power law SGD's is off, since a few directions dominate. Rank-one error: gradient less its rank-one \
                  approximation, relative operator norm."
        .into();
    let directions =
        [Direction::Sgd, Direction::Kfac(1e-3), Direction::Kfac(1e-1), Direction::Kfac(1.0), Direction::KfacBest, Direction::TrueWhitening];
    for (teacher, spectrum) in study.cases(Group::Table) {
        let find = |d: Direction| study.find(Group::Table, |p| p.teacher == teacher && p.spectrum == spectrum && p.direction == d);
        let error = find(Direction::Sgd).map_or(f64::NAN, |p| p.rank_one);
        let cells = directions.iter().map(|&d| pair(find(d)));
        table.row([teacher.name(), spectrum.name()].into_iter().chain(cells).chain([format!("{error:.3}")]));
    }
    table
}

/// Directions without a closed form.
fn others(study: &Study) -> Table {
    let names = ["SGD", "sign (Adam's first step)", "batch-norm on inputs", "true covariance", "KFAC 0.1"];
    let mut table = Table::new(
        "Cosine of other directions, two levels 0.9: mean over seeds / theory",
        [Column::text("covariance")].into_iter().chain(names.map(Column::number)),
    );
    for rotated in [true, false] {
        let directions = [Direction::Sgd, Direction::Sign, Direction::BatchNormInputs, Direction::TrueWhitening, Direction::Kfac(0.1)];
        let cells = directions.map(|d| pair(study.find(Group::Others, |p| p.rotated == rotated && p.direction == d)));
        table.row([if rotated { "rotated" } else { "axis-aligned" }.to_owned()].into_iter().chain(cells));
    }
    table
}

//! How sensitive each method is to its learning rate, at a constant rate and with linear decay, and the largest rate that it survives.

use kit::study::{Metric, Run, Setting, Study, confidence, smoke};
use kit::{Axis, Column, Common, Experiment, Figure, NoArguments, Panel, Progress, Report, Result, Series, Style, Table, Verdict};
use layerwise::Context;
use layerwise::feature_learning::{LinearRepresentation, LogPoints, Method, RateSchedule};

const METHODS: [Method; 11] = [
    Method::Sgd,
    Method::Amgd,
    Method::Adam,
    Method::AdamW,
    Method::Sign,
    Method::Shampoo,
    Method::Soap,
    Method::Muon,
    Method::Kfac,
    Method::KfacLs,
    Method::Foof,
];

/// Those of the small form.
const FEW: [Method; 3] = [Method::Sgd, Method::Adam, Method::Kfac];

const SCHEDULES: [RateSchedule; 2] = [RateSchedule::Constant, RateSchedule::Linear];
const STABILITY: &str = "stability";

/// The example.
#[derive(Debug)]
pub(crate) struct LearningRates;

/// Half-decades around each method's own grid.
#[allow(clippy::cast_possible_truncation, reason = "counts of half-decades")]
fn rates(method: Method, smoke: bool) -> Vec<f64> {
    let grid = method.learning_rates();
    let (low, high) = (grid[0], grid[grid.len() - 1]);
    let first = (2.0 * low.log10()).floor() as i32 - 1;
    let last = ((2.0 * high.log10()).ceil() as i32 + 1).min(0);
    (first..=last).step_by(if smoke { 2 } else { 1 }).map(|half| round(10f64.powf(f64::from(half) / 2.0))).collect()
}

/// Two digits, for legible files.
fn round(x: f64) -> f64 {
    let scale = 10f64.powf(1.0 - x.log10().floor());
    (x * scale).round() / scale
}

/// Quarter-decades from a hundredth of the smallest rate of the method's grid to beyond any stable one.
#[allow(clippy::cast_possible_truncation, reason = "counts of quarter-decades")]
fn stability_rates(method: Method, smoke: bool) -> Vec<f64> {
    let first = (4.0 * (0.1 * method.learning_rates()[0]).log10()).floor() as i32;
    (first..=8).step_by(if smoke { 4 } else { 1 }).map(|quarter| round(10f64.powf(f64::from(quarter) / 4.0))).collect()
}

fn settings(common: &Common) -> Vec<Setting> {
    let base = if common.smoke { smoke() } else { LinearRepresentation { seeds: 10, ..LinearRepresentation::default() } };
    let strong = if common.smoke { 100.0 } else { 1000.0 };
    let base = LinearRepresentation {
        seeds: common.seeds.unwrap_or(base.seeds),
        first_seed: common.seed,
        kappas: vec![strong],
        log_points: LogPoints::LogSpaced(2),
        ..base
    };
    let with = |name: &str, config: &LinearRepresentation, rates: &dyn Fn(Method) -> Vec<f64>| Setting {
        methods: if common.smoke { FEW.map(|m| (m, rates(m))).into() } else { METHODS.map(|m| (m, rates(m))).into() },
        ..Setting::new(name, config.clone(), [])
    };
    let mut list: Vec<Setting> = SCHEDULES
        .iter()
        .map(|&schedule| with(schedule.name(), &LinearRepresentation { schedule, ..base.clone() }, &|m| rates(m, common.smoke)))
        .collect();
    let kappas = if common.smoke { vec![1.0, 100.0] } else { vec![1.0, 10.0, 100.0, 1000.0, 10_000.0] };
    let brief = LinearRepresentation { kappas, seeds: 1, steps: if common.smoke { 60 } else { 200 }, ..base };
    list.push(with(STABILITY, &brief, &|m| stability_rates(m, common.smoke)));
    list
}

impl Experiment for LearningRates {
    const NAME: &'static str = "learning_rates";
    const TITLE: &'static str = "Learning rates: final metrics, schedules, and the largest stable rate";
    type Arguments = NoArguments;

    fn applies(common: &Common, _: &NoArguments) -> std::result::Result<(), String> {
        if common.seeds.is_some() { Err("--seeds is given, the thresholds belong to the example's own number".into()) } else { Ok(()) }
    }

    fn run(common: &Common, _: &NoArguments, context: &Context, progress: &Progress) -> Result<Report> {
        let mut report = Report::default();
        let study = Study::train(settings(common), context, progress, &mut report)?;
        for schedule in SCHEDULES {
            let Some(run) = study.run(schedule.name()) else { continue };
            report.tables.push(best(run));
            report.plots.push((format!("rates_{}.svg", schedule.name()), against_rate(run).svg()?));
        }
        if let Some(run) = study.run(STABILITY) {
            report.tables.push(stable_table(run));
            report.plots.push(("stable_rates.svg".into(), stable_figure(run).svg()?));
        }
        report.files.push(("learning_rates.csv".into(), study.csv()));
        report.verdicts = verdicts(&study, common.smoke);
        Ok(report)
    }
}

/// Final metrics of one method by learning rate, sound rates alone: (rate, values by seed).
fn finals(run: &Run, method: Method, metric: Metric) -> Vec<(f64, Vec<f64>)> {
    let mine = run.outcomes.iter().filter(|o| o.method == method && o.is_sound());
    mine.map(|o| (o.learning_rate, metric.finals(o))).collect()
}

fn against_rate(run: &Run) -> Figure {
    let panel = |metric: Metric| {
        let series = run.methods().map(|m| {
            let points: Vec<_> = finals(run, m, metric).into_iter().map(|(rate, values)| (rate, confidence(&values))).collect();
            Series::new(m.label(), Style::of(m.name()).solid())
                .line(points.iter().map(|(x, c)| (*x, c.1)))
                .mark_every(1)
                .band(points.iter().map(|(x, c)| (*x, c.0, c.2)))
        });
        Panel::new(metric.label(), Axis::log("learning rate"), Axis::log(""), series.collect())
    };
    let c = &run.setting.config;
    let title = format!("Final metrics against the learning rate, {} schedule, condition number {}", run.setting.name, c.kappas[0]);
    let subtitle = format!(
        "{} seeds after {} steps; line: geometric mean, band: its 95 % confidence interval; rates at which a seed diverged or froze are left out",
        c.seeds, c.steps
    );
    Figure::new(title, subtitle, Metric::ALL.map(panel).into())
}

fn best(run: &Run) -> Table {
    let c = &run.setting.config;
    let kappa = c.kappas[0];
    let columns = [
        Column::text("method"),
        Column::number("lr by train excess"),
        Column::number("train excess"),
        Column::number("distance (95 % interval)"),
        Column::number("transfer excess"),
        Column::number("lr by transfer"),
        Column::number("distance"),
        Column::number("transfer excess"),
        Column::number("rates within 2x of the best distance"),
    ];
    let mut table = Table::new(format!("{} schedule, condition number {kappa}, {} seeds", run.setting.name, c.seeds), columns);
    for method in run.methods() {
        let (Some(chosen), Some(oracle)) = (run.selected(method, kappa), run.oracle(method, kappa)) else {
            table.row([method.label().to_owned(), "none".into()]);
            continue;
        };
        let (low, mean, high) = confidence(&Metric::Distance.finals(chosen));
        let distances: Vec<f64> = finals(run, method, Metric::Distance).iter().map(|(_, values)| confidence(values).1).collect();
        let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
        table.row([
            method.label().to_owned(),
            chosen.learning_rate.to_string(),
            format!("{:.2e}", chosen.train_excess()),
            format!("{mean:.4} ({low:.4} to {high:.4})"),
            format!("{:.2e}", chosen.transfer_excess()),
            oracle.learning_rate.to_string(),
            format!("{:.4}", oracle.subspace_distance()),
            format!("{:.2e}", oracle.transfer_excess()),
            format!(
                "{} of {}",
                distances.iter().filter(|d| **d <= 2.0 * least).count(),
                run.outcomes.iter().filter(|o| o.method == method).count()
            ),
        ]);
    }
    table.note = "geometric means over seeds; the best train excess chooses among rates that no seed diverged or froze at, the best transfer is an oracle's".into();
    table
}

/// The largest rate below which every rate is sound and ends with a lower train excess than at the start.
fn largest_stable(run: &Run, method: Method, kappa: f64) -> Option<f64> {
    let start = run.records.iter().find(|r| r.step == 0 && r.method == method && r.kappa == kappa)?.measured.train_excess;
    let mut mine: Vec<_> = run.outcomes.iter().filter(|o| o.method == method && o.kappa == kappa).collect();
    mine.sort_by(|a, b| a.learning_rate.total_cmp(&b.learning_rate));
    mine.into_iter().take_while(|o| o.is_sound() && o.train_excess() < start).last().map(|o| o.learning_rate)
}

fn stable_figure(run: &Run) -> Figure {
    let series = run.methods().map(|m| {
        let points = run.setting.config.kappas.iter().filter_map(|&kappa| Some((kappa, largest_stable(run, m, kappa)?)));
        Series::new(m.label(), Style::of(m.name()).solid()).line(points).mark_every(1)
    });
    let panel =
        Panel::new("", Axis::log("condition number of the input covariance"), Axis::log("largest stable learning rate"), series.collect());
    let subtitle = format!(
        "largest rate of a quarter-decade grid at which, as at all below, the train excess after {} steps is finite and below its start; one seed; 100 is the grid's end",
        run.setting.config.steps
    );
    Figure::new("Largest stable learning rate against anisotropy", subtitle, vec![panel])
}

fn stable_table(run: &Run) -> Table {
    let mut columns = vec![Column::text("method")];
    columns.extend(run.setting.config.kappas.iter().map(|kappa| Column::number(format!("kappa {kappa}"))));
    let mut table = Table::new("Largest stable learning rate", columns);
    for method in run.methods() {
        let cell = |&kappa: &f64| largest_stable(run, method, kappa).map_or("none".into(), |rate| rate.to_string());
        table.row(std::iter::once(method.label().to_owned()).chain(run.setting.config.kappas.iter().map(cell)));
    }
    table.note = "a rate counts as stable where it and all lower ones end sound, with a lower train excess than at the start".into();
    table
}

/// In the reference study (5 seeds, kappa 1000): decayed Adam .054 against decayed KFAC .005, constant KFAC .007.
fn verdicts(study: &Study, smoke: bool) -> Vec<Verdict> {
    let (Some(constant), Some(linear)) = (study.run("constant"), study.run("linear")) else { return Vec::new() };
    let kappa = constant.setting.config.kappas[0];
    let (steady, decayed) = (constant.distance(Method::Kfac, kappa), linear.distance(Method::Kfac, kappa));
    let factor = if smoke { 1.5 } else { 4.0 };
    vec![
        Verdict::at_most("constant: KFAC's distance", steady, if smoke { 0.1 } else { 0.03 }),
        Verdict::at_most("linear decay: KFAC's distance over that at a constant rate", decayed / steady, 1.2),
        Verdict::at_least("constant: Adam's distance over KFAC's", constant.distance(Method::Adam, kappa) / steady, factor),
        Verdict::at_least("linear decay: Adam's distance over KFAC's", linear.distance(Method::Adam, kappa) / decayed, factor),
    ]
}

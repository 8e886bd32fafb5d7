//! What damping, batch size, running averages and stale inverses do to KFAC.

use kit::study::{Metric, Run, Setting, Study, smoke};
use kit::{Axis, Column, Common, Experiment, Figure, NoArguments, Panel, Progress, Report, Result, Series, Style, Table, Verdict};
use layerwise::Context;
use layerwise::feature_learning::selection::Outcome;
use layerwise::feature_learning::{Damping, LinearRepresentation, LogPoints, Method};

const RATES: [f64; 3] = [1e-2, 3e-2, 1e-1];
const DECAYS: [f32; 2] = [0.0, 0.95];

/// The example.
#[derive(Debug)]
pub(crate) struct DampingStudy;

fn dampings(smoke: bool) -> Vec<f32> {
    if smoke { vec![1e-6, 1e-1] } else { vec![1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0] }
}

fn batches(smoke: bool) -> Vec<usize> {
    if smoke { vec![12, 128] } else { vec![16, 64, 128, 256, 1024] }
}

fn periods(smoke: bool) -> Vec<usize> {
    if smoke { vec![1, 10] } else { vec![1, 3, 10, 30, 100] }
}

/// Averages in words.
fn memory(decay: f32) -> String {
    if decay == 0.0 { "no averages".into() } else { format!("averages of decay {decay}") }
}

fn name(damping: f32, batch: usize, decay: f32) -> String {
    format!("damping {damping:e} at {batch} samples with {}", memory(decay))
}

fn period_name(period: usize, decay: f32) -> String {
    format!("refresh every {period} with {}", memory(decay))
}

fn settings(common: &Common) -> Vec<Setting> {
    let base = if common.smoke { smoke() } else { LinearRepresentation { seeds: 3, ..LinearRepresentation::default() } };
    let strong = if common.smoke { 100.0 } else { 1000.0 };
    let base = LinearRepresentation {
        seeds: common.seeds.unwrap_or(base.seeds),
        first_seed: common.seed,
        kappas: vec![strong],
        log_points: LogPoints::LogSpaced(12),
        ..base
    };
    let of = |name: String, config: LinearRepresentation| Setting {
        methods: vec![(Method::Kfac, RATES.to_vec())],
        ..Setting::new(name, config, [])
    };
    let mut list = Vec::new();
    for batch in batches(common.smoke) {
        for decay in DECAYS {
            for inputs in dampings(common.smoke) {
                let damping = Damping { inputs, decay, ..Damping::default() };
                list.push(of(name(inputs, batch, decay), LinearRepresentation { batch, damping, ..base.clone() }));
            }
        }
    }
    for decay in DECAYS {
        for precondition_every in periods(common.smoke) {
            let damping = Damping { decay, ..Damping::default() };
            list.push(of(period_name(precondition_every, decay), LinearRepresentation { precondition_every, damping, ..base.clone() }));
        }
    }
    list
}

impl Experiment for DampingStudy {
    const NAME: &'static str = "damping";
    const TITLE: &'static str = "KFAC's damping, batch size, running averages and refresh period";
    type Arguments = NoArguments;

    fn applies(common: &Common, _: &NoArguments) -> std::result::Result<(), String> {
        if common.seeds.is_some() { Err("--seeds is given, the thresholds belong to the example's own number".into()) } else { Ok(()) }
    }

    fn run(common: &Common, _: &NoArguments, context: &Context, progress: &Progress) -> Result<Report> {
        let mut report = Report::default();
        let study = Study::train(settings(common), context, progress, &mut report)?;
        for metric in [Metric::Distance, Metric::Transfer] {
            report.tables.push(grid(&study, common.smoke, metric));
        }
        report.tables.push(stale(&study, common.smoke));
        report.files.push(("damping.csv".into(), study.csv()));
        report.plots.push(("damping.svg".into(), against_damping(&study, common.smoke).svg()?));
        report.plots.push(("refresh_period.svg".into(), against_period(&study, common.smoke).svg()?));
        report.verdicts = verdicts(&study, common.smoke);
        Ok(report)
    }
}

/// The outcome at the rate that the train excess selects.
fn chosen(run: &Run) -> Option<&Outcome> {
    run.selected(Method::Kfac, run.setting.config.kappas[0])
}

fn value(outcome: Option<&Outcome>, metric: Metric) -> f64 {
    match (outcome, metric) {
        (None, _) => f64::NAN,
        (Some(o), Metric::Train) => o.train_excess(),
        (Some(o), Metric::Distance) => o.subspace_distance(),
        (Some(o), Metric::Transfer) => o.transfer_excess(),
    }
}

fn cell(outcome: Option<&Outcome>, metric: Metric) -> String {
    outcome.map_or("none".into(), |o| format!("{:.2e} ({})", value(Some(o), metric), o.learning_rate))
}

fn grid(study: &Study, smoke: bool, metric: Metric) -> Table {
    let mut columns = vec![Column::number("samples"), Column::text("averages")];
    columns.extend(dampings(smoke).iter().map(|d| Column::number(format!("damping {d:e}"))));
    let mut table = Table::new(format!("Final {} by batch size and damping", metric.label()), columns);
    for batch in batches(smoke) {
        for decay in DECAYS {
            let cells = dampings(smoke).into_iter().map(|d| cell(study.run(&name(d, batch, decay)).and_then(chosen), metric));
            table.row([batch.to_string(), memory(decay)].into_iter().chain(cells));
        }
    }
    table.note = "geometric means over seeds; in brackets the learning rate that the train excess selects; none: every rate had a seed that diverged or froze".into();
    table
}

fn stale(study: &Study, smoke: bool) -> Table {
    let columns = ["refresh every", "averages", "lr", "train excess", "distance", "transfer excess"];
    let mut table = Table::new("Stale inverses", columns.map(Column::number));
    for decay in DECAYS {
        for period in periods(smoke) {
            let outcome = study.run(&period_name(period, decay)).and_then(chosen);
            let mut cells = vec![period.to_string(), memory(decay), outcome.map_or("none".into(), |o| o.learning_rate.to_string())];
            cells.extend(Metric::ALL.map(|m| outcome.map_or("-".into(), |_| format!("{:.2e}", value(outcome, m)))));
            table.row(cells);
        }
    }
    table.note = "between two refreshes the inverses stay; averages gather at every step".into();
    table
}

fn against_damping(study: &Study, smoke: bool) -> Figure {
    let panel = |(decay, metric): (f32, Metric)| {
        let series = batches(smoke).into_iter().enumerate().map(|(i, batch)| {
            let points =
                dampings(smoke).into_iter().map(|d| (f64::from(d), value(study.run(&name(d, batch, decay)).and_then(chosen), metric)));
            Series::new(format!("{batch} samples"), Style::nth(i).solid()).line(points).mark_every(1)
        });
        let title = format!("{}, {}", metric.label(), memory(decay));
        Panel::new(title, Axis::log("damping on the second moment of the inputs"), Axis::log(""), series.collect())
    };
    let panels = DECAYS.into_iter().flat_map(|decay| [Metric::Distance, Metric::Transfer].map(|metric| panel((decay, metric))));
    let d_x = study.runs.first().map_or(0, |r| r.setting.config.d_x);
    let subtitle =
        format!("{d_x} inputs; learning rate selected by train excess; geometric means over seeds; gaps: every rate diverged or froze");
    Figure { columns: 2, ..Figure::new("KFAC's damping by batch size", subtitle, panels.collect()) }
}

fn against_period(study: &Study, smoke: bool) -> Figure {
    let panel = |metric: Metric| {
        let series = DECAYS.into_iter().zip(["kfac", "kfac_ema"]).map(|(decay, style)| {
            let points = periods(smoke).into_iter().map(|p| (p as f64, value(study.run(&period_name(p, decay)).and_then(chosen), metric)));
            Series::new(memory(decay), Style::of(style)).line(points).mark_every(1)
        });
        Panel::new(metric.label(), Axis::log("steps between two refreshes"), Axis::log(""), series.collect())
    };
    let subtitle = "learning rate selected by train excess; geometric means over seeds";
    Figure::new("KFAC with stale inverses", subtitle, Metric::ALL.map(panel).into())
}

fn verdicts(study: &Study, smoke: bool) -> Vec<Verdict> {
    let at = |damping: f32, batch: usize, decay: f32, metric| value(study.run(&name(damping, batch, decay)).and_then(chosen), metric);
    let best = |batch: usize, decay: f32| dampings(smoke).into_iter().map(|d| at(d, batch, decay, Metric::Train)).fold(f64::NAN, f64::min);
    let (small, large) = (batches(smoke)[0], batches(smoke)[batches(smoke).len() - 1]);
    let stale = |period: usize| value(study.run(&period_name(period, 0.0)).and_then(chosen), Metric::Distance);
    vec![
        Verdict::at_least(
            format!("{small} samples: least train excess over dampings without averages over that with them"),
            best(small, 0.0) / best(small, 0.95),
            if smoke { 1.0 } else { 1.5 },
        ),
        Verdict::at_most(
            format!("{large} samples: distance at the least damping, no averages"),
            at(dampings(smoke)[0], large, 0.0, Metric::Distance),
            if smoke { 0.1 } else { 0.03 },
        ),
        Verdict::at_most("refresh every 10 steps: distance over that with a refresh at every step", stale(10) / stale(1), 2.0),
    ]
}

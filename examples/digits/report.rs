//! Tables, CSV, plots and thresholds.

use std::fmt::Write as _;

use kit::{Axis, Column, Figure, Panel, Report, Result, Series, Style, Table, Verdict};

use super::Setting;
use super::contenders::RATES;
use super::data::{CLASSES, INPUTS, PARTS, TRAIN};
use super::features;
use super::network::COLUMNS;
use super::training::{Outcome, mean};

/// Columns of a log row.
const TRAIN_LOSS: usize = 0;
const VALIDATION_LOSS: usize = 2;
const TEST_HITS: usize = 5;

/// The train loss to which steps are counted.
const TARGET: f64 = 0.1;

/// Optimizers whose features are shown.
const PICTURED: [&str; 2] = ["sgd", "kfac"];

/// Steps until a trial's train loss is at [`TARGET`], between two log points by a power law; none where it never is.
fn steps_to_target(setting: &Setting, outcome: &Outcome, seed: usize, rate: usize) -> Option<f64> {
    let at = |point: usize| (setting.log_steps[point] as f64, outcome.at(seed, rate, point, TRAIN_LOSS));
    let reached = (0..setting.log_steps.len()).find(|&point| at(point).1 <= TARGET)?;
    let (step, loss) = at(reached);
    let Some((before, above)) = reached.checked_sub(1).map(at).filter(|(before, _)| *before > 0.0) else { return Some(step) };
    let share = (above / TARGET).ln() / (above / loss).ln();
    Some(before * (step / before).powf(share))
}

/// Geometric mean over seeds; none where one seed never gets there.
fn mean_steps(setting: &Setting, outcome: &Outcome, rate: usize) -> Option<f64> {
    let all: Option<Vec<f64>> = (0..outcome.seeds).map(|seed| steps_to_target(setting, outcome, seed, rate)).collect();
    all.map(|steps| mean(&steps.iter().map(|s| s.ln()).collect::<Vec<_>>()).exp())
}

fn table(setting: &Setting, outcomes: &[Outcome]) -> Table {
    let columns = [
        Column::text("optimizer"),
        Column::number("rate"),
        Column::number("train loss"),
        Column::number("validation loss"),
        Column::number("test accuracy"),
        Column::number("worst seed"),
        Column::number(format!("steps to train loss {TARGET}")),
    ];
    let mut table = Table::new("At the selected learning rate", columns);
    let last = setting.log_steps.len() - 1;
    for outcome in outcomes {
        let name = outcome.contender.label.to_owned();
        let Some(rate) = outcome.selected() else {
            table.row([name, "none is stable".to_owned()]);
            continue;
        };
        let average = |column: usize| mean(&outcome.over_seeds(rate, last, column));
        let edge = if rate == 0 || rate + 1 == outcome.rates.len() { "*" } else { "" };
        let hits = outcome.over_seeds(rate, last, TEST_HITS);
        table.row([
            name,
            format!("{}{edge}", outcome.rates[rate]),
            format!("{:.2e}", average(TRAIN_LOSS)),
            format!("{:.4}", average(VALIDATION_LOSS)),
            format!("{:.2} %", 100.0 * mean(&hits)),
            format!("{:.2} %", 100.0 * hits.iter().copied().fold(1.0, f64::min)),
            mean_steps(setting, outcome, rate).map_or("-".into(), |steps| format!("{steps:.0}")),
        ]);
    }
    table.note = format!(
        "Means over {} seeds (steps: geometric). Every optimizer had {} learning rates, half a decade apart; selected by the mean validation loss after {} steps. \
         A rate with * lies at the end of its range.",
        setting.sizes.seeds, setting.sizes.rates, setting.log_steps[last]
    );
    table
}

fn csv(setting: &Setting, outcomes: &[Outcome]) -> String {
    let mut out = String::from("method,learning_rate,seed,step");
    for (part, _) in PARTS {
        let _ = write!(out, ",{part}_loss,{part}_accuracy");
    }
    out.push('\n');
    for outcome in outcomes {
        for (rate, value) in outcome.rates.iter().enumerate() {
            for (seed, number) in (0..outcome.seeds).zip(setting.sizes.first_seed..) {
                for (point, step) in setting.log_steps.iter().enumerate() {
                    let _ = write!(out, "{},{value},{number},{step}", outcome.contender.name);
                    (0..COLUMNS).for_each(|column| {
                        let _ = write!(out, ",{:.6e}", outcome.at(seed, rate, point, column));
                    });
                    out.push('\n');
                }
            }
        }
    }
    out
}

/// Mean over seeds and the seeds' range of `value`, at each log point after the first.
fn series(setting: &Setting, outcome: &Outcome, x: &dyn Fn(usize) -> f64, value: &dyn Fn(usize, usize) -> f64) -> Series {
    let style = Style::of(outcome.contender.name);
    let Some(rate) = outcome.selected() else { return Series::new(format!("{}: no stable rate", outcome.contender.label), style) };
    let all = |point: usize| (0..outcome.seeds).map(|seed| value(seed * outcome.rates.len() + rate, point)).collect::<Vec<f64>>();
    let points = (1..setting.log_steps.len()).map(|point| (x(point), mean(&all(point))));
    Series::new(format!("{} ({})", outcome.contender.label, outcome.rates[rate]), style).line(points).mark_every(6)
}

fn figure(setting: &Setting, outcomes: &[Outcome], title: &str, label: &str, x: &dyn Fn(&Outcome, usize) -> f64) -> Figure {
    let panel = |name: &str, y: Axis, value: &dyn Fn(&Outcome, usize, usize) -> f64| {
        let curves = outcomes.iter().map(|o| series(setting, o, &|point| x(o, point), &|trial, point| value(o, trial, point)));
        Panel::new(name, Axis::log(label), y, curves.collect())
    };
    let cell = |o: &Outcome, trial: usize, point: usize, column: usize| o.at(trial / o.rates.len(), trial % o.rates.len(), point, column);
    let panels = vec![
        panel("cross-entropy on the training set", Axis::log(""), &|o, trial, point| cell(o, trial, point, TRAIN_LOSS)),
        panel("share of wrong answers on the test set", Axis::log(""), &|o, trial, point| 1.0 - cell(o, trial, point, TEST_HITS)),
    ];
    let subtitle = format!(
        "64 pixels to {} tanh units to {CLASSES} classes, {} samples a step; in brackets the learning rate, selected by validation loss among {}; means of {} seeds",
        setting.sizes.hidden, setting.sizes.batch, setting.sizes.rates, setting.sizes.seeds
    );
    Figure { panel_size: (600, 460), ..Figure::new(title, subtitle, panels) }
}

fn pictures(setting: &Setting, outcomes: &[Outcome]) -> Option<String> {
    let pictured = outcomes.iter().filter(|o| PICTURED.contains(&o.contender.name));
    let panels: Vec<_> = pictured.filter_map(|o| Some((o.contender.label.to_owned(), o.change(o.selected()?, INPUTS)))).collect();
    let subtitle = format!(
        "what {} steps added to the weights of each hidden unit, seed {}; grey is 0, each unit to its own scale",
        setting.log_steps.last()?,
        setting.sizes.first_seed
    );
    (!panels.is_empty()).then(|| features::svg("Learned first-layer features", &subtitle, &panels))
}

fn verdicts(setting: &Setting, outcomes: &[Outcome]) -> Vec<Verdict> {
    let last = setting.log_steps.len() - 1;
    let mut verdicts = Vec::new();
    for outcome in outcomes {
        let hits = outcome.selected().map_or(f64::NAN, |rate| mean(&outcome.over_seeds(rate, last, TEST_HITS)));
        let least = if setting.smoke { 0.5 } else { 0.9 };
        verdicts.push(Verdict::at_least(format!("{}: test accuracy", outcome.contender.label), hits, least));
    }
    let steps = |name: &str| {
        let outcome = outcomes.iter().find(|o| o.contender.name == name)?;
        mean_steps(setting, outcome, outcome.selected()?)
    };
    if !setting.smoke {
        let ratio = steps("kfac").zip(steps("sgd")).map_or(f64::NAN, |(kfac, sgd)| kfac / sgd);
        verdicts.push(Verdict::at_most(format!("KFAC's steps to train loss {TARGET} over SGD's"), ratio, 1.0));
    }
    verdicts
}

/// Everything but the durations.
pub(crate) fn report(setting: &Setting, outcomes: &[Outcome], timed: bool) -> Result<Report> {
    let mut report = Report::default();
    let sizes = setting.sizes;
    report.setting("network", format!("64 pixels, {} tanh units, {CLASSES} classes, biases as columns", sizes.hidden));
    report.setting("samples", format!("{TRAIN} to train, {} to select, {} to test, shuffled by seed", PARTS[1].1.len(), PARTS[2].1.len()));
    report.setting("batch", format!("{}, {} batches in the same order in each pass", sizes.batch, sizes.batches()));
    report.setting("steps", setting.log_steps.last().copied().unwrap_or(0));
    report.setting("seeds", format!("{} from {}", sizes.seeds, sizes.first_seed));
    report.setting("tuning budget", format!("{} of {RATES} learning rates for each optimizer, every one with every seed", sizes.rates));
    report.tables.push(table(setting, outcomes));
    report.files.push(("digits.csv".into(), csv(setting, outcomes)));
    let against_steps =
        figure(setting, outcomes, "Handwritten digits: learning curves", "steps", &|_, point| setting.log_steps[point] as f64);
    report.plots.push(("digits_curves.svg".into(), against_steps.svg()?));
    if timed {
        let trials = sizes.trials() as f64;
        let title = "Handwritten digits: learning curves in time";
        let label = "seconds of a training's share in the batched run";
        let against_time = figure(setting, outcomes, title, label, &|o, point| o.seconds.get(point).map_or(f64::NAN, |s| s / trials));
        report.plots.push(("digits_seconds.svg".into(), against_time.svg()?));
    }
    report.plots.extend(pictures(setting, outcomes).map(|svg| ("digits_features.svg".into(), svg)));
    report.verdicts = verdicts(setting, outcomes);
    Ok(report)
}

//! Learning curves per anisotropy, and the final distance against anisotropy.

use kit::{Axis, Figure, Panel, Result, Series, Style, label};
use layerwise::feature_learning::metrics::Measurement;
use layerwise::feature_learning::selection::{Outcome, geometric_mean};
use layerwise::feature_learning::{Record, theory};

use super::study::Study;

type Metric = fn(&Measurement) -> f64;

/// (step or anisotropy, metric by seed).
type Curve = Vec<(f64, Vec<f64>)>;

const TRANSFER: &str = "transfer excess";
const METRICS: [(&str, Metric); 3] =
    [("train excess (population)", |m| m.train_excess), ("subspace distance", |m| m.subspace_distance), (TRANSFER, |m| m.transfer_excess)];

fn setting(study: &Study) -> String {
    let c = &study.config;
    let covariance = if c.rotated { "rotated" } else { "axis-aligned" };
    format!(
        "{} to {} to {} dimensions, {covariance} covariances, {} samples a step, noise {}, {} learning rate; line: geometric mean of {} seeds, band: smallest to largest",
        c.d_x,
        c.k,
        c.d_y,
        c.batch,
        c.noise,
        c.schedule.name(),
        c.seeds
    )
}

/// Seeds of one outcome at each log point after step 0: (step, metric by seed).
fn curve(study: &Study, outcome: &Outcome, metric: Metric) -> Curve {
    let mut points = Curve::new();
    let mine = |r: &&Record| (r.method, r.kappa, r.learning_rate) == (outcome.method, outcome.kappa, outcome.learning_rate) && r.step > 0;
    for record in study.records.iter().filter(mine) {
        let step = record.step as f64;
        match points.last_mut() {
            Some((last, values)) if *last == step => values.push(metric(&record.measured)),
            _ => points.push((step, vec![metric(&record.measured)])),
        }
    }
    points
}

fn extremes(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), &v| (low.min(v), high.max(v)))
}

fn means(curve: &Curve) -> impl Iterator<Item = (f64, f64)> {
    curve.iter().map(|(x, seeds)| (*x, geometric_mean(seeds.iter().copied())))
}

fn spreads(curve: &Curve) -> impl Iterator<Item = (f64, f64, f64)> {
    curve.iter().map(|(x, seeds)| (*x, extremes(seeds).0, extremes(seeds).1))
}

fn curves(study: &Study, kappa: f64) -> Figure {
    let c = &study.config;
    let floor = theory::transfer_floor(c.d_y, c.k, c.noise, c.transfer_samples);
    let panel = |(title, metric): (&str, Metric)| {
        let series = study.methods.iter().map(|&method| {
            let style = Style::of(method.name()).solid();
            match study.selected(method, kappa) {
                None => Series::new(format!("{}: no stable rate", label(method.name())), style),
                Some(outcome) => {
                    let points = curve(study, outcome, metric);
                    let name = format!("{} (rate {})", label(method.name()), outcome.learning_rate);
                    Series::new(name, style).line(means(&points)).mark_every(5).band(spreads(&points))
                }
            }
        });
        let x = Axis::log("steps").range(1.0, (c.steps as f64).max(2.0));
        let panel = Panel::new(title, x, Axis::log(""), series.collect());
        if title == TRANSFER && floor > 0.0 { panel.level("true features", floor) } else { panel }
    };
    let title = format!("Learning curves at condition number {kappa} of the inputs");
    Figure::new(title, setting(study), METRICS.map(panel).into())
}

fn distance_against_kappa(study: &Study) -> Figure {
    let c = &study.config;
    let series = study.methods.iter().map(|&method| {
        let points = c.kappas.iter().filter_map(|&kappa| study.selected(method, kappa));
        let mut points: Curve = points.map(|o| (o.kappa, o.finals.iter().map(|f| f.measured.subspace_distance).collect())).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series::new(label(method.name()), Style::of(method.name()).solid()).line(means(&points)).mark_every(1).bars(spreads(&points))
    });
    let (low, high) = extremes(&c.kappas);
    let x = Axis::log("condition number of the input covariance").range(low / 1.6, high * 1.6);
    let panel = Panel::new("", x, Axis::log("subspace distance"), series.collect());
    let title = format!("Subspace distance after {} steps against anisotropy", c.steps);
    let subtitle = format!("rate selected by train excess; point: geometric mean of {} seeds, bar: smallest to largest", c.seeds);
    Figure::new(title, subtitle, vec![panel])
}

/// Every plot: (file name, SVG).
pub(super) fn all(study: &Study) -> Result<Vec<(String, String)>> {
    let mut plots = Vec::new();
    for &kappa in &study.config.kappas {
        plots.push((format!("curves_kappa_{kappa}.svg"), curves(study, kappa).svg()?));
    }
    plots.push(("distance_vs_kappa.svg".into(), distance_against_kappa(study).svg()?));
    Ok(plots)
}

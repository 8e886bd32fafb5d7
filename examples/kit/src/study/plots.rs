//! Learning curves and final metrics against a setting.

use layerwise::feature_learning::metrics::Measurement;
use layerwise::feature_learning::selection::{Outcome, geometric_mean};
use layerwise::feature_learning::{Method, Record, theory};

use super::{Run, describe};
use crate::plot::{Axis, Figure, Panel, Series, Style};

/// What is plotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Population train excess.
    Train,
    /// Subspace distance.
    Distance,
    /// Transfer excess.
    Transfer,
}

impl Metric {
    /// All three.
    pub const ALL: [Metric; 3] = [Metric::Train, Metric::Distance, Metric::Transfer];

    /// Its name on an axis.
    pub fn label(self) -> &'static str {
        match self {
            Metric::Train => "train excess (population)",
            Metric::Distance => "subspace distance",
            Metric::Transfer => "transfer excess",
        }
    }

    /// Its value.
    pub fn of(self, m: &Measurement) -> f64 {
        match self {
            Metric::Train => m.train_excess,
            Metric::Distance => m.subspace_distance,
            Metric::Transfer => m.transfer_excess,
        }
    }

    /// Its values over the seeds of an outcome.
    pub fn finals(self, outcome: &Outcome) -> Vec<f64> {
        outcome.finals.iter().map(|f| self.of(&f.measured)).collect()
    }
}

/// (abscissa, metric by seed).
type Curve = Vec<(f64, Vec<f64>)>;

/// Seeds of one outcome at each log point after step 0: (step, metric by seed).
fn curve(run: &Run, outcome: &Outcome, metric: Metric) -> Curve {
    let mut points = Curve::new();
    let mine = |r: &&Record| (r.method, r.kappa, r.learning_rate) == (outcome.method, outcome.kappa, outcome.learning_rate) && r.step > 0;
    for record in run.records.iter().filter(mine) {
        let step = record.step as f64;
        match points.last_mut() {
            Some((last, values)) if *last == step => values.push(metric.of(&record.measured)),
            _ => points.push((step, vec![metric.of(&record.measured)])),
        }
    }
    points
}

fn extremes(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), &v| (low.min(v), high.max(v)))
}

/// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
    2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// (lower end, geometric mean, upper end) of the 95 % confidence interval of the mean logarithm, by Student's t. One value has no interval.
pub fn confidence(values: &[f64]) -> (f64, f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| v.ln()).sum::<f64>() / n;
    if values.len() < 2 {
        return (mean.exp(), mean.exp(), mean.exp());
    }
    let variance = values.iter().map(|v| (v.ln() - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = STUDENT.get(values.len() - 2).copied().unwrap_or(1.96) * (variance / n).sqrt();
    ((mean - half).exp(), mean.exp(), (mean + half).exp())
}

/// All metrics of the selected outcomes against steps, each method a line with the range of its seeds.
pub fn curves(run: &Run, kappa: f64) -> Figure {
    let c = &run.setting.config;
    let floor = theory::transfer_floor(c.d_y, c.k, c.noise, c.transfer_samples);
    let panel = |metric: Metric| {
        let series = run.methods().map(|method| {
            let style = Style::of(method.name()).solid();
            match run.selected(method, kappa) {
                None => Series::new(format!("{}: no stable rate", method.label()), style),
                Some(outcome) => {
                    let points = curve(run, outcome, metric);
                    let means = points.iter().map(|(x, seeds)| (*x, geometric_mean(seeds.iter().copied())));
                    let spreads = points.iter().map(|(x, seeds)| (*x, extremes(seeds).0, extremes(seeds).1));
                    let name = format!("{} (rate {})", method.label(), outcome.learning_rate);
                    Series::new(name, style).line(means).mark_every(5).band(spreads)
                }
            }
        });
        let x = Axis::log("steps").range(1.0, (c.steps as f64).max(2.0));
        let panel = Panel::new(metric.label(), x, Axis::log(""), series.collect());
        if metric == Metric::Transfer && floor > 0.0 { panel.level("true features", floor) } else { panel }
    };
    let title = format!("Learning curves at condition number {kappa} of the inputs, {}", run.setting.name);
    let subtitle = format!("{}; line: geometric mean over seeds, band: smallest to largest", describe(c));
    Figure::new(title, subtitle, Metric::ALL.map(panel).into())
}

/// One metric against any abscissa: each method a line through the geometric means of (abscissa, its outcome there), bars from the smallest seed to the largest.
pub fn against<'a>(method: Method, metric: Metric, points: impl IntoIterator<Item = (f64, Option<&'a Outcome>)>) -> Series {
    let mut points: Curve = points.into_iter().filter_map(|(x, o)| o.map(|o| (x, metric.finals(o)))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let means: Vec<_> = points.iter().map(|(x, seeds)| (*x, geometric_mean(seeds.iter().copied()))).collect();
    let bars: Vec<_> = points.iter().map(|(x, seeds)| (*x, extremes(seeds).0, extremes(seeds).1)).collect();
    Series::new(method.label(), Style::of(method.name()).solid()).line(means).mark_every(1).bars(bars)
}

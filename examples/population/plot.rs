//! Steps against the condition of the covariance, and distances against steps. Lines are the closed forms, markers what was measured.

use kit::{Axis, Figure, Panel, Result, Series, Style, label};
use layerwise::feature_learning::Trajectory;
use layerwise::feature_learning::theory::kfac_contraction;

use super::{Row, Study};

fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut list: Vec<f64> = values.collect();
    list.sort_by(f64::total_cmp);
    list.dedup();
    list
}

/// Steps that a contraction by `rate` needs from distance 0.5 to `threshold`; one where a step kills the mode.
fn predicted_steps(rate: f64, threshold: f64) -> f64 {
    ((threshold / 0.5).ln() / rate.abs().max(1e-300).ln()).max(1.0)
}

fn steps(study: &Study) -> Figure {
    let threshold = study.config.threshold;
    let measured = |t: &Trajectory| study.arrival(t).map_or(f64::NAN, |n| n as f64);
    let conditions = distinct(study.rows.iter().map(|r| r.problem.head_condition));
    let mut series = Vec::new();
    for (i, &condition) in conditions.iter().enumerate() {
        let rows: Vec<&Row> = study.rows.iter().filter(|r| r.problem.head_condition == condition).collect();
        let style = [Style::of("amgd"), Style::of("sgd"), Style::of("adam")].get(i).copied().unwrap_or_else(|| Style::nth(i));
        series.push(
            Series::new(format!("AMGD, cond(F) {condition}"), style.solid())
                .line(rows.iter().map(|r| (r.problem.kappa, predicted_steps(r.predicted(), threshold))))
                .markers(rows.iter().map(|r| (r.problem.kappa, measured(&r.amgd)))),
        );
    }
    series.push(
        Series::new("KFAC, every cond(F)", Style::of("kfac"))
            .line(study.rows.iter().map(|r| (r.problem.kappa, predicted_steps(kfac_contraction(r.kfac.learning_rate), threshold))))
            .markers(study.rows.iter().map(|r| (r.problem.kappa, measured(&r.kfac)))),
    );
    let (low, high) = study.config.kappas.iter().fold((f64::INFINITY, 1.0f64), |(a, b), k| (a.min(*k), b.max(*k)));
    let x = Axis::log("condition number of the input covariance").range(low / 1.6, high * 1.6);
    let title = format!("Population steps from distance 0.5 to {threshold}");
    let subtitle = "marker: measured, all of the error on the weakest mode; line: closed form of the linearised dynamics (AMGD), of the exact ones (KFAC)";
    Figure::new(title, subtitle, vec![Panel::new("", x, Axis::log("steps"), series)])
}

fn curves(study: &Study) -> Figure {
    let conditions = distinct(study.rows.iter().map(|r| r.problem.head_condition));
    let panels = conditions.iter().map(|&condition| {
        let mut series = Vec::new();
        for (i, row) in study.rows.iter().filter(|r| r.problem.head_condition == condition).enumerate() {
            let style = [Style::of("amgd"), Style::of("sgd"), Style::of("adam")].get(i).copied().unwrap_or_else(|| Style::nth(i)).solid();
            let mut curve = |name: String, style: Style, t: &Trajectory, rate: f64| {
                let steps = study.logged(t);
                let last = steps.last().copied().unwrap_or(0);
                let theory = super::log_steps(last)
                    .into_iter()
                    .filter(|s| *s > 0)
                    .map(|s| (s as f64, 0.5 * rate.powi(i32::try_from(s).unwrap_or(i32::MAX))));
                let marks: Vec<usize> = steps.into_iter().filter(|s| *s > 0).collect();
                let shown = marks.iter().enumerate().filter(|(i, s)| i % 6 == 0 || **s == last).map(|(_, s)| (*s as f64, t.distances[*s]));
                let shown: Vec<_> = shown.collect();
                series.push(Series::new(name, style).line(theory.filter(|p| p.1 > 1e-5)).markers(shown));
            };
            curve(format!("AMGD, kappa {}", row.problem.kappa), style, &row.amgd, row.predicted());
            if i == 0 {
                curve(format!("{}, every kappa", label("kfac")), Style::of("kfac"), &row.kfac, kfac_contraction(row.kfac.learning_rate));
            }
        }
        Panel::new(
            format!("cond(F) = {condition}"),
            Axis::log("steps"),
            Axis::log(if condition == conditions[0] { "subspace distance" } else { "" }).range(5e-4, 1.0),
            series,
        )
    });
    let subtitle = "marker: measured at the fastest of four learning rates; line: 0.5 times the predicted rate to the power of the step";
    Figure::new("Population dynamics from the weakest mode", subtitle, panels.collect())
}

/// Every plot: (file name, SVG).
pub(super) fn all(study: &Study) -> Result<Vec<(String, String)>> {
    Ok(vec![("population_steps.svg".into(), steps(study).svg()?), ("population_curves.svg".into(), curves(study).svg()?)])
}

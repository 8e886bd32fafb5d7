//! Test error against the size of the step.

use kit::{Axis, Figure, Panel, Result, Series, Style};
use layerwise::feature_learning::Link;
use layerwise::feature_learning::ridge::{Family, Features, Trial, linear_floor};
use layerwise::feature_learning::theory::single_index::Spectrum;

use super::Study;

/// By size: test errors by seed of the heads that validation chose among those of that size.
fn by_size(study: &Study, spectrum: Spectrum, family: Family) -> Vec<(f64, Vec<f64>)> {
    let size = |t: &Trial| match t.features {
        Features::Sgd { size } | Features::Kfac { size, .. } => size,
        Features::Linear | Features::Random => f64::NAN,
    };
    let chosen = |wanted: f64, seed: u32| {
        let mine = |t: &&Trial| t.spectrum == spectrum && t.seed == seed && t.features.family() == family && size(t) == wanted;
        let best = study.trials.iter().filter(mine).min_by(|a, b| a.validation_error.total_cmp(&b.validation_error));
        best.map_or(f64::NAN, |t| t.test_error)
    };
    let seeds: Vec<u32> = (0..study.config.seeds).map(|i| study.config.item(i).1).collect();
    study.config.sizes.iter().map(|&s| (s, seeds.iter().map(|&seed| chosen(s, seed)).collect())).collect()
}

fn panel(study: &Study, spectrum: Spectrum) -> Panel {
    let sizes = &study.config.sizes;
    let (low, high) = sizes.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), &s| (low.min(s), high.max(s)));
    let stepped = |name: &str, style: Style, family: Family| {
        let points = by_size(study, spectrum, family);
        let mean = |errors: &[f64]| errors.iter().sum::<f64>() / errors.len() as f64;
        let ends = |errors: &[f64]| errors.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), &e| (low.min(e), high.max(e)));
        let bars = points.iter().map(|(s, e)| (*s, ends(e).0, ends(e).1)).collect::<Vec<_>>();
        Series::new(name, style).line(points.iter().map(|(s, e)| (*s, mean(e)))).mark_every(1).bars(bars)
    };
    let flat = |name: &str, style: Style, value: f64| Series::new(name, style).line([(low / 1.3, value), (high * 1.3, value)]);
    let series = vec![
        stepped("SGD step", Style::of("sgd").solid(), Family::Sgd),
        stepped("KFAC step", Style::of("kfac").solid(), Family::Kfac),
        flat("random features", Style::of("random_features"), study.mean(spectrum, Family::Random)),
        flat("linear model", Style::of("linear"), study.mean(spectrum, Family::Linear)),
        flat("floor of linear models", Style { colour: (0, 158, 115), ..Style::of("linear").dotted() }, linear_floor(study.config.teacher)),
    ];
    let x = Axis::log("size of the step: rms change of a pre-activation").range(low / 1.3, high * 1.3);
    Panel::new(spectrum.name().replace('_', " "), x, Axis::log("test error"), series)
}

fn title(link: Link) -> String {
    if link == Link::CentredRelu { "centred ReLU".into() } else { link.name() }
}

fn figure(study: &Study) -> Figure {
    let c = &study.config;
    let covariance = if c.rotated { "rotated" } else { "axis-aligned" };
    let subtitle = format!(
        "{} inputs, {} hidden units, {} samples for the step and {} for the head, noise {}, {covariance}; damping and ridge chosen on validation samples; mean and range of {} seeds",
        c.d_x, c.hidden, c.step_samples, c.fit_samples, c.noise, c.seeds
    );
    let panels = c.spectra.iter().map(|&spectrum| panel(study, spectrum)).collect();
    let mut figure = Figure::new(format!("One step, then ridge: {} teacher and student", title(c.teacher)), subtitle, panels);
    (figure.columns, figure.panel_size) = (2, (560, 390));
    figure
}

/// Every plot: (file name, SVG).
pub(super) fn all(studies: &[Study]) -> Result<Vec<(String, String)>> {
    studies.iter().map(|s| Ok((format!("test_error_{}.svg", s.config.teacher.name()), figure(s).svg()?))).collect()
}

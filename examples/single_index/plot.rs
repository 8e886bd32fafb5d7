//! Alignment against anisotropy, against damping, and against its prediction. Lines are theory, markers simulation.

use kit::plot::Marker;
use kit::{Axis, Figure, Panel, Result, Series, Style};
use layerwise::feature_learning::Link;
use layerwise::feature_learning::single_index::Direction;
use layerwise::feature_learning::theory::single_index::{SingleIndexTheory, Spectrum};

use super::POWER_LAW;
use super::study::{Group, Point, Study};

fn settings(study: &Study) -> String {
    study.base.as_ref().map_or_else(String::new, |c| {
        let covariance = if c.rotated { "rotated" } else { "axis-aligned" };
        let (student, noise, seeds) = (c.student.name(), c.noise, c.seeds);
        format!(
            "{} inputs, {} hidden units, {student} student, noise {noise}, {covariance}; line: theory, marker: mean of {seeds} seeds, bar: smallest to largest",
            c.d_x, c.hidden
        )
    })
}

fn title(link: Link) -> String {
    format!("{} teacher", if link == Link::CentredRelu { "centred ReLU".into() } else { link.name() })
}

fn points<'a>(list: impl Iterator<Item = &'a Point> + Clone, x: impl Fn(&Point) -> f64 + Copy, series: Series) -> Series {
    let bars = list.clone().map(move |p| (x(p), p.extremes().0, p.extremes().1)).collect::<Vec<_>>();
    series.markers(list.map(|p| (x(p), p.mean())).collect::<Vec<_>>()).bars(bars)
}

fn level(p: &Point) -> f64 {
    if let Spectrum::TwoLevel(eps) = p.spectrum { eps } else { f64::NAN }
}

fn kfac_small() -> Style {
    Style::of("kfac").dashed().hollow().marked(Marker::Square)
}

fn against_anisotropy(study: &Study) -> Figure {
    let samples = study.base.as_ref().map_or(1, |b| b.samples);
    let steps: Vec<f64> = (0..=99).map(|i| f64::from(i) / 100.0).collect();
    let panel = |teacher: Link| {
        type Form = fn(&SingleIndexTheory) -> f64;
        let line = |form: Form| {
            let value = |&eps: &f64| study.theory(teacher, Spectrum::TwoLevel(eps), samples).map(|t| (eps, form(&t)));
            steps.iter().filter_map(value).collect::<Vec<_>>()
        };
        let forms: [(&str, Style, Option<Direction>, Form); 4] = [
            ("SGD", Style::of("sgd").solid(), Some(Direction::Sgd), SingleIndexTheory::sgd),
            ("KFAC, best damping", Style::of("kfac").solid(), Some(Direction::KfacBest), |t| t.best_damping().1),
            ("KFAC, damping 0.001", kfac_small(), Some(Direction::Kfac(1e-3)), |t| t.kfac(1e-3)),
            ("SGD, infinite data", Style::of("sgd").dotted(), None, SingleIndexTheory::sgd_infinite_data),
        ];
        let series = forms.into_iter().map(|(name, style, direction, form)| {
            let mine = study.of(Group::Anisotropy).filter(move |p| p.teacher == teacher && Some(p.direction) == direction);
            points(mine, level, Series::new(name, style).line(line(form)))
        });
        let x = Axis::linear("eps: half of the eigenvalues 1 + eps, half 1 - eps").range(-0.02, 1.02);
        Panel::new(title(teacher), x, Axis::linear("cosine with the target").range(0.3, 1.0), series.collect())
    };
    let panels = [Link::Tanh, Link::CentredRelu].map(panel).into();
    let mut figure = Figure::new("Alignment of one step against anisotropy", format!("{samples} samples, {}", settings(study)), panels);
    figure.panel_size = (560, 430);
    figure
}

fn against_damping(study: &Study) -> Figure {
    let exponents: Vec<f64> = (0..=100).map(|i| f64::from(i) / 20.0 - 3.0).collect();
    let panel = |samples: usize| {
        let theory = study.theory(Link::Tanh, Spectrum::TwoLevel(0.9), samples);
        let line = |form: &dyn Fn(&SingleIndexTheory, f64) -> f64| {
            let value = |&e: &f64| theory.as_ref().map(|t| (10f64.powf(e), form(t, 10f64.powf(e))));
            exponents.iter().filter_map(value).collect::<Vec<_>>()
        };
        let mine = study.of(Group::Damping).filter(move |p| p.samples == samples);
        let kfac = mine.clone().filter(|p| p.damping.is_some());
        let sgd = mine.clone().filter(|p| p.direction == Direction::Sgd);
        let series = vec![
            points(kfac, |p| p.damping.unwrap_or(f64::NAN), Series::new("KFAC", Style::of("kfac").solid()).line(line(&|t, l| t.kfac(l)))),
            points(
                sgd,
                |_| 250.0,
                Series::new("SGD (no damping; marker at the right)", Style::of("sgd").dashed()).line(line(&|t, _| t.sgd())),
            ),
        ];
        let phi = mine.clone().map(|p| p.phi).next().unwrap_or(f64::NAN);
        let axis = Axis::log("damping").range(7e-4, 400.0);
        Panel::new(
            format!("{samples} samples, dimension over samples {phi:.3}"),
            axis,
            Axis::linear("cosine with the target").range(0.3, 1.0),
            series,
        )
    };
    let panels: Vec<Panel> = study.samples(Group::Damping).into_iter().map(panel).collect();
    let mut figure = Figure::new("Alignment of one step against damping, two levels 0.9, tanh teacher", settings(study), panels);
    (figure.columns, figure.panel_size) = (2, (560, 380));
    figure
}

fn against_prediction(study: &Study) -> Figure {
    let mine = |broken: bool, kfac: bool| {
        let all = study.of(Group::Table).filter(move |p| p.theory.is_some() && (p.spectrum == POWER_LAW) == broken);
        all.filter(move |p| if kfac { p.damping.is_some() } else { p.direction == Direction::Sgd })
    };
    let predicted = |p: &Point| p.theory.unwrap_or(f64::NAN);
    let mut series = vec![Series::new("equal", Style::of("linear").dashed()).line([(0.2, 0.2), (1.0, 1.0)])];
    for (name, style, broken, kfac) in [
        ("SGD, bounded spectra", Style::of("sgd"), false, false),
        ("KFAC, bounded spectra", Style::of("kfac"), false, true),
        ("SGD, power law", Style::of("sgd").hollow().marked(Marker::Up), true, false),
        ("KFAC, power law", Style::of("kfac").hollow().marked(Marker::Down), true, true),
    ] {
        series.push(points(mine(broken, kfac), predicted, Series::new(name, style)));
    }
    let axis = |name: &str| Axis::linear(name).range(0.2, 1.0);
    let panel = Panel::new("", axis("predicted cosine"), axis("simulated cosine"), series);
    let mut figure =
        Figure::new("Where the closed forms hold, and where they break", settings(study).replace("line: theory, ", ""), vec![panel]);
    figure.panel_size = (720, 560);
    figure
}

/// Every plot: (file name, SVG).
pub(super) fn all(study: &Study) -> Result<Vec<(String, String)>> {
    Ok(vec![
        ("alignment_vs_anisotropy.svg".into(), against_anisotropy(study).svg()?),
        ("alignment_vs_damping.svg".into(), against_damping(study).svg()?),
        ("simulation_vs_theory.svg".into(), against_prediction(study).svg()?),
    ])
}

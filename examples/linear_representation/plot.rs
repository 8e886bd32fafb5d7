//! SVG plots: learning curves per anisotropy, and the final distance against anisotropy.
#![allow(clippy::cast_possible_truncation, reason = "pixels, decades and small counts")]

use std::path::Path;

use layerwise::feature_learning::Method;
use layerwise::feature_learning::metrics::Measurement;
use layerwise::feature_learning::selection::{Outcome, geometric_mean};
use layerwise::feature_learning::theory;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::Study;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = Result<T, Box<dyn std::error::Error>>;
type Metric = fn(&Measurement) -> f64;

/// (step or anisotropy, metric by seed).
type Curve = Vec<(f64, Vec<f64>)>;

const INK: RGBColor = RGBColor(45, 45, 45);
const GRID: RGBColor = RGBColor(222, 222, 222);
const FONT: &str = "Helvetica, Arial, sans-serif";

/// Distinct for the colour-blind (Okabe and Ito's palette); markers tell the curves apart without colour.
fn colour(method: Method) -> RGBColor {
    match method {
        Method::Sgd => RGBColor(213, 94, 0),
        Method::Amgd => RGBColor(230, 159, 0),
        Method::AmgdSplit => RGBColor(150, 110, 0),
        Method::Dfw => RGBColor(0, 158, 115),
        Method::Adam => RGBColor(204, 121, 167),
        Method::Kfac => RGBColor(0, 114, 178),
        Method::KfacLs => RGBColor(0, 60, 100),
        Method::Foof => RGBColor(86, 180, 233),
        Method::BnInSgd => RGBColor(90, 90, 90),
    }
}

fn label(method: Method) -> &'static str {
    match method {
        Method::Sgd => "SGD",
        Method::Amgd => "AMGD",
        Method::AmgdSplit => "AMGD, split batch",
        Method::Dfw => "DFW",
        Method::Adam => "Adam",
        Method::Kfac => "KFAC",
        Method::KfacLs => "KFAC-LS",
        Method::Foof => "FOOF",
        Method::BnInSgd => "BN-input + SGD",
    }
}

/// Corners of a method's marker around the origin, for a polygon; empty for a disc.
fn marker(method: Method) -> &'static [(i32, i32)] {
    match method {
        Method::Sgd | Method::BnInSgd => &[],
        Method::Amgd | Method::AmgdSplit => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
        Method::Adam => &[(0, -5), (5, 4), (-5, 4)],
        Method::Kfac | Method::KfacLs => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
        Method::Foof | Method::Dfw => &[(0, 5), (5, -4), (-5, -4)],
    }
}

fn draw_marker(area: &Area<'_>, at: (i32, i32), method: Method) -> Drawn {
    let fill = colour(method).filled();
    match marker(method) {
        [] => area.draw(&Circle::new(at, 4, fill))?,
        corners => area.draw(&Polygon::new(corners.iter().map(|c| (at.0 + c.0, at.1 + c.1)).collect::<Vec<_>>(), fill))?,
    }
    Ok(())
}

fn text(size: i32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

fn anchored(size: i32, h: HPos, v: VPos) -> TextStyle<'static> {
    text(size).pos(Pos::new(h, v))
}

/// `10^-3` in superscripts for powers of ten, nothing for what lies between.
fn power(x: f64) -> String {
    let exponent = x.log10();
    if (exponent - exponent.round()).abs() > 1e-6 {
        return String::new();
    }
    match exponent.round() {
        0.0 => "1".into(),
        1.0 => "10".into(),
        e => {
            let digits = format!("{e:.0}");
            let raised: String = digits
                .chars()
                .map(|c| match c {
                    '-' => '⁻',
                    '1' => '¹',
                    '2' => '²',
                    '3' => '³',
                    d => char::from_u32('⁰' as u32 + d as u32 - '0' as u32).unwrap_or(d),
                })
                .collect();
            format!("10{raised}")
        }
    }
}

/// The decades that hold all values, and at least one.
fn decades(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) =
        values.filter(|v| v.is_finite() && *v > 0.0).fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.1..1.0;
    }
    // Half-decade steps use the space better than whole ones.
    let (low, high) = ((2.0 * low.log10()).floor() / 2.0, (2.0 * high.log10() - 0.02).ceil() / 2.0);
    10f64.powf(low)..10f64.powf(high.max(low + 1.0))
}

/// Where a log-log panel puts its data.
struct Panel<'a, 'b> {
    area: &'a Area<'b>,
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl<'a, 'b> Panel<'a, 'b> {
    /// Draws title, axes and grid lines at decades (fainter ones at 2 to 9).
    fn new(area: &'a Area<'b>, title: &str, x_label: &str, x: std::ops::Range<f64>, y: std::ops::Range<f64>) -> Drawn<Self> {
        let (width, height) = area.dim_in_pixel();
        let panel = Panel { area, x, y, left: 64, right: width as i32 - 14, top: 34, bottom: height as i32 - 52 };
        let (left, right, top, bottom) = (panel.left, panel.right, panel.top, panel.bottom);
        area.draw(&Text::new(title.to_owned(), ((left + right) / 2, 8), anchored(17, HPos::Center, VPos::Top)))?;
        area.draw(&Text::new(x_label.to_owned(), ((left + right) / 2, bottom + 30), anchored(15, HPos::Center, VPos::Top)))?;
        for value in ticks(&panel.y) {
            let at = panel.y_pixel(value);
            let name = power(value);
            let style = if name.is_empty() { GRID.mix(0.45) } else { GRID.to_rgba() };
            area.draw(&PathElement::new([(left, at), (right, at)], style))?;
            area.draw(&Text::new(name, (left - 7, at), anchored(14, HPos::Right, VPos::Center)))?;
        }
        for value in ticks(&panel.x) {
            let at = panel.x_pixel(value);
            let name = power(value);
            let style = if name.is_empty() { GRID.mix(0.45) } else { GRID.to_rgba() };
            area.draw(&PathElement::new([(at, top), (at, bottom)], style))?;
            area.draw(&Text::new(name, (at, bottom + 7), anchored(14, HPos::Center, VPos::Top)))?;
        }
        area.draw(&Rectangle::new([(left, top), (right, bottom)], INK.stroke_width(1)))?;
        Ok(panel)
    }

    fn x_pixel(&self, x: f64) -> i32 {
        let share = (x / self.x.start).ln() / (self.x.end / self.x.start).ln();
        self.left + (share * f64::from(self.right - self.left)).round() as i32
    }

    fn y_pixel(&self, y: f64) -> i32 {
        let share = (y.clamp(self.y.start, self.y.end) / self.y.start).ln() / (self.y.end / self.y.start).ln();
        self.bottom - (share * f64::from(self.bottom - self.top)).round() as i32
    }

    fn line(&self, points: &[(f64, f64)], method: Method, every: usize) -> Drawn {
        let pixels: Vec<_> = points.iter().map(|p| (self.x_pixel(p.0), self.y_pixel(p.1))).collect();
        self.area.draw(&PathElement::new(pixels.clone(), colour(method).stroke_width(2)))?;
        for (i, &at) in pixels.iter().enumerate() {
            if (pixels.len() - 1 - i).is_multiple_of(every) {
                draw_marker(self.area, at, method)?;
            }
        }
        Ok(())
    }

    /// A dashed level with its name above the left end.
    fn level(&self, y: f64, name: &str) -> Drawn {
        let at = self.y_pixel(y);
        for x in (self.left..self.right).step_by(9) {
            self.area.draw(&PathElement::new([(x, at), ((x + 5).min(self.right), at)], INK.mix(0.7)))?;
        }
        self.area.draw(&Text::new(name.to_owned(), (self.left + 6, at - 3), anchored(13, HPos::Left, VPos::Bottom)))?;
        Ok(())
    }

    fn band(&self, band: &[(f64, f64, f64)], method: Method) -> Drawn {
        let up = band.iter().map(|b| (self.x_pixel(b.0), self.y_pixel(b.2)));
        let back = band.iter().rev().map(|b| (self.x_pixel(b.0), self.y_pixel(b.1)));
        self.area.draw(&Polygon::new(up.chain(back).collect::<Vec<_>>(), colour(method).mix(0.16).filled()))?;
        Ok(())
    }
}

fn ticks(range: &std::ops::Range<f64>) -> Vec<f64> {
    let (first, last) = (range.start.log10().floor() as i32, range.end.log10().ceil() as i32);
    (first..=last)
        .flat_map(|e| (1..10).map(move |d| f64::from(d) * 10f64.powi(e)))
        .filter(|v| *v >= range.start * 0.999 && *v <= range.end * 1.001)
        .collect()
}

/// Title, sub-title and legend; returns the area below them.
fn header<'a>(root: &Area<'a>, title: &str, subtitle: &str, entries: &[(Method, String)], height: u32) -> Drawn<Area<'a>> {
    root.fill(&WHITE)?;
    root.draw(&Text::new(title.to_owned(), (20, 14), anchored(22, HPos::Left, VPos::Top)))?;
    root.draw(&Text::new(subtitle.to_owned(), (20, 44), anchored(14, HPos::Left, VPos::Top)))?;
    let (mut at, mut row) = (22, 82);
    let width = root.dim_in_pixel().0 as i32;
    for (method, name) in entries {
        let room = 56 + 8 * name.chars().count() as i32;
        if at + room > width {
            (at, row) = (22, row + 22);
        }
        root.draw(&PathElement::new([(at, row), (at + 30, row)], colour(*method).stroke_width(2)))?;
        draw_marker(root, (at + 15, row), *method)?;
        root.draw(&Text::new(name.clone(), (at + 38, row), anchored(15, HPos::Left, VPos::Center)))?;
        at += room;
    }
    Ok(root.split_vertically(height).1)
}

/// Height of title and legend for this many entries of `width` pixels.
fn header_height(entries: usize, per_row: usize) -> u32 {
    96 + 22 * (entries.div_ceil(per_row).max(1) as u32 - 1)
}

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
    let mine = |r: &&layerwise::feature_learning::Record| {
        (r.method, r.kappa, r.learning_rate) == (outcome.method, outcome.kappa, outcome.learning_rate) && r.step > 0
    };
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

const TRANSFER: &str = "transfer excess";
const METRICS: [(&str, Metric); 3] =
    [("train excess (population)", |m| m.train_excess), ("subspace distance", |m| m.subspace_distance), (TRANSFER, |m| m.transfer_excess)];

fn curves(study: &Study, kappa: f64, path: &Path) -> Drawn {
    let chosen: Vec<(Method, Option<&Outcome>)> = study.methods.iter().map(|&m| (m, study.selected(m, kappa))).collect();
    let entries: Vec<(Method, String)> = chosen
        .iter()
        .map(|(m, o)| (*m, o.map_or(format!("{}: no stable rate", label(*m)), |o| format!("{} (rate {})", label(*m), o.learning_rate))))
        .collect();
    let height = header_height(entries.len(), 6);
    let root = SVGBackend::new(path, (1320, 430 + height)).into_drawing_area();
    let body = header(&root, &format!("Learning curves at condition number {kappa} of the inputs"), &setting(study), &entries, height)?;
    let panels = body.margin(4, 4, 8, 8).split_evenly((1, 3));
    for (area, (title, metric)) in panels.iter().zip(METRICS) {
        let data: Vec<(Method, Curve)> = chosen.iter().filter_map(|(m, o)| o.map(|o| (*m, curve(study, o, metric)))).collect();
        let c = &study.config;
        let floor = (title == TRANSFER).then(|| theory::transfer_floor(c.d_y, c.k, c.noise, c.transfer_samples)).filter(|f| *f > 0.0);
        let range = decades(data.iter().flat_map(|(_, c)| c.iter().flat_map(|p| p.1.iter().copied())).chain(floor));
        let panel = Panel::new(area, title, "steps", 1.0..(study.config.steps as f64).max(2.0), range)?;
        if let Some(floor) = floor {
            panel.level(floor, "true features")?;
        }
        for (method, points) in &data {
            let band: Vec<_> = points.iter().map(|(x, seeds)| (*x, extremes(seeds).0, extremes(seeds).1)).collect();
            panel.band(&band, *method)?;
        }
        for (method, points) in &data {
            let line: Vec<_> = points.iter().map(|(x, seeds)| (*x, geometric_mean(seeds.iter().copied()))).collect();
            panel.line(&line, *method, 5)?;
        }
    }
    root.present()?;
    Ok(())
}

fn distance_against_kappa(study: &Study, path: &Path) -> Drawn {
    let entries: Vec<(Method, String)> = study.methods.iter().map(|&m| (m, label(m).to_owned())).collect();
    let height = header_height(entries.len(), 6);
    let root = SVGBackend::new(path, (820, 480 + height)).into_drawing_area();
    let c = &study.config;
    let title = format!("Subspace distance after {} steps against anisotropy", c.steps);
    let subtitle = format!("rate selected by train excess; point: geometric mean of {} seeds, bar: smallest to largest", c.seeds);
    let body = header(&root, &title, &subtitle, &entries, height)?.margin(4, 4, 8, 8);
    let mut data = Vec::new();
    for &method in &study.methods {
        let points = c.kappas.iter().filter_map(|&kappa| study.selected(method, kappa)).map(|o| {
            let seeds: Vec<f64> = o.finals.iter().map(|f| f.measured.subspace_distance).collect();
            (o.kappa, seeds)
        });
        let mut points: Curve = points.collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        data.push((method, points));
    }
    let (low, high) = extremes(&c.kappas);
    let range = decades(data.iter().flat_map(|(_, c)| c.iter().flat_map(|p| p.1.iter().copied())));
    let panel = Panel::new(&body, "", "condition number of the input covariance", low / 1.6..high * 1.6, range)?;
    for (method, points) in &data {
        for (x, seeds) in points {
            let (low, high) = extremes(seeds);
            let at = panel.x_pixel(*x);
            let ends = [(at, panel.y_pixel(low)), (at, panel.y_pixel(high))];
            panel.area.draw(&PathElement::new(ends, colour(*method).stroke_width(1)))?;
            for (x, y) in ends {
                panel.area.draw(&PathElement::new([(x - 4, y), (x + 4, y)], colour(*method).stroke_width(1)))?;
            }
        }
        let line: Vec<_> = points.iter().map(|(x, seeds)| (*x, geometric_mean(seeds.iter().copied()))).collect();
        if !line.is_empty() {
            panel.line(&line, *method, 1)?;
        }
    }
    root.present()?;
    Ok(())
}

/// Writes every plot into `out`; returns the file names.
pub(crate) fn write_all(study: &Study, out: &Path) -> Drawn<Vec<String>> {
    let mut names = Vec::new();
    for &kappa in &study.config.kappas {
        let name = format!("curves_kappa_{kappa}.svg");
        curves(study, kappa, &out.join(&name))?;
        names.push(name);
    }
    let name = "distance_vs_kappa.svg".to_owned();
    distance_against_kappa(study, &out.join(&name))?;
    names.push(name);
    Ok(names)
}

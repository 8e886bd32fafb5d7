//! Figures onto plotters' SVG backend. Axes and layout are ours, in whole pixels.
#![allow(clippy::cast_possible_truncation, reason = "pixels")]

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Span;
use super::style::{Dash, Marker, Style};
use super::words::{width, wrap};
use super::{Entry, Figure, Panel};
use crate::Result;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Pixel = (i32, i32);

const INK: RGBColor = RGBColor(45, 45, 45);
const GRID: RGBColor = RGBColor(222, 222, 222);
const FONT: &str = "Helvetica, Arial, sans-serif";

/// Space at the left and right of title, subtitle and legend.
const MARGIN: i32 = 20;
const TITLE: i32 = 22;
const SUBTITLE: i32 = 14;
const LEGEND: i32 = 15;
const TICKS: i32 = 14;
const LABEL: i32 = 15;

fn colour(style: Style) -> RGBColor {
    RGBColor(style.colour.0, style.colour.1, style.colour.2)
}

fn anchored(size: i32, h: HPos, v: VPos) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK).pos(Pos::new(h, v))
}

fn write(area: &Area<'_>, text: &str, at: Pixel, size: i32, h: HPos, v: VPos) -> Result<()> {
    Ok(area.draw(&Text::new(text.to_owned(), at, anchored(size, h, v)))?)
}

pub(super) fn figure(figure: &Figure) -> Result<String> {
    let columns = figure.columns.clamp(1, figure.panels.len().max(1));
    let rows = figure.panels.len().div_ceil(columns).max(1);
    let total = (columns as u32 * figure.panel_size.0).max(480);
    let heading = Heading::new(figure, total as i32);
    let mut svg = String::new();
    {
        let size = (total, heading.height + rows as u32 * figure.panel_size.1);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        heading.draw(&root)?;
        let body = root.split_vertically(heading.height).1.margin(4, 4, 8, 8);
        for (area, panel) in body.split_evenly((rows, columns)).iter().zip(&figure.panels) {
            draw_panel(area, panel)?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Title, subtitle and legend, laid out.
struct Heading {
    lines: Vec<(String, i32, i32)>,
    legend: Vec<(Entry, Pixel)>,
    height: u32,
}

impl Heading {
    fn new(figure: &Figure, total: i32) -> Self {
        let (mut lines, mut y) = (Vec::new(), 14);
        for (text, size, advance) in [(&figure.title, TITLE, 28), (&figure.subtitle, SUBTITLE, 17)] {
            for line in wrap(text, size, total - 2 * MARGIN) {
                lines.push((line, size, y));
                y += advance;
            }
        }
        let (mut legend, mut x, mut row) = (Vec::new(), MARGIN, y + 18);
        for entry in figure.legend() {
            let room = 38 + width(&entry.label, LEGEND) + 20;
            if x > MARGIN && x + room > total {
                (x, row) = (MARGIN, row + 22);
            }
            legend.push((entry, (x, row)));
            x += room;
        }
        let height = if legend.is_empty() { y + 4 } else { row + 18 };
        Heading { lines, legend, height: height.unsigned_abs() }
    }

    fn draw(&self, root: &Area<'_>) -> Result<()> {
        for (line, size, y) in &self.lines {
            write(root, line, (MARGIN, *y), *size, HPos::Left, VPos::Top)?;
        }
        for (entry, (x, y)) in &self.legend {
            if entry.line {
                stroke(root, &[(*x, *y), (x + 30, *y)], entry.style)?;
            }
            if entry.marker {
                draw_marker(root, (x + 15, *y), entry.style)?;
            }
            write(root, &entry.label, (x + 38, *y), LEGEND, HPos::Left, VPos::Center)?;
        }
        Ok(())
    }
}

/// Joins pixels, with the dashes of the style.
fn stroke(area: &Area<'_>, pixels: &[Pixel], style: Style) -> Result<()> {
    let ink = colour(style).stroke_width(2);
    let (on, off) = match style.dash {
        Dash::Solid => {
            area.draw(&PathElement::new(pixels.to_vec(), ink))?;
            return Ok(());
        }
        Dash::Dashed => (9.0, 5.0),
        Dash::Dotted => (3.0, 4.0),
    };
    // A dash may go around corners: it is a path of its own.
    let (mut drawing, mut left) = (true, on);
    let mut dash: Vec<Pixel> = pixels.first().copied().into_iter().collect();
    for pair in pixels.windows(2) {
        let (from, to) = ((f64::from(pair[0].0), f64::from(pair[0].1)), (f64::from(pair[1].0), f64::from(pair[1].1)));
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let mut done = 0.0;
        while length - done > left {
            done += left;
            let share = done / length;
            let at = ((from.0 + share * (to.0 - from.0)).round() as i32, (from.1 + share * (to.1 - from.1)).round() as i32);
            if drawing {
                dash.push(at);
                area.draw(&PathElement::new(std::mem::take(&mut dash), ink))?;
            } else {
                dash = vec![at];
            }
            drawing = !drawing;
            left = if drawing { on } else { off };
        }
        left -= length - done;
        if drawing {
            dash.push(pair[1]);
        }
    }
    if drawing && dash.len() > 1 {
        area.draw(&PathElement::new(dash, ink))?;
    }
    Ok(())
}

fn draw_marker(area: &Area<'_>, at: Pixel, style: Style) -> Result<()> {
    let corners: &[Pixel] = match style.marker {
        Marker::Circle => &[],
        Marker::Square => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
        Marker::Diamond => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
        Marker::Up => &[(0, -5), (5, 4), (-5, 4)],
        Marker::Down => &[(0, 5), (5, -4), (-5, -4)],
        Marker::Pentagon => &[(0, -6), (6, -1), (4, 5), (-4, 5), (-6, -1)],
        Marker::Cross => &[(-4, -4), (4, 4), (4, -4), (-4, 4)],
        Marker::Plus => &[(-5, 0), (5, 0), (0, -5), (0, 5)],
    };
    let moved: Vec<Pixel> = corners.iter().map(|c| (at.0 + c.0, at.1 + c.1)).collect();
    let (ink, outline) = (colour(style), colour(style).stroke_width(2));
    match style.marker {
        Marker::Cross | Marker::Plus => {
            for line in moved.chunks(2) {
                area.draw(&PathElement::new(line.to_vec(), outline))?;
            }
        }
        Marker::Circle if style.filled => area.draw(&Circle::new(at, 4, ink.filled()))?,
        Marker::Circle => {
            area.draw(&Circle::new(at, 4, WHITE.filled()))?;
            area.draw(&Circle::new(at, 4, outline))?;
        }
        _ if style.filled => area.draw(&Polygon::new(moved, ink.filled()))?,
        _ => {
            area.draw(&Polygon::new(moved.clone(), WHITE.filled()))?;
            let closed: Vec<Pixel> = moved.iter().chain(moved.first()).copied().collect();
            area.draw(&PathElement::new(closed, outline))?;
        }
    }
    Ok(())
}

/// Where a panel puts its data.
struct Frame {
    x: Span,
    y: Span,
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Frame {
    fn column(&self, x: f64) -> Option<i32> {
        let share = self.x.share(x).filter(|s| (-1e-6..=1.0 + 1e-6).contains(s))?;
        Some(self.left + (share * f64::from(self.right - self.left)).round() as i32)
    }

    /// What lies beyond the frame is drawn on its edge.
    fn row(&self, y: f64) -> Option<i32> {
        let share = self.y.share(y)?.clamp(0.0, 1.0);
        Some(self.bottom - (share * f64::from(self.bottom - self.top)).round() as i32)
    }

    fn pixel(&self, (x, y): (f64, f64)) -> Option<Pixel> {
        Some((self.column(x)?, self.row(y)?))
    }
}

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Result<()> {
    let (total, height) = area.dim_in_pixel();
    let x = Span::new(&panel.x, panel.series.iter().flat_map(super::Series::xs), true);
    let levels = panel.levels.iter().map(|l| l.y);
    let y = Span::new(&panel.y, panel.series.iter().flat_map(super::Series::ys).chain(levels), false);
    let (x_ticks, y_ticks) = (x.ticks(&panel.x), y.ticks(&panel.y));
    let beside = y_ticks.iter().map(|(_, name)| width(name, TICKS)).max().unwrap_or(0);
    let named = !panel.y.label.is_empty();
    // A name at the very end of the horizontal axis reaches half its width beyond.
    let beyond = x_ticks.last().map_or(0, |(_, name)| width(name, TICKS) / 2);
    let left = (16 + beside + if named { 22 } else { 0 }).max(40);
    let top = if panel.title.is_empty() { 14 } else { 34 };
    let bottom = height as i32 - if panel.x.label.is_empty() { 30 } else { 52 };
    let frame = Frame { x, y, left, right: total as i32 - 14.max(beyond + 4), top, bottom };
    axes(area, panel, &frame, &x_ticks, &y_ticks)?;
    for level in &panel.levels {
        if let Some(at) = frame.row(level.y) {
            for x in (frame.left..frame.right).step_by(9) {
                area.draw(&PathElement::new([(x, at), ((x + 5).min(frame.right), at)], INK.mix(0.7)))?;
            }
            write(area, &level.label, (frame.left + 6, at - 3), 13, HPos::Left, VPos::Bottom)?;
        }
    }
    data(area, panel, &frame)
}

fn axes(area: &Area<'_>, panel: &Panel, f: &Frame, x_ticks: &[(f64, String)], y_ticks: &[(f64, String)]) -> Result<()> {
    let middle = (f.left + f.right) / 2;
    write(area, &panel.title, (middle, 8), 17, HPos::Center, VPos::Top)?;
    write(area, &panel.x.label, (middle, f.bottom + 30), LABEL, HPos::Center, VPos::Top)?;
    if !panel.y.label.is_empty() {
        let upright = anchored(LABEL, HPos::Center, VPos::Top).transform(FontTransform::Rotate270);
        area.draw(&Text::new(panel.y.label.clone(), (2, (f.top + f.bottom) / 2), upright))?;
    }
    let grid = |name: &str| if name.is_empty() { GRID.mix(0.45) } else { GRID.to_rgba() };
    for (value, name) in y_ticks {
        if let Some(at) = f.row(*value) {
            area.draw(&PathElement::new([(f.left, at), (f.right, at)], grid(name)))?;
            write(area, name, (f.left - 7, at), TICKS, HPos::Right, VPos::Center)?;
        }
    }
    let mut free = i32::MIN;
    for (value, name) in x_ticks {
        if let Some(at) = f.column(*value) {
            area.draw(&PathElement::new([(at, f.top), (at, f.bottom)], grid(name)))?;
            // Names that would run into one another are left out.
            let half = width(name, TICKS) / 2 + 2;
            if !name.is_empty() && at - half >= free {
                write(area, name, (at, f.bottom + 7), TICKS, HPos::Center, VPos::Top)?;
                free = at + half;
            }
        }
    }
    area.draw(&Rectangle::new([(f.left, f.top), (f.right, f.bottom)], INK.stroke_width(1)))?;
    Ok(())
}

fn data(area: &Area<'_>, panel: &Panel, f: &Frame) -> Result<()> {
    let spans = |list: &[(f64, f64, f64)]| -> Vec<(i32, i32, i32)> {
        list.iter().filter_map(|&(x, low, high)| Some((f.column(x)?, f.row(low)?, f.row(high)?))).collect()
    };
    for series in &panel.series {
        let band = spans(&series.band);
        if band.len() > 1 {
            let outline = band.iter().map(|b| (b.0, b.2)).chain(band.iter().rev().map(|b| (b.0, b.1)));
            area.draw(&Polygon::new(outline.collect::<Vec<_>>(), colour(series.style).mix(0.16).filled()))?;
        }
    }
    for series in &panel.series {
        let thin = colour(series.style).stroke_width(1);
        for (at, low, high) in spans(&series.bars) {
            area.draw(&PathElement::new([(at, low), (at, high)], thin))?;
            for end in [low, high] {
                area.draw(&PathElement::new([(at - 4, end), (at + 4, end)], thin))?;
            }
        }
        for part in series.line.split(|p| f.pixel(*p).is_none()).filter(|part| part.len() > 1) {
            stroke(area, &part.iter().filter_map(|p| f.pixel(*p)).collect::<Vec<_>>(), series.style)?;
        }
    }
    for series in &panel.series {
        for at in series.markers.iter().filter_map(|p| f.pixel(*p)) {
            draw_marker(area, at, series.style)?;
        }
    }
    Ok(())
}

//! Plots as SVG text: figures of panels with linear or logarithmic axes.
//!
//! A series may have a line, markers, a band and bars, each with its own points: theory as a line and simulation as markers of one colour, or a line through
//! all points with a marker at every fifth. Values that an axis can't show (NaN, infinity, zero on a logarithmic one) interrupt lines and are left out otherwise.

mod axis;
mod draw;
mod style;
mod words;

pub use axis::{Axis, Scale};
pub use style::{Dash, Marker, Style, label};

/// One or more panels under a title and one legend.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What is seen.
    pub title: String,
    /// The settings, and what lines, markers, bands and bars mean. Wrapped to the width.
    pub subtitle: String,
    /// Panels, row by row.
    pub panels: Vec<Panel>,
    /// Panels in a row; default all, at most three.
    pub columns: usize,
    /// Width and height of a panel in pixels; default 820 x 470 for one panel, 440 x 425 for more.
    pub panel_size: (u32, u32),
}

impl Figure {
    /// A figure of these panels.
    pub fn new(title: impl Into<String>, subtitle: impl Into<String>, panels: Vec<Panel>) -> Self {
        let panel_size = if panels.len() > 1 { (440, 425) } else { (820, 470) };
        let columns = panels.len().clamp(1, 3);
        Figure { title: title.into(), subtitle: subtitle.into(), panels, columns, panel_size }
    }

    /// SVG text. The same figure gives the same bytes.
    ///
    /// # Errors
    /// What the drawing library reports.
    pub fn svg(&self) -> crate::Result<String> {
        draw::figure(self)
    }

    /// What the legend shows: one entry for each label, in order of first appearance. Series without a label are left out.
    fn legend(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for series in self.panels.iter().flat_map(|p| &p.series).filter(|s| !s.label.is_empty()) {
            // A series without data is named all the same: it says that there is nothing to see.
            let bare = series.line.is_empty() && series.markers.is_empty();
            let (line, marker) = (bare || !series.line.is_empty(), bare || !series.markers.is_empty());
            match entries.iter_mut().find(|e| e.label == series.label) {
                Some(entry) => (entry.line, entry.marker) = (entry.line || line, entry.marker || marker),
                None => entries.push(Entry { label: series.label.clone(), style: series.style, line, marker }),
            }
        }
        entries
    }
}

/// A line of the legend.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    label: String,
    style: Style,
    line: bool,
    marker: bool,
}

/// One pair of axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What is seen; may be empty.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Drawn in this order: all bands, then bars, lines and markers.
    pub series: Vec<Series>,
    /// Dashed levels with names: floors, thresholds.
    pub levels: Vec<Level>,
}

impl Panel {
    /// A panel without levels.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis, series: Vec<Series>) -> Self {
        Panel { title: title.into(), x, y, series, levels: Vec::new() }
    }

    /// Adds a level.
    pub fn level(mut self, label: impl Into<String>, y: f64) -> Self {
        self.levels.push(Level { label: label.into(), y });
        self
    }
}

/// A horizontal dashed line with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Its name.
    pub label: String,
    /// Where it is.
    pub y: f64,
}

/// One curve: whichever of its parts have points are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend; series of the same name share an entry. Empty: not in the legend.
    pub label: String,
    /// Colour, marker and dashes.
    pub style: Style,
    /// Points joined by a line.
    pub line: Vec<(f64, f64)>,
    /// Points with a marker.
    pub markers: Vec<(f64, f64)>,
    /// A shaded area: (x, low, high).
    pub band: Vec<(f64, f64, f64)>,
    /// Vertical bars: (x, low, high).
    pub bars: Vec<(f64, f64, f64)>,
}

impl Series {
    /// A series without points: a name in the legend.
    pub fn new(label: impl Into<String>, style: Style) -> Self {
        Series { label: label.into(), style, line: Vec::new(), markers: Vec::new(), band: Vec::new(), bars: Vec::new() }
    }

    /// Joins these points.
    pub fn line(mut self, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.line = points.into_iter().collect();
        self
    }

    /// Marks these points.
    pub fn markers(mut self, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.markers = points.into_iter().collect();
        self
    }

    /// Marks every `period`-th point of the line, counted from its end.
    pub fn mark_every(mut self, period: usize) -> Self {
        let last = self.line.len();
        let marked = self.line.iter().enumerate().filter(|(i, _)| (last - 1 - i).is_multiple_of(period.max(1)));
        self.markers = marked.map(|(_, p)| *p).collect();
        self
    }

    /// Shades between these (x, low, high).
    pub fn band(mut self, points: impl IntoIterator<Item = (f64, f64, f64)>) -> Self {
        self.band = points.into_iter().collect();
        self
    }

    /// Draws bars at these (x, low, high).
    pub fn bars(mut self, points: impl IntoIterator<Item = (f64, f64, f64)>) -> Self {
        self.bars = points.into_iter().collect();
        self
    }

    fn xs(&self) -> impl Iterator<Item = f64> {
        let spans = self.band.iter().chain(&self.bars).map(|p| p.0);
        self.line.iter().chain(&self.markers).map(|p| p.0).chain(spans)
    }

    fn ys(&self) -> impl Iterator<Item = f64> {
        let spans = self.band.iter().chain(&self.bars).flat_map(|p| [p.1, p.2]);
        self.line.iter().chain(&self.markers).map(|p| p.1).chain(spans)
    }
}

#[cfg(test)]
mod tests;

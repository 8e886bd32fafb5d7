//! Axes: ranges, ticks and what is written beside them.
#![allow(clippy::cast_possible_truncation, reason = "decades and small counts")]

/// How values become positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equally far apart.
    Linear,
    /// Equal ratios are equally far apart. Values at or below zero can't be shown.
    Log,
}

/// An axis: its name, scale, and where these are not to be chosen from the data, range and ticks.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Quantity and unit; may be empty.
    pub label: String,
    /// Linear or logarithmic.
    pub scale: Scale,
    /// First and last value; default what holds the data.
    pub range: Option<(f64, f64)>,
    /// Ticks with what is written beside them; default round numbers.
    pub ticks: Option<Vec<(f64, String)>>,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: impl Into<String>) -> Self {
        Axis { label: label.into(), scale: Scale::Linear, range: None, ticks: None }
    }

    /// A logarithmic axis.
    pub fn log(label: impl Into<String>) -> Self {
        Axis { scale: Scale::Log, ..Axis::linear(label) }
    }

    /// With a fixed range.
    pub fn range(self, first: f64, last: f64) -> Self {
        Axis { range: Some((first, last)), ..self }
    }

    /// With ticks at these values, named as given.
    pub fn ticks(self, ticks: impl IntoIterator<Item = (f64, String)>) -> Self {
        Axis { ticks: Some(ticks.into_iter().collect()), ..self }
    }
}

/// A tick: where, what is written (nothing: a faint grid line).
pub(super) type Tick = (f64, String);

/// An axis whose range is settled.
#[derive(Clone, Debug)]
pub(super) struct Span {
    scale: Scale,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Span {
    /// The range of `axis`; where it has none, what holds `values`. Horizontal axes keep to the data, vertical ones go to round numbers.
    pub(super) fn new(axis: &Axis, values: impl Iterator<Item = f64>, horizontal: bool) -> Self {
        let scale = axis.scale;
        let shown = |v: &f64| v.is_finite() && (scale == Scale::Linear || *v > 0.0);
        let (mut low, mut high) = values.filter(shown).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if let Some((first, last)) = axis.range.filter(|(a, b)| shown(a) && shown(b) && a < b) {
            return Span { scale, low: first, high: last };
        }
        if low > high {
            (low, high) = (0.1, 1.0);
        }
        let (low, high) = match (scale, horizontal) {
            (Scale::Log, true) => {
                let pad = if high > low { (high / low).powf(0.04) } else { 2.0 };
                (low / pad, high * pad)
            }
            (Scale::Log, false) => {
                // Half-decade steps use the space better than whole ones.
                let (low, high) = ((2.0 * low.log10()).floor() / 2.0, (2.0 * high.log10() - 0.02).ceil() / 2.0);
                (10f64.powf(low), 10f64.powf(high.max(low + 1.0)))
            }
            (Scale::Linear, true) => {
                let pad = if high > low { 0.04 * (high - low) } else { 0.5 * high.abs().max(1.0) };
                (low - pad, high + pad)
            }
            (Scale::Linear, false) => {
                let step = step(low, high.max(low + 1e-9 * low.abs().max(1.0)), 6.0);
                let (first, last) = ((low / step - 0.05).floor() * step, (high / step + 0.05).ceil() * step);
                (first, last.max(first + step))
            }
        };
        Span { scale, low, high }
    }

    /// Where a value lies between the ends, 0 to 1 inside; `None` for what can't be shown.
    pub(super) fn share(&self, x: f64) -> Option<f64> {
        let share = match self.scale {
            Scale::Linear => (x - self.low) / (self.high - self.low),
            Scale::Log => (x / self.low).ln() / (self.high / self.low).ln(),
        };
        share.is_finite().then_some(share)
    }

    /// Ticks inside the range; those of `axis` where it has some.
    pub(super) fn ticks(&self, axis: &Axis) -> Vec<Tick> {
        let inside = |v: f64| self.share(v).is_some_and(|s| (-1e-6..=1.0 + 1e-6).contains(&s));
        if let Some(ticks) = &axis.ticks {
            return ticks.iter().filter(|(v, _)| inside(*v)).cloned().collect();
        }
        match self.scale {
            Scale::Linear => {
                let step = step(self.low, self.high, 6.0);
                let (first, last) = ((self.low / step).floor() as i64, (self.high / step).ceil() as i64);
                (first..=last).map(|i| i as f64 * step).filter(|v| inside(*v)).map(|v| (v, plain(v, step))).collect()
            }
            Scale::Log => {
                let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
                let whole = (first..=last).filter(|e| inside(10f64.powi(*e))).count();
                // A name at each decade; at each few where they are many; at 2 and 5, too, where they are hardly any.
                let period = (whole as i32).div_euclid(8) + 1;
                let all = (first..=last).flat_map(|e| (1..10).map(move |d| (e, d)));
                all.filter(|(_, d)| period == 1 || *d == 1)
                    .map(|(e, d)| {
                        let value = f64::from(d) * 10f64.powi(e);
                        let named = if d == 1 { e.rem_euclid(period) == 0 } else { whole < 2 && (d == 2 || d == 5) };
                        (value, if named { power(e, d) } else { String::new() })
                    })
                    .filter(|(v, _)| inside(*v))
                    .collect()
            }
        }
    }
}

/// The round step (1, 2 or 5 times a power of ten) that gives about `count` ticks.
fn step(low: f64, high: f64, count: f64) -> f64 {
    let raw = (high - low).abs() / count;
    let decade = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * decade).find(|s| *s >= 0.999 * raw).unwrap_or(10.0 * decade)
}

/// A multiple of `step` with the places that it needs.
fn plain(value: f64, step: f64) -> String {
    if value.abs() >= 1e6 || (step < 1e-5 && value != 0.0) {
        return format!("{value:.1e}");
    }
    let places = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.places$}");
    // Rounding leaves a sign on what was zero.
    if text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) { text.trim_start_matches('-').to_owned() } else { text }
}

/// `d 10^e` in superscripts, or plainly between .01 and 1000.
fn power(exponent: i32, digit: i32) -> String {
    match (exponent, digit) {
        (0 | 1, d) => (d * 10i32.pow(exponent.unsigned_abs())).to_string(),
        (e @ -2..=3, d) if d != 1 => format!("{:.*}", e.min(0).unsigned_abs() as usize, f64::from(d) * 10f64.powi(e)),
        (e, d) => {
            let raised: String = e
                .to_string()
                .chars()
                .map(|c| match c {
                    '-' => '⁻',
                    '1' => '¹',
                    '2' => '²',
                    '3' => '³',
                    d => char::from_u32('⁰' as u32 + d as u32 - '0' as u32).unwrap_or(d),
                })
                .collect();
            if d == 1 { format!("10{raised}") } else { format!("{d}·10{raised}") }
        }
    }
}

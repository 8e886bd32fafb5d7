//! What was measured, by case.

use std::fmt::Write as _;

use layerwise::feature_learning::Link;
use layerwise::feature_learning::single_index::{Alignment, Direction, SingleIndex};
use layerwise::feature_learning::theory::single_index::{SingleIndexTheory, Spectrum};

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// The table of covariances.
    Table,
    /// Two levels from equal to far apart.
    Anisotropy,
    /// Damping at several sample sizes.
    Damping,
    /// Directions without a closed form.
    Others,
}

impl Group {
    pub(super) fn name(self) -> &'static str {
        match self {
            Group::Table => "table",
            Group::Anisotropy => "anisotropy",
            Group::Damping => "damping",
            Group::Others => "others",
        }
    }
}

/// One case: all seeds of a direction.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) group: Group,
    pub(super) teacher: Link,
    pub(super) spectrum: Spectrum,
    pub(super) rotated: bool,
    pub(super) samples: usize,
    pub(super) phi: f64,
    pub(super) direction: Direction,
    pub(super) damping: Option<f64>,
    pub(super) theory: Option<f64>,
    /// Mean over seeds; NaN where it was not measured.
    pub(super) rank_one: f64,
    pub(super) seeds: Vec<Alignment>,
}

impl Point {
    /// Mean over seeds; NaN where a power iteration did not converge or a cosine is no number.
    pub(super) fn mean(&self) -> f64 {
        if !self.seeds.iter().all(Alignment::is_sound) {
            return f64::NAN;
        }
        self.seeds.iter().map(|a| a.cosine).sum::<f64>() / self.seeds.len() as f64
    }

    /// Standard error of the mean.
    pub(super) fn error(&self) -> f64 {
        let (mean, n) = (self.mean(), self.seeds.len() as f64);
        (self.seeds.iter().map(|a| (a.cosine - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
    }

    pub(super) fn extremes(&self) -> (f64, f64) {
        self.seeds.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), a| (low.min(a.cosine), high.max(a.cosine)))
    }

    /// The case in words.
    pub(super) fn describe(&self) -> String {
        let damping = self.damping.map_or_else(String::new, |lambda| format!(" {lambda:.3e}"));
        format!("{} {}, n {}, {}{damping}", self.teacher.name(), self.spectrum.name(), self.samples, self.direction.name())
    }
}

/// Every case of every run.
#[derive(Debug, Default)]
pub(super) struct Study {
    pub(super) points: Vec<Point>,
    /// Settings of the first run.
    pub(super) base: Option<SingleIndex>,
}

impl Study {
    pub(super) fn add(&mut self, group: Group, config: &SingleIndex, results: &[Alignment]) -> layerwise::Result<()> {
        self.base.get_or_insert_with(|| config.clone());
        for &spectrum in &config.spectra {
            let theory = config.theory(spectrum)?;
            for &direction in &config.directions {
                let seeds: Vec<Alignment> =
                    results.iter().filter(|a| a.spectrum == spectrum && a.direction == direction).copied().collect();
                let rank_one = seeds.iter().map(|a| a.rank_one_error.unwrap_or(f64::NAN)).sum::<f64>() / seeds.len() as f64;
                self.points.push(Point {
                    group,
                    teacher: config.teacher,
                    spectrum,
                    rotated: config.rotated,
                    samples: config.samples,
                    phi: config.d_x as f64 / config.samples as f64,
                    direction,
                    damping: direction.damping(&theory),
                    theory: direction.predicted(&theory),
                    rank_one,
                    seeds,
                });
            }
        }
        Ok(())
    }

    pub(super) fn of(&self, group: Group) -> impl Iterator<Item = &Point> + Clone {
        self.points.iter().filter(move |p| p.group == group)
    }

    pub(super) fn find(&self, group: Group, wanted: impl Fn(&Point) -> bool) -> Option<&Point> {
        self.of(group).find(|p| wanted(p))
    }

    /// Teachers and spectra of a group, in the order of the runs.
    pub(super) fn cases(&self, group: Group) -> Vec<(Link, Spectrum)> {
        let mut cases = Vec::new();
        for p in self.of(group) {
            if !cases.contains(&(p.teacher, p.spectrum)) {
                cases.push((p.teacher, p.spectrum));
            }
        }
        cases
    }

    /// Sample sizes of a group, in the order of the runs.
    pub(super) fn samples(&self, group: Group) -> Vec<usize> {
        let mut list = Vec::new();
        for p in self.of(group) {
            if !list.contains(&p.samples) {
                list.push(p.samples);
            }
        }
        list
    }

    /// Predictions for the base settings with another teacher, spectrum and sample size.
    pub(super) fn theory(&self, teacher: Link, spectrum: Spectrum, samples: usize) -> Option<SingleIndexTheory> {
        self.base.as_ref().and_then(|base| SingleIndex { teacher, samples, ..base.clone() }.theory(spectrum).ok())
    }

    pub(super) fn csv(&self) -> String {
        let mut out =
            "group,teacher,spectrum,rotated,samples,phi,direction,damping,seed,cosine,theory,residual,rank_one_error\n".to_owned();
        let optional = |x: Option<f64>| x.map_or_else(String::new, |x| format!("{x:.6e}"));
        for p in &self.points {
            for a in &p.seeds {
                let _ = writeln!(
                    out,
                    "{},{},{},{},{},{:.6},{},{},{},{:.6},{},{:.2e},{}",
                    p.group.name(),
                    p.teacher.name(),
                    p.spectrum.name(),
                    p.rotated,
                    p.samples,
                    p.phi,
                    p.direction.name(),
                    optional(p.damping),
                    a.seed,
                    a.cosine,
                    optional(p.theory),
                    a.residual,
                    optional(a.rank_one_error),
                );
            }
        }
        out
    }
}

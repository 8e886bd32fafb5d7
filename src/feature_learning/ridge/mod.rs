//! One step on the first layer, then a ridge head on fresh samples: does the step's spike help where it should, in test error?
//!
//! Problem and step are those of [`single_index`](super::single_index). The step is `G = G_0 - c D`, `D` the gradient (SGD) or the gradient times `(S + lambda I)^{-1}`
//! (KFAC), with `c` such that the root mean square change of a pre-activation, `||c D Sigma^{1/2}||_F/sqrt(dh)`, is a given size. On fresh samples, features
//! `phi = sigma(G x)/sqrt(dh)` get the head `argmin 1/n ||y - Phi a||^2 + rho ||a||^2`. Size, damping and ridge are chosen by the error on (noisy) validation samples, so
//! that all methods are tuned with the same effort; the test error is against the teacher without noise. Baselines: random features (no step), the best linear model,
//! and the floor `c_{*>1}^2` of all linear models.
//!
//! A data item is a (spectrum, seed); items are the batch, split into chunks that fit a memory limit, which changes no bit on the CPU.

mod heads;

use std::ops::Range;

pub use heads::{Heads, linear_floor};

use super::link::Link;
use super::single_index::{Host, Inputs, Setting, items_that_fit};
use super::theory::single_index::Spectrum;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::plan::{Plan, Recorder};
use crate::prepared::{Bindings, Prepared};

/// What a ridge head is fitted on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Features {
    /// The inputs: the best linear model.
    Linear,
    /// `sigma(G_0 x)`: no step.
    Random,
    /// After a gradient step of this size.
    Sgd {
        /// Root mean square change of a pre-activation.
        size: f64,
    },
    /// After a preconditioned step.
    Kfac {
        /// `lambda`.
        damping: f64,
        /// Root mean square change of a pre-activation.
        size: f64,
    },
}

/// Features of one family compete on validation samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// [`Features::Linear`].
    Linear,
    /// [`Features::Random`].
    Random,
    /// [`Features::Sgd`] of every size.
    Sgd,
    /// [`Features::Kfac`] of every damping and size.
    Kfac,
}

impl Family {
    /// All families.
    pub const ALL: [Family; 4] = [Family::Linear, Family::Random, Family::Sgd, Family::Kfac];

    /// The name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Family::Linear => "linear",
            Family::Random => "random_features",
            Family::Sgd => "sgd",
            Family::Kfac => "kfac",
        }
    }
}

impl Features {
    /// The family.
    pub fn family(self) -> Family {
        match self {
            Features::Linear => Family::Linear,
            Features::Random => Family::Random,
            Features::Sgd { .. } => Family::Sgd,
            Features::Kfac { .. } => Family::Kfac,
        }
    }
}

/// The experiment. All defaults are ours: the paper's settings were not available.
#[derive(Clone, Debug, PartialEq)]
pub struct OneStepRidge {
    /// Inputs; default 200.
    pub d_x: usize,
    /// Hidden units; default 400.
    pub hidden: usize,
    /// Samples of the step; default 1600.
    pub step_samples: usize,
    /// Samples of the head; default 1600.
    pub fit_samples: usize,
    /// Validation samples; default 1600.
    pub validation_samples: usize,
    /// Test samples; default 4000.
    pub test_samples: usize,
    /// Standard deviation of the label noise; default 0.1.
    pub noise: f64,
    /// `sigma`; default tanh.
    pub student: Link,
    /// `sigma_*`; default tanh.
    pub teacher: Link,
    /// Covariance spectra; default log-spaced with ratio 100.
    pub spectra: Vec<Spectrum>,
    /// Haar eigenvectors; default false, which is general for Gaussian inputs.
    pub rotated: bool,
    /// Law of the inputs; default Gaussian.
    pub inputs: Inputs,
    /// Seeds; default 3.
    pub seeds: usize,
    /// The first seed, the others follow; default 0.
    pub first_seed: u32,
    /// KFAC's dampings; default 0.01, 0.1.
    pub dampings: Vec<f64>,
    /// Sizes of the step; default 0.25 to 32 by factors of 2.
    pub sizes: Vec<f64>,
    /// Ridge strengths; default 1e-4 to 1e-1 by factors of 10.
    pub ridges: Vec<f64>,
    /// Bytes that a chunk of data items may take; default 512 MiB.
    pub memory_limit: u64,
}

impl Default for OneStepRidge {
    fn default() -> Self {
        OneStepRidge {
            d_x: 200,
            hidden: 400,
            step_samples: 1600,
            fit_samples: 1600,
            validation_samples: 1600,
            test_samples: 4000,
            noise: 0.1,
            student: Link::Tanh,
            teacher: Link::Tanh,
            spectra: vec![Spectrum::LogSpaced(100.0)],
            rotated: false,
            inputs: Inputs::Gaussian,
            seeds: 3,
            first_seed: 0,
            dampings: vec![0.01, 0.1],
            sizes: vec![0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
            ridges: vec![1e-4, 1e-3, 1e-2, 1e-1],
            memory_limit: 512 << 20,
        }
    }
}

/// One head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Covariance.
    pub spectrum: Spectrum,
    /// Seed.
    pub seed: u32,
    /// What the head is fitted on.
    pub features: Features,
    /// Ridge strength.
    pub ridge: f64,
    /// Mean squared error on validation labels, noise included; NaN where the head does not exist.
    pub validation_error: f64,
    /// Mean squared error on test samples against the teacher without noise.
    pub test_error: f64,
}

/// The trial of a family, spectrum and seed with the smallest validation error.
pub fn select(trials: &[Trial], spectrum: Spectrum, seed: u32, family: Family) -> Option<&Trial> {
    let competing = |t: &&Trial| t.spectrum == spectrum && t.seed == seed && t.features.family() == family;
    let sound = trials.iter().filter(competing).filter(|t| t.validation_error.is_finite() && t.test_error.is_finite());
    sound.min_by(|a, b| a.validation_error.total_cmp(&b.validation_error))
}

/// A chunk of data items with memory.
#[derive(Debug)]
pub struct Chunk {
    /// The plan, ready to run its only segment.
    pub prepared: Prepared,
    /// Its values.
    pub heads: Heads,
    /// Covariances and targets, one for each item.
    pub hosts: Vec<Host>,
}

impl OneStepRidge {
    /// Data items: spectra times seeds.
    pub fn items(&self) -> usize {
        self.spectra.len() * self.seeds
    }

    /// Spectrum and seed of an item: spectra outer, seeds inner.
    pub fn item(&self, index: usize) -> (Spectrum, u32) {
        let offset = u32::try_from(index % self.seeds).unwrap_or(u32::MAX);
        (self.spectra[index / self.seeds], self.first_seed.saturating_add(offset))
    }

    fn setting(&self) -> Setting {
        Setting { d_x: self.d_x, rotated: self.rotated, inputs: self.inputs, teacher: self.teacher, noise: self.noise }
    }

    /// Everything that heads are fitted on, in the order of trials.
    pub fn features(&self) -> Vec<Features> {
        let sgd = self.sizes.iter().map(|&size| Features::Sgd { size });
        let kfac = self.dampings.iter().flat_map(|&damping| self.sizes.iter().map(move |&size| Features::Kfac { damping, size }));
        [Features::Linear, Features::Random].into_iter().chain(sgd).chain(kfac).collect()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field outside its range.
    pub fn validate(&self) -> Result<()> {
        let seeds_fit = u32::try_from(self.seeds).is_ok_and(|n| self.first_seed.checked_add(n).is_some());
        let positive = |list: &[f64]| list.iter().all(|x| x.is_finite() && *x >= 1e-8);
        let (text, one) = (|n: usize| n.to_string(), "at least 1");
        let checks = [
            (self.d_x >= 1, "d_x", text(self.d_x), one),
            (self.hidden >= 1, "hidden", text(self.hidden), one),
            (self.step_samples >= 1, "step_samples", text(self.step_samples), one),
            (self.fit_samples >= 1, "fit_samples", text(self.fit_samples), one),
            (self.validation_samples >= 1, "validation_samples", text(self.validation_samples), one),
            (self.test_samples >= 1, "test_samples", text(self.test_samples), one),
            (self.noise.is_finite() && self.noise >= 0.0, "noise", self.noise.to_string(), "finite, at least 0"),
            (!self.spectra.is_empty(), "spectra", "none".into(), "one or more"),
            (self.seeds >= 1, "seeds", text(self.seeds), one),
            (seeds_fit, "first_seed", self.first_seed.to_string(), "below 2^32 - seeds"),
            (positive(&self.dampings), "dampings", format!("{:?}", self.dampings), "finite, at least 1e-8"),
            (positive(&self.sizes) && !self.sizes.is_empty(), "sizes", format!("{:?}", self.sizes), "one or more, finite, at least 1e-8"),
            (
                positive(&self.ridges) && !self.ridges.is_empty(),
                "ridges",
                format!("{:?}", self.ridges),
                "one or more, finite, at least 1e-8",
            ),
        ];
        if let Some((_, field, found, allowed)) = checks.into_iter().find(|c| !c.0) {
            return Err(Error::Config { method: "OneStepRidge", field, found, allowed });
        }
        self.spectra.iter().try_for_each(|s| s.validate())?;
        self.teacher.validate_teacher()?;
        self.student.validate_student()
    }

    /// The plan of `items` data items, for printing and counting.
    ///
    /// # Errors
    /// [`Error::Config`] as [`validate`](Self::validate).
    pub fn plan(&self, items: usize) -> Result<Plan> {
        self.validate()?;
        let mut r = Recorder::new();
        Heads::record(&mut r, self, items)?;
        Ok(r.finish())
    }

    /// Records and binds the data items of `range`.
    ///
    /// # Errors
    /// [`Error::Config`] as [`validate`](Self::validate), and what [`Context::prepare`] returns.
    pub fn prepare(&self, context: &Context, range: Range<usize>) -> Result<Chunk> {
        self.validate()?;
        let mut r = Recorder::new();
        let heads = Heads::record(&mut r, self, range.len())?;
        let plan = r.finish();
        let items: Vec<(Spectrum, u32)> = range.map(|i| self.item(i)).collect();
        let hosts: Vec<Host> = items.iter().map(|&(spectrum, seed)| Host::draw(&self.setting(), spectrum, seed)).collect();
        let mut bindings = Bindings::new();
        heads.problem.bind(context, &hosts, &items.iter().map(|i| i.1).collect::<Vec<u32>>(), &mut bindings)?;
        #[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
        let ridges: Vec<f32> = self.ridges.iter().map(|&r| r as f32).collect();
        bindings.bind(heads.ridges, &context.upload(heads.ridges.shape(), &ridges)?);
        bindings.bind(heads.log, &context.zeros(heads.log.shape())?);
        Ok(Chunk { prepared: context.prepare(&plan, &bindings)?, heads, hosts })
    }

    /// Data items a chunk: as many as fit `memory_limit` and the device's largest buffer.
    ///
    /// # Errors
    /// [`Error::Limit`] where not even one fits.
    pub fn chunk_items(&self, context: &Context) -> Result<usize> {
        items_that_fit(context, &self.plan(1)?, self.memory_limit, "a data item of OneStepRidge", self.items())
    }
}

/// Fits every head of every data item and returns them, items outer, then features, then ridges. `progress` is called with (items done, items) after each chunk.
///
/// # Errors
/// [`Error::Config`] for a field outside its range, [`Error::Limit`] where an item does not fit, and what [`Context::prepare`] and [`Prepared::run`] return.
pub fn run(context: &Context, config: &OneStepRidge, progress: &mut dyn FnMut(usize, usize)) -> Result<Vec<Trial>> {
    config.validate()?;
    let (items, chunk) = (config.items(), config.chunk_items(context)?);
    let features = config.features();
    let mut trials = Vec::with_capacity(items * features.len() * config.ridges.len());
    for first in (0..items).step_by(chunk) {
        let range = first..(first + chunk).min(items);
        let mut part = config.prepare(context, range.clone())?;
        part.prepared.run(&[0])?;
        let missing = || Error::Binding { value: "log".into(), reason: "it was not bound".into() };
        let log = part.prepared.tensor(part.heads.log).ok_or_else(missing)?.read()?;
        for index in range.clone() {
            let (spectrum, seed) = config.item(index);
            for (t, &fitted_on) in features.iter().enumerate() {
                for (i, &ridge) in config.ridges.iter().enumerate() {
                    let row = (index - range.start) * config.ridges.len() + i;
                    let at = |column: usize| {
                        let place = (row * features.len() + t) * heads::COLUMNS + column;
                        log.get(place).map_or(f64::NAN, |x| f64::from(*x))
                    };
                    let sound = |x: f64| if at(2) == 1.0 { x } else { f64::NAN };
                    let (validation_error, test_error) = (sound(at(0)), sound(at(1)));
                    trials.push(Trial { spectrum, seed, features: fitted_on, ridge, validation_error, test_error });
                }
            }
        }
        progress(range.end, items);
    }
    Ok(trials)
}

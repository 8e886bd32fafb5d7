//! What is run: sizes, covariances, seeds, schedule.

use crate::error::{Error, Result};
use crate::feature_learning::data::Inputs;
use crate::feature_learning::scheme::Damping;
use crate::feature_learning::teacher::Spectrum;
use crate::optim::LearningRateSchedule;
use crate::plan::OPERATOR_NORM_MAX;

/// How the learning rate changes over a run. Evaluated on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateSchedule {
    /// Always the base rate.
    Constant,
    /// `1 - t/T` of the base rate at step t of T (from 0).
    Linear,
}

impl RateSchedule {
    /// The name in tables, files and flags.
    pub fn name(self) -> &'static str {
        match self {
            RateSchedule::Constant => "constant",
            RateSchedule::Linear => "linear",
        }
    }

    /// The schedule over `steps` as optimizers take it.
    pub fn over(self, steps: usize) -> LearningRateSchedule {
        match self {
            RateSchedule::Constant => LearningRateSchedule::Constant,
            RateSchedule::Linear => LearningRateSchedule::Linear { warm_up: 0, steps: steps as u64, final_fraction: 0.0 },
        }
    }
}

/// When metrics are logged, beside step 0 and the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPoints {
    /// This many steps, log-spaced and distinct (all steps where there are fewer).
    LogSpaced(usize),
    /// Every so many steps.
    Every(usize),
}

/// Online linear representation learning, `y = F_* G_* x + eps`, fresh data at every step.
///
/// All defaults are ours: the paper's settings were not available.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearRepresentation {
    /// Inputs; default 100.
    pub d_x: usize,
    /// Outputs; default 15.
    pub d_y: usize,
    /// Hidden units; default 8.
    pub k: usize,
    /// Samples per step; default 1024.
    pub batch: usize,
    /// Samples of the transfer task on which the transfer head is fitted; default 1024.
    pub transfer_samples: usize,
    /// Steps; default 1000.
    pub steps: usize,
    /// Condition numbers of both input covariances; default 1, 100, 1000.
    pub kappas: Vec<f64>,
    /// How eigenvalues lie between the largest and the smallest; default log-spaced.
    pub spectrum: Spectrum,
    /// Distribution of the whitened inputs; default Rademacher.
    pub inputs: Inputs,
    /// Haar eigenvectors, drawn independently for train and transfer; axis-aligned otherwise. Default true.
    pub rotated: bool,
    /// Seeds; default 3.
    pub seeds: usize,
    /// The first seed, the others follow; default 0.
    pub first_seed: u32,
    /// Standard deviation of the label noise on both tasks; default 0.1.
    pub noise: f64,
    /// Singular values of `F_*` log-spaced with this ratio instead of a Gaussian `F_*`; default none.
    pub head_condition: Option<f64>,
    /// Learning-rate schedule; default constant.
    pub schedule: RateSchedule,
    /// Damping and memory of the preconditioned methods.
    pub damping: Damping,
    /// Steps between two refreshes of the inverses of [`Kfac`](super::Method::Kfac), its variants, [`Foof`](super::Method::Foof) and
    /// [`Dfw`](super::Method::Dfw); statistics are gathered at every step. Default 1.
    pub precondition_every: usize,
    /// Default 30 log-spaced points.
    pub log_points: LogPoints,
    /// Bytes that the trials which run at once may take on a GPU, all tensors together; more trials run one chunk after another, with the same results up to
    /// rounding. Default 1 GiB. The CPU path holds one seed and anisotropy a thread, with the same bits whatever runs beside it.
    pub memory_limit: u64,
}

impl Default for LinearRepresentation {
    fn default() -> Self {
        LinearRepresentation {
            d_x: 100,
            d_y: 15,
            k: 8,
            batch: 1024,
            transfer_samples: 1024,
            steps: 1000,
            kappas: vec![1.0, 100.0, 1000.0],
            spectrum: Spectrum::LogSpaced,
            inputs: Inputs::Rademacher,
            rotated: true,
            seeds: 3,
            first_seed: 0,
            noise: 0.1,
            head_condition: None,
            schedule: RateSchedule::Constant,
            damping: Damping::default(),
            precondition_every: 1,
            log_points: LogPoints::LogSpaced(30),
            memory_limit: 1 << 30,
        }
    }
}

impl LinearRepresentation {
    /// Steps at which metrics are logged, from 0 to the last, increasing.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "step counts are far below 2^52"
    )]
    pub fn log_steps(&self) -> Vec<usize> {
        let mut steps = vec![0];
        match self.log_points {
            LogPoints::Every(period) => steps.extend((1..self.steps).filter(|t| t.is_multiple_of(period.max(1)))),
            LogPoints::LogSpaced(points) => {
                let mut last = 0;
                for i in 0..points {
                    let exact = (self.steps as f64).powf(i as f64 / (points.max(2) - 1) as f64);
                    last = (exact.round() as usize).max(last + 1);
                    if last < self.steps {
                        steps.push(last);
                    }
                }
            }
        }
        steps.push(self.steps);
        steps
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field outside its range.
    pub fn validate(&self) -> Result<()> {
        let seeds_fit = u32::try_from(self.seeds).is_ok_and(|n| self.first_seed.checked_add(n).is_some());
        let condition = self.head_condition.unwrap_or(1.0);
        let Damping { inputs, hidden, dense, decay } = self.damping;
        let damped = [inputs, hidden, dense, decay].iter().all(|x| x.is_finite() && *x >= 0.0) && decay < 1.0;
        let spectra = self.kappas.iter().all(|k| k.is_finite() && *k >= 1.0);
        let checks = [
            (self.k >= 1 && self.k <= self.d_x && self.k <= OPERATOR_NORM_MAX, "k", self.k.to_string(), "1 to min(d_x, 48)"),
            (self.d_y >= self.k, "d_y", self.d_y.to_string(), "at least k"),
            (self.batch >= 2 * self.k, "batch", self.batch.to_string(), "at least 2 k"),
            (self.transfer_samples >= self.k, "transfer_samples", self.transfer_samples.to_string(), "at least k"),
            (self.steps >= 1 && self.steps < 1 << 24, "steps", self.steps.to_string(), "1 to 2^24 - 1"),
            (!self.kappas.is_empty() && spectra, "kappas", format!("{:?}", self.kappas), "one or more, finite, at least 1"),
            (self.seeds >= 1, "seeds", self.seeds.to_string(), "at least 1"),
            (seeds_fit, "first_seed", self.first_seed.to_string(), "below 2^32 - seeds"),
            (self.noise.is_finite() && self.noise >= 0.0, "noise", self.noise.to_string(), "finite, at least 0"),
            (condition.is_finite() && condition >= 1.0, "head_condition", condition.to_string(), "finite, at least 1"),
            (damped, "damping", format!("{:?}", self.damping), "finite, at least 0, the decay below 1"),
            (self.precondition_every >= 1, "precondition_every", self.precondition_every.to_string(), "at least 1"),
        ];
        match checks.into_iter().find(|c| !c.0) {
            Some((_, field, found, allowed)) => Err(Error::Config { method: "LinearRepresentation", field, found, allowed }),
            None => Ok(()),
        }
    }
}

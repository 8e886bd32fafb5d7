//! Learning-rate schedules, evaluated on the device.

use super::config::{Check, Row, put};
use crate::error::Result;
use crate::plan::block;

/// How the learning rate of a group changes from step to step: the group's (or trial's) rate times [`factor`](Self::factor).
///
/// The device evaluates it from its own step counter, so that steps recorded ahead are right, and a layer whose gradient was refused does not move on.
/// All lengths are in steps, at most 2^24 (counters are f32).
///
/// ```
/// use layerwise::optim::LearningRateSchedule;
/// let s = LearningRateSchedule::Linear { warm_up: 2, steps: 4, final_fraction: 0.0 };
/// let factors: Vec<f64> = (0..7).map(|t| s.factor(t)).collect();
/// assert_eq!(factors, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum LearningRateSchedule {
    /// Factor 1.
    #[default]
    Constant,
    /// `(t + 1) / warm_up` for `t < warm_up`, then from 1 to `final_fraction` on a straight line over `steps`, then constant.
    Linear {
        /// Steps of warm-up; 0 for none.
        warm_up: u64,
        /// Steps of decay.
        steps: u64,
        /// Where the decay ends, in `[0, 1]`; 1 is warm-up alone.
        final_fraction: f64,
    },
    /// Warm-up as in `Linear`, then from 1 to `final_fraction` on half a cosine over `steps`, then constant.
    Cosine {
        /// Steps of warm-up; 0 for none.
        warm_up: u64,
        /// Steps of decay.
        steps: u64,
        /// Where the decay ends, in `[0, 1]`.
        final_fraction: f64,
    },
    /// Warm-up as in `Linear`, then `factor^floor(t / period)`.
    Step {
        /// Steps of warm-up; 0 for none.
        warm_up: u64,
        /// Steps between two drops.
        period: u64,
        /// Factor at each drop, in `(0, 1]`.
        factor: f64,
    },
}

/// Steps that an f32 counts exactly.
const LONGEST: u64 = 1 << 24;

impl LearningRateSchedule {
    /// The factor before step `t` (counted from 0), in f64: the formula that the device evaluates in f32.
    pub fn factor(&self, t: u64) -> f64 {
        let row = self.columns();
        let at = |column: u32| row.iter().find(|c| c.0 == column).map_or(0.0, |c| c.1);
        let (t, warm_up) = (t as f64, at(block::WARMUP_STEPS));
        if t < warm_up {
            return (t + 1.0) / warm_up;
        }
        let t = t - warm_up;
        let progress = |steps: u64| (t / steps as f64).min(1.0);
        match *self {
            Self::Constant => 1.0,
            Self::Linear { steps, final_fraction, .. } => 1.0 - (1.0 - final_fraction) * progress(steps),
            Self::Cosine { steps, final_fraction, .. } => {
                final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + (std::f64::consts::PI * progress(steps)).cos())
            }
            Self::Step { period, factor, .. } => factor.powf((t / period as f64).floor()),
        }
    }

    fn columns(&self) -> Vec<(u32, f64)> {
        use block::{DECAY_STEPS, FINAL_FRACTION, SCHEDULE, STEP_FACTOR, STEP_PERIOD, WARMUP_STEPS};
        let decay = |kind: f64, warm_up: u64, steps: u64, end: f64| {
            vec![(SCHEDULE, kind), (WARMUP_STEPS, warm_up as f64), (DECAY_STEPS, steps as f64), (FINAL_FRACTION, end)]
        };
        match *self {
            Self::Constant => vec![(SCHEDULE, 0.0)],
            Self::Linear { warm_up, steps, final_fraction } => decay(1.0, warm_up, steps, final_fraction),
            Self::Cosine { warm_up, steps, final_fraction } => decay(2.0, warm_up, steps, final_fraction),
            Self::Step { warm_up, period, factor } => {
                vec![(SCHEDULE, 3.0), (WARMUP_STEPS, warm_up as f64), (STEP_PERIOD, period as f64), (STEP_FACTOR, factor)]
            }
        }
    }

    pub(crate) fn fill(&self, row: &mut Row) {
        for (column, x) in self.columns() {
            put(row, column, x);
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let check = Check("LearningRateSchedule");
        let length = |field, x: u64, least: u64| {
            check.that(field, (least..=LONGEST).contains(&x), x, "a number of steps up to 2^24 (0 only for `warm_up`)")
        };
        match *self {
            Self::Constant => Ok(()),
            Self::Linear { warm_up, steps, final_fraction } | Self::Cosine { warm_up, steps, final_fraction } => {
                length("warm_up", warm_up, 0)?;
                length("steps", steps, 1)?;
                check.fraction("final_fraction", final_fraction)
            }
            Self::Step { warm_up, period, factor } => {
                length("warm_up", warm_up, 0)?;
                length("period", period, 1)?;
                check.positive("factor", factor)?;
                check.fraction("factor", factor)
            }
        }
    }
}

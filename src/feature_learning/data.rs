//! Samples of a task, drawn on the device, keyed by (seed, task, step).

use super::two_layer::Batch;
use crate::error::Result;
use crate::plan::{Coef, Distribution, Gemm, RandomFill, Recorder, Role, Value};
use crate::tensor::{ElementType, Shape};

/// Philox task number of training data.
pub const TRAIN: u32 = 0;
/// Philox task number of transfer data.
pub const TRANSFER: u32 = 1;

const STREAM_INPUTS: u32 = 0;
const STREAM_NOISE: u32 = 1;

/// Distribution of the whitened inputs `u`, of independent coordinates with mean 0 and variance 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inputs {
    /// -1 or 1.
    #[default]
    Rademacher,
    /// Standard normal.
    Gaussian,
}

impl Inputs {
    /// The name in tables, files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Inputs::Rademacher => "rademacher",
            Inputs::Gaussian => "gaussian",
        }
    }
}

/// `x = Sigma^{1/2} u`, `u` as [`Inputs`] says; `y = M_* x + sigma eps`, `eps` standard normal.
///
/// The stream depends on (seed, task, step) alone: every method, learning rate and anisotropy of one seed sees the same `u` and `eps`.
/// Data items are anisotropy outer, seed inner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    /// `Sigma^{1/2}`, the symmetric root, `[data, dX, dX]`.
    pub root: Value,
    /// `M_* = F_* G_*`, `[seeds, dY, dX]`.
    pub target: Value,
    /// Philox keys (seed, task), `[seeds, 1, 2]`, as bit patterns.
    pub keys: Value,
    /// The step as f32, `[1, 1, 1]`.
    pub step: Value,
    /// `sigma`.
    pub noise: f32,
    /// Distribution of `u`.
    pub inputs: Inputs,
}

impl Task {
    /// Records the draw of `samples` samples per data item, kept in values of `role`: [`Role::Scratch`] for samples that serve one step.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where the task's values do not fit each other.
    pub fn draw(&self, r: &mut Recorder, name: &str, samples: usize, role: Role) -> Result<Batch> {
        let (data, d_x) = (self.root.items(), self.root.rows());
        let (seeds, d_y) = (self.target.items(), self.target.rows());
        let x = r.declare(format!("{name}.x"), Shape::new(data, samples, d_x), ElementType::F32, role)?;
        let y = r.declare(format!("{name}.y"), Shape::new(data, d_y, samples), ElementType::F32, role)?;
        let step = self.step.repeat(1, 1)?;
        let white = r.scratch(format!("{name}.u"), Shape::new(seeds, samples, d_x))?;
        let distribution = match self.inputs {
            Inputs::Rademacher => Distribution::Rademacher,
            Inputs::Gaussian => Distribution::Normal,
        };
        r.record(RandomFill { out: white, distribution, stream: STREAM_INPUTS, keys: self.keys, step })?;
        r.record(Gemm::new(white.repeat(1, seeds)?, self.root, x))?;
        let noise = r.scratch(format!("{name}.noise"), Shape::new(seeds, d_y, samples))?;
        r.record(RandomFill { out: noise, distribution: Distribution::Normal, stream: STREAM_NOISE, keys: self.keys, step })?;
        r.record(Gemm {
            d: Some(noise.repeat(1, seeds)?),
            beta: Coef::Const(self.noise),
            ..Gemm::new(self.target.repeat(1, seeds)?, x.t(), y)
        })?;
        Ok(Batch { x, y: y.t() })
    }
}

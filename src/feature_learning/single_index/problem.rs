//! A single-index problem: covariance and target on the host in f64, samples on the device.

use faer::Mat;

use crate::context::Context;
use crate::error::Result;
use crate::feature_learning::link::Link;
use crate::feature_learning::theory::single_index::Spectrum;
use crate::plan::{Axpby, Coef, Distribution, Gemm, RandomFill, Recorder, SpectrumScale, Value};
use crate::prepared::Bindings;
use crate::rng::Philox;
use crate::tensor::Shape;

/// Philox task numbers: the step's samples and the initial weights, the ridge head's samples, validation, test, and host-side draws.
pub(in crate::feature_learning) mod task {
    pub(in crate::feature_learning) const STEP: u32 = 16;
    pub(in crate::feature_learning) const FIT: u32 = 17;
    pub(in crate::feature_learning) const VALIDATION: u32 = 18;
    pub(in crate::feature_learning) const TEST: u32 = 19;
    pub(super) const HOST: u32 = 20;
}

const STREAM_INPUTS: u32 = 0;
const STREAM_NOISE: u32 = 1;
const STREAM_FIRST_LAYER: u32 = 2;
const STREAM_SECOND_LAYER: u32 = 3;

/// Law of the coordinates of `u` in `x = Sigma^{1/2} u`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Standard normal.
    Gaussian,
    /// Uniform on {-1, +1}.
    Rademacher,
}

/// What a problem is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Inputs.
    pub d_x: usize,
    /// Haar eigenvectors of the covariance; the coordinate axes otherwise.
    pub rotated: bool,
    /// Law of `u`.
    pub inputs: Inputs,
    /// `sigma_*`.
    pub teacher: Link,
    /// Standard deviation of the label noise.
    pub noise: f64,
}

/// Covariance and target of one data item.
#[derive(Clone, Debug)]
pub struct Host {
    /// Eigenvalues of `Sigma`, sum dX.
    pub eigenvalues: Vec<f64>,
    /// `U` with the eigenvectors in its rows, where the covariance is rotated.
    pub basis: Option<Mat<f64>>,
    /// `beta_*` with `beta_*^T Sigma beta_* = 1`, isotropic in direction.
    pub beta: Vec<f64>,
}

impl Host {
    /// Draws the item of `seed`. `U` and the direction of `beta_*` depend on seed and size alone, the same for all spectra.
    pub fn draw(setting: &Setting, spectrum: Spectrum, seed: u32) -> Self {
        let d = setting.d_x;
        let philox = Philox { key: [seed, task::HOST] };
        let eigenvalues = spectrum.eigenvalues(d);
        let basis = setting.rotated.then(|| {
            let values = philox.normals_f64(0, 1, d * d);
            let qr = Mat::from_fn(d, d, |r, c| values[r * d + c]).qr();
            let (q, upper) = (qr.compute_Q(), qr.thin_R().to_owned());
            // The sign that makes the diagonal of R positive makes Q Haar distributed.
            Mat::from_fn(d, d, |r, c| q[(c, r)] * upper[(r, r)].signum())
        });
        let mut host = Host { eigenvalues, basis, beta: philox.normals_f64(0, 0, d) };
        let image = host.apply(|x| x, &host.beta);
        let variance: f64 = image.iter().zip(&host.beta).map(|(s, b)| s * b).sum();
        host.beta.iter_mut().for_each(|b| *b /= variance.sqrt());
        host
    }

    /// `U^T diag(f(lambda)) U` as a matrix.
    pub fn matrix(&self, f: impl Fn(f64) -> f64) -> Mat<f64> {
        let d = self.eigenvalues.len();
        match &self.basis {
            None => Mat::from_fn(d, d, |r, c| if r == c { f(self.eigenvalues[r]) } else { 0.0 }),
            Some(u) => u.transpose() * Mat::from_fn(d, d, |r, c| f(self.eigenvalues[r]) * u[(r, c)]),
        }
    }

    /// `U^T diag(f(lambda)) U x`.
    fn apply(&self, f: impl Fn(f64) -> f64, x: &[f64]) -> Vec<f64> {
        let Some(u) = &self.basis else { return self.eigenvalues.iter().zip(x).map(|(&l, x)| f(l) * x).collect() };
        let d = x.len();
        let turned: Vec<f64> = (0..d).map(|r| f(self.eigenvalues[r]) * (0..d).map(|c| u[(r, c)] * x[c]).sum::<f64>()).collect();
        (0..d).map(|c| (0..d).map(|r| u[(r, c)] * turned[r]).sum()).collect()
    }
}

/// What an external value is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::feature_learning) enum Fill {
    InverseEigenvalues,
    Root,
    Inverse,
    Beta,
    Keys(u32),
    Zeros,
}

/// Samples on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Samples {
    /// `[items, n, dX]`.
    pub x: Value,
    /// Labels without noise, `sigma_*(beta_*^T x)`, `[items, 1, n]`.
    pub clean: Value,
    /// Labels, `[items, 1, n]`.
    pub y: Value,
}

/// A batch of problems, declared in a recorder: data items are the batch.
#[derive(Clone, Debug)]
pub struct Problem {
    setting: Setting,
    items: usize,
    step: Value,
    /// `beta_*`, `[items, 1, dX]`.
    pub beta: Value,
    /// `1/lambda` `[items, 1, dX]`, or `Sigma^{1/2}` `[items, dX, dX]` where it is rotated.
    root: Value,
    inverse: Option<Value>,
    pub(in crate::feature_learning) fills: Vec<(Value, Fill)>,
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

fn row_major(x: &Mat<f64>) -> Vec<f32> {
    (0..x.nrows()).flat_map(|r| (0..x.ncols()).map(move |c| narrow(x[(r, c)]))).collect()
}

impl Problem {
    /// Declares targets and covariances of `items` data items.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a zero size.
    pub fn declare(r: &mut Recorder, setting: Setting, items: usize) -> Result<Self> {
        let d = setting.d_x;
        let step = r.external("step", Shape::new(1, 1, 1))?;
        let beta = r.external("beta", Shape::new(items, 1, d))?;
        let root = r.external("root", Shape::new(items, if setting.rotated { d } else { 1 }, d))?;
        let filled = if setting.rotated { Fill::Root } else { Fill::InverseEigenvalues };
        let fills = vec![(step, Fill::Zeros), (beta, Fill::Beta), (root, filled)];
        Ok(Problem { setting, items, step, beta, root, inverse: None, fills })
    }

    fn keys(&mut self, r: &mut Recorder, name: &str, task: u32) -> Result<Value> {
        let keys = r.external(format!("{name}.keys"), Shape::new(self.items, 1, 2))?;
        self.fills.push((keys, Fill::Keys(task)));
        Ok(keys)
    }

    fn random(&self, r: &mut Recorder, out: Value, keys: Value, stream: u32, distribution: Distribution) -> Result<()> {
        r.record(RandomFill { out, distribution, stream, keys, step: self.step.repeat(1, 1)? })
    }

    /// Records the draw of `samples` samples of Philox task `task`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for zero samples.
    pub fn draw(&mut self, r: &mut Recorder, name: &str, task: u32, samples: usize) -> Result<Samples> {
        let Setting { d_x, inputs, teacher, noise, rotated, .. } = self.setting;
        let keys = self.keys(r, name, task)?;
        let tall = Shape::new(self.items, samples, d_x);
        let (u, x) = (r.scratch(format!("{name}.u"), tall)?, r.scratch(format!("{name}.x"), tall)?);
        let distribution = if inputs == Inputs::Gaussian { Distribution::Normal } else { Distribution::Rademacher };
        self.random(r, u, keys, STREAM_INPUTS, distribution)?;
        if rotated {
            r.record(Gemm::new(u, self.root, x))?;
        } else {
            r.record(SpectrumScale { x: u, values: self.root, shift: Coef::Const(0.0), exponent: 2, out: x, block: None })?;
        }
        let index = r.matmul(self.beta, x.t())?;
        let clean = r.activation(teacher, index)?;
        let eps = r.scratch(format!("{name}.noise"), Shape::new(self.items, 1, samples))?;
        self.random(r, eps, keys, STREAM_NOISE, Distribution::Normal)?;
        let y = r.axpby(1.0, clean, narrow(noise), eps)?;
        Ok(Samples { x, clean, y })
    }

    /// Records the draw of initial weights: `G_0` iid `N(0, 1/dX)` `[items, hidden, dX]`, `f` iid `N(0, 1/hidden)` `[items, 1, hidden]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a zero size.
    pub fn weights(&mut self, r: &mut Recorder, hidden: usize) -> Result<(Value, Value)> {
        let keys = self.keys(r, "weights", task::STEP)?;
        let mut layer = |name: &str, stream: u32, shape: Shape| -> Result<Value> {
            let raw = r.scratch(format!("{name}.raw"), shape)?;
            self.random(r, raw, keys, stream, Distribution::Normal)?;
            #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
            let scale = narrow(1.0 / (shape.cols as f64).sqrt());
            let out = r.scratch(name, shape)?;
            r.record(Axpby { alpha: Coef::Const(scale), ..Axpby::copy(raw, out) })?;
            Ok(out)
        };
        let g = layer("G", STREAM_FIRST_LAYER, Shape::new(self.items, hidden, self.setting.d_x))?;
        let f = layer("f", STREAM_SECOND_LAYER, Shape::new(self.items, 1, hidden))?;
        Ok((g, f))
    }

    /// Records `d Sigma^{1/2}` with the true covariance, `[items, m, dX]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where `d` does not fit.
    pub fn times_root(&self, r: &mut Recorder, d: Value) -> Result<Value> {
        let out = r.scratch("times_root", d.shape())?;
        if self.setting.rotated {
            r.record(Gemm::new(d, self.root, out))?;
        } else {
            r.record(SpectrumScale { x: d, values: self.root, shift: Coef::Const(0.0), exponent: 2, out, block: None })?;
        }
        Ok(out)
    }

    /// Records `d Sigma^{-1}` with the true covariance, `[items, m, dX]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where `d` does not fit.
    pub fn times_inverse(&mut self, r: &mut Recorder, d: Value) -> Result<Value> {
        let inverse = match self.inverse {
            Some(inverse) => inverse,
            None => {
                let d_x = self.setting.d_x;
                let inverse = r.external("inverse", Shape::new(self.items, d_x, d_x))?;
                self.fills.push((inverse, Fill::Inverse));
                *self.inverse.insert(inverse)
            }
        };
        r.matmul(d, inverse)
    }

    /// Binds every external value: `hosts` and `seeds` of the items, in order.
    pub(in crate::feature_learning) fn bind(
        &self,
        context: &Context,
        hosts: &[Host],
        seeds: &[u32],
        bindings: &mut Bindings,
    ) -> Result<()> {
        let all = |f: &dyn Fn(&Host) -> Vec<f32>| hosts.iter().flat_map(f).collect::<Vec<f32>>();
        for &(value, fill) in &self.fills {
            let data = match fill {
                Fill::Zeros => vec![0.0; value.shape().elements()],
                Fill::Beta => all(&|h| h.beta.iter().map(|&b| narrow(b)).collect()),
                Fill::InverseEigenvalues => all(&|h| h.eigenvalues.iter().map(|l| narrow(1.0 / l)).collect()),
                Fill::Root => all(&|h| row_major(&h.matrix(f64::sqrt))),
                Fill::Inverse => all(&|h| row_major(&h.matrix(|l| 1.0 / l))),
                Fill::Keys(task) => seeds.iter().flat_map(|&seed| [f32::from_bits(seed), f32::from_bits(task)]).collect(),
            };
            bindings.bind(value, &context.upload(value.shape(), &data)?);
        }
        Ok(())
    }
}

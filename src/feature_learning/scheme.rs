//! The update rules: one training step of all trials, recorded.
//!
//! Trouble never stops a run. A gradient or direction that is not finite (or above 1e18) closes that trial's gate and its weights stay; a factor that has no
//! Cholesky factorization leaves the trial's previous inverse, head or representation in place. Both are counted in the trial's blocks.

use super::method::Method;
use super::two_layer::{Batch, TwoLayer, per_sample};
use crate::error::Result;
use crate::linalg::{orthonormalise, spd_inverse, spd_solve};
use crate::plan::block::{CURRENT_RATE, FLAG, WIDTH};
use crate::plan::{
    AdamUpdate, Advance, Axpby, CheckFinite, Clock, Coef, DecayForm, Gemm, KronFactor, Recorder, Reduce, ReduceKind, Role, RootOutcome,
    SgdUpdate, SolveTriangular, Value,
};
use crate::tensor::{ElementType, Shape};

/// Sizes of a batched run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Data items (anisotropies x seeds).
    pub data: usize,
    /// Trials per data item (learning rates).
    pub sharing: usize,
    /// Inputs.
    pub d_x: usize,
    /// Outputs.
    pub d_y: usize,
    /// Hidden units.
    pub k: usize,
}

impl Sizes {
    /// `data * sharing`.
    pub fn trials(&self) -> usize {
        self.data * self.sharing
    }
}

/// Absolute damping of the alternating scheme. The defaults are ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damping {
    /// `lambda_G` on `X^T X/n`; default 1e-8.
    pub inputs: f32,
    /// `lambda_P` on `F^T F` and on `Z^T Z/n`; default 1e-6.
    pub hidden: f32,
}

impl Default for Damping {
    fn default() -> Self {
        Damping { inputs: 1e-8, hidden: 1e-6 }
    }
}

/// What a state value holds before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Zeros.
    Zeros,
    /// Identity matrices.
    Identity,
    /// The initial head.
    Head,
    /// The initial representation.
    Representation,
    /// Hyper-parameter rows.
    Block,
}

/// A method with its model, blocks and state, declared in a recorder.
#[derive(Clone, Debug)]
pub struct Scheme {
    /// The method.
    pub method: Method,
    /// Weights.
    pub model: TwoLayer,
    /// Hyper-parameter rows of `G`, and of both layers in a joint method, `[trials, 1, WIDTH]`.
    pub block: Value,
    /// Hyper-parameter rows of `F` where it has a step of its own, `[trials, 1, WIDTH]`.
    pub head_block: Option<Value>,
    /// Every state value with its initial content, weights and blocks included.
    pub state: Vec<(Value, Initial)>,
    /// `diag(1/sd)` of the last batch, `[data, dX, dX]`, for [`Method::BnInSgd`].
    standardise: Option<Value>,
    moments: Vec<Value>,
    left_root: Option<Value>,
    right_root: Option<Value>,
    head_root: Option<Value>,
    damping: Damping,
}

impl Scheme {
    /// Declares weights and state.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a zero size.
    pub fn declare(r: &mut Recorder, method: Method, sizes: Sizes, damping: Damping) -> Result<Self> {
        let Sizes { data, d_x, d_y, k, .. } = sizes;
        let trials = sizes.trials();
        let mut state = Vec::new();
        let mut declare = |name: &str, shape: Shape, initial: Initial| -> Result<Value> {
            let value = r.declare(name.into(), shape, ElementType::F32, Role::State)?;
            state.push((value, initial));
            Ok(value)
        };
        let f = declare("F", Shape::new(trials, d_y, k), Initial::Head)?;
        let g = declare("G", Shape::new(trials, k, d_x), Initial::Representation)?;
        let block = declare("block", Shape::new(trials, 1, WIDTH), Initial::Block)?;
        let alternating = matches!(method, Method::Kfac | Method::Foof);
        let mut optional = |wanted: bool, name: &str, shape: Shape, initial: Initial| -> Result<Option<Value>> {
            if wanted { declare(name, shape, initial).map(Some) } else { Ok(None) }
        };
        let head_block = optional(alternating, "head_block", Shape::new(trials, 1, WIDTH), Initial::Block)?;
        // A zero root makes no step: what a trial does until its first factorization succeeds.
        let left = matches!(method, Method::Kfac | Method::KfacLs);
        let left_root = optional(left, "left_root", Shape::new(trials, k, k), Initial::Zeros)?;
        let right = alternating || matches!(method, Method::KfacLs | Method::Dfw);
        let right_root = optional(right, "right_root", Shape::new(data, d_x, d_x), Initial::Zeros)?;
        let head_root = optional(alternating, "head_root", Shape::new(trials, k, k), Initial::Zeros)?;
        let standardise = optional(method == Method::BnInSgd, "standardise", Shape::new(data, d_x, d_x), Initial::Identity)?;
        let mut moments = Vec::new();
        if method == Method::Adam {
            for (name, of) in [("m_F", f), ("v_F", f), ("m_G", g), ("v_G", g)] {
                moments.push(declare(name, of.shape(), Initial::Zeros)?);
            }
        }
        let model = TwoLayer::new(f, g, sizes.sharing)?;
        Ok(Scheme { method, model, block, head_block, state, standardise, moments, left_root, right_root, head_root, damping })
    }

    /// Records one training step on `batch`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where the batch does not fit the model or a split batch has fewer than two samples.
    pub fn record(&self, r: &mut Recorder, batch: &Batch) -> Result<()> {
        let half = batch.samples() / 2;
        match self.method {
            Method::Sgd | Method::Adam => self.joint(r, batch),
            Method::BnInSgd => {
                let x = self.standardised(r, batch.x)?;
                self.joint(r, &Batch { x, ..*batch })
            }
            Method::Amgd | Method::KfacLs => self.minimise_then_descend(r, batch, batch),
            Method::AmgdSplit | Method::Dfw => self.minimise_then_descend(r, &batch.rows(0, half)?, &batch.rows(half, batch.samples())?),
            Method::Kfac | Method::Foof => self.alternate(r, batch),
        }
    }

    /// The representation that acts on raw inputs: `G`, or `G diag(1/sd)` under input standardisation.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn effective_representation(&self, r: &mut Recorder) -> Result<Value> {
        match self.standardise {
            None => Ok(self.model.g),
            Some(scale) => self.model.times_shared(r, self.model.g, scale, Coef::Const(1.0)),
        }
    }

    fn joint(&self, r: &mut Recorder, batch: &Batch) -> Result<()> {
        let model = &self.model;
        let z = model.hidden(r, model.g, batch.x)?;
        let residual = model.residual(r, z, batch.y)?;
        let gradients = [(model.f, model.gradient_f(r, residual, z)?), (model.g, model.gradient_g(r, residual, batch.x)?)];
        let block = self.block;
        let flag = column(block, FLAG)?;
        for (_, g) in gradients {
            r.record(CheckFinite { x: g, flag })?;
        }
        r.record(Advance { block, clock: Clock::Step })?;
        for (layer, (w, g)) in gradients.into_iter().enumerate() {
            match self.moments.get(2 * layer..2 * layer + 2) {
                Some(&[m, v]) => r.record(AdamUpdate { w, g, m, v, v_max: None, nesterov: false, decay: DecayForm::Gradient, block })?,
                _ => r.record(SgdUpdate { w, g, m: None, g_scale: None, nesterov: false, decay: DecayForm::Gradient, block })?,
            }
        }
        Ok(())
    }

    /// Head by least squares on one batch, `G` by one normalised (and possibly preconditioned) step on the other.
    fn minimise_then_descend(&self, r: &mut Recorder, fit: &Batch, descend: &Batch) -> Result<()> {
        let model = &self.model;
        let z = model.hidden(r, model.g, fit.x)?;
        let (head, head_ok) = least_squares_head(r, model, z, fit.y)?;
        r.record(Axpby { gate: Some(head_ok), ..Axpby::copy(head, model.f) })?;
        let z = if fit == descend { z } else { model.hidden(r, model.g, descend.x)? };
        let residual = model.residual(r, z, descend.y)?;
        let mut direction = model.gradient_g(r, residual, descend.x)?;
        if self.right_root.is_some() {
            direction = self.precondition(r, direction, descend.x)?;
        }
        r.record(Advance { block: self.block, clock: Clock::Step })?;
        let moved = r.scratch("moved", model.g.shape())?;
        let rate = Coef::Column { column: CURRENT_RATE, scale: -1.0 };
        r.record(Axpby { alpha: rate, block: Some(self.block), ..Axpby::add(direction, model.g, moved) })?;
        let (normalised, ok) = orthonormalise(r, moved)?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(normalised, model.g) })?;
        self.book(r, head_ok, ok)
    }

    /// The alternating preconditioned scheme: `G` with the old `F`, then `F` with the new `G`.
    fn alternate(&self, r: &mut Recorder, batch: &Batch) -> Result<()> {
        let model = &self.model;
        let z = model.hidden(r, model.g, batch.x)?;
        let residual = model.residual(r, z, batch.y)?;
        let gradient = model.gradient_g(r, residual, batch.x)?;
        let direction = self.precondition(r, gradient, batch.x)?;
        self.step(r, model.g, direction, self.block)?;

        let (Some(head_block), Some(head_root)) = (self.head_block, self.head_root) else { return Ok(()) };
        let z = model.hidden(r, model.g, batch.x)?;
        let residual = model.residual(r, z, batch.y)?;
        let gradient = model.gradient_f(r, residual, z)?;
        let covariance = r.kron_factor(z)?;
        let (root, ok) = spd_inverse(r, covariance, self.damping.hidden, None)?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(root, head_root) })?;
        let direction = r.matmul(gradient, head_root)?;
        self.step(r, model.f, direction, head_block)
    }

    /// `left^{-1} gradient right^{-1}`, after refreshing both inverses.
    fn precondition(&self, r: &mut Recorder, gradient: Value, x: Value) -> Result<Value> {
        let mut direction = gradient;
        if let Some(root) = self.right_root {
            // Of the data alone: one inverse serves all learning rates.
            let covariance = r.kron_factor(x)?;
            let (inverse, ok) = spd_inverse(r, covariance, self.damping.inputs, None)?;
            r.record(Axpby { gate: Some(ok), ..Axpby::copy(inverse, root) })?;
            direction = self.model.times_shared(r, direction, root, Coef::Const(1.0))?;
        }
        if let Some(root) = self.left_root {
            let f = self.model.f;
            let gram = r.scratch("gram", Shape::new(f.items(), f.cols(), f.cols()))?;
            #[allow(clippy::cast_precision_loss, reason = "output counts are far below 2^24")]
            r.record(KronFactor { scale: f.rows() as f32, ..KronFactor::new(f, gram) })?;
            let (inverse, ok) = spd_inverse(r, gram, self.damping.hidden, None)?;
            r.record(Axpby { gate: Some(ok), ..Axpby::copy(inverse, root) })?;
            direction = r.matmul(root, direction)?;
        }
        Ok(direction)
    }

    fn step(&self, r: &mut Recorder, w: Value, direction: Value, block: Value) -> Result<()> {
        r.record(CheckFinite { x: direction, flag: column(block, FLAG)? })?;
        r.record(Advance { block, clock: Clock::Step })?;
        r.record(SgdUpdate { w, g: direction, m: None, g_scale: None, nesterov: false, decay: DecayForm::Gradient, block })
    }

    /// Counts a step whose head or representation was refused.
    fn book(&self, r: &mut Recorder, left_ok: Value, right_ok: Value) -> Result<()> {
        let ok = r.scratch("ok", Shape::new(self.model.trials(), 1, 1))?;
        r.record(RootOutcome { left_ok, right_ok, ok, block: self.block })
    }

    /// `(X - mean) diag(1/sd)` with moments of the batch. Square root and reciprocal are 1 x 1 Cholesky factorizations and triangular solves.
    fn standardised(&self, r: &mut Recorder, x: Value) -> Result<Value> {
        let Some(scale) = self.standardise else { return Ok(x) };
        let (data, n, d_x) = (x.items(), x.rows(), x.cols());
        let mean = r.column_mean(x)?;
        let centred = r.scratch("centred", Shape::new(data, n, d_x))?;
        r.record(Axpby { beta: Coef::Const(-1.0), ..Axpby::add(x, mean.broadcast_row(n)?, centred) })?;
        let variance = r.scratch("variance", Shape::new(data * d_x, 1, 1))?;
        let Coef::Const(mean_scale) = per_sample(n) else { return Ok(x) };
        for d in 0..data {
            let columns = centred.item_range(d..d + 1)?.columns_as_items()?;
            let out = variance.item_range(d * d_x..(d + 1) * d_x)?;
            r.record(Reduce { kind: ReduceKind::SumSq, x: columns, y: None, out, scale: mean_scale })?;
        }
        let (deviation, _) = r.cholesky(variance, 0.0, None)?;
        for d in 0..data {
            let l = deviation.item_range(d * d_x..(d + 1) * d_x)?;
            let out = scale.item_range(d..d + 1)?.diagonal_as_items()?;
            r.record(SolveTriangular { l, b: None, out, transpose: false })?;
        }
        r.matmul(centred, scale)
    }
}

/// `F_LS = (Y^T Z/n) (Z^T Z/n)^{-1}`, `[trials, dY, k]` as a view, and whether it exists.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where hidden layer and targets do not fit.
pub fn least_squares_head(r: &mut Recorder, model: &TwoLayer, hidden: Value, y: Value) -> Result<(Value, Value)> {
    let covariance = r.kron_factor(hidden)?;
    let cross = r.scratch("cross", Shape::new(model.trials(), y.cols(), hidden.cols()))?;
    r.record(Gemm { alpha: per_sample(hidden.rows()), ..Gemm::new(model.shared(y.t())?, hidden, cross) })?;
    let (head, ok) = spd_solve(r, covariance, cross.t(), 0.0, None)?;
    Ok((head.t(), ok))
}

/// One column of a block as a `[trials, 1, 1]` view.
fn column(block: Value, column: u32) -> Result<Value> {
    block.col_range(column as usize..column as usize + 1)
}

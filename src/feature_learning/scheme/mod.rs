//! The update rules: one training step of all trials, recorded.
//!
//! Trouble never stops a run. A gradient or direction that is not finite (or above 1e18) closes that trial's gate and its weights stay; a factor that has no
//! Cholesky factorization leaves the trial's previous inverse, head or representation in place. Both are counted in the trial's blocks.

mod alternate;
mod descend;
mod joint;
mod natural;
mod precondition;

use super::method::Method;
use super::two_layer::{Batch, TwoLayer, per_sample};
use crate::context::Context;
use crate::error::Result;
use crate::linalg::spd_solve;
use crate::optim::{LearningRateSchedule, Optimizer};
use crate::plan::block::{FLAG, WIDTH};
use crate::plan::{Advance, CheckFinite, Clock, DecayForm, Gemm, Recorder, Role, RootOutcome, SgdUpdate, Value};
use crate::tensor::{ElementType, Shape, Tensor};

use alternate::Alternate;
use descend::Descend;
use joint::Joint;
use natural::Natural;

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

/// Damping and memory of the methods that precondition by factors of their own. The defaults are ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damping {
    /// `lambda_G` on `X^T X/n`; default 1e-8.
    pub inputs: f32,
    /// `lambda_P` on `F^T F` and on `Z^T Z/n`; default 1e-6.
    pub hidden: f32,
    /// `lambda` on the dense matrix of [`Method::NaturalGaussNewton`] and [`Method::NaturalEmpirical`]; default 1e-4.
    pub dense: f32,
    /// Decay of the running averages of the batch's second moments, in `[0, 1)`, which start at the first batch's; default 0, no memory.
    pub decay: f32,
}

impl Default for Damping {
    fn default() -> Self {
        Damping { inputs: 1e-8, hidden: 1e-6, dense: 1e-4, decay: 0.0 }
    }
}

/// What a state value holds before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// The initial head.
    Head,
    /// The initial representation.
    Representation,
    /// Hyper-parameter rows.
    Block,
}

/// A weight that an [`Optimizer`] updates.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Its name.
    pub name: &'static str,
    /// The weight.
    pub weight: Value,
    /// Where the step segment leaves its gradient.
    pub gradient: Value,
    /// Trained by plain gradient steps, whatever the method.
    pub plain: bool,
}

/// What a trial computes when it is evaluated: `f(x) = head representation x - offset`.
#[derive(Clone, Copy, Debug)]
pub struct Evaluated {
    /// `[trials, dY, k]`.
    pub head: Value,
    /// `[trials, k, dX]`, acting on raw inputs.
    pub representation: Value,
    /// `[trials, dY, 1]`; none is zero.
    pub offset: Option<Value>,
}

/// A method with its model, blocks and state, declared in a recorder.
#[derive(Clone, Debug)]
pub struct Scheme {
    /// The method.
    pub method: Method,
    /// Weights.
    pub model: TwoLayer,
    /// Every state value with its initial content, weights and blocks included.
    pub state: Vec<(Value, Initial)>,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    Joint(Box<Joint>),
    Descend(Box<Descend>),
    Alternate(Box<Alternate>),
    Natural(Natural),
}

/// Declares state values with their initial content.
struct Keep<'a> {
    r: &'a mut Recorder,
    sizes: Sizes,
    state: Vec<(Value, Initial)>,
}

impl Keep<'_> {
    fn declare(&mut self, name: &str, shape: Shape, initial: Initial) -> Result<Value> {
        let value = self.r.declare(name.into(), shape, ElementType::F32, Role::State)?;
        self.state.push((value, initial));
        Ok(value)
    }

    /// A hyper-parameter row for each trial.
    fn block(&mut self, name: &str) -> Result<Value> {
        self.declare(name, Shape::new(self.sizes.trials(), 1, WIDTH), Initial::Block)
    }
}

impl Scheme {
    /// Declares weights and state.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a zero size.
    pub fn declare(r: &mut Recorder, method: Method, sizes: Sizes, damping: Damping) -> Result<Self> {
        let Sizes { d_x, d_y, k, .. } = sizes;
        let trials = sizes.trials();
        let mut keep = Keep { r, sizes, state: Vec::new() };
        let f = keep.declare("F", Shape::new(trials, d_y, k), Initial::Head)?;
        let g = keep.declare("G", Shape::new(trials, k, d_x), Initial::Representation)?;
        let model = TwoLayer::new(f, g, sizes.sharing)?;
        let rule = match method {
            Method::Amgd | Method::AmgdSplit | Method::Dfw | Method::KfacLs => {
                Rule::Descend(Box::new(Descend::declare(&mut keep, method, damping)?))
            }
            Method::Kfac | Method::KfacEmpirical | Method::Foof => {
                Rule::Alternate(Box::new(Alternate::declare(&mut keep, method, damping)?))
            }
            Method::NaturalGaussNewton | Method::NaturalEmpirical => Rule::Natural(Natural::declare(&mut keep, method, damping)?),
            _ => Rule::Joint(Box::new(Joint::declare(&mut keep, method, &model)?)),
        };
        Ok(Scheme { method, model, state: keep.state, rule })
    }

    /// Records one training step on `batch`; of a method that an [`optimizer`](Self::optimizer) trains, its gradients. Without `refresh` preconditioners
    /// stay as they are.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where the batch does not fit the model or a split batch has fewer than two samples.
    pub fn record(&self, r: &mut Recorder, batch: &Batch, refresh: bool) -> Result<()> {
        match &self.rule {
            Rule::Joint(rule) => rule.record(r, &self.model, batch),
            Rule::Descend(rule) => rule.record(r, &self.model, batch, refresh),
            Rule::Alternate(rule) => rule.record(r, &self.model, batch, refresh),
            Rule::Natural(rule) => rule.record(r, &self.model, batch),
        }
    }

    /// The weights that an [`optimizer`](Self::optimizer) trains; none where the recorded step does it all.
    pub fn trained(&self) -> &[Trained] {
        match &self.rule {
            Rule::Joint(rule) => &rule.trained,
            _ => &[],
        }
    }

    /// Blocks of the recorded step, in which it counts what it refused.
    pub fn blocks(&self) -> Vec<Value> {
        match &self.rule {
            Rule::Joint(_) => Vec::new(),
            Rule::Descend(rule) => vec![rule.block],
            Rule::Alternate(rule) => vec![rule.block, rule.head_block],
            Rule::Natural(rule) => vec![rule.block],
        }
    }

    /// The optimizer that goes on from the gradients of the recorded step, with a learning rate for each trial; none where the step does it all.
    ///
    /// # Errors
    /// As [`Builder::build`](crate::optim::Builder::build), and [`Error::Binding`](crate::Error::Binding) where `tensor` lacks a weight or gradient.
    pub fn optimizer(
        &self,
        context: &Context,
        tensor: &dyn Fn(Value) -> Option<Tensor>,
        learning_rates: &[f64],
        schedule: LearningRateSchedule,
    ) -> Result<Option<Optimizer>> {
        joint::optimizer(self.method, self.trained(), context, tensor, learning_rates, schedule)
    }

    /// The function that the trials are judged by: under input standardisation with `G diag(1/sd)` of the last batch, under hidden batch-norm with running
    /// statistics.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn evaluated(&self, r: &mut Recorder) -> Result<Evaluated> {
        match &self.rule {
            Rule::Joint(rule) => rule.evaluated(r, &self.model),
            _ => Ok(Evaluated { head: self.model.f, representation: self.model.g, offset: None }),
        }
    }
}

/// A gradient step `w <- w - eta direction` whose direction is looked at first.
fn step(r: &mut Recorder, w: Value, direction: Value, block: Value) -> Result<()> {
    r.record(CheckFinite { x: direction, flag: column(block, FLAG)? })?;
    r.record(Advance { block, clock: Clock::Step })?;
    r.record(SgdUpdate { w, g: direction, m: None, g_scale: None, nesterov: false, decay: DecayForm::Gradient, block })
}

/// Counts a step of which a factorization failed.
fn book(r: &mut Recorder, left_ok: Value, right_ok: Value, block: Value) -> Result<()> {
    let ok = r.scratch("ok", Shape::new(block.items(), 1, 1))?;
    r.record(RootOutcome { left_ok, right_ok, ok, block })
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

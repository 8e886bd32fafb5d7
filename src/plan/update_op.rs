//! Operations of optimizers: clocks, damping, clips, and the fused tails.

use super::value::Value;

/// Which clock [`Advance`] moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    /// The optimizer's step: consumes the bad-gradient flag into the gate, then counter, learning rate and bias corrections.
    Step,
    /// As `Step`, but the first good gradient of an item goes into the statistics alone (SOAP): its gate stays shut and no counter moves.
    ///
    /// The statistics' effective decay is the configured one, 1 where the gradient is refused.
    StepAfterFirst,
    /// The statistics' running average from the identity: the effective decay is the configured one.
    StatisticsFromIdentity,
    /// The statistics' running average from the first batch: effective decay 0 while the carried weight is 0, then the configured one; the weight becomes 1.
    StatisticsFromFirst,
    /// The statistics' bias-corrected running average: carried weight `w <- decay w + 1`, effective decay `1 - 1/w`.
    ///
    /// The statistics' clocks stand still where the gate is closed.
    StatisticsBiasCorrected,
}

/// Advances what changes from step to step, in the block itself ([`super::block`]). One item, one invocation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Advance {
    /// `[batch, 1, WIDTH]`, updated in place.
    pub block: Value,
    /// Which clock.
    pub clock: Clock,
}

/// The damping of both Kronecker factors: `out = (lambda_left, lambda_right)`.
///
/// Plain: both are `damping`. Split (\[MG15\] section 6.3): `lambda_right = pi sqrt(damping)`, `lambda_left = sqrt(damping) / pi`, `pi^2 = (tr A / dim A) / (tr G / dim G)`.
/// Both from the damping times the item's ridge multiplier, which failed factorizations raise, and its adaptation factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FactorDamping {
    /// Trace over dimension of the left factor, `[batch, 1, 1]`; both traces or neither.
    pub left_mean: Option<Value>,
    /// Trace over dimension of the right factor, `[batch, 1, 1]`.
    pub right_mean: Option<Value>,
    /// The stack's block (damping and ridge columns).
    pub block: Value,
    /// `[batch, 1, 2]`.
    pub out: Value,
}

/// Books the outcome of a refresh: `ok = ok_left * ok_right` gates the copies; a failure multiplies the item's ridge by 10 and is counted.
///
/// An item whose statistics' carried weight is 0 has nothing to factor yet: its `ok` is 0, and neither ridge nor count changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RootOutcome {
    /// `[batch, 1, 1]`.
    pub left_ok: Value,
    /// `[batch, 1, 1]`.
    pub right_ok: Value,
    /// `[batch, 1, 1]`: 1 where both hold.
    pub ok: Value,
    /// The stack's block, updated in place (ridge and failure columns).
    pub block: Value,
}

/// `out[t] = min(1, sqrt(kl_clip / |lr^2 sum over layers of dots[layer, t]|))`, 1 where the sum is 0.
///
/// `dots` is `[layers * trials, 1, 1]`, layer outer. Trials whose sum is not finite get 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlClip {
    /// Inner products of gradient and preconditioned gradient.
    pub dots: Value,
    /// A block whose learning rate and clip columns hold, one item a trial.
    pub block: Value,
    /// A negative sum gives 1 instead of counting by its magnitude (kfac-jax's norm constraint).
    pub signed: bool,
    /// `[trials, 1, 1]`.
    pub out: Value,
}

/// `out[t] = min(1, max / sqrt(sum over layers of squares[layer, t]))`, 1 where the sum is 0: what brings the layers' joint norm down to `max`.
///
/// `squares` is `[layers * trials, 1, 1]`, layer outer. A sum that is not finite is its own result, for [`CheckFinite`](super::CheckFinite) to find.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormClip {
    /// Squared norms of the layers.
    pub squares: Value,
    /// Largest joint norm, positive.
    pub max: f32,
    /// `[trials, 1, 1]`.
    pub out: Value,
}

/// How a weight decay `lambda` enters an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecayForm {
    /// `g <- g + lambda w`, before momentum and moments.
    Gradient,
    /// `w <- (1 - lr lambda) w`, beside the update (Loshchilov, Hutter 2019).
    Decoupled,
    /// As [`Decoupled`](Self::Decoupled), only where the update's direction `d` has the weight's sign, `d w >= 0` (Chen and others 2025, "Cautious weight
    /// decay").
    Cautious,
}

/// SGD's fused tail (PyTorch's order): weight decay (L2, or decoupled as in `AdamW`), momentum with dampening, Nesterov, update.
///
/// Reads learning rate, momentum, dampening, decay, step and gate from the block. Items behind a closed gate are left alone, and so are weights that would
/// not be finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdUpdate {
    /// Weights, updated in place.
    pub w: Value,
    /// Gradient or preconditioned direction.
    pub g: Value,
    /// Momentum buffer, updated in place.
    pub m: Option<Value>,
    /// Factor of `g` by item (KL clip), `[batch, 1, 1]`.
    pub g_scale: Option<Value>,
    /// Look-ahead form.
    pub nesterov: bool,
    /// How the decay enters.
    pub decay: DecayForm,
    /// The stack's block.
    pub block: Value,
}

/// Adam's fused tail (PyTorch's order).
///
/// Reads learning rate, betas, epsilon, decay, carried weights and gate from the block. Items behind a closed gate are left alone, and so are weights that
/// would not be finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamUpdate {
    /// Weights, updated in place.
    pub w: Value,
    /// Gradient.
    pub g: Value,
    /// First moment, updated in place.
    pub m: Value,
    /// Second moment, updated in place.
    pub v: Value,
    /// `AMSGrad`'s running maximum of the second moment, updated in place; divides instead of it.
    pub v_max: Option<Value>,
    /// `NAdam`'s look-ahead: `beta1 m_t / (1 - beta1^(t+1)) + (1 - beta1) g / (1 - beta1^t)` for `m_t / (1 - beta1^t)` (optax's form).
    pub nesterov: bool,
    /// How the decay enters.
    pub decay: DecayForm,
    /// The stack's block.
    pub block: Value,
}

/// One step of the optimizer that Shampoo's step length is grafted from: `v <- beta2 v + (1 - beta2) g^2`, `out = m / (sqrt(v / c) + epsilon)`.
///
/// Reads beta2, epsilon, carried weight and gate from the block. A `beta2` and a `1 - beta2` of 1 make `v` a sum. Items behind a closed gate are left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraftDirection {
    /// Gradient.
    pub g: Value,
    /// Filtered gradient.
    pub m: Value,
    /// Second moment, updated in place.
    pub v: Value,
    /// `c = 1 - beta2^t` instead of 1.
    pub corrected: bool,
    /// Direction.
    pub out: Value,
    /// The stack's block.
    pub block: Value,
}

/// `out = sqrt(donor) / (sqrt(own) + 1e-16)`, from squared norms: what takes one tensor to the norm of another. Without a donor 1.
///
/// 0, a refusal to [`SgdUpdate`], where `own` or the result is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormRatio {
    /// Squared norm to take on, `[batch, 1, 1]`.
    pub donor: Option<Value>,
    /// Squared norm of the tensor at hand, `[batch, 1, 1]`.
    pub own: Value,
    /// `[batch, 1, 1]`.
    pub out: Value,
}

/// `out = |donor| / (|x| + 1e-16)`, the Frobenius norms of whole items: [`NormRatio`] with its reductions, for items that one workgroup can read. Without a donor 1.
///
/// 0, a refusal to [`SgdUpdate`], where `|x|^2` or the result is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraftScale {
    /// The tensor at hand, `[m, n]`.
    pub x: Value,
    /// The tensor whose norm is to be taken on, `[m, n]`.
    pub donor: Option<Value>,
    /// `[batch, 1, 1]`.
    pub out: Value,
}

/// `out = (1 - lr lambda) sqrt(1 - beta2^t) / (1 - beta1^t)`, SOAP's factor of a direction: either part is 1 where it is not asked for, the correction 0 where it is
/// not finite.
///
/// Reads rate, decay and carried weights from the block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepScale {
    /// The weight's decay follows the update and shrinks it too.
    pub decayed: bool,
    /// Adam's bias corrections.
    pub corrected: bool,
    /// `[batch, 1, 1]`.
    pub out: Value,
    /// The stack's block.
    pub block: Value,
}

//! Layer-wise preconditioned optimizers on wgpu compute shaders, with a fast CPU path.
//!
//! A layer-wise method preconditions the gradient `G` of a weight matrix along both of its axes, `W <- W - lr left^{-1/p} G right^{-1/p}`, instead of entry
//! by entry. [`optim`] has [`Kfac`](optim::Kfac), [`Foof`](optim::Foof), [`NaturalGradient`](optim::NaturalGradient), [`Shampoo`](optim::Shampoo),
//! [`Soap`](optim::Soap), [`Muon`](optim::Muon) and the baselines [`Sgd`](optim::Sgd), [`Adam`](optim::Adam) and [`AdamW`](optim::AdamW);
//! [`feature_learning`] has the experiments that say when preconditioning matters.
//!
//! # Quick start
//!
//! ```
//! use layerwise::optim::{AdamW, Group, Optimizer, Parameter};
//! use layerwise::{Context, Shape};
//!
//! let ctx = Context::auto(); // a GPU if there is one, else the CPU path
//! let weight = ctx.upload(Shape::matrix(2, 3), &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])?;
//! let gradient = ctx.zeros(Shape::matrix(2, 3))?;
//! let group = Group::new(AdamW { learning_rate: 1e-2, ..AdamW::default() }).parameter(Parameter::new("weight", &weight, &gradient));
//! let mut optimizer = Optimizer::builder(&ctx).group(group).build()?;
//! for _ in 0..10 {
//!     gradient.write(&weight.read()?)?; // your backward pass; on a GPU it writes the buffer itself
//!     optimizer.step()?;
//! }
//! # Ok::<(), layerwise::Error>(())
//! ```
//!
//! # Embedding
//!
//! An application that has a wgpu device keeps it: [`Context::from_wgpu`] takes device and queue, [`Context::import`] views its buffers, and
//! `Optimizer::record` adds one step to its own `CommandEncoder`. Nothing of ours submits, waits, reads back, allocates or installs a handler there. Ask
//! for the device with `required_features` and `required_limits`; `layerwise::wgpu` is the wgpu that we were built with (one major version per minor
//! release of ours).
//!
//! # Conventions
//!
//! Everything else in these pages refers here.
//!
//! - **Shapes.** A [`Tensor`] is `[batch, rows, cols]`, row-major. A matrix has batch 1, a vector is `[1, n, 1]`. The batch holds layers of one shape, trials of
//!   a sweep, or plain batched matrices; data index outer, trial index inner. Nothing broadcasts by accident: an operand that serves several items says so
//!   with [`Value::repeat`].
//! - **Layers.** A weight is `[out, in]`, `y = W x`; a bias is the last column of `[W | b]`, its input a trailing 1. Batches of samples are `[n, features]`: rows
//!   are samples.
//! - **Losses** and gradients are means over the batch; `L = 1/(2n) sum ||y - f(x)||^2`.
//! - **left** is the out x out factor, **right** the in x in factor. (Elsewhere: G and A, or B and A, or L and R.)
//! - **accumulate, refresh, apply** are the beats of a step. *Statistics* are running averages; *roots* and *bases* are what refresh makes of them: two things
//!   with two clocks, `statistics_every` and `precondition_every`, in optimizer steps. (Elsewhere: `factor_update_steps` and `inv_update_steps`,
//!   `update_freq`, `T_1` and `T_2`.)
//! - **decay**: `s <- decay s + (1 - decay) x`. (Elsewhere: beta2, `factor_decay`, `cov_ema_decay`.) Bias correction divides by the carried weight.
//! - **damping** is lambda, added before a root or an inverse; each config says whether it is absolute or relative. (Elsewhere: eps, ridge, Tikhonov.)
//! - **taps** are what KFAC needs of a layer: its inputs, and the gradients with respect to its outputs.
//! - **Arithmetic** is f32 on every device, which may take subnormal numbers for zero; f16 is storage. f64 appears where hyper-parameters are given
//!   and where the CPU path sums.
//!
//! # Errors and health
//!
//! What can be checked is checked when things are built and comes as an [`Error`](enum@Error) that names the tensor, field or limit. A step itself does not fail for numerical
//! reasons: an item whose gradient is not finite keeps its weight and state, a factor that can't be inverted keeps its last inverse, and
//! [`Optimizer::health`](optim::Optimizer::health) tells. Equal input on one device gives equal bits.
//!
//! # Map
//!
//! | module | what it has |
//! |---|---|
//! | [`optim`] | optimizers over parameter groups, schedules, health |
//! | [`linalg`] | composites: damped inverse and solve, orthonormal rows |
//! | [`plan`] | operations, the recorder, plans that can be printed and counted without a device |
//! | `gpu` | the wgpu engine's facts: adapters, limits, kernels, variants (feature `gpu`, on by default) |
//! | [`rng`] | the counter-based random numbers that both engines draw |
//! | [`feature_learning`] | linear representation learning: data, model, methods, metrics, theory |

mod context;
mod cpu;
mod error;
pub mod feature_learning;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod linalg;
pub mod optim;
pub mod plan;
mod prepared;
pub mod rng;
mod tensor;

pub use context::Context;
pub use error::{Error, Result};
#[cfg(feature = "gpu")]
pub use gpu::{experimental_features, required_features, required_limits};
pub use plan::{Coef, Plan, Recorder, Value};
pub use prepared::{Bindings, Prepared};
pub use tensor::{ElementType, Shape, Tensor};
#[cfg(feature = "gpu")]
pub use wgpu;

/// The README's program runs as a doc test.
#[cfg(all(doctest, feature = "gpu"))]
#[doc = include_str!("../README.md")]
struct Readme;

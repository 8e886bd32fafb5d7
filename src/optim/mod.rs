//! Optimizers: what a step does to weights, given gradients.
//!
//! A config struct per published method ([`Sgd`], [`Adam`], [`AdamW`], [`Kfac`], [`Foof`], [`NaturalGradient`], [`Shampoo`],
//! [`EigenvalueCorrectedShampoo`], [`Soap`], [`Muon`]) says *what*, a [`Group`] says for which [`Parameter`]s and with which
//! [`LearningRateSchedule`], and an [`Optimizer`] is all groups recorded into one plan. A step has beats: `begin` (look for non-finite gradients, advance
//! the clocks), `accumulate` (statistics), `refresh` (roots of the statistics, bucket by bucket), `apply` (direction, clip, momentum, decay, update). A
//! [`Schedule`] says which of them run at a step, and in which order ([`Soap`] updates before it looks).
//!
//! ```
//! use layerwise::optim::{Adam, Group, Optimizer, Parameter};
//! use layerwise::{Context, Shape};
//! let ctx = Context::cpu();
//! let weight = ctx.upload(Shape::matrix(1, 2), &[1.0, -2.0])?;
//! let gradient = ctx.zeros(Shape::matrix(1, 2))?;
//! let group = Group::new(Adam { learning_rate: 0.1, ..Adam::default() }).parameter(Parameter::new("w", &weight, &gradient));
//! let mut optimizer = Optimizer::builder(&ctx).group(group).build()?;
//! for _ in 0..200 {
//!     gradient.write(&weight.read()?)?; // of |w|^2 / 2
//!     optimizer.step()?;
//! }
//! assert!(weight.read()?.iter().all(|w| w.abs() < 0.05));
//! # Ok::<(), layerwise::Error>(())
//! ```
//!
//! # Trials
//! A weight is `[trials, out, in]`: each trial of a sweep has its own weights, gradients, state and, with [`Group::learning_rates`] and
//! [`Group::dampings`], its own hyper-parameters. One batched run equals as many single runs.
//!
//! # When something goes wrong
//! A step never waits and never fails for numerical reasons. Where a gradient is not finite (or above 1e18 in magnitude, whose square is infinite), that
//! layer of that trial keeps weight, state and step counter, also where taps are so large that their factor would overflow; a direction that overflows is
//! dropped; where a factor can't be inverted, it keeps its previous root, and its damping grows tenfold for the next try. [`Optimizer::health`] tells,
//! whenever you log.
//!
//! # Saving and resuming
//! With feature `checkpoint` an optimizer writes its state to bytes or a file in the safetensors format (`Optimizer::state_bytes`, `Optimizer::save`)
//! and a new one goes on from there, bit by bit as if nothing had happened. Weights are yours: save them beside it.
//!
//! # Settings as text
//! With feature `serde` every config struct, and [`Method`] and [`LearningRateSchedule`], can be read from and written to JSON and its kin.

mod adam;
mod beats;
mod builder;
#[cfg(feature = "checkpoint")]
mod bytes;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod config;
mod draft;
mod eigenvalue_corrected;
#[cfg(feature = "checkpoint")]
mod file;
mod foof;
mod graft;
mod group;
mod health;
mod intake;
mod kfac;
mod learning_rate;
mod memory;
mod muon;
mod natural_gradient;
mod optimizer;
mod parameter;
mod rebind;
#[cfg(all(feature = "checkpoint", feature = "gpu"))]
mod recorded;
mod refresh;
mod routing;
mod schedule;
mod sgd;
mod shampoo;
mod soap;
mod stack;
#[cfg(feature = "checkpoint")]
mod suspended;
mod work;

pub use adam::{Adam, AdamW};
pub use builder::Builder;
pub use config::{Accumulation, Method, WeightDecay};
pub use eigenvalue_corrected::EigenvalueCorrectedShampoo;
pub use foof::Foof;
pub use graft::Graft;
pub use group::Group;
pub use health::{Health, ParameterHealth, TrialHealth};
pub use kfac::{DampingSplit, Kfac, KfacForm, LevenbergMarquardt, OutputGradients, StatisticsStart};
pub use learning_rate::LearningRateSchedule;
pub use memory::MemoryReport;
pub use muon::{Muon, MuonScale};
pub use natural_gradient::NaturalGradient;
pub use optimizer::Optimizer;
pub use parameter::{Parameter, Taps};
pub use routing::Takes;
pub use schedule::{Beat, Schedule};
pub use sgd::Sgd;
pub use shampoo::{EpsilonScale, Shampoo};
pub use soap::Soap;

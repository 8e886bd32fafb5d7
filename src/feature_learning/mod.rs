//! The proving ground: linear representation learning, `f(x) = F G x`, trained by layer-wise preconditioned methods and by their rivals.
//!
//! [`experiment::run`] trains every trial (learning rates x seeds x anisotropies) of one method as one batched run. Below it, each room does one thing:
//! [`teacher`] draws the problem on the host in f64, [`data`] draws the samples on the device, [`two_layer`] holds model and gradients, [`curvature`] what
//! second-order optimizers need of it, [`scheme`] the update rules, [`batch_norm`] what normalises inputs or hidden units, [`metrics`] what is logged, [`theory`]
//! the closed forms that the measurements are held against, [`selection`] how a learning rate is chosen. [`population`] runs the same update rules with infinitely
//! many samples a step.
//!
//! Beside it, single-index learning: [`link`] has the non-linearities, [`single_index`] the first step and its alignment with the target, [`ridge`] what that step is
//! worth in test error.
//!
//! The models are those of Zhang et al., "On The Concurrence of Layer-wise Preconditioning Methods and Provable Feature Learning" (arXiv 2502.01763). Sizes,
//! learning rates and seeds are ours: the paper's settings were not available.

pub mod batch_norm;
pub mod curvature;
pub mod data;
pub mod experiment;
pub mod link;
pub mod method;
pub mod metrics;
pub mod population;
pub mod ridge;
pub mod scheme;
pub mod selection;
pub mod single_index;
pub mod teacher;
pub mod theory;
pub mod two_layer;

pub use curvature::{Curvature, LayerFactors};
pub use data::Inputs;
pub use experiment::{LinearRepresentation, LogPoints, Progress, RateSchedule, Record};
pub use link::Link;
pub use method::Method;
pub use population::{Population, Trajectory};
pub use scheme::Damping;
pub use teacher::Spectrum;
pub use two_layer::{Batch, TwoLayer};

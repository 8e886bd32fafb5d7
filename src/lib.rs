//! layerwise
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
pub use gpu::{required_features, required_limits};
pub use plan::{Coef, Plan, Recorder, Value};
pub use prepared::{Bindings, Prepared};
pub use tensor::{ElementType, Shape, Tensor};
#[cfg(feature = "gpu")]
pub use wgpu;

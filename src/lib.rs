//! layerwise
mod error;
pub mod plan;
mod tensor;
pub use error::{Error, Result};
pub use plan::{Plan, Recorder};
pub use tensor::{ElementType, Shape};

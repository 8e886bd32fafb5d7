//! layerwise
mod error;
pub mod plan;
mod tensor;
pub use error::{Error, Result};
pub use plan::{Recorder, Plan};
pub use tensor::{ElementType, Shape};

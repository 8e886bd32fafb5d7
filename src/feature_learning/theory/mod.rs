//! Closed forms that the measurements are held against, in f64 on the host: [`linear`] for the linear model, [`single_index`] for the first step on a
//! single-index model.

pub mod linear;
pub mod single_index;

pub use linear::*;

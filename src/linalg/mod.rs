//! Composites: functions that only record primitives, so that both engines have them.
//!
//! Each works on batches, item by item. Where an item can fail, the function returns its `ok` beside the value: `[batch, 1, 1]`, 1 where the item
//! succeeded and 0 where its value is meaningless (gate what uses it by `ok`, or read it when you log).

mod eigh;
mod inverse_root;
mod least_squares;
mod normalise;
mod orthonormalise;
mod polar;
mod qr;
mod spd_inverse;
mod spd_solve;
mod spectral_norm;

pub use eigh::eigh;
pub(crate) use inverse_root::inverse_root_reported;
pub use inverse_root::{InverseRootOptions, Method, Ridge, inverse_root};
pub use least_squares::least_squares;
pub use orthonormalise::orthonormalise;
pub use polar::{NewtonSchulz, PolarOptions, Precision, polar};
pub use qr::qr;
pub use spd_inverse::spd_inverse;
pub use spd_solve::spd_solve;
pub use spectral_norm::spectral_norm;

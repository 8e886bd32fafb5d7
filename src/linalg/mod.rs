//! Composites: functions that only record primitives, so that both engines have them.
//!
//! Each works on batches, item by item. Where a pivot can fail, the function returns `(value, ok)`: `ok` is `[batch, 1, 1]`, 1 where the item
//! succeeded and 0 where its value is meaningless (gate what uses it by `ok`, or read it when you log).

mod orthonormalise;
mod spd_inverse;
mod spd_solve;

pub use orthonormalise::orthonormalise;
pub use spd_inverse::spd_inverse;
pub use spd_solve::spd_solve;

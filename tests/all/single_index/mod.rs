//! Single-index learning: links, predictions, the first step and the ridge head, against f64 code of its own.

mod pipeline;
mod ridge;
mod student;
mod theory;

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = theory::cases();
    cases.extend(student::cases());
    cases.extend(pipeline::cases());
    cases.extend(ridge::cases());
    cases
}

/// An error unless `|got - want| <= limit`; NaN is one.
fn near(what: &str, got: f64, want: f64, limit: f64) -> Result<(), String> {
    if (got - want).abs() <= limit { Ok(()) } else { Err(format!("{what}: {got}, wanted {want} within {limit:e}")) }
}

//! SVG plots.
use crate::report::Study;
use std::path::Path;
pub(crate) fn write_all(_study: &Study, _out: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> { Ok(vec![]) }

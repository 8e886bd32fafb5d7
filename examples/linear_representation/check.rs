//! Acceptance thresholds.
use layerwise::feature_learning::LinearRepresentation;
use crate::report::Study;
pub(crate) struct Verdict { pub(crate) passed: bool, pub(crate) text: String }
impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{} {}", if self.passed {"ok  "} else {"FAIL"}, self.text) }
}
pub(crate) fn applies(_a: &crate::Arguments, _config: &LinearRepresentation) -> Result<(), String> { Ok(()) }
pub(crate) fn verdicts(_smoke: bool, _study: &Study) -> Vec<Verdict> { vec![] }

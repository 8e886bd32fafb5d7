//! Acceptance thresholds: KFAC's features beat the linear floor, and SGD's by a factor.

use kit::Verdict;
use layerwise::feature_learning::Link;
use layerwise::feature_learning::ridge::{Family, linear_floor};
use layerwise::feature_learning::theory::single_index::Spectrum;

use super::Study;

/// The full thresholds are for log-spaced spectra of ratio 100 and 3 seeds. Four runs (first seeds 0, 100, 200, 300) measured: KFAC's error over the
/// floor .15 to .16 (tanh) and .26 to .30 (rectifier), SGD's over KFAC's 7.3 to 8.6 and 2.2 to 2.5, the linear model's over its floor 1.15 to 1.24.
///
/// Those of `--smoke` are for a quarter of the dimension. 12 runs (first seeds 0 to 1100) measured at most .21 and .44, at least 4.5 and 1.30, and 1.08 to 1.26.
pub(super) fn verdicts(smoke: bool, studies: &[Study]) -> Vec<Verdict> {
    let spectrum = Spectrum::LogSpaced(100.0);
    let name = if smoke { "smoke" } else { "A12" };
    let mut list = Vec::new();
    for (link, ratio) in [(Link::Tanh, if smoke { 2.0 } else { 3.0 }), (Link::CentredRelu, if smoke { 1.15 } else { 1.3 })] {
        let study = studies.iter().find(|s| s.config.teacher == link);
        let mean = |family| study.map_or(f64::NAN, |s| s.mean(spectrum, family));
        let (sgd, kfac, floor) = (mean(Family::Sgd), mean(Family::Kfac), linear_floor(link));
        let case = format!("{name} {}, log-spaced 100", link.name());
        list.push(Verdict::at_most(format!("{case}: KFAC's test error over the linear floor"), kfac / floor, 1.0));
        list.push(Verdict::at_least(format!("{case}: SGD's test error over KFAC's"), sgd / kfac, ratio));
        // The linear model learns what a linear model can: above its floor by the error of 200 estimated coefficients, not by much more.
        list.push(Verdict::within(
            format!("{case}: the linear model's test error over its floor"),
            mean(Family::Linear) / floor,
            1.25,
            0.25,
        ));
    }
    list
}

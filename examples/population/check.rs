//! A3, A4, and the readings of population dynamics in f64 on other targets: KFAC takes 9 or 10 steps on each problem, AMGD what its weakest mode demands.

use kit::Verdict;

use super::{Row, Study};

/// Steps of AMGD in f64 on another target of the default sizes: (kappa, condition of the head, steps).
const AMGD_STEPS: [(f64, f64, f64); 9] = [
    (1.0, 1.0, 3.0),
    (1.0, 3.0, 27.0),
    (1.0, 10.0, 332.0),
    (10.0, 1.0, 22.0),
    (10.0, 3.0, 203.0),
    (10.0, 10.0, 2348.0),
    (100.0, 1.0, 195.0),
    (100.0, 3.0, 2357.0),
    (100.0, 10.0, 18004.0),
];

pub(super) fn verdicts(smoke: bool, study: &Study) -> Vec<Verdict> {
    let mut list = Vec::new();
    for (kappa, error) in &study.step_errors {
        // The bound of well-conditioned heads times the condition of this one: 0.24 of it was seen at most on the CPU path.
        let limit = super::GENERAL_CONDITION * (2e-6 + 2e-8 * kappa);
        list.push(Verdict::at_most(format!("A3 kappa {kappa}: error of KFAC's contraction over max |G|"), *error, limit));
    }
    for n in &study.near {
        let what = format!("A4 kappa {}, cond(F) {}: AMGD's mean rate", n.kappa, n.head_condition);
        list.push(Verdict::within(what, n.measured, n.predicted, 1e-4));
    }
    for row in &study.rows {
        let what = |text: &str| format!("9.2 kappa {}, cond(F) {}: {text}", row.problem.kappa, row.problem.head_condition);
        let steps = |arrival: Option<usize>| arrival.map_or(f64::NAN, |n| n as f64);
        let (amgd, kfac) = (steps(study.arrival(&row.amgd)), steps(study.arrival(&row.kfac)));
        list.push(Verdict::within(what("KFAC's steps"), kfac, 9.5, 0.5));
        let kept = row.kfac.mean_rate(1, study.arrival(&row.kfac).unwrap_or(0));
        list.push(Verdict::within(what("KFAC's rate"), kept, 0.5, 0.02));
        let tail = Row::tail(&row.amgd, study.config.threshold);
        if tail.is_finite() {
            // Fewer steps measure a rate less well: what is left of the nonlinear part is spread over them.
            let tolerance = 1e-4f64.max(0.01 * (1.0 - row.predicted()));
            list.push(Verdict::within(what("AMGD's tail rate"), tail, row.predicted(), tolerance));
        }
        let known = AMGD_STEPS.iter().find(|(kappa, condition, _)| (*kappa, *condition) == (row.problem.kappa, row.problem.head_condition));
        if let Some((.., known)) = known.filter(|_| !smoke) {
            // The smallest eigenvalue of the conditional covariance differs from target to target.
            list.push(Verdict::within(what("logarithm of AMGD's steps over those of another target"), (amgd / known).ln(), 0.0, 0.7));
        }
    }
    list
}

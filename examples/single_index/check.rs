//! Acceptance thresholds: theory within the spread over seeds, and the orders that make the point.

use kit::Verdict;
use layerwise::feature_learning::Link;
use layerwise::feature_learning::single_index::Direction;
use layerwise::feature_learning::theory::single_index::Spectrum;

use super::POWER_LAW;
use super::study::{Group, Point, Study};

/// The case that is farthest from theory beyond three standard errors: `|mean - theory| - 3 sd/sqrt(seeds)`.
fn worst<'a>(what: &str, points: impl Iterator<Item = &'a Point>, limit: f64) -> Verdict {
    let excess = |p: &Point| p.theory.map_or(f64::NAN, |theory| (p.mean() - theory).abs() - 3.0 * p.error());
    let cases: Vec<(&Point, f64)> = points.map(|p| (p, excess(p))).collect();
    // NaN is the worst of all.
    let worst = cases.iter().max_by(|a, b| a.1.is_nan().cmp(&b.1.is_nan()).then(a.1.total_cmp(&b.1)));
    let (name, value) = worst.map_or(("none".into(), f64::NAN), |(p, v)| (p.describe(), *v));
    let what = format!("{what}: |mean - theory| less three standard errors, worst of {} cases ({name})", cases.len());
    Verdict::at_most(what, value, limit)
}

fn predicted(p: &&Point) -> bool {
    p.spectrum != POWER_LAW && (p.direction == Direction::Sgd || p.damping.is_some())
}

/// The thresholds of the full run belong to its size and 8 seeds. Four runs (first seeds 0, 100, 200, 300) measured: worst distance from theory .002,
/// KFAC's lead over SGD in the isotropic case .088 to .092, over the best rival of the last table .18 to .22, the power law's excess over SGD's form .047
/// to .073.
///
/// Those of `--smoke` are for a fifth of the dimension and 4 seeds, where three standard errors of so few cover less and theory is off by more. 16 runs
/// (first seeds 0 to 1500) measured at most .026, .023 and .066 (60 samples) in the three groups, SGD's cosines .644 to .704 and KFAC's .826 to .893 at two
/// levels 0.9, the lead over the best rival at least .12. The failure of SGD's form under the power law does not show at this size: -.01 to .10.
pub(super) fn verdicts(smoke: bool, study: &Study) -> Vec<Verdict> {
    let distances = if smoke { [0.05, 0.05, 0.1] } else { [0.01; 3] };
    let mut list = vec![
        worst("A9 covariances", study.of(Group::Table).filter(predicted), distances[0]),
        worst("A9 anisotropy", study.of(Group::Anisotropy).filter(predicted), distances[1]),
        worst("A9 damping", study.of(Group::Damping).filter(predicted), distances[2]),
    ];
    let mean = |group: Group, wanted: &dyn Fn(&Point) -> bool| {
        study.find(group, |p| p.teacher == Link::Tanh && wanted(p)).map_or(f64::NAN, Point::mean)
    };
    let table = |spectrum: Spectrum, direction: Direction| mean(Group::Table, &|p| p.spectrum == spectrum && p.direction == direction);
    let (sgd, kfac) = (table(Spectrum::Identity, Direction::Sgd), table(Spectrum::Identity, Direction::Kfac(1e-3)));
    let slack = if smoke { 0.06 } else { 0.03 };
    list.push(Verdict::within("A10 isotropic: SGD's cosine", sgd, 0.88, slack));
    list.push(Verdict::within("A10 isotropic: KFAC's cosine", kfac, 0.97, slack));
    list.push(Verdict::at_least("A10 isotropic: KFAC's cosine less SGD's", kfac - sgd, 0.03));

    let level = Spectrum::TwoLevel(0.9);
    list.push(Verdict::within("A11 two levels 0.9: SGD's cosine", table(level, Direction::Sgd), 0.69, slack));
    list.push(Verdict::within("A11 two levels 0.9: KFAC's cosine at damping 1e-3", table(level, Direction::Kfac(1e-3)), 0.87, slack));
    list.push(Verdict::within("A11 two levels 0.9: KFAC's cosine at damping 0.1", table(level, Direction::Kfac(1e-1)), 0.89, slack));
    let samples = study.base.as_ref().map_or(0, |b| b.samples);
    let sweep: Vec<&Point> = study.of(Group::Damping).filter(|p| p.samples == samples && p.damping.is_some()).collect();
    let best = sweep.iter().map(|p| p.mean()).fold(f64::NAN, f64::max);
    let ends = [sweep.first(), sweep.last()].map(|p| p.map_or(f64::NAN, |p| p.mean()));
    list.push(Verdict::at_least(
        "A11 two levels 0.9: best damping's cosine less that at the smallest damping",
        best - ends[0],
        if smoke { 0.0 } else { 0.005 },
    ));
    list.push(Verdict::at_least("A11 two levels 0.9: best damping's cosine less that at the largest damping", best - ends[1], 0.005));
    let plain = mean(Group::Damping, &|p| p.samples == samples && p.direction == Direction::Sgd);
    list.push(Verdict::within("A11 two levels 0.9: KFAC's cosine at damping 100, against SGD's", ends[1], plain, 0.005));

    let power =
        |direction: Direction| study.find(Group::Table, |p| p.teacher == Link::Tanh && p.spectrum == POWER_LAW && p.direction == direction);
    let gap = |direction| power(direction).map_or(f64::NAN, |p| p.mean() - p.theory.unwrap_or(f64::NAN));
    if !smoke {
        // The form for SGD breaks and that for KFAC does not.
        list.push(Verdict::at_least("power law: SGD's cosine less its prediction", gap(Direction::Sgd), 0.02));
    }
    list.push(Verdict::within("power law: KFAC's cosine at damping 0.1 less its prediction", gap(Direction::Kfac(1e-1)), 0.0, slack));
    for rotated in [true, false] {
        let other = |direction: Direction| mean(Group::Others, &|p| p.rotated == rotated && p.direction == direction);
        let rivals = [Direction::Sgd, Direction::Sign, Direction::BatchNormInputs].map(other);
        let lead = rivals.map(|rival| other(Direction::Kfac(0.1)) - rival);
        let lead = if lead.iter().any(|x| x.is_nan()) { f64::NAN } else { lead.into_iter().fold(f64::INFINITY, f64::min) };
        let name = if rotated { "rotated" } else { "axis-aligned" };
        list.push(Verdict::at_least(
            format!("{name}: KFAC's cosine less the best of SGD's, sign's and batch-norm's"),
            lead,
            if smoke { 0.05 } else { 0.1 },
        ));
    }
    list
}

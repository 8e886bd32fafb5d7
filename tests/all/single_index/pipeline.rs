//! The one-step experiment against f64 on its own samples; chunks and single trials.

use layerwise::feature_learning::single_index::{self, Alignment, Direction, SingleIndex};
use layerwise::feature_learning::theory::single_index::Spectrum;
use layerwise::feature_learning::{Inputs, Link};
use layerwise::{Context, Error, Value};

use super::near;
use crate::case::{Case, Outcome, case, case_cpu};
use crate::oracle::{Mat, eigh, gram, inverse, matmul};

pub(crate) fn cases() -> Vec<Case> {
    #[cfg_attr(not(feature = "gpu"), allow(unused_mut, reason = "the GPU half adds a case"))]
    let mut cases = vec![
        case("single_index::pipeline::against_f64", against_f64),
        case("single_index::pipeline::covariance_of_samples", covariance_of_samples),
        case_cpu("single_index::pipeline::chunks_and_single_trials_keep_every_bit", independence),
        case("single_index::pipeline::chunks_change_rounding_at_most", chunks),
        case("single_index::pipeline::smallest_problems", smallest),
        case("single_index::pipeline::refusals", refusals),
        case_cpu("single_index::pipeline::theory_and_simulation", theory_and_simulation),
    ];
    #[cfg(feature = "gpu")]
    cases.push(crate::case::case_gpu("single_index::pipeline::cpu_and_gpu_agree", agreement));
    cases
}

fn every_direction() -> Vec<Direction> {
    vec![
        Direction::Kfac(0.3),
        Direction::Sgd,
        Direction::Sign,
        Direction::KfacBest,
        Direction::BatchNormInputs,
        Direction::TrueWhitening,
        Direction::Kfac(0.01),
    ]
}

fn small(rotated: bool, inputs: Inputs) -> SingleIndex {
    SingleIndex {
        d_x: 13,
        samples: 150,
        hidden: 17,
        teacher: if rotated { Link::CentredRelu } else { Link::Tanh },
        student: if rotated { Link::Erf } else { Link::Tanh },
        spectra: vec![Spectrum::TwoLevel(0.5), Spectrum::LogSpaced(20.0)],
        rotated,
        inputs,
        seeds: 2,
        first_seed: 5,
        directions: every_direction(),
        rank_one: true,
        ..SingleIndex::default()
    }
}

/// Largest singular value and its right vector.
fn top(d: &Mat) -> (f64, Vec<f64>) {
    let (values, vectors) = eigh(&matmul(&d.t(), d));
    let last = values.len() - 1;
    (values[last].sqrt(), (0..=last).map(|i| vectors[(i, last)]).collect())
}

pub(super) fn gradient(link: Link, x: &Mat, y: &Mat, g: &Mat, f: &Mat) -> Mat {
    let (n, scale) = (x.rows as f64, (g.rows as f64).sqrt());
    let pre = matmul(g, &x.t());
    let value = |i: usize| (0..g.rows).map(|j| f.data[j] * link.value(pre[(j, i)])).sum::<f64>() / scale;
    let residual: Vec<f64> = (0..x.rows).map(|i| value(i) - y.data[i]).collect();
    let back = |j: usize, i: usize| residual[i] * f.data[j] * link.derivative(pre[(j, i)]) / (n * scale);
    matmul(&Mat::from_fn(g.rows, x.rows, back), x)
}

/// `x - mean` over batch standard deviations, and those.
fn standardised(x: &Mat) -> (Mat, Vec<f64>) {
    let n = x.rows as f64;
    let mean: Vec<f64> = (0..x.cols).map(|c| (0..x.rows).map(|r| x[(r, c)]).sum::<f64>() / n).collect();
    let deviation = |c: usize| ((0..x.rows).map(|r| (x[(r, c)] - mean[c]).powi(2)).sum::<f64>() / n + 1e-5).sqrt();
    let deviations: Vec<f64> = (0..x.cols).map(deviation).collect();
    (Mat::from_fn(x.rows, x.cols, |r, c| (x[(r, c)] - mean[c]) / deviations[c]), deviations)
}

pub(super) fn damped_inverse(s: &Mat, lambda: f64) -> Mat {
    inverse(&s.plus(lambda, &Mat::identity(s.rows)))
}

fn against_f64(context: &Context) -> Outcome {
    for (rotated, inputs) in [(false, Inputs::Gaussian), (true, Inputs::Gaussian), (true, Inputs::Rademacher)] {
        let config = small(rotated, inputs);
        let results = single_index::run(context, &config, &mut |_, _| {})?;
        let mut chunk = config.prepare(context, 0..config.items())?;
        chunk.prepared.run(&[0])?;
        let read = |value: Value| -> Result<Vec<Mat>, Error> {
            let data = chunk.prepared.tensor(value).map(layerwise::Tensor::read).transpose()?.unwrap_or_default();
            let (rows, cols) = (value.rows(), value.cols());
            Ok(data.chunks(rows * cols).map(|d| Mat { rows, cols, data: d.iter().map(|&v| f64::from(v)).collect() }).collect())
        };
        let step = &chunk.step;
        let (x, y, clean) = (read(step.samples.x)?, read(step.samples.y)?, read(step.samples.clean)?);
        let (g, f, device) = (read(step.student.g)?, read(step.student.f)?, read(step.gradient)?);
        for (item, host) in chunk.hosts.iter().enumerate() {
            let (spectrum, seed) = config.item(item);
            let what = format!("rotated {rotated}, {inputs:?}, {spectrum:?}, seed {seed}");
            let (x, y) = (&x[item], &y[item]);
            let beta = Mat { rows: config.d_x, cols: 1, data: host.beta.clone() };
            let sigma_faer = host.matrix(|l| l);
            let sigma = Mat::from_fn(config.d_x, config.d_x, |r, c| sigma_faer[(r, c)]);
            near(&format!("{what}: beta's norm"), matmul(&beta.t(), &matmul(&sigma, &beta)).data[0], 1.0, 1e-10)?;
            let index = matmul(x, &beta);
            for i in 0..config.samples {
                near(&format!("{what}: clean label {i}"), clean[item].data[i], config.teacher.value(index.data[i]), 3e-6)?;
            }
            let spread = y.plus(-1.0, &clean[item]).norm() / (config.samples as f64).sqrt();
            near(&format!("{what}: noise"), spread, config.noise, 0.25 * config.noise)?;
            let plain = gradient(config.student, x, y, &g[item], &f[item]);
            near(&format!("{what}: gradient"), device[item].plus(-1.0, &plain).norm() / plain.norm(), 0.0, 1e-5)?;
            let (standard, deviations) = standardised(x);
            let normalised = gradient(config.student, &standard, y, &g[item], &f[item]);
            let covariance = gram(x, false);
            let best = config.theory(spectrum)?.best_damping().0;
            for (&direction, got) in config.directions.iter().zip(&results[item * config.directions.len()..]) {
                let d = match direction {
                    Direction::Sgd => plain.clone(),
                    Direction::Kfac(lambda) => matmul(&plain, &damped_inverse(&covariance, lambda)),
                    Direction::KfacBest => matmul(&plain, &damped_inverse(&covariance, best)),
                    Direction::Sign => plain.map(|g| g / (g.abs() + 1e-8)),
                    Direction::BatchNormInputs => Mat::from_fn(normalised.rows, normalised.cols, |r, c| normalised[(r, c)] / deviations[c]),
                    Direction::TrueWhitening => matmul(&plain, &inverse(&sigma)),
                };
                let u = top(&d).1;
                let dot: f64 = u.iter().zip(&host.beta).map(|(u, b)| u * b).sum();
                let what = format!("{what}, {direction:?}, residual {:e}", got.residual);
                near(&what, got.cosine, dot.abs() / beta.norm(), 2e-4)?;
                if (got.spectrum, got.seed, got.direction) != (spectrum, seed, direction) || !got.is_sound() {
                    return Err(format!("{what}: {got:?}").into());
                }
                let estimate = matmul(y, x).map(|s| s / config.samples as f64);
                let scale = config.student.moments().linear / (config.hidden as f64).sqrt();
                let rest = plain.plus(scale, &matmul(&f[item].t(), &estimate));
                let want = top(&rest).0 / top(&plain).0;
                near(&format!("{what}: rank one"), got.rank_one_error.unwrap_or(f64::NAN), want, 0.02 * want)?;
            }
        }
    }
    Ok(())
}

/// `X^T X/n` of 20000 samples is the covariance to five standard errors (`sqrt(2/n)` of the product of deviations, at most).
fn covariance_of_samples(context: &Context) -> Outcome {
    for (rotated, inputs) in [(false, Inputs::Gaussian), (true, Inputs::Rademacher), (true, Inputs::Gaussian)] {
        let (d, n) = (5, 20_000);
        let config = SingleIndex {
            d_x: d,
            samples: n,
            hidden: 1,
            spectra: vec![Spectrum::LogSpaced(10.0)],
            rotated,
            inputs,
            seeds: 1,
            ..SingleIndex::default()
        };
        let mut chunk = config.prepare(context, 0..1)?;
        chunk.prepared.run(&[0])?;
        let x = chunk.prepared.tensor(chunk.step.samples.x).map(layerwise::Tensor::read).transpose()?.unwrap_or_default();
        let s = gram(&Mat { rows: n, cols: d, data: x.iter().map(|&v| f64::from(v)).collect() }, false);
        let sigma = chunk.hosts[0].matrix(|l| l);
        for r in 0..d {
            for c in 0..d {
                let limit = 5.0 * (2.0 / n as f64).sqrt() * (sigma[(r, r)] * sigma[(c, c)]).sqrt();
                near(&format!("rotated {rotated}, {inputs:?}: ({r}, {c})"), s[(r, c)], sigma[(r, c)], limit)?;
            }
        }
    }
    Ok(())
}

fn same(a: &Alignment, b: &Alignment) -> bool {
    a.cosine.to_bits() == b.cosine.to_bits()
        && a.residual.to_bits() == b.residual.to_bits()
        && a.rank_one_error.map(f64::to_bits) == b.rank_one_error.map(f64::to_bits)
        && (a.spectrum, a.seed, a.direction) == (b.spectrum, b.seed, b.direction)
}

fn independence(context: &Context) -> Outcome {
    let config = SingleIndex { d_x: 67, samples: 301, hidden: 130, seeds: 3, ..small(false, Inputs::Gaussian) };
    let whole = single_index::run(context, &config, &mut |_, _| {})?;
    let one = 4 * config.plan(1)?.values().iter().map(|v| v.shape.elements() as u64).sum::<u64>();
    for limit in [one, 2 * one, 4 * one + 17] {
        let mut turns = Vec::new();
        let chunked = SingleIndex { memory_limit: limit, ..config.clone() };
        let parts = single_index::run(context, &chunked, &mut |done, all| turns.push((done, all)))?;
        let size = usize::try_from(limit / one).map_err(|e| e.to_string())?;
        let want: Vec<(usize, usize)> = (1..=6usize.div_ceil(size)).map(|i| ((i * size).min(6), 6)).collect();
        if turns != want {
            return Err(format!("chunks of {size}: progress {turns:?}").into());
        }
        if parts.len() != whole.len() || !parts.iter().zip(&whole).all(|(a, b)| same(a, b)) {
            return Err(format!("chunks of {size} change bits").into());
        }
    }
    // One spectrum, one seed, one direction of each kind.
    for (spectrum, seed) in (0..config.items()).map(|i| config.item(i)) {
        let alone = SingleIndex {
            spectra: vec![spectrum],
            seeds: 1,
            first_seed: seed,
            directions: vec![Direction::Kfac(0.01), Direction::Sgd],
            ..config.clone()
        };
        for result in single_index::run(context, &alone, &mut |_, _| {})? {
            if !whole.iter().any(|b| same(&result, b)) {
                return Err(format!("{spectrum:?}, seed {seed}, {:?}: other bits alone", result.direction).into());
            }
        }
    }
    Ok(())
}

/// On a GPU, too, an item does not depend on its neighbours.
fn chunks(context: &Context) -> Outcome {
    let config = small(true, Inputs::Gaussian);
    let whole = single_index::run(context, &config, &mut |_, _| {})?;
    let one = 4 * config.plan(1)?.values().iter().map(|v| v.shape.elements() as u64).sum::<u64>();
    for (a, b) in single_index::run(context, &SingleIndex { memory_limit: one, ..config }, &mut |_, _| {})?.iter().zip(&whole) {
        near(&format!("{a:?}"), a.cosine, b.cosine, 1e-5)?;
    }
    Ok(())
}

/// One sample, one input, one hidden unit: in one dimension every direction that is not zero is the right one. Normalised inputs of one sample are zero, and so
/// is their gradient: no cosine, and no NaN on the way that could spread.
fn smallest(context: &Context) -> Outcome {
    for (d_x, samples, hidden) in [(1, 1, 1), (1, 5, 3), (2, 1, 1), (3, 2, 7), (67, 1, 1)] {
        let spectra = vec![Spectrum::Identity];
        let config = SingleIndex { d_x, samples, hidden, spectra, seeds: 3, directions: every_direction(), ..SingleIndex::default() };
        for a in single_index::run(context, &config, &mut |_, _| {})? {
            let what = format!("{d_x} inputs, {samples} samples, {hidden} hidden units: {a:?}");
            if samples == 1 && a.direction == Direction::BatchNormInputs {
                if a.is_sound() || a.residual != 0.0 {
                    return Err(what.into());
                }
            } else if d_x == 1 {
                near(&what, a.cosine, 1.0, 1e-5)?;
            } else if !(0.0..=1.0 + 1e-5).contains(&a.cosine) {
                return Err(what.into());
            }
        }
    }
    Ok(())
}

fn refusals(context: &Context) -> Outcome {
    let base = small(false, Inputs::Gaussian);
    let bad: [(&str, SingleIndex); 9] = [
        ("d_x", SingleIndex { d_x: 0, ..base.clone() }),
        ("samples", SingleIndex { samples: 0, ..base.clone() }),
        ("hidden", SingleIndex { hidden: 0, ..base.clone() }),
        ("noise", SingleIndex { noise: f64::NAN, ..base.clone() }),
        ("seeds", SingleIndex { seeds: 0, ..base.clone() }),
        ("first_seed", SingleIndex { first_seed: u32::MAX, ..base.clone() }),
        ("directions", SingleIndex { directions: vec![Direction::Kfac(0.0)], ..base.clone() }),
        ("teacher", SingleIndex { teacher: Link::Relu, ..base.clone() }),
        ("student", SingleIndex { student: Link::H2, ..base.clone() }),
    ];
    for (wanted, config) in bad {
        match single_index::run(context, &config, &mut |_, _| {}) {
            Err(Error::Config { field, .. }) if field == wanted => {}
            other => return Err(format!("{wanted}: {other:?}").into()),
        }
    }
    match single_index::run(context, &SingleIndex { memory_limit: 1000, ..base }, &mut |_, _| {}) {
        Err(Error::Limit { needed, limit: 1000, .. }) if needed > 1000 => Ok(()),
        other => Err(format!("memory limit: {other:?}").into()),
    }
}

/// Half the default size: the mean over seeds within 0.02 and three standard errors of the predictions, and the orders that make the point.
fn theory_and_simulation(context: &Context) -> Outcome {
    let directions = vec![Direction::Sgd, Direction::Kfac(1e-3), Direction::KfacBest, Direction::TrueWhitening];
    let spectra = vec![Spectrum::Identity, Spectrum::TwoLevel(0.9)];
    let config = SingleIndex { d_x: 200, samples: 800, hidden: 300, spectra, directions, ..SingleIndex::default() };
    let results = single_index::run(context, &config, &mut |_, _| {})?;
    let mean = |spectrum: Spectrum, direction: Direction| {
        let all: Vec<f64> = results.iter().filter(|r| r.spectrum == spectrum && r.direction == direction).map(|r| r.cosine).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / (all.len() - 1) as f64;
        (mean, (variance / all.len() as f64).sqrt())
    };
    for &spectrum in &config.spectra {
        let theory = config.theory(spectrum)?;
        for &direction in &config.directions {
            let (got, error) = mean(spectrum, direction);
            let want = direction.predicted(&theory).unwrap_or(f64::NAN);
            near(&format!("{spectrum:?}, {direction:?}"), got, want, 0.02 + 3.0 * error)?;
        }
        if mean(spectrum, Direction::KfacBest).0 < mean(spectrum, Direction::Sgd).0 + 0.05 {
            return Err(format!("{spectrum:?}: KFAC does not lead").into());
        }
    }
    Ok(())
}

#[cfg(feature = "gpu")]
fn agreement(gpu: &Context) -> Outcome {
    let config = SingleIndex { d_x: 40, samples: 90, hidden: 33, ..small(true, Inputs::Gaussian) };
    let pairs =
        single_index::run(&Context::cpu(), &config, &mut |_, _| {})?.into_iter().zip(single_index::run(gpu, &config, &mut |_, _| {})?);
    for (a, b) in pairs {
        near(&format!("{a:?}"), b.cosine, a.cosine, 5e-4)?;
    }
    Ok(())
}

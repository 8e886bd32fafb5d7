//! One step, then ridge: every head against f64 on the same samples.

use layerwise::feature_learning::Link;
use layerwise::feature_learning::ridge::{self, Family, Features, OneStepRidge, Trial, linear_floor, select};
use layerwise::feature_learning::single_index::Inputs;
use layerwise::feature_learning::theory::single_index::Spectrum;
use layerwise::{Context, Error, Value};

use super::near;
use super::pipeline::{damped_inverse, gradient};
use crate::case::{Case, Outcome, case, case_cpu};
use crate::oracle::{Mat, gram, matmul};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("single_index::ridge::against_f64", against_f64),
        case_cpu("single_index::ridge::chunks_and_single_trials_keep_every_bit", independence),
        case_cpu("single_index::ridge::orders", orders),
        case("single_index::ridge::refusals", refusals),
    ]
}

fn small(rotated: bool) -> OneStepRidge {
    OneStepRidge {
        d_x: 9,
        hidden: 13,
        step_samples: 70,
        fit_samples: 90,
        validation_samples: 31,
        test_samples: 47,
        teacher: if rotated { Link::CentredRelu } else { Link::Tanh },
        student: if rotated { Link::Erf } else { Link::CentredRelu },
        spectra: vec![Spectrum::TwoLevel(0.5), Spectrum::LogSpaced(30.0)],
        rotated,
        inputs: if rotated { Inputs::Rademacher } else { Inputs::Gaussian },
        seeds: 2,
        first_seed: 3,
        dampings: vec![0.02, 0.3],
        sizes: vec![0.5, 3.0],
        ridges: vec![1e-3, 1e-2, 0.2],
        ..OneStepRidge::default()
    }
}

/// Errors of the ridge head on validation and test samples.
fn errors(phi: &[Mat; 3], fit_y: &Mat, targets: [&Mat; 2], strength: f64) -> [f64; 2] {
    let n = phi[0].rows as f64;
    let cross = matmul(&phi[0].t(), &fit_y.t()).map(|s| s / n);
    let head = matmul(&damped_inverse(&gram(&phi[0], false), strength), &cross);
    [0, 1].map(|i| {
        let off = matmul(&phi[i + 1], &head).plus(-1.0, &targets[i].t());
        off.norm().powi(2) / off.rows as f64
    })
}

fn against_f64(context: &Context) -> Outcome {
    for rotated in [false, true] {
        let config = small(rotated);
        let trials = ridge::run(context, &config, &mut |_, _| {})?;
        let mut chunk = config.prepare(context, 0..config.items())?;
        chunk.prepared.run(&[0])?;
        let read = |value: Value| -> Result<Vec<Mat>, Error> {
            let data = chunk.prepared.tensor(value).map(layerwise::Tensor::read).transpose()?.unwrap_or_default();
            let (rows, cols) = (value.rows(), value.cols());
            Ok(data.chunks(rows * cols).map(|d| Mat { rows, cols, data: d.iter().map(|&v| f64::from(v)).collect() }).collect())
        };
        let heads = &chunk.heads;
        let (x, y) = (read(heads.step.x)?, read(heads.step.y)?);
        let (g, f) = (read(heads.student.g)?, read(heads.student.f)?);
        let fresh = [0, 1, 2].map(|i| read(heads.fresh[i].x));
        let [fit_x, validation_x, test_x] = fresh;
        let fresh = [fit_x?, validation_x?, test_x?];
        let (fit_y, validation_y, clean) = (read(heads.fresh[0].y)?, read(heads.fresh[1].y)?, read(heads.fresh[2].clean)?);
        let mut rows = trials.iter();
        for (item, host) in chunk.hosts.iter().enumerate() {
            let (spectrum, seed) = config.item(item);
            let (g, f) = (&g[item], &f[item]);
            let samples = [&fresh[0][item], &fresh[1][item], &fresh[2][item]];
            let beta = Mat { rows: config.d_x, cols: 1, data: host.beta.clone() };
            let index = matmul(samples[2], &beta);
            for i in 0..config.test_samples {
                near(&format!("clean test label {i}"), clean[item].data[i], config.teacher.value(index.data[i]), 3e-6)?;
            }
            if fresh[0][item].data[..9] == fresh[1][item].data[..9] || fresh[1][item].data[..9] == fresh[2][item].data[..9] {
                return Err("fit, validation and test share samples".into());
            }
            let plain = gradient(config.student, &x[item], &y[item], g, f);
            let root = host.matrix(f64::sqrt);
            let root = Mat::from_fn(config.d_x, config.d_x, |r, c| root[(r, c)]);
            let moved = |d: &Mat, size: f64| g.plus(-size * (config.hidden as f64).sqrt() / matmul(d, &root).norm(), d);
            let hidden = |g: &Mat| {
                let scale = (config.hidden as f64).sqrt();
                samples.map(|x| matmul(x, &g.t()).map(|z| config.student.value(z) / scale))
            };
            for features in config.features() {
                let phi = match features {
                    Features::Linear => samples.map(Clone::clone),
                    Features::Random => hidden(g),
                    Features::Sgd { size } => hidden(&moved(&plain, size)),
                    Features::Kfac { damping, size } => {
                        hidden(&moved(&matmul(&plain, &damped_inverse(&gram(&x[item], false), damping)), size))
                    }
                };
                for &strength in &config.ridges {
                    let [validation, test] = errors(&phi, &fit_y[item], [&validation_y[item], &clean[item]], strength);
                    let got = rows.next().ok_or("too few trials")?;
                    if (got.spectrum, got.seed, got.features, got.ridge) != (spectrum, seed, features, strength) {
                        return Err(format!("another order: {got:?}").into());
                    }
                    near(&format!("{got:?}: validation"), got.validation_error, validation, 1e-3 * validation)?;
                    near(&format!("{got:?}: test"), got.test_error, test, 1e-3 * test)?;
                }
            }
        }
        if rows.next().is_some() {
            return Err("too many trials".into());
        }
    }
    Ok(())
}

fn bits(t: &Trial) -> (u64, u64) {
    (t.validation_error.to_bits(), t.test_error.to_bits())
}

fn independence(context: &Context) -> Outcome {
    let config = OneStepRidge { d_x: 65, hidden: 130, fit_samples: 257, seeds: 3, ..small(false) };
    let whole = ridge::run(context, &config, &mut |_, _| {})?;
    let one = 4 * config.plan(1)?.values().iter().map(|v| v.shape.elements() as u64).sum::<u64>();
    for limit in [one, 4 * one] {
        let parts = ridge::run(context, &OneStepRidge { memory_limit: limit, ..config.clone() }, &mut |_, _| {})?;
        if parts.len() != whole.len() || parts.iter().zip(&whole).any(|(a, b)| bits(a) != bits(b)) {
            return Err(format!("chunks under {limit} bytes change bits").into());
        }
    }
    let alone =
        OneStepRidge { spectra: config.spectra[1..].to_vec(), seeds: 1, first_seed: 4, dampings: vec![0.3], ridges: vec![1e-2], ..config };
    for t in ridge::run(context, &alone, &mut |_, _| {})? {
        if !whole.iter().any(|w| bits(w) == bits(&t) && (w.features, w.ridge, w.seed) == (t.features, t.ridge, t.seed)) {
            return Err(format!("{t:?}: other bits alone").into());
        }
    }
    Ok(())
}

/// The orders that the experiment is about, at a fifth of its size: KFAC beats SGD and the linear floor, the linear model does not beat its floor.
fn orders(context: &Context) -> Outcome {
    let config = OneStepRidge {
        d_x: 80,
        hidden: 200,
        step_samples: 800,
        fit_samples: 800,
        validation_samples: 800,
        test_samples: 2000,
        ..OneStepRidge::default()
    };
    let trials = ridge::run(context, &config, &mut |_, _| {})?;
    let floor = linear_floor(config.teacher);
    let spectrum = config.spectra[0];
    let mean = |family: Family| {
        let all = (0..3).filter_map(|seed| select(&trials, spectrum, seed, family)).map(|t| t.test_error);
        all.sum::<f64>() / 3.0
    };
    let [linear, random, sgd, kfac] = Family::ALL.map(mean);
    if kfac < 0.5 * floor && kfac < 0.6 * sgd && linear > floor && linear < 1.5 * floor && random > kfac {
        return Ok(());
    }
    Err(format!("floor {floor}, linear {linear}, random {random}, SGD {sgd}, KFAC {kfac}").into())
}

fn refusals(context: &Context) -> Outcome {
    let base = small(false);
    let bad: [(&str, OneStepRidge); 8] = [
        ("d_x", OneStepRidge { d_x: 0, ..base.clone() }),
        ("hidden", OneStepRidge { hidden: 0, ..base.clone() }),
        ("test_samples", OneStepRidge { test_samples: 0, ..base.clone() }),
        ("dampings", OneStepRidge { dampings: vec![f64::NAN], ..base.clone() }),
        ("sizes", OneStepRidge { sizes: vec![], ..base.clone() }),
        ("ridges", OneStepRidge { ridges: vec![0.0], ..base.clone() }),
        ("spectra", OneStepRidge { spectra: vec![], ..base.clone() }),
        ("teacher", OneStepRidge { teacher: Link::Relu, ..base.clone() }),
    ];
    for (wanted, config) in bad {
        match ridge::run(context, &config, &mut |_, _| {}) {
            Err(Error::Config { field, .. }) if field == wanted => {}
            other => return Err(format!("{wanted}: {other:?}").into()),
        }
    }
    match ridge::run(context, &OneStepRidge { memory_limit: 1000, ..base }, &mut |_, _| {}) {
        Err(Error::Limit { needed, limit: 1000, .. }) if needed > 1000 => Ok(()),
        other => Err(format!("memory limit: {other:?}").into()),
    }
}

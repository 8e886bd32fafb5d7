//! Batch-norm of the two-layer model: recorded gradients against finite differences of an f64 loss, running statistics, and what is evaluated.

use layerwise::feature_learning::Batch;
use layerwise::feature_learning::TwoLayer;
use layerwise::feature_learning::batch_norm::{HiddenNorm, InputNorm, NormGradients};
use layerwise::{Bindings, Context, Recorder, Shape, Tensor, Value};
use libtest_mimic::Failed;

use crate::case::{Case, Outcome, case, case_host};
use crate::compare::{Tol, close_to_largest};
use crate::oracle::{Mat, matmul, random};

const SHARING: usize = 3;
const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// Data items, samples, dX, k, dY.
type Sizes = [usize; 5];

const SIZES: [Sizes; 4] = [[2, 40, 7, 3, 4], [1, 200, 30, 8, 15], [2, 2, 3, 1, 1], [1, 67, 31, 13, 17]];

#[derive(Clone)]
struct Trial {
    f: Mat,
    g: Mat,
    gamma: Mat,
    bias: Mat,
    x: Mat,
    y: Mat,
}

/// Trials as a plan stores them: rounded to f32.
fn trials(sizes: Sizes, with_bias: bool) -> Vec<Trial> {
    let [data, n, d_x, k, d_y] = sizes;
    let item = |seed: u64, i: usize, rows: usize, cols: usize| random(seed + 31 * i as u64, rows, cols).map(|v| f64::from(narrow(v)));
    (0..data * SHARING)
        .map(|t| Trial {
            f: item(1, t, d_y, k),
            g: item(2, t, k, d_x),
            gamma: item(3, t, 1, k).map(|v| f64::from(narrow(1.0 + 0.5 * v))),
            bias: if with_bias { item(4, t, 1, k) } else { Mat::zeros(1, k) },
            // Coordinates of different scale and away from zero.
            x: {
                let x = item(5, t / SHARING, n, d_x);
                Mat::from_fn(n, d_x, |r, c| f64::from(narrow((x[(r, c)] + 0.3) * (1.0 + c as f64))))
            },
            y: item(6, t / SHARING, n, d_y),
        })
        .collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// (mean, biased variance) of column c.
fn moments(z: &Mat, c: usize) -> (f64, f64) {
    let n = z.rows as f64;
    let mean = (0..z.rows).map(|r| z[(r, c)]).sum::<f64>() / n;
    (mean, (0..z.rows).map(|r| (z[(r, c)] - mean).powi(2)).sum::<f64>() / n)
}

/// `BN(z)` with the batch's moments.
fn normalised(z: &Mat) -> Mat {
    let all: Vec<(f64, f64)> = (0..z.cols).map(|c| moments(z, c)).collect();
    Mat::from_fn(z.rows, z.cols, |r, c| (z[(r, c)] - all[c].0) / (all[c].1 + EPSILON).sqrt())
}

impl Trial {
    fn residual(&self) -> Mat {
        let xhat = normalised(&matmul(&self.x, &self.g.t()));
        let hidden = Mat::from_fn(xhat.rows, xhat.cols, |r, c| self.gamma.data[c] * xhat[(r, c)] + self.bias.data[c]);
        matmul(&hidden, &self.f.t()).plus(-1.0, &self.y)
    }

    fn loss(&self) -> f64 {
        self.residual().data.iter().map(|r| r * r).sum::<f64>() / (2.0 * self.x.rows as f64)
    }

    fn part(&mut self, which: usize) -> &mut Mat {
        [&mut self.f, &mut self.g, &mut self.gamma, &mut self.bias].into_iter().nth(which).unwrap_or_else(|| unreachable!("four weights"))
    }

    /// The gradient with respect to one of F, G, gamma, b by differences of fourth order.
    fn differences(&self, which: usize) -> Mat {
        let mut moved = self.clone();
        let shape = moved.part(which).clone();
        let mut element = |r: usize, c: usize| {
            let h = 1e-4;
            let mut at = |offset: f64| {
                moved.part(which)[(r, c)] = shape[(r, c)] + offset;
                moved.loss()
            };
            let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            moved.part(which)[(r, c)] = shape[(r, c)];
            difference
        };
        let mut out = shape.clone();
        for i in 0..out.data.len() {
            out.data[i] = element(i / shape.cols, i % shape.cols);
        }
        out
    }

    /// The same by the formulas, in f64.
    fn gradients(&self) -> [Mat; 4] {
        let n = self.x.rows as f64;
        let raw = matmul(&self.x, &self.g.t());
        let (xhat, residual) = (normalised(&raw), self.residual());
        let hidden = Mat::from_fn(xhat.rows, xhat.cols, |r, c| self.gamma.data[c] * xhat[(r, c)] + self.bias.data[c]);
        let back = matmul(&residual, &self.f);
        let mean = |f: &dyn Fn(usize) -> f64| (0..xhat.rows).map(f).sum::<f64>() / n;
        let of_bias = Mat::from_fn(1, xhat.cols, |_, c| mean(&|r| back[(r, c)]));
        let of_gamma = Mat::from_fn(1, xhat.cols, |_, c| mean(&|r| back[(r, c)] * xhat[(r, c)]));
        let of_raw = Mat::from_fn(xhat.rows, xhat.cols, |r, c| {
            let scale = self.gamma.data[c] / (moments(&raw, c).1 + EPSILON).sqrt();
            scale * (back[(r, c)] - of_bias.data[c] - xhat[(r, c)] * of_gamma.data[c])
        });
        [matmul(&residual.t(), &hidden).map(|v| v / n), matmul(&of_raw.t(), &self.x).map(|v| v / n), of_gamma, of_bias]
    }
}

/// A1 in f64: the formulas are the derivatives.
fn formulas() -> Outcome {
    for sizes in SIZES {
        for trial in &trials(sizes, true)[..1] {
            for (which, got) in trial.gradients().iter().enumerate() {
                let want = trial.differences(which);
                let largest = want.data.iter().fold(1e-3, |m: f64, w| m.max(w.abs()));
                let error = got.plus(-1.0, &want).data.iter().fold(0.0, |m: f64, e| m.max(e.abs()));
                if error > 1e-6 * largest {
                    return Err(format!("{sizes:?}, weight {which}: {error:e} of {largest:e}").into());
                }
            }
        }
    }
    Ok(())
}

/// A recorder with tensors behind its values.
struct Bench<'a> {
    context: &'a Context,
    r: Recorder,
    bound: Vec<(Value, Tensor)>,
}

impl Bench<'_> {
    fn new(context: &Context) -> Bench<'_> {
        Bench { context, r: Recorder::new(), bound: Vec::new() }
    }

    fn given<'m>(&mut self, name: &str, items: impl Iterator<Item = &'m Mat>) -> Result<Value, Failed> {
        let items: Vec<&Mat> = items.collect();
        let shape = Shape::new(items.len(), items[0].rows, items[0].cols);
        let values: Vec<f32> = items.iter().flat_map(|m| m.data.iter().map(|&v| narrow(v))).collect();
        let value = self.r.external(name, shape)?;
        self.bound.push((value, self.context.upload(shape, &values)?));
        Ok(value)
    }

    fn run(self, times: usize) -> Result<Vec<(Value, Tensor)>, Failed> {
        let mut bindings = Bindings::new();
        self.bound.iter().for_each(|(value, tensor)| {
            bindings.bind(*value, tensor);
        });
        let plan = self.r.finish();
        self.context.prepare(&plan, &bindings)?.run(&vec![0; times])?;
        Ok(self.bound)
    }
}

fn item(bound: &[(Value, Tensor)], value: Value, i: usize) -> Result<Vec<f32>, Failed> {
    let tensor = bound.iter().find(|(v, _)| *v == value).map(|(_, t)| t).ok_or("an unbound value")?;
    let size = tensor.shape().rows * tensor.shape().cols;
    Ok(tensor.read()?[i * size..(i + 1) * size].to_vec())
}

struct Hidden {
    bound: Vec<(Value, Tensor)>,
    norm: HiddenNorm,
    of: NormGradients,
    residual: Value,
    head: Value,
    offset: Value,
}

/// A step (run `times` times: weights stay as they are) and the evaluated form.
fn hidden(context: &Context, trials: &[Trial], with_bias: bool, times: usize) -> Result<Hidden, Failed> {
    let mut b = Bench::new(context);
    let model = TwoLayer::new(b.given("F", trials.iter().map(|t| &t.f))?, b.given("G", trials.iter().map(|t| &t.g))?, SHARING)?;
    let x = b.given("x", trials.iter().step_by(SHARING).map(|t| &t.x))?;
    let y = b.given("y", trials.iter().step_by(SHARING).map(|t| &t.y))?;
    let gamma = b.given("gamma", trials.iter().map(|t| &t.gamma))?;
    let bias = if with_bias { Some(b.given("bias", trials.iter().map(|t| &t.bias))?) } else { None };
    let (zeros, ones) = (trials[0].bias.map(|_| 0.0), trials[0].bias.map(|_| 1.0));
    let like = |b: &mut Bench<'_>, name: &str, of: &Mat| b.given(name, trials.iter().map(|_| of));
    let (mean, variance) = (like(&mut b, "mean", &zeros)?, like(&mut b, "variance", &ones)?);
    let norm = HiddenNorm { gamma, bias, mean, variance, epsilon: 1e-5, momentum: 0.1 };
    let of = NormGradients {
        f: like(&mut b, "dF", &trials[0].f)?,
        g: like(&mut b, "dG", &trials[0].g)?,
        gamma: like(&mut b, "dgamma", &zeros)?,
        bias: if with_bias { Some(like(&mut b, "dbias", &zeros)?) } else { None },
    };
    let head = like(&mut b, "head", &trials[0].f)?;
    let offset = like(&mut b, "offset", &Mat::zeros(trials[0].f.rows, 1))?;
    let kept = like(&mut b, "residual", &trials[0].y)?;
    let residual = norm.record(&mut b.r, &model, &Batch { x, y }, &of)?;
    b.r.copy(residual, kept)?;
    let evaluated = norm.evaluated(&mut b.r, &model)?;
    b.r.copy(evaluated.0, head)?;
    b.r.copy(evaluated.1, offset)?;
    Ok(Hidden { bound: b.run(times)?, norm, of, residual: kept, head, offset })
}

/// A1 of the library: every gradient of every trial within 1e-5 of the differences, relative to its largest element.
fn gradients(context: &Context) -> Outcome {
    for (sizes, with_bias) in SIZES.into_iter().flat_map(|s| [(s, true), (s, false)]) {
        let trials = trials(sizes, with_bias);
        let done = hidden(context, &trials, with_bias, 1)?;
        for (t, trial) in trials.iter().enumerate() {
            let at = |what: &str, e: String| format!("{sizes:?}, bias {with_bias}, trial {t}, {what}: {e}");
            let residual = item(&done.bound, done.residual, t)?;
            close_to_largest(&residual, &trial.residual().data, Tol::relative(1e-5)).map_err(|e| at("residual", e))?;
            let weights = [("F", Some(done.of.f)), ("G", Some(done.of.g)), ("gamma", Some(done.of.gamma)), ("b", done.of.bias)];
            for (which, (name, value)) in weights.into_iter().enumerate() {
                let Some(value) = value else { continue };
                // One or two samples: BN makes them +-1 (or 0) whatever G is, and its gradient is rounding beside that of gamma.
                let floor = if sizes[1] <= 2 && name == "G" { trial.differences(2).norm().max(1.0) } else { 0.0 };
                let want = trial.differences(which).data;
                let tol = Tol { relative: 1e-5, absolute: 1e-5 * floor };
                close_to_largest(&item(&done.bound, value, t)?, &want, tol).map_err(|e| at(name, e))?;
            }
        }
    }
    Ok(())
}

/// Running statistics after three batches, and the model that is evaluated with them.
fn running(context: &Context) -> Outcome {
    for (sizes, with_bias) in [(SIZES[0], true), (SIZES[1], false), (SIZES[3], true)] {
        let trials = trials(sizes, with_bias);
        let done = hidden(context, &trials, with_bias, 3)?;
        for (t, trial) in trials.iter().enumerate() {
            let raw = matmul(&trial.x, &trial.g.t());
            let n = raw.rows as f64;
            let kept = (1.0 - MOMENTUM).powi(3);
            let (means, variances): (Vec<f64>, Vec<f64>) = (0..raw.cols)
                .map(|c| moments(&raw, c))
                .map(|(mean, variance)| ((1.0 - kept) * mean, kept + (1.0 - kept) * variance * n / (n - 1.0)))
                .unzip();
            close_to_largest(&item(&done.bound, done.norm.mean, t)?, &means, Tol::relative(1e-6))?;
            close_to_largest(&item(&done.bound, done.norm.variance, t)?, &variances, Tol::relative(1e-6))?;
            let divisor = |c: usize| (variances[c] + EPSILON).sqrt();
            let head = Mat::from_fn(trial.f.rows, trial.f.cols, |r, c| trial.f[(r, c)] * trial.gamma.data[c] / divisor(c));
            let mean = Mat { rows: means.len(), cols: 1, data: means };
            let offset = matmul(&head, &mean).plus(-1.0, &matmul(&trial.f, &trial.bias.t()));
            close_to_largest(&item(&done.bound, done.head, t)?, &head.data, Tol::relative(2e-6))?;
            close_to_largest(&item(&done.bound, done.offset, t)?, &offset.data, Tol::relative(5e-6))?;
        }
    }
    Ok(())
}

/// Standardised inputs, and `F G_eff x - offset` on raw inputs is `F G` on standardised ones.
fn inputs(context: &Context) -> Outcome {
    for (sizes, epsilon) in [(SIZES[0], 0.0f32), (SIZES[1], 1e-5), (SIZES[3], 0.5)] {
        let mut trials = trials(sizes, false);
        // A coordinate that never changes.
        trials.iter_mut().for_each(|t| (0..t.x.rows).for_each(|r| t.x[(r, 1)] = 0.75));
        let mut b = Bench::new(context);
        let model = TwoLayer::new(b.given("F", trials.iter().map(|t| &t.f))?, b.given("G", trials.iter().map(|t| &t.g))?, SHARING)?;
        let x = b.given("x", trials.iter().step_by(SHARING).map(|t| &t.x))?;
        let row = Mat::zeros(1, sizes[2]);
        let per_data = |_: &Trial| &row;
        let mean = b.given("mean", trials.iter().step_by(SHARING).map(per_data))?;
        let variance = b.given("variance", trials.iter().step_by(SHARING).map(per_data))?;
        let standardised = b.given("standardised", trials.iter().step_by(SHARING).map(|t| &t.x))?;
        let effective = b.given("effective", trials.iter().map(|t| &t.g))?;
        let column = Mat::zeros(sizes[4], 1);
        let offset = b.given("offset", trials.iter().map(|_| &column))?;
        let norm = InputNorm { mean, variance, epsilon };
        let out = norm.forward(&mut b.r, x)?;
        b.r.copy(out, standardised)?;
        let acting = norm.effective(&mut b.r, &model, model.g)?;
        b.r.copy(acting, effective)?;
        let taken = norm.offset(&mut b.r, &model, acting)?;
        b.r.copy(taken, offset)?;
        let done = b.run(1)?;
        for (t, trial) in trials.iter().enumerate() {
            let all: Vec<(f64, f64)> = (0..sizes[2]).map(|c| moments(&trial.x, c)).collect();
            let scale = |c: usize| match all[c].1 + f64::from(epsilon) {
                below if below > 0.0 => 1.0 / below.sqrt(),
                _ => 0.0,
            };
            let want = Mat::from_fn(trial.x.rows, trial.x.cols, |r, c| scale(c) * (trial.x[(r, c)] - all[c].0));
            close_to_largest(&item(&done, standardised, t / SHARING)?, &want.data, Tol::relative(2e-6))?;
            let acting = Mat::from_fn(trial.g.rows, trial.g.cols, |r, c| trial.g[(r, c)] * scale(c));
            close_to_largest(&item(&done, effective, t)?, &acting.data, Tol::relative(2e-6))?;
            let mean = Mat::from_fn(sizes[2], 1, |r, _| all[r].0);
            let taken = matmul(&trial.f, &matmul(&acting, &mean));
            close_to_largest(&item(&done, offset, t)?, &taken.data, Tol::relative(5e-6))?;
        }
    }
    Ok(())
}

/// What does not fit is an error.
fn refusals() -> Outcome {
    let mut r = Recorder::new();
    let (f, g) = (r.external("F", Shape::new(2, 3, 4))?, r.external("G", Shape::new(2, 4, 5))?);
    let (x, y) = (r.external("x", Shape::new(1, 9, 5))?, r.external("y", Shape::new(1, 9, 3))?);
    let model = TwoLayer::new(f, g, 2)?;
    let [gamma, mean, variance, short] = [4, 4, 4, 3].map(|k| r.external("row", Shape::new(2, 1, k)));
    let (gamma, mean, variance, short) = (gamma?, mean?, variance?, short?);
    let norm = HiddenNorm { gamma, bias: None, mean, variance, epsilon: 1e-5, momentum: 0.1 };
    let of = NormGradients {
        f: r.scratch("dF", f.shape())?,
        g: r.scratch("dG", g.shape())?,
        gamma: r.scratch("dg", gamma.shape())?,
        bias: None,
    };
    let attempts = [
        norm.record(&mut r, &model, &Batch { x, y }, &NormGradients { bias: Some(mean), ..of }).is_err(),
        HiddenNorm { gamma: short, ..norm }.record(&mut r, &model, &Batch { x, y }, &of).is_err(),
        HiddenNorm { variance: short, ..norm }.evaluated(&mut r, &model).is_err(),
        norm.record(&mut r, &model, &Batch { x: y, y }, &of).is_err(),
        InputNorm { mean: short, variance, epsilon: 0.0 }.forward(&mut r, x).is_err(),
        norm.record(&mut r, &model, &Batch { x, y }, &of).is_ok(),
    ];
    if attempts == [true; 6] { Ok(()) } else { Err(format!("{attempts:?}").into()) }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case_host("batch_norm::formulas", formulas),
        case("batch_norm::gradients", gradients),
        case("batch_norm::running", running),
        case("batch_norm::inputs", inputs),
        case_host("batch_norm::refusals", refusals),
    ]
}

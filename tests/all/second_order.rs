//! The curvature of the two-layer model: recorded factors and rows against dense f64 matrices, and the steps that optimizers make of them.

use layerwise::feature_learning::{Curvature, TwoLayer};
use layerwise::optim::{DampingSplit, Group, Kfac, KfacForm, NaturalGradient, Optimizer, Parameter, StatisticsStart};
use layerwise::{Bindings, Context, Recorder, Shape, Tensor};
use libtest_mimic::Failed;

use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close_to_largest};
use crate::oracle::{Mat, gram, inverse, matmul, random};

const TRIALS: usize = 4;
const DATA: usize = 2;
const N: usize = 30;
const D_X: usize = 5;
const K: usize = 3;
const D_Y: usize = 4;

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn upload(ctx: &Context, items: &[Mat]) -> Result<Tensor, Failed> {
    let data: Vec<f32> = items.iter().flat_map(|m| m.data.iter().map(|&x| x as f32)).collect();
    Ok(ctx.upload(Shape::new(items.len(), items[0].rows, items[0].cols), &data)?)
}

fn items(seed: u64, count: usize, rows: usize, cols: usize) -> Vec<Mat> {
    (0..count).map(|i| random(seed + 17 * i as u64, rows, cols)).collect()
}

/// Everything that one plan records for one curvature.
struct Recorded {
    /// G, then F.
    gradients: [Tensor; 2],
    lefts: [Tensor; 2],
    rights: [Tensor; 2],
    rows: [Tensor; 2],
}

struct Problem {
    f: Vec<Mat>,
    g: Vec<Mat>,
    x: Vec<Mat>,
    y: Vec<Mat>,
}

impl Problem {
    fn new() -> Problem {
        Problem { f: items(1, TRIALS, D_Y, K), g: items(2, TRIALS, K, D_X), x: items(3, DATA, N, D_X), y: items(4, DATA, N, D_Y) }
    }

    fn record(&self, ctx: &Context, curvature: Curvature) -> Result<Recorded, Failed> {
        let mut r = Recorder::new();
        let mut bindings = Bindings::new();
        let mut given = |r: &mut Recorder, name: &str, items: &[Mat]| -> Result<layerwise::Value, Failed> {
            let tensor = upload(ctx, items)?;
            let value = r.external(name, tensor.shape())?;
            bindings.bind(value, &tensor);
            Ok(value)
        };
        let (f, g, x, y) =
            (given(&mut r, "F", &self.f)?, given(&mut r, "G", &self.g)?, given(&mut r, "x", &self.x)?, given(&mut r, "y", &self.y)?);
        let model = TwoLayer::new(f, g, TRIALS / DATA)?;
        let z = model.hidden(&mut r, g, x)?;
        let residual = model.residual(&mut r, z, y)?;
        let (of_g, of_f) = (curvature.factors_g(&mut r, &model, residual, x)?, curvature.factors_f(&mut r, &model, residual, z)?);
        let results = [
            model.gradient_g(&mut r, residual, x)?,
            model.gradient_f(&mut r, residual, z)?,
            of_g.left,
            of_f.left,
            of_g.right,
            of_f.right,
            curvature.rows_g(&mut r, &model, residual, x)?,
            curvature.rows_f(&mut r, &model, residual, z)?,
        ];
        let mut tensors = Vec::new();
        for (i, value) in results.into_iter().enumerate() {
            let out = r.external(format!("out{i}"), value.shape())?;
            r.copy(value, out)?;
            let tensor = ctx.zeros(value.shape())?;
            bindings.bind(out, &tensor);
            tensors.push(tensor);
        }
        ctx.prepare(&r.finish(), &bindings)?.run(&[0])?;
        let mut pairs = tensors.chunks(2).map(|pair| [pair[0].clone(), pair[1].clone()]);
        let mut next = || pairs.next().ok_or("four pairs");
        Ok(Recorded { gradients: next()?, lefts: next()?, rights: next()?, rows: next()? })
    }

    /// Gradients of each output of each sample with respect to G and F: `[n dY, k dX]` and `[n dY, dY k]`, and residuals.
    fn jacobians(&self, trial: usize) -> ([Mat; 2], Mat) {
        let (f, g, x) = (&self.f[trial], &self.g[trial], &self.x[trial / (TRIALS / DATA)]);
        let z = matmul(x, &g.t());
        let residual = matmul(&z, &f.t()).plus(-1.0, &self.y[trial / (TRIALS / DATA)]);
        let of_g = Mat::from_fn(N * D_Y, K * D_X, |row, p| f[(row % D_Y, p / D_X)] * x[(row / D_Y, p % D_X)]);
        let of_f = Mat::from_fn(N * D_Y, D_Y * K, |row, p| if p / K == row % D_Y { z[(row / D_Y, p % K)] } else { 0.0 });
        ([of_g, of_f], residual)
    }

    /// The layer's gradient and dense curvature.
    fn dense(&self, curvature: Curvature, trial: usize, layer: usize) -> (Mat, Mat) {
        let (jacobians, residual) = self.jacobians(trial);
        let j = &jacobians[layer];
        let sample = Mat::from_fn(N, j.cols, |s, p| (0..D_Y).map(|o| residual[(s, o)] * j[(s * D_Y + o, p)]).sum());
        let gradient = Mat::from_fn(j.cols, 1, |p, _| (0..N).map(|s| sample[(s, p)]).sum::<f64>() / N as f64);
        let matrix = match curvature {
            Curvature::GaussNewton => matmul(&j.t(), j).map(|v| v / N as f64),
            Curvature::EmpiricalFisher => gram(&sample, false),
        };
        (gradient, matrix)
    }
}

fn read(tensor: &Tensor, item: usize) -> Result<Mat, Failed> {
    let shape = tensor.shape();
    let size = shape.rows * shape.cols;
    Ok(Mat {
        rows: shape.rows,
        cols: shape.cols,
        data: tensor.read()?[item * size..(item + 1) * size].iter().map(|&x| f64::from(x)).collect(),
    })
}

fn f32s(values: &[f64]) -> Vec<f32> {
    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
    values.iter().map(|&x| x as f32).collect()
}

/// Rows give both curvatures exactly; the Gauss-Newton factors too: their Kronecker product is the layer's exact Fisher.
fn matrices(ctx: &Context) -> Outcome {
    let problem = Problem::new();
    for curvature in [Curvature::GaussNewton, Curvature::EmpiricalFisher] {
        let recorded = problem.record(ctx, curvature)?;
        for (trial, layer) in (0..TRIALS).flat_map(|t| [(t, 0), (t, 1)]) {
            let (gradient, want) = problem.dense(curvature, trial, layer);
            let at = |e: String| format!("{curvature:?}, trial {trial}, layer {layer}: {e}");
            close_to_largest(&f32s(&read(&recorded.gradients[layer], trial)?.data), &gradient.data, Tol::relative(2e-6)).map_err(at)?;
            let rows = read(&recorded.rows[layer], trial)?;
            close_to_largest(&f32s(&gram(&rows, false).data), &want.data, Tol::relative(2e-6)).map_err(at)?;
            let right = read(&recorded.rights[layer], if layer == 0 { trial / (TRIALS / DATA) } else { trial })?;
            let left = read(&recorded.lefts[layer], trial)?;
            let q = right.rows;
            let product = Mat::from_fn(want.rows, want.rows, |i, j| left[(i / q, j / q)] * right[(i % q, j % q)]);
            let exact = close_to_largest(&f32s(&product.data), &want.data, Tol::relative(2e-6));
            match curvature {
                Curvature::GaussNewton => exact.map(|_| ()).map_err(at)?,
                // An approximation of the right size.
                Curvature::EmpiricalFisher => {
                    let trace = |m: &Mat| (0..m.rows).map(|i| m[(i, i)]).sum::<f64>();
                    let ratio = trace(&product) / trace(&want);
                    if exact.is_ok() || !(0.5..2.0).contains(&ratio) {
                        return Err(at(format!("ratio of traces {ratio}")).into());
                    }
                }
            }
        }
    }
    Ok(())
}

/// One damped step of KFAC (eigen form, Gauss-Newton factors) and of the natural gradient (rows) is the dense one.
fn steps(ctx: &Context) -> Outcome {
    let problem = Problem::new();
    let damping = 0.05;
    let kfac = Kfac {
        learning_rate: 1.0,
        momentum: 0.0,
        form: KfacForm::Eigen,
        damping,
        damping_split: DampingSplit::Plain,
        decay: 0.0,
        statistics_start: StatisticsStart::FirstBatch,
        kl_clip: None,
        ..Kfac::default()
    };
    let natural = NaturalGradient { learning_rate: 1.0, damping, ..NaturalGradient::default() };
    for curvature in [Curvature::GaussNewton, Curvature::EmpiricalFisher] {
        let recorded = problem.record(ctx, curvature)?;
        for by_factors in [true, false] {
            if by_factors && curvature == Curvature::EmpiricalFisher {
                continue;
            }
            let shapes = [(K, D_X), (D_Y, K)];
            let weights = shapes.map(|(m, n)| ctx.zeros(Shape::new(TRIALS, m, n)));
            let [g, f] = weights;
            let weights = [g?, f?];
            let mut group = if by_factors { Group::new(kfac) } else { Group::new(natural) };
            for (i, name) in ["G", "F"].into_iter().enumerate() {
                let parameter = Parameter::new(name, &weights[i], &recorded.gradients[i]);
                group = group.parameter(if by_factors {
                    parameter.factors(&recorded.lefts[i], &recorded.rights[i])
                } else {
                    parameter.per_sample_gradients(&recorded.rows[i])
                });
            }
            Optimizer::builder(ctx).group(group).build()?.step()?;
            for (trial, layer) in (0..TRIALS).flat_map(|t| [(t, 0), (t, 1)]) {
                let (gradient, matrix) = problem.dense(curvature, trial, layer);
                let want = matmul(&inverse(&matrix.plus(damping, &Mat::identity(matrix.rows))), &gradient);
                let got: Vec<f32> = read(&weights[layer], trial)?.data.iter().map(|&w| f32s(&[-w])[0]).collect();
                let condition = 1.0 + matrix.norm() / damping;
                close_to_largest(&got, &want.data, Tol::relative(8.0 * Tol::triangular(matrix.rows, condition).relative))
                    .map_err(|e| format!("{curvature:?}, factors {by_factors}, trial {trial}, layer {layer}: {e}"))?;
            }
        }
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![case("second_order::matrices", matrices), case("second_order::steps", steps)]
}

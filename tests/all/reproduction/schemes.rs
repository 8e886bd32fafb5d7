//! A1, A2 and A15: gradients, exact heads, whitening and invariance.

use layerwise::feature_learning::{Batch, Method, TwoLayer};
use layerwise::{Bindings, Context, Recorder, Shape};

use super::{Fixed, Problem, UNDAMPED, as_f32, at_most, narrow, widen};
use crate::case::{Case, Outcome, case};
use crate::oracle::{Mat, gram, inverse, matmul, orthonormal_rows, random};

/// `n` samples with second moment `basis^T diag(spectrum) basis`, exactly, and that moment's square root and its inverse.
fn shaped_samples(seed: u64, n: usize, spectrum: &[f64]) -> (Mat, Mat, Mat) {
    let d = spectrum.len();
    let basis = orthonormal_rows(&random(seed, d, d));
    let power = |p: f64| matmul(&basis.t(), &Mat::from_fn(d, d, |r, c| spectrum[r].powf(p) * basis[(r, c)]));
    let white = orthonormal_rows(&random(seed + 1, d, n)).t().map(|v| v * (n as f64).sqrt());
    (matmul(&white, &power(0.5)), power(0.5), power(-0.5))
}

fn relative(got: &Mat, want: &Mat) -> f64 {
    got.plus(-1.0, want).norm() / want.norm()
}

fn loss(x: &Mat, y: &Mat, f: &Mat, g: &Mat) -> f64 {
    let residual = matmul(&matmul(x, &g.t()), &f.t()).plus(-1.0, y);
    0.5 * residual.norm().powi(2) / x.rows as f64
}

/// Central differences; the loss is a polynomial of degree two in each weight, so they are exact up to rounding.
fn difference(weights: &Mat, loss: impl Fn(&Mat) -> f64) -> Mat {
    let h = 1e-4;
    let moved = |r, c, by| {
        let mut w = weights.clone();
        w[(r, c)] += by;
        loss(&w)
    };
    Mat::from_fn(weights.rows, weights.cols, |r, c| (moved(r, c, h) - moved(r, c, -h)) / (2.0 * h))
}

/// A1, for two trials that share one of two data items: folding must keep them apart.
fn gradients(context: &Context) -> Outcome {
    let (n, d_x, d_y, k, data, sharing) = (37, 13, 6, 3, 2, 2);
    let xs: Vec<Mat> = (0..data).map(|i| random(10 + i as u64, n, d_x)).collect();
    let ys: Vec<Mat> = (0..data).map(|i| random(20 + i as u64, n, d_y)).collect();
    let fs: Vec<Mat> = (0..data * sharing).map(|i| random(30 + i as u64, d_y, k)).collect();
    let gs: Vec<Mat> = (0..data * sharing).map(|i| random(40 + i as u64, k, d_x)).collect();
    let mut r = Recorder::new();
    let mut bindings = Bindings::new();
    let mut external = |r: &mut Recorder, name: &str, m: &[Mat]| -> layerwise::Result<_> {
        let shape = Shape::new(m.len(), m[0].rows, m[0].cols);
        let value = r.external(name, shape)?;
        bindings.bind(value, &context.upload(shape, &narrow(m.iter().cloned()))?);
        Ok(value)
    };
    let (x, y) = (external(&mut r, "x", &xs)?, external(&mut r, "y", &ys)?);
    let model = TwoLayer::new(external(&mut r, "f", &fs)?, external(&mut r, "g", &gs)?, sharing)?;
    let batch = Batch { x, y };
    let z = model.hidden(&mut r, model.g, batch.x)?;
    let residual = model.residual(&mut r, z, batch.y)?;
    let (df, dg) = (model.gradient_f(&mut r, residual, z)?, model.gradient_g(&mut r, residual, batch.x)?);
    let mut prepared = context.prepare(&r.finish(), &bindings)?;
    prepared.run(&[0])?;
    let read = |v| prepared.tensor(v).ok_or("bound")?.read().map_err(|e| e.to_string());
    let (df, dg) = (read(df)?, read(dg)?);
    for t in 0..data * sharing {
        let (x, y) = (as_f32(&xs[t / sharing]), as_f32(&ys[t / sharing]));
        let (f, g) = (as_f32(&fs[t]), as_f32(&gs[t]));
        let want_f = difference(&f, |f| loss(&x, &y, f, &g));
        let want_g = difference(&g, |g| loss(&x, &y, &f, g));
        at_most("dL/dF", relative(&widen(d_y, k, &df[t * d_y * k..][..d_y * k]), &want_f), 1e-5)?;
        // `dg` is a view of a folded product; its items lie one after another all the same.
        at_most("dL/dG", relative(&widen(k, d_x, &dg[t * k * d_x..][..k * d_x]), &want_g), 1e-5)?;
    }
    Ok(())
}

fn problem(seed: u64, x: Mat, d_y: usize, k: usize) -> Problem {
    let (n, d_x) = (x.rows, x.cols);
    let target = matmul(&random(seed, d_y, k), &random(seed + 1, k, d_x));
    let y = matmul(&x, &target.t()).plus(0.1, &random(seed + 2, n, d_y));
    Problem { x, y, f: random(seed + 3, d_y, k), g: orthonormal_rows(&random(seed + 4, k, d_x)) }
}

/// A2, first half: with rate 1 the head lands on the least-squares head of the new representation.
fn unit_rate_is_least_squares(context: &Context) -> Outcome {
    for method in [Method::Kfac, Method::Foof] {
        let (x, ..) = shaped_samples(50, 64, &[4.0, 3.0, 2.5, 2.0, 1.5, 1.0, 0.8, 0.5]);
        let p = problem(60, x, 7, 3);
        let (x, y) = (as_f32(&p.x), as_f32(&p.y));
        let mut run = Fixed::new(context, method, UNDAMPED, 1.0, &[p])?;
        run.step()?;
        let (f, g) = &run.weights()?[0];
        let z = matmul(&x, &g.t());
        let want = matmul(&matmul(&y.t(), &z), &inverse(&gram(&z, false))).map(|v| v / x.rows as f64);
        at_most("head against least squares", relative(f, &want), 1e-4)?;
    }
    Ok(())
}

/// A2, second half: FOOF's step of G is SGD's step on `G Sigma^{1/2}` in whitened inputs.
fn whitening(context: &Context) -> Outcome {
    let spectrum: Vec<f64> = (0..10).map(|i| 4.0 * 0.6f64.powi(i)).collect();
    let (x, root, inverse_root) = shaped_samples(70, 80, &spectrum);
    let p = problem(80, x, 6, 3);
    let white = Problem { x: matmul(&p.x, &inverse_root), y: p.y.clone(), f: p.f.clone(), g: matmul(&p.g, &root) };
    let start = p.g.clone();
    let mut foof = Fixed::new(context, Method::Foof, UNDAMPED, 0.1, &[p])?;
    let mut sgd = Fixed::new(context, Method::Sgd, UNDAMPED, 0.1, &[white])?;
    foof.step()?;
    sgd.step()?;
    let (got, want) = (&foof.weights()?[0].1, matmul(&sgd.weights()?[0].1, &inverse_root));
    // The move itself is compared, not only the weight that it leaves almost unchanged.
    at_most("whitened step", got.plus(-1.0, &want).norm() / want.plus(-1.0, &start).norm(), 1e-4)?;
    Ok(())
}

/// A15: in function space, KFAC does not see an invertible change of the inputs' coordinates; SGD and Adam do.
fn invariance(context: &Context) -> Outcome {
    let (d, condition) = (8, 4.0f64);
    let (left, right) = (orthonormal_rows(&random(90, d, d)), orthonormal_rows(&random(91, d, d)));
    let stretch = |r: usize| condition.powf(-(r as f64) / (d - 1) as f64);
    let a = matmul(&left.t(), &Mat::from_fn(d, d, |r, c| stretch(r) * right[(r, c)]));
    let (x, ..) = shaped_samples(92, 64, &[1.0; 8]);
    let spread = |method: Method, rate: f64| -> Result<f64, layerwise::Error> {
        let p = problem(94, x.clone(), 6, 3);
        let moved = Problem { x: matmul(&p.x, &a.t()), y: p.y.clone(), f: p.f.clone(), g: matmul(&p.g, &inverse(&a)) };
        let inputs = [p.x.clone(), moved.x.clone()];
        let mut run = Fixed::new(context, method, UNDAMPED, rate, &[p, moved])?;
        let mut worst = 0.0f64;
        for _ in 0..6 {
            run.step()?;
            let w = run.weights()?;
            let outputs = [0, 1].map(|i| matmul(&inputs[i], &matmul(&w[i].0, &w[i].1).t()));
            worst = worst.max(relative(&outputs[1], &outputs[0]));
        }
        Ok(worst)
    };
    at_most("KFAC under a change of coordinates", spread(Method::Kfac, 0.3)?, condition * 1e-6)?;
    for method in [Method::Sgd, Method::Adam] {
        at_most(&format!("{method} notices a change of coordinates: 1e-2 over its spread"), 1e-2 / spread(method, 0.05)?, 1.0)?;
    }
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("reproduction::a1_gradients", gradients),
        case("reproduction::a2_unit_rate_is_least_squares", unit_rate_is_least_squares),
        case("reproduction::a2_whitening", whitening),
        case("reproduction::a15_invariance", invariance),
    ]
}

//! The methods with curvature of their own, step for step against f64 code that knows nothing of blocks: dense natural gradients from Jacobians, empirical factors,
//! running averages; and inverses that stay.

use layerwise::Context;
use layerwise::feature_learning::scheme::Damping;
use layerwise::feature_learning::{LinearRepresentation, LogPoints, Method, Spectrum};

use super::online::{bits, run, small};
use super::{Fixed, Problem, UNDAMPED, as_f32, at_most};
use crate::case::{Case, Outcome, case, case_host};
use crate::oracle::{Mat, gram, inverse, matmul, orthonormal_rows, random};

fn problem(seed: u64, n: usize, d_x: usize, d_y: usize, k: usize) -> Problem {
    let x = random(seed, n, d_x);
    let target = matmul(&random(seed + 1, d_y, k), &random(seed + 2, k, d_x));
    let y = matmul(&x, &target.t()).plus(0.1, &random(seed + 3, n, d_y));
    Problem { x, y, f: random(seed + 4, d_y, k), g: orthonormal_rows(&random(seed + 5, k, d_x)) }
}

fn relative(got: &Mat, want: &Mat, start: &Mat) -> f64 {
    // The move itself is compared, not only the weight that it leaves almost unchanged.
    got.plus(-1.0, want).norm() / want.plus(-1.0, start).norm()
}

/// Gradients of each output of each sample (Gauss-Newton), or of each sample's loss (empirical Fisher), in rows `(vec G, vec F)`.
fn jacobian(p: &Problem, empirical: bool) -> Mat {
    let (n, d_x, d_y, k) = (p.x.rows, p.x.cols, p.y.cols, p.g.rows);
    let z = matmul(&p.x, &p.g.t());
    let residual = matmul(&z, &p.f.t()).plus(-1.0, &p.y);
    let of_output = |i: usize, y: usize, j: usize| {
        if j < k * d_x {
            p.f[(y, j / d_x)] * p.x[(i, j % d_x)]
        } else {
            let (row, b) = ((j - k * d_x) / k, (j - k * d_x) % k);
            if row == y { z[(i, b)] } else { 0.0 }
        }
    };
    let columns = k * d_x + d_y * k;
    if empirical {
        return Mat::from_fn(n, columns, |i, j| (0..d_y).map(|y| residual[(i, y)] * of_output(i, y, j)).sum());
    }
    Mat::from_fn(n * d_y, columns, |row, j| of_output(row / d_y, row % d_y, j))
}

/// The gradient of the mean loss, `(vec G, vec F)`.
fn gradient(p: &Problem) -> Mat {
    let rows = jacobian(p, true);
    Mat::from_fn(rows.cols, 1, |j, _| (0..rows.rows).map(|i| rows[(i, j)]).sum::<f64>() / rows.rows as f64)
}

/// One step of either dense method, on shapes with more and with fewer outputs than hidden units' inputs, one hidden unit, few samples.
fn natural_gradients(context: &Context) -> Outcome {
    for (seed, n, d_x, d_y, k) in [(100, 40, 7, 4, 3), (110, 9, 5, 6, 2), (120, 30, 3, 1, 1), (130, 12, 1, 2, 1)] {
        for (method, empirical) in [(Method::NaturalGaussNewton, false), (Method::NaturalEmpirical, true)] {
            let p = problem(seed, n, d_x, d_y, k);
            let exact = Problem { x: as_f32(&p.x), y: as_f32(&p.y), f: as_f32(&p.f), g: as_f32(&p.g) };
            let rows = jacobian(&exact, empirical);
            let matrix = matmul(&rows.t(), &rows).map(|v| v / n as f64).plus(0.1, &Mat::identity(rows.cols));
            let step = matmul(&inverse(&matrix), &gradient(&exact));
            let (g0, f0) = (exact.g.clone(), exact.f.clone());
            let want_g = Mat::from_fn(k, d_x, |r, c| g0[(r, c)] - 0.3 * step[(r * d_x + c, 0)]);
            let want_f = Mat::from_fn(d_y, k, |r, c| f0[(r, c)] - 0.3 * step[(k * d_x + r * k + c, 0)]);
            let mut run = Fixed::new(context, method, Damping { dense: 0.1, ..UNDAMPED }, 0.3, &[p])?;
            run.step()?;
            let (f, g) = &run.weights()?[0];
            at_most(&format!("{method}, {n} samples, {d_x} to {k} to {d_y}: G"), relative(g, &want_g, &g0), 2e-4)?;
            at_most(&format!("{method}, {n} samples, {d_x} to {k} to {d_y}: F"), relative(f, &want_f, &f0), 2e-4)?;
        }
    }
    Ok(())
}

/// Three steps of KFAC with the empirical left factor and with running averages, which start at the first batch's moments.
fn averages(context: &Context) -> Outcome {
    let (decay, damping, rate) = (0.7, 1e-2, 0.2);
    let (n, d_x, d_y, k) = (50, 8, 5, 3);
    let p = problem(140, n, d_x, d_y, k);
    let (x, y) = (as_f32(&p.x), as_f32(&p.y));
    let (mut f, mut g) = (as_f32(&p.f), as_f32(&p.g));
    #[allow(clippy::cast_possible_truncation, reason = "settings of a test")]
    let settings = Damping { inputs: damping as f32, hidden: damping as f32, dense: 0.0, decay: decay as f32 };
    let mut run = Fixed::new(context, Method::KfacEmpirical, settings, rate, &[p])?;
    let mut held: Option<(Mat, Mat)> = None;
    let damped = |a: &Mat| inverse(&a.plus(damping, &Mat::identity(a.rows)));
    for step in 0..3 {
        let residual = matmul(&matmul(&x, &g.t()), &f.t()).plus(-1.0, &y);
        let back = matmul(&residual, &f);
        let of_g = matmul(&back.t(), &x).map(|v| v / n as f64);
        let left = gram(&back, false);
        let left = held.as_ref().map_or(left.clone(), |h| h.0.map(|v| decay * v).plus(1.0 - decay, &left));
        let next_g = g.plus(-rate, &matmul(&matmul(&damped(&left), &of_g), &damped(&gram(&x, false))));
        let z = matmul(&x, &next_g.t());
        let residual = matmul(&z, &f.t()).plus(-1.0, &y);
        let head = gram(&z, false);
        let head = held.as_ref().map_or(head.clone(), |h| h.1.map(|v| decay * v).plus(1.0 - decay, &head));
        let next_f = f.plus(-rate, &matmul(&matmul(&residual.t(), &z).map(|v| v / n as f64), &damped(&head)));
        run.step()?;
        let (got_f, got_g) = &run.weights()?[0];
        at_most(&format!("step {step}: G"), relative(got_g, &next_g, &g), 2e-4)?;
        at_most(&format!("step {step}: F"), relative(got_f, &next_f, &f), 2e-4)?;
        // On from what the device holds: errors do not add up.
        (f, g) = (got_f.clone(), got_g.clone());
        held = Some((left, head));
    }
    Ok(())
}

/// With a refresh at every fifth step the first step is that of a refresh at every step, and the second is not; the sixth is made with fresh inverses again.
fn stale_inverses(context: &Context) -> Outcome {
    let config = LinearRepresentation { steps: 7, kappas: vec![10.0], seeds: 1, log_points: LogPoints::Every(1), ..small() };
    for method in [Method::Kfac, Method::Foof, Method::KfacLs] {
        let fresh = run(context, &config, method, &[0.1])?;
        let stale = run(context, &LinearRepresentation { precondition_every: 5, ..config.clone() }, method, &[0.1])?;
        let never = run(context, &LinearRepresentation { precondition_every: 100, ..config.clone() }, method, &[0.1])?;
        let same = |a: &[layerwise::feature_learning::Record], b: &[layerwise::feature_learning::Record], step: usize| {
            bits(&a[step..=step]) == bits(&b[step..=step])
        };
        let seen: Vec<(bool, bool)> = (0..=7).map(|t| (same(&fresh, &stale, t), same(&stale, &never, t))).collect();
        let want = |t: usize| (t <= 1, t <= 5);
        if seen.iter().enumerate().any(|(t, s)| *s != want(t)) {
            return Err(format!("{method}: (as with fresh inverses, as with the first ones) by step: {seen:?}").into());
        }
    }
    Ok(())
}

/// Ratio, sum and shape of every spectrum.
fn spectra() -> Outcome {
    for (d, kappa) in [(1, 1.0), (2, 10.0), (7, 100.0), (100, 1e4)] {
        for spectrum in [Spectrum::LogSpaced, Spectrum::TwoLevel, Spectrum::PowerLaw] {
            let values = spectrum.eigenvalues(d, kappa);
            let (first, last) = (values[0], values[d - 1]);
            at_most(&format!("{spectrum:?}, {d}: ratio"), (first / last / kappa - 1.0).abs(), 1e-12)?;
            at_most(&format!("{spectrum:?}, {d}: sum"), (values.iter().sum::<f64>() / d as f64 - 1.0).abs(), 1e-12)?;
            let ordered = values.windows(2).all(|w| w[0] >= w[1] * (1.0 - 1e-12));
            let levels = values.iter().filter(|v| (*v / first - 1.0).abs() < 1e-12).count();
            if !ordered || (spectrum == Spectrum::TwoLevel && kappa > 1.0 && levels != d.div_ceil(2)) {
                return Err(format!("{spectrum:?}, {d}: {values:?}").into());
            }
        }
    }
    let power = Spectrum::PowerLaw.eigenvalues(100, 100.0);
    at_most("power law of exponent 1", (power[0] / power[9] / 10.0 - 1.0).abs(), 1e-12)?;
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("reproduction::dense::natural_gradients", natural_gradients),
        case("reproduction::dense::averages", averages),
        case("reproduction::dense::stale_inverses", stale_inverses),
        case_host("reproduction::dense::spectra", spectra),
    ]
}

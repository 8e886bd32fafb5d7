//! A3 and A4: population dynamics against their closed forms.

use layerwise::Context;
use layerwise::feature_learning::Method;
use layerwise::feature_learning::teacher::{Side, Teacher};
use layerwise::feature_learning::theory::{AmgdModes, kfac_contraction};

use super::{Fixed, Problem, UNDAMPED, at_most, off_subspace, population_samples, widen};
use crate::case::{Case, Outcome, case, case_host};
use crate::oracle::{Mat, inverse, matmul, orthonormal_rows, singular_values};

const D_X: usize = 20;
const D_Y: usize = 6;
const K: usize = 3;

fn truth(teacher: &Teacher) -> (Mat, Mat) {
    (widen(D_Y, K, &teacher.head(Side::Train)), orthonormal_rows(&widen(K, D_X, &teacher.representation())))
}

/// A3: one KFAC step multiplies the off-subspace part of G by `1 - eta`, whatever the covariance.
fn kfac_is_free_of_conditioning(context: &Context) -> Outcome {
    let (kappas, rate) = ([1.0, 1e2, 1e4], 0.3);
    let teacher = Teacher::draw(3, D_X, D_Y, K, None);
    let (f_star, g_star) = truth(&teacher);
    let start = (widen(D_Y, K, &teacher.initial_head()), widen(K, D_X, &teacher.initial_representation()));
    let problems = kappas.map(|kappa| {
        let x = population_samples(&teacher, D_X, kappa);
        let y = matmul(&x, &matmul(&f_star, &g_star).t());
        Problem { x, y, f: start.0.clone(), g: start.1.clone() }
    });
    let mut run = Fixed::new(context, Method::Kfac, UNDAMPED, rate, &problems)?;
    run.step()?;
    let want = off_subspace(&start.1, &g_star).map(|v| kfac_contraction(rate) * v);
    for ((_, g), kappa) in run.weights()?.iter().zip(kappas) {
        let largest = |m: &Mat| m.data.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        let error = largest(&off_subspace(g, &g_star).plus(-1.0, &want)) / largest(g);
        at_most(&format!("off-subspace part at kappa {kappa}"), error, 2e-6 + 2e-8 * kappa)?;
    }
    Ok(())
}

fn distance(g: &Mat, g_star: &Mat) -> f64 {
    singular_values(&off_subspace(&orthonormal_rows(g), g_star))[0]
}

/// A4: AMGD's weakest mode contracts at the predicted rate.
fn amgd_follows_its_weakest_mode(context: &Context) -> Outcome {
    let kappa = 10.0;
    let teacher = Teacher::draw(4, D_X, D_Y, K, Some(2.0));
    let (f_star, g_star) = truth(&teacher);
    let modes = AmgdModes::new(&teacher, Side::Train, kappa, true)?;
    let rate = 0.5 * modes.largest_stable_rate();
    let predicted = modes.weakest_contraction(rate);
    let x = population_samples(&teacher, D_X, kappa);
    let y = matmul(&x, &matmul(&f_star, &g_star).t());
    let g = Mat::from_fn(K, D_X, |r, c| g_star[(r, c)] + 1e-2 * modes.weakest_head[r] * modes.weakest_input[c]);
    let mut run = Fixed::new(context, Method::Amgd, UNDAMPED, rate, &[Problem { x, y, f: f_star, g }])?;
    let first = distance(&run.weights()?[0].1, &g_star);
    let (mut last, mut steps) = (first, 0);
    // Reading every tenth step is enough: the mean rate does not depend on where exactly the count ends.
    while last > 1e-4 && steps < 2000 {
        for _ in 0..10 {
            run.step()?;
        }
        steps += 10;
        last = distance(&run.weights()?[0].1, &g_star);
    }
    let measured = (last / first).powf(1.0 / f64::from(steps));
    at_most("final distance", last, 1e-4)?;
    at_most(&format!("rate {measured} against {predicted}"), (measured - predicted).abs(), 1e-4)?;
    Ok(())
}

/// The modes themselves, against plain f64 algebra: eigenvectors, the subspace in the kernel, the bound over all constant steps.
fn modes_are_eigenvectors() -> Outcome {
    let teacher = Teacher::draw(5, D_X, D_Y, K, Some(3.0));
    let (f, g) = truth(&teacher);
    let modes = AmgdModes::new(&teacher, Side::Train, 100.0, true)?;
    let root = widen(D_X, D_X, &teacher.covariance_root(Side::Train, 100.0, true));
    let sigma = matmul(&root, &root);
    let cross = matmul(&g, &sigma);
    let conditional = sigma.plus(-1.0, &matmul(&matmul(&cross.t(), &inverse(&matmul(&cross, &g.t()))), &cross));
    let sigma_c = off_subspace(&off_subspace(&conditional, &g).t(), &g);
    let v = Mat { rows: D_X, cols: 1, data: modes.weakest_input.clone() };
    let u = Mat { rows: K, cols: 1, data: modes.weakest_head.clone() };
    // The teacher hands out f32, hence the tolerances.
    at_most("Sigma_c v = lambda v", matmul(&sigma_c, &v).plus(-modes.covariance[0], &v).norm(), 1e-6)?;
    at_most("F^T F u = s u", matmul(&matmul(&f.t(), &f), &u).plus(-modes.head[0], &u).norm(), 1e-5)?;
    at_most("v lies off the subspace", matmul(&g, &v).norm(), 1e-6)?;
    let values = singular_values(&sigma_c);
    at_most("largest eigenvalue", (values[0] - modes.covariance[D_X - K - 1]).abs(), 1e-5)?;
    at_most("smallest eigenvalue", (values[D_X - K - 1] - modes.covariance[0]).abs(), 1e-6)?;
    at_most("cond(F)", ((modes.head[K - 1] / modes.head[0]).sqrt() - 3.0).abs(), 1e-5)?;
    for share in [0.1, 0.5, 0.9, 0.999] {
        let rate = share * modes.largest_stable_rate();
        at_most("no constant step beats the bound", modes.best_contraction(), modes.contraction(rate) + 1e-12)?;
    }
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("reproduction::a3_kfac_is_free_of_conditioning", kfac_is_free_of_conditioning),
        case("reproduction::a4_amgd_follows_its_weakest_mode", amgd_follows_its_weakest_mode),
        case_host("reproduction::amgd_modes", modes_are_eigenvectors),
    ]
}

//! `spectral_norm` and `eigh` at any scale.

use layerwise::linalg;
use layerwise::plan::Order;
use layerwise::{Context, Recorder, Shape};

use super::{error, run, seen};
use crate::case::{Case, Outcome, case, case_host};
use crate::oracle::{Mat, eigh, matmul, orthonormal_rows, random, singular_values};

fn spectral_norm(ctx: &Context) -> Outcome {
    for (m, n) in [(1, 1), (1, 67), (48, 48), (49, 49), (70, 60), (60, 130)] {
        for scale in [1.0, 1e30, 1e-30] {
            let items = [random(m as u64, m, n), random(n as u64 + 5, m, n)].map(|x| seen(&x.map(|x| x * scale)));
            let got = run(ctx, &items, |r, x| linalg::spectral_norm(r, x).map(|norm| vec![norm]))?;
            for (got, x) in got[0].iter().zip(&items) {
                let want = singular_values(x)[0];
                if (got.data[0] / want - 1.0).abs() > 3e-6 {
                    return Err(format!("[{m}, {n}] times {scale:e}: {:e}, expected {want:e}", got.data[0]).into());
                }
            }
        }
    }
    // Clusters at the top: no gap to converge by.
    for n in [30, 60] {
        let q = orthonormal_rows(&random(n as u64, n, n));
        for gap in [0.0, 1e-6, 1e-4, 1e-2] {
            let value = |i: usize| if i.is_multiple_of(2) { 1.0 } else { 1.0 - gap };
            let x = seen(&matmul(&q.t(), &Mat::from_fn(n, n, |r, c| q[(r, c)] * value(r))));
            let got = run(ctx, &[x], |r, x| linalg::spectral_norm(r, x).map(|norm| vec![norm]))?;
            if (got[0][0].data[0] - 1.0).abs() > 3e-6 {
                return Err(format!("order {n}, gap {gap:e}: {}", got[0][0].data[0]).into());
            }
        }
    }
    let hopeless = [Mat::zeros(60, 60), Mat::zeros(60, 60).map(|_| f64::NAN)];
    let got = run(ctx, &hopeless, |r, x| linalg::spectral_norm(r, x).map(|norm| vec![norm]))?;
    if got[0].iter().any(|x| x.data[0] != 0.0) { Err(format!("zero and NaN: {:?}", got[0]).into()) } else { Ok(()) }
}

fn decomposition(ctx: &Context) -> Outcome {
    for n in [1, 2, 17, 44, 45, 90] {
        for scale in [1.0, 2f64.powi(90), 2f64.powi(-90)] {
            let square = random(n as u64, n, n);
            let a = seen(&square.plus(1.0, &square.t()).map(|x| x * scale));
            let got = run(ctx, std::slice::from_ref(&a), |r, a| {
                let (values, vectors, ok) = linalg::eigh(r, a, Order::Descending)?;
                Ok(vec![values, vectors, ok])
            })?;
            let (values, v, ok) = (&got[0][0], &got[1][0], got[2][0].data[0]);
            let mut want = eigh(&a).0;
            want.reverse();
            let largest = want.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let off = values.data.iter().zip(&want).fold(0.0, |m: f64, (x, y)| m.max((x - y).abs())) / largest;
            let defect = matmul(&v.t(), v).plus(-1.0, &Mat::identity(n)).norm() / (n as f64).sqrt();
            let rebuilt = matmul(&Mat::from_fn(n, n, |r, c| v[(r, c)] * values.data[c]), &v.t());
            let residual = error(&rebuilt, &a);
            if !(off <= 2e-6 && defect <= 2e-6 && residual <= 5e-6 && ok == 1.0) {
                return Err(format!("order {n} times {scale:e}: values {off:e}, defect {defect:e}, residual {residual:e}, ok {ok}").into());
            }
        }
    }
    let bad = [Mat::zeros(5, 5).map(|_| f64::NAN), Mat::identity(5), Mat::identity(5).map(|x| x * f64::INFINITY)];
    let got = run(ctx, &bad, |r, a| linalg::eigh(r, a, Order::Ascending).map(|(_, _, ok)| vec![ok]))?;
    let ok: Vec<f64> = got[0].iter().map(|m| m.data[0]).collect();
    if ok == [0.0, 1.0, 0.0] { Ok(()) } else { Err(format!("ok {ok:?}").into()) }
}

fn shapes() -> Outcome {
    let mut r = Recorder::new();
    let a = r.external("a", Shape::new(2, 4, 5))?;
    if linalg::eigh(&mut r, a, Order::Ascending).is_ok() { Err("took a rectangle".into()) } else { Ok(()) }
}

pub(super) fn cases() -> Vec<Case> {
    vec![case("spectra::spectral_norm", spectral_norm), case("spectra::eigh", decomposition), case_host("spectra::shapes", shapes)]
}

//! The comparator: says where, how far and how often, not just that two arrays differ.

use std::fmt;

use crate::case::{Case, Outcome, case_host};

/// Unit roundoff of f32.
const EPS: f64 = f32::EPSILON as f64 / 2.0;

/// The largest error allowed at an element: `absolute + relative * magnitude`, where the magnitude is |want| unless the test knows better
/// (the sum of the absolute terms of a sum).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tol {
    pub(crate) relative: f64,
    pub(crate) absolute: f64,
}

impl Tol {
    /// Equal as numbers.
    pub(crate) const EXACT: Tol = Tol { relative: 0.0, absolute: 0.0 };

    /// A sum of `k` products in f32, in any order, against the sum of its absolute terms.
    ///
    /// The worst case is `k` roundings in one direction; with rounding errors of either sign it is about `sqrt k` (Higham and Mary 2019). Four of those, and four
    /// more for coefficients and what is added. The largest ratio in the kernel table is 0.33 (`kron_factor`, lavapipe).
    pub(crate) fn gemm(k: usize) -> Tol {
        Tol { relative: (4.0 * (k as f64).sqrt() + 4.0) * EPS, absolute: 1e-37 }
    }

    /// `n` roundings one after another.
    pub(crate) fn roundings(n: usize) -> Tol {
        Tol { relative: n as f64 * EPS, absolute: 1e-37 }
    }

    /// A triangular factorization or solve of order `n` whose matrix has condition `condition`, relative to the largest element.
    ///
    /// Higham, Accuracy and Stability, theorems 10.3 and 8.5, with `sqrt n` for `n` as in [`Tol::gemm`]. The largest ratio in the kernel table is 0.19.
    pub(crate) fn triangular(n: usize, condition: f64) -> Tol {
        Tol { relative: 2.0 * ((n as f64).sqrt() + 2.0) * condition * EPS, absolute: 1e-37 }
    }

    pub(crate) fn relative(relative: f64) -> Tol {
        Tol { relative, absolute: 0.0 }
    }

    pub(crate) fn absolute(absolute: f64) -> Tol {
        Tol { relative: 0.0, absolute }
    }
}

/// How two arrays differ.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    len: usize,
    /// Elements beyond the tolerance.
    outside: usize,
    worst: usize,
    got: f64,
    want: f64,
    /// Error at the worst element over what is allowed there.
    pub(crate) ratio: f64,
    /// |got - want| / |want| in the Frobenius norm.
    pub(crate) frobenius: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} elements outside; worst at {}: got {:e}, want {:e}, error {:.3} times the tolerance; relative Frobenius error {:.3e}",
            self.outside, self.len, self.worst, self.got, self.want, self.ratio, self.frobenius
        )
    }
}

/// `got` within `tol` of `want`, relative to |want|.
pub(crate) fn close(got: &[f32], want: &[f64], tol: Tol) -> Result<Report, String> {
    close_to(got, want, want, tol)
}

/// `got` within `tol` of `want`, relative to the largest |want|.
pub(crate) fn close_to_largest(got: &[f32], want: &[f64], tol: Tol) -> Result<Report, String> {
    let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
    close_to(got, want, &vec![largest; want.len()], tol)
}

/// `got` within `tol` of `want`, relative to `magnitude`. NaN is close to NaN alone, an infinity to itself alone.
pub(crate) fn close_to(got: &[f32], want: &[f64], magnitude: &[f64], tol: Tol) -> Result<Report, String> {
    if got.len() != want.len() || want.len() != magnitude.len() {
        return Err(format!("{} elements, expected {} (magnitudes: {})", got.len(), want.len(), magnitude.len()));
    }
    let mut report = Report { len: got.len(), outside: 0, worst: 0, got: 0.0, want: 0.0, ratio: -1.0, frobenius: 0.0 };
    let (mut error_sq, mut want_sq) = (0.0, 0.0);
    for (i, ((&got, &want), magnitude)) in got.iter().zip(want).zip(magnitude).enumerate() {
        let got = f64::from(got);
        let allowed = tol.absolute + tol.relative * magnitude.abs();
        let error = (got - want).abs();
        let ratio = if got == want || (got.is_nan() && want.is_nan()) {
            0.0
        } else if error.is_finite() && allowed > 0.0 {
            error / allowed
        } else {
            f64::INFINITY
        };
        error_sq += error * error;
        want_sq += want * want;
        report.outside += usize::from(ratio > 1.0);
        if ratio > report.ratio {
            (report.worst, report.got, report.want, report.ratio) = (i, got, want, ratio);
        }
    }
    report.frobenius = if want_sq == 0.0 { error_sq.sqrt() } else { (error_sq / want_sq).sqrt() };
    if report.outside == 0 { Ok(report) } else { Err(report.to_string()) }
}

fn must_fail(what: &str, got: &[f32], want: &[f64]) -> Outcome {
    for (form, result) in [("close", close(got, want, Tol::gemm(16))), ("largest", close_to_largest(got, want, Tol::gemm(16)))] {
        if let Ok(report) = result {
            return Err(format!("{form} accepted {what}: {report}").into());
        }
    }
    Ok(())
}

/// The comparator has to fail where it should.
fn catches_faults() -> Outcome {
    let right: Vec<f32> = (0..20u8).map(|i| f32::from(i) * 0.37 - 3.0).collect();
    let want: Vec<f64> = right.iter().map(|&x| f64::from(x)).collect();
    let changed = |change: &dyn Fn(&mut Vec<f32>)| {
        let mut got = right.clone();
        change(&mut got);
        got
    };
    close(&right, &want, Tol::EXACT)?;
    must_fail("one corrupt element", &changed(&|g| g[7] += 1e-4), &want)?;
    must_fail("two swapped elements", &changed(&|g| g.swap(3, 4)), &want)?;
    must_fail("a transposed matrix", &(0..20).map(|i| right[i % 4 * 5 + i / 4]).collect::<Vec<_>>(), &want)?;
    must_fail("NaN", &changed(&|g| g[0] = f32::NAN), &want)?;
    must_fail("infinity", &changed(&|g| g[19] = f32::INFINITY), &want)?;
    must_fail("a missing element", &right[..19], &want)?;
    must_fail("a negated array", &changed(&|g| g.iter_mut().for_each(|x| *x = -*x)), &want)?;
    must_fail("zeros", &[0.0; 20], &want)?;
    must_fail("NaN for a number where NaN is wanted elsewhere", &[f32::NAN, f32::NAN], &[f64::NAN, 1.0])?;
    must_fail("a number where NaN is wanted", &[1.0], &[f64::NAN])?;
    must_fail("the wrong infinity", &[f32::INFINITY], &[f64::NEG_INFINITY])?;
    close(&[f32::NAN, f32::INFINITY], &[f64::NAN, f64::INFINITY], Tol::EXACT)?;
    close(&[], &[], Tol::EXACT)?;
    Ok(())
}

fn reports_the_worst() -> Outcome {
    let Err(message) = close(&[1.0, 2.5, 3.1], &[1.0, 2.0, 3.0], Tol::absolute(0.2)) else {
        return Err("accepted an error of 0.5".into());
    };
    for part in ["1 of 3", "worst at 1", "got 2.5e0", "want 2e0", "2.500 times"] {
        if !message.contains(part) {
            return Err(format!("`{part}` missing in: {message}").into());
        }
    }
    let report = close(&[3.0, 4.0], &[3.0, 5.0], Tol::absolute(2.0))?;
    if (report.frobenius - 1.0 / 34f64.sqrt()).abs() > 1e-12 || (report.ratio - 0.5).abs() > 1e-12 {
        return Err(format!("wrong figures: {report}").into());
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![case_host("compare::catches_faults", catches_faults), case_host("compare::reports_the_worst", reports_the_worst)]
}

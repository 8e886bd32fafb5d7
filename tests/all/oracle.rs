//! Naive f64 references, independent of the library. Each is itself checked against a closed form.

use std::ops::{Index, IndexMut};

use crate::case::{Case, Outcome, case_host};

/// A dense row-major matrix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mat {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) data: Vec<f64>,
}

impl Index<(usize, usize)> for Mat {
    type Output = f64;
    fn index(&self, (r, c): (usize, usize)) -> &f64 {
        &self.data[r * self.cols + c]
    }
}

impl IndexMut<(usize, usize)> for Mat {
    fn index_mut(&mut self, (r, c): (usize, usize)) -> &mut f64 {
        &mut self.data[r * self.cols + c]
    }
}

impl Mat {
    pub(crate) fn from_fn(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Mat {
        Mat { rows, cols, data: (0..rows * cols).map(|i| f(i / cols, i % cols)).collect() }
    }

    pub(crate) fn zeros(rows: usize, cols: usize) -> Mat {
        Mat::from_fn(rows, cols, |_, _| 0.0)
    }

    pub(crate) fn identity(n: usize) -> Mat {
        Mat::from_fn(n, n, |r, c| f64::from(u8::from(r == c)))
    }

    pub(crate) fn t(&self) -> Mat {
        Mat::from_fn(self.cols, self.rows, |r, c| self[(c, r)])
    }

    pub(crate) fn map(&self, f: impl Fn(f64) -> f64) -> Mat {
        Mat { data: self.data.iter().map(|&x| f(x)).collect(), ..*self }
    }

    /// `self + factor other`.
    pub(crate) fn plus(&self, factor: f64, other: &Mat) -> Mat {
        Mat::from_fn(self.rows, self.cols, |r, c| self[(r, c)] + factor * other[(r, c)])
    }

    pub(crate) fn norm(&self) -> f64 {
        self.data.iter().map(|x| x * x).sum::<f64>().sqrt()
    }
}

pub(crate) fn matmul(a: &Mat, b: &Mat) -> Mat {
    let mut product = Mat::zeros(a.rows, b.cols);
    for r in 0..a.rows {
        for k in 0..a.cols {
            let row = b.data[k * b.cols..][..b.cols].iter();
            product.data[r * b.cols..][..b.cols].iter_mut().zip(row).for_each(|(sum, b)| *sum += a[(r, k)] * b);
        }
    }
    product
}

/// `x^T x / n`, with a trailing column of ones if asked for.
pub(crate) fn gram(x: &Mat, ones: bool) -> Mat {
    let x = if ones { Mat::from_fn(x.rows, x.cols + 1, |r, c| if c < x.cols { x[(r, c)] } else { 1.0 }) } else { x.clone() };
    matmul(&x.t(), &x).map(|s| s / x.rows as f64)
}

/// Lower factor; `None` where a pivot is not positive.
pub(crate) fn cholesky(a: &Mat) -> Option<Mat> {
    let mut l = Mat::zeros(a.rows, a.rows);
    for j in 0..a.rows {
        for i in j..a.rows {
            let sum = a[(i, j)] - (0..j).map(|k| l[(i, k)] * l[(j, k)]).sum::<f64>();
            if i > j {
                l[(i, j)] = sum / l[(j, j)];
            } else if sum > 0.0 {
                l[(j, j)] = sum.sqrt();
            } else {
                return None;
            }
        }
    }
    Some(l)
}

/// `L x = b` for the lower triangle of `l`, or `L^T x = b`.
pub(crate) fn solve_triangular(l: &Mat, b: &Mat, transpose: bool) -> Mat {
    let mut x = b.clone();
    for c in 0..b.cols {
        for step in 0..l.rows {
            let i = if transpose { l.rows - 1 - step } else { step };
            let known = if transpose { i + 1..l.rows } else { 0..i };
            let sum: f64 = known.map(|k| if transpose { l[(k, i)] } else { l[(i, k)] } * x[(k, c)]).sum();
            x[(i, c)] = (x[(i, c)] - sum) / l[(i, i)];
        }
    }
    x
}

/// Gauss-Jordan with partial pivoting.
pub(crate) fn inverse(a: &Mat) -> Mat {
    let n = a.rows;
    let (mut a, mut inv) = (a.clone(), Mat::identity(n));
    for j in 0..n {
        let pivot = (j..n).fold(j, |best, i| if a[(i, j)].abs() > a[(best, j)].abs() { i } else { best });
        for c in 0..n {
            a.data.swap(j * n + c, pivot * n + c);
            inv.data.swap(j * n + c, pivot * n + c);
        }
        let scale = a[(j, j)];
        for c in 0..n {
            a[(j, c)] /= scale;
            inv[(j, c)] /= scale;
        }
        for i in (0..n).filter(|&i| i != j) {
            let factor = a[(i, j)];
            for c in 0..n {
                a[(i, c)] -= factor * a[(j, c)];
                inv[(i, c)] -= factor * inv[(j, c)];
            }
        }
    }
    inv
}

/// `x = l q` with orthonormal rows of `q` and a positive diagonal of the lower-triangular `l`: Gram-Schmidt, twice.
pub(crate) fn orthonormal_rows(x: &Mat) -> Mat {
    let mut q = x.clone();
    for i in 0..q.rows {
        for _ in 0..2 {
            for j in 0..i {
                let dot: f64 = (0..q.cols).map(|c| q[(i, c)] * q[(j, c)]).sum();
                for c in 0..q.cols {
                    q[(i, c)] -= dot * q[(j, c)];
                }
            }
        }
        let norm = (0..q.cols).map(|c| q[(i, c)].powi(2)).sum::<f64>().sqrt();
        for c in 0..q.cols {
            q[(i, c)] /= norm;
        }
    }
    q
}

/// Singular values, descending: one-sided Jacobi on the rows of the wider orientation.
pub(crate) fn singular_values(x: &Mat) -> Vec<f64> {
    let mut x = if x.rows <= x.cols { x.clone() } else { x.t() };
    let dot = |x: &Mat, i: usize, j: usize| (0..x.cols).map(|c| x[(i, c)] * x[(j, c)]).sum::<f64>();
    for _ in 0..40 {
        let mut turned = false;
        for i in 0..x.rows {
            for j in i + 1..x.rows {
                let (a, b, g) = (dot(&x, i, i), dot(&x, j, j), dot(&x, i, j));
                if g.abs() <= 1e-15 * (a * b).sqrt() {
                    continue;
                }
                turned = true;
                let zeta = (b - a) / (2.0 * g);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let (cos, sin) = (1.0 / (1.0 + t * t).sqrt(), t / (1.0 + t * t).sqrt());
                for c in 0..x.cols {
                    let (u, v) = (x[(i, c)], x[(j, c)]);
                    (x[(i, c)], x[(j, c)]) = (cos * u - sin * v, sin * u + cos * v);
                }
            }
        }
        if !turned {
            break;
        }
    }
    let mut values: Vec<f64> = (0..x.rows).map(|i| dot(&x, i, i).sqrt()).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

/// Eigenvalues, ascending, and eigenvectors in columns: cyclic Jacobi.
pub(crate) fn eigh(a: &Mat) -> (Vec<f64>, Mat) {
    let n = a.rows;
    let floor = 1e-18 * a.norm();
    let (mut a, mut v) = (a.clone(), Mat::identity(n));
    for _ in 0..30 {
        let mut turned = false;
        for i in 0..n {
            for j in i + 1..n {
                if a[(i, j)].abs() <= floor {
                    continue;
                }
                turned = true;
                let zeta = (a[(j, j)] - a[(i, i)]) / (2.0 * a[(i, j)]);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let (cos, sin) = (1.0 / (1.0 + t * t).sqrt(), t / (1.0 + t * t).sqrt());
                for k in 0..n {
                    let (x, y) = (a[(i, k)], a[(j, k)]);
                    (a[(i, k)], a[(j, k)]) = (cos * x - sin * y, sin * x + cos * y);
                }
                for m in [&mut a, &mut v] {
                    for k in 0..n {
                        let (x, y) = (m[(k, i)], m[(k, j)]);
                        (m[(k, i)], m[(k, j)]) = (cos * x - sin * y, sin * x + cos * y);
                    }
                }
            }
        }
        if !turned {
            break;
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[(i, i)].total_cmp(&a[(j, j)]));
    (order.iter().map(|&i| a[(i, i)]).collect(), Mat::from_fn(n, n, |r, c| v[(r, order[c])]))
}

/// Rounds to the nearest f16, ties to even; within f16's range.
pub(crate) fn round_f16(x: f64) -> f64 {
    if x == 0.0 {
        return x;
    }
    let unit = 2f64.powf(x.abs().log2().floor().max(-14.0) - 10.0);
    (x / unit).round_ties_even() * unit
}

/// Philox4x32-10, straight from the paper.
pub(crate) fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [mut k0, mut k1] = key.map(u64::from);
    let mut c = counter.map(u64::from);
    for _ in 0..10 {
        let (p, q) = (0xD251_1F53 * c[0], 0xCD9E_8D57 * c[2]);
        c = [(q >> 32) ^ c[1] ^ k0, q & 0xFFFF_FFFF, (p >> 32) ^ c[3] ^ k1, p & 0xFFFF_FFFF];
        k0 = (k0 + 0x9E37_79B9) & 0xFFFF_FFFF;
        k1 = (k1 + 0xBB67_AE85) & 0xFFFF_FFFF;
    }
    c.map(|word| u32::try_from(word).unwrap_or(0))
}

/// Test data in [-1, 1) from a seed: every seventh element tiny, every eleventh zero.
pub(crate) fn data(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let scaled = |i: usize, x: f32| if i % 11 == 10 { 0.0 } else { x * if i % 7 == 6 { 1e-6 } else { 1.0 } };
    (0..count).map(|i| scaled(i, next())).collect()
}

/// A matrix of [`data`].
pub(crate) fn random(seed: u64, rows: usize, cols: usize) -> Mat {
    Mat { rows, cols, data: data(seed, rows * cols).into_iter().map(f64::from).collect() }
}

fn near(what: &str, got: &Mat, want: &Mat) -> Outcome {
    let error = got.plus(-1.0, want).norm();
    if (got.rows, got.cols) == (want.rows, want.cols) && error <= 1e-11 * (1.0 + want.norm()) {
        return Ok(());
    }
    Err(format!("{what}: error {error:e}").into())
}

fn self_checks() -> Outcome {
    // Lehmer's matrix min(i, j) / max(i, j) has a tridiagonal inverse; min(i, j) has the factor of all ones.
    let n = 9;
    let index = |i: usize| (i + 1) as f64;
    let minimum = Mat::from_fn(n, n, |r, c| index(r.min(c)));
    let ones = Mat::from_fn(n, n, |r, c| f64::from(u8::from(c <= r)));
    near("matmul", &matmul(&ones, &ones.t()), &minimum)?;
    near("cholesky", &cholesky(&minimum).ok_or("positive definite")?, &ones)?;
    if cholesky(&minimum.plus(-0.5, &Mat::identity(n))).is_some() {
        return Err("cholesky took an indefinite matrix".into());
    }
    let differences = Mat::from_fn(n, n, |r, c| {
        if r == c {
            1.0
        } else if r == c + 1 {
            -1.0
        } else {
            0.0
        }
    });
    near("solve", &solve_triangular(&ones, &Mat::identity(n), false), &differences)?;
    near("solve transposed", &solve_triangular(&ones, &Mat::identity(n), true), &differences.t())?;
    near("inverse", &inverse(&minimum), &matmul(&differences.t(), &differences))?;
    near(
        "inverse with pivoting",
        &inverse(&Mat::from_fn(2, 2, |r, c| f64::from(u8::from(r != c)) * 2.0)),
        &Mat { rows: 2, cols: 2, data: vec![0.0, 0.5, 0.5, 0.0] },
    )?;
    // The columns (1, 2), (1, 4) with their mean square and mean.
    let x = Mat { rows: 2, cols: 1, data: vec![2.0, 4.0] };
    near("gram", &gram(&x, true), &Mat { rows: 2, cols: 2, data: vec![10.0, 3.0, 3.0, 1.0] })?;

    let wide = random(3, 5, 12);
    let q = orthonormal_rows(&wide);
    near("orthonormal rows", &matmul(&q, &q.t()), &Mat::identity(5))?;
    let l = matmul(&wide, &q.t());
    let lower = (0..5).all(|r| l[(r, r)] > 0.0 && (r + 1..5).all(|c| l[(r, c)].abs() < 1e-12));
    near("l q", &matmul(&l, &q), &wide)?;

    // Singular values of u diag(4, 3, 1) v with orthonormal u, v.
    let (u, v) = (orthonormal_rows(&random(4, 3, 3)), orthonormal_rows(&random(5, 3, 8)));
    let scaled = Mat::from_fn(3, 8, |r, c| [3.0, 4.0, 1.0][r] * v[(r, c)]);
    let values = singular_values(&matmul(&u, &scaled).t());
    near("singular values", &Mat { rows: 3, cols: 1, data: values }, &Mat { rows: 3, cols: 1, data: vec![4.0, 3.0, 1.0] })?;

    let spectrum = Mat::from_fn(5, 5, |r, c| if r == c { [2.0, -1.0, 0.5, 2.0, 7.0][r] } else { 0.0 });
    let basis = orthonormal_rows(&random(6, 5, 5));
    let (values, vectors) = eigh(&matmul(&matmul(&basis.t(), &spectrum), &basis));
    near("eigenvalues", &Mat { rows: 5, cols: 1, data: values.clone() }, &Mat { rows: 5, cols: 1, data: vec![-1.0, 0.5, 2.0, 2.0, 7.0] })?;
    let rebuilt = matmul(&Mat::from_fn(5, 5, |r, c| vectors[(r, c)] * values[c]), &vectors.t());
    near("eigenvectors", &rebuilt, &matmul(&matmul(&basis.t(), &spectrum), &basis))?;

    let halves = [(1.0, 1.0), (1.0 + 2f64.powi(-11), 1.0), (1.0 + 3.0 * 2f64.powi(-11), 1.0 + 2f64.powi(-9)), (65519.0, 65504.0)];
    let tiny = [(2f64.powi(-25), 0.0), (3.0 * 2f64.powi(-25), 2f64.powi(-23)), (-0.1, -0.099_975_585_937_5)];
    let rounds = halves.iter().chain(&tiny).all(|&(x, want)| round_f16(x) == want);
    let known = philox([0xA409_3822, 0x299F_31D0], [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344]);
    let random123 = known == [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1];
    let spread = data(1, 1000).iter().all(|x| x.abs() <= 1.0) && data(1, 9) != data(2, 9);
    if lower && rounds && random123 && spread {
        return Ok(());
    }
    Err(format!("positive lower factor {lower}, f16 {rounds}, philox {random123}, data {spread}").into())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![case_host("oracle::self_checks", self_checks)]
}

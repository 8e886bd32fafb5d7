//! Gradients of the student against finite differences, and the whitening identity.

use layerwise::feature_learning::Link;
use layerwise::feature_learning::single_index::Student;
use layerwise::{Bindings, Context, Recorder, Shape};

use super::near;
use crate::case::{Case, Outcome, case, case_host};
use crate::oracle::{Mat, inverse, matmul, random};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case_host("single_index::gradient::oracle_by_differences", oracle_by_differences),
        case("single_index::gradient::by_differences", by_differences),
        case("single_index::gradient::whitening", whitening),
        case_host("single_index::gradient::refusals", refusals),
    ]
}

const LINKS: [Link; 6] = [Link::Tanh, Link::Relu, Link::CentredRelu, Link::Erf, Link::H1, Link::Hermite([0.75, -0.5, 0.25])];
const SHAPES: [[usize; 3]; 5] = [[1, 1, 1], [5, 1, 3], [7, 3, 1], [37, 5, 11], [130, 17, 23]];

#[derive(Clone)]
struct Problem {
    x: Mat,
    /// Row.
    y: Mat,
    g: Mat,
    /// Row.
    f: Mat,
}

fn problem(seed: u64, [n, d, width]: [usize; 3]) -> Problem {
    let scaled = |seed: u64, rows: usize, cols: usize, by: f64| random(seed, rows, cols).map(|x| by * x);
    Problem {
        x: scaled(seed, n, d, 2.0),
        y: scaled(seed + 1, 1, n, 1.0),
        g: scaled(seed + 2, width, d, 1.0),
        f: scaled(seed + 3, 1, width, 1.0),
    }
}

fn loss(link: Link, p: &Problem) -> f64 {
    let pre = matmul(&p.g, &p.x.t());
    let scale = (p.g.rows as f64).sqrt();
    let sum: f64 = (0..p.x.rows)
        .map(|i| {
            let value: f64 = (0..p.g.rows).map(|j| p.f.data[j] * link.value(pre[(j, i)])).sum::<f64>() / scale;
            (value - p.y.data[i]).powi(2)
        })
        .sum();
    sum / (2.0 * p.x.rows as f64)
}

/// The gradient by the formula, naively.
fn gradient(link: Link, p: &Problem) -> Mat {
    let (n, scale) = (p.x.rows, (p.g.rows as f64).sqrt());
    let pre = matmul(&p.g, &p.x.t());
    let residual: Vec<f64> =
        (0..n).map(|i| (0..p.g.rows).map(|j| p.f.data[j] * link.value(pre[(j, i)])).sum::<f64>() / scale - p.y.data[i]).collect();
    let back = Mat::from_fn(p.g.rows, n, |j, i| residual[i] * p.f.data[j] * link.derivative(pre[(j, i)]) / (n as f64 * scale));
    matmul(&back, &p.x)
}

fn differences(link: Link, p: &Problem) -> Mat {
    let h = 1e-5;
    Mat::from_fn(p.g.rows, p.g.cols, |r, c| {
        let at = |by: f64| {
            let mut moved = p.clone();
            moved.g[(r, c)] += by;
            loss(link, &moved)
        };
        // Fourth order: the error of the cubic's differences vanishes.
        (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
    })
}

fn relative(got: &Mat, want: &Mat) -> f64 {
    got.plus(-1.0, want).norm() / want.norm().max(1e-30)
}

fn oracle_by_differences() -> Outcome {
    for (i, link) in LINKS.into_iter().enumerate() {
        for (j, shape) in SHAPES.into_iter().enumerate() {
            let p = problem((10 * i + j) as u64 + 3, shape);
            let error = relative(&gradient(link, &p), &differences(link, &p));
            near(&format!("{link:?}, {shape:?}"), error, 0.0, 1e-6)?;
        }
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
fn narrow(items: &[&Mat]) -> Vec<f32> {
    items.iter().flat_map(|m| m.data.iter().map(|&x| x as f32)).collect()
}

fn rounded(x: &Mat) -> Mat {
    Mat { data: narrow(&[x]).into_iter().map(f64::from).collect(), ..*x }
}

/// One matrix of a problem.
type Part = fn(&Problem) -> &Mat;

/// Gradients of all problems as one batch.
fn on_device(context: &Context, link: Link, problems: &[Problem]) -> layerwise::Result<Vec<Mat>> {
    let (items, first) = (problems.len(), &problems[0]);
    let (n, d, width) = (first.x.rows, first.x.cols, first.g.rows);
    let mut r = Recorder::new();
    let [x, y] = [("x", n, d), ("y", 1, n)].map(|(name, rows, cols)| r.external(name, Shape::new(items, rows, cols)));
    let [g, f] = [("g", width, d), ("f", 1, width)].map(|(name, rows, cols)| r.external(name, Shape::new(items, rows, cols)));
    let (x, y, g, f) = (x?, y?, g?, f?);
    let student = Student::new(link, g, f)?;
    let forward = student.forward(&mut r, x, y)?;
    let gradient = student.gradient_g(&mut r, &forward, x)?;
    let mut bindings = Bindings::new();
    let pick: [(layerwise::Value, Part); 4] = [(x, |p| &p.x), (y, |p| &p.y), (g, |p| &p.g), (f, |p| &p.f)];
    for (value, part) in pick {
        let data = narrow(&problems.iter().map(part).collect::<Vec<_>>());
        bindings.bind(value, &context.upload(value.shape(), &data)?);
    }
    let mut prepared = context.prepare(&r.finish(), &bindings)?;
    prepared.run(&[0])?;
    let data = prepared.tensor(gradient).map(layerwise::Tensor::read).transpose()?.unwrap_or_default();
    Ok(data.chunks(width * d).map(|g| Mat { rows: width, cols: d, data: g.iter().map(|&x| f64::from(x)).collect() }).collect())
}

fn by_differences(context: &Context) -> Outcome {
    for (i, link) in LINKS.into_iter().enumerate() {
        for (j, shape) in SHAPES.into_iter().enumerate() {
            let round = |p: Problem| Problem { x: rounded(&p.x), y: rounded(&p.y), g: rounded(&p.g), f: rounded(&p.f) };
            let problems: Vec<Problem> = (0..3).map(|b| round(problem((10 * i + j) as u64 + 3 + 100 * b, shape))).collect();
            for (got, p) in on_device(context, link, &problems)?.iter().zip(&problems) {
                let error = relative(got, &differences(link, p));
                near(&format!("{link:?}, {shape:?}"), error, 0.0, 1e-5)?;
            }
        }
    }
    Ok(())
}

/// A step preconditioned by `Sigma^{-1}` on inputs `x` is a plain step on whitened inputs `A^{-T} x`, `Sigma = A^T A`, for the weights `G A^T`.
fn whitening(context: &Context) -> Outcome {
    let [n, d, width] = [90, 13, 9];
    let a = random(77, d, d).plus(2.0, &Mat::identity(d));
    let back = inverse(&a);
    for link in LINKS {
        let p = problem(5, [n, d, width]);
        let whitened = Problem { x: matmul(&p.x, &back), g: matmul(&p.g, &a.t()), ..p.clone() };
        let gradients = on_device(context, link, &[p, whitened])?;
        // dG Sigma^{-1} = dG A^{-1} A^{-T}, and the plain step of G A^T taken back by A^{-T}.
        let preconditioned = matmul(&matmul(&gradients[0], &back), &back.t());
        let error = relative(&matmul(&gradients[1], &back.t()), &preconditioned);
        near(&format!("{link:?}"), error, 0.0, 1e-4)?;
    }
    Ok(())
}

fn refusals() -> Outcome {
    let mut r = Recorder::new();
    let g = r.external("g", Shape::new(2, 5, 3))?;
    for shape in [Shape::new(2, 1, 3), Shape::new(1, 1, 5), Shape::new(2, 5, 1)] {
        let f = r.external("f", shape)?;
        if Student::new(Link::Tanh, g, f).is_ok() {
            return Err(format!("f of {shape} was accepted").into());
        }
    }
    Ok(())
}

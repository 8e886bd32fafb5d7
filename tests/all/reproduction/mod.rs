//! Linear representation learning: the acceptance list of the two-layer model, in f32 on every device against f64 code of its own.

mod dense;
mod dynamics;
mod online;
mod population;
mod schemes;
mod trials;

use layerwise::feature_learning::experiment::block_row;
use layerwise::feature_learning::scheme::{Damping, Initial, Scheme, Sizes};
use layerwise::feature_learning::teacher::{Side, Teacher};
use layerwise::feature_learning::{Batch, Method, RateSchedule};
use layerwise::optim::{LearningRateSchedule, Optimizer};
use layerwise::{Bindings, Context, Prepared, Recorder, Result, Shape, Tensor};

use crate::case::Case;
use crate::oracle::{Mat, matmul};

/// No damping at all: what the identities need.
const UNDAMPED: Damping = Damping { inputs: 0.0, hidden: 0.0, dense: 0.0, decay: 0.0 };

/// A scheme on samples that stay the same from step to step.
struct Fixed {
    prepared: Prepared,
    optimizer: Option<Optimizer>,
    f: Tensor,
    g: Tensor,
    sizes: Sizes,
}

/// One problem: samples and initial weights. All problems of one run have the same sizes.
struct Problem {
    x: Mat,
    y: Mat,
    f: Mat,
    g: Mat,
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
fn narrow(matrices: impl IntoIterator<Item = Mat>) -> Vec<f32> {
    matrices.into_iter().flat_map(|m| m.data).map(|x| x as f32).collect()
}

fn widen(rows: usize, cols: usize, data: &[f32]) -> Mat {
    Mat { rows, cols, data: data.iter().map(|&x| f64::from(x)).collect() }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
fn as_f32(x: &Mat) -> Mat {
    x.map(|v| f64::from(v as f32))
}

impl Fixed {
    /// One trial per problem.
    fn new(context: &Context, method: Method, damping: Damping, learning_rate: f64, problems: &[Problem]) -> Result<Self> {
        let first = &problems[0];
        let (n, d_x, d_y, k) = (first.x.rows, first.x.cols, first.y.cols, first.g.rows);
        let sizes = Sizes { data: problems.len(), sharing: 1, d_x, d_y, k };
        let mut r = Recorder::new();
        let x = r.external("x", Shape::new(sizes.data, n, d_x))?;
        let y = r.external("y", Shape::new(sizes.data, n, d_y))?;
        let scheme = Scheme::declare(&mut r, method, sizes, damping)?;
        scheme.record(&mut r, &Batch { x, y }, true)?;
        let plan = r.finish();
        let mut bindings = Bindings::new();
        bindings.bind(x, &context.upload(Shape::new(sizes.data, n, d_x), &narrow(problems.iter().map(|p| p.x.clone())))?);
        bindings.bind(y, &context.upload(Shape::new(sizes.data, n, d_y), &narrow(problems.iter().map(|p| p.y.clone())))?);
        let (mut f, mut g, mut state) = (None, None, Vec::new());
        for &(value, initial) in &scheme.state {
            let shape = value.shape();
            let tensor = match initial {
                Initial::Zeros => context.zeros(shape)?,
                Initial::Ones => context.upload(shape, &vec![1.0; shape.elements()])?,
                Initial::Head => context.upload(shape, &narrow(problems.iter().map(|p| p.f.clone())))?,
                Initial::Representation => context.upload(shape, &narrow(problems.iter().map(|p| p.g.clone())))?,
                Initial::Block => context.upload(shape, &block_row(learning_rate, RateSchedule::Constant, 1).repeat(shape.batch))?,
            };
            bindings.bind(value, &tensor);
            state.push((value, tensor.clone()));
            match initial {
                Initial::Head => f = Some(tensor),
                Initial::Representation => g = Some(tensor),
                _ => {}
            }
        }
        let find = |value| state.iter().find(|(v, _)| *v == value).map(|(_, tensor)| tensor.clone());
        let rates = vec![learning_rate; sizes.trials()];
        let optimizer = scheme.optimizer(context, &find, &rates, LearningRateSchedule::Constant)?;
        let prepared = context.prepare(&plan, &bindings)?;
        let (Some(f), Some(g)) = (f, g) else { unreachable!("every scheme has weights") };
        Ok(Fixed { prepared, optimizer, f, g, sizes })
    }

    fn step(&mut self) -> Result<()> {
        self.prepared.run(&[0])?;
        self.optimizer.as_mut().map_or(Ok(()), Optimizer::step)
    }

    /// (F, G) of every problem.
    fn weights(&self) -> Result<Vec<(Mat, Mat)>> {
        let Sizes { d_x, d_y, k, .. } = self.sizes;
        let (f, g) = (self.f.read()?, self.g.read()?);
        Ok(f.chunks(d_y * k).zip(g.chunks(k * d_x)).map(|(f, g)| (widen(d_y, k, f), widen(k, d_x, g))).collect())
    }
}

/// `sqrt(dX) Sigma^{1/2}` as samples: their second moment is `Sigma` itself, so a step on them is a population step.
fn population_samples(teacher: &Teacher, d_x: usize, kappa: f64) -> Mat {
    widen(d_x, d_x, &teacher.covariance_root(Side::Train, kappa, true)).map(|v| v * (d_x as f64).sqrt())
}

/// `x - (x g^T) g`: the part of the rows of `x` off the span of the orthonormal rows of `g`.
fn off_subspace(x: &Mat, g: &Mat) -> Mat {
    x.plus(-1.0, &matmul(&matmul(x, &g.t()), g))
}

/// An error unless `measured <= limit`; NaN is one.
fn at_most(what: &str, measured: f64, limit: f64) -> std::result::Result<(), String> {
    if measured <= limit { Ok(()) } else { Err(format!("{what}: {measured:e}, allowed {limit:e}")) }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = schemes::cases();
    cases.extend(dynamics::cases());
    cases.extend(online::cases());
    cases.extend(population::cases());
    cases.extend(trials::cases());
    cases.extend(dense::cases());
    cases
}

//! Made-up operands: the same numbers on every device.

use std::collections::HashSet;

use layerwise::feature_learning::experiment::{RateSchedule, block_row};
use layerwise::plan::{Gemm, Op, Role, block};
use layerwise::{Bindings, Context, ElementType, Plan, Prepared, Recorder, Shape, Value};

/// Records a plan whose operands are all external, so that [`bind`] fills them.
pub(crate) struct Values<'a>(&'a mut Recorder);

impl Values<'_> {
    pub(crate) fn value(&mut self, name: &str, shape: [usize; 3]) -> Value {
        self.value_of(name, shape, ElementType::F32)
    }

    fn value_of(&mut self, name: &str, [batch, rows, cols]: [usize; 3], element: ElementType) -> Value {
        self.0.declare(name.into(), Shape::new(batch, rows, cols), element, Role::External).expect("a shape without zeros")
    }
}

/// A plan of one operation.
pub(crate) fn plan_of<O: Into<Op>>(op: impl FnOnce(&mut Values<'_>) -> O) -> Plan {
    let mut recorder = Recorder::new();
    let op = op(&mut Values(&mut recorder)).into();
    recorder.record(op).expect("operands fit");
    recorder.finish()
}

/// A batch of products.
pub(crate) fn product(batch: usize, m: usize, k: usize, n: usize) -> Plan {
    plan_of(|r| Gemm::new(r.value("a", [batch, m, k]), r.value("b", [batch, k, n]), r.value("out", [batch, m, n])))
}

/// The same with f16 operands.
pub(crate) fn half_product(batch: usize, m: usize, k: usize, n: usize) -> Plan {
    let half = ElementType::F16;
    plan_of(|r| Gemm::new(r.value_of("a", [batch, m, k], half), r.value_of("b", [batch, k, n], half), r.value("out", [batch, m, n])))
}

/// Numbers in (-1, 1).
pub(crate) fn uniform(stream: u64) -> impl FnMut() -> f32 {
    let mut seed = 0x9E37_79B9_7F4A_7C15u64 ^ (stream << 32);
    move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A plan with made-up operands, ready to run.
pub(crate) fn bind(context: &Context, plan: &Plan) -> Prepared {
    context.prepare(plan, &bindings(context, plan)).expect("every value is bound")
}

/// Binds every external and state value to made-up numbers, by its name: `block`s are hyper-parameters, a square `..root` is near the identity, a square
/// `..spd` positive definite of condition 1e4, `..keys` are bit patterns, `..step` and Adam's moments are 0, and the rest is uniform in (-1, 1).
pub(crate) fn bindings(context: &Context, plan: &Plan) -> Bindings {
    let (mut bindings, mut seen, mut uniform) = (Bindings::new(), HashSet::new(), uniform(0));
    let mut row = block_row(1e-3, RateSchedule::Constant, 1000);
    (row[block::MOMENTUM as usize], row[block::WEIGHT1 as usize], row[block::WEIGHT2 as usize]) = (0.9, 1.0, 1.0);
    row[block::GATE as usize] = 1.0;
    for value in plan.ops().iter().flat_map(Op::operands).map(|operand| operand.1) {
        let info = plan.info(value).expect("a value of the plan");
        if info.role == Role::Scratch || !seen.insert(info.name.clone()) {
            continue;
        }
        let (name, shape) = (info.name.as_str(), info.shape);
        let square = shape.rows == shape.cols;
        let number = |i: usize| {
            if name.contains("block") {
                row[i % row.len()]
            } else if name.ends_with("root") && square {
                let on_diagonal = (i % (shape.rows * shape.cols)).is_multiple_of(shape.cols + 1);
                if on_diagonal { 1.0 } else { 0.1 * uniform() / shape.cols as f32 }
            } else if name.ends_with("step") || name.starts_with("m_") || name.starts_with("v_") {
                0.0
            } else if name.ends_with("keys") {
                f32::from_bits(u32::try_from(i).unwrap_or(0))
            } else {
                uniform()
            }
        };
        let numbers: Vec<f32> = if name.ends_with("spd") && square {
            (0..shape.batch).flat_map(|_| positive_definite(shape.rows, &mut uniform)).collect()
        } else {
            (0..shape.elements()).map(number).collect()
        };
        bindings.bind(value, &context.upload_of(shape, info.element, &numbers).expect("room for the operands"));
    }
    bindings
}

/// Eigenvalues log-spaced from 1 to 1e-4, turned by a few random reflections `I - 2 v v^T`: each costs `n^2`, so that large matrices are cheap to make.
fn positive_definite(n: usize, uniform: &mut impl FnMut() -> f32) -> Vec<f32> {
    let mut a = vec![0.0f64; n * n];
    (0..n).for_each(|i| a[i * (n + 1)] = 1e-4f64.powf(i as f64 / (n.max(2) - 1) as f64));
    for _ in 0..8 {
        let v: Vec<f64> = (0..n).map(|_| f64::from(uniform())).collect();
        let norm = v.iter().map(|x| x * x).sum::<f64>();
        let av: Vec<f64> = a.chunks(n).map(|row| row.iter().zip(&v).map(|(x, y)| x * y).sum()).collect();
        let vav: f64 = v.iter().zip(&av).map(|(x, y)| x * y).sum();
        for (i, row) in a.chunks_mut(n).enumerate() {
            for (j, x) in row.iter_mut().enumerate() {
                *x += (4.0 * vav / norm * v[i] * v[j] - 2.0 * (v[i] * av[j] + av[i] * v[j])) / norm;
            }
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "made up in f64, used in f32")]
    a.into_iter().map(|x| x as f32).collect()
}

//! Plans without a device: what recording refuses, how a plan prints, what it costs, how views repeat.

use layerwise::plan::{
    Activation, AdamUpdate, Advance, Axpby, CheckFinite, Cholesky, Clock, ColumnMean, ControlStage, Convert, DampingControl, DecayForm,
    DirectionOutcome, Distribution, EIGH_SINGLE_MAX, Eigh, FactorDamping, Gemm, GraftDirection, GraftScale, IterationControl, KlClip,
    KronFactor, Link, Momentum, MomentumForm, NormClip, NormRatio, Normalise, OPERATOR_NORM_MAX, Op, OperatorNorm, Order, PolarOutcome, Qr,
    Quotient, RandomFill, Reduce, ReduceKind, Role, RootOutcome, SgdUpdate, SoftmaxCrossEntropy, SolveTriangular, SortColumns,
    SpectralDivide, SpectrumScale, Stage, Standardise, StandardiseGradient, StepScale, block, control,
};
use layerwise::{Coef, ElementType, Error, Plan, Recorder, Shape, Value};

use crate::case::{Case, Outcome, case_host};

pub(crate) fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "the GPU half adds a case")]
    let mut list = vec![
        case_host("plans::refusals", refusals),
        case_host("plans::refused_declarations", declarations),
        case_host("plans::another_recorder", another_recorder),
        case_host("plans::views", views),
        case_host("plans::repeats", repeats),
        case_host("plans::display", display),
        case_host("plans::costs", costs),
        case_host("plans::segments", segments),
    ];
    #[cfg(feature = "gpu")]
    list.push(case_host("plans::dispatches_and_waves", dispatches));
    list
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(message().into()) }
}

/// Declares operands by shape.
struct Shelf(Recorder);

impl Shelf {
    fn v(&mut self, batch: usize, rows: usize, cols: usize) -> Value {
        self.of(batch, rows, cols, ElementType::F32)
    }

    fn half(&mut self, batch: usize, rows: usize, cols: usize) -> Value {
        self.of(batch, rows, cols, ElementType::F16)
    }

    fn of(&mut self, batch: usize, rows: usize, cols: usize, element: ElementType) -> Value {
        let shape = Shape::new(batch, rows, cols);
        match self.0.declare(format!("v{batch}x{rows}x{cols}"), shape, element, Role::External) {
            Ok(value) => value,
            Err(error) => unreachable!("{error}"),
        }
    }
}

type Attempt = fn(&mut Shelf) -> Op;

/// Refused operations, and what the message must name.
const REFUSED: &[(&str, Attempt)] = &[
    ("b", |s| Gemm::new(s.v(2, 3, 4), s.v(2, 5, 6), s.v(2, 3, 6)).into()),
    ("a", |s| Gemm::new(s.v(2, 9, 4), s.v(2, 4, 6), s.v(2, 3, 6)).into()),
    ("out", |s| Gemm::symmetric(s.v(2, 3, 4), s.v(2, 4, 3), s.v(2, 3, 6)).into()),
    ("b", |s| Gemm::symmetric(s.v(2, 3, 4), s.v(2, 4, 6), s.v(2, 3, 3)).into()),
    ("d", |s| Gemm { d: Some(s.v(2, 3, 5)), ..Gemm::new(s.v(2, 3, 4), s.v(2, 4, 6), s.v(2, 3, 6)) }.into()),
    ("2 items, or an explicit repeat", |s| Gemm::new(s.v(1, 3, 4), s.v(2, 4, 6), s.v(2, 3, 6)).into()),
    ("an output without repeat", |s| Gemm::new(s.v(4, 3, 4), s.v(4, 4, 6), repeated(s.v(4, 3, 6), 1, 2)).into()),
    ("is read and written", |s| {
        let a = s.v(2, 3, 3);
        Gemm::new(a, s.v(2, 3, 3), a).into()
    }),
    ("is read and written", |s| {
        let out = s.v(2, 3, 3);
        Gemm { d: Some(out.t()), ..Gemm::new(s.v(2, 3, 3), s.v(2, 3, 3), out) }.into()
    }),
    ("finite", |s| Gemm { alpha: Coef::Const(f32::NAN), ..Gemm::new(s.v(1, 3, 4), s.v(1, 4, 6), s.v(1, 3, 6)) }.into()),
    ("no block", |s| Gemm { gamma: Coef::column(2), ..Gemm::new(s.v(1, 3, 4), s.v(1, 4, 6), s.v(1, 3, 6)) }.into()),
    ("more than 7", |s| {
        Gemm { beta: Coef::column(7), block: Some(s.v(1, 1, 7)), ..Gemm::new(s.v(1, 3, 4), s.v(1, 4, 6), s.v(1, 3, 6)) }.into()
    }),
    ("an f32 operand", |s| Gemm::new(s.v(1, 3, 4), s.v(1, 4, 6), s.half(1, 3, 6)).into()),
    ("out", |s| KronFactor::new(s.v(1, 9, 4), s.v(1, 5, 5)).into()),
    ("out", |s| KronFactor { ones: true, ..KronFactor::new(s.v(1, 9, 4), s.v(1, 4, 4)) }.into()),
    ("gate", |s| KronFactor { gate: Some(s.v(1, 1, 2)), ..KronFactor::new(s.v(1, 9, 4), s.v(1, 4, 4)) }.into()),
    ("x", |s| Axpby::copy(s.v(1, 3, 4), s.v(1, 4, 3)).into()),
    ("y", |s| Axpby::add(s.v(1, 3, 4), s.v(1, 3, 5), s.v(1, 3, 4)).into()),
    ("at least one operand", |s| Axpby { x: None, ..Axpby::copy(s.v(1, 3, 4), s.v(1, 3, 4)) }.into()),
    ("an f32 operand", |s| Axpby::copy(s.half(1, 3, 4), s.v(1, 3, 4)).into()),
    ("x", |s| Activation::new(Link::Tanh, s.v(1, 4, 3), s.v(1, 3, 4)).into()),
    ("times", |s| Activation::derivative(Link::Erf, s.v(2, 3, 4), s.v(2, 4, 3), s.v(2, 3, 4)).into()),
    ("finite", |s| Activation::new(Link::Hermite([1.0, f32::INFINITY, 0.0]), s.v(1, 3, 4), s.v(1, 3, 4)).into()),
    ("is read and written", |s| {
        let x = s.v(1, 3, 4);
        Activation::derivative(Link::Tanh, x, s.v(1, 3, 4), x).into()
    }),
    ("is read and written", |s| {
        let x = s.v(1, 3, 3);
        Activation::new(Link::Relu, x.t(), x).into()
    }),
    ("the other element type", |s| Convert { x: s.v(1, 3, 4), out: s.v(1, 3, 4) }.into()),
    ("dense", |s| Convert { x: s.v(1, 4, 3).t(), out: s.half(1, 3, 4) }.into()),
    // Three elements from the fourth on: the second half of one word and the whole next one.
    ("whole 4-byte words", |s| Convert { x: rows(s.half(1, 2, 3), 1, 2), out: s.v(1, 1, 3) }.into()),
    ("whole 4-byte words", |s| Convert { x: s.v(1, 1, 3), out: rows(s.half(1, 2, 3), 0, 1) }.into()),
    ("do not overlap", |s| Axpby::copy(s.v(1, 4, 3), broadcast(s.v(1, 1, 3), 4)).into()),
    ("do not overlap", |s| Gemm::new(s.v(1, 3, 2), s.v(1, 2, 4), broadcast(s.v(1, 1, 3), 4).t()).into()),
    ("neighbours", |s| Advance { block: columns(s.v(1, block::WIDTH, 4), 1, 2).t(), clock: Clock::Step }.into()),
    ("`Dot`", |s| Reduce { kind: ReduceKind::Dot, x: s.v(1, 3, 4), y: None, out: s.v(1, 1, 1), scale: 1.0 }.into()),
    ("`Dot`", |s| Reduce { kind: ReduceKind::SumSq, x: s.v(1, 3, 4), y: Some(s.v(1, 3, 4)), out: s.v(1, 1, 1), scale: 1.0 }.into()),
    ("[3, 3]", |s| Reduce { kind: ReduceKind::Trace, x: s.v(1, 3, 4), y: None, out: s.v(1, 1, 1), scale: 1.0 }.into()),
    ("out", |s| Reduce { kind: ReduceKind::MaxAbs, x: s.v(1, 3, 4), y: None, out: s.v(1, 2, 1), scale: 1.0 }.into()),
    ("out", |s| Reduce { kind: ReduceKind::Trace, x: s.v(1, 3, 3), y: None, out: s.v(1, 1, 2), scale: 1.0 }.into()),
    ("out", |s| ColumnMean { x: s.v(1, 3, 4), y: None, out: s.v(1, 1, 3) }.into()),
    ("flag", |s| CheckFinite { x: s.v(2, 3, 4), flag: s.v(2, 1, 2) }.into()),
    ("x", |s| CheckFinite { x: s.v(3, 3, 4), flag: s.v(2, 1, 1) }.into()),
    ("a", |s| Cholesky { a: s.v(1, 3, 4), out: s.v(1, 3, 3), damping: Coef::Const(0.0), block: None, ok: s.v(1, 1, 1) }.into()),
    ("ok", |s| Cholesky { a: s.v(2, 3, 3), out: s.v(2, 3, 3), damping: Coef::Const(0.0), block: None, ok: s.v(1, 1, 1) }.into()),
    ("l", |s| SolveTriangular { l: s.v(1, 4, 4), b: Some(s.v(1, 3, 2)), out: s.v(1, 3, 2), transpose: false }.into()),
    ("out", |s| SolveTriangular { l: s.v(1, 3, 3), b: None, out: s.v(1, 3, 2), transpose: false }.into()),
    ("is read and written", |s| {
        let b = s.v(1, 3, 2);
        SolveTriangular { l: s.v(1, 3, 3), b: Some(b), out: b, transpose: false }.into()
    }),
    ("a", |s| eigenpairs(s, 4, 3, 3)),
    ("values", |s| eigenpairs(s, 4, 4, 3)),
    ("spare", |s| eigenpairs(s, EIGH_SINGLE_MAX + 1, EIGH_SINGLE_MAX + 1, EIGH_SINGLE_MAX + 1)),
    ("values", |s| {
        let (x, values, out) = (s.v(2, 5, 3), s.v(2, 1, 5), s.v(2, 5, 3));
        SpectrumScale { x, values, shift: Coef::Const(0.0), exponent: 2, out, block: None }.into()
    }),
    ("exponent", |s| {
        let (x, values, out) = (s.v(2, 5, 3), s.v(2, 1, 3), s.v(2, 5, 3));
        SpectrumScale { x, values, shift: Coef::Const(0.0), exponent: 0, out, block: None }.into()
    }),
    ("y", |s| Quotient { x: None, y: s.v(3, 1, 1), out: s.v(2, 1, 1), scale: 1.0, root: false }.into()),
    ("control", |s| steering(s, 2, control::WIDTH - 1)),
    ("1 to 8", |s| steering(s, 9, control::WIDTH)),
    ("smaller side", |s| OperatorNorm { x: s.v(1, OPERATOR_NORM_MAX + 1, OPERATOR_NORM_MAX + 1), out: s.v(1, 1, 1) }.into()),
    ("q", |s| qr(s, 5, |s| s.v(2, 5, 4))),
    ("reflectors", |s| qr(s, 5, |s| s.v(2, 5, 5))),
    ("dense", |s| qr(s, 10, |s| s.v(2, 5, 5).t())),
    ("keys", |s| SortColumns { keys: s.v(2, 3, 1), x: s.v(2, 3, 4), out: s.v(2, 3, 4) }.into()),
    ("x", |s| SortColumns { keys: s.v(2, 1, 4), x: s.v(2, 4, 3), out: s.v(2, 3, 4) }.into()),
    ("keys", |s| random(s.v(2, 3, 4), s.v(2, 1, 1), s.v(2, 1, 1))),
    ("step", |s| random(s.v(2, 3, 4), s.v(2, 1, 2), s.v(1, 1, 1))),
    ("dense", |s| random(s.v(2, 3, 4).t(), s.v(2, 1, 2), s.v(2, 1, 1))),
    ("block", |s| Advance { block: s.v(1, 1, block::WIDTH - 1), clock: Clock::Step }.into()),
    ("both traces", |s| {
        FactorDamping { left_mean: Some(s.v(1, 1, 1)), right_mean: None, block: s.v(1, 1, block::WIDTH), out: s.v(1, 1, 2) }.into()
    }),
    ("out", |s| FactorDamping { left_mean: None, right_mean: None, block: s.v(1, 1, block::WIDTH), out: s.v(1, 1, 1) }.into()),
    ("left_ok", |s| RootOutcome { left_ok: s.v(2, 1, 1), right_ok: s.v(3, 1, 1), ok: s.v(3, 1, 1), block: s.v(3, 1, block::WIDTH) }.into()),
    ("dots", |s| KlClip { dots: s.v(5, 1, 1), block: s.v(2, 1, block::WIDTH), out: s.v(2, 1, 1), signed: false }.into()),
    ("left", |s| divide(s, [4, 4])),
    ("right", |s| divide(s, [3, 3])),
    ("factor", |s| DirectionOutcome { factor: s.v(3, 1, 1), block: s.v(2, 1, block::WIDTH) }.into()),
    ("x", |s| damping_control(s, ControlStage::Predict { interval: 5 }, 5, 2)),
    ("x", |s| damping_control(s, ControlStage::Observe { omega: 0.5, least: 1e-8 }, 4, 2)),
    ("a divisor of 6 items", |s| damping_control(s, ControlStage::Observe { omega: 0.5, least: 1e-8 }, 4, 4)),
    ("squares", |s| NormClip { squares: s.v(5, 1, 1), max: 1.0, out: s.v(2, 1, 1) }.into()),
    ("a positive norm", |s| NormClip { squares: s.v(4, 1, 1), max: 0.0, out: s.v(2, 1, 1) }.into()),
    ("v", |s| graft(s, [4, 4, 3])),
    ("m", |s| graft(s, [3, 4, 4])),
    ("donor", |s| NormRatio { donor: Some(s.v(2, 1, 2)), own: s.v(2, 1, 1), out: s.v(2, 1, 1) }.into()),
    ("own", |s| NormRatio { donor: None, own: s.v(3, 1, 1), out: s.v(2, 1, 1) }.into()),
    ("donor", |s| GraftScale { x: s.v(2, 3, 4), donor: Some(s.v(2, 4, 3)), out: s.v(2, 1, 1) }.into()),
    ("out", |s| GraftScale { x: s.v(2, 3, 4), donor: None, out: s.v(2, 1, 2) }.into()),
    ("block", |s| StepScale { decayed: true, corrected: true, out: s.v(2, 1, 1), block: s.v(2, 1, 8) }.into()),
    ("g", |s| momentum(s, 3, 4, Coef::Const(1.0))),
    ("out", |s| momentum(s, 4, 3, Coef::Const(1.0))),
    ("finite", |s| momentum(s, 4, 4, Coef::Const(f32::NAN))),
    ("x", |s| Normalise { x: s.v(2, 4, 3), out: s.v(2, 3, 4), margin: 1.0, epsilon: 0.0 }.into()),
    ("margin", |s| Normalise { x: s.v(2, 3, 4), out: s.v(2, 3, 4), margin: 0.0, epsilon: 0.0 }.into()),
    ("epsilon", |s| Normalise { x: s.v(2, 3, 4), out: s.v(2, 3, 4), margin: 1.0, epsilon: -1.0 }.into()),
    ("size", |s| outcome(s, [5, 5, 5], 1.0)),
    ("ok", |s| outcome(s, [4, 4, 2], 1.0)),
    ("factor", |s| outcome(s, [4, 4, 4], f32::INFINITY)),
    ("g", |s| sgd(s.v(2, 3, 4), s.v(2, 4, 3), None, s.v(2, 1, block::WIDTH))),
    ("block", |s| sgd(s.v(2, 3, 4), s.v(2, 3, 4), None, s.v(2, 1, 8))),
    ("is read and written", |s| {
        let w = s.v(2, 3, 4);
        sgd(w, s.v(2, 3, 4), Some(w), s.v(2, 1, block::WIDTH))
    }),
    ("v", |s| {
        let moment = s.v(2, 3, 4);
        AdamUpdate {
            w: s.v(2, 3, 4),
            g: s.v(2, 3, 4),
            m: moment,
            v: s.v(2, 4, 4),
            v_max: None,
            nesterov: false,
            decay: DecayForm::Gradient,
            block: s.v(2, 1, block::WIDTH),
        }
        .into()
    }),
    ("out", |s| standardise(s, 5, 3, 1e-5)),
    ("variance", |s| standardise(s, 4, 4, 1e-5)),
    ("epsilon", |s| standardise(s, 4, 3, -1e-5)),
    ("sums", |s| standardise_gradient(s, 1, 3, 1.0)),
    ("gamma", |s| standardise_gradient(s, 2, 4, 1.0)),
    ("factor", |s| standardise_gradient(s, 2, 3, f32::INFINITY)),
    ("labels", |s| cross_entropy(s, 4, 5)),
    ("loss", |s| cross_entropy(s, 5, 4)),
];

fn repeated(value: Value, div: usize, modulo: usize) -> Value {
    value.repeat(div, modulo).unwrap_or(value)
}

fn rows(value: Value, from: usize, to: usize) -> Value {
    value.row_range(from..to).unwrap_or(value)
}

fn columns(value: Value, from: usize, to: usize) -> Value {
    value.col_range(from..to).unwrap_or(value)
}

fn broadcast(value: Value, rows: usize) -> Value {
    value.broadcast_row(rows).unwrap_or(value)
}

fn random(out: Value, keys: Value, step: Value) -> Op {
    RandomFill { out, distribution: Distribution::Normal, stream: 0, keys, step }.into()
}

fn sgd(w: Value, g: Value, m: Option<Value>, block: Value) -> Op {
    SgdUpdate { w, g, m, g_scale: None, nesterov: false, decay: DecayForm::Gradient, block }.into()
}

/// Rows of the result and columns of the variance, for an `x` of 4 x 3.
fn standardise(s: &mut Shelf, rows: usize, cols: usize, epsilon: f32) -> Op {
    let (x, out) = (s.v(2, 4, 3), s.v(2, rows, 3));
    Standardise { x, out, mean: s.v(2, 1, 3), variance: s.v(2, 1, cols), scale: s.v(2, 1, 3), epsilon }.into()
}

/// Rows of the sums and columns of gamma, for gradients of 4 x 3.
fn standardise_gradient(s: &mut Shelf, rows: usize, cols: usize, factor: f32) -> Op {
    let (xhat, dy, dx, scale) = (s.v(2, 4, 3), s.v(2, 4, 3), s.v(2, 4, 3), s.v(2, 1, 3));
    StandardiseGradient { xhat, dy, scale, gamma: Some(s.v(2, 1, cols)), dx, sums: s.v(2, rows, 3), factor }.into()
}

/// Losses and labels for 5 samples.
fn cross_entropy(s: &mut Shelf, labels: usize, losses: usize) -> Op {
    let (logits, delta) = (s.v(2, 5, 3), s.v(2, 5, 3));
    SoftmaxCrossEntropy { logits, labels: s.v(2, labels, 1), loss: s.v(2, losses, 1), delta, hits: s.v(2, 5, 1) }.into()
}

/// Orders of the matrix, of its vectors and of its values; no spare scratch.
fn eigenpairs(s: &mut Shelf, n: usize, vectors: usize, values: usize) -> Op {
    let work = Eigh::work_shape(2, vectors);
    let (a, work, spare) = (s.v(2, n, n), s.v(work.batch, work.rows, work.cols), None);
    Eigh { a, order: Order::Ascending, values: s.v(2, 1, values), vectors: s.v(2, vectors, vectors), work, spare }.into()
}

fn steering(s: &mut Shelf, p: u32, width: usize) -> Op {
    let (x, control) = (s.v(2, 1, 1), s.v(2, 1, width));
    IterationControl { stage: Stage::Newton, p, x, ridge: Coef::Const(0.0), relative: false, block: None, control }.into()
}

/// With so many rows of reflectors, and this as `q` and as `work`.
fn qr(s: &mut Shelf, rows: usize, q: fn(&mut Shelf) -> Value) -> Op {
    let (work, q) = (q(s), q(s));
    Qr { a: s.v(2, 5, 5), q, work, reflectors: s.v(2, rows, 5), product: s.v(2, Qr::PANEL, 5) }.into()
}

/// Lengths of both spectra for a gradient of 3 x 4.
fn divide(s: &mut Shelf, [left, right]: [usize; 2]) -> Op {
    let (x, left, right, block, out) = (s.v(2, 3, 4), s.v(2, 1, left), s.v(2, 1, right), s.v(2, 1, block::WIDTH), s.v(2, 3, 4));
    SpectralDivide { x, left, right, block, out }.into()
}

/// So many scalars for a block of 6 items.
fn damping_control(s: &mut Shelf, stage: ControlStage, scalars: usize, trials: usize) -> Op {
    DampingControl { stage, x: s.v(scalars, 1, 1), trials, block: s.v(6, 1, block::WIDTH) }.into()
}

/// Columns of the filtered gradient, of the gradient and of the second moment.
fn graft(s: &mut Shelf, [m, g, v]: [usize; 3]) -> Op {
    let (g, m, v, out, block) = (s.v(2, 3, g), s.v(2, 3, m), s.v(2, 3, v), s.v(2, 3, 4), s.v(2, 1, block::WIDTH));
    GraftDirection { g, m, v, corrected: true, out, block }.into()
}

/// Columns of the gradient and of the look-ahead, for a momentum of 3 x 4.
fn momentum(s: &mut Shelf, g: usize, out: usize, fresh: Coef) -> Op {
    let (g, m, out, block) = (s.v(2, 3, g), s.v(2, 3, 4), s.v(2, 3, out), s.v(2, 1, block::WIDTH));
    let (form, decay) = (MomentumForm::LookAhead, Coef::Const(0.5));
    Momentum { g, m, out: Some(out), form, decay, fresh, block }.into()
}

/// So many sizes, scales and verdicts for two rows.
fn outcome(s: &mut Shelf, [size, scale, ok]: [usize; 3], factor: f32) -> Op {
    PolarOutcome { size: s.v(size, 1, 1), scale: s.v(scale, 1, 1), ok: s.v(ok, 1, 1), factor, block: s.v(2, 1, block::WIDTH) }.into()
}

/// Each refusal is `Error::Shape`, names the operation and what is wrong, and leaves nothing behind.
fn refusals() -> Outcome {
    for (i, (part, attempt)) in REFUSED.iter().enumerate() {
        let mut shelf = Shelf(Recorder::new());
        let op = attempt(&mut shelf);
        let Err(error) = shelf.0.record(op) else {
            return Err(format!("attempt {i} ({part}) was recorded: {op:?}").into());
        };
        let text = error.to_string();
        ensure(matches!(error, Error::Shape { .. }) && text.starts_with(op.name()), || format!("attempt {i}: {text}"))?;
        let named = text.contains(&format!("`{part} = ")) || text.contains(part) && part.len() > 3;
        ensure(named, || format!("attempt {i}: `{part}` missing in: {text}"))?;
        ensure(shelf.0.finish().ops().is_empty(), || format!("attempt {i} left an operation behind"))?;
    }
    let tried: std::collections::BTreeSet<&str> = REFUSED.iter().map(|(_, attempt)| attempt(&mut Shelf(Recorder::new())).name()).collect();
    ensure(tried.len() == Op::NAMES.len(), || format!("no refusal is tried of some operation; tried: {tried:?}"))
}

fn declarations() -> Outcome {
    for shape in
        [Shape::new(0, 2, 2), Shape::new(1, 0, 2), Shape::new(1, 2, 0), Shape::new(1 << 16, 1 << 16, 1), Shape::new(usize::MAX, 2, 2)]
    {
        let mut r = Recorder::new();
        let results = [r.external("x", shape), r.state("x", shape), r.scratch("x", shape)];
        let refused = results.iter().all(|result| matches!(result, Err(Error::Shape { tensor, .. }) if tensor == "x"));
        ensure(refused && r.finish().values().is_empty(), || format!("{shape} was declared"))?;
    }
    Ok(())
}

fn another_recorder() -> Outcome {
    let (mut r, mut other) = (Recorder::new(), Recorder::new());
    let own = r.external("own", Shape::matrix(2, 2))?;
    other.external("first", Shape::matrix(2, 2))?;
    let stranger = other.external("second", Shape::matrix(2, 2))?;
    let error = r.record(Axpby::copy(stranger, own));
    ensure(matches!(error, Err(Error::Aliasing { .. })), || format!("{error:?}"))?;
    // The same id, but of a larger value: what it describes would lie outside this recorder's.
    let mut larger = Recorder::new();
    let (stranger, sink) = (larger.external("large", Shape::new(9, 2, 2))?, r.external("sink", Shape::new(9, 2, 2))?);
    let error = r.record(Axpby::copy(stranger, sink));
    ensure(matches!(error, Err(Error::Aliasing { .. })), || format!("{error:?}"))
}

fn views() -> Outcome {
    let mut r = Recorder::new();
    let v = r.external("v", Shape::new(3, 5, 7))?;
    ensure(v.t().shape() == Shape::new(3, 7, 5) && v.t().t() == v, || "transposed twice".into())?;
    let cut = v.row_range(1..4)?.col_range(2..7)?.item_range(1..3)?;
    ensure(cut.shape() == Shape::new(2, 3, 5), || format!("{}", cut.shape()))?;
    ensure(v.col_range(2..7)?.row_range(1..4)?.item_range(1..3)? == cut, || "the order of cuts matters".into())?;
    ensure(v.t().row_range(2..7)?.col_range(1..4)?.t().item_range(1..3)? == cut, || "a transposed cut differs".into())?;
    for refused in
        [v.row_range(3..3), v.row_range(0..6), v.col_range(7..8), v.item_range(2..4), v.repeat(0, 1), v.repeat(1, 0), v.repeat(1, 4)]
    {
        ensure(matches!(refused, Err(Error::Shape { .. })), || format!("{refused:?}"))?;
    }
    ensure(v.fold(3)?.shape() == Shape::new(1, 15, 7) && v.fold(3)?.unfold(3)? == v, || "fold and unfold".into())?;
    ensure(v.fold(2).is_err() && v.t().fold(3).is_err() && v.repeat(2, 3)?.fold(3).is_err(), || "an impossible fold".into())?;
    ensure(v.unfold(5)?.shape() == Shape::new(15, 1, 7) && v.unfold(2).is_err(), || "unfold".into())
}

/// Nothing repeats by accident; an explicit repeat needs whole periods.
fn repeats() -> Outcome {
    let fits = |stored: usize, repeat: Option<(usize, usize)>, batch: usize| {
        let mut r = Recorder::new();
        let x = r.external("x", Shape::new(stored, 2, 2))?;
        let x = if let Some((div, modulo)) = repeat { x.repeat(div, modulo)? } else { x };
        let out = r.external("out", Shape::new(batch, 2, 2))?;
        Ok::<bool, Error>(r.copy(x, out).is_ok())
    };
    for (stored, repeat, batch, want) in [
        (1, None, 1, true),
        (1, None, 2, false),
        (4, None, 2, false),
        (2, Some((3, 2)), 6, true),
        (2, Some((3, 2)), 12, true),
        (2, Some((3, 2)), 9, false),
        (3, Some((1, 3)), 6, true),
        (3, Some((1, 3)), 7, false),
        (5, Some((1, 1)), 7, true),
        (5, Some((7, 1)), 7, true),
    ] {
        ensure(fits(stored, repeat, batch)? == want, || format!("{stored} stored, repeat {repeat:?}, batch {batch}: expected {want}"))?;
    }
    Ok(())
}

fn sample() -> Result<Plan, Error> {
    let mut r = Recorder::new();
    let w = r.external("w", Shape::new(2, 3, 4))?;
    let g = r.external("g", Shape::new(2, 3, 4))?;
    let taps = r.external("taps", Shape::new(1, 8, 5))?;
    let right = r.state("right", Shape::new(2, 4, 4))?;
    r.segment("accumulate");
    let x = taps.col_range(1..5)?.repeat(2, 1)?;
    r.record(KronFactor { decay: Coef::Const(0.95), ..KronFactor::new(x, right) })?;
    r.segment("apply");
    let direction = r.matmul(right, g.t())?;
    r.record(Axpby { alpha: Coef::Const(-0.5), ..Axpby::add(direction.t(), w, w) })?;
    Ok(r.finish())
}

fn display() -> Outcome {
    let want = "\
accumulate:
  right [2, 4, 4] <- kron_factor(x taps[(b/2)%1]@1[8x4:5,1], out right) decay 0.95 scale 1
apply:
  gemm.4 [2, 4, 3] <- gemm(a right, b g^T)
  w [2, 3, 4] <- axpby(x gemm.4^T, out w) alpha -0.5
";
    let got = sample()?.to_string();
    ensure(got == want, || format!("the plan prints\n{got}\nexpected\n{want}"))
}

fn costs() -> Outcome {
    let mut r = Recorder::new();
    let a = r.external("a", Shape::new(3, 40, 50))?;
    let b = r.external("b", Shape::new(1, 50, 60))?;
    r.matmul(a, b.repeat(1, 1)?)?;
    r.segment("factor");
    r.kron_factor(a)?;
    let plan = r.finish();
    let (gemm, factor, total) = (plan.cost(Some(0)), plan.cost(Some(1)), plan.cost(None));
    // A multiply-add is two; coefficients add at most two an element.
    let product = 3 * 2 * 40 * 50 * 60;
    ensure((product..=product + 3 * 2 * 40 * 60).contains(&gemm.flops), || format!("{gemm:?}"))?;
    ensure(gemm.bytes == 4 * (3 * 40 * 50 + 50 * 60 + 3 * 40 * 60), || format!("{gemm:?}"))?;
    // The mirrored half is not counted.
    let half = 3 * 50 * 51 / 2 * 2 * 40;
    ensure((half..=half + 3 * 50 * 51).contains(&factor.flops), || format!("{factor:?}"))?;
    ensure(total == gemm + factor, || format!("{total:?}"))?;
    ensure(plan.scratch_bytes() == 4 * (3 * 40 * 60 + 3 * 50 * 50), || format!("{} bytes of scratch", plan.scratch_bytes()))?;
    let mut r = Recorder::new();
    r.declare("half".into(), Shape::new(3, 1, 5), ElementType::F16, Role::Scratch)?;
    let bytes = r.finish().scratch_bytes();
    ensure(bytes == 3 * 6 * 2, || format!("items of 5 halves start at even elements: {bytes} bytes"))
}

fn segments() -> Outcome {
    let plan = sample()?;
    let names: Vec<_> = plan.segments().iter().map(|s| (s.name.as_str(), s.ops.clone())).collect();
    ensure(names == [("accumulate", 0..1), ("apply", 1..3)], || format!("{names:?}"))?;
    let mut r = Recorder::new();
    let v = r.external("v", Shape::vector(3))?;
    r.scale(2.0, v)?;
    let plan = r.finish();
    ensure(plan.segments().len() == 1 && plan.segments()[0].ops == (0..1), || "operations without a segment form one".into())?;
    let info = plan.info(v).map(|i| (i.name.as_str(), i.role));
    ensure(info == Some(("v", Role::External)), || format!("{info:?}"))
}

#[cfg(feature = "gpu")]
fn dispatches() -> Outcome {
    let facts = layerwise::gpu::Facts::webgpu_defaults();
    let mut r = Recorder::new();
    for chain in 0..8 {
        let mut x = r.external(format!("x{chain}"), Shape::matrix(20, 20))?;
        for _ in 0..5 {
            x = r.matmul(x, x)?;
        }
    }
    let count = layerwise::gpu::count(&r.finish(), &facts);
    ensure((count.dispatches, count.waves) == (40, 5), || format!("8 chains of 5: {count:?}"))?;
    let count = layerwise::gpu::count(&sample()?, &facts);
    ensure((count.dispatches, count.waves) == (3, 3), || format!("the sample: {count:?}"))
}

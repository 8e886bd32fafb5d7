//! Operations to dispatches: a pure function of the operation and of device facts.

use super::choice;
use super::facts::Facts;
use super::kernels::{
    ACTIVATION, ADAM_UPDATE, ADVANCE, AXPBY, CHECK_FINITE, CHOLESKY_DIAGONAL, CHOLESKY_LOAD, CHOLESKY_ROWS, CHOLESKY_UPDATE, COLUMN_MEAN,
    CONVERT, DAMPING_CONTROL, DIRECTION_OUTCOME, EIGH_JACOBI, EIGH_LOAD, EIGH_ROTATE, EIGH_SORT, FACTOR_DAMPING, GRAFT_DIRECTION,
    GRAFT_SCALE, ITERATION_CONTROL, KL_CLIP, Kernel, MOMENTUM, NORM_CLIP, NORM_RATIO, NORMALISE, OPERATOR_NORM, POLAR_OUTCOME, QR_PANEL,
    QR_SIGNS, QUOTIENT, RANDOM_FILL, REDUCE, ROOT_OUTCOME, SGD_UPDATE, SOFTMAX_CROSS_ENTROPY, SOLVE_TRIANGULAR, SORT_COLUMNS,
    SPECTRAL_DIVIDE, SPECTRUM_SCALE, STANDARDISE, STANDARDISE_GRADIENT, STEP_SCALE, Variant,
};
use super::ladder::{GemmShape, GemmVariant, flag};
use super::params::{Params, ViewParams};
use super::quads;
use super::split::Split;
use crate::plan::{
    Activation, Clock, Coef, ControlStage, DecayForm, Distribution, EIGH_PAIR, Eigh, Gemm, KronFactor, LinkForm, MomentumForm, Op, Order,
    Qr, ReduceKind, Stage, Value,
};
use crate::tensor::ElementType;

/// Rows and columns of a Cholesky panel; the shaders' `PANEL`.
const PANEL: usize = 32;

/// Elements of an invocation where neighbours take neighbouring fours of a run.
const SHARE: usize = 4;

/// The same on a software driver, which pays for what each invocation does before its first element.
const SOFTWARE_SHARE: usize = 32;

/// Columns of a workgroup of `column_mean`, as in the shader.
const STRIP: usize = 16;

/// Sweeps of Jacobi's method within one workgroup.
const WHOLE_SWEEPS: usize = 15;

/// Sweeps within a block pair at each visit.
const PAIR_SWEEPS: usize = 3;

/// Sweeps of the block Jacobi method over all pairs of blocks; converged pairs leave early.
const BLOCK_SWEEPS: usize = 10;

/// Sweeps over a matrix that is already diagonal to rounding.
const MENDING_SWEEPS: usize = 4;

/// One dispatch, still without buffers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dispatch {
    pub(crate) variant: Variant,
    /// By binding; `None`: the kernel does not use it here.
    pub(crate) values: Vec<Option<Value>>,
    pub(crate) params: Params,
    pub(crate) groups: [u32; 3],
}

/// Builds the dispatches of one operation.
struct Builder<'a> {
    facts: &'a Facts,
    batch: usize,
    list: Vec<Dispatch>,
}

impl Builder<'_> {
    fn push(&mut self, variant: Variant, values: &[Option<Value>], coefficients: &[Coef], n: [usize; 3], groups: [usize; 3]) {
        let mut params = Params { n: [self.batch, n[0], n[1], n[2]].map(narrow), ..Params::default() };
        for (view, value) in params.views.iter_mut().zip(values.iter().chain(std::iter::repeat(&None))) {
            *view = value.as_ref().map_or_else(ViewParams::unused, ViewParams::of);
        }
        params.set_coefficients(coefficients);
        // Grids beyond the limit fold: every kernel strides over what its workgroups do not cover.
        let limit = self.facts.max_workgroups as usize;
        let folded = groups.iter().any(|&g| g > limit) && quads::is_product(variant);
        let variant = Variant { flags: variant.flags | switches(&[(folded, flag::FOLDED)]), ..variant };
        let groups = groups.map(|g| narrow(g.clamp(1, limit)));
        self.list.push(Dispatch { variant, values: values.to_vec(), params, groups });
    }

    /// One invocation an element (or other unit) of all items.
    fn flat(&mut self, kernel: &Kernel, width: usize, units: usize, values: &[Option<Value>], coefficients: &[Coef], n: [usize; 3]) {
        self.push(kernel.plain(), values, coefficients, n, [units.div_ceil(width), 1, 1]);
    }

    /// Runs of elements of `of`'s shape, several for a large item; as many invocations a run as there is work for. `one_run`: an item may be taken as one row.
    fn runs(&mut self, kernel: &Kernel, of: Value, values: &[Option<Value>], coefficients: &[Coef], kind: usize, one_run: bool) {
        let share = if self.facts.software { SOFTWARE_SHARE } else { SHARE };
        let area = of.rows * of.cols;
        let lanes = area.div_ceil(share).next_power_of_two().min(256);
        let length = area.next_multiple_of(4).min(lanes * share);
        let runs = area.div_ceil(length);
        let groups = (self.batch * runs).div_ceil(256 / lanes);
        self.push(quads::by_runs(kernel, values, one_run), values, coefficients, [kind, runs, length], [groups, 1, 1]);
        self.list.iter_mut().rev().take(1).for_each(|dispatch| dispatch.params.column[3] = narrow(lanes));
    }

    fn activation(&mut self, op: &Activation) {
        let (in_place, slope) = (op.in_place(), op.times.is_some());
        let (kind, coefficients) = match op.link.form() {
            LinkForm::Tanh => (0, [0.0; 4]),
            LinkForm::Relu { offset } => (1, [offset, 0.0, 0.0, 0.0]),
            LinkForm::Erf => (2, [0.0; 4]),
            LinkForm::Cubic([_, c1, c2, c3]) if slope => (3, [c1, 2.0 * c2, 3.0 * c3, 0.0]),
            LinkForm::Cubic(c) => (3, c),
        };
        let x = Some(op.x).filter(|_| slope || !in_place);
        let values = [x, op.times.filter(|_| !in_place), Some(op.out)];
        let units = self.batch * op.out.rows * op.out.cols;
        self.flat(&ACTIVATION, 256, units, &values, &coefficients.map(Coef::Const), [kind, flags(&[(slope, 1), (in_place, 2)]), 0]);
    }

    /// Jacobi: in one workgroup, or sweeps of rounds of disjoint block pairs, each diagonalised in one workgroup and then applied to all else.
    fn eigh(&mut self, op: &Eigh) {
        let (n, batch) = (op.vectors.rows, self.batch);
        let descending = usize::from(op.order == Order::Descending);
        let (work, padded) = (op.work, op.work.cols);
        self.flat(&EIGH_LOAD, 256, batch * padded * padded, &[Some(op.a), Some(work)], &[], [0; 3]);
        let sort = |b: &mut Self, vectors: Value| {
            b.push(EIGH_SORT.plain(), &[Some(work), Some(op.values), Some(vectors)], &[], [descending, 0, 0], [n.div_ceil(64), 1, batch]);
        };
        let Some(spare) = op.spare else {
            self.push(EIGH_JACOBI.plain(), &[Some(work)], &[], [1, 0, WHOLE_SWEEPS], [1, 1, batch]);
            sort(self, op.vectors);
            return;
        };
        let whole = choice::eigh(n, self.facts);
        self.sweeps(work, whole.map_or(BLOCK_SWEEPS, |_| WHOLE_SWEEPS), whole);
        sort(self, op.vectors);
        // Thousands of rotations round; one product rounds once. The product with orthonormal vectors is nearly diagonal, and a few small rotations mend it.
        let square = Value { rows: n, cols: n, ..work };
        let (matrix, product, spare) = (square, Value { offset: padded * padded, ..square }, Value { rows: n, cols: n, ..spare });
        let one = Coef::Const(1.0);
        self.gemm(Gemm { alpha: Coef::Const(-0.5), gamma: Coef::Const(1.5), ..Gemm::new(op.vectors.t(), op.vectors, spare) });
        self.gemm(Gemm::new(op.vectors, spare, product));
        self.runs(&AXPBY, op.vectors, &[Some(product), None, Some(op.vectors), None, None], &[one, one, 0.0.into()], 1, true);
        self.gemm(Gemm::new(op.a, op.vectors, spare));
        self.gemm(Gemm::new(op.vectors.t(), spare, matrix));
        self.flat(&EIGH_LOAD, 256, batch * padded * padded, &[None, Some(work)], &[], [1, 0, 0]);
        self.sweeps(work, MENDING_SWEEPS, whole);
        sort(self, spare);
        self.gemm(Gemm::new(op.vectors, spare, product));
        self.runs(&AXPBY, op.vectors, &[Some(product), None, Some(op.vectors), None, None], &[one, one, 0.0.into()], 1, true);
    }

    /// Sweeps over all pairs of blocks, or, with a variant that takes it, over the whole matrix in one workgroup.
    fn sweeps(&mut self, work: Value, count: usize, whole: Option<Variant>) {
        let (pairs, batch) = (work.cols / EIGH_PAIR, self.batch);
        if let Some(variant) = whole {
            self.push(variant, &[Some(work)], &[], [1, 0, count], [1, 1, batch]);
            return;
        }
        for round in (0..count).flat_map(|_| 0..2 * pairs - 1) {
            self.push(EIGH_JACOBI.plain(), &[Some(work)], &[], [0, round, PAIR_SWEEPS], [pairs, 1, batch]);
            self.push(EIGH_ROTATE.plain(), &[Some(work)], &[], [round, 0, 0], [2 * pairs * pairs, 1, batch]);
        }
    }

    /// Householder's reflections, panel by panel, then their product from the last one on.
    fn qr(&mut self, op: &Qr) {
        let (n, batch, one) = (op.q.rows, self.batch, Coef::Const(1.0));
        let minus = |left: Value, right: Value, out: Value| Gemm { d: Some(out), alpha: Coef::Const(-1.0), ..Gemm::new(left, right, out) };
        self.runs(&AXPBY, op.work, &[Some(op.a), None, Some(op.work), None, None], &[one, one, 0.0.into()], 1, true);
        self.runs(&AXPBY, op.q, &[None, None, Some(op.q), None, None], &[one, one, one], 0, false);
        let part = |of: Value, row: usize, col: usize, rows: usize, cols: usize| Value {
            offset: of.offset + row * of.row_stride + col * of.col_stride,
            rows,
            cols,
            ..of
        };
        let reflections = |j: usize| {
            let w = Qr::PANEL.min(n - j);
            (part(op.reflectors, j, j, n - j, w), part(op.reflectors, n + j, j, n - j, w))
        };
        for j in (0..n).step_by(Qr::PANEL) {
            self.by_item(&QR_PANEL, &[Some(op.work), Some(op.reflectors)], &[], [j, 0, 0]);
            if j + Qr::PANEL < n {
                let (rest, (v, y)) = (n - j - Qr::PANEL, reflections(j));
                let (right, product) = (part(op.work, j, j + Qr::PANEL, n - j, rest), part(op.product, 0, 0, Qr::PANEL, rest));
                self.gemm(Gemm::new(y.t(), right, product));
                self.gemm(minus(v, product, right));
            }
        }
        for j in (0..n).step_by(Qr::PANEL).rev() {
            let (v, y) = reflections(j);
            let (corner, product) = (part(op.q, j, j, n - j, n - j), part(op.product, 0, 0, v.cols, n - j));
            self.gemm(Gemm::new(v.t(), corner, product));
            self.gemm(minus(y, product, corner));
        }
        self.flat(&QR_SIGNS, 256, batch * n * n, &[Some(op.work), Some(op.q)], &[], [0; 3]);
    }

    fn gemm(&mut self, op: Gemm) {
        let in_place = op.d == Some(op.out);
        let d = op.d.filter(|_| !in_place && !op.beta.is_zero());
        let flags = switches(&[
            (d.is_some(), flag::ADD_D),
            (in_place && !op.beta.is_zero(), flag::IN_PLACE),
            (op.symmetric, flag::SYMMETRIC),
            (op.gate.is_some(), flag::GATED),
        ]);
        let gate = op.gate.map_or(0, |column| column as usize);
        self.product([op.a, op.b, op.out], d, op.block, [op.alpha, op.beta, op.gamma], (flags, gate));
    }

    /// A Kronecker factor: a symmetric product and a running average. With a column of ones only in two stages.
    fn kron_factor(&mut self, op: &KronFactor) {
        #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^24")]
        let weight = Coef::Const(op.scale / op.x.rows as f32);
        let flags = switches(&[(!op.decay.is_zero(), flag::IN_PLACE), (op.gate.is_some(), flag::GATE_IN_D)]);
        let average = flags | flag::SYMMETRIC | flag::RUNNING_MEAN;
        let (operands, coefficients) = ([op.x.t(), op.x, op.out], [weight, op.decay, Coef::Const(0.0)]);
        if op.ones {
            self.split(operands, op.gate, op.block, coefficients, (average, 0), true);
        } else {
            self.product(operands, op.gate, op.block, coefficients, (average, 0));
        }
    }

    /// One product by the chosen variant; transposed as a whole where that suits the variant.
    fn product(
        &mut self,
        [a, b, out]: [Value; 3],
        d: Option<Value>,
        block: Option<Value>,
        coefficients: [Coef; 3],
        (flags, gate): (u16, usize),
    ) {
        let shape = GemmShape { m: out.rows, k: a.cols, n: out.cols, a: a.element, b: b.element };
        let variant = choice::gemm(shape, self.facts).variant;
        if variant == GemmVariant::SplitK {
            return self.split([a, b, out], d, block, coefficients, (flags, gate), false);
        }
        let swap = (variant.wants_few_rows() && shape.m > shape.n) || (variant.wants_few_columns() && shape.m < shape.n);
        let (a, b, d, out) = if swap { (b.t(), a.t(), d.map(Value::t), out.t()) } else { (a, b, d, out) };
        let shape = GemmShape { m: out.rows, n: out.cols, a: a.element, b: b.element, ..shape };
        let columns = coefficients.iter().any(|c| matches!(c, Coef::Column { .. }));
        let flags = flags | switches(&[(columns, flag::BLOCK)]);
        let by_fours = |a: &Value, b: &Value, out: &Value, d: Option<&Value>| quads::gemm(variant, flags, [a, b, out], d);
        // Fours want neighbouring columns in the result. Of a symmetric one the triangle below the diagonal counts, which would come to lie above.
        let turned = (out.col_stride != 1 && variant == GemmVariant::Broadcast && flags & flag::SYMMETRIC == 0)
            .then(|| by_fours(&b.t(), &a.t(), &out.t(), d.map(Value::t).as_ref()))
            .flatten();
        let (a, b, d, out) = if turned.is_some() { (b.t(), a.t(), d.map(Value::t), out.t()) } else { (a, b, d, out) };
        let rung = turned.or_else(|| by_fours(&a, &b, &out, d.as_ref())).unwrap_or_else(|| variant.rung(shape, self.facts, flags));
        let grid = [out.rows.div_ceil(rung.rows) * out.cols.div_ceil(rung.cols), 1, self.batch.div_ceil(rung.items)];
        self.push(rung.variant, &[Some(a), Some(b), d, Some(out), block], &coefficients, [0, gate, 0], grid);
    }

    /// One product in two stages; a stack in as many parts as go through the scratch.
    fn split(
        &mut self,
        [a, b, out]: [Value; 3],
        d: Option<Value>,
        block: Option<Value>,
        coefficients: [Coef; 3],
        (flags, gate): (u16, usize),
        ones: bool,
    ) {
        let halves = switches(&[(a.element == ElementType::F16, flag::A_F16), (b.element == ElementType::F16, flag::B_F16)]);
        let columns = coefficients.iter().any(|c| matches!(c, Coef::Column { .. }));
        let split = Split::new(self.batch, out, a.cols, (flags | switches(&[(columns, flag::BLOCK)]), halves), ones);
        let (partial, batch) = (Some(split.partial), self.batch);
        let gates = (d.filter(|_| flags & flag::GATE_IN_D != 0), block.filter(|_| flags & flag::GATED != 0));
        for item in (0..batch).step_by(split.items) {
            self.batch = split.items.min(batch - item);
            let grid = [split.tiles, split.runs, self.batch];
            self.push(split.first, &[Some(a), Some(b), gates.0, partial, gates.1], &[], [item, gate, split.terms], grid);
            let grid = [(self.batch * out.rows * out.cols).div_ceil(256), 1, 1];
            self.push(split.second, &[partial, d, Some(out), block], &coefficients, [item, gate, split.runs], grid);
        }
        self.batch = batch;
    }

    /// Workgroups of whole columns of `x`: one column where its rows are neighbours in memory, 16 where its columns are.
    fn by_columns(&mut self, kernel: &Kernel, x: Value, values: &[Option<Value>], coefficient: f32, flag: usize) {
        let across = if x.row_stride < x.col_stride || x.cols == 1 { 1 } else { 16 };
        let groups = self.batch * x.cols.div_ceil(across);
        self.push(kernel.plain(), values, &[Coef::Const(coefficient)], [across, flag, 0], [groups, 1, 1]);
    }

    /// One workgroup an item.
    fn by_item(&mut self, kernel: &Kernel, values: &[Option<Value>], coefficients: &[Coef], n: [usize; 3]) {
        let batch = self.batch;
        self.push(kernel.plain(), values, coefficients, n, [batch, 1, 1]);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "recording refuses tensors of 2^32 elements or more; counts here are no larger")]
fn narrow(x: usize) -> u32 {
    x as u32
}

fn switches(list: &[(bool, u16)]) -> u16 {
    list.iter().map(|(on, bit)| if *on { *bit } else { 0 }).sum()
}

fn flags(list: &[(bool, usize)]) -> usize {
    list.iter().map(|(set, bit)| if *set { *bit } else { 0 }).sum()
}

/// The dispatches of `op`, in order.
pub(crate) fn lower(op: &Op, facts: &Facts) -> Vec<Dispatch> {
    let mut b = Builder { facts, batch: op.batch(), list: Vec::new() };
    let batch = b.batch;
    match *op {
        Op::Gemm(op) => b.gemm(op),
        Op::KronFactor(op) if !op.ones || choice::splits_factor(op.out.rows, op.x.rows, facts) => b.kron_factor(&op),
        Op::KronFactor(op) => {
            let (variant, tile) = choice::kron_factor(op.out.rows);
            let side = op.out.rows.div_ceil(tile);
            let n = [1, usize::from(op.gate.is_some()), 0];
            let coefficients = [op.decay, Coef::Const(op.scale)];
            b.push(variant, &[Some(op.x), Some(op.out), op.block, op.gate], &coefficients, n, [side * side, 1, batch]);
        }
        Op::Axpby(op) => {
            let in_place = op.y == Some(op.out);
            let reads_y = !op.beta.is_zero();
            let (x, y) = (op.x.filter(|_| !op.alpha.is_zero()), op.y.filter(|_| !in_place && reads_y));
            let n = flags(&[(x.is_some(), 1), (y.is_some(), 2), (in_place && reads_y, 4), (op.gate.is_some(), 8)]);
            let coefficients = [op.alpha, op.beta, op.gamma];
            b.runs(&AXPBY, op.out, &[x, y, Some(op.out), op.block, op.gate], &coefficients, n, op.gamma.is_zero());
        }
        Op::Activation(op) => b.activation(&op),
        Op::Convert(op) => {
            let to_half = usize::from(op.out.element == ElementType::F16);
            let units = batch * (op.out.rows * op.out.cols).div_ceil(2);
            b.flat(&CONVERT, 256, units, &[Some(op.x), Some(op.out)], &[], [to_half, 0, 0]);
        }
        Op::Reduce(op) => {
            let kind = match op.kind {
                ReduceKind::SumSq => 0,
                ReduceKind::Trace => 1,
                ReduceKind::Dot => 2,
                ReduceKind::MaxAbs => 3,
                ReduceKind::IdentityGap => 4,
                ReduceKind::Sum => 5,
            };
            let (runs, elements) = (op.out.cols, op.x.rows * op.x.cols);
            let n = [kind, runs, elements.div_ceil(runs)];
            let dense = quads::is_run(&op.x) && op.y.as_ref().is_none_or(quads::is_run);
            let variant = Variant { flags: switches(&[(dense, flag::DENSE)]), ..REDUCE.plain() };
            b.push(variant, &[Some(op.x), op.y, Some(op.out)], &[Coef::Const(op.scale)], n, [batch * runs, 1, 1]);
        }
        Op::ColumnMean(op) => {
            let (strips, dots) = (op.x.cols.div_ceil(STRIP), usize::from(op.y.is_some()));
            b.flat(&COLUMN_MEAN, 1, batch * strips, &[Some(op.x), op.y, Some(op.out)], &[], [strips, dots, 0]);
        }
        Op::CheckFinite(op) => {
            b.runs(&CHECK_FINITE, op.x, &[Some(op.x), Some(op.flag)], &[], 0, true);
        }
        Op::Cholesky(op) => {
            let n = op.out.rows;
            b.flat(&CHOLESKY_LOAD, 256, batch * n * n, &[Some(op.a), Some(op.out), op.block, Some(op.ok)], &[op.damping], [0; 3]);
            for j in (0..n).step_by(PANEL) {
                b.by_item(&CHOLESKY_DIAGONAL, &[Some(op.out), Some(op.ok)], &[], [j, 0, 0]);
                if j + PANEL < n {
                    let rest = n - j - PANEL;
                    b.push(CHOLESKY_ROWS.plain(), &[Some(op.out)], &[], [j, 0, 0], [rest.div_ceil(64), 1, batch]);
                    b.push(CHOLESKY_UPDATE.plain(), &[Some(op.out)], &[], [j, 0, 0], [rest.div_ceil(32).pow(2), 1, batch]);
                }
            }
        }
        Op::SolveTriangular(op) => {
            let n = flags(&[(op.transpose, 1), (op.b.is_some(), 2)]);
            let values = [Some(op.l), op.b, Some(op.out)];
            b.push(SOLVE_TRIANGULAR.plain(), &values, &[], [n, 0, 0], [op.out.cols.div_ceil(64), 1, batch]);
        }
        Op::OperatorNorm(op) => {
            let x = if op.x.rows <= op.x.cols { op.x } else { op.x.t() };
            b.by_item(&OPERATOR_NORM, &[Some(x), Some(op.out)], &[], [0; 3]);
        }
        Op::Eigh(op) => b.eigh(&op),
        Op::Qr(op) => b.qr(&op),
        Op::SortColumns(op) => {
            let grid = [op.out.cols.div_ceil(64), op.out.rows.div_ceil(64), batch];
            b.push(SORT_COLUMNS.plain(), &[Some(op.keys), Some(op.x), Some(op.out)], &[], [0; 3], grid);
        }
        Op::SpectrumScale(op) => {
            let values = [Some(op.x), Some(op.values), Some(op.out), op.block];
            b.flat(&SPECTRUM_SCALE, 256, batch * op.out.rows * op.out.cols, &values, &[op.shift], [op.exponent as usize, 0, 0]);
        }
        Op::Quotient(op) => {
            let n = flags(&[(op.x.is_some(), 1), (op.root, 2)]);
            b.flat(&QUOTIENT, 64, batch, &[op.x, Some(op.y), Some(op.out)], &[Coef::Const(op.scale)], [n, 0, 0]);
        }
        Op::IterationControl(op) => {
            let (stage, limit) = match op.stage {
                Stage::Normalise => (0, 0.0),
                Stage::Square => (1, 0.0),
                Stage::Start => (2, 0.0),
                Stage::Newton => (3, 0.0),
                Stage::Finish { limit } => (4, limit),
                Stage::Settle => (5, 0.0),
            };
            let n = [stage, op.p as usize, usize::from(op.relative)];
            b.flat(&ITERATION_CONTROL, 64, batch, &[Some(op.x), op.block, Some(op.control)], &[op.ridge, Coef::Const(limit)], n);
        }
        Op::RandomFill(op) => {
            let (kind, per_invocation) = match op.distribution {
                Distribution::Uniform => (0, 4),
                Distribution::Normal => (1, 4),
                Distribution::Rademacher => (2, 128),
            };
            let blocks = (op.out.rows * op.out.cols).div_ceil(per_invocation);
            let n = [kind, op.stream as usize, 0];
            b.flat(&RANDOM_FILL, 64, batch * blocks, &[Some(op.keys), Some(op.step), Some(op.out)], &[], n);
        }
        Op::Advance(op) => {
            let clock = match op.clock {
                Clock::Step => 0,
                Clock::StatisticsFromIdentity => 1,
                Clock::StatisticsFromFirst => 2,
                Clock::StatisticsBiasCorrected => 3,
                Clock::StepAfterFirst => 4,
            };
            b.flat(&ADVANCE, 64, batch, &[Some(op.block)], &[], [clock, 0, 0]);
        }
        Op::FactorDamping(op) => {
            let split = usize::from(op.left_mean.is_some());
            b.flat(&FACTOR_DAMPING, 64, batch, &[op.left_mean, op.right_mean, Some(op.block), Some(op.out)], &[], [split, 0, 0]);
        }
        Op::RootOutcome(op) => {
            let values = [Some(op.left_ok), Some(op.right_ok), Some(op.ok), Some(op.block)];
            b.flat(&ROOT_OUTCOME, 64, batch, &values, &[], [0; 3]);
        }
        Op::KlClip(op) => {
            let layers = op.dots.items / op.out.items;
            b.flat(&KL_CLIP, 64, batch, &[Some(op.dots), Some(op.block), Some(op.out)], &[], [layers, usize::from(op.signed), 0]);
        }
        Op::SpectralDivide(op) => {
            let values = [Some(op.x), Some(op.left), Some(op.right), Some(op.block), Some(op.out)];
            b.flat(&SPECTRAL_DIVIDE, 256, batch * op.out.rows * op.out.cols, &values, &[], [0; 3]);
        }
        Op::DirectionOutcome(op) => b.flat(&DIRECTION_OUTCOME, 64, batch, &[Some(op.factor), Some(op.block)], &[], [0; 3]),
        Op::DampingControl(op) => {
            let (stage, interval, coefficients) = match op.stage {
                ControlStage::Predict { interval } => (0, interval as usize, [0.0; 2]),
                ControlStage::Observe { omega, least } => (1, 0, [omega, least]),
            };
            let n = [stage, op.trials, if stage == 0 { interval } else { 1 }];
            b.flat(&DAMPING_CONTROL, 64, batch, &[Some(op.x), Some(op.block)], &coefficients.map(Coef::Const), n);
        }
        Op::NormClip(op) => {
            let layers = op.squares.items / op.out.items;
            b.flat(&NORM_CLIP, 64, batch, &[Some(op.squares), Some(op.out)], &[Coef::Const(op.max)], [layers, 0, 0]);
        }
        Op::GraftDirection(op) => {
            let values = [Some(op.g), Some(op.m), Some(op.block), Some(op.v), Some(op.out)];
            b.flat(&GRAFT_DIRECTION, 256, batch * op.out.rows * op.out.cols, &values, &[], [usize::from(op.corrected), 0, 0]);
        }
        Op::NormRatio(op) => {
            let n = [usize::from(op.donor.is_some()), 0, 0];
            b.flat(&NORM_RATIO, 64, batch, &[op.donor, Some(op.own), Some(op.out)], &[], n);
        }
        Op::GraftScale(op) => {
            let n = [usize::from(op.donor.is_some()), 0, 0];
            b.by_item(&GRAFT_SCALE, &[Some(op.x), op.donor, Some(op.out)], &[], n);
        }
        Op::StepScale(op) => {
            let n = flags(&[(op.decayed, 1), (op.corrected, 2)]);
            b.flat(&STEP_SCALE, 64, batch, &[Some(op.block), Some(op.out)], &[], [n, 0, 0]);
        }
        Op::Momentum(op) => {
            let values = [Some(op.g), Some(op.block), Some(op.m), op.out];
            let form = match (op.out, op.form) {
                (None, _) => 0,
                (_, MomentumForm::LookAhead) => 1,
                (_, MomentumForm::Corrected) => 2,
            };
            b.runs(&MOMENTUM, op.m, &values, &[op.decay, op.fresh], form, true);
        }
        Op::Normalise(op) => {
            let coefficients = [1.0 / op.margin, op.epsilon].map(Coef::Const);
            let dense = quads::is_run(&op.x) && quads::is_run(&op.out);
            let variant = Variant { flags: switches(&[(dense, flag::DENSE)]), ..NORMALISE.plain() };
            b.push(variant, &[Some(op.x), Some(op.out)], &coefficients, [0; 3], [batch, 1, 1]);
        }
        Op::PolarOutcome(op) => {
            let values = [op.size, op.scale, op.ok, op.block].map(Some);
            let heads = op.size.items / op.block.items;
            b.flat(&POLAR_OUTCOME, 64, batch, &values, &[Coef::Const(op.factor)], [heads, 0, 0]);
        }
        Op::SgdUpdate(op) => {
            let n = flags(&[
                (op.g_scale.is_some(), 1),
                (op.m.is_some(), 2),
                (op.nesterov, 4),
                (op.decay == DecayForm::Decoupled, 8),
                (op.decay == DecayForm::Cautious, 16),
            ]);
            let values = [Some(op.g), op.g_scale, Some(op.block), op.m, Some(op.w)];
            b.runs(&SGD_UPDATE, op.w, &values, &[], n, true);
        }
        Op::AdamUpdate(op) => {
            let decays = [(op.decay == DecayForm::Decoupled, 1), (op.decay == DecayForm::Cautious, 2)];
            let n = flags(&[decays[0], decays[1], (op.nesterov, 4), (op.v_max.is_some(), 8)]);
            let values = [Some(op.g), Some(op.block), Some(op.m), Some(op.v), op.v_max, Some(op.w)];
            b.runs(&ADAM_UPDATE, op.w, &values, &[], n, true);
        }
        Op::Standardise(op) => {
            let values = [op.x, op.out, op.mean, op.variance, op.scale].map(Some);
            b.by_columns(&STANDARDISE, op.x, &values, op.epsilon, 0);
        }
        Op::StandardiseGradient(op) => {
            let values = [Some(op.xhat), Some(op.dy), Some(op.scale), op.gamma, Some(op.dx), Some(op.sums)];
            b.by_columns(&STANDARDISE_GRADIENT, op.dy, &values, op.factor, usize::from(op.gamma.is_some()));
        }
        Op::SoftmaxCrossEntropy(op) => {
            let values = [op.logits, op.labels, op.loss, op.delta, op.hits].map(Some);
            b.flat(&SOFTMAX_CROSS_ENTROPY, 64, batch * op.delta.rows, &values, &[], [0; 3]);
        }
    }
    b.list
}

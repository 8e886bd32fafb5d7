//! What each operation touches, and whether its operands fit together.

use super::block;
use super::op::{Op, ReduceKind};
use super::spectral_op::{EIGH_SINGLE_MAX, Eigh, OPERATOR_NORM_MAX, Qr, control};
use super::value::{Coef, Value};
use crate::tensor::ElementType;

/// How an operation uses an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Only written, every element of the view (items behind a closed gate excepted).
    Write,
    /// Read and written.
    Update,
}

/// One operand of an operation: its name there, the view, and how it is used.
pub type Operand = (&'static str, Value, Access);

impl Op {
    /// Operands in formula order, absent ones left out; an in-place operand appears once, as [`Access::Update`].
    pub fn operands(&self) -> Vec<Operand> {
        use Access::{Read, Update, Write};
        let mut list: Vec<Operand> = Vec::with_capacity(6);
        let optional = |list: &mut Vec<Operand>, name, value: Option<Value>| list.extend(value.map(|v| (name, v, Read)));
        match *self {
            Op::Gemm(op) => {
                list.extend([("a", op.a, Read), ("b", op.b, Read)]);
                let in_place = op.d == Some(op.out);
                optional(&mut list, "d", op.d.filter(|_| !in_place));
                list.push(("out", op.out, if in_place { Update } else { Write }));
                optional(&mut list, "block", op.block);
            }
            Op::KronFactor(op) => {
                list.push(("x", op.x, Read));
                list.push(("out", op.out, if op.decay.is_zero() { Write } else { Update }));
                optional(&mut list, "block", op.block);
                optional(&mut list, "gate", op.gate);
            }
            Op::Axpby(op) => {
                let in_place = op.y == Some(op.out);
                optional(&mut list, "x", op.x);
                optional(&mut list, "y", op.y.filter(|_| !in_place));
                list.push(("out", op.out, if in_place { Update } else { Write }));
                optional(&mut list, "block", op.block);
                optional(&mut list, "gate", op.gate);
            }
            Op::Activation(op) => {
                let in_place = op.in_place();
                optional(&mut list, "x", Some(op.x).filter(|_| op.times.is_some() || !in_place));
                optional(&mut list, "times", op.times.filter(|_| !in_place));
                list.push(("out", op.out, if in_place { Update } else { Write }));
            }
            Op::Convert(op) => list.extend([("x", op.x, Read), ("out", op.out, Write)]),
            Op::Reduce(op) => {
                list.push(("x", op.x, Read));
                optional(&mut list, "y", op.y);
                list.push(("out", op.out, Write));
            }
            Op::ColumnMean(op) => {
                list.push(("x", op.x, Read));
                optional(&mut list, "y", op.y);
                list.push(("out", op.out, Write));
            }
            Op::CheckFinite(op) => list.extend([("x", op.x, Read), ("flag", op.flag, Update)]),
            Op::Cholesky(op) => {
                list.extend([("a", op.a, Read), ("out", op.out, Write)]);
                optional(&mut list, "block", op.block);
                list.push(("ok", op.ok, Write));
            }
            Op::SolveTriangular(op) => {
                list.push(("l", op.l, Read));
                optional(&mut list, "b", op.b);
                list.push(("out", op.out, Write));
            }
            Op::OperatorNorm(op) => list.extend([("x", op.x, Read), ("out", op.out, Write)]),
            Op::Eigh(op) => {
                list.extend([("a", op.a, Read), ("values", op.values, Write), ("vectors", op.vectors, Write)]);
                list.push(("work", op.work, Write));
                list.extend(op.spare.map(|v| ("spare", v, Write)));
            }
            Op::Qr(op) => {
                list.extend([("a", op.a, Read), ("q", op.q, Write), ("work", op.work, Write)]);
                list.extend([("reflectors", op.reflectors, Write), ("product", op.product, Write)]);
            }
            Op::SortColumns(op) => list.extend([("keys", op.keys, Read), ("x", op.x, Read), ("out", op.out, Write)]),
            Op::SpectrumScale(op) => {
                list.extend([("x", op.x, Read), ("values", op.values, Read), ("out", op.out, Write)]);
                optional(&mut list, "block", op.block);
            }
            Op::Quotient(op) => {
                optional(&mut list, "x", op.x);
                list.extend([("y", op.y, Read), ("out", op.out, Write)]);
            }
            Op::IterationControl(op) => {
                list.push(("x", op.x, Read));
                optional(&mut list, "block", op.block);
                list.push(("control", op.control, Update));
            }
            Op::RandomFill(op) => list.extend([("keys", op.keys, Read), ("step", op.step, Read), ("out", op.out, Write)]),
            Op::Advance(op) => list.push(("block", op.block, Update)),
            Op::FactorDamping(op) => {
                optional(&mut list, "left_mean", op.left_mean);
                optional(&mut list, "right_mean", op.right_mean);
                list.extend([("block", op.block, Read), ("out", op.out, Write)]);
            }
            Op::RootOutcome(op) => list.extend([
                ("left_ok", op.left_ok, Read),
                ("right_ok", op.right_ok, Read),
                ("ok", op.ok, Write),
                ("block", op.block, Update),
            ]),
            Op::NormClip(op) => list.extend([("squares", op.squares, Read), ("out", op.out, Write)]),
            Op::KlClip(op) => list.extend([("dots", op.dots, Read), ("block", op.block, Read), ("out", op.out, Write)]),
            Op::SpectralDivide(op) => {
                list.extend([("x", op.x, Read), ("left", op.left, Read), ("right", op.right, Read)]);
                list.extend([("block", op.block, Read), ("out", op.out, Write)]);
            }
            Op::DirectionOutcome(op) => list.extend([("factor", op.factor, Read), ("block", op.block, Update)]),
            Op::DampingControl(op) => list.extend([("x", op.x, Read), ("block", op.block, Update)]),
            Op::GraftDirection(op) => {
                list.extend([("g", op.g, Read), ("m", op.m, Read), ("v", op.v, Update), ("out", op.out, Write), ("block", op.block, Read)])
            }
            Op::NormRatio(op) => {
                optional(&mut list, "donor", op.donor);
                list.extend([("own", op.own, Read), ("out", op.out, Write)]);
            }
            Op::SgdUpdate(op) => {
                list.push(("g", op.g, Read));
                optional(&mut list, "g_scale", op.g_scale);
                list.push(("block", op.block, Read));
                list.extend(op.m.map(|m| ("m", m, Update)));
                list.push(("w", op.w, Update));
            }
            Op::AdamUpdate(op) => {
                list.extend([("g", op.g, Read), ("block", op.block, Read), ("m", op.m, Update), ("v", op.v, Update)]);
                list.extend(op.v_max.map(|v| ("v_max", v, Update)));
                list.push(("w", op.w, Update));
            }
            Op::GraftScale(op) => {
                list.push(("x", op.x, Read));
                optional(&mut list, "donor", op.donor);
                list.push(("out", op.out, Write));
            }
            Op::StepScale(op) => list.extend([("block", op.block, Read), ("out", op.out, Write)]),
            Op::Momentum(op) => list = op.operands(),
            Op::Normalise(op) => list = op.operands(),
            Op::PolarOutcome(op) => list = op.operands(),
            Op::Standardise(op) => list = op.operands(),
            Op::StandardiseGradient(op) => list = op.operands(),
            Op::SoftmaxCrossEntropy(op) => list = op.operands(),
        }
        list
    }

    /// The number of logical items.
    pub fn batch(&self) -> usize {
        match self {
            Op::Advance(op) => op.block.items,
            Op::CheckFinite(op) => op.flag.items,
            Op::SgdUpdate(op) => op.w.items,
            Op::AdamUpdate(op) => op.w.items,
            Op::Gemm(op) => op.out.items,
            Op::KronFactor(op) => op.out.items,
            Op::Axpby(op) => op.out.items,
            Op::Activation(op) => op.out.items,
            Op::Convert(op) => op.out.items,
            Op::Reduce(op) => op.out.items,
            Op::ColumnMean(op) => op.out.items,
            Op::Cholesky(op) => op.out.items,
            Op::SolveTriangular(op) => op.out.items,
            Op::OperatorNorm(op) => op.out.items,
            Op::Eigh(op) => op.values.items,
            Op::Qr(op) => op.q.items,
            Op::SortColumns(op) => op.out.items,
            Op::SpectrumScale(op) => op.out.items,
            Op::Quotient(op) => op.out.items,
            Op::IterationControl(op) => op.control.items,
            Op::RandomFill(op) => op.out.items,
            Op::FactorDamping(op) => op.out.items,
            Op::RootOutcome(op) => op.ok.items,
            Op::KlClip(op) => op.out.items,
            Op::SpectralDivide(op) => op.out.items,
            Op::DirectionOutcome(op) => op.block.items,
            Op::DampingControl(op) => op.block.items,
            Op::NormClip(op) => op.out.items,
            Op::GraftDirection(op) => op.out.items,
            Op::NormRatio(op) => op.out.items,
            Op::GraftScale(op) => op.out.items,
            Op::StepScale(op) => op.out.items,
            Op::Momentum(op) => op.m.items,
            Op::Normalise(op) => op.out.items,
            Op::PolarOutcome(op) => op.block.items,
            Op::Standardise(op) => op.out.items,
            Op::StandardiseGradient(op) => op.dx.items,
            Op::SoftmaxCrossEntropy(op) => op.delta.items,
        }
    }

    /// Columns of `block` that the coefficients read, where the block must be present and wide enough.
    fn coefficients(&self) -> (Vec<Coef>, Option<Value>) {
        match *self {
            Op::Gemm(op) => (vec![op.alpha, op.beta, op.gamma, op.gate.map_or(Coef::Const(0.0), Coef::column)], op.block),
            Op::KronFactor(op) => (vec![op.decay], op.block),
            Op::Axpby(op) => (vec![op.alpha, op.beta, op.gamma], op.block),
            Op::Cholesky(op) => (vec![op.damping], op.block),
            Op::SpectrumScale(op) => (vec![op.shift], op.block),
            Op::IterationControl(op) => (vec![op.ridge], op.block),
            Op::Momentum(op) => (vec![op.decay, op.fresh], Some(op.block)),
            _ => (vec![], None),
        }
    }

    /// The wanted (rows, cols) of each operand, by its name; operands without an entry are free.
    fn wanted(&self) -> Vec<(&'static str, usize, usize)> {
        match *self {
            Op::Gemm(op) => {
                let (m, k) = (op.out.rows, op.a.cols);
                let n = if op.symmetric { m } else { op.out.cols };
                vec![("a", m, k), ("b", k, n), ("d", m, n), ("out", m, n)]
            }
            Op::KronFactor(op) => {
                let q = op.x.cols + usize::from(op.ones);
                vec![("out", q, q), ("gate", 1, 1)]
            }
            Op::Axpby(op) => {
                let (m, n) = (op.out.rows, op.out.cols);
                vec![("x", m, n), ("y", m, n), ("out", m, n), ("gate", 1, 1)]
            }
            Op::Activation(op) => vec![("x", op.out.rows, op.out.cols), ("times", op.out.rows, op.out.cols)],
            Op::Convert(op) => vec![("x", op.out.rows, op.out.cols)],
            Op::Reduce(op) => {
                let square = if matches!(op.kind, ReduceKind::Trace | ReduceKind::IdentityGap) { op.x.rows } else { op.x.cols };
                let runs = if op.kind == ReduceKind::Trace { 1 } else { op.out.cols };
                vec![("x", op.x.rows, square), ("y", op.x.rows, op.x.cols), ("out", 1, runs)]
            }
            Op::ColumnMean(op) => vec![("y", op.x.rows, op.x.cols), ("out", 1, op.x.cols)],
            Op::CheckFinite(_) => vec![("flag", 1, 1)],
            Op::Cholesky(op) => vec![("a", op.out.rows, op.out.rows), ("out", op.out.rows, op.out.rows), ("ok", 1, 1)],
            Op::SolveTriangular(op) => {
                let n = op.out.rows;
                let m = if op.b.is_none() { n } else { op.out.cols };
                vec![("l", n, n), ("b", n, m), ("out", n, m)]
            }
            Op::OperatorNorm(_) => vec![("out", 1, 1)],
            Op::Eigh(op) => {
                let n = op.vectors.rows;
                let work = Eigh::work_shape(1, n);
                vec![("a", n, n), ("values", 1, n), ("vectors", n, n), ("work", work.rows, work.cols), ("spare", work.cols, work.cols)]
            }
            Op::Qr(op) => {
                let n = op.q.rows;
                vec![("a", n, n), ("q", n, n), ("work", n, n), ("reflectors", 2 * n, n), ("product", Qr::PANEL, n)]
            }
            Op::SortColumns(op) => vec![("keys", 1, op.out.cols), ("x", op.out.rows, op.out.cols)],
            Op::SpectrumScale(op) => {
                let (m, n) = (op.out.rows, op.out.cols);
                vec![("x", m, n), ("values", 1, n)]
            }
            Op::Quotient(_) => vec![("x", 1, 1), ("y", 1, 1), ("out", 1, 1)],
            Op::IterationControl(_) => vec![("x", 1, 1), ("control", 1, control::WIDTH)],
            Op::RandomFill(_) => vec![("keys", 1, 2), ("step", 1, 1)],
            Op::Advance(_) => vec![("block", 1, block::WIDTH)],
            Op::FactorDamping(_) => {
                vec![("left_mean", 1, 1), ("right_mean", 1, 1), ("block", 1, block::WIDTH), ("out", 1, 2)]
            }
            Op::RootOutcome(_) => vec![("left_ok", 1, 1), ("right_ok", 1, 1), ("ok", 1, 1), ("block", 1, block::WIDTH)],
            Op::NormClip(_) => vec![("squares", 1, 1), ("out", 1, 1)],
            Op::KlClip(_) => vec![("dots", 1, 1), ("block", 1, block::WIDTH), ("out", 1, 1)],
            Op::SpectralDivide(op) => {
                let (m, n) = (op.out.rows, op.out.cols);
                vec![("x", m, n), ("left", 1, m), ("right", 1, n), ("block", 1, block::WIDTH)]
            }
            Op::DirectionOutcome(_) => vec![("factor", 1, 1), ("block", 1, block::WIDTH)],
            Op::DampingControl(_) => vec![("x", 1, 1), ("block", 1, block::WIDTH)],
            Op::GraftDirection(op) => {
                let (m, n) = (op.out.rows, op.out.cols);
                vec![("g", m, n), ("m", m, n), ("v", m, n), ("block", 1, block::WIDTH)]
            }
            Op::NormRatio(_) => vec![("donor", 1, 1), ("own", 1, 1), ("out", 1, 1)],
            Op::SgdUpdate(op) => {
                let (m, n) = (op.w.rows, op.w.cols);
                vec![("g", m, n), ("m", m, n), ("g_scale", 1, 1), ("block", 1, block::WIDTH)]
            }
            Op::AdamUpdate(op) => {
                let (m, n) = (op.w.rows, op.w.cols);
                vec![("g", m, n), ("m", m, n), ("v", m, n), ("v_max", m, n), ("block", 1, block::WIDTH)]
            }
            Op::GraftScale(op) => vec![("donor", op.x.rows, op.x.cols), ("out", 1, 1)],
            Op::StepScale(_) => vec![("block", 1, block::WIDTH), ("out", 1, 1)],
            Op::Momentum(op) => op.wanted(),
            Op::Normalise(op) => op.wanted(),
            Op::PolarOutcome(op) => op.wanted(),
            Op::Standardise(op) => op.wanted(),
            Op::StandardiseGradient(op) => op.wanted(),
            Op::SoftmaxCrossEntropy(op) => op.wanted(),
        }
    }

    /// Checks shapes, batches, element types and aliasing. The error is (operand, expected, found).
    pub(crate) fn check(&self) -> Result<(), (&'static str, String, String)> {
        let operands = self.operands();
        let wanted = self.wanted();
        let batch = self.batch();
        for &(name, value, access) in &operands {
            if let Some(&(_, rows, cols)) = wanted.iter().find(|w| w.0 == name)
                && (value.rows, value.cols) != (rows, cols)
            {
                return Err((name, format!("[{rows}, {cols}] items"), format!("[{}, {}] items", value.rows, value.cols)));
            }
            let serves = match self {
                Op::KlClip(_) | Op::NormClip(_) if matches!(name, "dots" | "squares") => {
                    value.items.is_multiple_of(batch) && !value.repeated
                }
                Op::DampingControl(op) if name == "x" => op.fits(value),
                Op::PolarOutcome(op) if name != "block" => op.fits(value),
                _ => value.serves(batch),
            };
            if !serves {
                return Err((
                    name,
                    format!("{batch} items, or an explicit repeat whose period divides {batch}"),
                    format!("{} items, repeat ({}, {})", value.items, value.div, value.modulo),
                ));
            }
            if access != Access::Read && value.repeated {
                return Err((name, "an output without repeat".into(), format!("repeat ({}, {})", value.div, value.modulo)));
            }
            if access != Access::Read && value.items > 1 && value.extent() > value.item_stride {
                return Err((name, "an output whose items do not overlap".into(), "overlapping items".into()));
            }
            let broadcast = (value.row_stride == 0 && value.rows > 1) || (value.col_stride == 0 && value.cols > 1);
            if access != Access::Read && broadcast {
                return Err((name, "an output whose elements do not overlap".into(), "a broadcast row".into()));
            }
            let may_be_half = matches!((self, name), (Op::Gemm(_), "a" | "b") | (Op::Convert(_), _));
            if value.element == ElementType::F16 && !may_be_half {
                return Err((name, "an f32 operand (record `convert` first)".into(), "f16".into()));
            }
        }
        for (i, &(_, a, access_a)) in operands.iter().enumerate() {
            for &(name, b, access_b) in &operands[i + 1..] {
                if a.id == b.id && (access_a != Access::Read || access_b != Access::Read) {
                    return Err((name, "an output in a buffer of its own".into(), format!("%{} is read and written", a.id)));
                }
            }
        }
        let strided = operands.iter().find(|(name, value, _)| *name == "block" && value.cols == block::WIDTH && value.col_stride != 1);
        if let Some((name, value, _)) = strided {
            return Err((name, "a block whose columns are neighbours".into(), format!("columns {} elements apart", value.col_stride)));
        }
        self.check_coefficients()?;
        self.check_special()
    }

    fn check_coefficients(&self) -> Result<(), (&'static str, String, String)> {
        let (coefficients, block) = self.coefficients();
        for coefficient in coefficients {
            match (coefficient, block) {
                (Coef::Const(c), _) if !c.is_finite() => return Err(("coefficient", "a finite constant".into(), c.to_string())),
                (Coef::Const(_), _) => {}
                (Coef::Column { column, .. }, None) => {
                    return Err(("block", format!("a block with column {column}"), "no block".into()));
                }
                (Coef::Column { column, .. }, Some(b)) if b.rows != 1 || b.cols <= column as usize => {
                    return Err(("block", format!("[1, more than {column}] items"), format!("[{}, {}] items", b.rows, b.cols)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_special(&self) -> Result<(), (&'static str, String, String)> {
        match *self {
            Op::DampingControl(op) if op.trials == 0 || !op.block.items.is_multiple_of(op.trials) => {
                Err(("trials", format!("a divisor of {} items", op.block.items), op.trials.to_string()))
            }
            Op::Axpby(op) if op.x.is_none() && op.y.is_none() => Err(("x", "at least one operand".into(), "none".into())),
            Op::Reduce(op) if (op.kind == ReduceKind::Dot) != op.y.is_some() => {
                Err(("y", "a second operand exactly for `Dot`".into(), if op.y.is_some() { "one" } else { "none" }.into()))
            }
            Op::OperatorNorm(op) if op.x.rows.min(op.x.cols) > OPERATOR_NORM_MAX => {
                Err(("x", format!("a smaller side of at most {OPERATOR_NORM_MAX}"), format!("[{}, {}] items", op.x.rows, op.x.cols)))
            }
            Op::Eigh(op) if op.spare.is_none() && op.vectors.rows > EIGH_SINGLE_MAX => {
                Err(("spare", format!("scratch beyond order {EIGH_SINGLE_MAX}"), "none".into()))
            }
            Op::Eigh(op) if [Some(op.work), op.spare].into_iter().flatten().any(|v| v.col_stride != 1 || v.row_stride != v.cols) => {
                Err(("work", "dense row-major items".into(), "a strided view".into()))
            }
            Op::Qr(op) if [op.work, op.reflectors, op.product].into_iter().any(|v| v.col_stride != 1 || v.row_stride != v.cols) => {
                Err(("work", "dense row-major items".into(), "a strided view".into()))
            }
            Op::Activation(op) if op.link.unusable().is_some() => {
                Err(("link", "finite Hermite coefficients".into(), format!("{:?}", op.link)))
            }
            Op::NormClip(op) if !(op.max > 0.0 && op.max.is_finite()) => Err(("max", "a positive norm".into(), op.max.to_string())),
            Op::SpectrumScale(op) if !(1..=16).contains(&op.exponent) => Err(("exponent", "1 to 16".into(), op.exponent.to_string())),
            Op::IterationControl(op) if !(1..=8).contains(&op.p) => Err(("p", "1 to 8".into(), op.p.to_string())),
            Op::Convert(op) if op.x.element == op.out.element => {
                Err(("out", "the other element type (use `axpby` to copy)".into(), op.out.element.to_string()))
            }
            Op::Convert(op)
                if op.x.col_stride != 1 || op.out.col_stride != 1 || op.x.row_stride != op.x.cols || op.out.row_stride != op.out.cols =>
            {
                Err(("x", "dense row-major items".into(), "a strided view".into()))
            }
            // Elements lie in words of two. The odd one out at the end of an item owns its word only where it is the item's own.
            Op::Convert(op) => {
                let half = if op.x.element == ElementType::F16 { op.x } else { op.out };
                let area = half.rows * half.cols;
                let owns = area.is_multiple_of(2) || half.item_stride == area + 1;
                if half.offset.is_multiple_of(2) && half.item_stride.is_multiple_of(2) && (owns || op.x.element == ElementType::F16) {
                    return Ok(());
                }
                let found = format!("{area} elements at offset {} of items of {}", half.offset, half.item_stride);
                Err((if op.x.element == ElementType::F16 { "x" } else { "out" }, "an f16 view of whole 4-byte words".into(), found))
            }
            Op::RandomFill(op) if op.out.col_stride != 1 || op.out.row_stride != op.out.cols => {
                Err(("out", "dense row-major items".into(), "a strided view".into()))
            }
            Op::FactorDamping(op) if op.left_mean.is_some() != op.right_mean.is_some() => {
                Err(("left_mean", "both traces or neither".into(), "one".into()))
            }
            Op::Normalise(op) => op.check(),
            Op::PolarOutcome(op) => op.check(),
            Op::Standardise(op) if !(op.epsilon >= 0.0 && op.epsilon.is_finite()) => {
                Err(("epsilon", "a number of at least 0".into(), op.epsilon.to_string()))
            }
            Op::StandardiseGradient(op) if !op.factor.is_finite() => Err(("factor", "a finite number".into(), op.factor.to_string())),
            _ => Ok(()),
        }
    }
}

//! The immutable plan.

use std::fmt;
use std::ops::Range;

use super::access::Access;
use super::cost::Cost;
use super::op::Op;
use super::update_op::DecayForm;
use super::value::{Coef, Role, Value, ValueInfo};
use crate::tensor::Shape;

/// A named, contiguous part of a plan that can run by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The name in the printed plan.
    pub name: String,
    /// Indices of its operations.
    pub ops: Range<usize>,
    /// While it runs, the first value of each pair stands for the second.
    pub(crate) stand_ins: Vec<(u32, u32)>,
}

/// A linear list of operations over values. Holds no memory and no device.
///
/// `Display` prints one operation a line, segment by segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(crate) values: Vec<ValueInfo>,
    pub(crate) ops: Vec<Op>,
    pub(crate) segments: Vec<Segment>,
}

impl Plan {
    /// The operations in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The segments in order; together they cover all operations.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Every value.
    pub fn values(&self) -> &[ValueInfo] {
        &self.values
    }

    /// Name, shape and role of a value.
    pub fn info(&self, value: Value) -> Option<&ValueInfo> {
        self.values.get(value.id as usize)
    }

    /// Flops and bytes of all operations, or of one segment.
    pub fn cost(&self, segment: Option<usize>) -> Cost {
        let ops = match segment.and_then(|s| self.segments.get(s)) {
            Some(s) => &self.ops[s.ops.clone()],
            None => &self.ops[..],
        };
        ops.iter().map(Op::cost).sum()
    }

    /// The same plan with one segment an operation, named `INDEX operation`: run it step by step on two devices to see which operation diverges first.
    #[must_use]
    pub fn by_operation(&self) -> Plan {
        let named = |(i, op): (usize, &Op)| {
            let stand_ins = self.segments.iter().find(|s| s.ops.contains(&i)).map(|s| s.stand_ins.clone()).unwrap_or_default();
            Segment { name: format!("{i} {}", op.name()), ops: i..i + 1, stand_ins }
        };
        let segments = self.ops.iter().enumerate().map(named).collect();
        Plan { segments, ..self.clone() }
    }

    /// Bytes that `prepare` will allocate for scratch values. Some devices take a little more, up to 16 MiB a segment: `gpu::scratch_bytes` tells.
    pub fn scratch_bytes(&self) -> u64 {
        self.values.iter().filter(|v| v.role == Role::Scratch).map(|v| 4 * v.element.words(v.shape) as u64).sum()
    }

    fn operand(&self, f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
        let info = &self.values[value.id as usize];
        f.write_str(&info.name)?;
        let full = Value::dense(value.id, info.shape, info.element);
        if value.repeated {
            write!(f, "[(b/{})%{}]", value.div, value.modulo)?;
        }
        let same = |v: &Value| {
            (v.offset, v.rows, v.cols, v.row_stride, v.col_stride) == (full.offset, full.rows, full.cols, full.row_stride, full.col_stride)
        };
        if same(value) {
            return Ok(());
        }
        if same(&value.t()) {
            return f.write_str("^T");
        }
        write!(f, "@{}[{}x{}:{},{}]", value.offset, value.rows, value.cols, value.row_stride, value.col_stride)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            writeln!(f, "{}{}:", segment.name, if segment.stand_ins.is_empty() { "" } else { " (of the snapshot)" })?;
            for op in &self.ops[segment.ops.clone()] {
                let operands = op.operands();
                f.write_str("  ")?;
                for (i, (_, value, _)) in operands.iter().filter(|o| o.2 != Access::Read).enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    self.operand(f, value)?;
                    write!(f, " {}", Shape::new(value.items, value.rows, value.cols))?;
                }
                write!(f, " <- {}(", op.name())?;
                for (i, (name, value, _)) in operands.iter().filter(|o| o.2 != Access::Write).enumerate() {
                    write!(f, "{}{name} ", if i == 0 { "" } else { ", " })?;
                    self.operand(f, value)?;
                }
                writeln!(f, "){}", op.details())?;
            }
        }
        Ok(())
    }
}

impl Op {
    /// Constants of the operation, for the printed plan.
    fn details(&self) -> String {
        match self {
            Op::Gemm(op) => {
                let gate = if op.gate.is_some() { " gated" } else { "" };
                let symmetric = if op.symmetric { " symmetric" } else { "" };
                format!("{}{gate}{symmetric}", factors(op.alpha, op.d.map(|_| op.beta), op.gamma))
            }
            Op::KronFactor(op) => format!(" decay {} scale {}{}", op.decay, op.scale, if op.ones { " with ones" } else { "" }),
            Op::Axpby(op) => factors(op.alpha, op.y.map(|_| op.beta), op.gamma),
            Op::Reduce(op) => format!(" {:?} scale {}", op.kind, op.scale),
            Op::Cholesky(op) => format!(" damping {}", op.damping),
            Op::SolveTriangular(op) => if op.transpose { " transposed" } else { "" }.into(),
            Op::RandomFill(op) => format!(" {:?} stream {}", op.distribution, op.stream),
            Op::Advance(op) => format!(" {:?}", op.clock),
            Op::SgdUpdate(op) => {
                format!("{}{}", if op.nesterov { " nesterov" } else { "" }, decay(op.decay))
            }
            Op::AdamUpdate(op) => format!(
                "{}{}{}",
                decay(op.decay),
                if op.nesterov { " nesterov" } else { "" },
                if op.v_max.is_some() { " amsgrad" } else { "" }
            ),
            Op::Momentum(op) => match op.out {
                None => format!(" decay {} fresh {}", op.decay, op.fresh),
                Some(_) => format!(" {:?} decay {} fresh {}", op.form, op.decay, op.fresh),
            },
            Op::Normalise(op) => format!(" margin {} epsilon {}", op.margin, op.epsilon),
            Op::PolarOutcome(op) => format!(" factor {}", op.factor),
            Op::Activation(op) => format!(" {:?}{}", op.link, if op.times.is_some() { " derivative" } else { "" }),
            Op::Convert(op) => format!(" to {}", op.out.element),
            Op::Eigh(op) => format!(" {:?}", op.order),
            Op::SpectrumScale(op) => format!(" shift {} exponent -1/{}", op.shift, op.exponent),
            Op::Quotient(op) => format!(" scale {}{}", op.scale, if op.root { " root" } else { "" }),
            Op::IterationControl(op) => {
                format!(" {:?} p {} ridge {}{}", op.stage, op.p, op.ridge, if op.relative { " relative" } else { "" })
            }
            Op::StepScale(op) => format!("{}{}", if op.decayed { " decayed" } else { "" }, if op.corrected { " corrected" } else { "" }),
            Op::GraftDirection(op) => if op.corrected { " corrected" } else { "" }.into(),
            Op::ColumnMean(_) | Op::CheckFinite(_) | Op::OperatorNorm(_) | Op::FactorDamping(_) => String::new(),
            Op::Qr(_) | Op::SortColumns(_) => String::new(),
            Op::NormClip(op) => format!(" max {}", op.max),
            Op::KlClip(op) => if op.signed { " signed" } else { "" }.into(),
            Op::DampingControl(op) => format!(" {:?}", op.stage),
            Op::Standardise(op) => format!(" epsilon {}", op.epsilon),
            Op::StandardiseGradient(op) => format!(" factor {}", op.factor),
            Op::SoftmaxCrossEntropy(_) => String::new(),
            Op::RootOutcome(_) | Op::NormRatio(_) | Op::GraftScale(_) | Op::SpectralDivide(_) | Op::DirectionOutcome(_) => String::new(),
        }
    }
}

/// The factors of a linear combination, those that are neutral left out.
fn factors(alpha: Coef, beta: Option<Coef>, gamma: Coef) -> String {
    let one = Coef::Const(1.0);
    let shown = [("alpha", Some(alpha), one), ("beta", beta, one), ("gamma", Some(gamma), Coef::Const(0.0))];
    shown.into_iter().filter_map(|(name, value, neutral)| value.filter(|v| *v != neutral).map(|v| format!(" {name} {v}"))).collect()
}

fn decay(form: DecayForm) -> &'static str {
    match form {
        DecayForm::Gradient => "",
        DecayForm::Decoupled => " decoupled",
        DecayForm::Cautious => " cautious",
    }
}

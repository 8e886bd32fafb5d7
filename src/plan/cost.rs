//! Arithmetic and traffic of one operation: what benchmarks divide by and what the frame budget counts.

use super::access::Access;
use super::op::{Op, ReduceKind};
use super::value::Value;

/// Work of an operation or a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations (a multiply-add is two; the mirrored half of a symmetric result is not counted).
    pub flops: u64,
    /// Bytes read and written if every operand moved once.
    pub bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(iter: I) -> Cost {
        iter.fold(Cost::default(), |a, b| a + b)
    }
}

fn area(v: &Value) -> u64 {
    (v.rows * v.cols) as u64
}

impl Op {
    /// Work of one execution.
    pub fn cost(&self) -> Cost {
        let batch = self.batch() as u64;
        let per_item = match self {
            Op::Gemm(op) if op.symmetric => area(&op.out).midpoint(op.out.rows as u64) * (2 * op.a.cols as u64 + 2),
            Op::Gemm(op) => area(&op.out) * (2 * op.a.cols as u64 + 2),
            Op::KronFactor(op) => {
                let q = op.out.rows as u64;
                q * (q + 1) / 2 * (2 * op.x.rows as u64 + 2)
            }
            Op::Axpby(op) => 3 * area(&op.out),
            Op::Activation(op) => 24 * area(&op.out),
            Op::Convert(op) => area(&op.out),
            Op::Reduce(op) => match op.kind {
                ReduceKind::Trace => op.x.rows as u64,
                _ => 2 * area(&op.x),
            },
            Op::ColumnMean(op) => (1 + u64::from(op.y.is_some())) * area(&op.x),
            Op::CheckFinite(op) => area(&op.x),
            Op::Cholesky(op) => (op.out.rows as u64).pow(3) / 3 + area(&op.out),
            Op::SolveTriangular(op) => area(&op.out) * op.out.rows as u64,
            Op::OperatorNorm(op) => {
                let (small, large) = (op.x.rows.min(op.x.cols) as u64, op.x.rows.max(op.x.cols) as u64);
                2 * small * small * large + 2 * 24 * small.pow(3)
            }
            // Tridiagonalization and its way back; Jacobi on a GPU takes several times as much.
            Op::Eigh(op) => 9 * (op.vectors.rows as u64).pow(3),
            // The reflections, and their product.
            Op::Qr(op) => 8 * (op.q.rows as u64).pow(3) / 3,
            Op::SortColumns(op) => area(&op.out) + (op.out.cols as u64).pow(2),
            Op::SpectrumScale(op) => 8 * area(&op.out),
            Op::Quotient(_) | Op::IterationControl(_) => 8,
            Op::RandomFill(op) => 16 * area(&op.out),
            Op::Advance(_) | Op::FactorDamping(_) | Op::RootOutcome(_) => 8,
            Op::SpectralDivide(op) => 3 * area(&op.out),
            Op::DirectionOutcome(_) => 1,
            Op::DampingControl(op) => 8 + (op.x.items / op.trials) as u64,
            Op::KlClip(op) => (op.dots.items / op.out.items) as u64,
            Op::NormClip(op) => (op.squares.items / op.out.items) as u64,
            Op::GraftDirection(op) => 8 * area(&op.out),
            Op::NormRatio(_) => 4,
            Op::GraftScale(op) => (2 + 2 * u64::from(op.donor.is_some())) * area(&op.x),
            Op::StepScale(_) => 8,
            Op::Momentum(op) => 6 * area(&op.m),
            Op::Normalise(op) => 6 * area(&op.out),
            Op::PolarOutcome(op) => 2 * (op.size.items / op.block.items) as u64,
            Op::SgdUpdate(op) => 6 * area(&op.w),
            Op::AdamUpdate(op) => 14 * area(&op.w),
            Op::Standardise(op) => 6 * area(&op.out),
            Op::StandardiseGradient(op) => 8 * area(&op.dx),
            // An exponential is 12, a logarithm 24.
            Op::SoftmaxCrossEntropy(op) => 16 * area(&op.delta) + 24 * op.delta.rows as u64,
        };
        let bytes = self
            .operands()
            .iter()
            .map(|(_, v, access)| {
                let items = if *access == Access::Read { v.modulo } else { v.items } as u64;
                let size = match v.element {
                    crate::tensor::ElementType::F32 => 4,
                    crate::tensor::ElementType::F16 => 2,
                };
                items * area(v) * size * if *access == Access::Update { 2 } else { 1 }
            })
            .sum();
        Cost { flops: per_item * batch, bytes }
    }
}

//! Shapes, element types and tensors.

use crate::error::{Error, Result};

/// `[batch, rows, cols]`, row-major. A matrix has batch 1, a vector is `[1, n, 1]`, a scalar `[1, 1, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Independent items: layers of a stack, trials of a sweep, or plain batched matrices.
    pub batch: usize,
    /// Rows of each item.
    pub rows: usize,
    /// Columns of each item.
    pub cols: usize,
}

impl Shape {
    /// `[batch, rows, cols]`.
    pub const fn new(batch: usize, rows: usize, cols: usize) -> Self {
        Shape { batch, rows, cols }
    }

    /// `[1, rows, cols]`.
    pub const fn matrix(rows: usize, cols: usize) -> Self {
        Shape { batch: 1, rows, cols }
    }

    /// `[1, n, 1]`.
    pub const fn vector(n: usize) -> Self {
        Shape { batch: 1, rows: n, cols: 1 }
    }

    /// `batch * rows * cols`.
    pub const fn elements(&self) -> usize {
        self.batch * self.rows * self.cols
    }

    /// Refuses zero dimensions and sizes that 32-bit indices can't address.
    pub(crate) fn check(&self, op: &'static str, tensor: &str) -> Result<()> {
        let fits = self.batch.checked_mul(self.rows).and_then(|n| n.checked_mul(self.cols)).is_some_and(|n| n < u32::MAX as usize);
        if self.batch == 0 || self.rows == 0 || self.cols == 0 || !fits {
            return Err(Error::Shape {
                op,
                tensor: tensor.into(),
                expected: "every dimension at least 1 and fewer than 2^32 - 1 elements in all".into(),
                found: self.to_string(),
            });
        }
        Ok(())
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}]", self.batch, self.rows, self.cols)
    }
}

/// How elements are stored. Arithmetic is f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16, two elements in each `u32` word; every item starts at an even element.
    F16,
}

impl ElementType {
    /// Elements from one item to the next.
    pub(crate) fn item_stride(self, rows: usize, cols: usize) -> usize {
        match self {
            ElementType::F32 => rows * cols,
            ElementType::F16 => (rows * cols).next_multiple_of(2),
        }
    }

    /// 4-byte words that hold `shape`.
    pub(crate) fn words(self, shape: Shape) -> usize {
        let elements = shape.batch * self.item_stride(shape.rows, shape.cols);
        match self {
            ElementType::F32 => elements,
            ElementType::F16 => elements / 2,
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ElementType::F32 => "f32",
            ElementType::F16 => "f16",
        })
    }
}

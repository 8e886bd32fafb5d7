//! Plan values: named, shaped, role-carrying ids, and strided views of them.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::tensor::{ElementType, Shape};

/// Who owns the memory behind a plan value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Bound by the caller at prepare time: weights, gradients, taps. May be rebound.
    External,
    /// Kept between runs, bound at prepare time to tensors that the owner of the plan keeps.
    State,
    /// Allocated by `prepare`, without meaning between two runs.
    Scratch,
}

/// What a plan knows about one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// The name in messages and in the printed plan.
    pub name: String,
    /// `[batch, rows, cols]`.
    pub shape: Shape,
    /// Element type of the storage.
    pub element: ElementType,
    /// Who owns the memory.
    pub role: Role,
    /// Scratch values with one number lie behind one another in one buffer, so that operations on them may share dispatches. They must be f32.
    pub arena: Option<u32>,
}

/// A strided view of a plan value: what an operation reads or writes.
///
/// Element `(b, r, c)` lies at `offset + ((b / div) % modulo) * item_stride + r * row_stride + c * col_stride`, in elements.
/// A fresh value is dense and row-major with `div = 1` and `modulo = items`. Views are cheap `Copy` descriptions: [`t`](Value::t) transposes,
/// [`row_range`](Value::row_range) and [`col_range`](Value::col_range) cut blocks, [`repeat`](Value::repeat) reads fewer stored items for more logical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    pub(crate) id: u32,
    pub(crate) offset: usize,
    pub(crate) items: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) item_stride: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
    pub(crate) div: usize,
    pub(crate) modulo: usize,
    pub(crate) repeated: bool,
    pub(crate) element: ElementType,
}

impl Value {
    pub(crate) fn dense(id: u32, shape: Shape, element: ElementType) -> Self {
        Value {
            id,
            offset: 0,
            items: shape.batch,
            rows: shape.rows,
            cols: shape.cols,
            item_stride: element.item_stride(shape.rows, shape.cols),
            row_stride: shape.cols,
            col_stride: 1,
            div: 1,
            modulo: shape.batch,
            repeated: false,
            element,
        }
    }

    /// `[stored items, rows, cols]`; how often an operation repeats the items is its own business.
    pub fn shape(&self) -> Shape {
        Shape { batch: self.items, rows: self.rows, cols: self.cols }
    }

    /// Rows of each item.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of each item.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Stored items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// The transposed view. No data moves.
    #[must_use]
    pub fn t(self) -> Self {
        Value { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Rows `range` of each item.
    ///
    /// # Errors
    /// [`Error::Shape`] where the range is empty or leaves the matrix.
    pub fn row_range(self, range: Range<usize>) -> Result<Self> {
        check_range("row_range", &range, self.rows)?;
        Ok(Value { offset: self.offset + range.start * self.row_stride, rows: range.len(), ..self })
    }

    /// Columns `range` of each item.
    ///
    /// # Errors
    /// [`Error::Shape`] where the range is empty or leaves the matrix.
    pub fn col_range(self, range: Range<usize>) -> Result<Self> {
        check_range("col_range", &range, self.cols)?;
        Ok(Value { offset: self.offset + range.start * self.col_stride, cols: range.len(), ..self })
    }

    /// Stored items `range`. Resets the repetition.
    ///
    /// # Errors
    /// [`Error::Shape`] where the range is empty or leaves the batch.
    pub fn item_range(self, range: Range<usize>) -> Result<Self> {
        check_range("item_range", &range, self.items)?;
        let items = range.len();
        Ok(Value { offset: self.offset + range.start * self.item_stride, items, div: 1, modulo: items, repeated: false, ..self })
    }

    /// Logical item `b` reads stored item `(b / div) % modulo`.
    ///
    /// With the data index outer and `h` trials sharing each data item, `repeat(h, data_items)` reads the data of trial `b`,
    /// and `repeat(1, h)` reads something that depends on the inner index alone.
    ///
    /// # Errors
    /// [`Error::Shape`] where `div` is 0 or `modulo` is 0 or larger than the number of stored items.
    pub fn repeat(self, div: usize, modulo: usize) -> Result<Self> {
        if div == 0 || modulo == 0 || modulo > self.items {
            return Err(Error::Shape {
                op: "repeat",
                tensor: format!("%{}", self.id),
                expected: format!("div >= 1 and 1 <= modulo <= {} stored items", self.items),
                found: format!("div {div}, modulo {modulo}"),
            });
        }
        Ok(Value { div, modulo, repeated: true, ..self })
    }

    /// `h` consecutive items, one under the other, as one item: `[items, rows, cols]` becomes `[items / h, h rows, cols]`. No data moves.
    ///
    /// Trials that share data sit together, so their products with that data fold into one taller product. [`unfold`](Self::unfold) is the inverse.
    ///
    /// ```
    /// use layerwise::{Recorder, Shape};
    /// let mut r = Recorder::new();
    /// let g = r.external("G", Shape::new(10, 8, 100))?; // two data items, five trials each
    /// let x = r.external("x", Shape::new(2, 1024, 100))?;
    /// let z = r.matmul(g.fold(5)?, x.t())?; // two [40, 100] x [100, 1024] products
    /// assert_eq!(z.unfold(5)?.shape(), Shape::new(10, 8, 1024));
    /// assert!(g.fold(3).is_err() && g.t().fold(5).is_err());
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] where `h` does not divide the items, the items are repeated, or their rows are not evenly spaced from item to item.
    pub fn fold(self, h: usize) -> Result<Self> {
        if h == 1 {
            return Ok(self);
        }
        if h == 0 || !self.items.is_multiple_of(h) || self.repeated || self.item_stride != self.rows * self.row_stride {
            return Err(self.refuse("fold", &format!("a multiple of {h} items, not repeated, with evenly spaced rows")));
        }
        let items = self.items / h;
        Ok(Value { items, modulo: items, rows: h * self.rows, item_stride: h * self.item_stride, ..self })
    }

    /// Each item cut into `h` items of equal height: `[items, rows, cols]` becomes `[h items, rows / h, cols]`. No data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] where `h` does not divide the rows, the items are repeated, or their rows are not evenly spaced from item to item.
    pub fn unfold(self, h: usize) -> Result<Self> {
        if h == 1 {
            return Ok(self);
        }
        if h == 0 || !self.rows.is_multiple_of(h) || self.repeated || self.item_stride != self.rows * self.row_stride {
            return Err(self.refuse("unfold", &format!("a multiple of {h} rows, items not repeated, with evenly spaced rows")));
        }
        let items = self.items * h;
        Ok(Value { items, modulo: items, rows: self.rows / h, item_stride: self.item_stride / h, ..self })
    }

    /// A one-row value read as `rows` equal rows. To read only.
    ///
    /// # Errors
    /// [`Error::Shape`] where the items have more than one row or `rows` is 0.
    pub fn broadcast_row(self, rows: usize) -> Result<Self> {
        if self.rows != 1 || rows == 0 {
            return Err(self.refuse("broadcast_row", "one row, read at least once"));
        }
        Ok(Value { rows, row_stride: 0, ..self })
    }

    /// Each item's elements, dense in row-major order, as a matrix of another shape: `reshaped(rows * cols, 1)` is the vector of a matrix. No data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] where the items are not dense or have another number of elements.
    pub fn reshaped(self, rows: usize, cols: usize) -> Result<Self> {
        let dense = self.col_stride == 1 && (self.rows == 1 || self.row_stride == self.cols);
        if !dense || self.rows.checked_mul(self.cols) != rows.checked_mul(cols) {
            return Err(self.refuse("reshaped", &format!("dense items of {rows} times {cols} elements")));
        }
        Ok(Value { rows, cols, row_stride: cols, ..self })
    }

    /// The columns of the only item as items: `[1, n, q]` becomes `[q, n, 1]`. No data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is more than one item.
    pub fn columns_as_items(self) -> Result<Self> {
        if self.items != 1 || self.repeated {
            return Err(self.refuse("columns_as_items", "one item, not repeated"));
        }
        Ok(Value { items: self.cols, modulo: self.cols, item_stride: self.col_stride, cols: 1, col_stride: 1, ..self })
    }

    /// The diagonal of each item as a row: `[items, n, n]` becomes `[items, 1, n]`. No data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] where the items are not square.
    pub fn diagonal(self) -> Result<Self> {
        if self.rows != self.cols {
            return Err(self.refuse("diagonal", "square items"));
        }
        Ok(Value { rows: 1, row_stride: 1, col_stride: self.row_stride + self.col_stride, ..self })
    }

    /// The diagonal of the only item as items: `[1, n, n]` becomes `[n, 1, 1]`. No data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is more than one item or it is not square.
    pub fn diagonal_as_items(self) -> Result<Self> {
        if self.items != 1 || self.repeated || self.rows != self.cols {
            return Err(self.refuse("diagonal_as_items", "one square item, not repeated"));
        }
        let item_stride = self.row_stride + self.col_stride;
        Ok(Value { items: self.rows, modulo: self.rows, item_stride, rows: 1, row_stride: 1, cols: 1, col_stride: 1, ..self })
    }

    fn refuse(&self, op: &'static str, expected: &str) -> Error {
        Error::Shape { op, tensor: format!("%{}", self.id), expected: expected.into(), found: self.shape().to_string() }
    }

    /// Index of the first element of the item that logical item `b` reads.
    #[inline]
    pub(crate) fn item_offset(&self, b: usize) -> usize {
        self.offset + (b / self.div) % self.modulo * self.item_stride
    }

    /// Elements from the first to one past the last of one item's view.
    pub(crate) fn extent(&self) -> usize {
        (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
    }

    /// True if the view stays within a value like this: one of another recorder, with the same id, may not.
    pub(crate) fn lies_in(&self, info: &ValueInfo) -> bool {
        let stored = info.shape.batch * info.element.item_stride(info.shape.rows, info.shape.cols);
        self.element == info.element && self.offset + (self.modulo - 1) * self.item_stride + self.extent() <= stored
    }

    /// True if `batch` logical items are served: one stored item each, or a whole number of the periods asked for by [`repeat`](Value::repeat).
    pub(crate) fn serves(&self, batch: usize) -> bool {
        if self.repeated { batch.is_multiple_of(self.div * self.modulo) } else { batch == self.items }
    }
}

fn check_range(op: &'static str, range: &Range<usize>, len: usize) -> Result<()> {
    if range.start < range.end && range.end <= len {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        tensor: "view".into(),
        expected: format!("a non-empty range within 0..{len}"),
        found: format!("{}..{}", range.start, range.end),
    })
}

/// A scalar coefficient of an operation: constant, or one column of the operation's block (`[batch, 1, H]`), times a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Coef {
    /// The same for all items, fixed when the plan is recorded.
    Const(f32),
    /// `scale * block[item, column]`, read on the device at every run.
    Column {
        /// Column of the block.
        column: u32,
        /// Constant factor.
        scale: f32,
    },
}

impl Coef {
    /// `block[item, column]`.
    pub const fn column(column: u32) -> Self {
        Coef::Column { column, scale: 1.0 }
    }

    /// True for a constant zero: the operand that it would multiply is not read (so that NaN there does no harm).
    pub(crate) fn is_zero(self) -> bool {
        matches!(self, Coef::Const(c) if c == 0.0)
    }
}

impl From<f32> for Coef {
    fn from(c: f32) -> Self {
        Coef::Const(c)
    }
}

impl std::fmt::Display for Coef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Coef::Const(c) => write!(f, "{c}"),
            Coef::Column { column, scale: 1.0 } => write!(f, "block[{column}]"),
            Coef::Column { column, scale } => write!(f, "{scale} block[{column}]"),
        }
    }
}

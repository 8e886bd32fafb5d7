//! The parameters of one dispatch, in one uniform slot.

use bytemuck::{Pod, Zeroable};

use crate::plan::{Coef, Value};

/// Storage bindings that a kernel may have: with the parameters they stay within WebGPU's 8 storage buffers.
pub(crate) const VIEWS: usize = 6;

/// Bytes from one dispatch's parameters to the next: WebGPU's largest alignment of dynamic offsets.
pub(crate) const SLOT: usize = 256;

/// A [`Value`] as shaders see it; offsets count elements from the start of the binding.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct ViewParams {
    /// First element.
    pub offset: u32,
    /// Elements between items.
    pub item: u32,
    /// Elements between rows.
    pub row: u32,
    /// Elements between columns.
    pub col: u32,
    /// Logical items that share a stored one.
    pub div: u32,
    /// Stored items in turn.
    pub modulo: u32,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
}

/// `struct Params` of every shader.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq)]
#[repr(C)]
pub struct Params {
    /// By binding.
    pub views: [ViewParams; VIEWS],
    /// Constants, or factors of block columns.
    pub coef: [f32; 4],
    /// Block columns; [`NONE`] where the constant stands alone.
    pub column: [u32; 4],
    /// `x`: logical items; the rest by kernel.
    pub n: [u32; 4],
}

/// No block column.
pub const NONE: u32 = u32::MAX;

impl ViewParams {
    /// Of a value whose binding starts at its buffer's element 0. Sizes fit 32 bits: `Shape::check` saw to it.
    #[allow(clippy::cast_possible_truncation, reason = "recording refuses tensors of 2^32 elements or more")]
    pub(crate) fn of(v: &Value) -> Self {
        ViewParams {
            offset: v.offset as u32,
            item: v.item_stride as u32,
            row: v.row_stride as u32,
            col: v.col_stride as u32,
            div: v.div as u32,
            modulo: v.modulo as u32,
            rows: v.rows as u32,
            cols: v.cols as u32,
        }
    }

    /// Of a binding that the kernel does not use: harmless divisors.
    pub(crate) fn unused() -> Self {
        ViewParams { div: 1, modulo: 1, ..ViewParams::default() }
    }
}

impl Params {
    pub(crate) fn set_coefficients(&mut self, coefficients: &[Coef]) {
        for (i, coefficient) in coefficients.iter().enumerate() {
            (self.coef[i], self.column[i]) = match *coefficient {
                Coef::Const(c) => (c, NONE),
                Coef::Column { column, scale } => (scale, column),
            };
        }
    }
}

//! Strided copies in tiles, which stay in the cache where one side is walked against its grain.

use crate::plan::Value;

/// Rows and columns of a tile: 4 cache lines of 64 bytes a row.
const TILE: usize = 16;

/// Calls `f` for every element `(r, c)` of `rows` by `cols`, tile by tile.
#[inline(always)]
pub(super) fn each(rows: usize, cols: usize, mut f: impl FnMut(usize, usize)) {
    for first_row in (0..rows).step_by(TILE) {
        for first_col in (0..cols).step_by(TILE) {
            for r in first_row..rows.min(first_row + TILE) {
                for c in first_col..cols.min(first_col + TILE) {
                    f(r, c);
                }
            }
        }
    }
}

/// Writes the lower triangle of a square item above its diagonal.
pub(super) fn mirror(item: &mut [f32], v: &Value) {
    let n = v.rows;
    // One of the strides is 1; which does not matter to the addresses that pair up, only to which of them counts.
    let lower_by_row = v.col_stride == 1;
    let stride = if lower_by_row { v.row_stride } else { v.col_stride };
    let mut column = [[0.0f32; TILE]; TILE];
    for first_row in (0..n).step_by(TILE) {
        let height = TILE.min(n - first_row);
        for first_col in (0..first_row + 1).step_by(TILE) {
            let width = TILE.min(n - first_col);
            // (r, c) and (c, r) as runs along the contiguous axis: the source's are rows in one case, columns in the other.
            if first_row == first_col {
                for r in 0..height {
                    for c in 0..r {
                        let (low, high) = ((first_row + r) * stride + first_col + c, (first_col + c) * stride + first_row + r);
                        if lower_by_row { item[high] = item[low] } else { item[low] = item[high] }
                    }
                }
                continue;
            }
            let (from, to) =
                if lower_by_row { ((first_row, height), (first_col, width)) } else { ((first_col, width), (first_row, height)) };
            for r in 0..from.1 {
                let run = &item[(from.0 + r) * stride + to.0..][..to.1];
                run.iter().zip(&mut column).for_each(|(x, column)| column[r] = *x);
            }
            for r in 0..to.1 {
                item[(to.0 + r) * stride + from.0..][..from.1].copy_from_slice(&column[r][..from.1]);
            }
        }
    }
}

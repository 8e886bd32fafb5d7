//! Strided copies in tiles, which stay in the cache where one side is walked against its grain.

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

//! Arithmetic of single dispatches: what the frame budget cuts by.

use super::lowering::Dispatch;
use crate::plan::{EIGH_PAIR, Op};

/// Flops of each dispatch of `op`. Iterations that may end early count in full.
///
/// A single dispatch costs what the operation does. Of several each is counted by its kernel; where one is not known here, they share the
/// operation's cost evenly.
pub(crate) fn flops(op: &Op, dispatches: &[Dispatch]) -> Vec<u64> {
    let total = op.cost().flops;
    let count = dispatches.len() as u64;
    let known: Option<Vec<u64>> = if count == 1 { None } else { dispatches.iter().map(by_kernel).collect() };
    known.unwrap_or_else(|| vec![total.div_ceil(count.max(1)); dispatches.len()])
}

fn by_kernel(dispatch: &Dispatch) -> Option<u64> {
    let params = &dispatch.params;
    let [batch, n_y, _, n_w] = params.n.map(u64::from);
    let (rows, cols) = (|i: usize| u64::from(params.views[i].rows), |i: usize| u64::from(params.views[i].cols));
    let pair = EIGH_PAIR as u64;
    let panel = 32;
    let per_item = match dispatch.variant.kernel {
        "cholesky_load" => 2 * rows(1) * cols(1),
        "cholesky_diagonal" => panel.min(rows(0).saturating_sub(n_y)).pow(3) / 3 + panel,
        "cholesky_rows" => rows(0).saturating_sub(n_y + panel) * panel * panel,
        // Half of the square, two flops an element and panel column.
        "cholesky_update" => rows(0).saturating_sub(n_y + panel).pow(2) * panel,
        "gemm_merge" => rows(2) * cols(2) * (n_w + 3),
        name if name.starts_with("gemm") => rows(3) * cols(3) * (2 * cols(0) + 2),
        "axpby" => 3 * rows(2) * cols(2),
        "eigh_load" => cols(1) * cols(1),
        "eigh_sort" => rows(2) * cols(2),
        // A sweep turns w / 2 pairs in w - 1 rounds: the symmetric half of w^2 elements by both sides and all of the vectors, 3 flops each.
        "eigh_jacobi" => {
            let side = if n_y == 1 { cols(0) } else { pair };
            cols(0) / side * n_w * 6 * side.pow(3)
        }
        // Two products a tile of the symmetric half, one a tile of the vectors.
        "eigh_rotate" => (cols(0) / pair).pow(2) * 4 * pair.pow(3),
        _ => return None,
    };
    Some(batch * per_item)
}

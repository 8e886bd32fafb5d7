// out[r, j..j+PANEL] <- out[r, j..j+PANEL] L_jj^{-T} for the rows r below the diagonal block
// out [n, n] per item, any strides. n.y = j.
// One workgroup 64 rows (x, strided) of an item (z, strided), one invocation a row; the diagonal block in workgroup memory.
// Preconditions: the diagonal block is factored and full (j + PANEL < n). Only `out` is bound: the rows and the block are disjoint parts of it.
// Source: [GVL13] 4.2.5 (blocked form).
const PANEL: u32 = 32u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

var<workgroup> tile: array<f32, PANEL * PANEL>;
var<workgroup> rows: array<f32, PANEL * 64u>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(64)
fn cholesky_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let j = p.n.y;
    let n = p.views[0].rows;
    let first = j + PANEL;
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let base = item_offset(0u, item) + j * p.views[0].col;
        for (var i = lane; i < PANEL * PANEL; i += 64u) {
            tile[i] = out[base + (j + i / PANEL) * p.views[0].row + i % PANEL * p.views[0].col];
        }
        // The block is complete before rows are solved against it.
        workgroupBarrier();
        for (var r = first + group.x * 64u + lane; r < n; r += groups.x * 64u) {
            let at = base + r * p.views[0].row;
            for (var c = 0u; c < PANEL; c++) {
                var sum = out[at + c * p.views[0].col];
                for (var k = 0u; k < c; k++) { sum -= tile[c * PANEL + k] * rows[k * 64u + lane]; }
                sum /= tile[c * PANEL + c];
                rows[c * 64u + lane] = sum;
                out[at + c * p.views[0].col] = sum;
            }
        }
        // Rows are solved before the next item overwrites the block.
        workgroupBarrier();
    }
}

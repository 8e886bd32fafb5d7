// Factors the diagonal block out[j..j+w, j..j+w] in place, w = min(PANEL, n - j); ok = 0 where a pivot is not positive or not finite
// out [n, n], any strides; ok [1, 1] per item. n.y = j.
// One workgroup an item (strided), the block in workgroup memory, right-looking column by column.
// Preconditions: earlier panels are eliminated from the block. After a bad pivot the block is meaningless.
// Source: [GVL13] Golub, Van Loan, Matrix Computations, 4.2.5.
const PANEL: u32 = 32u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> ok: array<f32>;

var<workgroup> tile: array<f32, PANEL * PANEL>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Positive, normal and finite, by bits: a shader compiler may assume that NaN and infinity do not occur, and a device may flush subnormal numbers to zero.
fn good(x: f32) -> bool {
    let bits = bitcast<u32>(x);
    return bits >= 0x00800000u && bits < 0x7f800000u;
}

@compute @workgroup_size(256)
fn cholesky_diagonal(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let j = p.n.y;
    let w = min(PANEL, p.views[0].rows - j);
    for (var item = group.x; item < p.n.x; item += groups.x) {
        let corner = item_offset(0u, item) + j * (p.views[0].row + p.views[0].col);
        for (var i = lane; i < w * w; i += 256u) {
            tile[i / w * PANEL + i % w] = out[corner + i / w * p.views[0].row + i % w * p.views[0].col];
        }
        for (var k = 0u; k < w; k++) {
            // Column k has received all earlier updates.
            workgroupBarrier();
            let pivot = tile[k * PANEL + k];
            let root = sqrt(pivot);
            // Everyone holds the pivot before it is replaced.
            workgroupBarrier();
            if (lane == 0u) {
                tile[k * PANEL + k] = root;
                if (!good(pivot)) { ok[item_offset(1u, item)] = 0.0; }
            }
            for (var r = k + 1u + lane; r < w; r += 256u) { tile[r * PANEL + k] /= root; }
            // Column k is final before it is eliminated from the rest.
            workgroupBarrier();
            let rest = w - k - 1u;
            for (var i = lane; i < rest * rest; i += 256u) {
                let r = k + 1u + i / rest;
                let c = k + 1u + i % rest;
                if (c <= r) { tile[r * PANEL + c] -= tile[r * PANEL + k] * tile[c * PANEL + k]; }
            }
        }
        // The last column is final before the block is written.
        workgroupBarrier();
        for (var i = lane; i < w * w; i += 256u) {
            out[corner + i / w * p.views[0].row + i % w * p.views[0].col] = tile[i / w * PANEL + i % w];
        }
        // The block is written before the next item overwrites the tile.
        workgroupBarrier();
    }
}

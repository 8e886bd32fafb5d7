// out = L^{-1} b, or L^{-T} b (n.y bit 1); b = I without bit 2
// l [n, n] lower triangular, b and out [n, m], per item; any strides.
// One workgroup 64 columns of out (x, strided) of an item (z, strided), one invocation a column; blocks of 32 rows, L tile by tile in workgroup memory.
// Preconditions: out is neither l nor b. An invocation reads only what it wrote itself, so columns need no barrier.
// Source: [GVL13] 3.1.4 (blocked substitution, left-looking).
const BLOCK: u32 = 32u;
const TRANSPOSE: u32 = 1u;
const HAS_B: u32 = 2u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> l: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> tile: array<f32, BLOCK * BLOCK>;
var<workgroup> sums: array<f32, BLOCK * 64u>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Element (r, c) of the matrix that substitution sees: L, or L^T with both orders reversed, which is lower triangular again.
fn load_l(item: u32, r: u32, c: u32, n: u32) -> f32 {
    if (r >= n || c > r) { return 0.0; }
    if ((p.n.y & TRANSPOSE) != 0u) { return l[item + (n - 1u - c) * p.views[0].row + (n - 1u - r) * p.views[0].col]; }
    return l[item + r * p.views[0].row + c * p.views[0].col];
}

fn row_of(r: u32, n: u32) -> u32 {
    return select(r, n - 1u - r, (p.n.y & TRANSPOSE) != 0u);
}

fn load_b(item: u32, r: u32, c: u32) -> f32 {
    if ((p.n.y & HAS_B) == 0u) { return select(0.0, 1.0, r == c); }
    return b[item + r * p.views[1].row + c * p.views[1].col];
}

@compute @workgroup_size(64)
fn solve_triangular(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = p.views[2].rows;
    let m = p.views[2].cols;
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let l_item = item_offset(0u, item);
        let b_item = item_offset(1u, item);
        let o_item = item_offset(2u, item);
        for (var first = group.x * 64u; first < m; first += groups.x * 64u) {
            let c = first + lane;
            for (var j = 0u; j < n; j += BLOCK) {
                let height = min(BLOCK, n - j);
                if (c < m) {
                    for (var r = 0u; r < height; r++) { sums[r * 64u + lane] = load_b(b_item, row_of(j + r, n), c); }
                }
                for (var i = 0u; i <= j; i += BLOCK) {
                    for (var e = lane; e < BLOCK * BLOCK; e += 64u) {
                        tile[e] = load_l(l_item, j + e / BLOCK, i + e % BLOCK, n);
                    }
                    // The tile is complete before it is used.
                    workgroupBarrier();
                    if (c < m && i < j) {
                        for (var k = 0u; k < BLOCK; k++) {
                            let x = out[o_item + row_of(i + k, n) * p.views[2].row + c * p.views[2].col];
                            for (var r = 0u; r < height; r++) { sums[r * 64u + lane] -= tile[r * BLOCK + k] * x; }
                        }
                    }
                    if (c < m && i == j) {
                        for (var k = 0u; k < height; k++) {
                            let x = sums[k * 64u + lane] / tile[k * BLOCK + k];
                            out[o_item + row_of(j + k, n) * p.views[2].row + c * p.views[2].col] = x;
                            for (var r = k + 1u; r < height; r++) { sums[r * 64u + lane] -= tile[r * BLOCK + k] * x; }
                        }
                    }
                    // The tile is used before the next one overwrites it.
                    workgroupBarrier();
                }
            }
        }
    }
}

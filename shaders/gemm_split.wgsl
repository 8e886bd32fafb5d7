// partial = a b over one run of the inner side: the first of two stages, gemm_merge.wgsl is the second
// a [m, k], b [k, n], per item; any strides; a and b f32 or packed f16; partial [m, n] of run r of item i at i runs + r. n.w: terms of a run.
// One workgroup a tile of 4 TY x 4 TX of one run, each invocation 4 x 4 elements in registers; workgroup z (strided) over items from n.y on, y over runs, x over tiles.
// Preconditions: as gemm.wgsl; ONES: a has a last row and b a last column of ones beyond what is stored. What lies above a symmetric tile stays as it was.
// Source: textbook tiling, as gemm.wgsl.
const TX: u32 = 16u;
const TY: u32 = 16u;
const TILE_K: u32 = 16u;
const ONES: bool = false;
const A_F16: bool = false;
const B_F16: bool = false;
const SYMMETRIC: bool = false;
const GATED: bool = false;
const GATE_IN_D: bool = false;
// end of tunables
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;
@group(0) @binding(5) var<storage, read> block: array<f32>;

var<workgroup> a_tile: array<vec4<f32>, TILE_K * TY>;
var<workgroup> b_tile: array<vec4<f32>, TILE_K * TX>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// An item whose gate is closed is left alone. The same for the whole workgroup.
fn is_closed(item: u32) -> bool {
    if (GATE_IN_D) { return d[item_offset(2u, item)] == 0.0; }
    return GATED && block[item_offset(4u, item) + p.n.z * p.views[4].col] == 0.0;
}

fn load_a(at: u32, r: u32) -> f32 {
    if (ONES && r == p.views[0].rows) { return 1.0; }
    if (r >= p.views[0].rows) { return 0.0; }
    if (A_F16) { return unpack2x16float(a[at / 2u])[at % 2u]; }
    return bitcast<f32>(a[at]);
}

fn load_b(at: u32, c: u32) -> f32 {
    if (ONES && c == p.views[1].cols) { return 1.0; }
    if (c >= p.views[1].cols) { return 0.0; }
    if (B_F16) { return unpack2x16float(b[at / 2u])[at % 2u]; }
    return bitcast<f32>(b[at]);
}

// Rows r..r+4 of column k of a, zero outside.
fn quad_a(item: u32, r: u32, k: u32, end: u32) -> vec4<f32> {
    if (k >= end) { return vec4<f32>(0.0); }
    let at = vec4<u32>(r, r + 1u, r + 2u, r + 3u) * p.views[0].row + item + k * p.views[0].col;
    return vec4<f32>(load_a(at.x, r), load_a(at.y, r + 1u), load_a(at.z, r + 2u), load_a(at.w, r + 3u));
}

// Columns c..c+4 of row k of b, zero outside.
fn quad_b(item: u32, k: u32, c: u32, end: u32) -> vec4<f32> {
    if (k >= end) { return vec4<f32>(0.0); }
    let at = vec4<u32>(c, c + 1u, c + 2u, c + 3u) * p.views[1].col + item + k * p.views[1].row;
    return vec4<f32>(load_b(at.x, c), load_b(at.y, c + 1u), load_b(at.z, c + 2u), load_b(at.w, c + 3u));
}

fn store_row(at: u32, r: u32, c: u32, sums: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        if (r < p.views[3].rows && c + i < p.views[3].cols) { partial[at + r * p.views[3].row + c + i] = sums[i]; }
    }
}

fn outer(x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> { return mat4x4<f32>(x.x * y, x.y * y, x.z * y, x.w * y); }

@compute @workgroup_size(TX, TY)
fn gemm_split(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let depth = p.views[0].cols;
    let runs = (depth + p.n.w - 1u) / p.n.w;
    let tiles_n = (p.views[3].cols + 4u * TX - 1u) / (4u * TX);
    let all_tiles = tiles_n * ((p.views[3].rows + 4u * TY - 1u) / (4u * TY));
    for (var i = group.z; i < p.n.x; i += groups.z) {
        let item = p.n.y + i;
        let a_item = item_offset(0u, item);
        let b_item = item_offset(1u, item);
        let tiles = select(all_tiles, 0u, is_closed(item));
        for (var run = group.y; run < runs; run += groups.y) {
            let begin = run * p.n.w;
            let end = min(begin + p.n.w, depth);
            let at = p.views[3].offset + (i * runs + run) * p.views[3].item;
            for (var tile = group.x; tile < tiles; tile += groups.x) {
                let row = tile / tiles_n * 4u * TY;
                let col = tile % tiles_n * 4u * TX;
                // Tiles above the diagonal are mirror images; the condition depends on the workgroup alone.
                if (SYMMETRIC && col >= row + 4u * TY) { continue; }
                var acc = mat4x4<f32>();
                for (var k0 = begin; k0 < end; k0 += TILE_K) {
                    // Neighbouring invocations read neighbouring addresses, whichever stride is 1.
                    for (var j = lane; j < TILE_K * TY; j += TX * TY) {
                        let k = select(j / TY, j % TILE_K, p.views[0].col == 1u);
                        let quad = select(j % TY, j / TILE_K, p.views[0].col == 1u);
                        a_tile[k * TY + quad] = quad_a(a_item, row + 4u * quad, k0 + k, end);
                    }
                    for (var j = lane; j < TILE_K * TX; j += TX * TY) {
                        let k = select(j % TILE_K, j / TX, p.views[1].col == 1u);
                        let quad = select(j / TILE_K, j % TX, p.views[1].col == 1u);
                        b_tile[k * TX + quad] = quad_b(b_item, k0 + k, col + 4u * quad, end);
                    }
                    // The tiles are complete before anyone multiplies.
                    workgroupBarrier();
                    var sum = mat4x4<f32>();
                    for (var k = 0u; k < TILE_K; k++) { sum += outer(a_tile[k * TY + local.y], b_tile[k * TX + local.x]); }
                    acc += sum;
                    // Everyone has multiplied before the tiles are overwritten.
                    workgroupBarrier();
                }
                for (var r = 0u; r < 4u; r++) { store_row(at, row + 4u * local.y + r, col + 4u * local.x, acc[r]); }
            }
        }
    }
}

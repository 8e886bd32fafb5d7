// out = alpha a b + beta d + gamma I, as gemm.wgsl, without workgroup memory
// a [m, k], b [k, n], d and out [m, n], per item; any strides; a and b f32 or packed f16.
// One subgroup of 8, which is the workgroup, a tile of ROWS x 32; each invocation ROWS rows of 4 columns that are 8 apart; workgroup z (strided) over items, x and y (strided) over tiles.
// Preconditions: as gemm.wgsl; subgroups have 8 invocations.
// Source: an outer product in registers; a lane holds one of 8 neighbouring elements of a row of a, broadcast in turn: a load serves 32 multiply-adds a lane.
const ROWS: u32 = 32u;
const A_F16: bool = false;
const B_F16: bool = false;
const ADD_D: bool = false;
const IN_PLACE: bool = false;
const SYMMETRIC: bool = false;
const RUNNING_MEAN: bool = false;
const BLOCK: bool = false;
const GATED: bool = false;
const GATE_IN_D: bool = false;
// end of tunables
const NONE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> block: array<f32>;

const LANES: u32 = 8u;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn coefficient(i: u32, item: u32) -> f32 {
    if (!BLOCK || p.column[i] == NONE) { return p.coef[i]; }
    return p.coef[i] * block[item_offset(4u, item) + p.column[i] * p.views[4].col];
}

// An item whose gate is closed is left alone. The same for the whole workgroup.
fn is_closed(item: u32) -> bool {
    if (GATE_IN_D) { return d[item_offset(2u, item)] == 0.0; }
    return GATED && block[item_offset(4u, item) + p.n.z * p.views[4].col] == 0.0;
}

fn load_a(at: u32) -> f32 {
    if (A_F16) { return unpack2x16float(a[at / 2u])[at % 2u]; }
    return bitcast<f32>(a[at]);
}

fn load_b(at: u32) -> f32 {
    if (B_F16) { return unpack2x16float(b[at / 2u])[at % 2u]; }
    return bitcast<f32>(b[at]);
}

struct Tail { out: u32, d: u32, alpha: f32, beta: f32, gamma: f32 }

fn tail(item: u32) -> Tail {
    let beta = coefficient(1u, item);
    let alpha = coefficient(0u, item) * select(1.0, 1.0 - beta, RUNNING_MEAN);
    return Tail(item_offset(3u, item), item_offset(2u, item), alpha, beta, coefficient(2u, item));
}

fn store(t: Tail, r: u32, c: u32, value: f32) {
    if (r >= p.views[3].rows || c >= p.views[3].cols || (SYMMETRIC && c > r)) { return; }
    let at = t.out + r * p.views[3].row + c * p.views[3].col;
    var result = t.alpha * value;
    if (IN_PLACE) { result += t.beta * out[at]; }
    if (ADD_D) { result += t.beta * d[t.d + r * p.views[2].row + c * p.views[2].col]; }
    if (r == c) { result += t.gamma; }
    out[at] = result;
    if (SYMMETRIC && c < r) { out[t.out + c * p.views[3].row + r * p.views[3].col] = result; }
}

// Row k of b at the invocation's four columns; the last row stands in beyond it, where a is zero.
fn slab(start: u32, k: u32, cols: vec4<u32>) -> vec4<f32> {
    let at = vec4<u32>(start + min(k, p.views[1].rows - 1u) * p.views[1].row) + cols;
    return vec4<f32>(load_b(at.x), load_b(at.y), load_b(at.z), load_b(at.w));
}

// One row of the tile: 8 steps of the inner side.
fn row_step(sum: vec4<f32>, x: f32, s: array<vec4<f32>, LANES>) -> vec4<f32> {
    var r = fma(vec4<f32>(subgroupBroadcast(x, 0u)), s[0], sum);
    r = fma(vec4<f32>(subgroupBroadcast(x, 1u)), s[1], r); r = fma(vec4<f32>(subgroupBroadcast(x, 2u)), s[2], r);
    r = fma(vec4<f32>(subgroupBroadcast(x, 3u)), s[3], r); r = fma(vec4<f32>(subgroupBroadcast(x, 4u)), s[4], r);
    r = fma(vec4<f32>(subgroupBroadcast(x, 5u)), s[5], r); r = fma(vec4<f32>(subgroupBroadcast(x, 6u)), s[6], r);
    return fma(vec4<f32>(subgroupBroadcast(x, 7u)), s[7], r);
}

// Rows r..r+4 of the tile; `at` is the lane's element in row 0 of a; the last row stands in beyond it.
fn step(sum: mat4x4<f32>, at: u32, r: u32, inside: bool, s: array<vec4<f32>, LANES>) -> mat4x4<f32> {
    let i = at + min(vec4<u32>(r, r + 1u, r + 2u, r + 3u), vec4<u32>(p.views[0].rows - 1u)) * p.views[0].row;
    let x = select(vec4<f32>(0.0), vec4<f32>(load_a(i.x), load_a(i.y), load_a(i.z), load_a(i.w)), inside);
    return mat4x4<f32>(row_step(sum[0], x.x, s), row_step(sum[1], x.y, s), row_step(sum[2], x.z, s), row_step(sum[3], x.w, s));
}

fn store_rows(t: Tail, r: u32, c: u32, sums: mat4x4<f32>) {
    for (var i = 0u; i < 16u; i++) {
        store(t, r + i / 4u, c + i % 4u * LANES, sums[i / 4u][i % 4u]);
    }
}

@compute @workgroup_size(LANES)
fn gemm_broadcast(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let depth = p.views[0].cols;
    let tiles_n = (p.views[3].cols + 31u) / 32u;
    let all_tiles = tiles_n * ((p.views[3].rows + ROWS - 1u) / ROWS);
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let a_item = item_offset(0u, item);
        let start = item_offset(1u, item);
        let t = tail(item);
        let tiles = select(all_tiles, 0u, is_closed(item));
        for (var tile = group.x + group.y * groups.x; tile < tiles; tile += groups.x * groups.y) {
            let row = tile / tiles_n * ROWS;
            let c = tile % tiles_n * 32u + lane;
            // Tiles above the diagonal are mirror images; the condition depends on the workgroup alone.
            if (SYMMETRIC && c - lane >= row + ROWS) { continue; }
            let cols = min(vec4<u32>(c, c + LANES, c + 2u * LANES, c + 3u * LANES), vec4<u32>(p.views[1].cols - 1u)) * p.views[1].col;
            var s0 = mat4x4<f32>(); var s1 = mat4x4<f32>(); var s2 = mat4x4<f32>(); var s3 = mat4x4<f32>();
            var s4 = mat4x4<f32>(); var s5 = mat4x4<f32>(); var s6 = mat4x4<f32>(); var s7 = mat4x4<f32>();
            for (var k = 0u; k < depth; k += LANES) {
                let s = array<vec4<f32>, LANES>(slab(start, k, cols), slab(start, k + 1u, cols), slab(start, k + 2u, cols), slab(start, k + 3u, cols),
                                                slab(start, k + 4u, cols), slab(start, k + 5u, cols), slab(start, k + 6u, cols), slab(start, k + 7u, cols));
                let inside = k + lane < depth;
                let at = a_item + min(k + lane, depth - 1u) * p.views[0].col;
                s0 = step(s0, at, row, inside, s);
                s1 = step(s1, at, row + 4u, inside, s);
                if (ROWS > 8u) {
                    s2 = step(s2, at, row + 8u, inside, s); s3 = step(s3, at, row + 12u, inside, s); s4 = step(s4, at, row + 16u, inside, s);
                    s5 = step(s5, at, row + 20u, inside, s); s6 = step(s6, at, row + 24u, inside, s); s7 = step(s7, at, row + 28u, inside, s);
                }
            }
            store_rows(t, row, c, s0); store_rows(t, row + 4u, c, s1);
            if (ROWS > 8u) {
                store_rows(t, row + 8u, c, s2); store_rows(t, row + 12u, c, s3); store_rows(t, row + 16u, c, s4);
                store_rows(t, row + 20u, c, s5); store_rows(t, row + 24u, c, s6); store_rows(t, row + 28u, c, s7);
            }
        }
    }
}

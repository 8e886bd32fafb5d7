// out = alpha a b + beta d + gamma I, as gemm.wgsl, without workgroup memory and with four neighbours a load
// a [m, k], b [k, n], d and out [m, n], per item, f32; n and the inner side of a quad multiples of 4.
// One subgroup of 8, which is the workgroup, a tile of ROWS x 32 QUADS; each invocation ROWS rows of QUADS x 4 columns; workgroup z an item, x a tile; FOLDED: strided over both.
// Preconditions: as gemm.wgsl; subgroups have 8 invocations; offsets and strides multiples of 4, but for strides of 1: the columns' of d and out, and those that the switches name.
// Source: as gemm_broadcast.wgsl, with the same order of sums; drivers that load lane by lane pay for each load, not for its width.
alias D = vec4<f32>;
const ROWS: u32 = 32u;
const QUADS: u32 = 1u;
const A_BY_ROWS: bool = false;
const B_BY_ROWS: bool = false;
const ADD_D: bool = false;
const IN_PLACE: bool = false;
const SYMMETRIC: bool = false;
const RUNNING_MEAN: bool = false;
const BLOCK: bool = false;
const GATED: bool = false;
const GATE_IN_D: bool = false;
const FOLDED: bool = false;
// end of tunables
const NONE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> d: array<D>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> block: array<f32>;

const COLS: u32 = 32u * QUADS;
alias Slab = array<vec4<f32>, 8>;
var<private> lane: u32;
// Read before all loops: within them a CPU would load parameters lane by lane.
var<private> views: array<View, 4>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn coefficient(i: u32, item: u32) -> f32 {
    if (!BLOCK || p.column[i] == NONE) { return p.coef[i]; }
    return p.coef[i] * block[item_offset(4u, item) + p.column[i] * p.views[4].col];
}

// An item whose gate is closed is left alone. The same for the whole workgroup.
fn is_closed(item: u32) -> bool {
    if (GATE_IN_D) { return all(d[item_offset(2u, item)] == D(0.0)); }
    return GATED && block[item_offset(4u, item) + p.n.z * p.views[4].col] == 0.0;
}

// Rows k..k+8 of b at columns c..c+4; the last row stands in beyond it, where a is zero.
fn slab(start: u32, k: u32, c: u32) -> Slab {
    var s: Slab;
    if (B_BY_ROWS) {
        for (var half = 0u; half < 2u; half++) {
            let at = start + min(k + 4u * half, views[1].rows - 4u) + c * views[1].col;
            let t = transpose(mat4x4<f32>(b[at / 4u], b[(at + views[1].col) / 4u], b[(at + 2u * views[1].col) / 4u], b[(at + 3u * views[1].col) / 4u]));
            for (var i = 0u; i < 4u; i++) { s[4u * half + i] = t[i]; }
        }
        return s;
    }
    for (var i = 0u; i < 8u; i++) { s[i] = b[(start + min(k + i, views[1].rows - 1u) * views[1].row + c) / 4u]; }
    return s;
}

// Rows r..r+4 and columns k..k+8 of a, four elements a lane; the last row stands in beyond it, and zero beyond the last column.
fn piece(start: u32, r: u32, k: u32) -> vec4<f32> {
    let quad = select(vec2<u32>(r + lane / 2u, k + 4u * (lane % 2u)), vec2<u32>(r, k + lane), A_BY_ROWS);
    let last = select(vec2<u32>(1u, 4u), vec2<u32>(4u, 1u), A_BY_ROWS);
    let at = min(quad, vec2<u32>(views[0].rows, views[0].cols) - last) * vec2<u32>(views[0].row, views[0].col);
    return select(vec4<f32>(0.0), a[(start + at.x + at.y) / 4u], quad.y < views[0].cols);
}

// One row of the tile: 8 steps of the inner side.
fn row_step(sum: vec4<f32>, x: vec4<f32>, y: vec4<f32>, s: Slab) -> vec4<f32> {
    let half = fma(vec4<f32>(x.w), s[3], fma(vec4<f32>(x.z), s[2], fma(vec4<f32>(x.y), s[1], fma(vec4<f32>(x.x), s[0], sum))));
    return fma(vec4<f32>(y.w), s[7], fma(vec4<f32>(y.z), s[6], fma(vec4<f32>(y.y), s[5], fma(vec4<f32>(y.x), s[4], half))));
}

fn lanes(x: f32) -> mat2x4<f32> {
    return mat2x4<f32>(subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u), subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u),
                       subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u), subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u));
}

// Four rows of the tile.
fn step(m: mat4x4<f32>, v: vec4<f32>, s: Slab) -> mat4x4<f32> {
    if (A_BY_ROWS) {
        let x = lanes(v.x); let y = lanes(v.y); let z = lanes(v.z); let w = lanes(v.w);
        return mat4x4<f32>(row_step(m[0], x[0], x[1], s), row_step(m[1], y[0], y[1], s), row_step(m[2], z[0], z[1], s), row_step(m[3], w[0], w[1], s));
    }
    return mat4x4<f32>(row_step(m[0], subgroupBroadcast(v, 0u), subgroupBroadcast(v, 1u), s), row_step(m[1], subgroupBroadcast(v, 2u), subgroupBroadcast(v, 3u), s),
                       row_step(m[2], subgroupBroadcast(v, 4u), subgroupBroadcast(v, 5u), s), row_step(m[3], subgroupBroadcast(v, 6u), subgroupBroadcast(v, 7u), s));
}

// Rows r..r+4 at columns c..c+4; t: alpha, beta, gamma; starts: of d and out.
fn store(t: vec3<f32>, starts: vec2<u32>, r: u32, c: u32, sums: mat4x4<f32>) {
    if (r >= views[3].rows || c >= views[3].cols || (SYMMETRIC && c > r)) { return; }
    let at = starts.y + r * views[3].row + c;
    var m = t.x * sums;
    for (var i = 0u; i < 4u; i++) {
        if (IN_PLACE) { m[i] += t.y * out[(at + i * views[3].row) / 4u]; }
        if (ADD_D) { m[i] += t.y * d[(starts.x + (r + i) * views[2].row + c) / 4u]; }
        m[i][i] += select(0.0, t.z, r == c);
    }
    let mirror = transpose(m);
    if (SYMMETRIC && r == c) {
        m[0] = vec4<f32>(m[0].x, mirror[0].yzw); m[1] = vec4<f32>(m[1].xy, mirror[1].zw); m[2] = vec4<f32>(m[2].xyz, mirror[2].w);
    }
    for (var i = 0u; i < 4u; i++) {
        out[(at + i * views[3].row) / 4u] = m[i];
        if (SYMMETRIC && c < r) { out[(starts.y + (c + i) * views[3].row + r) / 4u] = mirror[i]; }
    }
}

fn product(item: u32, tile: u32) {
    let tiles_n = (views[3].cols + COLS - 1u) / COLS;
    let row = tile / tiles_n * ROWS;
    let col = tile % tiles_n * COLS;
    // Tiles above the diagonal are mirror images; both conditions depend on the workgroup alone.
    if ((SYMMETRIC && col >= row + ROWS) || is_closed(item)) { return; }
    let starts = vec4<u32>(item_offset(0u, item), item_offset(1u, item), item_offset(2u, item), item_offset(3u, item));
    let c = col + 4u * lane;
    // Loops of constant length over arrays of that length: compilers unroll them, and the sums stay in registers.
    var m: array<array<mat4x4<f32>, QUADS>, ROWS / 4u>;
    for (var k = 0u; k < views[0].cols; k += 8u) {
        var s: array<Slab, QUADS>;
        for (var q = 0u; q < QUADS; q++) { s[q] = slab(starts.y, k, min(c + 32u * q, views[1].cols - 4u)); }
        for (var r = 0u; r < ROWS / 4u; r++) {
            let v = piece(starts.x, row + 4u * r, k);
            for (var q = 0u; q < QUADS; q++) { m[r][q] = step(m[r][q], v, s[q]); }
        }
    }
    var t = vec3<f32>(coefficient(0u, item), coefficient(1u, item), coefficient(2u, item));
    if (RUNNING_MEAN) { t.x *= 1.0 - t.y; }
    for (var r = 0u; r < ROWS / 4u; r++) {
        for (var q = 0u; q < QUADS; q++) { store(t, starts.zw, row + 4u * r, c + 32u * q, m[r][q]); }
    }
}

@compute @workgroup_size(8)
fn gemm_quads(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    lane = index;
    views = array<View, 4>(p.views[0], p.views[1], p.views[2], p.views[3]);
    if (!FOLDED) { product(group.z, group.x); return; }
    let tiles = ((views[3].cols + COLS - 1u) / COLS) * ((views[3].rows + ROWS - 1u) / ROWS);
    for (var item = group.z; item < p.n.x; item += groups.z) {
        for (var tile = group.x; tile < tiles; tile += groups.x) { product(item, tile); }
    }
}

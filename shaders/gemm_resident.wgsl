// out = alpha a b + beta d + gamma I, as gemm_quads.wgsl, for an inner side of at most DEPTH
// a [m, k], b [k, n], d and out [m, n], per item, f32; k <= DEPTH; m, n and the inner side of a quad multiples of 4.
// One subgroup of 8, which is the workgroup, a tile of ROWS x 32 QUADS, row after row; each invocation QUADS x 4 columns; workgroup z an item, x a tile; FOLDED: strided over both.
// Preconditions: as gemm_quads.wgsl; DEPTH a multiple of 32.
// Source: as gemm_quads.wgsl, with the same order of sums; b is loaded once for all rows and stays in registers or on a CPU's stack, and sums live for one row.
const ROWS: u32 = 64u;
const QUADS: u32 = 2u;
const DEPTH: u32 = 64u;
const A_BY_ROWS: bool = false;
const B_BY_ROWS: bool = false;
const ADD_D: bool = false;
const IN_PLACE: bool = false;
const SYMMETRIC: bool = false;
const BLOCK: bool = false;
const GATED: bool = false;
const FOLDED: bool = false;
// end of tunables
const NONE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> d: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> block: array<f32>;

const COLS: u32 = 32u * QUADS;
// One row of the tile, and four rows of b.
alias Row = array<vec4<f32>, QUADS>;
alias Four = array<Row, 4>;
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

// Rows k..k+4 of b at columns c..c+4 of each quad; the last row stands in beyond it, where a is zero.
fn four_rows(start: u32, k: u32, col: u32) -> Four {
    var s: Four;
    for (var q = 0u; q < QUADS; q++) {
        let c = min(col + 32u * q, views[1].cols - 4u);
        if (B_BY_ROWS) {
            let at = start + min(k, views[1].rows - 4u) + c * views[1].col;
            let t = transpose(mat4x4<f32>(b[at / 4u], b[(at + views[1].col) / 4u], b[(at + 2u * views[1].col) / 4u], b[(at + 3u * views[1].col) / 4u]));
            for (var i = 0u; i < 4u; i++) { s[i][q] = t[i]; }
        } else {
            for (var i = 0u; i < 4u; i++) { s[i][q] = b[(start + min(k + i, views[1].rows - 1u) * views[1].row + c) / 4u]; }
        }
    }
    return s;
}

// Four neighbours of a from row r and column k on; zero beyond the columns.
fn quad(start: u32, r: u32, k: u32) -> vec4<f32> {
    let at = start + r * views[0].row + min(k, views[0].cols - select(4u, 1u, A_BY_ROWS)) * views[0].col;
    return select(vec4<f32>(0.0), a[at / 4u], k < views[0].cols);
}

// 32 neighbours of a row of a, of which a lane has four, or (by rows) every eighth.
fn factors(v: vec4<f32>) -> array<vec4<f32>, 8> {
    let x = mat4x4<f32>(subgroupBroadcast(v, 0u), subgroupBroadcast(v, 1u), subgroupBroadcast(v, 2u), subgroupBroadcast(v, 3u));
    let y = mat4x4<f32>(subgroupBroadcast(v, 4u), subgroupBroadcast(v, 5u), subgroupBroadcast(v, 6u), subgroupBroadcast(v, 7u));
    if (!A_BY_ROWS) { return array<vec4<f32>, 8>(x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3]); }
    let s = transpose(x); let t = transpose(y);
    return array<vec4<f32>, 8>(s[0], t[0], s[1], t[1], s[2], t[2], s[3], t[3]);
}

// Four steps of the inner side, all quads in each: as many independent sums as there are.
fn step(sum: Row, x: vec4<f32>, s: Four) -> Row {
    var r = sum;
    for (var i = 0u; i < 4u; i++) { for (var q = 0u; q < QUADS; q++) { r[q] = fma(vec4<f32>(x[i]), s[i][q], r[q]); } }
    return r;
}

// Rows r..r+4 at columns c..c+4; t: alpha, beta, gamma; starts: of d and out.
fn store(t: vec3<f32>, starts: vec2<u32>, r: u32, c: u32, sums: mat4x4<f32>) {
    if (c >= views[3].cols || (SYMMETRIC && c > r)) { return; }
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
    let row = tile / tiles_n * ROWS; let col = tile % tiles_n * COLS;
    // Tiles above the diagonal are mirror images, and an item whose gate is closed is left alone; both depend on the workgroup alone.
    if ((SYMMETRIC && col >= row + ROWS) || (GATED && block[item_offset(4u, item) + p.n.z * p.views[4].col] == 0.0)) { return; }
    let starts = vec4<u32>(item_offset(0u, item), item_offset(1u, item), item_offset(2u, item), item_offset(3u, item));
    let t = vec3<f32>(coefficient(0u, item), coefficient(1u, item), coefficient(2u, item));
    let c = col + 4u * lane;
    // Loops of constant length over arrays of that length: compilers unroll them, and no index is left.
    var held: array<array<Four, 8>, DEPTH / 32u>;
    for (var j = 0u; j < DEPTH / 32u; j++) {
        for (var h = 0u; h < 8u; h++) { held[j][h] = four_rows(starts.y, 32u * j + 4u * h, c); }
    }
    for (var r = select(row, max(row, col), SYMMETRIC); r < min(row + ROWS, views[3].rows); r += 4u) {
        var four: array<mat4x4<f32>, DEPTH / 32u>;
        for (var j = 0u; A_BY_ROWS && j < DEPTH / 32u; j++) {
            for (var h = 0u; h < 4u; h++) { four[j][h] = quad(starts.x, r, 32u * j + 8u * h + lane); }
            four[j] = transpose(four[j]);
        }
        var m: array<mat4x4<f32>, QUADS>;
        // A loop on the device: the instructions of one row fit a CPU's cache.
        for (var i = 0u; i < 4u; i++) {
            var sum: Row;
            for (var j = 0u; j < DEPTH / 32u; j++) {
                var v = select(select(four[j][0], four[j][1], i == 1u), select(four[j][2], four[j][3], i == 3u), i >= 2u);
                if (!A_BY_ROWS) { v = quad(starts.x, r + i, 32u * j + 4u * lane); }
                let x = factors(v);
                for (var h = 0u; h < 8u; h++) { sum = step(sum, x[h], held[j][h]); }
            }
            for (var q = 0u; q < QUADS; q++) {
                for (var e = 0u; e < 4u; e++) { m[q][e] = select(m[q][e], sum[q], e == i); }
            }
        }
        for (var q = 0u; q < QUADS; q++) { store(t, starts.zw, r, c + 32u * q, m[q]); }
    }
}

@compute @workgroup_size(8)
fn gemm_resident(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    lane = index;
    views = array<View, 4>(p.views[0], p.views[1], p.views[2], p.views[3]);
    if (!FOLDED) { product(group.z, group.x); return; }
    let tiles = ((views[3].cols + COLS - 1u) / COLS) * ((views[3].rows + ROWS - 1u) / ROWS);
    for (var item = group.z; item < p.n.x; item += groups.z) {
        for (var tile = group.x; tile < tiles; tile += groups.x) { product(item, tile); }
    }
}

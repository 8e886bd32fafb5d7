// out = alpha a b + beta d + gamma I
// a [m, k], b [k, n] packed f16, d and out [m, n] f32, per item; any strides. Products and sums are f32.
// One workgroup a tile of 2 SIDE SUB_ROWS x 4 SIDE SUB_COLS; each subgroup 2 x 4 cooperative fragments; workgroup z (strided) over items, x and y over tiles.
// Preconditions: as gemm.wgsl; subgroups of exactly LANES invocations; the device multiplies f16 fragments of SIDE x SIDE x SIDE into f32.
// Source: tiling as in the cooperative-matrix samples of the Vulkan vendors: operand tiles in workgroup memory with padded rows, results through it as well.
enable f16;
enable wgpu_cooperative_matrix;
const SIDE: u32 = 8u;
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
const LANES: u32 = 32u;
const SUB_ROWS: u32 = 4u;
const SUB_COLS: u32 = 2u;
const ADD_D: bool = false;
const IN_PLACE: bool = false;
const SYMMETRIC: bool = false;
const RUNNING_MEAN: bool = false;
const BLOCK: bool = false;
const GATED: bool = false;
const GATE_IN_D: bool = false;
// end of tunables
const TILE_K: u32 = 32u;
const TILE_M: u32 = 2u * SIDE * SUB_ROWS;
const TILE_N: u32 = 4u * SIDE * SUB_COLS;
const SIZE: u32 = LANES * SUB_ROWS * SUB_COLS;
// Eight halves more than the tile: rows start in different banks.
const A_ROW: u32 = TILE_K + 8u; const B_ROW: u32 = TILE_N + 8u;
const NONE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> block: array<f32>;
// The tile of a, then that of b.
var<workgroup> halves: array<f16, TILE_M * A_ROW + TILE_K * B_ROW>;
var<workgroup> sums: array<f32, SUB_ROWS * SUB_COLS * SIDE * SIDE>;
fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn coefficient(i: u32, item: u32) -> f32 {
    if (!BLOCK || p.column[i] == NONE) { return p.coef[i]; }
    return p.coef[i] * block[item_offset(4u, item) + p.column[i] * p.views[4].col];
}
// An item whose gate is closed is left alone.
fn is_closed(item: u32) -> bool {
    if (GATE_IN_D) { return d[item_offset(2u, item)] == 0.0; }
    return GATED && block[item_offset(4u, item) + p.n.z * p.views[4].col] == 0.0;
}
fn word(v: u32, at: u32) -> vec2<f32> {
    if (v == 0u) { return unpack2x16float(a[at / 2u]); }
    return unpack2x16float(b[at / 2u]);
}
// The tile of operand v from (row, col) on, zero outside, to rows of `stride` halves: pairs along the side whose stride is 1, a word where they share it.
fn stage(v: u32, item: u32, row: u32, col: u32, rows: u32, cols: u32, to: u32, stride: u32, lane: u32) {
    let view = p.views[v];
    let start = item_offset(v, item);
    let down = view.col != 1u;
    let step = select(view.col, view.row, down);
    for (var i = lane; i < rows * cols / 2u; i += SIZE) {
        let r = select(i / (cols / 2u), i % (rows / 2u) * 2u, down);
        let c = select(i % (cols / 2u) * 2u, i / (rows / 2u), down);
        let first = row + r < view.rows && col + c < view.cols;
        let second = first && select(col + c + 1u < view.cols, row + r + 1u < view.rows, down);
        let at = start + (row + r) * view.row + (col + c) * view.col;
        var q = vec2<f32>();
        if (first) { q = word(v, at); }
        if (at % 2u == 1u) { q.x = q.y; }
        if (!second) { q.y = 0.0; }
        if (second && (step != 1u || at % 2u == 1u)) { q.y = word(v, at + step)[(at + step) % 2u]; }
        halves[to + r * stride + c] = f16(q.x);
        halves[to + r * stride + c + select(1u, stride, down)] = f16(q.y);
    }
}
// Fragment (i, j) of a subgroup's part of the tile at (row, col), through workgroup memory.
fn finish(sum: Sum, row: u32, col: u32, i: u32, j: u32, lane: u32, item: u32) {
    let sub = lane / LANES; let base = sub * SIDE * SIDE;
    coopStoreT(sum, &sums[base], SIDE);
    let r0 = row + (sub / SUB_COLS * 2u + i) * SIDE;
    let c0 = col + (sub % SUB_COLS * 4u + j) * SIDE;
    let coef = vec3<f32>(coefficient(0u, item) * select(1.0, 1.0 - coefficient(1u, item), RUNNING_MEAN), coefficient(1u, item), coefficient(2u, item));
    let v = p.views[3];
    // The fragment is complete before anyone reads it.
    workgroupBarrier();
    for (var e = lane % LANES; e < SIDE * SIDE; e += LANES) {
        let r = select(e / SIDE, e % SIDE, v.row == 1u);
        let c = select(e % SIDE, e / SIDE, v.row == 1u);
        if (r0 + r >= v.rows || c0 + c >= v.cols || (SYMMETRIC && c0 + c > r0 + r)) { continue; }
        let at = item_offset(3u, item) + (r0 + r) * v.row + (c0 + c) * v.col;
        var result = coef.x * sums[base + r * SIDE + c] + select(0.0, coef.z, r0 + r == c0 + c);
        if (IN_PLACE) { result += coef.y * out[at]; }
        if (ADD_D) { result += coef.y * d[item_offset(2u, item) + (r0 + r) * p.views[2].row + (c0 + c) * p.views[2].col]; }
        out[at] = result;
        if (SYMMETRIC) { out[item_offset(3u, item) + (c0 + c) * v.row + (r0 + r) * v.col] = result; }
    }
    // Everyone has read before the next fragment.
    workgroupBarrier();
}

@compute @workgroup_size(SIZE)
fn gemm_coop(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let tiles_n = (p.views[3].cols + TILE_N - 1u) / TILE_N;
    let all_tiles = tiles_n * ((p.views[3].rows + TILE_M - 1u) / TILE_M);
    let x_at = lane / LANES / SUB_COLS * 2u * SIDE * A_ROW;
    let y_at = TILE_M * A_ROW + lane / LANES % SUB_COLS * 4u * SIDE;
    for (var item = group.z; item < p.n.x; item += groups.z) {
        // The same for the whole workgroup: a closed item leaves all its tiles.
        let tiles = select(all_tiles, 0u, is_closed(item));
        for (var tile = group.x + group.y * groups.x; tile < tiles; tile += groups.x * groups.y) {
            let row = tile / tiles_n * TILE_M;
            let col = tile % tiles_n * TILE_N;
            // Tiles above the diagonal are mirror images; the condition depends on the workgroup alone.
            if (SYMMETRIC && col >= row + TILE_M) { continue; }
            var s0 = Sum(); var s1 = Sum(); var s2 = Sum(); var s3 = Sum();
            var t0 = Sum(); var t1 = Sum(); var t2 = Sum(); var t3 = Sum();
            for (var k0 = 0u; k0 < p.views[0].cols; k0 += TILE_K) {
                stage(0u, item, row, k0, TILE_M, TILE_K, 0u, A_ROW, lane);
                stage(1u, item, k0, col, TILE_K, TILE_N, TILE_M * A_ROW, B_ROW, lane);
                // The tiles are complete before anyone multiplies.
                workgroupBarrier();
                for (var k = 0u; k < TILE_K; k += SIDE) {
                    let x0 = coopLoadT<Left>(&halves[x_at + k], A_ROW);
                    let x1 = coopLoadT<Left>(&halves[x_at + SIDE * A_ROW + k], A_ROW);
                    let y0 = coopLoadT<Right>(&halves[y_at + k * B_ROW], B_ROW);
                    s0 = coopMultiplyAdd(x0, y0, s0); t0 = coopMultiplyAdd(x1, y0, t0);
                    let y1 = coopLoadT<Right>(&halves[y_at + SIDE + k * B_ROW], B_ROW);
                    s1 = coopMultiplyAdd(x0, y1, s1); t1 = coopMultiplyAdd(x1, y1, t1);
                    let y2 = coopLoadT<Right>(&halves[y_at + 2u * SIDE + k * B_ROW], B_ROW);
                    s2 = coopMultiplyAdd(x0, y2, s2); t2 = coopMultiplyAdd(x1, y2, t2);
                    let y3 = coopLoadT<Right>(&halves[y_at + 3u * SIDE + k * B_ROW], B_ROW);
                    s3 = coopMultiplyAdd(x0, y3, s3); t3 = coopMultiplyAdd(x1, y3, t3);
                }
                // Everyone has multiplied before the tiles are overwritten.
                workgroupBarrier();
            }
            finish(s0, row, col, 0u, 0u, lane, item); finish(s1, row, col, 0u, 1u, lane, item);
            finish(s2, row, col, 0u, 2u, lane, item); finish(s3, row, col, 0u, 3u, lane, item);
            finish(t0, row, col, 1u, 0u, lane, item); finish(t1, row, col, 1u, 1u, lane, item);
            finish(t2, row, col, 1u, 2u, lane, item); finish(t3, row, col, 1u, 3u, lane, item);
        }
    }
}

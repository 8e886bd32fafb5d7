// out = alpha a b + beta d + gamma I
// a [m, k], b [k, n], d and out [m, n], per item; any strides; a and b f32 or packed f16.
// One workgroup a tile of 4 TY x 4 TX; each invocation 4 x 4 elements in registers; workgroup z (strided) over items, x and y (strided) over tiles.
// Preconditions: out shares no element with a or b; d is out (n.y bit 1) or a buffer of its own; n.y bit 2: symmetric, the lower triangle is computed and mirrored. n.z = column + 1 of the block's gate, 0 for none.
// Source: textbook tiling; operand tiles as vec4 along m and n, so that the inner loop is four vector multiply-adds.
const TX: u32 = 16u;
const TY: u32 = 16u;
const TILE_K: u32 = 16u;
const A_F16: bool = false;
const B_F16: bool = false;
// end of tunables
const NONE: u32 = 0xffffffffu;
const HAS_D: u32 = 1u; const IN_PLACE: u32 = 2u; const SYMMETRIC: u32 = 4u; // bits of n.y
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> block: array<f32>;

var<workgroup> a_tile: array<vec4<f32>, TILE_K * TY>;
var<workgroup> b_tile: array<vec4<f32>, TILE_K * TX>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn coefficient(i: u32, block_item: u32) -> f32 {
    if (p.column[i] == NONE) { return p.coef[i]; }
    return p.coef[i] * block[block_item + p.column[i] * p.views[4].col];
}

fn load_a(at: u32) -> f32 {
    if (A_F16) { return unpack2x16float(a[at / 2u])[at % 2u]; }
    return bitcast<f32>(a[at]);
}

fn load_b(at: u32) -> f32 {
    if (B_F16) { return unpack2x16float(b[at / 2u])[at % 2u]; }
    return bitcast<f32>(b[at]);
}

// Rows r..r+4 of column k of a, zero outside.
fn quad_a(item: u32, r: u32, k: u32, depth: u32) -> vec4<f32> {
    var q = vec4<f32>(0.0);
    if (k >= depth) { return q; }
    let m = p.views[3].rows;
    let at = item + r * p.views[0].row + k * p.views[0].col;
    let s = p.views[0].row;
    if (r < m) { q.x = load_a(at); }
    if (r + 1u < m) { q.y = load_a(at + s); }
    if (r + 2u < m) { q.z = load_a(at + 2u * s); }
    if (r + 3u < m) { q.w = load_a(at + 3u * s); }
    return q;
}

// Columns c..c+4 of row k of b, zero outside.
fn quad_b(item: u32, k: u32, c: u32, depth: u32) -> vec4<f32> {
    var q = vec4<f32>(0.0);
    if (k >= depth) { return q; }
    let n = p.views[3].cols;
    let at = item + k * p.views[1].row + c * p.views[1].col;
    let s = p.views[1].col;
    if (c < n) { q.x = load_b(at); }
    if (c + 1u < n) { q.y = load_b(at + s); }
    if (c + 2u < n) { q.z = load_b(at + 2u * s); }
    if (c + 3u < n) { q.w = load_b(at + 3u * s); }
    return q;
}

fn store(item: u32, d_item: u32, r: u32, c: u32, value: f32, beta: f32, gamma: f32) {
    let mirrored = (p.n.y & SYMMETRIC) != 0u;
    if (r >= p.views[3].rows || c >= p.views[3].cols || (mirrored && c > r)) { return; }
    let at = item + r * p.views[3].row + c * p.views[3].col;
    var result = value;
    if ((p.n.y & IN_PLACE) != 0u) {
        result += beta * out[at];
    } else if ((p.n.y & HAS_D) != 0u) {
        result += beta * d[d_item + r * p.views[2].row + c * p.views[2].col];
    }
    if (r == c) { result += gamma; }
    out[at] = result;
    if (mirrored && c < r) { out[item + c * p.views[3].row + r * p.views[3].col] = result; }
}

fn store_row(item: u32, d_item: u32, r: u32, c: u32, values: vec4<f32>, beta: f32, gamma: f32) {
    store(item, d_item, r, c, values.x, beta, gamma);
    store(item, d_item, r, c + 1u, values.y, beta, gamma);
    store(item, d_item, r, c + 2u, values.z, beta, gamma);
    store(item, d_item, r, c + 3u, values.w, beta, gamma);
}

@compute @workgroup_size(TX, TY)
fn gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let depth = p.views[0].cols;
    let tiles_n = (p.views[3].cols + 4u * TX - 1u) / (4u * TX);
    let all_tiles = tiles_n * ((p.views[3].rows + 4u * TY - 1u) / (4u * TY));
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let a_item = item_offset(0u, item);
        let b_item = item_offset(1u, item);
        let block_item = item_offset(4u, item);
        // The same for the whole workgroup: a closed item leaves all its tiles.
        let tiles = select(all_tiles, 0u, p.n.z != 0u && block[block_item + max(p.n.z, 1u) * p.views[4].col - p.views[4].col] == 0.0);
        for (var tile = group.x + group.y * groups.x; tile < tiles; tile += groups.x * groups.y) {
            let row = tile / tiles_n * 4u * TY;
            let col = tile % tiles_n * 4u * TX;
            // Tiles above the diagonal are mirror images; the condition depends on the workgroup alone.
            if ((p.n.y & SYMMETRIC) != 0u && col >= row + 4u * TY) { continue; }
            var acc = mat4x4<f32>();
            for (var k0 = 0u; k0 < depth; k0 += TILE_K) {
                // Sums of sums: the rounding of a long product grows with the number of tiles, not of terms.
                var sum = mat4x4<f32>();
                // Neighbouring invocations read neighbouring addresses, whichever stride is 1.
                for (var i = lane; i < TILE_K * TY; i += TX * TY) {
                    let k = select(i / TY, i % TILE_K, p.views[0].col == 1u);
                    let quad = select(i % TY, i / TILE_K, p.views[0].col == 1u);
                    a_tile[k * TY + quad] = quad_a(a_item, row + 4u * quad, k0 + k, depth);
                }
                for (var i = lane; i < TILE_K * TX; i += TX * TY) {
                    let k = select(i % TILE_K, i / TX, p.views[1].col == 1u);
                    let quad = select(i / TILE_K, i % TX, p.views[1].col == 1u);
                    b_tile[k * TX + quad] = quad_b(b_item, k0 + k, col + 4u * quad, depth);
                }
                // The tiles are complete before anyone multiplies.
                workgroupBarrier();
                for (var k = 0u; k < TILE_K; k++) {
                    let x = a_tile[k * TY + local.y];
                    let y = b_tile[k * TX + local.x];
                    sum += mat4x4<f32>(x.x * y, x.y * y, x.z * y, x.w * y);
                }
                acc += sum;
                // Everyone has multiplied before the tiles are overwritten.
                workgroupBarrier();
            }
            let alpha = coefficient(0u, block_item); let beta = coefficient(1u, block_item); let gamma = coefficient(2u, block_item);
            let o = item_offset(3u, item);
            let d_item = item_offset(2u, item);
            let r = row + 4u * local.y;
            let c = col + 4u * local.x;
            store_row(o, d_item, r, c, alpha * acc[0], beta, gamma);
            store_row(o, d_item, r + 1u, c, alpha * acc[1], beta, gamma);
            store_row(o, d_item, r + 2u, c, alpha * acc[2], beta, gamma);
            store_row(o, d_item, r + 3u, c, alpha * acc[3], beta, gamma);
        }
    }
}

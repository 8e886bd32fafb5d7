// out = alpha a b + beta d + gamma I, as gemm.wgsl, without workgroup memory
// a [m, k], b [k, n], d and out [m, n], per item; any strides; a and b f32 or packed f16.
// One workgroup of 8 x 8 a tile of 64 x 64; each invocation 8 rows and 8 columns that are 8 apart; workgroup z (strided) over items, x and y (strided) over tiles.
// Preconditions: as gemm.wgsl.
// Source: an outer product in registers, for drivers that emulate workgroup memory and barriers.
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

fn outer(x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> { return mat4x4<f32>(x.x * y, x.y * y, x.z * y, x.w * y); }

// Rows r, r + 8, r + 16, r + 24 of column k of a; the last row stands in beyond it.
fn rows_a(at: u32, r: u32) -> vec4<f32> {
    let i = at + min(vec4<u32>(r, r + 8u, r + 16u, r + 24u), vec4<u32>(p.views[0].rows - 1u)) * p.views[0].row;
    return vec4<f32>(load_a(i.x), load_a(i.y), load_a(i.z), load_a(i.w));
}

// Columns c, c + 8, c + 16, c + 24 of row k of b; the last column stands in beyond it.
fn cols_b(at: u32, c: u32) -> vec4<f32> {
    let i = at + min(vec4<u32>(c, c + 8u, c + 16u, c + 24u), vec4<u32>(p.views[1].cols - 1u)) * p.views[1].col;
    return vec4<f32>(load_b(i.x), load_b(i.y), load_b(i.z), load_b(i.w));
}

fn store_block(t: Tail, r: u32, c: u32, sums: mat4x4<f32>) {
    for (var i = 0u; i < 16u; i++) {
        store(t, r + 8u * (i / 4u), c + 8u * (i % 4u), sums[i / 4u][i % 4u]);
    }
}

@compute @workgroup_size(8, 8)
fn gemm_register(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let depth = p.views[0].cols;
    let tiles_n = (p.views[3].cols + 63u) / 64u;
    let all_tiles = tiles_n * ((p.views[3].rows + 63u) / 64u);
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let a_item = item_offset(0u, item);
        let b_item = item_offset(1u, item);
        let t = tail(item);
        let tiles = select(all_tiles, 0u, is_closed(item));
        for (var tile = group.x + group.y * groups.x; tile < tiles; tile += groups.x * groups.y) {
            let row = tile / tiles_n * 64u;
            let col = tile % tiles_n * 64u;
            // Tiles above the diagonal are mirror images; the condition depends on the workgroup alone.
            if (SYMMETRIC && col > row) { continue; }
            let r = row + local.y;
            let c = col + local.x;
            var s00 = mat4x4<f32>(); var s01 = mat4x4<f32>(); var s10 = mat4x4<f32>(); var s11 = mat4x4<f32>();
            for (var k = 0u; k < depth; k++) {
                let at = a_item + k * p.views[0].col;
                let bt = b_item + k * p.views[1].row;
                let x = rows_a(at, r); let x_far = rows_a(at, r + 32u);
                let y = cols_b(bt, c); let y_far = cols_b(bt, c + 32u);
                s00 += outer(x, y); s01 += outer(x, y_far); s10 += outer(x_far, y); s11 += outer(x_far, y_far);
            }
            store_block(t, r, c, s00); store_block(t, r, c + 32u, s01); store_block(t, r + 32u, c, s10); store_block(t, r + 32u, c + 32u, s11);
        }
    }
}

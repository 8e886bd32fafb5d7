// out = alpha a b + beta d + gamma I, as gemm.wgsl, for results of at most 16 x 16
// a [m, k], b [k, n], d and out [m, n], per item; any strides; a and b f32 or packed f16.
// One workgroup four items; 16 invocations an item, each 4 x 4 elements in registers; workgroup z (strided) over groups of four items.
// Preconditions: as gemm.wgsl; m and n at most 16.
// Source: as gemm.wgsl, with the items of a batch side by side so that no lane is idle.
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

const TILE_K: u32 = 16u;
var<workgroup> a_tile: array<vec4<f32>, 4u * TILE_K * 4u>;
var<workgroup> b_tile: array<vec4<f32>, 4u * TILE_K * 4u>;

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

// Rows r..r+4 of column k of a, zero outside.
fn quad_a(item: u32, r: u32, k: u32) -> vec4<f32> {
    if (k >= p.views[0].cols) { return vec4<f32>(0.0); }
    let at = vec4<u32>(r, r + 1u, r + 2u, r + 3u) * p.views[0].row + item + k * p.views[0].col;
    let m = p.views[0].rows;
    var q = vec4<f32>(0.0);
    if (r < m) { q.x = load_a(at.x); } if (r + 1u < m) { q.y = load_a(at.y); }
    if (r + 2u < m) { q.z = load_a(at.z); } if (r + 3u < m) { q.w = load_a(at.w); }
    return q;
}

// Columns c..c+4 of row k of b, zero outside.
fn quad_b(item: u32, k: u32, c: u32) -> vec4<f32> {
    if (k >= p.views[1].rows) { return vec4<f32>(0.0); }
    let at = vec4<u32>(c, c + 1u, c + 2u, c + 3u) * p.views[1].col + item + k * p.views[1].row;
    let n = p.views[1].cols;
    var q = vec4<f32>(0.0);
    if (c < n) { q.x = load_b(at.x); } if (c + 1u < n) { q.y = load_b(at.y); }
    if (c + 2u < n) { q.z = load_b(at.z); } if (c + 3u < n) { q.w = load_b(at.w); }
    return q;
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

fn store_quad(t: Tail, r: u32, c: u32, sums: mat4x4<f32>) {
    for (var i = 0u; i < 16u; i++) {
        store(t, r + i / 4u, c + i % 4u, sums[i / 4u][i % 4u]);
    }
}

fn outer(x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> { return mat4x4<f32>(x.x * y, x.y * y, x.z * y, x.w * y); }

@compute @workgroup_size(64)
fn gemm_small(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = lane / 16u;
    let r = lane % 16u / 4u;
    let c = lane % 4u;
    for (var first = 4u * group.z; first < p.n.x; first += 4u * groups.z) {
        // Lanes beyond the last item repeat it, so that all meet at the barriers, and store nothing.
        let item = min(first + place, p.n.x - 1u);
        let a_item = item_offset(0u, item);
        let b_item = item_offset(1u, item);
        var acc = mat4x4<f32>();
        for (var k0 = 0u; k0 < p.views[0].cols; k0 += TILE_K) {
            for (var i = lane % 16u; i < TILE_K * 4u; i += 16u) {
                let by_k = vec2<bool>(p.views[0].col == 1u, p.views[1].col != 1u);
                let k = select(vec2<u32>(i / 4u), vec2<u32>(i % TILE_K), by_k);
                let quad = select(vec2<u32>(i % 4u), vec2<u32>(i / TILE_K), by_k);
                a_tile[(place * TILE_K + k.x) * 4u + quad.x] = quad_a(a_item, 4u * quad.x, k0 + k.x);
                b_tile[(place * TILE_K + k.y) * 4u + quad.y] = quad_b(b_item, k0 + k.y, 4u * quad.y);
            }
            // The tiles are complete before anyone multiplies.
            workgroupBarrier();
            var sum = mat4x4<f32>();
            for (var k = 0u; k < TILE_K; k++) {
                sum += outer(a_tile[(place * TILE_K + k) * 4u + r], b_tile[(place * TILE_K + k) * 4u + c]);
            }
            acc += sum;
            // Everyone has multiplied before the tiles are overwritten.
            workgroupBarrier();
        }
        if (first + place < p.n.x && !is_closed(item)) { store_quad(tail(item), 4u * r, 4u * c, acc); }
    }
}

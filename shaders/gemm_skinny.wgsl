// out = alpha a b + beta d + gamma I, as gemm.wgsl, for results of at most 8 columns
// a [m, k], b [k, n], d and out [m, n], per item; any strides; a and b f32 or packed f16.
// One workgroup 32 rows; eight invocations a row share its inner side, each all columns; workgroup z (strided) over items, x and y (strided) over blocks of rows.
// Preconditions: as gemm.wgsl; n at most 8.
// Source: a matrix-vector product for few vectors, bound by reading a once; partial sums meet in workgroup memory in a fixed order.
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

var<workgroup> partial: array<vec4<f32>, 512>;

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

// Columns c..c+4 of row k of b, zero outside.
fn quad_b(at: u32, c: u32) -> vec4<f32> {
    let n = p.views[1].cols;
    let s = p.views[1].col;
    var q = vec4<f32>(0.0);
    if (c < n) { q.x = load_b(at + c * s); }
    if (c + 1u < n) { q.y = load_b(at + (c + 1u) * s); }
    if (c + 2u < n) { q.z = load_b(at + (c + 2u) * s); }
    if (c + 3u < n) { q.w = load_b(at + (c + 3u) * s); }
    return q;
}

@compute @workgroup_size(256)
fn gemm_skinny(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let depth = p.views[0].cols;
    let all_blocks = (p.views[3].rows + 31u) / 32u;
    // Neighbouring invocations read neighbouring addresses, whichever stride is 1.
    let row = select(lane % 32u, lane / 8u, p.views[0].col == 1u);
    let share = select(lane / 32u, lane % 8u, p.views[0].col == 1u);
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let a_item = item_offset(0u, item);
        let b_item = item_offset(1u, item);
        let t = tail(item);
        let blocks = select(all_blocks, 0u, is_closed(item));
        for (var index = group.x + group.y * groups.x; index < blocks; index += groups.x * groups.y) {
            let r = index * 32u + row;
            let a_row = a_item + min(r, p.views[0].rows - 1u) * p.views[0].row;
            var low = vec4<f32>(0.0);
            var high = vec4<f32>(0.0);
            for (var k = share; k < depth; k += 8u) {
                let x = load_a(a_row + k * p.views[0].col);
                let at = b_item + k * p.views[1].row;
                low += x * quad_b(at, 0u);
                if (p.views[1].cols > 4u) { high += x * quad_b(at, 4u); }
            }
            partial[(share * 32u + row) * 2u] = low;
            partial[(share * 32u + row) * 2u + 1u] = high;
            // All shares are there before they are added.
            workgroupBarrier();
            let mine = lane / 8u;
            let c = lane % 8u;
            var sum = 0.0;
            for (var i = 0u; i < 8u; i++) {
                sum += partial[(i * 32u + mine) * 2u + c / 4u][c % 4u];
            }
            store(t, index * 32u + mine, c, sum);
            // Everyone has added before the shares are overwritten.
            workgroupBarrier();
        }
    }
}

// out = alpha a b + beta d + gamma I, as gemm_large.wgsl, with operands read four elements at once
// a [m, k], b [k, n], d and out [m, n], per item; a and b f32, d and out of any strides.
// One workgroup of 16 x 16 a tile of 128 x 128, its first half loads a, its second b; each invocation four blocks of 4 x 4 elements, 64 rows or columns apart; grid as gemm_large.wgsl.
// Preconditions: as gemm.wgsl; of a and of b one side has stride 1 and a length of whole fours, and offset, item stride and the other stride are whole fours.
// Source: as gemm_large.wgsl, whose sums these are, in the same order.
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
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> block: array<f32>;

// 16 steps of k: four rows of a, then four columns of b, each.
var<workgroup> tiles: array<vec4<f32>, 1024>;

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

// How one invocation loads: its operand, as outer side (rows of a, columns of b) by k.
struct Load { is_b: bool, along_k: bool, outer: u32, depth: u32, outer_stride: u32, k_stride: u32, quad: u32, k: u32 }

fn load(lane: u32) -> Load {
    let is_b = lane >= 128u;
    let v = p.views[select(0u, 1u, is_b)];
    let outer_stride = select(v.row, v.col, is_b);
    let k_stride = select(v.col, v.row, is_b);
    let depth = p.views[0].cols;
    let l = lane % 128u;
    // Along k: four neighbours read 16 steps of one row. Across: 32 neighbours read 128 rows of one step.
    let along_k = k_stride == 1u && depth % 4u == 0u && outer_stride % 4u == 0u;
    return Load(is_b, along_k, select(v.rows, v.cols, is_b), depth, outer_stride, k_stride,
                select(l % 32u, l / 4u, along_k), select(l / 32u, 4u * (l % 4u), along_k));
}

fn four(l: Load, item: u32, at: vec2<u32>) -> vec4<f32> {
    if (at.x >= l.outer || at.y >= l.depth) { return vec4<f32>(); }
    let i = (item + at.x * l.outer_stride + at.y * l.k_stride) / 4u;
    if (l.is_b) { return b[i]; }
    return a[i];
}

// Along k: four steps from k on of four rows from `first` on. Across: four rows from `first` on of steps k, k + 4, k + 8, k + 12. Zero outside.
fn fetch(l: Load, item: u32, first: u32, k: u32) -> mat4x4<f32> {
    let step = select(vec2<u32>(0u, 4u), vec2<u32>(1u, 0u), l.along_k);
    let at = vec2<u32>(first, k);
    let m = mat4x4<f32>(four(l, item, at), four(l, item, at + step), four(l, item, at + 2u * step), four(l, item, at + 3u * step));
    if (l.along_k) { return transpose(m); }
    return m;
}

fn keep(l: Load, m: mat4x4<f32>) {
    let at = select(0u, 512u, l.is_b) + l.k * 32u + l.quad;
    let step = select(128u, 32u, l.along_k);
    tiles[at] = m[0]; tiles[at + step] = m[1]; tiles[at + 2u * step] = m[2]; tiles[at + 3u * step] = m[3];
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
    for (var i = 0u; i < 16u; i++) { store(t, r + i / 4u, c + i % 4u, sums[i / 4u][i % 4u]); }
}

fn outer(x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> { return mat4x4<f32>(x.x * y, x.y * y, x.z * y, x.w * y); }

@compute @workgroup_size(16, 16)
fn gemm_wide(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let l = load(lane);
    let tiles_n = (p.views[3].cols + 127u) / 128u;
    let all_tiles = tiles_n * ((p.views[3].rows + 127u) / 128u);
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let from_item = item_offset(select(0u, 1u, l.is_b), item);
        let t = tail(item);
        let count = select(all_tiles, 0u, is_closed(item));
        for (var tile = group.x + group.y * groups.x; tile < count; tile += groups.x * groups.y) {
            let row = tile / tiles_n * 128u;
            let col = tile % tiles_n * 128u;
            // Tiles above the diagonal are mirror images; the condition depends on the workgroup alone.
            if (SYMMETRIC && col > row) { continue; }
            let first = select(row, col, l.is_b) + 4u * l.quad;
            var s00 = mat4x4<f32>(); var s01 = mat4x4<f32>(); var s10 = mat4x4<f32>(); var s11 = mat4x4<f32>();
            var next = fetch(l, from_item, first, l.k);
            for (var k0 = 0u; k0 < p.views[0].cols; k0 += 16u) {
                keep(l, next);
                // The tiles are complete before anyone multiplies.
                workgroupBarrier();
                next = fetch(l, from_item, first, k0 + 16u + l.k);
                for (var i = 0u; i < 512u; i += 32u) {
                    let x = tiles[i + local.y]; let x_far = tiles[i + 16u + local.y];
                    let y = tiles[i + 512u + local.x]; let y_far = tiles[i + 528u + local.x];
                    s00 += outer(x, y); s01 += outer(x, y_far); s10 += outer(x_far, y); s11 += outer(x_far, y_far);
                }
                // Everyone has multiplied before the tiles are overwritten.
                workgroupBarrier();
            }
            let r = row + 4u * local.y; let c = col + 4u * local.x;
            store_quad(t, r, c, s00); store_quad(t, r, c + 64u, s01); store_quad(t, r + 64u, c, s10); store_quad(t, r + 64u, c + 64u, s11);
        }
    }
}

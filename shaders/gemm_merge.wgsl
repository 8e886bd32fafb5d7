// out = alpha sum_r partial_r + beta d + gamma I; or (1 - beta) alpha sum_r partial_r + beta out, a running average
// partial [m, n] of run r of item i at i n.w + r, n.w runs an item; d and out [m, n], per item, any strides.
// One invocation an element of the result (strided), of the items from n.y on; runs are summed in their order.
// Preconditions: as gemm.wgsl; partial as gemm_split.wgsl leaves it; symmetric: only the lower triangles of partial and d are read. n.z = column of the block's gate.
// Source: none.
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
@group(0) @binding(1) var<storage, read> partial: array<f32>;
@group(0) @binding(2) var<storage, read> d: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> block: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn coefficient(i: u32, item: u32) -> f32 {
    if (!BLOCK || p.column[i] == NONE) { return p.coef[i]; }
    return p.coef[i] * block[item_offset(3u, item) + p.column[i] * p.views[3].col];
}

// An item whose gate is closed is left alone.
fn is_closed(item: u32) -> bool {
    if (GATE_IN_D) { return d[item_offset(1u, item)] == 0.0; }
    return GATED && block[item_offset(3u, item) + p.n.z * p.views[3].col] == 0.0;
}

@compute @workgroup_size(256)
fn gemm_merge(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let cols = p.views[2].cols;
    let elements = p.views[2].rows * cols;
    for (var i = id.x; i < p.n.x * elements; i += groups.x * 256u) {
        let item = p.n.y + i / elements;
        let r = i % elements / cols;
        let c = i % cols;
        if ((SYMMETRIC && c > r) || is_closed(item)) { continue; }
        let first = p.views[0].offset + i / elements * p.n.w * p.views[0].item + r * p.views[0].row + c;
        var sum = 0.0;
        for (var run = 0u; run < p.n.w; run++) { sum += partial[first + run * p.views[0].item]; }
        let beta = coefficient(1u, item);
        var result = coefficient(0u, item) * select(1.0, 1.0 - beta, RUNNING_MEAN) * sum;
        let to = item_offset(2u, item);
        let at = to + r * p.views[2].row + c * p.views[2].col;
        if (IN_PLACE) { result += beta * out[at]; }
        if (ADD_D) { result += beta * d[item_offset(1u, item) + r * p.views[1].row + c * p.views[1].col]; }
        if (r == c) { result += coefficient(2u, item); }
        out[at] = result;
        if (SYMMETRIC && c < r) { out[to + c * p.views[2].row + r * p.views[2].col] = result; }
    }
}

// v <- b2 v + (1 - b2) g^2; out = m / (sqrt(v / c) + eps), c = 1 - b2^t (n.y = 1) or 1
// g, m, v, out [m, n] any strides, block [1, WIDTH] per item.
// One invocation an element; elements of all items in one flat index, strided over the grid.
// Preconditions: v and out are buffers of their own. Items with gate 0 are left alone.
// Source: facebookresearch/optimizers, grafting from Adagrad, RMSprop and Adam.
const BETA2: u32 = 9u;
const ONE_MINUS_BETA2: u32 = 10u;
const EPSILON: u32 = 11u;
const WEIGHT2: u32 = 35u;
const GATE: u32 = 36u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> m: array<f32>;
@group(0) @binding(3) var<storage, read> block: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(256)
fn graft_direction(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let cols = p.views[4].cols;
    let area = p.views[4].rows * cols;
    for (var i = id.x; i < p.n.x * area; i += groups.x * 256u) {
        let item = i / area;
        let row = item_offset(2u, item);
        if (block[row + GATE] == 0.0) { continue; }
        let r = i % area / cols;
        let c = i % cols;
        let gradient = g[item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col];
        let v_at = item_offset(3u, item) + r * p.views[3].row + c * p.views[3].col;
        let second = block[row + BETA2] * v[v_at] + block[row + ONE_MINUS_BETA2] * gradient * gradient;
        v[v_at] = second;
        var corrected = second;
        if (p.n.y == 1u) { corrected /= block[row + WEIGHT2]; }
        let filtered = m[item_offset(1u, item) + r * p.views[1].row + c * p.views[1].col];
        out[item_offset(4u, item) + r * p.views[4].row + c * p.views[4].col] = filtered / (sqrt(corrected) + block[row + EPSILON]);
    }
}

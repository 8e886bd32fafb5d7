// m <- decay m + fresh g; also, from the new m, out = decay m + fresh g (n.y = 1), or m / (1 - b1^t) (n.y = 2)
// g, m, out [m, n] any strides, block [1, WIDTH] per item. decay and fresh are coef.x and coef.y, times columns of the block where there are any.
// One invocation an element; elements of all items in one flat index, strided over the grid.
// Preconditions: m and out are buffers of their own. Items with gate 0 are left alone.
// Source: KellerJordan/Muon; [KB15] Adam, section 3.
const NONE: u32 = 0xffffffffu;
const WEIGHT1: u32 = 34u;
const GATE: u32 = 36u;
const LOOK_AHEAD: u32 = 1u;
const CORRECTED: u32 = 2u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> block: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(256)
fn momentum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let cols = p.views[2].cols;
    let area = p.views[2].rows * cols;
    for (var i = id.x; i < p.n.x * area; i += groups.x * 256u) {
        let item = i / area;
        let row = item_offset(1u, item);
        if (block[row + GATE] == 0.0) { continue; }
        let r = i % area / cols;
        let c = i % cols;
        var decay = p.coef.x;
        if (p.column.x != NONE) { decay *= block[row + p.column.x]; }
        var fresh = p.coef.y;
        if (p.column.y != NONE) { fresh *= block[row + p.column.y]; }
        let gradient = fresh * g[item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col];
        let at = item_offset(2u, item) + r * p.views[2].row + c * p.views[2].col;
        let next = decay * m[at] + gradient;
        m[at] = next;
        let out_at = item_offset(3u, item) + r * p.views[3].row + c * p.views[3].col;
        if (p.n.y == LOOK_AHEAD) { out[out_at] = decay * next + gradient; }
        if (p.n.y == CORRECTED) {
            let corrected = next / block[row + WEIGHT1];
            out[out_at] = select(0.0, corrected, (bitcast<u32>(corrected) & 0x7fffffffu) < 0x7f800000u);
        }
    }
}

// out = alpha x + beta y + gamma I
// x, y and out [m, n] per item; any strides.
// One invocation an element; elements of all items in one flat index, strided over the grid.
// Preconditions: out is no element of x; y is out (n.y bit 2) or a buffer of its own. Items with gate 0 (bit 3) are left alone.
// Source: none.
const NONE: u32 = 0xffffffffu;
const HAS_X: u32 = 1u;
const HAS_Y: u32 = 2u;
const IN_PLACE: u32 = 4u;
const HAS_GATE: u32 = 8u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> block: array<f32>;
@group(0) @binding(5) var<storage, read> gate: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn coefficient(i: u32, block_item: u32) -> f32 {
    let c = p.coef[i];
    if (p.column[i] == NONE) { return c; }
    return c * block[block_item + p.column[i] * p.views[3].col];
}

@compute @workgroup_size(256)
fn axpby(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let area = p.views[2].rows * p.views[2].cols;
    for (var i = id.x; i < p.n.x * area; i += groups.x * 256u) {
        let item = i / area;
        let r = i % area / p.views[2].cols;
        let c = i % p.views[2].cols;
        if ((p.n.y & HAS_GATE) != 0u && gate[item_offset(4u, item)] == 0.0) { continue; }
        let block_item = item_offset(3u, item);
        let at = item_offset(2u, item) + r * p.views[2].row + c * p.views[2].col;
        var sum = 0.0;
        if ((p.n.y & HAS_X) != 0u) {
            sum = coefficient(0u, block_item) * x[item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col];
        }
        if ((p.n.y & IN_PLACE) != 0u) {
            sum += coefficient(1u, block_item) * out[at];
        } else if ((p.n.y & HAS_Y) != 0u) {
            sum += coefficient(1u, block_item) * y[item_offset(1u, item) + r * p.views[1].row + c * p.views[1].col];
        }
        if (r == c) { sum += coefficient(2u, block_item); }
        out[at] = sum;
    }
}

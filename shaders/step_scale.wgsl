// out = (1 - lr lambda) sqrt(1 - b2^t) / (1 - b1^t)
// out [1, 1], block [1, WIDTH] per item. n.y bits: 1 the decay's factor, 2 the corrections; without them 1.
// One invocation an item, strided over the grid.
// Preconditions: none. A correction that is not finite counts as 0.
// Source: nikhilvyas/SOAP.
const WEIGHT_DECAY: u32 = 12u;
const CURRENT_RATE: u32 = 33u;
const WEIGHT1: u32 = 34u;
const WEIGHT2: u32 = 35u;
const DECAYED: u32 = 1u;
const CORRECTED: u32 = 2u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> block: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(64)
fn step_scale(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        let row = item_offset(0u, item);
        var scale = 1.0;
        if ((p.n.y & DECAYED) != 0u) { scale = 1.0 - block[row + CURRENT_RATE] * block[row + WEIGHT_DECAY]; }
        if ((p.n.y & CORRECTED) != 0u) {
            let correction = sqrt(block[row + WEIGHT2]) / block[row + WEIGHT1];
            scale *= select(0.0, correction, (bitcast<u32>(correction) & 0x7fffffffu) < 0x7f800000u);
        }
        out[item_offset(1u, item)] = scale;
    }
}

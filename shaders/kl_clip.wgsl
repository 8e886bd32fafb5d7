// out[t] = min(1, sqrt(kl_clip / |lr^2 sum over layers of dots[layer, t]|)); 1 where the sum or the clip is 0, 0 where it is not finite
// dots [layers * trials, 1, 1], layer outer; block [1, WIDTH], out [1, 1] per trial. n.y = layers.
// One invocation a trial, strided over the grid.
// Preconditions: none.
// Source: kfac-pytorch, one factor over all layers.
const CURRENT_RATE: u32 = 33u;
const KL_CLIP: u32 = 17u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dots: array<f32>;
@group(0) @binding(2) var<storage, read> block: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(64)
fn kl_clip(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var t = id.x; t < p.n.x; t += groups.x * 64u) {
        var sum = 0.0;
        for (var layer = 0u; layer < p.n.y; layer++) { sum += dots[p.views[0].offset + (layer * p.n.x + t) * p.views[0].item]; }
        let row = item_offset(1u, t);
        let quadratic = abs(block[row + CURRENT_RATE] * block[row + CURRENT_RATE] * sum);
        var factor = 1.0;
        if ((bitcast<u32>(quadratic) & 0x7fffffffu) >= 0x7f800000u) {
            factor = 0.0;
        } else if (block[row + KL_CLIP] != 0.0 && quadratic != 0.0) {
            factor = min(1.0, sqrt(block[row + KL_CLIP] / quadratic));
        }
        out[item_offset(2u, t)] = factor;
    }
}

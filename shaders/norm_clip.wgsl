// out[t] = min(1, max / sqrt(sum over layers of squares[layer, t])); 1 where the sum is 0, the sum itself where it is not finite
// squares [layers * trials, 1, 1], layer outer; out [1, 1] per trial. coef.x = max, n.y = layers.
// One invocation a trial, strided over the grid.
// Preconditions: none.
// Source: optax.clip_by_global_norm.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> squares: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn norm_clip(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var t = id.x; t < p.n.x; t += groups.x * 64u) {
        var sum = 0.0;
        for (var layer = 0u; layer < p.n.y; layer++) { sum += squares[p.views[0].offset + (layer * p.n.x + t) * p.views[0].item]; }
        var factor = sum;
        if ((bitcast<u32>(sum) & 0x7fffffffu) < 0x7f800000u) {
            factor = select(min(1.0, p.coef.x / sqrt(sum)), 1.0, sum == 0.0);
        }
        out[p.views[1].offset + (t / p.views[1].div) % p.views[1].modulo * p.views[1].item] = factor;
    }
}

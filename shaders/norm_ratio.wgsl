// out = sqrt(donor) / (sqrt(own) + 1e-16), 1 without a donor (n.y = 0); 0 where own or the result is not finite
// donor, own, out [1, 1] per item.
// One invocation an item, strided over the grid.
// Preconditions: none.
// Source: facebookresearch/optimizers, grafting.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> donor: array<f32>;
@group(0) @binding(2) var<storage, read> own: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) < 0x7f800000u;
}

@compute @workgroup_size(64)
fn norm_ratio(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        let square = own[item_offset(1u, item)];
        var ratio = 1.0;
        if (p.n.y == 1u) { ratio = sqrt(donor[item_offset(0u, item)]) / (sqrt(square) + 1e-16); }
        out[item_offset(2u, item)] = select(0.0, ratio, finite(square) && finite(ratio));
    }
}

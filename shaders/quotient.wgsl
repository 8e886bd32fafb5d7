// out = scale x / y, or scale x / sqrt(y) (n.y bit 1); 0 where that is not finite
// x (n.y bit 0; 1 without), y and out [1, 1] per item; coef.x = scale.
// One invocation an item, strided over the grid.
// Preconditions: none.
// Source: none.
const HAS_X: u32 = 1u;
const ROOT: u32 = 2u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) < 0x7f800000u;
}

@compute @workgroup_size(64)
fn quotient(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        var top = p.coef.x;
        if ((p.n.y & HAS_X) != 0u) { top *= x[item_offset(0u, item)]; }
        let y = y[item_offset(1u, item)];
        var bottom = y;
        if ((p.n.y & ROOT) != 0u) { bottom = sqrt(y); }
        let result = top / bottom;
        out[item_offset(2u, item)] = select(0.0, result, finite(y) && bottom != 0.0 && finite(result));
    }
}

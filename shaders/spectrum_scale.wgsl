// out[r, c] = x[r, c] (max(values[c], 0) + shift)^(-1 / n.y), 0 where that is not a root of a positive finite number
// x and out [m, n], values [1, n] per item, any strides; coefficient 0 = shift.
// One invocation an element, strided over the grid.
// Preconditions: 1 <= n.y <= 16.
// Source: a Newton step on y^-q = x after the built-in exponentials, whose own error is 1e-6 on some devices.
const NONE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> block: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn inverse_root(x: f32, q: u32) -> f32 {
    if (x <= 0.0 || bitcast<u32>(x) >= 0x7f800000u) { return 0.0; }
    var y = exp2(-log2(x) / f32(q));
    for (var step = 0u; step < 2u; step++) {
        var product = x;
        for (var i = 0u; i < q; i++) { product *= y; }
        y += y * (1.0 - product) / f32(q);
    }
    return y;
}

@compute @workgroup_size(256)
fn spectrum_scale(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let area = p.views[2].rows * p.views[2].cols;
    for (var i = id.x; i < p.n.x * area; i += groups.x * 256u) {
        let item = i / area;
        let r = i % area / p.views[2].cols;
        let c = i % p.views[2].cols;
        var shift = p.coef.x;
        if (p.column.x != NONE) { shift *= block[item_offset(3u, item) + p.column.x * p.views[3].col]; }
        let damped = max(values[item_offset(1u, item) + c * p.views[1].col], 0.0) + shift;
        let source = item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col;
        out[item_offset(2u, item) + r * p.views[2].row + c * p.views[2].col] = inverse_root(damped, p.n.y) * x[source];
    }
}

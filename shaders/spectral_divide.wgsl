// out[r, c] = x[r, c] / (max(left[r], 0) max(right[c], 0) + damping), 0 where the denominator is not positive and finite
// x and out [m, n], left [1, m], right [1, n], block [1, WIDTH] per item, any strides.
// One invocation an element, strided over the grid.
// Preconditions: none. The damping is the block's times its ridge and its adaptation.
// Source: kfac-pytorch's eigen method.
const DAMPING: u32 = 15u;
const RIDGE: u32 = 41u;
const DAMPING_SCALE: u32 = 45u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> left: array<f32>;
@group(0) @binding(3) var<storage, read> right: array<f32>;
@group(0) @binding(4) var<storage, read> block: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(256)
fn spectral_divide(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let cols = p.views[4].cols;
    let area = p.views[4].rows * cols;
    for (var i = id.x; i < p.n.x * area; i += groups.x * 256u) {
        let item = i / area;
        let r = i % area / cols;
        let c = i % cols;
        let row = item_offset(3u, item);
        let damping = block[row + DAMPING] * block[row + RIDGE] * block[row + DAMPING_SCALE];
        let weight = max(left[item_offset(1u, item) + r * p.views[1].col], 0.0);
        let below = weight * max(right[item_offset(2u, item) + c * p.views[2].col], 0.0) + damping;
        var result = 0.0;
        if (below > 0.0 && bitcast<u32>(below) < 0x7f800000u) {
            result = x[item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col] / below;
        }
        out[item_offset(4u, item) + r * p.views[4].row + c * p.views[4].col] = result;
    }
}

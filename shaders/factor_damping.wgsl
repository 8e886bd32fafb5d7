// out = (lambda_left, lambda_right): both the damping, or (sqrt(damping) / pi, pi sqrt(damping)), pi^2 = right_mean / left_mean (n.y = 1)
// left_mean, right_mean [1, 1] (trace over dimension), block [1, WIDTH], out [1, 2] per item.
// One invocation an item, strided over the grid.
// Preconditions: none; a factor without trace leaves pi = 1. The damping is multiplied by the item's ridge.
// Source: [MG15] section 6.3.
const DAMPING: u32 = 15u;
const RIDGE: u32 = 41u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> left_mean: array<f32>;
@group(0) @binding(2) var<storage, read> right_mean: array<f32>;
@group(0) @binding(3) var<storage, read> block: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(64)
fn factor_damping(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        let row = item_offset(2u, item);
        let damping = block[row + DAMPING] * block[row + RIDGE];
        let to = item_offset(3u, item);
        var lambda = vec2<f32>(damping);
        if (p.n.y == 1u) {
            let left = left_mean[item_offset(0u, item)];
            let right = right_mean[item_offset(1u, item)];
            var pi = 1.0;
            if (left > 0.0 && right > 0.0) { pi = sqrt(right / left); }
            lambda = vec2<f32>(sqrt(damping) / pi, sqrt(damping) * pi);
        }
        out[to] = lambda.x;
        out[to + p.views[3].col] = lambda.y;
    }
}

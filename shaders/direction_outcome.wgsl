// Counts in the block where the gate is open and the factor of the direction is 0
// factor [1, 1], block [1, WIDTH] per item.
// One invocation an item, strided over the grid.
// Preconditions: none.
// Source: none.
const GATE: u32 = 36u;
const FAILED_DIRECTIONS: u32 = 44u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> factor: array<f32>;
@group(0) @binding(2) var<storage, read_write> block: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(64)
fn direction_outcome(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        let row = item_offset(1u, item);
        if (block[row + GATE] != 0.0 && factor[item_offset(0u, item)] == 0.0) { block[row + FAILED_DIRECTIONS] += 1.0; }
    }
}

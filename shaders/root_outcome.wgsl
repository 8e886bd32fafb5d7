// ok = left_ok * right_ok; a failure multiplies the item's ridge by 10 (at most 1e8) and is counted, a success divides it by 10 (at least 1); without statistics ok = 0
// left_ok, right_ok, ok [1, 1], block [1, WIDTH] per item.
// One invocation an item, strided over the grid.
// Preconditions: none.
// Source: google-research/precondition's retry with ten times the ridge, one retry a refresh.
const STATISTICS_WEIGHT: u32 = 39u;
const RIDGE: u32 = 41u;
const FAILED_ROOTS: u32 = 42u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> left_ok: array<f32>;
@group(0) @binding(2) var<storage, read> right_ok: array<f32>;
@group(0) @binding(3) var<storage, read_write> ok: array<f32>;
@group(0) @binding(4) var<storage, read_write> block: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(64)
fn root_outcome(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        let good = left_ok[item_offset(0u, item)] * right_ok[item_offset(1u, item)] != 0.0;
        let row = item_offset(3u, item);
        if (block[row + STATISTICS_WEIGHT] == 0.0) {
            ok[item_offset(2u, item)] = 0.0;
            continue;
        }
        ok[item_offset(2u, item)] = select(0.0, 1.0, good);
        if (good) {
            block[row + RIDGE] = max(block[row + RIDGE] * 0.1, 1.0);
        } else {
            block[row + RIDGE] = min(block[row + RIDGE] * 10.0, 1e8);
            block[row + FAILED_ROOTS] += 1.0;
        }
    }
}

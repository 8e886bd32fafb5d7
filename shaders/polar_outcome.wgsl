// scale = factor and ok = 1, 0 where a direction of this size is not finite or above 1e18; one of these behind an open gate counts in the block
// size, scale, ok [1, 1] per head, block [1, WIDTH] per item; n.y heads an item, neighbours. coef.x = factor.
// One invocation an item, strided over the grid.
// Preconditions: none. Tests bits, since a shader compiler may assume that NaN does not occur.
// Source: none.
const LARGEST: u32 = 0x5d5e0b6bu; // bits of 1e18
const GATE: u32 = 36u;
const FAILED_ROOTS: u32 = 42u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> size: array<f32>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> ok: array<f32>;
@group(0) @binding(4) var<storage, read_write> block: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(64)
fn polar_outcome(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        let row = item_offset(3u, item);
        let open = block[row + GATE] != 0.0;
        var failed = false;
        for (var head = item * p.n.y; head < (item + 1u) * p.n.y; head++) {
            let good = (bitcast<u32>(size[item_offset(0u, head)]) & 0x7fffffffu) <= LARGEST;
            failed = failed || !good;
            scale[item_offset(1u, head)] = select(0.0, p.coef.x, good);
            ok[item_offset(2u, head)] = select(0.0, 1.0, good && open);
        }
        if (failed && open) { block[row + FAILED_ROOTS] += 1.0; }
    }
}

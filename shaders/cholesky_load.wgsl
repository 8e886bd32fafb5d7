// out = lower triangle of a + damping I, zero above; ok = 1
// a and out [n, n], any strides; ok [1, 1] per item. coef.x = damping.
// One invocation an element; elements of all items in one flat index, strided over the grid.
// Preconditions: out is not a. First dispatch of a factorization.
// Source: none.
const NONE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read> block: array<f32>;
@group(0) @binding(4) var<storage, read_write> ok: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn coefficient(i: u32, block_item: u32) -> f32 {
    let c = p.coef[i];
    if (p.column[i] == NONE) { return c; }
    return c * block[block_item + p.column[i] * p.views[2].col];
}

@compute @workgroup_size(256)
fn cholesky_load(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = p.views[1].rows;
    for (var i = id.x; i < p.n.x * n * n; i += groups.x * 256u) {
        let item = i / (n * n);
        let r = i % (n * n) / n;
        let c = i % n;
        var value = 0.0;
        if (c <= r) { value = a[item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col]; }
        if (c == r) { value += coefficient(0u, item_offset(2u, item)); }
        out[item_offset(1u, item) + r * p.views[1].row + c * p.views[1].col] = value;
        if (r == 0u && c == 0u) { ok[item_offset(3u, item)] = 1.0; }
    }
}

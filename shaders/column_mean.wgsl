// out[0, c] = mean over rows of x[r, c]
// x [n, q], out [1, q] per item; any strides.
// One invocation a column; columns of all items in one flat index, strided over the grid; four running sums a column.
// Preconditions: none.
// Source: none.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(64)
fn column_mean(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let cols = p.views[0].cols;
    let rows = p.views[0].rows;
    for (var i = id.x; i < p.n.x * cols; i += groups.x * 64u) {
        let at = item_offset(0u, i / cols) + i % cols * p.views[0].col;
        var sums = vec4<f32>(0.0);
        for (var r = 0u; r < rows; r++) { sums[r % 4u] += x[at + r * p.views[0].row]; }
        out[item_offset(1u, i / cols) + i % cols * p.views[1].col] = (sums.x + sums.y + sums.z + sums.w) / f32(rows);
    }
}

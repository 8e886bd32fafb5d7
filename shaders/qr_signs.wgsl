// q[r, c] <- -q[r, c] where work[c, c] < 0: the diagonal of R becomes positive
// work [n, n]: R on and above the diagonal; q [n, n], any strides, per item.
// One invocation an element; elements of all items in one flat index, strided over the grid.
// Preconditions: none.
// Source: [GVL13] Golub, Van Loan, Matrix Computations, 5.2.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> work: array<f32>;
@group(0) @binding(2) var<storage, read_write> q: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(256)
fn qr_signs(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = p.views[1].rows;
    for (var i = id.x; i < p.n.x * n * n; i += groups.x * 256u) {
        let item = i / (n * n);
        let c = i % n;
        if (work[item_offset(0u, item) + c * (n + 1u)] >= 0.0) { continue; }
        let at = item_offset(1u, item) + i % (n * n) / n * p.views[1].row + c * p.views[1].col;
        q[at] = -q[at];
    }
}

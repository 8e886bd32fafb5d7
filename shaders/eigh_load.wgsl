// work = (the symmetric part of a, I), both padded with zeros (ones on the diagonal of I) to N rows and columns; n.y = 1: the matrix is there already, made symmetric in place
// a [n, n], any strides; work [2 N, N] per item, the matrix above the vectors; N a multiple of 32: + 33 rows, 32 x 32 numbers of each pair's rotation, and a flag a pair.
// One invocation an element of [N, N] of an item, strided over the grid.
// Preconditions: none.
// Source: none.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> work: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(256)
fn eigh_load(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = p.views[0].rows;
    let padded = p.views[1].cols;
    for (var i = id.x; i < p.n.x * padded * padded; i += groups.x * 256u) {
        let item = i / (padded * padded);
        let r = i / padded % padded;
        let c = i % padded;
        let target_item = item_offset(1u, item);
        let to = target_item + i % (padded * padded);
        work[to + padded * padded] = select(0.0, 1.0, r == c);
        if (p.n.y == 1u) {
            if (r < c) {
                let mirror = target_item + c * padded + r;
                let mean = 0.5 * (work[to] + work[mirror]);
                work[to] = mean;
                work[mirror] = mean;
            }
            continue;
        }
        work[to] = 0.0;
        if (r < n && c < n) {
            let source = item_offset(0u, item);
            work[to] = 0.5 * (a[source + r * p.views[0].row + c * p.views[0].col] + a[source + c * p.views[0].row + r * p.views[0].col]);
        }
    }
}

// values, vectors = the diagonal of work's matrix in order, and the columns of its vectors in the same order
// work: see eigh_load; values [1, n], vectors [n, n] per item, any strides. n.y = 1: values descend.
// One invocation a column: counts the values before its own; x strided over columns, z over items.
// Preconditions: none; NaN is ordered by its bits.
// Source: none.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> work: array<f32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> vectors: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Orders numbers as a u32, NaN included.
fn key(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

@compute @workgroup_size(64)
fn eigh_sort(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = p.views[2].rows;
    let padded = p.views[0].cols;
    for (var item = id.z; item < p.n.x; item += groups.z) {
        let source = item_offset(0u, item);
        for (var c = id.x; c < n; c += groups.x * 64u) {
            let value = work[source + c * (padded + 1u)];
            let mine = key(value);
            var rank = 0u;
            for (var j = 0u; j < n; j++) {
                let other = key(work[source + j * (padded + 1u)]);
                if (other < mine || (other == mine && j < c)) { rank++; }
            }
            if (p.n.y == 1u) { rank = n - 1u - rank; }
            values[item_offset(1u, item) + rank * p.views[1].col] = value;
            let to = item_offset(2u, item) + rank * p.views[2].col;
            for (var r = 0u; r < n; r++) { vectors[to + r * p.views[2].row] = work[source + (padded + r) * padded + c]; }
        }
    }
}

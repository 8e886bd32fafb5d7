// out = scale (x - mean), scale = 1 / sqrt(variance + epsilon) or 0 where that is 1 / 0; mean and biased variance of each column
// x and out [n, q], mean, variance and scale [1, q] per item; any strides. coef.x = epsilon; n.y = columns a workgroup: 1 or 16.
// One workgroup n.y columns (strided): lane % n.y is the column, lane / n.y the first row; strided sums of differences from the first row, then a tree.
// Preconditions: none. A constant column has differences of 0, so its mean and variance are exact.
// Source: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> mean: array<f32>;
@group(0) @binding(4) var<storage, read_write> variance: array<f32>;
@group(0) @binding(5) var<storage, read_write> scale: array<f32>;

var<workgroup> partial: array<f32, 256>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// The sum over the lanes of this lane's column.
fn total(lane: u32, value: f32) -> f32 {
    partial[lane] = value;
    for (var half = 128u; half >= p.n.y; half /= 2u) {
        // The upper half is complete before it is added, and read before it is overwritten.
        workgroupBarrier();
        if (lane < half) { partial[lane] += partial[lane + half]; }
    }
    // The sums are complete before anyone reads them.
    workgroupBarrier();
    let sum = partial[lane % p.n.y];
    // The next partial sums start after these are read.
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(256)
fn standardise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = p.views[0].rows;
    let cols = p.views[0].cols;
    let turns = (cols + p.n.y - 1u) / p.n.y;
    let first = lane / p.n.y;
    let step = 256u / p.n.y;
    for (var turn = group.x; turn < p.n.x * turns; turn += groups.x) {
        let item = turn / turns;
        let wanted = turn % turns * p.n.y + lane % p.n.y;
        // Lanes beyond the last column repeat it and write nothing.
        let c = min(wanted, cols - 1u);
        let at = item_offset(0u, item) + c * p.views[0].col;
        let origin = x[at];
        var sum = 0.0;
        for (var r = first; r < rows; r += step) { sum += x[at + r * p.views[0].row] - origin; }
        let shift = total(lane, sum) / f32(rows);
        var squares = 0.0;
        for (var r = first; r < rows; r += step) {
            let d = (x[at + r * p.views[0].row] - origin) - shift;
            squares += d * d;
        }
        let spread = total(lane, squares) / f32(rows);
        let below = spread + p.coef.x;
        var factor = 0.0;
        if (below > 0.0) { factor = 1.0 / sqrt(below); }
        if (wanted < cols) {
            let to = item_offset(1u, item) + c * p.views[1].col;
            for (var r = first; r < rows; r += step) {
                out[to + r * p.views[1].row] = factor * ((x[at + r * p.views[0].row] - origin) - shift);
            }
            if (first == 0u) {
                mean[item_offset(2u, item) + c * p.views[2].col] = origin + shift;
                variance[item_offset(3u, item) + c * p.views[3].col] = spread;
                scale[item_offset(4u, item) + c * p.views[4].col] = factor;
            }
        }
    }
}

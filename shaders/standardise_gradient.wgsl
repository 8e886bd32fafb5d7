// dx = scale gamma (dy - mean(dy) - xhat mean(dy xhat)); sums[0] = factor sum dy xhat, sums[1] = factor sum dy; means and sums over each column
// xhat, dy and dx [n, q], scale and gamma [1, q], sums [2, q] per item; any strides. coef.x = factor; n.y = columns a workgroup: 1 or 16; n.z = 1: with gamma.
// One workgroup n.y columns (strided): lane % n.y is the column, lane / n.y the first row; strided sums, then a tree.
// Preconditions: none.
// Source: none.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xhat: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read> gamma: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(6) var<storage, read_write> sums: array<f32>;

var<workgroup> partial: array<vec2<f32>, 256>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// The sum over the lanes of this lane's column.
fn total(lane: u32, value: vec2<f32>) -> vec2<f32> {
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
fn standardise_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = p.views[4].rows;
    let cols = p.views[4].cols;
    let turns = (cols + p.n.y - 1u) / p.n.y;
    let first = lane / p.n.y;
    let step = 256u / p.n.y;
    for (var turn = group.x; turn < p.n.x * turns; turn += groups.x) {
        let item = turn / turns;
        let wanted = turn % turns * p.n.y + lane % p.n.y;
        // Lanes beyond the last column repeat it and write nothing.
        let c = min(wanted, cols - 1u);
        let x_at = item_offset(0u, item) + c * p.views[0].col;
        let y_at = item_offset(1u, item) + c * p.views[1].col;
        var sum = vec2<f32>(0.0);
        for (var r = first; r < rows; r += step) {
            let y = dy[y_at + r * p.views[1].row];
            sum += vec2<f32>(y * xhat[x_at + r * p.views[0].row], y);
        }
        let all = total(lane, sum);
        let mean = all / f32(rows);
        var factor = scale[item_offset(2u, item) + c * p.views[2].col];
        if (p.n.z == 1u) { factor *= gamma[item_offset(3u, item) + c * p.views[3].col]; }
        if (wanted < cols) {
            let to = item_offset(4u, item) + c * p.views[4].col;
            for (var r = first; r < rows; r += step) {
                let y = dy[y_at + r * p.views[1].row];
                dx[to + r * p.views[4].row] = factor * (y - mean.y - xhat[x_at + r * p.views[0].row] * mean.x);
            }
            if (first == 0u) {
                let sums_at = item_offset(5u, item) + c * p.views[5].col;
                sums[sums_at] = p.coef.x * all.x;
                sums[sums_at + p.views[5].row] = p.coef.x * all.y;
            }
        }
    }
}

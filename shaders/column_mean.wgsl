// out[0, c] = mean over rows of x[r, c], or of x[r, c] y[r, c]
// x and y [n, q], out [1, q] per item; any strides. n.y strips of columns an item; n.z: 1 with y.
// One workgroup a strip of 16 columns (strided), lane = 16 row + column: 16 strided sums a column, then a tree; the order depends on the item's shape alone.
// Preconditions: none.
// Source: none.
const STRIP: u32 = 16u;
const LANES: u32 = 16u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<f32, 256>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(256)
fn column_mean(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = p.views[0].rows;
    for (var unit = group.x; unit < p.n.x * p.n.y; unit += groups.x) {
        let item = unit / p.n.y;
        let c = unit % p.n.y * STRIP + lane % STRIP;
        var sum = 0.0;
        if (c < p.views[0].cols) {
            let x_at = item_offset(0u, item) + c * p.views[0].col;
            let y_at = item_offset(1u, item) + c * p.views[1].col;
            for (var r = lane / STRIP; r < rows; r += LANES) {
                let value = x[x_at + r * p.views[0].row];
                if (p.n.z == 1u) { sum += value * y[y_at + r * p.views[1].row]; } else { sum += value; }
            }
        }
        partial[lane] = sum;
        for (var half = 128u; half >= STRIP; half /= 2u) {
            // The upper half is complete before it is added, and read before it is overwritten.
            workgroupBarrier();
            if (lane < half) { partial[lane] += partial[lane + half]; }
        }
        if (lane < STRIP && c < p.views[0].cols) { out[item_offset(2u, item) + c * p.views[2].col] = partial[lane] / f32(rows); }
        // The next strip's partial sums start after this one's are used.
        workgroupBarrier();
    }
}

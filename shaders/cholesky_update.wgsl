// out[r, c] -= sum_k out[r, k] out[c, k] for k in j..j+PANEL and r >= c >= j + PANEL
// out [n, n] per item, any strides. n.y = j.
// One workgroup a 64 x 64 tile of the remaining lower triangle (x, strided) of an item (z, strided); each invocation 4 x 4 elements in registers.
// Preconditions: panel j is final. Only `out` is bound: panel and remainder are disjoint parts of it.
// Source: [GVL13] 4.2.5 (blocked form); the product as in `gemm`.
const PANEL: u32 = 32u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

// By column of the panel, 16 quads of rows.
var<workgroup> left: array<vec4<f32>, PANEL * 16u>;
var<workgroup> right: array<vec4<f32>, PANEL * 16u>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Rows r..r+4 of column k, zero outside.
fn quad(item: u32, r: u32, k: u32) -> vec4<f32> {
    var q = vec4<f32>(0.0);
    let n = p.views[0].rows;
    let s = p.views[0].row;
    let at = item + r * s + k * p.views[0].col;
    if (r < n) { q.x = out[at]; }
    if (r + 1u < n) { q.y = out[at + s]; }
    if (r + 2u < n) { q.z = out[at + 2u * s]; }
    if (r + 3u < n) { q.w = out[at + 3u * s]; }
    return q;
}

fn subtract(item: u32, r: u32, c: u32, value: f32) {
    if (r < p.views[0].rows && c <= r) { out[item + r * p.views[0].row + c * p.views[0].col] -= value; }
}

fn subtract_row(item: u32, r: u32, c: u32, values: vec4<f32>) {
    subtract(item, r, c, values.x);
    subtract(item, r, c + 1u, values.y);
    subtract(item, r, c + 2u, values.z);
    subtract(item, r, c + 3u, values.w);
}

@compute @workgroup_size(16, 16)
fn cholesky_update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let j = p.n.y;
    let n = p.views[0].rows;
    let first = j + PANEL;
    let side = (n - first + 63u) / 64u;
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let base = item_offset(0u, item);
        for (var tile = group.x; tile < side * side; tile += groups.x) {
            let row = first + tile / side * 64u;
            let col = first + tile % side * 64u;
            // Uniform: the tile depends on the workgroup alone.
            if (col > row) { continue; }
            for (var i = lane; i < 16u * PANEL; i += 256u) {
                // Neighbouring invocations read neighbouring addresses, whichever stride is 1.
                let k = select(i / 16u, i % PANEL, p.views[0].col == 1u);
                let q = select(i % 16u, i / PANEL, p.views[0].col == 1u);
                left[k * 16u + q] = quad(base, row + 4u * q, j + k);
                right[k * 16u + q] = quad(base, col + 4u * q, j + k);
            }
            // Both panels are complete before anyone multiplies.
            workgroupBarrier();
            var sum = mat4x4<f32>();
            for (var k = 0u; k < PANEL; k++) {
                let x = left[k * 16u + local.y];
                let y = right[k * 16u + local.x];
                sum += mat4x4<f32>(x.x * y, x.y * y, x.z * y, x.w * y);
            }
            let r = row + 4u * local.y;
            let c = col + 4u * local.x;
            subtract_row(base, r, c, sum[0]);
            subtract_row(base, r + 1u, c, sum[1]);
            subtract_row(base, r + 2u, c, sum[2]);
            subtract_row(base, r + 3u, c, sum[3]);
            // Everyone has multiplied before the panels are overwritten.
            workgroupBarrier();
        }
    }
}

// out[r, c] -= sum_k out[r, k] out[c, k] for k in j..j+PANEL and r >= c >= j + PANEL
// out [n, n] per item, any strides. n.y = j.
// One workgroup a 32 x 32 tile of the remaining lower triangle (x, strided) of an item (z, strided), 2 x 2 elements an invocation.
// Preconditions: panel j is final. Only `out` is bound: panel and remainder are disjoint parts of it.
// Source: [GVL13] 4.2.5 (blocked form).
const PANEL: u32 = 32u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

var<workgroup> left: array<f32, PANEL * 33u>;
var<workgroup> right: array<f32, PANEL * 33u>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn subtract(item: u32, r: u32, c: u32, value: f32) {
    if (r < p.views[0].rows && c <= r) { out[item + r * p.views[0].row + c * p.views[0].col] -= value; }
}

@compute @workgroup_size(16, 16)
fn cholesky_update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let j = p.n.y;
    let n = p.views[0].rows;
    let first = j + PANEL;
    let side = (n - first + 31u) / 32u;
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let base = item_offset(0u, item);
        for (var tile = group.x; tile < side * side; tile += groups.x) {
            let row = first + tile / side * 32u;
            let col = first + tile % side * 32u;
            // Uniform: the tile depends on the workgroup alone.
            if (col > row) { continue; }
            for (var i = lane; i < 32u * PANEL; i += 256u) {
                let k = j + i % PANEL;
                let r = row + i / PANEL;
                let c = col + i / PANEL;
                var u = 0.0;
                var v = 0.0;
                if (r < n) { u = out[base + r * p.views[0].row + k * p.views[0].col]; }
                if (c < n) { v = out[base + c * p.views[0].row + k * p.views[0].col]; }
                left[i / PANEL * 33u + i % PANEL] = u;
                right[i / PANEL * 33u + i % PANEL] = v;
            }
            // Both panels are complete before anyone multiplies.
            workgroupBarrier();
            var sum = vec4<f32>(0.0);
            for (var k = 0u; k < PANEL; k++) {
                let u = vec2<f32>(left[local.y * 33u + k], left[(local.y + 16u) * 33u + k]);
                let v = vec2<f32>(right[local.x * 33u + k], right[(local.x + 16u) * 33u + k]);
                sum += vec4<f32>(u.x * v, u.y * v);
            }
            subtract(base, row + local.y, col + local.x, sum.x);
            subtract(base, row + local.y, col + local.x + 16u, sum.y);
            subtract(base, row + local.y + 16u, col + local.x, sum.z);
            subtract(base, row + local.y + 16u, col + local.x + 16u, sum.w);
            // Everyone has multiplied before the panels are overwritten.
            workgroupBarrier();
        }
    }
}

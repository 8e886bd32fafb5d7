// Reflections that make columns j .. j + w of R upper triangular: H_1 ... H_w = I - Y V^T, applied within the panel alone
// work [n, n]: R on and above the diagonal; reflectors [2 n, n]: V over Y, in the panel's columns from row j on. n.y = j, w = min(PANEL, n - j).
// One workgroup an item (strided), PANEL columns by 8 slices of rows: one pass over the panel for norm and products, one to reflect it.
// Preconditions: dense row-major; earlier panels are applied; max |work| about 1. A column with less than sqrt(TINY) below the diagonal stays: H = I.
// Source: [GVL13] Golub, Van Loan, Matrix Computations, 5.1 and 5.2.
const PANEL: u32 = 32u;
const SLICES: u32 = 8u; // 256 / PANEL
const TINY: f32 = 1e-26; // squares that underflow are no part of what is above
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> work: array<f32>;
@group(0) @binding(2) var<storage, read_write> reflectors: array<f32>;

var<workgroup> partial: array<f32, PANEL * SLICES>;
var<workgroup> dots: array<f32, PANEL>;
var<workgroup> z: array<f32, PANEL>;
var<workgroup> t: array<f32, PANEL * PANEL>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(256)
fn qr_panel(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = p.views[0].rows;
    let j = p.n.y;
    let w = min(PANEL, n - j);
    let rows = n - j;
    let c = lane % PANEL;
    let slice = lane / PANEL;
    for (var item = group.x; item < p.n.x; item += groups.x) {
        let a = item_offset(0u, item) + j * (n + 1u);
        let v = item_offset(1u, item) + j * (n + 1u);
        let y = v + n * n;
        for (var k = 0u; k < w; k++) {
            // Products of column k below the diagonal with the reflectors before it, itself, and the columns behind it.
            var sum = 0.0;
            if (c < k) {
                for (var r = k + 1u + slice; r < rows; r += SLICES) { sum += work[a + r * n + k] * reflectors[v + r * n + c]; }
            } else if (c < w) {
                for (var r = k + 1u + slice; r < rows; r += SLICES) { sum += work[a + r * n + k] * work[a + r * n + c]; }
            }
            partial[lane] = sum;
            // All partial sums are there.
            workgroupBarrier();
            if (lane < PANEL) {
                var total = 0.0;
                for (var s = 0u; s < SLICES; s++) { total += partial[s * PANEL + lane]; }
                dots[lane] = total;
            }
            // The products are known before the reflection is formed.
            workgroupBarrier();
            let alpha = work[a + k * n + k];
            let below = dots[k];
            var beta = alpha;
            var tau = 0.0;
            var scale = 0.0;
            if (below > TINY) {
                beta = select(1.0, -1.0, alpha >= 0.0) * sqrt(alpha * alpha + below);
                tau = (beta - alpha) / beta;
                scale = 1.0 / (alpha - beta);
            }
            var head = 0.0;
            if (c < k) { head = reflectors[v + k * n + c]; } else if (c < w) { head = work[a + k * n + c]; }
            let product = head + scale * dots[c];
            if (slice == 0u) { z[c] = product; }
            // Everyone holds row k before it changes, and sees all of z.
            workgroupBarrier();
            storageBarrier();
            if (c > k && c < w) {
                for (var r = k + 1u + slice; r < rows; r += SLICES) { work[a + r * n + c] -= tau * product * scale * work[a + r * n + k]; }
                if (slice == 0u) { work[a + k * n + c] = head - tau * product; }
            }
            if (c == k) {
                for (var r = slice; r < rows; r += SLICES) {
                    var value = 0.0;
                    if (r > k) { value = scale * work[a + r * n + k]; }
                    if (r == k) { value = 1.0; }
                    reflectors[v + r * n + k] = value;
                }
                if (slice == 0u) { work[a + k * n + k] = beta; }
            }
            if (lane <= k) {
                var entry = tau;
                if (lane < k) {
                    var inner = 0.0;
                    for (var l = lane; l < k; l++) { inner += t[lane * PANEL + l] * z[l]; }
                    entry = -tau * inner;
                }
                t[lane * PANEL + k] = entry;
            }
            // The panel is reflected before the next column is looked at.
            workgroupBarrier();
            storageBarrier();
        }
        if (c < w) {
            for (var r = slice; r < rows; r += SLICES) {
                var sum = 0.0;
                for (var l = 0u; l <= c; l++) { sum += reflectors[v + r * n + l] * t[l * PANEL + c]; }
                reflectors[y + r * n + c] = sum;
            }
        }
        // T is used up before the next item overwrites it.
        workgroupBarrier();
    }
}

// out[item] = largest singular value of x
// x [k, q] with k <= q and k <= 48 (the host passes the transpose otherwise), any strides; out [1, 1] per item.
// One workgroup an item (strided): Gram matrix in workgroup memory, squared and trace-normalised 20 times, then ||x^T v|| / ||v|| for its largest column v.
// Preconditions: k <= LIMIT. A zero matrix gives 0, a non-finite one NaN or infinity.
// Source: power iteration by repeated squaring; the quotient is exact to second order in v's error, 2e-7 relative at worst.
const LIMIT: u32 = 48u;
const PER_LANE: u32 = 9u; // LIMIT^2 / 256
const SQUARINGS: u32 = 20u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

var<workgroup> gram: array<f32, LIMIT * LIMIT>;
var<workgroup> partial: array<f32, 256>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn trace(k: u32) -> f32 {
    var sum = 0.0;
    for (var r = 0u; r < k; r++) { sum += gram[r * k + r]; }
    return sum;
}

@compute @workgroup_size(256)
fn operator_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let k = p.views[0].rows;
    let q = p.views[0].cols;
    for (var item = group.x; item < p.n.x; item += groups.x) {
        let x_item = item_offset(0u, item);
        for (var i = lane; i < k * k; i += 256u) {
            let r = x_item + i / k * p.views[0].row;
            let s = x_item + i % k * p.views[0].row;
            var sum = 0.0;
            for (var c = 0u; c < q; c++) { sum += x[r + c * p.views[0].col] * x[s + c * p.views[0].col]; }
            gram[i] = sum;
        }
        for (var round = 0u; round < SQUARINGS; round++) {
            // The matrix is complete before it is squared.
            workgroupBarrier();
            let t = trace(k);
            let scale = select(1.0 / t, 0.0, t == 0.0);
            var next: array<f32, PER_LANE>;
            for (var e = 0u; e < PER_LANE; e++) {
                let i = lane + e * 256u;
                next[e] = 0.0;
                if (i < k * k) {
                    for (var c = 0u; c < k; c++) { next[e] += (gram[i / k * k + c] * scale) * (gram[c * k + i % k] * scale); }
                }
            }
            // Everyone has read the matrix before it is overwritten.
            workgroupBarrier();
            for (var e = 0u; e < PER_LANE; e++) {
                let i = lane + e * 256u;
                if (i < k * k) { gram[i] = next[e]; }
            }
        }
        // The last square is complete before its columns are used.
        workgroupBarrier();
        var column = 0u;
        for (var r = 1u; r < k; r++) {
            if (gram[r * k + r] > gram[column * k + column]) { column = r; }
        }
        var norm = 0.0;
        for (var r = 0u; r < k; r++) { norm += gram[r * k + column] * gram[r * k + column]; }
        var sum = 0.0;
        for (var c = lane; c < q; c += 256u) {
            var dot = 0.0;
            for (var r = 0u; r < k; r++) { dot += gram[r * k + column] * x[x_item + r * p.views[0].row + c * p.views[0].col]; }
            sum += dot * dot;
        }
        partial[lane] = sum;
        for (var half = 128u; half > 0u; half /= 2u) {
            // The upper half is complete before it is added, and read before it is overwritten.
            workgroupBarrier();
            if (lane < half) { partial[lane] += partial[lane + half]; }
        }
        if (lane == 0u) { out[item_offset(1u, item)] = select(sqrt(partial[0] / norm), 0.0, norm == 0.0); }
        // The next item starts after this one's sums are used.
        workgroupBarrier();
    }
}

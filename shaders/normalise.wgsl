// out = x / (margin (|x| + epsilon)), the Frobenius norm taken of x over its largest element: no square over- or underflows
// x, out [m, n] any strides. coef = (1 / margin, epsilon).
// One workgroup an item (strided): three passes over x, each reduced by a tree; the order depends on the item's shape alone.
// Preconditions: DENSE: an item of x and of out is one run. 0 where x is; NaN stays NaN.
// Source: KellerJordan/Muon's division before its Newton-Schulz steps.
const DENSE: bool = false;
// end of tunables
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<f32, 256>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Where element i of an item lies.
fn place(v: u32, start: u32, i: u32) -> u32 {
    if (DENSE) { return start + i; }
    return start + i / p.views[0].cols * p.views[v].row + i % p.views[0].cols * p.views[v].col;
}

// Magnitudes compare as their bits do, and every NaN lies above infinity: a maximum of bits keeps NaN, which `max` need not.
fn larger(a: f32, b: f32) -> f32 {
    return bitcast<f32>(max(bitcast<u32>(a) & 0x7fffffffu, bitcast<u32>(b) & 0x7fffffffu));
}

// 0 where the inverse would not be finite.
fn inverse(a: f32) -> f32 {
    let bits = bitcast<u32>(1.0 / a) & 0x7fffffffu;
    return select(0.0, 1.0 / a, bits < 0x7f800000u && (bitcast<u32>(a) & 0x7fffffffu) < 0x7f800000u);
}

@compute @workgroup_size(256)
fn normalise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let count = p.views[0].rows * p.views[0].cols;
    for (var item = group.x; item < p.n.x; item += groups.x) {
        let x_item = item_offset(0u, item);
        let out_item = item_offset(1u, item);
        var size = 0.0;
        for (var i = lane; i < count; i += 256u) { size = larger(size, x[place(0u, x_item, i)]); }
        partial[lane] = size;
        for (var half = 128u; half > 0u; half /= 2u) {
            // The upper half is complete before it is used, and read before it is overwritten.
            workgroupBarrier();
            if (lane < half) { partial[lane] = larger(partial[lane], partial[lane + half]); }
        }
        // The maximum is complete.
        workgroupBarrier();
        let unit = inverse(partial[0]);
        var sum = 0.0;
        for (var i = lane; i < count; i += 256u) {
            let value = unit * x[place(0u, x_item, i)];
            sum += value * value;
        }
        // Everyone has read the maximum before its place is taken.
        workgroupBarrier();
        partial[lane] = sum;
        for (var half = 128u; half > 0u; half /= 2u) {
            // As above.
            workgroupBarrier();
            if (lane < half) { partial[lane] += partial[lane + half]; }
        }
        // The sum is complete.
        workgroupBarrier();
        let factor = inverse(sqrt(partial[0]) + p.coef.y * unit) * p.coef.x;
        for (var i = lane; i < count; i += 256u) {
            let value = unit * x[place(0u, x_item, i)];
            out[place(1u, out_item, i)] = factor * value;
        }
        // Everyone has read the sum before the next item's maximum takes its place.
        workgroupBarrier();
    }
}

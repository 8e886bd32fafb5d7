// out = sigma(x) | times sigma'(x); n.y: 0 tanh, 1 max(x, 0) - coef.x, 2 erf(x / sqrt 2), 3 a polynomial with coefficients coef
// x, times and out [m, n] per item; any strides. n.z bit 1: the derivative; bit 2: out stands for times, or for x where there is no times.
// One invocation an element; elements of all items in one flat index, strided over the grid.
// Preconditions: out is a buffer of its own but for the in-place forms. coef holds the derivative's polynomial where that is wanted.
// Source: polynomials of our own, as in src/cpu/activation.rs.
const TANH: u32 = 0u;
const RELU: u32 = 1u;
const ERF: u32 = 2u;
const DERIVATIVE: u32 = 1u;
const IN_PLACE: u32 = 2u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> times: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// (s, q) with e^y = s + s q, s a power of two, for -87 <= y <= 0.
fn exponential(y: f32) -> vec2<f32> {
    let k = i32(y * 1.442695 - 0.5);
    let r = (y - f32(k) * 0.69314575) - f32(k) * 1.4286068e-6;
    var poly = 0.0001989198;
    poly = poly * r + 0.0013934541;
    poly = poly * r + 0.00833331;
    poly = poly * r + 0.041666456;
    poly = poly * r + 0.16666667;
    poly = poly * r + 0.5;
    return vec2<f32>(bitcast<f32>(u32(k + 127) << 23u), r + r * r * poly);
}

fn erf_of(a: f32, e: f32) -> f32 {
    let z = a * a;
    var small = 1.0745287e-6;
    small = small * z - 1.8548802e-5;
    small = small * z + 0.0002306415;
    small = small * z - 0.0023745775;
    small = small * z + 0.0199471;
    small = small * z - 0.13298076;
    small = small * z + 0.7978846;
    let t = 1.0 / (1.0 + 0.35 * a);
    var large = 0.11735734;
    large = large * t - 0.47705;
    large = large * t + 0.5949392;
    large = large * t - 0.12990773;
    large = large * t + 0.35905376;
    large = large * t + 0.2532059;
    large = large * t + 0.2826301;
    large = large * t - 0.00018952787;
    return select(1.0 - e * large, a * small, a < 1.0);
}

// sigma(v), or its derivative with `slope`.
fn function_at(v: f32, slope: bool) -> f32 {
    let sign_bit = bitcast<u32>(v) & 0x80000000u;
    // Comparing bits orders magnitudes, infinity included.
    let size = bitcast<u32>(v) & 0x7fffffffu;
    if (p.n.y == TANH) {
        let e = exponential(-2.0 * bitcast<f32>(min(size, 0x42200000u)));
        if (slope) {
            let w = e.x + e.x * e.y;
            return 4.0 * w / ((1.0 + w) * (1.0 + w));
        }
        let m = e.x * e.y + (e.x - 1.0);
        return bitcast<f32>(bitcast<u32>(-m / (2.0 + m)) | sign_bit);
    }
    if (p.n.y == RELU) {
        // By bits: a device may take subnormals for zero.
        if (slope) { return select(0.0, 1.0, sign_bit == 0u && size > 0u); }
        return select(v, 0.0, v < 0.0) - p.coef.x;
    }
    if (p.n.y == ERF) {
        let a = bitcast<f32>(min(size, 0x41500000u));
        let e = exponential(-0.5 * a * a);
        let w = e.x + e.x * e.y;
        if (slope) { return 0.7978846 * w; }
        return bitcast<f32>((bitcast<u32>(erf_of(a, w)) & 0x7fffffffu) | sign_bit);
    }
    return ((p.coef.w * v + p.coef.z) * v + p.coef.y) * v + p.coef.x;
}

@compute @workgroup_size(256)
fn activation(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let area = p.views[2].rows * p.views[2].cols;
    let slope = (p.n.z & DERIVATIVE) != 0u;
    let in_place = (p.n.z & IN_PLACE) != 0u;
    for (var i = id.x; i < p.n.x * area; i += groups.x * 256u) {
        let item = i / area;
        let r = i % area / p.views[2].cols;
        let c = i % p.views[2].cols;
        let at = item_offset(2u, item) + r * p.views[2].row + c * p.views[2].col;
        var v = 0.0;
        if (in_place && !slope) { v = out[at]; } else { v = x[item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col]; }
        // A NaN passes by its bits.
        if ((bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u) {
            out[at] = v;
            continue;
        }
        var result = function_at(v, slope);
        if (slope) {
            if (in_place) { result *= out[at]; } else { result *= times[item_offset(1u, item) + r * p.views[1].row + c * p.views[1].col]; }
        }
        out[at] = result;
    }
}

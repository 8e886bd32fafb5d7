// out = uniform (0, 1) | standard normal | -1 or +1, from Philox4x32-10: layout and polynomials as in src/rng.rs
// keys [1, 2] u32 and step [1, 1] per item, out [m, n] dense per item; n.y: 0 uniform, 1 normal, 2 signs; n.z: stream.
// One invocation a block; 64 blocks a workgroup turn: 256 elements, or 8192 signs; turns of all items in one flat index, strided over groups x.
// Preconditions: step is an integer below 2^24.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
const UNIFORM: u32 = 0u;
const NORMAL: u32 = 1u;
const ROUNDS: u32 = 10u;
const BLOCKS: u32 = 64u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> keys: array<u32>;
@group(0) @binding(2) var<storage, read> step: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> words: array<vec4<u32>, BLOCKS>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// The upper half of a 64-bit product, by 16-bit digits.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let mid = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let cross = (a & 0xffffu) * (b >> 16u) + (mid & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (mid >> 16u) + (cross >> 16u);
}

fn philox(key_: vec2<u32>, counter: vec4<u32>) -> vec4<u32> {
    var key = key_;
    var c = counter;
    for (var round = 0u; round < ROUNDS; round++) {
        let high0 = multiply_high(c.x, 0xd2511f53u);
        let high1 = multiply_high(c.z, 0xcd9e8d57u);
        c = vec4<u32>(high1 ^ c.y ^ key.x, c.z * 0xcd9e8d57u, high0 ^ c.w ^ key.y, c.x * 0xd2511f53u);
        key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// -2 ln(u): see src/rng.rs.
fn minus_two_log(word: u32) -> f32 {
    var v = max(word >> 1u, 1u);
    if (v >= 0x01000000u) { v &= 0x7fffff80u; }
    let shifted = bitcast<u32>(f32(i32(v))) + (0x3f800000u - 0x3f3504f3u);
    let exponent = f32(i32(shifted >> 23u) - 158);
    let f = bitcast<f32>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0;
    let f2 = f * f;
    var poly = -0.07902744;
    poly = poly * f + 0.12622319;
    poly = poly * f - 0.12998183;
    poly = poly * f + 0.14214496;
    poly = poly * f - 0.16641282;
    poly = poly * f + 0.20001045;
    poly = poly * f - 0.25000307;
    poly = poly * f + 0.3333333;
    return -2.0 * (exponent * 0.69314575 + (f - (0.5 * f2 - (f * f2 * poly + exponent * 1.4286068e-6))));
}

// The language allows sqrt an error of several units in the last place: one Newton step on a residual formed without rounding mends it.
fn root(x: f32) -> f32 {
    let s = sqrt(x);
    let high = bitcast<f32>(bitcast<u32>(s) & 0xfffff000u);
    let low = s - high;
    return s + 0.5 * (x - high * high - 2.0 * high * low - low * low) / s;
}

fn box_muller(radius: u32, angle: u32) -> vec2<f32> {
    let quarter = (angle + 0x20000000u) >> 30u;
    let a = (f32(bitcast<i32>(angle << 2u) >> 8u) + 0.5) * (1.0 / 8388608.0);
    let a2 = a * a;
    let sine = a * (((-3.595429e-5 * a2 + 0.0024900068) * a2 - 0.080745436) * a2 + 0.7853982);
    let cosine = (((3.529797e-6 * a2 - 0.0003259386) * a2 + 0.015854325) * a2 - 0.30842513) * a2 + 1.0;
    let swapped = select(vec2<f32>(cosine, sine), vec2<f32>(sine, cosine), (quarter & 1u) == 1u);
    let signs = vec2<u32>((quarter + 1u) & 2u, quarter & 2u) << vec2<u32>(30u);
    return root(minus_two_log(radius)) * bitcast<vec2<f32>>(bitcast<vec2<u32>>(swapped) ^ signs);
}

@compute @workgroup_size(64)
fn random_fill(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let area = p.views[2].rows * p.views[2].cols;
    let per_block = select(128u, 4u, p.n.y <= NORMAL);
    let turns = (area + BLOCKS * per_block - 1u) / (BLOCKS * per_block);
    for (var turn = group.x; turn < p.n.x * turns; turn += groups.x) {
        let item = turn / turns;
        let first = turn % turns * BLOCKS;
        let key = item_offset(0u, item);
        let drawn = philox(vec2<u32>(keys[key], keys[key + p.views[0].col]), vec4<u32>(first + lane, u32(step[item_offset(1u, item)]), p.n.z, 0u));
        var values = vec4<f32>(drawn >> vec4<u32>(9u)) * (1.0 / 8388608.0) + (1.0 / 16777216.0);
        if (p.n.y == NORMAL) { values = vec4<f32>(box_muller(drawn.x, drawn.y), box_muller(drawn.z, drawn.w)); }
        words[lane] = select(drawn, bitcast<vec4<u32>>(values), p.n.y <= NORMAL);
        // All words are there before neighbours write them out in the order of the elements.
        workgroupBarrier();
        for (var i = lane; i < BLOCKS * per_block; i += BLOCKS) {
            let e = first * per_block + i;
            if (e >= area) { break; }
            var value = bitcast<f32>(words[i / 4u % BLOCKS][i % 4u]);
            if (p.n.y > NORMAL) { value = select(-1.0, 1.0, ((words[i / 128u][i / 32u % 4u] >> (i % 32u)) & 1u) == 1u); }
            out[item_offset(2u, item) + e] = value;
        }
        // The next turn's words come after these are written out.
        workgroupBarrier();
    }
}

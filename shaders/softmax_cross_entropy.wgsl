// loss = -log softmax(z)[label], delta = (softmax(z) - onehot(label)) / n, hit = 1 where the first largest logit is the label's; all 0 for a label outside 0..c
// logits and delta [n, c], labels, loss and hits [n, 1] per item; any strides.
// One invocation a sample; samples of all items in one flat index, strided over the grid.
// Preconditions: none. A logit that is not finite makes loss and delta not finite.
// Source: none; polynomials as in src/rng.rs and src/cpu/network.rs.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> hits: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// e^x for x <= 0; 0 below -87.
fn exponential(x: f32) -> f32 {
    let k = floor(max(x, -88.0) * 1.442695 + 0.5);
    let r = (max(x, -88.0) - k * 0.69314575) - k * 1.4286068e-6;
    var poly = 0.0013926184;
    poly = poly * r + 0.00836317893;
    poly = poly * r + 0.0416665561;
    poly = poly * r + 0.166665763;
    poly = poly * r + 0.5;
    let value = (1.0 + (r + r * r * poly)) * bitcast<f32>(u32(i32(k) + 127) << 23u);
    return select(value, 0.0, x < -87.0);
}

// ln(1 + s) for s >= 0. Below sqrt 2 nothing is lost to the 1.
fn log_one_plus(s: f32) -> f32 {
    let shifted = bitcast<u32>(1.0 + s) + (0x3f800000u - 0x3f3504f3u);
    let exponent = f32(i32(shifted >> 23u) - 127);
    var f = bitcast<f32>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0;
    if (s < 0.41421354) { f = s; }
    let f2 = f * f;
    var poly = -0.07902744;
    poly = poly * f + 0.12622319;
    poly = poly * f - 0.12998183;
    poly = poly * f + 0.14214496;
    poly = poly * f - 0.16641282;
    poly = poly * f + 0.20001045;
    poly = poly * f - 0.25000307;
    poly = poly * f + 0.3333333;
    return exponent * 0.69314575 + (f - (0.5 * f2 - (f * f2 * poly + exponent * 1.4286068e-6)));
}

@compute @workgroup_size(64)
fn softmax_cross_entropy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = p.views[3].rows;
    let classes = p.views[3].cols;
    for (var i = id.x; i < p.n.x * rows; i += groups.x * 64u) {
        let item = i / rows;
        let r = i % rows;
        let at = item_offset(0u, item) + r * p.views[0].row;
        let to = item_offset(3u, item) + r * p.views[3].row;
        let number = labels[item_offset(1u, item) + r * p.views[1].row];
        var best = 0u;
        var largest = logits[at];
        var bits = 0u;
        for (var c = 0u; c < classes; c++) {
            let z = logits[at + c * p.views[0].col];
            bits = max(bits, bitcast<u32>(z) & 0x7fffffffu);
            if (z > largest) {
                largest = z;
                best = c;
            }
        }
        // A NaN lies above infinity by its bits; what is left after this is a number.
        let counted = (bitcast<u32>(number) & 0x7fffffffu) <= 0x7f800000u && number >= 0.0 && number < f32(classes);
        let label = u32(select(0.0, number, counted));
        let finite = bits < 0x7f800000u;
        var others = 0.0;
        for (var c = 0u; c < classes; c++) {
            let e = exponential(logits[at + c * p.views[0].col] - largest);
            if (c != best) { others += e; }
            delta[to + c * p.views[3].col] = e;
        }
        let share = 1.0 / (1.0 + others);
        for (var c = 0u; c < classes; c++) {
            var value = delta[to + c * p.views[3].col] * share;
            if (c == label) { value = select(value - 1.0, -others * share, c == best); }
            value = select(0.0, value / f32(rows), counted);
            delta[to + c * p.views[3].col] = select(bitcast<f32>(bits), value, finite || !counted);
        }
        let value = log_one_plus(others) - (logits[at + label * p.views[0].col] - largest);
        loss[item_offset(2u, item) + r * p.views[2].row] = select(select(bitcast<f32>(bits), value, finite), 0.0, !counted);
        hits[item_offset(4u, item) + r * p.views[4].row] = select(0.0, 1.0, counted && finite && best == label);
    }
}

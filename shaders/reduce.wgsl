// out[item, run] = scale * (sum x^2 | sum x_ii | sum x y | max |x| | max |x - I| | sum x) over a run of an item's elements
// x and y [m, n] per item, any strides; out [1, n.z] per item. n.y: 0 sum_sq, 1 trace, 2 dot, 3 max_abs, 4 identity_gap, 5 sum; n.z runs of n.w; coef.x = scale.
// One workgroup a run (strided): strided partial sums, then a tree; the order depends on the item's shape alone.
// Preconditions: DENSE: an item of x and of y is one run. The maxima are NaN where any element is.
// Source: none.
const SUM_SQ: u32 = 0u;
const TRACE: u32 = 1u;
const DOT: u32 = 2u;
const MAX_ABS: u32 = 3u;
const IDENTITY_GAP: u32 = 4u;
const SUM: u32 = 5u;
const DENSE: bool = false;
// end of tunables
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

// Where element i of an item lies.
fn place(v: u32, start: u32, i: u32) -> u32 {
    if (DENSE) { return start + i; }
    return start + i / p.views[0].cols * p.views[v].row + i % p.views[0].cols * p.views[v].col;
}

// Magnitudes compare as their bits do, and every NaN lies above infinity: a maximum of bits keeps NaN, which `max` need not.
fn larger(a: f32, b: f32) -> f32 {
    return bitcast<f32>(max(bitcast<u32>(a) & 0x7fffffffu, bitcast<u32>(b) & 0x7fffffffu));
}

fn combine(a: f32, b: f32) -> f32 {
    if (p.n.y == MAX_ABS || p.n.y == IDENTITY_GAP) { return larger(a, b); }
    return a + b;
}

@compute @workgroup_size(256)
fn reduce(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let cols = p.views[0].cols;
    let count = select(p.views[0].rows * cols, p.views[0].rows, p.n.y == TRACE);
    for (var unit = group.x; unit < p.n.x * p.n.z; unit += groups.x) {
        let item = unit / p.n.z;
        let begin = unit % p.n.z * p.n.w;
        let x_item = item_offset(0u, item);
        let y_item = item_offset(1u, item);
        var sum = 0.0;
        for (var i = begin + lane; i < min(begin + p.n.w, count); i += 256u) {
            if (p.n.y == TRACE) {
                sum += x[x_item + i * (p.views[0].row + p.views[0].col)];
                continue;
            }
            let value = x[place(0u, x_item, i)];
            if (p.n.y == SUM_SQ) { sum += value * value; }
            if (p.n.y == DOT) { sum += value * y[place(1u, y_item, i)]; }
            if (p.n.y == IDENTITY_GAP) { sum = larger(sum, value - select(0.0, 1.0, i / cols == i % cols)); }
            if (p.n.y == MAX_ABS) { sum = larger(sum, value); }
            if (p.n.y == SUM) { sum += value; }
        }
        partial[lane] = sum;
        for (var half = 128u; half > 0u; half /= 2u) {
            // The upper half is complete before it is added, and read before it is overwritten.
            workgroupBarrier();
            if (lane < half) { partial[lane] = combine(partial[lane], partial[lane + half]); }
        }
        if (lane == 0u) { out[item_offset(2u, item) + unit % p.n.z * p.views[2].col] = p.coef.x * partial[0]; }
        // The next run's partial sums start after this one's are used.
        workgroupBarrier();
    }
}

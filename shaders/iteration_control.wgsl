// One step of the scalars that steer an iteration: n.y: 0 normalise, 1 square, 2 start, 3 newton, 4 finish, 5 settle; see the plan's IterationControl
// x [1, 1], block [1, H], control [1, WIDTH] per item. coefficient 0 = ridge, coef.y = limit, n.z = p, n.w = 1: the ridge is relative.
// One invocation an item, strided over the grid.
// Preconditions: 1 <= n.z <= 8.
// Source: coupled Newton's start and stop from facebookresearch/optimizers and google-research/precondition.
const ACTIVE: u32 = 0u;
const COMMIT: u32 = 1u;
const MEASURE: u32 = 2u;
const SCALE: u32 = 3u;
const SHIFT: u32 = 4u;
const ROOT: u32 = 5u;
const OK: u32 = 6u;
const LAMBDA: u32 = 7u;
const NORMAL: u32 = 8u;
const UNSCALE: u32 = 9u;
const STEPS: u32 = 10u;
const NONE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> block: array<f32>;
@group(0) @binding(3) var<storage, read_write> control: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Positive and finite, by bits: a shader compiler may assume that NaN and infinity do not occur.
fn good(x: f32) -> bool {
    let bits = bitcast<u32>(x);
    return bits > 0u && bits < 0x7f800000u;
}

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) < 0x7f800000u;
}

fn power_of_two(e: i32) -> f32 {
    return bitcast<f32>(u32(127 + e) << 23u);
}

fn normalise(row: u32, s: u32, x: f32, ridge: f32) {
    var size = x;
    if (p.n.w == 0u) { size += ridge; }
    var k = 0;
    if (good(size)) { k = (clamp(i32(bitcast<u32>(size) >> 23u), 1, 253) - 127) / i32(p.n.z); }
    control[row + NORMAL * s] = power_of_two(-k * i32(p.n.z));
    control[row + UNSCALE * s] = power_of_two(-k);
    control[row + OK * s] = select(0.0, 1.0, good(size));
    control[row + ACTIVE * s] = select(0.0, 1.0, good(size));
    control[row + COMMIT * s] = 0.0;
    control[row + MEASURE * s] = 0.0;
    control[row + STEPS * s] = 0.0;
}

fn start(row: u32, s: u32, x: f32, coefficient: f32) {
    let ridge = coefficient * select(control[row + NORMAL * s], x, p.n.w == 1u);
    let top = x + ridge;
    let right = control[row + OK * s] != 0.0 && finite(ridge) && ridge >= 0.0 && good(top);
    var root = 0.0;
    var scale = 0.0;
    if (right) {
        let guess = exp2(log2((f32(p.n.z) + 1.0) / (2.0 * top)) / f32(p.n.z));
        // So few bits that its power is exact.
        root = bitcast<f32>(bitcast<u32>(guess) & (0xffffffffu << (24u - 24u / p.n.z)));
        scale = root;
        for (var i = 1u; i < p.n.z; i++) { scale *= root; }
    }
    control[row + LAMBDA * s] = select(0.0, ridge, right);
    control[row + SCALE * s] = scale;
    control[row + SHIFT * s] = select(0.0, scale * ridge, right);
    control[row + ROOT * s] = root * control[row + UNSCALE * s];
    control[row + OK * s] = select(0.0, 1.0, right);
    control[row + ACTIVE * s] = select(0.0, 1.0, right);
    control[row + MEASURE * s] = max(0.5 * (f32(p.n.z) - 1.0), 1.0);
    control[row + STEPS * s] = 0.0;
}

@compute @workgroup_size(64)
fn iteration_control(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let s = p.views[2].col;
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        let x = x[item_offset(0u, item)];
        var ridge = p.coef.x;
        if (p.column.x != NONE) { ridge *= block[item_offset(1u, item) + p.column.x * p.views[1].col]; }
        let row = item_offset(2u, item);
        let last = control[row + MEASURE * s];
        let running = control[row + ACTIVE * s] != 0.0;
        if (p.n.y == 0u) { normalise(row, s, x, ridge); }
        if (p.n.y == 1u) {
            control[row + ACTIVE * s] = select(0.0, 1.0, running && good(x));
            control[row + MEASURE * s] = x;
            control[row + SCALE * s] = select(0.0, 1.0 / x, running && good(x));
        }
        if (p.n.y == 5u) { control[row + ACTIVE * s] = select(0.0, 1.0, running && good(x) && x > 1.6e-11 * last); }
        if (p.n.y == 2u) { start(row, s, x, ridge); }
        if (p.n.y == 3u) {
            let keep = running && finite(x) && x <= 1.2 * last;
            let stalled = last < 1e-2 && x > 0.5 * last;
            control[row + COMMIT * s] = select(0.0, 1.0, keep);
            control[row + ACTIVE * s] = select(0.0, 1.0, keep && x > 3e-7 && !stalled);
            if (keep) {
                control[row + MEASURE * s] = x;
                control[row + STEPS * s] += 1.0;
            }
        }
        if (p.n.y == 4u) {
            control[row + OK * s] = select(0.0, 1.0, control[row + OK * s] != 0.0 && last <= p.coef.y && finite(x));
            control[row + ACTIVE * s] = 0.0;
        }
    }
}

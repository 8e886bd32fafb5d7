// Levenberg-Marquardt damping: n.y = 0 sums the terms of the predicted change and moves the clock, n.y = 1 compares an observed loss with it
// x [terms * trials, 1, 1], term outer (n.y = 1: one term, the loss); block [1, WIDTH] per item, item b of trial b % trials. n.z = trials, n.w = interval; coef = (omega, least).
// One invocation an item, strided over the grid.
// Preconditions: the damping is positive.
// Source: [MG15] section 6.5 with kfac-jax's thresholds.
const DAMPING: u32 = 15u;
const DAMPING_SCALE: u32 = 45u;
const LAST_LOSS: u32 = 46u;
const LOSS_AGE: u32 = 47u;
const PREDICTED: u32 = 48u;
const TICKS: u32 = 49u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> block: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) < 0x7f800000u;
}

fn predict(row: u32, trial: u32) {
    var sum = 0.0;
    for (var t = trial; t < p.views[0].modulo; t += p.n.z) { sum += x[p.views[0].offset + t * p.views[0].item]; }
    block[row + PREDICTED] = select(0.0, sum, finite(sum));
    let ticks = block[row + TICKS] + 1.0;
    block[row + TICKS] = select(ticks, 0.0, ticks >= f32(p.n.w));
    if (block[row + LOSS_AGE] > 0.0) { block[row + LOSS_AGE] = min(block[row + LOSS_AGE] + 1.0, 3.0); }
}

fn observe(row: u32, trial: u32) {
    let loss = x[p.views[0].offset + trial * p.views[0].item];
    let good = finite(loss);
    let predicted = block[row + PREDICTED];
    if (block[row + LOSS_AGE] == 2.0 && block[row + TICKS] == 0.0 && predicted != 0.0) {
        var rho = -100.0;
        if (good) { rho = (loss - block[row + LAST_LOSS]) / predicted; }
        var scale = block[row + DAMPING_SCALE];
        if (rho < 0.25) {
            scale /= p.coef.x;
        } else if (rho > 0.75) {
            scale *= p.coef.x;
        }
        block[row + DAMPING_SCALE] = max(min(scale, 1e10 / block[row + DAMPING]), p.coef.y / block[row + DAMPING]);
    }
    block[row + LAST_LOSS] = select(0.0, loss, good);
    block[row + LOSS_AGE] = select(0.0, 1.0, good);
}

@compute @workgroup_size(64)
fn damping_control(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < p.n.x; item += groups.x * 64u) {
        let row = item_offset(1u, item);
        if (p.n.y == 0u) { predict(row, item % p.n.z); } else { observe(row, item % p.n.z); }
    }
}

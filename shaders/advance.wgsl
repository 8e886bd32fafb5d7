// Moves one clock of each block row: step counter, learning rate and bias corrections, or the statistics' decay
// block [1, WIDTH] per item. n.y: 0 step, 4 step after the first gradient; statistics: 1 from identity, 2 from the first batch, 3 bias-corrected.
// One invocation an item, strided over the grid.
// Preconditions: none. 1 - beta^t by w <- beta w + (1 - beta): `pow` is not accurate enough.
// Source: [KB15] Adam, section 3; kfac-jax's weighted moving average.
const LEARNING_RATE: u32 = 0u;
const SCHEDULE: u32 = 1u;
const WARMUP_STEPS: u32 = 2u;
const DECAY_STEPS: u32 = 3u;
const FINAL_FRACTION: u32 = 4u;
const STEP_PERIOD: u32 = 5u;
const STEP_FACTOR: u32 = 6u;
const BETA1: u32 = 7u;
const ONE_MINUS_BETA1: u32 = 8u;
const BETA2: u32 = 9u;
const ONE_MINUS_BETA2: u32 = 10u;
const DECAY: u32 = 16u;
const AVERAGE_DECAY: u32 = 20u;
const STEP: u32 = 32u;
const CURRENT_RATE: u32 = 33u;
const WEIGHT1: u32 = 34u;
const WEIGHT2: u32 = 35u;
const GATE: u32 = 36u;
const FLAG: u32 = 37u;
const SKIPPED: u32 = 38u;
const STATISTICS_WEIGHT: u32 = 39u;
const STATISTICS_DECAY: u32 = 40u;
const AVERAGE: u32 = 43u;
const FRESH: u32 = 50u;
const JOINT: bool = false;
// end of tunables
const WIDTH: u32 = 64u;
const NOWHERE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }
struct Job { params: Params, span: vec4<u32> }

@group(0) @binding(0) var<uniform> own: Params;
@group(0) @binding(1) var<storage, read_write> block: array<f32>;
@group(0) @binding(2) var<storage, read> jobs: array<Job>;

var<private> p: Params;

// Sets p; the first unit of this invocation and the distance to its next one.
fn start(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> vec2<u32> {
    if (!JOINT) {
        p = own;
        return vec2<u32>(group.x * WIDTH + lane, groups.x * WIDTH);
    }
    let mine = group.y * groups.x + group.x;
    var low = 0u;
    var high = jobs[0].span.z;
    // The last job that starts at or before this workgroup.
    while (high - low > 1u) {
        let middle = (low + high) / 2u;
        if (jobs[middle].span.x <= mine) { low = middle; } else { high = middle; }
    }
    p = jobs[low].params;
    let within = mine - jobs[low].span.x;
    return vec2<u32>(select(NOWHERE, within * WIDTH + lane, within < jobs[low].span.y), jobs[low].span.y * WIDTH);
}

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// (1 + cos(pi x)) / 2 = cos(pi x / 2)^2 for x in [0, 1], by the polynomials of random_fill: the language allows `cos` an error of 2^-11.
fn half_cosine(x: f32) -> f32 {
    let a = 1.0 - abs(1.0 - 2.0 * x);
    let a2 = a * a;
    let sine = a * (((-3.595429e-5 * a2 + 0.0024900068) * a2 - 0.080745436) * a2 + 0.7853982);
    let cosine = (((3.529797e-6 * a2 - 0.0003259386) * a2 + 0.015854325) * a2 - 0.30842513) * a2 + 1.0;
    let root = select(cosine, sine, x > 0.5);
    return root * root;
}

// The factor of the learning rate before step t (0-based).
fn rate_factor(row: u32, step: f32) -> f32 {
    let warmup = block[row + WARMUP_STEPS];
    if (step < warmup) { return (step + 1.0) / warmup; }
    let t = step - warmup;
    let last = block[row + FINAL_FRACTION];
    var progress = 0.0;
    if (block[row + DECAY_STEPS] > 0.0) { progress = min(t / block[row + DECAY_STEPS], 1.0); }
    if (block[row + SCHEDULE] == 1.0) { return 1.0 - (1.0 - last) * progress; }
    if (block[row + SCHEDULE] == 2.0) { return last + (1.0 - last) * half_cosine(progress); }
    if (block[row + SCHEDULE] == 3.0) {
        // By squaring, and a division of whole numbers: exact where `pow` and an f32 quotient are not.
        var factor = 1.0;
        var power = block[row + STEP_FACTOR];
        for (var drops = u32(t) / max(u32(block[row + STEP_PERIOD]), 1u); drops > 0u; drops >>= 1u) {
            if ((drops & 1u) == 1u) { factor *= power; }
            power *= power;
        }
        return factor;
    }
    return 1.0;
}

@compute @workgroup_size(64)
fn advance(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, lane);
    for (var item = first.x; item < p.n.x; item += first.y) {
        let row = item_offset(0u, item);
        if (p.n.y == 0u || p.n.y == 4u) {
            let bad = block[row + FLAG] != 0.0;
            let initial = p.n.y == 4u && !bad && block[row + STATISTICS_WEIGHT] == 0.0;
            block[row + FLAG] = 0.0;
            block[row + GATE] = select(1.0, 0.0, bad || initial);
            if (p.n.y == 4u) { block[row + STATISTICS_DECAY] = select(block[row + DECAY], 1.0, bad); }
            // Also of a refused step: KFAC's clip takes the rate of the first layer, refused or not.
            block[row + CURRENT_RATE] = block[row + LEARNING_RATE] * rate_factor(row, block[row + STEP]);
            if (bad) {
                block[row + SKIPPED] += 1.0;
                continue;
            }
            if (initial) {
                block[row + STATISTICS_WEIGHT] = 1.0;
                block[row + FRESH] = 1.0;
                continue;
            }
            // The first weights are their own average.
            block[row + AVERAGE] = select(block[row + AVERAGE_DECAY], 0.0, block[row + STEP] == 0.0);
            block[row + STEP] += 1.0;
            block[row + WEIGHT1] = block[row + BETA1] * block[row + WEIGHT1] + block[row + ONE_MINUS_BETA1];
            block[row + WEIGHT2] = block[row + BETA2] * block[row + WEIGHT2] + block[row + ONE_MINUS_BETA2];
        } else if (p.n.y == 1u) {
            block[row + STATISTICS_DECAY] = block[row + DECAY];
        } else if (p.n.y == 2u && block[row + GATE] != 0.0) {
            block[row + STATISTICS_DECAY] = select(block[row + DECAY], 0.0, block[row + STATISTICS_WEIGHT] == 0.0);
            block[row + STATISTICS_WEIGHT] = 1.0;
        } else if (p.n.y == 3u && block[row + GATE] != 0.0) {
            let weight = block[row + DECAY] * block[row + STATISTICS_WEIGHT] + 1.0;
            block[row + STATISTICS_WEIGHT] = weight;
            block[row + STATISTICS_DECAY] = 1.0 - 1.0 / weight;
        }
    }
}

// m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
// w, g, m, v, v_max [m, n] any strides, block [1, WIDTH] per item. n.y bits: decay 1 decoupled, 2 cautious; 4 NAdam, 8 AMSGrad.
// p.column.w invocations a run of n.w elements, n.z runs an item; runs of all items in one flat index, strided over the grid.
// Preconditions: DENSE: each operand's item is one run; QUAD 4: and starts at a multiple of 4. w, m, v and v_max (v where unused) are buffers of their own. Items with gate 0 are left alone.
// Source: torch.optim.Adam and AdamW; optax.nadamw; Chen and others 2025 for cautious decay.
const BETA1: u32 = 7u;
const ONE_MINUS_BETA1: u32 = 8u;
const BETA2: u32 = 9u;
const ONE_MINUS_BETA2: u32 = 10u;
const EPSILON: u32 = 11u;
const WEIGHT_DECAY: u32 = 12u;
const CURRENT_RATE: u32 = 33u;
const WEIGHT1: u32 = 34u;
const WEIGHT2: u32 = 35u;
const GATE: u32 = 36u;
const DECOUPLED: u32 = 1u;
const CAUTIOUS: u32 = 2u;
const NESTEROV: u32 = 4u;
const AMSGRAD: u32 = 8u;
alias REAL = f32;
alias BITS = u32;
const QUAD: u32 = 1u;
const DENSE: bool = false;
const JOINT: bool = false;
// end of tunables
const WIDTH: u32 = 256u;
const NOWHERE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }
struct Job { params: Params, span: vec4<u32> }

@group(0) @binding(0) var<uniform> own: Params;
@group(0) @binding(1) var<storage, read> g: array<REAL>;
@group(0) @binding(2) var<storage, read> block: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<REAL>;
@group(0) @binding(4) var<storage, read_write> v: array<REAL>;
@group(0) @binding(5) var<storage, read_write> v_max: array<REAL>;
@group(0) @binding(6) var<storage, read_write> w: array<REAL>;
@group(0) @binding(7) var<storage, read> jobs: array<Job>;

var<private> p: Params;

// Sets p; the first run of this invocation and the distance to its next one.
fn start(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> vec2<u32> {
    if (!JOINT) {
        p = own;
        let runs = WIDTH / p.column.w;
        return vec2<u32>(group.x * runs + lane / p.column.w, groups.x * runs);
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
    let runs = WIDTH / p.column.w;
    return vec2<u32>(select(NOWHERE, within * runs + lane / p.column.w, within < jobs[low].span.y), jobs[low].span.y * runs);
}

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Where element i of an item lies.
fn place(v: u32, start: u32, i: u32) -> u32 {
    if (DENSE) { return (start + i) / QUAD; }
    return start + i / p.views[5].cols * p.views[v].row + i % p.views[5].cols * p.views[v].col;
}

@compute @workgroup_size(256)
fn adam_update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, lane);
    for (var run = first.x; run < p.n.x * p.n.z; run += first.y) {
        let item = run / p.n.z;
        let row = item_offset(1u, item);
        if (block[row + GATE] == 0.0) { continue; }
        let starts = array<u32, 6>(item_offset(0u, item), 0u, item_offset(2u, item), item_offset(3u, item), item_offset(4u, item), item_offset(5u, item));
        let rate = block[row + CURRENT_RATE];
        let decay = block[row + WEIGHT_DECAY];
        let beta1 = block[row + BETA1];
        let fresh1 = block[row + ONE_MINUS_BETA1];
        let beta2 = block[row + BETA2];
        let fresh2 = block[row + ONE_MINUS_BETA2];
        let weight1 = block[row + WEIGHT1];
        let root2 = sqrt(block[row + WEIGHT2]);
        let epsilon = block[row + EPSILON];
        let ahead = beta1 * weight1 + fresh1;
        let begin = run % p.n.z * p.n.w;
        let end = min(begin + p.n.w, p.views[5].rows * p.views[5].cols);
        for (var i = begin + lane % p.column.w * QUAD; i < end; i += p.column.w * QUAD) {
            let at = place(5u, starts[5], i);
            let m_at = place(2u, starts[2], i);
            let v_at = place(3u, starts[3], i);
            let old = w[at];
            var weight = old;
            var gradient = g[place(0u, starts[0], i)];
            if ((p.n.y & (DECOUPLED | CAUTIOUS)) == 0u) { gradient += decay * weight; }
            let moment = beta1 * m[m_at] + fresh1 * gradient;
            let second = beta2 * v[v_at] + fresh2 * gradient * gradient;
            m[m_at] = moment;
            v[v_at] = second;
            var largest = second;
            if ((p.n.y & AMSGRAD) != 0u) {
                let x_at = place(4u, starts[4], i);
                largest = max(v_max[x_at], second);
                v_max[x_at] = largest;
            }
            let denominator = sqrt(largest) / root2 + epsilon;
            var step = rate / weight1 * moment;
            if ((p.n.y & NESTEROV) != 0u) { step = rate * (beta1 * moment / ahead + fresh1 * gradient / weight1); }
            if ((p.n.y & DECOUPLED) != 0u) { weight *= 1.0 - rate * decay; }
            if ((p.n.y & CAUTIOUS) != 0u) { weight = select(weight, weight * (1.0 - rate * decay), step * weight >= REAL(0.0)); }
            let next = weight - step / denominator;
            w[at] = select(old, next, (bitcast<BITS>(next) & BITS(0x7fffffffu)) < BITS(0x7f800000u));
        }
    }
}

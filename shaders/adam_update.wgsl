// m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
// w, g, m, v, v_max [m, n] any strides, block [1, WIDTH] per item. n.y bits: decay 1 decoupled, 2 cautious; 4 NAdam, 8 AMSGrad.
// One invocation an element; elements of all items in one flat index, strided over the grid.
// Preconditions: w, m, v and v_max (v where unused) are buffers of their own. Items with gate 0 are left alone.
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
const JOINT: bool = false;
// end of tunables
const WIDTH: u32 = 256u;
const NOWHERE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }
struct Job { params: Params, span: vec4<u32> }

@group(0) @binding(0) var<uniform> own: Params;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> block: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> v_max: array<f32>;
@group(0) @binding(6) var<storage, read_write> w: array<f32>;
@group(0) @binding(7) var<storage, read> jobs: array<Job>;

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

@compute @workgroup_size(256)
fn adam_update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, lane);
    let cols = p.views[5].cols;
    let area = p.views[5].rows * cols;
    for (var i = first.x; i < p.n.x * area; i += first.y) {
        let item = i / area;
        let row = item_offset(1u, item);
        if (block[row + GATE] == 0.0) { continue; }
        let r = i % area / cols;
        let c = i % cols;
        let at = item_offset(5u, item) + r * p.views[5].row + c * p.views[5].col;
        let m_at = item_offset(2u, item) + r * p.views[2].row + c * p.views[2].col;
        let v_at = item_offset(3u, item) + r * p.views[3].row + c * p.views[3].col;
        let rate = block[row + CURRENT_RATE];
        var weight = w[at];
        var gradient = g[item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col];
        let decay = block[row + WEIGHT_DECAY];
        if ((p.n.y & (DECOUPLED | CAUTIOUS)) == 0u) { gradient += decay * weight; }
        let moment = block[row + BETA1] * m[m_at] + block[row + ONE_MINUS_BETA1] * gradient;
        let second = block[row + BETA2] * v[v_at] + block[row + ONE_MINUS_BETA2] * gradient * gradient;
        m[m_at] = moment;
        v[v_at] = second;
        var largest = second;
        if ((p.n.y & AMSGRAD) != 0u) {
            let x_at = item_offset(4u, item) + r * p.views[4].row + c * p.views[4].col;
            largest = max(v_max[x_at], second);
            v_max[x_at] = largest;
        }
        let denominator = sqrt(largest) / sqrt(block[row + WEIGHT2]) + block[row + EPSILON];
        var step = rate / block[row + WEIGHT1] * moment;
        if ((p.n.y & NESTEROV) != 0u) {
            let next = block[row + BETA1] * block[row + WEIGHT1] + block[row + ONE_MINUS_BETA1];
            step = rate * (block[row + BETA1] * moment / next + block[row + ONE_MINUS_BETA1] * gradient / block[row + WEIGHT1]);
        }
        let shrinks = (p.n.y & DECOUPLED) != 0u || ((p.n.y & CAUTIOUS) != 0u && step * weight >= 0.0);
        if (shrinks) { weight *= 1.0 - rate * decay; }
        let next = weight - step / denominator;
        if ((bitcast<u32>(next) & 0x7fffffffu) < 0x7f800000u) { w[at] = next; }
    }
}

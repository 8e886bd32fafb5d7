// g <- g_scale g + decay w; m <- momentum m + (1 - dampening) g (first step: g); w <- w - lr (m, or g + momentum m)
// w, g, m [m, n] any strides, g_scale [1, 1], block [1, WIDTH] per item. n.y bits: 1 g_scale, 2 momentum, 4 Nesterov, decay 8 decoupled, 16 cautious.
// One invocation an element; elements of all items in one flat index, strided over the grid.
// Preconditions: w and m are buffers of their own (m is w where there is no momentum). Items with gate 0 are left alone.
// Source: torch.optim.SGD.
const WEIGHT_DECAY: u32 = 12u;
const MOMENTUM: u32 = 13u;
const DAMPENING: u32 = 14u;
const STEP: u32 = 32u;
const CURRENT_RATE: u32 = 33u;
const GATE: u32 = 36u;
const HAS_SCALE: u32 = 1u;
const HAS_MOMENTUM: u32 = 2u;
const NESTEROV: u32 = 4u;
const DECOUPLED: u32 = 8u;
const CAUTIOUS: u32 = 16u;
const JOINT: bool = false;
// end of tunables
const WIDTH: u32 = 256u;
const NOWHERE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }
struct Job { params: Params, span: vec4<u32> }

@group(0) @binding(0) var<uniform> own: Params;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> g_scale: array<f32>;
@group(0) @binding(3) var<storage, read> block: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<storage, read_write> w: array<f32>;
@group(0) @binding(6) var<storage, read> jobs: array<Job>;

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
fn sgd_update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, lane);
    let cols = p.views[4].cols;
    let area = p.views[4].rows * cols;
    for (var i = first.x; i < p.n.x * area; i += first.y) {
        let item = i / area;
        let row = item_offset(2u, item);
        if (block[row + GATE] == 0.0) { continue; }
        let r = i % area / cols;
        let c = i % cols;
        let at = item_offset(4u, item) + r * p.views[4].row + c * p.views[4].col;
        var gradient = g[item_offset(0u, item) + r * p.views[0].row + c * p.views[0].col];
        if ((p.n.y & HAS_SCALE) != 0u) {
            let scale = g_scale[item_offset(1u, item)];
            // A scale of 0 is a refusal, also of a direction that overflowed.
            gradient = select(scale * gradient, 0.0, scale == 0.0);
        }
        let rate = block[row + CURRENT_RATE];
        let decay = block[row + WEIGHT_DECAY];
        var weight = w[at];
        if ((p.n.y & (DECOUPLED | CAUTIOUS)) == 0u) { gradient += decay * weight; }
        var direction = gradient;
        if ((p.n.y & HAS_MOMENTUM) != 0u) {
            let m_at = item_offset(3u, item) + r * p.views[3].row + c * p.views[3].col;
            let momentum = block[row + MOMENTUM];
            if (block[row + STEP] > 1.0) { direction = momentum * m[m_at] + (1.0 - block[row + DAMPENING]) * gradient; }
            m[m_at] = direction;
            if ((p.n.y & NESTEROV) != 0u) { direction = gradient + momentum * direction; }
        }
        let shrinks = (p.n.y & DECOUPLED) != 0u || ((p.n.y & CAUTIOUS) != 0u && direction * weight >= 0.0);
        if (shrinks) { weight *= 1.0 - rate * decay; }
        let next = weight - rate * direction;
        if ((bitcast<u32>(next) & 0x7fffffffu) < 0x7f800000u) { w[at] = next; }
    }
}

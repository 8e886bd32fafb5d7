// g <- g_scale g + decay w; m <- momentum m + (1 - dampening) g (first step: g); w <- w - lr (m, or g + momentum m)
// w, g, m [m, n] any strides, g_scale [1, 1], block [1, WIDTH] per item. n.y bits: 1 g_scale, 2 momentum, 4 Nesterov, decay 8 decoupled, 16 cautious.
// p.column.w invocations a run of n.w elements, n.z runs an item; runs of all items in one flat index, strided over the grid.
// Preconditions: DENSE: each operand's item is one run; QUAD 4: and starts at a multiple of 4. w and m are buffers of their own (m is w where there is no momentum). Items with gate 0 are left alone.
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
@group(0) @binding(2) var<storage, read> g_scale: array<f32>;
@group(0) @binding(3) var<storage, read> block: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<REAL>;
@group(0) @binding(5) var<storage, read_write> w: array<REAL>;
@group(0) @binding(6) var<storage, read> jobs: array<Job>;

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
    return start + i / p.views[4].cols * p.views[v].row + i % p.views[4].cols * p.views[v].col;
}

@compute @workgroup_size(256)
fn sgd_update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, lane);
    for (var run = first.x; run < p.n.x * p.n.z; run += first.y) {
        let item = run / p.n.z;
        let row = item_offset(2u, item);
        if (block[row + GATE] == 0.0) { continue; }
        let starts = vec3<u32>(item_offset(0u, item), item_offset(3u, item), item_offset(4u, item));
        var scale = 1.0;
        if ((p.n.y & HAS_SCALE) != 0u) { scale = g_scale[item_offset(1u, item)]; }
        let rate = block[row + CURRENT_RATE];
        let decay = block[row + WEIGHT_DECAY];
        let momentum = block[row + MOMENTUM];
        let fresh = 1.0 - block[row + DAMPENING];
        let started = block[row + STEP] > 1.0;
        let begin = run % p.n.z * p.n.w;
        let end = min(begin + p.n.w, p.views[4].rows * p.views[4].cols);
        for (var i = begin + lane % p.column.w * QUAD; i < end; i += p.column.w * QUAD) {
            let at = place(4u, starts.z, i);
            // A scale of 0 is a refusal, also of a direction that overflowed.
            var gradient = select(scale * g[place(0u, starts.x, i)], REAL(0.0), scale == 0.0);
            let old = w[at];
            var weight = old;
            if ((p.n.y & (DECOUPLED | CAUTIOUS)) == 0u) { gradient += decay * weight; }
            var direction = gradient;
            if ((p.n.y & HAS_MOMENTUM) != 0u) {
                let m_at = place(3u, starts.y, i);
                if (started) { direction = momentum * m[m_at] + fresh * gradient; }
                m[m_at] = direction;
                if ((p.n.y & NESTEROV) != 0u) { direction = gradient + momentum * direction; }
            }
            if ((p.n.y & DECOUPLED) != 0u) { weight *= 1.0 - rate * decay; }
            if ((p.n.y & CAUTIOUS) != 0u) { weight = select(weight, weight * (1.0 - rate * decay), direction * weight >= REAL(0.0)); }
            let next = weight - rate * direction;
            w[at] = select(old, next, (bitcast<BITS>(next) & BITS(0x7fffffffu)) < BITS(0x7f800000u));
        }
    }
}

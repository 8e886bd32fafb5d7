// out = alpha x + beta y + gamma I
// x, y and out [m, n] per item; any strides.
// p.column.w invocations a run of n.w elements, n.z runs an item; runs of all items in one flat index, strided over the grid.
// Preconditions: DENSE: each operand's item is one run, gamma is 0; QUAD 4: and starts at a multiple of 4. out is no element of x; y is out (n.y bit 2) or a buffer of its own. Items with gate 0 (bit 3) are left alone.
// Source: none.
const NONE: u32 = 0xffffffffu;
const HAS_X: u32 = 1u;
const HAS_Y: u32 = 2u;
const IN_PLACE: u32 = 4u;
const HAS_GATE: u32 = 8u;
alias REAL = f32;
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
@group(0) @binding(1) var<storage, read> x: array<REAL>;
@group(0) @binding(2) var<storage, read> y: array<REAL>;
@group(0) @binding(3) var<storage, read_write> out: array<REAL>;
@group(0) @binding(4) var<storage, read> block: array<f32>;
@group(0) @binding(5) var<storage, read> gate: array<f32>;
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

fn coefficient(i: u32, block_item: u32) -> f32 {
    let c = p.coef[i];
    if (p.column[i] == NONE) { return c; }
    return c * block[block_item + p.column[i] * p.views[3].col];
}

// Where element i of an item lies.
fn place(v: u32, start: u32, i: u32) -> u32 {
    if (DENSE) { return (start + i) / QUAD; }
    return start + i / p.views[2].cols * p.views[v].row + i % p.views[2].cols * p.views[v].col;
}

@compute @workgroup_size(256)
fn axpby(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, lane);
    let cols = p.views[2].cols;
    for (var run = first.x; run < p.n.x * p.n.z; run += first.y) {
        let item = run / p.n.z;
        if ((p.n.y & HAS_GATE) != 0u && gate[item_offset(4u, item)] == 0.0) { continue; }
        let starts = vec3<u32>(item_offset(0u, item), item_offset(1u, item), item_offset(2u, item));
        let block_item = item_offset(3u, item);
        let alpha = coefficient(0u, block_item);
        let beta = coefficient(1u, block_item);
        let gamma = coefficient(2u, block_item);
        let begin = run % p.n.z * p.n.w;
        let end = min(begin + p.n.w, p.views[2].rows * cols);
        for (var i = begin + lane % p.column.w * QUAD; i < end; i += p.column.w * QUAD) {
            let at = place(2u, starts.z, i);
            var sum = REAL(0.0);
            if ((p.n.y & HAS_X) != 0u) { sum = alpha * x[place(0u, starts.x, i)]; }
            if ((p.n.y & IN_PLACE) != 0u) {
                sum += beta * out[at];
            } else if ((p.n.y & HAS_Y) != 0u) {
                sum += beta * y[place(1u, starts.y, i)];
            }
            if (!DENSE && i / cols == i % cols) { sum += gamma; }
            out[at] = sum;
        }
    }
}

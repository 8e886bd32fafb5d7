// flag[item] = 1 where an element of x is NaN, infinite or above 1e18 in magnitude
// x [m, n], any strides; flag [1, 1] per item, only ever raised.
// p.column.w invocations a run of n.w elements, n.z runs an item; runs of all items in one flat index, strided over the grid.
// Preconditions: DENSE: an item is one run; QUAD 4: and starts at a multiple of 4. Tests bits, since a shader compiler may assume that NaN does not occur.
// Source: none.
const LARGEST: u32 = 0x5d5e0b6bu; // bits of 1e18
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
@group(0) @binding(1) var<storage, read> x: array<BITS>;
@group(0) @binding(2) var<storage, read_write> flag: array<f32>;
@group(0) @binding(3) var<storage, read> jobs: array<Job>;

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
    return start + i / p.views[0].cols * p.views[v].row + i % p.views[0].cols * p.views[v].col;
}

@compute @workgroup_size(256)
fn check_finite(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, lane);
    for (var run = first.x; run < p.n.x * p.n.z; run += first.y) {
        let item = run / p.n.z;
        let x_item = item_offset(0u, item);
        let begin = run % p.n.z * p.n.w;
        let end = min(begin + p.n.w, p.views[0].rows * p.views[0].cols);
        var largest = BITS(0u);
        for (var i = begin + lane % p.column.w * QUAD; i < end; i += p.column.w * QUAD) {
            largest = max(largest, x[place(0u, x_item, i)] & BITS(0x7fffffffu));
        }
        // Whoever finds something writes the same number.
        if (any(largest > BITS(LARGEST))) { flag[item_offset(1u, item)] = 1.0; }
    }
}

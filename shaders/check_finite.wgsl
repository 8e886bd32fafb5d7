// flag[item] = 1 where an element of x is NaN, infinite or above 1e18 in magnitude
// x [m, n], any strides; flag [1, 1] per item, only ever raised.
// n.y workgroups an item, each a run of n.z elements; runs of all items in one flat index, strided over the grid.
// Preconditions: none. Tests bits, since a shader compiler may assume that NaN does not occur.
// Source: none.
const LARGEST: u32 = 0x5d5e0b6bu; // bits of 1e18
const JOINT: bool = false;
// end of tunables
const WIDTH: u32 = 1u;
const NOWHERE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }
struct Job { params: Params, span: vec4<u32> }

@group(0) @binding(0) var<uniform> own: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> flag: array<f32>;
@group(0) @binding(3) var<storage, read> jobs: array<Job>;

var<private> p: Params;

// Sets p; the first run of this workgroup and the distance to its next one.
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
fn check_finite(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, 0u);
    let cols = p.views[0].cols;
    let area = p.views[0].rows * cols;
    for (var run = first.x; run < p.n.x * p.n.y; run += first.y) {
        let item = run / p.n.y;
        let begin = run % p.n.y * p.n.z;
        let x_item = item_offset(0u, item);
        var found = false;
        for (var i = begin + lane; i < min(begin + p.n.z, area); i += 256u) {
            let bits = x[x_item + i / cols * p.views[0].row + i % cols * p.views[0].col] & 0x7fffffffu;
            found = found || bits > LARGEST;
        }
        // Whoever finds something writes the same number.
        if (found) { flag[item_offset(1u, item)] = 1.0; }
    }
}

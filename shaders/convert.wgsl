// out = x in the other element type
// x and out dense [m, n] items; f16 items start at an even element.
// One invocation an f16 pair; pairs of all items in one flat index, strided over the grid.
// Preconditions: n.y = 1: f32 to f16 (round to nearest even), 0: f16 to f32.
// Source: none.
const JOINT: bool = false;
// end of tunables
const WIDTH: u32 = 256u;
const NOWHERE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }
struct Job { params: Params, span: vec4<u32> }

@group(0) @binding(0) var<uniform> own: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
@group(0) @binding(3) var<storage, read> jobs: array<Job>;

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

// Within f16's range: the language leaves open what becomes of the rest. NaN stays.
fn bounded(x: f32) -> f32 {
    if ((bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u) { return x; }
    return clamp(x, -65504.0, 65504.0);
}

@compute @workgroup_size(256)
fn convert(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = start(group, groups, lane);
    let area = p.views[1].rows * p.views[1].cols;
    let pairs = (area + 1u) / 2u;
    for (var i = first.x; i < p.n.x * pairs; i += first.y) {
        let from_item = item_offset(0u, i / pairs);
        let to = item_offset(1u, i / pairs);
        let e = 2u * (i % pairs);
        if (p.n.y == 1u) {
            var pair = vec2<f32>(bitcast<f32>(x[from_item + e]), 0.0);
            if (e + 1u < area) { pair.y = bitcast<f32>(x[from_item + e + 1u]); }
            out[(to + e) / 2u] = pack2x16float(vec2<f32>(bounded(pair.x), bounded(pair.y)));
        } else {
            let pair = unpack2x16float(x[(from_item + e) / 2u]);
            out[to + e] = bitcast<u32>(pair.x);
            if (e + 1u < area) { out[to + e + 1u] = bitcast<u32>(pair.y); }
        }
    }
}

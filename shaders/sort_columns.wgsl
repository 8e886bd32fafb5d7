// out = the columns of x by descending keys, of equal ones the earlier first
// keys [1, n], x and out [m, n] per item, any strides.
// One invocation a column: counts the keys before its own, then copies CHUNK rows; x strided over columns, y over chunks, z over items.
// Preconditions: none; NaN lies above infinity.
// Source: none.
const CHUNK: u32 = 64u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> keys: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Orders numbers as a u32: both zeros are one, every NaN is the last.
fn rank_of(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) { return 0xffffffffu; }
    if (magnitude == 0u) { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

@compute @workgroup_size(64)
fn sort_columns(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = p.views[2].cols;
    let rows = p.views[2].rows;
    for (var item = id.z; item < p.n.x; item += groups.z) {
        let key = item_offset(0u, item);
        for (var c = id.x; c < n; c += groups.x * 64u) {
            let mine = rank_of(keys[key + c * p.views[0].col]);
            var before = 0u;
            for (var j = 0u; j < n; j++) {
                let other = rank_of(keys[key + j * p.views[0].col]);
                if (other > mine || (other == mine && j < c)) { before++; }
            }
            let source = item_offset(1u, item) + c * p.views[1].col;
            let to = item_offset(2u, item) + before * p.views[2].col;
            for (var first = id.y * CHUNK; first < rows; first += groups.y * CHUNK) {
                for (var r = first; r < min(first + CHUNK, rows); r++) {
                    out[to + r * p.views[2].row] = x[source + r * p.views[1].row];
                }
            }
        }
    }
}

// flag[item] = 1 where an element of x is NaN, infinite or above 1e18 in magnitude
// x [m, n], any strides; flag [1, 1] per item, only ever raised.
// One workgroup an item (strided).
// Preconditions: none. Tests bits, since a shader compiler may assume that NaN does not occur.
// Source: none.
const LARGEST: u32 = 0x5d5e0b6bu; // bits of 1e18
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> flag: array<f32>;

var<workgroup> bad: atomic<u32>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

@compute @workgroup_size(256)
fn check_finite(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let cols = p.views[0].cols;
    for (var item = group.x; item < p.n.x; item += groups.x) {
        if (lane == 0u) { atomicStore(&bad, 0u); }
        // The flag is clear before anyone raises it.
        workgroupBarrier();
        let x_item = item_offset(0u, item);
        var found = false;
        for (var i = lane; i < p.views[0].rows * cols; i += 256u) {
            let bits = x[x_item + i / cols * p.views[0].row + i % cols * p.views[0].col] & 0x7fffffffu;
            found = found || bits > LARGEST;
        }
        if (found) { atomicStore(&bad, 1u); }
        // Everyone has looked before the verdict.
        workgroupBarrier();
        if (lane == 0u && atomicLoad(&bad) != 0u) { flag[item_offset(1u, item)] = 1.0; }
        // The verdict is read before the next item clears it.
        workgroupBarrier();
    }
}

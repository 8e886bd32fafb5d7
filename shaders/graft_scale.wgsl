// out = |donor| / (|x| + 1e-16), 1 without a donor (n.y = 0); 0 where |x|^2 or the result is not finite
// x, donor [m, n] any strides; out [1, 1] per item.
// One workgroup an item (strided): strided partial sums of both, then a tree; the order depends on the item's shape alone.
// Preconditions: none.
// Source: facebookresearch/optimizers, grafting.
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> donor: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<vec2<f32>, 256>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) < 0x7f800000u;
}

@compute @workgroup_size(256)
fn graft_scale(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let cols = p.views[0].cols;
    let count = p.views[0].rows * cols;
    for (var item = group.x; item < p.n.x; item += groups.x) {
        let x_item = item_offset(0u, item);
        let donor_item = item_offset(1u, item);
        var sum = vec2<f32>(0.0);
        for (var i = lane; i < count; i += 256u) {
            var value = vec2<f32>(x[x_item + i / cols * p.views[0].row + i % cols * p.views[0].col], 0.0);
            if (p.n.y == 1u) { value.y = donor[donor_item + i / cols * p.views[1].row + i % cols * p.views[1].col]; }
            sum += value * value;
        }
        partial[lane] = sum;
        for (var half = 128u; half > 0u; half /= 2u) {
            // The upper half is complete before it is added, and read before it is overwritten.
            workgroupBarrier();
            if (lane < half) { partial[lane] += partial[lane + half]; }
        }
        if (lane == 0u) {
            let square = partial[0];
            var ratio = 1.0;
            if (p.n.y == 1u) { ratio = sqrt(square.y) / (sqrt(square.x) + 1e-16); }
            out[item_offset(2u, item)] = select(0.0, ratio, finite(square.x) && finite(ratio));
        }
        // The next item's partial sums start after this one's are used.
        workgroupBarrier();
    }
}

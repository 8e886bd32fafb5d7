// What the application computes itself: everything of the network's two passes that is not a matrix product.
// One invocation an element. Matrices are row-major, rows are pixels.

override pixels: u32;
override hidden: u32;
const CHANNELS: u32 = 3u;

@group(0) @binding(0) var<storage, read> first: array<f32>;
@group(0) @binding(1) var<storage, read> second: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;
@group(0) @binding(3) var<storage, read_write> sampled: array<f32>;

// result [pixels, hidden + 1] = tanh of first [pixels, hidden], and a last column of ones: the next layer's bias input.
@compute @workgroup_size(64)
fn activate(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let width = hidden + 1u;
    for (var i = id.x; i < pixels * width; i += 64u * groups.x) {
        let column = i % width;
        // tanh of a large argument is NaN on some drivers.
        result[i] = select(tanh(clamp(first[i / width * hidden + min(column, hidden - 1u)], -10.0, 10.0)), 1.0, column == hidden);
    }
}

// result = (first - second) / pixels: the gradient of the mean loss sum |y - target|^2 / (2 pixels) with respect to y.
// sampled = +-1 / pixels: the same with a label drawn from the model, whose second moments are the Fisher information's.
@compute @workgroup_size(64)
fn compare(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < pixels * CHANNELS; i += 64u * groups.x) {
        result[i] = (first[i] - second[i]) / f32(pixels);
        // A hash with good low bits; the same draw in every frame.
        var bits = i * 747796405u + 2891336453u;
        bits = ((bits >> ((bits >> 28u) + 4u)) ^ bits) * 277803737u;
        sampled[i] = select(-1.0, 1.0, ((bits >> 22u) & 1u) == 1u) / f32(pixels);
    }
}

// result and sampled [pixels, hidden] through tanh: times 1 - first^2, first [pixels, hidden + 1].
@compute @workgroup_size(64)
fn retreat(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < pixels * hidden; i += 64u * groups.x) {
        let value = first[i / hidden * (hidden + 1u) + i % hidden];
        result[i] *= 1.0 - value * value;
        sampled[i] *= 1.0 - value * value;
    }
}

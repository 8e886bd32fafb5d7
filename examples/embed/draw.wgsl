// Draws the network's output, [side * side, 3], straight from the buffer that the forward pass wrote.

override side: u32;
override scale: u32;

@group(0) @binding(0) var<storage, read> picture: array<f32>;

@vertex
fn cover(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    // One triangle that covers the target.
    return vec4<f32>(f32(index & 1u) * 4.0 - 1.0, f32(index >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment
fn shade(@builtin(position) position: vec4<f32>) -> @location(0) vec4<f32> {
    let at = min(vec2<u32>(position.xy) / scale, vec2<u32>(side - 1u));
    let first = 3u * (at.y * side + at.x);
    return vec4<f32>(picture[first], picture[first + 1u], picture[first + 2u], 1.0);
}

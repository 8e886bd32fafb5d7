// out <- decay out + (1 - decay) scale / n x^T x
// x [n, q]; out [q, q], or [q + 1, q + 1] with a trailing column of ones (n.y = 1); per item; any strides.
// One workgroup a 4 T x 4 T tile of the lower triangle, mirrored on writing; workgroup z (strided) over items, x (strided) over tiles.
// Preconditions: out symmetric and not x. coef = (decay, scale); items with gate 0 (n.z = 1: gate present) are left alone.
// Source: textbook tiling, as gemm.wgsl.
const T: u32 = 16u;
const TILE_K: u32 = 16u;
// end of tunables
const NONE: u32 = 0xffffffffu;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read> block: array<f32>;
@group(0) @binding(4) var<storage, read> gate: array<f32>;

var<workgroup> left: array<vec4<f32>, TILE_K * T>;
var<workgroup> right: array<vec4<f32>, TILE_K * T>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

fn coefficient(i: u32, block_item: u32) -> f32 {
    let c = p.coef[i];
    if (p.column[i] == NONE) { return c; }
    return c * block[block_item + p.column[i] * p.views[2].col];
}

fn sample(item: u32, k: u32, c: u32) -> f32 {
    if (k >= p.views[0].rows) { return 0.0; }
    if (c < p.views[0].cols) { return x[item + k * p.views[0].row + c * p.views[0].col]; }
    return select(0.0, 1.0, p.n.y == 1u && c == p.views[0].cols);
}

fn quad(item: u32, k: u32, c: u32) -> vec4<f32> {
    return vec4<f32>(sample(item, k, c), sample(item, k, c + 1u), sample(item, k, c + 2u), sample(item, k, c + 3u));
}

fn store(item: u32, r: u32, c: u32, value: f32, decay: f32) {
    if (r >= p.views[1].rows || c > r) { return; }
    let at = item + r * p.views[1].row + c * p.views[1].col;
    var result = value;
    if (p.column[0] != NONE || p.coef[0] != 0.0) { result += decay * out[at]; }
    out[at] = result;
    if (c < r) { out[item + c * p.views[1].row + r * p.views[1].col] = result; }
}

fn store_row(item: u32, r: u32, c: u32, values: vec4<f32>, decay: f32) {
    store(item, r, c, values.x, decay);
    store(item, r, c + 1u, values.y, decay);
    store(item, r, c + 2u, values.z, decay);
    store(item, r, c + 3u, values.w, decay);
}

@compute @workgroup_size(T, T)
fn kron_factor(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let side = (p.views[1].rows + 4u * T - 1u) / (4u * T);
    let n = p.views[0].rows;
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let open = p.n.z == 0u || gate[item_offset(3u, item)] != 0.0;
        let x_item = item_offset(0u, item);
        for (var tile = group.x; tile < side * side; tile += groups.x) {
            let row = tile / side * 4u * T;
            let col = tile % side * 4u * T;
            // Tiles above the diagonal are mirror images. Uniform: both conditions depend on the workgroup alone.
            if (col > row || !open) { continue; }
            var acc0 = vec4<f32>(0.0);
            var acc1 = vec4<f32>(0.0);
            var acc2 = vec4<f32>(0.0);
            var acc3 = vec4<f32>(0.0);
            for (var k0 = 0u; k0 < n; k0 += TILE_K) {
                for (var i = lane; i < TILE_K * T; i += T * T) {
                    let k = select(i % TILE_K, i / T, p.views[0].col == 1u);
                    let c = select(i / TILE_K, i % T, p.views[0].col == 1u);
                    left[k * T + c] = quad(x_item, k0 + k, row + 4u * c);
                    right[k * T + c] = quad(x_item, k0 + k, col + 4u * c);
                }
                // The tiles are complete before anyone multiplies.
                workgroupBarrier();
                for (var k = 0u; k < TILE_K; k++) {
                    let u = left[k * T + local.y];
                    let v = right[k * T + local.x];
                    acc0 += u.x * v;
                    acc1 += u.y * v;
                    acc2 += u.z * v;
                    acc3 += u.w * v;
                }
                // Everyone has multiplied before the tiles are overwritten.
                workgroupBarrier();
            }
            let decay = coefficient(0u, item_offset(2u, item));
            let weight = (1.0 - decay) * p.coef[1] / f32(n);
            let o = item_offset(1u, item);
            let r = row + 4u * local.y;
            let c = col + 4u * local.x;
            store_row(o, r, c, weight * acc0, decay);
            store_row(o, r + 1u, c, weight * acc1, decay);
            store_row(o, r + 2u, c, weight * acc2, decay);
            store_row(o, r + 3u, c, weight * acc3, decay);
        }
    }
}

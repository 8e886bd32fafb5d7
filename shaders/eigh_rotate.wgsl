// T <- J^T T J and V <- V J outside the blocks that eigh_jacobi has diagonalised, J = I + the rotations of all block pairs of round n.y
// work: see eigh_load.
// One workgroup a 32 x 32 tile: tiles (I, K), I < K, of pairs, mirrored, then those of V; x strided over tiles, z over items. Tiles that no rotation touches leave.
// Preconditions: eigh_jacobi of the same round.
// Source: [GVL13] 8.5.6.
const W: u32 = 32u;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> work: array<f32>;

var<workgroup> tile: array<f32, W * W>;
var<workgroup> left: array<f32, W * W>;
var<workgroup> right: array<f32, W * W>;
var<workgroup> touched: u32;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// The k-th of the disjoint pairs of round r of a tournament of m.
fn couple(k: u32, r: u32, m: u32) -> vec2<u32> {
    if (k == 0u) { return vec2<u32>(r % (m - 1u), m - 1u); }
    let x = (r + k) % (m - 1u);
    let y = (r + m - 1u - k) % (m - 1u);
    return vec2<u32>(min(x, y), max(x, y));
}

// Row or column i of a pair of blocks.
fn place(blocks: vec2<u32>, i: u32) -> u32 {
    return select(blocks.y * (W / 2u) + i - W / 2u, blocks.x * (W / 2u) + i, i < W / 2u);
}

@compute @workgroup_size(256)
fn eigh_rotate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let padded = p.views[0].cols;
    let pairs = padded / W;
    for (var item = group.z; item < p.n.x; item += groups.z) {
        let matrix = item_offset(0u, item);
        let rotations = matrix + 2u * padded * padded;
        for (var unit = group.x; unit < 2u * pairs * pairs; unit += groups.x) {
            let both = unit < pairs * pairs;
            let i = unit / pairs % pairs;
            let k = unit % pairs;
            if (lane == 0u) {
                let flags = rotations + W * padded;
                touched = select(0u, 1u, work[flags + k] != 0.0 || (both && work[flags + i] != 0.0));
                if (both && i >= k) { touched = 0u; }
            }
            if (workgroupUniformLoad(&touched) == 0u) { continue; }
            let rows = couple(i, p.n.y, 2u * pairs);
            let cols = couple(k, p.n.y, 2u * pairs);
            for (var e = lane; e < W * W; e += 256u) {
                let col = place(cols, e % W);
                var at = matrix + (padded + i * W + e / W) * padded + col;
                if (both) { at = matrix + place(rows, e / W) * padded + col; }
                tile[e] = work[at];
                left[e] = work[rotations + i * W * W + e];
                right[e] = work[rotations + k * W * W + e];
            }
            // The tiles are complete before they are multiplied.
            workgroupBarrier();
            if (both) {
                var sum: array<f32, 4>;
                for (var s = 0u; s < 4u; s++) {
                    let e = lane + s * 256u;
                    sum[s] = 0.0;
                    for (var j = 0u; j < W; j++) { sum[s] += left[j * W + e / W] * tile[j * W + e % W]; }
                    sum[s] += tile[e];
                }
                // Everyone has read the tile before it is overwritten.
                workgroupBarrier();
                for (var s = 0u; s < 4u; s++) { tile[lane + s * 256u] = sum[s]; }
            }
            // The tile is J^T T before it is multiplied from the right.
            workgroupBarrier();
            for (var e = lane; e < W * W; e += 256u) {
                var sum = 0.0;
                for (var j = 0u; j < W; j++) { sum += tile[e / W * W + j] * right[j * W + e % W]; }
                sum += tile[e];
                let col = place(cols, e % W);
                if (both) {
                    let row = place(rows, e / W);
                    work[matrix + row * padded + col] = sum;
                    work[matrix + col * padded + row] = sum;
                } else {
                    work[matrix + (padded + i * W + e / W) * padded + col] = sum;
                }
            }
            // The tile is used up before the next one is loaded.
            workgroupBarrier();
        }
    }
}

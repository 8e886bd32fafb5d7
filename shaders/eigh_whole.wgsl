// The matrix and then its vectors become diagonal and orthonormal: T <- J^T T J, and J, as eigh_jacobi.wgsl, for matrices whose vectors do not fit a workgroup's memory
// work: see eigh_load; of order w, its columns, even and at most LIMIT. J takes the vectors' place. n.w sweeps.
// One workgroup an item (x and z, strided): cyclic two-sided Jacobi, w / 2 disjoint rotations at once. One triangle of the matrix in workgroup memory; of the vectors, transposed, each invocation keeps one component.
// Preconditions: as eigh_jacobi.wgsl.
// Source: as eigh_jacobi.wgsl.
const LIMIT: u32 = 96u;
const PAIRS: u32 = 48u; // LIMIT / 2
const CELLS: u32 = 4656u; // LIMIT (LIMIT + 1) / 2
// end of tunables
const SMALL: f32 = 3e-8; // of sqrt(a_pp a_qq): rotations below it change nothing
const FLOOR: f32 = 1e-13;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> work: array<f32>;
var<workgroup> t: array<f32, CELLS>;
var<workgroup> turn: array<vec2<f32>, PAIRS>;
var<workgroup> open: array<u32, PAIRS>;
fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// The k-th of the disjoint pairs of round r of a tournament of m.
fn couple(k: u32, r: u32, m: u32) -> vec2<u32> {
    if (k == 0u) { return vec2<u32>(r % (m - 1u), m - 1u); }
    let q = vec2<u32>(r + k, r + m - 1u - k) % (m - 1u);
    return select(q.yx, q, q.x < q.y);
}
// Where element (r, c) of the matrix is.
fn cell(r: u32, c: u32) -> u32 { return max(r, c) * (max(r, c) + 1u) / 2u + min(r, c); }

fn large(r: u32, c: u32) -> bool {
    let off = abs(t[cell(r, c)]);
    return off > FLOOR && off > SMALL * sqrt(abs(t[cell(r, r)])) * sqrt(abs(t[cell(c, c)]));
}

// Sine s and tau = s / (1 + cosine) of the rotation that makes t[q.x, q.y] zero.
fn rotation(q: vec2<u32>) -> vec2<f32> {
    if (!large(q.x, q.y)) { return vec2<f32>(0.0); }
    let tau = (t[cell(q.y, q.y)] - t[cell(q.x, q.x)]) / (2.0 * t[cell(q.x, q.y)]);
    let tangent = select(0.5 / tau, select(-1.0, 1.0, tau >= 0.0) / (abs(tau) + sqrt(1.0 + tau * tau)), abs(tau) < 1e6);
    let cosine = 1.0 / sqrt(1.0 + tangent * tangent);
    let sine = cosine * tangent;
    return vec2<f32>(sine, sine / (1.0 + cosine));
}

// Both columns of m turned, by a change: a small rotation rounds little, while a rounded cosine would stretch what it turns, time and again.
fn turned(m: mat2x2<f32>, j: vec2<f32>) -> mat2x2<f32> {
    return m + mat2x2<f32>(-j.x * (m[1] + j.y * m[0]), j.x * (m[0] - j.y * m[1]));
}

fn turn_matrix(w: u32, round: u32, lane: u32) {
    let h = w / 2u;
    for (var i = lane; i < h * h; i += 256u) {
        let rows = couple(i / h, round, w);
        let cols = couple(i % h, round, w);
        let j = turn[i / h];
        let k = turn[i % h];
        if (i / h == i % h && j.x != 0.0) {
            let shift = j.x / (1.0 - j.x * j.y) * t[cell(rows.x, rows.y)];
            t[cell(rows.x, rows.x)] -= shift;
            t[cell(rows.y, rows.y)] += shift;
            t[cell(rows.x, rows.y)] = 0.0;
        } else if (i / h < i % h && (j.x != 0.0 || k.x != 0.0)) {
            let upper = vec2<f32>(t[cell(rows.x, cols.x)], t[cell(rows.x, cols.y)]);
            let lower = vec2<f32>(t[cell(rows.y, cols.x)], t[cell(rows.y, cols.y)]);
            let block = turned(transpose(turned(mat2x2<f32>(upper, lower), j)), k);
            t[cell(rows.x, cols.x)] = block[0].x;
            t[cell(rows.y, cols.x)] = block[0].y;
            t[cell(rows.x, cols.y)] = block[1].x;
            t[cell(rows.y, cols.y)] = block[1].y;
        }
    }
}

// Component `lane` of all vectors, minus that of I. Nobody else reads or writes it.
fn turn_vectors(at: u32, w: u32, round: u32, lane: u32) {
    for (var i = 0u; i < w / 2u && lane < w; i++) {
        let j = turn[i];
        if (j.x == 0.0) { continue; }
        let cols = couple(i, round, w) * w + at + lane;
        let one = vec2<f32>(couple(i, round, w) == vec2<u32>(lane));
        let x = work[cols.x] + one.x;
        let y = work[cols.y] + one.y;
        work[cols.x] -= j.x * (y + j.y * x);
        work[cols.y] += j.x * (x - j.y * y);
    }
}

fn diagonalise(vectors: u32, w: u32, sweeps: u32, lane: u32) {
    let h = w / 2u;
    for (var sweep = 0u; sweep < sweeps; sweep++) {
        // The matrix is complete before it is searched for large elements.
        workgroupBarrier();
        if (lane < h) { open[lane] = 0u; }
        for (var i = 0u; i < 2u * w && lane < h; i++) {
            let r = 2u * lane + i / w;
            if (i % w < r && large(r, i % w)) { open[lane] = 1u; }
        }
        // All rows are searched before the verdict.
        workgroupBarrier();
        for (var k = 1u; k < h && lane == 0u; k++) { open[0] |= open[k]; }
        if (workgroupUniformLoad(&open[0]) == 0u) { break; }
        for (var round = 0u; round < w - 1u; round++) {
            if (lane < h) { turn[lane] = rotation(couple(lane, round, w)); }
            // The rotations are known before the matrix changes.
            workgroupBarrier();
            turn_matrix(w, round, lane);
            turn_vectors(vectors, w, round, lane);
            // Everyone has rotated before the next rotations are formed.
            workgroupBarrier();
        }
    }
}

@compute @workgroup_size(256)
fn eigh_whole(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let w = p.views[0].cols;
    for (var item = group.x + group.z * groups.x; item < p.n.x; item += groups.x * groups.z) {
        let matrix = item_offset(0u, item);
        let vectors = matrix + w * w;
        // Mirrored elements are one: the matrix is symmetric bit by bit.
        for (var i = lane; i < w * w; i += 256u) { t[cell(i / w, i % w)] = work[matrix + i]; }
        for (var i = lane; i < w * w && lane < w; i += w) { work[vectors + i] = 0.0; }
        diagonalise(vectors, w, p.n.w, lane);
        for (var i = lane; i < w * w; i += 256u) { work[matrix + i] = t[cell(i / w, i % w)]; }
        // Transposed in place by anti-diagonals: everyone reads and writes its own component alone, values change hands in the matrix's place.
        for (var d = 0u; d <= w / 2u; d++) {
            let up = vectors + (lane + d) % w * w + lane;
            let down = vectors + (lane + w - d) % w * w + lane;
            // What was there has been read.
            workgroupBarrier();
            if (lane < w) { t[lane] = work[up]; t[w + lane] = work[down]; }
            // Everything of these two anti-diagonals is there.
            workgroupBarrier();
            if (lane < w) { work[down] = t[(lane + w - d) % w] + select(0.0, 1.0, d == 0u); }
            if (lane < w && d > 0u && 2u * d < w) { work[up] = t[w + (lane + d) % w]; }
        }
        // The results are out before the next item overwrites the matrix.
        workgroupBarrier();
    }
}

// The matrix of a unit of work and then its vectors become diagonal and orthonormal: T <- J^T T J, and J
// work: see eigh_load. n.y = 1: the unit is the whole matrix, n <= LIMIT even, J takes the vectors' place; 0: a block pair of round n.z, J - I is its rotation. n.w sweeps.
// One workgroup a unit (x, and z over items, strided): cyclic two-sided Jacobi, w / 2 disjoint rotations at once, matrix and vectors in workgroup memory.
// Preconditions: the matrix is symmetric, max |a| about 1. Bounded sweeps; what is not finite stays so.
// Source: [GVL13] Golub, Van Loan, Matrix Computations, 8.5; rounds of a tournament.
const LIMIT: u32 = 44u;
const PAIRS: u32 = 22u; // LIMIT / 2
const CELLS: u32 = 1936u; // LIMIT^2, or LIMIT (LIMIT + 1) / 2 where PACKED
const PACKED: bool = false; // one triangle of the matrix
// end of tunables
const W: u32 = 32u;
const WHOLE: u32 = 1u;
const SMALL: f32 = 3e-8; // of sqrt(a_pp a_qq): rotations below it change nothing
const FLOOR: f32 = 1e-13;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> work: array<f32>;
var<workgroup> t: array<f32, CELLS>;
var<workgroup> v: array<f32, LIMIT * LIMIT>; // vectors minus I
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
fn cell(r: u32, c: u32, w: u32) -> u32 {
    return select(r * w + c, max(r, c) * (max(r, c) + 1u) / 2u + min(r, c), PACKED);
}

fn large(r: u32, c: u32, w: u32) -> bool {
    let off = abs(t[cell(r, c, w)]);
    return off > FLOOR && off > SMALL * sqrt(abs(t[cell(r, r, w)])) * sqrt(abs(t[cell(c, c, w)]));
}

// Sine s and tau = s / (1 + cosine) of the rotation that makes t[q.x, q.y] zero.
fn rotation(q: vec2<u32>, w: u32) -> vec2<f32> {
    if (!large(q.x, q.y, w)) { return vec2<f32>(0.0); }
    let tau = (t[cell(q.y, q.y, w)] - t[cell(q.x, q.x, w)]) / (2.0 * t[cell(q.x, q.y, w)]);
    let tangent = select(0.5 / tau, select(-1.0, 1.0, tau >= 0.0) / (abs(tau) + sqrt(1.0 + tau * tau)), abs(tau) < 1e6);
    let cosine = 1.0 / sqrt(1.0 + tangent * tangent);
    let sine = cosine * tangent;
    return vec2<f32>(sine, sine / (1.0 + cosine));
}

// Both columns of m turned, by a change: a small rotation rounds little, while a rounded cosine would stretch what it turns, time and again.
fn turned(m: mat2x2<f32>, j: vec2<f32>) -> mat2x2<f32> {
    return m + mat2x2<f32>(-j.x * (m[1] + j.y * m[0]), j.x * (m[0] - j.y * m[1]));
}

fn put(r: vec2<u32>, c: u32, w: u32, x: vec2<f32>) {
    t[cell(r.x, c, w)] = x.x;
    t[cell(c, r.x, w)] = x.x;
    t[cell(r.y, c, w)] = x.y;
    t[cell(c, r.y, w)] = x.y;
}

fn diagonalise(w: u32, sweeps: u32, lane: u32) -> u32 {
    let h = w / 2u;
    var sweep = 0u;
    for (; sweep < sweeps; sweep++) {
        // The matrix is complete before it is searched for large elements.
        workgroupBarrier();
        if (lane < h) { open[lane] = 0u; }
        for (var i = 0u; i < 2u * w && lane < h; i++) {
            let r = 2u * lane + i / w;
            if (i % w < r && large(r, i % w, w)) { open[lane] = 1u; }
        }
        // All rows are searched before the verdict.
        workgroupBarrier();
        for (var k = 1u; k < h && lane == 0u; k++) { open[0] |= open[k]; }
        if (workgroupUniformLoad(&open[0]) == 0u) { break; }
        for (var round = 0u; round < w - 1u; round++) {
            if (lane < h) { turn[lane] = rotation(couple(lane, round, w), w); }
            // The rotations are known before the matrix changes.
            workgroupBarrier();
            for (var i = lane; i < h * h; i += 256u) {
                let rows = couple(i / h, round, w);
                let cols = couple(i % h, round, w);
                let j = turn[i / h];
                let k = turn[i % h];
                if (i / h == i % h && j.x != 0.0) {
                    let shift = j.x / (1.0 - j.x * j.y) * t[cell(rows.x, rows.y, w)];
                    t[cell(rows.x, rows.x, w)] -= shift;
                    t[cell(rows.y, rows.y, w)] += shift;
                    t[cell(rows.x, rows.y, w)] = 0.0;
                    t[cell(rows.y, rows.x, w)] = 0.0;
                } else if (i / h < i % h && (j.x != 0.0 || k.x != 0.0)) {
                    let upper = vec2<f32>(t[cell(rows.x, cols.x, w)], t[cell(rows.x, cols.y, w)]);
                    let lower = vec2<f32>(t[cell(rows.y, cols.x, w)], t[cell(rows.y, cols.y, w)]);
                    let block = turned(transpose(turned(mat2x2<f32>(upper, lower), j)), k);
                    put(rows, cols.x, w, block[0]);
                    put(rows, cols.y, w, block[1]);
                }
            }
            for (var i = lane; i < w * h; i += 256u) {
                let cols = couple(i % h, round, w);
                let j = turn[i % h];
                let x = v[i / h * w + cols.x] + select(0.0, 1.0, cols.x == i / h);
                let y = v[i / h * w + cols.y] + select(0.0, 1.0, cols.y == i / h);
                v[i / h * w + cols.x] -= j.x * (y + j.y * x);
                v[i / h * w + cols.y] += j.x * (x - j.y * y);
            }
            // Everyone has rotated before the next rotations are formed.
            workgroupBarrier();
        }
    }
    return sweep;
}

// Row or column i of the unit.
fn place(blocks: vec2<u32>, i: u32) -> u32 {
    return select(select(blocks.y * (W / 2u) + i - W / 2u, blocks.x * (W / 2u) + i, i < W / 2u), i, p.n.y == WHOLE);
}

@compute @workgroup_size(256)
fn eigh_jacobi(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let padded = p.views[0].cols;
    let whole = p.n.y == WHOLE;
    let w = select(W, padded, whole);
    let pairs = padded / w;
    for (var unit = group.x + group.z * groups.x; unit < p.n.x * pairs; unit += groups.x * groups.z) {
        let matrix = item_offset(0u, unit / pairs);
        let k = unit % pairs;
        let blocks = couple(k, p.n.z, 2u * pairs);
        for (var i = lane; i < w * w; i += 256u) {
            // Where packed, mirrored elements are one: the matrix is symmetric bit by bit.
            t[cell(i / w, i % w, w)] = work[matrix + place(blocks, i / w) * padded + place(blocks, i % w)];
            v[i] = 0.0;
        }
        let swept = diagonalise(w, p.n.w, lane);
        let vectors = matrix + padded * padded;
        let rotations = vectors + padded * padded;
        if (lane == 0u && !whole) { work[rotations + W * padded + k] = f32(swept); }
        for (var i = lane; i < w * w; i += 256u) {
            work[matrix + place(blocks, i / w) * padded + place(blocks, i % w)] = t[cell(i / w, i % w, w)];
            work[select(rotations + k * W * W, vectors, whole) + i] = v[i] + select(0.0, 1.0, whole && i / w == i % w);
        }
        // The results are out before the next unit overwrites the matrix.
        workgroupBarrier();
    }
}

// a = vectors diag(values) vectors^T (n.y = 0), or the same for one block pair of work, whose vectors minus I become the pair's rotation (n.y = 1)
// a and vectors [n, n], values [1, n], n <= LIMIT; work: see eigh_load. n.z = round of the pairs, n.w = 1: values descend.
// One workgroup an item, or a pair of an item (z strided over items): cyclic two-sided Jacobi, w / 2 disjoint rotations at once, matrix and vectors in workgroup memory.
// Preconditions: max |a| about 1. The symmetric part of a counts. Bounded sweeps; what is not finite stays so.
// Source: [GVL13] Golub, Van Loan, Matrix Computations, 8.5; rounds of a tournament.
const LIMIT: u32 = 44u;
const PAIRS: u32 = 22u; // LIMIT / 2
const W: u32 = 32u;
const SWEEPS: u32 = 15u;
const PAIR_SWEEPS: u32 = 3u;
const SMALL: f32 = 3e-8; // of sqrt(a_pp a_qq): rotations below it change nothing
const FLOOR: f32 = 1e-13;
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 5>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> vectors: array<f32>;
@group(0) @binding(4) var<storage, read_write> work: array<f32>;

var<workgroup> t: array<f32, LIMIT * LIMIT>;
var<workgroup> v: array<f32, LIMIT * LIMIT>; // vectors minus I
var<workgroup> turn: array<vec2<f32>, PAIRS>;
var<workgroup> open: array<u32, PAIRS>;
var<workgroup> any_open: u32;

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

fn large(r: u32, c: u32, w: u32) -> bool {
    let off = abs(t[r * w + c]);
    return off > FLOOR && off > SMALL * sqrt(abs(t[r * w + r])) * sqrt(abs(t[c * w + c]));
}

// Sine s and tau = s / (1 + cosine) of the rotation that makes t[q.x, q.y] zero.
fn rotation(q: vec2<u32>, w: u32) -> vec2<f32> {
    if (!large(q.x, q.y, w)) { return vec2<f32>(0.0); }
    let tau = (t[q.y * w + q.y] - t[q.x * w + q.x]) / (2.0 * t[q.x * w + q.y]);
    var tangent = 0.5 / tau;
    if (abs(tau) < 1e6) { tangent = select(-1.0, 1.0, tau >= 0.0) / (abs(tau) + sqrt(1.0 + tau * tau)); }
    let cosine = 1.0 / sqrt(1.0 + tangent * tangent);
    let sine = cosine * tangent;
    return vec2<f32>(sine, sine / (1.0 + cosine));
}

// (x, y) turned, as a change: a small rotation rounds little, while a rounded cosine would stretch what it turns, time and again.
fn turned(x: f32, y: f32, j: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(-j.x * (y + j.y * x), j.x * (x - j.y * y));
}

fn diagonalise(w: u32, sweeps: u32, lane: u32) -> u32 {
    let h = w / 2u;
    var swept = 0u;
    for (var sweep = 0u; sweep < sweeps; sweep++) {
        // The matrix is complete before it is searched for large elements.
        workgroupBarrier();
        if (lane < h) {
            open[lane] = 0u;
            for (var i = 0u; i < 2u * w; i++) {
                let r = 2u * lane + i / w;
                if (i % w < r && large(r, i % w, w)) { open[lane] = 1u; }
            }
        }
        // All rows are searched before the verdict.
        workgroupBarrier();
        if (lane == 0u) {
            any_open = 0u;
            for (var k = 0u; k < h; k++) { any_open |= open[k]; }
        }
        if (workgroupUniformLoad(&any_open) == 0u) { break; }
        swept = 1u;
        for (var round = 0u; round < w - 1u; round++) {
            if (lane < h) { turn[lane] = rotation(couple(lane, round, w), w); }
            // The rotations are known before the matrix changes.
            workgroupBarrier();
            for (var i = lane; i < h * h; i += 256u) {
                let rows = couple(i / h, round, w);
                let cols = couple(i % h, round, w);
                let j = turn[i / h];
                let k = turn[i % h];
                if (i / h == i % h) {
                    let off = t[rows.x * w + rows.y];
                    if (j.x != 0.0) {
                        let shift = j.x / (1.0 - j.x * j.y) * off;
                        t[rows.x * w + rows.x] -= shift;
                        t[rows.y * w + rows.y] += shift;
                        t[rows.x * w + rows.y] = 0.0;
                        t[rows.y * w + rows.x] = 0.0;
                    }
                } else if (i / h < i % h && (j.x != 0.0 || k.x != 0.0)) {
                    var x = vec2<f32>(t[rows.x * w + cols.x], t[rows.y * w + cols.x]);
                    var y = vec2<f32>(t[rows.x * w + cols.y], t[rows.y * w + cols.y]);
                    x += turned(x.x, x.y, j);
                    y += turned(y.x, y.y, j);
                    let upper = turned(x.x, y.x, k);
                    let lower = turned(x.y, y.y, k);
                    x += vec2<f32>(upper.x, lower.x);
                    y += vec2<f32>(upper.y, lower.y);
                    t[rows.x * w + cols.x] = x.x;
                    t[rows.y * w + cols.x] = x.y;
                    t[rows.x * w + cols.y] = y.x;
                    t[rows.y * w + cols.y] = y.y;
                    t[cols.x * w + rows.x] = x.x;
                    t[cols.x * w + rows.y] = x.y;
                    t[cols.y * w + rows.x] = y.x;
                    t[cols.y * w + rows.y] = y.y;
                }
            }
            for (var i = lane; i < w * h; i += 256u) {
                let cols = couple(i % h, round, w);
                let unit = select(vec2<f32>(0.0), vec2<f32>(1.0), cols == vec2<u32>(i / h));
                let x = i / h * w + cols.x;
                let y = i / h * w + cols.y;
                let change = turned(v[x] + unit.x, v[y] + unit.y, turn[i % h]);
                v[x] += change.x;
                v[y] += change.y;
            }
            // Everyone has rotated before the next rotations are formed.
            workgroupBarrier();
        }
    }
    return swept;
}

// Orders numbers as a u32, NaN included.
fn key(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

@compute @workgroup_size(256)
fn eigh_jacobi(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let whole = p.n.y == 0u;
    let n = select(W, p.views[0].rows, whole);
    let w = n + n % 2u;
    let padded = p.views[3].cols;
    let pairs = padded / W;
    let units = select(p.n.x * pairs, p.n.x, whole);
    for (var unit = group.x + group.z * groups.x; unit < units; unit += groups.x * groups.z) {
        let item = select(unit / max(pairs, 1u), unit, whole);
        let k = unit % max(pairs, 1u);
        let blocks = couple(k, p.n.z, max(2u * pairs, 2u)) * (W / 2u);
        let work_item = item_offset(3u, item);
        let a_item = item_offset(0u, item);
        for (var i = lane; i < w * w; i += 256u) {
            let r = i / w;
            let c = i % w;
            v[i] = 0.0;
            t[i] = 0.0;
            if (!whole) {
                let row = select(blocks.y - W / 2u, blocks.x, r < W / 2u) + r;
                let col = select(blocks.y - W / 2u, blocks.x, c < W / 2u) + c;
                t[i] = work[work_item + row * padded + col];
            } else if (r < n && c < n) {
                t[i] = 0.5 * (a[a_item + r * p.views[0].row + c * p.views[0].col] + a[a_item + c * p.views[0].row + r * p.views[0].col]);
            }
        }
        let swept = diagonalise(w, select(PAIR_SWEEPS, SWEEPS, whole), lane);
        if (whole) {
            for (var i = lane; i < n * n; i += 256u) {
                let c = i % n;
                let mine = key(t[c * w + c]);
                var rank = 0u;
                for (var j = 0u; j < n; j++) {
                    let other = key(t[j * w + j]);
                    if (other < mine || (other == mine && j < c)) { rank++; }
                }
                if (p.n.w == 1u) { rank = n - 1u - rank; }
                if (i < n) { values[item_offset(1u, item) + rank * p.views[1].col] = t[c * w + c]; }
                vectors[item_offset(2u, item) + i / n * p.views[2].row + rank * p.views[2].col] = v[i / n * w + c] + select(0.0, 1.0, i / n == c);
            }
        } else {
            let rotations = work_item + 2u * padded * padded;
            if (lane == 0u) { work[rotations + W * padded + k] = f32(swept); }
            for (var i = lane; i < W * W; i += 256u) {
                let row = select(blocks.y - W / 2u, blocks.x, i / W < W / 2u) + i / W;
                let col = select(blocks.y - W / 2u, blocks.x, i % W < W / 2u) + i % W;
                work[work_item + row * padded + col] = t[i];
                work[rotations + k * W * W + i] = v[i];
            }
        }
        // The results are out before the next unit overwrites the matrix.
        workgroupBarrier();
    }
}

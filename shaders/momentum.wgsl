// m <- decay m + fresh g; also, from the new m, out = decay m + fresh g (n.y = 1), or m / (1 - b1^t) (n.y = 2)
// g, m, out [m, n] any strides, block [1, WIDTH] per item. decay and fresh are coef.x and coef.y, times columns of the block where there are any.
// p.column.w invocations a run of n.w elements, n.z runs an item; runs of all items in one flat index, strided over the grid.
// Preconditions: DENSE: each operand's item is one run; QUAD 4: and starts at a multiple of 4. m and out are buffers of their own. Items with gate 0 are left alone.
// Source: KellerJordan/Muon; [KB15] Adam, section 3.
const NONE: u32 = 0xffffffffu;
const WEIGHT1: u32 = 34u;
const GATE: u32 = 36u;
const LOOK_AHEAD: u32 = 1u;
const CORRECTED: u32 = 2u;
alias REAL = f32;
alias BITS = u32;
const QUAD: u32 = 1u;
const DENSE: bool = false;
// end of tunables
struct View { offset: u32, item: u32, row: u32, col: u32, div: u32, modulo: u32, rows: u32, cols: u32 }
struct Params { views: array<View, 6>, coef: vec4<f32>, column: vec4<u32>, n: vec4<u32> }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> g: array<REAL>;
@group(0) @binding(2) var<storage, read> block: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<REAL>;
@group(0) @binding(4) var<storage, read_write> out: array<REAL>;

fn item_offset(v: u32, b: u32) -> u32 {
    return p.views[v].offset + (b / p.views[v].div) % p.views[v].modulo * p.views[v].item;
}

// Where element i of an item lies.
fn place(v: u32, start: u32, i: u32) -> u32 {
    if (DENSE) { return (start + i) / QUAD; }
    return start + i / p.views[2].cols * p.views[v].row + i % p.views[2].cols * p.views[v].col;
}

@compute @workgroup_size(256)
fn momentum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let runs = 256u / p.column.w;
    for (var run = group.x * runs + lane / p.column.w; run < p.n.x * p.n.z; run += groups.x * runs) {
        let item = run / p.n.z;
        let row = item_offset(1u, item);
        if (block[row + GATE] == 0.0) { continue; }
        let starts = vec3<u32>(item_offset(0u, item), item_offset(2u, item), item_offset(3u, item));
        var decay = p.coef.x;
        if (p.column.x != NONE) { decay *= block[row + p.column.x]; }
        var fresh = p.coef.y;
        if (p.column.y != NONE) { fresh *= block[row + p.column.y]; }
        let weight = block[row + WEIGHT1];
        let begin = run % p.n.z * p.n.w;
        let end = min(begin + p.n.w, p.views[2].rows * p.views[2].cols);
        for (var i = begin + lane % p.column.w * QUAD; i < end; i += p.column.w * QUAD) {
            let gradient = fresh * g[place(0u, starts.x, i)];
            let at = place(2u, starts.y, i);
            let next = decay * m[at] + gradient;
            m[at] = next;
            let out_at = place(3u, starts.z, i);
            if (p.n.y == LOOK_AHEAD) { out[out_at] = decay * next + gradient; }
            if (p.n.y == CORRECTED) {
                let corrected = next / weight;
                out[out_at] = select(REAL(0.0), corrected, (bitcast<BITS>(corrected) & BITS(0x7fffffffu)) < BITS(0x7f800000u));
            }
        }
    }
}

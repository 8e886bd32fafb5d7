//! Kernels that read and write four neighbours at a time, and when they may: offsets and strides in multiples of four, but for neighbours themselves.
//!
//! Software drivers pay for each access of a lane, not for its width. The order of sums is that of the kernels that go by single elements, so results have
//! the same bits either way, and where a tensor starts may decide.

use super::kernels::{
    ADAM_UPDATE, AXPBY, CHECK_FINITE, FLAGS, GEMM_BROADCAST, GEMM_QUADS, GEMM_RESIDENT, Kernel, MOMENTUM, NORMALISE, REDUCE, SGD_UPDATE,
    Tunables, Variant,
};
use super::ladder::{GemmVariant, Rung, flag};
use crate::plan::Value;
use crate::tensor::ElementType::F32;

/// Tiles of 32 x 32.
const NARROW: Variant = GEMM_QUADS.plain();

/// Tiles of 32 x 64.
const WIDE: Variant = GEMM_QUADS.with(&[("QUADS", "2u")]);

/// Tiles of 8 x 32.
const FLAT: Variant = GEMM_QUADS.with(&[("ROWS", "8u")]);

/// Tiles of 8 x 64.
const FLAT_WIDE: Variant = GEMM_QUADS.with(&[("ROWS", "8u"), ("QUADS", "2u")]);

/// Tiles of 64 x 32 or 64 x 64 of products with an inner side of at most 32 or 64.
const RESIDENT: [Variant; 4] = [
    GEMM_RESIDENT.with(&[("DEPTH", "32u"), ("QUADS", "1u")]),
    GEMM_RESIDENT.with(&[("DEPTH", "32u")]),
    GEMM_RESIDENT.with(&[("QUADS", "1u")]),
    GEMM_RESIDENT.plain(),
];

/// Below this inner side most of what [`RESIDENT`] does would be for nothing.
const SHORT: usize = 16;

/// The same with a gate, which is a single element, in the place of the added operand.
const NARROW_GATED: Variant = GEMM_QUADS.with(&[("D", "f32")]);

/// The same for few rows.
const FLAT_GATED: Variant = GEMM_QUADS.with(&[("D", "f32"), ("ROWS", "8u")]);

/// What makes a kernel read the table of its jobs.
const JOINT: Tunables = &[("JOINT", "true")];
const REALS: Tunables = &[("REAL", "vec4<f32>"), ("QUAD", "4u")];
const REALS_JOINT: Tunables = &[("REAL", "vec4<f32>"), ("QUAD", "4u"), ("JOINT", "true")];
const BITS: Tunables = &[("BITS", "vec4<u32>"), ("QUAD", "4u")];
const BITS_JOINT: Tunables = &[("BITS", "vec4<u32>"), ("QUAD", "4u"), ("JOINT", "true")];
const BOTH: Tunables = &[("REAL", "vec4<f32>"), ("BITS", "vec4<u32>"), ("QUAD", "4u")];
const BOTH_JOINT: Tunables = &[("REAL", "vec4<f32>"), ("BITS", "vec4<u32>"), ("QUAD", "4u"), ("JOINT", "true")];

/// Kernels that go by runs of elements: what makes them take fours, and the bits of the bindings that they then take so.
const BY_RUNS: [(Kernel, Tunables, u32); 5] = [
    (ADAM_UPDATE, BOTH, 0b11_1101),
    (SGD_UPDATE, BOTH, 0b1_1001),
    (MOMENTUM, BOTH, 0b1101),
    (AXPBY, REALS, 0b111),
    (CHECK_FINITE, BITS, 0b1),
];

/// The same tunables, and a table of jobs.
pub(crate) fn joint(tunables: Tunables) -> Option<Tunables> {
    [(&[][..], JOINT), (REALS, REALS_JOINT), (BITS, BITS_JOINT), (BOTH, BOTH_JOINT)].into_iter().find(|t| t.0 == tunables).map(|t| t.1)
}

/// True where an item's elements follow one another.
pub(crate) fn is_run(v: &Value) -> bool {
    v.element == F32 && (v.col_stride == 1 || v.cols == 1) && (v.row_stride == v.cols || v.rows == 1)
}

/// How a kernel that goes by runs takes these operands, of those that it uses: by fours, one by one, or (`run` false or an operand of another layout) by rows
/// and columns.
pub(crate) fn by_runs(kernel: &Kernel, values: &[Option<Value>], run: bool) -> Variant {
    let Some((_, fours, taken)) = BY_RUNS.iter().find(|row| row.0.name == kernel.name) else { return kernel.plain() };
    let used = || values.iter().enumerate().filter(|(b, _)| taken >> b & 1 == 1).filter_map(|(_, v)| v.as_ref());
    if !run || !used().all(is_run) {
        return kernel.plain();
    }
    let whole = used().all(|v| (v.rows * v.cols).is_multiple_of(4) && steps(v, 0));
    Variant { flags: flag::DENSE, ..if whole { kernel.with(fours) } else { kernel.plain() } }
}

/// True where rows, columns or items that are not neighbours are a multiple of four apart.
fn steps(v: &Value, stride: usize) -> bool {
    v.element == F32 && v.offset.is_multiple_of(4) && stride.is_multiple_of(4) && (v.modulo == 1 || v.item_stride.is_multiple_of(4))
}

/// Fours of neighbouring columns.
fn by_columns(v: &Value) -> bool {
    v.col_stride == 1 && v.cols.is_multiple_of(4) && steps(v, v.row_stride)
}

/// Fours of neighbouring rows.
fn by_rows(v: &Value) -> bool {
    v.row_stride == 1 && v.rows.is_multiple_of(4) && steps(v, v.col_stride)
}

/// The kernel that does the work of a broadcast one by fours, with its tile; `None` where an operand does not allow it.
pub(crate) fn gemm(of: GemmVariant, flags: u16, [a, b, out]: [&Value; 3], d: Option<&Value>) -> Option<Rung> {
    let gated = flags & flag::GATE_IN_D != 0;
    let whole = by_columns(out) && out.rows.is_multiple_of(4) && (gated || d.is_none_or(by_columns));
    let operands = (by_columns(a) || by_rows(a)) && (by_columns(b) || by_rows(b));
    if !whole || !operands {
        return None;
    }
    // Of a symmetric result one triangle of tiles is computed: wide ones are more of it.
    let wide = out.cols > 32 && (flags & flag::SYMMETRIC == 0 || out.cols >= 256) && !gated;
    let (kernel, rows) = match (of, gated) {
        (GemmVariant::Broadcast, false) if (SHORT..=64).contains(&a.cols) && flags & flag::RUNNING_MEAN == 0 => {
            (RESIDENT[2 * usize::from(a.cols > 32) + usize::from(wide)], 64)
        }
        (GemmVariant::Broadcast, false) => (if wide { WIDE } else { NARROW }, 32),
        (GemmVariant::Broadcast, true) => (NARROW_GATED, 32),
        (GemmVariant::BroadcastFlat, false) => (if wide { FLAT_WIDE } else { FLAT }, 8),
        (GemmVariant::BroadcastFlat, true) => (FLAT_GATED, 8),
        _ => return None,
    };
    let by = [(by_columns(a), flag::A_BY_ROWS), (by_columns(b), flag::B_BY_ROWS)];
    let flags = by.iter().fold(flags, |flags, (columns, bit)| if *columns { flags } else { flags | bit });
    Some(Rung { variant: Variant { flags, ..kernel }, rows, cols: if wide { 64 } else { 32 }, items: 1 })
}

/// True for the products of this file.
pub(crate) fn is_product(variant: Variant) -> bool {
    [GEMM_QUADS.name, GEMM_RESIDENT.name].contains(&variant.kernel)
}

/// Bits of the bindings that a variant reaches by fours: their offsets must be multiples of four, and there must be four elements.
pub(crate) fn bindings(variant: Variant) -> u32 {
    if is_product(variant) {
        return if variant.flags & flag::GATE_IN_D == 0 { 0b1111 } else { 0b1011 };
    }
    BY_RUNS.iter().find(|row| row.0.name == variant.kernel && row.1 == variant.tunables).map_or(0, |row| row.2)
}

/// The variant that does the same work by single elements, in any grid.
pub(crate) fn by_element(variant: Variant) -> Variant {
    if is_product(variant) {
        let few_rows = variant.tunables.iter().any(|t| t.0 == "ROWS");
        let kernel = if few_rows { GEMM_BROADCAST.with(&[("ROWS", "8u")]) } else { GEMM_BROADCAST.plain() };
        return Variant { flags: variant.flags & !(flag::A_BY_ROWS | flag::B_BY_ROWS | flag::FOLDED), ..kernel };
    }
    if bindings(variant) == 0 { variant } else { Variant { tunables: &[], ..variant } }
}

/// What dispatches of variants that can do each other's work have in common: those of a kernel that goes by runs take the same parameters and grid.
pub(crate) fn family(variant: Variant) -> Variant {
    let goes_by_runs = BY_RUNS.iter().any(|row| row.0.name == variant.kernel);
    if goes_by_runs { Variant { tunables: &[], flags: 0, ..variant } } else { variant }
}

/// The variant that does the work of both, of one family.
pub(crate) fn meet(a: Variant, b: Variant) -> Variant {
    if a == b { a } else { Variant { tunables: &[], flags: a.flags & b.flags, ..a } }
}

/// Every variant of the kernels that go by runs, beside those that stand as their files do.
pub(crate) fn runs() -> impl Iterator<Item = Variant> {
    let dense = |kernel: &Kernel, tunables| Variant { flags: flag::DENSE, ..kernel.with(tunables) };
    let single = BY_RUNS.iter().flat_map(move |(kernel, fours, _)| [dense(kernel, &[]), dense(kernel, fours)]);
    single.flat_map(|v| [Some(v), v.joint()]).flatten().chain([dense(&NORMALISE, &[]), dense(&REDUCE, &[])])
}

/// Every variant of the products, each with each switch alone, and with all that go together.
pub(crate) fn variants(epilogues: impl Iterator<Item = u16>) -> impl Iterator<Item = Variant> {
    epilogues.chain([flag::A_BY_ROWS, flag::B_BY_ROWS, flag::A_BY_ROWS | flag::B_BY_ROWS, flag::FOLDED]).flat_map(|flags| {
        let (gated, average) = (flags & flag::GATE_IN_D != 0, flags & flag::RUNNING_MEAN != 0);
        let kernels = if gated { vec![NARROW_GATED, FLAT_GATED] } else { vec![NARROW, WIDE, FLAT, FLAT_WIDE] };
        let resident = RESIDENT.into_iter().filter(move |_| !gated && !average);
        kernels.into_iter().chain(resident).map(move |kernel| Variant { flags, ..kernel })
    })
}

const _: () = assert!(FLAGS.len() <= 16);

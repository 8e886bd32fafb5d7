//! The ladder of matrix-product kernels: what each variant needs and covers.

use std::fmt;
use std::str::FromStr;

use super::cooperative;
use super::facts::Facts;
use super::kernels::{GEMM, GEMM_BROADCAST, GEMM_LARGE, GEMM_REGISTER, GEMM_SKINNY, GEMM_SMALL, GEMM_WIDE, Variant};
use super::{quads, split};
use crate::error::{Error, Result};
use crate::tensor::ElementType::{self, F16, F32};

/// One way to compute `out = alpha a b + beta d + gamma I`. All give the same result but for the order of summation, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum GemmVariant {
    /// 64 x 64 tiles in workgroup memory, 4 x 4 elements an invocation. Runs everywhere: what others are checked against.
    Tile64,
    /// The same with 32 x 32 tiles and 64 invocations.
    Tile32,
    /// 128 x 128 tiles, 8 x 8 elements an invocation, the next tiles loaded while the present ones are multiplied. Operands of f32 whose strides allow it are read
    /// four elements at once.
    Tile128,
    /// Results of at most 16 x 16: four items a workgroup of 64 invocations.
    Small,
    /// A side of at most 8: 32 rows of the other side a workgroup, eight invocations a row that share its inner side.
    Skinny,
    /// 8 x 8 elements an invocation in registers, no workgroup memory: for drivers that emulate it.
    Register,
    /// 32 x 32 tiles, one subgroup of 8 each, operands broadcast between its lanes: for drivers that run subgroups on a CPU's vectors. Where offsets and strides
    /// are multiples of four it reads and writes four neighbours at a time, in tiles of 32 x 64 (64 x 64 with an inner side of 16 to 64), with the same order of sums.
    Broadcast,
    /// The same with 8 x 32 tiles.
    BroadcastFlat,
    /// Two stages: partial products of runs of the inner side, then their sum. For a long inner side and few results.
    SplitK,
    /// Cooperative matrices of 8 x 8 or 16 x 16 (tensor cores): two f16 operands, sums in f32.
    Cooperative,
}

/// What a choice goes by: an item of the result and its operands' types. Never the batch: results must not depend on how trials are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmShape {
    /// Rows of the result.
    pub m: usize,
    /// Inner side.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
    /// Stored type of the left operand.
    pub a: ElementType,
    /// Stored type of the right operand.
    pub b: ElementType,
}

impl GemmShape {
    /// f32 operands.
    pub fn f32(m: usize, k: usize, n: usize) -> Self {
        GemmShape { m, k, n, a: F32, b: F32 }
    }
}

/// A kernel and the part of the result that one workgroup computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// The kernel with its tunables and switches.
    pub variant: Variant,
    /// Rows of the result that one workgroup computes.
    pub rows: usize,
    /// Columns of the result that one workgroup computes.
    pub cols: usize,
    /// Items that one workgroup computes.
    pub items: usize,
}

/// Bits of [`FLAGS`](super::kernels::FLAGS).
pub(crate) mod flag {
    pub(crate) const A_F16: u16 = 1;
    pub(crate) const B_F16: u16 = 2;
    pub(crate) const ADD_D: u16 = 4;
    pub(crate) const IN_PLACE: u16 = 8;
    pub(crate) const SYMMETRIC: u16 = 16;
    pub(crate) const RUNNING_MEAN: u16 = 32;
    pub(crate) const BLOCK: u16 = 64;
    pub(crate) const GATED: u16 = 128;
    pub(crate) const GATE_IN_D: u16 = 256;
    pub(crate) const A_BY_ROWS: u16 = 512;
    pub(crate) const B_BY_ROWS: u16 = 1024;
    pub(crate) const FOLDED: u16 = 2048;
    pub(crate) const DENSE: u16 = 4096;
}

impl GemmVariant {
    /// Every variant.
    pub const ALL: [GemmVariant; 10] = [
        GemmVariant::Tile64,
        GemmVariant::Tile32,
        GemmVariant::Tile128,
        GemmVariant::Small,
        GemmVariant::Skinny,
        GemmVariant::Register,
        GemmVariant::Broadcast,
        GemmVariant::BroadcastFlat,
        GemmVariant::SplitK,
        GemmVariant::Cooperative,
    ];

    /// The name in tables and in `LAYERWISE_GEMM`.
    pub fn name(self) -> &'static str {
        match self {
            GemmVariant::Tile64 => "tile64",
            GemmVariant::Tile32 => "tile32",
            GemmVariant::Tile128 => "tile128",
            GemmVariant::Small => "small",
            GemmVariant::Skinny => "skinny",
            GemmVariant::Register => "register",
            GemmVariant::Broadcast => "broadcast",
            GemmVariant::BroadcastFlat => "broadcast_flat",
            GemmVariant::SplitK => "split_k",
            GemmVariant::Cooperative => "cooperative",
        }
    }

    /// True where the device can run it and the item is of a shape that it covers.
    pub fn fits(self, shape: GemmShape, facts: &Facts) -> bool {
        match self {
            GemmVariant::Small => shape.m.max(shape.n) <= 16,
            GemmVariant::Skinny => shape.m.min(shape.n) <= 8,
            GemmVariant::Broadcast | GemmVariant::BroadcastFlat => facts.subgroups && facts.subgroup_lanes == 8,
            GemmVariant::SplitK => split::fits(shape),
            GemmVariant::Cooperative => cooperative::kernel(shape, facts).is_some(),
            _ => true,
        }
    }

    /// True where the kernel wants the smaller side of the result along its rows.
    pub(crate) fn wants_few_rows(self) -> bool {
        matches!(self, GemmVariant::BroadcastFlat)
    }

    /// True where the kernel wants the smaller side of the result along its columns.
    pub(crate) fn wants_few_columns(self) -> bool {
        matches!(self, GemmVariant::Skinny)
    }

    /// The kernel for a shape (of [`SplitK`](GemmVariant::SplitK), that of the first stage), with these bits of [`FLAGS`](super::kernels::FLAGS) on beside those of the operands' types.
    pub fn rung(self, shape: GemmShape, facts: &Facts, flags: u16) -> Rung {
        let halves = if shape.a == F16 { flag::A_F16 } else { 0 } | if shape.b == F16 { flag::B_F16 } else { 0 };
        let flags = if self == GemmVariant::Cooperative { flags } else { flags | halves };
        let (variant, rows, cols) = match self {
            GemmVariant::Tile64 => (GEMM.plain(), 64, 64),
            GemmVariant::Tile32 => (GEMM.with(&[("TX", "8u"), ("TY", "8u")]), 32, 32),
            GemmVariant::Tile128 => (GEMM_LARGE.plain(), 128, 128),
            GemmVariant::Small => (GEMM_SMALL.plain(), 16, 16),
            GemmVariant::Skinny => (GEMM_SKINNY.plain(), 32, 8),
            GemmVariant::Register => (GEMM_REGISTER.plain(), 64, 64),
            GemmVariant::Broadcast => (GEMM_BROADCAST.plain(), 32, 32),
            GemmVariant::BroadcastFlat => (GEMM_BROADCAST.with(&[("ROWS", "8u")]), 8, 32),
            GemmVariant::SplitK => {
                let (variant, side) = split::rung(shape, flags);
                return Rung { variant, rows: side, cols: side, items: 1 };
            }
            // Asked for where it does not fit, the portable kernel serves.
            GemmVariant::Cooperative => {
                cooperative::kernel(shape, facts).map_or((GEMM.plain(), 64, 64), |(variant, tile)| (variant, tile, tile))
            }
        };
        let items = if self == GemmVariant::Small { 4 } else { 1 };
        Rung { variant: Variant { flags, ..variant }, rows, cols, items }
    }

    /// Every kernel with each switch alone, and with all that go together.
    pub(crate) fn variants() -> impl Iterator<Item = Variant> {
        let facts = Facts::webgpu_defaults();
        let all = flag::ADD_D | flag::SYMMETRIC | flag::BLOCK | flag::GATED;
        let average = flag::IN_PLACE | flag::SYMMETRIC | flag::RUNNING_MEAN | flag::BLOCK | flag::GATE_IN_D;
        let epilogues: Vec<u16> = (2..9).map(|bit| 1 << bit).chain([0, all, average]).collect();
        let (split, quads) = (split::variants(&epilogues), quads::variants(epilogues.clone().into_iter()));
        let halves = [0, flag::A_F16, flag::B_F16, flag::A_F16 | flag::B_F16];
        let rungs = epilogues.into_iter().flat_map(move |flags| {
            let kinds = GemmVariant::ALL.into_iter().filter(|v| !matches!(v, GemmVariant::SplitK | GemmVariant::Cooperative));
            let others = kinds.map(|v| v.rung(GemmShape::f32(8, 8, 8), &facts, flags).variant);
            let typed = others.flat_map(move |v| halves.map(|bits| Variant { flags: v.flags | bits, ..v }));
            let untyped = cooperative::variants().chain([GEMM_WIDE.plain()]);
            typed.chain(untyped.map(move |v| Variant { flags, ..v })).collect::<Vec<_>>()
        });
        rungs.chain(split).chain(quads)
    }
}

impl fmt::Display for GemmVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GemmVariant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        GemmVariant::ALL.into_iter().find(|v| v.name() == text).ok_or_else(|| Error::Config {
            method: "gemm",
            field: "variant",
            found: text.into(),
            allowed: "tile64, tile32, tile128, small, skinny, register, broadcast, broadcast_flat, split_k, cooperative",
        })
    }
}

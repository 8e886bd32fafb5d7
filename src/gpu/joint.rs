//! Dispatches of one kernel over parts of the same buffers become one.
//!
//! Parameters of unlike shapes that lie in one arena have an operation each in the plan, and one dispatch for all on the device: its workgroups find their
//! operation in a table ([`Job`]). Only kernels that have a variant with a table take part, and each element is computed as it would be alone.

use std::collections::HashMap;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::kernels::{Binding, Kernel, Variant};
use super::lowering::Dispatch;
use super::params::Params;
use super::quads;
use crate::plan::wave::{Touch, WHOLE, waves};

/// What a binding of a dispatch reaches: a buffer, by its number, and the bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) buffer: usize,
    /// Of the tensor.
    pub(crate) bytes: Range<u64>,
    /// Of the view, for the order of steps.
    pub(crate) touched: Range<u64>,
}

/// A dispatch and what each of its bindings reaches.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) dispatch: Dispatch,
    /// By binding; `None` where the kernel does not use it here.
    pub(crate) reach: Vec<Option<Reach>>,
    pub(crate) flops: u64,
}

/// One operation of a joint dispatch, as the kernel's table has it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Job {
    /// As the kernel would have them alone.
    pub params: Params,
    /// First workgroup, number of workgroups, number of jobs in the table, 0.
    pub span: [u32; 4],
}

impl Placed {
    fn bindings(&self) -> &'static [(&'static str, Binding)] {
        Kernel::named(self.dispatch.variant.kernel).map_or(&[], |k| k.bindings)
    }

    fn touches(&self, part: impl Fn(&Reach) -> Range<u64>) -> Vec<Touch> {
        let used = self.reach.iter().zip(self.bindings());
        used.filter_map(|(reach, (_, binding))| reach.as_ref().map(|r| (r.buffer, part(r), *binding == Binding::Write))).collect()
    }
}

/// What a dispatch must have in common with another to become one with it.
type Key = (Variant, Vec<Option<usize>>);

/// Indices of `placed` that share a dispatch, wave by wave.
pub(crate) fn join(placed: &[Placed], max_binding_bytes: u64) -> Vec<Vec<Vec<usize>>> {
    let fine: Vec<Vec<Touch>> = placed.iter().map(|p| p.touches(|reach| reach.touched.clone())).collect();
    let order = waves(fine.iter().map(Vec::as_slice));
    let mut sorted: Vec<usize> = (0..placed.len()).collect();
    sorted.sort_by_key(|&i| order[i]);
    let mut units: Vec<Vec<usize>> = Vec::new();
    let (mut open, mut wave): (HashMap<Key, usize>, usize) = (HashMap::new(), 0);
    for i in sorted {
        let dispatch = &placed[i].dispatch;
        if order[i] != wave {
            (wave, open) = (order[i], HashMap::new());
        }
        if dispatch.variant.joint().is_none() {
            units.push(vec![i]);
            continue;
        }
        let key = (quads::family(dispatch.variant), placed[i].reach.iter().map(|r| r.as_ref().map(|r| r.buffer)).collect());
        match open.get(&key) {
            Some(&unit) if fits(placed, &units[unit], i, max_binding_bytes) => units[unit].push(i),
            _ => {
                open.insert(key, units.len());
                units.push(vec![i]);
            }
        }
    }
    // Barriers go by whole buffers.
    let coarse = |unit: &Vec<usize>| unit.first().map_or_else(Vec::new, |&i| placed[i].touches(|_| WHOLE));
    let touches: Vec<Vec<Touch>> = units.iter().map(coarse).collect();
    let order = waves(touches.iter().map(Vec::as_slice));
    let mut result = vec![Vec::new(); order.iter().max().map_or(0, |w| w + 1)];
    for (unit, wave) in units.into_iter().zip(order) {
        result[wave].push(unit);
    }
    // Those of one wave are independent: neighbours with one pipeline need not set it twice.
    let variant = |unit: &Vec<usize>| unit.first().map(|&i| placed[i].dispatch.variant).map(|v| (v.kernel, v.tunables, v.flags));
    result.iter_mut().for_each(|wave| wave.sort_by_key(variant));
    result
}

/// Bytes that a binding of all these dispatches reaches.
pub(crate) fn span(placed: &[Placed], unit: &[usize], binding: usize) -> Option<Reach> {
    let mut all = unit.iter().filter_map(|&i| placed[i].reach.get(binding)?.clone());
    let first = all.next()?;
    Some(all.fold(first, |a, b| Reach { bytes: a.bytes.start.min(b.bytes.start)..a.bytes.end.max(b.bytes.end), ..a }))
}

/// True if no binding of the unit and one more gets too long.
fn fits(placed: &[Placed], unit: &[usize], one: usize, max_binding_bytes: u64) -> bool {
    // An aligned binding starts up to 256 bytes earlier.
    let limit = max_binding_bytes.saturating_sub(256);
    let with = [unit, &[one]].concat();
    (0..placed[one].reach.len()).all(|b| span(placed, &with, b).is_none_or(|r| r.bytes.end - r.bytes.start <= limit))
}

/// Workgroups of each job and the grid of all: flat, folded where it is longer than a grid may be.
pub(crate) fn grid(placed: &[Placed], unit: &[usize], max_workgroups: u32) -> (Vec<[u32; 4]>, [u32; 3]) {
    let total: u64 = unit.iter().map(|&i| u64::from(placed[i].dispatch.groups[0])).sum();
    // Where there is work for all processors anyway, each workgroup reads the table for more of it.
    let share = if total > PLENTY { SHARE } else { 1 };
    let jobs = u32::try_from(unit.len()).unwrap_or(u32::MAX);
    let (mut spans, mut first) = (Vec::with_capacity(unit.len()), 0u32);
    for &i in unit {
        let count = placed[i].dispatch.groups[0].div_ceil(share);
        spans.push([first, count, jobs, 0]);
        first = first.saturating_add(count);
    }
    let rows = first.div_ceil(max_workgroups).max(1);
    (spans, [first.div_ceil(rows), rows, 1])
}

/// Workgroups that keep any device busy.
const PLENTY: u64 = 4096;

/// Elements of one invocation then.
const SHARE: u32 = 4;

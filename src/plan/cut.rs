//! Cutting a segment so that it can run in parts, with other segments in between.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::access::Access;
use super::block;
use super::op::{Axpby, Op};
use super::plan::{Plan, Segment};
use super::spectral_op::Quotient;
use super::update_op::RootOutcome;
use super::value::{Role, Value, ValueInfo};
use crate::tensor::{ElementType, Shape};

/// Where the three parts of a cut segment are: copies of what it reads, what it computes from them, and what it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Must run at once.
    pub(crate) snapshot: usize,
    /// The segment that was cut: touches nothing but the copies and its own scratch, so it may stop anywhere.
    pub(crate) compute: usize,
    /// Must run at once.
    pub(crate) commit: usize,
}

/// The values that stand in for others, by id.
pub(crate) type StandIns = HashMap<u32, Value>;

/// The segments that touch a value.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    One(usize),
    Several,
}

impl Plan {
    /// Cuts each of `segments` in three, in place; snapshot and commit become new segments at the end. Returns where they are, and by the id of
    /// what they copy the values that hold the snapshots: state of the same shapes, named `SOURCE_snapshot`, shared by segments that copy parts of one source.
    ///
    /// The commit is what writes anything but the segment's own scratch, with all that depends on it; and what reads values that `may_copy` refuses.
    pub(crate) fn cut(&mut self, segments: &[usize], may_copy: impl Fn(&ValueInfo) -> bool) -> (Vec<Cut>, StandIns) {
        let owners = self.owners();
        let (mut cuts, mut stand_ins) = (Vec::new(), StandIns::new());
        let old = std::mem::take(&mut self.ops);
        let mut added: Vec<(String, Vec<Op>)> = Vec::new();
        for index in 0..self.segments.len() {
            let ops = &old[self.segments[index].ops.clone()];
            let start = self.ops.len();
            if segments.contains(&index) {
                let local = |values: &[ValueInfo], v: &Value| {
                    values.get(v.id as usize).is_some_and(|info| info.role == Role::Scratch)
                        && owners.get(&v.id) == Some(&Owner::One(index))
                };
                let (compute, commit) = self.split(ops, local, &may_copy);
                let copies = self.copies(&compute, local, &mut stand_ins);
                self.segments[index].stand_ins = copies.iter().map(|&(source, copy)| (source.id, copy.id)).collect();
                let first = self.segments.len() + added.len();
                cuts.push(Cut { snapshot: first, compute: index, commit: first + 1 });
                let commit = self.guarded(commit, &mut stand_ins, &copies);
                let name = self.segments[index].name.clone();
                added.push((format!("{name} snapshot"), copies.into_iter().map(|(s, c)| Axpby::copy(s, c).into()).collect()));
                added.push((format!("{name} commit"), commit));
                self.ops.extend(compute);
            } else {
                self.ops.extend_from_slice(ops);
            }
            self.segments[index].ops = start..self.ops.len();
        }
        for (name, ops) in added {
            let start = self.ops.len();
            self.ops.extend(ops);
            self.segments.push(Segment { name, ops: start..self.ops.len(), stand_ins: Vec::new() });
        }
        (cuts, stand_ins)
    }

    fn owners(&self) -> HashMap<u32, Owner> {
        let mut owners = HashMap::new();
        for (index, segment) in self.segments.iter().enumerate() {
            for (_, value, _) in self.ops[segment.ops.clone()].iter().flat_map(Op::operands) {
                match owners.entry(value.id) {
                    Entry::Vacant(entry) => {
                        entry.insert(Owner::One(index));
                    }
                    Entry::Occupied(mut entry) => {
                        if *entry.get() != Owner::One(index) {
                            entry.insert(Owner::Several);
                        }
                    }
                }
            }
        }
        owners
    }

    /// Operations that compute, and those that have to wait for the commit. An operation moves behind others only where neither touches what the other writes.
    fn split(&self, ops: &[Op], local: impl Fn(&[ValueInfo], &Value) -> bool, may_copy: impl Fn(&ValueInfo) -> bool) -> (Vec<Op>, Vec<Op>) {
        let (mut compute, mut commit) = (Vec::new(), Vec::new());
        // What the commit touches so far: true where it writes.
        let mut waiting: HashMap<u32, bool> = HashMap::new();
        for op in ops {
            let waits = op.operands().iter().any(|(_, v, access)| {
                let (mine, info) = (local(&self.values, v), &self.values[v.id as usize]);
                match access {
                    Access::Read => waiting.get(&v.id) == Some(&true) || !(mine || (info.element == ElementType::F32 && may_copy(info))),
                    Access::Write | Access::Update => !mine || waiting.contains_key(&v.id),
                }
            });
            if waits {
                for (_, v, access) in op.operands() {
                    *waiting.entry(v.id).or_insert(false) |= access != Access::Read;
                }
                commit.push(*op);
            } else {
                compute.push(*op);
            }
        }
        (compute, commit)
    }

    /// Pairs of the items that `ops` read of values that are not local, and where they are copied to.
    fn copies(&mut self, ops: &[Op], local: impl Fn(&[ValueInfo], &Value) -> bool, stand_ins: &mut StandIns) -> Vec<(Value, Value)> {
        let mut ranges: Vec<(u32, usize, usize)> = Vec::new();
        for (_, v, _) in ops.iter().flat_map(Op::operands).filter(|(_, v, _)| !local(&self.values, v)) {
            let shape = self.values[v.id as usize].shape;
            let item = shape.rows * shape.cols;
            let end = (v.offset + (v.modulo - 1) * v.item_stride + v.extent()).div_ceil(item);
            match ranges.iter_mut().find(|r| r.0 == v.id) {
                Some(range) => (range.1, range.2) = (range.1.min(v.offset / item), range.2.max(end)),
                None => ranges.push((v.id, v.offset / item, end)),
            }
        }
        let part = |id: u32, shape: Shape, first: usize, end: usize| Value {
            offset: first * shape.rows * shape.cols,
            items: end - first,
            modulo: end - first,
            ..Value::dense(id, shape, ElementType::F32)
        };
        let mut copies = Vec::with_capacity(ranges.len());
        for (id, first, end) in ranges {
            let shape = self.values[id as usize].shape;
            let copy = *stand_ins.entry(id).or_insert_with(|| {
                let info = ValueInfo {
                    name: format!("{}_snapshot", self.values[id as usize].name),
                    role: Role::State,
                    ..self.values[id as usize].clone()
                };
                self.values.push(info);
                Value::dense(u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX), shape, ElementType::F32)
            });
            copies.push((part(id, shape, first, end), part(copy.id, shape, first, end)));
        }
        copies
    }

    /// The commit, with roots of statistics that were still empty when the snapshot was taken kept out, as an uncut refresh would.
    ///
    /// `root_outcome` looks at the statistics' weight when it runs; what was factored is older. `ok / weight` is 0 where the weight was.
    fn guarded(&mut self, commit: Vec<Op>, stand_ins: &mut StandIns, copies: &[(Value, Value)]) -> Vec<Op> {
        let mut result = Vec::with_capacity(commit.len());
        for op in commit {
            result.push(op);
            let Op::RootOutcome(RootOutcome { ok, block, .. }) = op else { continue };
            let covered = copies.iter().any(|(source, _)| source.id == block.id);
            let Some(copy) = stand_ins.get(&block.id).filter(|_| covered) else { continue };
            let row = Value { id: copy.id, ..block };
            let weight = Value { offset: row.offset + block::STATISTICS_WEIGHT as usize * row.col_stride, cols: 1, ..row };
            let shape = Shape::new(ok.items, 1, 1);
            let info = ValueInfo { name: "ok_then".into(), shape, element: ElementType::F32, role: Role::Scratch, arena: None };
            self.values.push(info);
            let then = Value::dense(u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX), shape, ElementType::F32);
            result.push(Quotient { x: Some(ok), y: weight, out: then, scale: 1.0, root: false }.into());
            result.push(Axpby::copy(then, ok).into());
        }
        result
    }
}

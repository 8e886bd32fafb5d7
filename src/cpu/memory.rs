//! Borrowing of operands by the CPU engine.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::plan::Value;
use crate::tensor::{ElementType, f16_at};

/// The words of all bound buffers during one run, each locked once.
pub(crate) struct Memory<'a> {
    /// One per distinct buffer.
    pub(crate) data: &'a mut [Vec<f32>],
    /// Value id -> (index into `data`, first word).
    pub(crate) place: &'a [(usize, usize)],
}

/// An operand that is read.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    words: &'a [f32],
    pub(crate) view: Value,
}

/// An operand that is written, taken out of the memory until [`Memory::put`].
pub(crate) struct Output {
    words: Vec<f32>,
    slot: usize,
    pub(crate) view: Value,
}

impl Memory<'_> {
    /// Borrows an operand to read.
    pub(crate) fn input(&self, value: Value) -> Input<'_> {
        let (slot, first) = self.place[value.id as usize];
        Input { words: &self.data[slot][first..], view: value }
    }

    /// Takes an operand to write. `prepare` has checked that no other operand of the operation shares its buffer.
    pub(crate) fn take(&mut self, value: Value) -> Output {
        let (slot, first) = self.place[value.id as usize];
        let words = std::mem::take(&mut self.data[slot]);
        let scale = if value.element == ElementType::F16 { 2 } else { 1 };
        Output { words, slot, view: Value { offset: value.offset + scale * first, ..value } }
    }

    /// Puts a written operand back.
    pub(crate) fn put(&mut self, output: Output) {
        self.data[output.slot] = output.words;
    }
}

impl<'a> Input<'a> {
    /// The same words through another view.
    pub(crate) fn seen_as(self, view: Value) -> Input<'a> {
        Input { view, ..self }
    }

    /// The words from the first element of logical item `b` on; f32 operands only.
    #[inline]
    pub(crate) fn item(&self, b: usize) -> &'a [f32] {
        &self.words[self.view.item_offset(b)..]
    }

    /// The only element of logical item `b` of a `[batch, 1, 1]` operand, or one column of a block row.
    #[inline]
    pub(crate) fn scalar(&self, b: usize, column: usize) -> f32 {
        self.item(b)[column * self.view.col_stride]
    }

    /// Logical item `b` as f32 elements of at least the view's extent: borrowed, or unpacked where it is f16.
    pub(crate) fn elements(&self, b: usize) -> Cow<'a, [f32]> {
        match self.view.element {
            ElementType::F32 => Cow::Borrowed(self.item(b)),
            ElementType::F16 => {
                let first = self.view.item_offset(b);
                Cow::Owned((first..first + self.view.extent()).map(|i| f16_at(self.words, i)).collect())
            }
        }
    }

    /// Logical item `b` as matrix products take it, with one stride of 1 and the other spanning the matrix: as it lies, or unpacked where it is f16,
    /// or laid out densely where a row is broadcast.
    pub(crate) fn matrix(&self, b: usize) -> (Cow<'a, [f32]>, Value) {
        let v = self.view;
        let spans = |unit: usize, stride: usize, length: usize, runs: usize| unit == 1 && (stride >= length || runs == 1);
        if spans(v.col_stride, v.row_stride, v.cols, v.rows) || spans(v.row_stride, v.col_stride, v.rows, v.cols) {
            return (self.elements(b), v);
        }
        let words = self.elements(b);
        let dense = (0..v.rows).flat_map(|r| (0..v.cols).map(move |c| (r, c))).map(|(r, c)| words[r * v.row_stride + c * v.col_stride]);
        (Cow::Owned(dense.collect()), Value { offset: 0, row_stride: v.cols, col_stride: 1, ..v })
    }
}

/// The same elements of several views of one shape, as long runs as they allow: transposed where columns are contiguous in all, one row where all are dense.
///
/// For work on single elements, which no order changes.
pub(crate) fn runs<const N: usize>(views: [Value; N]) -> [Value; N] {
    let by_column = views.iter().all(|v| v.row_stride == 1) && !views.iter().all(|v| v.col_stride == 1);
    let views = if by_column { views.map(Value::t) } else { views };
    if views.iter().all(|v| v.col_stride == 1 && v.row_stride == v.cols) {
        return views.map(|v| Value { rows: 1, cols: v.rows * v.cols, ..v });
    }
    views
}

/// Elements of one row of a [`runs`] view that a thread takes at once.
pub(crate) const CHUNK: usize = 1 << 14;

impl Output {
    /// Each item's words, from the first element of its view on. Items never overlap, which recording has checked.
    pub(crate) fn items(&mut self) -> impl IndexedParallelIterator<Item = &mut [f32]> {
        let v = self.view;
        self.words[v.offset..].par_chunks_mut(v.item_stride.max(v.extent())).take(v.items)
    }

    /// The sequential form of [`items`](Self::items), for work that does not pay for threads.
    pub(crate) fn items_seq(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let v = self.view;
        self.words[v.offset..].chunks_mut(v.item_stride.max(v.extent())).take(v.items)
    }

    /// All words of the buffer, for element types that `items` can't split.
    pub(crate) fn words_mut(&mut self) -> &mut [f32] {
        &mut self.words
    }

    /// Runs `f(item index, words)` for every item, on threads where `flops_per_item` times the number of items is worth it.
    ///
    /// Items are independent, so the choice changes no bit.
    pub(crate) fn for_each(&mut self, flops_per_item: usize, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
        if worth_threads(self.view.items, flops_per_item) {
            self.items().enumerate().for_each(|(b, item)| f(b, item));
        } else {
            self.items_seq().enumerate().for_each(|(b, item)| f(b, item));
        }
    }
}

/// Below so many flops, about 30 microseconds of work, a hand-over to another thread costs more than it brings.
pub(crate) const WORTH_THREADS: usize = 1 << 16;

/// True where items are worth dividing among threads.
pub(crate) fn worth_threads(items: usize, flops_per_item: usize) -> bool {
    items > 1 && items * flops_per_item >= WORTH_THREADS && !super::is_sequential()
}

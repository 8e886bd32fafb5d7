//! One operation on one device: stored operands in awkward layouts beside the matrices that an oracle sees.

use layerwise::plan::Role;
use layerwise::{Bindings, Context, ElementType, Recorder, Shape, Tensor, Value};
use libtest_mimic::Failed;

use crate::case::Outcome;
use crate::compare::{Tol, close_to};
use crate::oracle::{Mat, data, round_f16};

/// How an operand lies in its buffer. Everything around it is NaN, so that a read outside shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layout {
    Dense,
    Transposed,
    /// A block inside a larger matrix, between two unused items.
    Inside,
    /// The same, transposed.
    InsideTransposed,
    /// As `Inside`, but everything starts at a multiple of four elements where the block's sides are multiples of four.
    InsideByFours,
    /// The same, transposed.
    InsideByFoursTransposed,
    /// `modulo` stored items, item `b` reads `(b / div) % modulo`; one more stored item is never read.
    Repeat(usize, usize),
    /// Packed f16.
    Half,
    /// Packed f16, transposed.
    HalfTransposed,
    /// Packed f16, as [`Layout::Inside`]: rows start in either half of a word.
    HalfInside,
    /// The same, transposed.
    HalfInsideTransposed,
}

impl Layout {
    fn transposed(self) -> bool {
        use Layout::{HalfInsideTransposed, HalfTransposed, InsideByFoursTransposed, InsideTransposed, Transposed};
        matches!(self, Transposed | InsideTransposed | InsideByFoursTransposed | HalfTransposed | HalfInsideTransposed)
    }

    fn inside(self) -> bool {
        use Layout::{HalfInside, HalfInsideTransposed, Inside, InsideTransposed};
        matches!(self, Inside | InsideTransposed | HalfInside | HalfInsideTransposed) || self.by_fours()
    }

    fn by_fours(self) -> bool {
        matches!(self, Layout::InsideByFours | Layout::InsideByFoursTransposed)
    }

    /// Rows and columns around a block.
    fn margin(self) -> (usize, usize) {
        if self.by_fours() { (2, 4) } else { (2, 1) }
    }

    fn element(self) -> ElementType {
        let half = matches!(self, Layout::Half | Layout::HalfTransposed | Layout::HalfInside | Layout::HalfInsideTransposed);
        if half { ElementType::F16 } else { ElementType::F32 }
    }
}

/// What surrounds outputs, and must survive.
const SENTINEL: f32 = 777.25;

/// An operand: its view, and where its items lie in the stored array.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) view: Value,
    stored: Shape,
    layout: Layout,
    slot: usize,
    /// The items as an operation sees them, before it runs.
    pub(crate) items: Vec<Mat>,
}

impl Operand {
    /// Index into the stored array of element (r, c) of logical item `b`.
    fn position(&self, b: usize, r: usize, c: usize) -> usize {
        let (r, c) = if self.layout.transposed() { (c, r) } else { (r, c) };
        let (item, r, c) = match self.layout {
            Layout::Repeat(div, modulo) => ((b / div) % modulo, r, c),
            layout if layout.inside() => (b + 1, r + layout.margin().0, c + layout.margin().1),
            _ => (b, r, c),
        };
        (item * self.stored.rows + r) * self.stored.cols + c
    }
}

/// Builds a plan of one or a few operations, runs it, and checks what it wrote.
pub(crate) struct Stage<'a> {
    context: &'a Context,
    pub(crate) recorder: Recorder,
    slots: Vec<(Value, Tensor)>,
    seed: u64,
}

/// A stage after its run.
pub(crate) struct Done {
    tensors: Vec<Tensor>,
}

fn to_f32(x: f64) -> f32 {
    #[allow(clippy::cast_possible_truncation, reason = "operands are rounded to f32 here, and compared as rounded")]
    let x = x as f32;
    x
}

impl<'a> Stage<'a> {
    pub(crate) fn new(context: &'a Context, seed: usize) -> Self {
        Stage { context, recorder: Recorder::new(), slots: vec![], seed: 1 + seed as u64 * 1000 }
    }

    /// An operand with random items.
    pub(crate) fn operand(&mut self, name: &str, shape: [usize; 3], layout: Layout) -> Result<Operand, Failed> {
        let [batch, rows, cols] = shape;
        let stored = if let Layout::Repeat(_, modulo) = layout { modulo } else { batch };
        self.seed += 1;
        let mut values = data(self.seed, stored * rows * cols);
        if layout.element() == ElementType::F16 {
            // A device may flush halves below 2^-14 to zero.
            values.iter_mut().filter(|x| x.abs() < 1e-4).for_each(|x| *x = 0.0);
        }
        let items = values.chunks(rows * cols).map(|v| Mat { rows, cols, data: v.iter().map(|&x| f64::from(x)).collect() });
        self.operand_with(name, batch, &items.collect::<Vec<_>>(), layout, f32::NAN)
    }

    /// An output: NaN inside, sentinels around.
    pub(crate) fn output(&mut self, name: &str, shape: [usize; 3], layout: Layout) -> Result<Operand, Failed> {
        let [batch, rows, cols] = shape;
        self.operand_with(name, batch, &vec![Mat::from_fn(rows, cols, |_, _| f64::NAN); batch], layout, SENTINEL)
    }

    /// An operand that is updated: these items inside, sentinels around.
    pub(crate) fn updated(&mut self, name: &str, items: &[Mat], layout: Layout) -> Result<Operand, Failed> {
        self.operand_with(name, items.len(), items, layout, SENTINEL)
    }

    /// An operand with these stored items.
    pub(crate) fn given(&mut self, name: &str, batch: usize, items: &[Mat], layout: Layout) -> Result<Operand, Failed> {
        self.operand_with(name, batch, items, layout, f32::NAN)
    }

    /// A scalar per item.
    pub(crate) fn scalars(&mut self, name: &str, values: &[f64]) -> Result<Operand, Failed> {
        let items: Vec<Mat> = values.iter().map(|&x| Mat::from_fn(1, 1, |_, _| x)).collect();
        self.given(name, values.len(), &items, Layout::Dense)
    }

    fn operand_with(&mut self, name: &str, batch: usize, items: &[Mat], layout: Layout, around: f32) -> Result<Operand, Failed> {
        let (rows, cols) = (items[0].rows, items[0].cols);
        let (tall, wide) = if layout.transposed() { (cols, rows) } else { (rows, cols) };
        let (above, left) = layout.margin();
        let stored = match layout {
            Layout::Repeat(_, modulo) => Shape::new(modulo + 1, tall, wide),
            _ if layout.inside() => Shape::new(batch + 2, tall + 2 * above, wide + 2 * left),
            _ => Shape::new(batch, tall, wide),
        };
        let full = self.recorder.declare(name.into(), stored, layout.element(), Role::External)?;
        let mut view = full;
        if layout.inside() {
            view = full.item_range(1..batch + 1)?.row_range(above..above + tall)?.col_range(left..left + wide)?;
        }
        if let Layout::Repeat(div, modulo) = layout {
            view = full.repeat(div, modulo)?;
        }
        if layout.transposed() {
            view = view.t();
        }
        let mut operand = Operand { view, stored, layout, slot: self.slots.len(), items: vec![] };
        let logical = |b: usize| match layout {
            Layout::Repeat(div, modulo) => &items[(b / div) % modulo],
            _ => &items[b],
        };
        let mut values = vec![around; stored.elements()];
        for b in 0..batch {
            let item = logical(b);
            for r in 0..rows {
                for c in 0..cols {
                    values[operand.position(b, r, c)] = to_f32(item[(r, c)]);
                }
            }
            let rounded = |x: f64| if layout.element() == ElementType::F16 { round_f16(x) } else { f64::from(to_f32(x)) };
            operand.items.push(item.map(rounded));
        }
        self.slots.push((full, self.context.upload_of(stored, layout.element(), &values)?));
        Ok(operand)
    }

    /// Prepares and runs the plan `times` times.
    pub(crate) fn run(self, times: usize) -> Result<Done, Failed> {
        let mut bindings = Bindings::new();
        for (value, tensor) in &self.slots {
            bindings.bind(*value, tensor);
        }
        let plan = self.recorder.finish();
        let mut prepared = self.context.prepare(&plan, &bindings)?;
        prepared.run(&vec![0; times])?;
        Ok(Done { tensors: self.slots.into_iter().map(|(_, tensor)| tensor).collect() })
    }
}

impl Done {
    /// The stored array of an operand.
    pub(crate) fn stored(&self, operand: &Operand) -> Result<Vec<f32>, Failed> {
        Ok(self.tensors[operand.slot].read()?)
    }

    /// What stands in an operand's items now, item by item and row by row.
    pub(crate) fn items(&self, operand: &Operand) -> Result<Vec<f32>, Failed> {
        let stored = self.stored(operand)?;
        let (rows, cols) = (operand.view.rows(), operand.view.cols());
        let at = |i: usize| stored[operand.position(i / (rows * cols), i / cols % rows, i % cols)];
        Ok((0..operand.items.len() * rows * cols).map(at).collect())
    }

    /// The operand's items are `want` within `tol` of `magnitude`, and nothing around them was touched.
    pub(crate) fn expect_within(&self, operand: &Operand, want: &[Mat], magnitude: &[Mat], tol: Tol) -> Outcome {
        let stored = self.stored(operand)?;
        let mut inside = vec![false; stored.len()];
        for (b, item) in operand.items.iter().enumerate() {
            for i in 0..item.data.len() {
                inside[operand.position(b, i / item.cols, i % item.cols)] = true;
            }
        }
        if let Some(i) = (0..stored.len()).find(|&i| !inside[i] && stored[i].to_bits() != SENTINEL.to_bits()) {
            return Err(format!("element {i} of {}, outside the output, became {}", operand.stored, stored[i]).into());
        }
        let flat = |items: &[Mat]| items.iter().flat_map(|m| m.data.clone()).collect::<Vec<_>>();
        close_to(&self.items(operand)?, &flat(want), &flat(magnitude), tol)?;
        Ok(())
    }

    /// As [`expect_within`](Self::expect_within), relative to |want|.
    pub(crate) fn expect(&self, operand: &Operand, want: &[Mat], tol: Tol) -> Outcome {
        self.expect_within(operand, want, want, tol)
    }

    /// As [`expect_within`](Self::expect_within), relative to the largest |want| of each item.
    pub(crate) fn expect_to_largest(&self, operand: &Operand, want: &[Mat], tol: Tol) -> Outcome {
        let size = want.iter().map(|m| {
            let largest = m.data.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
            m.map(|_| largest)
        });
        self.expect_within(operand, want, &size.collect::<Vec<_>>(), tol)
    }
}

/// Names the variant in a failure.
pub(crate) fn about(outcome: Outcome, what: impl std::fmt::Debug) -> Outcome {
    outcome.map_err(|failed| Failed::from(format!("{what:?}: {}", failed.message().unwrap_or_default())))
}

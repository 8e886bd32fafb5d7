//! The network `W2 [tanh(W1 [x, 1]), 1]` of all trials as a plan: batches by slices of the training set, gradients, evaluation.
//!
//! The shuffled training set lies on the device; a step copies the rows of its batch from there. The host transfers nothing.

use kit::Result;
use layerwise::feature_learning::Link;
use layerwise::plan::{Activation, ColumnMean, Gemm};
use layerwise::rng::Philox;
use layerwise::{Bindings, Context, Prepared, Recorder, Shape, Tensor, Value};

use super::data::{CLASSES, INPUTS, PARTS, ROWS, Samples, TRAIN};

/// Streams of the two initial weights, among those of a seed.
const INITIAL: [u32; 2] = [2, 3];

/// Loss and share of right answers on each part.
pub(crate) const COLUMNS: usize = 2 * PARTS.len();

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) first_seed: u32,
    pub(crate) seeds: usize,
    /// Learning rates: trials of a seed share its samples.
    pub(crate) rates: usize,
    pub(crate) hidden: usize,
    pub(crate) batch: usize,
    pub(crate) log_points: usize,
}

impl Sizes {
    pub(crate) fn trials(&self) -> usize {
        self.seeds * self.rates
    }

    /// Batches of one pass.
    pub(crate) fn batches(&self) -> usize {
        TRAIN / self.batch
    }
}

/// One layer as optimizers want it.
pub(crate) struct Layer {
    pub(crate) weight: Tensor,
    pub(crate) gradient: Tensor,
    /// Its inputs on the batch, with the 1.
    pub(crate) inputs: Tensor,
    /// Gradients of the mean loss with respect to its outputs.
    pub(crate) output_gradients: Tensor,
}

/// The network of every trial, on a device.
pub(crate) struct Network {
    prepared: Prepared,
    pub(crate) layers: [Layer; 2],
    log: Tensor,
    sizes: Sizes,
}

/// Declares values with the tensors that they are bound to.
struct Bench<'a> {
    context: &'a Context,
    r: Recorder,
    bindings: Bindings,
}

impl Bench<'_> {
    fn given(&mut self, name: &str, shape: Shape, values: &[f32]) -> Result<(Value, Tensor)> {
        let (value, tensor) = (self.r.external(name, shape)?, self.context.upload(shape, values)?);
        self.bindings.bind(value, &tensor);
        Ok((value, tensor))
    }

    fn zeros(&mut self, name: &str, shape: Shape) -> Result<(Value, Tensor)> {
        self.given(name, shape, &vec![0.0; shape.elements()])
    }
}

/// Normal with variance one over the inputs; no bias. The same for all rates of a seed.
fn initial(sizes: &Sizes, layer: usize, rows: usize, cols: usize) -> Vec<f32> {
    let scale = 1.0 / (cols as f64 - 1.0).sqrt();
    let one = |seed: u32| {
        let normals = Philox { key: [seed, INITIAL[layer]] }.normals_f64(0, 0, rows * cols);
        #[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
        let values = normals.iter().enumerate().map(|(i, z)| if i % cols + 1 == cols { 0.0 } else { (scale * z) as f32 });
        values.collect::<Vec<f32>>().repeat(sizes.rates)
    };
    (sizes.first_seed..).take(sizes.seeds).flat_map(one).collect()
}

impl Network {
    /// Segments: one for each batch, then the gradient, the evaluation, and one for each log point.
    pub(crate) fn new(context: &Context, sizes: Sizes) -> Result<Network> {
        let samples: Vec<Samples> = (sizes.first_seed..).take(sizes.seeds).map(Samples::load).collect::<Result<_, _>>()?;
        let Sizes { seeds, rates, hidden: h, batch: n, .. } = sizes;
        let trials = sizes.trials();
        let mut b = Bench { context, r: Recorder::new(), bindings: Bindings::new() };
        let all = |part: fn(&Samples) -> &[f32]| samples.iter().flat_map(|s| part(s).iter().copied()).collect::<Vec<f32>>();
        let (x, _) = b.given("x", Shape::new(seeds, ROWS, INPUTS), &all(|s| &s.x))?;
        let (labels, _) = b.given("labels", Shape::new(seeds, ROWS, 1), &all(|s| &s.labels))?;
        let (x_batch, x_tensor) = b.zeros("x_batch", Shape::new(seeds, n, INPUTS))?;
        let (labels_batch, _) = b.zeros("labels_batch", Shape::new(seeds, n, 1))?;
        let (w1, w1_tensor) = b.given("W1", Shape::new(trials, h, INPUTS), &initial(&sizes, 0, h, INPUTS))?;
        let (w2, w2_tensor) = b.given("W2", Shape::new(trials, CLASSES, h + 1), &initial(&sizes, 1, CLASSES, h + 1))?;
        let (g1, g1_tensor) = b.zeros("W1.gradient", w1.shape())?;
        let (g2, g2_tensor) = b.zeros("W2.gradient", w2.shape())?;
        // The last column stays 1.
        let (hidden, hidden_tensor) = b.given("hidden", Shape::new(trials, n, h + 1), &vec![1.0; trials * n * (h + 1)])?;
        let (d1, d1_tensor) = b.zeros("W1.output_gradients", Shape::new(trials, n, h))?;
        let (d2, d2_tensor) = b.zeros("W2.output_gradients", Shape::new(trials, n, CLASSES))?;
        let (row, _) = b.zeros("row", Shape::new(trials, 1, COLUMNS))?;
        let (log, log_tensor) = b.zeros("log", Shape::new(trials, sizes.log_points, COLUMNS))?;
        let r = &mut b.r;
        let shared = |value: Value| value.repeat(rates, seeds);

        for i in 0..sizes.batches() {
            r.segment(format!("batch {i}"));
            r.copy(x.row_range(i * n..(i + 1) * n)?, x_batch)?;
            r.copy(labels.row_range(i * n..(i + 1) * n)?, labels_batch)?;
        }

        r.segment("gradient");
        let pre = r.matmul(shared(x_batch)?, w1.t())?;
        r.record(Activation::new(Link::Tanh, pre, hidden.col_range(0..h)?))?;
        let logits = r.matmul(hidden, w2.t())?;
        let (_, delta, _) = r.softmax_cross_entropy(logits, shared(labels_batch)?)?;
        r.copy(delta, d2)?;
        r.record(Gemm::new(d2.t(), hidden, g2))?;
        let back = r.matmul(d2, w2.col_range(0..h)?)?;
        r.record(Activation::derivative(Link::Tanh, pre, back, d1))?;
        r.record(Gemm::new(d1.t(), shared(x_batch)?, g1))?;

        r.segment("evaluate");
        let features = r.matmul(shared(x)?, w1.t())?;
        r.record(Activation::new(Link::Tanh, features, features))?;
        let logits = r.scratch("logits", Shape::new(trials, ROWS, CLASSES))?;
        let bias = w2.col_range(h..h + 1)?.t().broadcast_row(ROWS)?;
        r.record(Gemm { d: Some(bias), ..Gemm::new(features, w2.col_range(0..h)?.t(), logits) })?;
        for (i, (_, rows)) in PARTS.into_iter().enumerate() {
            let (loss, _, hits) = r.softmax_cross_entropy(logits.row_range(rows.clone())?, shared(labels.row_range(rows)?)?)?;
            r.record(ColumnMean { x: loss, y: None, out: row.col_range(2 * i..2 * i + 1)? })?;
            r.record(ColumnMean { x: hits, y: None, out: row.col_range(2 * i + 1..2 * i + 2)? })?;
        }
        for point in 0..sizes.log_points {
            r.segment(format!("log {point}"));
            r.copy(row, log.row_range(point..point + 1)?)?;
        }

        let Bench { r, bindings, .. } = b;
        let prepared = context.prepare(&r.finish(), &bindings)?;
        let layers = [
            Layer { weight: w1_tensor, gradient: g1_tensor, inputs: x_tensor, output_gradients: d1_tensor },
            Layer { weight: w2_tensor, gradient: g2_tensor, inputs: hidden_tensor, output_gradients: d2_tensor },
        ];
        Ok(Network { prepared, layers, log: log_tensor, sizes })
    }

    /// The gradient on the batch of `step`: all batches in turn, in the same order in each pass.
    pub(crate) fn gradient(&mut self, step: usize) -> Result<()> {
        let batches = self.sizes.batches();
        Ok(self.prepared.run(&[step % batches, batches])?)
    }

    /// Judges the weights as they are and keeps the result as log point `point`, on the device.
    pub(crate) fn log(&mut self, point: usize) -> Result<()> {
        let batches = self.sizes.batches();
        Ok(self.prepared.run(&[batches + 1, batches + 2 + point])?)
    }

    /// By trial, then by log point.
    pub(crate) fn logged(&self) -> Result<Vec<[f64; COLUMNS]>> {
        let values = self.log.read()?;
        Ok(values.as_chunks::<COLUMNS>().0.iter().map(|row| row.map(f64::from)).collect())
    }
}

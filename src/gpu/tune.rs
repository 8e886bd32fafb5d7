//! Choosing matrix-product variants by measurement, and checking them against the portable one: only when asked.

use std::time::Duration;

use super::choice::{GemmTable, ShapeClass, candidates};
use super::ladder::{GemmShape, GemmVariant};
use crate::context::Context;
use crate::error::Result;
use crate::plan::{Gemm, Recorder, Role};
use crate::prepared::{Bindings, Prepared};
use crate::tensor::{ElementType, Shape, Tensor};

/// Work of one measured run: long enough for a clock, short enough for a watchdog.
const RUN_FLOPS: usize = 1 << 28;

/// Measured runs of each candidate; the shortest counts.
const RUNS: usize = 5;

/// (m, k, n) of the check: edges of every tile, a side below 8, one tile exactly, several tiles, several runs of a long inner side.
const CHECKED: [(usize, usize, usize); 8] =
    [(1, 1, 1), (5, 70, 3), (16, 9, 13), (64, 64, 64), (100, 33, 7), (31, 67, 130), (257, 40, 140), (40, 2100, 70)];

impl Context {
    /// This context with another table of matrix-product variants, for plans prepared from now on. Tensors of one serve the other.
    ///
    /// # Errors
    /// [`Error::WrongContext`](crate::Error::WrongContext) on the CPU path.
    pub fn with_gemm_table(&self, table: GemmTable) -> Result<Context> {
        let mut device = self.gpu_device("with_gemm_table")?.as_ref().clone();
        device.facts.gemm = table;
        Ok(Context::from_device(device))
    }

    /// Measures up to four variants for each shape, and returns this context's table with the fastest of each class. Never called by the library.
    ///
    /// `clock` tells the time since any fixed moment: `|| start.elapsed()` with a [`std::time::Instant`], or the browser's `performance.now()`. Takes five runs of
    /// about 0.3 GFLOP a candidate, and compiles what is not compiled yet. Precision is not touched: variants differ in the order of summation alone. Results for
    /// other shapes of a class, or on other devices, can be slower than the built-in choice. Someone has to poll the device; [`tune_blocking`](Self::tune_blocking) does.
    ///
    /// # Errors
    /// [`Error::WrongContext`](crate::Error::WrongContext) on the CPU path; [`Error::Limit`](crate::Error::Limit) where an operand does not fit;
    /// [`Error::Gpu`](crate::Error::Gpu), [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn tune(&self, shapes: &[GemmShape], clock: impl Fn() -> Duration) -> Result<GemmTable> {
        self.measure(shapes, clock, false).await
    }

    /// [`tune`](Self::tune), waiting for the device.
    ///
    /// ```no_run
    /// use layerwise::{gpu::GemmShape, Context};
    /// let start = std::time::Instant::now();
    /// let context = Context::gpu()?;
    /// let table = context.tune_blocking(&[GemmShape::f32(512, 512, 512), GemmShape::f32(64, 1024, 8)], || start.elapsed())?;
    /// let context = context.with_gemm_table(table)?;
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`tune`](Self::tune).
    pub fn tune_blocking(&self, shapes: &[GemmShape], clock: impl Fn() -> Duration) -> Result<GemmTable> {
        pollster::block_on(self.measure(shapes, clock, true))
    }

    async fn measure(&self, shapes: &[GemmShape], clock: impl Fn() -> Duration, blocking: bool) -> Result<GemmTable> {
        let facts = &self.gpu_device("tune")?.facts;
        let mut table = facts.gemm.clone();
        for &shape in shapes {
            let usable = |v: GemmVariant| !table.refused.contains(&v);
            let list: Vec<GemmVariant> = candidates(shape, facts).iter().map(|c| c.variant).filter(|v| usable(*v)).collect();
            let flops = (2 * shape.m * shape.k * shape.n).max(1);
            // Few items at first: a stack of small products, as a stack of layers has.
            let batch = (RUN_FLOPS / 8 / flops).clamp(1, 64);
            let repeats = (RUN_FLOPS / flops / batch).clamp(1, 256);
            let mut best: Option<(Duration, GemmVariant)> = None;
            for variant in list {
                let forced = self.with_gemm_table(GemmTable { forced: Some(variant), ..GemmTable::default() })?;
                let mut product = Product::new(&forced, batch, shape)?;
                let mut fastest = Duration::MAX;
                for run in 0..=RUNS {
                    let start = clock();
                    product.prepared.run(&vec![0; repeats])?;
                    product.finish(blocking).await?;
                    // The first compiles.
                    if run > 0 {
                        fastest = fastest.min(clock().saturating_sub(start));
                    }
                }
                log::debug!("gemm {shape:?}: {variant} {fastest:?}");
                if best.is_none_or(|(time, _)| fastest < time) {
                    best = Some((fastest, variant));
                }
            }
            if let Some((_, variant)) = best {
                table.tuned.insert(ShapeClass::of(shape), variant);
            }
        }
        Ok(table)
    }

    /// Compares every variant that this device can run with the portable one, and returns this context's table with those refused that differ or do not compile;
    /// each is named in a warning of the log. Never called by the library: a few dozen small products and as many pipelines.
    ///
    /// # Errors
    /// As [`tune`](Self::tune), for the portable variant.
    pub async fn check_gemm(&self) -> Result<GemmTable> {
        self.compare(false).await
    }

    /// [`check_gemm`](Self::check_gemm), waiting for the device.
    ///
    /// # Errors
    /// As [`check_gemm`](Self::check_gemm).
    pub fn check_gemm_blocking(&self) -> Result<GemmTable> {
        pollster::block_on(self.compare(true))
    }

    async fn compare(&self, blocking: bool) -> Result<GemmTable> {
        let facts = &self.gpu_device("check_gemm")?.facts;
        let mut table = facts.gemm.clone();
        for (m, k, n) in CHECKED {
            for element in [ElementType::F32, ElementType::F16] {
                let shape = GemmShape { m, k, n, a: element, b: element };
                let portable = self.result(GemmVariant::Tile64, shape, blocking).await?;
                for variant in GemmVariant::ALL {
                    if variant == GemmVariant::Tile64 || table.refused.contains(&variant) || !variant.fits(shape, facts) {
                        continue;
                    }
                    let problem = match self.result(variant, shape, blocking).await {
                        Ok(found) => disagreement(&found, &portable, k),
                        Err(error) => Some(error.to_string()),
                    };
                    if let Some(problem) = problem {
                        log::warn!("gemm variant {variant} is not used on {}: {problem} ({m} x {k} x {n}, {element})", self.describe());
                        table.refused.insert(variant);
                    }
                }
            }
        }
        Ok(table)
    }

    async fn result(&self, variant: GemmVariant, shape: GemmShape, blocking: bool) -> Result<Vec<f32>> {
        let forced = self.with_gemm_table(GemmTable { forced: Some(variant), ..GemmTable::default() })?;
        let mut product = Product::new(&forced, 3, shape)?;
        product.prepared.run(&[0])?;
        product.finish(blocking).await
    }
}

/// The first element in which two products of operands below 1 differ by more than rounding: 2^-20 for each of `k` terms.
pub fn disagreement(found: &[f32], portable: &[f32], k: usize) -> Option<String> {
    let allowed = k as f64 / f64::from(1 << 20);
    if found.len() != portable.len() {
        return Some(format!("{} elements instead of {}", found.len(), portable.len()));
    }
    // NaN differs from everything.
    let differs = |(f, p): (&f32, &f32)| f.is_nan() || p.is_nan() || (f64::from(*f) - f64::from(*p)).abs() > allowed;
    let i = found.iter().zip(portable).position(differs)?;
    Some(format!("element {i} is {}, the portable variant's is {}", found[i], portable[i]))
}

/// A batch of products of made-up numbers below 1.
struct Product {
    prepared: Prepared,
    out: Tensor,
}

impl Product {
    fn new(context: &Context, batch: usize, shape: GemmShape) -> Result<Product> {
        let (mut r, mut bindings) = (Recorder::new(), Bindings::new());
        let GemmShape { m, k, n, .. } = shape;
        let mut operand = |r: &mut Recorder, name: &str, rows: usize, cols: usize, element: ElementType| {
            let size = Shape::new(batch, rows, cols);
            let value = r.declare(name.into(), size, element, Role::External)?;
            // Multiples of 1/512 below 1: exact in f16 too.
            #[allow(clippy::cast_precision_loss, reason = "numbers below 512")]
            let numbers: Vec<f32> = (0..size.elements()).map(|i| ((i * 7919 + rows) % 1021) as f32 / 512.0 - 0.99609375).collect();
            bindings.bind(value, &context.upload_of(size, element, &numbers)?);
            Ok(value)
        };
        let (a, b) = (operand(&mut r, "a", m, k, shape.a)?, operand(&mut r, "b", k, n, shape.b)?);
        let size = Shape::new(batch, m, n);
        let (value, out) = (r.external("out", size)?, context.zeros(size)?);
        bindings.bind(value, &out);
        r.record(Gemm::new(a, b, value))?;
        Ok(Product { prepared: context.prepare(&r.finish(), &bindings)?, out })
    }

    /// The result, when all that was submitted is done.
    async fn finish(&self, blocking: bool) -> Result<Vec<f32>> {
        if blocking { self.out.read() } else { self.out.read_async().await }
    }
}

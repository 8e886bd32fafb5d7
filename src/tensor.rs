//! Shapes, element types and tensors.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::context::Context;
use crate::error::{Error, Result};

/// `[batch, rows, cols]`, row-major. A matrix has batch 1, a vector is `[1, n, 1]`, a scalar `[1, 1, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Independent items: layers of a stack, trials of a sweep, or plain batched matrices.
    pub batch: usize,
    /// Rows of each item.
    pub rows: usize,
    /// Columns of each item.
    pub cols: usize,
}

impl Shape {
    /// `[batch, rows, cols]`.
    pub const fn new(batch: usize, rows: usize, cols: usize) -> Self {
        Shape { batch, rows, cols }
    }

    /// `[1, rows, cols]`.
    pub const fn matrix(rows: usize, cols: usize) -> Self {
        Shape { batch: 1, rows, cols }
    }

    /// `[1, n, 1]`.
    pub const fn vector(n: usize) -> Self {
        Shape { batch: 1, rows: n, cols: 1 }
    }

    /// `batch * rows * cols`.
    pub const fn elements(&self) -> usize {
        self.batch * self.rows * self.cols
    }

    /// Refuses zero dimensions and sizes that 32-bit indices can't address.
    pub(crate) fn check(&self, op: &'static str, tensor: &str) -> Result<()> {
        let fits = self.batch.checked_mul(self.rows).and_then(|n| n.checked_mul(self.cols)).is_some_and(|n| n < u32::MAX as usize);
        if self.batch == 0 || self.rows == 0 || self.cols == 0 || !fits {
            return Err(Error::Shape {
                op,
                tensor: tensor.into(),
                expected: "every dimension at least 1 and fewer than 2^32 - 1 elements in all".into(),
                found: self.to_string(),
            });
        }
        Ok(())
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}]", self.batch, self.rows, self.cols)
    }
}

/// How elements are stored. Arithmetic is f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16, two elements in each `u32` word; every item starts at an even element.
    F16,
}

impl ElementType {
    /// Elements from one item to the next.
    pub(crate) fn item_stride(self, rows: usize, cols: usize) -> usize {
        match self {
            ElementType::F32 => rows * cols,
            ElementType::F16 => (rows * cols).next_multiple_of(2),
        }
    }

    /// 4-byte words that hold `shape`.
    pub(crate) fn words(self, shape: Shape) -> usize {
        let elements = shape.batch * self.item_stride(shape.rows, shape.cols);
        match self {
            ElementType::F32 => elements,
            ElementType::F16 => elements / 2,
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ElementType::F32 => "f32",
            ElementType::F16 => "f16",
        })
    }
}

/// Where a tensor's words live.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// Host memory of the CPU path; the `Arc` is the identity of the root buffer.
    Cpu(Arc<Mutex<Vec<f32>>>),
    /// A wgpu buffer.
    #[cfg(feature = "gpu")]
    Gpu(wgpu::Buffer),
}

impl Storage {
    pub(crate) fn same(&self, other: &Storage) -> bool {
        match (self, other) {
            (Storage::Cpu(a), Storage::Cpu(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "gpu")]
            (Storage::Gpu(a), Storage::Gpu(b)) => a == b,
            #[cfg(feature = "gpu")]
            _ => false,
        }
    }
}

/// A view of a buffer: `[batch, rows, cols]` elements from a word offset on, dense and row-major.
///
/// Clones are cheap and share the buffer; dropping the last clone frees it (an imported buffer only loses our handle). Tensors are made by a
/// [`Context`]: [`zeros`](Context::zeros), [`upload`](Context::upload), [`arena`](Context::arena), [`import`](Context::import).
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(crate) context: Context,
    pub(crate) storage: Storage,
    /// First 4-byte word in the buffer.
    pub(crate) offset: usize,
    pub(crate) shape: Shape,
    pub(crate) element: ElementType,
}

impl Tensor {
    /// `[batch, rows, cols]`.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How elements are stored.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The context that made it.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// 4-byte words that the view covers.
    pub(crate) fn words(&self) -> usize {
        self.element.words(self.shape)
    }

    /// Items `range` of the batch, sharing the buffer.
    ///
    /// # Errors
    /// [`Error::Shape`] where the range is empty or leaves the batch.
    pub fn items(&self, range: Range<usize>) -> Result<Tensor> {
        if range.start >= range.end || range.end > self.shape.batch {
            return Err(Error::Shape {
                op: "items",
                tensor: self.shape.to_string(),
                expected: format!("a non-empty range within 0..{}", self.shape.batch),
                found: format!("{}..{}", range.start, range.end),
            });
        }
        let item = self.words() / self.shape.batch;
        Ok(Tensor { offset: self.offset + range.start * item, shape: Shape { batch: range.len(), ..self.shape }, ..self.clone() })
    }

    /// The same words under another shape with as many elements.
    ///
    /// # Errors
    /// [`Error::Shape`] where the number of elements differs, or for f16.
    pub fn reshape(&self, shape: Shape) -> Result<Tensor> {
        shape.check("reshape", "shape")?;
        if shape.elements() != self.shape.elements() || self.element != ElementType::F32 {
            return Err(Error::Shape {
                op: "reshape",
                tensor: shape.to_string(),
                expected: format!("{} f32 elements", self.shape.elements()),
                found: format!("{} {} elements", shape.elements(), self.element),
            });
        }
        Ok(Tensor { shape, ..self.clone() })
    }

    /// Rows `range` of the only item, sharing the buffer: the part of a batch of samples that is filled.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is more than one item, for f16, or where the range is empty or leaves the matrix.
    pub fn rows(&self, range: Range<usize>) -> Result<Tensor> {
        let good = self.shape.batch == 1 && self.element == ElementType::F32 && range.start < range.end && range.end <= self.shape.rows;
        if !good {
            return Err(Error::Shape {
                op: "rows",
                tensor: self.shape.to_string(),
                expected: format!("one f32 item and a non-empty range within 0..{}", self.shape.rows),
                found: format!("{} {} items and {}..{}", self.shape.batch, self.element, range.start, range.end),
            });
        }
        let offset = self.offset + range.start * self.shape.cols;
        Ok(Tensor { offset, shape: Shape { rows: range.len(), ..self.shape }, ..self.clone() })
    }

    /// True if this view starts in the same buffer right where `previous` ends: then both can be one batch.
    pub fn follows(&self, previous: &Tensor) -> bool {
        self.storage.same(&previous.storage) && self.offset == previous.offset + previous.words()
    }

    /// True if both views lie in one buffer.
    pub fn shares_buffer(&self, other: &Tensor) -> bool {
        self.storage.same(&other.storage)
    }

    /// Overwrites the view with `values` (f16: rounded to nearest even).
    ///
    /// On a GPU the copy is queued before everything submitted later; it does not wait.
    ///
    /// # Errors
    /// [`Error::Shape`] where the number of values differs, [`Error::Buffer`] where an imported buffer was created without `COPY_DST`.
    pub fn write(&self, values: &[f32]) -> Result<()> {
        if values.len() != self.shape.elements() {
            return Err(Error::Shape {
                op: "write",
                tensor: self.shape.to_string(),
                expected: format!("{} values", self.shape.elements()),
                found: format!("{} values", values.len()),
            });
        }
        match self.element {
            ElementType::F32 => self.write_words(values),
            ElementType::F16 => self.write_words(&pack_f16(values, self.shape)),
        }
    }

    fn write_words(&self, words: &[f32]) -> Result<()> {
        match &self.storage {
            Storage::Cpu(data) => {
                lock(data)[self.offset..self.offset + words.len()].copy_from_slice(words);
                Ok(())
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(buffer) => self.context.gpu_write(buffer, self.offset, words),
        }
    }

    /// The values, blocking until they are there.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Gpu`]; [`Error::Buffer`] where an imported buffer was created without `COPY_SRC`.
    pub fn read(&self) -> Result<Vec<f32>> {
        let words = match &self.storage {
            Storage::Cpu(data) => lock(data)[self.offset..self.offset + self.words()].to_vec(),
            #[cfg(feature = "gpu")]
            Storage::Gpu(buffer) => self.context.gpu_read_blocking(buffer, self.offset, self.words())?,
        };
        Ok(self.unpack(words))
    }

    /// The values, without blocking this thread: the form for browsers and frame loops (someone must poll the device).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_async(&self) -> Result<Vec<f32>> {
        let words = match &self.storage {
            Storage::Cpu(data) => lock(data)[self.offset..self.offset + self.words()].to_vec(),
            #[cfg(feature = "gpu")]
            Storage::Gpu(buffer) => self.context.gpu_read(buffer, self.offset, self.words()).await?,
        };
        Ok(self.unpack(words))
    }

    fn unpack(&self, words: Vec<f32>) -> Vec<f32> {
        match self.element {
            ElementType::F32 => words,
            ElementType::F16 => unpack_f16(&words, self.shape),
        }
    }

    /// The wgpu buffer and the byte offset of the view in it; `None` on the CPU path.
    #[cfg(feature = "gpu")]
    pub fn gpu_buffer(&self) -> Option<(&wgpu::Buffer, u64)> {
        match &self.storage {
            Storage::Cpu(_) => None,
            Storage::Gpu(buffer) => Some((buffer, 4 * self.offset as u64)),
        }
    }
}

/// Locks host memory. A poisoned lock only says that some thread panicked while holding it; the words themselves are plain numbers.
pub(crate) fn lock(data: &Mutex<Vec<f32>>) -> MutexGuard<'_, Vec<f32>> {
    data.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Packs items of `shape` into words of two f16, each item starting at an even element.
pub(crate) fn pack_f16(values: &[f32], shape: Shape) -> Vec<f32> {
    let item = shape.rows * shape.cols;
    values
        .chunks(item)
        .flat_map(|item| item.chunks(2))
        .map(|pair| {
            let low = u32::from(half::f16::from_f32(pair[0]).to_bits());
            let high = pair.get(1).map_or(0, |&v| u32::from(half::f16::from_f32(v).to_bits()));
            f32::from_bits(low | high << 16)
        })
        .collect()
}

/// The inverse of [`pack_f16`].
pub(crate) fn unpack_f16(words: &[f32], shape: Shape) -> Vec<f32> {
    let item = shape.rows * shape.cols;
    words.chunks(item.div_ceil(2)).flat_map(|words| (0..item).map(|i| f16_at(words, i))).collect()
}

/// Element `i` of packed words.
pub(crate) fn f16_at(words: &[f32], i: usize) -> f32 {
    let word = words[i / 2].to_bits().to_le_bytes();
    let at = 2 * (i % 2);
    half::f16::from_le_bytes([word[at], word[at + 1]]).to_f32()
}

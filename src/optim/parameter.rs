//! Parameters: what a user hands to an optimizer.

use crate::error::{Error, Result};
use crate::tensor::{ElementType, Tensor};

/// What KFAC, FOOF and the natural gradient see of a layer `y = W x`, beside the gradient.
///
/// The batch of each tensor is the weight's number of trials, or a divisor of it: then neighbouring trials share an item (data index outer, trial index
/// inner), as trials of one seed share their inputs.
#[derive(Clone, Debug)]
pub enum Taps {
    /// The layer's inputs and the gradients of the *mean* loss with respect to its outputs, sample by sample.
    Samples {
        /// `[.., n, in]`.
        inputs: Tensor,
        /// `[.., n, out]`.
        output_gradients: Tensor,
    },
    /// Kronecker factors computed by the caller, taken into the running averages as they are.
    Factors {
        /// `[.., out, out]`, symmetric.
        left: Tensor,
        /// `[.., in, in]`, symmetric, with the bias column where the weight has one.
        right: Tensor,
    },
    /// The layer's inputs alone, for FOOF.
    Inputs {
        /// `[.., n, in]`.
        inputs: Tensor,
    },
    /// Rows of a Jacobian, for the natural gradient: gradients of the weight, its elements in row-major order.
    PerSampleGradients {
        /// `[.., n, out in]`.
        gradients: Tensor,
    },
}

/// Which taps a method takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    Nothing,
    /// Both factors of a layer.
    Factors,
    /// Its right factor.
    Right,
    /// Rows of its Jacobian.
    Rows,
}

impl Wants {
    fn takes(self, taps: &Taps) -> bool {
        match self {
            Wants::Nothing => true,
            Wants::Factors => matches!(taps, Taps::Samples { .. } | Taps::Factors { .. }),
            Wants::Right => matches!(taps, Taps::Samples { .. } | Taps::Factors { .. } | Taps::Inputs { .. }),
            Wants::Rows => matches!(taps, Taps::Samples { .. } | Taps::PerSampleGradients { .. }),
        }
    }

    fn allowed(self) -> &'static str {
        match self {
            Wants::Nothing => "any taps",
            Wants::Factors => "matrices with taps: give it `samples` or `factors`, or move it to a Sgd, Adam or AdamW group",
            Wants::Right => "matrices with taps: give it `inputs`, `samples` or `factors`, or move it to a Sgd, Adam or AdamW group",
            Wants::Rows => "matrices with taps: give it `samples` or `per_sample_gradients`, or move it to a Sgd, Adam or AdamW group",
        }
    }
}

impl Taps {
    fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Taps::Samples { inputs, output_gradients } => vec![("inputs", inputs), ("output_gradients", output_gradients)],
            Taps::Factors { left, right } => vec![("left", left), ("right", right)],
            Taps::Inputs { inputs } => vec![("inputs", inputs)],
            Taps::PerSampleGradients { gradients } => vec![("per_sample_gradients", gradients)],
        }
    }
}

/// A weight with its gradient (and, for KFAC, FOOF and the natural gradient, its taps): the caller's tensors, read and written where they lie.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name in messages, printed plans and health reports; unique within an optimizer.
    pub name: String,
    /// `[trials, out, in]`, updated by each step. In f16 it is a copy of an f32 master that the optimizer keeps, made at the first step
    /// (at most 65504 in magnitude). With KFAC one more column than inputs means that the last column is the bias.
    pub weight: Tensor,
    /// The gradient of the mean loss, same shape, f32 or f16, read by each step.
    pub gradient: Tensor,
    /// What KFAC, FOOF and the natural gradient need; other methods ignore it.
    pub taps: Option<Taps>,
}

impl Parameter {
    /// A parameter without taps.
    pub fn new(name: impl Into<String>, weight: &Tensor, gradient: &Tensor) -> Self {
        Parameter { name: name.into(), weight: weight.clone(), gradient: gradient.clone(), taps: None }
    }

    /// With [`Taps::Samples`].
    #[must_use]
    pub fn samples(self, inputs: &Tensor, output_gradients: &Tensor) -> Self {
        Parameter { taps: Some(Taps::Samples { inputs: inputs.clone(), output_gradients: output_gradients.clone() }), ..self }
    }

    /// With [`Taps::Factors`].
    #[must_use]
    pub fn factors(self, left: &Tensor, right: &Tensor) -> Self {
        Parameter { taps: Some(Taps::Factors { left: left.clone(), right: right.clone() }), ..self }
    }

    /// With [`Taps::Inputs`].
    #[must_use]
    pub fn inputs(self, inputs: &Tensor) -> Self {
        Parameter { taps: Some(Taps::Inputs { inputs: inputs.clone() }), ..self }
    }

    /// With [`Taps::PerSampleGradients`].
    #[must_use]
    pub fn per_sample_gradients(self, gradients: &Tensor) -> Self {
        Parameter { taps: Some(Taps::PerSampleGradients { gradients: gradients.clone() }), ..self }
    }

    /// True if this can be the next layer of `previous`'s stack.
    pub(crate) fn follows(&self, previous: &Parameter, with_taps: bool) -> bool {
        let next = |a: &Tensor, b: &Tensor| a.shape() == b.shape() && a.element() == b.element() && a.follows(b);
        let taps = match (&self.taps, &previous.taps) {
            _ if !with_taps => true,
            (Some(a), Some(b)) => {
                std::mem::discriminant(a) == std::mem::discriminant(b) && a.tensors().iter().zip(&b.tensors()).all(|(a, b)| next(a.1, b.1))
            }
            _ => false,
        };
        // A gradient in its weight's own buffer is staged, all of the stack's or none.
        let staging = self.weight.shares_buffer(&self.gradient) == previous.weight.shares_buffer(&previous.gradient);
        next(&self.weight, &previous.weight) && next(&self.gradient, &previous.gradient) && taps && staging
    }

    pub(crate) fn check(&self, method: &'static str, wants: Wants) -> Result<()> {
        let with_taps = wants != Wants::Nothing;
        let weight = self.weight.shape();
        let refuse = |role: &str, expected: String, found: String| {
            Err(Error::Shape { op: "optimizer", tensor: format!("{}.{role}", self.name), expected, found })
        };
        let mut tensors = vec![("weight", &self.weight), ("gradient", &self.gradient)];
        if with_taps {
            tensors.extend(self.taps.iter().flat_map(Taps::tensors));
        }
        for (role, tensor) in tensors {
            let free = matches!(role, "weight" | "gradient");
            if tensor.element() != ElementType::F32 && !free {
                return refuse(role, "f32 elements (only weights and gradients may be f16)".into(), tensor.element().to_string());
            }
        }
        if self.gradient.shape() != weight {
            return refuse("gradient", format!("the weight's shape {weight}"), self.gradient.shape().to_string());
        }
        if !with_taps {
            return Ok(());
        }
        let Some(taps) = self.taps.as_ref().filter(|taps| wants.takes(taps)) else {
            let found = format!("{} for parameter `{}`", if self.taps.is_some() { "other taps" } else { "no taps" }, self.name);
            return Err(Error::Config { method, field: "parameter", found, allowed: wants.allowed() });
        };
        for (role, tensor) in taps.tensors() {
            let shape = tensor.shape();
            let (rows, cols): (Option<usize>, &[usize]) = match role {
                "inputs" => (None, &[weight.cols, weight.cols - 1]),
                "output_gradients" => (None, &[weight.rows]),
                "left" => (Some(weight.rows), &[weight.rows]),
                "per_sample_gradients" => (None, &[weight.rows * weight.cols]),
                _ => (Some(weight.cols), &[weight.cols]),
            };
            if rows.is_some_and(|r| r != shape.rows) || !cols.contains(&shape.cols) || !weight.batch.is_multiple_of(shape.batch) {
                let rows = rows.map_or("n".into(), |r| r.to_string());
                let cols = cols.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
                let expected = format!("[{} or a divisor, {rows}, {cols}] for a weight {weight}", weight.batch);
                return refuse(role, expected, shape.to_string());
            }
        }
        if let Taps::Samples { inputs, output_gradients } = taps
            && inputs.shape().rows != output_gradients.shape().rows
        {
            let expected = format!("[.., {}, ..]: as many samples as the inputs have", inputs.shape().rows);
            return refuse("output_gradients", expected, output_gradients.shape().to_string());
        }
        Ok(())
    }
}

//! Parameters and groups: what a user hands to an optimizer.

use super::config::{Check, Method};
use super::learning_rate::LearningRateSchedule;
use crate::error::{Error, Result};
use crate::tensor::{ElementType, Tensor};

/// What KFAC sees of a layer `y = W x`, beside the gradient.
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
}

impl Taps {
    fn tensors(&self) -> [(&'static str, &Tensor); 2] {
        match self {
            Taps::Samples { inputs, output_gradients } => [("inputs", inputs), ("output_gradients", output_gradients)],
            Taps::Factors { left, right } => [("left", left), ("right", right)],
        }
    }
}

/// A weight with its gradient (and, for KFAC, its taps): the caller's tensors, read and written where they lie.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name in messages, printed plans and health reports; unique within an optimizer.
    pub name: String,
    /// `[trials, out, in]`, updated by each step. With KFAC one more column than inputs means that the last column is the bias.
    pub weight: Tensor,
    /// The gradient of the mean loss, same shape, read by each step.
    pub gradient: Tensor,
    /// What KFAC needs; other methods ignore it.
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

    /// True if this can be the next layer of `previous`'s stack.
    pub(crate) fn follows(&self, previous: &Parameter, with_taps: bool) -> bool {
        let next = |a: &Tensor, b: &Tensor| a.shape() == b.shape() && a.follows(b);
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

    pub(crate) fn check(&self, with_taps: bool) -> Result<()> {
        let weight = self.weight.shape();
        let refuse = |role: &str, expected: String, found: String| {
            Err(Error::Shape { op: "optimizer", tensor: format!("{}.{role}", self.name), expected, found })
        };
        let mut tensors = vec![("weight", &self.weight), ("gradient", &self.gradient)];
        if with_taps {
            tensors.extend(self.taps.iter().flat_map(Taps::tensors));
        }
        for (role, tensor) in tensors {
            if tensor.element() != ElementType::F32 {
                return refuse(role, "f32 elements (f16 copies are for operands of products)".into(), tensor.element().to_string());
            }
        }
        if self.gradient.shape() != weight {
            return refuse("gradient", format!("the weight's shape {weight}"), self.gradient.shape().to_string());
        }
        if !with_taps {
            return Ok(());
        }
        let Some(taps) = &self.taps else {
            let found = format!("no taps for parameter `{}`", self.name);
            let allowed = "matrices with taps: give it `samples` or `factors`, or move it to a Sgd, Adam or AdamW group";
            return Err(Error::Config { method: "Kfac", field: "parameter", found, allowed });
        };
        for (role, tensor) in taps.tensors() {
            let shape = tensor.shape();
            let (rows, cols): (Option<usize>, &[usize]) = match role {
                "inputs" => (None, &[weight.cols, weight.cols - 1]),
                "output_gradients" => (None, &[weight.rows]),
                "left" => (Some(weight.rows), &[weight.rows]),
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

/// Parameters that share a method, its settings and a learning-rate schedule.
///
/// Layers of equal shape whose weights (and gradients, and taps) follow one another in one buffer, as [`Context::arena`](crate::Context::arena) makes
/// them, become one stack and share dispatches. All weights of a group have the same number of trials.
#[derive(Clone, Debug)]
pub struct Group {
    pub(crate) method: Method,
    pub(crate) schedule: LearningRateSchedule,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) learning_rates: Option<Vec<f64>>,
    pub(crate) dampings: Option<Vec<f64>>,
}

impl Group {
    /// An empty group with a constant learning rate.
    pub fn new(method: impl Into<Method>) -> Self {
        let (schedule, parameters) = (LearningRateSchedule::Constant, Vec::new());
        Group { method: method.into(), schedule, parameters, learning_rates: None, dampings: None }
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// Sets the learning-rate schedule.
    #[must_use]
    pub fn schedule(self, schedule: LearningRateSchedule) -> Self {
        Group { schedule, ..self }
    }

    /// One base learning rate a trial, instead of the method's.
    #[must_use]
    pub fn learning_rates(self, rates: &[f64]) -> Self {
        Group { learning_rates: Some(rates.to_vec()), ..self }
    }

    /// One damping a trial, instead of the method's: [`Kfac`](super::Kfac)'s damping, [`Shampoo`](super::Shampoo)'s epsilon.
    #[must_use]
    pub fn dampings(self, dampings: &[f64]) -> Self {
        Group { dampings: Some(dampings.to_vec()), ..self }
    }

    pub(crate) fn needs_taps(&self) -> bool {
        matches!(self.method, Method::Kfac(_))
    }

    /// Checks everything about the group; returns the number of trials.
    pub(crate) fn check(&self) -> Result<usize> {
        let check = Check("Group");
        let trials = self.parameters.first().map_or(0, |p| p.weight.shape().batch);
        check.that("parameters", trials > 0, "empty", "at least one parameter")?;
        self.schedule.validate()?;
        for parameter in &self.parameters {
            parameter.check(self.needs_taps())?;
            let found = parameter.weight.shape();
            if found.batch != trials {
                let (tensor, expected) =
                    (format!("{}.weight", parameter.name), format!("[{trials}, .., ..]: one number of trials in a group"));
                return Err(Error::Shape { op: "optimizer", tensor, expected, found: found.to_string() });
            }
        }
        for (field, values) in [("learning_rates", &self.learning_rates), ("dampings", &self.dampings)] {
            let Some(values) = values else { continue };
            check.that(field, values.len() == trials, format!("{} values for {trials} trials", values.len()), "one value a trial")?;
        }
        let damped = matches!(self.method, Method::Kfac(_) | Method::Shampoo(_));
        check.that("dampings", self.dampings.is_none() || damped, "given", "only in a group with `Kfac` or `Shampoo`")?;
        for trial in 0..trials {
            self.method_of(trial).validate()?;
        }
        if let Method::Muon(m) = &self.method {
            self.parameters.iter().try_for_each(|p| m.check_weight(&p.name, p.weight.shape()))?;
        }
        Ok(trials)
    }

    /// The method with the settings of one trial.
    pub(crate) fn method_of(&self, trial: usize) -> Method {
        let mut method = self.method;
        let rate = match &mut method {
            Method::Sgd(m) => &mut m.learning_rate,
            Method::Adam(m) => &mut m.learning_rate,
            Method::AdamW(m) => &mut m.learning_rate,
            Method::Kfac(m) => &mut m.learning_rate,
            Method::Shampoo(m) => &mut m.learning_rate,
            Method::Muon(m) => &mut m.learning_rate,
        };
        let given = |list: &Option<Vec<f64>>| list.as_ref().and_then(|l| l.get(trial).copied());
        *rate = given(&self.learning_rates).unwrap_or(*rate);
        let damping = match &mut method {
            Method::Kfac(m) => Some(&mut m.damping),
            Method::Shampoo(m) => Some(&mut m.epsilon),
            Method::Sgd(_) | Method::Adam(_) | Method::AdamW(_) | Method::Muon(_) => None,
        };
        if let (Some(damping), Some(value)) = (damping, given(&self.dampings)) {
            *damping = value;
        }
        method
    }
}

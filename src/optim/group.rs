//! Parameters and groups: what a user hands to an optimizer.

use super::beats::Beats;
use super::config::{Check, Method, WeightDecay};
use super::learning_rate::LearningRateSchedule;
use super::routing::Takes;
use crate::error::{Error, Result};
use crate::plan::DecayForm;
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
    pub(crate) decay: Option<WeightDecay>,
    pub(crate) average: Option<f64>,
    pub(crate) takes: Takes,
    pub(crate) tracks: bool,
}

impl Group {
    /// An empty group with a constant learning rate.
    pub fn new(method: impl Into<Method>) -> Self {
        let (schedule, parameters) = (LearningRateSchedule::Constant, Vec::new());
        Group {
            method: method.into(),
            schedule,
            parameters,
            learning_rates: None,
            dampings: None,
            decay: None,
            average: None,
            takes: Takes::Given,
            tracks: false,
        }
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

    /// One damping a trial, instead of the method's: that of [`Kfac`](super::Kfac), [`Foof`](super::Foof) and [`NaturalGradient`](super::NaturalGradient), [`Shampoo`](super::Shampoo)'s epsilon.
    #[must_use]
    pub fn dampings(self, dampings: &[f64]) -> Self {
        Group { dampings: Some(dampings.to_vec()), ..self }
    }

    /// Says which parameters of [`Builder::parameters`](super::Builder::parameters) this group takes. Default [`Takes::Given`].
    ///
    /// ```
    /// use layerwise::optim::{AdamW, Group, Muon, Optimizer, Parameter, Takes};
    /// use layerwise::{Context, Shape};
    /// let ctx = Context::cpu();
    /// let parameter = |name: &str, rows, cols| {
    ///     let shape = Shape::matrix(rows, cols);
    ///     Ok::<_, layerwise::Error>(Parameter::new(name, &ctx.zeros(shape)?, &ctx.zeros(shape)?))
    /// };
    /// let model = [parameter("embedding", 100, 8)?, parameter("hidden", 8, 8)?, parameter("bias", 8, 1)?, parameter("head", 100, 8)?];
    /// let optimizer = Optimizer::builder(&ctx)
    ///     .group(Group::new(Muon::default()).takes(Takes::Matrices))
    ///     .group(Group::new(AdamW::default()).takes(Takes::Vectors))
    ///     .group(Group::new(AdamW::default()).takes(Takes::named(["embedding", "head"])))
    ///     .parameters(model)
    ///     .build()?;
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    #[must_use]
    pub fn takes(self, takes: Takes) -> Self {
        Group { takes, ..self }
    }

    /// Sets amount and place of the weight decay, instead of the method's own.
    #[must_use]
    pub fn weight_decay(self, decay: WeightDecay) -> Self {
        Group { decay: Some(decay), ..self }
    }

    /// Measures how far each step moves each weight: [`TrialHealth::update_ratio`](super::TrialHealth::update_ratio). Costs a copy of the weights and two
    /// reductions in each step; off by default.
    #[must_use]
    pub fn track_updates(self) -> Self {
        Group { tracks: true, ..self }
    }

    /// Keeps a running average of the weights, `average <- decay average + (1 - decay) W` after each step, the weights themselves at first
    /// (PyTorch's `AveragedModel` with `get_ema_multi_avg_fn`). `decay` in `[0, 1)`; PyTorch's default is 0.999. Read it with
    /// [`Optimizer::average`](super::Optimizer::average). State: one tensor of each weight's size.
    #[must_use]
    pub fn average(self, decay: f64) -> Self {
        Group { average: Some(decay), ..self }
    }

    /// Where a decay enters in the update, if not where the method has it; and whether the gradient takes it up before that.
    pub(crate) fn decay_form(&self) -> (Option<DecayForm>, bool) {
        let decay = match (&self.method, self.decay) {
            (Method::Shampoo(m), None) => Some(m.weight_decay),
            (_, decay) => decay,
        };
        match (decay, &self.method) {
            // Their own place.
            (None, _) | (Some(WeightDecay::L2(_)), Method::Sgd(_) | Method::Adam(_)) => (None, false),
            (Some(WeightDecay::Decoupled(_)), Method::Shampoo(_)) => (None, false),
            (Some(WeightDecay::L2(x)), _) => (None, x > 0.0),
            (Some(WeightDecay::Decoupled(_)), _) => (Some(DecayForm::Decoupled), false),
            (Some(WeightDecay::Cautious(_)), _) => (Some(DecayForm::Cautious), false),
        }
    }

    pub(crate) fn wants(&self) -> Wants {
        match self.method {
            Method::Kfac(_) => Wants::Factors,
            Method::Foof(_) => Wants::Right,
            Method::NaturalGradient(_) => Wants::Rows,
            _ => Wants::Nothing,
        }
    }

    pub(crate) fn needs_taps(&self) -> bool {
        self.wants() != Wants::Nothing
    }

    /// Checks everything about the group; returns the number of trials.
    pub(crate) fn check(&self) -> Result<usize> {
        let check = Check("Group");
        let trials = self.parameters.first().map_or(0, |p| p.weight.shape().batch);
        check.that("parameters", trials > 0, "empty", "at least one parameter")?;
        self.schedule.validate()?;
        for parameter in &self.parameters {
            parameter.check(self.method.name(), self.wants())?;
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
        let damped = self.needs_taps() || matches!(self.method, Method::Shampoo(_));
        let allowed = "only in a group with `Kfac`, `Foof`, `NaturalGradient` or `Shampoo`";
        check.that("dampings", self.dampings.is_none() || damped, "given", allowed)?;
        self.average.map_or(Ok(()), |decay| check.decay("average", decay))?;
        self.decay.map_or(Ok(()), |decay| check.non_negative("weight_decay", decay.amount()))?;
        for trial in 0..trials {
            match self.method_of(trial) {
                Method::Sgd(m) => m.validate()?,
                Method::Adam(m) => m.validate()?,
                Method::AdamW(m) => m.validate()?,
                Method::Kfac(m) => m.validate()?,
                Method::Foof(m) => m.validate()?,
                Method::NaturalGradient(m) => {
                    m.validate()?;
                    self.parameters.iter().try_for_each(|parameter| m.check_taps(parameter))?;
                }
                Method::Shampoo(m) => m.validate()?,
                Method::Muon(m) => m.validate()?,
                Method::Soap(m) => m.validate()?,
                Method::EigenvalueCorrectedShampoo(m) => m.validate()?,
            }
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
            Method::Foof(m) => &mut m.learning_rate,
            Method::NaturalGradient(m) => &mut m.learning_rate,
            Method::Shampoo(m) => &mut m.learning_rate,
            Method::Muon(m) => &mut m.learning_rate,
            Method::Soap(m) => &mut m.learning_rate,
            Method::EigenvalueCorrectedShampoo(m) => &mut m.learning_rate,
        };
        let given = |list: &Option<Vec<f64>>| list.as_ref().and_then(|l| l.get(trial).copied());
        *rate = given(&self.learning_rates).unwrap_or(*rate);
        let damping = match &mut method {
            Method::Kfac(m) => Some(&mut m.damping),
            Method::Foof(m) => Some(&mut m.damping),
            Method::NaturalGradient(m) => Some(&mut m.damping),
            Method::Shampoo(m) => Some(&mut m.epsilon),
            Method::Sgd(_)
            | Method::Adam(_)
            | Method::AdamW(_)
            | Method::Muon(_)
            | Method::Soap(_)
            | Method::EigenvalueCorrectedShampoo(_) => None,
        };
        if let (Some(damping), Some(value)) = (damping, given(&self.dampings)) {
            *damping = value;
        }
        method
    }
}

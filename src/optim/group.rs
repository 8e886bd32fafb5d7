//! Groups of parameters.

use super::config::{Check, Method, WeightDecay};
use super::learning_rate::LearningRateSchedule;
use super::parameter::{Parameter, Wants};
use super::routing::Takes;
use crate::error::{Error, Result};
use crate::plan::DecayForm;

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
            let method = self.method_of(trial);
            method.validate()?;
            if let Method::NaturalGradient(m) = method {
                self.parameters.iter().try_for_each(|parameter| m.check_taps(parameter))?;
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

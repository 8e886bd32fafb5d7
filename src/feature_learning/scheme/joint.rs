//! Joint methods: one gradient of all weights, handed to an optimizer of the library.

use super::{Evaluated, Initial, Keep, Trained};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::feature_learning::batch_norm::{EPSILON, HiddenNorm, InputNorm, MOMENTUM, NormGradients};
use crate::feature_learning::method::Method;
use crate::feature_learning::two_layer::{Batch, TwoLayer};
use crate::optim::{Group, LearningRateSchedule, Optimizer, Parameter, Sgd};
use crate::plan::{Recorder, Value};
use crate::tensor::{Shape, Tensor};

/// Every method with a [`Method::optimizer`].
#[derive(Clone, Debug)]
pub(super) struct Joint {
    pub(super) trained: Vec<Trained>,
    input_norm: Option<InputNorm>,
    hidden_norm: Option<HiddenNorm>,
}

impl Joint {
    pub(super) fn declare(keep: &mut Keep<'_>, method: Method, model: &TwoLayer) -> Result<Self> {
        let mut trained = Vec::new();
        for (name, gradient, weight) in [("F", "F.gradient", model.f), ("G", "G.gradient", model.g)] {
            let gradient = keep.declare(gradient, weight.shape(), Initial::Zeros)?;
            trained.push(Trained { name, weight, gradient, plain: false });
        }
        let (mut input_norm, mut hidden_norm) = (None, None);
        if method.normalises_inputs() {
            let shape = Shape::new(keep.sizes.data, 1, keep.sizes.d_x);
            let mean = keep.declare("input_mean", shape, Initial::Zeros)?;
            let variance = keep.declare("input_variance", shape, Initial::Ones)?;
            input_norm = Some(InputNorm { mean, variance, epsilon: 0.0 });
        }
        if method.normalises_hidden() {
            let shape = Shape::new(keep.sizes.trials(), 1, keep.sizes.k);
            let gamma = keep.declare("gamma", shape, Initial::Ones)?;
            let mean = keep.declare("running_mean", shape, Initial::Zeros)?;
            let variance = keep.declare("running_variance", shape, Initial::Ones)?;
            let gradient = keep.declare("gamma.gradient", shape, Initial::Zeros)?;
            trained.push(Trained { name: "gamma", weight: gamma, gradient, plain: true });
            hidden_norm = Some(HiddenNorm { gamma, bias: None, mean, variance, epsilon: EPSILON, momentum: MOMENTUM });
        }
        Ok(Joint { trained, input_norm, hidden_norm })
    }

    pub(super) fn record(&self, r: &mut Recorder, model: &TwoLayer, batch: &Batch) -> Result<()> {
        let (of_f, of_g) = (self.trained[0].gradient, self.trained[1].gradient);
        if let (Some(norm), Some(gamma)) = (&self.hidden_norm, self.trained.get(2)) {
            let of = NormGradients { f: of_f, g: of_g, gamma: gamma.gradient, bias: None };
            return norm.record(r, model, batch, &of).map(|_| ());
        }
        let x = self.input_norm.map_or(Ok(batch.x), |norm| norm.forward(r, batch.x))?;
        let z = model.hidden(r, model.g, x)?;
        let residual = model.residual(r, z, batch.y)?;
        model.gradient_f_into(r, residual, z, of_f)?;
        model.gradient_g_into(r, residual, x, of_g)
    }

    pub(super) fn evaluated(&self, r: &mut Recorder, model: &TwoLayer) -> Result<Evaluated> {
        if let Some(norm) = &self.hidden_norm {
            let (head, offset) = norm.evaluated(r, model)?;
            return Ok(Evaluated { head, representation: model.g, offset: Some(offset) });
        }
        // The batch's mean is left out: its expectation is zero, and no step has to do with it.
        let representation = self.input_norm.map_or(Ok(model.g), |norm| norm.effective(r, model, model.g))?;
        Ok(Evaluated { head: model.f, representation, offset: None })
    }
}

/// Trains the weights of `method`, in one group, with plain steps for those that take them; none where there are none.
pub(super) fn optimizer(
    method: Method,
    trained: &[Trained],
    context: &Context,
    tensor: &dyn Fn(Value) -> Option<Tensor>,
    learning_rates: &[f64],
    schedule: LearningRateSchedule,
) -> Result<Option<Optimizer>> {
    let Some(rule) = method.optimizer() else { return Ok(None) };
    let bound =
        |value: Value, name: &str| tensor(value).ok_or_else(|| Error::Binding { value: name.into(), reason: "it was not bound".into() });
    let mut builder = Optimizer::builder(context);
    for (plain, rule) in [(false, rule), (true, Sgd::default().into())] {
        let mut group = Group::new(rule).schedule(schedule).learning_rates(learning_rates);
        let mut members = 0;
        for of in trained.iter().filter(|t| t.plain == plain) {
            group = group.parameter(Parameter::new(of.name, &bound(of.weight, of.name)?, &bound(of.gradient, of.name)?));
            members += 1;
        }
        if members > 0 {
            builder = builder.group(group);
        }
    }
    builder.build().map(Some)
}

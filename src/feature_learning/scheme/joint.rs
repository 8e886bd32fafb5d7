//! Joint methods: one gradient of all weights, handed to an optimizer of the library.

use super::{Evaluated, Initial, Keep, Trained};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::feature_learning::method::Method;
use crate::feature_learning::two_layer::{Batch, TwoLayer};
use crate::optim::{Group, LearningRateSchedule, Optimizer, Parameter, Sgd};
use crate::plan::{Recorder, Value};
use crate::tensor::Tensor;

/// Every method with a [`Method::optimizer`].
#[derive(Clone, Debug)]
pub(super) struct Joint {
    pub(super) trained: Vec<Trained>,
}

impl Joint {
    pub(super) fn declare(keep: &mut Keep<'_>, _method: Method, model: &TwoLayer) -> Result<Self> {
        let mut trained = Vec::new();
        for (name, gradient, weight) in [("F", "F.gradient", model.f), ("G", "G.gradient", model.g)] {
            let gradient = keep.declare(gradient, weight.shape(), Initial::Zeros)?;
            trained.push(Trained { name, weight, gradient, plain: false });
        }
        Ok(Joint { trained })
    }

    pub(super) fn record(&self, r: &mut Recorder, model: &TwoLayer, batch: &Batch) -> Result<()> {
        let (of_f, of_g) = (self.trained[0].gradient, self.trained[1].gradient);
        let z = model.hidden(r, model.g, batch.x)?;
        let residual = model.residual(r, z, batch.y)?;
        model.gradient_f_into(r, residual, z, of_f)?;
        model.gradient_g_into(r, residual, batch.x, of_g)
    }

    pub(super) fn evaluated(&self, _r: &mut Recorder, model: &TwoLayer) -> Result<Evaluated> {
        Ok(Evaluated { head: model.f, representation: model.g, offset: None })
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

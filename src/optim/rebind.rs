//! Other gradients and taps for an optimizer that runs.

use super::config::Check;
use super::draft::Draft;
use super::group::Group;
use super::optimizer::Optimizer;
use super::parameter::Parameter;
use super::stack::form_stacks;
use crate::error::{Error, Result};

impl Optimizer {
    /// Reads other gradients and taps from the next step on: double-buffered gradients, or the smaller last batch of an epoch.
    ///
    /// Each of `parameters` has the name and the weight that it was built with, and new places for the rest, of the shapes that
    /// [`build`](super::Builder::build) would take. The number of samples in taps may be another one, and the means over the batch follow it. Layers that share
    /// a stack have to be rebound together, to tensors that follow one another as before. State, cadence and half-done refreshes go on.
    ///
    /// This is no part of a steady state: it records the plan anew, makes all bind groups again and allocates scratch whose shape depends on the number of
    /// samples; pipelines are kept. Two optimizers that alternate would not share their state, so with gradients in two buffers either rebind, or copy
    /// one of them. Steps that are recorded already keep the tensors that they were recorded with.
    ///
    /// ```
    /// use layerwise::optim::{Group, Optimizer, Parameter, Sgd};
    /// use layerwise::{Context, Shape};
    /// let ctx = Context::cpu();
    /// let weight = ctx.zeros(Shape::matrix(1, 2))?;
    /// let gradients = [ctx.upload(Shape::matrix(1, 2), &[1.0, 0.0])?, ctx.upload(Shape::matrix(1, 2), &[0.0, 1.0])?];
    /// let group = Group::new(Sgd { learning_rate: 0.5, ..Sgd::default() }).parameter(Parameter::new("w", &weight, &gradients[0]));
    /// let mut optimizer = Optimizer::builder(&ctx).group(group).build()?;
    /// optimizer.step()?;
    /// optimizer.rebind(&[Parameter::new("w", &weight, &gradients[1])])?;
    /// optimizer.step()?;
    /// assert_eq!(weight.read()?, [-0.5, -0.5]);
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] naming a parameter that is unknown, has another weight, or would leave its stack; those of `build` for gradients and taps that
    /// do not fit. The old tensors stay in force then.
    pub fn rebind(&mut self, parameters: &[Parameter]) -> Result<()> {
        let check = Check("Optimizer");
        let mut sources = self.sources.clone();
        for parameter in parameters {
            let name = &parameter.name;
            let Some(old) = sources.groups.iter_mut().flat_map(|g| &mut g.parameters).find(|p| p.name == *name) else {
                return check.that("rebind", false, format!("no parameter `{name}`"), "names of parameters that it was built with");
            };
            let (a, b) = (&old.weight, &parameter.weight);
            let same = a.shares_buffer(b) && a.offset == b.offset && a.shape() == b.shape();
            check.that(
                "rebind",
                same,
                format!("another weight for `{name}`"),
                "the weight that it was built with: only gradients and taps move",
            )?;
            *old = parameter.clone();
        }
        for (old, new) in self.sources.groups.iter().zip(&sources.groups) {
            new.check()?;
            stays_stacked(old, new)?;
        }
        let mut draft = Draft::new(&sources)?;
        for (group, state) in draft.groups.iter().zip(&self.groups) {
            draft.bindings.bind(group.rates, &state.rates);
            if let (Some((_, loss)), Some((_, old))) = (group.segments.observe, state.segments.observe)
                && let Some(tensor) = self.prepared.tensor(old)
            {
                draft.bindings.bind(loss, tensor);
            }
            let values = group.kept.iter().chain(&group.snapshots);
            for (kept, tensor) in values.zip(state.kept.iter().chain(&state.snapshots)) {
                draft.bindings.bind(kept.value, &tensor.tensor);
            }
        }
        let prepared = self.prepared.again(&draft.plan, &draft.bindings)?;
        let mut alike = prepared.plan().values().len() == self.plan().values().len();
        for (mut group, state) in draft.groups.into_iter().zip(&mut self.groups) {
            group.refreshes.iter_mut().for_each(|r| r.measure(&prepared));
            alike &= group.refreshes.iter().zip(&state.refreshes).all(|(a, b)| a.units == b.units);
            (state.segments, state.refreshes) = (group.segments, group.refreshes);
        }
        if !alike {
            // Taps of another kind: what a half-done refresh has computed is not where it would be looked for.
            self.restart_refresh();
        }
        self.prepared = prepared;
        (self.sources, self.memory) = (sources, draft.memory);
        Ok(())
    }
}

/// Refuses parameters that would form other stacks.
fn stays_stacked(old: &Group, new: &Group) -> Result<()> {
    let staged = |p: &Parameter| p.weight.shares_buffer(&p.gradient);
    let before = form_stacks(&old.parameters, old.needs_taps());
    let after = form_stacks(&new.parameters, new.needs_taps());
    let name = |i: usize| new.parameters[i].name.as_str();
    let torn = before.iter().find(|stack| !after.contains(stack));
    if let Some(stack) = torn {
        let names: Vec<String> = stack.iter().map(|&i| format!("`{}`", name(i))).collect();
        let (allowed, found) = if stack.len() > 1 {
            (
                "the whole stack at once, in tensors that follow one another as its old ones do",
                format!("a part of the stack of {}", names.join(", ")),
            )
        } else {
            (
                "tensors that do not follow those of another parameter",
                format!("tensors of {} that continue another parameter's", names.join(", ")),
            )
        };
        return Err(Error::Config { method: "Optimizer", field: "rebind", found, allowed });
    }
    let moved = old.parameters.iter().zip(&new.parameters).find(|(a, b)| staged(a) != staged(b));
    Check("Optimizer").that(
        "rebind",
        moved.is_none(),
        moved.map_or(String::new(), |(_, p)| format!("a gradient of `{}` that moves into or out of its weight's buffer", p.name)),
        "a gradient in the weight's buffer if it was built so, and in another one if not",
    )
}

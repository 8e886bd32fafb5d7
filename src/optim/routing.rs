//! Which group takes which parameter.

use super::config::Check;
use super::group::Group;
use super::parameter::Parameter;
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// Which parameters of [`Builder::parameters`](super::Builder::parameters) a group takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None but those that it was given by [`Group::parameter`].
    Given,
    /// Those of these names: embeddings and output heads, which by custom go to `AdamW` although they are matrices. Goes before every other rule.
    Named(Vec<String>),
    /// Matrices, and convolution kernels as `out x rest`: both sides of the weight are longer than 1.
    Matrices,
    /// Vectors and scalars: biases, gains.
    Vectors,
    /// Everything that no other group takes by its name.
    All,
}

impl Takes {
    /// Those of these names.
    pub fn named<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Takes {
        Takes::Named(names.into_iter().map(Into::into).collect())
    }

    fn by_name(&self, name: &str) -> bool {
        matches!(self, Takes::Named(names) if names.iter().any(|n| n == name))
    }

    fn by_shape(&self, vector: bool) -> bool {
        match self {
            Takes::Given | Takes::Named(_) => false,
            Takes::Matrices => !vector,
            Takes::Vectors => vector,
            Takes::All => true,
        }
    }
}

impl Parameter {
    /// Weight and gradient of any rank as the matrix that optimizers see: `dims` are the extents of one trial, row-major, and become
    /// `dims[0] x (product of the rest)`, as KellerJordan/Muon and facebookresearch/optimizers flatten convolution kernels `[out, in, height, width]`.
    /// One extent is a vector, none a scalar.
    ///
    /// ```
    /// use layerwise::optim::Parameter;
    /// use layerwise::{Context, Shape};
    /// let ctx = Context::cpu();
    /// let kernel = ctx.zeros(Shape::new(1, 1, 8 * 3 * 5 * 5))?;
    /// let gradient = ctx.zeros(Shape::new(1, 1, 8 * 3 * 5 * 5))?;
    /// let parameter = Parameter::new("conv", &kernel, &gradient).flattened(&[8, 3, 5, 5])?;
    /// assert_eq!(parameter.weight.shape(), Shape::new(1, 8, 75));
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents do not multiply to the elements of a trial.
    pub fn flattened(self, dims: &[usize]) -> Result<Parameter> {
        let found = self.weight.shape();
        let product = dims.iter().try_fold(1usize, |product, &d| product.checked_mul(d));
        if product != Some(found.rows * found.cols) {
            let expected = format!("extents {dims:?} of {} elements a trial", found.rows * found.cols);
            return Err(Error::Shape { op: "optimizer", tensor: format!("{}.weight", self.name), expected, found: found.to_string() });
        }
        let rows = dims.first().copied().unwrap_or(1);
        let shape = Shape::new(found.batch, rows, found.rows * found.cols / rows);
        Ok(Parameter { weight: self.weight.reshape(shape)?, gradient: self.gradient.reshape(shape)?, ..self })
    }

    fn is_vector(&self) -> bool {
        let shape = self.weight.shape();
        shape.rows == 1 || shape.cols == 1
    }
}

/// Gives every parameter of the pool to the one group that takes it.
pub(super) fn route(groups: &[Group], pool: &[Parameter]) -> Result<Vec<Group>> {
    let mut groups = groups.to_vec();
    let check = Check("Optimizer");
    for parameter in pool {
        let matching =
            |rule: &dyn Fn(&Group) -> bool| groups.iter().enumerate().filter(|(_, g)| rule(g)).map(|(i, _)| i).collect::<Vec<_>>();
        let named = matching(&|g| g.takes.by_name(&parameter.name));
        let takers = if named.is_empty() { matching(&|g| g.takes.by_shape(parameter.is_vector())) } else { named };
        let found = |what: String| format!("`{}` {}, taken by {what}", parameter.name, parameter.weight.shape());
        let allowed = "one group for every parameter: see `Group::takes`";
        check.that("parameter", !takers.is_empty(), found("no group".into()), allowed)?;
        check.that("parameter", takers.len() == 1, found(format!("groups {takers:?}")), allowed)?;
        groups[takers[0]].parameters.push(parameter.clone());
    }
    for group in &groups {
        let Takes::Named(names) = &group.takes else { continue };
        let missing = names.iter().find(|name| !pool.iter().any(|p| p.name == **name));
        let found = || format!("`{}`, no parameter of the builder", missing.map_or("", String::as_str));
        check.that("takes", missing.is_none(), found(), "names of parameters given to `Builder::parameters`")?;
    }
    Ok(groups)
}

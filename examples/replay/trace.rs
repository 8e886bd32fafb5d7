//! From a text and a trace to a trajectory.

use std::collections::HashMap;
use std::error::Error;

use half::{bf16, f16};
use layerwise::optim::{Group, Health, Method, Optimizer, Parameter};
use layerwise::{Context, Shape, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a trace may hold.
const NAMES: [&str; 6] = ["param0", "grads", "inputs", "output_gradients", "basis_left", "basis_right"];

/// The method that a JSON text describes, every field within its range.
pub(crate) fn parse(text: &str) -> Result<Method> {
    let method: Method = serde_json::from_str(text).map_err(|error| culprit(text).unwrap_or_else(|| error.to_string()))?;
    method.validate()?;
    Ok(method)
}

/// The first field that fails alone, with what is wrong about it: of a value of the wrong kind serde does not say where it is.
fn culprit(text: &str) -> Option<String> {
    let Value::Object(fields) = serde_json::from_str(text).ok()? else { return None };
    let name = fields.get("optimizer")?.clone();
    let alone = |field: &str, value: &Value| {
        let pair = [("optimizer".to_owned(), name.clone()), (field.to_owned(), value.clone())];
        serde_json::from_value::<Method>(Value::Object(pair.into_iter().collect()))
    };
    alone("optimizer", &name).ok()?;
    fields.iter().find_map(|(field, value)| alone(field, value).err().map(|error| format!("`{field}`: {error}")))
}

/// A tensor of the trace, as f32.
struct Recorded {
    name: &'static str,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Recorded {
    fn new(name: &'static str, view: &TensorView<'_>) -> Result<Recorded> {
        let bytes = view.data();
        #[allow(clippy::cast_possible_truncation, reason = "the arithmetic is f32")]
        let values = match view.dtype() {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F64 => {
                bytes.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32).collect()
            }
            Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => return Err(format!("`{name}` is {other:?}, allowed are F32, F64, F16 and BF16").into()),
        };
        Ok(Recorded { name, shape: view.shape().to_vec(), values })
    }

    fn expect(&self, wanted: &str, good: bool) -> Result<()> {
        if good { Ok(()) } else { Err(format!("`{}` has shape {:?}, expected {wanted}", self.name, self.shape).into()) }
    }

    /// Matrix `step` of `[T, rows, cols]`.
    fn at(&self, step: usize) -> &[f32] {
        let words = self.shape[1] * self.shape[2];
        &self.values[step * words..(step + 1) * words]
    }

    /// A zeroed tensor for one of its matrices.
    fn slot(&self, context: &Context) -> layerwise::Result<Tensor> {
        context.zeros(Shape::matrix(self.shape[1], self.shape[2]))
    }
}

/// The trace, its shapes checked.
struct Trace {
    start: Recorded,
    gradients: Recorded,
    /// None, inputs, or inputs and output gradients.
    taps: Vec<Recorded>,
    bases: Vec<Recorded>,
}

impl Trace {
    fn read(bytes: &[u8]) -> Result<Trace> {
        let file = SafeTensors::deserialize(bytes)?;
        if let Some(unknown) = file.names().into_iter().find(|name| !NAMES.contains(name)) {
            return Err(format!("unknown tensor `{unknown}`, known are {}", NAMES.map(|name| format!("`{name}`")).join(", ")).into());
        }
        let get = |name: &'static str| file.tensor(name).ok().map(|view| Recorded::new(name, &view)).transpose();
        let need = |name: &'static str| get(name)?.ok_or_else(|| Box::<dyn Error>::from(format!("no tensor `{name}`")));
        let (start, gradients) = (need("param0")?, need("grads")?);
        start.expect("[m, n], both at least 1", start.shape.len() == 2 && !start.values.is_empty())?;
        let (m, n) = (start.shape[0], start.shape[1]);
        let fits = matches!(gradients.shape[..], [steps, rows, cols] if steps > 0 && (rows, cols) == (m, n));
        gradients.expect(&format!("[T, {m}, {n}], T at least 1"), fits)?;
        let steps = gradients.shape[0];
        let taps = match (get("inputs")?, get("output_gradients")?) {
            (None, Some(_)) => return Err("`output_gradients` without `inputs`".into()),
            (inputs, outputs) => inputs.into_iter().chain(outputs).collect::<Vec<_>>(),
        };
        for tap in &taps {
            let good = tap.shape.len() == 3 && tap.shape[0] == steps && !tap.values.is_empty();
            tap.expect(&format!("[{steps}, N, ..], N samples at each step"), good)?;
        }
        let bases = [get("basis_left")?, get("basis_right")?].into_iter().flatten().collect();
        Ok(Trace { start, gradients, taps, bases })
    }
}

/// What became of the weight.
pub(crate) struct Replayed {
    method: Method,
    /// `[T, m, n]`.
    pub(crate) shape: [usize; 3],
    /// After each step.
    pub(crate) params: Vec<f32>,
    /// Norm of the last weight less the first.
    change: f64,
    health: Health,
}

/// Steps the method through all gradients of a trace.
pub(crate) fn replay(context: &Context, method: Method, bytes: &[u8]) -> Result<Replayed> {
    let trace = Trace::read(bytes)?;
    let (m, n) = (trace.start.shape[0], trace.start.shape[1]);
    let weight = context.upload(Shape::matrix(m, n), &trace.start.values)?;
    let mut feeds = vec![(&trace.gradients, trace.gradients.slot(context)?)];
    let mut parameter = Parameter::new("param", &weight, &feeds[0].1);
    for tap in &trace.taps {
        feeds.push((tap, tap.slot(context)?));
    }
    parameter = match &feeds[1..] {
        [(_, inputs), (_, outputs)] => parameter.samples(inputs, outputs),
        [(_, inputs)] => parameter.inputs(inputs),
        _ => parameter,
    };
    let mut optimizer = Optimizer::builder(context).group(Group::new(method).parameter(parameter)).build().map_err(|error| {
        let text = error.to_string();
        let hint = match method {
            _ if trace.taps.len() == 2 || !text.contains("taps") => "",
            Method::Foof(_) => ": this optimizer needs `inputs`",
            _ => ": this optimizer needs `inputs` and `output_gradients`",
        };
        text + hint
    })?;
    let seeds = trace.bases.iter().map(|basis| seed(&optimizer, basis)).collect::<Result<Vec<Tensor>>>()?;

    let mut params = Vec::with_capacity(trace.gradients.values.len());
    for step in 0..trace.gradients.shape[0] {
        for (recorded, tensor) in &feeds {
            tensor.write(recorded.at(step))?;
        }
        optimizer.step()?;
        if step == 0 {
            trace.bases.iter().zip(&seeds).try_for_each(|(basis, tensor)| tensor.write(&basis.values))?;
        }
        params.extend(weight.read()?);
    }
    let last = &params[params.len() - m * n..];
    let change = last.iter().zip(&trace.start.values).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
    Ok(Replayed { method, shape: [trace.gradients.shape[0], m, n], params, change, health: optimizer.health_blocking()? })
}

/// The state tensor that a basis replaces.
fn seed(optimizer: &Optimizer, basis: &Recorded) -> Result<Tensor> {
    let role = if basis.name == "basis_left" { "left_basis" } else { "right_basis" };
    let state = optimizer.state().find(|(name, _)| *name == format!("param.{role}"));
    let Some((_, tensor)) = state else {
        return Err(format!("`{}`: this optimizer keeps no `{role}` for this weight", basis.name).into());
    };
    let n = tensor.shape().rows;
    basis.expect(&format!("[{n}, {n}]"), basis.shape == [n, n])?;
    Ok(tensor.clone())
}

impl Replayed {
    /// The output file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let bytes: Vec<u8> = self.params.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, self.shape.to_vec(), &bytes)?;
        let settings = HashMap::from([("optimizer".to_owned(), serde_json::to_string(&self.method)?)]);
        Ok(safetensors::serialize([("params", view)], Some(settings))?)
    }

    /// One line.
    pub(crate) fn summary(&self) -> Result<String> {
        let settings = serde_json::to_value(self.method)?;
        let [steps, m, n] = self.shape;
        let name = settings["optimizer"].as_str().unwrap_or_default();
        let mut line = format!("{steps} steps of {name} on [{m}, {n}], the weight changed by {:.6e}", self.change);
        if !self.health.is_good() {
            for trial in self.health.parameters.iter().flat_map(|p| &p.trials) {
                line += &format!("; {} gradients refused, {} failed roots, ridge times {}", trial.skipped, trial.failed_roots, trial.ridge);
            }
        }
        Ok(line)
    }
}

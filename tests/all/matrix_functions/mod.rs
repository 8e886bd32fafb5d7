//! Matrix functions against f64 references: the accuracy contract.

mod large;
mod polar;
mod roots;
mod spectra;

use layerwise::{Bindings, Context, Recorder, Shape, Value};
use libtest_mimic::Failed;
use safetensors::{Dtype, SafeTensors};

use crate::case::Case;
use crate::oracle::Mat;

pub(crate) fn cases() -> Vec<Case> {
    [roots::cases(), large::cases(), polar::cases(), spectra::cases()].into_iter().flatten().collect()
}

const ROOT: &str = "tests/golden/matrix_functions/";

/// Names of the files that start so, sorted.
fn files(prefix: &str) -> Result<Vec<String>, Failed> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(ROOT)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) && name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    names.sort();
    if names.is_empty() { Err(format!("no file {prefix}*").into()) } else { Ok(names) }
}

/// Every tensor of a file, vectors as rows.
fn tensors(name: &str) -> Result<Vec<(String, Mat)>, Failed> {
    let bytes = std::fs::read(format!("{ROOT}{name}")).map_err(|error| format!("{name}: {error}"))?;
    let mut list = Vec::new();
    for (key, tensor) in SafeTensors::deserialize(&bytes)?.tensors() {
        let data: Vec<f64> = match tensor.dtype() {
            Dtype::F32 => tensor.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
            Dtype::F64 => tensor.data().chunks_exact(8).filter_map(|b| b.try_into().ok().map(f64::from_le_bytes)).collect(),
            other => return Err(format!("{name}: {key} is {other:?}").into()),
        };
        let (rows, cols) = match tensor.shape() {
            [n] => (1, *n),
            [m, n] => (*m, *n),
            other => return Err(format!("{name}: {key} has shape {other:?}").into()),
        };
        list.push((key, Mat { rows, cols, data }));
    }
    Ok(list)
}

fn named<'a>(list: &'a [(String, Mat)], name: &str) -> Result<&'a Mat, Failed> {
    list.iter().find(|t| t.0 == name).map(|t| &t.1).ok_or_else(|| format!("no tensor {name}").into())
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// The matrix as a device sees it.
fn seen(m: &Mat) -> Mat {
    m.map(|x| f64::from(narrow(x)))
}

/// Runs a composite on a batch and returns the items of each of its results.
fn run(
    ctx: &Context,
    items: &[Mat],
    record: impl FnOnce(&mut Recorder, Value) -> layerwise::Result<Vec<Value>>,
) -> Result<Vec<Vec<Mat>>, Failed> {
    let mut r = Recorder::new();
    let shape = Shape::new(items.len(), items[0].rows, items[0].cols);
    let x = r.external("x", shape)?;
    let results = record(&mut r, x)?;
    // Views are made dense, to be read.
    let dense = results
        .into_iter()
        .map(|v| {
            let out = r.scratch("result", v.shape())?;
            r.copy(v, out)?;
            Ok(out)
        })
        .collect::<layerwise::Result<Vec<_>>>()?;
    let mut bindings = Bindings::new();
    let words: Vec<f32> = items.iter().flat_map(|m| m.data.iter().map(|&x| narrow(x))).collect();
    bindings.bind(x, &ctx.upload(shape, &words)?);
    let mut prepared = ctx.prepare(&r.finish(), &bindings)?;
    prepared.run(&[0])?;
    let read = |v: &Value| -> Result<Vec<Mat>, Failed> {
        let (rows, cols) = (v.rows(), v.cols());
        let data = prepared.tensor(*v).ok_or("no tensor")?.read()?;
        Ok(data.chunks(rows * cols).map(|d| Mat { rows, cols, data: d.iter().map(|&x| f64::from(x)).collect() }).collect())
    };
    dense.iter().map(read).collect()
}

/// Relative error in the Frobenius norm; infinite where it is not a number.
fn error(got: &Mat, want: &Mat) -> f64 {
    let e = got.plus(-1.0, want).norm() / want.norm();
    if e.is_nan() { f64::INFINITY } else { e }
}

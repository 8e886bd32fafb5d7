//! `examples/replay`: stored trajectories from files alone, and what it refuses.

#[path = "../../examples/replay/trace.rs"]
mod trace;

use half::{bf16, f16};
use layerwise::optim::{Group, Kfac, Optimizer, Parameter};
use layerwise::{Context, Shape};
use libtest_mimic::Failed;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use crate::case::{Case, Outcome, case, case_cpu, case_host};
use crate::compare::close;
use crate::golden::{File, ROOT, seeded_tolerance, tolerance};
use crate::oracle::data;

fn golden(ctx: &Context, name: &str, shapes: &[&str], config: &Value) -> Outcome {
    for shape in shapes {
        let input = std::fs::read(format!("{ROOT}inputs/{shape}.safetensors"))?;
        let output = trace::replay(ctx, trace::parse(&config.to_string())?, &input)?.encode()?;
        let written = SafeTensors::deserialize(&output)?;
        let params = written.tensor("params")?;
        if params.dtype() != Dtype::F32 {
            return Err(format!("{shape}: {:?}", params.dtype()).into());
        }
        let got: Vec<f32> = params.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let file = File::open(&format!("{name}/{shape}.safetensors"))?;
        close(&got, &file.get("params")?, tolerance(name, Some(shape))?).map_err(|e| format!("{shape}: {e}"))?;
    }
    Ok(())
}

/// SOAP from the reference's first bases, those of the sides that have one.
fn seeded(ctx: &Context, name: &str, (shape, m, n): (&str, usize, usize), sides: &[&str], config: &Value) -> Outcome {
    let (inputs, wanted) = (File::open(&format!("inputs/{shape}.safetensors"))?, File::open(&format!("{name}/{shape}.safetensors"))?);
    let numbers = |file: &File, name: &str| -> Result<Vec<f32>, Failed> {
        #[allow(clippy::cast_possible_truncation, reason = "they are f32 in the file")]
        Ok(file.get(name)?.into_iter().map(|x| x as f32).collect())
    };
    let (start, grads) = (numbers(&inputs, "param0")?, numbers(&inputs, "grads")?);
    let mut bases = Vec::new();
    for &side in sides {
        let (stored, k) = if side == "basis_left" { ("state.Q_init_left", m) } else { ("state.Q_init_right", n) };
        bases.push((side, [k, k], numbers(&wanted, stored)?));
    }
    let steps = [grads.len() / (m * n), m, n];
    let mut tensors: Vec<(&str, &[usize], &[f32])> = vec![("param0", &steps[1..], &start), ("grads", &steps, &grads)];
    tensors.extend(bases.iter().map(|(side, shape, values)| (*side, &shape[..], values.as_slice())));
    let replayed = trace::replay(ctx, trace::parse(&config.to_string())?, &file(&tensors)?)?;
    close(&replayed.params, &wanted.get("params")?, seeded_tolerance(name, shape)?).map_err(|e| format!("{shape}: {e}"))?;
    Ok(())
}

/// FOOF takes inputs alone, or KFAC's taps, whose other half it does not read.
fn inputs_alone(ctx: &Context) -> Outcome {
    let (start, grads, inputs, outputs) = (data(1, 6), data(2, 24), data(3, 60), data(4, 40));
    let all: [(&str, &[usize], &[f32]); 4] = [
        ("param0", &[2, 3], &start),
        ("grads", &[4, 2, 3], &grads),
        ("inputs", &[4, 5, 3], &inputs),
        ("output_gradients", &[4, 5, 2], &outputs),
    ];
    let replayed = |part: &[_]| Ok::<_, Failed>(trace::replay(ctx, trace::parse(r#"{"optimizer": "foof"}"#)?, &file(part)?)?.params);
    let (alone, both) = (replayed(&all[..3])?, replayed(&all)?);
    if alone == both && alone.iter().all(|x| x.is_finite()) && alone[..6] != start[..] { Ok(()) } else { Err("they differ".into()) }
}

/// Tensors by name, as the bytes of a file.
fn file(tensors: &[(&str, &[usize], &[f32])]) -> Result<Vec<u8>, Failed> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.2.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    typed(tensors.iter().zip(&bytes).map(|(t, b)| (t.0, Dtype::F32, t.1, b.as_slice())))
}

fn typed<'a>(tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>) -> Result<Vec<u8>, Failed> {
    let views = tensors.map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(dtype, shape.to_vec(), bytes)?)));
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>, Failed>>()?, None)?)
}

/// Taps reach KFAC: bit for bit what the library does with them.
fn taps(ctx: &Context) -> Outcome {
    let (steps, m, n, samples) = (4, 3, 6, 10);
    let (start, grads) = (data(1, m * n), data(2, steps * m * n));
    let (inputs, outputs) = (data(3, steps * samples * (n - 1)), data(4, steps * samples * m));
    let trace = file(&[
        ("param0", &[m, n], &start),
        ("grads", &[steps, m, n], &grads),
        ("inputs", &[steps, samples, n - 1], &inputs),
        ("output_gradients", &[steps, samples, m], &outputs),
    ])?;
    let replayed = trace::replay(ctx, trace::parse(r#"{"optimizer": "kfac", "damping": 0.1}"#)?, &trace)?;

    let weight = ctx.upload(Shape::matrix(m, n), &start)?;
    let gradient = ctx.zeros(Shape::matrix(m, n))?;
    let (x, g) = (ctx.zeros(Shape::matrix(samples, n - 1))?, ctx.zeros(Shape::matrix(samples, m))?);
    let group = Group::new(Kfac { damping: 0.1, ..Kfac::default() }).parameter(Parameter::new("w", &weight, &gradient).samples(&x, &g));
    let mut optimizer = Optimizer::builder(ctx).group(group).build()?;
    let mut want = Vec::new();
    for t in 0..steps {
        for (tensor, all) in [(&gradient, &grads), (&x, &inputs), (&g, &outputs)] {
            tensor.write(&all[t * tensor.shape().elements()..][..tensor.shape().elements()])?;
        }
        optimizer.step()?;
        want.extend(weight.read()?);
    }
    if replayed.params == want && replayed.shape == [steps, m, n] { Ok(()) } else { Err("not what the library does".into()) }
}

/// Half precision and f64 are read as the numbers that they are.
fn element_types(ctx: &Context) -> Outcome {
    let numbers = [1.5f32, -0.25, 3.0, 0.0078125, -6.0, 0.5];
    let config = r#"{"optimizer": "sgd", "learning_rate": 0.5}"#;
    let (start, shape): ([u8; 24], &[usize]) = ([0; 24], &[2, 3]);
    let mut seen = Vec::new();
    let encodings: [(Dtype, Vec<u8>); 4] = [
        (Dtype::F32, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
        (Dtype::F64, numbers.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect()),
        (Dtype::F16, numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()),
        (Dtype::BF16, numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()),
    ];
    for (dtype, bytes) in &encodings {
        let tensors = [("param0", Dtype::F32, shape, &start[..]), ("grads", *dtype, &[1, 2, 3][..], bytes.as_slice())];
        seen.push(trace::replay(ctx, trace::parse(config)?, &typed(tensors.into_iter())?)?.params);
    }
    let want = numbers.map(|x| -0.5 * x);
    if seen.iter().all(|params| *params == want) { Ok(()) } else { Err(format!("{seen:?}, expected {want:?}").into()) }
}

/// Every error names its field.
fn refused_settings() -> Outcome {
    let cases = [
        (r#"{"optimizer": "shampoo", "bloc_size": 3}"#, "`bloc_size`"),
        (r#"{"optimizer": "shampoo", "block_size": 0}"#, "`block_size`"),
        (r#"{"optimizer": "shampoo", "block_size": -1}"#, "`block_size`"),
        (r#"{"optimizer": "shampoo", "block_size": 2.5}"#, "`block_size`"),
        (r#"{"optimizer": "shampoo", "beta1": 0.8, "beta2": "0.9"}"#, "`beta2`"),
        (r#"{"optimizer": "shampoo", "beta1": null}"#, "`beta1`"),
        (r#"{"optimizer": "shampoo", "graft": {"adam": {"beta2": "x", "epsilon": 1}}}"#, "`graft`"),
        (r#"{"optimizer": "shampoo", "graft": {"adam": {"beta2": 2, "epsilon": 1}}}"#, "`graft.beta2`"),
        (r#"{"optimizer": "sgd", "nesterov": 1}"#, "`nesterov`"),
        (r#"{"optimizer": "kfac", "statistics_every": 18446744073709551616}"#, "`statistics_every`"),
        (r#"{"optimizer": "adagrad"}"#, "`adagrad`"),
        (r#"{"lr": 1}"#, "`optimizer`"),
        ("[]", "`optimizer`"),
        (r#"{"optimizer": "sgd""#, "EOF"),
    ];
    for (text, says) in cases {
        match trace::parse(text) {
            Err(error) if error.to_string().contains(says) => {}
            Err(error) => return Err(format!("{text}: {error}").into()),
            Ok(method) => return Err(format!("took {text}: {method:?}").into()),
        }
    }
    Ok(())
}

/// And every error names its tensor.
fn refused_traces(ctx: &Context) -> Outcome {
    let zeros = [0.0f32; 120];
    type Entry<'a> = (&'a str, &'a [usize]);
    let refused = |config: &str, entries: &[Entry<'_>], says: &str| -> Outcome {
        let tensors: Vec<_> = entries.iter().map(|(name, shape)| (*name, *shape, &zeros[..shape.iter().product()])).collect();
        match trace::replay(ctx, trace::parse(config)?, &file(&tensors)?) {
            Err(error) if error.to_string().contains(says) => Ok(()),
            Err(error) => Err(format!("{entries:?}: {error}").into()),
            Ok(_) => Err(format!("took {entries:?}").into()),
        }
    };
    let (sgd, kfac) = (r#"{"optimizer": "sgd"}"#, r#"{"optimizer": "kfac"}"#);
    let (start, grads): (Entry<'_>, Entry<'_>) = (("param0", &[2, 3]), ("grads", &[4, 2, 3]));
    refused(sgd, &[grads], "`param0`")?;
    refused(sgd, &[start], "`grads`")?;
    refused(sgd, &[("param0", &[6]), grads], "`param0` has shape [6], expected [m, n]")?;
    refused(sgd, &[("param0", &[0, 3]), grads], "`param0`")?;
    refused(sgd, &[start, ("grads", &[4, 3, 2])], "`grads` has shape [4, 3, 2], expected [T, 2, 3]")?;
    refused(sgd, &[start, ("grads", &[2, 3])], "`grads`")?;
    refused(sgd, &[start, ("grads", &[])], "`grads`")?;
    refused(sgd, &[start, ("grads", &[0, 2, 3])], "`grads`")?;
    refused(sgd, &[start, grads, ("gradients", &[1])], "unknown tensor `gradients`")?;
    refused(sgd, &[start, grads, ("basis_left", &[2, 2])], "`basis_left`: this optimizer keeps no `left_basis`")?;
    refused(kfac, &[start, grads], "needs `inputs` and `output_gradients`")?;
    let (inputs, outputs): (Entry<'_>, Entry<'_>) = (("inputs", &[4, 5, 3]), ("output_gradients", &[4, 5, 2]));
    refused(kfac, &[start, grads, inputs], "needs `inputs` and `output_gradients`")?;
    refused(r#"{"optimizer": "foof"}"#, &[start, grads], "needs `inputs`")?;
    refused(r#"{"optimizer": "natural_gradient"}"#, &[start, grads], "needs `inputs` and `output_gradients`")?;
    let soap = r#"{"optimizer": "soap"}"#;
    refused(soap, &[start, grads, ("basis_left", &[3, 3])], "`basis_left` has shape [3, 3], expected [2, 2]")?;
    refused(r#"{"optimizer": "soap", "max_precondition_dim": 2}"#, &[start, grads, ("basis_right", &[3, 3])], "`basis_right`")?;
    refused(kfac, &[start, grads, outputs], "without `inputs`")?;
    refused(kfac, &[start, grads, ("inputs", &[3, 5, 3]), outputs], "`inputs` has shape [3, 5, 3], expected [4, N, ..]")?;
    refused(kfac, &[start, grads, ("inputs", &[4, 5, 4]), outputs], "`param.inputs`")?;
    refused(kfac, &[start, grads, inputs, ("output_gradients", &[4, 6, 2])], "`param.output_gradients`")?;
    let whole = typed([("param0", Dtype::I32, &[1, 1][..], &[0u8; 4][..])].into_iter())?;
    for (bytes, says) in [(whole, "`param0` is I32"), (b"not a trace".to_vec(), "header")] {
        match trace::replay(ctx, trace::parse(sgd)?, &bytes) {
            Err(error) if error.to_string().to_lowercase().contains(&says.to_lowercase()) => {}
            Err(error) => return Err(format!("{says}: {error}").into()),
            Ok(_) => return Err(format!("took it: {says}").into()),
        }
    }
    Ok(())
}

/// One line: steps, method, shape, change; trouble where there is some.
fn summary() -> Outcome {
    let ctx = Context::cpu();
    let line = |gradients: &[f32]| -> Result<String, Failed> {
        let trace = file(&[("param0", &[1, 2], &[1.0, 2.0]), ("grads", &[2, 1, 2], gradients)])?;
        Ok(trace::replay(&ctx, trace::parse(r#"{"optimizer": "sgd", "learning_rate": 1}"#)?, &trace)?.summary()?)
    };
    let good = line(&[3.0, 0.0, 0.0, 4.0])?;
    let bad = line(&[3.0, 4.0, f32::NAN, 4.0])?;
    let head = "2 steps of sgd on [1, 2], the weight changed by 5.000000e0";
    if good == head && bad.starts_with(head) && bad.contains("1 gradients refused") { Ok(()) } else { Err(format!("{good}\n{bad}").into()) }
}

const BOTH: [&str; 2] = ["basis_left", "basis_right"];

pub(crate) fn cases() -> Vec<Case> {
    let golden = |name: &'static str, shapes: &'static [&str], config: Value| {
        case(format!("replay::{name}"), move |ctx| golden(ctx, name, shapes, &config))
    };
    let shampoo = |fields: Value| {
        let mut config = json!({
            "optimizer": "shampoo", "learning_rate": 0.05, "accumulation": "ema", "beta2": 0.99, "epsilon": 1e-4,
            "epsilon_scale": "absolute", "weight_decay": { "decoupled": 0.01 },
        });
        for (field, value) in fields.as_object().into_iter().flatten() {
            config[field] = value.clone();
        }
        config
    };
    let torch: &[_] = &["7x5", "64x32", "1x17"];
    let soap = |name: &'static str, shape, sides: &'static [_], config: Value| {
        case(format!("replay::{name}"), move |ctx| seeded(ctx, name, shape, sides, &config))
    };
    vec![
        golden("torch_sgd_plain", torch, json!({ "optimizer": "sgd", "learning_rate": 0.1 })),
        golden(
            "torch_sgd_nesterov",
            torch,
            json!({ "optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": true }),
        ),
        golden("torch_adam", torch, json!({ "optimizer": "adam", "learning_rate": 0.01 })),
        golden("torch_adamw", torch, json!({ "optimizer": "adamw", "learning_rate": 0.01, "beta2": 0.95, "weight_decay": 0.1 })),
        golden("dshampoo_nograft", &["7x5", "16x16", "64x32", "1x17"], shampoo(json!({}))),
        golden(
            "dshampoo_adamgraft",
            &["7x5", "16x16", "64x32", "1x17"],
            shampoo(json!({ "graft": { "adam": { "beta2": 0.99, "epsilon": 1e-8 } } })),
        ),
        golden(
            "dshampoo_adagrad_sgdgraft_momentum",
            &["7x5", "16x16", "64x32"],
            shampoo(json!({
                "accumulation": "sum", "beta1": 0, "graft": "sgd", "momentum": 0.9, "nesterov": true, "weight_decay": { "l2": 0.01 },
            })),
        ),
        golden("dshampoo_coupled_newton", &["7x5", "16x16"], shampoo(json!({ "root_method": "newton" }))),
        golden("dshampoo_exponent_override_half", &["7x5", "16x16"], shampoo(json!({ "matrix_root": 2 }))),
        golden("numpy_f64_muon_ns5_keller", torch, json!({ "optimizer": "muon", "weight_decay": 0.1 })),
        golden(
            "numpy_f64_muon_polar_express5",
            torch,
            json!({ "optimizer": "muon", "weight_decay": 0.1, "newton_schulz": "polar_express5", "epsilon": 1e-6 / 1.02 }),
        ),
        golden("keller_muon_default", torch, json!({ "optimizer": "muon" })),
        soap("soap_default_f10", ("16x16", 16, 16), &BOTH, json!({ "optimizer": "soap", "precondition_1d": true })),
        soap(
            "soap_f1",
            ("12x12w", 12, 12),
            &BOTH,
            json!({ "optimizer": "soap", "learning_rate": 0.01, "beta1": 0.9, "statistics_decay": 0.9, "precondition_every": 1 }),
        ),
        soap(
            "soap_one_sided",
            ("7x5", 7, 5),
            &BOTH[1..],
            json!({ "optimizer": "soap", "learning_rate": 0.01, "max_precondition_dim": 6, "precondition_every": 3 }),
        ),
        soap("soap_f10_25steps", ("20x20w_25", 20, 20), &BOTH, json!({ "optimizer": "soap", "learning_rate": 0.005 })),
        case("replay::taps", taps),
        case("replay::inputs_alone", inputs_alone),
        case_cpu("replay::element_types", element_types),
        case_host("replay::refused_settings", refused_settings),
        case_cpu("replay::refused_traces", refused_traces),
        case_host("replay::summary", summary),
    ]
}

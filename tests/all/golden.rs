//! Whole trajectories against the reference implementations' (PyTorch, kfac-pytorch, KellerJordan/Muon) and against float64 ones.
//!
//! `tests/golden/` holds what they computed, and in its manifest how far an independent f32 implementation may be from it (`suggested_atol`).

use layerwise::linalg::{self, NewtonSchulz};
use layerwise::optim::{
    Accumulation, Adam, AdamW, DampingSplit, EigenvalueCorrectedShampoo, EpsilonScale, Graft, Group, Kfac, KfacForm, Method, Muon,
    Optimizer, OutputGradients, Parameter, Sgd, Shampoo, Soap, StatisticsStart, WeightDecay,
};
use layerwise::{Context, Shape, Tensor};
use libtest_mimic::Failed;
use safetensors::{Dtype, SafeTensors};

use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close};
use crate::oracle::{Mat, matmul};

pub(crate) const ROOT: &str = "tests/golden/";

/// The tensors of one file.
pub(crate) struct File(Vec<u8>);

impl File {
    pub(crate) fn open(path: &str) -> Result<File, Failed> {
        Ok(File(std::fs::read(format!("{ROOT}{path}")).map_err(|error| format!("{path}: {error}"))?))
    }

    pub(crate) fn get(&self, name: &str) -> Result<Vec<f64>, Failed> {
        let tensors = SafeTensors::deserialize(&self.0)?;
        let tensor = tensors.tensor(name)?;
        let bytes = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => Ok(bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()),
            Dtype::F64 => Ok(bytes.chunks_exact(8).filter_map(|b| b.try_into().ok().map(f64::from_le_bytes)).collect()),
            other => Err(format!("{name} is {other:?}").into()),
        }
    }

    /// Matrix `step` of `[steps, rows, cols]`.
    fn at(&self, name: &str, step: usize, rows: usize, cols: usize) -> Result<Mat, Failed> {
        let all = self.get(name)?;
        let data = all.get(step * rows * cols..(step + 1) * rows * cols).ok_or_else(|| format!("{name} is too short"))?;
        Ok(Mat { rows, cols, data: data.to_vec() })
    }

    /// `[W | b]` of step `step`.
    fn with_bias(&self, weight: &str, bias: &str, step: usize, rows: usize, cols: usize) -> Result<Mat, Failed> {
        let (w, b) = (self.at(weight, step, rows, cols)?, self.at(bias, step, rows, 1)?);
        Ok(Mat::from_fn(rows, cols + 1, |r, c| if c < cols { w[(r, c)] } else { b[(r, 0)] }))
    }
}

pub(crate) fn tolerance(case: &str, shape: Option<&str>) -> Result<Tol, Failed> {
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{ROOT}manifest.json"))?)?;
    let entry = &manifest["cases"][case];
    let entry = shape.map_or(entry, |shape| &entry["shapes"][shape]);
    entry["suggested_atol"].as_f64().map(Tol::absolute).ok_or_else(|| format!("no suggested_atol for {case}").into())
}

fn narrow(values: &Mat) -> Vec<f32> {
    values.data.iter().map(|&x| rounded(x)).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn rounded(x: f64) -> f32 {
    x as f32
}

fn upload(ctx: &Context, m: &Mat) -> Result<Tensor, Failed> {
    Ok(ctx.upload(Shape::matrix(m.rows, m.cols), &narrow(m))?)
}

const TORCH: &[(&str, usize, usize)] = &[("7x5", 7, 5), ("64x32", 64, 32), ("1x17", 1, 17)];

/// One of PyTorch's optimizers, or another that it runs, on stored gradients: every stored step.
fn torch(ctx: &Context, name: &str, shapes: &[(&str, usize, usize)], method: Method) -> Outcome {
    for &(shape, rows, cols) in shapes {
        let inputs = File::open(&format!("inputs/{shape}.safetensors"))?;
        let wanted = File::open(&format!("{name}/{shape}.safetensors"))?;
        let weight = upload(ctx, &inputs.at("param0", 0, rows, cols)?)?;
        let gradient = ctx.zeros(Shape::matrix(rows, cols))?;
        let group = Group::new(method).parameter(Parameter::new("w", &weight, &gradient));
        let mut optimizer = Optimizer::builder(ctx).group(group).build()?;
        for step in 0..10 {
            gradient.write(&narrow(&inputs.at("grads", step, rows, cols)?))?;
            optimizer.step()?;
            let want = wanted.at("params", step, rows, cols)?;
            close(&weight.read()?, &want.data, tolerance(name, Some(shape))?).map_err(|e| format!("{shape}, step {}: {e}", step + 1))?;
        }
    }
    Ok(())
}

/// SOAP with the reference's eigenvectors of the first statistics: those of a null space are anyone's choice.
fn soap(ctx: &Context, name: &str, shapes: &[(&str, usize, usize)], steps: usize, method: Soap) -> Outcome {
    for &(shape, rows, cols) in shapes {
        let inputs = File::open(&format!("inputs/{shape}.safetensors"))?;
        let wanted = File::open(&format!("{name}/{shape}.safetensors"))?;
        let weight = upload(ctx, &inputs.at("param0", 0, rows, cols)?)?;
        let gradient = ctx.zeros(Shape::matrix(rows, cols))?;
        let group = Group::new(method).parameter(Parameter::new("w", &weight, &gradient));
        let mut optimizer = Optimizer::builder(ctx).group(group).build()?;
        for step in 0..steps {
            gradient.write(&narrow(&inputs.at("grads", step, rows, cols)?))?;
            optimizer.step()?;
            let want = wanted.at("params", step, rows, cols)?;
            let tol = seeded_tolerance(name, shape)?;
            close(&weight.read()?, &want.data, tol).map_err(|e| format!("{shape}, step {}: {e}", step + 1))?;
            for (ours, theirs, n) in [("w.left_basis", "state.Q_init_left", rows), ("w.right_basis", "state.Q_init_right", cols)] {
                if let Some((_, tensor)) = optimizer.state().find(|(name, _)| step == 0 && *name == ours) {
                    tensor.write(&narrow(&wanted.at(theirs, 0, n, n)?))?;
                }
            }
        }
    }
    Ok(())
}

/// The smaller of what the manifest allows a portable case, and any case that starts from given bases.
pub(crate) fn seeded_tolerance(case: &str, shape: &str) -> Result<Tol, Failed> {
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{ROOT}manifest.json"))?)?;
    let entry = &manifest["cases"][case]["shapes"][shape];
    let bounds = [&entry["suggested_atol"], &entry["seeded_atol"]].into_iter().filter_map(serde_json::Value::as_f64);
    bounds.reduce(f64::min).map(Tol::absolute).ok_or_else(|| format!("no tolerance for {case}, {shape}").into())
}

const N: usize = 32;

/// The two-layer network of the KFAC cases, with everything that KFAC needs on the device.
struct Mlp {
    weights: [Tensor; 2],
    gradients: [Tensor; 2],
    inputs: [Tensor; 2],
    output_gradients: [Tensor; 2],
    optimizer: Optimizer,
}

impl Mlp {
    fn new(ctx: &Context, start: [&Mat; 2], kfac: Kfac) -> Result<Mlp, Failed> {
        let weights = [upload(ctx, start[0])?, upload(ctx, start[1])?];
        let zeros = |rows, cols| ctx.zeros(Shape::matrix(rows, cols));
        let gradients = [zeros(8, 7)?, zeros(3, 9)?];
        let inputs = [zeros(N, 6)?, zeros(N, 8)?];
        let output_gradients = [zeros(N, 8)?, zeros(N, 3)?];
        let layer =
            |i: usize| Parameter::new(format!("layer{}", i + 1), &weights[i], &gradients[i]).samples(&inputs[i], &output_gradients[i]);
        let group = Group::new(kfac).parameter(layer(0)).parameter(layer(1));
        let optimizer = Optimizer::builder(ctx).group(group).build()?;
        Ok(Mlp { weights, gradients, inputs, output_gradients, optimizer })
    }

    fn step(&mut self, gradients: [&Mat; 2], inputs: [&Mat; 2], output_gradients: [&Mat; 2]) -> Outcome {
        for i in 0..2 {
            self.gradients[i].write(&narrow(gradients[i]))?;
            self.inputs[i].write(&narrow(inputs[i]))?;
            self.output_gradients[i].write(&narrow(output_gradients[i]))?;
        }
        Ok(self.optimizer.step()?)
    }

    fn check(&self, step: usize, want: [&Mat; 2], tol: Tol) -> Outcome {
        for (i, (weight, want)) in self.weights.iter().zip(want).enumerate() {
            close(&weight.read()?, &want.data, tol).map_err(|e| format!("layer {}, step {}: {e}", i + 1, step + 1))?;
        }
        Ok(())
    }
}

/// kfac-pytorch's `inverse` or `eigen` method with SGD, on its own gradients and taps.
fn kfac_pytorch(ctx: &Context, name: &str, form: KfacForm) -> Outcome {
    let file = File::open(&format!("{name}/mlp_6_8_3.safetensors"))?;
    let start = [file.with_bias("W1_0", "b1_0", 0, 8, 6)?, file.with_bias("W2_0", "b2_0", 0, 3, 8)?];
    let mut mlp = Mlp::new(ctx, [&start[0], &start[1]], Kfac { damping: 0.003, form, ..Kfac::default() })?;
    for step in 0..10 {
        let gradients = [file.with_bias("gW1", "gb1", step, 8, 6)?, file.with_bias("gW2", "gb2", step, 3, 8)?];
        let inputs = [file.at("a0", step, N, 6)?, file.at("a2", step, N, 8)?];
        let output_gradients = [file.at("g0", step, N, 8)?, file.at("g2", step, N, 3)?];
        mlp.step([&gradients[0], &gradients[1]], [&inputs[0], &inputs[1]], [&output_gradients[0], &output_gradients[1]])?;
        let want = [file.with_bias("W1", "b1", step, 8, 6)?, file.with_bias("W2", "b2", step, 3, 8)?];
        mlp.check(step, [&want[0], &want[1]], tolerance(name, None)?)?;
    }
    for (ours, theirs) in [
        ("layer1.right_statistics", "A_0"),
        ("layer1.left_statistics", "G_0"),
        ("layer2.right_statistics", "A_2"),
        ("layer2.left_statistics", "G_2"),
    ] {
        let (_, tensor) = mlp.optimizer.state().find(|(name, _)| *name == ours).ok_or("no such state")?;
        close(&tensor.read()?, &file.get(theirs)?, tolerance(name, None)?).map_err(|e| format!("{ours}: {e}"))?;
    }
    Ok(())
}

/// A float64 textbook KFAC (or kfac-jax), the network in the loop: gradients are those at our own weights. `elements`: what the loss averages over,
/// all N * 3 of them or the N samples.
fn kfac_numpy(ctx: &Context, name: &str, elements: usize, kfac: Kfac) -> Outcome {
    let file = File::open(&format!("{name}/mlp_6_8_3.safetensors"))?;
    let start = [file.at("W1b_0", 0, 8, 7)?, file.at("W2b_0", 0, 3, 9)?];
    let mut mlp = Mlp::new(ctx, [&start[0], &start[1]], kfac)?;
    for step in 0..10 {
        let weight = |i: usize, rows, cols| -> Result<Mat, Failed> {
            Ok(Mat { rows, cols, data: mlp.weights[i].read()?.into_iter().map(f64::from).collect() })
        };
        let (w1, w2) = (weight(0, 8, 7)?, weight(1, 3, 9)?);
        let (x, target) = (file.at("X", step, N, 6)?, file.at("T", step, N, 3)?);
        let ones = |x: &Mat| Mat::from_fn(x.rows, x.cols + 1, |r, c| if c < x.cols { x[(r, c)] } else { 1.0 });
        let hidden = matmul(&ones(&x), &w1.t()).map(f64::tanh);
        let output = matmul(&ones(&hidden), &w2.t());
        // A sum of squares over `elements`.
        let g2 = output.plus(-1.0, &target).map(|e| 2.0 * e / elements as f64);
        let back = matmul(&g2, &w2);
        let g1 = Mat::from_fn(N, 8, |r, c| back[(r, c)] * (1.0 - hidden[(r, c)].powi(2)));
        let gradients = [matmul(&g1.t(), &ones(&x)), matmul(&g2.t(), &ones(&hidden))];
        mlp.step([&gradients[0], &gradients[1]], [&x, &hidden], [&g1, &g2])?;
        mlp.check(step, [&file.at("W1b", step, 8, 7)?, &file.at("W2b", step, 3, 9)?], tolerance(name, None)?)?;
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let torch_case = |name: &'static str, method: Method| case(format!("golden::{name}"), move |ctx| torch(ctx, name, TORCH, method));
    let small: &[_] = &[("7x5", 7, 5), ("16x16", 16, 16)];
    let medium: &[_] = &[("7x5", 7, 5), ("16x16", 16, 16), ("64x32", 64, 32)];
    let all: &[_] = &[("7x5", 7, 5), ("16x16", 16, 16), ("64x32", 64, 32), ("1x17", 1, 17)];
    let shampoo_case = |name: &'static str, variant: &str, shapes: &'static [_], method: Shampoo| {
        case(format!("golden::{name}{variant}"), move |ctx| torch(ctx, name, shapes, method.into()))
    };
    let shampoo = Shampoo {
        learning_rate: 0.05,
        accumulation: Accumulation::Ema,
        beta2: 0.99,
        epsilon: 1e-4,
        epsilon_scale: EpsilonScale::Absolute,
        weight_decay: WeightDecay::Decoupled(0.01),
        ..Shampoo::default()
    };
    let eigen = Shampoo { root_method: linalg::Method::Eigen, ..shampoo };
    let newton = Shampoo { root_method: linalg::Method::Newton, ..shampoo };
    let adagrad = Shampoo {
        beta1: 0.0,
        accumulation: Accumulation::Sum,
        graft: Graft::Sgd,
        momentum: 0.9,
        nesterov: true,
        weight_decay: WeightDecay::L2(0.01),
        ..shampoo
    };
    let adam_graft = Graft::Adam { beta2: 0.99, epsilon: 1e-8 };
    let corrected = EigenvalueCorrectedShampoo { learning_rate: 0.005, beta2: 0.99, weight_decay: 0.01, ..Default::default() };
    const SQUARE_AND_OTHERS: &[(&str, usize, usize)] =
        &[("7x5", 7, 5), ("64x32", 64, 32), ("1x17", 1, 17), ("16x16", 16, 16), ("12x12w", 12, 12)];
    let soap_case = |name: &'static str, shapes: &'static [_], steps: usize, method: Soap| {
        case(format!("golden::{name}"), move |ctx| soap(ctx, name, shapes, steps, method))
    };
    let momentum = Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 0.01, ..Sgd::default() };
    let adamw = AdamW { learning_rate: 0.01, beta2: 0.95, weight_decay: 0.1, ..AdamW::default() };
    let pi = Kfac {
        learning_rate: 0.05,
        damping: 0.01,
        damping_split: DampingSplit::Pi,
        statistics_start: StatisticsStart::FirstBatch,
        output_gradients: OutputGradients::PerSample,
        kl_clip: None,
        ..Kfac::default()
    };
    let muon = Muon { weight_decay: 0.1, ..Muon::default() };
    vec![
        torch_case("torch_sgd_plain", Sgd { learning_rate: 0.1, ..Sgd::default() }.into()),
        torch_case("torch_sgd_momentum_wd", momentum.into()),
        torch_case("torch_sgd_nesterov", Sgd { nesterov: true, ..momentum }.into()),
        torch_case("torch_adam", Adam { learning_rate: 0.01, ..Adam::default() }.into()),
        torch_case("torch_adamw", adamw.into()),
        shampoo_case("dshampoo_nograft", "", all, shampoo),
        shampoo_case("dshampoo_nograft", "_by_eigenvalues", all, eigen),
        shampoo_case("dshampoo_nograft", "_by_newton", all, newton),
        shampoo_case("dshampoo_adamgraft", "", all, Shampoo { graft: adam_graft, ..shampoo }),
        shampoo_case("dshampoo_adagrad_sgdgraft_momentum", "", medium, adagrad),
        shampoo_case("dshampoo_coupled_newton", "", small, newton),
        shampoo_case("dshampoo_exponent_override_half", "", small, Shampoo { matrix_root: 2, ..shampoo }),
        torch_case("numpy_f64_muon_ns5_keller", muon.into()),
        torch_case(
            "numpy_f64_muon_polar_express5",
            Muon { newton_schulz: NewtonSchulz::PolarExpress5, epsilon: 1e-6 / 1.02, ..muon }.into(),
        ),
        torch_case("torch_muon_default", muon.into()),
        torch_case("keller_muon_default", Muon::default().into()),
        case("golden::dshampoo_eigcorrected_eigh", move |ctx| {
            torch(ctx, "dshampoo_eigcorrected_eigh", &[("7x5", 7, 5), ("16x16", 16, 16), ("12x12w", 12, 12)], corrected.into())
        }),
        case("golden::dshampoo_eigcorrected_eigh_f2", move |ctx| {
            let late = EigenvalueCorrectedShampoo { precondition_every: 2, start_step: 1, ..corrected };
            torch(ctx, "dshampoo_eigcorrected_eigh_f2", &[("7x5", 7, 5), ("16x16", 16, 16), ("12x12w", 12, 12)], late.into())
        }),
        soap_case("soap_default_f10", SQUARE_AND_OTHERS, 10, Soap { precondition_1d: true, ..Soap::default() }),
        soap_case(
            "soap_f1",
            &[("7x5", 7, 5), ("16x16", 16, 16), ("12x12w", 12, 12)],
            10,
            Soap { learning_rate: 0.01, beta1: 0.9, statistics_decay: Some(0.9), precondition_every: 1, ..Soap::default() },
        ),
        soap_case(
            "soap_one_sided",
            &[("64x32", 64, 32), ("7x5", 7, 5)],
            10,
            Soap { learning_rate: 0.01, max_precondition_dim: 6, precondition_every: 3, ..Soap::default() },
        ),
        soap_case(
            "soap_f10_25steps",
            &[("12x12w_25", 12, 12), ("20x20w_25", 20, 20)],
            25,
            Soap { learning_rate: 0.005, ..Soap::default() },
        ),
        case("golden::kfac_pytorch_inverse", |ctx| kfac_pytorch(ctx, "kfac_pytorch_inverse", KfacForm::Inverse)),
        case("golden::kfac_pytorch_eigen", |ctx| kfac_pytorch(ctx, "kfac_pytorch_eigen", KfacForm::Eigen)),
        case("golden::kfac_numpy_plain", |ctx| {
            kfac_numpy(ctx, "kfac_numpy_plain_inverse_like_kfac_pytorch", 3 * N, Kfac { damping: 0.003, ..Kfac::default() })
        }),
        case("golden::kfac_numpy_pi", move |ctx| kfac_numpy(ctx, "kfac_numpy_pi_per_sample", 3 * N, pi)),
        case("golden::kfac_numpy_eigen", |ctx| {
            let eigen = Kfac { damping: 0.003, form: KfacForm::Eigen, ..Kfac::default() };
            kfac_numpy(ctx, "kfac_numpy_eigen_like_kfac_pytorch", 3 * N, eigen)
        }),
        case("golden::kfac_numpy_eigen_per_sample", move |ctx| {
            let eigen = Kfac { form: KfacForm::Eigen, damping_split: DampingSplit::Plain, kl_clip: Some(1e-3), ..pi };
            kfac_numpy(ctx, "kfac_numpy_eigen_per_sample", 3 * N, eigen)
        }),
        case("golden::kfac_jax", |ctx| {
            let jax = Kfac {
                learning_rate: 0.05,
                damping: 0.1,
                form: KfacForm::Eigen,
                statistics_start: StatisticsStart::BiasCorrected,
                output_gradients: OutputGradients::BatchSum,
                kl_clip: None,
                ..Kfac::default()
            };
            kfac_numpy(ctx, "kfac_jax_fisher_empirical_exact", N, jax)
        }),
    ]
}

//! Configurations as text.

use layerwise::Error;
use layerwise::linalg::{Method as RootMethod, NewtonSchulz};
use layerwise::optim::{
    Accumulation, Adam, AdamW, DampingSplit, EigenvalueCorrectedShampoo, EpsilonScale, Foof, Graft, Kfac, KfacForm, LearningRateSchedule,
    LevenbergMarquardt, Method, Muon, MuonScale, NaturalGradient, OutputGradients, Sgd, Shampoo, Soap, StatisticsStart, WeightDecay,
};
use serde_json::{Map, Value, from_value, json, to_value};

use super::rig::{ensure, methods};
use crate::case::{Case, Outcome, case_host};

fn parse(value: Value) -> Result<Method, serde_json::Error> {
    from_value(value)
}

/// Names and defaults of all methods.
fn defaults() -> [(&'static str, Method); 10] {
    [
        ("sgd", Sgd::default().into()),
        ("adam", Adam::default().into()),
        ("adamw", AdamW::default().into()),
        ("kfac", Kfac::default().into()),
        ("shampoo", Shampoo::default().into()),
        ("muon", Muon::default().into()),
        ("soap", Soap::default().into()),
        ("foof", Foof::default().into()),
        ("natural_gradient", NaturalGradient::default().into()),
        ("eigenvalue_corrected_shampoo", EigenvalueCorrectedShampoo::default().into()),
    ]
}

/// The fields of a method, its name among them.
fn fields(method: &Method) -> Result<Map<String, Value>, String> {
    match to_value(method) {
        Ok(Value::Object(fields)) => Ok(fields),
        other => Err(format!("{method:?}: {other:?}")),
    }
}

fn missing_fields_are_defaults() -> Outcome {
    for (name, method) in defaults() {
        ensure(parse(json!({ "optimizer": name }))? == method, || format!("{name} alone is not its default"))?;
        // Each field alone, at its default and under the name that it is written with.
        for (field, value) in fields(&method)? {
            let mut alone = json!({ "optimizer": name });
            alone[&field] = value;
            ensure(parse(alone.clone())? == method, || format!("{alone} is not {method:?}"))?;
        }
    }
    Ok(())
}

fn round_trips() -> Outcome {
    let pi = Kfac {
        damping_split: DampingSplit::Pi,
        statistics_start: StatisticsStart::FirstBatch,
        output_gradients: OutputGradients::PerSample,
        kl_clip: None,
        ..Kfac::default()
    };
    let shampoo = Shampoo {
        accumulation: Accumulation::Ema,
        epsilon_scale: EpsilonScale::Absolute,
        root_method: RootMethod::Newton,
        weight_decay: WeightDecay::L2(0.1),
        ..Shampoo::default()
    };
    let mut all = methods();
    all.extend::<[Method; 3]>([pi.into(), Kfac { statistics_start: StatisticsStart::BiasCorrected, ..pi }.into(), shampoo.into()]);
    let epsilon = 1e-7;
    for graft in [Graft::Sgd, Graft::Adagrad { epsilon }, Graft::RmsProp { beta2: 0.5, epsilon }] {
        all.push(Shampoo { graft, root_method: RootMethod::Eigen, ..shampoo }.into());
    }
    let sets = [NewtonSchulz::You, NewtonSchulz::PolarExpress5, NewtonSchulz::PolarExpress8, NewtonSchulz::Cans];
    for newton_schulz in sets {
        all.push(Muon { newton_schulz, scale: MuonScale::Spectral, steps: Some(7), fan_in: Some(3), ..Muon::default() }.into());
    }
    all.push(Kfac { form: KfacForm::Eigen, adaptation: Some(LevenbergMarquardt::default()), ..Kfac::default() }.into());
    all.push(Shampoo { weight_decay: WeightDecay::Cautious(0.1), ..shampoo }.into());
    for method in all {
        let text = serde_json::to_string(&method)?;
        ensure(serde_json::from_str::<Method>(&text)? == method, || format!("{text} is not {method:?}"))?;
    }
    let (warm_up, steps, final_fraction) = (5, 10, 0.25);
    for schedule in [
        LearningRateSchedule::Constant,
        LearningRateSchedule::Linear { warm_up, steps, final_fraction },
        LearningRateSchedule::Cosine { warm_up, steps, final_fraction },
        LearningRateSchedule::Step { warm_up, period: 3, factor: 0.5 },
    ] {
        let text = serde_json::to_string(&schedule)?;
        ensure(serde_json::from_str::<LearningRateSchedule>(&text)? == schedule, || format!("{text} is not {schedule:?}"))?;
    }
    Ok(())
}

/// The words that files are written with.
fn words() -> Outcome {
    let shampoo = Shampoo {
        accumulation: Accumulation::Ema,
        epsilon_scale: EpsilonScale::Absolute,
        graft: Graft::RmsProp { beta2: 0.5, epsilon: 1e-3 },
        root_method: RootMethod::Newton,
        weight_decay: WeightDecay::Decoupled(0.5),
        ..Shampoo::default()
    };
    let written = json!({
        "optimizer": "shampoo", "accumulation": "ema", "epsilon_scale": "absolute", "root_method": "newton",
        "graft": { "rms_prop": { "beta2": 0.5, "epsilon": 1e-3 } }, "weight_decay": { "decoupled": 0.5 },
    });
    ensure(parse(written)? == shampoo.into(), || "Shampoo's words".into())?;
    let kfac = json!({
        "optimizer": "kfac", "damping_split": "pi", "statistics_start": "bias_corrected", "output_gradients": "per_sample", "kl_clip": null,
    });
    let wanted = Kfac {
        damping_split: DampingSplit::Pi,
        statistics_start: StatisticsStart::BiasCorrected,
        output_gradients: OutputGradients::PerSample,
        kl_clip: None,
        ..Kfac::default()
    };
    ensure(parse(kfac)? == wanted.into(), || "Kfac's words".into())?;
    let muon = json!({ "optimizer": "muon", "scale": "match_rms_adamw", "newton_schulz": "polar_express5", "neuron_decay": 0.5 });
    let wanted =
        Muon { scale: MuonScale::MatchRmsAdamW, newton_schulz: NewtonSchulz::PolarExpress5, neuron_decay: Some(0.5), ..Muon::default() };
    ensure(parse(muon)? == wanted.into(), || "Muon's words".into())?;
    // Whole numbers are numbers.
    ensure(parse(json!({ "optimizer": "sgd", "learning_rate": 1 }))? == Sgd { learning_rate: 1.0, ..Sgd::default() }.into(), || {
        "a whole learning rate".into()
    })
}

/// What a field, a variant or a method is not called is refused by name.
fn unknown_names() -> Outcome {
    let mut bad = vec![
        (json!({ "optimizer": "sdg" }), "sdg"),
        (json!({ "learning_rate": 0.1 }), "optimizer"),
        (json!({ "optimizer": "shampoo", "graft": { "adam": { "beta2": 0.9, "epsilon": 1e-8, "beta3": 0.9 } } }), "beta3"),
        (json!({ "optimizer": "shampoo", "graft": { "adam": { "beta2": 0.9 } } }), "epsilon"),
        (json!({ "optimizer": "shampoo", "graft": "lion" }), "lion"),
        (json!({ "optimizer": "muon", "newton_schulz": { "custom": [[1.5, -0.5, 0.0]] } }), "custom"),
        (json!({ "optimizer": "kfac", "damping_split": "po" }), "po"),
        (json!({ "optimizer": "kfac", "adaptation": { "omego": 0.5 } }), "omego"),
    ];
    for (name, _) in defaults() {
        bad.push((json!({ "optimizer": name, "learning_rat": 0.1 }), "learning_rat"));
        bad.push((json!({ "optimizer": name, "learning_rate": 0.1, "Momentum": 0.1 }), "Momentum"));
    }
    for (value, name) in bad {
        match parse(value.clone()) {
            Err(error) if error.to_string().contains(&format!("`{name}`")) => {}
            other => return Err(format!("{value}: {other:?}").into()),
        }
    }
    let twice = r#"{"optimizer": "sgd", "momentum": 0.1, "momentum": 0.2}"#;
    match serde_json::from_str::<Method>(twice) {
        Err(error) if error.to_string().contains("`momentum`") => Ok(()),
        other => Err(format!("{twice}: {other:?}").into()),
    }
}

/// A list of coefficients lives in a program, not in a file.
fn custom_coefficients() -> Outcome {
    let custom = Muon { newton_schulz: NewtonSchulz::Custom(&[[1.5, -0.5, 0.0]]), ..Muon::default() };
    match serde_json::to_string(&Method::from(custom)) {
        Err(error) if error.to_string().contains("Custom") => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// `validate` names what is out of range.
fn ranges() -> Outcome {
    for (_, method) in defaults() {
        method.validate()?;
    }
    let bad = [
        (json!({ "optimizer": "sgd", "momentum": 1.0 }), "momentum"),
        (json!({ "optimizer": "adam", "epsilon": 0.0 }), "epsilon"),
        (json!({ "optimizer": "adamw", "beta1": -0.1 }), "beta1"),
        (json!({ "optimizer": "kfac", "damping": -1 }), "damping"),
        (json!({ "optimizer": "shampoo", "matrix_root": 9 }), "matrix_root"),
        (json!({ "optimizer": "shampoo", "graft": { "adam": { "beta2": 1.5, "epsilon": 1e-8 } } }), "graft.beta2"),
        (json!({ "optimizer": "muon", "steps": 0 }), "steps"),
    ];
    for (value, name) in bad {
        match parse(value.clone())?.validate() {
            Err(Error::Config { field, .. }) if field == name => {}
            other => return Err(format!("{value}: {other:?}").into()),
        }
    }
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_host("serde::missing_fields_are_defaults", missing_fields_are_defaults),
        case_host("serde::round_trips", round_trips),
        case_host("serde::words", words),
        case_host("serde::unknown_names", unknown_names),
        case_host("serde::custom_coefficients", custom_coefficients),
        case_host("serde::ranges", ranges),
    ]
}

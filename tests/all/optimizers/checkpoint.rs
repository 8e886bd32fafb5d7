//! A run that was saved and resumed is the run that was not; what does not fit or is damaged changes nothing.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Poll, Waker};

use layerwise::optim::{
    Adam, AdamW, EigenvalueCorrectedShampoo, Group, Kfac, Method, Optimizer, OutputGradients, Sgd, Soap, StatisticsStart,
};
use layerwise::{Context, Error};
use libtest_mimic::Failed;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::rig::{Layer, ensure, methods, optimizer, same, single, state};
use crate::case::{Case, Outcome, case, case_cpu};

const LAYERS: usize = 3;

/// Three layers of two trials with these weights, in one arena or each alone.
fn layers(ctx: &Context, stacked: bool, weights: Option<&[Vec<f32>]>) -> Result<Vec<Layer>, Failed> {
    let result = if stacked {
        Layer::stack(ctx, LAYERS, 2, 3, 4, 5)?
    } else {
        (0..LAYERS).map(|i| Layer::new(ctx, 2, 3, 4, 5 + 100 * i as u64)).collect::<Result<Vec<_>, _>>()?
    };
    result.iter().zip(weights.into_iter().flatten()).try_for_each(|(layer, weight)| layer.weight.write(weight))?;
    Ok(result)
}

fn group(method: impl Into<Method>, layers: &[Layer]) -> Group {
    layers.iter().enumerate().fold(Group::new(method), |g, (i, l)| g.parameter(l.parameter(&format!("layer.{i}"))))
}

fn run(optimizer: &mut Optimizer, layers: &[Layer], steps: std::ops::Range<u64>) -> Outcome {
    for step in steps {
        for (i, layer) in layers.iter().enumerate() {
            layer.feed(50 + 10 * i as u64, step)?;
            // One gradient is refused, so that counters of trials differ.
            if step == 3 && i == 1 {
                let mut bad = layer.gradient.read()?;
                bad[0] = f32::NAN;
                layer.gradient.write(&bad)?;
            }
        }
        optimizer.step()?;
    }
    Ok(())
}

fn weights(layers: &[Layer]) -> Result<Vec<Vec<f32>>, Failed> {
    Ok(layers.iter().map(|l| l.weight.read()).collect::<Result<_, _>>()?)
}

/// Key, shape and bytes of each tensor, sorted, and the metadata.
pub(super) type Content = (Vec<(String, Vec<usize>, Vec<u8>)>, HashMap<String, String>);

/// All state, bit by bit.
pub(super) fn content(bytes: &[u8]) -> Result<Content, Failed> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut tensors: Vec<_> = file.iter().map(|(name, t)| (name.to_owned(), t.shape().to_vec(), t.data().to_vec())).collect();
    tensors.sort();
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

fn mismatches(outcome: Result<(), Error>) -> Result<Vec<String>, Failed> {
    match outcome {
        Err(Error::Checkpoint { mismatches }) => Ok(mismatches),
        other => Err(format!("expected Error::Checkpoint, got {other:?}").into()),
    }
}

fn staggered() -> Kfac {
    let cadence = Kfac { statistics_every: 2, precondition_every: 4, start_step: 2, ..Kfac::default() };
    Kfac { learning_rate: 0.02, damping: 0.01, kl_clip: Some(0.01), ..cadence }
}

/// Ten steps, save, ten more; and ten more of a new optimizer, with parameters stacked alike or not.
fn resume(ctx: &Context) -> Outcome {
    let mut all = methods();
    all.push(staggered().into());
    all.push(EigenvalueCorrectedShampoo { beta2: 0.9, precondition_every: 4, start_step: 1, ..Default::default() }.into());
    all.push(Soap { precondition_every: 4, ..Soap::default() }.into());
    all.push(Kfac { statistics_start: StatisticsStart::BiasCorrected, momentum: 0.0, kl_clip: None, ..staggered() }.into());
    all.push(Kfac { statistics_start: StatisticsStart::FirstBatch, output_gradients: OutputGradients::PerSample, ..staggered() }.into());
    for method in all {
        for (before, after) in [(true, true), (true, false), (false, true)] {
            let first = layers(ctx, before, None)?;
            let mut uninterrupted = optimizer(ctx, group(method, &first))?;
            run(&mut uninterrupted, &first, 0..10)?;
            let (saved, bytes) = (weights(&first)?, uninterrupted.state_bytes_blocking()?);
            run(&mut uninterrupted, &first, 10..20)?;

            let second = layers(ctx, after, Some(&saved))?;
            let mut resumed = optimizer(ctx, group(method, &second))?;
            resumed.from_state_bytes_blocking(&bytes)?;
            ensure(resumed.steps() == 10, || format!("{} steps", resumed.steps()))?;
            ensure(content(&resumed.state_bytes_blocking()?)? == content(&bytes)?, || format!("{method:?}: loaded is not saved"))?;
            run(&mut resumed, &second, 10..20)?;
            let what = format!("{method:?}, stacked before {before}, after {after}");
            for (a, b) in weights(&first)?.iter().zip(&weights(&second)?) {
                same(&what, b, a)?;
            }
            let (a, b) = (content(&uninterrupted.state_bytes_blocking()?)?, content(&resumed.state_bytes_blocking()?)?);
            ensure(a == b, || format!("{what}: the states differ after the resumed steps"))?;
            let health = resumed.health_blocking()?;
            ensure(health == uninterrupted.health_blocking()? && !health.is_good(), || format!("{what}: {health}"))?;
        }
    }
    Ok(())
}

/// Runs a future; on a GPU this thread is also the one that polls the device.
fn wait_for<T>(ctx: &Context, future: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
    let mut future = pin!(future);
    for _ in 0..1000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())) {
            return Ok(value?);
        }
        ctx.wait()?;
    }
    Err("the future is never ready".into())
}

/// The asynchronous forms, two groups, and parameters in other groups' order.
fn without_blocking(ctx: &Context) -> Outcome {
    let parts = layers(ctx, true, None)?;
    let adam = || Group::new(Adam::default()).parameter(parts[0].parameter("embedding"));
    let kfac = || group(staggered(), &parts[1..]);
    let build = |a, b| Optimizer::builder(ctx).group(a).group(b).build();
    let mut first = build(adam(), kfac())?;
    run(&mut first, &parts, 0..6)?;
    let bytes = wait_for(ctx, first.state_bytes())?;
    let mut second = build(kfac(), adam())?;
    wait_for(ctx, second.from_state_bytes(&bytes))?;
    ensure(content(&wait_for(ctx, second.state_bytes())?)? == content(&bytes)?, || "groups in another order".into())
}

/// The layout that the documentation promises.
fn layout(ctx: &Context) -> Outcome {
    let parts = layers(ctx, true, None)?;
    let mut kfac = optimizer(ctx, group(staggered(), &parts))?;
    run(&mut kfac, &parts, 0..5)?;
    let (tensors, facts) = content(&kfac.state_bytes_blocking()?)?;
    let shapes: Vec<(&str, &[usize])> =
        tensors.iter().map(|t| (t.0.as_str(), t.1.as_slice())).filter(|t| t.0.starts_with("layer.1.")).collect();
    let wanted: [(&str, &[usize]); 6] = [
        ("layer.1.block", &[2, 1, 56]),
        ("layer.1.left_inverse", &[2, 3, 3]),
        ("layer.1.left_statistics", &[2, 3, 3]),
        ("layer.1.momentum", &[2, 3, 5]),
        ("layer.1.right_inverse", &[2, 5, 5]),
        ("layer.1.right_statistics", &[2, 5, 5]),
    ];
    ensure(shapes == wanted && tensors.len() == 18, || format!("{shapes:?}"))?;
    let fact = |key: &str| facts.get(key).map_or("", String::as_str);
    let found = [fact("format"), fact("version"), fact("steps"), fact("method.layer.2")];
    ensure(found == ["layerwise optimizer state", "1", "5", "Kfac(Identity, MeanLoss)"], || format!("{facts:?}"))
}

/// SOAP's first moment lies in other coordinates where bases change at every step: refused there, taken over between other cadences.
fn moment_in_other_coordinates(ctx: &Context) -> Outcome {
    for (from, to, missing) in [(1, 2, "w.first_moment"), (2, 1, "w.unrotated_moment"), (2, 3, ""), (1, 1, "")] {
        let layers = [Layer::new(ctx, 1, 6, 4, 1)?, Layer::new(ctx, 1, 6, 4, 1)?];
        let build = |every, i: usize| optimizer(ctx, single(Soap { precondition_every: every, ..Soap::default() }, &layers[i]));
        let (mut first, mut second) = (build(from, 0)?, build(to, 1)?);
        for step in 0..3 {
            layers[0].feed(1, step)?;
            first.step()?;
        }
        let outcome = second.from_state_bytes_blocking(&first.state_bytes_blocking()?);
        if missing.is_empty() {
            outcome?;
            continue;
        }
        let found = mismatches(outcome)?;
        ensure(found.iter().any(|m| m.contains(missing)), || format!("every {from} into every {to}: {found:?}"))?;
    }
    Ok(())
}

/// Learning rates and other settings are those of the optimizer that loads.
fn settings_stay(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 2, 3, 4, 1)?;
    let sgd = Sgd { momentum: 0.9, learning_rate: 0.1, ..Sgd::default() };
    let mut first = optimizer(ctx, single(sgd, &layer))?;
    first.step()?;
    let bytes = first.state_bytes_blocking()?;
    let mut second = optimizer(ctx, single(Sgd { momentum: 0.5, learning_rate: 0.2, ..sgd }, &layer))?;
    second.set_learning_rate(0, &[0.3, 0.4])?;
    second.from_state_bytes_blocking(&bytes)?;
    second.step()?;
    let mut third = optimizer(ctx, single(Sgd { momentum: 0.5, ..sgd }, &layer))?;
    third.set_learning_rate(0, &[0.7])?;
    third.step()?;
    third.from_state_bytes_blocking(&bytes)?;
    third.step()?;
    let trials = |optimizer: &Optimizer| -> Result<Vec<(u64, f32)>, Failed> {
        Ok(optimizer.health_blocking()?.parameters[0].trials.iter().map(|t| (t.steps, t.learning_rate)).collect())
    };
    ensure(trials(&second)? == [(2, 0.3), (2, 0.4)], || "a change before the load is lost".into())?;
    ensure(trials(&third)? == [(2, 0.7), (2, 0.7)], || "a change that ran before the load is lost".into())?;
    let block = state(&third, "w.block")?;
    ensure(block[layerwise::plan::block::MOMENTUM as usize] == 0.5, || format!("{block:?}"))
}

/// Every difference in one error, and nothing written.
fn everything_that_differs(ctx: &Context) -> Outcome {
    let (parts, other) = (layers(ctx, true, None)?, Layer::new(ctx, 1, 3, 4, 1)?);
    let sgd = Sgd { momentum: 0.9, ..Sgd::default() };
    let saved = |groups: Vec<Group>| -> Result<Vec<u8>, Failed> {
        Ok(groups.into_iter().fold(Optimizer::builder(ctx), |b, g| b.group(g)).build()?.state_bytes_blocking()?)
    };
    let kept = |layer: &Layer, name: &str, method: Method| Group::new(method).parameter(layer.parameter(name));
    let mut mine = Optimizer::builder(ctx).group(group(sgd, &parts)).build()?;
    run(&mut mine, &parts, 0..4)?;
    let before = content(&mine.state_bytes_blocking()?)?;

    let bytes = saved(vec![
        kept(&other, "layer.0", sgd.into()),
        kept(&parts[1], "layer.1", AdamW::default().into()),
        kept(&parts[2], "x", sgd.into()),
    ])?;
    let found = mismatches(mine.from_state_bytes_blocking(&bytes))?;
    let wanted = [
        "parameter `layer.1` was stepped by AdamW, not Sgd",
        "parameter `layer.2` is missing",
        "parameter `x` is not one of this optimizer's",
        "`layer.0.block` has shape [1, 1, 56], expected [2, 1, 56]",
        "`layer.0.momentum` has shape [1, 3, 5], expected [2, 3, 5]",
    ];
    ensure(found == wanted, || format!("{found:#?}"))?;
    let text = Error::Checkpoint { mismatches: found.clone() }.to_string();
    ensure(found.iter().all(|m| text.contains(m)), || text)?;

    let found = mismatches(mine.from_state_bytes_blocking(&saved(vec![group(Sgd::default(), &parts)])?))?;
    ensure(found.len() == 3 && found[1] == "`layer.1.momentum` is missing", || format!("{found:?}"))?;
    let mut plain = optimizer(ctx, group(Sgd::default(), &parts))?;
    let found = mismatches(plain.from_state_bytes_blocking(&mine.state_bytes_blocking()?))?;
    ensure(found.len() == 3 && found[0] == "`layer.0.momentum` is not part of this optimizer's state", || format!("{found:?}"))?;
    let start = |statistics_start| Kfac { statistics_start, ..Kfac::default() };
    let mut kfac = optimizer(ctx, group(start(StatisticsStart::Identity), &parts))?;
    let found = mismatches(kfac.from_state_bytes_blocking(&saved(vec![group(start(StatisticsStart::FirstBatch), &parts)])?))?;
    ensure(found.len() == 3 && found[0].contains("Kfac(FirstBatch, MeanLoss), not Kfac(Identity, MeanLoss)"), || format!("{found:?}"))?;
    ensure(content(&mine.state_bytes_blocking()?)? == before && mine.steps() == 4, || "a refused state was taken in part".into())
}

/// Rewrites metadata and tensors of a state without mending its checksum.
fn forged(bytes: &[u8], change: impl Fn(&str, &mut String), values: impl Fn(&str, usize, f32) -> f32) -> Result<Vec<u8>, Failed> {
    let (tensors, mut facts) = content(bytes)?;
    facts.iter_mut().for_each(|(key, value)| change(key, value));
    let changed = |name: &str, data: &[u8]| -> Vec<u8> {
        data.as_chunks().0.iter().enumerate().flat_map(|(i, &x)| values(name, i, f32::from_le_bytes(x)).to_le_bytes()).collect()
    };
    let tensors: Vec<_> = tensors.into_iter().map(|(name, shape, data)| (changed(&name, &data), name, shape)).collect();
    let views = tensors.iter().map(|(data, name, shape)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)));
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>, Failed>>()?, Some(facts.into_iter().collect()))?)
}

/// Versions, formats, counters: each refused with its reason.
fn forgeries(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 1, 2, 2, 1)?;
    let mut mine = optimizer(ctx, single(Adam::default(), &layer))?;
    let good = mine.state_bytes_blocking()?;
    mine.from_state_bytes_blocking(&forged(&good, |_, _| {}, |_, _, x| x)?)?;
    let fact = |key: &'static str, value: &'static str| {
        forged(
            &good,
            move |k, v| {
                if k == key {
                    value.clone_into(v)
                }
            },
            |_, _, x| x,
        )
    };
    let step = |to: f32| {
        forged(&good, |_, _| {}, move |name, i, x| if name == "w.block" && i == layerwise::plan::block::STEP as usize { to } else { x })
    };
    let cases = [
        (fact("version", "2")?, "`version` is `2`, this release reads `1`"),
        (fact("format", "pt")?, "`format` is `pt`"),
        (fact("steps", "18446744073709551615")?, "`steps` is `18446744073709551615`"),
        (fact("steps", "-1")?, "`steps` is `-1`"),
        (fact("steps", "1")?, "checksum"),
        (fact("checksum", "")?, "checksum"),
        (fact("method.w", "Sgd")?, "was stepped by Sgd, not Adam"),
        (step(f32::NAN)?, "`w.block` has counters"),
        (step(-1.0)?, "`w.block` has counters"),
        (step(3.0)?, "checksum"),
    ];
    for (bytes, says) in cases {
        let found = mismatches(mine.from_state_bytes_blocking(&bytes))?;
        ensure(found.iter().any(|m| m.contains(says)), || format!("{says}: {found:?}"))?;
    }
    Ok(())
}

/// A context's table goes with the state, comes back, and does not keep others from loading it.
#[cfg(feature = "gpu")]
fn gemm_table(ctx: &Context) -> Outcome {
    use layerwise::gpu::{GemmShape, GemmTable, GemmVariant, ShapeClass};
    let layer = Layer::new(ctx, 1, 2, 3, 1)?;
    let plain = optimizer(ctx, single(Adam::default(), &layer))?.state_bytes_blocking()?;
    let table = GemmTable {
        refused: [GemmVariant::Small, GemmVariant::Register].into(),
        tuned: [((3, 3, 3), GemmVariant::Tile32), ((300, 5000, 4), GemmVariant::SplitK)]
            .map(|((m, k, n), v)| (ShapeClass::of(GemmShape::f32(m, k, n)), v))
            .into(),
        ..GemmTable::default()
    };
    let tuned = ctx.with_gemm_table(table.clone())?;
    let mut first = optimizer(&tuned, single(Adam::default(), &layer))?;
    first.step()?;
    let bytes = first.state_bytes_blocking()?;
    ensure(Optimizer::recorded_gemm_table(&bytes)?.as_ref() == Some(&table), || "the table is not what was saved".into())?;
    ensure(content(&bytes)?.1.contains_key("gemm") && !content(&plain)?.1.contains_key("gemm"), || "which files have the entry".into())?;
    ensure(Optimizer::recorded_gemm_table(&plain)?.is_none(), || "a table where none was saved".into())?;
    // From and to contexts with and without tables, and the CPU path.
    let mut second = optimizer(ctx, single(Adam::default(), &layer))?;
    second.from_state_bytes_blocking(&bytes)?;
    ensure(second.steps() == 1, || "the state was not taken".into())?;
    first.from_state_bytes_blocking(&plain)?;
    let other = Layer::new(&Context::cpu(), 1, 2, 3, 1)?;
    optimizer(other.weight.context(), single(Adam::default(), &other))?.from_state_bytes_blocking(&bytes)?;

    for damaged in
        ["tuned", "tuned 6x12 tile64", "refused small, tile65", "forced small, small", "forced small; forced small", "nonsense 3"]
    {
        let change = |key: &str, value: &mut String| {
            if key == "gemm" {
                damaged.clone_into(value);
            }
        };
        let bytes = forged(&bytes, change, |_, _, x| x)?;
        let found = mismatches(Optimizer::recorded_gemm_table(&bytes).map(|_| ()))?;
        let loaded = mismatches(second.from_state_bytes_blocking(&bytes))?;
        let says = format!("`gemm` is `{damaged}`");
        ensure(found.len() == 1 && found[0].contains(&says), || format!("{found:?}"))?;
        ensure(loaded.iter().any(|m| m.contains(&says)), || format!("{loaded:?}"))?;
    }
    let cut = mismatches(Optimizer::recorded_gemm_table(&bytes[..20]).map(|_| ()))?;
    ensure(cut[0].contains("safetensors"), || format!("{cut:?}"))?;
    let foreign = forged(
        &bytes,
        |key, value| {
            if key == "format" {
                "pt".clone_into(value)
            }
        },
        |_, _, x| x,
    )?;
    ensure(mismatches(Optimizer::recorded_gemm_table(&foreign).map(|_| ()))?[0].contains("`format` is `pt`"), || "another's file".into())
}

/// The next of a stream of random words (splitmix64).
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((z ^ (z >> 27)) >> 16) as usize
}

/// Cut off anywhere, any bit flipped, bytes replaced, headers that claim anything: refused, and nothing changed.
fn hostile(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 1, 2, 2, 1)?;
    let mut mine = optimizer(ctx, single(Kfac::default(), &layer))?;
    layer.feed(1, 0)?;
    mine.step()?;
    let good = mine.state_bytes_blocking()?;
    let before = content(&good)?;
    let mut refuse = |what: &dyn Fn() -> String, bytes: &[u8]| -> Outcome {
        let found = mismatches(mine.from_state_bytes_blocking(bytes)).map_err(|_| format!("{} was taken", what()))?;
        ensure(!found.is_empty(), what)?;
        ensure(content(&mine.state_bytes_blocking()?)? == before && mine.steps() == 1, || format!("{} changed the state", what()))
    };
    for length in 0..good.len() {
        refuse(&|| format!("the first {length} bytes"), &good[..length])?;
    }
    for bit in 0..8 * good.len() {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        refuse(&|| format!("bit {} of byte {} flipped", bit % 8, bit / 8), &bytes)?;
    }
    let header = usize::try_from(u64::from_le_bytes(*good.first_chunk().ok_or("too short")?))?;
    let mut random = 7;
    for round in 0..4000 {
        let mut bytes = good.clone();
        match round % 4 {
            0 => bytes = (0..next(&mut random) % 300).map(|_| next(&mut random).to_le_bytes()[0]).collect(),
            1 => (0..=next(&mut random) % 8)
                .for_each(|_| bytes[8 + next(&mut random) % header] = b"0123456789{}[]\",:-eFU\\"[next(&mut random) % 22]),
            2 => bytes[..8].copy_from_slice(&(u64::MAX >> (next(&mut random) % 64)).to_le_bytes()),
            _ => {
                let (from, to) = (next(&mut random) % bytes.len(), next(&mut random) % bytes.len());
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(from.min(to)..from.min(to), piece);
            }
        }
        if bytes != good && bytes.len() != good.len() || content(&bytes).is_err() || content(&bytes)? != before {
            refuse(&|| format!("round {round}"), &bytes)?;
        }
    }
    let dims = ["18446744073709551615", "4611686018427387904,4", "9223372036854775807,2,2", "0,18446744073709551615", "1,1,32"];
    for dim in dims {
        for end in ["0", "128", "18446744073709551615"] {
            let header = format!(r#"{{"w.block":{{"dtype":"F32","shape":[{dim}],"data_offsets":[0,{end}]}}}}"#);
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 128]].concat();
            refuse(&|| header.clone(), &bytes)?;
        }
    }
    let nested = [&40_000u64.to_le_bytes()[..], &b"[".repeat(40_000)].concat();
    refuse(&|| "deep nesting".into(), &nested)
}

/// Files: written whole or not at all, nothing left beside them.
fn files(ctx: &Context) -> Outcome {
    let directory = std::env::temp_dir().join(format!("layerwise-checkpoint-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("state.safetensors");
    let layer = Layer::new(ctx, 1, 2, 2, 1)?;
    let mut mine = optimizer(ctx, single(Adam::default(), &layer))?;
    mine.save(&path)?;
    layer.feed(1, 0)?;
    mine.step()?;
    mine.save(&path)?;
    let mut other = optimizer(ctx, single(Adam::default(), &layer))?;
    other.load(&path)?;
    ensure(content(&other.state_bytes_blocking()?)? == content(&std::fs::read(&path)?)? && other.steps() == 1, || {
        "loaded is not saved".into()
    })?;
    let names: Vec<_> = std::fs::read_dir(&directory)?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    ensure(names == ["state.safetensors"], || format!("left behind: {names:?}"))?;

    std::fs::create_dir(directory.join("taken"))?;
    for bad in [directory.join("nowhere").join("state"), directory.join("taken"), std::path::PathBuf::from("/")] {
        let (saved, loaded) = (mine.save(&bad), other.load(&bad));
        let names_it = |e: &Option<Error>| matches!(e, Some(Error::File { path, .. }) if *path == bad.display().to_string());
        ensure(names_it(&saved.clone().err()) && names_it(&loaded.clone().err()), || format!("{saved:?} {loaded:?}"))?;
    }
    let count = std::fs::read_dir(&directory)?.count();
    ensure(count == 2, || format!("{count} entries: a failed save left its temporary file"))?;
    std::fs::File::create(&path)?.set_len(1 << 40)?;
    let found = mismatches(other.load(&path))?;
    ensure(found[0].contains("longer than"), || format!("{found:?}"))?;
    Ok(std::fs::remove_dir_all(&directory)?)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::checkpoint::resume", resume),
        case("optimizers::checkpoint::without_blocking", without_blocking),
        case("optimizers::checkpoint::moment_in_other_coordinates", moment_in_other_coordinates),
        case("optimizers::checkpoint::settings_stay", settings_stay),
        case("optimizers::checkpoint::everything_that_differs", everything_that_differs),
        #[cfg(feature = "gpu")]
        crate::case::case_gpu("optimizers::checkpoint::gemm_table", gemm_table),
        case_cpu("optimizers::checkpoint::layout", layout),
        case_cpu("optimizers::checkpoint::forgeries", forgeries),
        case_cpu("optimizers::checkpoint::hostile", hostile),
        case_cpu("optimizers::checkpoint::files", files),
    ]
}

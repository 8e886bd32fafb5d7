//! The `embed` example as a test: it learns, each frame is one submit, and what is drawn is what the network says.

use layerwise::optim::{Adam, Kfac, Method, OutputGradients, StatisticsStart};
use libtest_mimic::Failed;

use super::{Outcome, ensure, submissions};
use crate::case::{Case, case_gpu};

#[path = "../../../examples/embed/app.rs"]
mod app;
#[path = "../../../examples/embed/picture.rs"]
mod motif;

pub(super) fn cases() -> Vec<Case> {
    let kfac = Kfac {
        learning_rate: 0.5,
        momentum: 0.5,
        damping: 3e-3,
        kl_clip: Some(0.03),
        statistics_start: StatisticsStart::FirstBatch,
        output_gradients: OutputGradients::PerSample,
        precondition_every: 4,
        ..Kfac::default()
    };
    let adam = Adam { learning_rate: 1e-2, ..Adam::default() };
    vec![
        case_gpu("embed::picture::kfac", move |_| learns(kfac.into(), 10.0)),
        case_gpu("embed::picture::adam", move |_| learns(adam.into(), 5.0)),
    ]
}

/// Twenty frames gain at least `gain` dB.
fn learns(method: Method, gain: f64) -> Outcome {
    let fail = |e: app::Failure| Failed::from(e.to_string());
    let size = app::Size { side: 24, waves: 16, hidden: 16, scale: 2 };
    let host = app::Host::open(&std::env::var("LAYERWISE_ADAPTER").unwrap_or_default()).map_err(fail)?;
    let target = motif::picture(size.side);
    let mut app = app::App::new(host, size, method, target).map_err(fail)?;
    let mut first = None;
    for frame in 0..20 {
        let before = submissions(&app.host().queue)?;
        app.frame().map_err(fail)?;
        let made = submissions(&app.host().queue)? - before - 1;
        ensure(made == 1, || format!("frame {frame} made {made} submits"))?;
        if first.is_none() {
            first = Some(app.quality().map_err(fail)?);
        }
    }
    let (first, last) = (first.ok_or("no frame")?, app.quality().map_err(fail)?);
    ensure(last.1 > first.1 + gain && last.0 < first.0, || format!("(loss, PSNR) {first:?} became {last:?}"))?;
    ensure(app.optimizer().steps() == 20 && app.optimizer().health_blocking()?.is_good(), || "a step was lost".into())?;
    // The screen shows the output: each of its pixels twice in both directions, 8 bits a channel.
    let output = app.output().read()?;
    let (screen, side) = app.screenshot().map_err(fail)?;
    ensure(screen.len() == 4 * (side * side) as usize && side == 48, || format!("{side} pixels a side"))?;
    for (i, pixel) in screen.chunks(4).enumerate() {
        let (row, col) = (i / side as usize / 2, i % side as usize / 2);
        let want = &output[3 * (row * size.side as usize + col)..][..3];
        let close = pixel.iter().zip(want).all(|(&got, want)| (f32::from(got) - 255.0 * want.clamp(0.0, 1.0)).abs() <= 1.0);
        ensure(close && pixel[3] == 255, || format!("pixel {i} is {pixel:?}, expected {want:?}"))?;
    }
    Ok(())
}

//! An application that owns its wgpu device and renders, with the optimizer as a guest: a network learns a picture while the picture is drawn.
//!
//! A fixed Fourier front turns each pixel's coordinates into sines and cosines, and a two-layer network learns its colour. Every frame records the
//! forward pass, the backward pass, the optimizer's step and the drawing into one encoder, and submits once. `app.rs` is the part to read.
//!
//! ```text
//! cargo run --release --example embed                       # KFAC; writes target/results/embed/embed.png
//! cargo run --release --example embed -- --optimizer adam
//! ```
#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod app;
mod picture;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use app::{App, Failure, Host, Size};
use clap::{Parser, ValueEnum};
use layerwise::optim::{Adam, DampingSplit, Graft, Kfac, Method, Muon, OutputGradients, Shampoo, StatisticsStart};

/// A network learns a picture in the frames that draw it.
#[derive(Parser)]
struct Arguments {
    /// Frames to render
    #[arg(long, default_value_t = 200)]
    frames: u32,
    /// Who updates the weights
    #[arg(long, value_enum, default_value = "kfac")]
    optimizer: Choice,
    /// A part of the adapter's name [default: hardware first, software where there is none]
    #[arg(long, default_value = "")]
    adapter: String,
    /// Folder for `embed.png`: the target, then the first, a middle and the last frame
    #[arg(long, default_value = "target/results/embed")]
    out: PathBuf,
    /// A small picture and few frames
    #[arg(long)]
    smoke: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    Kfac,
    Shampoo,
    Muon,
    Adam,
}

impl Choice {
    fn method(self) -> Method {
        match self {
            Choice::Kfac => kfac().into(),
            Choice::Shampoo => Shampoo {
                learning_rate: 1e-2,
                precondition_every: 4,
                graft: Graft::Adam { beta2: 0.999, epsilon: 1e-8 },
                ..Shampoo::default()
            }
            .into(),
            Choice::Muon => Muon { learning_rate: 0.02, ..Muon::default() }.into(),
            Choice::Adam => Adam { learning_rate: 1e-2, ..Adam::default() }.into(),
        }
    }
}

/// Gauss-Newton steps: the sampled output gradients have the Fisher information's second moments, and with a fixed batch a short memory is enough.
fn kfac() -> Kfac {
    Kfac {
        learning_rate: 0.5,
        momentum: 0.5,
        damping: 3e-3,
        damping_split: DampingSplit::Pi,
        decay: 0.9,
        statistics_start: StatisticsStart::FirstBatch,
        output_gradients: OutputGradients::PerSample,
        kl_clip: Some(0.03),
        statistics_every: 4,
        precondition_every: 4,
        ..Kfac::default()
    }
}

fn main() -> Result<(), Failure> {
    env_logger::init();
    let arguments = Arguments::parse();
    let host = Host::open(&arguments.adapter)?;
    println!("{} by {:?}", host.adapter.get_info().name, arguments.optimizer);
    let (size, frames) = if arguments.smoke {
        (Size { side: 48, waves: 24, hidden: 32, scale: 2 }, arguments.frames.min(30))
    } else {
        (Size { side: 96, waves: 32, hidden: 64, scale: 3 }, arguments.frames)
    };
    let target = picture::picture(size.side);
    let mut shots = vec![enlarged(&target, size)];
    let mut app = App::new(host, size, arguments.optimizer.method(), target)?;
    let mut rendering = 0.0;
    for frame in 1..=frames.max(1) {
        let start = Instant::now();
        app.frame()?;
        // Software adapters fall behind: without the wait the queue would grow.
        app.host().device.poll(wgpu::PollType::wait_indefinitely())?;
        rendering += start.elapsed().as_secs_f64();
        if frame == 1 || frame % frames.div_ceil(10) == 0 || frame == frames {
            let (loss, psnr) = app.quality()?;
            println!("frame {frame:4}: loss {loss:.3e}, PSNR {psnr:5.2} dB, {:.1} ms a frame", 1e3 * rendering / f64::from(frame));
        }
        if frame == 1 || frame == frames.div_ceil(8) || frame == frames {
            shots.push(app.screenshot()?.0);
        }
    }
    println!("{}", app.optimizer().health_blocking()?);
    std::fs::create_dir_all(&arguments.out)?;
    let path = arguments.out.join("embed.png");
    write(&path, &shots, size.side * size.scale)?;
    println!("{}: the target, then frames 1, {} and {frames}", path.display(), frames.div_ceil(8));
    Ok(())
}

/// A picture as the screen would show it.
fn enlarged(picture: &[f32], size: Size) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255")]
    let byte = |v: f32| (255.0 * v + 0.5) as u8;
    let side = size.side * size.scale;
    let at = |row: u32, col: u32| 3 * ((row / size.scale) * size.side + col / size.scale) as usize;
    let pixels = (0..side).flat_map(|row| (0..side).map(move |col| at(row, col)));
    pixels.flat_map(|i| [byte(picture[i]), byte(picture[i + 1]), byte(picture[i + 2]), 255]).collect()
}

/// Square RGBA pictures side by side.
fn write(path: &Path, shots: &[Vec<u8>], side: u32) -> Result<(), Failure> {
    let row = 4 * side as usize;
    let lines: Vec<u8> = (0..side as usize).flat_map(|y| shots.iter().flat_map(move |s| s[y * row..(y + 1) * row].to_vec())).collect();
    let width = side * u32::try_from(shots.len())?;
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), width, side);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&lines)?;
    Ok(())
}

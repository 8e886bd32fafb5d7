//! The README's program: KFAC on one linear layer whose inputs differ in scale by a hundred, where gradient descent would need thousands of steps.
//!
//! ```text
//! $ cargo run --release --example quickstart
//! W = [3.000, -2.000] after 40 steps
//! ```

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use layerwise::optim::{Group, Kfac, Optimizer, OutputGradients, Parameter};
use layerwise::{Context, Shape};

fn main() -> layerwise::Result<()> {
    let ctx = Context::auto(); // a GPU if there is one, else the CPU path
    let x = [[1.0, 0.00], [0.0, 0.01], [1.0, 0.01], [-1.0, 0.01]]; // samples are rows
    let y = x.map(|x| 3.0 * x[0] - 2.0 * x[1]);
    let (weight, gradient) = (ctx.zeros(Shape::matrix(1, 2))?, ctx.zeros(Shape::matrix(1, 2))?);
    let inputs = ctx.upload(Shape::matrix(4, 2), x.as_flattened())?;
    let outputs = ctx.upload(Shape::matrix(4, 1), &[0.25; 4])?; // unit residuals over n: the Fisher of a square loss
    let layer = Parameter::new("layer", &weight, &gradient).samples(&inputs, &outputs);
    let kfac = Kfac {
        learning_rate: 0.5,
        momentum: 0.0,
        damping: 1e-8,
        kl_clip: None,
        output_gradients: OutputGradients::PerSample,
        decay: 0.0,
        ..Kfac::default()
    };
    let mut optimizer = Optimizer::builder(&ctx).group(Group::new(kfac).parameter(layer)).build()?;
    for _ in 0..40 {
        let w = weight.read()?;
        let residual = |i: usize| x[i][0] * w[0] + x[i][1] * w[1] - y[i];
        gradient.write(&[0, 1].map(|j| (0..4).map(|i| residual(i) * x[i][j]).sum::<f32>() / 4.0))?;
        optimizer.step()?;
    }
    println!("W = {:.3?} after 40 steps", weight.read()?);
    Ok(())
}

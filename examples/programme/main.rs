//! Every experiment in order, each with its defaults, resumed where a run was stopped.
//!
//! `cargo run --release --example programme` writes a folder for each part and one self-contained `index.html` below `target/results/programme`. Kill it at any
//! moment and start it again: finished parts are kept, the files come out the same. `--smoke` runs the small form of each, `--check` holds all to their thresholds,
//! `--only NAME,..` runs some, `--fresh` starts over.

/// Declares the parts, each the `part.rs` of an example: one line each.
macro_rules! parts {
    ($($path:tt as $module:ident :: $experiment:ident),* $(,)?) => {
        $(#[path = $path] mod $module;)*

        fn parts() -> Vec<kit::programme::Part> {
            vec![$(kit::programme::Part::of::<$module::$experiment>()),*]
        }
    };
}

parts! {
    "../linear_representation/part.rs" as linear_representation::LinearStudy,
    "../population/part.rs" as population::PopulationStudy,
    "../anisotropy/part.rs" as anisotropy::Anisotropy,
    "../batch_norm/part.rs" as batch_norm::BatchNorm,
    "../second_order/part.rs" as second_order::SecondOrder,
    "../learning_rates/part.rs" as learning_rates::LearningRates,
    "../damping/part.rs" as damping::DampingStudy,
    "../single_index/part.rs" as single_index::SingleIndexStudy,
    "../one_step_ridge/part.rs" as one_step_ridge::RidgeStudy,
    "../digits/part.rs" as digits::Digits,
}

fn main() -> std::process::ExitCode {
    kit::programme::main("programme", &parts())
}

//! The flags of every example.

use std::path::PathBuf;

use layerwise::Context;

/// The flags of every example.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// auto (a real GPU, otherwise the CPU), cpu, gpu (any GPU, software included), or a part of an adapter's name
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// A small problem: seconds on a software GPU
    #[arg(long)]
    pub smoke: bool,
    /// Where files go [default: target/results/NAME]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// First seed; the others follow
    #[arg(long, default_value_t = 0)]
    pub seed: u32,
    /// Number of seeds [default: the example's own]
    #[arg(long)]
    pub seeds: Option<usize>,
    /// Exit with 1 where the acceptance thresholds fail, with 2 where they do not apply to these settings
    #[arg(long)]
    pub check: bool,
}

impl Default for Common {
    /// What the command line has without flags.
    fn default() -> Self {
        Common { device: "auto".into(), smoke: false, out: None, seed: 0, seeds: None, check: false }
    }
}

impl Common {
    /// The context that `--device` asks for.
    ///
    /// # Errors
    /// As [`Context::named`].
    pub fn context(&self) -> layerwise::Result<Context> {
        Context::named(&self.device)
    }

    /// `--out`, or `target/results/NAME`.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| ["target", "results", name].iter().collect())
    }
}

//! The table of matrix-product variants, kept beside the state: with another one sums are formed in another order.

use safetensors::tensor::SafeTensors;

use super::bytes::Facts;
use super::optimizer::Optimizer;
use crate::error::{Error, Result};
use crate::gpu::GemmTable;

/// Its entry of `__metadata__`.
const KEY: &str = "gemm";

impl Optimizer {
    /// The table of matrix-product variants that a saved run used: what [`Context::tune`](crate::Context::tune) or [`check_gemm`](crate::Context::check_gemm) had made,
    /// or what was forced. `None` where it used the built-in choice.
    ///
    /// A run that is to go on bit by bit needs the same table, on the same device:
    /// ```no_run
    /// # use layerwise::{Context, optim::Optimizer};
    /// # fn resume(context: Context, bytes: &[u8]) -> layerwise::Result<Context> {
    /// // Before tensors and optimizers are made; tensors of one table serve the other.
    /// let table = Optimizer::recorded_gemm_table(bytes)?.unwrap_or_default();
    /// context.with_gemm_table(table)
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where `bytes` do not begin as [`state_bytes`](Self::state_bytes) begin, or the entry is damaged. The rest is not looked at:
    /// [`from_state_bytes`](Self::from_state_bytes) does that.
    pub fn recorded_gemm_table(bytes: &[u8]) -> Result<Option<GemmTable>> {
        let unreadable = |reason: String| Error::Checkpoint { mismatches: vec![reason] };
        let (_, header) = SafeTensors::read_metadata(bytes)
            .map_err(|error| unreadable(format!("not a safetensors file, or cut off or damaged: {error}")))?;
        let facts: Facts = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        Optimizer::check_format(&facts).map_err(unreadable)?;
        recorded(&facts).map_err(unreadable)
    }

    /// What is written: nothing for the built-in choice.
    pub(super) fn gemm_fact(&self) -> Option<(String, String)> {
        let table = &self.context.facts()?.gemm;
        Some((KEY.into(), table.to_string())).filter(|_| *table != GemmTable::default())
    }

    /// Lists an entry that can't be read. Another table than this context's is no reason to refuse, but one to warn.
    pub(super) fn compare_gemm(&self, facts: &Facts, mismatches: &mut Vec<String>) {
        let theirs = match recorded(facts) {
            Ok(table) => table.unwrap_or_default(),
            Err(reason) => return mismatches.push(reason),
        };
        let ours = self.context.facts().map(|facts| &facts.gemm);
        if ours.is_none_or(|ours| *ours != theirs) && (ours.is_some() || theirs != GemmTable::default()) {
            let ours = ours.map_or("the CPU path".into(), |table| format!("`{table}`"));
            log::warn!(
                "the saved run's table of matrix products was `{theirs}`, this context's is {ours}: results will differ by the order of summation; \
                 `Optimizer::recorded_gemm_table` and `Context::with_gemm_table` restore it"
            );
        }
    }
}

fn recorded(facts: &Facts) -> std::result::Result<Option<GemmTable>, String> {
    facts.get(KEY).map(|text| text.parse().map_err(|error| format!("`{KEY}` is `{text}`: {error}"))).transpose()
}

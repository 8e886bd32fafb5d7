//! The one error type of the library.

/// Everything that can go wrong, with the values that a caller needs to mend it.
///
/// Shapes, roles, configurations and limits are checked when things are *built* (recorded, prepared, constructed). A step
/// itself reports trouble through `health` flags on the device, never through a wait. After any error the tensors involved
/// are as they were before the call.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A tensor or plan value has a shape that the operation can't take.
    #[error("{op}: `{tensor}` has shape {found}, expected {expected}")]
    Shape {
        /// The operation or constructor that refused.
        op: &'static str,
        /// The name of the tensor or plan value.
        tensor: String,
        /// What it would take.
        expected: String,
        /// What it got.
        found: String,
    },
    /// The same buffer would be read and written in one operation, or a value is used against its role.
    #[error("{op}: `{tensor}`: {reason}")]
    Aliasing {
        /// The operation that refused.
        op: &'static str,
        /// The name of the plan value.
        tensor: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A configuration field is outside its range.
    #[error("{method}: `{field}` is {found}, allowed is {allowed}")]
    Config {
        /// The config struct or function.
        method: &'static str,
        /// The field.
        field: &'static str,
        /// The value found.
        found: String,
        /// The allowed range.
        allowed: &'static str,
    },
    /// Something does not fit the device.
    #[error("{what} needs {needed}, this device allows {limit}: {advice}")]
    Limit {
        /// What does not fit.
        what: String,
        /// What it needs (bytes, workgroups, rows: as `what` says).
        needed: u64,
        /// What the device offers.
        limit: u64,
        /// What to do.
        advice: &'static str,
    },
    /// A plan value was not bound, bound twice, or bound to a tensor that does not fit it.
    #[error("binding `{value}`: {reason}")]
    Binding {
        /// The name of the plan value.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor of one context was used in another.
    #[error("`{tensor}` belongs to another context: upload or import it into this one")]
    ForeignContext {
        /// The name of the tensor or plan value.
        tensor: String,
    },
    /// A caller's buffer can't serve as a tensor.
    #[error("buffer `{buffer}`: {reason}")]
    Buffer {
        /// The buffer's label.
        buffer: String,
        /// What is wrong: usage, size or alignment, found and needed.
        reason: String,
    },
    /// No usable adapter.
    #[error("no GPU adapter matches `{wanted}`: {hint}")]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// What to install or choose instead.
        hint: String,
    },
    /// The device is lost; nothing that lives on it can be used any more.
    #[error("the GPU device is lost ({reason}): build a new context and restore the last saved state")]
    DeviceLost {
        /// What the driver said.
        reason: String,
    },
    /// wgpu refused something that our own checks let pass.
    #[error("{during}: wgpu reports: {message}")]
    Gpu {
        /// What we were doing.
        during: &'static str,
        /// wgpu's own words.
        message: String,
    },
    /// A saved state does not fit the optimizer that should take it, or is damaged. The optimizer is unchanged.
    #[error("state not loaded: {}", .mismatches.join("; "))]
    Checkpoint {
        /// Everything that does not fit: format, version, methods, names, shapes, values.
        mismatches: Vec<String>,
    },
    /// A file could not be read or written.
    #[error("{doing} `{path}`: {reason}")]
    File {
        /// What we were doing.
        doing: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The call makes no sense on this kind of context.
    #[error("{call} needs {needs}; this context is {found}")]
    WrongContext {
        /// The call.
        call: &'static str,
        /// The kind of context it needs.
        needs: &'static str,
        /// The kind of context at hand.
        found: &'static str,
    },
}

/// `Result` with our [`Error`](enum@Error).
pub type Result<T, E = Error> = std::result::Result<T, E>;

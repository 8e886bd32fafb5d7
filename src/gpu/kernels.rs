//! The table of shaders: one row a kernel, checked against the WGSL by a test without a device.

/// How a binding is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

use Binding::{Read, Write};

/// One shader. Entry point = `name`; the parameters are binding 0, `bindings[i]` is binding `i + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Entry point and, but for variants, file name.
    pub name: &'static str,
    /// WGSL.
    pub source: &'static str,
    /// Names and uses of the storage bindings, in order.
    pub bindings: &'static [(&'static str, Binding)],
}

macro_rules! kernels {
    ($($id:ident = $name:literal [$($binding:ident $access:ident),*]),* $(,)?) => {
        $(pub(crate) const $id: Kernel = Kernel {
            name: $name,
            source: include_str!(concat!("../../shaders/", $name, ".wgsl")),
            bindings: &[$((stringify!($binding), $access)),*],
        };)*
        /// Every kernel.
        pub const KERNELS: &[Kernel] = &[$($id),*];
    };
}

kernels! {
    GEMM = "gemm" [a Read, b Read, d Read, out Write, block Read],
    GEMM_BROADCAST = "gemm_broadcast" [a Read, b Read, d Read, out Write, block Read],
    GEMM_COOP = "gemm_coop" [a Read, b Read, d Read, out Write, block Read],
    GEMM_LARGE = "gemm_large" [a Read, b Read, d Read, out Write, block Read],
    GEMM_MERGE = "gemm_merge" [partial Read, d Read, out Write, block Read],
    GEMM_QUADS = "gemm_quads" [a Read, b Read, d Read, out Write, block Read],
    GEMM_REGISTER = "gemm_register" [a Read, b Read, d Read, out Write, block Read],
    GEMM_RESIDENT = "gemm_resident" [a Read, b Read, d Read, out Write, block Read],
    GEMM_SKINNY = "gemm_skinny" [a Read, b Read, d Read, out Write, block Read],
    GEMM_SMALL = "gemm_small" [a Read, b Read, d Read, out Write, block Read],
    GEMM_SPLIT = "gemm_split" [a Read, b Read, d Read, partial Write, block Read],
    GEMM_WIDE = "gemm_wide" [a Read, b Read, d Read, out Write, block Read],
    KRON_FACTOR = "kron_factor" [x Read, out Write, block Read, gate Read],
    AXPBY = "axpby" [x Read, y Read, out Write, block Read, gate Read, jobs Read],
    ACTIVATION = "activation" [x Read, times Read, out Write],
    CONVERT = "convert" [x Read, out Write, jobs Read],
    REDUCE = "reduce" [x Read, y Read, out Write],
    COLUMN_MEAN = "column_mean" [x Read, y Read, out Write],
    CHECK_FINITE = "check_finite" [x Read, flag Write, jobs Read],
    CHOLESKY_LOAD = "cholesky_load" [a Read, out Write, block Read, ok Write],
    CHOLESKY_DIAGONAL = "cholesky_diagonal" [out Write, ok Write],
    CHOLESKY_ROWS = "cholesky_rows" [out Write],
    CHOLESKY_UPDATE = "cholesky_update" [out Write],
    SOLVE_TRIANGULAR = "solve_triangular" [l Read, b Read, out Write],
    OPERATOR_NORM = "operator_norm" [x Read, out Write],
    EIGH_JACOBI = "eigh_jacobi" [work Write],
    EIGH_LOAD = "eigh_load" [a Read, work Write],
    EIGH_ROTATE = "eigh_rotate" [work Write],
    EIGH_SORT = "eigh_sort" [work Read, values Write, vectors Write],
    QR_PANEL = "qr_panel" [work Write, reflectors Write],
    QR_SIGNS = "qr_signs" [work Read, q Write],
    SORT_COLUMNS = "sort_columns" [keys Read, x Read, out Write],
    SPECTRUM_SCALE = "spectrum_scale" [x Read, values Read, out Write, block Read],
    QUOTIENT = "quotient" [x Read, y Read, out Write],
    ITERATION_CONTROL = "iteration_control" [x Read, block Read, control Write],
    RANDOM_FILL = "random_fill" [keys Read, step Read, out Write],
    ADVANCE = "advance" [block Write, jobs Read],
    FACTOR_DAMPING = "factor_damping" [left_mean Read, right_mean Read, block Read, out Write],
    ROOT_OUTCOME = "root_outcome" [left_ok Read, right_ok Read, ok Write, block Write],
    KL_CLIP = "kl_clip" [dots Read, block Read, out Write],
    SPECTRAL_DIVIDE = "spectral_divide" [x Read, left Read, right Read, block Read, out Write],
    DIRECTION_OUTCOME = "direction_outcome" [factor Read, block Write],
    DAMPING_CONTROL = "damping_control" [x Read, block Write],
    NORM_CLIP = "norm_clip" [squares Read, out Write],
    GRAFT_DIRECTION = "graft_direction" [g Read, m Read, block Read, v Write, out Write],
    NORM_RATIO = "norm_ratio" [donor Read, own Read, out Write],
    GRAFT_SCALE = "graft_scale" [x Read, donor Read, out Write],
    STEP_SCALE = "step_scale" [block Read, out Write],
    MOMENTUM = "momentum" [g Read, block Read, m Write, out Write],
    NORMALISE = "normalise" [x Read, out Write],
    POLAR_OUTCOME = "polar_outcome" [size Read, scale Write, ok Write, block Write],
    SGD_UPDATE = "sgd_update" [g Read, g_scale Read, block Read, m Write, w Write, jobs Read],
    ADAM_UPDATE = "adam_update" [g Read, block Read, m Write, v Write, v_max Write, w Write, jobs Read],
    STANDARDISE = "standardise" [x Read, out Write, mean Write, variance Write, scale Write],
    STANDARDISE_GRADIENT = "standardise_gradient" [xhat Read, dy Read, scale Read, gamma Read, dx Write, sums Write],
    SOFTMAX_CROSS_ENTROPY = "softmax_cross_entropy" [logits Read, labels Read, loss Write, delta Write, hits Write],
}

/// Names of a file's `const` and `alias` lines, and their values.
pub type Tunables = &'static [(&'static str, &'static str)];

/// A kernel with values for its tunables: what one pipeline is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Index into [`KERNELS`] by name.
    pub kernel: &'static str,
    /// Values of the file's `const NAME: TYPE = value;` and `alias NAME = value;` lines.
    pub tunables: Tunables,
    /// Bits of [`FLAGS`] whose `const NAME: bool = false;` lines become true.
    pub flags: u16,
}

/// Switches: what a dispatch does not need is not compiled.
pub const FLAGS: [&str; 13] = [
    "A_F16",
    "B_F16",
    "ADD_D",
    "IN_PLACE",
    "SYMMETRIC",
    "RUNNING_MEAN",
    "BLOCK",
    "GATED",
    "GATE_IN_D",
    "A_BY_ROWS",
    "B_BY_ROWS",
    "FOLDED",
    "DENSE",
];

impl Kernel {
    /// The kernel as its file stands.
    pub const fn plain(&self) -> Variant {
        Variant { kernel: self.name, tunables: &[], flags: 0 }
    }

    /// The kernel with other values of its tunables.
    pub const fn with(&self, tunables: Tunables) -> Variant {
        Variant { kernel: self.name, tunables, flags: 0 }
    }

    /// True where the device needs subgroup operations.
    pub fn needs_subgroups(&self) -> bool {
        self.source.contains("subgroupBroadcast(")
    }

    /// True if it has a variant that does the work of several dispatches, each described in the table `jobs`.
    pub fn joins(&self) -> bool {
        self.bindings.last().is_some_and(|b| b.0 == "jobs")
    }

    /// The row of a name.
    pub fn named(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|k| k.name == name)
    }
}

impl Variant {
    /// The variant that does the work of several dispatches of this one.
    pub fn joint(&self) -> Option<Variant> {
        let tunables = super::quads::joint(self.tunables)?;
        Kernel::named(self.kernel)?.joins().then_some(Variant { tunables, ..*self })
    }

    /// The switches that are on.
    pub fn switches(&self) -> impl Iterator<Item = &'static str> {
        let flags = self.flags;
        FLAGS.into_iter().enumerate().filter(move |(bit, _)| flags >> bit & 1 == 1).map(|(_, name)| name)
    }

    /// The WGSL with the tunables' and switches' lines replaced. One that the file does not declare changes nothing, which a test refuses.
    pub fn source(&self) -> String {
        let source = Kernel::named(self.kernel).map_or("", |k| k.source);
        let mut text = String::with_capacity(source.len());
        for line in source.lines() {
            let replaced = self.tunables.iter().copied().chain(self.switches().map(|name| (name, "true"))).find_map(|(name, value)| {
                if let Some(rest) = line.strip_prefix("alias ") {
                    return rest.strip_prefix(name)?.starts_with(" =").then(|| format!("alias {name} = {value};"));
                }
                let rest = line.strip_prefix("const ")?.strip_prefix(name)?.strip_prefix(':')?;
                let (kind, _) = rest.split_once('=')?;
                Some(format!("const {name}:{kind}= {value};"))
            });
            text.push_str(replaced.as_deref().unwrap_or(line));
            text.push('\n');
        }
        text
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kernel)?;
        self.tunables.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
        self.switches().try_for_each(|name| write!(f, " {name}"))
    }
}

//! The hyper-parameter block: one row of [`WIDTH`] f32 per item, on the device.
//!
//! The first part is the user's (changed through `Optimizer::set_*` without a rebuild), the second is the device's: counters, the learning rate of
//! this step, bias corrections, health. Shaders name the same columns; a test compares both lists.

macro_rules! columns {
    ($($(#[$doc:meta])* $name:ident = $index:literal),* $(,)?) => {
        $($(#[$doc])* pub const $name: u32 = $index;)*
        /// Every column with its name, in order of definition.
        pub const COLUMNS: &[(&str, u32)] = &[$((stringify!($name), $index)),*];
    };
}

/// Columns of a block row.
pub const WIDTH: usize = 56;

columns! {
    /// Base learning rate.
    LEARNING_RATE = 0,
    /// Schedule kind: 0 constant, 1 linear, 2 cosine, 3 step.
    SCHEDULE = 1,
    /// Steps of linear warm-up (0: none): step s < warm-up uses (s + 1) / warm-up of the rate.
    WARMUP_STEPS = 2,
    /// Steps over which a linear or cosine schedule decays, counted after warm-up.
    DECAY_STEPS = 3,
    /// Fraction of the base rate at the end of a linear or cosine decay.
    FINAL_FRACTION = 4,
    /// Steps between two drops of a step schedule.
    STEP_PERIOD = 5,
    /// Factor at each drop of a step schedule.
    STEP_FACTOR = 6,
    /// Adam's first decay.
    BETA1 = 7,
    /// 1 - beta1, formed in f64 on the host.
    ONE_MINUS_BETA1 = 8,
    /// Adam's second decay.
    BETA2 = 9,
    /// 1 - beta2, formed in f64 on the host.
    ONE_MINUS_BETA2 = 10,
    /// Adam's epsilon.
    EPSILON = 11,
    /// Weight decay.
    WEIGHT_DECAY = 12,
    /// Momentum.
    MOMENTUM = 13,
    /// Dampening.
    DAMPENING = 14,
    /// KFAC's damping.
    DAMPING = 15,
    /// The statistics' decay.
    DECAY = 16,
    /// KFAC's KL clip; 0 is off.
    KL_CLIP = 17,
    /// L2 decay that enters before everything else (`WEIGHT_DECAY` enters at the tail).
    L2_DECAY = 18,
    /// Factor of the gradient as the caller gives it: what a loss scale is undone by. Default 1.
    GRADIENT_SCALE = 19,
    /// Decay of the weights' running average.
    AVERAGE_DECAY = 20,
    /// Device: steps applied to this item. The device's part starts here; columns before it that have no name are the user's, too.
    STEP = 32,
    /// Device: learning rate of the current step, refused or not.
    CURRENT_RATE = 33,
    /// Device: 1 - beta1^t by its recurrence.
    WEIGHT1 = 34,
    /// Device: 1 - beta2^t by its recurrence.
    WEIGHT2 = 35,
    /// Device: 1 where this step applies, 0 where its gradient was refused.
    GATE = 36,
    /// Device: raised by `check_finite`, consumed by `advance`.
    FLAG = 37,
    /// Device: gradients refused so far.
    SKIPPED = 38,
    /// Device: carried weight of the statistics; 0 until there are any (the identity counts as one).
    STATISTICS_WEIGHT = 39,
    /// Device: effective decay of this accumulation.
    STATISTICS_DECAY = 40,
    /// Device: multiplier of the damping, x10 at each failed refresh (at most 1e8), divided by 10 (at least 1) at each good one.
    RIDGE = 41,
    /// Device: failed refreshes so far.
    FAILED_ROOTS = 42,
    /// Device: effective decay of the weights' running average at this step: 0 at the first.
    AVERAGE = 43,
    /// Device: directions dropped so far, because they overflowed.
    FAILED_DIRECTIONS = 44,
    /// Device: factor of the damping that its adaptation has found; 1 without.
    DAMPING_SCALE = 45,
    /// Device: the loss observed last.
    LAST_LOSS = 46,
    /// Device: 1 plus the steps since that observation, at most 3; 0: there is none.
    LOSS_AGE = 47,
    /// Device: change of the loss that the quadratic model predicted for the last step.
    PREDICTED = 48,
    /// Device: steps since the damping's clock last struck.
    TICKS = 49,
    /// Device: 1 from the gradient that starts SOAP's statistics until there are eigenvectors of them.
    FRESH = 50,
    /// Device: residual of the roots in force, the largest of the layer's.
    RESIDUAL = 51,
    /// Device: iterations that they took, the most of the layer's.
    ITERATIONS = 52,
    /// Device: largest eigenvalue under them, the largest of the layer's.
    LARGEST_EIGENVALUE = 53,
    /// Device: norm of the last update over the norm of the weight before it.
    UPDATE_RATIO = 54,
}

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
pub const WIDTH: usize = 40;

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
    /// Device: steps applied to this item. The device's part starts here.
    STEP = 20,
    /// Device: learning rate of the current step, refused or not.
    CURRENT_RATE = 21,
    /// Device: 1 - beta1^t by its recurrence.
    WEIGHT1 = 22,
    /// Device: 1 - beta2^t by its recurrence.
    WEIGHT2 = 23,
    /// Device: 1 where this step applies, 0 where its gradient was refused.
    GATE = 24,
    /// Device: raised by `check_finite`, consumed by `advance`.
    FLAG = 25,
    /// Device: gradients refused so far.
    SKIPPED = 26,
    /// Device: carried weight of the statistics; 0 until there are any (the identity counts as one).
    STATISTICS_WEIGHT = 27,
    /// Device: effective decay of this accumulation.
    STATISTICS_DECAY = 28,
    /// Device: multiplier of the damping, x10 at each failed refresh (at most 1e8), divided by 10 (at least 1) at each good one.
    RIDGE = 29,
    /// Device: failed refreshes so far.
    FAILED_ROOTS = 30,
    /// Device: directions dropped so far, because they overflowed.
    FAILED_DIRECTIONS = 31,
    /// Device: factor of the damping that its adaptation has found; 1 without.
    DAMPING_SCALE = 32,
    /// Device: the loss observed last.
    LAST_LOSS = 33,
    /// Device: 1 plus the steps since that observation, at most 3; 0: there is none.
    LOSS_AGE = 34,
    /// Device: change of the loss that the quadratic model predicted for the last step.
    PREDICTED = 35,
    /// Device: steps since the damping's clock last struck.
    TICKS = 36,
}

//! What happened to the intermediates of a layer: saturations and largest magnitudes.

use std::fmt;

use crate::bits::ValueBits;

/// An intermediate of a layer that has a width of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Float or raw inputs made integers.
    Input,
    /// Zero point added by an unsigned InputQuantizer.
    ZeroPoint,
    /// Inputs expanded to the buffer: channels aligned by left shifts.
    InputExpand,
    /// Inputs and the integers around them, of a convolution that has a padding value. Always fits
    /// in a valid model: a matter of proofs, nothing saturates here.
    PaddedInput,
    /// Frames that a buffer over time holds, the empty ones included. Always fits in a valid model.
    Frames,
    /// Index into a look-up table. Always fits in a valid model.
    LookUpIndex,
    /// Inputs of a recurrence at the binary point of its products.
    StateAlign,
    /// A single product that saturates on its own.
    Product,
    /// Sums of a recurrence's products and inputs.
    StateSum,
    /// Sum of products of a separable convolution's depthwise half.
    DepthwiseAccumulator,
    /// Sum of products.
    Accumulator,
    /// Sum of products and bias.
    BiasAdd,
    /// Sum of a pooling area.
    PoolSum,
    /// First operand of an Add after alignment.
    AlignLeft,
    /// Second operand of an Add after alignment.
    AlignRight,
    /// Sum of the two operands of an Add.
    Sum,
    /// Channels aligned by Flatten within their own width.
    FlattenAlign,
    /// Product of the output quantizer with its integer scale.
    ScaleMultiply,
    /// Result of the output quantizer, clipped to its range by design.
    OutputRescale,
}

impl Stage {
    /// Every stage, in the order of execution within a layer.
    pub const ALL: [Self; 19] = [
        Self::Input,
        Self::ZeroPoint,
        Self::InputExpand,
        Self::PaddedInput,
        Self::Frames,
        Self::LookUpIndex,
        Self::StateAlign,
        Self::Product,
        Self::StateSum,
        Self::DepthwiseAccumulator,
        Self::Accumulator,
        Self::BiasAdd,
        Self::PoolSum,
        Self::AlignLeft,
        Self::AlignRight,
        Self::Sum,
        Self::FlattenAlign,
        Self::ScaleMultiply,
        Self::OutputRescale,
    ];

    /// Returns the name used in reports, such as `bias_add`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::ZeroPoint => "zero_point",
            Self::InputExpand => "input_expand",
            Self::PaddedInput => "padded_input",
            Self::Frames => "frames",
            Self::LookUpIndex => "look_up_index",
            Self::StateAlign => "state_align",
            Self::Product => "product",
            Self::StateSum => "state_sum",
            Self::DepthwiseAccumulator => "dw_accumulator",
            Self::Accumulator => "accumulator",
            Self::BiasAdd => "bias_add",
            Self::PoolSum => "pool_sum",
            Self::AlignLeft => "align_left",
            Self::AlignRight => "align_right",
            Self::Sum => "sum",
            Self::FlattenAlign => "flatten_align",
            Self::ScaleMultiply => "scale_multiply",
            Self::OutputRescale => "output_rescale",
        }
    }

    /// Returns whether it is something that a layer holds as it is: a run does not look at it, since
    /// nothing is computed and nothing saturates there.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::PaddedInput | Self::Frames | Self::LookUpIndex)
    }

    /// Returns whether saturation here is what the format asks for, not an overflow of a buffer.
    #[must_use]
    pub const fn clips_by_design(self) -> bool {
        matches!(self, Self::OutputRescale | Self::Input | Self::ZeroPoint)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Saturations and the largest magnitude at one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageCount {
    /// Values that did not fit and were clipped.
    pub saturated: u64,
    /// Values seen.
    pub elements: u64,
    /// Largest magnitude before clipping.
    pub max_abs: u64,
}

impl StageCount {
    /// Saturates `value` to `value_bits` and counts it.
    #[inline]
    pub fn saturate(&mut self, value: i64, value_bits: ValueBits) -> i64 {
        let clipped = value_bits.saturate(value);
        self.saturated += u64::from(clipped != value);
        self.elements += 1;
        self.max_abs = self.max_abs.max(value.unsigned_abs());
        clipped
    }

    /// Adds the counts of other values of the same stage; the order of merging does not matter.
    pub fn merge(&mut self, other: Self) {
        self.saturated += other.saturated;
        self.elements += other.elements;
        self.max_abs = self.max_abs.max(other.max_abs);
    }
}

/// Sees every intermediate of a layer before it saturates.
///
/// [`Counters`] counts; another observer may keep what it needs of each channel.
pub trait Observe {
    /// Sees one value of `channel` at `stage`, which has `value_bits` bits there.
    fn see(&mut self, stage: Stage, channel: usize, value: i64, value_bits: ValueBits);

    /// Sees a value and returns it saturated.
    fn saturate(&mut self, stage: Stage, channel: usize, value: i64, bits: ValueBits) -> i64 {
        self.see(stage, channel, value, bits);
        bits.saturate(value)
    }
}

/// Counts of each stage that a layer has.
// In order, each once: a layer has few, and a map would take as long as what is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Vec<(Stage, StageCount)>);

impl Observe for Counters {
    fn see(&mut self, stage: Stage, _channel: usize, value: i64, value_bits: ValueBits) {
        self.count(stage).saturate(value, value_bits);
    }
}

impl Counters {
    /// Adds the counts of some values of `stage`.
    pub fn add(&mut self, stage: Stage, count: StageCount) {
        self.count(stage).merge(count);
    }

    fn count(&mut self, stage: Stage) -> &mut StageCount {
        let place = self.0.binary_search_by_key(&stage, |(stage, _)| *stage);
        let at = place.unwrap_or_else(|at| {
            self.0.insert(at, (stage, StageCount::default()));
            at
        });
        &mut self.0[at].1
    }

    /// Adds all counts of `other`; the order of merging does not matter.
    pub fn merge(&mut self, other: &Self) {
        for (stage, count) in &other.0 {
            self.add(*stage, *count);
        }
    }

    /// Returns the count of `stage`, if the layer has it.
    #[must_use]
    pub fn get(&self, stage: Stage) -> Option<StageCount> {
        let place = self.0.binary_search_by_key(&stage, |(stage, _)| *stage);
        place.ok().map(|at| self.0[at].1)
    }

    /// Returns the stages that occurred, in order of execution.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, StageCount)> {
        self.0.iter().copied()
    }

    /// Returns how many values overflowed a buffer; clipping by design is not counted.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.iter()
            .filter(|(stage, _)| !stage.clips_by_design())
            .map(|(_, c)| c.saturated)
            .sum()
    }
}

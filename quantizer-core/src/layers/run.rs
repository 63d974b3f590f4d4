//! The scalar definition of a layer's arithmetic.

use ndarray::{Array4, ArrayD};

use super::{
    EntryStage, IntegerLayer, IntegerOp, Memory, linear, pool, shape, temporal, transposed,
};
use crate::bits::ValueBits;
use crate::counters::{Counters, Stage};
use crate::round::shift_left;
use crate::{NumericsError, PerAxis};

/// Checks that a sum of `n_terms` products cannot overflow an `i64`.
///
/// ```text
/// n_terms * 2^input_bits * 2^weight_bits < 2^62
/// ```
///
/// # Errors
///
/// It could; such a layer is not supported.
pub fn check_accumulator(
    input_bits: ValueBits,
    weight_bits: ValueBits,
    n_terms: usize,
) -> Result<(), NumericsError> {
    let product_bits = u32::from(input_bits.bits()) + u32::from(weight_bits.bits());
    let term_bits = usize::BITS - n_terms.leading_zeros();
    if product_bits + term_bits <= 62 {
        return Ok(());
    }
    Err(NumericsError::Unsupported(format!(
        "sums of {n_terms} products of {input_bits} and {weight_bits} bits exceed 62 bits"
    )))
}

impl IntegerLayer {
    /// Returns the outputs for integer inputs `[batch, ...]` of the formats it was prepared for.
    ///
    /// A temporal layer starts from an empty memory: see [`run_step`](Self::run_step).
    ///
    /// # Errors
    ///
    /// Inputs whose number or shape the layer cannot take.
    pub fn run(
        &self,
        inputs: &[&ArrayD<i64>],
        counters: &mut Counters,
    ) -> Result<ArrayD<i64>, NumericsError> {
        self.run_step(inputs, &mut Memory::default(), counters)
    }

    /// Returns the outputs for the next inputs `[batch, ...]` of a sequence.
    ///
    /// `memory` is what the layer remembers of the steps before; other layers leave it alone.
    ///
    /// # Errors
    ///
    /// Inputs whose number or shape the layer cannot take, or whose extents differ from those of
    /// the step before.
    pub fn run_step(
        &self,
        inputs: &[&ArrayD<i64>],
        memory: &mut Memory,
        counters: &mut Counters,
    ) -> Result<ArrayD<i64>, NumericsError> {
        if inputs.len() != self.entries.len() {
            let (got, want) = (inputs.len(), self.entries.len());
            return Err(NumericsError::Invalid(format!(
                "{got} inputs, expected {want}"
            )));
        }
        let entered: Vec<ArrayD<i64>> = self
            .entries
            .iter()
            .zip(inputs)
            .map(|(entry, x)| entry.apply(x, counters))
            .collect::<Result<_, _>>()?;
        let mut y = self.op_result(&entered, memory, counters)?;
        if let Some(bias) = &self.bias {
            let bias = bias.aligned(self.inner.value_bits);
            each_channel(&mut y, |v, c| {
                counters.saturate(Stage::BiasAdd, v + bias.at(c), self.inner.value_bits)
            });
        }
        if let Some(output) = &self.output {
            each_channel(&mut y, |v, c| output.apply(v, c, counters));
        }
        Ok(y)
    }

    fn op_result(
        &self,
        inputs: &[ArrayD<i64>],
        memory: &mut Memory,
        counters: &mut Counters,
    ) -> Result<ArrayD<i64>, NumericsError> {
        let bits = self.inner.value_bits;
        let first = inputs
            .first()
            .ok_or_else(|| NumericsError::Invalid("no input".to_owned()))?;
        let mut sums = |sums, stage| Ok(saturated(sums, stage, bits, counters));
        match &self.op {
            IntegerOp::Conv2D(op) => {
                let acc = linear::conv2d(&image(first)?, op)?.into_dyn();
                sums(acc, Stage::Accumulator)
            }
            IntegerOp::DepthwiseConv2D(op) => {
                let acc = linear::depthwise_conv2d(&image(first)?, op)?.into_dyn();
                sums(acc, Stage::Accumulator)
            }
            IntegerOp::SeparableConv2D {
                depthwise,
                pointwise,
            } => {
                let acc = linear::depthwise_conv2d(&image(first)?, depthwise)?.into_dyn();
                let inner = sums(acc, Stage::DepthwiseAccumulator)?;
                sums(linear::dense(&inner, pointwise)?, Stage::Accumulator)
            }
            IntegerOp::Conv2DTranspose(op) => {
                let acc = transposed::conv2d_transpose(&image(first)?, op)?.into_dyn();
                sums(acc, Stage::Accumulator)
            }
            IntegerOp::DepthwiseConv2DTranspose(op) => {
                let acc = transposed::depthwise_conv2d_transpose(&image(first)?, op)?.into_dyn();
                sums(acc, Stage::Accumulator)
            }
            IntegerOp::Dense { kernel } => sums(linear::dense(first, kernel)?, Stage::Accumulator),
            IntegerOp::StatefulProjection { kernel, subsample } => {
                let steps = temporal::subsampled(first, *subsample)?;
                sums(linear::dense(&steps, kernel)?, Stage::Accumulator)
            }
            IntegerOp::BufferTempConv { kernel, n_frames } => {
                let window = memory.push(first, *n_frames)?;
                sums(linear::dense(&window, kernel)?, Stage::Accumulator)
            }
            IntegerOp::DepthwiseBufferTempConv { kernel } => {
                let window = memory.push(first, kernel.nrows())?;
                let acc = temporal::depthwise_frames(&window, kernel, bits, counters)?;
                Ok(saturated(acc, Stage::Accumulator, bits, counters))
            }
            IntegerOp::StatefulRecurrent(op) => {
                let bits = self.entries[0].value_bits;
                temporal::recur(first, op, bits, memory, counters)
            }
            IntegerOp::ReLU { max } => Ok(rectified(first.clone(), max.as_ref())),
            IntegerOp::LookUp { table } => looked_up(first, table),
            IntegerOp::MaxPool2D(op) => Ok(pool::max_pool2d(&image(first)?, *op)?.into_dyn()),
            IntegerOp::GlobalAveragePooling2D { keepdims } => {
                sums(pool::sum_pixels(&image(first)?, *keepdims), Stage::PoolSum)
            }
            IntegerOp::Add => sums(added(first, &inputs[1])?, Stage::Sum),
            IntegerOp::Concatenate(axis) => shape::concatenated(inputs, *axis),
            IntegerOp::Flatten => shape::reshaped(first, &[-1]),
            IntegerOp::Reshape { target_shape } => shape::reshaped(first, target_shape),
            IntegerOp::Permute { dims } => shape::permuted(first, dims),
            IntegerOp::ExtractToken { token, axis } => shape::extracted(first, *token, *axis),
            IntegerOp::Identity => Ok(first.clone()),
        }
    }
}

impl EntryStage {
    /// Returns whether inputs pass unchanged.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.shift.as_slice().iter().all(|shift| *shift == 0)
    }

    /// Returns the aligned inputs: `saturate(x << shift)`.
    fn apply(
        &self,
        x: &ArrayD<i64>,
        counters: &mut Counters,
    ) -> Result<ArrayD<i64>, NumericsError> {
        let mut y = x.clone();
        if self.is_identity() {
            return Ok(y);
        }
        let n_channels = x.shape().last().copied().unwrap_or(1);
        if let PerAxis::Axis(shift) = &self.shift
            && shift.len() != n_channels
            && shift.len() != 1
        {
            let n_shifts = shift.len();
            return Err(NumericsError::Invalid(format!(
                "{n_channels} input channels, expected {n_shifts}"
            )));
        }
        each_channel(&mut y, |v, c| {
            counters.saturate(self.stage, shift_left(v, self.shift.at(c)), self.value_bits)
        });
        Ok(y)
    }
}

fn image(x: &ArrayD<i64>) -> Result<Array4<i64>, NumericsError> {
    x.clone()
        .into_dimensionality()
        .map_err(|_| NumericsError::Invalid(format!("an image batch of shape {:?}", x.shape())))
}

fn each_channel(x: &mut ArrayD<i64>, mut f: impl FnMut(i64, usize) -> i64) {
    let n_channels = x.shape().last().copied().unwrap_or(1).max(1);
    for (i, v) in x.iter_mut().enumerate() {
        *v = f(*v, i.rem_euclid(n_channels));
    }
}

fn saturated(
    mut sums: ArrayD<i64>,
    stage: Stage,
    bits: ValueBits,
    counters: &mut Counters,
) -> ArrayD<i64> {
    each_channel(&mut sums, |v, _| counters.saturate(stage, v, bits));
    sums
}

fn rectified(mut x: ArrayD<i64>, max: Option<&PerAxis<i64>>) -> ArrayD<i64> {
    each_channel(&mut x, |v, c| {
        let positive = v.max(0);
        max.map_or(positive, |max| positive.min(max.at(c)))
    });
    x
}

fn looked_up(x: &ArrayD<i64>, table: &[i32]) -> Result<ArrayD<i64>, NumericsError> {
    let half = i64::try_from(table.len().div_euclid(2)).unwrap_or(i64::MAX);
    let entry = |v: &i64| usize::try_from(v + half).ok().and_then(|i| table.get(i));
    if let Some(v) = x.iter().find(|v| entry(v).is_none()) {
        return Err(NumericsError::Invalid(format!(
            "an input of {v} for a table of {} entries",
            table.len()
        )));
    }
    Ok(x.map(|v| entry(v).copied().map_or(0, i64::from)))
}

fn added(a: &ArrayD<i64>, b: &ArrayD<i64>) -> Result<ArrayD<i64>, NumericsError> {
    if a.shape() == b.shape() {
        return Ok(a + b);
    }
    Err(NumericsError::Invalid(format!(
        "inputs of shapes {:?} and {:?}",
        a.shape(),
        b.shape()
    )))
}

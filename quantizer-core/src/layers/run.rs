//! The scalar definition of a layer's arithmetic.

use ndarray::{Array4, ArrayD, Axis, IxDyn, concatenate};

use super::{EntryStage, IntegerLayer, IntegerOp, linear, pool};
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
    /// # Errors
    ///
    /// Inputs whose number or shape the layer cannot take.
    pub fn run(
        &self,
        inputs: &[&ArrayD<i64>],
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
        let mut y = self.op_result(&entered, counters)?;
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
        counters: &mut Counters,
    ) -> Result<ArrayD<i64>, NumericsError> {
        let bits = self.inner.value_bits;
        let first = inputs
            .first()
            .ok_or_else(|| NumericsError::Invalid("no input".to_owned()))?;
        match &self.op {
            IntegerOp::Conv2D(op) => {
                let sums = linear::conv2d(&image(first)?, op)?;
                Ok(saturated(
                    sums.into_dyn(),
                    Stage::Accumulator,
                    bits,
                    counters,
                ))
            }
            IntegerOp::DepthwiseConv2D(op) => {
                let sums = linear::depthwise_conv2d(&image(first)?, op)?;
                Ok(saturated(
                    sums.into_dyn(),
                    Stage::Accumulator,
                    bits,
                    counters,
                ))
            }
            IntegerOp::SeparableConv2D {
                depthwise,
                pointwise,
            } => {
                let sums = linear::depthwise_conv2d(&image(first)?, depthwise)?.into_dyn();
                let inner = saturated(sums, Stage::DepthwiseAccumulator, bits, counters);
                let sums = linear::dense(&inner, pointwise)?;
                Ok(saturated(sums, Stage::Accumulator, bits, counters))
            }
            IntegerOp::Dense { kernel } => {
                let sums = linear::dense(first, kernel)?;
                Ok(saturated(sums, Stage::Accumulator, bits, counters))
            }
            IntegerOp::ReLU { max } => Ok(rectified(first.clone(), max.as_ref())),
            IntegerOp::MaxPool2D(op) => Ok(pool::max_pool2d(&image(first)?, *op)?.into_dyn()),
            IntegerOp::GlobalAveragePooling2D { keepdims } => {
                let sums = pool::sum_pixels(&image(first)?, *keepdims);
                Ok(saturated(sums, Stage::PoolSum, bits, counters))
            }
            IntegerOp::Add => {
                let sums = added(first, &inputs[1])?;
                Ok(saturated(sums, Stage::Sum, bits, counters))
            }
            IntegerOp::Concatenate => {
                let views: Vec<_> = inputs.iter().map(|x| x.view()).collect();
                let last = first.ndim().saturating_sub(1);
                concatenate(Axis(last), &views).map_err(|e| NumericsError::Invalid(e.to_string()))
            }
            IntegerOp::Flatten => reshaped(first, &[-1]),
            IntegerOp::Reshape { target_shape } => reshaped(first, target_shape),
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

/// Returns `x` with the extents of its items replaced; one of them may be -1.
fn reshaped(x: &ArrayD<i64>, target: &[isize]) -> Result<ArrayD<i64>, NumericsError> {
    let refused = || {
        let shape = x.shape();
        NumericsError::Invalid(format!("items of shape {:?} as {target:?}", &shape[1..]))
    };
    let batch = x.shape().first().copied().ok_or_else(refused)?;
    let known: usize = target
        .iter()
        .filter_map(|d| usize::try_from(*d).ok())
        .product();
    let open = x.shape()[1..]
        .iter()
        .product::<usize>()
        .checked_div(known)
        .ok_or_else(refused)?;
    let dims = target.iter().map(|d| usize::try_from(*d).unwrap_or(open));
    let shape: Vec<usize> = std::iter::once(batch).chain(dims).collect();
    x.as_standard_layout()
        .into_owned()
        .into_shape_with_order(IxDyn(&shape))
        .map_err(|_| refused())
}

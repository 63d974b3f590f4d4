//! Static bounds that choose types: what the values of a tensor can be, whatever the inputs.

use float_model::Dtype;
use quantizer_core::layers::{Border, IntegerLayer, IntegerOp};
use quantizer_core::round::shift_left;
use quantizer_core::{QFormat, ValueBits};

use crate::model::{InputKind, QuantizedOp};

/// Closed interval of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) lo: i64,
    pub(crate) hi: i64,
}

impl Interval {
    fn of_bits(bits: ValueBits) -> Self {
        Self {
            lo: bits.int_min(),
            hi: bits.int_max(),
        }
    }

    /// Returns the largest magnitude.
    pub(crate) fn max_abs(self) -> u64 {
        self.lo.unsigned_abs().max(self.hi.unsigned_abs())
    }

    /// Returns whether all of `other` is in it.
    pub(crate) const fn includes(self, other: Self) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }

    fn union(self, other: Self) -> Self {
        Self {
            lo: self.lo.min(other.lo),
            hi: self.hi.max(other.hi),
        }
    }

    fn is_non_negative(self) -> bool {
        self.lo >= 0
    }
}

/// Returns an interval of the outputs of a node, `None` for floats.
pub(crate) fn output_interval(op: &QuantizedOp, inputs: &[Option<Interval>]) -> Option<Interval> {
    match op {
        QuantizedOp::Input(InputKind::Raw { dtype, format }) => Some(raw(*dtype, format)),
        QuantizedOp::InputQuantizer { quantizer, .. } => {
            Some(Interval::of_bits(quantizer.value_bits))
        }
        QuantizedOp::Integer(layer) => integer(layer, inputs),
        QuantizedOp::Input(InputKind::Float(_))
        | QuantizedOp::Dequantizer(_)
        | QuantizedOp::Float(_) => None,
    }
}

/// Returns an interval of the values after the entry stage of the first input.
pub(crate) fn entered(layer: &IntegerLayer, input: Interval) -> Interval {
    let Some(entry) = layer.entries.first() else {
        return input;
    };
    if entry.is_identity() {
        return input;
    }
    let most = entry.shift.as_slice().iter().copied().max().unwrap_or(0);
    let least = entry.shift.as_slice().iter().copied().min().unwrap_or(0);
    let shifted = |v: i64, s: u32| entry.value_bits.saturate(shift_left(v, s));
    let ends = [
        shifted(input.lo, most),
        shifted(input.lo, least),
        shifted(input.hi, most),
        shifted(input.hi, least),
    ];
    Interval {
        lo: ends.into_iter().min().unwrap_or(0),
        hi: ends.into_iter().max().unwrap_or(0),
    }
}

/// Returns the values that a convolution's border adds to those of its input.
pub(crate) fn with_border(interval: Interval, border: &Border) -> Interval {
    match border {
        Border::Valid => interval,
        Border::Same => with_zero(interval),
        Border::Value(values) => values
            .as_slice()
            .iter()
            .fold(interval, |all, v| all.union(Interval { lo: *v, hi: *v })),
    }
}

/// Returns the interval with zero in it.
pub(crate) fn with_zero(interval: Interval) -> Interval {
    interval.union(Interval { lo: 0, hi: 0 })
}

fn raw(dtype: Dtype, format: &QFormat) -> Interval {
    let full = Interval::of_bits(format.value_bits);
    match dtype {
        Dtype::UInt8 | Dtype::UInt16 => Interval { lo: 0, ..full },
        Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Float32 => full,
    }
}

fn integer(layer: &IntegerLayer, inputs: &[Option<Interval>]) -> Option<Interval> {
    let inputs: Vec<Interval> = inputs.iter().copied().collect::<Option<_>>()?;
    let first = *inputs.first()?;
    let inner = Interval::of_bits(layer.inner.value_bits);
    let all_non_negative = inputs.iter().all(|input| input.is_non_negative());
    let result = match &layer.op {
        IntegerOp::ReLU { max } => {
            let largest = max
                .as_ref()
                .and_then(|max| max.as_slice().iter().copied().max());
            Interval {
                lo: 0,
                hi: first.hi.max(0).min(largest.unwrap_or(i64::MAX)),
            }
        }
        IntegerOp::LookUp { table } => Interval {
            lo: table.iter().copied().min().unwrap_or(0).into(),
            hi: table.iter().copied().max().unwrap_or(0).into(),
        },
        IntegerOp::MaxPool2D(_)
        | IntegerOp::Identity
        | IntegerOp::Reshape { .. }
        | IntegerOp::Permute { .. }
        | IntegerOp::ExtractToken { .. } => first,
        IntegerOp::Concatenate(_) => inputs.iter().skip(1).fold(first, |all, i| all.union(*i)),
        IntegerOp::Flatten => entered(layer, first),
        IntegerOp::Add | IntegerOp::GlobalAveragePooling2D { .. } if all_non_negative => {
            Interval { lo: 0, ..inner }
        }
        IntegerOp::Add
        | IntegerOp::GlobalAveragePooling2D { .. }
        | IntegerOp::Conv2D(_)
        | IntegerOp::DepthwiseConv2D(_)
        | IntegerOp::SeparableConv2D { .. }
        | IntegerOp::Conv2DTranspose(_)
        | IntegerOp::DepthwiseConv2DTranspose(_)
        | IntegerOp::Dense { .. }
        | IntegerOp::StatefulProjection { .. }
        | IntegerOp::BufferTempConv { .. }
        | IntegerOp::DepthwiseBufferTempConv { .. }
        | IntegerOp::StatefulRecurrent(_) => inner,
    };
    Some(match &layer.output {
        None => result,
        Some(output) => {
            // Shifts and positive scales keep the sign.
            let full = Interval::of_bits(output.value_bits);
            if result.is_non_negative() {
                Interval { lo: 0, ..full }
            } else {
                full
            }
        }
    })
}

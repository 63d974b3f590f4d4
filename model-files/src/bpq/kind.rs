//! Operations: their header and tensors.

use ndarray::{Array, Array1, ArrayD, Dimension};
use quantizer_core::geometry::Padding;
use quantizer_core::layers::{
    Border, ConcatAxis, ConvOp, DepthwiseOp, DepthwiseTransposedOp, IntegerOp, PoolOp, RecurrentOp,
    TransposedOp,
};
use quantizer_core::quantizers::OutputStage;
use quantizer_core::{PerAxis, ValueBits};

use super::header::{BorderHeader, KindHeader, PaddingHeader};
use super::tensors::{Read, Written};

#[expect(clippy::too_many_lines, reason = "one short arm an operation")]
/// Adds the tensors of an operation of the layer `name` and returns its header.
pub(super) fn write(name: &str, op: &IntegerOp, tensors: &mut Written) -> KindHeader {
    match op {
        IntegerOp::Conv2D(op) => {
            tensors.integers(format!("{name}/kernel"), &op.kernel);
            let border = match &op.border {
                Border::Valid => BorderHeader::Valid,
                Border::Same => BorderHeader::Same,
                Border::Value(values) => {
                    tensors.per_axis(format!("{name}/border"), values);
                    BorderHeader::Value
                }
            };
            KindHeader::Conv2d {
                strides: op.strides,
                dilation: op.dilation,
                border,
            }
        }
        IntegerOp::DepthwiseConv2D(op) => {
            tensors.integers(format!("{name}/kernel"), &op.kernel);
            let (strides, dilation) = (op.strides, op.dilation);
            KindHeader::DepthwiseConv2d {
                strides,
                dilation,
                padding: padding(op.padding),
            }
        }
        IntegerOp::SeparableConv2D {
            depthwise: op,
            pointwise,
        } => {
            tensors.integers(format!("{name}/kernel"), &op.kernel);
            tensors.integers(format!("{name}/pointwise"), pointwise);
            let (strides, dilation) = (op.strides, op.dilation);
            KindHeader::SeparableConv2d {
                strides,
                dilation,
                padding: padding(op.padding),
            }
        }
        IntegerOp::Dense { kernel } => {
            tensors.integers(format!("{name}/kernel"), kernel);
            KindHeader::Dense
        }
        IntegerOp::Conv2DTranspose(op) => {
            tensors.integers(format!("{name}/kernel"), &op.kernel);
            KindHeader::Conv2dTranspose {
                strides: op.strides,
                padding: padding(op.padding),
                output_padding: op.output_padding,
            }
        }
        IntegerOp::DepthwiseConv2DTranspose(op) => {
            tensors.integers(format!("{name}/kernel"), &op.kernel);
            KindHeader::DepthwiseConv2dTranspose {
                strides: op.strides,
            }
        }
        IntegerOp::StatefulProjection { kernel, subsample } => {
            tensors.integers(format!("{name}/kernel"), kernel);
            let subsample = *subsample;
            KindHeader::StatefulProjection { subsample }
        }
        IntegerOp::BufferTempConv { kernel, n_frames } => {
            tensors.integers(format!("{name}/kernel"), kernel);
            let n_frames = *n_frames;
            KindHeader::BufferTempConv { n_frames }
        }
        IntegerOp::DepthwiseBufferTempConv { kernel } => {
            tensors.integers(format!("{name}/kernel"), kernel);
            KindHeader::DepthwiseBufferTempConv
        }
        IntegerOp::StatefulRecurrent(op) => write_recurrence(name, op, tensors),
        IntegerOp::LookUp { table } => {
            tensors.integers(format!("{name}/table"), &Array1::from_vec(table.clone()));
            KindHeader::LookUp
        }
        IntegerOp::ReLU { max } => {
            if let Some(max) = max {
                tensors.per_axis(format!("{name}/max"), max);
            }
            KindHeader::Relu {
                has_max: max.is_some(),
            }
        }
        IntegerOp::MaxPool2D(pool) => KindHeader::MaxPool2d {
            pool_size: pool.pool_size,
            strides: pool.strides,
            padding: padding(pool.padding),
        },
        IntegerOp::GlobalAveragePooling2D { keepdims } => KindHeader::GlobalAveragePooling2d {
            keepdims: *keepdims,
        },
        IntegerOp::Add => KindHeader::Add,
        IntegerOp::Concatenate(axis) => KindHeader::Concatenate {
            axis: match axis {
                ConcatAxis::Channels => None,
                ConcatAxis::Leading(axis) => Some(*axis),
            },
        },
        IntegerOp::Permute { dims } => KindHeader::Permute { dims: dims.clone() },
        IntegerOp::ExtractToken { token, axis } => KindHeader::ExtractToken {
            token: *token,
            axis: *axis,
        },
        IntegerOp::Flatten => KindHeader::Flatten,
        IntegerOp::Reshape { target_shape } => KindHeader::Reshape {
            target_shape: target_shape.clone(),
        },
        IntegerOp::Identity => KindHeader::Identity,
    }
}

#[expect(clippy::too_many_lines, reason = "one short arm an operation")]
/// Takes the operation of the layer `name` from its header and tensors.
pub(super) fn read(
    name: &str,
    kind: KindHeader,
    tensors: &mut Read<'_>,
) -> Result<IntegerOp, String> {
    Ok(match kind {
        KindHeader::Conv2d {
            strides,
            dilation,
            border,
        } => {
            let border = match border {
                BorderHeader::Valid => Border::Valid,
                BorderHeader::Same => Border::Same,
                BorderHeader::Value => Border::Value(tensors.per_axis(&format!("{name}/border"))?),
            };
            let kernel = kernel(name, tensors)?;
            IntegerOp::Conv2D(ConvOp {
                kernel,
                strides,
                dilation,
                border,
            })
        }
        KindHeader::DepthwiseConv2d {
            strides,
            dilation,
            padding,
        } => {
            let kernel = kernel(name, tensors)?;
            let padding = read_padding(padding);
            IntegerOp::DepthwiseConv2D(DepthwiseOp {
                kernel,
                strides,
                dilation,
                padding,
            })
        }
        KindHeader::SeparableConv2d {
            strides,
            dilation,
            padding,
        } => {
            let kernel = kernel(name, tensors)?;
            let padding = read_padding(padding);
            IntegerOp::SeparableConv2D {
                depthwise: DepthwiseOp {
                    kernel,
                    strides,
                    dilation,
                    padding,
                },
                pointwise: ranked(tensors.integers(&format!("{name}/pointwise"))?)?,
            }
        }
        KindHeader::Dense => IntegerOp::Dense {
            kernel: kernel(name, tensors)?,
        },
        KindHeader::Conv2dTranspose {
            strides,
            padding,
            output_padding,
        } => IntegerOp::Conv2DTranspose(TransposedOp {
            kernel: kernel(name, tensors)?,
            strides,
            padding: read_padding(padding),
            output_padding,
        }),
        KindHeader::DepthwiseConv2dTranspose { strides } => {
            let kernel = kernel(name, tensors)?;
            IntegerOp::DepthwiseConv2DTranspose(DepthwiseTransposedOp { kernel, strides })
        }
        KindHeader::StatefulProjection { subsample } => IntegerOp::StatefulProjection {
            kernel: kernel(name, tensors)?,
            subsample,
        },
        KindHeader::BufferTempConv { n_frames } => IntegerOp::BufferTempConv {
            kernel: kernel(name, tensors)?,
            n_frames,
        },
        KindHeader::DepthwiseBufferTempConv => IntegerOp::DepthwiseBufferTempConv {
            kernel: kernel(name, tensors)?,
        },
        KindHeader::StatefulRecurrent {
            state_bits,
            has_multiplier,
        } => read_recurrence(name, state_bits, has_multiplier, tensors)?,
        KindHeader::LookUp => {
            let table: Array1<i32> = ranked(tensors.integers(&format!("{name}/table"))?)?;
            IntegerOp::LookUp {
                table: table.to_vec(),
            }
        }
        KindHeader::Relu { has_max: false } => IntegerOp::ReLU { max: None },
        KindHeader::Relu { has_max: true } => IntegerOp::ReLU {
            max: Some(tensors.per_axis(&format!("{name}/max"))?),
        },
        KindHeader::MaxPool2d {
            pool_size,
            strides,
            padding,
        } => IntegerOp::MaxPool2D(PoolOp {
            pool_size,
            strides,
            padding: read_padding(padding),
        }),
        KindHeader::GlobalAveragePooling2d { keepdims } => {
            IntegerOp::GlobalAveragePooling2D { keepdims }
        }
        KindHeader::Add => IntegerOp::Add,
        KindHeader::Concatenate { axis } => {
            IntegerOp::Concatenate(axis.map_or(ConcatAxis::Channels, ConcatAxis::Leading))
        }
        KindHeader::Permute { dims } => IntegerOp::Permute { dims },
        KindHeader::ExtractToken { token, axis } => IntegerOp::ExtractToken { token, axis },
        KindHeader::Flatten => IntegerOp::Flatten,
        KindHeader::Reshape { target_shape } => IntegerOp::Reshape { target_shape },
        KindHeader::Identity => IntegerOp::Identity,
    })
}

fn write_recurrence(name: &str, op: &RecurrentOp, tensors: &mut Written) -> KindHeader {
    for (part, factors) in ["real", "imag"].into_iter().zip(&op.factors) {
        let factors = PerAxis::Axis(factors.clone());
        tensors.per_axis(format!("{name}/a_{part}"), &factors);
    }
    if let Some(q) = &op.multiplier {
        tensors.per_axis(format!("{name}/input_multiplier"), q);
    }
    tensors.per_axis(format!("{name}/input_shift"), &op.input_shift);
    tensors.per_axis(format!("{name}/state_shift"), &op.state.shift);
    KindHeader::StatefulRecurrent {
        state_bits: op.state.value_bits.bits(),
        has_multiplier: op.multiplier.is_some(),
    }
}

fn read_recurrence(
    name: &str,
    state_bits: u8,
    has_multiplier: bool,
    tensors: &mut Read<'_>,
) -> Result<IntegerOp, String> {
    let mut factors = |part: &str| -> Result<Vec<i64>, String> {
        let factors: PerAxis<i64> = tensors.per_axis(&format!("{name}/a_{part}"))?;
        Ok(factors.as_slice().to_vec())
    };
    let factors = [factors("real")?, factors("imag")?];
    let multiplier = match has_multiplier {
        true => Some(tensors.per_axis(&format!("{name}/input_multiplier"))?),
        false => None,
    };
    Ok(IntegerOp::StatefulRecurrent(RecurrentOp {
        factors,
        multiplier,
        input_shift: tensors.per_axis(&format!("{name}/input_shift"))?,
        state: OutputStage {
            multiplier: None,
            shift: tensors.per_axis(&format!("{name}/state_shift"))?,
            value_bits: ValueBits::new(state_bits).map_err(|e| e.to_string())?,
        },
    }))
}

fn kernel<D: Dimension>(name: &str, tensors: &mut Read<'_>) -> Result<Array<i32, D>, String> {
    ranked(tensors.integers(&format!("{name}/kernel"))?)
}

fn ranked<D: Dimension>(array: ArrayD<i32>) -> Result<Array<i32, D>, String> {
    let shape = array.shape().to_vec();
    array
        .into_dimensionality()
        .map_err(|_| format!("a kernel of extents {shape:?}"))
}

const fn padding(padding: Padding) -> PaddingHeader {
    match padding {
        Padding::Same => PaddingHeader::Same,
        Padding::Valid => PaddingHeader::Valid,
    }
}

const fn read_padding(padding: PaddingHeader) -> Padding {
    match padding {
        PaddingHeader::Same => Padding::Same,
        PaddingHeader::Valid => Padding::Valid,
    }
}

//! Small networks: layers in a row.

use proptest::prelude::*;

use crate::layers::{self, Weighted, Window};
use crate::quantizers::Output;
use crate::strategies;
use crate::tensor::{Refused, Tensor};

/// One layer of a small network.
#[derive(Clone, Debug)]
pub enum Step {
    /// A convolution, kernel `[size, channels, filters]` row-major.
    Conv2D {
        /// Float kernel.
        kernel: Vec<f32>,
        /// Output channels.
        filters: usize,
        /// The window.
        window: Window,
        /// Its quantization.
        params: Weighted,
    },
    /// A rectifier.
    ReLU {
        /// Upper clip.
        max_value: Option<f32>,
        /// Its output quantizer.
        output: Output,
    },
    /// A sliding maximum.
    MaxPool2D(Window),
    /// A mean over height and width.
    GlobalAveragePooling2D(Output),
    /// A matrix product, kernel `[channels, units]` row-major.
    Dense {
        /// Float kernel.
        kernel: Vec<f32>,
        /// Output channels.
        units: usize,
        /// Its quantization.
        params: Weighted,
    },
}

/// A small network and an input for it.
#[derive(Clone, Debug)]
pub struct Network {
    /// Input, raw integers.
    pub input: Tensor,
    /// Layers in a row.
    pub steps: Vec<Step>,
}

impl Network {
    /// Returns the output of every layer, up to the first one that the definitions refuse.
    #[must_use]
    pub fn outputs(&self) -> Vec<Result<Tensor, Refused>> {
        let mut outputs = Vec::new();
        let mut x = self.input.clone();
        for step in &self.steps {
            let y = step.run(&x);
            let next = y.clone();
            outputs.push(y);
            match next {
                Ok(next) => x = next,
                Err(_) => break,
            }
        }
        outputs
    }
}

impl Step {
    /// Returns the output of the layer.
    ///
    /// # Errors
    ///
    /// What the definition refuses.
    pub fn run(&self, x: &Tensor) -> Result<Tensor, Refused> {
        match self {
            Self::Conv2D {
                kernel,
                filters,
                window,
                params,
            } => layers::conv2d(x, kernel, *filters, window, None, params),
            Self::ReLU { max_value, output } => layers::relu(x, *max_value, 32, Some(output)),
            Self::MaxPool2D(window) => Ok(layers::max_pool2d(x, window)),
            Self::GlobalAveragePooling2D(output) => {
                layers::global_average_pooling2d(x, 32, Some(output))
            }
            Self::Dense {
                kernel,
                units,
                params,
            } => layers::dense(x, kernel, *units, params),
        }
    }
}

/// A convolution, ReLU, pooling, convolution, ReLU, global pooling and Dense on raw pixels.
pub fn small_network() -> impl Strategy<Value = Network> {
    (
        strategies::image_shape(),
        [2..5_usize, 1..5, 1..4],
        strategies::window(),
        1..12_u32,
    )
        .prop_flat_map(|(shape, [c1, c2, units], window, weight_bits)| {
            let c0 = shape[3];
            let first = Window {
                same: true,
                ..window
            };
            let pointwise = Window {
                size: [1, 1],
                strides: [1, 1],
                dilation: [1, 1],
                same: true,
            };
            let pool = Window {
                size: [2, 2],
                strides: [2, 2],
                dilation: [1, 1],
                same: true,
            };
            let cells = first.size[0] * first.size[1];
            let weighted = move |bias| weighted(weight_bits, bias);
            let pixels = strategies::integers(shape.iter().product(), 8)
                .prop_map(|v| v.iter().map(|v| (*v).max(0)).collect::<Vec<_>>());
            let kernels = (
                strategies::weights(cells * c0 * c1),
                strategies::weights(c1 * c2),
                strategies::weights(c2 * units),
            );
            let biases = (
                strategies::weights(c1),
                strategies::weights(c2),
                strategies::weights(units),
            );
            let outputs = (narrow(c1), narrow(c2), narrow(1));
            let max = prop_oneof![Just(None), Just(Some(6.0_f32))];
            (pixels, kernels, biases, outputs, max).prop_map(move |(pixels, k, b, o, max_value)| {
                let input = Tensor {
                    shape: shape.to_vec(),
                    values: pixels,
                    value_bits: 8,
                    frac_bits: vec![0],
                    scales: None,
                };
                let conv = |kernel, filters, window, params| Step::Conv2D {
                    kernel,
                    filters,
                    window,
                    params,
                };
                let steps = vec![
                    conv(k.0, c1, first, weighted(b.0)),
                    Step::ReLU {
                        max_value,
                        output: o.0,
                    },
                    Step::MaxPool2D(pool),
                    conv(k.1, c2, pointwise, weighted(b.1)),
                    Step::ReLU {
                        max_value,
                        output: o.1,
                    },
                    Step::GlobalAveragePooling2D(o.2),
                    Step::Dense {
                        kernel: k.2,
                        units,
                        params: weighted(b.2),
                    },
                ];
                Network { input, steps }
            })
        })
}

/// Quantization of a layer with a bias of 8 bits and a buffer of 27.
fn weighted(weight_bits: u32, bias: Vec<f32>) -> Weighted {
    Weighted {
        weight_bits,
        per_tensor: false,
        bias: Some((bias, 8)),
        buffer: 27,
        output: None,
    }
}

/// An output quantizer of few bits, as activations have.
fn narrow(n_channels: usize) -> impl Strategy<Value = Output> {
    (strategies::output(n_channels), 1..9_u32).prop_map(|(output, value_bits)| Output {
        value_bits,
        scale_bits: 8,
        buffer: 32,
        ..output
    })
}

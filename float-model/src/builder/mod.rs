//! Writes a graph layer by layer, in the manner of Keras' functional API.

mod convolution;
mod init;

use ndarray::Array1;
use quantizer_core::PerAxis;

use crate::shape::infer_shape;
use crate::{
    Activation, Add, BatchNormalization, Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D, Draft,
    DraftNode, Dtype, GlobalAveragePooling2D, Graph, GraphError, Input, Layer, Padding, Pool2D,
    ReLU, Rescaling, SeparableConv2D, Shape,
};

pub use convolution::{Bias, Convolution, Extents2};
use init::Glorot;

/// Writes a graph layer by layer.
///
/// Each method adds one layer and returns the place of its output. Shapes of weights follow from
/// the inputs; kernels are Glorot uniform numbers of a seeded generator, biases zeros.
/// [`layer`](Self::layer) takes a layer with weights of its own. The first mistake is reported by
/// [`build`](Self::build).
///
/// ```
/// use float_model::{Convolution, GraphBuilder};
///
/// let mut b = GraphBuilder::new("tutorial");
/// let x = b.input("input", [28, 28, 3]);
/// let x = b.depthwise_conv2d("dw_conv", x, 3);
/// let x = b.conv2d("pw_conv", x, 32, Convolution::new(1).same());
/// let x = b.relu("relu", x);
/// let x = b.dense("dense", x, 10);
/// let graph = b.build([x])?;
/// assert_eq!(graph.summary().total_params(), 488);
/// # Ok::<(), float_model::GraphError>(())
/// ```
#[derive(Debug)]
pub struct GraphBuilder {
    draft: Draft,
    // Invariant: one shape for each node of the draft.
    shapes: Vec<Shape>,
    init: Glorot,
    error: Option<GraphError>,
}

/// The output of a layer that a [`GraphBuilder`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output(usize);

impl GraphBuilder {
    /// Returns an empty graph with the seed 0.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_seed(name, 0)
    }

    /// Returns an empty graph whose kernels are drawn from `seed`.
    #[must_use]
    pub fn with_seed(name: impl Into<String>, seed: u64) -> Self {
        Self {
            draft: Draft {
                name: name.into(),
                ..Draft::default()
            },
            shapes: Vec::new(),
            init: Glorot::new(seed),
            error: None,
        }
    }

    /// Returns the graph.
    ///
    /// # Errors
    ///
    /// The first mistake in the order of the calls, else those of [`Graph::new`].
    pub fn build(self, outputs: impl IntoIterator<Item = Output>) -> Result<Graph, GraphError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut draft = self.draft;
        for output in outputs {
            let node = draft.nodes.get(output.0).ok_or_else(|| foreign("output"))?;
            draft.outputs.push(node.name.clone());
        }
        Graph::new(draft)
    }

    /// Adds a float input of items `[height, width, channels]`, or of another rank.
    pub fn input<const N: usize>(&mut self, name: &str, shape: [usize; N]) -> Output {
        let input = Input {
            shape: shape.map(Some).to_vec(),
            dtype: Dtype::Float32,
        };
        self.layer(name, [], Layer::Input(input))
    }

    /// Adds a layer with its own weights.
    pub fn layer<const N: usize>(
        &mut self,
        name: &str,
        inputs: [Output; N],
        layer: Layer,
    ) -> Output {
        self.push(name, &inputs, Ok(layer))
    }

    /// Adds a convolution, or a grouped one.
    pub fn conv2d(
        &mut self,
        name: &str,
        x: Output,
        filters: usize,
        how: impl Into<Convolution>,
    ) -> Output {
        let how = how.into();
        let layer = self.channels(name, x).map(|channels| {
            let per_group = channels.checked_div(how.groups).unwrap_or(channels);
            let [h, w] = how.kernel_size;
            Layer::Conv2D(Conv2D {
                kernel: self.init.kernel4([h, w, per_group, filters]),
                bias: how.bias_of(filters),
                strides: how.strides,
                padding: how.padding,
                dilation: how.dilation,
                groups: how.groups,
                activation: how.activation,
                padding_value: None,
            })
        });
        self.push(name, &[x], layer)
    }

    /// Adds a depthwise convolution.
    pub fn depthwise_conv2d(
        &mut self,
        name: &str,
        x: Output,
        how: impl Into<Convolution>,
    ) -> Output {
        let layer = self.depthwise(name, x, how.into());
        self.push(name, &[x], layer.map(Layer::DepthwiseConv2D))
    }

    /// Adds a transposed depthwise convolution, which is always 'same'.
    pub fn depthwise_conv2d_transpose(
        &mut self,
        name: &str,
        x: Output,
        how: impl Into<Convolution>,
    ) -> Output {
        let layer = self.depthwise(name, x, how.into().same());
        self.push(name, &[x], layer.map(Layer::DepthwiseConv2DTranspose))
    }

    /// Adds a depthwise convolution followed by a pointwise one.
    pub fn separable_conv2d(
        &mut self,
        name: &str,
        x: Output,
        filters: usize,
        how: impl Into<Convolution>,
    ) -> Output {
        let how = how.into();
        let layer = self.channels(name, x).map(|channels| {
            let [h, w] = how.kernel_size;
            let inner = channels * how.depth_multiplier;
            Layer::SeparableConv2D(SeparableConv2D {
                depthwise_kernel: self.init.kernel4([h, w, channels, how.depth_multiplier]),
                pointwise_kernel: self.init.kernel4([1, 1, inner, filters]),
                bias: how.bias_of(filters),
                strides: how.strides,
                padding: how.padding,
                dilation: how.dilation,
                activation: how.activation,
            })
        });
        self.push(name, &[x], layer)
    }

    /// Adds a transposed convolution.
    pub fn conv2d_transpose(
        &mut self,
        name: &str,
        x: Output,
        filters: usize,
        how: impl Into<Convolution>,
    ) -> Output {
        let how = how.into();
        let layer = self.channels(name, x).map(|channels| {
            let [h, w] = how.kernel_size;
            Layer::Conv2DTranspose(Conv2DTranspose {
                kernel: self.init.kernel4([h, w, filters, channels]),
                bias: how.bias_of(filters),
                strides: how.strides,
                padding: how.padding,
                output_padding: None,
                dilation: how.dilation,
                activation: how.activation,
            })
        });
        self.push(name, &[x], layer)
    }

    /// Adds a matrix product on the last axis, with a bias.
    pub fn dense(&mut self, name: &str, x: Output, units: usize) -> Output {
        let layer = self.channels(name, x).map(|channels| {
            Layer::Dense(Dense {
                kernel: self.init.kernel2([channels, units]),
                bias: Some(Array1::zeros(units)),
                activation: Activation::Linear,
            })
        });
        self.push(name, &[x], layer)
    }

    /// Adds an untrained normalization of the last axis: gain 1, offset 0, mean 0, variance 1,
    /// epsilon 0.001.
    pub fn batch_normalization(&mut self, name: &str, x: Output) -> Output {
        let layer = self.channels(name, x).map(|channels| {
            Layer::BatchNormalization(BatchNormalization {
                gamma: Some(Array1::ones(channels)),
                beta: Some(Array1::zeros(channels)),
                mean: Array1::zeros(channels),
                variance: Array1::ones(channels),
                epsilon: 1e-3,
                axis: -1,
            })
        });
        self.push(name, &[x], layer)
    }

    /// Adds a plain rectifier.
    pub fn relu(&mut self, name: &str, x: Output) -> Output {
        self.layer(name, [x], Layer::ReLU(ReLU::default()))
    }

    /// Adds a rectifier clipped at `max_value`.
    pub fn clipped_relu(&mut self, name: &str, x: Output, max_value: f32) -> Output {
        let relu = ReLU {
            max_value: Some(max_value),
            ..ReLU::default()
        };
        self.layer(name, [x], Layer::ReLU(relu))
    }

    /// Adds an activation.
    pub fn activation(&mut self, name: &str, x: Output, activation: Activation) -> Output {
        self.layer(name, [x], Layer::Activation(activation))
    }

    /// Adds `x * scale + offset`.
    pub fn rescaling(&mut self, name: &str, x: Output, scale: f64, offset: f64) -> Output {
        let layer = Rescaling {
            scale: PerAxis::Tensor(scale),
            offset: PerAxis::Tensor(offset),
        };
        self.layer(name, [x], Layer::Rescaling(layer))
    }

    /// Adds a maximum over windows that lie side by side, 'valid'.
    pub fn max_pool2d(&mut self, name: &str, x: Output, size: impl Into<Extents2>) -> Output {
        self.layer(name, [x], Layer::MaxPool2D(side_by_side(size.into())))
    }

    /// Adds a mean over windows that lie side by side, 'valid'.
    pub fn average_pool2d(&mut self, name: &str, x: Output, size: impl Into<Extents2>) -> Output {
        self.layer(name, [x], Layer::AveragePool2D(side_by_side(size.into())))
    }

    /// Adds a mean over height and width.
    pub fn global_average_pooling2d(&mut self, name: &str, x: Output) -> Output {
        let layer = GlobalAveragePooling2D::default();
        self.layer(name, [x], Layer::GlobalAveragePooling2D(layer))
    }

    /// Adds a sum.
    pub fn add<const N: usize>(&mut self, name: &str, inputs: [Output; N]) -> Output {
        self.layer(name, inputs, Layer::Add(Add::default()))
    }

    /// Adds a concatenation along the last axis.
    pub fn concatenate<const N: usize>(&mut self, name: &str, inputs: [Output; N]) -> Output {
        self.layer(name, inputs, Layer::Concatenate { axis: -1 })
    }

    /// Adds a flattening to one vector an item.
    pub fn flatten(&mut self, name: &str, x: Output) -> Output {
        self.layer(name, [x], Layer::Flatten)
    }

    fn depthwise(
        &mut self,
        name: &str,
        x: Output,
        how: Convolution,
    ) -> Result<DepthwiseConv2D, GraphError> {
        let channels = self.channels(name, x)?;
        let [h, w] = how.kernel_size;
        Ok(DepthwiseConv2D {
            kernel: self.init.kernel4([h, w, channels, how.depth_multiplier]),
            bias: how.bias_of(channels * how.depth_multiplier),
            strides: how.strides,
            padding: how.padding,
            dilation: how.dilation,
            activation: how.activation,
        })
    }

    /// Returns the extent of the last axis, which weights need.
    fn channels(&self, name: &str, x: Output) -> Result<usize, GraphError> {
        let shape = self.shapes.get(x.0);
        shape
            .and_then(|shape| *shape.last()?)
            .ok_or_else(|| GraphError::invalid(name, "needs an input whose last extent is known"))
    }

    /// Adds a layer; the first error is kept, and the shape after an error is empty.
    fn push(&mut self, name: &str, inputs: &[Output], layer: Result<Layer, GraphError>) -> Output {
        let output = Output(self.draft.nodes.len());
        let shape = layer.and_then(|layer| {
            let shapes: Option<Vec<&Shape>> = inputs.iter().map(|x| self.shapes.get(x.0)).collect();
            let shapes = shapes.ok_or_else(|| foreign(name))?;
            let shape = infer_shape(name, &layer, &shapes)?;
            let names = inputs.iter().map(|x| self.draft.nodes[x.0].name.clone());
            let inputs = names.collect();
            let name = name.to_owned();
            self.draft.nodes.push(DraftNode {
                name,
                layer,
                inputs,
            });
            Ok(shape)
        });
        match shape {
            Ok(shape) => self.shapes.push(shape),
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
        output
    }
}

fn side_by_side(Extents2(size): Extents2) -> Pool2D {
    Pool2D {
        pool_size: size,
        strides: size,
        padding: Padding::Valid,
    }
}

fn foreign(name: &str) -> GraphError {
    GraphError::invalid(name, "takes an output of another builder")
}

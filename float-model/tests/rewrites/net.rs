//! Small networks of random weights, and the comparison of two of them.

use float_model::{
    Activation, BatchNormalization, Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D, Draft,
    DraftNode, Dtype, Graph, HardwareRewrites, Input, Layer, Padding, Pool2D, RewriteEvent,
    SanitizeOptions, Sanitized, SeparableConv2D, sanitize,
};
use ndarray::{Array1, Array2, Array4};

use crate::naive::{self, Tensor};

pub(crate) const ON: SanitizeOptions = SanitizeOptions {
    hardware: HardwareRewrites::On,
};
pub(crate) const OFF: SanitizeOptions = SanitizeOptions {
    hardware: HardwareRewrites::Off,
};

/// `SplitMix64`.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number in `[low, high)`.
    pub(crate) fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn vector(&mut self, n: usize, low: f32, high: f32) -> Array1<f32> {
        Array1::from_shape_simple_fn(n, || self.uniform(low, high))
    }

    fn kernel(&mut self, shape: [usize; 4]) -> Array4<f32> {
        Array4::from_shape_simple_fn(shape, || self.uniform(-1.0, 1.0))
    }

    /// Returns a 'same' convolution of stride 1 with a bias.
    pub(crate) fn conv(&mut self, kernel: [usize; 2], channels: usize, filters: usize) -> Conv2D {
        Conv2D {
            kernel: self.kernel([kernel[0], kernel[1], channels, filters]),
            bias: Some(self.vector(filters, -1.0, 1.0)),
            strides: [1, 1],
            padding: Padding::Same,
            dilation: [1, 1],
            groups: 1,
            activation: Activation::Linear,
            padding_value: None,
        }
    }

    pub(crate) fn depthwise(&mut self, kernel: [usize; 2], channels: usize) -> DepthwiseConv2D {
        DepthwiseConv2D {
            kernel: self.kernel([kernel[0], kernel[1], channels, 1]),
            bias: Some(self.vector(channels, -1.0, 1.0)),
            strides: [1, 1],
            padding: Padding::Same,
            dilation: [1, 1],
            activation: Activation::Linear,
        }
    }

    pub(crate) fn separable(&mut self, kernel: [usize; 2], c: usize, f: usize) -> SeparableConv2D {
        SeparableConv2D {
            depthwise_kernel: self.kernel([kernel[0], kernel[1], c, 1]),
            pointwise_kernel: self.kernel([1, 1, c, f]),
            bias: Some(self.vector(f, -1.0, 1.0)),
            strides: [1, 1],
            padding: Padding::Same,
            dilation: [1, 1],
            activation: Activation::Linear,
        }
    }

    pub(crate) fn transpose(&mut self, kernel: [usize; 2], c: usize, f: usize) -> Conv2DTranspose {
        Conv2DTranspose {
            kernel: self.kernel([kernel[0], kernel[1], f, c]),
            bias: Some(self.vector(f, -1.0, 1.0)),
            strides: [2, 2],
            padding: Padding::Same,
            output_padding: None,
            dilation: [1, 1],
            activation: Activation::Linear,
        }
    }

    pub(crate) fn dense(&mut self, channels: usize, units: usize) -> Dense {
        let kernel = || self.uniform(-1.0, 1.0);
        Dense {
            kernel: Array2::from_shape_simple_fn((channels, units), kernel),
            bias: Some(self.vector(units, -1.0, 1.0)),
            activation: Activation::Linear,
        }
    }

    /// Returns a normalization of the last axis with positive gammas.
    pub(crate) fn norm(&mut self, channels: usize) -> BatchNormalization {
        BatchNormalization {
            gamma: Some(self.vector(channels, 0.3, 1.7)),
            beta: Some(self.vector(channels, -1.0, 1.0)),
            mean: self.vector(channels, -1.0, 1.0),
            variance: self.vector(channels, 0.1, 2.0),
            epsilon: 1e-3,
            axis: -1,
        }
    }
}

pub(crate) fn max_pool(size: usize, stride: usize, padding: Padding) -> Layer {
    Layer::MaxPool2D(Pool2D {
        pool_size: [size; 2],
        strides: [stride; 2],
        padding,
    })
}

/// A network in the making, with one input called `input`.
#[derive(Clone, Debug)]
pub(crate) struct Net(Draft);

impl Net {
    pub(crate) fn new(shape: &[usize]) -> Self {
        let shape = shape.iter().copied().map(Some).collect();
        let mut net = Self(Draft::default());
        net.add(
            "input",
            Layer::Input(Input {
                shape,
                dtype: Dtype::Float32,
            }),
            &[],
        );
        net
    }

    pub(crate) fn add(&mut self, name: &str, layer: Layer, inputs: &[&str]) {
        self.0.nodes.push(DraftNode {
            name: name.to_owned(),
            layer,
            inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
        });
    }

    pub(crate) fn graph(mut self, outputs: &[&str]) -> Graph {
        self.0.outputs = outputs.iter().map(|name| (*name).to_owned()).collect();
        Graph::new(self.0).expect("a valid test network")
    }
}

/// Returns the graph of `input -> layer -> ... `, whose last layer is the output.
pub(crate) fn chain(shape: &[usize], layers: Vec<(&str, Layer)>) -> Graph {
    let mut net = Net::new(shape);
    let mut last = "input";
    for (name, layer) in layers {
        net.add(name, layer, &[last]);
        last = name;
    }
    net.graph(&[last])
}

/// Sanitizes, and compares the functions before and after.
pub(crate) fn checked(graph: Graph, options: &SanitizeOptions) -> Sanitized {
    let before = graph.clone();
    let sanitized = sanitize(graph, options).expect("a valid graph stays valid");
    assert_same_function(&before, &sanitized.graph);
    sanitized
}

/// Compares the outputs for random inputs.
///
/// Both graphs are evaluated in f64, so what differs is the rounding of the rewritten weights to
/// f32: a few times `2^-24` of each product, enlarged by cancellation. A relative `1e-4` of the
/// largest output leaves room for that and shows every wrong rewrite.
pub(crate) fn assert_same_function(before: &Graph, after: &Graph) {
    let mut rng = Rng(7);
    let shapes: Vec<Vec<usize>> = before
        .inputs()
        .map(|id| {
            before
                .node(id)
                .shape
                .iter()
                .map(|n| n.unwrap_or(5))
                .collect()
        })
        .collect();
    for _ in 0..2 {
        let tensor = |shape: &Vec<usize>| {
            let n = shape.iter().product();
            let data = (0..n).map(|_| f64::from(rng.uniform(-2.0, 2.0))).collect();
            Tensor {
                shape: shape.clone(),
                data,
            }
        };
        let inputs: Vec<Tensor> = shapes.iter().map(tensor).collect();
        let (a, b) = (naive::run(before, &inputs), naive::run(after, &inputs));
        assert_eq!(a.len(), b.len(), "number of outputs");
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a.shape, b.shape, "shape of an output");
            let largest = a.data.iter().fold(1e-3, |m, v| v.abs().max(m));
            for (a, b) in a.data.iter().zip(&b.data) {
                assert!((a - b).abs() <= 1e-4 * largest, "{a} became {b}");
            }
        }
    }
}

/// Returns `name:class` of each node.
pub(crate) fn names(graph: &Graph) -> Vec<String> {
    let describe = |node: &float_model::Node| format!("{}:{}", node.name, node.layer.class_name());
    graph.nodes().iter().map(describe).collect()
}

/// Returns `rewrite layer: message` of each event.
pub(crate) fn events(events: &[RewriteEvent]) -> Vec<String> {
    let show = |e: &RewriteEvent| format!("{} {}: {}", e.rewrite, e.layer, e.message);
    events.iter().map(show).collect()
}

pub(crate) fn outputs(graph: &Graph) -> Vec<&str> {
    graph
        .outputs()
        .iter()
        .map(|id| graph.node(*id).name.as_str())
        .collect()
}

/// Returns the layer called `name`.
pub(crate) fn layer<'a>(graph: &'a Graph, name: &str) -> &'a Layer {
    &graph
        .node(graph.find(name).expect("a layer of this name"))
        .layer
}

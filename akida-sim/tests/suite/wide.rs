//! Random chains of all kinds of layers that run on integers.
//!
//! A layer that the numerics refuse where it stands (a table for wide inputs, a shift of a whole
//! width) is left out, so every chain is a model.

use akida_sim::{
    CalibratedGraph, CalibratedNode, CalibratedOp, InputQuantizerSpec, OutputRanges,
    QuantizedLayer, QuantizedModel, lower,
};
use config_schema::LayerConfig;
use float_model::{
    Activation, Add, BufferTempConv, Conv2D, Conv2DTranspose, Dense, DepthwiseBufferTempConv,
    DepthwiseConv2D, Dtype, GlobalAveragePooling2D, Input, Layer, Padding, Pool2D, ReLU, Rescaling,
    SeparableConv2D, StatefulProjection, StatefulRecurrent,
};
use ndarray::{Array1, Array2, Array4, ArrayD, IxDyn};
use proptest::prelude::*;
use quantizer_core::PerAxis;
use serde_json::{Value, json};

use crate::random::Numbers;

/// Layers that a chain may take, by number.
pub(crate) const KINDS: u8 = 22;

/// What a chain is made of.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) seed: u64,
    pub(crate) extents: [usize; 2],
    pub(crate) channels: usize,
    /// Numbers of layers.
    pub(crate) kinds: Vec<u8>,
    /// Bits of weights, activations, buffers.
    pub(crate) bits: [u8; 3],
    /// Whether output quantizers have a range for each channel.
    pub(crate) per_axis: bool,
    /// Whether floats come in, through an InputQuantizer.
    pub(crate) float_input: bool,
}

pub(crate) fn chains() -> impl Strategy<Value = Chain> {
    let kinds = proptest::collection::vec(0..KINDS, 1..6);
    let bits = (
        2..9_u8,
        2..12_u8,
        prop_oneof![3 => Just(32_u8), 1 => Just(24), 1 => Just(20), 2 => Just(16), 1 => Just(14)],
    );
    let shape = ([1..6_usize, 1..6_usize], 1..5_usize);
    let flags = (any::<bool>(), any::<bool>());
    (any::<u64>(), shape, kinds, bits, flags).prop_map(
        |(seed, (extents, channels), kinds, (weights, activations, buffer), flags)| Chain {
            seed,
            extents,
            channels,
            kinds,
            bits: [weights, activations, buffer],
            per_axis: flags.0,
            float_input: flags.1,
        },
    )
}

/// Returns the model of a chain, of as many of its layers as go together.
pub(crate) fn model(chain: &Chain) -> QuantizedModel {
    let mut builder = Builder::new(chain);
    for kind in &chain.kinds {
        let (n, last, shape) = (
            builder.nodes.len(),
            builder.last.clone(),
            builder.shape.clone(),
        );
        builder.add(*kind);
        if lower(builder.graph()).is_err() {
            builder.nodes.truncate(n);
            builder.last = last;
            builder.shape = shape;
        }
    }
    lower(builder.graph()).unwrap()
}

/// Returns inputs for a chain: all largest, all least, or noise; `[batch, height, width, channels]`.
pub(crate) fn inputs(chain: &Chain, edge: u8, step: u64) -> ArrayD<f32> {
    let mut numbers = Numbers(chain.seed ^ (0x5EED + step));
    let shape = IxDyn(&[2, chain.extents[0], chain.extents[1], chain.channels]);
    let (low, high) = if chain.float_input {
        (-9.0, 9.0)
    } else {
        (0.0, 255.0)
    };
    ArrayD::from_shape_simple_fn(shape, || match edge {
        0 => high,
        1 => low,
        2 if numbers.next() < 0.0 => low,
        2 => high,
        _ if chain.float_input => numbers.next() * 9.0,
        _ => ((numbers.next() + 1.0) * 127.0).floor(),
    })
}

struct Builder {
    chain: Chain,
    numbers: Numbers,
    nodes: Vec<CalibratedNode>,
    /// Name of the last layer, and the extents of its output without the batch.
    last: String,
    shape: Vec<usize>,
}

impl Builder {
    fn new(chain: &Chain) -> Self {
        let shape = vec![chain.extents[0], chain.extents[1], chain.channels];
        let dtype = if chain.float_input {
            Dtype::Float32
        } else {
            Dtype::UInt8
        };
        let input = Input {
            shape: shape.iter().copied().map(Some).collect(),
            dtype,
        };
        let mut this = Self {
            chain: chain.clone(),
            numbers: Numbers(chain.seed),
            nodes: Vec::new(),
            last: String::new(),
            shape,
        };
        this.push(
            "input",
            &[],
            CalibratedOp::Float(Box::new(Layer::Input(input))),
        );
        if chain.float_input {
            let of = |v: f32| PerAxis::Tensor(v);
            let signed = chain.seed.rem_euclid(2) == 0;
            let spec = InputQuantizerSpec {
                bitwidth: 8,
                signed,
                range_min: of(-2.5),
                range_max: of(5.5),
            };
            this.push("quantizer", &["input"], CalibratedOp::InputQuantizer(spec));
        }
        this
    }

    fn graph(&self) -> CalibratedGraph {
        let mut nodes = self.nodes.clone();
        nodes.push(CalibratedNode {
            name: "dequantizer".to_owned(),
            inputs: vec![self.last.clone()],
            op: CalibratedOp::Dequantizer,
        });
        CalibratedGraph {
            name: "chain".to_owned(),
            nodes,
            outputs: vec!["dequantizer".to_owned()],
        }
    }

    fn push(&mut self, name: &str, inputs: &[&str], op: CalibratedOp) {
        let inputs = inputs.iter().map(|i| (*i).to_owned()).collect();
        let name = name.to_owned();
        self.last.clone_from(&name);
        self.nodes.push(CalibratedNode { name, inputs, op });
    }

    fn channels(&self) -> usize {
        *self.shape.last().unwrap()
    }

    fn weights(&mut self, shape: &[usize]) -> ArrayD<f32> {
        ArrayD::from_shape_simple_fn(IxDyn(shape), || self.numbers.next())
    }

    fn kernel(&mut self, shape: [usize; 4]) -> Array4<f32> {
        self.weights(&shape).into_dimensionality().unwrap()
    }

    fn bias(&mut self, n: usize) -> Option<Array1<f32>> {
        (self.numbers.next() > -0.5)
            .then(|| Array1::from_shape_simple_fn(n, || self.numbers.next()))
    }

    /// Returns a small number, at least 1.
    fn small(&mut self, most: usize) -> usize {
        let mut n = 1;
        while n < most && self.numbers.next() > 0.0 {
            n += 1;
        }
        n
    }

    fn padding(&mut self) -> Padding {
        if self.numbers.next() > -0.3 {
            Padding::Same
        } else {
            Padding::Valid
        }
    }

    /// Adds a quantized layer behind the last one, or behind `others` too.
    fn layer(&mut self, layer: Layer, mut entry: Value, shape: Vec<usize>, others: &[String]) {
        let name = format!("layer_{}", self.nodes.len());
        let ranges = entry.get("output_quantizer").is_some().then(|| {
            let per_axis = entry["output_quantizer"]["axis"] == "per-axis";
            // Ranges of all magnitudes: channels far apart, and dead ones.
            let mut one = || {
                let range = (self.numbers.next() * 4.0).abs();
                match self.numbers.next() {
                    next if next < -0.9 => 0.0,
                    next if next < -0.5 => range * 512.0,
                    _ => range,
                }
            };
            OutputRanges {
                range_max: if per_axis {
                    PerAxis::Axis((0..*shape.last().unwrap()).map(|_| one()).collect())
                } else {
                    PerAxis::Tensor(one())
                },
                rescaling_rate: PerAxis::Tensor(1.0),
            }
        });
        if entry.get("no_buffer").is_some() {
            entry.as_object_mut().unwrap().remove("no_buffer");
        } else {
            entry["buffer_bitwidth"] = json!(self.chain.bits[2]);
        }
        let json = entry.as_object().unwrap();
        let op = CalibratedOp::Quantized(Box::new(QuantizedLayer {
            layer,
            config: LayerConfig::parse(json).unwrap(),
            json: Some(json.clone()),
            ranges,
        }));
        let last = self.last.clone();
        let inputs = std::iter::once(last.as_str()).chain(others.iter().map(String::as_str));
        let inputs: Vec<&str> = inputs.collect();
        self.push(&name, &inputs, op);
        self.shape = shape;
    }

    fn output(&self, signed: bool) -> Value {
        let axis = if self.chain.per_axis && self.shape.len() > 2 {
            "per-axis"
        } else {
            "per-tensor"
        };
        let narrow = self.chain.seed.rem_euclid(3) == 0;
        let buffer = if narrow { self.chain.bits[2] } else { 32 };
        json!({ "bitwidth": self.chain.bits[1], "signed": signed, "axis": axis,
            "buffer_bitwidth": buffer })
    }

    /// Returns the entry of a layer with weights.
    fn weighted(&self, axis: Value) -> Value {
        json!({ "output_quantizer": self.output(true),
            "weight_quantizer": { "bitwidth": self.chain.bits[0], "axis": axis } })
    }

    /// Adds layer number `kind`.
    fn add(&mut self, kind: u8) {
        let is_image = self.shape.len() == 3;
        match kind {
            0..=13 if !is_image => self.on_vectors(kind),
            0 | 1 => self.conv(kind == 1),
            2 => self.depthwise(),
            3 => self.separable(),
            4 => self.transposed(),
            5 => self.depthwise_transposed(),
            6 => self.table(),
            7 => self.pool(),
            8 => self.branch(true),
            9 => self.branch(false),
            10 => self.frames(),
            11 => self.depthwise_frames(),
            12 => self.average(),
            13 => self.recurrent(),
            _ => self.shapes(kind),
        }
    }

    fn on_vectors(&mut self, kind: u8) {
        let (c, units) = (self.channels(), self.small(4));
        let dense = Dense {
            kernel: Array2::from_shape_simple_fn((c, units), || self.numbers.next()),
            bias: self.bias(units),
            activation: Activation::Linear,
        };
        let mut shape = self.shape.clone();
        *shape.last_mut().unwrap() = units;
        if kind < 4 && shape.len() == 2 {
            let subsample = self.small(2);
            if shape[0].rem_euclid(subsample) == 0 {
                shape[0] = shape[0].div_euclid(subsample);
                let layer = StatefulProjection { dense, subsample };
                let entry = self.weighted(json!(-1));
                self.layer(Layer::StatefulProjection(layer), entry, shape, &[]);
                return;
            }
        }
        let entry = self.weighted(json!(-1));
        self.layer(Layer::Dense(dense), entry, shape, &[]);
    }

    fn conv(&mut self, rectified: bool) {
        let (c, filters) = (self.channels(), self.small(4));
        let (k, stride) = ([self.small(3), self.small(3)], self.small(2));
        let dilation = if stride == 1 { self.small(2) } else { 1 };
        let padded = !self.nodes.iter().any(|node| node.name.starts_with("layer"))
            && self.numbers.next() > 0.0;
        if padded {
            // A padding value needs inputs with float scales.
            let scale = Rescaling {
                scale: PerAxis::Tensor(1.0 / 64.0),
                offset: PerAxis::Tensor(0.0),
            };
            let shape = self.shape.clone();
            self.layer(
                Layer::Rescaling(scale),
                json!({ "no_buffer": 1 }),
                shape,
                &[],
            );
        }
        let conv = Conv2D {
            kernel: self.kernel([k[0], k[1], c, filters]),
            bias: self.bias(filters),
            strides: [stride; 2],
            padding: if padded {
                Padding::Valid
            } else {
                self.padding()
            },
            dilation: [dilation; 2],
            groups: 1,
            activation: Activation::Linear,
            padding_value: padded.then(|| vec![0.9]),
        };
        let shape = self.windowed(k, stride, (dilation, conv.padding), filters, padded);
        let mut entry = self.weighted(json!(-1));
        if rectified {
            entry.as_object_mut().unwrap().remove("output_quantizer");
        }
        self.layer(Layer::Conv2D(conv), entry, shape, &[]);
        if rectified {
            let max_value = (self.numbers.next() > 0.0).then_some(3.7);
            let relu = ReLU {
                max_value,
                ..ReLU::default()
            };
            let entry = json!({ "output_quantizer": self.output(false) });
            let shape = self.shape.clone();
            self.layer(Layer::ReLU(relu), entry, shape, &[]);
        }
    }

    /// Returns the extents behind a window.
    fn windowed(
        &self,
        k: [usize; 2],
        stride: usize,
        (dilation, padding): (usize, Padding),
        filters: usize,
        padded: bool,
    ) -> Vec<usize> {
        let along = |a: usize| {
            let n = self.shape[a];
            if padded || padding == Padding::Same {
                n.div_ceil(stride)
            } else {
                let reach = (k[a] - 1) * dilation + 1;
                (n + stride).saturating_sub(reach).div_euclid(stride)
            }
        };
        vec![along(0), along(1), filters]
    }

    fn depthwise(&mut self) {
        let (c, k, stride) = (
            self.channels(),
            [self.small(3), self.small(3)],
            self.small(2),
        );
        let conv = DepthwiseConv2D {
            kernel: self.kernel([k[0], k[1], c, 1]),
            bias: self.bias(c),
            strides: [stride; 2],
            padding: self.padding(),
            dilation: [1, 1],
            activation: Activation::Linear,
        };
        let shape = self.windowed(k, stride, (1, conv.padding), c, false);
        let entry = self.weighted(json!(-2));
        self.layer(Layer::DepthwiseConv2D(conv), entry, shape, &[]);
    }

    fn separable(&mut self) {
        let (c, filters, k) = (
            self.channels(),
            self.small(4),
            [self.small(3), self.small(3)],
        );
        let conv = SeparableConv2D {
            depthwise_kernel: self.kernel([k[0], k[1], c, 1]),
            pointwise_kernel: self.kernel([1, 1, c, filters]),
            bias: self.bias(filters),
            strides: [1, 1],
            padding: self.padding(),
            dilation: [1, 1],
            activation: Activation::Linear,
        };
        let shape = self.windowed(k, 1, (1, conv.padding), filters, false);
        let bits = self.chain.bits[0];
        let entry = json!({ "output_quantizer": self.output(true),
            "dw_weight_quantizer": { "bitwidth": bits, "axis": null },
            "pw_weight_quantizer": { "bitwidth": bits, "axis": -1 } });
        self.layer(Layer::SeparableConv2D(conv), entry, shape, &[]);
    }

    fn transposed(&mut self) {
        let (c, filters) = (self.channels(), self.small(3));
        let (k, stride) = ([self.small(3), self.small(3)], self.small(2));
        let conv = Conv2DTranspose {
            kernel: self.kernel([k[0], k[1], filters, c]),
            bias: self.bias(filters),
            strides: [stride; 2],
            padding: self.padding(),
            output_padding: None,
            dilation: [1, 1],
            activation: Activation::Linear,
        };
        let along = |a: usize| {
            let more = match conv.padding {
                Padding::Same => 0,
                Padding::Valid => k[a].saturating_sub(stride),
            };
            self.shape[a] * stride + more
        };
        let shape = vec![along(0), along(1), filters];
        let entry = self.weighted(json!(-2));
        self.layer(Layer::Conv2DTranspose(conv), entry, shape, &[]);
    }

    fn depthwise_transposed(&mut self) {
        let (c, k) = (self.channels(), [self.small(3), self.small(3)]);
        let conv = DepthwiseConv2D {
            kernel: self.kernel([k[0], k[1], c, 1]),
            bias: self.bias(c),
            strides: [2, 2],
            padding: Padding::Same,
            dilation: [1, 1],
            activation: Activation::Linear,
        };
        let shape = vec![self.shape[0] * 2, self.shape[1] * 2, c];
        let entry = self.weighted(Value::Null);
        self.layer(Layer::DepthwiseConv2DTranspose(conv), entry, shape, &[]);
    }

    fn table(&mut self) {
        let activation = [
            Activation::Gelu { approximate: false },
            Activation::Swish,
            Activation::HardSilu,
            Activation::LeakyRelu { alpha: 0.2 },
        ][self.small(4) - 1];
        let entry = json!({ "output_quantizer": self.output(true), "lut_bitwidth": 14,
            "no_buffer": 1 });
        let shape = self.shape.clone();
        self.layer(Layer::Activation(activation), entry, shape, &[]);
    }

    fn pool(&mut self) {
        let (k, stride) = ([self.small(3), self.small(3)], self.small(2));
        let pool = Pool2D {
            pool_size: k,
            strides: [stride; 2],
            padding: self.padding(),
        };
        let shape = self.windowed(k, stride, (1, pool.padding), self.channels(), false);
        self.layer(
            Layer::MaxPool2D(pool),
            json!({ "no_buffer": 1 }),
            shape,
            &[],
        );
    }

    /// Joins the last layer with one made from it.
    fn branch(&mut self, summed: bool) {
        let (trunk, c) = (self.last.clone(), self.channels());
        let filters = if summed { c } else { self.small(3) };
        let conv = Conv2D {
            kernel: self.kernel([3, 1, c, filters]),
            bias: self.bias(filters),
            strides: [1, 1],
            padding: Padding::Same,
            dilation: [1, 1],
            groups: 1,
            activation: Activation::Linear,
            padding_value: None,
        };
        let mut shape = self.shape.clone();
        shape[2] = filters;
        let entry = self.weighted(json!(-1));
        self.layer(Layer::Conv2D(conv), entry, shape.clone(), &[]);
        let mut trunk = trunk;
        if self.numbers.next() > 0.0 {
            std::mem::swap(&mut trunk, &mut self.last);
        }
        if summed {
            let entry = json!({ "output_quantizer": self.output(true) });
            let average = self.numbers.next() > 0.5;
            self.layer(Layer::Add(Add { average }), entry, shape, &[trunk]);
        } else {
            shape[2] += c;
            let entry = json!({ "no_buffer": 1 });
            self.layer(Layer::Concatenate { axis: -1 }, entry, shape, &[trunk]);
        }
    }

    fn frames(&mut self) {
        let (c, filters, n_frames) = (self.channels(), self.small(3), self.small(3));
        let conv = BufferTempConv {
            kernel: self.kernel([1, 1, n_frames * c, filters]),
            bias: self.bias(filters),
            n_frames,
        };
        let shape = vec![self.shape[0], self.shape[1], filters];
        let entry = self.weighted(json!(-1));
        self.layer(Layer::BufferTempConv(conv), entry, shape, &[]);
    }

    fn depthwise_frames(&mut self) {
        let (c, n_frames) = (self.channels(), self.small(3));
        let conv = DepthwiseBufferTempConv {
            kernel: self.weights(&[n_frames, c]).into_dimensionality().unwrap(),
            bias: self.bias(c),
        };
        let shape = self.shape.clone();
        let entry = self.weighted(json!(-1));
        self.layer(Layer::DepthwiseBufferTempConv(conv), entry, shape, &[]);
    }

    fn average(&mut self) {
        let keepdims = self.numbers.next() > 0.0;
        let c = self.channels();
        let shape = if keepdims { vec![1, 1, c] } else { vec![c] };
        let mut output = self.output(true);
        output["axis"] = json!("per-tensor");
        let entry = json!({ "output_quantizer": output });
        let layer = GlobalAveragePooling2D { keepdims };
        self.layer(Layer::GlobalAveragePooling2D(layer), entry, shape, &[]);
    }

    fn recurrent(&mut self) {
        let (steps, c) = (self.shape[0] * self.shape[1], self.channels());
        let target_shape = vec![isize::try_from(steps).unwrap(), isize::try_from(c).unwrap()];
        let reshape = Layer::Reshape { target_shape };
        self.layer(reshape, json!({ "no_buffer": 1 }), vec![steps, c], &[]);
        let mut part = || Array1::from_shape_simple_fn(c, || self.numbers.next() * 0.4 + 0.55);
        let recurrent = StatefulRecurrent {
            a_real: part(),
            a_imag: part(),
        };
        let entry = json!({
            "output_quantizer": { "bitwidth": 16, "signed": true, "axis": "per-tensor",
                "buffer_bitwidth": 32 },
            "a_quantizer": { "bitwidth": 8, "axis": null, "fp_quantizer": true } });
        let shape = vec![steps, c, 2];
        self.layer(Layer::StatefulRecurrent(recurrent), entry, shape, &[]);
    }

    fn shapes(&mut self, kind: u8) {
        let shape = self.shape.clone();
        let n: usize = shape.iter().product();
        let (layer, shape) = match kind {
            14 | 15 => (Layer::Flatten, vec![n]),
            16 if shape.len() == 3 => {
                let dims = vec![2, 1, 3];
                (Layer::Permute { dims }, vec![shape[1], shape[0], shape[2]])
            }
            17 if shape.len() == 3 => {
                let dims = vec![3, 1, 2];
                (Layer::Permute { dims }, vec![shape[2], shape[0], shape[1]])
            }
            18 if shape.len() == 3 => {
                let axis = isize::try_from(self.small(3)).unwrap();
                let token = 0;
                let mut left = shape.clone();
                left.remove(usize::try_from(axis).unwrap() - 1);
                (Layer::ExtractToken { token, axis }, left)
            }
            19 => (Layer::Dropout { rate: 0.5 }, shape),
            20 if shape.len() == 3 => {
                let target_shape = vec![1, -1, isize::try_from(shape[2]).unwrap()];
                let target = vec![1, shape[0] * shape[1], shape[2]];
                (Layer::Reshape { target_shape }, target)
            }
            21 => {
                let target_shape = vec![isize::try_from(n).unwrap(), 1];
                (Layer::Reshape { target_shape }, vec![n, 1])
            }
            _ => (Layer::Flatten, vec![n]),
        };
        self.layer(layer, json!({ "no_buffer": 1 }), shape, &[]);
    }
}

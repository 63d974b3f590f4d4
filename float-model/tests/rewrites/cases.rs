//! Names, classes and order against the reference, for the networks of the shared conformance
//! cases (weights are random here). `cases.txt` holds the layers and what the reference made of
//! them; a `Softmax` stands there as an `Activation`, as it does in a [`Graph`].

use float_model::{
    Activation, Add, GlobalAveragePooling2D, Graph, Layer, Padding, Pads, Pool2D, ReLU, Rescaling,
};
use quantizer_core::PerAxis;

use crate::net::{Net, ON, Rng, checked, names};

struct Line<'a> {
    fields: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        let value = |field: &&'a str| field.strip_prefix(key)?.strip_prefix('=');
        self.fields.iter().find_map(value)
    }

    fn numbers<T: std::str::FromStr>(&self, key: &str) -> Vec<T> {
        let text = self.text(key).unwrap_or_default();
        text.split(',').filter_map(|n| n.parse().ok()).collect()
    }

    fn pair(&self, key: &str) -> [usize; 2] {
        self.numbers(key).try_into().expect("two numbers")
    }

    fn padding(&self) -> Padding {
        match self.text("padding") {
            Some("same") => Padding::Same,
            Some("valid") => Padding::Valid,
            other => panic!("padding {other:?}"),
        }
    }

    fn activation(&self) -> Activation {
        match self.text("activation") {
            None => Activation::Linear,
            Some("relu") => Activation::Relu,
            Some("gelu") => Activation::Gelu { approximate: false },
            Some("swish") => Activation::Swish,
            Some("hard_silu") => Activation::HardSilu,
            Some("sigmoid") => Activation::Sigmoid,
            Some("softmax") => Activation::Softmax,
            Some(other) => panic!("activation {other}"),
        }
    }

    fn per_axis(&self, key: &str) -> PerAxis<f64> {
        match self.numbers(key).as_slice() {
            [value] => PerAxis::Tensor(*value),
            values => PerAxis::Axis(values.to_vec()),
        }
    }
}

/// Returns the layer of a line, for an input of `channels` (features, if it is flat).
fn read_layer(line: &Line<'_>, class: &str, channels: usize, rng: &mut Rng) -> Layer {
    let units = line.numbers("units").first().copied().unwrap_or(0);
    match class {
        "Conv2D" => {
            let mut conv = rng.conv(line.pair("kernel"), channels, units);
            (conv.strides, conv.padding) = (line.pair("strides"), line.padding());
            conv.activation = line.activation();
            Layer::Conv2D(conv)
        }
        "DepthwiseConv2D" | "DepthwiseConv2DTranspose" => {
            let mut conv = rng.depthwise(line.pair("kernel"), channels);
            (conv.strides, conv.padding) = (line.pair("strides"), line.padding());
            match class {
                "DepthwiseConv2D" => Layer::DepthwiseConv2D(conv),
                _ => Layer::DepthwiseConv2DTranspose(conv),
            }
        }
        "SeparableConv2D" => {
            let mut conv = rng.separable(line.pair("kernel"), channels, units);
            (conv.strides, conv.padding) = (line.pair("strides"), line.padding());
            Layer::SeparableConv2D(conv)
        }
        "Conv2DTranspose" => {
            let mut conv = rng.transpose(line.pair("kernel"), channels, units);
            (conv.strides, conv.padding) = (line.pair("strides"), line.padding());
            Layer::Conv2DTranspose(conv)
        }
        "Dense" => {
            let mut dense = rng.dense(channels, units);
            dense.activation = line.activation();
            Layer::Dense(dense)
        }
        "BatchNormalization" => Layer::BatchNormalization(rng.norm(channels)),
        "ReLU" => Layer::ReLU(ReLU {
            max_value: line.numbers("max").first().copied(),
            threshold: line.numbers("threshold").first().copied().unwrap_or(0.0),
            ..ReLU::default()
        }),
        "LeakyReLU" => Layer::LeakyReLU {
            alpha: line.numbers("alpha")[0],
        },
        "Activation" => Layer::Activation(line.activation()),
        "MaxPooling2D" => Layer::MaxPool2D(Pool2D {
            pool_size: line.pair("kernel"),
            strides: line.pair("strides"),
            padding: line.padding(),
        }),
        "GlobalAveragePooling2D" => Layer::GlobalAveragePooling2D(GlobalAveragePooling2D {
            keepdims: line.fields.contains(&"keepdims"),
        }),
        "Add" => Layer::Add(Add::default()),
        "Concatenate" => Layer::Concatenate { axis: -1 },
        "Rescaling" => Layer::Rescaling(Rescaling {
            scale: line.per_axis("scale"),
            offset: line.per_axis("offset"),
        }),
        "ZeroPadding2D" => match line.numbers("pads").as_slice() {
            &[top, bottom, left, right] => Layer::ZeroPadding2D(Pads {
                top,
                bottom,
                left,
                right,
            }),
            other => panic!("pads {other:?}"),
        },
        "Flatten" => Layer::Flatten,
        "Reshape" => Layer::Reshape {
            target_shape: line.numbers("target"),
        },
        "Dropout" => Layer::Dropout { rate: 0.5 },
        other => panic!("class {other}"),
    }
}

/// Returns the graph of a case.
fn read_graph(lines: &[&str]) -> Graph {
    let mut rng = Rng(1);
    let mut net: Option<Net> = None;
    for line in lines {
        let line = Line {
            fields: line.split(' ').collect(),
        };
        match line.fields.as_slice() {
            ["layer", "input", "InputLayer", ..] => net = Some(Net::new(&line.numbers("shape"))),
            ["layer", name, class, inputs, ..] => {
                let inputs: Vec<&str> = inputs.trim_matches(['(', ')']).split(',').collect();
                let net = net.as_mut().expect("the input stands first");
                let so_far = net.clone().graph(&inputs[..1]);
                let shape = &so_far.node(so_far.outputs()[0]).shape;
                let channels = shape.last().copied().flatten().expect("known channels");
                net.add(name, read_layer(&line, class, channels, &mut rng), &inputs);
            }
            ["outputs", names @ ..] => {
                return net.expect("an input").graph(names);
            }
            other => panic!("line {other:?}"),
        }
    }
    panic!("no outputs")
}

#[test]
fn names_classes_and_order_are_those_of_the_reference() {
    let mut n_cases = 0;
    for case in include_str!("cases.txt").split("case ").skip(1) {
        let lines: Vec<&str> = case.lines().collect();
        let [title, layers @ .., sanitized] = lines.as_slice() else {
            panic!("a case has several lines");
        };
        let want: Vec<&str> = sanitized.split(' ').skip(1).collect();
        let sanitized = checked(read_graph(layers), &ON);
        assert_eq!(names(&sanitized.graph), want, "case {title}");
        n_cases += 1;
    }
    assert_eq!(n_cases, 23, "every case was compared");
}

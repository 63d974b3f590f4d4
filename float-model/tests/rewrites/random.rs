//! Whole-pipeline equivalence for generated networks: chains with branches, merges and several
//! outputs, in which rewrites meet each other.

use float_model::{
    Activation, Add, GlobalAveragePooling2D, Graph, HardwareRewrites, Layer, Padding, Pads, ReLU,
    Rescaling, SanitizeOptions,
};
use proptest::prelude::*;
use quantizer_core::PerAxis;

use crate::net::{Net, Rng, checked, max_pool};

/// One step: which layer, of which earlier images, with which parameters.
#[derive(Clone, Debug)]
struct Step {
    kind: usize,
    from: [usize; 3],
    kernel: usize,
    stride: usize,
    is_same: bool,
    is_fused: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = (
        0..15usize,
        [0..64usize, 0..64, 0..64],
        1..=7usize,
        1..=2usize,
    );
    (numbers, any::<bool>(), any::<bool>()).prop_map(
        |((kind, from, kernel, stride), is_same, is_fused)| Step {
            kind,
            from,
            kernel,
            stride,
            is_same,
            is_fused,
        },
    )
}

/// A network in the making, and its images.
struct Growing {
    net: Net,
    rng: Rng,
    images: Vec<(String, [usize; 3])>,
}

impl Growing {
    /// Returns an earlier image, the latest ones most often.
    fn pick(&self, from: usize) -> (String, [usize; 3]) {
        let back = from.saturating_sub(40);
        self.images[self.images.len() - 1 - back % self.images.len()].clone()
    }

    fn weighted(&mut self, step: &Step, [h, w, c]: [usize; 3]) -> Option<Layer> {
        let fits = step.is_same || (step.kernel <= h && step.kernel <= w);
        let (padding, kernel) = match (step.is_same, fits) {
            (true, _) => (Padding::Same, step.kernel),
            (false, true) => (Padding::Valid, step.kernel),
            (false, false) => (Padding::Valid, 1),
        };
        let (kernel, strides) = ([kernel; 2], [step.stride; 2]);
        let activation = match (step.is_fused, step.from[2] % 2) {
            (false, _) => Activation::Linear,
            (true, 0) => Activation::Relu,
            (true, _) => Activation::Relu6,
        };
        let filters = 1 + step.from[1] % 4;
        Some(match step.kind {
            0 | 1 => {
                let mut conv = self.rng.conv(kernel, c, filters);
                (conv.strides, conv.padding, conv.activation) = (strides, padding, activation);
                conv.bias = conv.bias.filter(|_| !step.from[2].is_multiple_of(3));
                Layer::Conv2D(conv)
            }
            2 => {
                let mut conv = self.rng.depthwise(kernel, c);
                (conv.strides, conv.padding, conv.activation) = (strides, padding, activation);
                Layer::DepthwiseConv2D(conv)
            }
            3 => {
                let mut conv = self.rng.separable(kernel, c, filters);
                (conv.strides, conv.padding, conv.activation) = (strides, padding, activation);
                Layer::SeparableConv2D(conv)
            }
            4 if h * w <= 64 => {
                let mut conv = self.rng.transpose(kernel, c, filters);
                (conv.strides, conv.padding, conv.activation) = (strides, padding, activation);
                Layer::Conv2DTranspose(conv)
            }
            5 => {
                let mut conv = self.rng.conv(kernel, 1, c);
                (conv.strides, conv.padding, conv.groups) = (strides, padding, c);
                Layer::Conv2D(conv)
            }
            _ => return None,
        })
    }

    fn plain(&mut self, step: &Step, [h, w, c]: [usize; 3]) -> Layer {
        let [a, b, other] = step.from;
        match step.kind {
            6..=8 => {
                let mut norm = self.rng.norm(c);
                if other % 4 == 0 {
                    norm.gamma = norm.gamma.map(|gamma| -gamma);
                }
                norm.beta = norm.beta.filter(|_| other % 5 > 0);
                Layer::BatchNormalization(norm)
            }
            9 if step.is_fused => Layer::LeakyReLU { alpha: 0.25 },
            9 | 10 => Layer::ReLU(ReLU {
                max_value: step.is_same.then_some(1.5),
                ..ReLU::default()
            }),
            11 if step.is_same => max_pool(step.kernel.min(3), step.stride, Padding::Same),
            11 => max_pool(2.min(h).min(w), step.stride, Padding::Valid),
            12 => Layer::ZeroPadding2D(Pads {
                top: a % 3,
                bottom: if step.is_same { a % 3 } else { b % 3 },
                left: a % 3,
                right: if step.is_same { a % 3 } else { b % 3 },
            }),
            13 => Layer::Rescaling(Rescaling {
                scale: match other % 2 {
                    0 => PerAxis::Tensor(0.5),
                    _ => PerAxis::Axis((0..c).map(|i| 0.5 + i as f64).collect()),
                },
                offset: PerAxis::Tensor(if step.is_fused { -1.0 } else { 0.0 }),
            }),
            _ => Layer::Dropout { rate: 0.5 },
        }
    }

    /// Adds a merge of the picked image with the others that fit it.
    fn merge(&mut self, step: &Step, name: &str) -> bool {
        let (first, [h, w, c]) = self.pick(step.from[0]);
        let mut inputs = vec![first];
        let mut channels = c;
        for from in [step.from[1], step.from[2]] {
            let (other, shape) = self.images[from % self.images.len()].clone();
            let fits = if step.is_fused {
                shape == [h, w, c]
            } else {
                shape[..2] == [h, w]
            };
            if fits && (inputs.len() < 2 || !step.is_fused) {
                inputs.push(other);
                channels += shape[2];
            }
        }
        if inputs.len() < 2 {
            return false;
        }
        let (layer, channels) = match step.is_fused {
            true => (Layer::Add(Add::default()), c),
            false => (Layer::Concatenate { axis: -1 }, channels),
        };
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.net.add(name, layer, &inputs);
        self.images.push((name.to_owned(), [h, w, channels]));
        true
    }

    fn grow(&mut self, step: &Step, name: &str) {
        if step.kind == 14 && self.merge(step, name) {
            return;
        }
        let (input, shape) = self.pick(step.from[0]);
        let layer = match self.weighted(step, shape) {
            Some(layer) => layer,
            None => self.plain(step, shape),
        };
        self.net.add(name, layer, &[&input]);
        let graph = self.net.clone().graph(&[name]);
        let shape: Vec<usize> = graph
            .node(graph.outputs()[0])
            .shape
            .iter()
            .map(|n| n.expect("known"))
            .collect();
        let shape = <[usize; 3]>::try_from(shape).expect("an image");
        self.images.push((name.to_owned(), shape));
    }
}

/// Returns a network: the steps, a pooled head, and now and then an inner layer as an output.
fn network(channels: usize, image: [usize; 2], seed: u64, steps: &[Step]) -> Graph {
    let shape = [image[0], image[1], channels];
    let mut growing = Growing {
        net: Net::new(&shape),
        rng: Rng(seed),
        images: vec![("input".to_owned(), shape)],
    };
    for (i, step) in steps.iter().enumerate() {
        growing.grow(step, &format!("l{i}"));
    }
    let Growing {
        mut net,
        mut rng,
        images,
    } = growing;
    let (last, [_, _, c]) = images[images.len() - 1].clone();
    net.add(
        "gap",
        Layer::GlobalAveragePooling2D(GlobalAveragePooling2D::default()),
        &[&last],
    );
    net.add("bn", Layer::BatchNormalization(rng.norm(c)), &["gap"]);
    net.add("dense", Layer::Dense(rng.dense(c, 3)), &["bn"]);
    // Images that nothing takes would be dropped: they are outputs, so that branches live.
    let graph = net.clone().graph(&["dense"]);
    let is_dead = |name: &&String| graph.find(name).is_none();
    let dead: Vec<&String> = images
        .iter()
        .map(|(name, _)| name)
        .filter(is_dead)
        .collect();
    let mut outputs = vec!["dense"];
    outputs.extend(dead.last().map(|name| name.as_str()));
    if seed.is_multiple_of(3) {
        outputs.push(&images[images.len() / 2].0);
        outputs.dedup();
    }
    let mut seen = Vec::new();
    outputs.retain(|name| {
        let is_new = !seen.contains(name);
        seen.push(*name);
        is_new
    });
    net.graph(&outputs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn sanitize_keeps_the_function(
        channels in prop::sample::select(vec![1usize, 2, 3]),
        image in [4..8usize, 4..8],
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..14),
        is_on in any::<bool>(),
    ) {
        let hardware = if is_on { HardwareRewrites::On } else { HardwareRewrites::Off };
        let graph = network(channels, image, seed, &steps);
        let done = checked(graph.clone(), &SanitizeOptions { hardware });
        let removed = |name: &str| done.removed.contains_key(name);
        for node in graph.nodes() {
            let is_there = done.graph.find(&node.name).is_some();
            prop_assert!(is_there != removed(&node.name), "{} is either", node.name);
        }
        prop_assert_eq!(done.graph.outputs().len(), graph.outputs().len());
    }
}

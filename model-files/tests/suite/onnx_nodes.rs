//! Single ONNX nodes: what they say that we must not overlook.
//!
//! The messages are written here byte by byte, by other code than that which reads them.

use float_model::Graph;
use model_files::{FileError, read_onnx};

use crate::support::Scratch;

/// An attribute of a node.
enum Is<'a> {
    Number(i64),
    Numbers(&'a [i64]),
    Text(&'a str),
}

/// The nodes and constants of a model with one input `x` and one output `y`.
#[derive(Default)]
struct Made {
    nodes: Vec<u8>,
    constants: Vec<u8>,
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(u8::try_from(n & 0x7F).unwrap() | 0x80);
        n >>= 7;
    }
    bytes.push(u8::try_from(n).unwrap());
    bytes
}

fn number(tag: u64, n: i64) -> Vec<u8> {
    let bits = u64::from_le_bytes(n.to_le_bytes());
    [varint(tag << 3), varint(bits)].concat()
}

fn bytes(tag: u64, content: &[u8]) -> Vec<u8> {
    let len = u64::try_from(content.len()).unwrap();
    [varint(tag << 3 | 2), varint(len), content.to_vec()].concat()
}

impl Made {
    fn node(
        mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Is<'_>)],
    ) -> Self {
        let mut node: Vec<u8> = inputs.iter().flat_map(|i| bytes(1, i.as_bytes())).collect();
        node.extend(bytes(2, output.as_bytes()));
        node.extend(bytes(4, op.as_bytes()));
        for (name, is) in attributes {
            let mut attribute = bytes(1, name.as_bytes());
            attribute.extend(match is {
                Is::Number(n) => [number(3, *n), number(20, 2)].concat(),
                Is::Numbers(ns) => {
                    let ns: Vec<u8> = ns.iter().flat_map(|n| number(8, *n)).collect();
                    [ns, number(20, 7)].concat()
                }
                Is::Text(text) => [bytes(4, text.as_bytes()), number(20, 3)].concat(),
            });
            node.extend(bytes(5, &attribute));
        }
        self.nodes.extend(bytes(1, &node));
        self
    }

    fn constant(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        let mut tensor: Vec<u8> = dims.iter().flat_map(|n| number(1, *n)).collect();
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensor.extend(number(2, 1));
        tensor.extend(bytes(8, name.as_bytes()));
        tensor.extend(bytes(9, &raw));
        self.constants.extend(bytes(5, &tensor));
        self
    }

    /// Returns the graph for an input of element type `elem_type` and these extents; a batch of one.
    fn read(self, elem_type: i64, extents: [i64; 3]) -> Result<Graph, FileError> {
        let dims = std::iter::once(1).chain(extents);
        let dims: Vec<u8> = dims.flat_map(|n| bytes(1, &number(1, n))).collect();
        let tensor = [number(1, elem_type), bytes(2, &dims)].concat();
        let input = [bytes(1, b"x"), bytes(2, &bytes(1, &tensor))].concat();
        let ends = [bytes(11, &input), bytes(12, &bytes(1, b"y"))].concat();
        let graph = [self.nodes, bytes(2, b"g"), self.constants, ends].concat();
        let model = [number(1, 8), bytes(7, &graph), bytes(8, &number(2, 17))].concat();
        let scratch = Scratch::new();
        read_onnx(&scratch.write("m.onnx", &model))
    }
}

/// Returns why a model is refused.
fn refusal(made: Made, extents: [i64; 3]) -> String {
    made.read(1, extents).unwrap_err().to_string()
}

#[test]
fn windows_without_or_beyond_measure_are_refused() {
    let conv = |attributes: &[(&str, Is<'_>)]| {
        let made = Made::default().constant("w", &[1, 1, 3, 3], &[1.0; 9]);
        refusal(made.node("Conv", &["x", "w"], "y", attributes), [1, 8, 8])
    };
    for n in [0, 1_000_000, 4_000_000_000_000, 1 << 62] {
        let pads = Is::Numbers(&[1, 1, 1, 1]);
        let message = conv(&[("strides", Is::Numbers(&[n, n])), ("pads", pads)]);
        assert!(message.contains("strides"), "{n}: {message}");
        let message = conv(&[("dilations", Is::Numbers(&[1, n]))]);
        assert!(message.contains("dilations"), "{n}: {message}");
        let pool = Made::default().node(
            "MaxPool",
            &["x"],
            "y",
            &[("kernel_shape", Is::Numbers(&[n, 2]))],
        );
        let message = refusal(pool, [1, 8, 8]);
        assert!(message.contains("kernel_shape"), "{n}: {message}");
    }
    for n in [200_000, 1 << 62] {
        let message = conv(&[("pads", Is::Numbers(&[n, n, n, n]))]);
        assert!(message.contains("pads"), "{n}: {message}");
    }
    // Within bounds, but a kernel as wide as the strides would be no model any more.
    let kernels = Made::default().constant("w", &[1, 1, 3, 1], &[1.0; 3]);
    let strides = Is::Numbers(&[60_000, 1]);
    let pads = Is::Numbers(&[20_000, 0, 39_000, 0]);
    let made = kernels.node(
        "Conv",
        &["x", "w"],
        "y",
        &[("strides", strides), ("pads", pads)],
    );
    let read = made.read(1, [1, 1000, 1]);
    assert!(
        read.is_ok_and(|graph| graph.nodes().len() == 3),
        "a border of its own"
    );
}

/// Returns the input pixel of an output pixel, as the operator's definition has it.
fn nearest(transform: &str, mode: &str, output: u32, factor: u32, n: u32) -> u32 {
    let (out, scale) = (f64::from(output), f64::from(factor));
    let x = match transform {
        "asymmetric" => out / scale,
        _ => (out + 0.5) / scale - 0.5,
    };
    let rounded = match mode {
        "floor" => x.floor(),
        "ceil" => x.ceil(),
        "round_prefer_floor" => (x - 0.5).ceil(),
        _ => (x + 0.5).floor(),
    };
    (0..n)
        .min_by(|a, b| {
            let distance = |i: &u32| (f64::from(*i) - rounded).abs();
            distance(a).total_cmp(&distance(b))
        })
        .unwrap()
}

#[test]
fn enlargements_take_the_pixels_that_their_rules_name() {
    let mut n_read = 0;
    for transform in ["asymmetric", "half_pixel"] {
        for mode in ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"] {
            for factor in 1..=4_u8 {
                let scale = f32::from(factor);
                let attributes = [
                    ("mode", Is::Text("nearest")),
                    ("coordinate_transformation_mode", Is::Text(transform)),
                    ("nearest_mode", Is::Text(mode)),
                ];
                let made = Made::default().constant("s", &[4], &[1.0, 1.0, scale, 1.0]);
                let made = made.node("Resize", &["x", "", "s"], "y", &attributes);
                let factor = u32::from(factor);
                let wanted: Vec<u32> = (0..5 * factor)
                    .map(|i| nearest(transform, mode, i, factor, 5))
                    .collect();
                let repeated = (0..5 * factor).map(|i| i.div_euclid(factor));
                let read = made.read(1, [1, 5, 1]);
                let is_repeated = repeated.eq(wanted.iter().copied());
                assert_eq!(read.is_ok(), is_repeated, "{transform} {mode} {factor}");
                let Ok(graph) = read else { continue };
                let x = ndarray::Array1::from_iter((0..5_u8).map(f32::from));
                let x = x.into_shape_with_order((1, 5, 1, 1)).unwrap().into_dyn();
                let got = graph.predict(&x).unwrap();
                let wanted: Vec<f32> = wanted
                    .iter()
                    .map(|i| x[[0, usize::try_from(*i).unwrap(), 0, 0]])
                    .collect();
                assert_eq!(
                    got.iter().copied().collect::<Vec<f32>>(),
                    wanted,
                    "{transform} {mode} {factor}"
                );
                n_read += 1;
            }
        }
    }
    assert!(n_read > 10, "{n_read} are read");
}

#[test]
fn casts_that_truncate_are_refused() {
    let cast = |elem_type, to| {
        let made = Made::default().node("Cast", &["x"], "a", &[("to", Is::Number(to))]);
        let made = made.node("Cast", &["a"], "b", &[("to", Is::Number(1))]);
        made.node("Relu", &["b"], "y", &[])
            .read(elem_type, [1, 2, 2])
    };
    // From floats to int32, from int16 to uint8, from uint8 to int8, to bool.
    for (from, to) in [(1, 6), (5, 2), (2, 3), (1, 9)] {
        let message = cast(from, to).unwrap_err().to_string();
        assert!(
            message.contains("(Cast): to element type"),
            "{from} to {to}: {message}"
        );
    }
    // From uint8 to int32, to float and to float16.
    for (from, to) in [(2, 6), (2, 1), (1, 10)] {
        assert!(cast(from, to).is_ok(), "{from} to {to}");
    }
}

#[test]
fn pools_that_round_up_begin_inside_the_image() {
    // Extent, kernel, stride and pads, and the outputs of onnxruntime 1.32.
    for (n, k, s, pads, n_outputs) in [
        (5, 2, 2, [0, 1], 3),
        (5, 2, 2, [1, 1], 3),
        (4, 2, 3, [0, 1], 2),
        (6, 3, 2, [1, 1], 4),
        (5, 3, 3, [0, 1], 2),
        (5, 3, 3, [1, 1], 2),
        (7, 2, 3, [0, 0], 3),
        (6, 2, 2, [0, 1], 3),
        (4, 1, 3, [0, 0], 2),
    ] {
        let [before, after] = pads;
        let attributes = [
            ("kernel_shape", Is::Numbers(&[k, 1])),
            ("strides", Is::Numbers(&[s, 1])),
            ("pads", Is::Numbers(&[before, 0, after, 0])),
            ("ceil_mode", Is::Number(1)),
        ];
        // Behind a rectifier zeros never win, so that all pads can be read.
        let made = Made::default().node("Relu", &["x"], "a", &[]);
        let graph = made
            .node("MaxPool", &["a"], "y", &attributes)
            .read(1, [1, n, 1])
            .unwrap();
        let pixels =
            ndarray::Array1::from_iter((1..=n).map(|v| f32::from(u8::try_from(v).unwrap())));
        let x = pixels
            .into_shape_with_order((1, usize::try_from(n).unwrap(), 1, 1))
            .unwrap();
        let got: Vec<f32> = graph
            .predict(&x.into_dyn())
            .unwrap()
            .iter()
            .copied()
            .collect();
        // Pixels rise, so that the largest of a window is its last.
        let want: Vec<f32> = (0..n_outputs)
            .map(|i| (i * s - before + k).min(n))
            .map(|last| f32::from(u8::try_from(last).unwrap()))
            .collect();
        assert_eq!(got, want, "{n} rows, kernel {k}, stride {s}, pads {pads:?}");
    }
}

#[test]
fn constants_that_give_no_numbers_are_refused() {
    for (op, value) in [
        ("Div", 0.0),
        ("Div", 1e-45),
        ("Mul", f32::INFINITY),
        ("Add", f32::NAN),
    ] {
        let made = Made::default().constant("k", &[1], &[value]);
        let message = refusal(made.node(op, &["x", "k"], "y", &[]), [1, 2, 2]);
        assert!(
            message.contains("with a constant"),
            "{op} {value}: {message}"
        );
    }
    let norm = |variance: &[f32]| {
        let n = i64::try_from(variance.len()).unwrap();
        let made = Made::default()
            .constant("one", &[1], &[1.0])
            .constant("v", &[n], variance);
        let inputs = ["x", "one", "one", "one", "v"];
        made.node("BatchNormalization", &inputs, "y", &[])
            .read(1, [1, 2, 2])
    };
    assert!(norm(&[0.0]).is_ok(), "epsilon is added");
    let message = norm(&[-1.0]).unwrap_err().to_string();
    assert!(message.contains("a variance of -1"), "{message}");
    let message = norm(&[1.0, 1.0]).unwrap_err().to_string();
    assert!(message.contains("of 1 and of 2 channels"), "{message}");
}

#[test]
fn a_quantized_model_is_told_by_one_sentence() {
    let made = Made::default()
        .constant("s", &[], &[1.0])
        .node("QuantizeLinear", &["x", "s"], "a", &[])
        .node("DequantizeLinear", &["a", "s"], "y", &[]);
    let message = refusal(made, [1, 2, 2]);
    assert!(message.contains("a quantized ONNX model"), "{message}");
    assert!(!message.contains("node(s)"), "{message}");
}

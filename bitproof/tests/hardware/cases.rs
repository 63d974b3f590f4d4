//! For each rule, models that break it.

use Severity::{Error, Info, Warning};
use Target::{Akd1000, Akd1500, Akida2, Akida2TwoNodes, ConversionV1, ConversionV2};
use bitproof::akida_sim::hardware::{Severity, Target};
use bitproof::akida_sim::{QuantizedModel, QuantizedOp};
use bitproof::config_schema::InputDtype;
use bitproof::float_model::{Activation, Convolution, Dtype, GraphBuilder, Output};
use bitproof::quantizer_core::layers::{Border, EntryStage, IntegerOp};
use bitproof::quantizer_core::quantizers::AlignedWeights;
use bitproof::quantizer_core::{PerAxis, Stage, ValueBits};

use crate::nets::{
    GELU, chain, changed, conv, conv6, flat_head, four_bit_data, head, integers, k, net, node,
    padded, pool, recurrent, residual, separable_average, table, temporal, transposed, v1, v2,
    with_bits, with_dtype,
};

/// A model that breaks a rule.
pub(crate) struct Case {
    pub(crate) rule: &'static str,
    pub(crate) target: Target,
    pub(crate) severity: Severity,
    pub(crate) model: fn() -> QuantizedModel,
}

const fn case(
    rule: &'static str,
    target: Target,
    severity: Severity,
    model: fn() -> QuantizedModel,
) -> Case {
    Case {
        rule,
        target,
        severity,
        model,
    }
}

/// A chain of 1.0 whose input layer is as given.
fn image1(shape: [usize; 3], filters: usize, how: Convolution) -> QuantizedModel {
    net(v1(), shape, |b, x| {
        let x = conv6(b, "c0", x, filters, how);
        let x = conv6(b, "c1", x, 2, k(1));
        flat_head(b, x)
    })
}

/// A chain of 2.0 whose input layer is as given.
fn image2(shape: [usize; 3], filters: usize, how: Convolution) -> QuantizedModel {
    net(v2().as_it_is(), shape, |b, x| {
        let x = conv(b, "c0", x, filters, how);
        let x = conv(b, "c1", x, 2, k(1));
        flat_head(b, x)
    })
}

/// A chain of 1.0 whose input layer has a pooling.
fn pooled1(pool_size: [usize; 2], strides: [usize; 2]) -> QuantizedModel {
    net(v1(), [12, 12, 3], |b, x| {
        let x = b.conv2d("c0", x, 4, k(3));
        let x = pool(b, "p0", x, pool_size, strides);
        let x = b.clipped_relu("c0_relu", x, 6.0);
        let x = conv6(b, "c1", x, 2, k(1));
        flat_head(b, x)
    })
}

/// A chain of 1.0 behind an input layer.
fn after1(
    shape: [usize; 3],
    body: impl FnOnce(&mut GraphBuilder, Output) -> Output,
) -> QuantizedModel {
    net(v1(), shape, |b, x| {
        let x = conv6(b, "c0", x, 4, k(3));
        body(b, x)
    })
}

/// A network of 2.0 behind an input layer, as it is.
fn after2(
    shape: [usize; 3],
    body: impl FnOnce(&mut GraphBuilder, Output) -> Output,
) -> QuantizedModel {
    net(v2().as_it_is(), shape, |b, x| {
        let x = conv(b, "c0", x, 4, k(3));
        body(b, x)
    })
}

/// A middle convolution of 1.0 as given.
fn conv1(how: Convolution) -> QuantizedModel {
    after1([12, 12, 3], |b, x| {
        let x = conv6(b, "c1", x, 4, how);
        flat_head(b, x)
    })
}

/// A middle convolution of 2.0 as given.
fn conv2(how: Convolution) -> QuantizedModel {
    after2([12, 12, 3], |b, x| {
        let x = conv(b, "c1", x, 4, how);
        flat_head(b, x)
    })
}

/// A middle convolution of 1.0 over `[rows, columns]`, and its average.
fn average1(rows: usize, columns: usize) -> QuantizedModel {
    after1([rows, columns, 1], |b, x| {
        let x = b.conv2d("c1", x, 4, k(1));
        let x = b.global_average_pooling2d("gap", x);
        let x = b.clipped_relu("c1_relu", x, 6.0);
        b.dense("fc", x, 3)
    })
}

/// A middle convolution of 2.0 over `[rows, columns]`, and its average.
fn average2(rows: usize, columns: usize) -> QuantizedModel {
    after2([rows, columns, 1], |b, x| {
        let x = conv(b, "c1", x, 4, k(1));
        head(b, x)
    })
}

/// A network of 2.0 with a max pooling, then `next`.
fn pooled2(
    pool_size: [usize; 2],
    strides: [usize; 2],
    next: impl FnOnce(&mut GraphBuilder, Output) -> Output,
) -> QuantizedModel {
    after2([12, 12, 3], |b, x| {
        let x = b.conv2d("c1", x, 4, k(3));
        let x = pool(b, "p1", x, pool_size, strides);
        let x = b.relu("c1_relu", x);
        next(b, x)
    })
}

/// A network of 2.0 with two branches that `join` takes.
fn joined(join: impl FnOnce(&mut GraphBuilder, Output, Output) -> Output) -> QuantizedModel {
    after2([8, 8, 3], |b, x| {
        let x = conv(b, "c1", x, 4, k(3));
        let y = b.conv2d("c2", x, 4, k(3));
        join(b, x, y)
    })
}

/// An unbounded ReLU in a chain of 1.0.
fn unbounded() -> QuantizedModel {
    after1([8, 8, 3], |b, x| {
        let x = conv(b, "c1", x, 4, k(3));
        flat_head(b, x)
    })
}

/// Outputs of 16 bits that feed two layers.
fn wide_branch() -> QuantizedModel {
    net(v2().as_it_is().output_bits(16), [8, 8, 3], |b, x| {
        let x = conv(b, "c0", x, 4, k(3));
        let x = b.conv2d("c1", x, 4, k(3));
        let y = conv(b, "c2", x, 4, k(3));
        let z = conv(b, "c3", x, 4, k(3));
        let x = b.concatenate("cat", [y, z]);
        let x = conv(b, "c4", x, 4, k(3));
        head(b, x)
    })
}

fn per_axis(name: &str) -> QuantizedModel {
    changed(chain(), |m| {
        let config = node(m, name).config.as_mut().unwrap();
        config["output_quantizer"]["axis"] = "per-axis".into();
    })
}

fn channels4(generation2: bool) -> QuantizedModel {
    let how = if generation2 { v2() } else { v1() };
    net(how, [8, 8, 4], |b, x| {
        let x = conv6(b, "c0", x, 4, k(3));
        flat_head(b, x)
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = conversion();
    all.extend(numbers());
    all.extend(first_generation_input());
    all.extend(first_generation());
    all.extend(second_generation_input());
    all.extend(second_generation());
    all
}

fn conversion() -> Vec<Case> {
    vec![
        case("CV-EMPTY", ConversionV1, Error, || {
            changed(chain(), |m| {
                let end = m.nodes.pop().unwrap();
                m.nodes.truncate(1);
                m.nodes.push(end);
                m.nodes[1].inputs = vec![0];
                m.outputs = vec![1];
            })
        }),
        case("CV-IN1", ConversionV2, Error, || {
            changed(residual(), |m| {
                let mut second = m.nodes[0].clone();
                second.name = "second".to_owned();
                m.nodes.push(second);
            })
        }),
        case("CV-OUT1", ConversionV2, Error, || {
            changed(residual(), |m| m.outputs.push(1))
        }),
        case("CV-RANK", ConversionV2, Error, || {
            changed(residual(), |m| m.nodes[0].shape = vec![Some(16), Some(3)])
        }),
        case("CV-DIL", ConversionV2, Error, || conv2(k(3).dilation(2))),
        case("CV-BLOCK", ConversionV1, Error, || {
            after1([8, 8, 3], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3));
                let x = pool(b, "p1", x, [2, 2], [2, 2]);
                flat_head(b, x)
            })
        }),
        case("CV-BLOCK", Akida2, Error, || {
            after2([8, 8, 3], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3));
                let x = b.global_average_pooling2d("gap", x);
                let x = b.relu("relu", x);
                b.dense("fc", x, 3)
            })
        }),
        case("CV-BRANCH", ConversionV2, Error, wide_branch),
        case("CV-DEQ1", ConversionV2, Error, || {
            changed(residual(), |m| {
                let mut first = m.nodes.pop().unwrap();
                let mut second = first.clone();
                first.name = "dequantizer:0".to_owned();
                second.name = "dequantizer:1".to_owned();
                m.nodes.extend([first, second]);
            })
        }),
        case("CV-TAIL", Akida2, Warning, || {
            after2([8, 8, 3], |b, x| {
                let x = flat_head(b, x);
                b.activation("softmax", x, Activation::Softmax)
            })
        }),
        case("CV-INDATA", ConversionV2, Error, || channels4(true)),
        case("CV-POOLPAD", ConversionV2, Error, || {
            after2([8, 8, 3], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3));
                let x = b.max_pool2d("p1", x, 2);
                let x = b.relu("c1_relu", x);
                let x = conv(b, "c2", x, 4, k(1));
                flat_head(b, x)
            })
        }),
        case("CV-DENSE", ConversionV2, Error, || {
            after2([8, 8, 3], |b, x| b.dense("fc", x, 3))
        }),
        case("CV1-SEQ", ConversionV1, Error, residual),
        case("CV1-OUTQ", ConversionV1, Error, || {
            after1([8, 8, 3], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3));
                let x = conv6(b, "c2", x, 4, k(3));
                flat_head(b, x)
            })
        }),
        case("CV1-IN-CH", ConversionV1, Error, || channels4(false)),
        case("CV1-IN-W", ConversionV1, Error, || {
            with_bits(chain(), "c0", "weight_quantizer", 2)
        }),
        case("CV1-CONV-W", ConversionV1, Error, || {
            with_bits(chain(), "c1", "weight_quantizer", 8)
        }),
        case("CV1-SEP-W", ConversionV1, Error, || {
            with_bits(chain(), "s0", "pw_weight_quantizer", 2)
        }),
        case("CV1-FC-W", ConversionV1, Error, || {
            with_bits(chain(), "fc", "weight_quantizer", 8)
        }),
        case("CV1-RELU-MAX", ConversionV1, Error, unbounded),
        case("CV1-RELU-OUTQ", ConversionV1, Error, || {
            after1([8, 8, 3], |b, x| conv6(b, "c1", x, 4, k(3)))
        }),
        case("CV1-RELU-AXIS", ConversionV1, Error, || per_axis("c1_relu")),
        case("CV1-GAP", ConversionV1, Error, || average1(17, 17)),
        case("CV1-DEQ-ACT", ConversionV1, Warning, || {
            after1([8, 8, 3], |b, x| {
                let x = flat_head(b, x);
                b.clipped_relu("relu", x, 6.0)
            })
        }),
        case("CV2-SQ", ConversionV2, Error, || {
            conv2(Convolution::new([3, 5]).same())
        }),
        case("CV2-POOLSQ", ConversionV2, Error, || {
            pooled2([2, 1], [2, 1], flat_head)
        }),
        case("CV2-W", ConversionV2, Error, || {
            with_bits(residual(), "c2", "weight_quantizer", 2)
        }),
        case("CV2-T", ConversionV2, Error, || transposed(k(5).strides(2))),
        case("CV2-BTC-W", ConversionV2, Error, || {
            with_bits(temporal(3, 4), "btc", "weight_quantizer", 12)
        }),
        case("CV2-SSM", ConversionV2, Error, || {
            changed(recurrent(), |m| {
                let IntegerOp::StatefulProjection { subsample, .. } = &mut integers(m, "in").op
                else {
                    panic!("a projection");
                };
                *subsample = 2;
            })
        }),
        case("CV2-ADD-RELU", ConversionV2, Error, || {
            joined(|b, x, y| {
                let x = b.add("add", [x, y]);
                let x = b.relu("relu", x);
                let x = conv(b, "c3", x, 4, k(3));
                head(b, x)
            })
        }),
    ]
}

/// Changes an integer layer of the residual network.
fn tampered(change: fn(&mut QuantizedModel)) -> QuantizedModel {
    changed(residual(), change)
}

fn numbers() -> Vec<Case> {
    vec![
        case("N2-W", ConversionV2, Error, || {
            tampered(|m| match &mut integers(m, "c2").op {
                IntegerOp::Conv2D(op) => op.kernel[[0, 0, 0, 0]] = 128,
                other => panic!("{other:?}"),
            })
        }),
        case("N2-BIAS", ConversionV2, Error, || {
            tampered(|m| {
                integers(m, "c2").bias = Some(AlignedWeights {
                    values: PerAxis::Tensor(129),
                    shift: PerAxis::Tensor(1),
                });
            })
        }),
        case("N2-MAXV", ConversionV2, Error, || {
            tampered(|m| {
                integers(m, "c1_relu").op = IntegerOp::ReLU {
                    max: Some(PerAxis::Tensor(2 * 257)),
                };
            })
        }),
        case("N2-INSHIFT", ConversionV2, Error, || {
            tampered(|m| integers(m, "c0").entries = vec![entry(1)])
        }),
        case("N2-SCALE", ConversionV2, Warning, || {
            tampered(|m| {
                let stage = integers(m, "c2_relu").output.as_mut().unwrap();
                let (scales, _) = stage.multiplier.as_mut().unwrap();
                *scales = PerAxis::Tensor(256);
            })
        }),
        case("N2-SHIFT-K", ConversionV2, Warning, || {
            tampered(|m| {
                let stage = integers(m, "c2_relu").output.as_mut().unwrap();
                stage.shift = PerAxis::Tensor(-32);
            })
        }),
        case("N2-ADDSHIFT", ConversionV2, Error, || {
            tampered(|m| integers(m, "add").entries[1] = entry(256))
        }),
        case("N2-LUT-SIZE", ConversionV2, Error, || {
            changed(table(), |m| match &mut integers(m, "gelu").op {
                IntegerOp::LookUp { table } => table.truncate(1024),
                other => panic!("{other:?}"),
            })
        }),
        case("N2-LUT-TENSOR", ConversionV2, Error, || {
            changed(table(), |m| {
                integers(m, "c1").format.frac_bits = PerAxis::Axis(vec![3, 4, 5, 6]);
            })
        }),
        case("N2-PADV", ConversionV2, Error, || {
            changed(padded(), |m| match &mut integers(m, "c1").op {
                IntegerOp::Conv2D(op) => op.border = Border::Value(PerAxis::Tensor(1)),
                other => panic!("{other:?}"),
            })
        }),
        case("N2-ZP", ConversionV2, Error, || {
            changed(padded(), |m| {
                for node in &mut m.nodes {
                    if let QuantizedOp::InputQuantizer { quantizer, .. } = &mut node.op {
                        quantizer.zero_point = Some(PerAxis::Tensor(256));
                    }
                }
            })
        }),
        case("N2-BUF", ConversionV2, Info, || {
            tampered(|m| match &mut integers(m, "c2").op {
                IntegerOp::Conv2D(op) => op.kernel.fill(1 << 21),
                other => panic!("{other:?}"),
            })
        }),
    ]
}

fn entry(shift: u32) -> EntryStage {
    EntryStage {
        stage: Stage::InputExpand,
        shift: PerAxis::Tensor(shift),
        value_bits: ValueBits::new(27).unwrap(),
    }
}

fn first_generation_input() -> Vec<Case> {
    vec![
        case("A1-IN-DIMS", Akd1000, Error, || {
            image1([5, 257, 1], 2, k(3))
        }),
        case("A1-IN-DIMS", Akd1500, Error, || image1([4, 16, 1], 2, k(3))),
        case("A1-IN-CH", Akd1000, Error, || channels4(false)),
        case("A1-IN-KERNEL", Akd1000, Error, || {
            image1([12, 12, 3], 4, k(9))
        }),
        case("A1-IN-STRIDE", Akd1000, Error, || {
            image1([12, 12, 3], 4, k(5).strides(4))
        }),
        case("A1-IN-STRIDE-SQ", Akd1000, Warning, || {
            image1([12, 12, 3], 4, k(3).strides([1, 2]))
        }),
        case("A1-IN-FILTERS", Akd1000, Error, || {
            image1([8, 8, 3], 33, k(7))
        }),
        case("A1-IN-FILTERS", Akd1500, Error, || {
            image1([8, 8, 3], 193, k(3))
        }),
        case("A1-IN-FILTERS", Akd1500, Error, || {
            image1([8, 8, 1], 97, k(7))
        }),
        case("A1-IN-POOL", Akd1000, Error, || pooled1([3, 3], [3, 3])),
        case("A1-IN-POOL", Akd1500, Error, || pooled1([2, 2], [1, 1])),
        case("A1-IN-NOGAP", Akd1000, Error, || {
            net(v1(), [8, 8, 3], |b, x| {
                let x = b.conv2d("c0", x, 4, k(3));
                let x = b.global_average_pooling2d("gap", x);
                let x = b.clipped_relu("c0_relu", x, 6.0);
                b.dense("fc", x, 3)
            })
        }),
        case("A1-IN-WBITS", Akd1000, Error, || {
            with_bits(chain(), "c0", "weight_quantizer", 2)
        }),
        case("A1-IN-WBITS", Akd1500, Warning, || {
            with_bits(chain(), "c0", "weight_quantizer", 4)
        }),
        case("A1-IN-IBITS", Akd1000, Error, || {
            with_dtype(chain(), Dtype::Int8)
        }),
        case("A1-IN-ACTBITS", Akd1000, Error, || {
            with_bits(chain(), "c0_relu", "output_quantizer", 8)
        }),
        case("A1-IN-POOL-NEXT", Akd1000, Warning, || {
            net(v1(), [12, 12, 3], |b, x| {
                let x = b.conv2d("c0", x, 4, k(3));
                let x = pool(b, "p0", x, [2, 2], [2, 2]);
                let x = b.clipped_relu("c0_relu", x, 6.0);
                flat_head(b, x)
            })
        }),
        case("A1-DATA-RANGE", Akd1000, Error, || {
            with_dtype(chain(), Dtype::Int8)
        }),
    ]
}

fn first_generation() -> Vec<Case> {
    let wide = || {
        net(v1(), [5, 5, 1], |b, x| {
            let x = conv6(b, "c0", x, 2049, k(3));
            let x = conv6(b, "c1", x, 2, k(1));
            flat_head(b, x)
        })
    };
    vec![
        case("A1-LAYER-TYPE", Akd1000, Error, residual),
        case("A1-SEQ", Akd1500, Error, residual),
        case("A1-ACT-RELU", Akd1000, Error, unbounded),
        case("A1-CONV-DIMS", Akd1000, Error, wide),
        case("A1-CONV-KERNEL", Akd1000, Error, || conv1(k(9))),
        case("A1-SEP-KERNEL", Akd1000, Error, || {
            after1([12, 12, 3], |b, x| {
                let x = b.separable_conv2d("s0", x, 4, k(9));
                let x = b.clipped_relu("s0_relu", x, 6.0);
                flat_head(b, x)
            })
        }),
        case("A1-CONV-STRIDE", Akd1000, Error, || conv1(k(5).strides(2))),
        case("A1-CONV-STRIDE", Akd1500, Error, || conv1(k(3).strides(3))),
        case("A1-CONV-PAD", Akd1000, Error, || conv1(Convolution::new(3))),
        case("A1-CONV-DIL", Akd1000, Error, || conv1(k(3).dilation(2))),
        case("A1-CONV-POOL", Akd1000, Error, || {
            after1([12, 12, 3], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3));
                let x = pool(b, "p1", x, [3, 3], [2, 2]);
                let x = b.clipped_relu("c1_relu", x, 6.0);
                let x = conv6(b, "c2", x, 4, k(1));
                flat_head(b, x)
            })
        }),
        case("A1-POOL-NEXT", Akd1000, Error, || {
            after1([12, 12, 3], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3));
                let x = pool(b, "p1", x, [2, 2], [2, 2]);
                let x = b.clipped_relu("c1_relu", x, 6.0);
                flat_head(b, x)
            })
        }),
        case("A1-GAP-WIDTH", Akd1000, Error, || average1(5, 33)),
        case("A1-GAP-WIDTH", Akd1500, Warning, || average1(33, 5)),
        case("A1-GAP-ROWS", Akd1000, Error, || {
            after1([6, 6, 1], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3).strides([3, 3]));
                let x = b.global_average_pooling2d("gap", x);
                let x = b.clipped_relu("c1_relu", x, 6.0);
                b.dense("fc", x, 3)
            })
        }),
        case("A1-GAP-ROWS", Akd1500, Warning, || {
            after1([6, 6, 1], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3).strides([3, 1]));
                let x = b.global_average_pooling2d("gap", x);
                let x = b.clipped_relu("c1_relu", x, 6.0);
                b.dense("fc", x, 3)
            })
        }),
        case("A1-GAP-1X1", Akd1000, Error, || separable_average(1)),
        case("A1-CONV-IBITS", Akd1000, Error, || {
            with_bits(chain(), "c0_relu", "output_quantizer", 8)
        }),
        case("A1-CONV-WBITS", Akd1000, Error, || {
            with_bits(chain(), "c1", "weight_quantizer", 8)
        }),
        case("A1-CONV-WBITS", Akd1500, Warning, || {
            with_bits(chain(), "fc", "weight_quantizer", 1)
        }),
        case("A1-SEP-WBITS", Akd1000, Error, || {
            with_bits(chain(), "s0", "dw_weight_quantizer", 8)
        }),
        case("A1-SEP-WBITS", Akd1500, Warning, || {
            with_bits(chain(), "s0", "dw_weight_quantizer", 1)
        }),
        case("A1-CONV-ACTBITS", Akd1000, Error, || {
            with_bits(chain(), "c1_relu", "output_quantizer", 3)
        }),
        case("A1-FC-DIMS", Akd1000, Error, || {
            net(v1(), [240, 240, 1], |b, x| {
                let x = conv6(b, "c0", x, 1, k(3));
                flat_head(b, x)
            })
        }),
        case("A1-PER-TENSOR", Akd1000, Error, || per_axis("c1_relu")),
        case("A1-NP-COUNT", Akd1500, Warning, || {
            image1([5, 1025, 1], 1, k(3))
        }),
        case("A1-NP-COUNT", Akd1000, Warning, || {
            image1([5, 2561, 1], 1, k(3))
        }),
        case("A15-SAME-AS-A1", Akd1500, Info, chain),
        case("A15-MULTIPASS", Akd1500, Info, chain),
        case("A10-SINGLEPASS", Akd1000, Info, chain),
    ]
}

fn second_generation_input() -> Vec<Case> {
    vec![
        case("A2-IN-DIMS", Akida2, Error, || image2([5, 385, 1], 2, k(3))),
        case("A2-IN-CH", Akida2, Error, || channels4(true)),
        case("A2-IN-KERNEL", Akida2, Error, || {
            image2([12, 12, 3], 4, k(9))
        }),
        case("A2-IN-STRIDE", Akida2, Error, || {
            image2([12, 12, 3], 4, k(3).strides(4))
        }),
        case("A2-IN-FILTERS", Akida2, Error, || {
            image2([5, 5, 1], 513, k(3))
        }),
        case("A2-IN-POOL", Akida2, Error, || {
            net(v2().as_it_is(), [12, 12, 3], |b, x| {
                let x = b.conv2d("c0", x, 4, k(3));
                let x = pool(b, "p0", x, [2, 2], [1, 1]);
                let x = b.relu("c0_relu", x);
                let x = conv(b, "c1", x, 2, k(1));
                flat_head(b, x)
            })
        }),
        case("A2-IN-WBITS", Akida2, Error, || {
            with_bits(residual(), "c0", "weight_quantizer", 6)
        }),
        case("A2-IN-WBITS", Akida2, Warning, || {
            with_bits(residual(), "c0", "weight_quantizer", 4)
        }),
        case("A2-IN-IBITS", Akida2, Error, || {
            net(v2().dtype(InputDtype::Int16), [8, 8, 3], |b, x| {
                let x = conv(b, "c0", x, 4, k(3));
                flat_head(b, x)
            })
        }),
        case("A2-IN-ACTBITS", Akida2, Error, || {
            with_bits(residual(), "c0_relu", "output_quantizer", 6)
        }),
        case("A2-IN-FANOUT", Akida2, Warning, || {
            after2([8, 8, 3], |b, x| {
                let y = conv(b, "c1", x, 4, k(3));
                let z = conv(b, "c2", x, 4, k(3));
                let x = b.concatenate("cat", [y, z]);
                let x = conv(b, "c3", x, 4, k(3));
                head(b, x)
            })
        }),
    ]
}

fn second_generation() -> Vec<Case> {
    let mut all = second_generation_convolutions();
    all.extend(second_generation_others());
    all
}

fn second_generation_convolutions() -> Vec<Case> {
    let wide = || {
        after2([5, 5, 1], |b, x| {
            let x = conv(b, "c1", x, 2049, k(1));
            let x = conv(b, "c2", x, 2, k(1));
            flat_head(b, x)
        })
    };
    vec![
        case("A2-LAYER-TYPE", Akida2, Error, chain),
        case("A2-CONV-DIMS", Akida2, Error, wide),
        case("A2-CONV-KERNEL", Akida2, Error, || conv2(k(9))),
        case("A2-CONV-KERNEL", Akida2, Error, || conv2(k(2))),
        case("A2-DW-KERNEL", Akida2, Error, || depthwise2(k(1))),
        case("A2-CONV-STRIDE", Akida2, Error, || conv2(k(5).strides(2))),
        case("A2-CONV-STRIDE", Akida2, Warning, || conv2(k(1).strides(2))),
        case("A2-DW-STRIDE", Akida2, Error, || {
            depthwise2(k(5).strides(2))
        }),
        case("A2-CONV-PAD", Akida2, Error, || conv2(Convolution::new(3))),
        case("A2-CONV-DIL", Akida2, Error, || conv2(k(3).dilation(2))),
        case("A2-CONV-POOL", Akida2, Error, || {
            pooled2([3, 3], [2, 2], |b, x| {
                let x = conv(b, "c2", x, 2, k(1));
                flat_head(b, x)
            })
        }),
        case("A2-POOL-NEXT", Akida2, Error, || {
            pooled2([2, 2], [2, 2], flat_head)
        }),
        case("A2-LUT-MAXPOOL", Akida2, Error, || {
            after2([8, 8, 3], |b, x| {
                let x = b.conv2d("c1", x, 4, k(3));
                let x = pool(b, "p1", x, [2, 2], [2, 2]);
                let x = b.activation("gelu", x, GELU);
                let x = conv(b, "c2", x, 4, k(1));
                flat_head(b, x)
            })
        }),
        case("A2-LUT-LAYER", Akida2, Error, || {
            after2([8, 8, 3], |b, x| {
                let x = flat_head(b, x);
                let x = b.activation("gelu", x, GELU);
                b.dense("fc2", x, 3)
            })
        }),
        case("A2-GAP-WIDTH", Akida2, Error, || average2(2, 65)),
        case("A2-GAP-WIDTH", Akida2, Warning, || average2(65, 2)),
        case("A2-GAP-AREA", Akida2, Error, || average2(12, 12)),
        case("A2-CONV-BITS", Akida2, Error, || {
            with_bits(residual(), "c2", "weight_quantizer", 2)
        }),
        case("A2-TCONV", Akida2, Error, || transposed(k(3).strides(1))),
        case("A2-TCONV-BITS", Akida2, Error, || {
            with_bits(transposed(k(3).strides(2)), "dwt", "weight_quantizer", 4)
        }),
        case("A2-TCONV-BITS", Akida2, Warning, || {
            after2([6, 6, 3], |b, x| {
                b.conv2d_transpose("t0", x, 4, k(3).strides(2))
            })
        }),
        case("A2-TCONV-NOPOOL", Akida2, Error, || {
            after2([6, 6, 3], |b, x| {
                let x = b.conv2d_transpose("t0", x, 4, k(3).strides(2));
                let x = pool(b, "p0", x, [2, 2], [2, 2]);
                let x = b.relu("t0_relu", x);
                flat_head(b, x)
            })
        }),
    ]
}

/// A depthwise convolution of 2.0 as given.
fn depthwise2(how: Convolution) -> QuantizedModel {
    after2([12, 12, 3], |b, x| {
        let x = b.depthwise_conv2d("d0", x, how);
        let x = b.relu("d0_relu", x);
        flat_head(b, x)
    })
}

fn second_generation_others() -> Vec<Case> {
    let no_convolution = || {
        joined(|b, x, y| {
            let x = b.add("add", [x, y]);
            flat_head(b, x)
        })
    };
    vec![
        case("A2-DENSE-DIMS", Akida2, Error, || {
            after2([16, 16, 3], |b, x| {
                let x = conv(b, "c1", x, 9, k(1));
                flat_head(b, x)
            })
        }),
        case("A2-BTC-FIFO", Akida2, Error, || temporal(11, 4)),
        case("A2-BTC-FIFO", Akida2, Error, || temporal(1, 4)),
        case("A2-BTC-FILTERS", Akida2, Error, || temporal(2, 2049)),
        case("A2-BTC-BITS", Akida2, Error, || {
            with_bits(temporal(3, 4), "btc", "weight_quantizer", 4)
        }),
        case("A2-OUT-RAW", Akida2, Error, wide_branch),
        case("A2-SKIP-TWO", Akida2, Error, || {
            changed(residual(), |m| {
                let node = node(m, "add");
                node.inputs.push(2);
            })
        }),
        case("A2-SKIP-DISTINCT", Akida2, Warning, || {
            joined(|b, _, y| {
                let x = b.add("add", [y, y]);
                let x = conv(b, "c3", x, 4, k(3));
                head(b, x)
            })
        }),
        case("A2-SKIP-NEXT", Akida2, Warning, no_convolution),
        case("A2-FANOUT", Akida2, Warning, || {
            joined(|b, x, y| {
                let x2 = conv(b, "c4", x, 4, k(3));
                let x = b.add("add", [x, y]);
                let x = b.add("add2", [x, x2]);
                let x = conv(b, "c3", x, 4, k(3));
                head(b, x)
            })
        }),
        case("A2-SKIP-CH", Akida2, Warning, || {
            after2([5, 5, 1], |b, x| {
                let x = conv(b, "c1", x, 2049, k(1));
                let y = b.depthwise_conv2d("d1", x, k(3));
                let x = b.add("add", [x, y]);
                let x = conv(b, "c2", x, 2, k(1));
                flat_head(b, x)
            })
        }),
        case("A2-NP-COUNT", Akida2TwoNodes, Warning, || {
            image2([5, 513, 1], 1, k(3))
        }),
    ]
}

/// Networks that a target takes, with the rules of each of their blocks.
pub(crate) fn good() -> Vec<(&'static str, Vec<Target>, QuantizedModel)> {
    let first = vec![ConversionV1, Akd1000, Akd1500];
    let second = vec![ConversionV2, Akida2, Akida2TwoNodes, Target::Akida2SixNodes];
    let signed = net(v2().dtype(InputDtype::Int8), [8, 8, 3], |b, x| {
        let x = conv(b, "c0", x, 4, k(3));
        flat_head(b, x)
    });
    vec![
        ("chain", first.clone(), chain()),
        ("separable average", first.clone(), separable_average(5)),
        ("four-bit data", first, four_bit_data()),
        ("residual", second.clone(), residual()),
        ("table", second.clone(), table()),
        ("transposed", second.clone(), transposed(k(3).strides(2))),
        ("temporal", second.clone(), temporal(3, 4)),
        ("recurrent", second.clone(), recurrent()),
        ("padded", second.clone(), padded()),
        ("signed data", second, signed),
    ]
}

//! R8.

use float_model::{Layer, Padding, Rescaling, Sanitized};
use quantizer_core::PerAxis::{self, Axis, Tensor};

use crate::net::{Net, OFF, Rng, chain, checked, events, layer};

fn rescaling(scale: PerAxis<f64>, offset: PerAxis<f64>) -> Layer {
    Layer::Rescaling(Rescaling { scale, offset })
}

fn align(shape: &[usize], rescaling: Layer, target: Layer) -> Sanitized {
    checked(
        chain(shape, vec![("rescaling", rescaling), ("target", target)]),
        &OFF,
    )
}

#[test]
fn an_offset_goes_into_bias_and_padding_value() {
    let mut conv = Rng(31).conv([3, 3], 3, 4);
    (conv.strides, conv.bias) = ([2, 2], None);
    let scale = Tensor(1.0 / 127.5);
    let done = align(
        &[6, 5, 3],
        rescaling(scale.clone(), Tensor(-1.0)),
        Layer::Conv2D(conv.clone()),
    );
    assert_eq!(
        layer(&done.graph, "rescaling"),
        &rescaling(scale, Tensor(0.0))
    );
    let Layer::Conv2D(aligned) = layer(&done.graph, "target") else {
        panic!("a Conv2D")
    };
    assert_eq!(aligned.padding_value, Some(vec![1.0]));
    assert_eq!(aligned.padding, Padding::Valid);
    assert_eq!(aligned.kernel, conv.kernel);
    let mut want = [0.0f32; 4];
    for (i, weight) in conv.kernel.iter().enumerate() {
        want[i % 4] -= weight;
    }
    assert_eq!(
        aligned.bias.as_ref().map(|b| b.to_vec()),
        Some(want.to_vec())
    );
    assert_eq!(
        events(&done.applied),
        ["align-rescaling rescaling: its offset went into `target`"]
    );
}

#[test]
fn scales_of_several_values_go_into_the_kernel() {
    let scale = Axis(vec![0.5, 0.25, 2.0]);
    for padding in [Padding::Same, Padding::Valid] {
        let mut conv = Rng(32).conv([3, 3], 3, 2);
        conv.padding = padding;
        let source = rescaling(scale.clone(), Axis(vec![-2.0, -1.0, 3.0]));
        let done = align(&[5, 5, 3], source, Layer::Conv2D(conv));
        assert_eq!(
            layer(&done.graph, "rescaling"),
            &rescaling(Tensor(1.0), Tensor(0.0))
        );
        let Layer::Conv2D(aligned) = layer(&done.graph, "target") else {
            panic!("a Conv2D")
        };
        let is_same = padding == Padding::Same;
        assert_eq!(aligned.padding_value, is_same.then(|| vec![4.0, 4.0, -1.5]));
    }
    // No offset: the border stays 0, yet the class is the reference's.
    let conv = Layer::Conv2D(Rng(33).conv([3, 3], 3, 2));
    let done = align(&[5, 5, 3], rescaling(scale, Tensor(0.0)), conv);
    assert_eq!(layer(&done.graph, "target").class_name(), "PaddedConv2D");
}

#[test]
fn equal_offsets_are_one_padding_value() {
    let conv = Layer::Conv2D(Rng(34).conv([3, 3], 3, 2));
    let done = align(&[5, 5, 3], rescaling(Tensor(0.5), Axis(vec![1.0; 3])), conv);
    let Layer::Conv2D(aligned) = layer(&done.graph, "target") else {
        panic!("a Conv2D")
    };
    assert_eq!(aligned.padding_value, Some(vec![-1.0]));
}

#[test]
fn a_dense_layer_takes_both_in() {
    let dense = Layer::Dense(Rng(35).dense(3, 4));
    let source = rescaling(Axis(vec![0.5, 0.25, 2.0]), Tensor(0.75));
    let done = align(&[3], source, dense);
    assert_eq!(
        events(&done.applied),
        ["align-rescaling rescaling: its scale and offset went into `target`"]
    );
}

#[test]
fn a_single_scale_without_offset_stays() {
    for scale in [Tensor(0.5), Axis(vec![0.5])] {
        let conv = Layer::Conv2D(Rng(36).conv([3, 3], 3, 2));
        let done = align(&[5, 5, 3], rescaling(scale, Axis(vec![0.0; 3])), conv);
        assert_eq!((done.applied, done.refused), (vec![], vec![]));
    }
}

#[test]
fn what_cannot_take_it_in_is_refused_with_its_reason() {
    let refusal = |target: Layer| {
        let done = align(&[5, 5, 3], rescaling(Tensor(0.5), Tensor(1.0)), target);
        assert_eq!(done.applied, [], "nothing is applied");
        events(&done.refused)
    };
    assert_eq!(
        refusal(Layer::DepthwiseConv2D(Rng(37).depthwise([3, 3], 3))),
        ["align-rescaling rescaling: `target` (DepthwiseConv2D) cannot take it in"]
    );
    let mut dilated = Rng(38).conv([3, 3], 3, 2);
    dilated.dilation = [2, 2];
    let reason = "the 'same' convolution behind is dilated: its border has no other value";
    assert_eq!(
        refusal(Layer::Conv2D(dilated)),
        [format!("align-rescaling rescaling: {reason}")]
    );
    let mut padded = Rng(39).conv([3, 3], 3, 2);
    (padded.padding, padded.padding_value) = (Padding::Valid, Some(vec![1.0]));
    assert_eq!(
        refusal(Layer::Conv2D(padded)),
        ["align-rescaling rescaling: the convolution behind has a padding value"]
    );
    let mut grouped = Rng(40).conv([3, 3], 1, 6);
    grouped.groups = 3;
    assert_eq!(
        refusal(Layer::Conv2D(grouped))[1],
        "align-rescaling rescaling: the convolution behind is grouped"
    );
}

#[test]
fn a_scale_of_0_has_no_padding_value() {
    let conv = Layer::Conv2D(Rng(41).conv([3, 3], 2, 2));
    let done = align(
        &[5, 5, 2],
        rescaling(Axis(vec![1.0, 0.0]), Tensor(1.0)),
        conv,
    );
    assert_eq!(
        events(&done.refused),
        ["align-rescaling rescaling: its padding value would be -inf"]
    );
}

#[test]
fn a_rescaling_that_others_see_is_refused() {
    let mut rng = Rng(42);
    let mut net = Net::new(&[5, 5, 3]);
    net.add("rescaling", rescaling(Tensor(0.5), Tensor(1.0)), &["input"]);
    net.add("a", Layer::Conv2D(rng.conv([3, 3], 3, 2)), &["rescaling"]);
    let done = checked(net.clone().graph(&["a", "rescaling"]), &OFF);
    assert_eq!(
        events(&done.refused),
        ["align-rescaling rescaling: `rescaling` is also a model output"]
    );
    net.add("b", Layer::Conv2D(rng.conv([3, 3], 3, 2)), &["rescaling"]);
    let done = checked(net.graph(&["a", "b"]), &OFF);
    assert_eq!(
        events(&done.refused),
        ["align-rescaling rescaling: `rescaling` has 2 consumers"]
    );
}

//! R9, R10.

use float_model::{Activation, GlobalAveragePooling2D, Layer, Padding, ReLU};
use ndarray::arr1;

use crate::net::{Net, OFF, Rng, chain, checked, events, max_pool, names, outputs};

#[test]
fn rectifiers_move_behind_one_pool() {
    let relu6 = Layer::ReLU(ReLU {
        max_value: Some(6.0),
        ..ReLU::default()
    });
    let odd = Layer::ReLU(ReLU {
        max_value: Some(1.0),
        negative_slope: 0.5,
        threshold: 0.25,
    });
    let leaky = Layer::Activation(Activation::LeakyRelu { alpha: 0.1 });
    for activation in [Layer::ReLU(ReLU::default()), relu6, odd, leaky] {
        let class = activation.class_name();
        let layers = vec![
            ("act", activation),
            ("pool1", max_pool(3, 2, Padding::Same)),
            ("pool2", max_pool(2, 1, Padding::Valid)),
        ];
        let done = checked(chain(&[7, 6, 2], layers), &OFF);
        assert_eq!(
            names(&done.graph),
            [
                "input:InputLayer",
                "pool1:MaxPooling2D",
                &format!("act:{class}"),
                "pool2:MaxPooling2D"
            ]
        );
        assert_eq!(
            events(&done.applied),
            ["swap-activation-maxpool pool1: stands before `act` now"]
        );
    }
}

#[test]
fn a_swap_moves_the_output() {
    let layers = vec![
        ("act", Layer::ReLU(ReLU::default())),
        ("pool", max_pool(2, 2, Padding::Valid)),
    ];
    let done = checked(chain(&[4, 4, 1], layers), &OFF);
    assert_eq!(outputs(&done.graph), ["act"]);
}

#[test]
fn functions_that_decrease_do_not_move() {
    let negative = Layer::Activation(Activation::LeakyRelu { alpha: -0.5 });
    let layers = vec![("act", negative), ("pool", max_pool(2, 2, Padding::Valid))];
    let done = checked(chain(&[4, 4, 1], layers), &OFF);
    assert_eq!(
        events(&done.refused),
        ["swap-activation-maxpool pool: `act` decreases somewhere: slope -0.5, threshold 0"]
    );
    let swish = Layer::Activation(Activation::Swish);
    let layers = vec![("act", swish), ("pool", max_pool(2, 2, Padding::Valid))];
    let done = checked(chain(&[4, 4, 1], layers), &OFF);
    assert_eq!((done.applied, done.refused), (vec![], vec![]));
}

#[test]
fn an_activation_that_others_see_does_not_move() {
    let mut net = Net::new(&[4, 4, 2]);
    net.add("act", Layer::ReLU(ReLU::default()), &["input"]);
    net.add("pool", max_pool(2, 2, Padding::Valid), &["act"]);
    let done = checked(net.clone().graph(&["pool", "act"]), &OFF);
    assert_eq!(
        events(&done.refused),
        ["swap-activation-maxpool pool: `act` is also a model output"]
    );
    net.add("pool2", max_pool(2, 2, Padding::Valid), &["act"]);
    let done = checked(net.graph(&["pool", "pool2"]), &OFF);
    assert_eq!(
        events(&done.refused),
        [
            "swap-activation-maxpool pool: `act` has 2 consumers",
            "swap-activation-maxpool pool2: `act` has 2 consumers",
        ]
    );
}

#[test]
fn a_normalization_moves_before_pools_and_is_folded() {
    let mut rng = Rng(21);
    for (keepdims, axis) in [(false, 1), (false, -1), (true, 3)] {
        let mut norm = rng.norm(3);
        norm.axis = axis;
        let layers = vec![
            ("conv", Layer::Conv2D(rng.conv([3, 3], 2, 3))),
            ("pool", max_pool(3, 2, Padding::Same)),
            (
                "gap",
                Layer::GlobalAveragePooling2D(GlobalAveragePooling2D { keepdims }),
            ),
            ("bn", Layer::BatchNormalization(norm)),
        ];
        let done = checked(chain(&[6, 6, 2], layers), &OFF);
        assert_eq!(
            names(&done.graph),
            [
                "input:InputLayer",
                "conv:Conv2D",
                "pool:MaxPooling2D",
                "gap:GlobalAveragePooling2D"
            ]
        );
        assert_eq!(
            events(&done.applied),
            [
                "swap-pool-batchnorm bn: stands before `gap` now",
                "swap-pool-batchnorm bn: stands before `pool` now",
                "fold-batchnorm bn: folded into `conv`",
            ]
        );
        assert_eq!(outputs(&done.graph), ["gap"]);
    }
}

#[test]
fn a_maximum_needs_positive_gammas_and_a_mean_does_not() {
    let mut norm = Rng(22).norm(2);
    norm.gamma = Some(arr1(&[1.0, -1.0]));
    let layers = vec![
        ("pool", max_pool(2, 2, Padding::Valid)),
        ("bn", Layer::BatchNormalization(norm.clone())),
    ];
    let done = checked(chain(&[4, 4, 2], layers), &OFF);
    assert_eq!(
        events(&done.refused),
        [
            "swap-pool-batchnorm bn: gamma[1] = -1 is not positive",
            "fold-batchnorm bn: `pool` (MaxPooling2D) has no weights to take it in",
        ]
    );
    let gap = Layer::GlobalAveragePooling2D(GlobalAveragePooling2D::default());
    let layers = vec![("gap", gap), ("bn", Layer::BatchNormalization(norm))];
    let done = checked(chain(&[4, 4, 2], layers), &OFF);
    assert_eq!(
        names(&done.graph),
        [
            "input:InputLayer",
            "bn:BatchNormalization",
            "gap:GlobalAveragePooling2D"
        ]
    );
}

#[test]
fn a_normalization_of_rows_does_not_move() {
    let mut norm = Rng(23).norm(2);
    norm.axis = 1;
    let layers = vec![
        ("pool", max_pool(2, 2, Padding::Valid)),
        ("bn", Layer::BatchNormalization(norm)),
    ];
    let done = checked(chain(&[4, 4, 3], layers), &OFF);
    assert_eq!(
        events(&done.refused)[0],
        "swap-pool-batchnorm bn: normalizes axis 1, which is not the last"
    );
}

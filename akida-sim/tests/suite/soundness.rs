//! Bounds hold on chains of all kinds of layers, with memory, with narrow buffers.

use std::collections::{BTreeMap, BTreeSet};

use akida_sim::certificate::{Certificate, certify, check};
use akida_sim::prove::{
    SearchBudget, StageBounds, StageProof, Verdict, bound, prove, with_buffer_bits,
};
use akida_sim::{Executor, ModelMemory, QuantizedModel, QuantizedOp};
use ndarray::ArrayD;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use quantizer_core::Stage;
use quantizer_core::layers::{IntegerLayer, IntegerOp, Memory};

use crate::prove::Within;
use crate::wide::{Chain, chains, inputs, model};

/// Steps of a sequence: more than the frames of any window.
const STEPS: u64 = 4;

/// Runs a sequence; every intermediate of every step stays in its range, and a stage whose range
/// fits never counts a saturation.
fn check_sequence(chain: &Chain, model: &QuantizedModel, edge: u8) {
    let bounds = bound(model).unwrap();
    let executor = Executor::new(model);
    let mut memory = ModelMemory::default();
    let mut memories: Vec<Memory> = vec![Memory::default(); model.nodes.len()];
    for step in 0..STEPS {
        let mut seen: Vec<Option<ArrayD<i64>>> = vec![None; model.nodes.len()];
        let run = executor
            .run_step(&inputs(chain, edge, step), &mut memory, &mut |i, tensor| {
                seen[i] = tensor.integers();
            })
            .unwrap();
        for (index, (node, bounds)) in model.nodes.iter().zip(&bounds).enumerate() {
            for stage in bounds.stages.iter().filter(|stage| stage.fits()) {
                let count = run.counters[index].get(stage.stage);
                let saturated = count.map_or(0, |count| count.saturated);
                assert_eq!(saturated, 0, "{} of {} is proved", stage.stage, node.name);
            }
            let QuantizedOp::Integer(layer) = &node.op else {
                continue;
            };
            let taken = node.inputs.iter().map(|i| seen[*i].as_ref().unwrap());
            let taken: Vec<&ArrayD<i64>> = taken.collect();
            let name = node.name.as_str();
            let mut within = Within { name, bounds };
            let output = layer
                .run_step(&taken, &mut memories[index], &mut within)
                .unwrap();
            assert_eq!(Some(&output), seen[index].as_ref(), "integers of {name}");
            let ranges = bounds.output.as_ref().unwrap();
            for (i, v) in output.iter().enumerate() {
                let range = ranges[i.rem_euclid(ranges.len())];
                let inside = (range.lo..=range.hi).contains(v);
                assert!(inside, "{v} leaves {name} outside {range:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2500))]

    #[test]
    fn no_intermediate_of_a_chain_leaves_its_range(chain in chains(), edge in 0..5_u8) {
        check_sequence(&chain, &model(&chain), edge);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn verdicts_of_chains_hold_when_they_are_replayed(chain in chains()) {
        let model = model(&chain);
        let budget = SearchBudget { runs: 4, seed: 1 };
        let proof = prove(&model, None, budget, &mut |_, _| ()).unwrap();
        let executor = Executor::new(&model);
        for (layer, stage) in proof.stages() {
            let name = stage.bounds.stage;
            match &stage.verdict {
                Verdict::Refuted(witness) => {
                    let run = executor.run(&witness.input, &mut |_, _| ()).unwrap();
                    let count = run.counters[layer.node].get(name).unwrap();
                    prop_assert!(count.saturated > 0, "{} of {}", name, layer.name);
                }
                Verdict::Possible { layer_input: Some(found), .. } => {
                    let QuantizedOp::Integer(of_layer) = &model.nodes[layer.node].op else {
                        return Err(TestCaseError::fail("a layer of integers"));
                    };
                    let taken: Vec<&ArrayD<i64>> = found.inputs.iter().collect();
                    let mut counters = quantizer_core::Counters::default();
                    of_layer.run(&taken, &mut counters).unwrap();
                    let count = counters.get(name).unwrap();
                    prop_assert!(count.saturated > 0, "{} of {}", name, layer.name);
                }
                Verdict::Proved { .. } | Verdict::ByDesign | Verdict::Possible { .. } => {}
            }
        }
    }
}

#[test]
fn samples_refute_models_of_open_extents() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut n_refuted = 0;
    for _ in 0..300 {
        let mut chain = chains().new_tree(&mut runner).unwrap().current();
        chain.open = [true; 2];
        let model = model(&chain);
        let samples = inputs(&chain, 2, 0);
        let run = Executor::new(&model).outputs(&samples).unwrap();
        let budget = SearchBudget::default();
        let proof = prove(&model, Some(&samples), budget, &mut |_, _| ()).unwrap();
        let is_open = |stage: &StageProof| matches!(stage.verdict, Verdict::Possible { .. });
        for (layer, stage) in proof.stages() {
            let count = run.counters[layer.node].get(stage.bounds.stage);
            let saturated = count.is_some_and(|count| count.saturated > 0);
            let is_refuted = matches!(stage.verdict, Verdict::Refuted(_));
            let clips = stage.bounds.stage.clips_by_design();
            assert_eq!(is_refuted, saturated && !clips, "{} {chain:?}", layer.name);
            n_refuted += usize::from(is_refuted);
        }
        assert!(proof.searched || proof.stages().any(|(_, s)| !s.bounds.fits()));
        let is_settled = !proof.stages().any(|(_, stage)| is_open(stage));
        assert!(is_settled || !proof.searched, "{chain:?}");
    }
    assert!(n_refuted > 20, "only {n_refuted} are refuted");
}

/// Returns a name for each operation that the chains must reach.
fn operation(op: &IntegerOp) -> &'static str {
    match op {
        IntegerOp::Conv2D(_) => "Conv2D",
        IntegerOp::DepthwiseConv2D(_) => "DepthwiseConv2D",
        IntegerOp::SeparableConv2D { .. } => "SeparableConv2D",
        IntegerOp::Conv2DTranspose(_) => "Conv2DTranspose",
        IntegerOp::DepthwiseConv2DTranspose(_) => "DepthwiseConv2DTranspose",
        IntegerOp::Dense { .. } => "Dense",
        IntegerOp::StatefulProjection { .. } => "StatefulProjection",
        IntegerOp::BufferTempConv { .. } => "BufferTempConv",
        IntegerOp::DepthwiseBufferTempConv { .. } => "DepthwiseBufferTempConv",
        IntegerOp::StatefulRecurrent(_) => "StatefulRecurrent",
        IntegerOp::ReLU { .. } => "ReLU",
        IntegerOp::LookUp { .. } => "LookUp",
        IntegerOp::MaxPool2D(_) => "MaxPool2D",
        IntegerOp::GlobalAveragePooling2D { .. } => "GlobalAveragePooling2D",
        IntegerOp::Add => "Add",
        IntegerOp::Concatenate(_) => "Concatenate",
        IntegerOp::Flatten => "Flatten",
        IntegerOp::Reshape { .. } => "Reshape",
        IntegerOp::Permute { .. } => "Permute",
        IntegerOp::ExtractToken { .. } => "ExtractToken",
        IntegerOp::Identity => "Identity",
    }
}

#[test]
fn chains_reach_every_operation_and_every_intermediate() {
    // Guards the properties above against testing nothing.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut operations: BTreeMap<&str, usize> = BTreeMap::new();
    let mut any_extents: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut fitting, mut open) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..2400 {
        let chain = chains().new_tree(&mut runner).unwrap().current();
        let model = model(&chain);
        for (node, bounds) in model.nodes.iter().zip(bound(&model).unwrap()) {
            if let QuantizedOp::Integer(layer) = &node.op {
                *operations.entry(operation(&layer.op)).or_default() += 1;
                let taken = &model.nodes[node.inputs[0]].shape;
                if taken.iter().any(Option::is_none) {
                    *any_extents.entry(operation(&layer.op)).or_default() += 1;
                }
            }
            for stage in &bounds.stages {
                let set = if stage.fits() {
                    &mut fitting
                } else {
                    &mut open
                };
                set.insert(stage.stage);
            }
        }
    }
    assert_eq!(operations.len(), 21, "{operations:?}");
    let rarest = operations.values().min().unwrap();
    assert!(*rarest >= 20, "{operations:?}");
    // A pooling sum and a Flatten have no range when extents are open, so no recurrence follows.
    assert_eq!(any_extents.len(), 17, "{any_extents:?}");
    let rarest = any_extents.values().min().unwrap();
    assert!(*rarest >= 10, "{any_extents:?}");
    for stage in Stage::ALL
        .into_iter()
        .filter(|stage| *stage != Stage::Input)
    {
        // A zero point moves the whole width of an input.
        let fits = fitting.contains(&stage) || stage == Stage::ZeroPoint;
        assert!(fits, "{stage} never fits");
        // What is only held always fits in a valid model.
        assert_eq!(open.contains(&stage), !stage.is_held(), "{stage}: {open:?}");
    }
}

/// Returns the intermediate whose sums the network's input decides alone, if the chain begins with
/// such a layer.
fn first_sums(model: &QuantizedModel) -> Option<usize> {
    let index = model
        .nodes
        .iter()
        .position(|node| matches!(&node.op, QuantizedOp::Integer(layer) if linear(layer)))?;
    let producer = &model.nodes[*model.nodes[index].inputs.first()?];
    let is_entry = matches!(
        producer.op,
        QuantizedOp::Input(_) | QuantizedOp::InputQuantizer { .. }
    );
    is_entry.then_some(index)
}

const fn linear(layer: &IntegerLayer) -> bool {
    matches!(
        layer.op,
        IntegerOp::Conv2D(_)
            | IntegerOp::DepthwiseConv2D(_)
            | IntegerOp::Conv2DTranspose(_)
            | IntegerOp::DepthwiseConv2DTranspose(_)
            | IntegerOp::Dense { .. }
            | IntegerOp::GlobalAveragePooling2D { .. }
    )
}

#[test]
fn witnesses_of_first_layers_reach_their_bounds_exactly() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut n_tight = 0;
    for _ in 0..1500 {
        let mut chain = chains().new_tree(&mut runner).unwrap().current();
        chain.bits[2] = 12;
        chain.open = [false; 2];
        let model = model(&chain);
        let Some(index) = first_sums(&model) else {
            continue;
        };
        let proof = prove(&model, None, SearchBudget::default(), &mut |_, _| ()).unwrap();
        let layer = proof
            .layers
            .iter()
            .find(|layer| layer.node == index)
            .unwrap();
        let is_sum = |stage: Stage| matches!(stage, Stage::Accumulator | Stage::PoolSum);
        for stage in layer.stages.iter().filter(|s| is_sum(s.bounds.stage)) {
            let bounds = &stage.bounds;
            if bounds.fits() {
                continue;
            }
            let Verdict::Refuted(witness) = &stage.verdict else {
                unreachable!("the input decides {} alone: {chain:?}", layer.name);
            };
            let reached = witness.channels.iter().any(|(channel, value)| {
                let range = bounds.channels[*channel];
                *value == range.lo || *value == range.hi
            });
            assert!(reached, "{witness:?} does not reach {bounds:?}, {chain:?}");
            n_tight += 1;
        }
    }
    assert!(n_tight > 100, "only {n_tight} sums were refuted");
}

/// Returns every number of a certificate.
fn numbers(certificate: &mut Certificate) -> Vec<&mut i64> {
    let layers = certificate.layers.iter_mut();
    let ends = layers.flat_map(|layer| {
        let stages = layer.stages.iter_mut().map(|stage| &mut stage.ends);
        stages.chain(layer.output.as_mut())
    });
    ends.flat_map(|ends| ends.lo.iter_mut().chain(&mut ends.hi))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn the_checker_notices_every_number_of_a_chain(chain in chains()) {
        let model = model(&chain);
        let certificate = certify(&model, "digest".to_owned(), None).unwrap();
        prop_assert_eq!(check(&certificate, &model, "digest"), Ok(()));
        let n_numbers = numbers(&mut certificate.clone()).len();
        // All of a small certificate, a part of a large one.
        for index in (0..n_numbers).step_by(n_numbers.div_ceil(60)) {
            for step in [-1, 1] {
                let mut forged = certificate.clone();
                *numbers(&mut forged)[index] += step;
                let refused = check(&forged, &model, "digest").is_err();
                prop_assert!(refused, "number {} moved by {}", index, step);
            }
        }
        let mut short = certificate;
        let stages = short.layers.iter_mut().map(|layer| &mut layer.stages);
        if let Some(stages) = stages.filter(|stages| !stages.is_empty()).last() {
            stages.pop();
            prop_assert!(check(&short, &model, "digest").is_err(), "an intermediate is missing");
        }
    }

    #[test]
    fn the_checker_finds_the_widths_of_other_buffers(chain in chains(), bits in 1..60_u8) {
        let model = model(&chain);
        let bits = Some(bits);
        let mut certificate = match certify(&model, "digest".to_owned(), bits) {
            Ok(certificate) => certificate,
            Err(_) => {
                // What the prover refuses no certificate can be about.
                let mut own = certify(&model, "digest".to_owned(), None).unwrap();
                own.buffer_bits = bits;
                prop_assert!(check(&own, &model, "digest").is_err());
                return Ok(());
            }
        };
        prop_assert_eq!(check(&certificate, &model, "digest"), Ok(()));
        // It is no certificate for the model's own buffers, unless all widths are the same.
        let own = certify(&model, "digest".to_owned(), None).unwrap();
        certificate.buffer_bits = None;
        let is_own = check(&certificate, &model, "digest").is_ok();
        prop_assert_eq!(is_own, certificate.layers == own.layers);
    }

    #[test]
    fn the_checker_notices_every_weight_of_a_chain(chain in chains(), pick in any::<u64>()) {
        let model = model(&chain);
        let certificate = certify(&model, "digest".to_owned(), None).unwrap();
        let before = bound(&model).unwrap();
        for index in 0..model.nodes.len() {
            let mut forged = model.clone();
            let QuantizedOp::Integer(layer) = &mut forged.nodes[index].op else { continue };
            if !change_a_weight(layer, pick) {
                continue;
            }
            // A weight that only zeros meet, or that no extreme takes, leaves the ranges right: such a
            // certificate is true of the changed model as well, but its file has another digest.
            let is_moved = bound(&forged).unwrap() != before;
            prop_assert_eq!(check(&certificate, &forged, "digest").is_err(), is_moved);
            prop_assert!(check(&certificate, &forged, "other").is_err(), "another file");
        }
    }
}

/// Changes one weight of a layer by one; returns whether it has any.
fn change_a_weight(layer: &mut IntegerLayer, pick: u64) -> bool {
    let mut weights: Vec<&mut i32> = match &mut layer.op {
        IntegerOp::Conv2D(op) => op.kernel.iter_mut().collect(),
        IntegerOp::DepthwiseConv2D(op) => op.kernel.iter_mut().collect(),
        IntegerOp::SeparableConv2D {
            depthwise,
            pointwise,
        } => depthwise
            .kernel
            .iter_mut()
            .chain(pointwise.iter_mut())
            .collect(),
        IntegerOp::Conv2DTranspose(op) => op.kernel.iter_mut().collect(),
        IntegerOp::DepthwiseConv2DTranspose(op) => op.kernel.iter_mut().collect(),
        IntegerOp::Dense { kernel }
        | IntegerOp::StatefulProjection { kernel, .. }
        | IntegerOp::BufferTempConv { kernel, .. }
        | IntegerOp::DepthwiseBufferTempConv { kernel } => kernel.iter_mut().collect(),
        _ => return false,
    };
    let n_weights = u64::try_from(weights.len()).unwrap();
    let index = usize::try_from(pick.rem_euclid(n_weights)).unwrap();
    *weights[index] += if pick > u64::MAX >> 1 { 1 } else { -1 };
    true
}

#[test]
fn a_narrow_buffer_shows_an_input_of_a_layer_where_no_network_input_is_found() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut n_possible, mut n_shown) = (0, 0);
    for _ in 0..400 {
        let mut chain = chains().new_tree(&mut runner).unwrap().current();
        chain.open = [false; 2];
        let Ok(model) = with_buffer_bits(&model(&chain), 12) else {
            continue;
        };
        let budget = SearchBudget { runs: 2, seed: 0 };
        let proof = prove(&model, None, budget, &mut |_, _| ()).unwrap();
        for (_, stage) in proof.stages() {
            let StageBounds { stage: name, .. } = stage.bounds;
            if let Verdict::Possible { layer_input, .. } = &stage.verdict {
                // Sums over time need inputs of several steps, which one input of a layer is not.
                let over_time = matches!(name, Stage::Product | Stage::StateSum);
                n_possible += usize::from(!over_time);
                n_shown += usize::from(!over_time && layer_input.is_some());
            }
        }
    }
    assert!(n_possible > 20, "only {n_possible} are possible");
    assert!(
        4 * n_shown > 3 * n_possible,
        "{n_shown} of {n_possible} are shown"
    );
}

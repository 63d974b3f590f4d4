//! Proofs are sound on random networks, exact on single layers, and their witnesses replay.

use akida_sim::certificate::{certify, check};
use akida_sim::prove::{Range, SearchBudget, Verdict, bound, prove, with_buffer_bits};
use akida_sim::{Executor, QuantizedModel, QuantizedOp, lower};
use ndarray::{Array3, Array4, ArrayD, IxDyn};
use proptest::prelude::*;
use quantizer_core::geometry::Padding;
use quantizer_core::layers::{
    Border, ConvOp, DepthwiseOp, DepthwiseTransposedOp, EntryStage, IntegerLayer, IntegerOp,
    TransposedOp,
};
use quantizer_core::{Observe, PerAxis, QFormat, Stage, ValueBits};

use crate::random::{Numbers, graph, pixels, recipes};

/// Fails if an intermediate is outside its range.
pub(crate) struct Within<'a> {
    pub(crate) name: &'a str,
    pub(crate) bounds: &'a akida_sim::prove::LayerBounds,
}

impl Observe for Within<'_> {
    fn see(&mut self, stage: Stage, channel: usize, value: i64, value_bits: ValueBits) {
        let stage = self.bounds.stages.iter().find(|s| s.stage == stage);
        let stage = stage.unwrap();
        assert_eq!(stage.value_bits, value_bits, "width at {}", stage.stage);
        let range = stage.channels[channel];
        assert!(
            (range.lo..=range.hi).contains(&value),
            "{value} at {} of {}, channel {channel}, is outside {range:?}",
            stage.stage,
            self.name
        );
    }
}

fn check_within(model: &QuantizedModel, input: &ArrayD<f32>) {
    let bounds = bound(model).unwrap();
    let mut seen: Vec<Option<ArrayD<i64>>> = vec![None; model.nodes.len()];
    Executor::new(model)
        .run(input, &mut |index, tensor| seen[index] = tensor.integers())
        .unwrap();
    for (node, bounds) in model.nodes.iter().zip(&bounds) {
        let QuantizedOp::Integer(layer) = &node.op else {
            continue;
        };
        let inputs = node.inputs.iter().map(|i| seen[*i].as_ref().unwrap());
        let inputs: Vec<&ArrayD<i64>> = inputs.collect();
        let mut within = Within {
            name: &node.name,
            bounds,
        };
        let output = layer.run(&inputs, &mut within).unwrap();
        let ranges = bounds.output.as_ref().unwrap();
        for (i, v) in output.iter().enumerate() {
            let range = ranges[i.rem_euclid(ranges.len())];
            assert!(
                (range.lo..=range.hi).contains(v),
                "{v} leaves {}",
                node.name
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_intermediate_leaves_its_range(recipe in recipes(), edge in 0..4_u8) {
        let Ok(model) = lower(graph(&recipe)) else { return Ok(()) };
        check_within(&model, &pixels(&recipe, edge));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn witnesses_replay_and_proved_stages_never_saturate(recipe in recipes()) {
        let Ok(model) = lower(graph(&recipe)) else { return Ok(()) };
        let proof = prove(&model, None, SearchBudget { runs: 6, seed: 1 }, &mut |_, _| ()).unwrap();
        let executor = Executor::new(&model);
        for (layer, stage) in proof.stages() {
            if let Verdict::Refuted(witness) = &stage.verdict {
                let run = executor.run(&witness.input, &mut |_, _| ()).unwrap();
                let count = run.counters[layer.node].get(stage.bounds.stage).unwrap();
                prop_assert!(count.saturated > 0, "{} of {}", stage.bounds.stage, layer.name);
                prop_assert!(!witness.channels.is_empty(), "channels of a witness");
            }
        }
        let run = executor.run(&pixels(&recipe, 2), &mut |_, _| ()).unwrap();
        for (layer, stage) in proof.stages() {
            if matches!(stage.verdict, Verdict::Proved { .. }) {
                let count = run.counters[layer.node].get(stage.bounds.stage);
                prop_assert_eq!(count.map_or(0, |c| c.saturated), 0);
            }
        }
    }
}

/// A single layer on integers of 8 value bits.
fn single(op: IntegerOp) -> IntegerLayer {
    let bits = |n| ValueBits::new(n).unwrap();
    let format = QFormat::fixed(bits(27), PerAxis::Tensor(0));
    IntegerLayer {
        entries: vec![EntryStage {
            stage: Stage::InputExpand,
            shift: PerAxis::Tensor(0),
            value_bits: bits(27),
        }],
        op,
        bias: None,
        inner: format.clone(),
        output: None,
        format,
    }
}

/// Returns the largest and least sums of each channel, one output position after the other: the
/// inputs that a position sees take the ends that their weights ask for, found by trying each
/// input element at both ends.
fn extremes(layer: &IntegerLayer, shape: &[usize], range: Range) -> Vec<Range> {
    let run = |x: &ArrayD<i64>| {
        let output = layer.run(&[x], &mut quantizer_core::Counters::default());
        output.unwrap()
    };
    let low = ArrayD::from_elem(IxDyn(shape), range.lo);
    let base = run(&low);
    let n_channels = *base.shape().last().unwrap();
    // The layer is linear: an element at its other end adds the same everywhere it is seen.
    let mut up = base.clone();
    let mut down = base.clone();
    for i in 0..low.len() {
        let mut x = low.clone();
        x.as_slice_mut().unwrap()[i] = range.hi;
        let moved = run(&x);
        for ((up, down), (moved, base)) in up.iter_mut().zip(&mut down).zip(moved.iter().zip(&base))
        {
            *up += (moved - base).max(0);
            *down += (moved - base).min(0);
        }
    }
    let mut ranges = vec![None::<Range>; n_channels];
    for (i, (up, down)) in up.iter().zip(&down).enumerate() {
        let here = Range { lo: *down, hi: *up };
        let channel = &mut ranges[i.rem_euclid(n_channels)];
        *channel = Some(channel.map_or(here, |seen| seen.union(here)));
    }
    ranges.into_iter().map(Option::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn ranges_of_single_layers_are_exact(
        seed in any::<u64>(),
        extents in [1..6_usize, 1..6_usize],
        kernel in [1..4_usize, 1..4_usize],
        stride in 1..3_usize,
        dilation in 1..3_usize,
        kind in 0..6_usize,
        range in prop_oneof![Just((0, 255)), Just((-128, 127)), Just((3, 9)), Just((-9, -2))],
    ) {
        let mut numbers = Numbers(seed);
        let mut weight = || quantizer_core::round::round_half_even(numbers.next() * 20.0);
        let mut weight = || i32::try_from(weight()).unwrap();
        let [h, w] = extents;
        let [kh, kw] = kernel;
        let full = Array4::from_shape_simple_fn((kh, kw, 2, 3), &mut weight);
        let each = Array3::from_shape_simple_fn((kh, kw, 2), &mut weight);
        let (strides, dilation) = ([stride; 2], [dilation; 2]);
        let conv = |border| IntegerOp::Conv2D(ConvOp {
            kernel: full.clone(), strides, dilation, border,
        });
        let op = match kind {
            0 => conv(Border::Same),
            1 => conv(Border::Valid),
            2 => conv(Border::Value(PerAxis::Axis(vec![7, -3]))),
            3 => IntegerOp::DepthwiseConv2D(DepthwiseOp {
                kernel: each, strides, dilation, padding: Padding::Same,
            }),
            4 => IntegerOp::Conv2DTranspose(TransposedOp {
                kernel: full, strides, padding: Padding::Valid, output_padding: None,
            }),
            _ => IntegerOp::DepthwiseConv2DTranspose(DepthwiseTransposedOp {
                kernel: each, strides,
            }),
        };
        let layer = single(op);
        let shape = [1, h, w, 2];
        let x = ArrayD::zeros(IxDyn(&shape));
        if layer.run(&[&x], &mut quantizer_core::Counters::default()).is_err() {
            return Ok(()); // a window that does not fit
        }
        let range = Range { lo: range.0, hi: range.1 };
        let inputs = [range; 2];
        let shape_of_item: Vec<Option<usize>> = shape[1..].iter().copied().map(Some).collect();
        let got = akida_sim::prove::sum_ranges(&layer.op, &inputs, &shape_of_item).unwrap();
        prop_assert_eq!(got, extremes(&layer, &shape, range));
    }
}

#[test]
fn a_narrow_buffer_is_refuted_and_a_wide_one_proved() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut refuted = 0;
    for _ in 0..40 {
        let recipe =
            proptest::strategy::ValueTree::current(&recipes().new_tree(&mut runner).unwrap());
        let Ok(model) = lower(graph(&recipe)) else {
            continue;
        };
        let Ok(narrow) = with_buffer_bits(&model, 17) else {
            continue;
        };
        let budget = SearchBudget::default();
        let proof = prove(&narrow, None, budget, &mut |_, _| ()).unwrap();
        refuted += usize::from(proof.is_refuted());
    }
    assert!(refuted > 5, "only {refuted} narrow networks were refuted");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_checker_finds_the_same_numbers(recipe in recipes(), pick in any::<u64>()) {
        let Ok(model) = lower(graph(&recipe)) else { return Ok(()) };
        let certificate = certify(&model, "digest".to_owned(), None).unwrap();
        prop_assert_eq!(check(&certificate, &model, "digest"), Ok(()));
        prop_assert!(check(&certificate, &model, "another").is_err(), "another model");
        // Every single number that is moved by one is noticed.
        let mut forged = certificate.clone();
        let mut numbers: Vec<&mut i64> = forged
            .layers
            .iter_mut()
            .flat_map(|layer| {
                let stages = layer.stages.iter_mut().map(|stage| &mut stage.ends);
                stages.chain(layer.output.as_mut())
            })
            .flat_map(|ends| ends.lo.iter_mut().chain(&mut ends.hi))
            .collect();
        let n_numbers = u64::try_from(numbers.len()).unwrap();
        let index = usize::try_from(pick.rem_euclid(n_numbers)).unwrap();
        *numbers[index] += if pick > u64::MAX >> 1 { 1 } else { -1 };
        prop_assert!(check(&forged, &model, "digest").is_err(), "a forged number");
        let mut forged = certificate.clone();
        forged.proved = !forged.proved;
        prop_assert!(check(&forged, &model, "digest").is_err(), "a forged verdict");
    }

    #[test]
    fn the_checker_notices_a_changed_weight(recipe in recipes(), pick in any::<u64>()) {
        let Ok(mut model) = lower(graph(&recipe)) else { return Ok(()) };
        let certificate = certify(&model, "digest".to_owned(), None).unwrap();
        let dense = model.nodes.iter_mut().find(|node| node.name == "dense").unwrap();
        let input = dense.inputs[0];
        let QuantizedOp::Integer(layer) = &mut dense.op else { return Ok(()) };
        let IntegerOp::Dense { kernel } = &mut layer.op else { return Ok(()) };
        let n_weights = u64::try_from(kernel.len()).unwrap();
        let index = usize::try_from(pick.rem_euclid(n_weights)).unwrap();
        let row = index.div_euclid(kernel.ncols());
        *kernel.iter_mut().nth(index).unwrap() += 1;
        let inputs = certificate.layers[input].output.as_ref().unwrap();
        // A weight of an input that is always zero changes nothing.
        let idle = inputs.lo[row.rem_euclid(inputs.lo.len())] == 0
            && inputs.hi[row.rem_euclid(inputs.hi.len())] == 0;
        prop_assert!(idle || check(&certificate, &model, "digest").is_err());
    }
}

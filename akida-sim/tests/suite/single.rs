//! Layers on their own: what a whole run gives, and nothing that a producer cannot give.

use akida_sim::{Executor, ModelMemory, QuantizedOp, Tensor, Values, lower};
use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;

use crate::random::{graph, pixels, recipes};

/// Integers with this many bits come back from f32, times a scale and divided by it.
const EXACT_BITS: u8 = 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_layer_alone_gives_what_it_gives_in_a_run(recipe in recipes(), edge in 0..4_u8) {
        let Ok(model) = lower(graph(&recipe)) else { return Ok(()) };
        let executor = Executor::new(&model);
        let mut tensors: Vec<Tensor> = Vec::new();
        let run = executor
            .run(&pixels(&recipe, edge), &mut |_, tensor| tensors.push(tensor.clone()))
            .unwrap();
        for (index, node) in model.nodes.iter().enumerate() {
            if matches!(node.op, QuantizedOp::Input(_)) {
                continue;
            }
            let inputs: Vec<&Tensor> = node.inputs.iter().map(|i| &tensors[*i]).collect();
            let memory = &mut ModelMemory::default();
            let (output, counters) = executor.run_layer(index, &inputs, memory).unwrap();
            prop_assert_eq!(&output, &tensors[index], "output of {}", &node.name);
            prop_assert_eq!(&counters, &run.counters[index], "counts of {}", &node.name);
            let few_bits = node.format().is_none_or(|f| f.value_bits.bits() <= EXACT_BITS);
            if few_bits {
                let reals = executor.real_values(index, &output).unwrap();
                let again = executor.represent(index, &reals).unwrap();
                prop_assert_eq!(&again, &output, "integers of {} again", &node.name);
            }
        }
    }
}

#[test]
fn what_a_producer_cannot_give_is_refused() {
    let recipe = {
        use proptest::strategy::{Strategy, ValueTree};
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let lowers = |recipe: &_| lower(graph(recipe)).is_ok();
        let tree = recipes()
            .prop_filter("lowers", lowers)
            .new_tree(&mut runner);
        tree.unwrap().current()
    };
    let model = lower(graph(&recipe)).unwrap();
    let executor = Executor::new(&model);
    let mut tensors: Vec<Tensor> = Vec::new();
    let x = pixels(&recipe, 0);
    executor
        .run(&x, &mut |_, tensor| tensors.push(tensor.clone()))
        .unwrap();
    let memory = &mut ModelMemory::default();
    let good = &tensors[0];
    assert!(
        executor.run_layer(1, &[good], memory).is_ok(),
        "the right one"
    );
    let floats = Tensor {
        shape: good.shape.clone(),
        values: Values::F32(vec![0.0; good.n_values()]),
    };
    let short = Tensor {
        shape: good.shape.clone(),
        values: Values::U8(vec![0].into()),
    };
    let wide = Tensor {
        shape: good.shape.clone(),
        values: Values::I64(vec![1 << 40; good.n_values()].into()),
    };
    let mut other = good.clone();
    other.shape.push(1);
    for bad in [&floats, &short, &wide, &other] {
        let error = executor.run_layer(1, &[bad], memory).unwrap_err();
        assert!(error.to_string().contains(&model.nodes[0].name), "{error}");
    }
    assert!(executor.run_layer(1, &[], memory).is_err(), "no input");
    assert!(
        executor.run_layer(0, &[], memory).is_err(),
        "the model's input"
    );
    assert!(
        executor.run_layer(1000, &[good], memory).is_err(),
        "no node"
    );
    let nan = ArrayD::from_elem(IxDyn(&good.shape), f32::NAN);
    assert!(executor.represent(0, &nan).is_err(), "no number");
    let huge = ArrayD::from_elem(IxDyn(&good.shape), f32::MAX);
    let clamped = executor.represent(0, &huge).unwrap();
    assert!(
        executor.run_layer(1, &[&clamped], memory).is_ok(),
        "the largest of its integers"
    );
}

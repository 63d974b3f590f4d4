//! Batches that a network does not use.

use bitproof::float_model::{Draft, DraftNode, Dtype, Input, Layer, StatefulRecurrent};
use bitproof::{Graph, QuantizeOptions, Samples, calibrate_ranges};
use ndarray::{Array1, ArrayD};

fn recurrent() -> Result<Graph, bitproof::float_model::GraphError> {
    let node = |name: &str, inputs: &[&str], layer| DraftNode {
        name: name.to_owned(),
        layer,
        inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
    };
    let input = Layer::Input(Input {
        shape: vec![Some(4), Some(3)],
        dtype: Dtype::UInt8,
    });
    let states = Layer::StatefulRecurrent(StatefulRecurrent {
        a_real: Array1::from_elem(3, 0.5),
        a_imag: Array1::from_elem(3, 0.5),
    });
    Graph::new(Draft {
        name: "recurrent".to_owned(),
        nodes: vec![node("in", &[], input), node("states", &["in"], states)],
        outputs: vec!["states".to_owned()],
    })
}

#[test]
fn the_batch_size_of_a_recurrent_model_is_not_ignored_in_silence() {
    let warnings = |batch_size| {
        let samples = Samples::Integers(ArrayD::from_elem(vec![6, 4, 3], 7.0));
        let options = QuantizeOptions {
            batch_size,
            ..QuantizeOptions::default()
        };
        let graph = recurrent().expect("a network");
        let calibrated = calibrate_ranges(graph, samples, &options, &mut |_| ());
        calibrated.expect("ranges").warnings
    };
    let is_said = |batch_size| {
        let said = |warning: &String| warning.contains("is not used");
        warnings(batch_size).iter().any(said)
    };
    assert!(is_said(Some(2)), "another batch size");
    assert!(!is_said(Some(6)), "the batch size that is taken");
    assert!(!is_said(None), "no batch size");
}

//! Extents that no memory could hold are errors, not overflows.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use float_model::{
    Draft, DraftNode, Dtype, Graph, GraphError, Input, Layer, Padding, Pads, Pool2D,
};

fn chain(layers: Vec<Layer>) -> Draft {
    let input = Input {
        shape: vec![Some(8), Some(8), Some(4)],
        dtype: Dtype::Float32,
    };
    let layers = std::iter::once(Layer::Input(input)).chain(layers);
    let nodes: Vec<DraftNode> = layers
        .enumerate()
        .map(|(i, layer)| {
            let inputs = i
                .checked_sub(1)
                .map(|before| format!("l{before}"))
                .into_iter()
                .collect();
            DraftNode {
                name: format!("l{i}"),
                layer,
                inputs,
            }
        })
        .collect();
    let outputs = vec![nodes.last().unwrap().name.clone()];
    Draft {
        name: "chain".to_owned(),
        nodes,
        outputs,
    }
}

#[test]
fn huge_extents_are_refused() {
    let up = || Layer::UpSampling2D {
        size: [65_536, 65_536],
    };
    let pads = Pads {
        top: usize::MAX,
        bottom: 1,
        left: 0,
        right: 0,
    };
    for layers in [
        vec![up(), up(), up(), up(), up(), up()],
        vec![Layer::ZeroPadding2D(pads)],
        vec![Layer::UpSampling2D {
            size: [1 << 20, 1 << 20],
        }],
        // Each extent is small, their product is not.
        vec![Layer::UpSampling2D {
            size: [1 << 11, 1 << 11],
        }],
    ] {
        let error = Graph::new(chain(layers)).unwrap_err().to_string();
        assert!(
            error.contains("an extent of") || error.contains("values"),
            "{error}"
        );
    }
    assert!(
        Graph::new(chain(vec![Layer::UpSampling2D { size: [2, 2] }])).is_ok(),
        "small ones fit"
    );
}

#[test]
fn strides_are_positive_and_bounded() {
    let pool = |stride| {
        let pool = Pool2D {
            pool_size: [2, 2],
            strides: [2, stride],
            padding: Padding::Same,
        };
        Graph::new(chain(vec![Layer::MaxPool2D(pool)])).map_err(|e: GraphError| e.to_string())
    };
    assert!(pool(2).is_ok(), "a stride of 2");
    for stride in [0, 1 << 31, 1 << 62] {
        let message = pool(stride).unwrap_err();
        assert!(message.contains("must be positive"), "{stride}: {message}");
    }
}

#[test]
fn huge_outputs_of_open_extents_are_refused_when_they_are_known() {
    let mut draft = chain(vec![Layer::UpSampling2D {
        size: [1 << 11, 1 << 11],
    }]);
    draft.nodes[0].layer = Layer::Input(Input {
        shape: vec![None, None, Some(4)],
        dtype: Dtype::Float32,
    });
    let graph = Graph::new(draft).unwrap();
    let run = |batch| graph.predict(&ndarray::ArrayD::zeros(vec![batch, 8, 8, 4]));
    let error = run(1).unwrap_err().to_string();
    assert!(error.contains("values"), "{error}");
    // An item fits, a batch of them does not.
    let small = |batch| graph.predict(&ndarray::ArrayD::zeros(vec![batch, 2, 2, 4]));
    let error = small(1000).unwrap_err().to_string();
    assert!(error.contains("a smaller one"), "{error}");
}

#[test]
fn names_have_no_control_characters() {
    for name in ["a\nb", "\u{1b}[31m"] {
        let mut draft = chain(vec![Layer::Flatten]);
        name.clone_into(&mut draft.nodes[1].name);
        draft.outputs = vec![name.to_owned()];
        let message = Graph::new(draft).unwrap_err().to_string();
        assert!(message.contains("control character"), "{message:?}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

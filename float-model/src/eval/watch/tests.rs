use kernels::Kernels;
use ndarray::ArrayD;

use super::FEW;
use crate::{Convolution, Graph, GraphBuilder, NodeId};

/// Returns images of many different values.
fn images(extents: [usize; 4]) -> ArrayD<f32> {
    ArrayD::from_shape_fn(extents.to_vec(), |index| {
        let sum = index[0] * 31 + index[1] * 7 + index[2] * 13 + index[3] * 5;
        (f32::from(u8::try_from(sum.rem_euclid(97)).unwrap()) - 40.0) / 37.0
    })
}

/// Layers of all kinds: rectifiers alone, shared, of several forms; branches; large and small images.
fn network(size: usize) -> Graph {
    let mut b = GraphBuilder::new("watched");
    let input = b.input("input", [size, size, 3]);
    let x = b.conv2d("conv", input, 37, Convolution::new(3).strides(2).same());
    let x = b.clipped_relu("conv_relu", x, 6.0);
    let x = b.depthwise_conv2d("dw", x, Convolution::new(3).same());
    let x = b.relu("dw_relu", x);
    let x = b.conv2d("pw", x, 70, Convolution::new(1));
    let twice = b.relu("pw_relu", x);
    let x = b.add("residual", [x, twice]);
    let x = b.max_pool2d("pool", x, 2);
    let x = b.depthwise_conv2d("small_dw", x, Convolution::new(5).strides(2));
    let x = b.relu("small_relu", x);
    let x = b.global_average_pooling2d("mean", x);
    let x = b.dense("dense", x, 10);
    let y = b.relu("dense_relu", x);
    b.build([x, y]).unwrap()
}

/// Returns the largest magnitudes that a run of all layers shows.
fn of_all_layers(graph: &Graph, watched: &[NodeId], x: &ArrayD<f32>) -> Vec<Vec<u32>> {
    let mut all = vec![Vec::new(); graph.nodes().len()];
    graph
        .run(&[x], &mut |id, output| {
            let n_channels = *output.shape().last().unwrap();
            let mut largest = vec![0.0_f32; n_channels];
            for (index, value) in output.iter().enumerate() {
                let entry = &mut largest[index.rem_euclid(n_channels)];
                *entry = entry.max(value.abs());
            }
            all[id.index()] = largest.into_iter().map(f32::to_bits).collect();
        })
        .unwrap();
    watched.iter().map(|id| all[id.index()].clone()).collect()
}

#[test]
fn watched_magnitudes_are_those_of_all_outputs() {
    // The images of the first are small from the start, those of the second from the pool on.
    for size in [24, 111] {
        let graph = network(size);
        let all: Vec<NodeId> = graph.iter().map(|(id, _)| id).collect();
        let rectifiers: Vec<NodeId> = graph
            .iter()
            .filter(|(_, node)| node.name.ends_with("relu"))
            .map(|(id, _)| id)
            .collect();
        let twice = [all[1], all[1], all[4]];
        for watched in [&all[..], &rectifiers, &twice, &[]] {
            let watch = graph.watch(watched);
            // The second run takes the buffers of the first.
            for n_images in [1, 2, FEW + 3, 3] {
                let x = images([n_images, size, size, 3]);
                let expected = of_all_layers(&graph, watched, &x);
                assert_eq!(
                    watch.run(&x).unwrap(),
                    expected,
                    "{n_images} images of {size}"
                );
            }
        }
    }
}

#[test]
fn threads_and_instruction_sets_change_no_magnitude() {
    let graph = network(40);
    let watched: Vec<NodeId> = graph.iter().map(|(id, _)| id).collect();
    let watch = graph.watch(&watched);
    let x = images([5, 40, 40, 3]);
    let expected = of_all_layers(&graph, &watched, &x);
    for n_threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .build()
            .unwrap();
        for kernels in Kernels::available() {
            let found = pool.install(|| watch.run_with(kernels, &x).unwrap());
            assert_eq!(found, expected, "{n_threads} threads, {:?}", kernels.isa());
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let graph = network(24);
    let watch = graph.watch(&[]);
    assert!(watch.run(&images([1, 24, 23, 3])).is_err(), "other extents");
}

#[test]
fn buffers_do_not_pile_up() {
    let graph = network(24);
    let all: Vec<NodeId> = graph.iter().map(|(id, _)| id).collect();
    let watch = graph.watch(&all);
    let x = images([1, 24, 24, 3]);
    let room = |n_runs: usize| {
        for _ in 0..n_runs {
            watch.run(&x).unwrap();
        }
        watch
            .buffers()
            .iter()
            .map(super::Buffers::room)
            .sum::<usize>()
    };
    let first = room(20);
    assert!(room(200) <= first, "as much room after more runs");
}

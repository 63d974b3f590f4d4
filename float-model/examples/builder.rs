//! Builds the model of QuantizeML's tutorial, prints its summary, and runs it on one image.

#![expect(clippy::print_stdout, reason = "an example shows its results")]

use float_model::{GraphBuilder, GraphError};
use ndarray::ArrayD;

fn main() -> Result<(), GraphError> {
    let mut b = GraphBuilder::new("tutorial");
    let x = b.input("input", [28, 28, 3]);
    let x = b.depthwise_conv2d("dw_conv", x, 3);
    let x = b.conv2d("pw_conv", x, 32, 1);
    let x = b.relu("relu", x);
    let x = b.dense("dense", x, 10);
    let graph = b.build([x])?;
    println!("{}", graph.summary().to_text());

    let images = ArrayD::from_elem(vec![1, 28, 28, 3], 0.5);
    let mut observe = |id, x: &ArrayD<f32>| {
        let node = graph.node(id);
        let peak = x.iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
        println!("{}: {:?}, at most {peak}", node.name, x.shape());
    };
    graph.run(&[&images], &mut observe)?;
    Ok(())
}

//! Criterion benches, in `benches/`; run them with `cargo bench -p benches`. README.md beside this crate has the rest.
//!
//! Times are printed, never tested. A bench runs every instruction set of the CPU, so one run shows what each gains.

use bitproof::float_model::{Convolution, GraphError};
use bitproof::{Graph, GraphBuilder};

/// Filters and strides of the separable blocks of `MobileNetV1`.
const BLOCKS: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

/// Returns a network of `MobileNetV1`'s shape for images of `size` times `size` times 3, with random weights.
///
/// `eighths` is its width: 8 for 1.0, 4 for 0.5. It has 10 classes.
///
/// # Errors
///
/// A size too small for five strides, or no width.
pub fn mobilenet(size: usize, eighths: usize) -> Result<Graph, GraphError> {
    let width = |filters: usize| (filters * eighths).div_euclid(8);
    let mut b = GraphBuilder::with_seed("mobilenet", 1);
    let x = b.input("input", [size, size, 3]);
    let mut x = b.rescaling("rescaling", x, 1.0 / 127.5, -1.0);
    let first = Convolution::new(3).strides(2).same().no_bias();
    x = b.conv2d("conv", x, width(32), first);
    x = b.batch_normalization("conv_bn", x);
    x = b.clipped_relu("conv_relu", x, 6.0);
    for (i, (filters, stride)) in BLOCKS.into_iter().enumerate() {
        let depthwise = Convolution::new(3).strides(stride).same().no_bias();
        x = b.depthwise_conv2d(&format!("dw_{i}"), x, depthwise);
        x = b.batch_normalization(&format!("dw_{i}_bn"), x);
        x = b.clipped_relu(&format!("dw_{i}_relu"), x, 6.0);
        let pointwise = Convolution::new(1).no_bias();
        x = b.conv2d(&format!("pw_{i}"), x, width(filters), pointwise);
        x = b.batch_normalization(&format!("pw_{i}_bn"), x);
        x = b.clipped_relu(&format!("pw_{i}_relu"), x, 6.0);
    }
    let x = b.global_average_pooling2d("pool", x);
    let x = b.dense("logits", x, 10);
    b.build([x])
}

//! Writes a network for images of 32x32x3, with random weights, as a Keras file:
//!
//! ```text
//! cargo run --release --example small_network -p bitproof -- FILE.h5
//! ```
//!
//! `benches/calibration_memory.py` calibrates it.

use bitproof::GraphBuilder;
use bitproof::float_model::Convolution;
use bitproof::model_files::write_keras_h5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the file to write")?;
    let mut b = GraphBuilder::with_seed("small", 1);
    let x = b.input("input", [32, 32, 3]);
    let mut x = b.rescaling("rescaling", x, 1.0 / 127.5, -1.0);
    for (i, filters) in [16, 32, 64].into_iter().enumerate() {
        x = b.conv2d(&format!("conv_{i}"), x, filters, Convolution::new(3).same());
        x = b.relu(&format!("relu_{i}"), x);
        x = b.max_pool2d(&format!("pool_{i}"), x, 2);
    }
    let x = b.flatten("flatten", x);
    let x = b.dense("dense", x, 10);
    write_keras_h5(&b.build([x])?, path.as_ref())?;
    Ok(())
}

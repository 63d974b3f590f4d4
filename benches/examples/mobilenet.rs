//! Writes a network of `MobileNetV1`'s shape, with random weights, as a Keras file:
//!
//! ```text
//! cargo run --release -p benches --example mobilenet -- SIZE EIGHTHS FILE.h5
//! ```
//!
//! SIZE is the height and width of the images; EIGHTHS is the width of the network, 8 for 1.0 and 4 for 0.5.
//! `benches/cost.py` measures it.

use bitproof::model_files::write_keras_h5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size, eighths, path] = args.as_slice() else {
        return Err("give a size, a width in eighths, and the file to write".into());
    };
    let graph = benches::mobilenet(size.parse()?, eighths.parse()?)?;
    write_keras_h5(&graph, path.as_ref())?;
    Ok(())
}

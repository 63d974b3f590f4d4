//! QuantizeML's advanced tutorial as a program: quantize, read the configuration, edit it, quantize
//! again. Run it with `cargo run --release -p bitproof --example tutorial`.
#![expect(clippy::print_stdout, reason = "the example talks to its user")]

use bitproof::config_schema::to_indented;
use bitproof::float_model::Convolution;
use bitproof::{
    Error, Executor, Graph, GraphBuilder, InputQuantizerMode, ParamValues, QuantizationParams,
    QuantizeOptions, QuantizedModel, Samples, quantize,
};
use ndarray::{ArrayD, IxDyn};
use serde_json::{Map, Value, json};

fn main() -> Result<(), Error> {
    let graph = network()?;
    println!("{}\n", graph.summary().to_text());

    // The parameters of the whole model.
    let params = QuantizationParams::try_from(ParamValues {
        activation_bits: 6,
        per_tensor_activations: true,
        weight_bits: 4,
        output_bits: 12,
        input_weight_bits: 16,
        buffer_bits: 24,
        ..ParamValues::default()
    })?;
    let options = QuantizeOptions {
        params,
        input_quantizer: InputQuantizerMode::Never,
        num_samples: Some(64),
        batch_size: Some(16),
        ..QuantizeOptions::default()
    };
    let model = quantize(graph.clone(), Samples::Random, &options, &mut |_| ())?.model;
    println!("{}\n", model.summary().to_text());
    println!("{}\n", to_indented(&Value::Object(model.dump_config())));

    // Only the entry of `relu` is given, edited; the parameters fill in the others.
    let mut q_config = Map::new();
    q_config.insert("relu".to_owned(), edited_relu());
    let edited = QuantizeOptions {
        q_config: Some(q_config),
        ..options.clone()
    };
    let model = quantize(graph.clone(), Samples::Random, &edited, &mut |_| ())?.model;
    println!("With an edited `relu`:\n");
    println!("{}\n", to_indented(&Value::Object(model.dump_config())));

    println!("What the tutorial does not know:\n");
    for buffer_bits in [24, 32] {
        let values = ParamValues {
            buffer_bits,
            ..*options.params.values()
        };
        let params = QuantizationParams::try_from(values)?;
        let options = QuantizeOptions {
            params,
            ..options.clone()
        };
        let model = quantize(graph.clone(), Samples::Random, &options, &mut |_| ())?.model;
        print_overflows(buffer_bits, &model)?;
    }
    Ok(())
}

/// Returns the tutorial's network, with random weights.
fn network() -> Result<Graph, Error> {
    let mut b = GraphBuilder::new("model");
    let x = b.input("input_1", [28, 28, 3]);
    let x = b.depthwise_conv2d("dw_conv", x, 3);
    let x = b.conv2d("pw_conv", x, 32, Convolution::new(1));
    let x = b.relu("relu", x);
    let x = b.dense("dense", x, 10);
    Ok(b.build([x])?)
}

fn edited_relu() -> Value {
    json!({
        "output_quantizer": {
            "bitwidth": 1, "signed": false, "axis": "per-axis", "buffer_bitwidth": 32
        },
        "buffer_bitwidth": 32
    })
}

/// Simulates a few images and prints how many intermediates of `dw_conv` leave its buffer.
fn print_overflows(buffer_bits: u8, model: &QuantizedModel) -> Result<(), Error> {
    // Any images will do: a fixed pattern over all pixel values.
    let pixel = |i: usize| u8::try_from((i * 37 + i.div_euclid(5)).rem_euclid(256)).unwrap_or(0);
    let pixels: Vec<f32> = (0..4 * 28 * 28 * 3).map(|i| f32::from(pixel(i))).collect();
    let images = ArrayD::from_shape_vec(IxDyn(&[4, 28, 28, 3]), pixels)
        .map_err(|e| Error::Invalid(e.to_string()))?;
    let executor = Executor::new(model);
    let run = executor.run(&images, &mut |_, _| ())?;
    let Some(index) = model.nodes.iter().position(|node| node.name == "dw_conv") else {
        return Ok(());
    };
    println!("buffers of {buffer_bits} bits:");
    for (stage, count) in run.counters[index]
        .iter()
        .filter(|(s, _)| !s.clips_by_design())
    {
        println!(
            "  dw_conv {stage}: {} of {} values overflow, largest {}",
            count.saturated, count.elements, count.max_abs
        );
    }
    if let Some(output) = run.outputs.first() {
        let floats = output.floats();
        let zeros = floats.iter().filter(|v| v.abs().to_bits() == 0).count();
        println!("  {zeros} of {} outputs are zero", floats.len());
    }
    Ok(())
}

//! `--smallest`: the least buffers of each layer.

use anyhow::Result;
use bitproof::akida_sim::prove::{BufferWidth, SmallestBuffers, bound, smallest_buffers};
use bitproof::akida_sim::{QuantizedModel, QuantizedOp};
use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

/// Returns the buffers of the layers that run on integers.
fn of_layers(model: &QuantizedModel) -> Result<Vec<(&str, SmallestBuffers)>> {
    let bounds = bound(model)?;
    let layers = model.nodes.iter().enumerate();
    let layers = layers.filter(|(_, node)| matches!(node.op, QuantizedOp::Integer(_)));
    let smallest = layers.map(|(index, node)| {
        let smallest = smallest_buffers(model, index, &bounds);
        (node.name.as_str(), smallest)
    });
    Ok(smallest.collect())
}

pub(super) fn print(model: &QuantizedModel) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "layer",
        "smallest buffer_bitwidth",
        "of its output quantizer",
    ]);
    for (layer, smallest) in of_layers(model)? {
        let widths = [smallest.layer, smallest.output_quantizer].map(text);
        let [own, output] = widths;
        table.add_row([layer.to_owned(), own, output]);
    }
    crate::outln!("{table}");
    Ok(())
}

fn text(width: Option<BufferWidth>) -> String {
    match width {
        None => "-".to_owned(),
        Some(width) if width.is_possible() => width.bits.to_string(),
        Some(width) => format!("none: needs {}, {} are the most", width.bits, width.most),
    }
}

pub(super) fn to_json(model: &QuantizedModel) -> Result<Value> {
    let bits = |width: Option<BufferWidth>| width.map(|width| width.bits);
    let mut all = Map::new();
    for (layer, smallest) in of_layers(model)? {
        let both = [smallest.layer, smallest.output_quantizer];
        let is_possible = both.iter().flatten().all(|width| width.is_possible());
        let entry = json!({ "buffer_bitwidth": bits(smallest.layer),
            "output_quantizer.buffer_bitwidth": bits(smallest.output_quantizer),
            "possible": is_possible });
        all.insert(layer.to_owned(), entry);
    }
    Ok(Value::Object(all))
}

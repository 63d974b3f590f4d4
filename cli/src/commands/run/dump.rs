//! The file of `--dump-layers`.

use std::path::Path;

use anyhow::Result;
use bitproof::model_files::NpzWriter;
use bitproof::quantizer_core::{PerAxis, QFormat};
use bitproof::{QuantizedModel, Tensor};
use ndarray::{ArrayD, Axis, IxDyn};

use super::joined;

/// Every layer's outputs, batch after batch.
pub(super) struct Dump<'m> {
    model: &'m QuantizedModel,
    integers: Vec<Vec<ArrayD<i64>>>,
    floats: Vec<Vec<ArrayD<f32>>>,
}

impl<'m> Dump<'m> {
    pub(super) fn new(model: &'m QuantizedModel) -> Self {
        let n_nodes = model.nodes.len();
        Self {
            model,
            integers: vec![Vec::new(); n_nodes],
            floats: vec![Vec::new(); n_nodes],
        }
    }

    pub(super) fn add(&mut self, index: usize, tensor: &Tensor) {
        match tensor.integers() {
            Some(integers) => self.integers[index].push(integers),
            None => self.floats[index].push(tensor.floats()),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut npz = NpzWriter::create(path)?;
        for (i, node) in self.model.nodes.iter().enumerate() {
            if !self.floats[i].is_empty() {
                npz.f32(&format!("{}/float", node.name), &joined(&self.floats[i])?)?;
                continue;
            }
            let views: Vec<_> = self.integers[i].iter().map(|x| x.view()).collect();
            if views.is_empty() {
                continue;
            }
            let values = ndarray::concatenate(Axis(0), &views)?;
            if node.inputs.is_empty() {
                npz.integers(&format!("{}/raw", node.name), &values)?;
                continue;
            }
            npz.integers(&format!("{}/values", node.name), &values)?;
            if let Some(format) = node.format() {
                write_format(&mut npz, &node.name, &format)?;
            }
        }
        Ok(npz.finish()?)
    }
}

fn write_format(npz: &mut NpzWriter, layer: &str, format: &QFormat) -> Result<()> {
    let bits = ArrayD::from_elem(IxDyn(&[]), i64::from(format.value_bits.bits()));
    npz.integers(&format!("{layer}/value_bits"), &bits)?;
    npz.integers(
        &format!("{layer}/frac_bits"),
        &array(&format.frac_bits.map(i64::from)),
    )?;
    if let Some(scales) = &format.scales {
        npz.f32(&format!("{layer}/scales"), &array(scales))?;
    }
    Ok(())
}

/// Returns a scalar array, or one entry a channel.
fn array<T: Copy>(values: &PerAxis<T>) -> ArrayD<T> {
    match values {
        PerAxis::Tensor(value) => ArrayD::from_elem(IxDyn(&[]), *value),
        PerAxis::Axis(values) => ndarray::Array1::from_vec(values.clone()).into_dyn(),
    }
}

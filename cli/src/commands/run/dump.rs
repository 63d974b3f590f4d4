//! The file of `--dump-layers`.

use std::path::Path;

use anyhow::Result;
use bitproof::model_files::{NpzWriter, Spool};
use bitproof::quantizer_core::{PerAxis, QFormat};
use bitproof::{QuantizedModel, Tensor};
use ndarray::{ArrayD, IxDyn};

/// Every layer's outputs, batch after batch, on disk.
pub(super) struct Dump<'m> {
    model: &'m QuantizedModel,
    path: &'m Path,
    spool: Spool,
}

impl<'m> Dump<'m> {
    pub(super) fn new(model: &'m QuantizedModel, path: &'m Path) -> Result<Self> {
        let spool = Spool::new(path, model.nodes.len())?;
        Ok(Self { model, path, spool })
    }

    pub(super) fn add(&mut self, index: usize, tensor: &Tensor) -> Result<()> {
        match tensor.integers() {
            Some(integers) => self.spool.push_integers(index, &integers)?,
            None => self.spool.push_f32(index, &tensor.floats())?,
        }
        Ok(())
    }

    /// Writes the file.
    pub(super) fn finish(mut self) -> Result<()> {
        let mut npz = NpzWriter::create(self.path)?;
        for (i, node) in self.model.nodes.iter().enumerate() {
            let name = &node.name;
            let what = match self.spool.holds_floats(i) {
                None => continue,
                Some(true) => "float",
                Some(false) if node.inputs.is_empty() => "raw",
                Some(false) => "values",
            };
            npz.spooled(&format!("{name}/{what}"), &mut self.spool, i)?;
            if let Some(format) = node.format().filter(|_| what == "values") {
                write_format(&mut npz, name, &format)?;
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

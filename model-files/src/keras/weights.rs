//! The weights of one layer, by the last component of their names.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array1, Array2, Array4, ArrayD, Dimension};
use quantizer_core::PerAxis;

use super::layers::LayerRefused;
use crate::FileError;
use crate::hdf5::Hdf5;

/// Names of weights that layers can have.
pub(super) const NAMES: [&str; 9] = [
    "kernel",
    "bias",
    "depthwise_kernel",
    "pointwise_kernel",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
    "alpha",
];

/// The weights of one layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    arrays: BTreeMap<String, ArrayD<f32>>,
}

impl Weights {
    /// Reads the weights of `layer`, which `group` lists; a layer without a group has none.
    pub(super) fn read(
        file: &Hdf5,
        path: &Path,
        group: &str,
        layer: &str,
    ) -> Result<Self, FileError> {
        if !file.has_group(group) {
            return Ok(Self::default());
        }
        let mut arrays = BTreeMap::new();
        for name in file.strings(group, "weight_names")?.unwrap_or_default() {
            let array = file.floats(&format!("{group}/{name}"))?;
            finite(path, layer, &name, &array)?;
            let key = last_component(&name).to_owned();
            if arrays.insert(key, array).is_some() {
                let message = format!("layer `{layer}`: two weights are named like `{name}`");
                return Err(FileError::invalid(path, message));
            }
        }
        Ok(Self { arrays })
    }

    /// Adds an array.
    pub(super) fn insert(&mut self, name: &str, array: ArrayD<f32>) {
        self.arrays.insert(name.to_owned(), array);
    }

    /// Returns whether an array is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// Takes an array of rank 4.
    pub(super) fn kernel(&mut self, name: &str) -> Result<Array4<f32>, LayerRefused> {
        self.required(name)
    }

    /// Takes an array of rank 2.
    pub(super) fn matrix(&mut self, name: &str) -> Result<Array2<f32>, LayerRefused> {
        self.required(name)
    }

    /// Takes an array of rank 1.
    pub(super) fn vector(&mut self, name: &str) -> Result<Array1<f32>, LayerRefused> {
        self.required(name)
    }

    /// Takes an array of rank 1 if `wanted`.
    pub(super) fn optional(
        &mut self,
        name: &str,
        wanted: Wanted,
    ) -> Result<Option<Array1<f32>>, LayerRefused> {
        match wanted {
            Wanted::Yes => self.required(name).map(Some),
            Wanted::No => Ok(None),
        }
    }

    /// Takes an array of any rank.
    pub(super) fn any(&mut self, name: &str) -> Result<ArrayD<f32>, LayerRefused> {
        self.arrays
            .remove(name)
            .ok_or_else(|| LayerRefused::Invalid(format!("weight `{name}` is missing")))
    }

    /// Takes a scalar, or one value for each channel.
    pub(super) fn per_axis(&mut self, name: &str) -> Result<PerAxis<f32>, LayerRefused> {
        let array = self.any(name)?;
        match array.ndim() {
            0 => Ok(PerAxis::Tensor(
                array.iter().copied().next().unwrap_or_default(),
            )),
            1 => Ok(PerAxis::Axis(array.iter().copied().collect())),
            n => Err(LayerRefused::Invalid(format!(
                "weight `{name}` has rank {n}"
            ))),
        }
    }

    /// Refuses weights that nothing took.
    pub(super) fn finish(&self) -> Result<(), LayerRefused> {
        match self.arrays.keys().next() {
            None => Ok(()),
            Some(name) => Err(LayerRefused::Invalid(format!("unexpected weight `{name}`"))),
        }
    }

    fn required<D: Dimension>(
        &mut self,
        name: &str,
    ) -> Result<ndarray::Array<f32, D>, LayerRefused> {
        let array = self.any(name)?;
        let shape = array.shape().to_vec();
        array
            .into_dimensionality()
            .map_err(|_| LayerRefused::Invalid(format!("weight `{name}` has extents {shape:?}")))
    }
}

/// Whether a configuration asks for an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    No,
}

impl From<bool> for Wanted {
    fn from(wanted: bool) -> Self {
        if wanted { Self::Yes } else { Self::No }
    }
}

/// Returns the name of a weight without its path and its number: `kernel` of `c/kernel:0`.
pub(super) fn last_component(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split(':').next().unwrap_or(last)
}

/// Refuses a weight that is not finite.
pub(super) fn finite(
    path: &Path,
    layer: &str,
    name: &str,
    array: &ArrayD<f32>,
) -> Result<(), FileError> {
    if array.iter().all(|w| w.is_finite()) {
        return Ok(());
    }
    let message = format!("layer `{layer}`: weight `{name}` is not finite");
    Err(FileError::invalid(path, message))
}

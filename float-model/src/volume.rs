//! Layers over clips, `[time, height, width, channels]`.
//!
//! They stand in files only: R4 makes layers over frames of them (NUMERICS.md), or they stay in float.

use ndarray::{Array1, Array5};

use crate::{Activation, GraphError, Padding, Shape};
use quantizer_core::geometry::window_extent;

/// A layer over clips.
#[derive(Clone, Debug, PartialEq)]
pub enum Volume {
    /// 3-D convolution.
    Conv3D(Conv3D),
    /// Zeros before and after time, height and width.
    ZeroPadding3D([(usize, usize); 3]),
    /// Mean of each window; padding does not exist.
    AveragePool3D(Pool3D),
}

/// 3-D convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv3D {
    /// Kernel, `[time, height, width, channels / groups, filters]`.
    pub kernel: Array5<f32>,
    /// Bias, `[filters]`.
    pub bias: Option<Array1<f32>>,
    /// Strides of time, rows and columns.
    pub strides: [usize; 3],
    /// Border rule.
    pub padding: Padding,
    /// Distance of kernel cells.
    pub dilation: [usize; 3],
    /// Number of channel groups.
    pub groups: usize,
    /// Fused activation; split off before quantization.
    pub activation: Activation,
}

/// A sliding window over time, height and width, inside the clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool3D {
    /// Extents of the window.
    pub pool_size: [usize; 3],
    /// Strides.
    pub strides: [usize; 3],
}

impl Volume {
    /// Returns the Keras class name.
    #[must_use]
    pub const fn class_name(&self) -> &'static str {
        match self {
            Self::Conv3D(_) => "Conv3D",
            Self::ZeroPadding3D(_) => "ZeroPadding3D",
            Self::AveragePool3D(_) => "AveragePooling3D",
        }
    }

    /// Returns the number of weights.
    #[must_use]
    pub fn n_params(&self) -> usize {
        match self {
            Self::Conv3D(conv) => conv.kernel.len() + conv.bias.as_ref().map_or(0, Array1::len),
            Self::ZeroPadding3D(_) | Self::AveragePool3D(_) => 0,
        }
    }

    pub(crate) fn shape(&self, name: &str, x: &Shape) -> Result<Shape, GraphError> {
        let invalid = |message: String| GraphError::invalid(name, message);
        let &[t, h, w, c] = x.as_slice() else {
            let rank = x.len();
            return Err(invalid(format!(
                "expects [time, height, width, channels], not rank {rank}"
            )));
        };
        let axes = [t, h, w];
        let (out, channels) = match self {
            Self::ZeroPadding3D(pads) => {
                let padded = |axis: usize| {
                    let (before, after) = pads[axis];
                    axes[axis].map(|n| n.saturating_add(before).saturating_add(after))
                };
                ([padded(0), padded(1), padded(2)], c)
            }
            Self::AveragePool3D(pool) => {
                let window = (pool.pool_size, pool.strides, [1; 3], Padding::Valid);
                (windows(name, axes, window)?, c)
            }
            Self::Conv3D(conv) => {
                let (kt, kh, kw, per_group, filters) = conv.kernel.dim();
                let channels = per_group.checked_mul(conv.groups);
                if conv.groups == 0 || filters.checked_rem(conv.groups) != Some(0) {
                    let groups = conv.groups;
                    return Err(invalid(format!("{filters} filters in {groups} groups")));
                }
                if c.is_some_and(|c| channels != Some(c)) {
                    return Err(invalid(format!(
                        "has weights for {per_group} channels in {} groups, input {c:?}",
                        conv.groups
                    )));
                }
                if conv.bias.as_ref().is_some_and(|bias| bias.len() != filters) {
                    return Err(invalid(format!(
                        "has a bias of other than {filters} entries"
                    )));
                }
                let window = ([kt, kh, kw], conv.strides, conv.dilation, conv.padding);
                (windows(name, axes, window)?, Some(filters))
            }
        };
        let [t, h, w] = out;
        Ok(vec![t, h, w, channels])
    }
}

/// Returns how many steps a window takes on each axis.
fn windows(
    name: &str,
    axes: [Option<usize>; 3],
    (kernel, strides, dilation, padding): ([usize; 3], [usize; 3], [usize; 3], Padding),
) -> Result<[Option<usize>; 3], GraphError> {
    let mut out = [None; 3];
    for axis in 0..3 {
        let (k, s, d) = (kernel[axis], strides[axis], dilation[axis]);
        if k == 0 || s == 0 || d == 0 {
            let message = "kernel, strides and dilation must be positive";
            return Err(GraphError::invalid(name, message));
        }
        let Some(n) = axes[axis] else { continue };
        let extent = window_extent(n, k, s, d, padding).filter(|extent| *extent > 0);
        out[axis] = Some(extent.ok_or_else(|| {
            GraphError::invalid(
                name,
                format!("a window of {k} does not fit an extent of {n}"),
            )
        })?);
    }
    Ok(out)
}

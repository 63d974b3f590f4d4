//! Channels that are taken out of a tensor: `Split`, and `Slice` along the channels.
//!
//! No layer takes channels, but a 1x1 convolution (or a dense layer) of zeros and ones does, exactly, and
//! is quantized like the identity convolutions that hardware needs (NUMERICS.md: R16).

use float_model::{Activation, Conv2D, Dense, Layer, Padding};
use ndarray::{Array2, Array4};

use super::call::Call;
use super::folding::parts;
use super::network::{Network, Value, View};
use super::refused::Refused;
use super::shapes::axis_of;

/// Most channels of a tensor that channels are taken of: the weights are their square.
const MOST_CHANNELS: usize = 1 << 12;

/// `Split`: returns the first part; the others are noted.
pub(super) fn split(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let name = call.layer_name();
    let input = call
        .input(0)
        .ok_or_else(|| Refused::invalid("has no input"))?;
    let view = network.view(input, &name)?;
    let axis = axis_of(call.int("axis", 0), view.rank())?;
    let n_channels = network
        .extent(&view, axis)
        .ok_or_else(|| Refused::unsupported("along an open extent"))?;
    let lengths = lengths(network, call, n_channels)?;
    let mut begin = 0;
    let mut first = None;
    for (k, (output, length)) in call.node.output.iter().zip(lengths).enumerate() {
        let channels: Vec<usize> = (begin..begin + length).collect();
        begin += length;
        let name = if k == 0 {
            name.clone()
        } else {
            format!("{name}_{k}")
        };
        let part = Value::View(selected(network, &view, axis, (&channels, &name))?);
        match first {
            None => first = Some(part),
            Some(_) => network.set(output, part),
        }
    }
    first.ok_or_else(|| Refused::invalid("has no output"))
}

/// Returns the extents of the parts.
fn lengths(network: &Network, call: &Call<'_>, n_channels: usize) -> Result<Vec<usize>, Refused> {
    let given = match call.input(1) {
        Some(name) => network.constant(name)?.as_integers().map(<[i64]>::to_vec),
        None => call.ints("split").map(<[i64]>::to_vec),
    };
    let n_parts = call.node.output.len().max(1);
    let lengths: Vec<usize> = match given {
        Some(given) => given
            .iter()
            .filter_map(|n| usize::try_from(*n).ok())
            .collect(),
        None => {
            // The last part is smaller where the channels do not divide.
            let length = n_channels.div_ceil(n_parts);
            let rest = (0..n_parts).map(|k| n_channels.saturating_sub(k * length).min(length));
            rest.collect()
        }
    };
    let total = lengths
        .iter()
        .try_fold(0_usize, |n, length| n.checked_add(*length));
    if lengths.len() != n_parts || total != Some(n_channels) || lengths.contains(&0) {
        return Err(Refused::invalid(format!(
            "{lengths:?} of {n_channels} channels in {n_parts} parts"
        )));
    }
    Ok(lengths)
}

/// `Slice` of a tensor.
pub(super) fn slice(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let name = call.layer_name();
    let input = call
        .input(0)
        .ok_or_else(|| Refused::invalid("has no input"))?;
    let mut view = network.view(input, &name)?;
    for part in parts(network, call, view.rank())? {
        let extent = network.extent(&view, part.axis).filter(|_| part.axis > 0);
        let extent =
            extent.ok_or_else(|| Refused::unsupported("along the batch, or an open extent"))?;
        let taken = part.indices(extent);
        if !taken.iter().copied().eq(0..extent) {
            view = selected(network, &view, part.axis, (&taken, &name))?;
        }
    }
    Ok(Value::View(view))
}

/// Adds a layer that takes some indices of the channels of `view`.
fn selected(
    network: &mut Network,
    view: &View,
    axis: usize,
    (taken, name): (&[usize], &str),
) -> Result<View, Refused> {
    // Channels that a reshape left in front of the pixels go behind them first.
    let is_behind = view.axes.get(axis) == Some(&Some(network.shape(&view.layer).len()));
    let view = match view.rank() {
        rank @ (3 | 4) if axis == 1 && !is_behind => View::image(network.image(view, name)?, rank),
        _ => view.clone(),
    };
    let shape = network.shape(&view.layer);
    let n_channels = shape.last().copied().flatten().unwrap_or(0);
    if view.axes.get(axis) != Some(&Some(shape.len())) {
        return Err(Refused::unsupported("of another axis than the channels"));
    }
    if taken.is_empty() || n_channels > MOST_CHANNELS {
        return Err(Refused::unsupported(format!(
            "takes {} of {n_channels} channels",
            taken.len()
        )));
    }
    network.spend(n_channels * taken.len())?;
    let one = |c: usize, f: usize| if taken[f] == c { 1.0 } else { 0.0 };
    let layer = if shape.len() == 3 {
        let extents = (1, 1, n_channels, taken.len());
        Layer::Conv2D(Conv2D {
            kernel: Array4::from_shape_fn(extents, |(_, _, c, f)| one(c, f)),
            bias: None,
            strides: [1, 1],
            padding: Padding::Valid,
            dilation: [1, 1],
            groups: 1,
            activation: Activation::Linear,
            padding_value: None,
        })
    } else {
        let extents = (n_channels, taken.len());
        Layer::Dense(Dense {
            kernel: Array2::from_shape_fn(extents, |(c, f)| one(c, f)),
            bias: None,
            activation: Activation::Linear,
        })
    };
    let layer = network.emit(name, layer, &[&view.layer])?;
    Ok(view.with(layer))
}

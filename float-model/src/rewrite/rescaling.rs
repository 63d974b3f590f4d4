//! What integers cannot rescale goes into the weights behind.

use ndarray::{Array1, Axis};

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use crate::{Conv2D, Dense, Layer, NodeId, Padding, Rescaling};
use quantizer_core::PerAxis;

/// R8: offsets, and scales of several values, go from a `Rescaling` into the `Conv2D` or `Dense`
/// behind it.
///
/// For `y = W * (s x + o) + b`, each operation rounded to f32, the sum sequential over kernel
/// rows, kernel columns and channels:
///
/// ```text
/// b' = b + sum(W * o)
/// W' = W * s          the Rescaling's scale becomes 1; a single s stays where it is
/// ```
///
/// The offset becomes 0. What was the zero border of a 'same' convolution is now another value:
/// it becomes a `PaddedConv2D` whose padding value `p` satisfies `p + o = 0` (`s p + o = 0` if `s`
/// moved). Every `Rescaling` is aligned, not only the first one of the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct AlignRescaling;

impl Rewrite for AlignRescaling {
    fn name(&self) -> &'static str {
        "align-rescaling"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let Layer::Rescaling(rescaling) = &node.layer else {
            return Err(Skip::NoMatch);
        };
        let has_offset = rescaling.offset.as_slice().iter().any(|o| *o != 0.0);
        if rescaling.scale.n_values() == 1 && !has_offset {
            return Err(Skip::NoMatch);
        }
        let target = view.node(view.sole_consumer(id)?);
        let channels = if let Layer::Conv2D(conv) = &target.layer {
            conv_channels(conv)?
        } else if let Layer::Dense(dense) = &target.layer {
            dense.kernel.dim().0
        } else {
            let class = target.layer.class_name();
            let reason = format!("`{}` ({class}) cannot take it in", target.name);
            return Err(Skip::Blocked(reason));
        };
        let aligned = Aligned::new(rescaling, channels, &target.layer)?;
        let scale = aligned.remaining_scale.clone();
        let reset = move |layer: &mut Layer| {
            *layer = Layer::Rescaling(Rescaling {
                scale,
                offset: PerAxis::Tensor(0.0),
            });
        };
        Ok(Patch {
            message: format!("{} went into `{}`", aligned.what, target.name),
            edits: vec![
                Edit::change(node, reset),
                Edit::change(target, move |layer| aligned.apply(layer)),
            ],
        })
    }
}

fn conv_channels(conv: &Conv2D) -> Result<usize, Skip> {
    let blocked = |reason: &str| Err(Skip::Blocked(reason.to_owned()));
    if conv.padding_value.is_some() {
        return blocked("the convolution behind has a padding value");
    }
    if conv.groups != 1 {
        return blocked("the convolution behind is grouped");
    }
    if conv.padding == Padding::Same && conv.dilation != [1, 1] {
        return blocked("the 'same' convolution behind is dilated: its border has no other value");
    }
    Ok(conv.kernel.dim().2)
}

/// What moves out of a `Rescaling`.
struct Aligned {
    /// One offset for each channel.
    offsets: Vec<f32>,
    /// One factor for each channel, if they move.
    scales: Option<Vec<f32>>,
    remaining_scale: PerAxis<f64>,
    padding_value: Option<Vec<f32>>,
    what: &'static str,
}

impl Aligned {
    fn new(rescaling: &Rescaling, channels: usize, target: &Layer) -> Result<Self, Skip> {
        let Rescaling { scale, offset } = rescaling;
        for n in [scale.n_values(), offset.n_values()] {
            if n != 1 && n != channels {
                let reason = format!("has {n} values for {channels} channels");
                return Err(Skip::Blocked(reason));
            }
        }
        let moves_scale = scale.n_values() != 1;
        let is_same = matches!(target, Layer::Conv2D(conv) if conv.padding == Padding::Same);
        let scales = moves_scale.then(|| scale.as_slice().iter().map(|s| to_f32(*s)).collect());
        let offsets = (0..channels).map(|c| to_f32(channel(offset, c))).collect();
        Ok(Self {
            offsets,
            scales,
            remaining_scale: if moves_scale {
                PerAxis::Tensor(1.0)
            } else {
                scale.clone()
            },
            padding_value: is_same.then(|| padding_value(rescaling)).transpose()?,
            what: if moves_scale {
                "its scale and offset"
            } else {
                "its offset"
            },
        })
    }

    fn apply(self, layer: &mut Layer) {
        if let Layer::Conv2D(conv) = layer {
            let sums = self.offset_sums(conv.kernel.iter(), conv.kernel.dim().3);
            add_bias(&mut conv.bias, sums);
            for mut position in conv.kernel.outer_iter_mut() {
                for mut matrix in position.outer_iter_mut() {
                    self.scale_rows(matrix.outer_iter_mut());
                }
            }
            if self.padding_value.is_some() {
                conv.padding = Padding::Valid;
                conv.padding_value = self.padding_value;
            }
        } else if let Layer::Dense(Dense { kernel, bias, .. }) = layer {
            let sums = self.offset_sums(kernel.iter(), kernel.dim().1);
            add_bias(bias, sums);
            self.scale_rows(kernel.axis_iter_mut(Axis(0)));
        }
    }

    /// Returns `sum(W * o)` for each output; `weights` has the outputs innermost, then channels.
    fn offset_sums<'a>(&self, weights: impl Iterator<Item = &'a f32>, outputs: usize) -> Vec<f32> {
        let mut sums = vec![0.0; outputs];
        let offsets = self.offsets.iter().cycle();
        let per_output = offsets.flat_map(|o| std::iter::repeat_n(*o, outputs));
        for (i, (weight, offset)) in weights.zip(per_output).enumerate() {
            sums[i % outputs] += weight * offset;
        }
        sums
    }

    /// Multiplies each row, the weights of one channel, with the channel's scale.
    fn scale_rows<'a>(&self, rows: impl Iterator<Item = ndarray::ArrayViewMut1<'a, f32>>) {
        for (mut row, scale) in rows.zip(self.scales.iter().flatten()) {
            row *= *scale;
        }
    }
}

fn add_bias(bias: &mut Option<Array1<f32>>, sums: Vec<f32>) {
    let sums = Array1::from_vec(sums);
    *bias = Some(match bias.take() {
        Some(bias) => bias + sums,
        None => sums,
    });
}

/// Returns the value whose rescaled value is 0, one or one for each channel.
fn padding_value(rescaling: &Rescaling) -> Result<Vec<f32>, Skip> {
    let offsets = rescaling.offset.map(|o| 0.0 - to_f32(o));
    let offsets = offsets.uniform().map_or(offsets, PerAxis::Tensor);
    let values = match &rescaling.scale {
        scale if scale.n_values() == 1 => offsets,
        scale => offsets.zip(scale, |p, s| to_f32(f64::from(p) / s)),
    };
    let values = values.as_slice().to_vec();
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(Skip::Blocked(format!("its padding value would be {value}"))),
        None => Ok(values),
    }
}

fn channel(values: &PerAxis<f64>, channel: usize) -> f64 {
    match values.as_slice() {
        [value] => *value,
        values => values[channel],
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "weights are f32; numbers of a file are rounded to them"
)]
fn to_f32(value: f64) -> f32 {
    value as f32
}

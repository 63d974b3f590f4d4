//! The quantizers.

use crate::bits::{clamp, fraction_bits, log2_ceil, nearest_even, scaled_half_up, times_power};
use crate::tensor::{Refused, Tensor, Vector, at, both};

/// Returns a kernel as integers with scales; `channel_of` tells the group of each weight.
/// NUMERICS.md: N8.
pub fn weights(
    kernel: &[f32],
    value_bits: u32,
    n_groups: usize,
    channel_of: impl Fn(usize) -> usize,
) -> (Vec<i128>, Vector<f32>) {
    let largest = i32::try_from((1_i64 << value_bits) - 1).unwrap_or(i32::MAX);
    #[expect(clippy::cast_precision_loss, reason = "at most 15 bits")]
    let largest = largest as f32;
    let mut ranges = vec![0.0_f32; n_groups];
    for (i, w) in kernel.iter().enumerate() {
        let group = channel_of(i);
        ranges[group] = ranges[group].max(w.abs());
    }
    let scales: Vec<f32> = ranges.iter().map(|r| (r / largest).max(1e-6)).collect();
    let integers = kernel
        .iter()
        .enumerate()
        .map(|(i, w)| clamp(nearest_even(w / scales[channel_of(i)]), value_bits));
    (integers.collect(), scales)
}

/// Returns values aligned on a tensor, shifted and saturated. NUMERICS.md: N9.
///
/// # Errors
///
/// A shift of the tensor's width or more.
pub fn aligned(
    values: &[f32],
    bitwidth: u32,
    value_bits: u32,
    tensor: &Tensor,
) -> Result<Vec<i128>, Refused> {
    let one = vec![1.0];
    let scales = tensor.scales.as_ref().unwrap_or(&one);
    let ranges: Vec<f32> = if bitwidth > 4 {
        values.iter().map(|v| v.abs()).collect()
    } else {
        vec![values.iter().fold(0.0_f32, |r, v| r.max(v.abs()))]
    };
    let limits = both(&ranges, scales, |r, s| fraction_bits(value_bits, r / s));
    let fb = both(&limits, &tensor.frac_bits, i32::min);
    let scaled = both(values, scales, |v, s| v / s);
    let integers = both(&scaled, &fb, |v, fb| {
        clamp(nearest_even(times_power(v, fb)), value_bits)
    });
    let shifts = both(&tensor.frac_bits, &fb, |t, fb| t - fb);
    let limit = i32::try_from(tensor.value_bits).unwrap_or(0);
    if shifts.iter().any(|s| *s >= limit) {
        return Err(Refused("a shift of the whole width".to_owned()));
    }
    Ok(both(&integers, &shifts, |v, s| {
        clamp(v * (1_i128 << s), tensor.value_bits)
    }))
}

/// An output quantizer.
#[derive(Clone, Debug)]
pub struct Output {
    /// Value bits of the outputs.
    pub value_bits: u32,
    /// Bits of the integer scales.
    pub scale_bits: u32,
    /// Value bits of the products.
    pub buffer: u32,
    /// Ranges: one, or one a channel.
    pub range_max: Vector<f32>,
    /// Factors of the scales: one, or one a channel.
    pub rescaling_rate: Vector<f32>,
}

/// Returns the outputs of a layer's result. NUMERICS.md: N10.
///
/// # Errors
///
/// A width that is not below the input's, a buffer narrower than the input, a shift of the whole
/// width.
pub fn output(x: &Tensor, quantizer: &Output) -> Result<Tensor, Refused> {
    if x.value_bits <= quantizer.value_bits {
        return Err(Refused("pointless".to_owned()));
    }
    let mut product = x.clone();
    if let Some(scales) = &x.scales {
        if quantizer.buffer < x.value_bits {
            return Err(Refused("a buffer narrower than the input".to_owned()));
        }
        let scales = both(scales, &quantizer.rescaling_rate, |s, r| s * r);
        let bits = i32::try_from(quantizer.scale_bits).unwrap_or(0);
        let mut fb = Vec::new();
        for scale in &scales {
            let log = log2_ceil(*scale).ok_or_else(|| Refused("a scale of zero".to_owned()))?;
            fb.push(bits - log);
        }
        let q = both(&scales, &fb, |s, fb| {
            clamp(nearest_even(times_power(s, fb)), quantizer.scale_bits)
        });
        product.values = x.mapped(|v, c| clamp(v * at(&q, c), quantizer.buffer));
        product.frac_bits = both(&x.frac_bits, &fb, |a, b| a + b);
        product.scales = None;
    }
    let target: Vec<i32> = quantizer
        .range_max
        .iter()
        .map(|r| fraction_bits(quantizer.value_bits, *r))
        .collect();
    let shifts = both(&target, &product.frac_bits, |t, p| t - p);
    let limit = i32::try_from(quantizer.value_bits).unwrap_or(0);
    if shifts.iter().any(|s| *s >= limit) {
        return Err(Refused("a shift of the whole width".to_owned()));
    }
    let values =
        product.mapped(|v, c| clamp(scaled_half_up(v, at(&shifts, c)), quantizer.value_bits));
    let value_bits = quantizer.value_bits;
    Ok(Tensor {
        shape: x.shape.clone(),
        values,
        value_bits,
        frac_bits: target,
        scales: None,
    })
}

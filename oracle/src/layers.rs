//! Whole layers: from integers and float weights to integers.

use crate::bits::clamp;
use crate::quantizers::{Output, aligned, output, weights};
use crate::tensor::{Refused, Tensor, Vector, at, both};

/// A sliding window over height and width.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Extents, rows and columns.
    pub size: [usize; 2],
    /// Strides, rows and columns.
    pub strides: [usize; 2],
    /// Distance of cells, rows and columns.
    pub dilation: [usize; 2],
    /// Whether the border is that of 'same'.
    pub same: bool,
}

/// Quantization of a layer with weights.
#[derive(Clone, Debug)]
pub struct Weighted {
    /// Value bits of the weights.
    pub weight_bits: u32,
    /// Whether there is one scale for the kernel.
    pub per_tensor: bool,
    /// Float bias with its bit width (signed).
    pub bias: Option<(Vec<f32>, u32)>,
    /// Value bits of inputs and sums.
    pub buffer: u32,
    /// The output quantizer.
    pub output: Option<Output>,
}

/// Returns the input in its buffer: channels aligned if they differ. NUMERICS.md: N6.
fn enter(x: &Tensor, buffer: u32) -> Result<Tensor, Refused> {
    if buffer < x.value_bits {
        return Err(Refused("wider than the buffer".to_owned()));
    }
    let point = x.frac_bits.iter().copied().max().unwrap_or(0);
    let limit = i32::try_from(buffer).unwrap_or(0);
    if x.frac_bits.len() > 1 && x.frac_bits.iter().any(|fb| point - fb >= limit) {
        return Err(Refused("a shift of the whole width".to_owned()));
    }
    let values = x.mapped(|v, c| {
        clamp(
            v * (1_i128 << (point - at(&x.frac_bits, c)).min(60)),
            buffer,
        )
    });
    let frac_bits = vec![point];
    Ok(Tensor {
        values,
        value_bits: buffer,
        frac_bits,
        ..x.clone()
    })
}

/// Returns the image with its border made, and the extents of the output.
fn bordered(x: &Tensor, window: &Window, fill: &[i128], dilated: bool) -> (Tensor, [usize; 2]) {
    let (batch, n, c) = (x.shape[0], [x.shape[1], x.shape[2]], x.shape[3]);
    let mut before = [0; 2];
    let mut padded = n;
    for axis in 0..2 {
        if !window.same {
            continue;
        }
        let (k, s) = (window.size[axis], window.strides[axis]);
        let d = if dilated { window.dilation[axis] } else { 1 };
        let out = n[axis].div_ceil(s);
        let reach = (out - 1) * s + (k - 1) * d + 1;
        let total = reach.max(n[axis]) - n[axis];
        before[axis] = total.div_euclid(2);
        padded[axis] = n[axis] + total;
    }
    let shape = vec![batch, padded[0], padded[1], c];
    let mut values = Vec::with_capacity(shape.iter().product());
    for b in 0..batch {
        for i in 0..padded[0] {
            for j in 0..padded[1] {
                let inside = i >= before[0] && j >= before[1];
                let inside = inside && i - before[0] < n[0] && j - before[1] < n[1];
                for ch in 0..c {
                    values.push(if inside {
                        let (r, s) = (i - before[0], j - before[1]);
                        x.values[((b * n[0] + r) * n[1] + s) * c + ch]
                    } else {
                        at(fill, ch)
                    });
                }
            }
        }
    }
    let out = [0, 1].map(|axis| {
        let span = (window.size[axis] - 1) * window.dilation[axis] + 1;
        (padded[axis] - span).div_euclid(window.strides[axis]) + 1
    });
    (
        Tensor {
            shape,
            values,
            ..x.clone()
        },
        out,
    )
}

/// Returns for each output pixel the values under the window, `[cell, channel]`.
fn patches(x: &Tensor, window: &Window, out: [usize; 2]) -> Vec<Vec<i128>> {
    let (w, c) = (x.shape[2], x.shape[3]);
    let mut all = Vec::new();
    for b in 0..x.shape[0] {
        for i in 0..out[0] {
            for j in 0..out[1] {
                let mut patch = Vec::new();
                for ti in 0..window.size[0] {
                    for tj in 0..window.size[1] {
                        let r = i * window.strides[0] + ti * window.dilation[0];
                        let s = j * window.strides[1] + tj * window.dilation[1];
                        let start = ((b * x.shape[1] + r) * w + s) * c;
                        patch.extend_from_slice(&x.values[start..start + c]);
                    }
                }
                all.push(patch);
            }
        }
    }
    all
}

/// Adds bias and output quantizer to sums.
fn finish(sums: Tensor, params: &Weighted) -> Result<Tensor, Refused> {
    let mut y = sums;
    if let Some((bias, bitwidth)) = &params.bias {
        let bias = aligned(bias, *bitwidth, bitwidth - 1, &y)?;
        y.values = y.mapped(|v, c| clamp(v + at(&bias, c), y.value_bits));
    }
    match &params.output {
        None => Ok(y),
        Some(quantizer) => output(&y, quantizer),
    }
}

/// Returns the scales of sums: the kernel's, times those of the input.
fn product_scales(x: &Tensor, kernel: Vector<f32>) -> Option<Vector<f32>> {
    Some(match &x.scales {
        None => kernel,
        Some(scales) => both(scales, &kernel, |x, k| x * k),
    })
}

/// 2-D convolution, kernel `[size, channels, filters]` row-major, with an optional padding value.
/// NUMERICS.md: N15.
///
/// # Errors
///
/// What the definition refuses.
pub fn conv2d(
    x: &Tensor,
    kernel: &[f32],
    filters: usize,
    window: &Window,
    padding_value: Option<&[f32]>,
    params: &Weighted,
) -> Result<Tensor, Refused> {
    let x = enter(x, params.buffer)?;
    let fill = match padding_value {
        None => vec![0],
        Some(_) if x.scales.is_none() => return Err(Refused("a padding value".to_owned())),
        Some(values) => aligned(values, params.weight_bits + 1, params.weight_bits, &x)?,
    };
    let groups = if params.per_tensor { 1 } else { filters };
    let (k, scales) = weights(kernel, params.weight_bits, groups, |i| {
        if params.per_tensor {
            0
        } else {
            i.rem_euclid(filters)
        }
    });
    let same = Window {
        same: window.same || padding_value.is_some(),
        ..*window
    };
    let (padded, out) = bordered(&x, &same, &fill, padding_value.is_none());
    let mut values = Vec::new();
    for patch in patches(&padded, window, out) {
        for f in 0..filters {
            let sum: i128 = patch
                .iter()
                .enumerate()
                .map(|(i, v)| v * k[i * filters + f])
                .sum();
            values.push(clamp(sum, params.buffer));
        }
    }
    let shape = vec![x.shape[0], out[0], out[1], filters];
    let scales = product_scales(&x, scales);
    finish(
        Tensor {
            shape,
            values,
            scales,
            ..x
        },
        params,
    )
}

/// Depthwise convolution, kernel `[size, channels]` row-major. NUMERICS.md: N16.
///
/// # Errors
///
/// What the definition refuses.
pub fn depthwise_conv2d(
    x: &Tensor,
    kernel: &[f32],
    window: &Window,
    params: &Weighted,
) -> Result<Tensor, Refused> {
    if x.scales.is_some() || params.buffer < x.value_bits {
        return Err(Refused("its input".to_owned()));
    }
    let c = x.channels();
    let groups = if params.per_tensor { 1 } else { c };
    let (k, scales) = weights(kernel, params.weight_bits, groups, |i| {
        if params.per_tensor {
            0
        } else {
            i.rem_euclid(c)
        }
    });
    let x = Tensor {
        value_bits: params.buffer,
        ..x.clone()
    };
    let sums = depthwise_sums(&x, &k, window, params.buffer);
    finish(
        Tensor {
            scales: Some(scales),
            ..sums
        },
        params,
    )
}

fn depthwise_sums(x: &Tensor, k: &[i128], window: &Window, buffer: u32) -> Tensor {
    let c = x.channels();
    let (padded, out) = bordered(x, window, &[0], true);
    let mut values = Vec::new();
    for patch in patches(&padded, window, out) {
        for ch in 0..c {
            let cells = patch
                .iter()
                .skip(ch)
                .step_by(c)
                .zip(k.iter().skip(ch).step_by(c));
            values.push(clamp(cells.map(|(v, k)| v * k).sum(), buffer));
        }
    }
    Tensor {
        shape: vec![x.shape[0], out[0], out[1], c],
        values,
        ..x.clone()
    }
}

/// Depthwise then pointwise convolution; the depthwise kernel has one scale. NUMERICS.md: N17.
///
/// # Errors
///
/// What the definition refuses.
pub fn separable_conv2d(
    x: &Tensor,
    [depthwise, pointwise]: [&[f32]; 2],
    filters: usize,
    window: &Window,
    params: &Weighted,
) -> Result<Tensor, Refused> {
    if x.scales.is_some() {
        return Err(Refused("its input".to_owned()));
    }
    let x = enter(x, params.buffer)?;
    let (dk, dw_scales) = weights(depthwise, params.weight_bits, 1, |_| 0);
    let sums = depthwise_sums(&x, &dk, window, params.buffer);
    let groups = if params.per_tensor { 1 } else { filters };
    let (pk, pw_scales) = weights(pointwise, params.weight_bits, groups, |i| {
        if params.per_tensor {
            0
        } else {
            i.rem_euclid(filters)
        }
    });
    let scales = both(&dw_scales, &pw_scales, |d, p| d * p);
    let y = product(&sums, &pk, filters, params.buffer);
    finish(
        Tensor {
            scales: Some(scales),
            ..y
        },
        params,
    )
}

/// Matrix product on the last axis, kernel `[channels, units]`. NUMERICS.md: N18.
///
/// # Errors
///
/// What the definition refuses.
pub fn dense(
    x: &Tensor,
    kernel: &[f32],
    units: usize,
    params: &Weighted,
) -> Result<Tensor, Refused> {
    let x = enter(x, params.buffer)?;
    let groups = if params.per_tensor { 1 } else { units };
    let (k, scales) = weights(kernel, params.weight_bits, groups, |i| {
        if params.per_tensor {
            0
        } else {
            i.rem_euclid(units)
        }
    });
    let y = product(&x, &k, units, params.buffer);
    let scales = product_scales(&x, scales);
    finish(Tensor { scales, ..y }, params)
}

fn product(x: &Tensor, k: &[i128], units: usize, buffer: u32) -> Tensor {
    let mut values = Vec::new();
    for row in x.values.chunks(x.channels()) {
        for u in 0..units {
            let sum: i128 = row
                .iter()
                .enumerate()
                .map(|(c, v)| v * k[c * units + u])
                .sum();
            values.push(clamp(sum, buffer));
        }
    }
    let mut shape = x.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = units;
    }
    Tensor {
        shape,
        values,
        ..x.clone()
    }
}

/// Rectifier with an optional clip of 8 bits. NUMERICS.md: N19.
///
/// # Errors
///
/// What the definition refuses.
pub fn relu(
    x: &Tensor,
    max_value: Option<f32>,
    buffer: u32,
    quantizer: Option<&Output>,
) -> Result<Tensor, Refused> {
    if buffer < x.value_bits {
        return Err(Refused("wider than the buffer".to_owned()));
    }
    let scales = Some(x.scales.clone().unwrap_or_else(|| vec![1.0]));
    let mut y = Tensor {
        value_bits: buffer,
        scales,
        ..x.clone()
    };
    let clip = max_value.map(|max| aligned(&[max], 8, 8, &y)).transpose()?;
    y.values = y.mapped(|v, c| {
        let positive = v.max(0);
        clip.as_ref()
            .map_or(positive, |clip| positive.min(at(clip, c)))
    });
    match quantizer {
        None => Ok(y),
        Some(quantizer) => output(&y, quantizer),
    }
}

/// Maximum over a window; a border of 'same' never wins. NUMERICS.md: N20.
#[must_use]
pub fn max_pool2d(x: &Tensor, window: &Window) -> Tensor {
    let c = x.channels();
    let (padded, out) = bordered(x, window, &[i128::MIN], true);
    let mut values = Vec::new();
    for patch in patches(&padded, window, out) {
        for ch in 0..c {
            values.push(patch.iter().skip(ch).step_by(c).copied().max().unwrap_or(0));
        }
    }
    Tensor {
        shape: vec![x.shape[0], out[0], out[1], c],
        values,
        ..x.clone()
    }
}

/// Sum over height and width, the division in the scale. NUMERICS.md: N21.
///
/// # Errors
///
/// What the definition refuses.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding to float32"
)]
pub fn global_average_pooling2d(
    x: &Tensor,
    buffer: u32,
    quantizer: Option<&Output>,
) -> Result<Tensor, Refused> {
    let x = enter(x, buffer)?;
    let (batch, area, c) = (x.shape[0], x.shape[1] * x.shape[2], x.channels());
    let mut values = Vec::new();
    for image in x.values.chunks(area * c) {
        for ch in 0..c {
            values.push(clamp(image.iter().skip(ch).step_by(c).sum(), buffer));
        }
    }
    let pixels = u16::try_from(area).map_err(|_| Refused("a large image".to_owned()))?;
    let scales = match &x.scales {
        None => vec![(1.0 / f64::from(pixels)) as f32],
        Some(scales) => scales.iter().map(|s| s / f32::from(pixels)).collect(),
    };
    let y = Tensor {
        shape: vec![batch, c],
        values,
        scales: Some(scales),
        ..x
    };
    match quantizer {
        None => Ok(y),
        Some(quantizer) => output(&y, quantizer),
    }
}

/// Sum of two FixedPoint tensors. NUMERICS.md: N22.
///
/// # Errors
///
/// What the definition refuses.
pub fn add(
    a: &Tensor,
    b: &Tensor,
    buffer: u32,
    quantizer: Option<&Output>,
) -> Result<Tensor, Refused> {
    if a.scales.is_some() || b.scales.is_some() || buffer < a.value_bits.max(b.value_bits) {
        return Err(Refused("its inputs".to_owned()));
    }
    let points = both(&a.frac_bits, &b.frac_bits, i32::max);
    let limit = i32::try_from(buffer).unwrap_or(0);
    let aligned = |x: &Tensor| {
        let shifts = both(&points, &x.frac_bits, |p, fb| p - fb);
        if shifts.iter().any(|s| *s >= limit) {
            return Err(Refused("a shift of the whole width".to_owned()));
        }
        Ok(x.mapped(|v, c| clamp(v * (1_i128 << at(&shifts, c)), buffer)))
    };
    let (left, right) = (aligned(a)?, aligned(b)?);
    let values = left
        .iter()
        .zip(&right)
        .map(|(l, r)| clamp(l + r, buffer))
        .collect();
    let y = Tensor {
        values,
        value_bits: buffer,
        frac_bits: points,
        ..a.clone()
    };
    match quantizer {
        None => Ok(y),
        Some(quantizer) => output(&y, quantizer),
    }
}

/// One vector an item; channels aligned within their own width. NUMERICS.md: N24.
///
/// # Errors
///
/// What the definition refuses.
pub fn flatten(x: &Tensor) -> Result<Tensor, Refused> {
    let y = enter(x, x.value_bits)?;
    let shape = vec![x.shape[0], x.values.len().div_euclid(x.shape[0].max(1))];
    Ok(Tensor { shape, ..y })
}

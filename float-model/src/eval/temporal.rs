//! Layers that remember earlier steps of a sequence.

use kernels::Kernels;

use super::conv;
use super::tensor::Tensor;
use crate::layer::{BufferTempConv, DepthwiseBufferTempConv, StatefulRecurrent};

/// What the temporal layers of a graph remember; empty when new.
#[derive(Clone, Debug, Default)]
pub struct GraphMemory {
    layers: Vec<Memory>,
}

/// What one layer remembers: its last frames, or its state; empty before the first step.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    values: Vec<f32>,
    /// Extents of the inputs so far.
    extents: Vec<usize>,
}

impl GraphMemory {
    /// Returns the memory of the layer at `index`.
    pub(super) fn of(&mut self, index: usize) -> &mut Memory {
        if self.layers.len() <= index {
            self.layers.resize_with(index + 1, Memory::default);
        }
        &mut self.layers[index]
    }
}

impl Memory {
    /// Returns `len` values, zeros before the first step.
    fn recall(&mut self, x: &Tensor<'_>, len: usize) -> Result<Vec<f32>, String> {
        if self.extents.is_empty() {
            self.extents.clone_from(&x.extents);
            return Ok(vec![0.0; len]);
        }
        if self.extents != x.extents {
            let (before, now) = (&self.extents, &x.extents);
            return Err(format!("a batch {now:?} after one of {before:?}"));
        }
        Ok(std::mem::take(&mut self.values))
    }

    /// Returns the window of the last `n_frames` frames, `[..., n_frames * channels]`, the oldest
    /// first, and remembers the frame `x`.
    fn push(&mut self, x: &Tensor<'_>, n_frames: usize) -> Result<Vec<f32>, String> {
        let channels = x.last().max(1);
        let kept = n_frames.saturating_sub(1) * channels;
        let n_pixels = x.data.len().div_euclid(channels);
        let past = self.recall(x, n_pixels * kept)?;
        let mut window = Vec::with_capacity(n_pixels * (kept + channels));
        for (pixel, frame) in x.data.chunks(channels).enumerate() {
            window.extend_from_slice(&past[pixel * kept..(pixel + 1) * kept]);
            window.extend_from_slice(frame);
        }
        let pixels = window.chunks(kept + channels);
        self.values = pixels.flat_map(|p| &p[channels..]).copied().collect();
        Ok(window)
    }
}

/// Returns the matrix product of each pixel's window (NUMERICS.md: F1).
pub(super) fn frames(
    kernels: Kernels,
    conv: &BufferTempConv,
    x: &Tensor<'_>,
    extents: &[usize],
    memory: &mut Memory,
) -> Result<Vec<f32>, String> {
    let window = memory.push(x, conv.n_frames)?;
    let (_, _, channels, filters) = conv.kernel.dim();
    let kernel: Vec<f32> = conv.kernel.iter().copied().collect();
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    let factors = kernels::Dense {
        x: &window,
        kernel: &kernel,
        channels,
        filters,
    };
    Ok(conv::product(kernels, &factors, bias.as_deref(), extents))
}

/// Returns the sum over frames, oldest first, each product and sum rounded to f32.
///
/// ```text
/// y = (((x0 * k0) + x1 * k1) + ...) + bias
/// ```
pub(super) fn depthwise_frames(
    conv: &DepthwiseBufferTempConv,
    x: &Tensor<'_>,
    memory: &mut Memory,
) -> Result<Vec<f32>, String> {
    let (n_frames, channels) = conv.kernel.dim();
    let window = memory.push(x, n_frames)?;
    let mut out = Vec::with_capacity(x.data.len());
    for pixel in window.chunks(n_frames * channels) {
        for c in 0..channels {
            let products = (0..n_frames).map(|t| pixel[t * channels + c] * conv.kernel[[t, c]]);
            let sum = products.reduce(|sum, product| sum + product);
            let bias = conv.bias.as_ref().map(|bias| bias[c]);
            out.push(sum.unwrap_or(0.0) + bias.unwrap_or(0.0));
        }
    }
    Ok(out)
}

/// Returns the states `[batch, time, channels, 2]`, every operation rounded to f32.
///
/// ```text
/// re' = ((re * ar) - (im * ai)) + x;  im' = (ai * re) + (ar * im)
/// ```
pub(super) fn recur(
    recurrent: &StatefulRecurrent,
    x: &Tensor<'_>,
    memory: &mut Memory,
) -> Result<Vec<f32>, String> {
    let channels = recurrent.a_real.len();
    let batch = x.extents[0];
    let mut state = memory.recall(x, batch * channels * 2)?;
    let mut out = Vec::with_capacity(x.data.len() * 2);
    for (item, state) in state.chunks_mut(channels * 2).enumerate() {
        for step in x.item(item).chunks(channels) {
            for (c, x) in step.iter().enumerate() {
                let (ar, ai) = (recurrent.a_real[c], recurrent.a_imag[c]);
                let (re, im) = (state[2 * c], state[2 * c + 1]);
                state[2 * c] = ((re * ar) - (im * ai)) + x;
                state[2 * c + 1] = (ai * re) + (ar * im);
            }
            out.extend_from_slice(state);
        }
    }
    memory.values = state;
    Ok(out)
}

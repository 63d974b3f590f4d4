//! Layers that move elements.

use ndarray::{ArrayView, IxDyn};
use quantizer_core::geometry::Pads;

use super::tensor::{Tensor, by_rows, image};
use crate::GraphError;
use crate::shape::item_axis;

/// Returns index `token` of an axis, which disappears.
pub(super) fn extract(
    name: &str,
    token: usize,
    axis: isize,
    x: &Tensor<'_>,
) -> Result<Vec<f32>, GraphError> {
    let axis = item_axis(name, axis, x.extents.len() - 1)? + 1;
    let n_tokens = x.extents[axis];
    let len: usize = x.extents[axis + 1..].iter().product();
    let groups = x.data.chunks((n_tokens * len).max(1));
    let tokens = groups.flat_map(|group| &group[token * len..(token + 1) * len]);
    Ok(tokens.copied().collect())
}

/// Returns the image with zeros around it.
pub(super) fn zero_pad(pads: Pads, x: &Tensor<'_>, extents: &[usize]) -> Vec<f32> {
    let [in_h, in_w, channels] = x.image();
    let row_len = image(extents)[1] * channels;
    by_rows(extents, |index, rows, out| {
        let item = x.item(index);
        for (row, out) in rows.zip(out.chunks_mut(row_len)) {
            let inside = row.checked_sub(pads.top).filter(|row| *row < in_h);
            if let Some(row) = inside {
                let len = in_w * channels;
                let first = pads.left * channels;
                out[first..first + len].copy_from_slice(&item[row * len..(row + 1) * len]);
            }
        }
    })
}

/// Returns the image with each pixel repeated.
pub(super) fn up_sample(size: [usize; 2], x: &Tensor<'_>, extents: &[usize]) -> Vec<f32> {
    let [_, in_w, channels] = x.image();
    let [_, out_w, _] = image(extents);
    by_rows(extents, |index, rows, out| {
        let item = x.item(index);
        let places = rows.flat_map(|row| (0..out_w).map(move |column| (row, column)));
        for (out, (row, column)) in out.chunks_mut(channels).zip(places) {
            let pixel = row.div_euclid(size[0]) * in_w + column.div_euclid(size[1]);
            out.copy_from_slice(&item[pixel * channels..(pixel + 1) * channels]);
        }
    })
}

/// Returns the elements with the axes of an item in the order `dims`, counted from 1.
pub(super) fn permute(dims: &[usize], x: &Tensor<'_>) -> Vec<f32> {
    // Axis 0 is the batch, which stays in front.
    let axes: Vec<usize> = std::iter::once(0).chain(dims.iter().copied()).collect();
    let view = ArrayView::from_shape(IxDyn(&x.extents), &x.data[..]);
    // The extents of a tensor multiply to its length, so the view exists.
    view.map(|view| view.permuted_axes(axes).iter().copied().collect())
        .unwrap_or_default()
}

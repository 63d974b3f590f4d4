//! Layers over clips: plain loops, since R4 makes layers over frames of them before anything is timed.

use quantizer_core::geometry::same_pads;

use super::tensor::Tensor;
use crate::{Conv3D, Padding, Pool3D, Volume};

/// Returns the elements of the output `[batch, time, height, width, channels]`.
pub(super) fn volume(layer: &Volume, x: &Tensor<'_>, out: &[usize]) -> Vec<f32> {
    let (&[_, t, h, w, c], &[n, ot, oh, ow, oc]) = (x.extents.as_slice(), out) else {
        return Vec::new(); // The ranks are checked before.
    };
    let clip = Clip {
        data: x.to_vec(),
        extents: [t, h, w],
        channels: c,
    };
    let mut values = Vec::with_capacity(out.iter().product());
    for item in 0..n {
        for at in positions([ot, oh, ow]) {
            for f in 0..oc {
                values.push(match layer {
                    Volume::Conv3D(conv) => convolved(conv, &clip, item, (at, f)),
                    Volume::ZeroPadding3D(pads) => {
                        let place = |axis: usize| at[axis].checked_sub(pads[axis].0);
                        clip.get(item, [place(0), place(1), place(2)], f)
                    }
                    Volume::AveragePool3D(pool) => mean(*pool, &clip, item, (at, f)),
                });
            }
        }
    }
    values
}

/// Clips, row-major.
struct Clip {
    data: Vec<f32>,
    /// Time, height, width.
    extents: [usize; 3],
    channels: usize,
}

impl Clip {
    /// Returns an element, zero outside the clip.
    fn get(&self, item: usize, at: [Option<usize>; 3], channel: usize) -> f32 {
        let mut index = item;
        for (at, extent) in at.into_iter().zip(self.extents) {
            match at.filter(|at| *at < extent) {
                Some(at) => index = index * extent + at,
                None => return 0.0,
            }
        }
        let index = index * self.channels + channel;
        self.data.get(index).copied().unwrap_or(0.0)
    }
}

/// One chain of fused multiply-adds in the order of the kernel, then the bias (NUMERICS.md: F1).
fn convolved(conv: &Conv3D, clip: &Clip, item: usize, (at, f): ([usize; 3], usize)) -> f32 {
    let (kt, kh, kw, per_group, filters) = conv.kernel.dim();
    let kernel = [kt, kh, kw];
    let before = |axis: usize| match conv.padding {
        Padding::Valid => 0,
        Padding::Same => {
            let (s, d) = (conv.strides[axis], conv.dilation[axis]);
            same_pads(clip.extents[axis], kernel[axis], s, d).0
        }
    };
    let before = [before(0), before(1), before(2)];
    let of_group = filters.checked_div(conv.groups).unwrap_or(1).max(1);
    let first = f.div_euclid(of_group) * per_group;
    let mut acc = 0.0_f32;
    for tap in positions(kernel) {
        let place = |axis: usize| {
            let at = at[axis] * conv.strides[axis] + tap[axis] * conv.dilation[axis];
            at.checked_sub(before[axis])
        };
        let place = [place(0), place(1), place(2)];
        for c in 0..per_group {
            let weight = conv.kernel[[tap[0], tap[1], tap[2], c, f]];
            acc = libm::fmaf(clip.get(item, place, first + c), weight, acc);
        }
    }
    conv.bias.as_ref().map_or(acc, |bias| acc + bias[f])
}

/// The sum in f32 in the order of the window, divided by the number of its elements.
#[expect(clippy::cast_precision_loss, reason = "windows have few elements")]
fn mean(pool: Pool3D, clip: &Clip, item: usize, (at, c): ([usize; 3], usize)) -> f32 {
    let mut sum = 0.0_f32;
    for tap in positions(pool.pool_size) {
        let place = |axis: usize| Some(at[axis] * pool.strides[axis] + tap[axis]);
        sum += clip.get(item, [place(0), place(1), place(2)], c);
    }
    sum / pool.pool_size.iter().product::<usize>() as f32
}

fn positions([a, b, c]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..a).flat_map(move |x| (0..b).flat_map(move |y| (0..c).map(move |z| [x, y, z])))
}

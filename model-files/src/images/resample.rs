//! Resizing of 8-bit images, with the bits of Pillow's `Image.resize`.

use super::decode::MAX_PIXELS;

/// Fractional bits of the weights: an 8-bit sum of weighted bytes fits 32 bits.
const WEIGHT_BITS: u32 = 22;

/// How images are resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// The pixel under the centre: `floor((x + 1/2) * from / to)`.
    Nearest,
    /// A triangle; for smaller images it is widened, so that all pixels count.
    #[default]
    Bilinear,
    /// Cubic with `a = -1/2`, widened in the same way.
    Bicubic,
    /// Lanczos with three lobes, widened in the same way.
    Lanczos,
}

impl Filter {
    /// Returns how far the filter reaches.
    const fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Nearest => 1.0,
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x.to_bits() << 1 == 0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    libm::sin(x) / x
}

/// An 8-bit image, `[height, width, channels]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pixels {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) channels: usize,
    pub(super) data: Vec<u8>,
}

/// Returns the image with other extents, height first.
///
/// Rows first, then columns, each rounded to bytes:
///
/// ```text
/// s = from / to;  w = max(s, 1);  c = (x + 1/2) * s;  taps i in [c - r*w, c + r*w], cut at the edge
/// k[i] = round(2^22 * f((i + 1/2 - c) / w) / sum f)        half away from zero
/// out[x] = clamp((2^21 + sum k[i] * in[i]) >> 22, 0, 255)
/// ```
///
/// with the reach `r` and the shape `f` of the filter, in f64. A side that keeps its extent is
/// copied.
pub(super) fn resized(
    mut image: Pixels,
    (height, width): (usize, usize),
    filter: Filter,
) -> Result<Pixels, String> {
    let largest = [(image.height, width), (height, width)]
        .map(|(rows, columns)| rows.saturating_mul(columns))
        .into_iter()
        .max();
    if largest.unwrap_or(0) > MAX_PIXELS || height == 0 || width == 0 {
        return Err(format!(
            "an image of {}x{} pixels cannot be resized to {width}x{height}",
            image.width, image.height
        ));
    }
    if image.width != width {
        let taps = taps(image.width, width, filter);
        image = along_rows(&image, &taps);
    }
    if image.height != height {
        let taps = taps(image.height, height, filter);
        image = along_columns(&image, &taps);
    }
    Ok(image)
}

/// The pixels that one pixel is made of.
struct Taps {
    first: usize,
    weights: Vec<i64>,
}

/// Returns the taps of each of `to` pixels.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "extents are below 2^26; a float becomes an index by truncation, as in Pillow"
)]
fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    let reach = filter.support() * widened;
    let one_tap = |x: usize| {
        let centre = (x as f64 + 0.5) * scale;
        if filter == Filter::Nearest {
            return Taps {
                first: (centre as usize).min(from - 1),
                weights: vec![1 << WEIGHT_BITS],
            };
        }
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let inverse = 1.0 / widened;
        let weights: Vec<f64> = (first..end)
            .map(|i| filter.weight((i as f64 - centre + 0.5) * inverse))
            .collect();
        let sum: f64 = weights.iter().sum();
        Taps {
            first,
            weights: weights.into_iter().map(|w| fixed(w / sum)).collect(),
        }
    };
    (0..to).map(one_tap).collect()
}

/// Returns `round(2^22 * weight)`, half away from zero.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a weight is a small multiple of one; truncation after the half is the rounding"
)]
fn fixed(weight: f64) -> i64 {
    let scaled = weight * f64::from(1_u32 << WEIGHT_BITS);
    if scaled < 0.0 {
        (scaled - 0.5) as i64
    } else {
        (scaled + 0.5) as i64
    }
}

fn along_rows(image: &Pixels, taps: &[Taps]) -> Pixels {
    let channels = image.channels;
    let mut data = Vec::with_capacity(image.height * taps.len() * channels);
    for row in image.data.chunks_exact(image.width * channels) {
        for tap in taps {
            for channel in 0..channels {
                let start = tap.first * channels + channel;
                let values = row[start..].iter().step_by(channels);
                data.push(weighted(tap, values));
            }
        }
    }
    Pixels {
        width: taps.len(),
        height: image.height,
        channels,
        data,
    }
}

fn along_columns(image: &Pixels, taps: &[Taps]) -> Pixels {
    let row_bytes = image.width * image.channels;
    let mut data = Vec::with_capacity(taps.len() * row_bytes);
    for tap in taps {
        for column in 0..row_bytes {
            let start = tap.first * row_bytes + column;
            let values = image.data[start..].iter().step_by(row_bytes);
            data.push(weighted(tap, values));
        }
    }
    Pixels {
        width: image.width,
        height: taps.len(),
        channels: image.channels,
        data,
    }
}

#[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
fn weighted<'v>(tap: &Taps, values: impl Iterator<Item = &'v u8>) -> u8 {
    let products = tap
        .weights
        .iter()
        .zip(values)
        .map(|(k, v)| k * i64::from(*v));
    let sum: i64 = (1 << (WEIGHT_BITS - 1)) + products.sum::<i64>();
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

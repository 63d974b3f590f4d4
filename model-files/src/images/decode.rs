//! One file to one sample.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::resample::{Pixels, resized};
use super::{Channels, Fit, ImageOptions};
use crate::FileError;

/// Largest number of pixels that is decoded, or made by resizing.
pub(super) const MAX_PIXELS: usize = 1 << 26;

/// Largest file that is read.
const MAX_FILE: u64 = 1 << 30;

/// Deflate makes at most this many bytes of one.
const DEFLATE_LIMIT: usize = 1032;

/// Returns the pixels of an image as a sample, `[height, width, channels]`.
pub(super) fn sample(path: &Path, options: &ImageOptions) -> Result<Vec<u8>, FileError> {
    let pixels = decoded(path)?;
    let pixels = with_channels(pixels, options.channels);
    let fitted = fitted(pixels, options).map_err(|message| FileError::invalid(path, message))?;
    Ok(fitted.data)
}

/// Returns the pixels of a file, with 1 or 3 channels.
fn decoded(path: &Path) -> Result<Pixels, FileError> {
    let invalid = |message: String| FileError::invalid(path, message);
    let bytes = read(path)?;
    let n_bytes = bytes.len();
    let Ok(format) = image::guess_format(&bytes) else {
        return Err(invalid("neither PNG nor JPEG".to_owned()));
    };
    let is_png = format == ImageFormat::Png;
    if !is_png && format != ImageFormat::Jpeg {
        return Err(FileError::unsupported(
            path,
            format!("an image of format {format:?}; PNG and JPEG are read"),
        ));
    }
    if !is_png && !jpeg_has_end(&bytes) {
        return Err(invalid("the file ends before its image does".to_owned()));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = u64::try_from(MAX_PIXELS).ok().map(|n| n * 16);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| invalid(e.to_string()))?;
    let (width, height) = decoder.dimensions();
    let n_pixels = usize::try_from(u64::from(width) * u64::from(height)).unwrap_or(usize::MAX);
    if n_pixels > MAX_PIXELS || (is_png && n_pixels.div_ceil(8) > n_bytes * DEFLATE_LIMIT) {
        return Err(invalid(format!(
            "an image of {width}x{height} pixels in {n_bytes} bytes"
        )));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(|e| invalid(e.to_string()))?;
    pixels(image).ok_or_else(|| {
        FileError::unsupported(path, "more than 8 bits a channel; save the samples as .npy")
    })
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let io = |e: std::io::Error| FileError::io(path, &e);
    let found = std::fs::metadata(path).map_err(io)?;
    // Reading a pipe or a device could never end.
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(FileError::invalid(path, "no image file"));
    }
    std::fs::read(path).map_err(io)
}

/// Returns whether the image data of a JPEG file is closed by its end marker.
///
/// The decoder fills what is missing with gray and says nothing. In image data `FF` is always
/// followed by zero or a restart marker, so `FF D9` is the end.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    // Segments with lengths stand before the image data; previews inside them have ends of their own.
    while let Some([0xFF, marker, rest @ ..]) = bytes.get(at..) {
        let step = match (marker, rest) {
            (0xFF, _) => 1,
            (0x01 | 0xD0..=0xD8, _) => 2,
            (0xDA, _) => return rest.windows(2).any(|pair| pair == [0xFF, 0xD9]),
            (_, [high, low, ..]) => 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false,
        };
        at += step;
    }
    false
}

/// Returns 8-bit pixels without transparency, `None` for deeper images.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library can get new kinds of images"
)]
fn pixels(image: DynamicImage) -> Option<Pixels> {
    let (width, height) = (image.width(), image.height());
    let (channels, data) = match image {
        DynamicImage::ImageLuma8(image) => (1, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (3, image.into_raw()),
        DynamicImage::ImageLumaA8(image) => (1, image.pixels().map(|p| p.0[0]).collect()),
        DynamicImage::ImageRgba8(image) => {
            let opaque = image.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]]);
            (3, opaque.collect())
        }
        _ => return None,
    };
    Some(Pixels {
        width: usize::try_from(width).ok()?,
        height: usize::try_from(height).ok()?,
        channels,
        data,
    })
}

/// Returns the pixels with the channels that samples have.
fn with_channels(mut pixels: Pixels, channels: Channels) -> Pixels {
    match (pixels.channels, channels) {
        (3, Channels::Gray) => {
            pixels.data = pixels.data.chunks_exact(3).map(luma).collect();
        }
        (1, Channels::Rgb | Channels::Bgr) => {
            pixels.data = pixels.data.iter().flat_map(|v| [*v; 3]).collect();
        }
        (3, Channels::Bgr) => pixels.data.chunks_exact_mut(3).for_each(<[u8]>::reverse),
        _ => {}
    }
    pixels.channels = channels.count();
    pixels
}

/// Returns Pillow's `L` of a colour; the weights sum up to 2^16, so it fits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a weighted mean of three bytes"
)]
fn luma(colour: &[u8]) -> u8 {
    let weighted = colour.iter().zip([19_595_u32, 38_470, 7_471]);
    let sum: u32 = weighted.map(|(v, weight)| u32::from(*v) * weight).sum();
    ((sum + 0x8000) >> 16) as u8
}

/// Returns the pixels with the sample's extents.
fn fitted(pixels: Pixels, options: &ImageOptions) -> Result<Pixels, String> {
    let (height, width) = (options.height, options.width);
    match options.fit {
        Fit::Exact if (pixels.height, pixels.width) == (height, width) => Ok(pixels),
        Fit::Exact => Err(format!(
            "an image of {}x{} pixels, expected {width}x{height}",
            pixels.width, pixels.height
        )),
        Fit::Stretch => resized(pixels, (height, width), options.filter),
        Fit::Crop { shorter } => {
            let scaled = scaled_extents((pixels.height, pixels.width), (height, width), shorter);
            let image = resized(pixels, scaled, options.filter)?;
            centre(&image, (height, width))
        }
    }
}

/// Returns the extents, height first, of an image with its aspect kept before it is cut.
fn scaled_extents(
    (height, width): (usize, usize),
    target: (usize, usize),
    shorter: Option<usize>,
) -> (usize, usize) {
    let scaled = |side: usize, to: usize, from: usize| {
        side.saturating_mul(to).div_euclid(from.max(1)).max(1)
    };
    let fixes_height = match shorter {
        Some(_) => height <= width,
        // The side that needs the larger factor.
        None => target.0.saturating_mul(width) >= target.1.saturating_mul(height),
    };
    if fixes_height {
        let to = shorter.unwrap_or(target.0);
        (to, scaled(width, to, height))
    } else {
        let to = shorter.unwrap_or(target.1);
        (scaled(height, to, width), to)
    }
}

/// Returns the centre of an image.
fn centre(pixels: &Pixels, (height, width): (usize, usize)) -> Result<Pixels, String> {
    if pixels.height < height || pixels.width < width {
        return Err(format!(
            "resized to {}x{} pixels, too small to cut {width}x{height} from",
            pixels.width, pixels.height
        ));
    }
    let top = (pixels.height - height).div_euclid(2);
    let left = (pixels.width - width).div_euclid(2) * pixels.channels;
    let row_bytes = pixels.width * pixels.channels;
    let rows = pixels.data.chunks_exact(row_bytes).skip(top).take(height);
    let data = rows.flat_map(|row| &row[left..left + width * pixels.channels]);
    Ok(Pixels {
        width,
        height,
        channels: pixels.channels,
        data: data.copied().collect(),
    })
}

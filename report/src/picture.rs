//! Inputs as pictures.

use maud::{Markup, html};
use ndarray::ArrayD;

/// Rows and columns of a picture, at most: a larger one would not help and make the page heavy.
const MAX_EXTENT: usize = 256;

/// Returns the picture of an input `[1, height, width, 1 or 3]`; `None` for other inputs.
///
/// Values from 0 to 255 are levels; others are stretched to them.
pub(crate) fn picture(input: &ArrayD<f32>, title: &str) -> Option<Markup> {
    let [1, height, width, n_channels @ (1 | 3)] = *input.shape() else {
        return None;
    };
    let fits = |extent: usize| (2..=MAX_EXTENT).contains(&extent);
    if !fits(height) || !fits(width) {
        return None;
    }
    let levels = levels(input);
    let rows: Vec<Vec<[u8; 3]>> = levels
        .chunks_exact(width * n_channels)
        .map(|row| row.chunks_exact(n_channels).map(colour).collect())
        .collect();
    let data = format!("data:image/bmp;base64,{}", base64(&bmp(&rows)?));
    Some(html! { img class="witness" src=(data) width=(width) height=(height) alt=(title); })
}

/// Returns red, green and blue of a pixel.
fn colour(pixel: &[u8]) -> [u8; 3] {
    match *pixel {
        [red, green, blue] => [red, green, blue],
        _ => [pixel.first().copied().unwrap_or(0); 3],
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=255"
)]
fn levels(input: &ArrayD<f32>) -> Vec<u8> {
    let ends = input
        .iter()
        .fold((0.0_f32, 0.0_f32), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let is_pixels = ends.0 >= 0.0 && ends.1 <= 255.0 && input.iter().all(|v| v.fract() == 0.0);
    let (lo, span) = if is_pixels {
        (0.0, 255.0)
    } else {
        (ends.0, (ends.1 - ends.0).max(f32::MIN_POSITIVE))
    };
    let level = |v: &f32| (255.0 * (v - lo) / span).clamp(0.0, 255.0) as u8;
    input.iter().map(level).collect()
}

/// Returns a Windows bitmap of 24 bits a pixel; `None` if it is too large for one.
fn bmp(rows: &[Vec<[u8; 3]>]) -> Option<Vec<u8>> {
    const HEADERS: u32 = 54;
    let width = rows.first()?.len();
    let row_bytes = (3 * width).next_multiple_of(4);
    let n_bytes = u32::try_from(row_bytes * rows.len()).ok()?;
    let mut file = b"BM".to_vec();
    let mut word = |v: u32| file.extend(v.to_le_bytes());
    word(HEADERS + n_bytes);
    word(0);
    word(HEADERS);
    // A header of 40 bytes, one plane, 24 bits, no compression.
    word(40);
    word(u32::try_from(width).ok()?);
    word(u32::try_from(rows.len()).ok()?);
    word(1 | 24 << 16);
    word(0);
    word(n_bytes);
    (0..4).for_each(|_| word(0));
    // Rows stand from the lowest to the highest, pixels as blue, green, red.
    for row in rows.iter().rev() {
        let start = file.len();
        row.iter()
            .for_each(|[red, green, blue]| file.extend([blue, green, red]));
        file.resize(start + row_bytes, 0);
    }
    Some(file)
}

/// Returns bytes as base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(4 * bytes.len().div_ceil(3));
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = usize::try_from(bits >> shift & 63).unwrap_or(0);
            text.push(if i <= chunk.len() {
                char::from(DIGITS[digit])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};

    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let coded = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        for (text, coded) in texts.into_iter().zip(coded) {
            assert_eq!(base64(text.as_bytes()), coded, "{text}");
        }
    }

    #[test]
    fn a_bitmap_has_its_rows_from_below_and_padded() {
        let file = bmp(&[vec![[1, 2, 3]], vec![[4, 5, 6]]]).unwrap();
        assert_eq!(file.len(), 54 + 2 * 4);
        assert_eq!(file[2..6], 62_u32.to_le_bytes(), "size");
        assert_eq!(file[54..], [6, 5, 4, 0, 3, 2, 1, 0], "pixels");
    }

    #[test]
    fn only_images_have_pictures() {
        let of = |shape: &[usize]| picture(&ArrayD::zeros(IxDyn(shape)), "x").is_some();
        assert!(of(&[1, 8, 8, 1]) && of(&[1, 8, 9, 3]));
        assert!(!of(&[1, 8]) && !of(&[1, 8, 8, 2]) && !of(&[2, 8, 8, 1]) && !of(&[1, 999, 8, 1]));
        let input = ArrayD::from_shape_vec(IxDyn(&[3]), vec![-1.0, 0.0, 1.0]).unwrap();
        assert_eq!(levels(&input), [0, 127, 255], "stretched");
    }
}

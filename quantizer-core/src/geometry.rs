//! Extents of sliding windows and their borders (NUMERICS.md: N14, N26).

/// Rows and columns added around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pads {
    /// Rows before the first.
    pub top: usize,
    /// Rows after the last.
    pub bottom: usize,
    /// Columns before the first.
    pub left: usize,
    /// Columns after the last.
    pub right: usize,
}

/// How a sliding window treats the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Output extent `ceil(input / stride)`; zeros around, the odd one after.
    Same,
    /// Only windows that lie inside.
    Valid,
}

/// Returns the output extent of a sliding window, or `None` if it does not fit.
///
/// ```text
/// same:  ceil(n / stride)
/// valid: floor((n - ((kernel - 1) * dilation + 1)) / stride) + 1
/// ```
#[must_use]
pub fn window_extent(
    n: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: Padding,
) -> Option<usize> {
    match padding {
        Padding::Same => Some(n.div_ceil(stride)),
        Padding::Valid => {
            let span = kernel
                .checked_sub(1)?
                .checked_mul(dilation)?
                .checked_add(1)?;
            Some(n.checked_sub(span)?.div_euclid(stride) + 1)
        }
    }
}

/// Returns the output extent of a transposed convolution (NUMERICS.md: N26).
///
/// ```text
/// no output padding: same n * stride, valid n * stride + max(kernel - stride, 0)
/// output padding p:  (n - 1) * stride + kernel - 2 * (kernel / 2 if same else 0) + p
/// ```
#[must_use]
pub fn transposed_extent(
    n: usize,
    kernel: usize,
    stride: usize,
    padding: Padding,
    output_padding: Option<usize>,
) -> Option<usize> {
    match (output_padding, padding) {
        (None, Padding::Same) => n.checked_mul(stride),
        (None, Padding::Valid) => n
            .checked_mul(stride)?
            .checked_add(kernel.saturating_sub(stride)),
        (Some(extra), padding) => {
            let cropped = match padding {
                Padding::Same => 2 * kernel.div_euclid(2),
                Padding::Valid => 0,
            };
            (n.checked_sub(1)?.checked_mul(stride)? + kernel + extra).checked_sub(cropped)
        }
    }
}

/// Returns how many rows or columns a transposed convolution crops before the first one
/// (NUMERICS.md: N26).
///
/// ```text
/// same: floor(max((n - 1) * stride + kernel - out, 0) / 2); valid: 0
/// ```
#[must_use]
pub fn transposed_crop(
    n: usize,
    out: usize,
    kernel: usize,
    stride: usize,
    padding: Padding,
) -> usize {
    match padding {
        Padding::Same => (n.saturating_sub(1) * stride + kernel)
            .saturating_sub(out)
            .div_euclid(2),
        Padding::Valid => 0,
    }
}

/// Returns the pads of a 'same' window: `(before, after)` (NUMERICS.md: N14).
///
/// ```text
/// total  = max((ceil(n / stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0)
/// before = floor(total / 2), after = total - before
/// ```
#[must_use]
pub fn same_pads(n: usize, kernel: usize, stride: usize, dilation: usize) -> (usize, usize) {
    let out = n.div_ceil(stride);
    let reach = out.saturating_sub(1) * stride + kernel.saturating_sub(1) * dilation + 1;
    let total = reach.saturating_sub(n);
    let before = total.div_euclid(2);
    (before, total - before)
}

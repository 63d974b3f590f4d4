//! The checks at the entrance of every operation. All of them panic with the numbers that disagree.

use std::ops::Range;

use crate::operands::Window;

/// Checks that `len` elements are what the extents multiply to.
pub(crate) fn check_len(what: &str, len: usize, extents: &[usize]) {
    let expected = extents
        .iter()
        .try_fold(1_usize, |product, &n| product.checked_mul(n));
    assert!(
        expected == Some(len),
        "{what} has {len} elements, not the product of {extents:?}"
    );
}

/// Checks that an optional vector has one value per channel.
pub(crate) fn check_per_channel<T>(what: &str, values: Option<&[T]>, channels: usize) {
    if let Some(values) = values {
        check_len(what, values.len(), &[channels]);
    }
}

/// Checks a window, and that `rows` are rows of its output.
pub(crate) fn check_window(window: &Window, rows: &Range<usize>) {
    assert!(
        rows.start <= rows.end && rows.end <= window.out_h,
        "rows {rows:?} are not rows of an output of {} rows",
        window.out_h
    );
    let rows_fit = axis_fits(
        [window.in_h, window.out_h, window.kernel_h],
        window.stride_h,
        window.dilation_h,
        window.pad_top,
    );
    let columns_fit = axis_fits(
        [window.in_w, window.out_w, window.kernel_w],
        window.stride_w,
        window.dilation_w,
        window.pad_left,
    );
    assert!(
        rows_fit && columns_fit,
        "a stride or dilation is zero, or positions overflow: {window:?}"
    );
}

fn axis_fits(lengths: [usize; 3], stride: usize, dilation: usize, pad: usize) -> bool {
    let [n_inputs, n_outputs, n_taps] = lengths;
    let reach = || {
        let outputs = n_outputs.checked_mul(stride)?;
        let taps = n_taps.checked_mul(dilation)?;
        let inputs = n_inputs.checked_mul(stride)?;
        outputs
            .checked_add(taps)?
            .checked_add(inputs)?
            .checked_add(pad)
    };
    stride > 0 && dilation > 0 && reach().is_some_and(|reach| isize::try_from(reach).is_ok())
}

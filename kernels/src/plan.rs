//! Which taps each output element reads.
//!
//! Along one axis, outputs that read the same taps at the same distances form a [`Class`]. A class of rows and a class
//! of columns form a [`Patch`]: a set of pixels whose elements are the same chain at different offsets, so that a
//! kernel can compute several of them side by side. The inside of an image is one patch (one per phase, for a
//! transposed window); its borders and corners are the others.

use std::ops::Range;

use crate::operands::Window;

/// How taps and outputs relate; see [`Window`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Transposed,
}

/// What becomes of the taps outside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    Skip,
    Pad,
}

/// Consecutive taps of a chain that read consecutive elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First tap, `row * kernel_w + column`.
    pub(crate) tap: usize,
    /// Taps in the run.
    pub(crate) n_taps: usize,
    /// Where the first tap reads.
    pub(crate) source: Source,
}

/// Where a run reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// At this distance from the pixel's base; a two's complement difference, in pixels.
    Image(usize),
    /// In the padding values.
    Pad,
}

/// One output pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pixel {
    /// Input pixel that the runs' distances start from.
    pub(crate) base: usize,
    /// Output pixel, counted from the first computed row.
    pub(crate) out: usize,
}

/// Output pixels that share their runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    /// In the order of the chain.
    pub(crate) runs: Vec<Run>,
    pub(crate) pixels: Vec<Pixel>,
}

impl Patch {
    /// Returns the patch of a matrix product of `n_rows` rows, each of them a pixel.
    pub(crate) fn of_rows(n_rows: usize) -> Self {
        let run = Run {
            tap: 0,
            n_taps: 1,
            source: Source::Image(0),
        };
        let pixels = (0..n_rows).map(|row| Pixel {
            base: row,
            out: row,
        });
        Self {
            runs: vec![run],
            pixels: pixels.collect(),
        }
    }
}

/// Returns the patches that make up the output rows `rows`.
pub(crate) fn patches(
    window: &Window,
    direction: Direction,
    outside: Outside,
    rows: Range<usize>,
) -> Vec<Patch> {
    let first_row = rows.start;
    let row_classes = Axis::of_rows(window).classes(direction, outside, rows);
    let col_classes = Axis::of_columns(window).classes(direction, outside, 0..window.out_w);
    let mut patches = Vec::with_capacity(row_classes.len() * col_classes.len());
    for row_class in &row_classes {
        for col_class in &col_classes {
            let mut pixels = Vec::with_capacity(row_class.outputs.len() * col_class.outputs.len());
            for row in &row_class.outputs {
                pixels.extend(col_class.outputs.iter().map(|col| Pixel {
                    // May wrap for a base outside the image; the runs' distances wrap back.
                    base: row.base.wrapping_mul(window.in_w).wrapping_add(col.base),
                    out: (row.out - first_row) * window.out_w + col.out,
                }));
            }
            patches.push(Patch {
                runs: runs(window, &row_class.taps, &col_class.taps),
                pixels,
            });
        }
    }
    patches
}

fn runs(window: &Window, row_taps: &[Tap], col_taps: &[Tap]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(row_taps.len());
    for row in row_taps {
        for col in col_taps {
            let tap = row.index * window.kernel_w + col.index;
            let source = match (row.distance, col.distance) {
                (Some(row), Some(col)) => {
                    Source::Image(row.wrapping_mul(window.in_w).wrapping_add(col))
                }
                (None, _) | (_, None) => Source::Pad,
            };
            match runs.last_mut() {
                Some(run) if run.is_continued_by(tap, source) => run.n_taps += 1,
                _ => runs.push(Run {
                    tap,
                    n_taps: 1,
                    source,
                }),
            }
        }
    }
    runs
}

impl Run {
    fn is_continued_by(&self, tap: usize, source: Source) -> bool {
        let follows = match (self.source, source) {
            (Source::Image(first), Source::Image(next)) => first.wrapping_add(self.n_taps) == next,
            (Source::Image(_) | Source::Pad, Source::Pad) | (Source::Pad, Source::Image(_)) => {
                false
            }
        };
        follows && tap == self.tap + self.n_taps
    }
}

/// One axis of a [`Window`].
#[derive(Clone, Copy, Debug)]
struct Axis {
    n_inputs: usize,
    n_taps: usize,
    stride: usize,
    dilation: usize,
    pad: usize,
}

/// A tap, and its distance from the output's base as a two's complement difference; `None` is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tap {
    index: usize,
    distance: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Output {
    out: usize,
    base: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    taps: Vec<Tap>,
    outputs: Vec<Output>,
}

impl Axis {
    fn of_rows(w: &Window) -> Self {
        Self {
            n_inputs: w.in_h,
            n_taps: w.kernel_h,
            stride: w.stride_h,
            dilation: w.dilation_h,
            pad: w.pad_top,
        }
    }

    fn of_columns(w: &Window) -> Self {
        Self {
            n_inputs: w.in_w,
            n_taps: w.kernel_w,
            stride: w.stride_w,
            dilation: w.dilation_w,
            pad: w.pad_left,
        }
    }

    fn classes(&self, direction: Direction, outside: Outside, outs: Range<usize>) -> Vec<Class> {
        let mut classes: Vec<Class> = Vec::new();
        for out in outs {
            let base = match direction {
                Direction::Forward => out * self.stride,
                Direction::Transposed => (out + self.pad).div_euclid(self.stride),
            };
            let taps: Vec<Tap> = (0..self.n_taps)
                .map(|index| {
                    let source = match direction {
                        Direction::Forward => self.forward(out, index),
                        Direction::Transposed => self.transposed(out, index),
                    };
                    Tap {
                        index,
                        distance: source.map(|i| i.wrapping_sub(base)),
                    }
                })
                .filter(|tap| tap.distance.is_some() || outside == Outside::Pad)
                .collect();
            let output = Output { out, base };
            // The newest classes are the likeliest to match.
            match classes.iter_mut().rev().find(|class| class.taps == taps) {
                Some(class) => class.outputs.push(output),
                None => classes.push(Class {
                    taps,
                    outputs: vec![output],
                }),
            }
        }
        classes
    }

    fn forward(&self, out: usize, tap: usize) -> Option<usize> {
        let input = (out * self.stride + tap * self.dilation).checked_sub(self.pad)?;
        (input < self.n_inputs).then_some(input)
    }

    fn transposed(&self, out: usize, tap: usize) -> Option<usize> {
        let scaled = (out + self.pad).checked_sub(tap * self.dilation)?;
        let input = scaled.div_euclid(self.stride);
        (scaled.is_multiple_of(self.stride) && input < self.n_inputs).then_some(input)
    }
}

//! Weights in the order in which tiles of products take them.

use std::ops::Range;

use crate::contract::check_len;
use crate::lanes::Lane;
use crate::operands::Window;

/// Columns of a tile: two vectors of `i32`.
pub(crate) const COLUMNS: usize = 32;

/// Bytes that hold a group of weights of each column.
const GROUP_BYTES: usize = 4 * COLUMNS;

/// A kernel `[rows, filters]`, packed for tiles of 32 columns and the rows of one lane.
#[derive(Clone, Debug)]
pub struct Packed<L> {
    pub(crate) rows: usize,
    pub(crate) filters: usize,
    /// What the lanes of weights meet, in their order.
    pub(crate) runs: Vec<Run>,
    /// `[filters / 32][lanes][32][GROUP]`, two lines a lane, zeros where there is nothing.
    pub(crate) weights: Vec<Line>,
    /// The sum of each column's weights, each as often as its row counts.
    pub(crate) sums: Vec<i32>,
    /// The largest magnitude of these.
    pub(crate) largest_sum: u32,
    /// How the rows of a convolution's kernel lie, if each begins with a lane of its own.
    pub(crate) layout: Option<RowLayout>,
    lanes: std::marker::PhantomData<L>,
}

/// Kernel rows that each begin with a lane of their own, so that pixels side by side see overlapping activations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLayout {
    /// Rows of the kernel in a kernel row, and as they are filled up with zeros to whole lanes.
    len: usize,
    pub(crate) padded: usize,
}

/// Neighbouring groups of activations; then all sums so far are shifted to the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) n_groups: usize,
    pub(crate) shift: u32,
}

/// 64 bytes at an address of which no load crosses a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

impl<L: Lane> Packed<L> {
    /// Returns the packed form of a kernel `[rows, filters]`.
    ///
    /// # Panics
    ///
    /// Panics if the length is another.
    #[must_use]
    pub fn new(kernel: &[L], rows: usize, filters: usize) -> Self {
        Self::shifted(kernel, &vec![0; rows], filters)
    }

    /// Returns the packed form of a kernel `[kernel_h, rows / kernel_h, filters]` of a convolution: its input rows need
    /// not be copied for each pixel.
    ///
    /// # Panics
    ///
    /// Panics if the length is another, or the rows are no multiple of `kernel_h`.
    #[must_use]
    pub fn by_rows(kernel: &[L], (kernel_h, rows): (usize, usize), filters: usize) -> Self {
        check_len("kernel", kernel.len(), &[rows, filters]);
        assert!(rows.checked_rem(kernel_h) == Some(0), "whole kernel rows");
        let len = rows.div_euclid(kernel_h);
        let padded = len.next_multiple_of(L::GROUP);
        let mut filled = Vec::with_capacity(kernel_h * padded * filters);
        for row in kernel.chunks((len * filters).max(1)) {
            filled.extend_from_slice(row);
            filled.resize(filled.len() + (padded - len) * filters, L::default());
        }
        Self {
            rows,
            layout: Some(RowLayout { len, padded }),
            ..Self::new(&filled, kernel_h * padded, filters)
        }
    }

    /// Returns the activations of a kernel row of length `len` in a patch.
    pub(crate) fn row_len(&self, len: usize) -> usize {
        self.layout.map_or(len, |layout| layout.padded)
    }

    /// Returns the activations of a patch.
    pub(crate) fn patch_len(&self) -> usize {
        match self.layout {
            Some(RowLayout { len, padded }) => self.rows.div_euclid(len.max(1)) * padded,
            None => self.rows.next_multiple_of(L::GROUP),
        }
    }

    /// Returns the packed form of a kernel `[rows, filters]` whose row `r` counts `2^shifts[r]` times. NUMERICS.md E1.
    ///
    /// Rows of one shift meet the activations together, those of the largest first: then the sums so far are shifted,
    /// and the next rows follow. So a group of neighbouring rows costs a lane for each shift in it; see
    /// [`n_lanes`](Self::n_lanes).
    ///
    /// # Panics
    ///
    /// Panics if the length is not that of `shifts` times `filters`.
    #[must_use]
    pub fn shifted(kernel: &[L], shifts: &[u32], filters: usize) -> Self {
        let rows = shifts.len();
        check_len("kernel", kernel.len(), &[rows, filters]);
        let (runs, lanes) = runs(shifts, L::GROUP);
        let mut sums = vec![0_i32; filters.next_multiple_of(COLUMNS)];
        for (columns, shift) in kernel.chunks(filters.max(1)).zip(shifts) {
            for (sum, weight) in sums.iter_mut().zip(columns) {
                let weight: i32 = (*weight).into();
                *sum = sum.wrapping_add(weight.wrapping_shl(*shift));
            }
        }
        let mut weights = Vec::with_capacity(filters.div_ceil(COLUMNS) * lanes.len() * 2);
        for first in (0..filters).step_by(COLUMNS) {
            let n_columns = COLUMNS.min(filters - first);
            for lane in &lanes {
                let mut bytes = [0; GROUP_BYTES];
                for (part, row) in (lane.group * L::GROUP..rows).take(L::GROUP).enumerate() {
                    if shifts[row] != lane.shift {
                        continue;
                    }
                    let columns = &kernel[row * filters + first..][..n_columns];
                    for (weight, bytes) in columns.iter().zip(bytes.chunks_mut(4)) {
                        weight.put(bytes, part);
                    }
                }
                weights.extend(bytes.as_chunks().0.iter().map(|line| Line(*line)));
            }
        }
        Self {
            rows,
            filters,
            runs,
            weights,
            largest_sum: sums.iter().map(|sum| sum.unsigned_abs()).max().unwrap_or(0),
            sums,
            layout: None,
            lanes: std::marker::PhantomData,
        }
    }

    /// Returns the lanes that each column has: the cost of a sum.
    #[must_use]
    pub fn n_lanes(&self) -> usize {
        self.runs.iter().map(|run| run.n_groups).sum()
    }
}

impl RowLayout {
    /// Returns the runs of `n` kernel rows that lie `pitch` activations apart, a whole number of groups.
    pub(crate) fn runs(&self, n: usize, pitch: usize, group: usize) -> Vec<Run> {
        let run = |row: usize| Run {
            first: (row * pitch).div_euclid(group),
            n_groups: self.padded.div_euclid(group),
            shift: 0,
        };
        (0..n).map(run).collect()
    }
}

/// The rows of one group that have one shift.
pub(crate) struct LaneRows {
    pub(crate) group: usize,
    pub(crate) shift: u32,
}

/// Returns the lanes of rows with these shifts, the largest shift first, and the runs that they make.
pub(crate) fn runs(shifts: &[u32], group: usize) -> (Vec<Run>, Vec<LaneRows>) {
    let mut kinds: Vec<u32> = shifts.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    let (mut runs, mut lanes) = (Vec::<Run>::new(), Vec::new());
    while let Some(shift) = kinds.pop() {
        let start = runs.len();
        for (number, rows) in shifts.chunks(group).enumerate() {
            if !rows.contains(&shift) {
                continue;
            }
            lanes.push(LaneRows {
                group: number,
                shift,
            });
            match runs[start..].last_mut() {
                Some(run) if run.first + run.n_groups == number => run.n_groups += 1,
                _ => runs.push(Run {
                    first: number,
                    n_groups: 1,
                    shift: 0,
                }),
            }
        }
        if let Some(run) = runs.last_mut() {
            run.shift = shift - kinds.last().copied().unwrap_or(0);
        }
    }
    (runs, lanes)
}

/// The operands of a convolution with a packed kernel.
#[derive(Clone, Copy, Debug)]
pub struct PackedConv<'a, X, L> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel of `kernel_h * kernel_w * channels` rows.
    pub kernel: &'a Packed<L>,
    /// Value of each channel outside the image, `[channels]`; `None` is zero.
    pub pad: Option<&'a [X]>,
    /// Where the taps read.
    pub window: Window,
    /// Channels of the input.
    pub channels: usize,
}

/// Activations that pixels see, as a packed kernel takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patches<'a, A> {
    pub(crate) x: &'a [A],
    pub(crate) n_pixels: usize,
    /// Distance from a pixel to the next; patches may overlap.
    pub(crate) stride: usize,
    /// Which activations of a patch the lanes of the kernel meet, in their order.
    pub(crate) runs: &'a [Run],
}

impl<'a, A> Patches<'a, A> {
    /// Returns patches that lie side by side.
    pub(crate) fn new<L: Lane>(kernel: &'a Packed<L>, x: &'a [A], n_pixels: usize) -> Self {
        Self {
            x,
            n_pixels,
            stride: kernel.patch_len(),
            runs: &kernel.runs,
        }
    }
}

/// What the pixels of a convolution see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a, X> {
    pub(crate) x: &'a [X],
    pub(crate) pad: Option<&'a [X]>,
    pub(crate) window: &'a Window,
    pub(crate) channels: usize,
}

impl<X, L> PackedConv<'_, X, L> {
    /// Returns what the pixels see.
    pub(crate) const fn view(&self) -> View<'_, X> {
        View {
            x: self.x,
            pad: self.pad,
            window: &self.window,
            channels: self.channels,
        }
    }
}

impl<X> View<'_, X> {
    /// Returns the columns of an output row whose pixels have all taps inside, side by side in each row.
    #[inline(always)]
    pub(crate) fn whole_columns(&self, row: usize) -> Range<usize> {
        let window = self.window;
        let bottom = row * window.stride_h + window.kernel_h.saturating_sub(1) * window.dilation_h;
        let has_rows =
            row * window.stride_h >= window.pad_top && bottom < window.in_h + window.pad_top;
        let has_columns = window.dilation_w == 1 && window.kernel_w <= window.in_w;
        if !(has_rows && has_columns && window.kernel_w * self.channels > 0) {
            return 0..0;
        }
        let last = (window.in_w - window.kernel_w + window.pad_left).div_euclid(window.stride_w);
        window.pad_left.div_ceil(window.stride_w)..last + 1
    }
}

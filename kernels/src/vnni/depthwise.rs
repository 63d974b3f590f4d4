//! Depthwise convolutions of bytes with AVX-512 VNNI: four kernel rows of 64 channels at once.
//!
//! For an output row, each input column is turned once: the bytes of four rows come to lie beside one another, channel
//! by channel, as the instruction takes them. Every output that sees the column then needs one instruction for sixteen
//! channels. Two output rows of a kernel of three rows see four input rows: they share the turned columns. Where there
//! are few channels, a vector holds pixels from two or four parts of a row.

mod multiply;
mod turn;

use std::cell::RefCell;
use std::ops::Range;

use crate::contract::{check_len, check_window};
use crate::finish::{Byte, Extremes, Finish};
use crate::isa::Kernels;
use crate::lanes::Packable;
use crate::operands::Window;
use crate::packed::Line;
use crate::quads::{self, BYTES, Block, Numbers, QUAD, WIDTH};
use multiply::Task;

/// Kernel rows of an instruction.
const ROWS: usize = 4;

/// Columns that are turned before they are multiplied: they stay in the first cache.
const TURNED: usize = 64;

/// Four vectors: four rows of 64 bytes.
type Quad = [Line; QUAD];

thread_local! {
    /// Room for turned columns: to clear it for each few rows would take as long as to fill it.
    static ROOM: RefCell<Vec<Quad>> = const { RefCell::new(Vec::new()) };
}

/// A kernel `[kernel_h, kernel_w, channels]` of bytes, packed for blocks of 64 channels and four rows.
#[derive(Clone, Debug)]
pub struct PackedDepthwise {
    extents: [usize; 3],
    /// `[channels / 64][kernel_h / 4][kernel_w]`, zeros where there is nothing.
    weights: Vec<Quad>,
    /// The same as the next output row meets the rows, one row later; none for kernels of four rows and more.
    moved: Vec<Quad>,
    /// The sum of each channel's weights, block by block.
    sums: Vec<Numbers>,
    /// A bit for each byte of a vector whose results are doubled, block by block.
    doubled: Vec<u64>,
}

impl PackedDepthwise {
    /// Returns the packed form of a kernel `[kernel_h, kernel_w, channels]`.
    ///
    /// # Panics
    ///
    /// Panics if the length is another.
    #[must_use]
    pub fn new(kernel: &[i8], extents: [usize; 3]) -> Self {
        check_len("kernel", kernel.len(), &extents);
        let [kernel_h, kernel_w, channels] = extents;
        let mut sums = vec![0_i32; channels];
        for values in kernel.chunks(channels.max(1)) {
            for (sum, weight) in sums.iter_mut().zip(values) {
                *sum += i32::from(*weight);
            }
        }
        let weight = |row: Option<usize>, col: usize, channel: usize| {
            let row = row.filter(|row| *row < kernel_h);
            row.map_or(0, |row| {
                kernel[(row * kernel_w + col) * channels + channel].cast_unsigned()
            })
        };
        let quad = |block: &Block, first: Option<usize>, col: usize| -> Quad {
            std::array::from_fn(|vector| {
                Line(std::array::from_fn(|byte| {
                    let (lane, part) = (byte.div_euclid(ROWS), byte.rem_euclid(ROWS));
                    let channel = block.channel(vector, lane);
                    if channel < block.n {
                        let row = first.map_or(part.checked_sub(1), |first| Some(first + part));
                        weight(row, col, block.first + channel)
                    } else {
                        0
                    }
                }))
            })
        };
        let (mut weights, mut moved) = (Vec::new(), Vec::new());
        for block in quads::blocks(channels) {
            for group in 0..kernel_h.div_ceil(ROWS) {
                weights.extend((0..kernel_w).map(|col| quad(&block, Some(group * ROWS), col)));
                // Higher kernels leave no row for a second output row.
                if kernel_h < ROWS {
                    moved.extend((0..kernel_w).map(|col| quad(&block, None, col)));
                }
            }
        }
        Self {
            extents,
            weights,
            moved,
            sums: quads::blocks(channels).map(|b| b.spread(&sums)).collect(),
            doubled: vec![0; quads::blocks(channels).count()],
        }
    }

    /// Returns the kernel whose finished results of these channels are written twice as large. NUMERICS.md E1.
    ///
    /// Those that do not fit in their type saturate. What the sums were does not change.
    #[must_use]
    pub fn doubling(mut self, channels: &[usize]) -> Self {
        let blocks = quads::blocks(self.extents[2]);
        for (doubled, block) in self.doubled.iter_mut().zip(blocks) {
            let is_doubled = |byte: &usize| {
                let channel = byte & (block.width() - 1);
                channel < block.n && channels.contains(&(block.first + channel))
            };
            *doubled = (0..BYTES).filter(is_doubled).map(|byte| 1 << byte).sum();
        }
        self
    }

    /// Doubles results that are not, `[pixels, channels]`.
    fn double<O: Byte>(&self, out: &mut [O]) {
        for (i, v) in out.iter_mut().enumerate() {
            let channel = i.rem_euclid(self.extents[2]);
            if (self.doubled[channel.div_euclid(BYTES)] >> channel.rem_euclid(BYTES)) & 1 != 0 {
                *v = O::saturated(2 * v.wide());
            }
        }
    }
}

/// The operands of a depthwise convolution with a packed kernel; outside the image is zero.
#[derive(Clone, Copy, Debug)]
pub struct PackedDepthwiseConv<'a, X, K = PackedDepthwise> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel.
    pub kernel: &'a K,
    /// Where the taps read.
    pub window: Window,
}

impl<X, K> PackedDepthwiseConv<'_, X, K> {
    /// Checks the operands for a kernel of these extents, and what the output rows `rows` go to.
    pub(crate) fn check<O: Byte>(
        &self,
        [kernel_h, kernel_w, channels]: [usize; 3],
        rows: &Range<usize>,
        (finish, out, extremes): (&Finish, &[O], &Extremes),
    ) {
        let window = &self.window;
        check_window(window, rows);
        assert_eq!(
            [window.kernel_h, window.kernel_w],
            [kernel_h, kernel_w],
            "the kernel's extents"
        );
        assert_eq!(finish.channels(), channels, "the kernel's channels");
        finish.check_type::<O>();
        let input = [window.in_h, window.in_w, channels];
        check_len("input", self.x.len(), &input);
        check_len("output", out.len(), &[rows.len(), window.out_w, channels]);
        check_len("extremes", extremes.least.len(), &[finish.bias.len()]);
        check_len("extremes", extremes.most.len(), &[finish.bias.len()]);
    }
}

impl Kernels {
    /// Writes the finished output rows `rows` of a depthwise convolution into `out`, `[rows, out_w, channels]`, and
    /// adds what the sums were to `extremes`. NUMERICS.md N16, N10.
    ///
    /// # Panics
    ///
    /// Panics if [`packs_depthwise`](Self::packs_depthwise) is false, a length disagrees with the extents, `rows` is not in `0..out_h`, or
    /// the window is not valid.
    pub fn depthwise_finished<X: Packable<i8>, O: Byte>(
        self,
        conv: &PackedDepthwiseConv<'_, X>,
        rows: Range<usize>,
        (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
    ) {
        let PackedDepthwiseConv { kernel, window, .. } = *conv;
        let [kernel_h, kernel_w, channels] = kernel.extents;
        assert!(
            self.packs_depthwise(),
            "an instruction set that packs weights"
        );
        conv.check(kernel.extents, &rows, (finish, out, extremes));
        if out.is_empty() || kernel_h * kernel_w == 0 {
            self.finish(finish, &vec![0; out.len()], out, extremes);
            return kernel.double(out);
        }
        ROOM.with_borrow_mut(|room| {
            let n = room.len().max(Plan::room(&window));
            room.resize(n, [Line([0; BYTES]); QUAD]);
            for (number, block) in quads::blocks(channels).enumerate() {
                let plan = Plan::new(conv, finish, (number, block), rows.clone());
                run(&plan, room, out, extremes);
            }
        });
    }
}

/// A block of channels of some output rows.
struct Plan<'a, X> {
    conv: &'a PackedDepthwiseConv<'a, X>,
    finish: &'a Finish,
    number: usize,
    block: Block,
    rows: Range<usize>,
    /// First output column of each part of a row; parts may overlap.
    starts: [usize; 4],
    /// Output columns of a part.
    part_w: usize,
    /// Output columns that are computed from columns turned together.
    chunk: usize,
}

impl<'a, X: Packable<i8>> Plan<'a, X> {
    fn new(
        conv: &'a PackedDepthwiseConv<'a, X>,
        finish: &'a Finish,
        (number, block): (usize, Block),
        rows: Range<usize>,
    ) -> Self {
        let window = &conv.window;
        let part_w = window.out_w.div_ceil(block.parts);
        let last = window.out_w - part_w;
        let most = chunk(window).min(part_w);
        Self {
            conv,
            finish,
            number,
            block,
            rows,
            starts: [0, 1, 2, 3].map(|part: usize| (part * part_w).min(last)),
            part_w,
            chunk: part_w.div_ceil(part_w.div_ceil(most)),
        }
    }

    /// Returns how many output rows of a band see the same four input rows.
    fn rows_of_a_band(&self) -> usize {
        let window = &self.conv.window;
        let shares = window.stride_h == 1 && window.dilation_h == 1 && window.kernel_h < ROWS;
        if shares { 2 } else { 1 }
    }
}

impl Plan<'_, u8> {
    /// Returns how many turned columns there are at once.
    fn room(window: &Window) -> usize {
        let groups = window.kernel_h.div_ceil(ROWS);
        groups * n_columns(window, chunk(window).min(window.out_w))
    }
}

/// Returns how many output columns are computed from columns turned together, at most.
fn chunk(window: &Window) -> usize {
    let most = TURNED.div_euclid(window.kernel_h.div_ceil(ROWS));
    let more = most.saturating_sub(n_columns(window, 1));
    more.div_euclid(window.stride_w) + 1
}

/// Returns how many input columns `n` output columns see.
const fn n_columns(window: &Window, n: usize) -> usize {
    (n - 1) * window.stride_w + (window.kernel_w - 1) * window.dilation_w + 1
}

/// Neighbouring output rows that see the same four input rows, one row where they would see others; and some columns
/// of each part of them.
struct Band<'a, X> {
    plan: &'a Plan<'a, X>,
    /// First output row.
    row: usize,
    n_rows: usize,
    /// Output columns of a part.
    columns: Range<usize>,
}

impl<X: Packable<i8>> Band<'_, X> {
    /// Returns where the input row begins that row `kernel_row` of the kernel meets, `None` if it is outside; rows
    /// behind those of the kernel are those that the next output rows meet.
    fn input_row(&self, kernel_row: usize) -> Option<usize> {
        let window = &self.plan.conv.window;
        let channels = self.plan.conv.kernel.extents[2];
        let at = self.row * window.stride_h + kernel_row * window.dilation_h;
        let is_seen = kernel_row < window.kernel_h + self.n_rows - 1;
        at.checked_sub(window.pad_top)
            .filter(|row| *row < window.in_h && is_seen)
            .map(|row| row * window.in_w * channels)
    }

    /// Returns the lanes of a pixel of each part that no part before has: parts overlap at their start.
    #[inline]
    fn own_lanes(&self, pixel: usize) -> u16 {
        let plan = self.plan;
        if plan.block.parts == 1 {
            return u16::MAX;
        }
        let lanes = (0..4_usize).map(|lane| {
            let part = (lane * plan.block.parts) >> 2;
            let col = plan.starts[part] + self.columns.start + pixel;
            let is_own = col >= part * plan.part_w;
            if is_own { 15 << (4 * lane) } else { 0 }
        });
        lanes.sum()
    }

    /// Returns how many columns are turned.
    fn n_turned(&self) -> usize {
        n_columns(&self.plan.conv.window, self.columns.len())
    }
}

#[cfg(target_arch = "x86_64")]
fn run<X: Packable<i8>, O: Byte>(
    plan: &Plan<'_, X>,
    room: &mut [Quad],
    out: &mut [O],
    extremes: &mut Extremes,
) {
    // SAFETY: the caller checked that the CPU has AVX-512 VNNI (`packs_depthwise`).
    unsafe { run_block(plan, room, out, extremes) };
}

/// There is no VNNI on this target; [`Kernels::packs_depthwise`] is false.
#[cfg(not(target_arch = "x86_64"))]
fn run<X: Packable<i8>, O: Byte>(_: &Plan<'_, X>, _: &mut [Quad], _: &mut [O], _: &mut Extremes) {}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
fn run_block<X: Packable<i8>, O: Byte>(
    plan: &Plan<'_, X>,
    room: &mut [Quad],
    out: &mut [O],
    extremes: &mut Extremes,
) {
    let window = &plan.conv.window;
    let row_len = window.out_w * plan.conv.kernel.extents[2];
    let n_rows = plan.rows_of_a_band();
    let mut task = Task::new::<X, O>(plan);
    let bands = plan.rows.clone().step_by(n_rows);
    for (row, out) in bands.zip(out.chunks_mut(n_rows * row_len)) {
        for from in (0..plan.part_w).step_by(plan.chunk) {
            let band = Band {
                plan,
                row,
                n_rows: out.len().div_euclid(row_len),
                columns: from..plan.part_w.min(from + plan.chunk),
            };
            let n_turned = band.n_turned();
            for (group, columns) in room.chunks_mut(n_turned).enumerate() {
                if group < window.kernel_h.div_ceil(ROWS) {
                    turn::turn(&band, group, columns);
                }
            }
            multiply::multiply(&mut task, &band, room, out);
        }
    }
    task.close(plan, extremes);
}

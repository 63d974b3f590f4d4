//! Depthwise convolutions of bytes with AVX2: two kernel rows of 32 channels at once.
//!
//! For an output row, each input column is turned once: the bytes of two rows come to lie beside one another, channel by
//! channel. Two neighbouring output rows see one input row more than a single one: they share the turned columns. Where
//! the last channels are 16 or fewer, a vector holds pixels of two parts of a row.
//!
//! The instruction that multiplies pairs of bytes sums them in 16 bits. Where the weights and the largest activation
//! show that half of the taps of 3x3 fit, the sums stay in 16 bits so long; other pairs are widened first.
//! Activations of `i8` are moved up by 128, as for VNNI.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

mod multiply;
mod sums;
mod turn;
mod weights;

use std::cell::RefCell;
use std::ops::Range;

use crate::contract::check_len;
use crate::finish::{Byte, Extremes, Finish};
use crate::isa::{Isa, Kernels};
use crate::lanes::Packable;
use crate::operands::Window;
use crate::vnni::PackedDepthwiseConv;
use multiply::Task;
use weights::{Block, BlockKernel, Line, WIDTH, blocks};

/// Pairs of rows of turned columns that lie there at once: they stay in the first cache.
const TURNED: usize = 128;

/// Two rows of 32 channels of a column: those of the lower and of the upper half of each 16 bytes.
type Turned = [Line; 2];

thread_local! {
    /// Room for turned columns: to clear it for each few rows would take as long as to fill it.
    static ROOM: RefCell<Vec<Turned>> = const { RefCell::new(Vec::new()) };
}

/// A kernel `[kernel_h, kernel_w, channels]` of bytes, packed for blocks of 32 channels and pairs of rows.
#[derive(Clone, Debug)]
pub struct PairedDepthwise {
    extents: [usize; 3],
    most: u8,
    blocks: Vec<BlockKernel>,
}

impl PairedDepthwise {
    /// Returns the packed form of a kernel `[kernel_h, kernel_w, channels]`, `None` if there are fewer than 16 channels.
    ///
    /// No activation is above `most`, nor is zero if it is the border: the smaller `most` is, the more blocks go the
    /// faster way. Activations of `i8` are counted from -128 on.
    ///
    /// # Panics
    ///
    /// Panics if the length is another.
    #[must_use]
    pub fn new(kernel: &[i8], extents: [usize; 3], most: u8) -> Option<Self> {
        check_len("kernel", kernel.len(), &extents);
        let blocks = blocks(extents[2])?;
        let block = |block| BlockKernel::new(kernel, extents, block, most);
        Some(Self {
            extents,
            most,
            blocks: blocks.into_iter().map(block).collect(),
        })
    }
}

impl Kernels {
    /// Returns whether these kernels multiply paired depthwise weights.
    #[must_use]
    pub fn pairs_depthwise(self) -> bool {
        self.isa() >= Isa::Avx2
    }

    /// Writes the finished output rows `rows` of a depthwise convolution into `out`, `[rows, out_w, channels]`, and
    /// adds what the sums were to `extremes`. NUMERICS.md N16, N10, E2, E3. An activation that is too large is
    /// found after the results are written.
    ///
    /// # Panics
    ///
    /// Panics if [`pairs_depthwise`](Self::pairs_depthwise) is false, an activation is larger than the kernel was packed
    /// for, a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
    pub fn depthwise_paired<X: Packable<i8>, O: Byte>(
        self,
        conv: &PackedDepthwiseConv<'_, X, PairedDepthwise>,
        rows: Range<usize>,
        (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
    ) {
        let PackedDepthwiseConv { kernel, window, .. } = *conv;
        let [kernel_h, kernel_w, _] = kernel.extents;
        assert!(
            self.pairs_depthwise(),
            "an instruction set that pairs weights"
        );
        conv.check(kernel.extents, &rows, (finish, out, extremes));
        if out.is_empty() || kernel_h * kernel_w == 0 {
            return self.finish(finish, &vec![0; out.len()], out, extremes);
        }
        ROOM.with_borrow_mut(|room| {
            let n = room.len().max(Plan::room(&window));
            room.resize(n, [Line([0; WIDTH]); 2]);
            run(conv, rows, room, (finish, out, extremes));
        });
    }
}

/// How a block of channels of some output rows is computed.
struct Plan {
    window: Window,
    channels: usize,
    block: Block,
    /// First output column of each part of a row; parts may overlap.
    starts: [usize; 2],
    /// Output columns of a part.
    part_w: usize,
    /// Output columns that are computed from columns turned together.
    chunk: usize,
}

impl Plan {
    fn new(window: Window, channels: usize, block: Block) -> Self {
        let part_w = window.out_w.div_ceil(block.parts);
        let most = chunk(&window).min(part_w);
        Self {
            window,
            channels,
            block,
            starts: [0, window.out_w - part_w],
            part_w,
            chunk: part_w.div_ceil(part_w.div_ceil(most)),
        }
    }

    /// Returns how many pairs of rows of turned columns there are at once.
    fn room(window: &Window) -> usize {
        n_pairs(window) * n_columns(window, chunk(window).min(window.out_w))
    }

    /// Returns how many output rows of a band see the same input rows.
    const fn rows_of_a_band(&self) -> usize {
        if self.window.stride_h == 1 && self.window.dilation_h == 1 {
            2
        } else {
            1
        }
    }
}

/// Returns the pairs of input rows that two neighbouring output rows see.
const fn n_pairs(window: &Window) -> usize {
    (window.kernel_h + 1).div_ceil(2)
}

/// Returns how many output columns are computed from columns turned together, at most.
fn chunk(window: &Window) -> usize {
    let most = TURNED.div_euclid(n_pairs(window));
    let more = most.saturating_sub(n_columns(window, 1));
    more.div_euclid(window.stride_w) + 1
}

/// Returns how many input columns `n` output columns see.
const fn n_columns(window: &Window, n: usize) -> usize {
    (n - 1) * window.stride_w + (window.kernel_w - 1) * window.dilation_w + 1
}

/// One or two neighbouring output rows, and some columns of each part of them.
struct Band<'a> {
    plan: &'a Plan,
    /// First output row.
    row: usize,
    n_rows: usize,
    /// Output columns of a part.
    columns: Range<usize>,
    /// Where the turned columns of the first pair of rows are among those of all pairs; the others follow, the first
    /// place after the last.
    first_pair: usize,
}

impl Band<'_> {
    /// Returns where the turned columns of a pair of rows begin.
    const fn place(&self, pair: usize) -> usize {
        let n_pairs = n_pairs(&self.plan.window);
        let number = self.first_pair + pair;
        let number = if number < n_pairs {
            number
        } else {
            number - n_pairs
        };
        number * self.n_turned()
    }

    /// Returns where the input row begins that row `kernel_row` of the kernel meets, `None` if it is outside; rows behind
    /// those of the kernel may be seen by the next output rows.
    fn input_row(&self, kernel_row: usize) -> Option<usize> {
        let window = &self.plan.window;
        let at = self.row * window.stride_h + kernel_row * window.dilation_h;
        let is_seen = kernel_row < window.kernel_h || self.plan.rows_of_a_band() == 2;
        at.checked_sub(window.pad_top)
            .filter(|row| *row < window.in_h && is_seen)
            .map(|row| row * window.in_w * self.plan.channels)
    }

    /// Returns how many columns are turned.
    const fn n_turned(&self) -> usize {
        n_columns(&self.plan.window, self.columns.end - self.columns.start)
    }
}

#[cfg(target_arch = "x86_64")]
fn run<X: Packable<i8>, O: Byte>(
    conv: &PackedDepthwiseConv<'_, X, PairedDepthwise>,
    rows: Range<usize>,
    room: &mut [Turned],
    (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
) {
    let PackedDepthwiseConv { x, kernel, window } = *conv;
    let channels = kernel.extents[2];
    // SAFETY: the caller checked that the CPU has AVX2 with FMA and POPCNT (`pairs_depthwise`).
    unsafe {
        let mut largest = Line([0; WIDTH]);
        for block in &kernel.blocks {
            let plan = Plan::new(window, channels, block.block);
            let mut task = Task::new(block, finish, X::OFFSET);
            let input = (x, &mut *room, &mut largest);
            run_block(&plan, input, &mut task, (rows.start, &mut *out));
            task.close(extremes);
        }
        let largest = largest.0.into_iter().max();
        assert!(
            largest <= Some(kernel.most),
            "an activation is {largest:?}, the kernel was packed for {}",
            kernel.most
        );
    }
}

/// There is no AVX2 on this target; [`Kernels::pairs_depthwise`] is false.
#[cfg(not(target_arch = "x86_64"))]
fn run<X: Packable<i8>, O: Byte>(
    _: &PackedDepthwiseConv<'_, X, PairedDepthwise>,
    _: Range<usize>,
    _: &mut [Turned],
    _: (&Finish, &mut [O], &mut Extremes),
) {
}

/// Writes the results of a block of channels of the output rows from `first` on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
fn run_block<X: Packable<i8>, O: Byte>(
    plan: &Plan,
    (x, room, largest): (&[X], &mut [Turned], &mut Line),
    task: &mut Task<'_>,
    (first, out): (usize, &mut [O]),
) {
    let row_len = plan.window.out_w * plan.channels;
    let n_rows = plan.rows_of_a_band();
    let n_pairs = n_pairs(&plan.window);
    for from in (0..plan.part_w).step_by(plan.chunk) {
        let columns = from..plan.part_w.min(from + plan.chunk);
        let bands = (first..).step_by(n_rows);
        for (number, (row, out)) in bands.zip(out.chunks_mut(n_rows * row_len)).enumerate() {
            let band = Band {
                plan,
                row,
                n_rows: out.len().div_euclid(row_len),
                columns: columns.clone(),
                first_pair: if n_rows == 2 { number % n_pairs } else { 0 },
            };
            // Two rows further down, all pairs but one are those of the band before.
            let shared = if n_rows == 2 && number > 0 {
                n_pairs - 1
            } else {
                0
            };
            for pair in shared..n_pairs {
                let columns = &mut room[band.place(pair)..][..band.n_turned()];
                turn::turn(&band, (x, pair), columns, largest);
            }
            multiply::multiply(task, &band, room, out);
        }
    }
}

//! Depthwise convolutions of bytes with AVX-512 VNNI: four kernel rows of sixteen channels at once.
//!
//! For an output row, each input column is turned once: the bytes of four rows come to lie beside one another, channel
//! by channel, as the instruction takes them. Every output that sees the column then needs one instruction for it. Two
//! output rows of a kernel of three rows see four input rows: they share the turned columns.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m512i;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::finish::{FinishLanes, Seen, load, store};
use super::{Line, Packable};
use crate::contract::{check_len, check_window};
use crate::finish::{Byte, Extremes, Finish};
use crate::isa::Kernels;
use crate::operands::Window;

/// Channels of a block.
const CHANNELS: usize = 16;

/// Kernel rows of an instruction.
const ROWS: usize = 4;

/// Bytes of a vector.
const VECTOR: usize = CHANNELS * ROWS;

/// A kernel `[kernel_h, kernel_w, channels]` of bytes, packed for blocks of sixteen channels and four rows.
#[derive(Clone, Debug)]
pub struct PackedDepthwise {
    extents: [usize; 3],
    /// `[channels / 16][kernel_h / 4][kernel_w]` lines of `[16][4]`, zeros where there is nothing.
    weights: Vec<Line>,
    /// The sum of each channel's weights.
    sums: Vec<i32>,
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
        let (groups, blocks) = (kernel_h.div_ceil(ROWS), channels.div_ceil(CHANNELS));
        let mut weights = vec![Line([0; VECTOR]); blocks * groups * kernel_w];
        let mut sums = vec![0; blocks * CHANNELS];
        for (tap, values) in kernel.chunks(channels.max(1)).enumerate() {
            let (row, col) = (tap.div_euclid(kernel_w), tap.rem_euclid(kernel_w));
            let (group, part) = (row.div_euclid(ROWS), row.rem_euclid(ROWS));
            for (channel, weight) in values.iter().enumerate() {
                let (block, lane) = (channel.div_euclid(CHANNELS), channel.rem_euclid(CHANNELS));
                let vector = (block * groups + group) * kernel_w + col;
                weights[vector].0[lane * ROWS + part] = weight.cast_unsigned();
                sums[channel] += i32::from(*weight);
            }
        }
        Self {
            extents,
            weights,
            sums,
        }
    }
}

/// The operands of a depthwise convolution with a packed kernel; outside the image is zero.
#[derive(Clone, Copy, Debug)]
pub struct PackedDepthwiseConv<'a, X> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel.
    pub kernel: &'a PackedDepthwise,
    /// Where the taps read.
    pub window: Window,
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
        let PackedDepthwiseConv { x, kernel, window } = *conv;
        let [kernel_h, kernel_w, channels] = kernel.extents;
        assert!(
            self.packs_depthwise(),
            "an instruction set that packs weights"
        );
        check_window(&window, &rows);
        assert_eq!(
            [window.kernel_h, window.kernel_w],
            [kernel_h, kernel_w],
            "the kernel's extents"
        );
        assert_eq!(finish.channels(), channels, "the kernel's channels");
        finish.check_type::<O>();
        check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
        check_len("output", out.len(), &[rows.len(), window.out_w, channels]);
        check_len("extremes", extremes.least.len(), &[finish.bias.len()]);
        check_len("extremes", extremes.most.len(), &[finish.bias.len()]);
        if out.is_empty() || kernel_h * kernel_w == 0 {
            return self.finish(finish, &vec![0; out.len()], out, extremes);
        }
        let groups = kernel_h.div_ceil(ROWS);
        let n_columns =
            (window.out_w - 1) * window.stride_w + (kernel_w - 1) * window.dilation_w + 1;
        let mut room = Room {
            columns: vec![Line([0; VECTOR]); groups * n_columns],
            sums: vec![Sums([0; CHANNELS]); window.out_w],
        };
        let shares = window.stride_h == 1 && window.dilation_h == 1 && kernel_h < ROWS;
        let n_rows = if shares { ROWS + 1 - kernel_h } else { 1 };
        for first in (0..channels).step_by(CHANNELS) {
            let bands = Bands {
                conv,
                rows: rows.clone(),
                n_rows,
                first,
                n_columns,
            };
            run(&bands, &mut room, (finish, &mut *out, &mut *extremes));
        }
    }
}

/// Sums of the sixteen channels of a pixel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums([i32; CHANNELS]);

/// Room for the turned columns of a band, and for the sums of one of its rows.
struct Room {
    columns: Vec<Line>,
    sums: Vec<Sums>,
}

/// Sixteen channels of some output rows.
struct Bands<'a, X> {
    conv: &'a PackedDepthwiseConv<'a, X>,
    rows: Range<usize>,
    /// Rows of a band.
    n_rows: usize,
    /// First channel.
    first: usize,
    /// Input columns that the rows see, the border included.
    n_columns: usize,
}

/// Neighbouring output rows of sixteen channels that see the same four input rows; one row where they would see others.
struct Band<'a, X> {
    conv: &'a PackedDepthwiseConv<'a, X>,
    /// First output row.
    row: usize,
    n_rows: usize,
    /// First channel.
    first: usize,
    /// Input columns that the rows see, the border included.
    n_columns: usize,
}

impl<X: Packable<i8>> Band<'_, X> {
    /// Returns the input row that row `kernel_row` of the kernel meets, `None` if it is outside; rows behind those of
    /// the kernel are those that the next output rows meet.
    fn input_row(&self, kernel_row: usize) -> Option<&[X]> {
        let window = &self.conv.window;
        let [kernel_h, _, channels] = self.conv.kernel.extents;
        let at = self.row * window.stride_h + kernel_row * window.dilation_h;
        let is_seen = kernel_row < kernel_h + self.n_rows - 1;
        let row = at
            .checked_sub(window.pad_top)
            .filter(|row| *row < window.in_h && is_seen)?;
        let len = window.in_w * channels;
        Some(&self.conv.x[row * len..(row + 1) * len])
    }

    /// Returns which of the columns are inside the image.
    fn inside(&self) -> Range<usize> {
        let window = &self.conv.window;
        let end = window.pad_left.saturating_add(window.in_w);
        window.pad_left.min(self.n_columns)..end.min(self.n_columns)
    }
}

#[cfg(target_arch = "x86_64")]
fn run<X: Packable<i8>, O: Byte>(
    bands: &Bands<'_, X>,
    room: &mut Room,
    finished: (&Finish, &mut [O], &mut Extremes),
) {
    // SAFETY: the caller checked that the CPU has AVX-512 VNNI (`packs_depthwise`).
    unsafe { run_bands(bands, room, finished) };
}

/// There is no VNNI on this target; [`Kernels::packs_depthwise`] is false.
#[cfg(not(target_arch = "x86_64"))]
fn run<X: Packable<i8>, O: Byte>(
    _: &Bands<'_, X>,
    _: &mut Room,
    _: (&Finish, &mut [O], &mut Extremes),
) {
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn run_bands<X: Packable<i8>, O: Byte>(
    bands: &Bands<'_, X>,
    room: &mut Room,
    (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
) {
    use std::arch::x86_64::{_mm512_add_epi32, _mm512_mullo_epi32, _mm512_set1_epi32};
    let (conv, first) = (bands.conv, bands.first);
    let row_len = conv.window.out_w * conv.kernel.extents[2];
    // SAFETY: this function is compiled for the instructions.
    let (start, mut lanes) = unsafe {
        let column_sums = load(&conv.kernel.sums[first..]);
        let offset = _mm512_mullo_epi32(column_sums, _mm512_set1_epi32(-X::OFFSET));
        let start = _mm512_add_epi32(offset, load(&finish.bias[first..]));
        (start, FinishLanes::new(finish, extremes, first))
    };
    let rows = bands.rows.clone().step_by(bands.n_rows);
    for (row, out) in rows.zip(out.chunks_mut(bands.n_rows * row_len)) {
        let band = Band {
            conv,
            row,
            n_rows: out.len().div_euclid(row_len),
            first,
            n_columns: bands.n_columns,
        };
        for (group, columns) in room.columns.chunks_mut(bands.n_columns).enumerate() {
            turn(&band, group, columns);
        }
        multiply(&band, room, start, (&mut lanes, out));
    }
    // SAFETY: as above.
    unsafe { lanes.count(extremes, first) };
}

/// Writes the bytes of four input rows beside one another, channel by channel.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn turn<X: Packable<i8>>(band: &Band<'_, X>, group: usize, columns: &mut [Line]) {
    use std::arch::x86_64::{
        _mm_set_epi8, _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_inserti32x4,
        _mm512_permutexvar_epi32, _mm512_set_epi32, _mm512_set1_epi8, _mm512_shuffle_epi8,
        _mm512_store_si512, _mm512_xor_si512,
    };
    let channels = band.conv.kernel.extents[2];
    let n = CHANNELS.min(channels - band.first);
    let rows: [Option<&[X]>; ROWS] = [
        band.input_row(group * ROWS),
        band.input_row(group * ROWS + 1),
        band.input_row(group * ROWS + 2),
        band.input_row(group * ROWS + 3),
    ];
    let by_lane = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    let in_lane = _mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    let in_lane = _mm512_broadcast_i32x4(in_lane);
    let zero = if X::OFFSET == 0 { 0 } else { i8::MIN };
    let offset = _mm512_set1_epi8(zero);
    let inside = band.inside();
    columns[..inside.start].fill(Line([zero.cast_unsigned(); VECTOR]));
    columns[inside.end..].fill(Line([zero.cast_unsigned(); VECTOR]));
    for (number, column) in columns[inside].iter_mut().enumerate() {
        let at = number * channels + band.first;
        let channels = at..at + n;
        let all = _mm512_castsi128_si512(bytes(rows[0], &channels));
        let all = _mm512_inserti32x4::<1>(all, bytes(rows[1], &channels));
        let all = _mm512_inserti32x4::<2>(all, bytes(rows[2], &channels));
        let all = _mm512_inserti32x4::<3>(all, bytes(rows[3], &channels));
        let turned = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(by_lane, all), in_lane);
        let turned = _mm512_xor_si512(turned, offset);
        // SAFETY: a column is an aligned vector.
        unsafe { _mm512_store_si512(column.0.as_mut_ptr().cast(), turned) };
    }
}

/// Returns the bytes of up to sixteen channels of a row, zeros for a row that is outside.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline]
fn bytes<X: Packable<i8>>(
    row: Option<&[X]>,
    channels: &Range<usize>,
) -> std::arch::x86_64::__m128i {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_maskz_loadu_epi8, _mm_setzero_si128};
    let Some(row) = row else {
        return _mm_setzero_si128();
    };
    let bytes = &row[channels.start..channels.end];
    let n = bytes.len().min(CHANNELS);
    // SAFETY: only the `n` bytes of the slice are read; `X` is a byte.
    unsafe {
        if n == CHANNELS {
            _mm_loadu_si128(bytes.as_ptr().cast())
        } else {
            _mm_maskz_loadu_epi8(u16::MAX >> (CHANNELS - n), bytes.as_ptr().cast())
        }
    }
}

/// Writes the results of a band.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn multiply<X: Packable<i8>, O: Byte>(
    band: &Band<'_, X>,
    room: &mut Room,
    start: __m512i,
    (lanes, out): (&mut FinishLanes, &mut [O]),
) {
    let [_, kernel_w, channels] = band.conv.kernel.extents;
    let Room { columns, sums } = room;
    let n_lines = columns.len().div_euclid(band.n_columns) * kernel_w;
    let block = band.first.div_euclid(CHANNELS);
    let weights = &band.conv.kernel.weights[block * n_lines..(block + 1) * n_lines];
    let channel_range = band.first..channels.min(band.first + CHANNELS);
    let row_len = band.conv.window.out_w * channels;
    // A copy: the compiler keeps what nobody points to in registers.
    let tables = *lanes;
    for (row, out) in out.chunks_mut(row_len).enumerate() {
        match kernel_w {
            3 if n_lines == 3 => row_sums::<X, 3>(band, (columns, weights), row, start, sums),
            5 if n_lines == 5 => row_sums::<X, 5>(band, (columns, weights), row, start, sums),
            _ => any_sums(band, (columns, weights), row, start, sums),
        }
        // SAFETY: this function is compiled for the instructions.
        unsafe {
            let mut seen = Seen::nothing();
            for (sums, out) in sums.iter().zip(out.chunks_mut(channels)) {
                let results = tables.results(load(&sums.0), &mut seen);
                store(results, &mut out[channel_range.clone()]);
            }
            lanes.add(&seen, sums.iter().map(|sums| &sums.0[..]));
        }
    }
}

/// Returns a line of weights as output row number `row` of its band meets them: moved down by as many rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn moved(weights: &Line, row: usize) -> __m512i {
    use std::arch::x86_64::{_mm_set_epi64x, _mm512_load_si512, _mm512_sll_epi32};
    let bits = i64::try_from(8 * row).unwrap_or(i64::MAX);
    // SAFETY: a line is an aligned vector.
    let weights = unsafe { _mm512_load_si512(weights.0.as_ptr().cast()) };
    _mm512_sll_epi32(weights, _mm_set_epi64x(0, bits))
}

/// Writes the sums of an output row of a band for a kernel of `W` undilated columns and up to four rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn row_sums<X: Packable<i8>, const W: usize>(
    band: &Band<'_, X>,
    (columns, weights): (&[Line], &[Line]),
    row: usize,
    start: __m512i,
    sums: &mut [Sums],
) {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_load_si512, _mm512_store_si512};
    let window = &band.conv.window;
    if window.dilation_w != 1 {
        return any_sums(band, (columns, weights), row, start, sums);
    }
    // No closure: it would not be compiled for the instructions.
    let mut lines = [start; W];
    for (line, weights) in lines.iter_mut().zip(weights) {
        *line = moved(weights, row);
    }
    for (col, sums) in sums.iter_mut().enumerate() {
        let seen = &columns[col * window.stride_w..][..W];
        let mut acc = start;
        // SAFETY: a line and sixteen sums are aligned vectors.
        unsafe {
            for (x, w) in seen.iter().zip(&lines) {
                acc = _mm512_dpbusd_epi32(acc, _mm512_load_si512(x.0.as_ptr().cast()), *w);
            }
            _mm512_store_si512(sums.0.as_mut_ptr().cast(), acc);
        }
    }
}

/// Writes the sums of an output row of a band for any kernel.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn any_sums<X: Packable<i8>>(
    band: &Band<'_, X>,
    (columns, weights): (&[Line], &[Line]),
    row: usize,
    start: __m512i,
    sums: &mut [Sums],
) {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_load_si512, _mm512_store_si512};
    let window = &band.conv.window;
    let kernel_w = band.conv.kernel.extents[1];
    for (col, sums) in sums.iter_mut().enumerate() {
        let mut acc = start;
        let taps = columns
            .chunks_exact(band.n_columns)
            .zip(weights.chunks_exact(kernel_w));
        for (columns, weights) in taps {
            let seen = columns[col * window.stride_w..]
                .iter()
                .step_by(window.dilation_w);
            for (x, w) in seen.zip(weights) {
                // SAFETY: a line is an aligned vector.
                let x = unsafe { _mm512_load_si512(x.0.as_ptr().cast()) };
                acc = _mm512_dpbusd_epi32(acc, x, moved(w, row));
            }
        }
        // SAFETY: sixteen sums are an aligned vector.
        unsafe { _mm512_store_si512(sums.0.as_mut_ptr().cast(), acc) };
    }
}

//! Columns of two input rows, byte beside byte.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_castsi128_si256, _mm256_inserti128_si256, _mm256_loadu_si256,
    _mm256_max_epu8, _mm256_set1_epi8, _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
    _mm256_xor_si256,
};

use super::sums::{load as load_line, put as put_line};
use super::{Band, Line, Plan, Turned, WIDTH};
use crate::lanes::Packable;

/// What is read outside the image.
static ZEROS: Line = Line([0; WIDTH]);

/// Writes the bytes of a pair of input rows beside one another, channel by channel, for each column.
#[target_feature(enable = "avx2,fma,popcnt")]
pub(super) fn turn<X: Packable<i8>>(
    band: &Band<'_>,
    (x, pair): (&[X], usize),
    columns: &mut [Turned],
    largest: &mut Line,
) {
    let rows = [2 * pair, 2 * pair + 1].map(|row| band.input_row(row));
    let rows = rows.map(|start| start.map(|start| &x[start..]));
    if band.plan.block.parts == 1 {
        turn_parts::<X, 1>(band, rows, columns, largest);
    } else {
        turn_parts::<X, 2>(band, rows, columns, largest);
    }
}

/// Writes the columns of two rows, of which each begins at its slice, if it is inside.
#[target_feature(enable = "avx2,fma,popcnt")]
#[inline(never)]
fn turn_parts<X: Packable<i8>, const PARTS: usize>(
    band: &Band<'_>,
    rows: [Option<&[X]>; 2],
    columns: &mut [Turned],
    largest: &mut Line,
) {
    let plan = band.plan;
    let window = &plan.window;
    let (n, end) = (columns.len(), window.pad_left + window.in_w);
    // First input column of each part, moved by the border, and the columns at which every part is inside.
    let (mut firsts, mut from, mut to) = ([0; PARTS], 0, n);
    for (first, start) in firsts.iter_mut().zip(plan.starts) {
        *first = (start + band.columns.start) * window.stride_w;
        from = from.max(window.pad_left.saturating_sub(*first));
        to = to.min(end.saturating_sub(*first));
    }
    let from = from.min(to);
    // SAFETY: this function is compiled for the instructions.
    let mut most = unsafe { load_line(largest) };
    for number in (0..from).chain(to..n) {
        let from = places(plan, rows, &firsts, number);
        // SAFETY: this function is compiled for the instructions. The bytes that are read are the channels of a block
        // of a pixel, or zeros.
        unsafe { turn_column::<X, PARTS>(&from, &mut columns[number], &mut most) };
    }
    let mut reads = places(plan, rows, &firsts, from);
    let mut steps = [0; 2];
    for (step, row) in steps.iter_mut().zip(rows) {
        *step = if row.is_some() { plan.channels } else { 0 };
    }
    for column in &mut columns[from..to] {
        // SAFETY: as above: the columns from `from` to `to` are inside for each part.
        unsafe { turn_column::<X, PARTS>(&reads, column, &mut most) };
        for (reads, step) in reads.iter_mut().zip(steps) {
            for read in reads {
                *read = read.wrapping_add(step);
            }
        }
    }
    // SAFETY: as above.
    unsafe { put_line(largest, most) };
}

/// Returns where each part of two rows reads in a column, which may be outside.
#[inline(always)]
fn places<X: Packable<i8>, const PARTS: usize>(
    plan: &Plan,
    rows: [Option<&[X]>; 2],
    firsts: &[usize; PARTS],
    column: usize,
) -> [[*const u8; PARTS]; 2] {
    let mut places = [[ZEROS.0.as_ptr(); PARTS]; 2];
    for (places, row) in places.iter_mut().zip(rows) {
        for (place, first) in places.iter_mut().zip(firsts) {
            let col = (first + column).wrapping_sub(plan.window.pad_left);
            if let Some(row) = row.filter(|_| col < plan.window.in_w) {
                *place = row[col * plan.channels + plan.block.first..]
                    .as_ptr()
                    .cast();
            }
        }
    }
    places
}

/// Writes a column of two rows, of which each part reads at its place.
///
/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it. A vector can be read at each place, or half of one if there are
/// two parts.
#[inline(always)]
unsafe fn turn_column<X: Packable<i8>, const PARTS: usize>(
    [first, second]: &[[*const u8; PARTS]; 2],
    [low, high]: &mut Turned,
    most: &mut __m256i,
) {
    // SAFETY: the caller vouches for the instructions and the bytes.
    unsafe {
        let (a, b) = (load::<X, PARTS>(first), load::<X, PARTS>(second));
        *most = _mm256_max_epu8(*most, _mm256_max_epu8(a, b));
        put_line(low, _mm256_unpacklo_epi8(a, b));
        put_line(high, _mm256_unpackhi_epi8(a, b));
    }
}

/// Returns the bytes of each part of a row.
///
/// # Safety
///
/// As for [`turn_column`].
#[inline(always)]
unsafe fn load<X: Packable<i8>, const PARTS: usize>(from: &[*const u8; PARTS]) -> __m256i {
    // SAFETY: the caller vouches for the instructions and the bytes.
    unsafe {
        let bytes = if PARTS == 1 {
            _mm256_loadu_si256(from[0].cast())
        } else {
            let low = _mm256_castsi128_si256(_mm_loadu_si128(from[0].cast()));
            _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(from[PARTS - 1].cast()))
        };
        if X::OFFSET == 0 {
            bytes
        } else {
            _mm256_xor_si256(bytes, _mm256_set1_epi8(i8::MIN))
        }
    }
}

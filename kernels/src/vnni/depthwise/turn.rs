//! Columns of four input rows, byte beside byte.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m512i, _mm_maskz_loadu_epi8, _mm256_maskz_loadu_epi8, _mm512_castsi128_si512,
    _mm512_castsi256_si512, _mm512_inserti32x4, _mm512_inserti64x4, _mm512_maskz_loadu_epi8,
    _mm512_set1_epi8, _mm512_store_si512, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16,
    _mm512_unpacklo_epi8, _mm512_unpacklo_epi16, _mm512_xor_si512,
};

use super::{Band, Quad, ROWS};
use crate::lanes::Packable;

/// Writes the bytes of four input rows beside one another, channel by channel, a quad a column.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
pub(super) fn turn<X: Packable<i8>>(band: &Band<'_, X>, group: usize, columns: &mut [Quad]) {
    match band.plan.block.parts {
        1 => turn_parts::<X, 1>(band, group, columns),
        2 => turn_parts::<X, 2>(band, group, columns),
        _ => turn_parts::<X, 4>(band, group, columns),
    }
}

/// What is read of an input row.
#[derive(Clone, Copy)]
struct Row<X> {
    /// Its start, or that of the image if it is outside.
    from: *const X,
    /// The bytes of a part; none if it is outside.
    lanes: u64,
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
fn turn_parts<X: Packable<i8>, const PARTS: usize>(
    band: &Band<'_, X>,
    group: usize,
    columns: &mut [Quad],
) {
    let plan = band.plan;
    let (window, channels) = (&plan.conv.window, plan.conv.kernel.extents[2]);
    let block_lanes = u64::MAX >> (64 - plan.block.n);
    let mut rows = [Row {
        from: plan.conv.x.as_ptr(),
        lanes: 0,
    }; ROWS];
    for (number, row) in rows.iter_mut().enumerate() {
        if let Some(start) = band.input_row(group * ROWS + number) {
            row.from = plan.conv.x[start..].as_ptr();
            row.lanes = block_lanes;
        }
    }
    // First input column of each part, moved by the border.
    let mut firsts = [0; PARTS];
    for (first, start) in firsts.iter_mut().zip(plan.starts) {
        *first = (start + band.columns.start) * window.stride_w;
    }
    // Columns at which every part is inside.
    let from = firsts
        .iter()
        .map(|first| window.pad_left.saturating_sub(*first));
    let to = firsts.iter().map(|first| {
        let end = window.pad_left + window.in_w;
        end.saturating_sub(*first)
    });
    let n = columns.len();
    let to = to.min().unwrap_or(0).min(n);
    let from = from.max().unwrap_or(0).min(to);
    for number in (0..from).chain(to..n) {
        // Where each part of a row reads, and whether it is inside.
        let (mut places, mut inside) = ([plan.block.first; PARTS], [0; PARTS]);
        for part in 0..PARTS {
            let col = (firsts[part] + number).wrapping_sub(window.pad_left);
            if col < window.in_w {
                places[part] += col * channels;
                inside[part] = u64::MAX;
            }
        }
        // SAFETY: this function is compiled for the instructions. A row begins at a whole row of the image, and the
        // bytes that are read are the channels of a block of one of its pixels.
        unsafe { turn_column(&rows, &places, &inside, &mut columns[number]) };
    }
    let mut places = firsts.map(|first| {
        let col = (first + from).wrapping_sub(window.pad_left);
        col.wrapping_mul(channels).wrapping_add(plan.block.first)
    });
    for column in &mut columns[from..to] {
        // SAFETY: as above.
        unsafe { turn_column(&rows, &places, &[u64::MAX; PARTS], column) };
        for place in &mut places {
            *place += channels;
        }
    }
}

/// Writes a column: `places` are where the parts read in each row, `inside` is zero for a part that reads nothing.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it. What a row and a part that is
/// inside read is there.
#[inline(always)]
unsafe fn turn_column<X: Packable<i8>, const PARTS: usize>(
    rows: &[Row<X>; ROWS],
    places: &[usize; PARTS],
    inside: &[u64; PARTS],
    column: &mut Quad,
) {
    // SAFETY: the caller vouches for the instructions and the bytes; a line is an aligned vector.
    unsafe {
        let zero = if X::OFFSET == 0 { 0 } else { i8::MIN };
        let offset = _mm512_set1_epi8(zero);
        let r0 = _mm512_xor_si512(load(&rows[0], places, inside), offset);
        let r1 = _mm512_xor_si512(load(&rows[1], places, inside), offset);
        let r2 = _mm512_xor_si512(load(&rows[2], places, inside), offset);
        let r3 = _mm512_xor_si512(load(&rows[3], places, inside), offset);
        let (low, low2) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpacklo_epi8(r2, r3));
        let (high, high2) = (_mm512_unpackhi_epi8(r0, r1), _mm512_unpackhi_epi8(r2, r3));
        let [q0, q1, q2, q3] = column;
        let (a, b) = (
            _mm512_unpacklo_epi16(low, low2),
            _mm512_unpackhi_epi16(low, low2),
        );
        _mm512_store_si512(q0.0.as_mut_ptr().cast(), a);
        _mm512_store_si512(q1.0.as_mut_ptr().cast(), b);
        let (a, b) = (
            _mm512_unpacklo_epi16(high, high2),
            _mm512_unpackhi_epi16(high, high2),
        );
        _mm512_store_si512(q2.0.as_mut_ptr().cast(), a);
        _mm512_store_si512(q3.0.as_mut_ptr().cast(), b);
    }
}

/// Returns the bytes of each part of a row, zeros where a part reads none.
///
/// # Safety
///
/// As for [`turn_column`].
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a part of 32 or 16 bytes has no more channels"
)]
unsafe fn load<X: Packable<i8>, const PARTS: usize>(
    row: &Row<X>,
    places: &[usize; PARTS],
    inside: &[u64; PARTS],
) -> __m512i {
    let from = row.from.cast::<i8>();
    let at = |part: usize| from.wrapping_add(places[part % PARTS]);
    let lanes = |part: usize| row.lanes & inside[part % PARTS];
    // SAFETY: the caller vouches for the instructions and the bytes; `X` is a byte.
    unsafe {
        match PARTS {
            1 => _mm512_maskz_loadu_epi8(lanes(0), at(0)),
            2 => {
                let low = _mm256_maskz_loadu_epi8(lanes(0) as u32, at(0));
                let high = _mm256_maskz_loadu_epi8(lanes(1) as u32, at(1));
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
            }
            _ => {
                let first = _mm_maskz_loadu_epi8(lanes(0) as u16, at(0));
                let all = _mm512_castsi128_si512(first);
                let part = _mm_maskz_loadu_epi8(lanes(1) as u16, at(1));
                let all = _mm512_inserti32x4::<1>(all, part);
                let part = _mm_maskz_loadu_epi8(lanes(2) as u16, at(2));
                let all = _mm512_inserti32x4::<2>(all, part);
                let part = _mm_maskz_loadu_epi8(lanes(3) as u16, at(3));
                _mm512_inserti32x4::<3>(all, part)
            }
        }
    }
}

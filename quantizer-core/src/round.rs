//! The named roundings (NUMERICS.md: N2, N3). No other module rounds or shifts.

/// Returns the integer nearest to `x`, ties to the even one; NaN gives 0.
///
/// ```text
/// round_half_even(0.5) = 0, round_half_even(1.5) = 2, round_half_even(-2.5) = -2
/// ```
///
/// Used only where floats become integers. Values beyond ±2^62 come back as ±2^62: every caller
/// saturates to fewer bits. NUMERICS.md: N2.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "an integer of at most 2^22"
)]
#[inline]
pub fn round_half_even(x: f32) -> i64 {
    if x.abs() <= SMALL {
        // The baseline of some targets has no instruction for the rounding, and would call a function.
        return ((x + NO_FRACTION) - NO_FRACTION) as i64;
    }
    round_large(x)
}

/// Rounds a float above [`SMALL`], or NaN.
// A function of its own: the compiler takes a rounding to be cheap, and would do it for small floats as well.
#[cold]
#[inline(never)]
#[expect(clippy::disallowed_methods, reason = "this is the named rounding")]
#[expect(
    clippy::cast_possible_truncation,
    reason = "an integer within ±2^62 after the clamp"
)]
fn round_large(x: f32) -> i64 {
    const LIMIT: f32 = 4.611_686e18; // 2^62
    x.round_ties_even().clamp(-LIMIT, LIMIT) as i64
}

/// `2^22`: with [`NO_FRACTION`] added, numbers up to it are between `2^23` and `2^24`.
const SMALL: f32 = 4_194_304.0;

/// `1.5 * 2^23`. The f32 from `2^23` to `2^24` are the integers, so an addition that comes out there rounds to one, ties
/// to even like every addition; taking it away again is exact.
const NO_FRACTION: f32 = 12_582_912.0;

/// Returns `v * 2^s`, a half rounded toward positive infinity.
///
/// ```text
/// s >= 0: v << s
/// s <  0: floor(v / 2^-s + 1/2) = (v + 2^(-s-1)) >> -s, arithmetic
/// ```
///
/// Exact for every result that fits in an `i64`; larger ones come back as the nearest `i64`, which
/// saturates alike in every caller. NUMERICS.md: N3.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "clamped to the range of i64"
)]
pub fn shift_half_up(v: i64, s: i32) -> i64 {
    let wide = i128::from(v);
    let shifted = if s >= 0 {
        // |v| <= 2^63, so 63 bits more stay within an i128; zero stays zero.
        wide << s.min(63)
    } else {
        let right = s.unsigned_abs().min(66);
        (wide + (1_i128 << (right - 1))) >> right
    };
    shifted.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Returns `v << s` saturated to the range of `i64`.
#[must_use]
pub fn shift_left(v: i64, s: u32) -> i64 {
    shift_half_up(v, i32::try_from(s).unwrap_or(i32::MAX))
}

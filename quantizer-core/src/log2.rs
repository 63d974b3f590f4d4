//! Logarithms and powers of two of floats, exactly (NUMERICS.md: N4).

/// Returns the least `k` with `x <= 2^k`, or `None` for zero.
///
/// ```text
/// x = m * 2^e, 1 <= m < 2:  e if m = 1, else e + 1
/// ```
///
/// A scan of the bits, exact for every positive finite `x`; denormals count as zero and negative
/// values by their magnitude. The reference computes two rounded float logarithms instead and is
/// off next to powers of two: see NUMERICS.md, N4.
#[must_use]
pub fn ceil_log2(x: f32) -> Option<i32> {
    let (exponent, fraction) = parts(x)?;
    Some(if fraction == 0 {
        exponent
    } else {
        exponent + 1
    })
}

/// Returns the largest `k` with `2^k <= x`, or `None` for zero.
///
/// ```text
/// x = m * 2^e, 1 <= m < 2:  e
/// ```
///
/// Exact; denormals count as zero. NUMERICS.md: N4.
#[must_use]
pub fn floor_log2(x: f32) -> Option<i32> {
    parts(x).map(|(exponent, _)| exponent)
}

/// Returns `fl(x * 2^n)`: one rounding to float32, ties to even, at the edges of the range only.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding to float32"
)]
pub fn mul_pow2(x: f32, n: i32) -> f32 {
    // 2^n as f64: any |n| beyond 600 already gives 0 or infinity for every finite f32.
    let exponent = u64::from((n.clamp(-600, 600) + 1023).unsigned_abs());
    (f64::from(x) * f64::from_bits(exponent << 52)) as f32
}

/// Returns the exponent and the 23 fraction bits of `|x|`.
fn parts(x: f32) -> Option<(i32, u32)> {
    let bits = x.to_bits() & 0x7FFF_FFFF;
    let exponent = bits >> 23;
    if exponent == 0 {
        return None; // zero, or a denormal, which the reference flushes to zero
    }
    i32::try_from(exponent)
        .ok()
        .map(|biased| (biased - 127, bits & 0x007F_FFFF))
}

//! Roundings, ranges and logarithms, written apart from `quantizer-core`.

/// Returns the value of a float's bits as an exact fraction `numerator * 2^exponent`.
fn exact(x: f32) -> (i128, i32) {
    let bits = x.to_bits();
    let sign = if bits >> 31 == 1 { -1 } else { 1 };
    let exponent = i32::try_from((bits >> 23) & 255).unwrap_or(0);
    let fraction = i128::from(bits & 0x7F_FFFF);
    if exponent == 0 {
        (sign * fraction, -149)
    } else {
        (sign * (fraction + (1 << 23)), exponent - 150)
    }
}

/// Returns the integer nearest to a finite float, ties to the even one. NUMERICS.md: N2.
#[must_use]
pub fn nearest_even(x: f32) -> i128 {
    let (numerator, exponent) = exact(x);
    if exponent >= 0 {
        return numerator << exponent.min(90);
    }
    let divisor = 1_i128 << (-exponent).min(100);
    let (below, rest) = (numerator.div_euclid(divisor), numerator.rem_euclid(divisor));
    match (2 * rest).cmp(&divisor) {
        std::cmp::Ordering::Less => below,
        std::cmp::Ordering::Greater => below + 1,
        std::cmp::Ordering::Equal => below + below.rem_euclid(2),
    }
}

/// Returns `floor(v * 2^s + 1/2)`. NUMERICS.md: N3.
#[must_use]
pub fn scaled_half_up(v: i128, s: i32) -> i128 {
    if s >= 0 {
        return v * (1_i128 << s.min(60));
    }
    let divisor = 1_i128 << (-s).min(100);
    (2 * v + divisor).div_euclid(2 * divisor)
}

/// Returns `v` clamped to `[-2^n, 2^n - 1]`. NUMERICS.md: N1.
#[must_use]
pub fn clamp(v: i128, n: u32) -> i128 {
    v.clamp(-(1_i128 << n), (1_i128 << n) - 1)
}

/// Returns the least `k` with `x <= 2^k`, by trying them; `None` for zero. NUMERICS.md: N4.
#[must_use]
pub fn log2_ceil(x: f32) -> Option<i32> {
    if x < f32::MIN_POSITIVE {
        return None;
    }
    (-126..=128).find(|k| x <= power(*k))
}

/// Returns `2^k`, infinity from 128 up.
#[must_use]
pub fn power(k: i32) -> f32 {
    let mut value = 1.0_f32;
    for _ in 0..k.unsigned_abs() {
        value = if k < 0 { value / 2.0 } else { value * 2.0 };
    }
    value
}

/// Returns `fl(x * 2^k)` in steps of a half or a double, exact until the last one overflows.
#[must_use]
pub fn times_power(x: f32, k: i32) -> f32 {
    let mut value = x;
    for _ in 0..k.unsigned_abs() {
        value = if k < 0 { value / 2.0 } else { value * 2.0 };
    }
    value
}

/// Returns the fractional bits that `n` bits leave for a range. NUMERICS.md: N5.
#[must_use]
pub fn fraction_bits(n: u32, range: f32) -> i32 {
    let n = i32::try_from(n).unwrap_or(0);
    log2_ceil(range).map_or(n, |log| n.min(n - log))
}
